"""Folders of images, and ImageNet and its parts, which come as such."""

import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from image_files import md5, pack_tar, picture, write_imagenet
from PIL import Image

from repsim import data
from repsim.data import Augmentation, UnreadableImage, load_data, pack_images, streaming
from repsim.data.folders import WOOF
from repsim.support.compat import torchvision


def counts(split):
    return torch.bincount(split.labels).tolist()


# -- folders of images --------------------------------------------------------------------------------------


def test_a_folder_of_class_folders(pets):
    dataset = load_data(f"folder:{pets}")
    assert dataset.classes == ("cat", "dog")
    assert dataset.image_shape == (3, 10, 12)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 1]
    levels = (dataset.train.images[:, :, 5, 5] * 255).round().int().tolist()
    assert levels == [[level, 0, 255] for level in (10, 11, 12, 110, 111, 112)]
    assert dataset.train.images[0, :, 0, 0].tolist() == [1, 1, 1]
    assert (dataset.title, dataset.slug) == ("pets", "pets")
    assert dataset.augmentation == Augmentation(crop=1, flip=True)
    assert len(dataset.mean) == len(dataset.std) == 3
    assert dataset.std[0] > dataset.std[2] >= 0.001


def test_val_is_as_good_as_test(pets):
    (pets / "test").rename(pets / "val")
    assert load_data(f"folder:{pets}").test.labels.tolist() == [0, 1]


def test_folders_inside_classes_and_other_files(pets):
    (pets / "train" / "cat" / "0.png").rename(pets / "train" / "cat" / "notes.txt")
    picture(pets / "train" / "cat" / "from" / "friends" / "a.png", 30)
    (pets / "train" / "dog" / "._0.png").write_text("what some systems leave beside an image")
    (pets / "train" / ".cache").mkdir()
    (pets / "train" / "README").write_text("about")
    dataset = load_data(f"folder:{pets}")
    assert dataset.classes == ("cat", "dog")
    levels = (dataset.train.images[:, 0, 5, 5] * 255).round().int().tolist()
    assert levels == [11, 12, 30, 110, 111, 112]


def test_grey_images_and_jpeg(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / split / "grey" / "a.png", 60, mode="L")
        picture(tmp_path / split / "jpeg" / "a.jpg", 160)
        picture(tmp_path / split / "jpeg" / "b.jpeg", 90, mode="L")
    dataset = load_data(f"folder:{tmp_path}")
    assert dataset.image_shape == (3, 10, 12)
    levels = (dataset.test.images[:, :, 5, 5] * 255).tolist()
    assert levels == [[60] * 3, pytest.approx([160, 0, 255], abs=4), pytest.approx([90] * 3, abs=4)]


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", ".AppleDouble", "more/.thumbs/small"])
def test_hidden_folders_inside_classes_do_not_count(pets, tmp_path, folder):
    before = load_data(f"folder:{pets}")
    picture(pets / "train" / "cat" / folder / "0-checkpoint.png", 200)
    picture(pets / "test" / "dog" / folder / "0-checkpoint.png", 200)
    after = load_data(f"folder:{pets}")
    assert after.fingerprint == before.fingerprint
    assert (len(after.train), len(after.test)) == (6, 2)
    packed = pack_images(pets, tmp_path / "pets.lmdb", progress=False)
    assert (packed["train"], packed["test"]) == (6, 2)


def test_a_folder_of_classes_may_be_inside_a_hidden_one(pets, tmp_path):
    hidden = tmp_path / ".cache" / "pets"
    shutil.move(pets, hidden)
    assert len(load_data(f"folder:{hidden}").train) == 6


LEVELS = np.linspace(0, 1, 256).reshape(16, 16)
DEEP = {
    "I;16": ((65535 * LEVELS).round().astype(np.uint16), "png"),
    "I;16B": ((65535 * LEVELS).round().astype(">u2"), "tif"),
    "I": ((65535 * LEVELS).round().astype(np.int32), "tif"),
    "F": (LEVELS.astype(np.float32), "tif"),
}


