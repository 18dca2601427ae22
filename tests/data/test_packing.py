"""Folders of images as one file: whole or not at all, checked, and the same images as before."""

import pickle
import re
import sys

import lmdb
import numpy as np
import pytest
import torch
from image_files import picture
from PIL import Image

from repsim.cli.main import main
from repsim.data import Augmentation, Split, StreamedSplit, UnreadableImage, load_data, pack_images, packing
from repsim.support.artifacts import DamagedArtifact


@pytest.fixture
def photos(tmp_path, rng):
    """Ten training and two test images of each of two classes, JPEG and PNG, of several sizes."""
    root = tmp_path / "photos"
    for part, count in (("train", 10), ("val", 2)):
        for name in ("ant", "bee"):
            for number in range(count):
                size = (40 + number, 30) if number % 2 else (30, 36)
                file = root / part / name / f"{number}.{'jpg' if number % 3 else 'png'}"
                file.parent.mkdir(parents=True, exist_ok=True)
                coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                coarse.resize(size, Image.BICUBIC).save(file)
    return root


@pytest.fixture
def streamed(monkeypatch):
    """Training images are streamed if they are more than five of 24 × 24."""
    monkeypatch.setattr("repsim.data.loading.IN_MEMORY", 5 * 4 * 3 * 24 * 24)
    monkeypatch.setattr(packing, "BATCH", 3)


def pack(folder, out, **options):
    return pack_images(folder, out, progress=False, **options)


