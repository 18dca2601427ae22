"""Many models and many measures: which images, what models make of them, and tables of what was found."""

from repsim.comparison.comparing import comparable, compare_models, stir
from repsim.comparison.groups import compare_groups
from repsim.comparison.tables import (
    both_orders,
    concise,
    mean_similarity,
    side_by_side,
    similarity_matrix,
    with_references,
)

__all__ = [
    "both_orders",
    "comparable",
    "compare_groups",
    "compare_models",
    "concise",
    "mean_similarity",
    "side_by_side",
    "similarity_matrix",
    "stir",
    "with_references",
]
