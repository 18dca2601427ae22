"""A name → a network with its normalisation inside."""

from repsim.models.attacker_model import to_attacker_model, unwrapped
from repsim.models.registry import ARCHITECTURES, build_model, is_architecture

__all__ = ["ARCHITECTURES", "build_model", "is_architecture", "to_attacker_model", "unwrapped"]
