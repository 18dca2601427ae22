"""Our measures beside three living peers, each in an environment and a process of its own: `make test-peers`.

Where a peer's answer is another, a formula written here says what it is instead.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repsim.measures import find_measure, permutation_test
from repsim.studies.cka_maps.layer_maps import as_matrix, layer_cka

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".peers"
VERSIONS = {"hyppo": "0.5.2", "pytorch-cka": "1.1.3", "repsim": "0.1.5"}


class Peer:
    """A peer's process: call it with the name of one of its functions, matrices and options."""

    def __init__(self, name, process):
        self.name, self.process = name, process

    def __call__(self, function, *matrices, **options):
        question = [function, [[matrix.tolist(), str(matrix.dtype)] for matrix in matrices], options]
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"{self.name} did not answer {function} with {options}"
        return json.loads(line)


def living(name):
    @pytest.fixture(scope="module", name=name.replace("-", "_"))
    def started():
        folder = ENVIRONMENTS / name
        assert folder.is_dir(), f"there is no {name} here: make test-peers installs it"
        script = HERE / f"answers_of_{name.replace('-', '_')}.py"
        surroundings = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-W", "ignore", str(script)]
        with subprocess.Popen(
            command, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            yield Peer(name, process)

    return started


hyppo, pytorch_cka, repsim = (living(name) for name in VERSIONS)


@pytest.mark.parametrize("name", VERSIONS)
def test_it_is_the_peer_that_answers(name, request):
    version, file = request.getfixturevalue(name.replace("-", "_"))("origin")
    assert version == VERSIONS[name]
    assert Path(file).is_relative_to(ENVIRONMENTS / name)
    assert f"{name}=={version}" in (HERE / f"{name}.txt").read_text().split()


# -- what is compared ---------------------------------------------------------------------------------------


def draw(n=60, widths=(8, 12), seed=0):
    """Two noisy linear images of four common factors, and those factors."""
    generator = np.random.default_rng(seed)
    factors = generator.normal(size=(n, 4))
    sides = [factors @ generator.normal(size=(4, w)) + generator.normal(size=(n, w)) for w in widths]
    return *sides, factors


X, Y, FACTORS = draw()
PAIRS = {
    "related": (X, Y),
    "independent": (X, draw(seed=1)[1]),
    "one unit": (X[:, :1], Y[:, :1]),
    "ties": (X.round(), Y.round()),
    "large means": (X + 1000, Y + 1000),
    "low rank": (FACTORS[:, :3] @ FACTORS[:3, :3] @ np.eye(3, 8), Y),
    "fewer inputs than units": draw(n=12, widths=(20, 30))[:2],
    "float32": (X.astype(np.float32), Y.astype(np.float32)),
}


def ours(name, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one pair has more units than inputs
        return find_measure(name)(x, y)


def near(value):
    return pytest.approx(value, rel=1e-8, abs=1e-10)


def pairs(*names):
    return pytest.mark.parametrize(("x", "y"), [pytest.param(*PAIRS[name], id=name) for name in names])


every_pair = pairs(*PAIRS)
pairs_of_more_inputs = pairs(*(name for name in PAIRS if name != "fewer inputs than units"))


# -- formulas of our own, for where a peer's answer is another ----------------------------------------------


def centered(x):
    x = x.astype(np.float64)
    return x - x.mean(0)


def linear(x):
    return centered(x) @ centered(x).T


def squared_distances(x):
    x = x.astype(np.float64)
    return np.square(x[:, None] - x).sum(2)


def median_distance(x):
    return np.median(np.sqrt(squared_distances(x))[np.triu_indices(len(x), 1)])


def gaussian(x, like):
    """exp(−‖a − b‖² / 2σ²), σ being the median distance of `like`."""
    return np.exp(-squared_distances(x) / (2 * median_distance(like) ** 2))


def biased(k, l):  # noqa: E741
    """(n − 1)² HSIC of Gretton et al. (2005)."""
    h = np.eye(len(k)) - 1 / len(k)
    return np.trace(k @ h @ l @ h)


def unbiased(k, l):  # noqa: E741
    """n (n − 3) HSIC of Song et al. (2012), equation 5."""
    n = len(k)
    k, l = (matrix - np.diag(np.diag(matrix)) for matrix in (k, l))  # noqa: E741
    rows = k.sum(1) @ l.sum(1)
    return (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows


def cosine(inner, k, l):  # noqa: E741
    return inner(k, l) / np.sqrt(inner(k, k) * inner(l, l))


def with_diagonals(k, l):  # noqa: E741
    """U-centring that counts the diagonals in the sums of rows, where only other entries belong."""
    n = len(k)

    def center(matrix):
        rows = matrix.sum(1) / (n - 2)
        rest = matrix - rows - rows[:, None] + matrix.sum() / ((n - 1) * (n - 2))
        return rest - np.diag(np.diag(rest))

    return (center(k) * center(l)).sum()


def directions(x):
    """An orthonormal basis of what the columns span."""
    left, values, _ = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    return left[:, values > 1e-12 * values[0]]


def correlations(x, y):
    """Canonical ones."""
    return np.linalg.svd(directions(centered(x)).T @ directions(centered(y)), compute_uv=False)


# -- hyppo --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "asked", "power"),
    [
        ("distance_correlation", {"test": "Dcorr", "bias": True}, 1),
        ("distance_correlation_unbiased", {"test": "Dcorr", "bias": False}, 1),
        ("cka", {"test": "RV"}, 1),
        ("cka", {"test": "Hsic", "bias": True, "compute_kernel": "linear"}, 2),  # theirs is the root
    ],
)
@every_pair
def test_statistics_of_hyppo(hyppo, name, asked, power, x, y):
    assert hyppo("statistic", x, y, **asked) ** power == near(ours(name, x, y))


@every_pair
def test_gaussian_hsic_of_hyppo_is_ours_of_equal_medians(hyppo, x, y):
    """Ours gives each matrix a bandwidth of its own; theirs gives both that of the first."""
    asked = {"test": "Hsic", "bias": True}
    scaled = y.astype(np.float64) * (median_distance(x) / median_distance(y))
    assert hyppo("statistic", x, scaled, **asked) ** 2 == near(ours("cka_rbf", x, y))
    expected = cosine(biased, gaussian(x, like=x), gaussian(y, like=x))
    assert hyppo("statistic", x, y, **asked) ** 2 == near(expected)


def test_gaussian_hsic_of_hyppo_depends_on_scale_and_order(hyppo):
    assert hyppo("statistic", X, Y, test="Hsic") > 0.2
    assert abs(hyppo("statistic", X, 100 * Y, test="Hsic")) < 1e-6
    assert hyppo("statistic", 100 * Y, X, test="Hsic") > 0.1
    assert ours("cka_rbf", X, 100 * Y) == pytest.approx(ours("cka_rbf", Y, X), rel=1e-12)


@every_pair
def test_unbiased_hsic_of_hyppo_counts_diagonals(hyppo, x, y):
    """They are 0 of distances and of 1 − a Gaussian kernel, but not of 1 − a linear one."""
    k, l = (side.astype(np.float64) @ side.astype(np.float64).T for side in (x, y))  # noqa: E741
    expected = cosine(with_diagonals, 1 - k / k.max(), 1 - l / l.max())
    # 1 − a kernel over its largest value is what it takes for a distance
    found = hyppo("statistic", x, y, test="Hsic", compute_kernel="linear")
    assert found == (pytest.approx(expected, rel=1e-5) if x.mean() > 100 else near(expected))
    assert abs(found - ours("cka_debiased", x, y)) > 1e-4


def test_cca_of_hyppo_is_the_rv_coefficient(hyppo):
    """Not the largest canonical correlation, which it says it is, and not unchanged by linear maps."""
    found = hyppo("statistic", X, Y, test="CCA")
    assert found == pytest.approx(ours("cka", X, Y), rel=1e-12)
    assert abs(found - correlations(X, Y)[0]) > 0.1
    mixed = X @ np.random.default_rng(0).normal(size=(8, 8))
    assert hyppo("statistic", X, mixed, test="CCA") < 0.9
    assert ours("cca_mean", X, mixed) == pytest.approx(1)


def weak(n=30, width=4):
    """Two matrices that have so little to do with each other that chance often makes them as alike."""
    x, noise = np.random.default_rng(2).normal(size=(2, n, width))
    return x, 0.1 * x + noise


@pytest.mark.parametrize(
    ("name", "asked", "how"),
    [
        ("cka", {"test": "RV"}, {}),
        ("distance_correlation", {"test": "Dcorr", "bias": True}, {}),
        ("distance_correlation_unbiased", {"test": "Dcorr"}, {"auto": False}),
    ],
)
def test_permutation_tests(hyppo, name, asked, how):
    """Shares and means of 499 permutations differ by at most four standard errors."""
    x, y = weak()
    how = {"reps": 499, "random_state": 0, **how}
    value, p_value, mean, spread = hyppo("outcome", x, y, how=how, **asked)
    mine = permutation_test(name, x, y, permutations=499, progress=False)
    assert value == pytest.approx(mine.value, rel=1e-10)
    assert 0.05 < mine.p_value < 0.95
    error = np.sqrt(2 / 499)
    assert p_value == pytest.approx(mine.p_value, abs=4 * error * np.sqrt(mine.p_value * (1 - mine.p_value)))
    assert mean == pytest.approx(mine.null_mean, abs=4 * error * mine.null_sd)
    assert spread == pytest.approx(mine.null_sd, rel=4 * error)


def test_distance_correlation_of_single_units_by_hyppos_fast_algorithm(hyppo):
    """Its `test` of two columns sorts; it is right with ties too."""
    for x, y in ((X, Y), (X.round(), Y.round())):
        found = hyppo("outcome", x[:, :1], y[:, :1], test="Dcorr", how={})[0]
        assert found == near(ours("distance_correlation_unbiased", x[:, :1], y[:, :1]))


def test_p_value_of_biased_hsic_by_hyppo_is_next_to_nothing(hyppo):
    """By default it is looked up as if it were the unbiased one; and it is a root, too."""
    x, y = weak()
    asked = {"test": "Hsic", "bias": True}
    value, by_default, *_ = hyppo("outcome", x, y, how={}, **asked)
    same, permuted, *_ = hyppo("outcome", x, y, how={"auto": False, "reps": 199}, **asked)
    assert by_default < 1e-3
    assert value == pytest.approx(same, rel=1e-10)
    assert permuted > 0.05
    assert permutation_test("cka_rbf", x, y, progress=False).p_value > 0.05


def test_unbiased_hsic_by_hyppo_is_another_once_it_permutes(hyppo):
    """It then takes the kernels for distances, whose diagonals it believes to be 0."""
    x, y = np.random.default_rng(0).normal(size=(2, 15, 10))
    k, l = gaussian(x, like=x), gaussian(y, like=x)  # noqa: E741
    assert hyppo("statistic", x, y, test="Hsic") == pytest.approx(cosine(unbiased, k, l), rel=1e-8)
    found, again = (
        hyppo("outcome", x, y, test="Hsic", how={"reps": 99, "random_state": 0}) for _ in range(2)
    )
    assert found[0] == pytest.approx(cosine(with_diagonals, k, l), rel=1e-8)
    assert found[0] > cosine(unbiased, k, l) + 0.3
    assert found[2] != again[2]  # nor does it use its random_state


# -- PyPI's repsim ------------------------------------------------------------------------------------------


def other(table):
    """Of two matrices, the value of one with the other."""
    (_, value), (mirrored, _) = table
    assert value == mirrored
    return value


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("cka", {"measure": "cka", "kernel_type": "linear", "estimator": "gretton"}),
        ("cka_rbf", {"measure": "cka", "kernel_type": "rbf", "estimator": "gretton"}),
    ],
)
@every_pair
def test_cka_of_repsim(repsim, name, asked, x, y):
    assert other(repsim("table", x, y, **asked)) == near(ours(name, x, y))


