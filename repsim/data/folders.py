"""Images in one folder per class: any folder, ImageNet, and parts of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch

from repsim.data.dataset import PHOTOGRAPHS, Request, Source, register, shift_and_flip
from repsim.data.downloads import WHERE, obtain
from repsim.data.streaming import Frame, ImageFiles, StreamedSplit, frame_photo
from repsim.support.compat import torchvision
from repsim.support.progress import progress_bar

IMAGE_SUFFIXES = torchvision.datasets.folder.IMG_EXTENSIONS
IMAGENET_SIZE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's models have these
WNID = re.compile(r"n\d{8}")
WOOF = {
    "n02086240": "Shih-Tzu",
    "n02087394": "Rhodesian ridgeback",
    "n02088364": "beagle",
    "n02089973": "English foxhound",
    "n02093754": "Border terrier",
    "n02096294": "Australian terrier",
    "n02099601": "golden retriever",
    "n02105641": "Old English sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
}


def load_folder(request: Request) -> Source:
    """Any folder with train/ and test/ (or val/) inside, each with one folder of images per class.

    Raises
    ------
    ValueError
        It is no such folder.
    """
    classes, train, test = split_folder(request.root)
    size = request.image_size
    frame = Frame(size, size) if size else None
    return Source(
        tuple(classes),
        files_of(request.root, train, frame),
        files_of(request.root, test, frame),
        request.root.resolve().name,
        shift_and_flip,
        held=True,
    )


def split_folder(root: Path) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Classes of a folder, and for each class its training and its test images, relative to the folder.

    Raises
    ------
    ValueError
        It does not hold train/ and test/ (or val/) with the same classes, each with an image at least.
    """
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
    train, test = (_list_images(root, part, classes) for part in (root / "train", held_out))
    return classes, train, test


def files_of(root: Path, by_class: Sequence[Sequence[str]], frame: Frame | None) -> StreamedSplit:
    """The images of one class after the other."""
    labels = torch.tensor([label for label, files in enumerate(by_class) for _ in files])
    return StreamedSplit.all_of(
        ImageFiles(root, [name for files in by_class for name in files], frame), labels
    )


