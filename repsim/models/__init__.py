"""A name → a network with its normalisation inside."""

from repsim.models.registry import ARCHITECTURES, build_model, is_architecture

__all__ = ["ARCHITECTURES", "build_model", "is_architecture"]
