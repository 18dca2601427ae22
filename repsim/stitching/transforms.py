"""The map between two networks: an affine map of channels, put between layers of any shapes that fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from repsim import messages
from repsim.stitching.moments import Moments

Initial = Literal["random", "identity", "permutation", "pseudo_inverse", "ones", "zeros"]
Mask = Literal["identity", "semi_match", "absolute_semi_match", "random_permutation"]
INITIALS = ("random", "identity", "permutation", "pseudo_inverse", "ones", "zeros")
MASKS = ("identity", "semi_match", "absolute_semi_match", "random_permutation")
SQUARE = {"initial": ("identity", "permutation"), "mask": ("random_permutation",)}
MATCHED = {"initial": ("pseudo_inverse",), "mask": ("semi_match", "absolute_semi_match")}
SMALLEST = 1e-6  # singular values below so much of the largest are float32's rounding
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


class Transform(nn.Module):
    """An affine map of channels, the same at every position: the stitching layer.

    For maps it is a 1 × 1 convolution with bias, for tokens a linear layer on each, for flattened values one
    linear layer.

    Attributes
    ----------
    full, or up and down
        The weight, (channels of the end, channels of the front), or its two factors where it has low rank.
    bias
        One number for each channel of the end.
    mask
        Which weights are in use.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        rank: int = 0,
        initial: Initial = "random",
        mask: Mask = "identity",
        moments: Moments | None = None,
        seed: int = 0,
    ):
        """Make a transform.

        Parameters
        ----------
        layout
            Between which shapes.
        rank
            Of the weight; 0 for any.
        initial
            `random` (as torch's own layers begin), `identity`, `permutation` (random), `pseudo_inverse`
            (the least-squares match of the layers), `ones` or `zeros` (weights; the bias is 0).
        mask
            Which weights are used and trained: `identity`, all of them (the name is Balogh & Jelasity's);
            `semi_match`, for each channel of the end the front's that correlates most with it;
            `absolute_semi_match`, most in absolute value (Li et al., 2015); `random_permutation`.
        moments
            Of the two layers' values, which `pseudo_inverse` and the matches need.
        seed
            Of what is random.

        Raises
        ------
        ValueError
            A name is unknown, or what is asked for does not go together; the message says what does.
        """
        super().__init__()
        self.layout = layout
        taken, given = layout.channels
        _check(rank, initial, mask, taken, given, moments)
        generator = torch.Generator().manual_seed(seed)
        weight, bias = _initial_weight(initial, taken, given, rank, moments, generator)
        if rank:
            # shared between the factors, so that both learn at the same rate
            u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
            root = s[:rank].sqrt()
            down = (root[:, None] * v[:rank]).float()
            # Where the weight has a lower rank, factors that are both zero would never learn.
            absent = s[:rank] <= SMALLEST * s[0]
            random, _ = _initial_weight("random", taken, rank, 0, None, generator)
            self.up = nn.Parameter((u[:, :rank] * torch.where(absent, 0.0, root)).float())
            self.down = nn.Parameter(torch.where(absent[:, None], random, down))
        else:
            self.full = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        chosen = _mask(mask, taken, given, moments, generator)
        self.register_buffer("mask", chosen)

    @classmethod
    def restored(cls, layout: Layout, state: Mapping[str, Tensor]) -> Transform:
        """A transform from its `state_dict`, whatever its rank and mask."""
        transform = cls(layout)
        if "up" in state:
            del transform.full
            transform.up = nn.Parameter(torch.empty_like(state["up"]))
            transform.down = nn.Parameter(torch.empty_like(state["down"]))
        if "mask" in state:
            transform.mask = torch.empty_like(state["mask"])
        transform.load_state_dict(state)
        return transform

    @property
    def weight(self) -> Float[Tensor, "given taken"]:
        """The matrix that is applied."""
        weight = self.up @ self.down if hasattr(self, "up") else self.full
        return weight if self.mask is None else weight * self.mask

    def forward(self, value: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        x = self.layout.arrange(value)
        if self.layout.is_map:
            return F.conv2d(x, self.weight[:, :, None, None], self.bias)
        y = F.linear(x, self.weight, self.bias)
        return y.unflatten(1, self.layout.end) if self.layout.flatten else y

    @torch.no_grad()
    def set(self, weight: Float[Tensor, "given taken"], bias: Float[Tensor, " given"]) -> Transform:
        """Take over a weight and a bias found by other means, unless the rank is low; returns itself."""
        self.full.copy_(weight)
        self.bias.copy_(bias)
        return self

    def singular_values(self) -> Float[Tensor, " values"]:
        """Of the weight, largest first."""
        return torch.linalg.svdvals(self.weight.detach().double())

    @torch.no_grad()
    def truncated(self, rank: int) -> Transform:
        """A copy whose weight is the nearest of a rank; this one stays as it is.

        Raises
        ------
        ValueError
            The rank is not between 1 and the number of channels.
        """
        check_rank(rank, *self.layout.channels)
        u, s, v = torch.linalg.svd(self.weight.double(), full_matrices=False)
        copy = Transform(self.layout, initial="zeros").to(self.bias)
        return copy.set((u[:, :rank] * s[:rank]) @ v[:rank], self.bias)


def _check(rank: int, initial: str, mask: str, taken: int, given: int, moments: Moments | None) -> None:
    if initial not in INITIALS:
        raise ValueError(messages.unknown("initialisation", initial, INITIALS))
    if mask not in MASKS:
        raise ValueError(messages.unknown("mask", mask, MASKS))
    if rank:
        check_rank(rank, taken, given)
        if mask != "identity":
            raise ValueError(f"mask={mask!r} would change the rank: give a mask or a rank, not both.")
        if initial == "zeros" or (initial == "ones" and rank > 1):
            own = {"zeros": 0, "ones": 1}[initial]
            raise ValueError(
                f"initial={initial!r} has rank {own}, and no gradient leads from there to rank {rank}: take "
                "another initialisation."
            )
    for option, value in (("initial", initial), ("mask", mask)):
        if value in SQUARE[option] and taken != given:
            raise ValueError(
                f"{option}={value!r} needs as many channels in the front layer as in the end layer, not "
                f"{taken} and {given}."
            )
        if value in MATCHED[option] and moments is None:
            raise ValueError(f"{option}={value!r} is made from the layers' values: give images.")


def check_rank(rank: int, taken: int, given: int) -> None:
    """Refuse a rank that a weight (given, taken) cannot have."""
    if not 1 <= rank <= min(taken, given):
        raise ValueError(
            f"rank must be between 1 and {min(taken, given)}, as the transform takes {taken} channels and "
            f"gives {given}; it is {rank}."
        )


def _initial_weight(
    initial: str, taken: int, given: int, rank: int, moments: Moments | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    bias = torch.zeros(given)
    if initial == "identity":
        return torch.eye(given), bias
    if initial == "permutation":
        return torch.eye(given)[torch.randperm(given, generator=generator)], bias
    if initial == "ones":
        return torch.ones(given, taken), bias
    if initial == "zeros":
        return torch.zeros(given, taken), bias
    if initial == "pseudo_inverse":
        weight, bias = moments.solve("pseudo_inverse", rank=rank)
        return weight.float().cpu(), bias.float().cpu()
    bound = 1 / math.sqrt(taken)  # as torch's own linear layers and convolutions begin
    weight = torch.rand(given, taken, generator=generator) * 2 - 1
    bias = torch.rand(given, generator=generator) * 2 - 1
    return bound * weight, bound * bias


def _mask(
    mask: str, taken: int, given: int, moments: Moments | None, generator: torch.Generator
) -> Tensor | None:
    if mask == "identity":
        return None
    if mask == "random_permutation":
        return torch.eye(given)[torch.randperm(given, generator=generator)]
    correlation = moments.correlation()
    if mask == "absolute_semi_match":
        correlation = correlation.abs()
    best = correlation.argmax(1)
    return F.one_hot(best, taken).float().cpu()
