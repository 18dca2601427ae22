"""Tools of drawn data sets: lines on a grid of pixels, labels in balance, random numbers from a seed."""

from __future__ import annotations

import numpy as np

SIDE = 16  # pixels along each edge of an image


def generator(count: int, classes: int, seed: int) -> np.random.Generator:
    """The source of every draw of a data set of `count` images.

    Raises
    ------
    ValueError
        `count` is below the number of classes, so that some class would have no image, or `seed` is negative.
    """
    if count < classes:
        raise ValueError(f"count must be at least {classes}, one image of each class, but is {count}.")
    if seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, but is {seed}.")
    return np.random.Generator(np.random.PCG64(seed))


def balanced_labels(count: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Class labels in random order, each class as often as every other, or once more (int64)."""
    return rng.permutation(np.arange(count, dtype=np.int64) % classes)


def draw_ink(corners: np.ndarray, stroke: np.ndarray, closed: bool = True) -> np.ndarray:
    """Draw one polyline into each image, by the distance of every pixel to its nearest segment.

    Parameters
    ----------
    corners
        Pixel coordinates (images, corners, 2), x before y.
    stroke
        Width of the line in each image (images,).
    closed
        Whether the last corner is joined to the first.

    Returns
    -------
    np.ndarray
        How much of each pixel the line covers (images, SIDE, SIDE), from 0 to 1; its border falls off over
        one pixel, which is the anti-aliasing.
    """
    pixel = np.arange(SIDE, dtype=np.float64)
    nearest = np.full((len(corners), SIDE, SIDE), np.inf)
    last = corners.shape[1] if closed else corners.shape[1] - 1
    for first in range(last):
        start = corners[:, first]
        along = corners[:, (first + 1) % corners.shape[1]] - start
        x = pixel[None, None, :] - start[:, 0, None, None]  # (images, 1, SIDE): what x alone decides
        y = pixel[None, :, None] - start[:, 1, None, None]  # (images, SIDE, 1)
        along_x, along_y = along[:, 0, None, None], along[:, 1, None, None]
        length = np.maximum(along_x**2 + along_y**2, 1e-12)
        position = np.clip(x * (along_x / length) + y * (along_y / length), 0.0, 1.0)
        np.minimum(nearest, (x - position * along_x) ** 2 + (y - position * along_y) ** 2, out=nearest)
    return np.clip(0.5 + stroke[:, None, None] / 2 - np.sqrt(nearest), 0.0, 1.0)
