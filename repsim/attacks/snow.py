"""Snowfall, made to fool (Kang et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from repsim.attacks.distortion import (
    Distortion,
    Images,
    Parameters,
    check_grey_or_colour,
    convolve,
    grid,
)

LAYERS = 2
DENSITY = 1 / 16  # share of the pixels in which a flake of a layer may fall
BUDGET = 0.2  # of ε: the mean intensity of those flakes
REGION = 16  # side, in pixels, of the squares in which that holds
LONGEST = 6  # half the length of a streak, in pixels; less where images are small
THICKNESS = (0.4, 1.2)  # standard deviation across a streak, in pixels
WHITENING = 0.25  # weight of the whitened image
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Snow(Distortion):
    """Two layers of flakes, each blurred by its motion, in front of a partly whitened image.

    A layer's flakes have one random length, thickness and direction, and may fall in random places. What is
    climbed in is their intensities. They begin as they fall by chance, most of them faint, and in each region
    their mean stays within that amount: the attack chooses where it snows, not how much. Flakes add white.

    Attributes
    ----------
    epsilon
        Intensity of the brightest flakes: what one adds to the pixel in its middle, in pixel units of images
        in [0, 1]. (Published values are for flakes of other shapes, and do not carry over.) ε = 0 is the
        whitened image without flakes: a quarter of the way from each pixel to the brighter of itself and
        0.5 + 1.5 × its luminance (Hendrycks & Dietterich, 2019).
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    name: ClassVar[str] = "snow"

    def draws(self, shape: tuple[int, int, int]) -> int:
        return LAYERS * (3 + 2 * shape[1] * shape[2])

    def prepare(
        self, images: Images, numbers: Float[Tensor, "n draws"]
    ) -> tuple[Callable[[Parameters], Images], Parameters]:
        check_grey_or_colour(images, self.name)
        size = images.shape[-2:]
        drawn = numbers.unflatten(1, (LAYERS, -1)).split([3, size.numel(), size.numel()], dim=2)
        places, chance = (numbers.unflatten(2, size) for numbers in drawn[1:])
        streaks = streak_kernels(drawn[0], max(2, min(LONGEST, min(size) // 8)))
        falling = places < DENSITY
        white = whitened(images)

        def distorted(intensities: Tensor) -> Tensor:
            snow = convolve(intensities * falling, streaks).sum(1, keepdim=True)
            return (white + snow).clamp(0, 1)

        return distorted, self.epsilon * (-chance / BUDGET).exp() * falling

    def project(self, parameters: Parameters) -> Parameters:
        flakes = parameters.clamp(0, self.epsilon)
        mean = F.avg_pool2d(flakes, REGION, ceil_mode=True).clamp(min=1e-12)
        # over all pixels of a region; those in which no flake falls are 0
        share = (BUDGET * DENSITY * self.epsilon / mean).clamp(max=1)
        height, width = flakes.shape[-2:]
        return flakes * F.interpolate(share, scale_factor=REGION)[..., :height, :width]


def whitened(images: Images) -> Images:
    """A quarter of the way to the brighter of each pixel and 0.5 + 1.5 × its luminance."""
    weights = torch.tensor(LUMA if images.shape[1] == 3 else (1.0,)).to(images)
    luminance = (images * weights[:, None, None]).sum(1, keepdim=True)
    return (images + WHITENING * (1.5 * luminance + 0.5 - images).clamp(min=0)).clamp(max=1)


def streak_kernels(settings: Float[Tensor, "... 3"], longest: int) -> Float[Tensor, "... k k"]:
    """A flake from each row of numbers in [0, 1): its length, thickness and direction.

    Parameters
    ----------
    longest
        Half the greatest length, in pixels.
    """
    length, thickness, angle = settings[..., None, None].unbind(-3)
    length = 1 + (longest - 1) * length
    thickness = THICKNESS[0] + (THICKNESS[1] - THICKNESS[0]) * thickness
    rows, columns = grid(2 * (longest + 2) + 1, settings)
    cosine, sine = (math.pi * angle).cos(), (math.pi * angle).sin()
    along, across = columns * cosine + rows * sine, rows * cosine - columns * sine
    beyond = (along.abs() - length).clamp(min=0)  # the end of the streak is round
    return (-(across**2 + beyond**2) / (2 * thickness**2)).exp()
