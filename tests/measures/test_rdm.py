"""Representational similarity and distance correlation, against rsatoolbox, dcor and SciPy."""

import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr

from repsim.measures.measure import represent_pair
from repsim.measures.rdm import (
    average_ranks,
    distance_correlation,
    distance_correlation_unbiased,
    distances,
    median_distance,
    rdm_ranks,
    rsa,
    rsm_norm_difference,
    squared_distances,
)
from repsim.measures.representation import pairs, square

THREADS = torch.get_num_threads()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import dcor
    import rsatoolbox
torch.set_num_threads(THREADS)  # numba, which dcor brings, takes all there are

WIDTHS = [
    pytest.param(20, 6, 6, id="equal"),
    pytest.param(21, 4, 9, id="unequal"),
    pytest.param(9, 30, 25, id="wide"),
]


def related(n, d, e, seed=0):
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(n, 3))
    return tuple(1 + draw.normal(size=(n, w)) + shared @ draw.normal(size=(3, w)) for w in (d, e))


def independent(n, d, seed):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, d)), draw.normal(size=(n, d))


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


# -- rsa ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compare", "theirs"),
    [
        ("pearson", "corr"),
        ("spearman", "spearman"),
        ("kendall", "tau-b"),
        ("cosine", "cosine"),
        ("whitened_cosine", "cosine_cov"),
    ],
    ids=lambda name: name,
)
@pytest.mark.parametrize("rdm", ["correlation", "euclidean"])
@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
@pytest.mark.filterwarnings("ignore")
def test_rsa_is_rsatoolboxs(rdm, compare, theirs, n, d, e):
    x, y = related(n, d, e)
    a, b = (rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(side), method=rdm) for side in (x, y))
    expected = rsatoolbox.rdm.compare(a, b, method=theirs).item()
    assert rsa(x, y, rdm=rdm, compare=compare) == pytest.approx(expected, rel=1e-8)


def gaussian(width):
    def dissimilarities(x):
        lengths = pdist(x)
        return 1 - np.exp(-(lengths**2) / (2 * (width or np.median(lengths)) ** 2))

    return dissimilarities


RDMS = {
    "correlation": lambda x: pdist(x, "correlation"),
    "euclidean": lambda x: pdist(x, "sqeuclidean"),
    "cosine": lambda x: pdist(x, "cosine"),
    "gaussian": gaussian(0),
    "gaussian width=6": gaussian(6.0),
}
COMPARISONS = {
    "pearson": lambda a, b: pearsonr(a, b).statistic,
    "spearman": lambda a, b: spearmanr(a, b).statistic,
    "kendall": lambda a, b: kendalltau(a, b).statistic,
    "cosine": cosine,
}


@pytest.mark.matrix("equal")
@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize("rdm", RDMS)
@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_rsa_is_scipys(rdm, compare, n, d, e):
    x, y = related(n, d, e)
    name, _, width = rdm.partition(" width=")
    value = rsa(x, y, rdm=name, compare=compare, width=float(width or 0))
    assert value == pytest.approx(COMPARISONS[compare](RDMS[rdm](x), RDMS[rdm](y)), rel=1e-9)


@pytest.mark.parametrize("rdm", RDMS)
def test_whitened_cosine_is_of_double_centered_rdms(rdm):
    x, y = related(15, 5, 7)
    name, _, width = rdm.partition(" width=")
    h = np.eye(15) - 1 / 15
    a, b = ((h @ squareform(RDMS[rdm](side)) @ h).ravel() for side in (x, y))
    value = rsa(x, y, rdm=name, compare="whitened_cosine", width=float(width or 0))
    assert value == pytest.approx(cosine(a, b), rel=1e-9)


def whole_numbers(draw):
    return draw.integers(0, 3, size=(30, 4)).astype(float)


def labels(draw):
    return np.eye(7)[draw.integers(0, 7, size=30)]


@pytest.mark.matrix("labels-euclidean-spearman-dtype1", "whole_numbers-cosine-kendall-dtype0")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("compare", ["spearman", "kendall"])
@pytest.mark.parametrize("rdm", ["euclidean", "correlation", "cosine"])
@pytest.mark.parametrize("values", [whole_numbers, labels], ids=lambda values: values.__name__)
def test_ties_are_ties_whatever_rounding_makes_of_them(values, rdm, compare, dtype):
    """To compare with labels, or any other model of categories, is the commonest use of ranks."""
    draw = np.random.default_rng(0)
    y = values(draw)
    x = y @ draw.normal(size=(y.shape[1], 5)) + draw.normal(size=(30, 5))
    y[0] = y[1] = np.arange(y.shape[1]) == 0  # no row is constant
    y[(y == y[:, :1]).all(1)] = y[0]
    a, b = (RDMS[rdm](side).round(10) for side in (x, y))
    assert len(np.unique(b)) < len(b) / 4
    expected = COMPARISONS[compare](a, b)
    loose = {"rel": 1e-3} if dtype == torch.float32 else {"rel": 1e-9}
    assert rsa(x, y, rdm=rdm, compare=compare, dtype=dtype) == pytest.approx(expected, **loose)
    assert rsa(1000 + x, 0.1 + y / 3, rdm="euclidean", compare=compare) == pytest.approx(
        COMPARISONS[compare](*(RDMS["euclidean"](side).round(10) for side in (x, y))), rel=1e-9
    )


