"""Canonical correlations, and what is made of them, against other routes to the same numbers."""

import numpy as np
import pytest
from scipy.linalg import block_diag, eigh, orth

from repsim.measures import MEASURES
from repsim.measures.cca import cca_mean, cca_mean_squared, eigenspace_overlap, pwcca, svcca

TRIVIAL = (
    "{} says nothing here: with {} inputs, {} and {} units, one of the representations is a linear map of "
    "whatever the other is; {}."
)
INSTEAD = "take more inputs than units, or use svcca(dims=…) with few dims, cka_debiased or procrustes"
WIDTHS = [pytest.param(6, 6, id="equal"), pytest.param(4, 9, id="y wider"), pytest.param(9, 4, id="x wider")]


def related(n, d, e, shared=3, seed=0):
    draw = np.random.default_rng(seed)
    common = draw.normal(size=(n, shared))
    return tuple(1 + draw.normal(size=(n, w)) + common @ draw.normal(size=(shared, w)) for w in (d, e))


def canonical(x, y):
    """Correlations and the weights of X, from the eigenproblem of the covariances."""
    x, y = x - x.mean(0), y - y.mean(0)
    d, e = x.shape[1], y.shape[1]
    between = np.zeros((d + e, d + e))
    between[:d, d:], between[d:, :d] = x.T @ y, y.T @ x
    values, vectors = eigh(between, block_diag(x.T @ x, y.T @ y))
    first = np.argsort(-values)[: min(d, e)]
    return values[first], vectors[:d, first]


def leading(x, count):
    """Scores on the leading principal components."""
    x = x - x.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    return x @ vectors[:, np.argsort(-values)[:count]]


def components(x, variance):
    values = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    return int(np.argmax(values.cumsum() / values.sum() >= variance)) + 1


def projection_weighted(x, y):
    """Morcos et al. (2018): X weighs."""
    correlations, weights = canonical(x, y)
    variates = (x - x.mean(0)) @ weights
    variates /= np.linalg.norm(variates, axis=0)
    alpha = np.abs(variates.T @ (x - x.mean(0))).sum(1)
    return (alpha * correlations).sum() / alpha.sum()


# -- canonical correlations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_means_of_the_canonical_correlations(d, e):
    x, y = related(60, d, e)
    expected = canonical(x, y)[0]
    assert cca_mean(x, y) == pytest.approx(expected.mean(), rel=1e-10)
    assert cca_mean_squared(x, y) == pytest.approx((expected**2).mean(), rel=1e-10)


NARROW = ["cca_mean", "cca_mean_squared", "pwcca", "eigenspace_overlap", "gulp", "linear_regression", "svcca"]


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_that_follow_from_others_do_not_count(name, scale):
    """Rank-deficient: to rounding, there are no further directions."""
    x, y = (side - 1 for side in related(60, 5, 4))
    more = y @ np.random.default_rng(1).normal(size=(4, 7))  # the same column space, at rank 4 of 7
    if name == "svcca":
        options = {"variance": 1.0}
        expected = cca_mean(x, y)
    else:
        options, expected = {}, MEASURES[name](x, y)
    assert MEASURES[name](x, scale * more, **options) == pytest.approx(expected, rel=1e-8)


def test_rank_deficient_x_of_pwcca():
    x, y = related(60, 5, 4)
    doubled = np.hstack([x, x])  # twice the weight to all
    assert pwcca(doubled, y) == pytest.approx(pwcca(x, y), rel=1e-10)


# -- svcca --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_svcca_keeps_what_holds_the_variance(d, e, variance):
    x, y = related(60, d, e)
    kept = [leading(side, components(side, variance - 1e-12)) for side in (x, y)]
    assert svcca(x, y, variance=variance) == pytest.approx(canonical(*kept)[0].mean(), rel=1e-9)


@pytest.mark.parametrize("dims", [1, 3, 5, 100])
def test_svcca_keeps_as_many_as_it_is_told(dims):
    x, y = related(60, 5, 8)
    kept = [leading(side, dims) for side in (x, y)]
    assert svcca(x, y, dims=dims) == pytest.approx(canonical(*kept)[0].mean(), rel=1e-9)