def test_packed_images_are_those_of_the_folder(photos, tmp_path):
    out = tmp_path / "packs" / "photos.lmdb"
    assert pack(photos, out) == {"train": 20, "test": 4, "skipped": [], "resumed": 0}
    folder = load_data(f"folder:{photos}", image_size=24)
    packed = load_data(f"packed:{out}", image_size=24)
    for one, other in ((packed.train, folder.train), (packed.test, folder.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert (packed.fingerprint, packed.mean, packed.std) == (folder.fingerprint, folder.mean, folder.std)
    assert (packed.classes, packed.augmentation) == (folder.classes, folder.augmentation)
    assert (packed.title, packed.slug) == ("photos", "photos")


def test_bytes_are_kept(photos, tmp_path):
    out = tmp_path / "photos.lmdb"
    pack(photos, out)
    with lmdb.open(str(out), subdir=False, readonly=True, lock=False) as store, store.begin() as transaction:
        first = transaction.get(b"0000000000")
    assert first == (photos / "train" / "ant" / "0.png").read_bytes()


def test_larger_images_are_shrunk_on_request(photos, tmp_path):
    big, small = tmp_path / "big.lmdb", tmp_path / "small.lmdb"
    pack(photos, big)
    pack(photos, small, size=24)
    assert small.stat().st_size <= big.stat().st_size
    with lmdb.open(str(small), subdir=False, readonly=True, lock=False) as store:
        table = packing._table(store)
    assert set(table[["height", "width"]].min(axis=1)) == {24}  # the shorter side; the shape is kept
    assert table["width"].max() > 30
    whole, shrunk = (load_data(f"packed:{path}", image_size=24).test.images for path in (big, small))
    assert (whole - shrunk).abs().mean() < 0.06 < (whole - shrunk.roll(1, 0)).abs().mean()
    pack(photos, tmp_path / "large.lmdb", size=500)  # nothing is made larger
    large = load_data(f"packed:{tmp_path / 'large.lmdb'}", image_size=24)
    assert torch.equal(large.test.images, whole)
    with pytest.raises(ValueError, match="size is a number of pixels, not 0"):
        pack(photos, tmp_path / "none.lmdb", size=0)


def test_sizes_and_augmentation(photos, pets, tmp_path):
    pack(photos, tmp_path / "photos.lmdb")
    photographs = load_data(f"packed:{tmp_path / 'photos.lmdb'}")  # of several sizes: as ImageNet's
    assert photographs.image_shape == (3, 224, 224)
    assert photographs.augmentation == Augmentation(flip=True, resized_crop=True)
    pack(pets, tmp_path / "pets.lmdb")
    small = load_data(f"packed:{tmp_path / 'pets.lmdb'}")  # all of one size: as they are
    assert small.image_shape == (3, 10, 12)
    assert small.augmentation == Augmentation(crop=1, flip=True)
    assert small.fingerprint == load_data(f"folder:{pets}").fingerprint


# streaming


def test_large_packs_are_streamed(photos, tmp_path, streamed):
    out = tmp_path / "photos.lmdb"
    pack(photos, out)
    whole = load_data(f"folder:{photos}", image_size=24)
    dataset = load_data(f"packed:{out}", image_size=24)
    train = dataset.train
    assert isinstance(train, StreamedSplit)
    assert isinstance(dataset.test, Split)
    assert len(train) == 20
    assert train.image_shape == dataset.image_shape == (3, 24, 24)
    rows = torch.tensor([19, 0, 7])
    assert torch.equal(train.take(rows), whole.train.images[rows])
    assert torch.equal(train.labels, whole.train.labels)
    batches = torch.randperm(20).split(6)
    for batch, images in zip(batches, train.in_batches(batches), strict=True):
        assert torch.equal(images, whole.train.images[batch])
    assert (train.held_bytes, dataset.test.held_bytes) == (0, 4 * 4 * 3 * 24 * 24)
    few = train.subset(6)
    assert torch.equal(few.take(torch.arange(6)), whole.train.subset(6).images)
    assert (dataset.mean, dataset.std) == (whole.mean, whole.std)  # of all, since they are few
    assert isinstance(load_data(f"packed:{out}", image_size=24, train_size=5).train, Split)


def test_no_more_than_two_batches_are_read_ahead(photos, tmp_path, streamed, monkeypatch):
    pack(photos, tmp_path / "photos.lmdb")
    train = load_data(f"packed:{tmp_path / 'photos.lmdb'}", image_size=24).train
    read, used = [], 0
    monkeypatch.setattr(packing.Pack, "read", spy(packing.Pack.read, read))
    for _ in train.in_batches(torch.arange(20).split(2)):
        used += 2
        assert len(read) <= used + 2
    assert sorted(read) == [*range(20)]  # each once


def spy(function, calls):
    def spied(self, row):
        calls.append(row)
        return function(self, row)

    return spied


def test_what_needs_all_images_at_once_says_so(photos, tmp_path, streamed):
    pack(photos, tmp_path / "photos.lmdb")
    dataset = load_data(f"packed:{tmp_path / 'photos.lmdb'}", image_size=24)
    with pytest.raises(ValueError, match=r"^20 images would take 0\.0 GiB, and are read while networks are"):
        _ = dataset.train.images


def test_a_streamed_split_goes_to_other_processes(photos, tmp_path, streamed):
    pack(photos, tmp_path / "photos.lmdb")
    train = load_data(f"packed:{tmp_path / 'photos.lmdb'}", image_size=24).train
    again = pickle.loads(pickle.dumps(train))
    assert torch.equal(again.take(torch.arange(3)), train.take(torch.arange(3)))


def test_the_fingerprint_of_what_is_streamed(photos, tmp_path, streamed):
    def fingerprint(name, **options):
        pack(photos, tmp_path / name)
        return load_data(f"packed:{tmp_path / name}", image_size=24, **options).fingerprint

    before = fingerprint("a.lmdb")
    assert before.startswith("20x3x24x24-")
    assert fingerprint("b.lmdb") == before
    assert fingerprint("c.lmdb", train_size=10) != before
    picture(photos / "val" / "ant" / "0.png", 3)
    assert fingerprint("d.lmdb") == before
    picture(photos / "train" / "ant" / "0.png", 3)
    assert fingerprint("e.lmdb") != before


# interruptions


class Killed(Exception):
    pass


def test_an_interrupted_run_goes_on(photos, tmp_path, streamed, monkeypatch):
    """In batches of three: the third is not written, the first two are not read again."""
    out, read = tmp_path / "photos.lmdb", packing._read
    seen = []

    def until(limit):
        def watched(folder, size, skip, name):
            if len(seen) >= limit:
                raise Killed
            seen.append(name)
            return read(folder, size, skip, name)

        return watched

    monkeypatch.setattr(packing, "_read", until(7))
    with pytest.raises(Killed):
        pack(photos, out)
    assert not out.exists()
    seen.clear()
    monkeypatch.setattr(packing, "_read", until(100))
    assert pack(photos, out) == {"train": 20, "test": 4, "skipped": [], "resumed": 6}
    assert len(seen) == 24 - 6
    assert sorted(path.name for path in tmp_path.iterdir()) == [".photos.lmdb.lock", "photos", "photos.lmdb"]
    monkeypatch.undo()
    pack(photos, tmp_path / "at_once.lmdb")
    one, other = (load_data(f"packed:{tmp_path / n}", image_size=24) for n in ("photos.lmdb", "at_once.lmdb"))
    assert one.fingerprint == other.fingerprint
    assert torch.equal(one.test.images, other.test.images)


@pytest.mark.parametrize("change", ["folder", "size", "damage"])
def test_a_run_begins_again_where_something_has_changed(photos, tmp_path, streamed, monkeypatch, change):
    out = tmp_path / "photos.lmdb"
    (photos / "val" / "bee" / "1.jpg").rename(tmp_path / "kept.jpg")
    (photos / "val" / "bee" / "1.jpg").write_bytes(b"")
    with pytest.raises(UnreadableImage):
        pack(photos, out)
    (tmp_path / "kept.jpg").rename(photos / "val" / "bee" / "1.jpg")
    if change == "damage":
        (tmp_path / ".photos.lmdb.partial").write_bytes(b"<html>")
    made = pack(photos, out, size=20 if change == "size" else None)
    assert made == {"train": 20, "test": 4, "skipped": [], "resumed": 0}


def test_unreadable_images_are_named_then_skipped(photos, tmp_path, streamed):
    out, broken = tmp_path / "photos.lmdb", photos / "train" / "bee" / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    message = f"{broken} cannot be read as an image: "
    with pytest.raises(
        UnreadableImage, match=f"^{re.escape(message)}.*skip such images with --skip-unreadable"
    ):
        pack(photos, out)
    made = pack(photos, out, skip_unreadable=True)
    assert made == {"train": 19, "test": 4, "skipped": ["train/bee/4.jpg"], "resumed": 12}
    dataset = load_data(f"packed:{out}", image_size=24)
    assert dataset.train.labels.tolist() == [0] * 10 + [1] * 9
    kept = [row for row in range(20) if row != 14]
    broken.write_bytes((photos / "train" / "bee" / "3.png").read_bytes())
    whole = load_data(f"folder:{photos}", image_size=24)
    assert torch.equal(dataset.train.take(torch.arange(19)), whole.train.images[kept])


def test_a_split_of_which_nothing_can_be_read(photos, tmp_path):
    for file in (photos / "val").rglob("*.*"):
        file.write_bytes(b"")
    with pytest.raises(UnreadableImage, match="no test image can be read"):
        pack(photos, tmp_path / "photos.lmdb", skip_unreadable=True)


def test_a_pack_is_not_overwritten(photos, tmp_path):
    out = tmp_path / "photos.lmdb"
    out.write_text("something of mine")
    with pytest.raises(
        ValueError, match=re.escape(f"{out} exists already: remove it, or give another name.")
    ):
        pack(photos, out)
    assert out.read_text() == "something of mine"


# damage


@pytest.fixture
def packed(photos, tmp_path):
    out = tmp_path / "photos.lmdb"
    pack(photos, out)
    return out


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("truncated", "it is shorter than it was"),
        ("cut short", "it is shorter than it was"),
        ("web page", "MDB_INVALID"),
        ("empty", ""),
    ],
)
def test_damaged_packs_are_refused(packed, kind, why):
    content = packed.read_bytes()
    end = {"truncated": len(content) // 2, "cut short": -4096, "empty": 0}.get(kind, 0)
    packed.write_bytes(b"<!DOCTYPE html>" * 1000 if kind == "web page" else content[:end])
    message = re.escape(f"{packed} is no whole pack of images (") + f".*{why}"
    with pytest.raises(DamagedArtifact, match=message):
        load_data(f"packed:{packed}", image_size=24)


def rewrite(path, change):
    store = lmdb.open(str(path), subdir=False, lock=False, map_size=2**26)
    with store, store.begin(write=True) as transaction:
        change(transaction)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda store: store.delete(b"0000000003"), "it holds 23 images of 24"),
        (lambda store: store.delete(b"part0000000000"), "its tables are not those that were written"),
        (lambda store: store.put(b"plan", b"{}"), "its tables are not those that were written"),
        (lambda store: store.delete(b"about"), "it does not say what is in it"),
        (lambda store: store.put(b"about", b"{"), "Expecting property name"),
    ],
    ids=["an image", "a table", "the plan", "the end", "nonsense"],
)
def test_packs_that_lack_something_are_refused(packed, change, why):
    rewrite(packed, change)
    with pytest.raises(DamagedArtifact, match=re.escape(f"{packed} is no whole pack of images ({why}")):
        load_data(f"packed:{packed}", image_size=24)


