"""Inversion options: the published defaults, what is refused, and one object for each way to invert."""

import dataclasses
import math
import re

import pytest

from repsim.studies.inversion import InversionOptions

# One value of each field that is not its default.
OTHER = {
    "optimizer": "adam",
    "iterations": 3,
    "step_size": 0.5,
    "momentum": 0.5,
    "use_best": False,
    "epsilon": 1.0,
    "tolerance": 0.0,
    "precision": "bfloat16",
}


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def test_the_defaults_are_the_published_ones_but_for_tolerance():
    assert dataclasses.asdict(InversionOptions()) == {
        "optimizer": "momentum",
        "iterations": 2000,
        "step_size": 1 / 8,
        "momentum": 0.9,
        "use_best": True,
        "epsilon": 0.0,
        "tolerance": 0.01,
        "precision": "float32",
    }


# what is refused

REFUSED = [
    ({"optimizer": "adamw"}, "unknown optimizer 'adamw'; did you mean 'adam'? Known: momentum, adam."),
    ({"optimizer": "lbfgs"}, "unknown optimizer 'lbfgs'; known: momentum, adam."),
    (
        {"precision": "float16"},
        "unknown precision 'float16'; did you mean 'bfloat16' or 'float32'? Known: float32, bfloat16.",
    ),
    ({"iterations": 0}, "iterations must be at least 1, not 0."),
    ({"momentum": 1}, "momentum must be below 1, not 1."),
    ({"momentum": -0.1}, "momentum must be at least 0, not -0.1."),
    ({"momentum": 1.0, "optimizer": "adam"}, "momentum must be below 1, not 1.0."),
    ({"tolerance": -1}, "tolerance must be at least 0, not -1."),
    ({"use_best": "no"}, "use_best must be true or false, not 'no'."),
    ({"step_size": 0}, "step_size must be above 0: images would stay as they are."),
    ({"step_size": "0/8", "optimizer": "adam"}, "step_size must be above 0: images would stay as they are."),
    ({"step_size": -0.1}, "step_size must be a finite number ≥ 0 in pixel units, not -0.1."),
    ({"step_size": "wide"}, "step_size must be a number or a fraction such as '8/255', not 'wide'."),
    ({"epsilon": -0.1}, "epsilon must be a finite number ≥ 0 in pixel units, not -0.1."),
    ({"epsilon": math.inf}, "epsilon must be a finite number ≥ 0 in pixel units, not inf."),
    ({"epsilon": "1/0"}, "epsilon must be a number or a fraction such as '8/255', not '1/0'."),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_is_refused(options, message):
    with refused(message):
        InversionOptions(**options)


@pytest.mark.parametrize("options", [{"iterations": 1}, {"momentum": 0.0}, {"tolerance": 0.0}])
def test_what_is_at_the_edge_is_allowed(options):
    found = InversionOptions(**options)
    assert {name: getattr(found, name) for name in options} == options


# one object for each way to invert


def test_the_step_size_is_the_optimizers_own_unless_given():
    assert InversionOptions(optimizer="momentum").step_size == 1 / 8
    assert InversionOptions(optimizer="adam").step_size == 0.01
    assert InversionOptions(optimizer="adam", step_size=0.2).step_size == 0.2
    assert InversionOptions(step_size=1 / 8) == InversionOptions()
    assert InversionOptions(optimizer="adam", step_size=0.01) == InversionOptions(optimizer="adam")


def test_momentum_is_of_momentum_alone():
    assert InversionOptions(optimizer="adam", momentum=0.5) == InversionOptions(optimizer="adam")
    assert InversionOptions(momentum=0.5) != InversionOptions()


def test_every_option_counts():
    found = {dataclasses.replace(InversionOptions(), **{name: value}) for name, value in OTHER.items()}
    assert len(found | {InversionOptions()}) == len(OTHER) + 1
    assert [*OTHER] == [field.name for field in dataclasses.fields(InversionOptions)]


@pytest.mark.parametrize(
    ("name", "whole"), [("step_size", 1), ("epsilon", 1), ("epsilon", 0), ("momentum", 0), ("tolerance", 1)]
)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_whole_number_is_the_same_setting_as_a_float(name, whole, optimizer):
    one, other = (InversionOptions(optimizer=optimizer, **{name: kind(whole)}) for kind in (int, float))
    assert one == other
    assert repr(one) == repr(other)
    assert type(getattr(one, name)) is float


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "adam", "momentum": 0.3}, {"step_size": 1}, {"epsilon": 2}]
)
def test_normalising_twice_changes_nothing(options):
    once = InversionOptions(**options)
    assert InversionOptions(**dataclasses.asdict(once)) == once


@pytest.mark.usefixtures("unchecked")
def test_lengths_may_be_written_as_fractions():
    found = InversionOptions(step_size="1/16", epsilon="8/255")
    assert found == InversionOptions(step_size=1 / 16, epsilon=8 / 255)


# from mappings


def test_some_options_from_a_mapping():
    given = {"iterations": 500, "step_size": "1/16", "use_best": False, "tolerance": 0}
    found = InversionOptions.read(given)
    assert found == {**given, "step_size": 1 / 16}
    assert InversionOptions(**found) == InversionOptions(**{**given, "step_size": 1 / 16})
    with pytest.raises(ValueError, match=r"^unknown inversion option 'toleranz'; did you mean 'tolerance'"):
        InversionOptions.read({"toleranz": 0})
