"""Texts such as `epochs=40` as typed fields of a dataclass: how notebooks set what they do not name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

from repsim.support import messages


def read_options(
    kind: type,
    texts: Iterable[str],
    noun: str,
    *,
    example: str = "epochs=40",
    but: Collection[str] = (),
    readers: Mapping[str, Callable[[str], object]] | None = None,
) -> dict[str, object]:
    """Fields of a dataclass from texts `name=value`, each read as the type that its field has.

    Parameters
    ----------
    noun
        What messages call such an option.
    example
        Of a text, for messages.
    but
        Fields that are set by other means.
    readers
        Field or type, as it is written → how its values are read, where their type alone does not say.

    Raises
    ------
    ValueError
        A text is not `name=value`, the name is unknown, or the value is of another type.
    """
    known = {field.name: str(field.type) for field in dataclasses.fields(kind) if field.name not in but}
    found: dict[str, object] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            article = "an" if noun[0] in "aeiou" else "a"
            raise ValueError(f"{article} {noun} is written name=value (such as {example}), not {text!r}.")
        if name not in known:
            raise ValueError(messages.unknown(noun, name, known))
        reader = {"int": int, "float": float, "bool": _truth, **(readers or {})}
        try:
            found[name] = reader.get(name, reader.get(known[name], str))(value)
        except ValueError as error:
            raise ValueError(f"{noun} {name} takes {known[name]}, not {value!r}.") from error
    return found


def check_known(kind: type, names: Iterable[str], noun: str) -> None:
    """Refuse names that are no fields of a dataclass.

    Raises
    ------
    ValueError
        With the nearest fields that it has.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for name in names:
        if name not in known:
            raise ValueError(messages.unknown(noun, name, known))


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
