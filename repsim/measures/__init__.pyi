from .comparing import compare, compare_many
from .intervals import interval
from .measure import Measure
from .permutation_tests import permutation_test
from .predictions import (
    PREDICTION_MEASURES,
    PredictionMeasure,
    agreement_bounds,
    agreement_reference,
    ambiguity,
    discrepancy,
    error_overlap,
)
from .registry import MEASURES, find_measure

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
