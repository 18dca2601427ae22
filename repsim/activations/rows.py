"""The part of a layer's value that belongs to each image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The place of the images in a value as a network computes it.

    Attributes
    ----------
    axis
        Along which images lie: 0, or another where tokens come first.
    parts
        How many rows along axis 0 each image has (windows that were folded into the batch).
    interleaved
        Whether the first part of every image comes before the second of any.
    """

    axis: int = 0
    parts: int = 1
    interleaved: bool = False

    def of(self, value: Tensor) -> Tensor:
        """A value with one row for each image, (n, …)."""
        if self.interleaved:
            return value.unflatten(0, (self.parts, -1)).transpose(0, 1)
        if self.parts > 1:
            return value.unflatten(0, (-1, self.parts))
        return value.movedim(self.axis, 0) if self.axis else value

    def undo(self, value: Tensor) -> Tensor:
        """Undo it: (n, …) becomes what the network has."""
        if self.interleaved:
            return value.transpose(0, 1).flatten(0, 1)
        if self.parts > 1:
            return value.flatten(0, 1)
        return value.movedim(0, self.axis) if self.axis else value

    def shape_of(self, shape: torch.Size) -> tuple[int, ...]:
        """The shape of the value for one image, from that of a value as the network computes it."""
        return tuple(self.of(torch.empty(shape, device="meta")).shape[1:])

    def axis_of(self, axis: int | None, dimensions: int) -> int | None:
        """The place, in the value for one image, of an axis of a value as the network computes it."""
        if axis is None or axis == self.axis:
            return None
        if self.parts > 1:
            return axis
        order = list(range(dimensions))
        order.insert(0, order.pop(self.axis))
        return order.index(axis) - 1


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two values are the same but for rounding in their own precision."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    eps = torch.finfo(a.dtype).eps
    coarse = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    if a.is_cuda and a.dtype == torch.float32 and coarse:
        eps = 2**-16  # convolutions, or products, round their inputs to 10 bits of mantissa there
    a, b = a.double(), b.double()
    off = (a - b).abs()
    off[a.isnan() & b.isnan() | (a == b)] = 0  # infinite ones, too
    return bool((off <= math.sqrt(eps) * scale_of(a)).all())


def scale_of(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The size of values, to measure differences by: of rows (n, d), in each column.

    A column that is masked with a huge number must not hide differences in others; one of small values is as
    large as the median one, since it is made of sums as large.
    """
    sizes = values.nan_to_num(0, 0, 0).abs()
    if values.dim() != 2 or not values.numel():
        return sizes.max() if sizes.numel() else sizes.sum()
    columns = sizes.amax(0)
    return columns.maximum(columns.median())


def as_rows(value: Float[Tensor, "n ..."], channel_axis: int | None = None) -> Float[Tensor, "n d"]:
    """One row for each image: all of its value, or the mean of each channel over positions.

    Parameters
    ----------
    channel_axis
        Which axis of the value for one image holds the channels; None: nothing is averaged.
    """
    if channel_axis is not None and value.dim() > 2:
        value = value.mean([axis for axis in range(1, value.dim()) if axis != channel_axis + 1])
    return value.flatten(1)
