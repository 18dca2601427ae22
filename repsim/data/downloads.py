"""Published data sets through torchvision's own classes: found under a root, or downloaded there."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features

from repsim.data.dataset import Augmentation, Request, Source, register
from repsim.data.embedded import as_split
from repsim.data.splits import Split
from repsim.data.streaming import Frame, ImageFiles, StreamedSplit
from repsim.support.compat import torchvision

DIGITS = tuple("0123456789")
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# SHA-256 of all pixels, training images first
CIFAR10_JPEG = "aaf6162ad480776ee3eb14ed0ed50490f1eda7744e5c0c9a6cb118a510d584b7"
CROP_AND_FLIP = Augmentation(crop=4, flip=True)  # as all published training on CIFAR has it
WHERE = (
    "They are looked for under the argument root (data_root in notebooks), else REPSIM_DATA, else "
    "data/downloads."
)


Files = Mapping[str, str | None]


def obtain(
    title: str, root: Path, files: Files, make: Callable[[], Any], archives: Files | None = None
) -> Any:
    """Call `make`; if it fails, the error says which files are wanted where.

    Parameters
    ----------
    files
        What should be under the root, with its MD5 where one is published.
    archives
        What these are unpacked from.

    Raises
    ------
    RuntimeError
        Files are missing or damaged, and are not downloaded.
    """
    try:
        return make()
    except (RuntimeError, OSError) as error:
        check = torchvision.datasets.utils.check_integrity
        missing = [name for name in files if not (root / name).exists()]
        known = {**files, **(archives or {})}.items()
        damaged = [name for name, md5 in known if (root / name).is_file() and not check(root / name, md5)]
        message = f"{title} cannot be loaded from {root}: {str(error).strip()}"
        message += "" if message.endswith((".", "!")) else "."
        if damaged:
            message += (
                f" {', '.join(damaged)}: damaged, its MD5 is not the published one; remove it and fetch it "
                "again."
            )
        if missing:
            message += f" Missing: {', '.join(missing)}. {WHERE}"
        raise RuntimeError(message) from error


def _cifar(kind: type, title: str, request: Request) -> list[Any]:
    """Training and test images as torchvision has them."""
    files = {f"{kind.base_folder}/{file}": md5 for file, md5 in kind.train_list + kind.test_list}
    files[f"{kind.base_folder}/{kind.meta['filename']}"] = kind.meta["md5"]
    return obtain(
        title,
        request.root,
        files,
        lambda: [kind(request.root, train=train, download=request.download) for train in (True, False)],
        {kind.filename: kind.tgz_md5},
    )


def _register_cifar(name: str, title: str, kind: type) -> None:
    @register(name)
    def _named(request: Request) -> Source:
        """Small photographs of ten (CIFAR-10) or a hundred classes, 3 × 32 × 32."""
        train, test = _cifar(kind, title, request)
        return Source(
            classes=tuple(train.classes),
            train=as_split(train.data.transpose(0, 3, 1, 2), np.asarray(train.targets)),
            test=as_split(test.data.transpose(0, 3, 1, 2), np.asarray(test.targets)),
            title=title,
            augmentation=CROP_AND_FLIP,
        )


_register_cifar("cifar10", "CIFAR-10", torchvision.datasets.CIFAR10)
_register_cifar("cifar100", "CIFAR-100", torchvision.datasets.CIFAR100)


@register("cifar10_jpeg")
def _cifar10_jpeg(request: Request) -> Source:
    """CIFAR-10 as JPEG files of quality 75, class by class: the images of the committed networks.

    They are read from `cifar10_jpeg_train.tar.gz` and `cifar10_jpeg_test.tar.gz` under the root, where these
    are; else made of CIFAR-10.

    Raises
    ------
    RuntimeError
        The images are not the ones that the committed networks were trained on.
    """
    archives = {split: request.root / f"cifar10_jpeg_{split}.tar.gz" for split in ("train", "test")}
    if all(path.exists() for path in archives.values()):
        files = {split: _archived(path) for split, path in archives.items()}
    else:
        try:
            parts = _cifar(torchvision.datasets.CIFAR10, "CIFAR-10", request)
        except RuntimeError as error:
            names = " and ".join(path.name for path in archives.values())
            raise RuntimeError(f"{error} {names} would do as well.") from error
        files = {split: _compressed(part) for split, part in zip(archives, parts, strict=True)}
    splits, digest = {}, hashlib.sha256()
    for split, by_class in files.items():
        images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for held in by_class for file in held])
        labels = np.repeat(np.arange(len(by_class)), [len(held) for held in by_class])
        digest.update(images.tobytes())
        splits[split] = as_split(images.transpose(0, 3, 1, 2), labels)
    if digest.hexdigest() != CIFAR10_JPEG:
        raise RuntimeError(
            "the images of cifar10_jpeg are not those that the committed networks have seen: its archives "
            f"under {request.root} are damaged, or this version of Pillow (libjpeg-turbo "
            f"{features.version('jpg')}) compresses differently. folder:PATH takes any images as they are."
        )
    return Source(CIFAR10_CLASSES, splits["train"], splits["test"], "CIFAR-10 (JPEG)", CROP_AND_FLIP)


def _archived(path: Path) -> list[list[bytes]]:
    """The files of each class of an archive, in the order of their names."""
    with tarfile.open(path) as archive:
        found = {
            member.name: archive.extractfile(member).read()
            for member in archive
            if member.name.endswith(".jpg")
        }
    return [
        [found[name] for name in sorted(found) if name.split("/")[-2] == class_name]
        for class_name in CIFAR10_CLASSES
    ]


def _compressed(part: Any) -> list[list[bytes]]:
    """The images of each class of a data set of torchvision's, in their order, as JPEG files."""
    files: list[list[bytes]] = [[] for _ in CIFAR10_CLASSES]
    for image, label in zip(part.data, part.targets, strict=True):
        written = io.BytesIO()
        Image.fromarray(image).save(written, "JPEG", quality=75)
        files[label].append(written.getvalue())
    return files


