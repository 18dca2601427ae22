"""A folder of images as one file (LMDB): quick to copy, to check, and to read from in any order.

A pack holds each image's bytes under its row; under `plan` the classes, and what was to be packed; under
`part…` tables of what images are (split, name, label, size, SHA-256); and under `about`, written last, how
many there are, and a hash of plan and tables.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import types
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image as Pictures

from repsim.data.dataset import PHOTOGRAPHS, Augmentation, Request, Source, shift_and_flip
from repsim.data.folders import IMAGENET_SIZE, split_folder
from repsim.data.streaming import (
    Frame,
    Image,
    StreamedSplit,
    UnreadableImage,
    decode,
    frame_photo,
)
from repsim.support import artifacts
from repsim.support.compat import torchvision
from repsim.support.extras import extra
from repsim.support.progress import progress_bar

BATCH = 256  # images written at once: what an interrupted run has to do again
COLUMNS = ("split", "name", "label", "height", "width", "sha256")
QUALITY = 95  # of JPEG, for images that are made smaller
PHOTOGRAPH = 128  # pixels from which on an image is treated as a photograph, as ImageNet's are


def pack_images(
    folder: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    skip_unreadable: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Pack a folder of class folders, as `load_data("folder:PATH")` takes it, into one file.

    An interrupted run goes on where it stopped, or begins again where the folder has changed meanwhile. The
    file has its name only once it is whole.

    Parameters
    ----------
    size
        Shrink images whose shorter side is longer to this, as JPEG; else all bytes are kept as they are.
    skip_unreadable
        Leave out images that cannot be read.

    Returns
    -------
    dict
        `train` and `test`, how many images there are; `skipped`, the names of those left out; `resumed`, how
        many an earlier run had packed.

    Raises
    ------
    ValueError
        The folder is no such folder, or the file exists already.
    UnreadableImage
        An image cannot be read, and is not to be skipped.
    RuntimeError
        `lmdb` is not installed.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is a number of pixels, not {size}.")
    lmdb = _lmdb()
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    classes, train, test = split_folder(folder)
    rows = [
        (split, name, label)
        for split, by_class in (("train", train), ("test", test))
        for label, names in enumerate(by_class)
        for name in names
    ]
    stats = [os.stat(folder / name) for _, name, _ in rows]
    listing = hashlib.sha256()
    for row, stat in zip(rows, stats, strict=True):
        listing.update(f"{row} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    plan = {"classes": classes, "images": len(rows), "size": size, "listing": listing.hexdigest()}
    partial = out.with_name(f".{out.name}.partial")
    with artifacts.locked(out):
        if out.exists():
            raise ValueError(f"{out} exists already: remove it, or give another name.")
        # Room is named, not taken. Pages may be half full, and JPEG of this quality larger than it was.
        room = 8 * sum(stat.st_size for stat in stats) + 2**28
        store = _begin(lmdb, partial, plan, room)
        try:
            resumed = len(_table(store))
            bar = progress_bar(None, "packing", "image", progress, total=len(rows), initial=resumed)
            with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool, bar:
                for start in range(resumed, len(rows), BATCH):
                    batch = rows[start : start + BATCH]
                    read = functools.partial(_read, folder, size, skip_unreadable)
                    _write(store, start, batch, list(pool.map(read, [name for _, name, _ in batch])))
                    bar.update(len(batch))
            return {**_finish(store, partial, out), "resumed": resumed}
        finally:
            store.close()


def _lmdb() -> types.ModuleType:
    with extra("packed", "packed images need"):
        import lmdb
    return lmdb


def _begin(lmdb: types.ModuleType, partial: Path, plan: dict[str, object], room: int) -> Any:
    """The store of an interrupted run of the same plan, or a new one."""
    options = {"subdir": False, "lock": False, "map_size": room}
    if partial.exists():
        try:
            store = lmdb.open(str(partial), **options)
            with store.begin() as transaction:
                kept = transaction.get(b"plan")
            if kept is not None and json.loads(kept) == plan:
                return store
            store.close()
        except lmdb.Error:
            pass  # a kill before anything was written leaves a file that is no store
        partial.unlink()
    store = lmdb.open(str(partial), **options)
    with store.begin(write=True) as transaction:
        transaction.put(b"plan", json.dumps(plan).encode())
    return store


def _read(folder: Path, size: int | None, skip: bool, name: str) -> tuple[bytes, int, int] | None:
    """An image's bytes as they are packed, its height and width; None for one that is skipped."""
    content = (folder / name).read_bytes()
    try:
        picture = decode(str(folder / name), content)
    except UnreadableImage as error:
        if skip:
            return None
        raise UnreadableImage(f"{error} (skip such images with --skip-unreadable).") from error
    if size is not None and min(picture.size) > size:
        scale = size / min(picture.size)
        picture = picture.resize([max(size, round(side * scale)) for side in picture.size], Pictures.BICUBIC)
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=QUALITY)
        content = encoded.getvalue()
    return content, picture.height, picture.width


def _write(
    store: Any,
    start: int,
    rows: Sequence[tuple[str, str, int]],
    read: Sequence[tuple[bytes, int, int] | None],
) -> None:
    """Images and the table of what they are: both or neither."""
    table = []
    with store.begin(write=True) as transaction:
        for place, (row, found) in enumerate(zip(rows, read, strict=True), start):
            if found is None:
                table.append((*row, 0, 0, ""))
            else:
                content, height, width = found
                transaction.put(_key(place), content)
                table.append((*row, height, width, hashlib.sha256(content).hexdigest()))
        text = pd.DataFrame(table).to_csv(index=False, header=False)
        transaction.put(f"part{start:010d}".encode(), text.encode())


