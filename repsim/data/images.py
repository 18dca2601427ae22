"""Images as their users have them (tensors, arrays, loaders of batches) as one tensor of pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import DataLoader

from repsim.data.splits import Split
from repsim.support.arrays import tensor_of
from repsim.support.labels import LabelSource, as_labels, label_tensor

# Images themselves; a mapping that holds them; or batches of either, alone or first in a tuple.
ImageSource = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | Mapping | Iterable

# Under which names batches that are mappings hold images, and labels, the first that is there.
IMAGE_KEYS = ("pixel_values", "images", "image", "x", "inputs", "img")
LABEL_KEYS = ("labels", "label", "y", "targets", "target")
ROUNDINGS = 16  # of its dtype, by which arithmetic may take a pixel out of [0, 1] …
HALF_LEVEL = 1 / 510  # … and of coarse dtypes no more than this: half of the least step of a byte


def as_images(images: ImageSource, argument: str = "images") -> Float[Tensor, "n c h w"]:
    """Images as one tensor of floats in [0, 1], (n, c, h, w), without a copy where they are one.

    Pixels that rounding has taken out of [0, 1] are cut off there. (Models normalise inside.)

    Parameters
    ----------
    images
        A tensor or NumPy array; or batches of them that can be gone through again, as of a `DataLoader`. A
        batch may also be a tuple or list that begins with the images, or a mapping that holds them under one
        of `IMAGE_KEYS`, or as its only tensor of four dimensions.
    argument
        What messages call them.

    Raises
    ------
    ValueError
        There are none; their shape is another, or differs by batch; they are no floats; a pixel is outside
        [0, 1] or not a number; or a mapping does not say which of its tensors they are.
    TypeError
        They are something else, or an iterator, which can be gone through only once.
    """
    _refuse_one_shot(images, argument)
    return _joined(list(batches_of_images(images, argument)), argument)


def batches_of_images(source: ImageSource, argument: str = "images") -> Iterator[Float[Tensor, "n c h w"]]:
    """Images batch by batch, as `as_images` takes and checks them, and out of iterators too.

    A tensor or array is one batch.
    """
    return (images for images, _ in _batches(source, argument))


def is_one_shot(source: object) -> bool:
    """Whether images can be gone through only once, as those of a generator."""
    return isinstance(source, Iterator)


def labelled_images(source: ImageSource, argument: str = "images") -> tuple[Tensor, Tensor | None]:
    """Images as by `as_images`, and the labels that their batches have; None unless all have some.

    Labels are second in a tuple, or under one of `LABEL_KEYS` in a mapping. They are given as they are: see
    `as_labels`.
    """
    _refuse_one_shot(source, argument)
    parts = list(_batches(source, argument))
    images = _joined([images for images, _ in parts], argument)
    if any(labels is None for _, labels in parts):
        return images, None
    return images, torch.cat([label_tensor(labels) for _, labels in parts])


def images_and_labels(
    images: ImageSource, labels: LabelSource | None, argument: str = "images"
) -> tuple[Float[Tensor, "n c h w"], Tensor]:
    """Images as by `as_images`, with the labels given, or, without any, those of their batches.

    Returns
    -------
    tuple
        The labels as they are: see `as_labels`.

    Raises
    ------
    ValueError
        There are no labels, or not as many as images; or they are given beside a loader that shuffles.
    """
    if labels is None:
        found, labels = labelled_images(images, argument)
        if labels is None:
            raise ValueError(
                f"each of {argument} needs its label: give labels, or a loader of batches (images, labels)."
            )
    elif shuffles(images):
        raise ValueError(
            f"{argument} come in another order each time from a loader that shuffles, so that labels given "
            "beside it are not theirs: give labels=None, which takes them from its batches."
        )
    else:
        found, labels = as_images(images, argument), label_tensor(labels)
    if len(found) != len(labels):
        raise ValueError(f"each image needs its labels, got {len(found)} images and {len(labels)} labels.")
    return found, labels


def as_split(data: Split | ImageSource, argument: str = "data") -> Split:
    """A split in memory of images and labels: checked, with one-hot labels as classes.

    Raises
    ------
    ValueError
        As `as_images` and `as_labels`, or there are no labels.
    """
    pixels, answers = (data.images, data.labels) if isinstance(data, Split) else (data, None)
    images, labels = images_and_labels(pixels, answers, argument)
    return Split(images, as_labels(labels))


def _refuse_one_shot(source: object, argument: str) -> None:
    if is_one_shot(source):
        raise TypeError(
            f"{argument} must be there to be gone through again, which is not so of a "
            f"{type(source).__name__}: give the loader itself, or a list of its batches."
        )


def _joined(batches: list[Tensor], argument: str) -> Tensor:
    if len(batches) == 1:
        return batches[0]
    shapes = {tuple(batch.shape[1:]) for batch in batches}
    if len(shapes) > 1:
        raise ValueError(f"{argument} must be of one shape in all batches, found {sorted(shapes)}.")
    return torch.cat(batches)


def _batches(source: ImageSource, argument: str) -> Iterator[tuple[Tensor, object]]:
    """Checked images, and whatever labels they come with."""
    if isinstance(source, Mapping) or hasattr(source, "__array__"):
        source = [source]  # arrays of others are refused as such, not row by row
    elif not isinstance(source, Iterable):
        raise TypeError(
            f"{argument} must be a tensor or a NumPy array, (n, c, h, w), or batches of them, such as a "
            f"DataLoader, not {type(source).__name__}."
        )
    found = False
    for batch in source:
        images, labels = _parted(batch, argument)
        images = _checked(images, argument)
        if images.numel():
            found = True
            yield images, labels
    if not found:
        raise ValueError(f"{argument} are empty: there is no image.")


def _parted(batch: object, argument: str) -> tuple[object, object]:
    """The images of a batch, and its labels if it has any."""
    if isinstance(batch, tuple | list):
        if not batch:
            raise ValueError(f"{argument} have a batch with nothing in it.")
        return batch[0], batch[1] if len(batch) > 1 else None
    if not isinstance(batch, Mapping):
        return batch, None
    named = [key for key in IMAGE_KEYS if key in batch]
    shaped = [key for key, value in batch.items() if getattr(value, "ndim", None) == 4]
    if not named and len(shaped) != 1:
        raise ValueError(
            f"{argument} have batches of {', '.join(map(str, batch)) or 'nothing'}: expected is one of "
            f"{', '.join(IMAGE_KEYS)}, or one tensor (n, c, h, w) alone."
        )
    labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
    return batch[(named or shaped)[0]], labels


def _checked(images: object, argument: str) -> Tensor:
    images = tensor_of(images, argument)
    shape = tuple(images.shape)
    if len(shape) != 4:
        alone = f"; of one image, {argument}[None], of a list of them torch.stack({argument})"
        alone = alone if len(shape) == 3 else ""
        raise ValueError(f"{argument} must be (n, c, h, w), found shape {shape}{alone}.")
    if shape[3] in (1, 3) and min(shape[1:3]) > shape[3]:
        raise ValueError(
            f"{argument} must be (n, c, h, w), found shape {shape}, which has its channels last: give "
            "images.permute(0, 3, 1, 2), or of an array images.transpose(0, 3, 1, 2)."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"{argument} must be floats in [0, 1], found {str(images.dtype).removeprefix('torch.')}: divide "
            "bytes by 255."
        )
    if not images.numel():
        return images
    low, high = images.aminmax()
    rounding = min(ROUNDINGS * torch.finfo(images.dtype).eps, HALF_LEVEL)
    if not (low >= -rounding and high <= 1 + rounding):  # so written that NaN is refused too
        raise ValueError(
            f"{argument} must have pixels in [0, 1], found [{low:.3g}, {high:.3g}]. Models normalise "
            "inside: give them raw pixels, divided by 255 when they are bytes."
        )
    return images.clamp(0, 1) if low < 0 or high > 1 else images


def as_images_in_order(images: ImageSource, argument: str = "images") -> Float[Tensor, "n c h w"]:
    """The images as `as_images` has them, where rows are to be matched with others.

    Raises
    ------
    ValueError
        Images come from a loader that shuffles, so that nobody could say which row is whose.
    """
    if shuffles(images):
        raise ValueError(
            f"{argument} come from a loader that shuffles, so that rows cannot be matched with others': give "
            "one that does not."
        )
    return as_images(images, argument)


def shuffles(source: object) -> bool:
    """Whether a loader draws the order of its images anew each time."""
    if not isinstance(source, DataLoader):
        return False
    batches = source.batch_sampler
    samplers = (source.sampler, batches, getattr(batches, "sampler", None))
    return any("Random" in type(each).__name__ or getattr(each, "shuffle", False) for each in samplers)
