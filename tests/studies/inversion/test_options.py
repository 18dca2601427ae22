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
    ({"iterations": "3"}, "iterations takes int, not '3'."),
    ({"iterations": 3.0}, "iterations takes int, not 3.0."),
    ({"iterations": True}, "iterations takes int, not True."),
    ({"momentum": "0.5"}, "momentum takes float, not '0.5'."),
    ({"momentum": None}, "momentum takes float, not None."),
    ({"tolerance": "0"}, "tolerance takes float, not '0'."),
    ({"tolerance": False}, "tolerance takes float, not False."),
    ({"use_best": 1}, "use_best takes bool, not 1."),
    ({"use_best": "no"}, "use_best takes bool, not 'no'."),
    ({"iterations": 0}, "iterations must be at least 1, not 0."),
    ({"momentum": 1}, "momentum is a share in [0, 1), not 1."),
    ({"momentum": -0.1}, "momentum is a share in [0, 1), not -0.1."),
    ({"momentum": math.nan}, "momentum is a share in [0, 1), not nan."),
    ({"momentum": 1.0, "optimizer": "adam"}, "momentum is a share in [0, 1), not 1.0."),
    ({"tolerance": -1}, "tolerance must be a finite number ≥ 0, not -1."),
    ({"tolerance": math.nan}, "tolerance must be a finite number ≥ 0, not nan."),
    ({"tolerance": math.inf}, "tolerance must be a finite number ≥ 0, not inf."),
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


# by name


def test_options_by_name():
    assert InversionOptions.of() == InversionOptions()
    assert InversionOptions.of(**OTHER) == InversionOptions(**OTHER)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iteration", "unknown inversion option 'iteration'; did you mean 'iterations'"),
        ("toleranz", "unknown inversion option 'toleranz'; did you mean 'tolerance'"),
        ("layers", "unknown inversion option 'layers'; known: optimizer, iterations, step_size, momentum"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        InversionOptions.of(**{name: 3})


# from texts


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("optimizer=adam", "optimizer", "adam"),
        ("iterations=500", "iterations", 500),
        (" iterations = 500 ", "iterations", 500),
        ("step_size=1/8", "step_size", 1 / 8),
        ("step_size=0.1", "step_size", 0.1),
        ("momentum=0.5", "momentum", 0.5),
        ("use_best=false", "use_best", False),
        ("use_best=True", "use_best", True),
        ("epsilon=8/255", "epsilon", 8 / 255),
        ("tolerance=1e-3", "tolerance", 0.001),
        ("tolerance=0", "tolerance", 0.0),
        ("precision=bfloat16", "precision", "bfloat16"),
    ],
)
def test_options_from_texts(text, name, value):
    found = InversionOptions.read([text])
    assert found == {name: value}
    assert type(found[name]) is type(value)


def test_texts_make_options():
    texts = ["iterations=500", "step_size=1/16", "use_best=false"]
    found = InversionOptions.of(**InversionOptions.read(texts))
    assert found == InversionOptions(iterations=500, step_size=1 / 16, use_best=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iteration=40", "unknown inversion option 'iteration'; did you mean 'iterations'"),
        ("iterations=many", "inversion option iterations takes int, not 'many'."),
        ("iterations=1.5", "inversion option iterations takes int, not '1.5'."),
        ("step_size=wide", "inversion option step_size takes float | None, not 'wide'."),
        ("epsilon=-1", "inversion option epsilon takes float, not '-1'."),
        ("use_best=yes", "inversion option use_best takes bool, not 'yes'."),
        ("momentum=1/2", "inversion option momentum takes float, not '1/2'."),
    ],
)
def test_texts_that_are_no_options(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        InversionOptions.read([text])


def test_a_text_without_a_value_is_answered_with_an_example_that_could_be_used():
    with pytest.raises(ValueError, match=r"^an inversion option is written name=value") as error:
        InversionOptions.read(["adam"])
    (example,) = re.findall(r"such as (\S+)\)", str(error.value))
    InversionOptions.read([example])
