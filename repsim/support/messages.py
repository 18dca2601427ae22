"""Error messages that teach: what was wrong, what was expected, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 12  # names spelled out in full before the rest is only counted


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Say that `name` is no known `kind`, naming the nearest known ones first.

    Parameters
    ----------
    kind
        What the name was taken for, as a reader says it: "layer", "model", "data set".
    name
        What was given.
    known
        Every valid name.
    """
    known = list(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=3, cutoff=0.5)
    message = f"unknown {kind} {name!r}"
    if close:
        message += "; did you mean " + " or ".join(repr(lowered[match]) for match in close) + "?"
    if not known:
        return message + f"; there is no {kind} at all"
    listed = ", ".join(known[:LISTED])
    if len(known) > LISTED:
        listed += f", … ({len(known)} in all)"
    return message + f" Known: {listed}." if close else message + f"; known: {listed}."
