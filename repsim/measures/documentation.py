"""Documentation from what measures declare: the table of all of them, and a page for each."""

from __future__ import annotations

import math

from repsim.measures.measure import IMPLIED, Measure
from repsim.measures.predictions import PREDICTION_MEASURES, PredictionMeasure
from repsim.measures.registry import MEASURES, find_any

NAMED = {math.pi: "π", math.pi / 2: "π/2", math.sqrt(2): "√2", math.log(2): "ln 2"}
FAULTY = "† in a faulty or otherwise defined version: see “Where we differ from the reference code” in docs/."


def table() -> str:
    """All representation measures as a Markdown table, one row each."""
    rows = [("measure", "", "range", "unchanged by", "symmetric", "paper", "also in")]
    for measure in MEASURES.values():
        symmetric = ("yes, a metric" if measure.metric else "yes") if measure.symmetric else "no"
        rows.append(
            (
                f"`{measure.name}`",
                measure.orientation,
                _range(measure.range),
                _invariances(measure) + (" *" if len(_variants(measure)) > 1 else ""),
                symmetric,
                measure.reference,
                measure.elsewhere,
            )
        )
    return f"{_markdown(rows)}\n\n\\* with the default options; others differ. {FAULTY}"


def prediction_table() -> str:
    """All prediction measures as a Markdown table, one row each."""
    rows = [("measure", "", "range", "labels", "paper")]
    for measure in PREDICTION_MEASURES.values():
        needs = "needed" if measure.needs_labels else ""
        rows.append(
            (f"`{measure.name}`", measure.orientation, _range(measure.range), needs, measure.reference)
        )
    return _markdown(rows)


def explain(name: str) -> str:
    """The page of one measure: definition, options, invariances, when to use it and its traps.

    Raises
    ------
    ValueError
        No such measure; the nearest names.
    """
    measure = find_any(name)
    options = ", ".join(f"{key}={value!r}" for key, value in measure.options.items())
    kind = f"{measure.orientation}, {_range(measure.range)}"
    if isinstance(measure, PredictionMeasure):
        kind += "; needs labels" if measure.needs_labels else ""
        heading = [f"{measure.name}({options})", kind, measure.reference]
        return "\n".join([*heading, "", measure.description])
    kind += "; symmetric" if measure.symmetric else "; not symmetric"
    kind += ", a metric" if measure.metric else ""
    also = f"; also in {measure.elsewhere}" if measure.elsewhere else ""
    variants = _variants(measure)
    width = max(map(len, variants))
    method = "jackknife" if measure.leave_one_out else "subsampling"
    off = measure.half_precision
    trusted = "not to be trusted" if off == math.inf else f"right to {off:g}"
    lines = [
        f"{measure.name}({options})",
        kind,
        f"{measure.reference}{also}",
        "",
        measure.description,
        "",
        "Unchanged by transformations of the units:",
        *(f"  {variant:<{width}}  {unchanged}" for variant, unchanged in variants.items()),
        "",
        f"Its interval comes from {method}.",
        f"Of features in half precision (float16, bfloat16) it is {trusted}.",
    ]
    return "\n".join(lines + ([FAULTY] if "†" in measure.elsewhere else []))


def section(name: str) -> str:
    """The page of one measure as a section of a Markdown page; see `explain`."""
    measure = find_any(name)
    call = ", ".join([name, *(f"{key}={value!r}" for key, value in measure.options.items())])
    facts = [f"`{call}`", f"{measure.orientation}, {_range(measure.range)}", measure.reference]
    if isinstance(measure, PredictionMeasure):
        facts += ["needs labels"] if measure.needs_labels else []
        return f"### `{name}`\n\n{' · '.join(facts)}\n\n{measure.description}"
    facts += ["symmetric" if measure.symmetric else "not symmetric"] + ["a metric"] * measure.metric
    rows = [("", "unchanged by"), *((f"`{each}`", words) for each, words in _variants(measure).items())]
    off = measure.half_precision
    trusted = "not to be trusted" if off == math.inf else f"right to {off:g}"
    last = (
        f"Its interval comes from {'jackknife' if measure.leave_one_out else 'subsampling'}. "
        f"Of features in half precision it is {trusted}."
    )
    parts = [f"### `{name}`", " · ".join(facts), measure.description, _markdown(rows), last]
    return "\n\n".join(parts)


def _variants(measure: Measure) -> dict[str, str]:
    """The invariances of the value, as it is and for each setting of options for which they differ."""
    found = {measure.label: _invariances(measure)}
    for example in measure.examples:
        variant = measure.using(**example)
        unchanged = _invariances(variant)
        if unchanged not in found.values():
            found[variant.label] = unchanged
    return found


def _invariances(measure: Measure) -> str:
    x, y = (_words(measure.invariances[argument]) for argument in ("x", "y"))
    return x if x == y else f"x: {x}; y: {y}"


def _words(closure: frozenset[str]) -> str:
    """The words of a closure without those that another implies."""
    implied = {weaker for word in closure for weaker in IMPLIED.get(word, ())}
    return ", ".join(sorted(closure - implied))


def _range(limits: tuple[float, float]) -> str:
    low, high = limits
    if high == math.inf:
        return "any" if low == -math.inf else f"≥ {low:g}"
    top = NAMED.get(high, f"{high:g}")
    return f"≤ {top}" if low == -math.inf else f"[{low:g}, {top}]".replace("-", "−")


def _markdown(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
