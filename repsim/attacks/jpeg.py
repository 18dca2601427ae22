"""Errors of JPEG compression, made to fool (Kang et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from repsim.attacks.distortion import Distortion, Images, Parameters, check_grey_or_colour

BLOCK = 8
# Quantisation steps at quality 50, of luminance and of chrominance (ITU-T T.81, Annex K)
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
# RGB → Y, Cb, Cr (ITU-T T.871), without the offset of the latter two, which cancels
YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)


@dataclass(frozen=True)
class JPEG(Distortion):
    """A JPEG-compressed image whose stored coefficients have been moved.

    Each image is compressed: brightness and colour parted, colour at half the resolution (4:2:0), cosine
    transform of 8 × 8 blocks, coefficients divided by the quantisation steps of `quality` and rounded. What
    is climbed in is what is then added to them, before they are turned into an image again. They need not
    stay whole numbers: published ε begin at a 32nd of a step.

    Attributes
    ----------
    epsilon, norm
        The bound on what is added, in quantisation steps: to each coefficient (`linf`), or to all those of an
        image together (`l2`). ε = 0 is the compressed image.
    quality
        Of the compression, 1 to 100: high quality has small steps, and ε then goes less far in pixels.
    """

    quality: int = 75

    name: ClassVar[str] = "jpeg"

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.quality <= 100:
            raise ValueError(f"the quality of a JPEG is from 1 to 100, not {self.quality}.")

    def draws(self, shape: tuple[int, int, int]) -> int:
        return 1 + sum(math.prod(size) for size in _planes(shape))

    def prepare(
        self, images: Images, numbers: Float[Tensor, "n draws"]
    ) -> tuple[Callable[[Parameters], Images], Parameters]:
        check_grey_or_colour(images, self.name)
        shape = tuple(images.shape[1:])
        stored = encode(images, self.quality).round()

        def distorted(added: Tensor) -> Tensor:
            return decode(stored + added, shape, self.quality).clamp(0, 1)

        radius, places = numbers[:, :1], 2 * numbers[:, 1:] - 1
        start = self.epsilon * (places if self.norm == "linf" else radius * F.normalize(places))
        return distorted, start


def encode(images: Images, quality: int) -> Parameters:
    """The coefficients of JPEG-compressed images in quantisation steps, before they are rounded.

    Returns
    -------
    Tensor
        Of each image one row: the blocks of Y, and of Cb and Cr where it has colours.
    """
    shape = tuple(images.shape[1:])
    height, width = _planes(shape)[0]
    pad = (0, width - shape[2], 0, height - shape[1])
    planes = _by_colour(F.pad(255 * images, pad, mode="replicate"), torch.tensor(YCBCR)).split(1, dim=1)
    planes = [planes[0] - 128, *(F.avg_pool2d(plane, 2) for plane in planes[1:])]
    steps = _steps(quality, images)
    matrix = dct_matrix(BLOCK).to(images)
    blocks = [_blocks(plane) for plane in planes]
    found = [matrix @ block @ matrix.T / step for block, step in zip(blocks, steps, strict=False)]
    return torch.cat([coefficients.flatten(1) for coefficients in found], dim=1)


def decode(coefficients: Parameters, shape: tuple[int, int, int], quality: int) -> Images:
    """Images of a shape (c, h, w) from the coefficients that `encode` gives; pixels may leave [0, 1]."""
    sizes = _planes(shape)
    parts = coefficients.split([math.prod(size) for size in sizes], dim=1)
    matrix = dct_matrix(BLOCK).to(coefficients)
    planes = []
    for part, size, step in zip(parts, sizes, _steps(quality, coefficients), strict=False):
        blocks = part.unflatten(1, (size[0] // BLOCK, size[1] // BLOCK, BLOCK, BLOCK))
        blocks = matrix.T @ (blocks * step) @ matrix
        planes.append(blocks.transpose(2, 3).reshape(-1, 1, *size))
    planes = [planes[0] + 128, *(F.interpolate(plane, scale_factor=2) for plane in planes[1:])]
    images = _by_colour(torch.cat(planes, dim=1), torch.tensor(YCBCR, dtype=torch.float64).inverse())
    return images[..., : shape[1], : shape[2]] / 255


def dct_matrix(size: int) -> Float[Tensor, "size size"]:
    """The orthonormal cosine transform (DCT-II): row k holds the k-th cosine."""
    wave, place = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    matrix = (math.pi * wave * (2 * place + 1) / (2 * size)).cos() * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _planes(shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Height and width of each plane, filled up to whole blocks."""
    channels, height, width = shape
    whole = BLOCK if channels == 1 else 2 * BLOCK  # colour has half the resolution
    height, width = (-(-length // whole) * whole for length in (height, width))
    return [(height, width), *[(height // 2, width // 2)] * (channels - 1)]


def _steps(quality: int, like: Tensor) -> list[Float[Tensor, "8 8"]]:
    """Quantisation steps of the three planes, scaled for the quality as by the Independent JPEG Group."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = torch.tensor([LUMINANCE, CHROMINANCE, CHROMINANCE])
    return list(((tables * percent + 50) // 100).clamp(1, 255).to(like))


def _by_colour(images: Images, matrix: Float[Tensor, "3 3"]) -> Images:
    """Each pixel's three channels times a matrix; grey images as they are."""
    return images if images.shape[1] == 1 else torch.einsum("dc,nchw->ndhw", matrix.to(images), images)


def _blocks(plane: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n rows columns 8 8"]:
    tall = plane[:, 0].unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
    return tall.transpose(2, 3)
