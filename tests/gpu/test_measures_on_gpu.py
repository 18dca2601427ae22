"""Measures of tensors on a GPU are those of the same numbers on the CPU."""

import pandas as pd
import pytest
import torch

from repsim.measures import (
    MEASURES,
    PREDICTION_MEASURES,
    compare_many,
    error_overlap,
    interval,
    permutation_test,
)
from repsim.measures.predictions import ambiguity, discrepancy
from repsim.measures.registry import find_any

EXACT, SINGLE = 1e-8, 1e-3  # of values below 1, and as a share of those above: float64, float32
SMALL = {"rtd": {"trials": 2, "points": 20}}
EXAMPLES = [
    pytest.param(name, {**example, **SMALL.get(name, {})}, id=f"{name}-{i}")
    for name, measure in MEASURES.items()
    for i, example in enumerate(measure.examples)
]


def pair(n=60, width=12):
    """Two representations that share half of what they vary by."""
    generator = torch.Generator().manual_seed(0)
    shared, *own = (torch.randn(n, width, generator=generator, dtype=torch.float64) for _ in range(3))
    return tuple(shared + each + 0.2 for each in own)


def predictions(n=50):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (n,), generator=generator)
    right = 2 * torch.nn.functional.one_hot(labels, 4)
    a, b = (right + torch.randn(n, 4, generator=generator) for _ in range(2))
    return a, b, labels


def near(value, bound):
    return pytest.approx(value, rel=bound, abs=bound)


@pytest.mark.parametrize(("name", "options"), EXAMPLES)
def test_a_measure_is_the_same(device, name, options):
    x, y = pair()
    expected = MEASURES[name](x, y, **options)
    assert MEASURES[name](x.to(device), y.to(device), **options) == near(expected, EXACT)
    assert MEASURES[name](x.to(device), y, **options) == near(expected, EXACT)
    assert MEASURES[name](x, y.to(device), **options) == near(expected, EXACT)
    single = MEASURES[name](x.to(device), y.numpy(), dtype=torch.float32, **options)
    assert single == near(MEASURES[name](x, y, dtype=torch.float32, **options), SINGLE)


@pytest.mark.parametrize("name", [name for name, each in MEASURES.items() if each.least_inputs(50, 50) <= 40])
@pytest.mark.parametrize("identical", [False, True], ids=["related", "identical"])
def test_a_measure_is_the_same_of_more_units_than_inputs(device, name, identical):
    x, y = pair(40, 50)
    y = x if identical else y
    options = SMALL.get(name, {})
    expected = MEASURES[name](x, y, **options)
    # of what is identical, an angle is the difference of two vectors, which is rounding
    assert MEASURES[name](x.to(device), y.to(device), **options) == near(
        expected, 1e-6 if identical else EXACT
    )


@pytest.mark.parametrize("name", ["jaccard", "rank", "cknna", "second_order_cosine", "imd"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_neighbours_of_many_inputs_are_the_same(device, name, dtype):
    x, y = pair(1100, 8)
    found = MEASURES[name](x.to(device), y.to(device), dtype=dtype)
    bound = EXACT if dtype == torch.float64 else SINGLE
    assert found == near(MEASURES[name](x, y, dtype=dtype), bound)


def test_features_of_half_precision_and_maps(device):
    x = torch.randn(30, 4, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    y = x.float() + torch.arange(30)[:, None, None, None] / 30
    for pool in (False, True):
        found = MEASURES["cka"](x.to(device), y.to(device), pool=pool)
        assert found == near(MEASURES["cka"](x, y, pool=pool), EXACT)


@pytest.mark.parametrize("name", ["cka", "cka_debiased", "procrustes", "jaccard", "rsa", "agreement"])
def test_intervals_and_tests_draw_the_same_and_find_the_same(device, name):
    x, y = predictions()[:2] if name in PREDICTION_MEASURES else pair()
    there = x.to(device), y.to(device)
    for found, expected in (
        (
            interval(name, *there, resamples=20, progress=False),
            interval(name, x, y, resamples=20, progress=False),
        ),
        (
            permutation_test(name, *there, permutations=20, progress=False),
            permutation_test(name, x, y, permutations=20, progress=False),
        ),
    ):
        for own, other in zip(found, expected, strict=True):
            assert own == (other if isinstance(other, str) else near(other, 1e-7))


@pytest.mark.parametrize("mixed", [False, True], ids=["all there", "some there"])
def test_tables_of_many_are_the_same(device, mixed):
    (x, y), z = pair(), pair()[0] ** 2
    names = ["cka", "procrustes", "pwcca", "jaccard", "rsa", "linear_regression", "uniformity_difference"]
    expected = compare_many({"x": x, "y": y, "z": z}, names, progress=False)
    there = {"x": x.to(device), "y": y if mixed else y.to(device), "z": z.to(device)}
    found = compare_many(there, names, progress=False)
    pd.testing.assert_frame_equal(found, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("name", PREDICTION_MEASURES)
def test_a_measure_of_predictions_is_the_same(device, name):
    a, b, labels = predictions()
    labels = labels if PREDICTION_MEASURES[name].needs_labels else None
    expected = find_any(name)(a, b, labels)
    there = None if labels is None else labels.to(device)
    assert find_any(name)(a.to(device), b.to(device), there) == near(expected, EXACT)
    assert find_any(name)(a.to(device), b, labels) == near(expected, EXACT)


def test_measures_of_sets_of_predictions_are_the_same(device):
    a, b, labels = predictions()
    there = [a.to(device), b.to(device)]
    assert ambiguity(there) == ambiguity([a, b])
    assert discrepancy([there[0], b]) == discrepancy([a, b])
    pd.testing.assert_frame_equal(error_overlap(*there, labels), error_overlap(a, b, labels))


def test_what_is_wrong_is_said_of_numbers_that_are_there(device):
    x, y = (each.to(device) for each in pair())
    with pytest.raises(ValueError, match=r"x has values up to 1.0e\+200, whose squares do not fit"):
        MEASURES["cka"](torch.full_like(x, 1e200), y)
    with pytest.raises(ValueError, match="y does not vary"):
        MEASURES["cka"](x, torch.ones_like(y))
    with pytest.raises(ValueError, match=r"not finite .* in 1 of its rows"):
        MEASURES["cka"](x, torch.where(torch.arange(60, device=device)[:, None] == 3, torch.nan, y))
    with pytest.warns(UserWarning, match="1 of the 60 inputs have the rows of others"):
        MEASURES["cka"](torch.cat([x[:1], x[:-1]]), torch.cat([y[:1], y[:-1]]))
