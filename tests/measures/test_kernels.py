"""CKA in all its forms, against the textbook."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.stats import ortho_group

from repsim.measures import kernels
from repsim.measures.hsic import cosine_without_each
from repsim.measures.kernels import cka, cka_angular, cka_debiased, cka_rbf
from repsim.measures.measure import represent_pair
from repsim.measures.rdm import distance_correlation_unbiased, distances

WIDTHS = [
    pytest.param(30, 5, 8, id="narrow"),
    pytest.param(12, 40, 25, id="wide"),
    pytest.param(12, 4, 40, id="both"),
]


def related(n, d, e, seed=0):
    """Representations that share three directions."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(n, 3))
    return tuple(2 + draw.normal(size=(n, w)) + shared @ draw.normal(size=(3, w)) for w in (d, e))


def independent(n, d, seed):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, d)), draw.normal(size=(n, d))


def hsic(k, l):  # noqa: E741
    """Gretton et al. (2005)."""
    n = len(k)
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ l @ h) / (n - 1) ** 2


def u_centered(k):
    """Székely & Rizzo (2013), entry by entry."""
    n = len(k)
    k = k - np.diag(np.diag(k))
    rows = k.sum(1)
    result = k - rows[:, None] / (n - 2) - rows[None, :] / (n - 2) + k.sum() / ((n - 1) * (n - 2))
    return result - np.diag(np.diag(result))


def cosine(a, b):
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def gram(x):
    return x @ x.T


def turned(x, seed=0):
    return 3 * x @ ortho_group.rvs(x.shape[1], random_state=seed) + 7


# -- cka ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_cka_is_the_textbooks(n, d, e):
    x, y = related(n, d, e)
    k, l = gram(x), gram(y)  # noqa: E741
    assert cka(x, y) == pytest.approx(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)), rel=1e-12)


@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_features_and_grams_give_the_same(n, d, e):
    x, y = represent_pair(*related(n, d, e))
    for a, b in ((x, y), (x, x), (y, y)):
        expected = float(kernels.by_features(a, b))
        assert float(kernels.by_grams(a, b)) == pytest.approx(expected, rel=1e-10)
        assert float(kernels.inner_product(a, b)) == pytest.approx(expected, rel=1e-10)


# -- cka_debiased -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_debiased_is_the_cosine_of_u_centered_grams(n, d, e):
    x, y = related(n, d, e)
    assert cka_debiased(x, y) == pytest.approx(cosine(u_centered(gram(x)), u_centered(gram(y))), rel=1e-10)


@pytest.mark.slow
def test_more_units_than_inputs_bias_cka_but_not_the_debiased():
    draws = [independent(20, 500, seed) for seed in range(40)]
    values = np.array([cka_debiased(x, y) for x, y in draws])
    assert abs(values.mean()) < 3 * values.std() / 40**0.5
    assert values.std() < 0.1
    assert min(cka(x, y) for x, y in draws) > 0.9


@pytest.mark.parametrize("measure", [cka, cka_debiased], ids=lambda measure: measure.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_means_in_float32(measure, dtype):
    """Mean 5, standard deviation 0.1 (erratum 2)."""
    x, y = (5 + 0.1 * side.astype(np.float32) for side in related(128, 512, 512))
    truth = measure(x.astype(np.float64) - 5, y.astype(np.float64) - 5)
    assert measure(x, y, dtype=dtype) == pytest.approx(truth, abs=2e-6)
    assert measure(x, x, dtype=dtype) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-7, 300.0, 1e6])
@pytest.mark.parametrize("measure", [cka, cka_debiased, distance_correlation_unbiased])
@pytest.mark.parametrize("d", [10, 80], ids=["narrow", "wide"])
def test_float32_neither_over_nor_underflows(measure, d, scale):
    x, y = related(60, d, d)
    small = measure(scale * x, scale * y, dtype=torch.float32)
    assert small == pytest.approx(measure(x, y), abs=1e-4)


# -- cka_rbf ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_rbf(n, d, e, threshold):
    x, y = related(n, d, e)

    def kernel(side):
        lengths = pdist(side)
        return np.exp(-squareform(lengths**2) / (2 * (threshold * np.median(lengths)) ** 2))

    k, l = kernel(x), kernel(y)  # noqa: E741
    expected = hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    assert cka_rbf(x, y, threshold=threshold) == pytest.approx(expected, rel=1e-10)


def test_rbf_of_mostly_equal_inputs_is_undefined():
    x = np.zeros((12, 3))
    x[0] = 1
    with pytest.raises(ValueError, match="undefined here"):
        cka_rbf(x, related(12, 3, 3)[0])


# -- cka_angular --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_angular_is_the_arccos(n, d, e):
    x, y = related(n, d, e)
    assert cka_angular(x, y) == pytest.approx(np.arccos(cka(x, y)), rel=1e-10)


@pytest.mark.parametrize("width", [5, 60])
@pytest.mark.parametrize("change", [np.array, turned], ids=["same", "rotated"])
def test_angular_of_copies_is_0(width, change):
    x = independent(25, width, 0)[0]
    assert cka_angular(x, change(x)) <= 1e-12


@pytest.mark.parametrize("width", [5, 60])
def test_angular_is_linear_near_0(width):
    """An arccos answers 0 or 1e-8 to both."""
    x, noise = independent(25, width, 1)
    assert cka_angular(x, x + 1e-10 * noise) == pytest.approx(
        1e-3 * cka_angular(x, x + 1e-7 * noise), rel=1e-3
    )


# -- without each input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "matrix"),
    [
        pytest.param(cka_debiased, kernels.gram, id="grams"),
        pytest.param(distance_correlation_unbiased, distances, id="distances"),
    ],
)
@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_without_each_input(measure, matrix, n, d, e):
    x, y = related(n, d, e)
    pair = represent_pair(x, y)
    expected = [measure(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(n)]
    values = cosine_without_each(*(matrix(side) for side in pair))
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    np.testing.assert_allclose(measure.leave_one_out(*pair), expected, rtol=1e-9)
