"""Options: what pydantic refuses, told in our words."""

from __future__ import annotations  # field types are texts, as they are throughout the package

import dataclasses
import math
import re
from typing import Literal

import pytest

from repsim.support.options import Count, Length, NotNegative, Positive, Share, options, read_options


@options("tea option")
class Tea:
    name: str
    leaves: Count = 2
    heat: Share = 0.9
    milk: bool = False
    cup: Literal["small", "large"] = "small"
    rest: Positive | None = None
    sugar: NotNegative = 0.0
    depth: Length = 0.0

    def __post_init__(self):
        if self.milk and not self.sugar:
            raise ValueError("milk needs sugar.")


REFUSED = [
    (
        {"leafs": 3},
        "unknown tea option 'leafs'; did you mean 'leaves'? Known: name, leaves, heat, milk, cup, rest, "
        "sugar, depth.",
    ),
    ({"cup": "lrge"}, "unknown cup 'lrge'; did you mean 'large'? Known: small, large."),
    ({"cup": 3}, "unknown cup 3; known: small, large."),
    ({"name": 3}, "name must be a text, not 3."),
    ({"leaves": "3"}, "leaves must be a whole number, not '3'."),
    ({"leaves": 3.0}, "leaves must be a whole number, not 3.0."),
    ({"leaves": True}, "leaves must be a whole number, not True."),
    ({"leaves": None}, "leaves must be a whole number, not None."),
    ({"leaves": 0}, "leaves must be at least 1, not 0."),
    ({"heat": "0.5"}, "heat must be a number, not '0.5'."),
    ({"heat": False}, "heat must be a number, not False."),
    ({"heat": 1.5}, "heat must be at most 1, not 1.5."),
    ({"heat": -1}, "heat must be at least 0, not -1."),
    ({"heat": math.nan}, "heat must be a finite number, not nan."),
    ({"sugar": math.inf}, "sugar must be a finite number, not inf."),
    ({"rest": 0}, "rest must be above 0, not 0."),
    ({"milk": 1}, "milk must be true or false, not 1."),
    ({"milk": "yes"}, "milk must be true or false, not 'yes'."),
    ({"depth": "deep"}, "depth must be a number or a fraction such as '8/255', not 'deep'."),
    ({"depth": True}, "depth must be a number or a fraction such as '8/255', not 'True'."),
    ({"depth": -1}, "depth must be a finite number ≥ 0 in pixel units, not -1."),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_what_is_refused_alone_and_in_a_mapping(given, message):
    for make in (lambda: Tea(**{"name": "plain", **given}), lambda: read_options(Tea, given)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make()


def test_what_is_missing_and_what_does_not_go_together():
    with pytest.raises(ValueError, match=r"^the tea option name is missing\.$"):
        Tea(leaves=3)
    with pytest.raises(ValueError, match=r"^milk needs sugar\.$"):
        Tea("plain", milk=True)
    assert read_options(Tea, {"milk": True}) == {"milk": True}  # what else is set is not known yet


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [["leaves=3"], "leaves=3", None])
def test_what_is_no_mapping(given):
    message = f"tea options are a mapping, such as {{name: value}}, not {given!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_options(Tea, given)


def test_values_have_the_type_of_their_field():
    found = Tea("plain", heat=1, rest=2, depth="8/255")
    assert [type(value) for value in (found.heat, found.rest, found.depth)] == [float] * 3
    assert read_options(Tea, {"heat": 1, "depth": "8/255"}) == {"heat": 1.0, "depth": 8 / 255}
    assert read_options(Tea, {}) == {}


def test_fields_that_are_set_elsewhere_are_unknown_here():
    assert read_options(Tea, {"leaves": 3}, but=["heat"]) == {"leaves": 3}
    with pytest.raises(ValueError, match=r"^unknown tea option 'heat'; .*Known: leaves, milk, cup, rest"):
        read_options(Tea, {"heat": 1}, but=("heat", "name"))


def test_it_is_a_frozen_dataclass():
    found = Tea("plain", depth=1)
    assert dataclasses.replace(found, leaves=5) == Tea("plain", leaves=5, depth=1.0)
    assert Tea(**dataclasses.asdict(found)) == found
    assert len({found, Tea("plain", depth="1")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.leaves = 4
    with pytest.raises(ValueError, match=r"^leaves must be at least 1, not 0\.$"):
        dataclasses.replace(found, leaves=0)
