"""Neighbours against brute force, and what is counted of them against sets written out from the definitions.

Erratum 14: in the published code the input itself is among its neighbours; here it never is.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from sklearn.neighbors import NearestNeighbors

from repsim.measures import MEASURES
from repsim.measures import neighbor_search as module
from repsim.measures import neighbors as measures
from repsim.measures.measure import represent_pair
from repsim.measures.neighbor_search import _screened, _search, neighbors

KINDS = {
    "cosine": {"metric": "cosine", "center": False},
    "cosine, centred": {"metric": "cosine", "center": True},
    "euclidean": {"metric": "euclidean", "center": False},
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
OVERLAPS = ["jaccard", "rank", "rank_jaccard", "mutual_knn"]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def pair(n=30, d=(5, 7), seed=0, noise=0.7):
    """Two representations that have some neighbours in common."""
    x = 0.5 + random(n, d[0], seed=seed)
    y = x @ random(*d, seed=seed + 100) + noise * random(n, d[1], seed=seed + 200)
    return x, y


def nearest(x, k, kind="euclidean"):
    of_x, _ = represent_pair(x, x)
    return neighbors(of_x, k, *KINDS[kind].values()).numpy()


def unit(rows):
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def distance_matrix(x, kind):
    """By differences or cosines of every pair; ∞ to itself."""
    if kind == "euclidean":
        matrix = np.linalg.norm(x[:, None] - x[None], axis=2)
    else:
        rows = unit(x - x.mean(0) if kind == "cosine, centred" else x)
        matrix = 1 - rows @ rows.T
    np.fill_diagonal(matrix, np.inf)
    return matrix


def brute_force(x, k, kind="cosine"):
    return np.argsort(distance_matrix(x, kind), axis=1, kind="stable")[:, :k]


def assert_are_nearest(found, matrix, tolerance=1e-12):
    """`found` are k different others, in order, at the k least distances (which of equals is free)."""
    n, k = found.shape
    assert (found != np.arange(n)[:, None]).all()
    assert all(len(set(row)) == k for row in found)
    ours = np.take_along_axis(matrix, found, 1)
    np.testing.assert_allclose(ours, np.sort(matrix, axis=1)[:, :k], rtol=tolerance, atol=tolerance)


# -- which they are -----------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("k", [1, 5, 49])
def test_neighbors_are_those_of_brute_force(kind, k):
    x = 0.5 + random(50, 6)
    np.testing.assert_array_equal(nearest(x, k, kind), brute_force(x, k, kind))


@kinds
def test_neighbors_are_those_of_scikit_learn(kind):
    x = 0.5 + random(60, 6)
    rows = x - x.mean(0) if kind == "cosine, centred" else x
    theirs = NearestNeighbors(n_neighbors=10, metric=KINDS[kind]["metric"]).fit(rows).kneighbors()[1]
    np.testing.assert_array_equal(nearest(x, 10, kind), theirs)


@kinds
@settings(max_examples=40)
@given(
    n=st.integers(4, 12),
    width=st.integers(1, 3),
    k=st.integers(1, 11),
    seed=st.integers(0, 999),
)
def test_never_itself_among_copies_and_zero_rows(kind, n, width, k, seed):
    x = np.random.default_rng(seed).integers(-1, 2, size=(n, width)).astype(float)
    assume(k < n and x.std(0).any())
    assert_are_nearest(nearest(x, k, kind), distance_matrix(x, kind), tolerance=1e-7)


def with_zero(similarity, k):
    """Erratum 14: the cosine of an input with itself set to 0, rather than left out."""
    np.fill_diagonal(similarity, 0)
    return np.argsort(-similarity, axis=1)[:, :k]


def test_never_itself_where_few_similarities_are_positive():
    x = random(200, 4)
    published = with_zero(unit(x) @ unit(x).T, 110)
    assert (published == np.arange(200)[:, None]).any(1).mean() > 0.5
    assert_are_nearest(nearest(x, 110, "cosine"), distance_matrix(x, "cosine"))


def test_counting_itself_would_make_independent_inputs_alike():
    x, y = random(500, 10), random(500, 10, seed=1)
    with_itself = [
        NearestNeighbors(n_neighbors=10).fit(side).kneighbors(side, return_distance=False) for side in (x, y)
    ]
    shared = np.array([len(set(a) & set(b)) for a, b in zip(*with_itself, strict=True)])
    assert (shared / (20 - shared)).mean() > 0.05
    assert MEASURES["jaccard"](x, y, metric="euclidean") < 0.02


@kinds
def test_any_number_of_blocks(kind, monkeypatch):
    x = 0.5 + random(50, 6)
    expected = nearest(x, 8, kind)
    monkeypatch.setattr(module, "BLOCK", 7)
    np.testing.assert_array_equal(nearest(x, 8, kind), expected)


@kinds
@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e30, 1e140])
def test_scale_does_not_count(kind, scale):
    x = 0.5 + random(40, 6)
    np.testing.assert_array_equal(nearest(scale * x, 9, kind), nearest(x, 9, kind))


def test_lengths_of_rows_do_not_count_for_cosine():
    x = 0.5 + random(40, 6)
    lengths = 10.0 ** np.random.default_rng(0).uniform(-140, 140, (40, 1))
    np.testing.assert_array_equal(nearest(lengths * x, 9, "cosine"), nearest(x, 9, "cosine"))


def test_neighbors_of_reordered_inputs_are_renumbered():
    x, _ = represent_pair(*pair())
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    known = neighbors(x.permuted(order), 6, "cosine", False)
    assert torch.equal(known, torch.from_numpy(nearest(x.values[order].numpy(), 6, "cosine")))


# -- ruled out in float32, decided in float64 ---------------------------------------------------------------


def two_bundles(_):
    """Angles 0 and 1, each ± 1e-10: of the other bundle, which is nearer is beyond float32."""
    angle = np.repeat([0.0, 1.0], 20) + 1e-10 * random(40)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def outlier(d):
    x = random(40, d)
    x[7] *= 1e6
    return x


HARD = {  # kind, k, and rows that float32 cannot order
    "near ties": ("cosine", 25, two_bundles),
    "near ties of distances": ("euclidean", 25, two_bundles),
    "a huge common mean": ("cosine", 5, lambda d: 1e5 + random(40, d)),
    "an outlier": ("euclidean", 5, outlier),
    "nearly all the same": ("cosine", 5, lambda d: random(1, d) + 1e-5 * random(40, d)),
    "lengths from 1e-30 to 1e30": (
        "cosine",
        5,
        lambda d: 10.0 ** np.linspace(-30, 30, 40)[:, None] * (1e5 + random(40, d)),
    ),
}


def prepared(x, kind):
    """As `neighbors` searches them."""
    search = _search(represent_pair(x, x)[0], *KINDS[kind].values())
    return search, torch.arange(len(x))


def screened(search, everyone, k):
    return _screened(search, (search.rows.float(), search.penalty.float()), everyone, k).inputs


@pytest.mark.parametrize("case", list(HARD))
def test_what_float32_cannot_order_is_done_in_float64(case):
    kind, k, make = HARD[case]
    x = make(8)
    search, everyone = prepared(x, kind)
    exact = search.scores(everyone)
    best, order = exact.sort(1, descending=True)
    best, equal = best[:, :k], search.tie(everyone, order)[:, :k] + 4e-16

    rough = module._scores(search.rows.float(), search.penalty.float(), everyone)
    in_float32 = rough.topk(k + module.SPARE, 1).indices
    of_float32 = exact.gather(1, in_float32).sort(1, descending=True).values[:, :k]
    assert (of_float32 < best - 1e-15).any(), "not hard: among float32's candidates are all that are right"

    found = screened(search, everyone, k)
    assert ((exact.gather(1, found) - best).abs() <= equal).all()
    assert ((exact.gather(1, search.nearest(everyone, k).inputs) - best).abs() <= equal).all()
    np.testing.assert_array_equal(np.sort(nearest(x, k, kind)), found.sort(1).values)


@kinds
def test_screening_spares_float64_where_it_can(kind, monkeypatch):
    search, everyone = prepared(0.5 + random(300, 6), kind)
    expected = search.nearest(everyone, 5).inputs
    again = []
    monkeypatch.setattr(
        module._Search,
        "scores",
        lambda self, block: again.append(len(block)) or module._scores(self.rows, self.penalty, block),
    )
    assert torch.equal(screened(search, everyone, 5), expected)
    assert sum(again) < 30


def test_every_input_may_be_a_candidate():
    search, everyone = prepared(two_bundles(2), "cosine")
    found = screened(search, everyone, 39)
    assert torch.equal(found.sort(1).values, search.nearest(everyone, 39).inputs.sort(1).values)


# -- what is counted of them --------------------------------------------------------------------------------


def overlap_of_rows(a, b):
    """Jaccard, rank and shared fraction of two ordered lists of neighbours, from the definitions."""
    shared = set(a) & set(b)
    jaccard = len(shared) / len(set(a) | set(b))
    score = 0.0
    for one in shared:
        r, s = list(a).index(one) + 1, list(b).index(one) + 1
        score += 2 / ((1 + abs(r - s)) * (r + s))
    rank = score / math.fsum(1 / i for i in range(1, len(shared) + 1)) if shared else 0.0
    return {
        "jaccard": jaccard,
        "rank": rank,
        "rank_jaccard": jaccard * rank,
        "mutual_knn": len(shared) / len(a),
    }


@pytest.mark.matrix("6")
@kinds
@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("k", [1, 6, 29])
def test_overlaps_are_those_of_sets(name, kind, k):
    x, y = pair()
    rows = zip(brute_force(x, k, kind), brute_force(y, k, kind), strict=True)
    expected = np.mean([overlap_of_rows(a, b)[name] for a, b in rows])
    assert MEASURES[name](x, y, k=k, **KINDS[kind]) == pytest.approx(expected, rel=1e-12)


def test_ranks_by_hand():
    """Of the first input the two neighbours change places, those of the others stay."""
    x = np.array([[0.0, 0], [1, 0], [0, 1.5], [9, 9], [9, 10], [7, 9]])
    y = np.array([[0.0, 0], [1.5, 0], [0, 1], [9, 9], [9, 10], [7, 9]])
    orders = [nearest(side, 2).tolist() for side in (x, y)]
    assert orders[0] == [[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]]
    assert orders[1] == [[2, 1], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]]
    swapped = (2 * 2 / (2 * 3)) / 1.5  # ranks 1 and 2, and 2 and 1; divided by 1 + 1/2
    expected = (swapped + 5) / 6
    assert MEASURES["rank"](x, y, k=2, metric="euclidean") == pytest.approx(expected)
    assert MEASURES["rank_jaccard"](x, y, k=2, metric="euclidean") == pytest.approx(expected)
    assert MEASURES["jaccard"](x, y, k=2, metric="euclidean") == 1


def test_independent_inputs_share_what_chance_gives():
    n, k = 400, 40
    values = [
        [MEASURES[name](random(n, 8, seed=s), random(n, 8, seed=s + 50), k=k) for s in range(5)]
        for name in ("jaccard", "mutual_knn")
    ]
    chance = hypergeom(n - 1, k, k)
    expected_jaccard = chance.expect(lambda shared: shared / (2 * k - shared))
    assert np.mean(values[0]) == pytest.approx(expected_jaccard, rel=0.05)
    assert np.mean(values[0]) == pytest.approx(k / (2 * n - k), rel=0.1)
    assert np.mean(values[1]) == pytest.approx(k / (n - 1), rel=0.05)


@pytest.mark.parametrize("name", OVERLAPS)
def test_falls_with_noise(name):
    x, noise = 0.5 + random(100, 5), random(100, 5, seed=1)
    values = [MEASURES[name](x, x + level * noise) for level in (0, 0.1, 0.5, 3)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1)
    assert values[1] > 2 * values[3]


# -- cosines of profiles ------------------------------------------------------------------------------------


def second_order(x, y, k):
    similarity = [unit(side) @ unit(side).T for side in (x, y)]
    cosines = []
    for i in range(len(x)):
        if k is None:
            a, b = (np.delete(side[i], i) for side in similarity)
        else:
            union = sorted(set(brute_force(x, k)[i]) | set(brute_force(y, k)[i]))
            a, b = (1 - side[i, union] for side in similarity)
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return np.mean(cosines)


@pytest.mark.parametrize("k", [1, 6, 29, None])
@pytest.mark.parametrize("center", [False, True])
def test_second_order_cosine_is_that_of_unions(k, center, monkeypatch):
    x, y = pair()
    prepare = (lambda side: side - side.mean(0)) if center else (lambda side: side)
    expected = second_order(prepare(x), prepare(y), k)
    assert MEASURES["second_order_cosine"](x, y, k=k, center=center) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(measures, "BLOCK", 7)
    assert MEASURES["second_order_cosine"](x, y, k=k, center=center) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore:.* inputs have the rows of others", "ignore:.* are not decided")
@pytest.mark.parametrize("k", [3, None])
@pytest.mark.parametrize(
    "x",
    [
        pytest.param(np.repeat(random(4, 6), 8, axis=0), id="more copies than neighbours"),
        pytest.param(np.concatenate([np.zeros((8, 6)), random(12, 6)]), id="rows of zeros"),
    ],
)
def test_second_order_cosine_with_itself_is_one(x, k):
    assert MEASURES["second_order_cosine"](x, 3 * x, k=k) == pytest.approx(1, abs=1e-12)


@pytest.mark.filterwarnings("ignore:.* are not decided")
def test_second_order_cosine_of_copies_in_one_only():
    """Profiles that are 0 in X and not in Y have nothing in common; no noise is taken for a profile."""
    x, y = np.repeat(random(4, 6), 8, axis=0), random(32, 6, seed=1)
    similarity = [unit(side) @ unit(side).T for side in (x, y)]
    distance = [np.where(1 - side < 1e-12, 0, 1 - side) for side in similarity]
    nearest_of = [nearest(side, 3, "cosine") for side in (x, y)]
    expected = []
    for i in range(32):
        union = sorted(set(nearest_of[0][i]) | set(nearest_of[1][i]))
        a, b = (side[i, union] for side in distance)
        expected.append(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) if a.any() else 0)
    value = MEASURES["second_order_cosine"](x, y, k=3)
    assert value == pytest.approx(np.mean(expected), abs=1e-12)


def test_second_order_cosine_of_independent_inputs_is_small():
    """Where each input's similarity to itself, 1 in both, was counted, this came to 0.4."""
    x, y = random(80, 20), random(80, 15, seed=1)
    assert abs(MEASURES["second_order_cosine"](x, y, k=None)) < 0.05


