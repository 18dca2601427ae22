"""Angles and chords between unit vectors, exact also where they are small.

A cosine near 1 has lost half of the digits of its angle: there the difference of the vectors is formed
itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def is_near(cosine: Float[Tensor, ""]) -> bool:
    """Whether 1 − cosine has lost more than two thirds of its digits."""
    return bool(cosine > 1 - torch.finfo(cosine.dtype).eps ** (1 / 3))


def chord(cosine: Float[Tensor, ""], difference: Callable[[], Tensor]) -> Float[Tensor, ""]:
    """The distance of two unit vectors: from their cosine, or near 1 as the norm of their `difference`."""
    if is_near(cosine):
        return difference().norm()
    return (2 - 2 * cosine.clamp(min=-1)).sqrt()


def angle(cosine: Float[Tensor, ""], difference: Callable[[], Tensor]) -> Float[Tensor, ""]:
    """The angle of two unit vectors, as 2·arcsin(chord / 2)."""
    return 2 * torch.arcsin((chord(cosine, difference) / 2).clamp(max=1))