def _register_mnist(
    name: str, title: str, kind: type, classes: tuple[str, ...], augmentation: Augmentation
) -> None:
    @register(name)
    def _mnist(request: Request) -> Source:
        """Grey images of ten classes, 1 × 28 × 28: digits, or garments (Fashion-MNIST)."""
        archives = {f"{kind.__name__}/raw/{file}": md5 for file, md5 in kind.resources}
        train, test = obtain(
            title,
            request.root,
            dict.fromkeys(file.removesuffix(".gz") for file in archives),
            lambda: [kind(request.root, train=train, download=request.download) for train in (True, False)],
            archives,
        )
        train, test = (as_split(part.data[:, None].numpy(), part.targets.numpy()) for part in (train, test))
        return Source(classes, train, test, title, augmentation)


_register_mnist("mnist", "MNIST", torchvision.datasets.MNIST, DIGITS, Augmentation())
# A mirrored or shifted garment is the same garment; random crops and flips are what most published networks
# for it are trained with (Zhong et al., 2020, for one).
_register_mnist(
    "fashion_mnist",
    "Fashion-MNIST",
    torchvision.datasets.FashionMNIST,
    tuple(torchvision.datasets.FashionMNIST.classes),
    CROP_AND_FLIP,
)


@register("svhn")
def _svhn(request: Request) -> Source:
    """Street View House Numbers, cropped; without the `extra` images."""
    kind = torchvision.datasets.SVHN
    files = {kind.split_list[split][1]: kind.split_list[split][2] for split in ("train", "test")}
    train, test = obtain(
        "SVHN",
        request.root,
        files,
        lambda: [kind(request.root, split=split, download=request.download) for split in ("train", "test")],
    )
    return Source(DIGITS, as_split(train.data, train.labels), as_split(test.data, test.labels), "SVHN")


@register("celeba")
def _celeba(request: Request) -> Source:
    """CelebA, aligned and cropped, 178 × 218 unless resized: 40 attributes of each face, each 0 or 1.

    Mirrored faces have the same attributes. The published `valid` images are left out.
    """
    kind = torchvision.datasets.CelebA
    known = {f"celeba/{file}": md5 for _, md5, file in kind.file_list}
    files = {name: md5 for name, md5 in known.items() if name.endswith(".txt")}
    splits = obtain(
        "CelebA",
        request.root,
        {**files, "celeba/img_align_celeba": None},
        lambda: [kind(request.root, split=split, download=request.download) for split in ("train", "test")],
        known,
    )
    folder = request.root / "celeba" / "img_align_celeba"
    size = request.image_size
    frame = Frame(size, size) if size else None

    def split_of(part: Any) -> Split | StreamedSplit:
        return StreamedSplit.all_of(ImageFiles(folder, part.filename, frame), part.attr.to(torch.float32))

    train, test = map(split_of, splits)
    attributes = tuple(name for name in splits[0].attr_names if name)  # the published line ends in a space
    return Source(attributes, train, test, "CelebA", Augmentation(flip=True))
