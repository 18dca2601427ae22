"""Images shifted, mirrored and cut at random, as a data set's augmentation says."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from repsim.data import Augmentation

PART_AREA, PART_SHAPE, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of random parts of photographs


def augmented(images: Float[Tensor, "n c h w"], augmentation: Augmentation) -> Float[Tensor, "n c h w"]:
    """Each image cut, shifted and mirrored at random, as `augmentation` says."""
    count, _, height, width = images.shape
    device = images.device
    if augmentation.resized_crop:
        images = _resized_crops(images)
    if augmentation.flip:
        mirrored = (torch.rand(count) < 0.5).to(device).view(-1, 1, 1, 1)
        images = torch.where(mirrored, images.flip(-1), images)
    if augmentation.crop:
        margin = augmentation.crop
        padded = F.pad(images, [margin] * 4)
        top, left = torch.randint(0, 2 * margin + 1, (2, count, 1)).to(device)
        rows = (top + torch.arange(height, device=device)).view(count, 1, height, 1)
        columns = (left + torch.arange(width, device=device)).view(count, 1, 1, width)
        index = torch.arange(count, device=device).view(-1, 1, 1, 1)
        channel = torch.arange(images.shape[1], device=device).view(1, -1, 1, 1)
        images = padded[index, channel, rows, columns]
    return images


def _resized_crops(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """A random part of each image, enlarged to the whole."""
    count, _, height, width = images.shape
    area = torch.empty(TRIES, count).uniform_(*PART_AREA)
    shape = torch.empty(TRIES, count).uniform_(*map(math.log, PART_SHAPE)).exp()
    # in shares of the image; of several tries the first that fits, else the largest, as torchvision has it
    wide, high = (area * shape * height / width).sqrt(), (area / shape * width / height).sqrt()
    fits = (wide <= 1) & (high <= 1)
    chosen = fits.int().argmax(0), torch.arange(count)
    largest = min(1, PART_SHAPE[1] * height / width), min(1, width / height / PART_SHAPE[0])
    wide, high = (
        torch.where(fits.any(0), each[chosen], most) for each, most in zip((wide, high), largest, strict=True)
    )
    left, top = torch.rand(2, count) * (1 - torch.stack([wide, high]))
    zero = torch.zeros(count)
    across = torch.stack([wide, zero, 2 * left + wide - 1], dim=1)
    down = torch.stack([zero, high, 2 * top + high - 1], dim=1)
    places = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    found = F.grid_sample(images, places.to(images.device), padding_mode="border", align_corners=False)
    return found.clamp(0, 1)
