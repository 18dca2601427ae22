"""The map between two networks: an affine map of channels, how it begins, and what of it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from repsim.studies.stitching.layouts import Layout
from repsim.studies.stitching.moments import Moments
from repsim.support import messages

Initial = Literal["random", "identity", "permutation", "pseudo_inverse", "ones", "zeros"]
Mask = Literal["identity", "semi_match", "absolute_semi_match", "random_permutation"]
INITIALS = ("random", "identity", "permutation", "pseudo_inverse", "ones", "zeros")
MASKS = ("identity", "semi_match", "absolute_semi_match", "random_permutation")
SQUARE = {"initial": ("identity", "permutation"), "mask": ("random_permutation",)}
MATCHED = {"initial": ("pseudo_inverse",), "mask": ("semi_match", "absolute_semi_match")}
SMALLEST = 1e-6  # singular values below so much of the largest are float32's rounding


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
    def of(
        cls, layout: Layout, weight: Float[Tensor, "given taken"], bias: Float[Tensor, " given"]
    ) -> Transform:
        """A transform of a weight and a bias found by other means, on their device."""
        transform = cls(layout, initial="zeros").to(weight.device)
        with torch.no_grad():
            transform.full.copy_(weight)
            transform.bias.copy_(bias)
        return transform

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
        if self.layout.flatten:
            return F.linear(x, self.weight, self.bias).unflatten(1, self.layout.end)
        axis = self.layout.end_axis + 1
        return F.linear(x.movedim(axis, -1), self.weight, self.bias).movedim(-1, axis)

    def singular_values(self) -> Float[Tensor, " values"]:
        """Singular values of the weight, largest first."""
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
        return Transform.of(self.layout, (u[:, :rank] * s[:rank]) @ v[:rank], self.bias)


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
