"""The activations of a frozen network for fixed images, computed once and kept: in memory, or on disk."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.studies.stitching.network import BATCH, StitchedNetwork
from repsim.support import paths


@dataclass(frozen=True)
class Budget:
    """The bytes of activations that may be kept: up to `memory` there, then up to `disk` in a file."""

    memory: int = 2 * 2**30
    disk: int = 32 * 2**30


@contextmanager
def cached_activations(
    stitched: StitchedNetwork, images: Float[Tensor, "n c h w"], budget: Budget
) -> Iterator[list[Tensor] | None]:
    """The values of `stitched.before` for all images, while the block lasts; None if the budget is too small.

    Tensors are (n, …), on the device of `images` in memory, and on the CPU from a file, which is removed with
    the block.
    """
    first = images[:1]
    with torch.no_grad():
        sample = stitched.before(first)
    own = [i for i, value in enumerate(sample) if value is first]  # the images themselves need no copy
    shapes = [(len(images), *value.shape[1:]) for value in sample]
    sizes = [0 if i in own else math.prod(shape) * sample[i].element_size() for i, shape in enumerate(shapes)]
    if sum(sizes) > max(budget.memory, budget.disk):
        yield None
        return
    in_memory = sum(sizes) <= budget.memory
    with nullcontext() if in_memory else _temporary_folder() as folder:
        kept = []
        for i, shape in enumerate(shapes):
            if i in own:
                kept.append(images)
            elif in_memory:
                kept.append(torch.empty(shape, dtype=sample[i].dtype, device=images.device))
            else:
                file = str(Path(folder) / str(i))
                flat = torch.from_file(file, shared=True, size=math.prod(shape), dtype=sample[i].dtype)
                kept.append(flat.view(shape))
        for start in range(0, len(images), BATCH):
            with torch.no_grad():
                values = stitched.before(images[start : start + BATCH])
            for i, value in enumerate(values):
                if i not in own:
                    kept[i][start : start + BATCH] = value
        yield kept


def _temporary_folder() -> tempfile.TemporaryDirectory:
    cache = paths.data() / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=cache, prefix="activations-")
