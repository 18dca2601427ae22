"""Images that are read when they are needed: from files one by one, or from a pack."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Pictures
from torch import Tensor

from repsim.data.splits import Choosable, Rows, Split, from_bytes
from repsim.support.compat import torchvision
from repsim.support.labels import Labels

Image = UInt8[Tensor, "c h w"]
IN_MEMORY = 6 * 2**30  # bytes: splits that take more as float32 are read while they are used
AT_ONCE = 256  # images that threads are given to read
NAMED = 10  # skipped images that a warning names before it only counts them
DEEPEST = 2**16 - 1  # white, in pictures of more than a byte for a pixel
READ_ERRORS = (OSError, SyntaxError, ValueError)  # what Pillow raises for files that are no images, or broken


class UnreadableImage(ValueError):
    """A file that should be an image is none, or is broken."""


class Frame(NamedTuple):
    """Resize the shorter side to `resize` pixels, and keep a square of `crop` from the centre."""

    resize: int
    crop: int

    def of(self, image: Image) -> UInt8[Tensor, "c crop crop"]:
        functional = torchvision.transforms.functional
        resized = functional.resize(image, self.resize, antialias=True)
        return functional.center_crop(resized, [self.crop, self.crop])


def frame_photo(size: int) -> Frame:
    """The middle of a photograph as ImageNet's models are evaluated: 256 pixels, of which 224 are kept."""
    return Frame(round(size * 8 / 7), size)


@runtime_checkable
class Images(Protocol):
    """A source of images, each read by its row."""

    def read(self, row: int) -> Image:
        """One image as RGB bytes.

        Raises
        ------
        UnreadableImage
            The file is no image, or is broken.
        """

    def name(self, row: int) -> str:
        """The name of an image in messages."""

    def mark(self, row: int) -> str:
        """A mark that tells an image from others, without reading it."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files below a folder."""

    folder: Path
    files: Sequence[str]  # relative to the folder
    frame: Frame | None = None

    def read(self, row: int) -> Image:
        path = self.name(row)
        picture = decode(path, Path(path).read_bytes())
        image = torchvision.transforms.functional.pil_to_tensor(picture)
        return image if self.frame is None else self.frame.of(image)

    def name(self, row: int) -> str:
        return str(self.folder / self.files[row])

    def mark(self, row: int) -> str:
        return self.files[row]


def decode(name: str, content: bytes) -> Pictures.Image:
    """A picture of 8 bits for each of red, green and blue from a file's bytes.

    Grey levels of 16 bits are divided by 65535, and floats are taken as they are, in [0, 1]; both are then
    rounded to bytes.

    Parameters
    ----------
    name
        What messages call the file.

    Raises
    ------
    UnreadableImage
        They are no picture, a broken one, or one whose range of grey levels is another.
    """
    try:
        with Pictures.open(io.BytesIO(content)) as picture:
            if picture.mode.startswith("I") or picture.mode == "F":  # which Pillow would cut off at 255
                return Pictures.fromarray(_bytes_of(np.asarray(picture))).convert("RGB")
            return picture.convert("RGB")
    except READ_ERRORS as error:
        refuse(name, content, error)


def _bytes_of(levels: np.ndarray) -> np.ndarray:
    """Grey levels, whole ones of 16 bits or floats in [0, 1], as bytes."""
    kind, white = ("floats", 1) if levels.dtype.kind == "f" else ("whole numbers", DEEPEST)
    low, high = levels.min(), levels.max()
    if not (low >= 0 and high <= white):  # so written that NaN is refused too
        raise ValueError(
            f"its grey levels, {kind} of {8 * levels.itemsize} bits, are in [{low:g}, {high:g}]; expected "
            f"are such in [0, {white}]"
        )
    return np.rint(levels * (255 / white)).astype(np.uint8)


def refuse(name: str, content: bytes, error: Exception) -> NoReturn:
    """Say of a file's bytes why they are no image.

    Raises
    ------
    UnreadableImage
        Always.
    """
    start = content[:200].lstrip().lower()
    reason: object = error
    if not content:
        reason = "the file is empty"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        reason = "it holds a web page, as failed downloads leave them"
    raise UnreadableImage(f"{name} cannot be read as an image: {reason}") from error


