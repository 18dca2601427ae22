from .attacker_model import to_attacker_model
from .registry import ARCHITECTURES, build_model, is_architecture
from .wrappers import Classifier, bare, batch_statistics, logits_of, warn_of_batch_statistics

__all__ = [
    "ARCHITECTURES",
    "Classifier",
    "bare",
    "batch_statistics",
    "build_model",
    "is_architecture",
    "logits_of",
    "to_attacker_model",
    "warn_of_batch_statistics",
]