def test_svcca_counts_shares_of_variance_against_a_share():
    """The published code held shares against 0.99 of the variance itself, and kept 1 (erratum 18)."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(300, 65)), draw.normal(size=(300, 65))
    needed = components(x, 0.99)
    assert needed == components(y, 0.99) > 60

    squared = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    published = int(np.argmax((squared / squared.sum()).cumsum() >= 0.99 * squared.sum())) + 1
    assert published == 1

    assert svcca(x, y) == pytest.approx(svcca(x, y, dims=needed), rel=1e-12)
    assert svcca(x, y) != pytest.approx(svcca(x, y, dims=published), rel=0.1)


def test_svcca_of_equal_variances_keeps_the_share_and_no_more():
    x = np.kron(np.eye(10), [[1], [-1]])  # ten components of a tenth each
    y = np.random.default_rng(0).normal(size=(20, 4))
    assert svcca(x, y, variance=1.0) == pytest.approx(svcca(x, y, dims=10), rel=1e-12)


# -- pwcca --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_pwcca_weighs_by_its_first_argument(d, e):
    """The published code weighs by the narrower of the two (erratum 18)."""
    x, y = related(60, d, e)
    assert pwcca(x, y) == pytest.approx(projection_weighted(x, y), rel=1e-9)
    assert pwcca(x, y) != pytest.approx(projection_weighted(y, x), rel=1e-3)


# -- eigenspace_overlap -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "e"), WIDTHS)
@pytest.mark.parametrize("copies", [1, 3])
def test_eigenspace_overlap_is_per_direction(d, e, copies):
    x, y = related(60, d, e)
    expected = (orth(x).T @ orth(y)) ** 2
    assert eigenspace_overlap(np.hstack([x] * copies), y) == pytest.approx(
        expected.sum() / max(d, e), rel=1e-9
    )


def test_eigenspace_overlap_warns_where_it_is_trivial():
    x, y = related(10, 12, 3)
    with pytest.warns(UserWarning, match="says nothing") as caught:
        assert eigenspace_overlap(x, y) == pytest.approx(0.3)
    assert [str(warning.message) for warning in caught] == [
        "eigenspace_overlap says nothing here: with 10 inputs, 12 and 3 units span every direction there is; "
        "take more inputs than units."
    ]


# -- more units than inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "instead", "trivial"),
    [
        ("cca_mean", {}, INSTEAD, 1),
        ("cca_mean_squared", {}, INSTEAD, 1),
        ("pwcca", {}, INSTEAD, 1),
        ("svcca", {"variance": 1.0}, "keep fewer components, by variance or dims", 1),
        ("shape_metric", {"alpha": 0.0}, "use alpha > 0", 0),
        ("gulp", {}, "use lam > 0, such as 0.1", 0),
        ("linear_regression", {}, "use folds, or ridge", 1),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
@pytest.mark.parametrize("widths", [(10, 12), (30, 9)], ids=str)
def test_warns_where_anything_would_do(name, options, instead, trivial, widths):
    x, y = (np.random.default_rng(w).normal(size=(10, w)) for w in widths)
    with pytest.warns(UserWarning, match="says nothing") as caught:
        value = MEASURES[name](x, y, **options)
    shown = {"gulp": "gulp(lam=0)", "shape_metric": "shape_metric(alpha=0)"}.get(name, name)
    assert [str(warning.message) for warning in caught] == [TRIVIAL.format(shown, 10, *widths, instead)]
    assert value == pytest.approx(trivial, abs=1e-6)


@pytest.mark.parametrize("name", ["cca_mean", "cca_mean_squared", "pwcca"])
def test_one_that_spans_everything_is_enough_to_warn(name):
    x, y = related(10, 3, 9)
    with pytest.warns(UserWarning, match="says nothing here: with 10 inputs, 3 and 9 units"):
        assert MEASURES[name](x, y) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cca_mean", {}),
        ("svcca", {"dims": 3}),
        ("shape_metric", {}),
        ("gulp", {"lam": 0.1}),
        ("linear_regression", {}),
    ],
    ids=str,
)
def test_says_nothing_where_there_is_nothing_to_say(name, options):
    widths = (12, 12) if options or name == "shape_metric" else (8, 8)
    x, y = (np.random.default_rng(seed).normal(size=(10, w)) for seed, w in enumerate(widths))
    assert MEASURES[name](x, y, **options) > 0  # warnings are errors
