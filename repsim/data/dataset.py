"""Data sets, as the rest of the package knows them, and how a loader of one becomes known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repsim.data.splits import Split
from repsim.data.streaming import StreamedSplit
from repsim.support import paths


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Attributes
    ----------
    crop
        Shift by up to so many pixels, with zeros around the image.
    flip
        Mirror half of the images.
    resized_crop
        Enlarge a random part of the image, 8 % to 100 % of its area and 3 : 4 to 4 : 3 in shape (Szegedy et
        al., 2015), as is usual for ImageNet.
    """

    crop: int = 0
    flip: bool = False
    resized_crop: bool = False


PHOTOGRAPHS = Augmentation(flip=True, resized_crop=True)


def shift_and_flip(width: int) -> Augmentation:
    """Shifts by up to an eighth of the width, as 4 pixels are of CIFAR's 32, and mirroring."""
    return Augmentation(crop=max(1, width // 8), flip=True)


@dataclass(frozen=True)
class Dataset:
    """A data set, as the rest of the package knows it.

    Attributes
    ----------
    name
        As the user gave it; `title` is what figures call it, `slug` the folder its results go to.
    classes
        Or attributes, where labels say of each whether an image has it.
    train
        In memory, or read as it is needed where it is too large.
    mean, std
        Per channel, of the training images: the models' first layer normalises with them.
    fingerprint
        Tells training sets of one name apart (how many images of which shape, and for folders what is in
        them; and which rows were chosen); part of the recipe of every model trained on them.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    train: Split | StreamedSplit
    test: Split
    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def slug(self) -> str:
        """The folder name that results are filed under."""
        return paths.dataset_slug(self.name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.test.image_shape


@dataclass(frozen=True)
class Source:
    """A loader's answer: `Dataset` without what follows from the images.

    Attributes
    ----------
    augmentation
        Or a function of the images' width. None for digits and drawings: mirrored, a 2 is no 2.
    mean, std
        Where they are published; else they are computed.
    held
        Keep the training images in memory, however many they are.
    """

    classes: tuple[str, ...]
    train: Split | StreamedSplit
    test: Split | StreamedSplit
    title: str
    augmentation: Augmentation | Callable[[int], Augmentation] = Augmentation()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    held: bool = False


@dataclass(frozen=True)
class Request:
    """A request to a loader: where files are, how large images should be, whether to fetch them."""

    root: Path
    image_size: int | None
    download: bool = True


LOADERS: dict[str, Callable[[Request], Source]] = {}


def register(name: str) -> Callable:
    """Make a loader known under `name`."""

    def keep(loader: Callable[[Request], Source]) -> Callable[[Request], Source]:
        LOADERS[name] = loader
        return loader

    return keep
