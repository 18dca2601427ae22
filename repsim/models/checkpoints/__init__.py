"""Networks that others trained: a file or a name → weights that `build_model`'s networks take."""

from repsim.models.attacker_model import to_attacker_model
from repsim.models.checkpoints.checkpoint import Checkpoint, read_checkpoint
from repsim.models.checkpoints.converting import convert

__all__ = ["Checkpoint", "convert", "read_checkpoint", "to_attacker_model"]
