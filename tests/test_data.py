"""A name becomes images in [0, 1]: the same ones every time, from every kind of source."""

import hashlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from repsim import data
from repsim._compat import torchvision
from repsim.data import Augmentation, Split, check_pixels, load_data, stratified
from repsim.synthetic import TWO_FEATURES, read_outline, read_texture, two_features


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def shapes():
    return load_data("shapes")


@pytest.fixture
def refuse():
    """Assert that loading is refused with a message."""

    def refuse(message, name, **options):
        with pytest.raises(ValueError) as refusal:  # noqa: PT011
            load_data(name, **options)
        assert str(refusal.value) == message

    return refuse


def counts(split):
    return torch.bincount(split.labels).tolist()


def rows(split):
    """Each image as bytes."""
    return [image.numpy().tobytes() for image in split.images]


TITLES = {
    "two_features": "two features",
    "two_features_outline": "two features, outline informative",
    "two_features_texture": "two features, texture informative",
}


@pytest.fixture(scope="module", params=TITLES)
def featured(request):
    """Each of the data sets of two features."""
    return load_data(request.param)


# -- digits and shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sizes"), [("digits", (1297, 500)), ("shapes", (6000, 4000))])
def test_images_labels_and_what_describes_them(request, name, sizes):
    dataset = request.getfixturevalue(name)
    assert (len(dataset.train), len(dataset.test)) == sizes
    for split in (dataset.train, dataset.test):
        assert split.images.shape == (len(split), 1, 16, 16)
        assert split.images.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert split.images.min() == 0
        assert split.images.max() == 1
        assert max(counts(split)) - min(counts(split)) <= len(split) / 100  # every class as often, or nearly
        check_pixels(split.images)
    assert dataset.name == dataset.title == dataset.slug == name
    assert dataset.image_shape == (1, 16, 16)
    assert len(dataset.classes) == 10
    assert dataset.mean == (pytest.approx(dataset.train.images.mean().item(), abs=1e-4),)
    assert dataset.std == (pytest.approx(dataset.train.images.std().item(), abs=1e-4),)
    assert dataset.fingerprint == f"{sizes[0]}x1x16x16"
    assert not dataset.augmentation.flip  # neither a digit nor an arrow is what its mirror image is


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_training_and_test_images_are_apart(request, name):
    dataset = request.getfixturevalue(name)
    assert not set(rows(dataset.train)) & set(rows(dataset.test))


def test_digits_are_split_by_class(digits):
    share = torch.tensor(counts(digits.test)) / torch.tensor(counts(digits.train))
    assert share.max() - share.min() < 0.02
    assert digits.classes == tuple("0123456789")


def test_the_images_of_digits_never_change(digits):
    """Trained models lie in the repository: other images would make every one of them wrong."""
    content = (digits.train.images * 255).round().to(torch.uint8).numpy().tobytes()
    content += digits.train.labels.numpy().tobytes() + digits.test.labels.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest()[:12] == "943f4fc43218"
    assert (digits.mean, digits.std) == ((0.3052,), (0.3188,))


def test_the_images_of_shapes_never_change(shapes):
    content = (shapes.train.images[:1000] * 255).round().to(torch.uint8).numpy().tobytes()
    content += shapes.train.labels.numpy().tobytes() + shapes.test.labels.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest()[:12] == "55eba918de96"


def test_loading_again_gives_the_same(digits):
    again = load_data("digits")
    for split, same in ((digits.train, again.train), (digits.test, again.test)):
        assert torch.equal(split.images, same.images)
        assert torch.equal(split.labels, same.labels)


# -- two features -------------------------------------------------------------------------------------------


def test_images_of_two_features_and_what_describes_them(featured):
    assert (len(featured.train), len(featured.test)) == (6000, 2000)
    for split in (featured.train, featured.test):
        assert split.images.shape == (len(split), 1, 16, 16)
        assert split.images.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert (split.images.min(), split.images.max()) == (0, 1)
        assert counts(split) == [len(split) / 10] * 10
        check_pixels(split.images)
    assert featured.name == featured.slug
    assert featured.title == TITLES[featured.name]
    assert featured.classes == TWO_FEATURES
    assert featured.image_shape == (1, 16, 16)
    assert featured.mean == (pytest.approx(featured.train.images.mean().item(), abs=1e-4),)
    assert featured.std == (pytest.approx(featured.train.images.std().item(), abs=1e-4),)
    assert featured.fingerprint == "6000x1x16x16"
    assert featured.augmentation == Augmentation(crop=0, flip=False)  # mirrored, a grating is another one


