"""Alignment by rotations, against SciPy's solution of it, and exact where all is nearly the same."""

import numpy as np
import pytest
import torch
from scipy.linalg import inv, orthogonal_procrustes, sqrtm
from scipy.stats import ortho_group

from repsim.measures import MEASURES
from repsim.measures.procrustes import (
    aligned_cosine,
    procrustes,
    procrustes_angular,
    procrustes_similarity,
    procrustes_size_shape,
    shape_metric,
)

WIDTHS = [
    pytest.param(30, 6, 6, id="equal"),
    pytest.param(30, 4, 9, id="y wider"),
    pytest.param(30, 9, 4, id="x wider"),
    pytest.param(12, 40, 25, id="both wide"),
    pytest.param(12, 5, 40, id="one wide"),
]
ALPHAS = [0.0, 0.2, 0.5, 0.9, 1.0]


def related(n, d, e, seed=0):
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(n, 3))
    return tuple(2 + draw.normal(size=(n, w)) + shared @ draw.normal(size=(3, w)) for w in (d, e))


def centered(x):
    return x - x.mean(0)


def unit(x):
    return centered(x) / np.linalg.norm(centered(x))


def padded(x, y):
    width = max(x.shape[1], y.shape[1])
    return tuple(np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x, y))


def turn(x, y):
    """Both, padded, Y turned to be nearest to X."""
    x, y = padded(x, y)
    rotation, _ = orthogonal_procrustes(y, x)
    return x, y @ rotation


def rotation(width, seed=0):
    return ortho_group.rvs(width, random_state=seed)


@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_distances_after_scipys_rotation(n, d, e):
    x, y = related(n, d, e)
    a, b = turn(unit(x), unit(y))
    assert procrustes(x, y) == pytest.approx(np.linalg.norm(a - b), rel=1e-10)
    assert procrustes_similarity(x, y) == pytest.approx((a * b).sum(), rel=1e-10)
    assert procrustes_angular(x, y) == pytest.approx(np.arccos((a * b).sum()), rel=1e-10)
    a, b = turn(centered(x), centered(y))
    assert procrustes_size_shape(x, y) == pytest.approx(np.linalg.norm(a - b), rel=1e-10)


# -- nearly the same ----------------------------------------------------------------------------------------

EXACT = [
    ("procrustes", {}),
    ("procrustes_angular", {}),
    ("procrustes_size_shape", {}),
    *(("shape_metric", {"alpha": alpha}) for alpha in ALPHAS),
]


@pytest.mark.parametrize(("name", "options"), EXACT, ids=str)
@pytest.mark.parametrize(("n", "d"), [(30, 6), (10, 60)], ids=["narrow", "wide"])
@pytest.mark.filterwarnings("ignore:.*says nothing")
def test_turned_copies_have_distance_0(name, options, n, d):
    x = related(n, d, d)[0]
    size = np.linalg.norm(x) if name == "procrustes_size_shape" else 1
    assert MEASURES[name](x, x @ rotation(d) + 3, **options) <= 1e-12 * size
    assert MEASURES[name](x, x, **options) <= 1e-12 * size


@pytest.mark.parametrize(("name", "options"), EXACT, ids=str)
def test_small_distances_are_linear(name, options):
    """From a cosine alone they would be 0 or 1e-8."""
    x, noise = related(30, 6, 6)
    turned = x @ rotation(6)
    far, near = (MEASURES[name](x, turned + size * noise, **options) for size in (1e-6, 1e-10))
    assert near == pytest.approx(1e-4 * far, rel=1e-3)


# -- shape_metric -------------------------------------------------------------------------------------------


def partly_whitened(x, alpha):
    x = centered(x)
    return x @ (alpha * np.eye(x.shape[1]) + (1 - alpha) * inv(sqrtm(x.T @ x)).real)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("d", "e"), [(5, 5), (4, 8)], ids=str)
def test_shape_metric_is_the_angle_after_partial_whitening(alpha, d, e):
    x, y = related(30, d, e)
    expected = procrustes_angular(partly_whitened(x, alpha), partly_whitened(y, alpha))
    assert shape_metric(x, y, alpha=alpha) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("d", "e"), [(5, 5), (4, 8)], ids=str)
def test_shape_metric_at_its_ends(d, e):
    x, y = related(30, d, e)
    correlations = MEASURES["cca_mean"](x, y) * min(d, e)
    assert shape_metric(x, y, alpha=0.0) == pytest.approx(np.arccos(correlations / np.sqrt(d * e)), rel=1e-10)
    assert shape_metric(x, y, alpha=1.0) == pytest.approx(procrustes_angular(x, y), rel=1e-12)


# -- aligned_cosine -----------------------------------------------------------------------------------------


def cosines(a, b):
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize(("n", "d", "e"), WIDTHS)
def test_aligned_cosine(n, d, e):
    x, y = (side - 1 for side in related(n, d, e))
    assert aligned_cosine(x, y) == pytest.approx(cosines(*turn(x, y)).mean(), rel=1e-9)


def test_aligned_cosine_leaves_out_rows_of_zeros():
    x, y = related(20, 5, 7)
    x[3], y[5] = 0, 0
    rows = np.delete(np.arange(20), [3, 5])
    expected = cosines(*(side[rows] for side in turn(x, y))).mean()
    assert aligned_cosine(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_aligned_cosine_of_turned_copies_is_1(dtype):
    x = related(20, 5, 5)[0]
    assert aligned_cosine(x, 3 * x @ rotation(5), dtype=dtype) == pytest.approx(1, abs=1e-6)
