"""Matching of single units, against every possible matching."""

from itertools import permutations

import numpy as np
import pytest

from repsim.measures.matching import (
    correlation_match_hard,
    correlation_match_soft,
    permutation_angular,
    permutation_procrustes,
)

WIDTHS = [pytest.param(5, 5, id="equal"), pytest.param(3, 6, id="y wider"), pytest.param(6, 3, id="x wider")]


def related(d, e, seed=0):
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(20, 3))
    return tuple(1 + draw.normal(size=(20, w)) + shared @ draw.normal(size=(3, w)) for w in (d, e))


def unit(x):
    return (x - x.mean(0)) / np.linalg.norm(x - x.mean(0))


def padded(x, y):
    width = max(x.shape[1], y.shape[1])
    return tuple(np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x, y))


def correlations(x, y):
    return np.corrcoef(x.T, y.T)[: x.shape[1], x.shape[1] :]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [2, 5])
def test_permutation_angular_is_the_least_of_all(width, seed):
    x, y = (unit(side) for side in related(width, width, seed))
    angles = [np.arccos((x * y[:, order]).sum()) for order in permutations(range(width))]
    assert permutation_angular(x, y) == pytest.approx(min(angles), rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_permutation_procrustes_is_the_least_of_all(d, e, seed):
    x, y = related(d, e, seed)
    a, b = padded(x, y)
    lengths = [np.linalg.norm(a - b[:, order]) for order in permutations(range(b.shape[1]))]
    assert permutation_procrustes(x, y) == pytest.approx(min(lengths), rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_hard_match_is_the_greatest_of_all(d, e, seed):
    x, y = related(d, e, seed)
    table = correlations(x, y) if d <= e else correlations(y, x)
    narrow, wide = table.shape
    means = [table[range(narrow), order].mean() for order in permutations(range(wide), narrow)]
    assert correlation_match_hard(x, y) == pytest.approx(max(means), rel=1e-10)


@pytest.mark.parametrize(("d", "e"), WIDTHS)
def test_soft_match_lets_units_share(d, e):
    x, y = related(d, e)
    table = correlations(x, y)
    expected = (table.max(0).mean() + table.max(1).mean()) / 2
    assert correlation_match_soft(x, y) == pytest.approx(expected, rel=1e-10)


def test_soft_match_of_units_that_come_twice_is_perfect_where_hard_is_not():
    x = related(4, 4)[0]
    twice = np.hstack([x[:, :2], x[:, :2]])
    assert correlation_match_soft(twice, x[:, :2]) == pytest.approx(1)
    assert correlation_match_hard(twice, x) < 0.9


@pytest.mark.parametrize("width", [6, 40], ids=["narrow", "wide"])
def test_units_in_another_order_match_perfectly(width):
    x = related(width, width)[0]
    order = np.random.default_rng(1).permutation(width)
    scales = np.linspace(0.1, 9, width)
    assert permutation_angular(x, 3 * x[:, order] + 5) <= 1e-12
    assert permutation_procrustes(x, x[:, order]) <= 1e-12
    for measure in (correlation_match_hard, correlation_match_soft):
        assert measure(x, (x * scales)[:, order] + 5) == pytest.approx(1, abs=1e-12)


def test_small_angles_are_exact():
    x, noise = related(6, 6)
    far, near = (permutation_angular(x, x[:, ::-1] + size * noise) for size in (1e-6, 1e-10))
    assert near == pytest.approx(1e-4 * far, rel=1e-3)


def test_opposites_are_as_far_as_can_be():
    x = np.random.default_rng(0).normal(size=(20, 1))
    assert permutation_angular(x, -x) == pytest.approx(np.pi)
    assert correlation_match_hard(x, -x) == correlation_match_soft(x, -x) == pytest.approx(-1)


@pytest.mark.parametrize("measure", [correlation_match_hard, correlation_match_soft], ids=lambda m: m.name)
@pytest.mark.parametrize("level", [0.0, 0.1, -1e6])
def test_constant_units_are_left_out(measure, level):
    x, y = related(4, 5)
    with_constants = np.hstack([np.full((20, 1), level), x, np.full((20, 2), level)])
    expected = measure(x, y)
    for name, first, second in (("x", with_constants, y), ("y", y, with_constants)):
        with pytest.warns(UserWarning, match="constant") as caught:
            assert measure(first, second) == pytest.approx(expected, rel=1e-12)
        assert [str(warning.message) for warning in caught] == [
            f"3 of 7 units of {name} are constant, have no correlation, and are left out."
        ]
