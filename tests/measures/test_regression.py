"""Linear prediction against scikit-learn, and GULP against its definition."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

from repsim.measures.regression import gulp, linear_regression

WIDTHS = [pytest.param(5, 5, id="equal"), pytest.param(3, 9, id="y wider"), pytest.param(9, 3, id="x wider")]
RIDGES = [0.0, 1e-3, 10.0]


def related(n, d, e, seed=0):
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(n, 3))
    return tuple(1 + draw.normal(size=(n, w)) + shared @ draw.normal(size=(3, w)) for w in (d, e))


def independent(n, d, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, d)), draw.normal(size=(n, d))


def model(ridge):
    return Ridge(alpha=ridge) if ridge else LinearRegression()


def held_out(x, y, ridge, folds, seed):
    """R² of the errors and totals of all folds."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
    errors = totals = 0.0
    for fold in np.array_split(order, folds):
        seen = np.setdiff1d(order, fold)
        fitted = model(ridge).fit(y[seen], x[seen])
        errors += ((x[fold] - fitted.predict(y[fold])) ** 2).sum()
        totals += ((x[fold] - x[seen].mean(0)) ** 2).sum()
    return 1 - errors / totals


# -- linear_regression --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_regression_in_sample(d, e, ridge):
    x, y = related(40, d, e)
    predicted = model(ridge).fit(y, x).predict(y)
    expected = r2_score(x, predicted, multioutput="variance_weighted")
    assert linear_regression(x, y, ridge=ridge) == pytest.approx(expected, rel=1e-10)


@pytest.mark.matrix("5")
@pytest.mark.parametrize("folds", [2, 5, 7, 40])
@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_regression_held_out(d, e, ridge, folds):
    x, y = related(40, d, e)
    expected = held_out(x, y, ridge, folds, seed=3)
    assert linear_regression(x, y, ridge=ridge, folds=folds, seed=3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("d", "e"), [(30, 50), (50, 30), (3, 50)], ids=str)
@pytest.mark.parametrize("ridge", RIDGES)
def test_regression_held_out_from_more_units_than_inputs(d, e, ridge):
    x, y = related(20, d, e)
    expected = held_out(x, y, ridge, 4, seed=0)
    assert linear_regression(x, y, ridge=ridge, folds=4) == pytest.approx(expected, rel=1e-8)


def test_regression_is_of_x_from_y():
    x = independent(40, 6)[0]
    assert linear_regression(x[:, :2], x) == pytest.approx(1)
    assert linear_regression(x, x[:, :2]) < 0.6


# -- gulp ---------------------------------------------------------------------------------------------------


def scaled(x):
    x = x - x.mean(0)
    return x / np.linalg.norm(x) * np.sqrt(len(x))


def by_covariances(x, y, lam):
    x, y = scaled(x), scaled(y)
    n = len(x)
    a, b, between = x.T @ x / n, y.T @ y / n, x.T @ y / n
    inverse = [np.linalg.pinv(s + lam * np.eye(len(s)), hermitian=True) for s in (a, b)]
    own = [np.trace(i @ s @ i @ s) for i, s in zip(inverse, (a, b), strict=True)]
    return own[0] + own[1] - 2 * np.trace(inverse[0] @ between @ inverse[1] @ between.T)


LAMBDAS = [0.0, 1e-3, 0.1, 10.0]


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_gulp_is_its_definition(d, e, lam):
    x, y = related(40, d, e)
    assert gulp(x, y, lam=lam) == pytest.approx(by_covariances(x, y, lam), rel=1e-9)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_gulp_of_rank_deficient_representations(lam):
    x, y = related(40, 4, 5)
    x = x @ np.random.default_rng(1).normal(size=(4, 9))
    assert gulp(x, y, lam=lam) == pytest.approx(by_covariances(x, y, lam), rel=1e-8)


@pytest.mark.parametrize("lam", LAMBDAS[1:])
@pytest.mark.parametrize(("d", "e"), [(5, 7), (30, 50)], ids=["narrow", "wide"])
def test_gulp_is_how_far_ridge_predictions_differ(d, e, lam):
    """Over an orthonormal basis of all labels that 20 inputs can have."""
    x, y = related(20, d, e)
    labels = np.eye(20)
    a, b = (
        Ridge(alpha=20 * lam, fit_intercept=False).fit(scaled(side), labels).predict(scaled(side))
        for side in (x, y)
    )
    assert gulp(x, y, lam=lam) == pytest.approx(((a - b) ** 2).sum(), rel=1e-9)
