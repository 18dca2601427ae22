"""Layouts: fitting the value of one layer to the place of another, by maps, tokens, vectors and bridges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

KINDS = {1: "vector", 2: "tokens", 3: "map"}  # by the dimensions of a layer's value for one image
WINDOWS = "windows"  # of more dimensions
USUAL_AXIS = {1: 0, 2: 1, 3: 0}  # of channels, by the dimensions


@dataclass(frozen=True)
class Layout:
    """The way of a front layer's value to the layout of an end layer, channels still its own.

    * map (channels, height, width) → map: as it is, or resized;
    * tokens (tokens, width) → tokens: as they are;
    * map → tokens: positions become tokens, row by row; a class token, where the end has one more token than
      positions, is the mean over positions;
    * tokens → map: the other way round; a class token is left out;
    * vector → vector, windows (of more dimensions) → windows: as they are;
    * flattened: anything to anything, each value a channel of its own.

    Attributes
    ----------
    front, end
        The shapes of the layers' values for one image.
    flatten
        Whether both are flattened.
    resize
        Whether maps of another size are resized (bilinear, with antialiasing) rather than refused.
    front_axis, end_axis
        Which axis of the shapes holds the channels: the first of maps and the last of all else, unless given
        (maps of some networks are (height, width, channels)).

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    """

    front: Sequence[int]
    end: Sequence[int]
    flatten: bool = False
    resize: bool = False
    front_axis: int | None = None
    end_axis: int | None = None

    def __post_init__(self):
        for side in ("front", "end"):
            shape = tuple(getattr(self, side))
            object.__setattr__(self, side, shape)
            if not shape:
                raise ValueError(
                    f"the {side} layer has one number for each image; a stitch takes (channels,), (tokens, "
                    "width), (channels, height, width), or more."
                )
            axis = getattr(self, f"{side}_axis")
            axis = USUAL_AXIS.get(len(shape), len(shape) - 1) if axis is None else axis
            object.__setattr__(self, f"{side}_axis", axis)
        if self.flatten:
            return
        kinds = self.kinds
        if kinds[0] != kinds[1] and {"vector", WINDOWS} & set(kinds):
            raise ValueError(
                f"a {kinds[0]} {self.front} cannot be stitched to a {kinds[1]} {self.end} channel "
                "by channel: flatten=True maps every value to every value."
            )
        front, end = self.positions
        if kinds[0] == kinds[1] == "tokens" and front != end:
            raise ValueError(
                f"{front[0]} tokens cannot be stitched to {end[0]} tokens one by one: flatten=True "
                "maps every value to every value."
            )
        if kinds[0] == kinds[1] == WINDOWS and front != end:
            raise ValueError(
                f"windows of {front} and {end} positions do not match: flatten=True maps every value to "
                "every value."
            )
        if "map" in kinds and self.grids[0] != self.grids[1] and not self.resize:
            sizes = [" × ".join(map(str, grid)) for grid in self.grids]
            raise ValueError(
                f"maps of {sizes[0]} and {sizes[1]} positions do not match: "
                "resize=True resizes the front's, flatten=True maps every value to every value."
            )

    @property
    def kinds(self) -> tuple[str, str]:
        return KINDS.get(len(self.front), WINDOWS), KINDS.get(len(self.end), WINDOWS)

    @property
    def positions(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of both layers without their channels."""
        return (
            (*self.front[: self.front_axis], *self.front[self.front_axis + 1 :]),
            (*self.end[: self.end_axis], *self.end[self.end_axis + 1 :]),
        )

    @property
    def description(self) -> str:
        """The name of such a stitching layer among users of the field."""
        names = {"map": "1×1 convolution", "vector": "linear"}
        name = "flattened linear" if self.flatten else names.get(self.kinds[1], "per-token linear")
        bridge = "" if self.flatten or len(set(self.kinds)) == 1 else f" ({self.kinds[0]} → {self.kinds[1]})"
        return name + bridge

    @property
    def channels(self) -> tuple[int, int]:
        """The numbers of channels that the map takes and gives."""
        if self.flatten:
            return math.prod(self.front), math.prod(self.end)
        return self.front[self.front_axis], self.end[self.end_axis]

    @property
    def is_map(self) -> bool:
        """Whether the result is a map with its channels first, as convolutions take them."""
        return not self.flatten and len(self.end) == 3 and self.end_axis == 0

    @property
    def grids(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Heights and widths of two maps, or of a map and of tokens that are to become or come from one."""
        front, end = self.positions
        if self.kinds == ("tokens", "map"):
            return _grid_of(front[0], end), end
        return front, _grid_of(end[0], front) if self.kinds == ("map", "tokens") else end

    def arrange(self, value: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The front's value in the end's layout, with the front's channels."""
        if self.flatten:
            return value.flatten(1)
        value = value.movedim(self.front_axis + 1, -1)
        if "map" in self.kinds:
            own, wanted = self.grids
            if self.kinds[0] == "tokens":
                value = value[:, -own[0] * own[1] :].unflatten(1, own)
            if own != wanted:
                value = F.interpolate(value.movedim(-1, 1), wanted, mode="bilinear", antialias=True)
                value = value.movedim(1, -1)
            if self.kinds[1] == "tokens":
                value = value.flatten(1, 2)
                if value.shape[1] < self.positions[1][0]:
                    value = torch.cat([value.mean(1, keepdim=True), value], dim=1)
        return value.movedim(-1, self.end_axis + 1)

    def rows(self, value: Float[Tensor, "n ..."]) -> Float[Tensor, "rows channels"]:
        """A value in the end's layout as one row of channels for each image and position."""
        if self.flatten:
            return value.flatten(1)
        return value.movedim(self.end_axis + 1, -1).flatten(0, -2)


def _grid_of(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width of so many tokens, with or without a class token: of the other's grid, or square."""
    for count in (tokens, tokens - 1):
        if count == grid[0] * grid[1]:
            return grid
    for count in (tokens, tokens - 1):
        side = math.isqrt(count)
        if side and side * side == count:
            return side, side
    raise ValueError(
        f"{tokens} tokens are no grid of positions, with or without a class token, and cannot be "
        f"stitched to a map of {grid[0]} × {grid[1]}: flatten=True maps every value to every value."
    )
