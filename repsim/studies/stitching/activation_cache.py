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
                continue
            # channels stay side by side where the network puts them so
            axes = sorted(range(len(shape)), key=sample[i].stride, reverse=True)
            axes = [0, *(axis for axis in axes if axis)]
            size, dtype = math.prod(shape), sample[i].dtype
            if in_memory:
                flat = torch.empty(size, dtype=dtype, device=images.device)
            else:
                flat = torch.from_file(str(Path(folder) / str(i)), shared=True, size=size, dtype=dtype)
            places = [axes.index(axis) for axis in range(len(shape))]
            kept.append(flat.view([shape[axis] for axis in axes]).permute(places))
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
