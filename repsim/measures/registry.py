"""Every measure by its name."""

from __future__ import annotations

import ast

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
from repsim.messages import unknown

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
    if isinstance(text, Measure):
        return text
    name, parenthesis, rest = text.partition("(")
    if name.strip() not in MEASURES:
        raise ValueError(unknown("measure", name.strip(), MEASURES))
    found = MEASURES[name.strip()]
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


def find_any(text: str | Measure | PredictionMeasure) -> Measure | PredictionMeasure:
    """As `find_measure`, of prediction measures too."""
    if isinstance(text, PredictionMeasure):
        return text
    if isinstance(text, str) and text in PREDICTION_MEASURES:
        return PREDICTION_MEASURES[text]
    return find_measure(text)