@pytest.mark.parametrize("compare", ["spearman", "kendall"])
def test_ranks_of_a_narrow_gaussian_are_those_of_the_distances(compare):
    """Though the kernel itself is 0 beyond the nearest."""
    x, y = related(20, 6, 6)
    value = rsa(x, y, rdm="gaussian", width=0.1, compare=compare)
    assert value == rsa(x, y, rdm="euclidean", compare=compare)


def test_rounding_leaves_ranks_of_tiny_and_huge_distances():
    x, y = related(20, 4, 4)
    for scale in (1e-100, 1e100):
        assert rsa(scale * x, y, rdm="euclidean") == pytest.approx(rsa(x, y, rdm="euclidean"), rel=1e-12)


@pytest.mark.parametrize("compare", COMPARISONS)
def test_rows_that_are_constant_over_the_units_correlate_0(compare):
    x, y = related(15, 5, 5)
    x[[2, 7]] = [[0.0], [0.1]]
    with np.errstate(invalid="ignore"):
        table = np.nan_to_num(np.corrcoef(x))
    table[[2, 7]], table[:, [2, 7]] = 0, 0
    expected = COMPARISONS[compare]((1 - table)[np.triu_indices(15, 1)], pdist(y, "correlation"))
    assert rsa(x, y, compare=compare) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("width", [1, 3])
def test_correlation_distances_need_units_that_differ(width):
    x = np.random.default_rng(0).normal(size=(10, 1)) + np.zeros((1, width))
    message = (
        "the correlation distance of rows needs units that differ: every row of x is constant over its units "
        f"(there are {width}). Use rdm='euclidean'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rsa(x, related(10, 3, 3)[0])
    assert rsa(x, 2 * x, rdm="euclidean") == pytest.approx(1)


# -- what it is made of -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_where_means_are_large(dtype):
    x = 1000 + np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    ours = distances(represent_pair(x, x, dtype=dtype)[0])
    expected = squareform(pdist(x.astype(np.float64)))
    np.testing.assert_allclose(ours, expected, rtol=1e-3 if dtype == torch.float32 else 1e-12)
    assert not ours.diagonal().any()


def test_distances_of_equal_rows_are_no_nan():
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 3)), 2, axis=0)
    ours = squared_distances(represent_pair(x, x)[0])
    assert float(ours.min()) == 0
    np.testing.assert_allclose(ours, squareform(pdist(x, "sqeuclidean")), atol=1e-13)


@given(values=st.lists(st.integers(-5, 5) | st.floats(-1, 1), min_size=1, max_size=40))
def test_ranks_are_scipys(values):
    ours = average_ranks(torch.tensor(values, dtype=torch.float64))
    np.testing.assert_array_equal(ours, rankdata(np.array(values, dtype=float)))


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_median_distance_is_that_of_all_pairs(n):
    x, _ = represent_pair(*related(n, 3, 3))
    before = squared_distances(x).clone()
    assert median_distance(x) == pytest.approx(np.median(pdist(x.values)))
    assert torch.equal(squared_distances(x), before)


def test_ranks_of_an_rdm_are_those_of_its_pairs_in_order():
    x, _ = represent_pair(*related(12, 4, 4))
    np.testing.assert_array_equal(rdm_ranks(x, "euclidean", 0.0), rankdata(pairs(squared_distances(x))))


def test_pairs_of_a_matrix_and_back():
    matrix = torch.as_tensor(squareform(pdist(np.random.default_rng(0).normal(size=(7, 3)))))
    np.testing.assert_array_equal(pairs(matrix), squareform(matrix))
    assert torch.equal(square(pairs(matrix), 7), matrix)


# -- rsm_norm_difference ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_rsm_norm_difference_is_frobenius(n, d, e):
    """ReSi's is the spectral norm, which is less (erratum 23)."""
    x, y = related(n, d, e)
    gap = squareform(pdist(x)) - squareform(pdist(y))
    assert rsm_norm_difference(x, y) == pytest.approx(np.linalg.norm(gap), rel=1e-9)
    assert rsm_norm_difference(x, y) > 1.01 * np.linalg.norm(gap, 2)


# -- distance correlation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_distance_correlation_is_dcors(n, d, e):
    """Some libraries report the square: dcor has both, and so has our unbiased one only the square."""
    x, y = related(n, d, e)
    assert distance_correlation(x, y) == pytest.approx(dcor.distance_correlation(x, y), rel=1e-9)
    assert distance_correlation(x, y) ** 2 == pytest.approx(dcor.distance_correlation_sqr(x, y), rel=1e-9)
    expected = dcor.u_distance_correlation_sqr(x, y)
    assert distance_correlation_unbiased(x, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_unbiased_distance_correlation_of_independent_is_0_on_average():
    draws = [independent(20, 300, seed) for seed in range(40)]
    values = np.array([distance_correlation_unbiased(x, y) for x, y in draws])
    assert abs(values.mean()) < 3 * values.std() / 40**0.5
    assert values.min() < 0
    assert min(distance_correlation(x, y) for x, y in draws) > 0.9


def test_distance_correlation_finds_what_is_not_linear():
    x = np.linspace(-1, 1, 100)[:, None]
    y = x**2
    assert abs(np.corrcoef(x.T, y.T)[0, 1]) < 0.1
    assert distance_correlation_unbiased(x, y) > 0.1
