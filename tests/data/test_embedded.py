"""A name becomes images in [0, 1]: the same ones every time, from every kind of source."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repsim import data
from repsim.data import Augmentation, Split, as_images, load_data, stratified
from repsim.data.synthetic import TWO_FEATURES, two_features


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def shapes():
    return load_data("shapes")


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
        as_images(split.images)
    assert dataset.name == dataset.title == dataset.slug == name
    assert dataset.image_shape == (1, 16, 16)
    assert len(dataset.classes) == 10
    assert dataset.mean == (pytest.approx(dataset.train.images.mean().item(), abs=1e-4),)
    assert dataset.std == (pytest.approx(dataset.train.images.std().item(), abs=1e-4),)
    assert dataset.fingerprint == f"{sizes[0]}x1x16x16"
    assert not dataset.augmentation.flip  # neither a digit nor an arrow is what its mirror image is


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


# -- two features -------------------------------------------------------------------------------------------


@pytest.mark.matrix
def test_images_of_two_features_and_what_describes_them(featured):
    assert (len(featured.train), len(featured.test)) == (6000, 2000)
    for split in (featured.train, featured.test):
        assert split.images.shape == (len(split), 1, 16, 16)
        assert split.images.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert (split.images.min(), split.images.max()) == (0, 1)
        assert counts(split) == [len(split) / 10] * 10
        as_images(split.images)
    assert featured.name == featured.slug
    assert featured.title == TITLES[featured.name]
    assert featured.classes == TWO_FEATURES
    assert featured.image_shape == (1, 16, 16)
    assert featured.mean == (pytest.approx(featured.train.images.mean().item(), abs=1e-4),)
    assert featured.std == (pytest.approx(featured.train.images.std().item(), abs=1e-4),)
    assert featured.fingerprint == "6000x1x16x16"
    assert featured.augmentation == Augmentation(crop=0, flip=False)  # mirrored, a grating is another one


@pytest.mark.matrix
def test_images_of_two_features_are_those_of_their_seeds(featured):
    informative = featured.name.removeprefix("two_features").removeprefix("_") or "both"
    for split, count, seed in ((featured.train, 6000, 0), (featured.test, 2000, 1)):
        images, labels = two_features(count, seed, informative)
        np.testing.assert_array_equal(data.to_bytes(split.images).numpy(), images)
        np.testing.assert_array_equal(split.labels.numpy(), labels)


# -- fewer images, other sizes ------------------------------------------------------------------------------


def test_fewer_images_of_every_class(digits, tiny_data):
    assert counts(tiny_data.train) == [20] * 10
    assert counts(tiny_data.test) == [6] * 10
    assert set(rows(tiny_data.train)) < set(rows(digits.train))
    assert set(rows(tiny_data.test)) < set(rows(digits.test))
    assert tiny_data.fingerprint == "200x1x16x16"
    assert tiny_data.mean != digits.mean


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
    as_images(dataset.train.images)
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
        "two_features_outline, two_features_texture, cifar10, cifar100, cifar10_jpeg, mnist, fashion_mnist, "
        "svhn, celeba, … (19 in all).",
        "digit",
    )


def test_a_new_data_set_is_one_function(monkeypatch):
    monkeypatch.setitem(data.LOADERS, "stripes", None)  # so that it is forgotten after the test

    @data.register("stripes")
    def stripes(request):
        split = Split(torch.eye(4).repeat(6, 3, 1, 1), torch.arange(6) % 2)
        return data.Source(classes=("a", "b"), train=split, test=split, title="Stripes")

    dataset = load_data("stripes", test_size=2)
    assert (dataset.title, dataset.slug, dataset.fingerprint) == ("Stripes", "stripes", "6x3x4x4")
    assert (len(dataset.train), len(dataset.test)) == (6, 2)
    assert dataset.mean == (0.25,) * 3


# -- pixels -------------------------------------------------------------------------------------------------
