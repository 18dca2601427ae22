"""How the value of one layer fits the place of another: maps, tokens, vectors, and bridges between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

KINDS = {1: "vector", 2: "tokens", 3: "map"}  # by the dimensions of a layer's value for one image


@dataclass(frozen=True)
class Layout:
    """How the value of a front layer is brought into the layout of an end layer, channels still its own.

    * map (channels, height, width) → map: as it is, or resized;
    * tokens (tokens, width) → tokens: as they are;
    * map → tokens: positions become tokens, row by row; a class token, where the end has one more token than
      positions, is the mean over positions;
    * tokens → map: the other way round; a class token is left out;
    * vector → vector: as it is;
    * flattened: anything to anything, each value a channel of its own.

    Attributes
    ----------
    front, end
        The shapes of the layers' values for one image.
    flatten
        Whether both are flattened.
    resize
        Whether maps of another size are resized (bilinear, with antialiasing) rather than refused.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    """

    front: Sequence[int]
    end: Sequence[int]
    flatten: bool = False
    resize: bool = False

    def __post_init__(self):
        for side in ("front", "end"):
            object.__setattr__(self, side, tuple(getattr(self, side)))
        for side, shape in (("front", self.front), ("end", self.end)):
            if len(shape) not in KINDS:
                raise ValueError(
                    f"the {side} layer's value for one image has shape {shape}; a stitch takes (channels,), "
                    "(tokens, width) or (channels, height, width)."
                )
        if not self.flatten and "vector" in self.kinds and len(set(self.kinds)) > 1:
            raise ValueError(
                f"a {self.kinds[0]} {self.front} cannot be stitched to a {self.kinds[1]} {self.end} channel "
                "by channel: flatten=True maps every value to every value."
            )
        if not self.flatten and self.kinds == ("tokens", "tokens") and self.front[0] != self.end[0]:
            raise ValueError(
                f"{self.front[0]} tokens cannot be stitched to {self.end[0]} tokens one by one: flatten=True "
                "maps every value to every value."
            )
        if not self.flatten and self.grid(self.front) != self.grid(self.end) and not self.resize:
            raise ValueError(
                f"maps of {self._size(self.front)} and {self._size(self.end)} positions do not match: "
                "resize=True resizes the front's, flatten=True maps every value to every value."
            )

    @property
    def kinds(self) -> tuple[str, str]:
        return KINDS[len(self.front)], KINDS[len(self.end)]

    @property
    def description(self) -> str:
        """What users of the field call such a stitching layer."""
        names = {"map": "1×1 convolution", "tokens": "per-token linear", "vector": "linear"}
        name = "flattened linear" if self.flatten else names[self.kinds[1]]
        bridge = "" if self.flatten or len(set(self.kinds)) == 1 else f" ({self.kinds[0]} → {self.kinds[1]})"
        return name + bridge

    @property
    def channels(self) -> tuple[int, int]:
        """How many channels the map takes and gives."""
        if self.flatten:
            return math.prod(self.front), math.prod(self.end)
        return self.front[_channel_axis(self.front)], self.end[_channel_axis(self.end)]

    @property
    def is_map(self) -> bool:
        """Whether the result has its channels first, as maps do."""
        return not self.flatten and len(self.end) == 3

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Height and width of a map, and of tokens that are to become or come from a map."""
        if len(shape) == 3:
            return shape[1:]
        if len(shape) == 1 or self.kinds == ("tokens", "tokens"):
            return None
        other = self.end if shape is self.front else self.front
        for tokens in (shape[0], shape[0] - 1):  # without and with a class token
            if tokens == other[1] * other[2]:
                return other[1:]
        for tokens in (shape[0], shape[0] - 1):
            side = math.isqrt(tokens)
            if side and side * side == tokens:
                return side, side
        raise ValueError(
            f"{shape[0]} tokens are no grid of positions, with or without a class token, and cannot be "
            f"stitched to a map of {self._size(other)}: flatten=True maps every value to every value."
        )

    def _size(self, shape: tuple[int, ...]) -> str:
        return " × ".join(map(str, self.grid(shape) or ()))

    def arrange(self, value: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The front's value in the end's layout, with the front's channels."""
        if self.flatten:
            return value.flatten(1)
        if self.kinds == ("tokens", "map"):
            height, width = self.grid(self.front)
            value = value[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
        if value.dim() == 4 and value.shape[2:] != (size := self.grid(self.end)):
            value = F.interpolate(value, size, mode="bilinear", antialias=True)
        if self.kinds == ("map", "tokens"):
            value = value.flatten(2).transpose(1, 2)
            if value.shape[1] < self.end[0]:
                value = torch.cat([value.mean(1, keepdim=True), value], dim=1)
        return value

    def rows(self, value: Float[Tensor, "n ..."]) -> Float[Tensor, "rows channels"]:
        """A value in the end's layout as one row of channels for each image and position."""
        if self.flatten:
            return value.flatten(1)
        return value.movedim(1, -1).flatten(0, -2) if self.is_map else value.flatten(0, -2)


def _channel_axis(shape: tuple[int, ...]) -> int:
    return 0 if len(shape) == 3 else -1
