"""Linear probes: what a linear classifier can read from a frozen representation."""

from repsim.studies.probing.claims import probe_claims
from repsim.studies.probing.experiments import (
    OWN,
    Answers,
    accuracy_drop,
    classify,
    overfitting,
    probe_accuracy,
)
from repsim.studies.probing.fitting import Probe, fit_probe
from repsim.studies.probing.options import ProbeOptions
from repsim.studies.probing.store import ProbeRecipe, StoredProbe, obtain_probes
from repsim.studies.probing.study import ProbingStudy

__all__ = [
    "OWN",
    "Answers",
    "Probe",
    "ProbeOptions",
    "ProbeRecipe",
    "ProbingStudy",
    "StoredProbe",
    "accuracy_drop",
    "classify",
    "fit_probe",
    "obtain_probes",
    "overfitting",
    "probe_accuracy",
    "probe_claims",
]
