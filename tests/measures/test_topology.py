"""RTD against persistent homology by hand, and IMD against all eigenvalues."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from repsim.measures import MEASURES
from repsim.measures import topology as module

rtd, imd = MEASURES["rtd"], MEASURES["imd"]

FLOAT32 = 1e-5  # in which ripser computes


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def on_circle(n, spread=0.0, seed=0):
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], 1) + spread * random(n, 2, seed=seed)


def clusters(n, count, spread=0.05):
    """Inputs 0, count, 2 count … in the first cluster; clusters lie on a circle."""
    return on_circle(count)[np.arange(n) % count] + spread * random(n, 2)


def rotation(d, seed=0):
    return np.linalg.qr(random(d, d, seed=seed))[0]


# -- RTD ----------------------------------------------------------------------------------------------------


def loops(distance):
    """Lengths of the H₁ bars of a Vietoris–Rips complex: reduce its boundary matrix over Z/2."""
    m = len(distance)
    simplices = [simplex for size in (1, 2, 3) for simplex in combinations(range(m), size)]
    born = {s: max((distance[i, j] for i, j in combinations(s, 2)), default=0.0) for s in simplices}
    simplices.sort(key=lambda simplex: (born[simplex], len(simplex)))
    place = {simplex: i for i, simplex in enumerate(simplices)}
    reduced, bars = {}, []  # by the last simplex of the boundary
    for simplex in simplices:
        boundary = {place[face] for face in combinations(simplex, len(simplex) - 1) if face}
        while boundary and max(boundary) in reduced:
            boundary ^= reduced[max(boundary)]
        if boundary:
            reduced[max(boundary)] = boundary
            killed = simplices[max(boundary)]
            if len(killed) == 2:
                bars.append(born[simplex] - born[killed])
    return bars


def test_loops_of_a_square():
    square = cdist(*2 * [np.array([[0, 0], [0, 1], [1, 1], [1, 0]])])
    assert sum(loops(square)) == pytest.approx(np.sqrt(2) - 1)


def scaled(x):
    distance = cdist(x, x)
    return distance / np.quantile(distance, 0.9)


def divergence(x, y):
    a, b = scaled(x), scaled(y)
    least = np.minimum(a, b)
    zero = np.zeros_like(a)
    return sum(sum(loops(np.block([[zero, side], [side, least]]))) for side in (a, b)) / 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [4, 6, 7])
def test_rtd_is_that_of_persistent_homology(n, seed):
    x, y = random(n, 2, seed=seed), random(n, 3, seed=seed + 50)
    assert rtd(x, y) == pytest.approx(divergence(x, y), abs=FLOAT32)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x, id="itself"),
        pytest.param(lambda x: x @ rotation(4), id="rotated"),
        pytest.param(lambda x: 1e6 * x, id="scaled"),
        pytest.param(lambda x: x + 100, id="moved"),
        pytest.param(lambda x: np.pad(x, ((0, 0), (0, 3))), id="constant units"),
    ],
)
def test_rtd_of_copies_is_zero(change):
    x = random(40, 4)
    assert rtd(x, change(x)) == pytest.approx(0, abs=1e-3 * rtd(x, random(40, 4, seed=1)))


def test_rtd_grows_with_the_clusters_that_are_merged():
    x = clusters(48, 6)
    values = []
    for merged in range(6):
        y = x.copy()
        for cluster in range(1, merged + 1):
            y[cluster::6] += 0.7 * (x[0] - x[cluster])
        values.append(rtd(x, y))
    assert values[0] == 0
    assert all(np.diff(values) > 0.03)


def test_rtd_of_draws():
    x, y = random(60, 3), random(60, 3, seed=1)
    value = rtd(x, y, trials=3, points=20, seed=5)
    assert value == rtd(x, y, trials=3, points=20, seed=5)
    assert len({value, rtd(x, y, trials=3, points=20, seed=6), rtd(x, y, trials=4, points=20, seed=5)}) == 3
    assert rtd(x, y, trials=3, points=40, seed=5) > 1.2 * value  # it grows with the points
    more = [[rtd(x, y, trials=t, points=20, seed=s) for s in range(8)] for t in (1, 10)]
    assert np.std(more[1]) < 0.6 * np.std(more[0])


def test_rtd_of_a_draw_is_that_of_the_inputs_drawn():
    x, y = random(30, 3), random(30, 3, seed=1)
    drawn = torch.randperm(30, generator=torch.Generator().manual_seed(3))[:12].numpy()
    assert rtd(x, y, trials=1, points=12, seed=3) == pytest.approx(rtd(x[drawn], y[drawn]), abs=FLOAT32)


@pytest.mark.parametrize("points", [30, 31, 500])
def test_rtd_of_all_inputs_draws_nothing(points, monkeypatch):
    x, y = random(30, 3), random(30, 3, seed=1)
    expected = rtd(x, y, points=30)
    times = []
    once = module._divergence
    monkeypatch.setattr(module, "_divergence", lambda x, y, draw: times.append(len(draw)) or once(x, y, draw))
    assert rtd(x, y, points=points, trials=7, seed=9) == expected
    assert times == [30]


@pytest.mark.filterwarnings("ignore:.* inputs have the rows of others")
def test_rtd_with_copies():
    x, y = np.repeat(random(6, 3), 5, axis=0), random(30, 3, seed=1)
    assert rtd(x, x) == 0
    assert 0 < rtd(x, y) < 100


@pytest.mark.parametrize("far", [1.0, 1e12])
def test_rtd_without_a_scale_says_so(far):
    """All inputs but one are the same, or next to it."""
    x = np.zeros((30, 3)) if far == 1 else random(30, 3)
    x[0] = far
    other = random(30, 3, seed=1)
    for name, given in (("x", (x, other)), ("y", (other, x))):
        with pytest.raises(ValueError, match=f"rtd is undefined here: 90% of the distances of {name} are 0"):
            rtd(*given)


# -- IMD ----------------------------------------------------------------------------------------------------


def heat_trace(x, k):
    distance = cdist(x, x)
    np.fill_diagonal(distance, np.inf)
    joined = np.zeros_like(distance)
    np.put_along_axis(joined, np.argsort(distance, axis=1)[:, :k], 1, axis=1)
    joined = np.maximum(joined, joined.T)
    degree = joined.sum(1)
    laplacian = np.eye(len(x)) - joined / np.sqrt(np.outer(degree, degree))
    times = np.logspace(-1, 1, 256)
    return times, np.exp(-np.outer(times, np.linalg.eigvalsh(laplacian))).mean(1)


def intrinsic_distance(x, y, k=5):
    times, of_x = heat_trace(x, k)
    return (np.exp(-2 * (times + 1 / times)) * np.abs(of_x - heat_trace(y, k)[1])).max()


SHAPES = {
    "cloud": lambda n: random(n, 3),
    "ring": lambda n: on_circle(n, spread=0.001),
    "clusters": lambda n: clusters(n, 4),
    "line": lambda n: np.sort(random(n, 1), axis=0),
    "cloud of many dimensions": lambda n: random(n, 50),
}


@pytest.mark.parametrize("one", list(SHAPES))
@pytest.mark.parametrize(("n", "k"), [(10, 5), (10, 9), (48, 5), (48, 2)])
def test_imd_is_that_of_all_eigenvalues(one, n, k):
    x, y = SHAPES[one](n), random(n, 4, seed=7)
    assert imd(x, y, k=k, probes=n) == pytest.approx(intrinsic_distance(x, y, k), rel=1e-9, abs=1e-15)


def test_imd_of_graphs_in_pieces():
    """Pairs and fours far apart: Lanczos has nowhere to go after a few steps."""
    pairs = np.repeat(100.0 * np.arange(16)[:, None], 2, axis=0) + np.tile([[0.0], [1.0]], (16, 1))
    fours = np.repeat(100.0 * np.arange(8)[:, None], 4, axis=0) + 0.1 * random(32, 1)
    assert imd(pairs, fours, k=1) == pytest.approx(intrinsic_distance(pairs, fours, 1), rel=1e-9)
    assert imd(fours, random(32, 2), k=3) == pytest.approx(
        intrinsic_distance(fours, random(32, 2), 3), rel=1e-9
    )


def test_imd_of_fewer_probes_is_near():
    x, y = on_circle(150, spread=0.001), random(150, 5)
    exact = intrinsic_distance(x, y)
    errors = [
        np.mean([abs(imd(x, y, probes=probes, seed=seed) - exact) for seed in range(10)]) / exact
        for probes in (5, 100)
    ]
    assert errors[1] < 0.2
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.filterwarnings("ignore:.* are not decided")  # points of a circle have two neighbours as near
def test_imd_is_seeded():
    x, y = on_circle(60), random(60, 5)
    value = imd(x, y, probes=20, seed=3)
    assert value == imd(x, y, probes=20, seed=3) != imd(x, y, probes=20, seed=4)
    assert value != imd(x, y, probes=21, seed=3)
    assert imd(x, y, probes=60, seed=3) == imd(x, y, probes=100, seed=4)


def test_imd_does_not_see_which_input_is_which():
    x, y = on_circle(40, spread=0.01), random(40, 3)
    order = np.random.default_rng(0).permutation(40)
    assert imd(x, y[order]) == pytest.approx(imd(x, y), rel=1e-9)
    assert imd(x, x[order]) == pytest.approx(0, abs=1e-12)


def test_imd_depends_on_k():
    x, y = on_circle(40, spread=0.01), random(40, 3)
    assert len({round(imd(x, y, k=k), 12) for k in (2, 5, 10)}) == 3
    assert imd(x, y) == imd(x, y, k=5)
    assert imd(x, y, k=39) == pytest.approx(0, abs=1e-12)  # all are joined in both


@pytest.mark.filterwarnings("ignore:.* inputs have the rows of others", "ignore:.* are not decided")
@pytest.mark.parametrize("probes", [10, 100])
def test_imd_with_copies(probes):
    x = np.repeat(random(5, 3), 8, axis=0)
    y = np.concatenate([np.zeros((30, 3)), random(10, 3)])
    for a, b in [(x, y), (y, x), (x, random(40, 3))]:
        assert 0 <= imd(a, b, probes=probes) < np.exp(-4)
    assert imd(x, x.copy(), probes=100) == pytest.approx(0, abs=1e-12)
    # of others, which of the copies are neighbours is drawn for each: the graphs are alike, and not the same
    assert imd(x, 2 * x, probes=100) < 0.1 * imd(x, random(40, 3), probes=100)


def test_imd_in_float32_is_near():
    x, y = on_circle(40, spread=0.01), random(40, 3)
    assert imd(x, y, dtype=torch.float32) == pytest.approx(imd(x, y), rel=1e-3)
    assert rtd(x, y, dtype=torch.float32) == pytest.approx(rtd(x, y), rel=1e-3)