# -- CKNNA --------------------------------------------------------------------------------------------------


def hsic(k, l):  # noqa: E741
    """Unbiased, as Huh et al.: with the transpose in the trace."""
    n = len(k)
    k, l = (side - np.diag(np.diag(side)) for side in (k, l))  # noqa: E741
    middle = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 * (k @ l).sum() / (n - 2)) / (n * (n - 3))


def huh(x, y, k):
    kernels = [unit(side) @ unit(side).T for side in (x, y)]
    masks = []
    for side in (x, y):
        mask = np.zeros((len(side), len(side)))
        np.put_along_axis(mask, brute_force(side, k), 1, axis=1)
        masks.append(mask)
    both = masks[0] * masks[1]
    own = [hsic(mask * kernel, mask * kernel) for mask, kernel in zip(masks, kernels, strict=True)]
    return hsic(both * kernels[0], both * kernels[1]) / math.sqrt(own[0] * own[1])


@pytest.mark.parametrize("k", [1, 2, 6, 20, 29])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_cknna_is_that_of_masked_kernels(k, center, noise):
    x, y = pair(noise=noise)
    expected = huh(x - x.mean(0), y - y.mean(0), k) if center else huh(x, y, k)
    assert MEASURES["cknna"](x, y, k=k, center=center) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_cknna_is_not_symmetric():
    x, y = pair()
    assert abs(MEASURES["cknna"](x, y) - MEASURES["cknna"](y, x)) > 1e-4


