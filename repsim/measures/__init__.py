"""Similarity measures: pure functions of two representations, or of two tables of predictions."""

from repsim.measures.comparing import compare, compare_many
from repsim.measures.intervals import interval
from repsim.measures.measure import Measure
from repsim.measures.permutation_tests import permutation_test
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
