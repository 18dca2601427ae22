"""`load_data`: a name becomes a `Dataset`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from repsim.data import downloads, embedded  # noqa: F401 (loaders become known in the order in which errors list them)
from repsim.data.dataset import LOADERS, Augmentation, Dataset, Request, Source
from repsim.data.folders import load_folder
from repsim.data.indices import read_rows
from repsim.data.packing import load_pack
from repsim.data.splits import Rows, Split, to_bytes
from repsim.data.streaming import IN_MEMORY, StreamedSplit
from repsim.support import messages, paths
from repsim.support.compat import torchvision

WITH_PATH = {"folder:": load_folder, "packed:": load_pack}
ESTIMATED = 2000  # images from which mean and deviation of a streamed split are estimated


def find_loader(name: str, root: Path) -> tuple[Path, Callable[[Request], Source]]:
    """The place of the files of a named data set, and its loader.

    Raises
    ------
    ValueError
        The name is unknown.
    """
    kind = name[: name.find(":") + 1]
    if kind in WITH_PATH:
        return Path(name.removeprefix(kind)).expanduser(), WITH_PATH[kind]
    if name not in LOADERS:
        raise ValueError(messages.unknown("data set", name, [*LOADERS, "folder:PATH", "packed:PATH"]))
    return root, LOADERS[name]


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    train_indices: str | Path | None = None,
    test_indices: str | Path | None = None,
    skip_unreadable: bool = False,
    title: str = "",
    download: bool = True,
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name
        `digits`, `shapes`, `two_features` (also `…_outline` and `…_texture`, where only that feature tells
        the class); `cifar10`, `cifar100`, `mnist`, `fashion_mnist`, `svhn`, `celeba`, `imagenet`,
        `imagenet100`, `imagenet50`, `imagenette`, `imagewoof`; `folder:PATH` for any folder that holds
        `train/` and `test/` (or `val/`), each with one folder of images per class; or `packed:PATH` for what
        `repsim pack-images` made of one.
    root
        Where downloaded data sets are, or go: by default `REPSIM_DATA`, else `data/downloads`.
    train_size, test_size
        Keep so many images of each split, as many of each class as of every other; 0 or None keeps all.
    image_size
        Resize the shorter side to so many pixels and crop the centre; 0 or None leaves images as they are.
        Of ImageNet and its parts 8/7 of it, and 224 by default: so are its models evaluated.
    train_indices, test_indices
        Files of row indices (see `read_rows`): keep these, in this order, before `train_size` and
        `test_size` choose among them. Images in class folders are counted class by class, by file name.
    skip_unreadable
        Leave out image files that cannot be read, with a warning that names them.
    title
        What figures call the data set, instead of its own name.
    download
        Fetch what is not under the root yet, where that is possible.

    Raises
    ------
    ValueError
        The name is unknown, or the folder is not one of class folders of images; indices do not fit; an image
        cannot be read; or test images are too many for memory.
    RuntimeError
        Files are not under the root, and are not fetched; or a package is not installed.
    DamagedArtifact
        A pack is not what was written.
    """
    for argument, size, unit, default in (
        ("train_size", train_size, "images", "all"),
        ("test_size", test_size, "images", "all"),
        ("image_size", image_size, "pixels", "as they are"),
    ):
        if size is not None and size < 0:
            raise ValueError(f"{argument} is a number of {unit}, 0 for {default}, not {size}.")
    root = data_root(root)
    root, loader = find_loader(name, root)
    source = loader(Request(root, image_size or None, download))
    train, train_rows = _rows(source.train, train_indices, "train_indices")
    test, test_rows = _rows(source.test, test_indices, "test_indices")
    train, test = train.subset(train_size or None), test.subset(test_size or None)
    content = ""
    if isinstance(train, StreamedSplit):
        if source.held or train.size <= IN_MEMORY:
            train = train.in_memory(skip_unreadable=skip_unreadable)
            content = "-" + _digest(train)
        elif skip_unreadable:
            raise ValueError(
                f"the {len(train)} training images of {name} are read while networks are trained, and cannot "
                "be skipped then: pack them with repsim pack-images --skip-unreadable, or give train_size."
            )
        else:
            content = "-" + train.digest()
    elif image_size:
        train = _resized(train, image_size)
    if isinstance(test, StreamedSplit):
        if not source.held and test.size > IN_MEMORY:
            raise ValueError(
                f"the {len(test)} test images of {name} take {test.size / 2**30:.0f} GiB of memory: give "
                f"test_size, at most {len(test) * IN_MEMORY // test.size}."
            )
        test = test.in_memory(skip_unreadable=skip_unreadable)
    elif image_size:
        test = _resized(test, image_size)
    if train.image_shape != test.image_shape:
        raise ValueError(
            f"training images are {train.image_shape}, test images {test.image_shape} (channels, height, "
            "width): give image_size."
        )
    mean, std = (source.mean, source.std) if source.mean and source.std else _moments(train)
    augmentation = source.augmentation
    if not isinstance(augmentation, Augmentation):
        augmentation = augmentation(train.image_shape[2])
    return Dataset(
        name=name,
        title=title or source.title,
        classes=source.classes,
        train=train,
        test=test,
        augmentation=augmentation,
        mean=mean,
        std=std,
        fingerprint="x".join(map(str, (len(train), *train.image_shape)))
        + content
        + _rows_digest(train_rows, test_rows),
    )


def data_root(root: str | Path | None) -> Path:
    """The folder where downloaded data sets are, or go: see `load_data`."""
    return Path(root or os.environ.get("REPSIM_DATA") or paths.data() / "downloads").expanduser()


def _rows(
    split: Split | StreamedSplit, path: str | Path | None, argument: str
) -> tuple[Split | StreamedSplit, Rows | None]:
    """The rows that a file names, if there is one."""
    if path is None or not str(path):
        return split, None
    rows = read_rows(path, argument, len(split))
    return split.part(rows), rows


def _rows_digest(*chosen: Rows | None) -> str:
    """A digest of the chosen rows: of test images too, as what is measured on some is not true of others."""
    if all(rows is None for rows in chosen):
        return ""
    found = hashlib.sha256()
    for rows in chosen:
        found.update(b"all;" if rows is None else rows.numpy().tobytes() + b";")
    return f"-rows{found.hexdigest()[:12]}"


def _digest(split: Split) -> str:
    digest = hashlib.sha256(to_bytes(split.images).numpy().tobytes())
    digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()[:12]


def _moments(train: Split | StreamedSplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel."""
    images: Tensor
    if isinstance(train, Split):
        images = train.images
    else:
        some = train.subset(ESTIMATED)
        images = some.take(torch.arange(len(some)))
    deviation, mean = torch.std_mean(images, dim=(0, 2, 3))
    return (
        tuple(round(value, 4) for value in mean.tolist()),
        tuple(round(max(value, 1e-3), 4) for value in deviation.tolist()),
    )


def _resized(split: Split, size: int) -> Split:
    if split.image_shape[1:] == (size, size):
        return split
    functional = torchvision.transforms.functional
    images = functional.center_crop(functional.resize(split.images, size, antialias=True), [size, size])
    return Split(images.clamp(0, 1), split.labels)