@dataclass(frozen=True, eq=False)
class StreamedSplit(Choosable):
    """A split too large for memory: at any time no more than a few batches of it are there.

    Attributes
    ----------
    rows
        Of the images, where they are read from.
    labels
        Of these images, as those of a `Split`.
    """

    source: Images
    rows: Rows
    labels: Labels

    @classmethod
    def all_of(cls, source: Images, labels: Labels) -> StreamedSplit:
        """Every image of a source."""
        return cls(source, torch.arange(len(labels)), labels)

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width, of the first image that can be read.

        Raises
        ------
        UnreadableImage
            There is none.
        """
        for row in self.rows.tolist():
            try:
                return tuple(self.source.read(row).shape)
            except UnreadableImage as error:
                unreadable = error
        raise unreadable

    @property
    def size(self) -> int:
        """Bytes that the images would take in memory."""
        return 4 * len(self) * torch.Size(self.image_shape).numel()

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that the images take: none, but for the batches of the moment."""
        return 0

    @property
    def images(self) -> NoReturn:
        """Refuse to give all images: they are not in memory.

        Raises
        ------
        ValueError
            Always: what needs all images at once cannot have these.
        """
        most = len(self) * IN_MEMORY // self.size
        raise ValueError(
            f"{len(self)} images would take {self.size / 2**30:.1f} GiB, and are read while networks are "
            f"trained. This analysis needs them in memory: load the data with train_size of at most {most}."
        )

    def part(self, rows: Rows) -> StreamedSplit:
        """Some of the images, in this order."""
        return replace(self, rows=self.rows[rows], labels=self.labels[rows])

    def to(self, device: torch.device) -> StreamedSplit:
        """The same, with images and labels given on a device."""
        return replace(self, labels=self.labels.to(device))

    def take(self, rows: Rows) -> Float[Tensor, "m c h w"]:
        """Some of the images, in this order, on the device of the labels."""
        chosen = self.rows[rows.cpu()].tolist()
        read = _stack(self.source, chosen, list(_readers().map(self.source.read, chosen)))
        return from_bytes(read).to(self.labels.device)

    def in_batches(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`take` of one batch after the other; the next is read while one is used."""
        with ThreadPoolExecutor(1) as ahead:
            coming: deque = deque()
            for batch in batches:
                coming.append(ahead.submit(self.take, batch))
                if len(coming) == 2:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def in_memory(self, *, skip_unreadable: bool = False) -> Split:
        """All images at once; with `skip_unreadable`, without those that cannot be read, and a warning.

        Raises
        ------
        UnreadableImage
            An image cannot be read and is not to be skipped, or none can be read.
        ValueError
            Images differ in size.
        """
        found: list[Image] = []
        kept: list[int] = []
        skipped: list[str] = []
        for places in torch.arange(len(self)).split(AT_ONCE):
            rows = self.rows[places].tolist()
            for place, row, read in zip(places.tolist(), rows, _readers().map(self._try, rows), strict=True):
                if isinstance(read, Tensor):
                    found.append(read)
                    kept.append(place)
                elif skip_unreadable:
                    skipped.append(self.source.name(row))
                else:
                    raise UnreadableImage(f"{read} (skip_unreadable=True leaves such images out).") from read
        if not found:
            raise UnreadableImage(f"none of {len(skipped)} images can be read: {_some(skipped)}.")
        if skipped:
            warnings.warn(
                f"skipped {len(skipped)} of {len(self)} images, which cannot be read: {_some(skipped)}.",
                stacklevel=3,
            )
        images = _stack(self.source, self.rows[kept].tolist(), found)
        return Split(from_bytes(images), self.labels[kept])

    def _try(self, row: int) -> Image | UnreadableImage:
        try:
            return self.source.read(row)
        except UnreadableImage as error:
            return error

    def digest(self) -> str:
        """A digest that tells these images and labels from others, without reading them: 12 hex digits."""
        found = hashlib.sha256()
        for row in self.rows.tolist():
            found.update(self.source.mark(row).encode() + b"\n")
        found.update(self.labels.cpu().numpy().tobytes())
        return found.hexdigest()[:12]


def _stack(source: Images, rows: Sequence[int], images: list[Image]) -> UInt8[Tensor, "n c h w"]:
    for row, image in zip(rows, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"images differ in size: {source.name(row)} is {tuple(image.shape[1:])}, "
                f"{source.name(rows[0])} is {tuple(images[0].shape[1:])} pixels: give image_size."
            )
    return torch.stack(images)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(itertools.islice(names, NAMED)) + more


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """Threads that decode images; Pillow lets others run while it does."""
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1))
