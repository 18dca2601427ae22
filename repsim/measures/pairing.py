"""The data that intervals and tests against chance are given, checked."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from repsim.measures.measure import Measure, represent_pair
from repsim.measures.predictions import Labels, PredictionMeasure, prediction_pair
from repsim.measures.representation import Representation
from repsim.support.arrays import Values


def checked_representations(
    measure: Measure, x: Values, y: Values, labels: Labels | None, pool: bool, dtype: torch.dtype
) -> tuple[Representation, Representation]:
    """Both representations, and what makes a value for them doubtful as warnings."""
    if labels is not None:
        raise ValueError(f"labels are for prediction measures; {measure.name} compares representations.")
    pair = represent_pair(x, y, pool=pool, dtype=dtype)
    for caveat in measure.caveats(*pair):
        warnings.warn(caveat, stacklevel=3)
    return pair


def checked_predictions(
    measure: PredictionMeasure, a: Values, b: Values, labels: Labels | None, pool: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both tables of probabilities, and the labels if the measure needs them."""
    if pool or dtype != torch.float64:
        raise ValueError(f"pool and dtype are for representations; {measure.name} compares predictions.")
    return prediction_pair(a, b, labels, measure.name if measure.needs_labels else "", ("x", "y"))
