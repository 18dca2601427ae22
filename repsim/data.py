"""A name → a `Dataset`: training and test images in [0, 1], their labels, classes and normalisation.

Adding a data set is one function that returns its two splits, under `@register("name")`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from repsim import messages, paths, synthetic
from repsim._compat import torchvision

IMAGE_SUFFIXES = torchvision.datasets.folder.IMG_EXTENSIONS


@dataclass(frozen=True)
class Split:
    """Images in [0, 1] and the index of each one's class."""

    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, size: int | None) -> Split:
        """`size` images, as many of each class as of every other, the same ones every time."""
        if size is None or size >= len(self):
            return self
        chosen = torch.from_numpy(stratified(self.labels.numpy(), size))
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Augmentation:
    """Random translation by up to `crop` pixels (zero padding) and random mirroring."""

    crop: int = 0
    flip: bool = False


@dataclass(frozen=True)
class Dataset:
    """What the rest of the package knows of a data set.

    Attributes
    ----------
    name
        As the user gave it; `title` is what figures call it, `slug` the folder its results go to.
    mean, std
        Per channel, of the training images: the models' first layer normalises with them.
    fingerprint
        Tells training sets of one name apart (how many images of which shape, and for folders what is in
        them); part of the recipe of every model trained on them.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    train: Split
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
        return tuple(self.test.images.shape[1:])


@dataclass(frozen=True)
class Source:
    """What a loader returns: `Dataset` without what follows from the images."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    title: str
    augmentation: Augmentation = Augmentation()  # none for digits and drawings: mirrored, a 2 is no 2
    content: str = ""  # a hash, where the name alone does not say what the images are


@dataclass(frozen=True)
class Request:
    """What the user asked of a loader: where files are, how many images, how large."""

    root: Path
    train_size: int | None
    test_size: int | None
    image_size: int | None


LOADERS: dict[str, Callable[[Request], Source]] = {}


def register(name: str) -> Callable:
    """Make a loader known under `name`."""

    def keep(loader: Callable[[Request], Source]) -> Callable[[Request], Source]:
        LOADERS[name] = loader
        return loader

    return keep


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    title: str = "",
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name
        `digits`, `shapes`, `two_features` (also `…_outline` and `…_texture`, where only that feature tells
        the class), `cifar10`, or `folder:PATH` for any folder that holds `train/` and `test/` (or
        `val/`), each with one folder of images per class.
    root
        Where downloaded data sets are, or go: by default `REPSIM_DATA`, else `data/downloads`.
    train_size, test_size
        Keep so many images of each split, as many of each class as of every other; 0 or None keeps all.
    image_size
        Resize the shorter side to so many pixels and crop the centre; 0 or None leaves images as they are.
    title
        What figures call the data set, instead of its own name.

    Raises
    ------
    ValueError
        The name is unknown, or the folder is not one of class folders of images.
    """
    for argument, size, unit, default in (
        ("train_size", train_size, "images", "all"),
        ("test_size", test_size, "images", "all"),
        ("image_size", image_size, "pixels", "as they are"),
    ):
        if size is not None and size < 0:
            raise ValueError(f"{argument} is a number of {unit}, 0 for {default}, not {size}.")
    root = Path(root or os.environ.get("REPSIM_DATA") or paths.data() / "downloads").expanduser()
    if name.startswith("folder:"):
        root, loader = Path(name.removeprefix("folder:")).expanduser(), _folder
    elif name in LOADERS:
        loader = LOADERS[name]
    else:
        raise ValueError(messages.unknown("data set", name, [*LOADERS, "folder:PATH"]))
    source = loader(Request(root, train_size or None, test_size or None, image_size or None))
    train, test = source.train.subset(train_size or None), source.test.subset(test_size or None)
    if image_size:
        train, test = _resized(train, image_size), _resized(test, image_size)
    deviation, mean = torch.std_mean(train.images, dim=(0, 2, 3))
    return Dataset(
        name=name,
        title=title or source.title,
        classes=source.classes,
        train=train,
        test=test,
        augmentation=source.augmentation,
        mean=tuple(round(value, 4) for value in mean.tolist()),
        std=tuple(round(max(value, 1e-3), 4) for value in deviation.tolist()),
        fingerprint="x".join(str(length) for length in train.images.shape) + source.content,
    )


def check_pixels(images: Tensor, argument: str = "images") -> None:
    """Refuse images whose pixels are not in [0, 1] (models normalise inside).

    Raises
    ------
    ValueError
        A pixel is outside [0, 1], or not a number.
    """
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):  # so written that NaN is refused too
        raise ValueError(
            f"{argument} must have pixels in [0, 1], found [{low:.3g}, {high:.3g}]. Models normalise "
            "inside: give them raw pixels, divided by 255 when they are bytes."
        )


def stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Indices of `size` items, in order, chosen alike at every call.

    There are as many of each class as of every other, to within one, until the items of a class run out; a
    smaller choice is part of every larger one.
    """
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    # every class gives its first member, then every class its second, and so on
    return np.sort(np.lexsort((labels, rank))[:size])


