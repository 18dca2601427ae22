"""Published data sets, in the true formats, read by torchvision's own classes."""

import hashlib
import io
import tarfile
import urllib.error

import numpy as np
import pytest
import torch
from image_files import (
    ATTRIBUTES,
    CIFAR_CLASSES,
    md5,
    write_celeba,
    write_cifar,
    write_cifar100,
    write_mnist,
    write_svhn,
)
from PIL import Image

from repsim.data import Augmentation, Split, StreamedSplit, as_images, downloads, load_data, streaming
from repsim.support.compat import torchvision

datasets = torchvision.datasets


def counts(split):
    return torch.bincount(split.labels).tolist()


def levels(images):
    return (images * 255).round().int()


# -- CIFAR-10 -----------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path, monkeypatch, rng):
    """CIFAR-10's files, with twenty images each, where torchvision looks for them; returns the folder."""
    return write_cifar(tmp_path / "downloads", monkeypatch, rng)


def test_cifar10_is_read_as_its_authors_wrote_it(cifar):
    dataset = load_data("cifar10", root=cifar.parent)
    assert dataset.classes == tuple(CIFAR_CLASSES)
    assert (dataset.title, dataset.slug, dataset.fingerprint) == ("CIFAR-10", "cifar10", "100x3x32x32")
    assert dataset.augmentation == Augmentation(crop=4, flip=True)
    assert dataset.image_shape == (3, 32, 32)
    assert counts(dataset.train) == [10] * 10
    assert counts(dataset.test) == [2] * 10
    for split in (dataset.train, dataset.test):  # red plane first, row by row
        assert torch.all(split.images[:, 0, 0, 0] == 0)
        assert torch.allclose(split.images[:, 0, 31, 31], torch.tensor(0.2))
        assert torch.all(split.images[:, 2, 31, 31] == 1)
    raw = np.frombuffer((cifar / "test_batch").read_bytes(), dtype=np.uint8)
    first = (dataset.test.images[0] * 255).round().to(torch.uint8).flatten().numpy()
    assert first.tobytes() in raw.tobytes()


def jpeg_of(dataset, monkeypatch):
    """Images of CIFAR-10 in the archives' files, by split: class by class, compressed; they are now known."""
    files, pixels = {}, b""
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        for label, class_name in enumerate(CIFAR_CLASSES):
            for index, image in enumerate(split.images[split.labels == label]):
                written = io.BytesIO()
                shown = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
                shown.save(written, "JPEG", quality=75)
                files.setdefault(name, {})[f"cifar10_jpeg/{name}/{class_name}/{index:04d}.jpg"] = written
                pixels += np.asarray(Image.open(written)).tobytes()
    monkeypatch.setattr(downloads, "CIFAR10_JPEG", hashlib.sha256(pixels).hexdigest())
    return files


def write_archives(root, files):
    """In an order of their own, as archives may be."""
    for split, held in files.items():
        with tarfile.open(root / f"cifar10_jpeg_{split}.tar.gz", "w:gz") as archive:
            for name in sorted(held, reverse=True):
                entry = tarfile.TarInfo(name)
                entry.size = len(held[name].getvalue())
                archive.addfile(entry, io.BytesIO(held[name].getvalue()))


