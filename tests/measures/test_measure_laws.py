"""What is declared of every measure holds, and what is not declared does not: for all their options."""

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repsim.measures import MEASURES
from repsim.measures.measure import TRANSFORMATIONS
from repsim.measures.representation import Memory, represent

# As in the specification.
NAMES = {
    "kernels": ["cka", "cka_debiased", "cka_rbf", "cka_angular"],
    "cca": ["cca_mean", "cca_mean_squared", "svcca", "pwcca", "eigenspace_overlap"],
    "procrustes": [
        *("procrustes", "procrustes_similarity", "procrustes_angular", "procrustes_size_shape"),
        *("shape_metric", "aligned_cosine"),
    ],
    "matching": [
        *("permutation_angular", "permutation_procrustes"),
        *("correlation_match_hard", "correlation_match_soft"),
    ],
    "regression": ["linear_regression", "gulp"],
    "rdm": ["rsa", "rsm_norm_difference", "distance_correlation", "distance_correlation_unbiased"],
    "neighbors": ["jaccard", "rank", "rank_jaccard", "second_order_cosine", "mutual_knn", "cknna"],
    "topology": ["rtd", "imd"],
    "statistics": ["magnitude_difference", "concentricity_difference", "uniformity_difference"],
}

SETTINGS = [found.using(**example) for found in MEASURES.values() for example in found.examples]


def shrinks(measure):
    """Ridge regression does not predict even the predictors themselves."""
    return bool(measure.options.get("ridge"))


def written(measure):
    shown = ",".join(f"{key}={value}" for key, value in measure.options.items())
    return f"{measure.name}({shown})"


# The quick set has one of each family.
QUICK = [
    written(next(found for found in SETTINGS if found.name == names[0] and not shrinks(found)))
    for names in NAMES.values()
]


def every(wanted=lambda measure: True):
    def of_every(test):
        cases = [found for found in SETTINGS if wanted(found)]
        return pytest.mark.matrix(*QUICK)(pytest.mark.parametrize("measure", cases, ids=written)(test))

    return of_every


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def related(n=36, width=6, seed=0, other=None, noise=0.4):
    """Two noisy linear images of the same inputs, whose units differ in variance and have means."""
    other = width if other is None else other
    hidden = random(n, 5, seed=seed)
    sides = []
    for i, d in enumerate((width, other)):
        maps = random(5, d, seed=seed + 100 + i)
        values = hidden @ maps + noise * random(n, d, seed=seed + 200 + i)
        sides.append(values * torch.logspace(0.4, -1.1, d).double() + 0.5 * random(d, seed=seed + 300 + i))
    return sides


PAIRS = [
    related(),
    related(seed=1, noise=1.5),
    related(n=30, width=5, seed=2),
    related(n=40, width=8, seed=3),
]


def turn(width, seed=7):
    return torch.linalg.qr(random(width, width, seed=seed)).Q


def transformed(x, transformation):
    d = x.shape[1]
    if transformation == "orthogonal":
        return x @ turn(d)
    if transformation == "permutation":
        return x[:, torch.randperm(d, generator=generator(3))]
    if transformation == "scale":
        return 1.7 * x
    if transformation == "translation":
        return x + random(d, seed=11)
    return x @ turn(d, 8) @ torch.diag(torch.linspace(0.5, 3, d).double()) @ turn(d, 9)


MEMORY = Memory()


@functools.cache
def prepared(pair, side, transformation=None):
    """One of a pair as the measures see it, so that they share their work."""
    x = PAIRS[pair][side]
    x = transformed(x, transformation) if transformation else x.clone()
    return represent(x, "x", pool=False, dtype=x.dtype, device=None, memory=MEMORY)


# ripser computes in float32; the values of imd are small, and those of graphs are exact
UNCHANGED = {"rtd": 1e-5, "imd": 1e-12}
CHANGED = {"imd": 1e-7}


def perfect(measure):
    return 1.0 if measure.orientation == "similarity" else 0.0


# -- what is declared ---------------------------------------------------------------------------------------


def test_all_are_there():
    families = {}
    for name, found in MEASURES.items():
        assert found.name == name
        families.setdefault(found.family, []).append(name)
    assert {family: set(names) for family, names in families.items()} == {
        family: set(names) for family, names in NAMES.items()
    }
    assert len(MEASURES) == 36


def test_nothing_is_left_unsaid():
    for measure in MEASURES.values():
        assert measure.orientation in ("similarity", "distance")
        assert measure.reference
        assert measure.reference[-4:].isdigit()
        assert "\n\nUse it " in measure.description
        assert "\n\nTraps: " in measure.description
        assert measure.examples
        for example in measure.examples:
            low, high = measure.using(**example).range
            assert low < high
            if measure.orientation == "distance":
                assert low == 0
            else:
                assert high == 1 or measure.name == "cknna"  # whose masks of one and of both differ
        assert not measure.metric or (measure.orientation == "distance" and measure.symmetric)
        assert not measure.symmetric or measure.invariances["x"] == measure.invariances["y"]