def two_classes_of(folder, levels, suffix):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (folder / place).mkdir(parents=True)
        Image.fromarray(levels).save(folder / place / f"0.{suffix}")
    return folder


@pytest.mark.parametrize("mode", DEEP)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "packed"])
def test_more_than_eight_bits_for_a_pixel(tmp_path, mode, packed):
    folder = two_classes_of(tmp_path / "deep", *DEEP[mode])
    with Image.open(next(folder.rglob("0.*"))) as stored:
        assert stored.mode == mode
    name = f"folder:{folder}"
    if packed:
        pack_images(folder, tmp_path / "deep.lmdb", progress=False)
        name = f"packed:{tmp_path / 'deep.lmdb'}"
    images = load_data(name).train.images
    expected = torch.from_numpy(LEVELS).float().expand(2, 3, 16, 16)
    torch.testing.assert_close(images, expected, rtol=0, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("levels", "found", "white"),
    [
        (
            70000 * LEVELS.astype(np.int32),
            "whole numbers of 32 bits, are in [0, 70000]",
            65535,
        ),
        (
            -LEVELS.astype(np.int32),
            "whole numbers of 32 bits, are in [-1, 0]",
            65535,
        ),
        (255 * LEVELS.astype(np.float32), "floats of 32 bits, are in [0, 255]", 1),
        (
            np.nan * LEVELS.astype(np.float32),
            "floats of 32 bits, are in [nan, nan]",
            1,
        ),
    ],
    ids=["deeper", "negative", "bytes as floats", "NaN"],
)
def test_grey_levels_of_another_range_are_refused(tmp_path, levels, found, white):
    folder = two_classes_of(tmp_path / "odd", levels, "tif")
    with pytest.raises(UnreadableImage) as refusal:
        load_data(f"folder:{folder}")
    assert str(refusal.value) == (
        f"{folder / 'train/a/0.tif'} cannot be read as an image: its grey levels, {found}; expected are "
        f"such in [0, {white}] (skip_unreadable=True leaves such images out)."
    )


def test_the_fingerprint_follows_the_images_not_the_place(pets, tmp_path):
    before = load_data(f"folder:{pets}").fingerprint
    assert before.startswith("6x3x10x12-")
    moved = tmp_path / "elsewhere" / "animals"
    moved.parent.mkdir()
    pets.rename(moved)
    assert load_data(f"folder:{moved}").fingerprint == before

    picture(moved / "test" / "cat" / "9.png", 51)
    assert load_data(f"folder:{moved}").fingerprint == before  # it is the training images that models saw
    picture(moved / "train" / "cat" / "0.png", 11)
    assert load_data(f"folder:{moved}").fingerprint != before
    picture(moved / "train" / "cat" / "0.png", 10)
    assert load_data(f"folder:{moved}").fingerprint == before


def test_the_fingerprint_follows_the_labels(pets):
    before = load_data(f"folder:{pets}")
    (pets / "train" / "cat" / "2.png").rename(pets / "train" / "dog" / "+.png")  # sorted before 0.PNG
    after = load_data(f"folder:{pets}")
    assert torch.equal(before.train.images, after.train.images)
    assert before.fingerprint != after.fingerprint


def test_images_are_chosen_before_they_are_read(pets, monkeypatch):
    read = []
    decode = streaming.decode
    monkeypatch.setattr(streaming, "decode", lambda name, content: read.append(name) or decode(name, content))
    dataset = load_data(f"folder:{pets}", train_size=4, test_size=1)
    assert len(read) == len(set(read)) == 5
    assert counts(dataset.train) == [2, 2]
    assert len(dataset.test) == 1


def test_images_of_different_sizes_need_image_size(refuse, pets):
    picture(pets / "train" / "dog" / "1.PNG", 111, size=(20, 16))
    refuse(
        f"images differ in size: {pets / 'train' / 'dog' / '1.PNG'} is (16, 20), "
        f"{pets / 'train' / 'cat' / '0.png'} is (10, 12) pixels: give image_size.",
        f"folder:{pets}",
    )
    dataset = load_data(f"folder:{pets}", image_size=8)
    assert dataset.image_shape == (3, 8, 8)
    levels = (dataset.train.images[:, 0, 5, 5] * 255).round().int().tolist()
    assert levels == [10, 11, 12, 110, 111, 112]


