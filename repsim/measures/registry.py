"""Every measure by its name."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TypeVar

from repsim.measures import (
    cca,
    kernels,
    matching,
    neighbors,
    procrustes,
    rdm,
    regression,
    statistics,
    topology,
)
from repsim.measures.measure import Measure
from repsim.measures.predictions import PREDICTION_MEASURES, PredictionMeasure
from repsim.support.messages import unknown

Found = TypeVar("Found", Measure, PredictionMeasure, Measure | PredictionMeasure)

FAMILIES = {
    "kernels": kernels,
    "cca": cca,
    "procrustes": procrustes,
    "matching": matching,
    "regression": regression,
    "rdm": rdm,
    "neighbors": neighbors,
    "topology": topology,
    "statistics": statistics,
}
MEASURES: dict[str, Measure] = {
    found.name: found
    for module in FAMILIES.values()
    for found in vars(module).values()
    if isinstance(found, Measure)
}


def find_measure(text: str | Measure) -> Measure:
    """A measure by its name, with options if need be: `cka`, `jaccard(k=20, metric="euclidean")`.

    Raises
    ------
    ValueError
        No such measure, no such option, or options that are not written as `name=value`.
    """
    return text if isinstance(text, Measure) else _find(text, MEASURES)


def find_any(text: str | Measure | PredictionMeasure) -> Measure | PredictionMeasure:
    """The measure as `find_measure` finds it, of prediction measures too."""
    if isinstance(text, Measure | PredictionMeasure):
        return text
    return _find(text, {**MEASURES, **PREDICTION_MEASURES})


def _find(text: object, known: Mapping[str, Found]) -> Found:
    if not isinstance(text, str):
        raise ValueError(f"a measure is asked for by its name, such as 'cka', not by {text!r}.")
    name, parenthesis, rest = text.partition("(")
    if name.strip() not in known:
        raise ValueError(unknown("measure", name.strip(), known))
    found = known[name.strip()]
    if not parenthesis:
        return found
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        names = [keyword.arg for keyword in call.keywords]
        if call.args or None in names or len(set(names)) < len(names) or not isinstance(call.func, ast.Name):
            raise ValueError("not name=value, each once")
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(
            f"options of a measure are written as in jaccard(k=20, metric='euclidean'), not {text!r}."
        ) from error
    return found.using(**options)