# -- invariances --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["x", "y"])
@every()
def test_invariances_are_those_declared_and_no_others(measure, argument):
    changes = dict.fromkeys(TRANSFORMATIONS, 0.0)
    for pair in range(len(PAIRS)):
        before = measure.evaluate(prepared(pair, 0), prepared(pair, 1))
        for word in TRANSFORMATIONS:
            x = prepared(pair, 0, word if argument == "x" else None)
            y = prepared(pair, 1, word if argument == "y" else None)
            change = abs(measure.evaluate(x, y) - before) / max(1, abs(before))
            changes[word] = max(changes[word], change)
    declared = measure.invariances[argument]
    kept = {word for word in declared if changes[word] <= UNCHANGED.get(measure.name, 1e-9)}
    lost = {word for word in TRANSFORMATIONS if changes[word] >= CHANGED.get(measure.name, 1e-3)}
    assert kept == declared, changes
    assert lost == set(TRANSFORMATIONS) - declared, changes


# -- comparison with itself ---------------------------------------------------------------------------------


@every(lambda measure: not shrinks(measure))
def test_nothing_is_more_alike_than_itself(measure):
    tolerance = UNCHANGED.get(measure.name, 1e-8)
    x = PAIRS[0][0]
    assert measure(x, x) == pytest.approx(perfect(measure), abs=1e-10)
    for pair in range(len(PAIRS)):
        x = prepared(pair, 0)
        for word in measure.invariances["y"]:
            value = measure.evaluate(x, prepared(pair, 0, word))
            assert value == pytest.approx(perfect(measure), abs=tolerance), word
        for word in measure.invariances["x"]:
            value = measure.evaluate(prepared(pair, 0, word), x)
            assert value == pytest.approx(perfect(measure), abs=tolerance), word


@every(shrinks)
def test_ridge_regression_falls_short_of_itself(measure):
    for x, _ in PAIRS:
        assert 0.5 < measure(x, x) < 0.999


BLIND = ("magnitude_difference", "concentricity_difference", "uniformity_difference", "imd")


@every(lambda measure: measure.name not in BLIND)
def test_a_noisy_copy_is_nearer_than_a_stranger(measure):
    x = PAIRS[0][0]
    near = measure(x, x + 0.02 * random(*x.shape, seed=5))
    far = measure(x, x[torch.randperm(len(x), generator=generator(1))])
    assert near > far if measure.orientation == "similarity" else near < far


# -- range, symmetry, triangles -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* are not decided")  # after a ReLU, some rows are zeros
@every()
def test_values_lie_in_the_range(measure):
    low, high = measure.range
    x, y = PAIRS[0]
    others = {
        "related": y,
        "independent": random(*x.shape, seed=50),
        "opposite": -x,
        "opposite after centring": 2 * x.mean(0) - x,
        "shuffled": x.flip(0),
        "non-negative": y.relu(),
    }
    for kind, other in others.items():
        value = measure(x, other)
        assert isinstance(value, float)
        assert math.isfinite(value), kind
        assert low <= value <= high, kind


@every()
def test_symmetric_where_declared_and_only_there(measure):
    differences = []
    for pair in range(len(PAIRS)):
        x, y = prepared(pair, 0), prepared(pair, 1)
        forward, backward = measure.evaluate(x, y), measure.evaluate(y, x)
        differences.append(abs(forward - backward) / max(1, abs(forward)))
    if measure.symmetric:
        assert max(differences) < UNCHANGED.get(measure.name, 1e-10)
    else:
        assert max(differences) > 1e-3


def triples():
    for seed in range(8):
        width = 2 + seed % 3
        x, y, z = (random(9, width, seed=3 * seed + i) for i in range(3))
        yield x, y, z
        yield x, (x + z) / 2, z  # where it is all but an equality
        yield x, x + 0.1 * y, x + 0.2 * y + 0.01 * z
        yield x.exp(), y.exp(), 3 * z


@every(lambda measure: measure.metric)
def test_a_metric_obeys_the_triangle_inequality(measure):
    for i, (x, y, z) in enumerate(triples()):
        direct, first, second = measure(x, z), measure(x, y), measure(y, z)
        assert direct <= first + second + 1e-9, i


@every(lambda measure: measure.metric and measure.name != "permutation_angular")
def test_a_metric_obeys_it_across_widths(measure):
    for seed in range(6):
        x, y, z = random(9, 4, seed=seed), random(9, 2, seed=seed + 50), random(9, 3, seed=seed + 90)
        assert measure(x, z) <= measure(x, y) + measure(y, z) + 1e-9