def test_test_images_have_the_size_of_training_images(refuse, pets):
    for name in ("cat", "dog"):
        picture(pets / "test" / name / "9.png", size=(6, 6))
    refuse(
        "training images are (3, 10, 12), test images (3, 6, 6) (channels, height, width): give image_size.",
        f"folder:{pets}",
    )
    assert load_data(f"folder:{pets}", image_size=6).image_shape == (3, 6, 6)


def test_a_folder_without_splits(refuse, tmp_path, pets):
    (tmp_path / "empty").mkdir()
    refuse(
        f"{tmp_path / 'empty'} must hold train/ and test/ (or val/); found nothing.",
        f"folder:{tmp_path / 'empty'}",
    )
    refuse(
        f"{pets / 'train'} must hold train/ and test/ (or val/); found cat, dog.", f"folder:{pets / 'train'}"
    )


def test_a_split_without_classes(refuse, tmp_path):
    (tmp_path / "train").mkdir()
    picture(tmp_path / "test" / "cat" / "a.png")
    refuse(
        f"{tmp_path / 'train'} must hold one folder of images per class, at least two; "
        "found no class folder.",
        f"folder:{tmp_path}",
    )
    picture(tmp_path / "train" / "cat" / "a.png")
    refuse(
        f"{tmp_path / 'train'} must hold one folder of images per class, at least two; "
        "found only the class folder 'cat'.",
        f"folder:{tmp_path}",
    )


def test_a_class_without_images(refuse, pets):
    (pets / "train" / "eel").mkdir()
    (pets / "test" / "eel").mkdir()
    suffixes = ", ".join(data.IMAGE_SUFFIXES)
    refuse(f"{pets / 'train' / 'eel'} holds no image ({suffixes}).", f"folder:{pets}")


def test_splits_with_different_classes(refuse, pets):
    picture(pets / "train" / "eel" / "a.png")
    picture(pets / "test" / "ant" / "a.png")
    refuse(
        f"{pets / 'train'} and {pets / 'test'} hold different classes: ant, eel.",
        f"folder:{pets}",
    )


@pytest.mark.parametrize("content", [b"no image", None])
def test_an_image_that_cannot_be_read_is_named(pets, content):
    path = pets / "train" / "dog" / "1.PNG"
    path.write_bytes(path.read_bytes()[:40] if content is None else content)
    with pytest.raises(ValueError, match="cannot be read as an image") as refusal:
        load_data(f"folder:{pets}")
    assert str(refusal.value).startswith(f"{path} cannot be read as an image: ")


# -- images that cannot be read -----------------------------------------------------------------------------

BROKEN = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "web page": lambda content: b"\n<!DOCTYPE html><html>404</html>",
    "text": lambda content: b"no image",
}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("cut", "image file is truncated"),
        ("empty", "the file is empty"),
        ("web page", "it holds a web page, as failed downloads leave them"),
        ("text", "cannot identify image file"),
    ],
)
def test_why_an_image_cannot_be_read(tmp_path, rng, kind, reason):
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            noise = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            (tmp_path / part / name).mkdir(parents=True)
            noise.save(tmp_path / part / name / "a.jpg")
    path = tmp_path / "train" / "bee" / "a.jpg"
    path.write_bytes(BROKEN[kind](path.read_bytes()))
    with pytest.raises(data.UnreadableImage) as refusal:
        load_data(f"folder:{tmp_path}")
    assert str(refusal.value).startswith(f"{path} cannot be read as an image: {reason}")
    assert str(refusal.value).endswith(" (skip_unreadable=True leaves such images out).")


