"""Gabor noise (Lagae et al., 2009), made to fool (Kang et al., 2019; Co et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.attacks.distortion import Distortion, Images, Parameters, convolve, grid

# As published, for images of 224 pixels; all lengths in pixels.
KERNEL = 23  # side of a kernel
SPREAD = (2.3, 9.2)  # standard deviation of its envelope
WAVELENGTH = (4.0, 7.7)  # of its stripes
ORIENTATIONS = 10  # at most so many, evenly spread, are added up in a kernel
DENSITY = 1 / 14  # share of the pixels in which a kernel may sit


@dataclass(frozen=True)
class Gabor(Distortion):
    """Stripes all over the image: a sparse image of coefficients, convolved with a Gabor kernel.

    Each image has a kernel of its own, a Gaussian envelope times stripes in one to ten orientations, and its
    own places, a fourteenth of the pixels. What is climbed in is the coefficients in those places. The noise
    is the same in all channels.

    Attributes
    ----------
    epsilon
        The most that any pixel can change, in pixel units of images in [0, 1]: kernels are scaled so that
        coefficients in [-ε, ε] cannot add up to more. (Published values are in 255ths: 25 is ε = 25/255.)
        ε = 0 is the image itself.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    name: ClassVar[str] = "gabor"

    def draws(self, shape: tuple[int, int, int]) -> int:
        return 4 + 2 * shape[1] * shape[2]

    def prepare(
        self, images: Images, numbers: Float[Tensor, "n draws"]
    ) -> tuple[Callable[[Parameters], Images], Parameters]:
        size = images.shape[-2:]
        settings, places, start = numbers.split([4, size.numel(), size.numel()], dim=1)
        kernels = gabor_kernels(settings)
        taken = (places < DENSITY).to(images).unflatten(1, size)
        # where kernels add up to most; without a place there is no noise
        most = convolve(taken, kernels.abs()).amax((1, 2), keepdim=True).clamp(min=1e-6)

        def distorted(coefficients: Tensor) -> Tensor:
            noise = convolve(coefficients * taken, kernels) / most
            return (images + noise[:, None]).clamp(0, 1)

        return distorted, self.epsilon * (2 * start - 1).unflatten(1, size)


def gabor_kernels(settings: Float[Tensor, "n 4"]) -> Float[Tensor, "n k k"]:
    """A kernel from each row of numbers in [0, 1): its spread, wavelength, angle, number of orientations."""
    spread, wavelength, angle, orientations = settings[..., None, None].unbind(1)
    spread = SPREAD[0] + (SPREAD[1] - SPREAD[0]) * spread
    wavelength = WAVELENGTH[0] + (WAVELENGTH[1] - WAVELENGTH[0]) * wavelength
    count = 1 + (ORIENTATIONS * orientations).floor()
    rows, columns = grid(KERNEL, settings)
    stripes = torch.zeros_like(rows).expand(len(settings), -1, -1)
    for turn in range(ORIENTATIONS):
        direction = math.pi * (angle + turn / count)
        across = columns * direction.cos() + rows * direction.sin()
        stripes = stripes + (turn < count) * (2 * math.pi * across / wavelength).cos()
    return (-(rows**2 + columns**2) / (2 * spread**2)).exp() * stripes / count