def test_cifar10_as_jpeg_is_made_or_read_and_the_same(cifar, tmp_path, monkeypatch):
    files = jpeg_of(load_data("cifar10", root=cifar.parent), monkeypatch)
    made = load_data("cifar10_jpeg", root=cifar.parent)
    assert (made.title, made.slug, made.fingerprint) == ("CIFAR-10 (JPEG)", "cifar10_jpeg", "100x3x32x32")
    assert made.classes == tuple(CIFAR_CLASSES)
    assert made.augmentation == Augmentation(crop=4, flip=True)
    assert made.train.labels.tolist() == sorted(made.train.labels.tolist())
    archives = tmp_path / "archives"
    archives.mkdir()
    write_archives(archives, files)
    read = load_data("cifar10_jpeg", root=archives, download=False)
    for one, other in ((made.train, read.train), (made.test, read.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_cifar10_as_jpeg_of_other_images_is_refused(cifar, tmp_path, monkeypatch):
    """Whether they are made here or read."""
    files = jpeg_of(load_data("cifar10", root=cifar.parent), monkeypatch)
    refused = pytest.raises(RuntimeError, match=r"^the images of cifar10_jpeg are not those that the")
    with monkeypatch.context() as patch, refused:
        patch.setattr(downloads, "CIFAR10_JPEG", "of others")
        load_data("cifar10_jpeg", root=cifar.parent)
    one, other = list(files["train"])[:2]
    files["train"][one], files["train"][other] = files["train"][other], files["train"][one]
    write_archives(tmp_path, files)
    with refused:
        load_data("cifar10_jpeg", root=tmp_path)


def test_cifar10_at_another_size(cifar):
    dataset = load_data("cifar10", root=str(cifar.parent), train_size=20, test_size=10, image_size=16)
    assert dataset.fingerprint == "20x3x16x16"
    assert counts(dataset.train) == [2] * 10
    assert dataset.image_shape == (3, 16, 16)
    as_images(dataset.train.images)


def test_downloads_are_looked_for_where_repsim_data_says(cifar, tmp_path, monkeypatch):
    monkeypatch.setenv("REPSIM_DATA", str(cifar.parent))
    assert len(load_data("cifar10").train) == 100
    monkeypatch.setenv("REPSIM_DATA", str(tmp_path / "nowhere"))
    assert len(load_data("cifar10", root=cifar.parent).train) == 100  # an argument wins


def test_downloads_are_looked_for_below_home_by_default(cifar, tmp_path):
    (tmp_path / "data").mkdir()
    cifar.parent.rename(tmp_path / "data" / "downloads")
    assert len(load_data("cifar10").train) == 100


def test_a_damaged_download_is_fetched_again_and_not_used(cifar, monkeypatch):
    (cifar / "test_batch").write_bytes(b"half")
    asked = []

    def download(url, root, **options):
        asked.append(url)

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", download)
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        load_data("cifar10", root=cifar.parent)
    assert asked == [torchvision.datasets.CIFAR10.url]


def without_network(monkeypatch):
    def open_(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", open_)


def test_cifar10_that_is_not_there(tmp_path, monkeypatch):
    without_network(monkeypatch)
    with pytest.raises(RuntimeError) as refusal:
        load_data("cifar10", root=tmp_path)
    files = [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]
    files += ["cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta"]
    assert str(refusal.value) == (
        f"CIFAR-10 cannot be loaded from {tmp_path}: <urlopen error no network>. "
        f"Missing: {', '.join(files)}. They are looked for under the argument root (data_root in notebooks), "
        "else REPSIM_DATA, else data/downloads."
    )


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar10_jpeg", "cifar100", "mnist", "svhn", "celeba", "imagenette"]
)
def test_nothing_is_fetched_unless_wanted(tmp_path, monkeypatch, name):
    monkeypatch.setattr("urllib.request.urlopen", lambda *arguments, **options: pytest.fail("fetched"))
    with pytest.raises(RuntimeError, match=f"cannot be loaded from {tmp_path}: .*Missing: "):
        load_data(name, root=tmp_path, download=False)


def test_damaged_files_are_named(cifar, monkeypatch):
    without_network(monkeypatch)
    (cifar / "data_batch_3").write_bytes(b"<!DOCTYPE html>")
    (cifar.parent / "cifar-10-python.tar.gz").write_bytes(b"half an archive")
    with pytest.raises(RuntimeError) as refusal:
        load_data("cifar10", root=cifar.parent)
    assert str(refusal.value) == (
        f"CIFAR-10 cannot be loaded from {cifar.parent}: <urlopen error no network>. "
        "cifar-10-batches-py/data_batch_3, cifar-10-python.tar.gz: damaged, its MD5 is not the published "
        "one; remove it and fetch it again."
    )


def test_a_download_that_is_not_what_was_published_is_named(tmp_path, monkeypatch):
    def download(url, filename, **options):
        filename = str(filename)
        with open(filename, "wb") as file:
            file.write(b"<html>the server is busy</html>")

    monkeypatch.setattr(datasets.utils, "_get_redirect_url", lambda url, **options: url)
    monkeypatch.setattr(datasets.utils, "_urlretrieve", download)
    with pytest.raises(RuntimeError, match=r"cifar-100-python\.tar\.gz: damaged, its MD5 is not"):
        load_data("cifar100", root=tmp_path)


# -- CIFAR-100 ----------------------------------------------------------------------------------------------


def test_cifar100(tmp_path, monkeypatch, rng):
    write_cifar100(tmp_path, monkeypatch, rng)
    dataset = load_data("cifar100", root=tmp_path)
    assert dataset.classes == tuple(f"class_{number}" for number in range(100))
    assert (dataset.title, dataset.slug, dataset.fingerprint) == ("CIFAR-100", "cifar100", "200x3x32x32")
    assert counts(dataset.train) == [2] * 100  # the fine labels
    assert counts(dataset.test) == [1] * 100
    assert dataset.augmentation == Augmentation(crop=4, flip=True)
    assert dataset.mean == pytest.approx(
        [dataset.train.images[:, c].mean().item() for c in range(3)], abs=1e-4
    )


# -- MNIST and Fashion-MNIST --------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True], ids=["unpacked", "gz"])
@pytest.mark.parametrize(
    ("name", "title", "augmentation"),
    [
        ("mnist", "MNIST", Augmentation()),  # mirrored, a 2 is no 2
        ("fashion_mnist", "Fashion-MNIST", Augmentation(crop=4, flip=True)),
    ],
)
def test_mnist(tmp_path, monkeypatch, rng, name, title, augmentation, compressed):
    kind = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    folder = write_mnist(tmp_path, kind, rng, compressed=compressed)
    if compressed:
        known = [(file, md5(folder / file)) for file, _ in kind.resources]
        monkeypatch.setattr(kind, "resources", known)
        monkeypatch.setattr(kind, "mirrors", ["http://nowhere/"])
    dataset = load_data(name, root=tmp_path)
    assert dataset.image_shape == (1, 28, 28)  # grey stays one channel
    assert (dataset.title, dataset.slug, dataset.fingerprint) == (title, name, "40x1x28x28")
    assert dataset.augmentation == augmentation
    assert len(dataset.classes) == 10
    assert (dataset.classes == tuple("0123456789")) == (name == "mnist")
    assert dataset.train.labels.tolist() == [*range(10)] * 4
    assert torch.all(levels(dataset.test.images[:, 0, 0, 1]) == 51)
    assert torch.all(levels(dataset.test.images[:, 0, 1, 0]) == 255)
    assert dataset.mean == (pytest.approx(dataset.train.images.mean().item(), abs=1e-4),)


# -- SVHN ---------------------------------------------------------------------------------------------------


def test_svhn(tmp_path, monkeypatch, rng):
    write_svhn(tmp_path, monkeypatch, rng)
    dataset = load_data("svhn", root=tmp_path)
    assert dataset.classes == tuple("0123456789")
    assert (dataset.title, dataset.slug, dataset.fingerprint) == ("SVHN", "svhn", "30x3x32x32")
    assert dataset.augmentation == Augmentation()  # house numbers, too, are not what their mirror image is
    assert dataset.train.labels.tolist() == [*range(1, 10), 0] * 3  # of a 0 the files say 10
    assert torch.all(levels(dataset.train.images[:, :, 0, 31]) == 51)
    assert torch.all(levels(dataset.train.images[:, 2, 31, 0]) == 255)


# -- CelebA -------------------------------------------------------------------------------------------------


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    return write_celeba(tmp_path, monkeypatch)


def test_celeba(celeba):
    dataset = load_data("celeba", root=celeba.parent)
    assert dataset.classes == tuple(ATTRIBUTES)
    assert (dataset.title, dataset.slug) == ("CelebA", "celeba")
    assert dataset.fingerprint.startswith("6x3x218x178-")
    assert dataset.augmentation == Augmentation(flip=True)
    assert dataset.train.labels.shape == (6, 40)
    assert dataset.test.labels.shape == (3, 40)
    assert isinstance(dataset.train, Split)
    shown = levels(dataset.train.images[:, 0, 100, 80]).tolist()
    assert shown == pytest.approx([4 * number for number in (0, 1, 4, 5, 8, 9)], abs=3)  # images 1, 2, 5, …
    expected = [[float(number % (place + 1) == 0) for place in range(40)] for number in (4, 8, 12)]
    assert dataset.test.labels.tolist() == expected


def test_fewer_and_smaller_faces(celeba):
    dataset = load_data("celeba", root=celeba.parent, image_size=32, train_size=4, test_size=2)
    assert dataset.image_shape == (3, 32, 32)
    assert (len(dataset.train), len(dataset.test)) == (4, 2)
    again = load_data("celeba", root=celeba.parent, image_size=32, train_size=3)
    rows = [row.numpy().tobytes() for row in dataset.train.images]
    assert {row.numpy().tobytes() for row in again.train.images} < set(rows)  # a smaller choice is part of it
    assert (
        load_data("celeba", root=celeba.parent, image_size=32, train_size=4).fingerprint
        == dataset.fingerprint
    )


def test_faces_that_are_too_many_for_memory_are_streamed(celeba, monkeypatch):
    held = load_data("celeba", root=celeba.parent, image_size=32)
    monkeypatch.setattr("repsim.data.loading.IN_MEMORY", 4 * 3 * 32 * 32 * 4)
    dataset = load_data("celeba", root=celeba.parent, image_size=32)
    assert isinstance(dataset.train, StreamedSplit)
    assert isinstance(dataset.test, Split)
    assert torch.equal(dataset.train.take(torch.arange(6)), held.train.images)
    assert torch.equal(dataset.train.labels, held.train.labels)
    assert (dataset.mean, dataset.std) == (held.mean, held.std)
    assert dataset.fingerprint.startswith("6x3x32x32-")


def test_test_images_that_are_too_many_for_memory(celeba, monkeypatch):
    monkeypatch.setattr("repsim.data.loading.IN_MEMORY", 2 * 3 * 32 * 32 * 4)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        load_data("celeba", root=celeba.parent, image_size=32)
    assert str(refusal.value) == (
        "the 3 test images of celeba take 0 GiB of memory: give test_size, at most 2."
    )
    assert len(load_data("celeba", root=celeba.parent, image_size=32, test_size=2).test) == 2


def test_celeba_needs_a_package_to_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)
    with pytest.raises(RuntimeError, match=r"'pip install gdown'\. Missing: celeba/list_attr_celeba\.txt, "):
        load_data("celeba", root=tmp_path)


def test_a_broken_face_is_named_or_skipped(celeba):
    image = celeba / "img_align_celeba" / "000001.jpg"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(streaming.UnreadableImage, match=r"000001\.jpg cannot be read as an image: "):
        load_data("celeba", root=celeba.parent)
    with pytest.warns(UserWarning, match=r"skipped 1 of 6 images, which cannot be read: .*000001\.jpg\."):
        dataset = load_data("celeba", root=celeba.parent, skip_unreadable=True)
    assert len(dataset.train) == len(dataset.train.labels) == 5
    assert dataset.train.labels[0].sum() == 2  # the second face, with attributes 0 and 1
