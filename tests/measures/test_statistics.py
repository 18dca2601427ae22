"""Magnitude, concentricity and uniformity, each from its formula."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from repsim.measures.measure import represent_pair
from repsim.measures.statistics import (
    _uniformity,
    concentricity_difference,
    magnitude_difference,
    uniformity_difference,
)

WIDTHS = [pytest.param(5, 5, id="equal"), pytest.param(3, 30, id="unequal")]


def two(d, e, scale=1.0):
    draw = np.random.default_rng(0)
    return draw.normal(1, scale, size=(20, d)), draw.normal(2, 2 * scale, size=(20, e))


def concentricity(x):
    mean = x.mean(0)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(mean)
    return np.divide(x @ mean, lengths, out=np.zeros(len(x)), where=lengths > 0).mean()


@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_magnitude(d, e):
    x, y = two(d, e)
    expected = abs(np.linalg.norm(x.mean(0)) - np.linalg.norm(y.mean(0)))
    assert magnitude_difference(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("zeros", [0, 3], ids="{} rows of zeros".format)
@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_concentricity(d, e, zeros):
    x, y = two(d, e)
    x[:zeros] = 0
    expected = abs(concentricity(x) - concentricity(y))
    assert concentricity_difference(x, y) == pytest.approx(expected, rel=1e-10)


def test_concentricity_around_a_mean_of_0_is_0():
    x = np.vstack([np.eye(4), -np.eye(4)])
    y = two(4, 4)[0][:8]
    assert concentricity_difference(x, y) == pytest.approx(concentricity(y), rel=1e-12)


@pytest.mark.parametrize("t", [0.5, 2.0])
@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_uniformity(d, e, t):
    x, y = two(d, e, scale=0.2)
    a, b = (np.log(np.exp(-t * pdist(side) ** 2).mean()) for side in (x, y))
    assert uniformity_difference(x, y, t=t) == pytest.approx(abs(a - b), rel=1e-9)
    assert abs(a - b) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniformity_of_large_distances_is_a_number(dtype):
    """Where the exponentials are 0 to the last, the nearest pair decides."""
    x = 1000 * two(5, 5)[0]
    with np.errstate(divide="ignore"):
        assert np.log(np.exp(-2 * pdist(x) ** 2).mean()) == -np.inf
    value = float(_uniformity(represent_pair(x, x, dtype=dtype)[0], 2.0))
    assert value == pytest.approx(-2 * pdist(x).min() ** 2 - np.log(190), rel=1e-4)


def test_uniformity_needs_a_positive_t():
    with pytest.raises(ValueError, match=r"^t must be a number above 0, not 0\.$"):
        uniformity_difference(*two(3, 3), t=0)
