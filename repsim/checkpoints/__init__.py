"""Networks that others trained: a file or a name → weights that `build_model`'s networks take."""

from repsim.checkpoints.checkpoint import Checkpoint, read_checkpoint
from repsim.checkpoints.converting import convert
from repsim.models.attacker_model import to_attacker_model

__all__ = ["Checkpoint", "convert", "read_checkpoint", "to_attacker_model"]