@every_pair
def test_debiased_cka_of_repsim(repsim, x, y):
    """Its unbiased HSICs make our debiased CKA; its own divides one of them by biased ones."""
    (own_x, between), (_, own_y) = repsim(
        "table", x, y, measure="hsic", kernel_type="linear", estimator="song"
    )
    assert between / np.sqrt(own_x * own_y) == near(ours("cka_debiased", x, y))
    n, k, l = len(x), linear(x), linear(y)  # noqa: E741
    scale = (n - 1) ** 2 / (n * (n - 3))
    expected = scale * unbiased(k, l) / np.sqrt(biased(k, k) * biased(l, l))
    asked = {"measure": "cka", "kernel_type": "linear", "estimator": "song"}
    assert other(repsim("table", x, y, **asked)) == near(expected)


def test_debiased_cka_of_repsim_with_a_copy_is_not_1(repsim):
    x = np.random.default_rng(0).normal(size=(20, 200))
    (itself, copy), _ = repsim("table", x, x, measure="cka", kernel_type="linear", estimator="song")
    assert itself == 1
    assert copy < 0.2
    assert ours("cka_debiased", x, x) == pytest.approx(1)


@pairs_of_more_inputs
def test_cca_of_repsim(repsim, x, y):
    """What it calls Pillai's trace is the mean correlation; that trace is the sum of the squared ones."""
    yanai, pillai = (
        other(repsim("table", x, y, measure="cca", summary_type=summary)) for summary in ("yanai", "pillai")
    )
    assert near(ours("cca_mean_squared", x, y)) == yanai == near(np.square(correlations(x, y)).mean())
    assert near(ours("cca_mean", x, y)) == pillai == near(correlations(x, y).mean())