def test_unreadable_images_are_skipped_on_request(pets):
    whole = load_data(f"folder:{pets}")
    broken = [pets / "train" / "cat" / "1.png", pets / "train" / "dog" / "0.PNG"]
    for path in broken:
        path.write_bytes(b"")
    message = rf"^skipped 2 of 6 images, which cannot be read: {broken[0]}, {broken[1]}\.$"
    with pytest.warns(UserWarning, match=message):
        dataset = load_data(f"folder:{pets}", skip_unreadable=True)
    kept = [0, 2, 4, 5]
    assert torch.equal(dataset.train.images, whole.train.images[kept])
    assert torch.equal(dataset.train.labels, whole.train.labels[kept])
    assert dataset.fingerprint.startswith("4x3x10x12-")


def test_nothing_left_to_read(pets):
    for name in ("cat", "dog"):
        (pets / "test" / name / "9.png").write_bytes(b"")
    with pytest.raises(data.UnreadableImage, match="none of 2 images can be read: "):
        load_data(f"folder:{pets}", skip_unreadable=True)


# -- ImageNet and its parts ---------------------------------------------------------------------------------

WNIDS = ["n01440764", "n01443537", "n01484850"]
PHOTOGRAPHS = Augmentation(flip=True, resized_crop=True)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # as the field's models have them


@pytest.mark.parametrize("below", ["", "imagenet"])
def test_imagenet_in_folders(tmp_path, below):
    write_imagenet(tmp_path / below, WNIDS)
    dataset = load_data("imagenet", root=tmp_path)
    assert dataset.classes == tuple(WNIDS)
    assert dataset.image_shape == (3, 224, 224)
    assert (dataset.title, dataset.slug) == ("ImageNet", "imagenet")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.augmentation == PHOTOGRAPHS
    assert (dataset.mean, dataset.std) == (IMAGENET["mean"], IMAGENET["std"])


def test_the_middle_of_photographs(tmp_path):
    """256 pixels, of which 224 are kept, as torchvision's transforms for its models have it."""
    write_imagenet(tmp_path, WNIDS, train=1, val=1)
    stripes = np.zeros((300, 400, 3), dtype=np.uint8)
    stripes[:, ::7], stripes[::5] = 255, 90
    file = tmp_path / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    Image.fromarray(stripes).save(file, "PNG")  # some of ImageNet's are, whatever they are called
    functional = torchvision.transforms.functional
    for size, before in ((224, 256), (112, 128)):
        found = load_data("imagenet", root=tmp_path, image_size=size).train.images[0]
        with Image.open(file) as image:
            tensor = functional.pil_to_tensor(image.convert("RGB"))
        expected = functional.center_crop(functional.resize(tensor, before, antialias=True), [size, size])
        assert torch.equal(found, expected.float() / 255)


def test_imagenet_from_its_archives(tmp_path, monkeypatch):
    """The devkit, a tar of tars, and validation images whose classes only the devkit knows."""
    whole = write_imagenet(tmp_path / "whole", WNIDS)
    root = tmp_path / "downloads" / "imagenet"
    (tmp_path / "inner").mkdir()
    root.mkdir(parents=True)
    for wnid in WNIDS:
        pack_tar(tmp_path / "inner" / f"{wnid}.tar", whole / "train" / wnid)
    train = pack_tar(root / "ILSVRC2012_img_train.tar", tmp_path / "inner")
    order = [2, 0, 1, 1, 0, 2]
    (tmp_path / "val").mkdir()
    for number, label in enumerate(order):
        name = f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        picture(tmp_path / "val" / name, 40 * label, size=(40, 30))
    val = pack_tar(root / "ILSVRC2012_img_val.tar", tmp_path / "val")
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children"]
    synsets = np.zeros(4, dtype=[(field, object) for field in fields])
    for place, wnid in enumerate(WNIDS):
        synsets[place] = (place + 1, wnid, f"{wnid}, fish", "swims", 0)
    synsets[3] = (4, "n00000001", "animal", "lives", 3)
    kit = tmp_path / "kit" / "data"
    kit.mkdir(parents=True)
    scipy.io.savemat(kit / "meta.mat", {"synsets": synsets})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{label + 1}\n" for label in order))
    devkit = pack_tar(root / "ILSVRC2012_devkit_t12.tar.gz", tmp_path / "kit", "ILSVRC2012_devkit_t12/")
    known = {"train": train, "val": val, "devkit": devkit}
    checksums = {part: (file.name, md5(file)) for part, file in known.items()}
    monkeypatch.setattr(torchvision.datasets.imagenet, "ARCHIVE_META", checksums)
    dataset = load_data("imagenet", root=root.parent)
    assert dataset.classes == tuple(WNIDS)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    levels = (dataset.test.images[:, 0, 100, 100] * 255).tolist()
    assert levels == pytest.approx([0, 0, 40, 40, 80, 80], abs=3)

    shutil.rmtree(root / "train")
    train.write_bytes(train.read_bytes()[:2000])
    with pytest.raises(RuntimeError, match=r"ILSVRC2012_img_train\.tar: damaged, its MD5 is not"):
        load_data("imagenet", root=root.parent)