def test_training_and_test_images_of_two_features_are_apart(featured):
    train, test = set(rows(featured.train)), set(rows(featured.test))
    assert (len(train), len(test)) == (6000, 2000)
    assert not train & test


def test_images_of_two_features_are_those_of_their_seeds(featured):
    informative = featured.name.removeprefix("two_features").removeprefix("_") or "both"
    for split, count, seed in ((featured.train, 6000, 0), (featured.test, 2000, 1)):
        images, labels = two_features(count, seed, informative)
        np.testing.assert_array_equal(data.to_bytes(split.images).numpy(), images)
        np.testing.assert_array_equal(split.labels.numpy(), labels)


def test_labels_of_two_features_are_of_the_feature_in_the_name(featured):
    for split in (featured.train, featured.test):
        images, labels = split.images.numpy(), split.labels.numpy()
        outline, texture = (read(images) == labels for read in (read_outline, read_texture))
        informative = {"outline": outline.mean(), "texture": texture.mean()}
        for feature, right in informative.items():
            if featured.name in ("two_features", f"two_features_{feature}"):
                assert right > 0.97
            else:
                assert 0.07 < right < 0.13


# -- fewer images, other sizes ------------------------------------------------------------------------------


def test_fewer_images_of_every_class(digits, tiny_data):
    assert counts(tiny_data.train) == [20] * 10
    assert counts(tiny_data.test) == [6] * 10
    assert set(rows(tiny_data.train)) < set(rows(digits.train))
    assert set(rows(tiny_data.test)) < set(rows(digits.test))
    assert tiny_data.fingerprint == "200x1x16x16"
    assert tiny_data.mean != digits.mean


def test_a_small_choice_is_part_of_a_larger_one(digits):
    few, many = load_data("digits", train_size=33), load_data("digits", train_size=34)
    assert set(rows(few.train)) < set(rows(many.train)) < set(rows(digits.train))
    assert len(few.test) == len(digits.test)


def test_more_images_than_there_are_is_all_of_them(digits):
    dataset = load_data("digits", train_size=10**6, test_size=500)
    assert torch.equal(dataset.train.images, digits.train.images)
    assert torch.equal(dataset.test.images, digits.test.images)
    assert dataset.fingerprint == digits.fingerprint


def test_a_subset_keeps_images_with_their_labels(digits):
    label = dict(zip(rows(digits.train), digits.train.labels.tolist(), strict=True))
    subset = digits.train.subset(57)
    assert [label[row] for row in rows(subset)] == subset.labels.tolist()
    assert digits.train.subset(None) is digits.train


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60), st.integers(0, 60))
def test_stratified_choices_are_fair_and_nested(labels, size, more):
    labels = np.array(labels)
    chosen, wider = stratified(labels, size), stratified(labels, size + more)
    assert len(chosen) == min(size, len(labels))
    assert set(chosen) <= set(wider) <= set(range(len(labels)))
    assert list(chosen) == sorted(set(chosen))
    taken, available = np.bincount(labels[chosen], minlength=5), np.bincount(labels, minlength=5)
    exhausted = taken == available
    assert all(taken[~exhausted] >= taken.max() - 1)  # only a class that has run out falls behind


@pytest.mark.parametrize("size", [8, 24])
def test_images_are_resized(digits, size):
    dataset = load_data("digits", image_size=size, train_size=50, test_size=20)
    assert dataset.image_shape == (1, size, size)
    assert dataset.fingerprint == f"50x1x{size}x{size}"
    check_pixels(dataset.train.images)
    # the same pictures, only coarser or finer
    scaled = torch.nn.functional.interpolate(dataset.test.images, size=16, mode="area")
    assert (scaled - digits.test.subset(20).images).abs().mean() < 0.1
    assert torch.equal(dataset.test.labels, digits.test.subset(20).labels)


@pytest.mark.parametrize(
    ("argument", "meaning"),
    [
        ("train_size", "images, 0 for all"),
        ("test_size", "images, 0 for all"),
        ("image_size", "pixels, 0 for as they are"),
    ],
)
def test_sizes_are_not_negative(refuse, argument, meaning):
    refuse(f"{argument} is a number of {meaning}, not -3.", "digits", **{argument: -3})


def test_no_size_is_every_image_as_it_is(digits):
    dataset = load_data("digits", train_size=0, test_size=0, image_size=0)
    assert torch.equal(dataset.train.images, digits.train.images)
    assert torch.equal(dataset.test.images, digits.test.images)
    assert dataset.fingerprint == digits.fingerprint


