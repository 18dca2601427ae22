"""A file that has to be unpickled → the same network as tensors only, once."""

from __future__ import annotations

import json
from pathlib import Path

from repsim.models.checkpoints.checkpoint import Checkpoint, read_checkpoint
from repsim.models.checkpoints.contents import KIND
from repsim.support import artifacts


def convert(
    source: str | Path,
    target: Path,
    *,
    architecture: str = "",
    weights: str = "",
    trust_pickle: bool = False,
) -> Checkpoint:
    """Read a checkpoint, and write its network and what is known of it as one safetensors file.

    Parameters
    ----------
    architecture, weights
        As `read_checkpoint` takes them.
    trust_pickle
        Run the code in the file, if there is any, to load it.

    Raises
    ------
    ValueError
        As `read_checkpoint`; or the target is not a `.safetensors` file.
    """
    if target.suffix != ".safetensors":
        raise ValueError(
            f"what is written is a safetensors file: name it {target.stem}.safetensors, not {target.name}."
        )
    read = read_checkpoint(source, architecture=architecture, weights=weights, trust_pickle=trust_pickle)
    kept = ("architecture", "image_shape", "epsilon", "norm", "accuracy", "epoch", "notes")
    kept += ("alternatives", "settled_by")
    facts = {name: getattr(read, name) for name in kept}
    facts |= {"converted_from": read.format, "converted_sha256": read.checksum}
    artifacts.write_tensors(target, read.weights, {"format": KIND, "checkpoint": json.dumps(facts)})
    return read
