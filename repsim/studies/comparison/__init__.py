"""Many models and many measures: which images, what models make of them, and tables of what was found."""

from repsim.studies.comparison.comparing import (
    LABELS,
    comparable,
    compare_models,
    finished,
    pairs_within,
    stir,
)
from repsim.studies.comparison.groups import compare_groups
from repsim.studies.comparison.study import SubgroupStudy, UniversalityStudy
from repsim.studies.comparison.tables import (
    both_orders,
    concise,
    mean_similarity,
    side_by_side,
    similarity_matrix,
    with_references,
)
from repsim.studies.comparison.values import OUTPUT, Activations, Query, Value

__all__ = [
    "LABELS",
    "OUTPUT",
    "Activations",
    "Query",
    "SubgroupStudy",
    "UniversalityStudy",
    "Value",
    "both_orders",
    "comparable",
    "compare_groups",
    "compare_models",
    "concise",
    "finished",
    "mean_similarity",
    "pairs_within",
    "side_by_side",
    "similarity_matrix",
    "stir",
    "with_references",
]
