"""Data sets in the formats in which they are published, a few images each, for tests to read."""

import gzip
import hashlib
import struct
import tarfile

import numpy as np
import scipy.io
from PIL import Image

from repsim.support.compat import torchvision

CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ATTRIBUTES = [f"attribute_{number}" for number in range(40)]


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def picture(path, level=0, size=(12, 10), mode="RGB"):
    """Write an image of one level (width × height), with a bright pixel in the upper left corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, level if mode == "L" else (level, 0, 255))
    if path.suffix == ".png":
        image.putpixel((0, 0), 255 if mode == "L" else (255, 255, 255))
    image.save(path)


def pickled(**items):
    """A mapping as the Python 2 of CIFAR-10's authors pickled it: byte strings, and an old numpy's array."""

    def text(value):
        return b"U" + bytes([len(value)]) + value.encode()

    def array(images):
        count, pixels = images.shape
        dtype = b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R(K\x03" + text("|") + b"NNN"
        dtype += 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
        shape = b"M" + struct.pack("<H", count) + b"M" + struct.pack("<H", pixels) + b"\x86"
        return (
            empty
            + b"(K\x01"
            + shape
            + dtype
            + b"\x89T"
            + struct.pack("<i", images.size)
            + images.tobytes()
            + b"tb"
        )

    def value(item):
        if isinstance(item, np.ndarray):
            return array(item)
        each = (text(entry) if isinstance(entry, str) else b"K" + bytes([entry]) for entry in item)
        return b"](" + b"".join(each) + b"e"

    return b"\x80\x02}(" + b"".join(text(name) + value(item) for name, item in items.items()) + b"u."


def write_cifar(root, monkeypatch, rng):
    """CIFAR-10, twenty images in each of its files; returns their folder."""
    kind = torchvision.datasets.CIFAR10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    for name in [*batches, "test_batch"]:
        images = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        images[:, 0], images[:, 1023], images[:, 3071] = 0, 51, 255
        (folder / name).write_bytes(pickled(data=images, labels=[*rng.permutation(20) % 10]))
    (folder / "batches.meta").write_bytes(pickled(label_names=CIFAR_CLASSES))
    monkeypatch.setattr(kind, "train_list", [[name, md5(folder / name)] for name in batches])
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5(folder / "test_batch")]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "batches.meta")})
    return folder


def write_cifar100(root, monkeypatch, rng):
    """CIFAR-100, 200 training and 100 test images, each class as often; returns their folder."""
    kind = torchvision.datasets.CIFAR100
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for name, count in (("train", 200), ("test", 100)):
        images = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        fine = [*(np.arange(count) % 100)]
        content = pickled(data=images, coarse_labels=[label // 5 for label in fine], fine_labels=fine)
        (folder / name).write_bytes(content)
    names = [f"class_{number}" for number in range(100)]
    (folder / "meta").write_bytes(pickled(fine_label_names=names, coarse_label_names=names[:20]))
    monkeypatch.setattr(kind, "train_list", [["train", md5(folder / "train")]])
    monkeypatch.setattr(kind, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "meta")})
    return folder


def write_mnist(root, kind, rng, *, compressed=False):
    """The idx files of MNIST or Fashion-MNIST, 40 training and 20 test images; returns their folder."""
    folder = root / kind.__name__ / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        images[:, 0, 1], images[:, 1, 0] = 51, 255  # rows first
        labels = (np.arange(count) % 10).astype(np.uint8)
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">iiii", 2051, *images.shape) + images.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">ii", 2049, count) + labels.tobytes(),
        }
        for name, content in files.items():
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)
    return folder


def write_svhn(root, monkeypatch, rng):
    """SVHN's .mat files, 30 training and 20 test images; a 0 is labelled 10, as its authors do."""
    kind = torchvision.datasets.SVHN
    root.mkdir(parents=True, exist_ok=True)
    known = dict(kind.split_list)
    for split, count in (("train", 30), ("test", 20)):
        images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        images[0, 31], images[31, 0, 2] = 51, 255  # row, column, channel, image
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        file = root / f"{split}_32x32.mat"
        scipy.io.savemat(file, {"X": images, "y": labels}, do_compression=True)
        known[split] = [known[split][0], file.name, md5(file)]
    monkeypatch.setattr(kind, "split_list", known)
    return root


def write_celeba(root, monkeypatch, count=12, size=(178, 218)):
    """CelebA's lists and aligned images: of every four, two are for training, one each for valid and test.

    Image `n` has the level `4 n` in red, and of 40 attributes those whose number `n + 1` divides.
    """
    kind = torchvision.datasets.CelebA
    folder = root / kind.base_folder
    names = [f"{number + 1:06d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        picture(folder / "img_align_celeba" / name, 4 * number, size=size)
    parts = [(0, 0, 1, 2)[number % 4] for number in range(count)]
    has = [[1 if (number + 1) % (place + 1) == 0 else -1 for place in range(40)] for number in range(count)]

    def write(name, rows, *header):
        lines = [*header, *(" ".join(map(str, [file, *row])) for file, row in zip(names, rows, strict=True))]
        (folder / name).write_text("\n".join(lines) + "\n")

    write("list_eval_partition.txt", [[part] for part in parts])
    write("list_attr_celeba.txt", has, str(count), " ".join(ATTRIBUTES) + " ")
    write("identity_CelebA.txt", [[number] for number in range(count)])
    write("list_bbox_celeba.txt", [[1, 2, 3, 4]] * count, str(count), "image_id x_1 y_1 width height")
    points = " ".join(f"point_{number}" for number in range(10))
    write("list_landmarks_align_celeba.txt", [list(range(10))] * count, str(count), points)
    listed = [
        (number, md5(folder / name) if name.endswith(".txt") else checksum, name)
        for number, checksum, name in kind.file_list
    ]
    monkeypatch.setattr(kind, "file_list", listed)
    return folder


def write_imagenet(root, wnids, *, train=3, val=2, size=(40, 30)):
    """ImageNet's layout: train/ and val/ with a folder of JPEG files for each WordNet id."""
    for part, count in (("train", train), ("val", val)):
        for label, wnid in enumerate(wnids):
            for number in range(count):
                file = root / part / wnid / f"{wnid}_{number}.JPEG"
                picture(file, 40 * (label % 6) + number, size=size)
    return root


def pack_tar(path, folder, prefix=""):
    """A tar archive of what is in a folder, compressed where its name says so."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for entry in sorted(folder.iterdir()):
            archive.add(entry, prefix + entry.name)
    return path
