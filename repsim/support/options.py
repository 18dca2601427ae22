"""Options of training, stitching, inversion and the like: checked by pydantic, refused in our words."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import field, fields
from functools import cache
from typing import Annotated, TypeVar, dataclass_transform, get_type_hints

import pydantic
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from repsim.support import messages
from repsim.support.epsilons import parse_epsilon

CONFIG = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
}
Options = TypeVar("Options")


# In pixel units, as a number or a text such as `8/255`; no truth value, which Python takes for a number.
Length = Annotated[
    float,
    BeforeValidator(
        lambda v, field: parse_epsilon(str(v) if v is True or v is False else v, field.field_name)
    ),
]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def options(noun: str) -> Callable[[type[Options]], type[Options]]:
    """Make a class a frozen dataclass whose fields are checked, and whose errors speak our words.

    Parameters
    ----------
    noun
        What messages call one of its fields: "training option".

    Notes
    -----
    Types are taken strictly: no text is a number, no number a truth value; a whole number is as good as a
    float, and becomes one, so that equal settings have equal addresses. No number is infinite.
    """

    def decorate(kind: type[Options]) -> type[Options]:
        checked = dataclass(kind, frozen=True, config=CONFIG)
        construct = checked.__init__

        def __init__(self, *values, **named):
            try:
                construct(self, *values, **named)
            except ValidationError as error:
                raise ValueError(_told(error, checked, noun)) from None

        __init__.__pydantic_base_init__ = True  # pydantic need not call it again where it checks others
        checked.__init__ = __init__
        checked._noun = noun
        return checked

    return decorate


def read_options(kind: type, given: Mapping[str, object], but: Collection[str] = ()) -> dict[str, object]:
    """Some fields of a class of `options`, as a mapping sets them: `{"epochs": 40, "step_size": "2/255"}`.

    Parameters
    ----------
    but
        Fields that are set by other means.

    Raises
    ------
    ValueError
        A name is no such field, or a value not of its type or range.
    """
    try:
        return _partial(kind, tuple(but)).validate_python(given)
    except ValidationError as error:
        raise ValueError(_told(error, kind, kind._noun, but)) from None


@cache
def _partial(kind: type, but: tuple[str, ...]) -> TypeAdapter:
    """The checker of mappings of any of a class's fields."""
    types = {
        name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if name not in but
    }
    partial = TypedDict(
        kind.__name__,
        {each.name: types[each.name] for each in fields(kind) if each.name in types},
        total=False,
    )
    partial.__pydantic_config__ = CONFIG
    return TypeAdapter(partial)


def _told(error: ValidationError, kind: type, noun: str, but: Collection[str] = ()) -> str:
    """The first of the errors in our words."""
    first = error.errors(include_url=False)[0]
    found, context, value = first["type"], first.get("ctx", {}), first["input"]
    name = str(first["loc"][0]) if first["loc"] else ""
    if found == "value_error":
        return str(context["error"])
    if found in ("extra_forbidden", "unexpected_keyword_argument"):
        return messages.unknown(noun, name, [each.name for each in fields(kind) if each.name not in but])
    if found == "literal_error":
        return messages.unknown(name, value, re.findall(r"'([^']*)'", context["expected"]))
    if found == "missing":
        return f"the {noun} {name} is missing."
    if found == "dict_type":
        return f"{noun}s are a mapping, such as {{name: value}}, not {value!r}."
    wanted = WANTED[found].format(**context) if found in WANTED else first["msg"]
    return f"{name} must be {wanted}, not {value!r}."