def _key(row: int) -> bytes:
    return f"{row:010d}".encode()


def _parts(store: Any) -> list[bytes]:
    """The tables, as they were written, in order."""
    parts = []
    with store.begin() as transaction, transaction.cursor() as cursor:
        cursor.set_range(b"part")
        for key, value in cursor:
            if not key.startswith(b"part"):
                break
            parts.append(value)
    return parts


def _table(store: Any) -> pd.DataFrame:
    """One row for each image, also for those that were skipped."""
    text = io.BytesIO(b"".join(_parts(store)))
    texts = dict.fromkeys(("split", "name", "sha256"), str)
    return pd.read_csv(text, names=COLUMNS, dtype=texts, keep_default_na=False)


def _hash(store: Any) -> str:
    with store.begin() as transaction:
        found = hashlib.sha256(transaction.get(b"plan") or b"")
    for part in _parts(store):
        found.update(part)
    return found.hexdigest()


def _finish(store: Any, partial: Path, out: Path) -> dict[str, Any]:
    """Say in the file what is in it, and give it its name."""
    table = _table(store)
    there = table["sha256"] != ""
    counts = table[there]["split"].value_counts()
    for split in ("train", "test"):
        if split not in counts:
            raise UnreadableImage(f"no {split} image can be read.")
    with store.begin(write=True) as transaction:
        about = {"images": int(there.sum()), "hash": _hash(store)}
        transaction.put(b"about", json.dumps(about).encode())
    store.sync(True)
    partial.replace(out)
    skipped = table["name"][~there].tolist()
    return {"train": int(counts["train"]), "test": int(counts["test"]), "skipped": skipped}


@dataclass(frozen=True, eq=False)
class Pack:
    """The images of a packed file; each is checked when it is read.

    Attributes
    ----------
    rows
        Of the file, in which images are.
    """

    path: Path
    rows: Sequence[int]
    names: Sequence[str]
    checksums: Sequence[str]
    frame: Frame | None = None

    def read(self, row: int) -> Image:
        try:
            with _opened(self.path).begin() as transaction:
                content = transaction.get(_key(self.rows[row])) or b""
        except _lmdb().Error:
            content = b""  # a page of the file itself is damaged
        if hashlib.sha256(content).hexdigest() != self.checksums[row]:
            raise artifacts.DamagedArtifact(
                f"{self.path} is damaged: {self.names[row]} is not what was packed. Pack the folder again."
            )
        image = torchvision.transforms.functional.pil_to_tensor(decode(self.name(row), content))
        return image if self.frame is None else self.frame.of(image)

    def name(self, row: int) -> str:
        return f"{self.path}: {self.names[row]}"

    def mark(self, row: int) -> str:
        return self.checksums[row]


def _opened(path: Path) -> Any:
    stat = path.stat()
    return _open(path, stat.st_ino, stat.st_mtime_ns)


@functools.cache
def _open(path: Path, inode: int, changed: int) -> Any:
    """One file is opened once in each process, as LMDB wants it; one that was made again is another file."""
    return _lmdb().open(str(path), subdir=False, readonly=True, lock=False, readahead=False)


def load_pack(request: Request) -> Source:
    """Load what `pack_images` wrote.

    Images that are all of one size are taken as they are, others as ImageNet's, 224 × 224, unless
    `image_size` is given.

    Raises
    ------
    ValueError
        There is no such file.
    DamagedArtifact
        It is no pack, or not whole.
    """
    path = request.root.resolve()
    classes, table = _check(path)
    uniform = len(table[["height", "width"]].drop_duplicates()) == 1
    size = request.image_size or (None if uniform else IMAGENET_SIZE)
    frame = None
    if size is not None:
        frame = frame_photo(size) if size >= PHOTOGRAPH else Frame(size, size)

    def split_of(name: str) -> StreamedSplit:
        own = table[table["split"] == name]
        source = Pack(path, own.index.tolist(), own["name"].tolist(), own["sha256"].tolist(), frame)
        return StreamedSplit.all_of(
            source, torch.from_numpy(own["label"].to_numpy(dtype=np.int64, copy=True))
        )

    return Source(tuple(classes), split_of("train"), split_of("test"), path.stem, _augmentation)


def _augmentation(width: int) -> Augmentation:
    return PHOTOGRAPHS if width >= PHOTOGRAPH else shift_and_flip(width)


def _check(path: Path) -> tuple[list[str], pd.DataFrame]:
    """The classes and the table of a pack, after a check that all of it is there."""
    if not path.is_file():
        raise ValueError(f"{path} is no file: repsim pack-images FOLDER {path} makes it.")
    lmdb = _lmdb()
    try:
        store = _opened(path)
        # before anything is read: what is behind the end of a truncated file would kill the process
        if path.stat().st_size < (store.info()["last_pgno"] + 1) * store.stat()["psize"]:
            raise ValueError("it is shorter than it was")
        with store.begin() as transaction:
            plan, about = (transaction.get(key) for key in (b"plan", b"about"))
        if plan is None or about is None:
            raise ValueError("it does not say what is in it")
        if _hash(store) != json.loads(about)["hash"]:
            raise ValueError("its tables are not those that were written")
        table = _table(store)
        table = table[table["sha256"] != ""]
        found, expected = store.stat()["entries"] - len(_parts(store)) - 2, json.loads(about)["images"]
        if not found == len(table) == expected:
            raise ValueError(f"it holds {found} images of {expected}")
    except (lmdb.Error, ValueError, KeyError) as error:
        raise artifacts.DamagedArtifact(
            f"{path} is no whole pack of images ({error}): remove it, and make it again with repsim "
            "pack-images."
        ) from error
    return json.loads(plan)["classes"], table
