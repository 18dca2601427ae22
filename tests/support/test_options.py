"""Texts as typed fields of any dataclass."""

from __future__ import annotations  # field types are texts, as they are throughout the package

import dataclasses
import re
from fractions import Fraction
from typing import Literal

import pytest

from repsim.support.options import read_options


@dataclasses.dataclass
class Tea:
    leaves: int = 2
    heat: float = 0.9
    milk: bool = False
    name: str = "plain"
    cup: Literal["small", "large"] = "small"
    rest: float | None = None


def read(*texts, **options):
    return read_options(Tea, texts, "way of tea", **options)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("leaves=3", "leaves", 3),
        ("leaves=-3", "leaves", -3),
        ("heat=1", "heat", 1.0),
        ("heat=1e-3", "heat", 0.001),
        ("milk=true", "milk", True),
        ("milk=False", "milk", False),
        ("milk=TRUE", "milk", True),
        ("name=earl grey", "name", "earl grey"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("cup=large", "cup", "large"),
        ("cup=huge", "cup", "huge"),  # what is allowed, the dataclass says
        ("  leaves =  3 ", "leaves", 3),
    ],
)
def test_each_text_is_read_as_the_type_of_its_field(text, name, value):
    found = read(text)
    assert found == {name: value}
    assert type(found[name]) is type(value)


def test_several_texts_make_several_fields_and_the_last_of_a_name_wins():
    assert read() == {}
    assert read("leaves=1", "heat=0.5", "leaves=3") == {"leaves": 3, "heat": 0.5}
    assert Tea(**read("leaves=1", "milk=true")) == Tea(leaves=1, milk=True)


def test_texts_may_come_one_by_one():
    assert read_options(Tea, (text for text in ["leaves=1"]), "way of tea") == {"leaves": 1}


@pytest.mark.parametrize("text", ["leaves", "leaves: 3", "", "   "])
def test_a_text_without_an_equals_sign(text):
    message = f"a way of tea is written name=value (such as epochs=40), not {text!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "leafs=3",
            "unknown way of tea 'leafs'; did you mean 'leaves'? Known: leaves, heat, milk, name, cup, rest.",
        ),
        ("zzz=3", "unknown way of tea 'zzz'; known: leaves, heat, milk, name, cup, rest."),
        ("=3", "unknown way of tea ''; known: leaves, heat, milk, name, cup, rest."),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leaves=many", "way of tea leaves takes int, not 'many'."),
        ("leaves=1.5", "way of tea leaves takes int, not '1.5'."),
        ("leaves=", "way of tea leaves takes int, not ''."),
        ("heat=warm", "way of tea heat takes float, not 'warm'."),
        ("milk=1", "way of tea milk takes bool, not '1'."),
        ("milk=yes", "way of tea milk takes bool, not 'yes'."),
    ],
)
def test_a_value_of_another_type(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(text)


def test_a_wrong_text_among_right_ones_is_found():
    with pytest.raises(ValueError, match=r"^way of tea heat takes float, not 'warm'\.$"):
        read("leaves=3", "heat=warm", "leaves=4")


def test_fields_that_are_set_elsewhere_are_unknown_here():
    assert read("leaves=3", but=["heat"]) == {"leaves": 3}
    message = "unknown way of tea 'heat'; known: leaves, milk."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read("heat=1", but=("heat", "name", "cup", "rest"))


def fraction(text):
    return float(Fraction(text))


def test_a_reader_of_a_field():
    assert read("heat=1/2", readers={"heat": fraction}) == {"heat": 0.5}
    with pytest.raises(ValueError, match=r"^way of tea heat takes float, not '1/2'\.$"):
        read("heat=1/2")


def test_a_reader_of_a_type():
    readers = {"float | None": fraction}
    assert read("rest=1/2", "heat=0.5", readers=readers) == {"rest": 0.5, "heat": 0.5}
    assert read("rest=1/2") == {"rest": "1/2"}
    with pytest.raises(ValueError, match=r"^way of tea rest takes float \| None, not 'long'\.$"):
        read("rest=long", readers=readers)


def test_a_reader_takes_the_place_of_the_usual_one_and_that_of_the_field_comes_first():
    assert read("heat=1/2", "leaves=3", readers={"float": fraction}) == {"heat": 0.5, "leaves": 3}
    readers = {"heat": lambda text: f"by name {text}", "float": fraction}
    assert read("heat=1/2", readers=readers) == {"heat": "by name 1/2"}


def test_readers_do_not_stay():
    read("heat=1/2", readers={"heat": fraction})
    with pytest.raises(ValueError, match="takes float"):
        read("heat=1/2")
