"""Normalisers that files hold among the weights of a network, whatever they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# Names of the mean and of the deviation; the latter's division follows the subtraction of the former.
NAMES = (
    *(("mean", "std"), ("mu", "sigma"), ("mu", "std"), ("new_mean", "new_std"), ("means", "stds")),
    *(("pixel_mean", "pixel_std"), ("image_mean", "image_std"), ("img_mean", "img_std")),
    *(("norm_mean", "norm_std"), ("_mean", "_std"), ("means", "sds")),
)
OURS = ("normalize.mean", "normalize.std")
LARGEST = 2.0  # of means and deviations of images in [0, 1]; above, they are counted in levels of 255
# ImageNet's means in the order blue, green, red, of networks that take images so.
BLUE_FIRST = (0.406, 0.456, 0.485)
Values = tuple[float, ...]


def find(weights: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The names of a normaliser's mean and deviation beside a network, or in a layer of its own before it.

    Only what lies outermost is looked at, since layers inside of networks have means of other things.
    """
    for mean in weights:
        layer, _, last = mean.rpartition(".")
        if "." in layer:
            continue
        for name, deviation in NAMES:
            std = f"{layer}.{deviation}" if layer else deviation
            if last == name and std in weights and _is_one(weights, layer, mean, std):
                return mean, std
    return None


def _is_one(weights: Mapping[str, Tensor], layer: str, mean: str, std: str) -> bool:
    shapes = {tuple(weights[each].shape) for each in (mean, std)}
    lengths = {weights[each].numel() for each in (mean, std)}
    flat = all(sum(length > 1 for length in shape) <= 1 for shape in shapes)
    alone = not layer or all(key in (mean, std) for key in weights if key.startswith(f"{layer}."))
    positive = bool((weights[std] > 0).all())
    return len(lengths) == 1 and lengths <= _channels(weights) and flat and alone and positive


def _channels(weights: Mapping[str, Tensor]) -> set[int]:
    """Lengths that a normaliser may have: 1, 3, and the inputs of convolutions."""
    return {1, 3} | {value.shape[1] for value in weights.values() if value.ndim == 4}


def in_levels(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether a mean and deviation are counted in levels of 255."""
    return max(*(abs(each) for each in mean), *std) > LARGEST


def in_pixels(mean: Sequence[float], std: Sequence[float]) -> tuple[Values, Values]:
    """A mean and deviation for images in [0, 1], whatever they are counted in."""
    unit = 255.0 if in_levels(mean, std) else 1.0
    return tuple(each / unit for each in mean), tuple(each / unit for each in std)


def composed(outer: tuple[Values, Values] | None, inner: tuple[Values, Values]) -> tuple[Values, Values]:
    """One normaliser that does what two do in turn: ((x − m) / s − m') / s' = (x − (m + s m')) / (s s')."""
    if outer is None:
        return inner
    count = max(len(outer[0]), len(inner[0]))
    (m, s), (m_inner, s_inner) = ([widened(each, count) for each in pair] for pair in (outer, inner))
    means = tuple(a + b * c for a, b, c in zip(m, s, m_inner, strict=True))
    return means, tuple(b * c for b, c in zip(s, s_inner, strict=True))


def widened(given: Values, count: int) -> Values:
    """Values for so many channels, where one may stand for all."""
    return given * count if len(given) == 1 else given


def is_blue_first(mean: Sequence[float]) -> bool:
    """Whether these are ImageNet's means in the order blue, green, red."""
    return len(mean) == 3 and all(abs(a - b) < 0.002 for a, b in zip(mean, BLUE_FIRST, strict=True))


def normalization(mean: Values, std: Values) -> dict[str, Tensor]:
    """A normaliser as the weights of our first layer."""
    return {
        "normalize.mean": torch.tensor(mean).view(-1, 1, 1),
        "normalize.std": torch.tensor(std).view(-1, 1, 1),
    }
