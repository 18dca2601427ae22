"""The more noise, the less alike: every measure points the way that it says."""

import numpy as np
import pytest

from repsim.measures import MEASURES

# How long the mean row is, noise of mean 0 hardly changes.
BLIND = {"magnitude_difference"}
CHEAPER = {"rtd": {"trials": 1, "points": 40}}


@pytest.mark.parametrize("name", sorted(MEASURES.keys() - BLIND))
def test_noise_makes_representations_less_alike(name):
    draw = np.random.default_rng(0)
    x = 1 + draw.normal(size=(60, 3)) @ draw.normal(size=(3, 10)) + 0.1 * draw.normal(size=(60, 10))
    noise = draw.normal(size=(60, 10))
    measure = MEASURES[name].using(**CHEAPER.get(name, {}))
    values = [measure(x, x + size * noise) for size in (0.01, 0.3, 3.0)]
    assert len(set(values)) == 3
    assert values == sorted(values, reverse=measure.orientation == "similarity")