@pytest.mark.parametrize("center", [False, True])
def test_cknna_of_all_neighbors_is_debiased_cka_of_unit_rows(center):
    x, y = pair()
    rows = [unit(side - side.mean(0) if center else side) for side in (x, y)]
    value = MEASURES["cknna"](x, y, k=29, center=center)
    assert value == pytest.approx(MEASURES["cka_debiased"](*rows), rel=1e-9)


def test_cknna_where_no_neighbor_is_shared_is_zero():
    """Pairs on a circle, and others in Y."""
    angles = np.array([0, 0.1, 1, 1.15, 2, 2.2])
    x, y = (np.stack([np.cos(side), np.sin(side)], 1) for side in (angles, angles[[0, 4, 1, 3, 2, 5]]))
    assert MEASURES["jaccard"](x, y, k=1) == 0
    assert MEASURES["cknna"](x, y, k=1) == 0


def test_cknna_of_itself_is_one():
    x, _ = pair()
    for k in (1, 5, 29):
        assert MEASURES["cknna"](x, 2 * x, k=k) == pytest.approx(1, abs=1e-9)


# -- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OVERLAPS, "second_order_cosine", "cknna"])
def test_ten_neighbors_of_raw_cosine_unless_told(name):
    x, y = pair()
    measure = MEASURES[name]
    assert measure(x, y) == measure(x, y, k=10, center=False)
    assert measure(x, y) != measure(x, y, k=9)
    assert measure(x, y) != measure(x, y, center=True)