@pairs_of_more_inputs
def test_pwcca_of_repsim_is_the_mean_of_both_directions(repsim, x, y):
    expected = (ours("pwcca", x, y) + ours("pwcca", y, x)) / 2
    assert other(repsim("table", x, y, measure="pwcca")) == near(expected)


def test_cca_of_repsim_with_itself_is_below_1_where_centring_takes_a_dimension(repsim):
    """Probabilities sum to 1: of ten, nine are free, and it divides by ten."""
    logits = np.random.default_rng(0).normal(size=(100, 10))
    x = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for measure in ("cca", "svcca"):
        assert repsim("table", x, x, measure=measure) == [[pytest.approx(0.9)] * 2] * 2
        assert ours("svcca" if measure == "svcca" else "cca_mean_squared", x, x) == pytest.approx(1)


def test_svcca_of_repsim_does_not_look_at_variance(repsim):
    """It takes the components of an orthonormal basis, which all have the same: it is CCA."""
    generator = np.random.default_rng(0)
    signal, noise, other_noise = generator.normal(size=(3, 100, 10))
    x, y = (np.hstack([signal, 1e-3 * rest]) for rest in (noise, other_noise))
    found = other(repsim("table", x, y, measure="svcca", summary_type="pillai"))
    assert found == pytest.approx(correlations(x, y).mean(), rel=1e-8)
    assert found < 0.8
    assert ours("svcca", x, y) == pytest.approx(1)
    x, y = (side * np.repeat([1, 1e3], 10) for side in (x, y))  # now as loud as the signal
    assert other(repsim("table", x, y, measure="svcca", summary_type="pillai")) == pytest.approx(found)
    assert ours("svcca", x, y) == pytest.approx(found)