def test_imagenet_that_is_not_there(refuse, tmp_path):
    refuse(
        f"ImageNet is not under {tmp_path}: expected are {tmp_path / 'imagenet'} with train/ and val/, each "
        "with a folder of images for every WordNet id (n01440764, …), or there the archives "
        "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz, which image-net.org "
        "gives to those who register; torchvision unpacks them. They are looked for under the argument root "
        "(data_root in notebooks), else REPSIM_DATA, else data/downloads.",
        "imagenet",
        root=tmp_path,
    )


def ids(count):
    return [f"n{10_000_000 + 7 * number}" for number in range(count)]


@pytest.mark.slow
def test_imagenet50_is_of_the_classes_that_the_user_lists(refuse, tmp_path):
    write_imagenet(tmp_path / "imagenet", ids(51), train=1, val=1, size=(8, 8))
    own = tmp_path / "imagenet50.txt"
    refuse(
        "there is no list of classes that all mean by imagenet50: write the 50 WordNet ids of yours "
        f"(n01440764, …), one on each line, into {own}.",
        "imagenet50",
        root=tmp_path,
    )
    wanted = ids(51)[1:]
    own.write_text("# mine\n" + "\n".join(reversed(wanted)) + "\n\n")
    dataset = load_data("imagenet50", root=tmp_path, image_size=8)
    assert dataset.classes == tuple(wanted)
    assert dataset.train.labels.tolist() == [*range(50)]
    assert dataset.title == "ImageNet-50"
    own.write_text("\n".join([*wanted[:49], wanted[0]]))
    refuse(f"{own} has 50 WordNet ids, 49 of them different, not 50.", "imagenet50", root=tmp_path)
    own.write_text("\n".join([*wanted[:49], "tench"]))
    refuse(
        f"{own} has 'tench'; expected are WordNet ids such as n01440764, one on each line.",
        "imagenet50",
        root=tmp_path,
    )
    own.write_text("\n".join([*wanted[:49], "n99999999"]))
    refuse(
        f"{tmp_path / 'imagenet' / 'train'} has no folder for n99999999, which imagenet50 has.",
        "imagenet50",
        root=tmp_path,
    )


def test_imagenet100_is_of_the_published_classes(tmp_path):
    published = (Path(data.__file__).parent / "imagenet100.txt").read_text().splitlines()[1:]
    assert published[:2] == ["n02869837", "n01749939"]  # as Tian et al. list them
    write_imagenet(tmp_path / "imagenet100", [*published, "n00000001"], train=1, val=1, size=(8, 8))
    dataset = load_data("imagenet100", root=tmp_path, image_size=8)
    assert dataset.classes == tuple(sorted(published))
    assert len(dataset.classes) == 100
    (tmp_path / "imagenet100.txt").write_text("\n".join([*published[1:], "n00000001"]))
    assert load_data("imagenet100", root=tmp_path, image_size=8).classes[0] == "n00000001"  # the user's own


