"""Angles and chords between unit vectors, exact also where they are small.

A cosine near 1 has lost half of the digits of its angle: there the difference of the vectors is formed
itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

NEAR = 1e-5  # of 1 − cosine


def chord(cosine: Float[Tensor, ""], difference: Callable[[], Tensor]) -> Float[Tensor, ""]:
    """The distance of two unit vectors: from their cosine, or near 1 as the norm of their `difference`."""
    if cosine < 1 - NEAR:
        return (2 - 2 * cosine.clamp(min=-1)).sqrt()
    return difference().norm()


def angle(cosine: Float[Tensor, ""], difference: Callable[[], Tensor]) -> Float[Tensor, ""]:
    """The angle of two unit vectors, as 2·arcsin(chord / 2)."""
    return 2 * torch.arcsin((chord(cosine, difference) / 2).clamp(max=1))
