"""Probe options: the defaults, what is refused, and one object (and one address) for each way to fit."""

import dataclasses
import math
import re

import pytest

from repsim.studies.probing import ProbeOptions
from repsim.studies.probing.options import KINDS, UNUSED
from repsim.support.artifacts import address

# One value of each field that is not its default.
OTHER = {
    "kind": "logistic",
    "penalty": 0.5,
    "pool": False,
    "epochs": 3,
    "learning_rate": 0.1,
    "batch_size": 7,
    "seed": 2,
}


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def address_of(options):
    return address(dataclasses.asdict(options))


def test_the_defaults():
    assert dataclasses.asdict(ProbeOptions()) == {
        "kind": "ridge",
        "penalty": None,
        "pool": True,
        "epochs": 10,
        "learning_rate": 5e-3,
        "batch_size": 1024,
        "seed": 0,
    }
    assert [*OTHER] == [field.name for field in dataclasses.fields(ProbeOptions)]


# what is refused

REFUSED = [
    ({"kind": "lasso"}, "unknown kind 'lasso'; known: ridge, logistic, adam."),
    ({"kind": "Logistc"}, "unknown kind 'Logistc'; did you mean 'logistic'? Known: ridge, logistic, adam."),
    ({"penalty": 0}, "penalty must be above 0, not 0."),
    ({"penalty": math.inf}, "penalty must be a finite number, not inf."),
    ({"penalty": "0.1"}, "penalty must be a number, not '0.1'."),
    ({"pool": 1}, "pool must be true or false, not 1."),
    ({"epochs": 0, "kind": "adam"}, "epochs must be at least 1, not 0."),
    ({"batch_size": 0, "kind": "adam"}, "batch_size must be at least 1, not 0."),
    ({"learning_rate": 0, "kind": "adam"}, "learning_rate must be above 0, not 0."),
    ({"seed": -1, "kind": "adam"}, "seed must be at least 0, not -1."),
    # what has no effect must be possible all the same
    ({"penalty": 0, "kind": "adam"}, "penalty must be above 0, not 0."),
    ({"epochs": 0, "kind": "ridge"}, "epochs must be at least 1, not 0."),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_is_refused(options, message):
    with refused(message):
        ProbeOptions(**options)


@pytest.mark.parametrize(
    "options", [{"epochs": 1}, {"batch_size": 1}, {"learning_rate": 1e-9}, {"seed": 0}, {"seed": 2**32}]
)
def test_what_is_at_the_edge_is_allowed(options):
    found = ProbeOptions("adam", **options)
    assert {name: getattr(found, name) for name in options} == options


# one object for each way to fit


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in OTHER if name not in ("kind", "pool")]
)
def test_what_has_no_effect_is_as_if_it_had_not_been_said(kind, name):
    """Equal probes, equal addresses; what has an effect makes another."""
    usual, other = ProbeOptions(kind), ProbeOptions(kind, **{name: OTHER[name]})
    unused = name == "penalty" if kind == "adam" else name != "penalty"
    assert (name in UNUSED[kind]) == unused
    assert (other == usual) == unused
    assert (address_of(other) == address_of(usual)) == unused
    assert (other.label == usual.label) == unused


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_has_an_effect_on_every_kind(kind):
    assert ProbeOptions(kind, pool=False) != ProbeOptions(kind)


def test_the_penalty_of_logistic_is_its_own_unless_given():
    assert ProbeOptions("logistic").penalty == 1e-3
    assert ProbeOptions("logistic", penalty=1e-3) == ProbeOptions("logistic")
    assert ProbeOptions("ridge").penalty is None
    assert ProbeOptions("ridge", penalty=1e-3) != ProbeOptions("ridge")
    assert ProbeOptions("adam", penalty=3.0).penalty is None


@pytest.mark.parametrize(
    ("kind", "name"), [("ridge", "penalty"), ("logistic", "penalty"), ("adam", "learning_rate")]
)
def test_a_whole_number_is_the_same_setting_as_a_float(kind, name):
    one, other = (ProbeOptions(kind, **{name: number(2)}) for number in (int, float))
    assert one == other
    assert repr(one) == repr(other)
    assert one.label == other.label
    assert address_of(one) == address_of(other)


@pytest.mark.parametrize("kind", KINDS)
def test_normalising_twice_changes_nothing(kind):
    once = ProbeOptions(**{**OTHER, "kind": kind})
    assert ProbeOptions(**dataclasses.asdict(once)) == once


# labels


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "ridge"),
        ({"penalty": 0.01}, "ridge(penalty=0.01)"),
        ({"penalty": 1}, "ridge(penalty=1.0)"),
        ({"pool": False, "penalty": 0.01}, "ridge(penalty=0.01, pool=False)"),
        ({"seed": 1, "epochs": 3}, "ridge"),
        ({"kind": "logistic"}, "logistic"),
        ({"kind": "logistic", "penalty": 1e-3}, "logistic"),
        ({"kind": "logistic", "penalty": 1e-4}, "logistic(penalty=0.0001)"),
        ({"kind": "adam"}, "adam"),
        ({"kind": "adam", "penalty": 2.0}, "adam"),
        ({"kind": "adam", "seed": 1}, "adam(seed=1)"),
        (
            {**OTHER, "kind": "adam"},
            "adam(pool=False, epochs=3, learning_rate=0.1, batch_size=7, seed=2)",
        ),
    ],
)
def test_a_label_says_what_is_not_usual(options, label):
    assert ProbeOptions(**options).label == label


# from mappings


def test_some_options_from_a_mapping():
    assert ProbeOptions.read({"penalty": 1, "pool": False}) == {"penalty": 1.0, "pool": False}
    for name in ("momentum", "kind", "seed"):  # notebooks set the last two by parameters of their own
        with refused(
            f"unknown probe option '{name}'; known: penalty, pool, epochs, learning_rate, batch_size."
        ):
            ProbeOptions.read({name: 3})
