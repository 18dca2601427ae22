"""Data sets that need no download: scanned digits, and drawings whose features are known."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from repsim.data import synthetic
from repsim.data.dataset import Request, Source, register
from repsim.data.splits import Split, from_bytes


def as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Bytes (n, c, h, w) and classes to a split."""
    return Split(from_bytes(torch.from_numpy(images)), torch.from_numpy(labels).long())


@register("digits")
def _digits(request: Request) -> Source:
    """The 1,797 scanned 8 × 8 digits that ship inside scikit-learn, resized to 1 × 16 × 16."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] / 16
    images = torch.nn.functional.interpolate(small, size=16, mode="bilinear", align_corners=False)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=500, random_state=0, stratify=digits.target
    )
    return Source(
        classes=tuple(str(digit) for digit in range(10)),
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        title="digits",
    )


@functools.lru_cache(maxsize=4)
def _drawn(draw: Callable, count: int, seed: int, *options: object) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a drawn data set, drawn once in a process: a notebook asks for them repeatedly."""
    return draw(count, seed, *options)


@register("shapes")
def _shapes(request: Request) -> Source:
    """Ten drawn outlines with nuisance, 1 × 16 × 16: harder than digits, so that models disagree."""
    return Source(
        classes=synthetic.SHAPE_CLASSES,
        train=as_split(*_drawn(synthetic.shapes, 6000, 0)),
        test=as_split(*_drawn(synthetic.shapes, 4000, 1)),
        title="shapes",
    )


def _register_two_features(name: str, informative: synthetic.Informative, title: str) -> None:
    @register(name)
    def _two_features(request: Request) -> Source:
        """Outlines on textures, 1 × 16 × 16; with `_outline` or `_texture`, only that tells the class."""
        return Source(
            classes=synthetic.TWO_FEATURES,
            train=as_split(*_drawn(synthetic.two_features, 6000, 0, informative)),
            test=as_split(*_drawn(synthetic.two_features, 2000, 1, informative)),
            title=title,
        )


# Outlines on textures, 1 × 16 × 16: what a network can have used to tell the classes is known.
_register_two_features("two_features", "both", "two features")
_register_two_features("two_features_outline", "outline", "two features, outline informative")
_register_two_features("two_features_texture", "texture", "two features, texture informative")