def test_an_image_that_is_not_what_was_packed_is_refused(packed):
    rewrite(packed, lambda store: store.put(b"0000000000", store.get(b"0000000001")))
    with pytest.raises(
        DamagedArtifact, match=re.escape(f"{packed} is damaged: train/ant/0.png is not what was")
    ):
        load_data(f"packed:{packed}", image_size=24)


def test_a_pack_that_is_made_again_is_read_again(photos, packed):
    before = load_data(f"packed:{packed}", image_size=24)
    packed.unlink()
    picture(photos / "train" / "ant" / "0.png", 3)
    pack(photos, packed)
    after = load_data(f"packed:{packed}", image_size=24)
    changed = (before.train.images != after.train.images).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [0]


def test_a_pack_that_is_not_there(refuse, tmp_path):
    path = tmp_path / "gone.lmdb"
    refuse(f"{path} is no file: repsim pack-images FOLDER {path} makes it.", f"packed:{path}")


def test_the_package_is_named_where_it_is_missing(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(RuntimeError) as refusal:
        pack(photos, tmp_path / "photos.lmdb")
    assert str(refusal.value) == "packed images need the package lmdb: pip install 'robust-repsim[packed]'"


# the command


def test_the_command(photos, tmp_path, capsys):
    broken = photos / "train" / "ant" / "1.jpg"
    broken.write_bytes(b"")
    out = tmp_path / "photos.lmdb"
    assert main(["pack-images", str(photos), str(out)]) == 2
    assert f"repsim: {broken} cannot be read as an image: the file is empty" in capsys.readouterr().err
    assert main(["pack-images", str(photos), str(out), "--skip-unreadable", "--size", "20"]) == 0
    assert capsys.readouterr().out == (
        f"skipped, for it cannot be read: train/ant/1.jpg\n19 training and 4 test images are in {out}\n"
    )
    assert len(load_data(f"packed:{out}", image_size=16).train) == 19
    assert main(["pack-images", str(photos / "train"), str(out)]) == 2
    assert "must hold train/ and test/ (or val/)" in capsys.readouterr().err