# -- pytorch-cka --------------------------------------------------------------------------------------------


@every_pair
def test_cka_of_pytorch_cka(pytorch_cka, x, y):
    """Ours may be negative, theirs is then 0. It does not centre columns, which costs digits."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    found, expected = pytorch_cka("of_features", x, y), max(ours("cka_debiased", x, y), 0)
    assert found == pytest.approx(expected, rel=1e-3 if x.mean() > 100 else 1e-8, abs=1e-12)


def test_cka_of_pytorch_cka_in_float32_needs_means_near_0(pytorch_cka):
    x, y = (side.astype(np.float32) for side in (X, Y))
    expected = cosine(unbiased, linear(X), linear(Y))
    assert pytorch_cka("of_features", x, y) == pytest.approx(expected, rel=1e-4)
    x, y = x + np.float32(1000), y + np.float32(1000)
    expected = cosine(unbiased, linear(x), linear(y))
    assert abs(pytorch_cka("of_features", x, y) - expected) > 0.1
    assert ours("cka_debiased", x, y) == pytest.approx(expected, rel=1e-10)
    assert find_measure("cka_debiased")(x, y, dtype=torch.float32) == pytest.approx(expected, rel=1e-4)


def test_layers_of_pytorch_cka(pytorch_cka):
    """Batch by batch; of a layer whose output is changed in place it reads the next one instead."""
    generator = np.random.default_rng(0)
    x = generator.random(size=(96, 12)).astype(np.float32)
    weights = generator.normal(size=(10, 12)).astype(np.float32)
    batches = torch.from_numpy(x).reshape(3, 32, 1, 1, 12)
    for inplace in (False, True):
        linear_layer = nn.Linear(12, 10, bias=False)
        linear_layer.weight.data = torch.from_numpy(weights)
        layers = linear_layer, nn.BatchNorm1d(10), nn.ReLU(inplace)
        network, names = nn.Sequential(nn.Flatten(), *layers).eval(), ["1", "2", "3"]
        chosen = {"layers_a": names, "layers_b": names, "batch_size": 32, "progress": False}
        expected = as_matrix(layer_cka(network, network, iter(batches), **chosen)).to_numpy()
        found = np.array(pytorch_cka("of_layers", x, weights, batch_size=32, inplace=inplace))
        right = np.ones((3, 3), bool)
        if inplace:
            assert found[1, 2] == found[0, 0] == pytest.approx(1)
            assert expected[1, 2] < 0.9
            right[1, :] = right[:, 1] = False
        np.testing.assert_allclose(found[right], expected[right], rtol=1e-4)