# -- shapes -------------------------------------------------------------------------------------------------


@every(lambda measure: measure.name != "permutation_angular")
def test_widths_need_not_be_equal(measure):
    x, y = related(width=4, other=7)
    low, high = measure.range
    for a, b in ((x, y), (y, x)):
        assert low <= measure(a, b) <= high


def test_permutation_angular_needs_equal_widths():
    with pytest.raises(ValueError, match="one to one") as caught:
        MEASURES["permutation_angular"](*related(width=4, other=7))
    assert str(caught.value) == (
        "permutation_angular matches units one to one and needs equal widths, got 4 and 7; "
        "use correlation_match_hard or permutation_procrustes."
    )


def trivial_when_wide(measure):
    options = measure.options
    return (
        measure.name in ("cca_mean", "cca_mean_squared", "pwcca", "eigenspace_overlap")
        or (measure.name == "svcca" and not options["dims"])
        or (measure.name == "linear_regression" and not options["ridge"] and not options["folds"])
        or (measure.name == "gulp" and not options["lam"])
        or (measure.name == "shape_metric" and not options["alpha"])
    )


@every(lambda measure: measure.options.get("k") != 20)
def test_many_more_units_than_inputs(measure):
    x, y = random(12, 200) / 10, 1 + random(12, 200, seed=1) / 10
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = measure(x, y)
    low, high = measure.range
    assert math.isfinite(value)
    assert low <= value <= high
    if trivial_when_wide(measure):
        assert value == pytest.approx(perfect(measure), abs=1e-7)  # of independent representations
        assert len(caught) == 1
        assert " says nothing here: with 12 inputs, 200 and 200 units" in str(caught[0].message)
    else:
        assert abs(value - perfect(measure)) > 1e-6
        assert not caught


def is_the_same_beside_zeros(measure):
    if measure.name == "rsa":
        return measure.options["rdm"] != "correlation"
    return measure.name not in ("permutation_angular", "permutation_procrustes")


@every(is_the_same_beside_zeros)
def test_wide_representations_are_compared_by_what_they_span(measure):
    """Units of zeros make the wide way through each measure of the narrow one."""
    x, y = related()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant units
        wide = measure(torch.nn.functional.pad(x, (0, 60)), torch.nn.functional.pad(y, (0, 60)))
    assert wide == pytest.approx(measure(x, y), rel=1e-7, abs=1e-7)


# -- what x and y may be ------------------------------------------------------------------------------------


@every()
def test_float32_throughout(measure):
    for x, y in PAIRS[:2]:
        assert measure(x, y, dtype=torch.float32) == pytest.approx(measure(x, y), rel=1e-4, abs=1e-4)


@every(lambda measure: not shrinks(measure))
def test_float32_leaves_the_range_no_more_than_float64(measure):
    low, high = measure.range
    for x, _ in PAIRS[:2]:
        value = measure(x, x @ turn(x.shape[1]), dtype=torch.float32)
        assert low <= value <= high
        assert measure(x, x, dtype=torch.float32) == pytest.approx(perfect(measure), abs=1e-4)


@every(lambda measure: measure.options.get("k") != 20)
@pytest.mark.parametrize("width", [6, 40])
@pytest.mark.filterwarnings("ignore:.*says nothing here")
def test_inputs_are_left_as_they_were(measure, width):
    x, y = related(n=20, width=width)
    before = x.clone(), y.clone()
    measure(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    x, y = (side.numpy().copy() for side in before)
    measure(x, y)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


@every()
def test_the_same_call_gives_the_same_value(measure):
    torch.manual_seed(0)
    first = measure(*PAIRS[0])
    torch.manual_seed(1)
    assert measure(*PAIRS[0]) == first


# -- any shape, any scale -----------------------------------------------------------------------------------


@every()
@settings(max_examples=5)
@given(
    n=st.integers(22, 36),
    widths=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    scales=st.tuples(*2 * [st.floats(-6, 6)]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_scale(measure, n, widths, scales, seed):
    if measure.name == "permutation_angular":
        widths = (widths[0], widths[0])
    x, y = related(n, widths[0], seed, other=widths[1])
    large, small = 10 ** scales[0] * x, 10 ** scales[1] * y
    if measure.options.get("width"):  # where distances are far above it, all kernels are 0
        large, small = x, y
    value = measure(large, small)
    low, high = measure.range
    assert math.isfinite(value)
    assert low <= value <= high
    tolerance = UNCHANGED.get(measure.name, 1e-7)
    if measure.symmetric:
        assert measure(small, large) == pytest.approx(value, rel=tolerance, abs=tolerance)
    if all("scale" in measure.invariances[argument] for argument in "xy"):
        assert measure(x, y) == pytest.approx(value, rel=tolerance, abs=tolerance)