def to_bytes(images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Pixels in [0, 1] as bytes, each rounded to the nearest level."""
    return (images * 255).round().to(torch.uint8)


def from_bytes(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Bytes as pixels in [0, 1]."""
    return images.float() / 255


def _as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Bytes (n, c, h, w) to a split."""
    return Split(from_bytes(torch.from_numpy(images)), torch.from_numpy(labels).long())


def _resized(split: Split, size: int) -> Split:
    if split.images.shape[-2:] == (size, size):
        return split
    functional = torchvision.transforms.functional
    images = functional.center_crop(functional.resize(split.images, size, antialias=True), [size, size])
    return Split(images.clamp(0, 1), split.labels)


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


@register("shapes")
def _shapes(request: Request) -> Source:
    """Ten drawn outlines with nuisance, 1 × 16 × 16: harder than digits, so that models disagree."""
    return Source(
        classes=synthetic.SHAPE_CLASSES,
        train=_as_split(*synthetic.shapes(6000, seed=0)),
        test=_as_split(*synthetic.shapes(4000, seed=1)),
        title="shapes",
    )


def _register_two_features(name: str, informative: synthetic.Informative, title: str) -> None:
    @register(name)
    def _two_features(request: Request) -> Source:
        return Source(
            classes=synthetic.TWO_FEATURES,
            train=_as_split(*synthetic.two_features(6000, seed=0, informative=informative)),
            test=_as_split(*synthetic.two_features(2000, seed=1, informative=informative)),
            title=title,
        )


# Outlines on textures, 1 × 16 × 16: what a network can have used to tell the classes is known.
_register_two_features("two_features", "both", "two features")
_register_two_features("two_features_outline", "outline", "two features, outline informative")
_register_two_features("two_features_texture", "texture", "two features, texture informative")


@register("cifar10")
def _cifar10(request: Request) -> Source:
    """CIFAR-10 through torchvision, downloaded unless it is under the root already."""
    train, test = (
        torchvision.datasets.CIFAR10(request.root, train=train, download=True) for train in (True, False)
    )
    return Source(
        classes=tuple(train.classes),
        train=_as_split(train.data.transpose(0, 3, 1, 2), np.asarray(train.targets)),
        test=_as_split(test.data.transpose(0, 3, 1, 2), np.asarray(test.targets)),
        title="CIFAR-10",
        augmentation=Augmentation(crop=4, flip=True),
    )


def _folder(request: Request) -> Source:
    """Any folder with train/ and test/ (or val/) inside, each with one folder of images per class."""
    root = request.root
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder.")
    held_out = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        found = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "nothing"
        raise ValueError(f"{root} must hold train/ and test/ (or val/); found {found}.")
    classes = _class_folders(root / "train")
    if (other := _class_folders(held_out)) != classes:
        odd = ", ".join(sorted(set(classes) ^ set(other)))
        raise ValueError(f"{root / 'train'} and {held_out} hold different classes: {odd}.")
    train = _read_images(root / "train", classes, request.train_size, request.image_size)
    test = _read_images(held_out, classes, request.test_size, request.image_size)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"training images are {tuple(train.images.shape[1:])}, test images "
            f"{tuple(test.images.shape[1:])} (channels, height, width): give image_size."
        )
    flip_and_crop = Augmentation(crop=max(1, train.images.shape[-1] // 8), flip=True)
    digest = hashlib.sha256(to_bytes(train.images).numpy().tobytes())
    digest.update(train.labels.numpy().tobytes())
    content = "-" + digest.hexdigest()[:12]
    return Source(tuple(classes), train, test, root.resolve().name, flip_and_crop, content)


def _class_folders(folder: Path) -> list[str]:
    visible = [entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."]
    classes = sorted(visible)
    if len(classes) < 2:
        held = f"only the class folder {classes[0]!r}" if classes else "no class folder"
        raise ValueError(f"{folder} must hold one folder of images per class, at least two; found {held}.")
    return classes


def _read_images(folder: Path, classes: list[str], size: int | None, image_size: int | None) -> Split:
    from torchvision.transforms import functional

    files: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        found = sorted(f for f in (folder / name).rglob("[!.]*") if f.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"{folder / name} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        files += found
        labels += [index] * len(found)
    chosen = range(len(files)) if size is None else stratified(np.asarray(labels), size)
    images = []
    for index in chosen:
        try:
            picture = torchvision.datasets.folder.default_loader(str(files[index]))
        except OSError as error:  # PIL's own message does not always name the file
            raise ValueError(f"{files[index]} cannot be read as an image: {error}") from error
        image = functional.pil_to_tensor(picture)
        if image_size is not None:
            resized = functional.resize(image, image_size, antialias=True)
            image = functional.center_crop(resized, [image_size, image_size])
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"images differ in size: {files[index]} is {tuple(image.shape[1:])}, "
                f"{files[chosen[0]]} is {tuple(images[0].shape[1:])} pixels: give image_size."
            )
        images.append(image)
    return Split(torch.stack(images).float() / 255, torch.tensor(labels)[list(chosen)])
