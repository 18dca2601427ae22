"""Training or test images in memory, and the choice of some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from repsim.support.labels import Labels

Rows = Int[Tensor, " m"]


class Choosable:
    """Splits, in memory or read as they are needed, of which rows can be chosen."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, size: int | None) -> Choosable:
        """`size` images, as many of each class as of every other, the same ones every time."""
        if size is None or size >= len(self):
            return self
        return self.part(torch.from_numpy(stratified(self.labels.cpu().numpy(), size)))


@dataclass(frozen=True)
class Split(Choosable):
    """Images in [0, 1], and the index of each one's class or a 0 or 1 for each of its attributes."""

    images: Float[Tensor, "n c h w"]
    labels: Labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return tuple(self.images.shape[1:])

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that the images take."""
        return self.images.nbytes

    def part(self, rows: Rows) -> Split:
        """Some of the images, in this order."""
        return Split(self.images[rows], self.labels[rows])

    def to(self, device: torch.device) -> Split:
        """The same on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, rows: Rows) -> Float[Tensor, "m c h w"]:
        """Some of the images, in this order, on the device of the split."""
        return self.images[rows.to(self.images.device)]

    def in_batches(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`take` of one batch after the other."""
        return map(self.take, batches)


def stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Indices of `size` items, in order, chosen alike at every call.

    There are as many of each class as of every other, to within one, until the items of a class run out; a
    smaller choice is part of every larger one. Of items with attributes, any.
    """
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    if labels.ndim == 2:
        return np.sort(shuffled[:size])
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    # every class gives its first member, then every class its second, and so on
    return np.sort(np.lexsort((labels, rank))[:size])


def to_bytes(images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Pixels in [0, 1] as bytes, each rounded to the nearest level."""
    return (images * 255).round().to(torch.uint8)


def from_bytes(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Bytes as pixels in [0, 1]."""
    return images.float() / 255
