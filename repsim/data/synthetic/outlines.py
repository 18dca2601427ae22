"""`shapes` draws ten outlines under nuisance (position, size, rotation, stroke, contrast, clutter, noise,
occlusion). Its difficulty was set by test accuracy alone and is frozen in `Nuisance`: changing a default
there changes the data set, and with it every result that was ever made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repsim.data.synthetic.drawing import SIDE, balanced_labels, draw_ink, generator

_CHUNK = 1024  # images drawn at a time: bounds memory; part of the data set, as it orders the random draws


@dataclass(frozen=True)
class Nuisance:
    """The variation of an image apart from its class: each pair is the range of a uniform draw.

    Lengths are in pixels of the 16 × 16 image, levels in [0, 1].
    """

    radius: tuple[float, float] = (3.8, 6.8)  # of the circle around the outline
    aspect: tuple[float, float] = (0.8, 1.25)  # width ÷ height, before the rotation
    rotation: tuple[float, float] = (-0.7, 0.7)  # radians, around upright
    margin: float = 0.5  # how far the circle around the outline may reach over the edge
    stroke: tuple[float, float] = (0.9, 1.8)  # width of the drawn line
    contrast: tuple[float, float] = (0.6, 1.0)  # |foreground − background|; either may be the brighter
    clutter: int = 3  # line segments besides the outline, at most; their number is uniform from 0
    clutter_length: tuple[float, float] = (3.0, 8.0)
    clutter_strength: tuple[float, float] = (0.4, 1.0)  # their contrast as a fraction of the outline's
    occluded: float = 0.8  # probability that a rectangle of one random level covers part of the image
    occluder: tuple[float, float] = (3.0, 8.5)  # its width and its height, drawn apart
    noise: tuple[float, float] = (0.01, 0.06)  # standard deviation of the Gaussian noise on each pixel


CLEAN = Nuisance(
    radius=(6.5, 6.5),
    aspect=(1.0, 1.0),
    rotation=(0.0, 0.0),
    margin=-1.5,
    stroke=(1.3, 1.3),
    contrast=(1.0, 1.0),
    clutter=0,
    occluded=0.0,
    noise=(0.0, 0.0),
)
"""No nuisance but the polarity: every image of a class is its template, or that template inverted."""


def _polygon(corners: int, inner: float = 1.0) -> np.ndarray:
    """`corners` points around the unit circle from the top on, every second at radius `inner`."""
    angle = 2 * np.pi * np.arange(corners) / corners
    radius = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _heart() -> np.ndarray:
    """The usual sine-and-cosines heart, point down."""
    t = 2 * np.pi * np.arange(20) / 20
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1)


def _crescent() -> np.ndarray:
    """A left-hand moon: a long arc of one circle, and back along a flatter one through its inside."""
    tip = 0.3 * np.pi
    outer = np.linspace(tip, 2 * np.pi - tip, 14)
    arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    height, bend = np.sin(tip), 0.62
    inner = np.linspace(-1, 1, 8)[1:-1]
    back = np.stack([np.cos(tip) - bend * (1 - inner**2), inner * height], axis=1)
    return np.concatenate([arc, back])


def _unit(points: np.ndarray | list[tuple[float, float]]) -> np.ndarray:
    """Centre a closed polyline on its bounding box and scale it into the unit circle."""
    points = np.asarray(points, dtype=np.float64)
    points = points - (points.min(axis=0) + points.max(axis=0)) / 2
    return points / np.sqrt((points**2).sum(axis=1).max())


# Closed polylines, x to the right and y downwards. Each has its own number of corners.
OUTLINES: dict[str, np.ndarray] = {
    "circle": _unit(_polygon(20)),
    "triangle": _unit(_polygon(3)),
    "square": _unit([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "pentagon": _unit(_polygon(5)),
    "star": _unit(_polygon(10, inner=0.42)),
    "cross": _unit(
        [
            (-1, -3),
            (1, -3),
            (1, -1),
            (3, -1),
            (3, 1),
            (1, 1),
            (1, 3),
            (-1, 3),
            (-1, 1),
            (-3, 1),
            (-3, -1),
            (-1, -1),
        ]
    ),
    "heart": _unit(_heart()),
    "crescent": _unit(_crescent()),
    "arrow": _unit([(-4, -1.3), (0.5, -1.3), (0.5, -3.3), (4, 0), (0.5, 3.3), (0.5, 1.3), (-4, 1.3)]),
    "hourglass": _unit([(-0.8, -1), (0.8, -1), (-0.8, 1), (0.8, 1)]),
}

SHAPE_CLASSES: tuple[str, ...] = tuple(OUTLINES)
"""The names of the classes of `shapes`; a label is a position in this tuple."""


def outline_ink(labels: np.ndarray, rng: np.random.Generator, nuisance: Nuisance) -> np.ndarray:
    """Draw the outline of each label in a random pose: coverage (images, SIDE, SIDE)."""
    count = len(labels)
    radius = rng.uniform(*nuisance.radius, count)
    stretch = np.exp(rng.uniform(*np.log(nuisance.aspect), count) / 2)  # widens by this, flattens by this
    angle = rng.uniform(*nuisance.rotation, count)
    slack = np.maximum(SIDE / 2 - radius + nuisance.margin, 0.0)
    centre = (SIDE - 1) / 2 + rng.uniform(-1.0, 1.0, (count, 2)) * slack[:, None]
    stroke = rng.uniform(*nuisance.stroke, count)

    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)  # for row vectors, from the right
    axes = radius[:, None] * np.stack([stretch, 1 / stretch], 1)
    ink = np.empty((count, SIDE, SIDE))
    for label, outline in enumerate(OUTLINES.values()):
        here = labels == label  # class by class, because each has its own number of corners
        corners = (outline * axes[here][:, None, :]) @ turn[here] + centre[here][:, None, :]
        ink[here] = draw_ink(corners, stroke[here])
    return ink


def _clutter_ink(count: int, rng: np.random.Generator, nuisance: Nuisance) -> np.ndarray:
    """Draw up to `nuisance.clutter` short lines into each image: coverage (images, SIDE, SIDE)."""
    ink = np.zeros((count, SIDE, SIDE))
    number = rng.integers(0, nuisance.clutter + 1, count)
    for line in range(nuisance.clutter):
        middle = rng.uniform(0.0, SIDE - 1, (count, 2))
        angle = rng.uniform(0.0, np.pi, count)
        half = rng.uniform(*nuisance.clutter_length, count)[:, None] / 2
        step = half * np.stack([np.cos(angle), np.sin(angle)], 1)
        stroke = rng.uniform(*nuisance.stroke, count)
        strength = rng.uniform(*nuisance.clutter_strength, count) * (line < number)
        drawn = draw_ink(np.stack([middle - step, middle + step], 1), stroke, closed=False)
        np.maximum(ink, strength[:, None, None] * drawn, out=ink)
    return ink


def _develop(ink: np.ndarray, rng: np.random.Generator, nuisance: Nuisance) -> np.ndarray:
    """Turn coverage into grey levels, then cover a rectangle and add noise: uint8 (images, 1, SIDE, SIDE)."""
    count = len(ink)
    contrast = rng.uniform(*nuisance.contrast, count)
    dark = rng.uniform(0.0, 1.0, count) * (1.0 - contrast)
    inverted = rng.random(count) < 0.5
    background = np.where(inverted, dark + contrast, dark)
    signed = np.where(inverted, -contrast, contrast)
    image = background[:, None, None] + signed[:, None, None] * ink

    hit = rng.random(count) < nuisance.occluded
    size = rng.uniform(*nuisance.occluder, (count, 2))
    corner = rng.uniform(0.0, 1.0, (count, 2)) * (SIDE - size)
    level = rng.uniform(0.0, 1.0, count)
    pixel = np.arange(SIDE) + 0.5
    inside = (pixel >= corner[..., None]) & (pixel < (corner + size)[..., None])  # (images, 2, SIDE)
    covered = hit[:, None, None] & inside[:, 1, :, None] & inside[:, 0, None, :]
    image = np.where(covered, level[:, None, None], image)

    deviation = rng.uniform(*nuisance.noise, count)
    image = image + deviation[:, None, None] * rng.standard_normal((count, SIDE, SIDE))
    return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)[:, None]


def _draw(labels: np.ndarray, rng: np.random.Generator, nuisance: Nuisance) -> np.ndarray:
    """Draw one image of `shapes` for each label: uint8 (images, 1, SIDE, SIDE)."""
    images = np.empty((len(labels), 1, SIDE, SIDE), dtype=np.uint8)
    for start in range(0, len(labels), _CHUNK):
        part = labels[start : start + _CHUNK]
        ink = outline_ink(part, rng, nuisance)
        ink = np.maximum(ink, _clutter_ink(len(part), rng, nuisance))
        images[start : start + _CHUNK] = _develop(ink, rng, nuisance)
    return images


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten outlines under nuisance: hard enough that small models reach 80–90 % and differ in their errors.

    Parameters
    ----------
    count
        How many images, at least one of each class. Classes are balanced, to within one image where
        `count` is no multiple of ten.
    seed
        Decides every draw: the same `count` and `seed` give the same images. Take another seed for a test
        set; a shorter call is no prefix of a longer one.

    Returns
    -------
    images : np.ndarray
        uint8 (count, 1, 16, 16).
    labels : np.ndarray
        int64 (count,), positions in `SHAPE_CLASSES`.

    Raises
    ------
    ValueError
        `count` is below ten, so that some class would have no image, or `seed` is negative.
    """
    classes = len(SHAPE_CLASSES)
    rng = generator(count, classes, seed)
    labels = balanced_labels(count, classes, rng)
    return _draw(labels, rng, Nuisance()), labels
