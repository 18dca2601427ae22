"""Accuracy under attack, and how adversarial images transfer (notebook 00)."""

from repsim.studies.models.claims import model_claims
from repsim.studies.models.evaluation import (
    accuracy_table,
    adversarial_examples,
    attack_examples,
    curve_table,
    transfer_table,
)
from repsim.studies.models.study import ModelStudy

__all__ = [
    "ModelStudy",
    "accuracy_table",
    "adversarial_examples",
    "attack_examples",
    "curve_table",
    "model_claims",
    "transfer_table",
]