def _class_folders(folder: Path) -> list[str]:
    visible = [entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."]
    classes = sorted(visible)
    if len(classes) < 2:
        held = f"only the class folder {classes[0]!r}" if classes else "no class folder"
        raise ValueError(f"{folder} must hold one folder of images per class, at least two; found {held}.")
    return classes


def _list_images(root: Path, folder: Path, classes: Sequence[str]) -> list[list[str]]:
    listed, depth = [], len(folder.parts) + 1
    for name in progress_bar(classes, f"listing {folder.name}", "class", len(classes) >= 100):
        found = sorted(
            file
            for file in (folder / name).rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(file.parts[depth:])
        )
        if not found:
            raise ValueError(f"{folder / name} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        listed.append([str(f.relative_to(root)) for f in found])
    return listed


def _is_hidden(parts: Sequence[str]) -> bool:
    """Whether a file below a class folder is hidden, or inside a folder that is, such as `.AppleDouble`."""
    return any(part.startswith(".") for part in parts)


@register("imagenet")
def _imagenet(request: Request) -> Source:
    """ImageNet (ILSVRC 2012): train/ and val/ with a folder for each WordNet id, or its archives.

    Classes are called by their WordNet ids: several of the published names stand for two classes.
    """
    root = _imagenet_folder(request.root)
    return _photographs(root, _class_folders(root / "train"), request, "ImageNet")


def _register_part(name: str, count: int) -> None:
    @register(name)
    def _part(request: Request) -> Source:
        """A part of ImageNet: the hundred classes of Tian et al. (2020), or fifty of your own list."""
        root = _imagenet_folder(request.root, name)
        classes = _listed_classes(name, count, request.root)
        missing = sorted(set(classes) - set(_class_folders(root / "train")))
        if missing:
            raise ValueError(f"{root / 'train'} has no folder for {', '.join(missing)}, which {name} has.")
        return _photographs(root, classes, request, f"ImageNet-{count}")


_register_part("imagenet100", 100)
_register_part("imagenet50", 50)


def _imagenet_folder(root: Path, *names: str) -> Path:
    """The folder that holds ImageNet's train/ and val/: below the root, or the root itself."""
    places = [root / name for name in (*names, "imagenet")] + [root]
    for place in places:
        if (place / "train").is_dir() and (place / "val").is_dir():
            return place
    archives = dict(torchvision.datasets.imagenet.ARCHIVE_META.values())
    for place in places:
        if any((place / file).is_file() for file in archives):  # torchvision checks and unpacks them
            for split in ("train", "val"):
                obtain(
                    "ImageNet",
                    place,
                    archives,
                    lambda place=place, split=split: torchvision.datasets.ImageNet(place, split),
                )
            return place
    raise ValueError(
        f"ImageNet is not under {root}: expected are {root / 'imagenet'} with train/ and val/, each with a "
        f"folder of images for every WordNet id (n01440764, …), or there the archives {', '.join(archives)}, "
        f"which image-net.org gives to those who register; torchvision unpacks them. {WHERE}"
    )


def _listed_classes(name: str, count: int, root: Path) -> list[str]:
    """WordNet ids, sorted: from the user's list, or the published one."""
    own, published = root / f"{name}.txt", resources.files(__package__) / f"{name}.txt"
    if own.is_file():
        text, where = own.read_text(encoding="utf-8"), str(own)
    elif published.is_file():
        text, where = published.read_text(encoding="utf-8"), f"the published list of {name}"
    else:
        raise ValueError(
            f"there is no list of classes that all mean by {name}: write the {count} WordNet ids of yours "
            f"(n01440764, …), one on each line, into {own}."
        )
    ids = [line.split("#")[0].strip() for line in text.splitlines()]
    ids = [wnid for wnid in ids if wnid]
    if odd := [wnid for wnid in ids if not WNID.fullmatch(wnid)]:
        raise ValueError(
            f"{where} has {odd[0]!r}; expected are WordNet ids such as n01440764, one on each line."
        )
    if len(ids) != count or len(set(ids)) != count:
        raise ValueError(
            f"{where} has {len(ids)} WordNet ids, {len(set(ids))} of them different, not {count}."
        )
    return sorted(ids)


def _photographs(
    root: Path, folders: Sequence[str], request: Request, title: str, names: Sequence[str] = ()
) -> Source:
    """ImageNet's classes of these folders: the middle of each image, 224 × 224 unless asked otherwise."""
    frame = frame_photo(request.image_size or IMAGENET_SIZE)
    train, test = (
        files_of(root, _list_images(root, root / part, folders), frame) for part in ("train", "val")
    )
    return Source(
        tuple(names or folders), train, test, title, PHOTOGRAPHS, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def _find_variant(request: Request, name: str) -> Path | None:
    """A folder of one of the published sizes, the largest that is there."""
    places = [request.root / f"{name}2{size}" for size in ("", "-320", "-160")]
    return next((place for place in places if (place / "train").is_dir() and (place / "val").is_dir()), None)


@register("imagenette")
def _imagenette(request: Request) -> Source:
    """Ten classes of ImageNet that are easy to tell apart; of 320 pixels unless another size is there."""
    kind = torchvision.datasets.Imagenette
    root = _find_variant(request, "imagenette")
    size = {"imagenette2": "full", "imagenette2-160": "160px"}.get(root.name if root else "", "320px")
    url, md5 = kind._ARCHIVES[size]
    loaded = obtain(
        "Imagenette",
        request.root,
        {Path(url).stem: None},
        lambda: kind(request.root, "train", size, download=root is None and request.download),
        {Path(url).name: md5},
    )
    root = root or request.root / "imagenette2-320"
    return _photographs(root, loaded.wnids, request, "Imagenette", [names[0] for names in loaded.classes])


@register("imagewoof")
def _imagewoof(request: Request) -> Source:
    """Ten breeds of dogs out of ImageNet; torchvision has no class for it, so that it is not downloaded."""
    root = _find_variant(request, "imagewoof")
    if root is None:
        raise ValueError(
            f"Imagewoof is not under {request.root}: unpack imagewoof2.tgz, imagewoof2-320.tgz or "
            "imagewoof2-160.tgz there, from the table at https://github.com/fastai/imagenette#imagewoof. "
            f"{WHERE}"
        )
    return _photographs(root, sorted(WOOF), request, "Imagewoof", [WOOF[wnid] for wnid in sorted(WOOF)])