@pytest.mark.parametrize("variant", ["imagenette2", "imagenette2-320", "imagenette2-160"])
def test_imagenette(tmp_path, monkeypatch, variant):
    kind = torchvision.datasets.Imagenette
    wnids = sorted(kind._WNID_TO_CLASS)
    whole = write_imagenet(tmp_path / "whole" / variant, wnids, train=2, val=1, size=(12, 12))
    if variant == "imagenette2-320":  # the one that is downloaded: the archive is there, and checked
        archive = pack_tar(tmp_path / "imagenette2-320.tgz", tmp_path / "whole")
        url = kind._ARCHIVES["320px"][0]
        monkeypatch.setattr(kind, "_ARCHIVES", {**kind._ARCHIVES, "320px": (url, md5(archive))})
    else:
        whole.rename(tmp_path / variant)
    dataset = load_data("imagenette", root=tmp_path, image_size=8)
    assert dataset.classes[:3] == ("tench", "English springer", "cassette player")
    assert counts(dataset.train) == [2] * 10
    assert counts(dataset.test) == [1] * 10
    assert (dataset.title, dataset.augmentation) == ("Imagenette", PHOTOGRAPHS)
    assert dataset.mean == IMAGENET["mean"]


def test_imagenette_that_is_not_there(tmp_path, monkeypatch):
    def open_(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", open_)
    (tmp_path / "imagenette2-320.tgz").write_bytes(b"half")
    with pytest.raises(RuntimeError) as refusal:
        load_data("imagenette", root=tmp_path)
    assert str(refusal.value) == (
        f"Imagenette cannot be loaded from {tmp_path}: <urlopen error no network>. "
        "imagenette2-320.tgz: damaged, its MD5 is not the published one; remove it and fetch it again. "
        "Missing: imagenette2-320. They are looked for under the argument root (data_root in notebooks), "
        "else REPSIM_DATA, else data/downloads."
    )


def test_imagewoof(refuse, tmp_path):
    refuse(
        f"Imagewoof is not under {tmp_path}: unpack imagewoof2.tgz, imagewoof2-320.tgz or imagewoof2-160.tgz "
        "there, from the table at https://github.com/fastai/imagenette#imagewoof. They are looked for under "
        "the argument root (data_root in notebooks), else REPSIM_DATA, else data/downloads.",
        "imagewoof",
        root=tmp_path,
    )
    write_imagenet(tmp_path / "imagewoof2-160", WOOF, train=2, val=1, size=(12, 12))
    dataset = load_data("imagewoof", root=tmp_path, image_size=8)
    assert dataset.classes[0] == "Shih-Tzu"
    assert counts(dataset.train) == [2] * 10
    assert (dataset.title, dataset.augmentation, dataset.std) == ("Imagewoof", PHOTOGRAPHS, IMAGENET["std"])


def test_what_is_streamed_is_told_apart_by_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("repsim.data.loading.IN_MEMORY", 100_000)
    write_imagenet(tmp_path, WNIDS)
    load = {"name": "imagenet", "root": tmp_path, "image_size": 32, "test_size": 3}
    before = load_data(**load)
    assert isinstance(before.train, data.StreamedSplit)
    assert load_data(**load).fingerprint == before.fingerprint
    file = tmp_path / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    file.rename(file.with_stem("other"))
    assert load_data(**load).fingerprint != before.fingerprint
    assert (before.mean, before.std) == (IMAGENET["mean"], IMAGENET["std"])


def test_what_is_streamed_cannot_be_skipped(refuse, tmp_path, monkeypatch):
    monkeypatch.setattr("repsim.data.loading.IN_MEMORY", 100_000)
    write_imagenet(tmp_path, WNIDS)
    refuse(
        "the 9 training images of imagenet are read while networks are trained, and cannot be skipped then: "
        "pack them with repsim pack-images --skip-unreadable, or give train_size.",
        "imagenet",
        root=tmp_path,
        image_size=32,
        test_size=3,
        skip_unreadable=True,
    )