def test_an_unknown_name_is_answered_with_the_nearest(refuse):
    refuse(
        "unknown data set 'digit'; did you mean 'digits'? Known: digits, shapes, two_features, "
        "two_features_outline, two_features_texture, cifar10, folder:PATH.",
        "digit",
    )


def test_a_new_data_set_is_one_function(monkeypatch):
    monkeypatch.setattr(data, "LOADERS", dict(data.LOADERS))

    @data.register("stripes")
    def stripes(request):
        split = Split(torch.eye(4).repeat(6, 3, 1, 1), torch.arange(6) % 2)
        return data.Source(classes=("a", "b"), train=split, test=split, title="Stripes")

    dataset = load_data("stripes", test_size=2)
    assert (dataset.title, dataset.slug, dataset.fingerprint) == ("Stripes", "stripes", "6x3x4x4")
    assert (len(dataset.train), len(dataset.test)) == (6, 2)
    assert dataset.mean == (0.25,) * 3


# -- pixels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.tensor([0.0, 1.25]), "[0, 1.25]"),
        (torch.tensor([-0.5, 1.0]), "[-0.5, 1]"),
        (torch.tensor([0.5, float("nan")]), "[nan, nan]"),
        (torch.tensor([0, 255], dtype=torch.uint8), "[0, 255]"),
        (torch.tensor([0.0, float("inf")]), "[0, inf]"),
    ],
)
def test_pixels_outside_their_range_are_refused(images, found):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        check_pixels(images, "start")
    assert str(refusal.value) == (
        f"start must have pixels in [0, 1], found {found}. Models normalise inside: give them raw pixels, "
        "divided by 255 when they are bytes."
    )


def test_pixels_on_the_edge_are_accepted():
    check_pixels(torch.tensor([0.0, 1.0]))


# -- folders of images --------------------------------------------------------------------------------------


def picture(path, level=0, size=(12, 10), mode="RGB"):
    """Write an image of one level (width × height), with a bright pixel in the upper left corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, level if mode == "L" else (level, 0, 255))
    if path.suffix == ".png":
        image.putpixel((0, 0), 255 if mode == "L" else (255, 255, 255))
    image.save(path)


@pytest.fixture
def pets(tmp_path):
    """Two classes, three training images and one test image of each; cats are darker than dogs."""
    root = tmp_path / "photos" / "pets"
    for index in range(3):
        picture(root / "train" / "cat" / f"{index}.png", 10 + index)
        picture(root / "train" / "dog" / f"{index}.PNG", 110 + index)
    picture(root / "test" / "cat" / "9.png", 50)
    picture(root / "test" / "dog" / "9.png", 150)
    return root


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
    load = torchvision.datasets.folder.default_loader
    monkeypatch.setattr(
        torchvision.datasets.folder, "default_loader", lambda path: read.append(path) or load(path)
    )
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


def test_a_folder_that_is_none(refuse, tmp_path):
    refuse(f"{tmp_path / 'gone'} is not a folder.", f"folder:{tmp_path / 'gone'}")
    (tmp_path / "file").write_text("")
    refuse(f"{tmp_path / 'file'} is not a folder.", f"folder:{tmp_path / 'file'}")


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


def test_a_folder_may_start_with_a_tilde(pets, monkeypatch):
    monkeypatch.setenv("HOME", str(pets.parent))
    assert load_data("folder:~/pets").slug == "pets"


# -- CIFAR-10 -----------------------------------------------------------------------------------------------


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


CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10's files, with twenty images each, where torchvision looks for them; returns the folder."""
    rng = np.random.Generator(np.random.PCG64(0))
    folder = tmp_path / "downloads" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    checksums = {}

    def write(name, **items):
        content = pickled(**items)
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()

    batches = [f"data_batch_{number}" for number in range(1, 6)]
    for name in [*batches, "test_batch"]:
        images = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        images[:, 0], images[:, 1023], images[:, 3071] = 0, 51, 255
        write(name, data=images, labels=[*rng.permutation(20) % 10])
    write("batches.meta", label_names=CIFAR_CLASSES)

    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [[name, checksums[name]] for name in batches])
    monkeypatch.setattr(kind, "test_list", [["test_batch", checksums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": checksums["batches.meta"]})
    return folder


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


def test_cifar10_at_another_size(cifar):
    dataset = load_data("cifar10", root=str(cifar.parent), train_size=20, test_size=10, image_size=16)
    assert dataset.fingerprint == "20x3x16x16"
    assert counts(dataset.train) == [2] * 10
    assert dataset.image_shape == (3, 16, 16)
    check_pixels(dataset.train.images)


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
