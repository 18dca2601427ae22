"""Similarity measures: pure functions of two representations, or of two tables of predictions."""

from repsim.measures.comparing import compare, compare_many
from repsim.measures.measure import Measure
from repsim.measures.predictions import (
    PREDICTION_MEASURES,
    PredictionMeasure,
    agreement_bounds,
    agreement_reference,
    ambiguity,
    discrepancy,
    error_overlap,
)
from repsim.measures.registry import MEASURES, find_measure
from repsim.measures.uncertainty import interval, permutation_test

__all__ = [
    "MEASURES",
    "PREDICTION_MEASURES",
    "Measure",
    "PredictionMeasure",
    "agreement_bounds",
    "agreement_reference",
    "ambiguity",
    "compare",
    "compare_many",
    "discrepancy",
    "error_overlap",
    "find_measure",
    "interval",
    "permutation_test",
]
