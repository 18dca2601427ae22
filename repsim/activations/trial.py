"""A trial: observations of a network that is run once on a few random images."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from repsim.activations.channels import Axis, ChannelAxes
from repsim.activations.rows import Rows, alike
from repsim.support.devices import seeded

FEW, MORE = 2, 3  # images that a network is tried on: what is as many as they are differs between the two


@dataclass
class Randomness:
    """Whether random numbers were drawn inside a block: torch's, or Python's and NumPy's."""

    torch: bool = False
    python: bool = False


@contextmanager
def watched_randomness(device: torch.device, seed: int = 0) -> Iterator[Randomness]:
    """Draw the same random numbers in every such block, and note who draws; all states are put back."""
    found, before = Randomness(), (random.getstate(), np.random.get_state())  # noqa: NPY002  others' state
    try:
        with seeded(seed, device):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            start = _states(device)
            yield found
            end = _states(device)
        found.torch = not all(torch.equal(a, b) for a, b in zip(start[0], end[0], strict=True))
        found.python = start[1:] != end[1:]
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _states(device: torch.device) -> tuple[list[Tensor], object, tuple]:
    of_torch = [torch.get_rng_state()]
    if device.type == "cuda":
        of_torch.append(torch.cuda.get_rng_state(device))
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return of_torch, random.getstate(), (name, keys.tobytes(), *rest)


def trial_images(count: int, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Random images, the same at every call; fewer of them are the first of more."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, *shape, generator=generator) for _ in range(count)]
    return torch.cat(images).to(device, dtype)


@dataclass
class Seen:
    """Notes of a trial on one value."""

    shape: torch.Size
    dtype: torch.dtype
    axis: Axis | None
    value: Tensor | None  # where it may hold several rows of each image


@dataclass
class Trial:
    """One run: the output, what was seen of values by name, and whether random numbers were drawn."""

    output: object = None
    seen: dict[str, Seen] = field(default_factory=dict)
    drew: Randomness = field(default_factory=Randomness)


def mark_of(value: Tensor) -> Tensor:
    """A mark that tells a value from another, but for rounding: its sum and its length."""
    own = value.detach()
    own = own.abs() if own.is_complex() else own
    own = own if own.is_floating_point() else own.double()
    return torch.stack([own.sum(), own.norm()])[:, None]


def depends_on_randomness(run: Callable[[Tensor], object], images: Tensor) -> bool:
    """Whether a network puts out something else for the same images when other random numbers are drawn."""
    outputs = []
    for seed in (0, 1):
        with torch.no_grad(), watched_randomness(images.device, seed):
            outputs.append(tensors_in(run(images.clone())))
    return not all(alike(a, b) for a, b in zip(*outputs, strict=True))


def tensors_in(output: object) -> list[Tensor]:
    """All tensors in what a network puts out."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def try_out(
    walk: Callable[[Tensor, Callable, ChannelAxes | None], object], images: Tensor, *, follow: bool
) -> Trial:
    """Run a network by `walk` on images, and note what it computes.

    Parameters
    ----------
    follow
        Follow the channels, too, where the network's operations can be watched.
    """
    modes = [ChannelAxes(), None] if follow else [None]
    for mode in modes:
        trial = Trial()

        def note(name: str, value: object, trial: Trial = trial, mode: ChannelAxes | None = mode) -> None:
            if isinstance(value, Tensor):
                several = value.dim() and len(value) > len(images) and len(value) % len(images) == 0
                kept = value.detach().clone() if several else None
                trial.seen[name] = Seen(value.shape, value.dtype, mode and mode.of(value), kept)

        try:
            with watched_randomness(images.device) as drew, mode or nullcontext():
                trial.output = walk(images.clone(), note, mode)
            trial.drew = drew
            return trial
        except Exception:
            if mode is None:
                raise
    raise AssertionError("there is always a run without a mode")


def rows_of(few: Seen, more: Seen) -> Rows | None:
    """The place of the images, from the values of 2 images and of 3 that begin with them; None: nowhere."""
    if len(few.shape) != len(more.shape) or len(few.shape) < 2:
        return None
    differing = [i for i, (a, b) in enumerate(zip(few.shape, more.shape, strict=True)) if a != b]
    if len(differing) != 1:
        return None
    (axis,) = differing
    if (few.shape[axis], more.shape[axis]) == (FEW, MORE):
        return Rows(axis)
    if few.value is None or more.value is None or axis:
        return None
    parts = len(few.value) // FEW
    for rows in (Rows(parts=parts), Rows(parts=parts, interleaved=True)):
        if len(more.value) == MORE * parts and alike(rows.of(few.value), rows.of(more.value)[:FEW]):
            return rows
    return None
