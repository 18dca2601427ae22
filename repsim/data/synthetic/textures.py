"""`two_features` draws images with two visible features of a class, an outline on a texture.

The two can always occur together, or only one of them can tell the class while the other is random: a network
trained so *can* have used nothing else. Difficulty was set by test accuracy and is frozen here, as it is for
`shapes`; grey levels vary because a robust network would else compare pixels with a threshold, and have no
gradient below it. Both were settled before any similarity was computed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from repsim.data.synthetic.drawing import SIDE, balanced_labels, generator
from repsim.data.synthetic.outlines import SHAPE_CLASSES, Nuisance, outline_ink
from repsim.support.messages import unknown

Informative = Literal["both", "outline", "texture"]
INFORMATIVE = ("both", "outline", "texture")

ORIENTATIONS = 5  # of gratings, evenly spaced
FREQUENCIES = (0.17, 0.3)  # cycles per pixel
AMPLITUDE = (0.13, 0.2)  # of the grating around its mean
GROUND = (0.3, 0.7)  # grey level of the texture's mean: no one threshold separates line and texture
CONTRAST = (0.3, 0.45)  # of the outline with that level; either may be the brighter
NOISE = 0.03  # standard deviation of the Gaussian noise on each pixel
POSE = Nuisance(
    radius=(5.0, 6.8), aspect=(0.9, 1.1), rotation=(-0.25, 0.25), margin=-1.0, stroke=(1.2, 1.8)
)  # of the outline; what else a `Nuisance` has is not drawn here

TWO_FEATURES: tuple[str, ...] = tuple(f"{name}_{index}" for index, name in enumerate(SHAPE_CLASSES))
"""The names of the classes of `two_features`: the outline's, and the number of the texture."""


def wave_vectors() -> np.ndarray:
    """The wave vectors of the textures, cycles per pixel (classes, 2), x before y."""
    angle = np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
    directions = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate([frequency * directions for frequency in FREQUENCIES])


def compose(outlines: np.ndarray, textures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw each outline on its texture, in a random pose on a random phase.

    Parameters
    ----------
    outlines, textures
        Class of each feature (images,), 0 to 9.

    Returns
    -------
    np.ndarray
        uint8 (images, 1, 16, 16).

    Raises
    ------
    ValueError
        There are not as many textures as outlines, or a class is none of 0 to 9.
    """
    if outlines.shape != textures.shape:
        raise ValueError(f"each outline needs one texture, got {len(outlines)} and {len(textures)}.")
    for name, classes in (("outlines", outlines), ("textures", textures)):
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(TWO_FEATURES):
            raise ValueError(f"{name} are classes from 0 to 9, found {classes.min()} to {classes.max()}.")
    count = len(outlines)
    ink = outline_ink(outlines, rng, POSE)
    waves = wave_vectors()[textures]
    phase = rng.uniform(0.0, 2 * np.pi, count)
    amplitude = rng.uniform(*AMPLITUDE, count)
    pixel = np.arange(SIDE)
    cycles = waves[:, 0, None, None] * pixel + waves[:, 1, None, None] * pixel[:, None]
    wave = np.sin(2 * np.pi * cycles + phase[:, None, None])
    level = rng.uniform(*GROUND, count)
    sign = np.where(rng.random(count) < 0.5, -1, 1)
    line = level + sign * rng.uniform(*CONTRAST, count)
    ground = level[:, None, None] + amplitude[:, None, None] * wave
    image = (1 - ink) * ground + ink * line[:, None, None]
    image = image + NOISE * rng.standard_normal(image.shape)
    return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)[:, None]


def two_features(count: int, seed: int, informative: Informative = "both") -> tuple[np.ndarray, np.ndarray]:
    """Outlines on textures, of which both, or only one, tell the class.

    Parameters
    ----------
    count
        How many images, at least one of each class; classes are balanced.
    seed
        Decides every draw.
    informative
        `both`: outline and texture of an image are those of its class. `outline` or `texture`: only that
        feature is, the other is drawn at random.

    Returns
    -------
    images : np.ndarray
        uint8 (count, 1, 16, 16).
    labels : np.ndarray
        int64 (count,), positions in `TWO_FEATURES`.

    Raises
    ------
    ValueError
        `count` is below ten, `seed` is negative, or `informative` is something else.
    """
    if informative not in INFORMATIVE:
        raise ValueError(unknown("informative feature", informative, INFORMATIVE))
    classes = len(TWO_FEATURES)
    rng = generator(count, classes, seed)
    labels = balanced_labels(count, classes, rng)
    other = rng.integers(0, classes, count)
    outlines = other if informative == "texture" else labels
    textures = other if informative == "outline" else labels
    return compose(outlines, textures, rng), labels
