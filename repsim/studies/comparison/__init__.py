"""Many models and many measures: which images, what models make of them, and tables of what was found."""

from repsim.studies.comparison.claims import (
    ground_truth_claims,
    inversion_claims,
    subgroup_claims,
    universality_claims,
)
from repsim.studies.comparison.comparing import (
    LABELS,
    comparable,
    compare_models,
    finished,
    pair_intervals,
    pairs_within,
    stir,
)
from repsim.studies.comparison.differences import dataset_differences, group_differences
from repsim.studies.comparison.faults import agreement_with_faults, faults_side_by_side
from repsim.studies.comparison.groups import compare_groups
from repsim.studies.comparison.study import SubgroupStudy, UniversalityStudy, similarity
from repsim.studies.comparison.tables import (
    both_orders,
    by_measure,
    concise,
    mean_similarity,
    model_matrix,
    over_epsilon,
    several,
    side_by_side,
    similarity_by_epsilon,
    similarity_matrix,
    with_references,
)
from repsim.studies.comparison.universality import Universality, agreement_with_references, compare_datasets
from repsim.studies.comparison.values import OUTPUT, Activations, Query, Value

__all__ = [
    "LABELS",
    "OUTPUT",
    "Activations",
    "Query",
    "SubgroupStudy",
    "Universality",
    "UniversalityStudy",
    "Value",
    "agreement_with_faults",
    "agreement_with_references",
    "both_orders",
    "by_measure",
    "comparable",
    "compare_datasets",
    "compare_groups",
    "compare_models",
    "concise",
    "dataset_differences",
    "faults_side_by_side",
    "finished",
    "ground_truth_claims",
    "group_differences",
    "inversion_claims",
    "mean_similarity",
    "model_matrix",
    "over_epsilon",
    "pair_intervals",
    "pairs_within",
    "several",
    "side_by_side",
    "similarity",
    "similarity_by_epsilon",
    "similarity_matrix",
    "stir",
    "subgroup_claims",
    "universality_claims",
    "with_references",
]
