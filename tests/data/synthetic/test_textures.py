"""`two_features`: which feature follows the label, what is independent of what, and what tells nothing."""

import hashlib
import re
from typing import get_args

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from sklearn.neighbors import NearestCentroid

from repsim.data.synthetic import (
    SHAPE_CLASSES,
    TWO_FEATURES,
    Informative,
    compose,
    read_outline,
    read_texture,
    textures,
    two_features,
)
from repsim.data.synthetic.drawing import SIDE
from repsim.data.synthetic.outlines import outline_ink
from repsim.data.synthetic.textures import wave_vectors

WAYS = get_args(Informative)


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def table(a, b):
    """How often each class of one goes with each class of the other."""
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (a, b), 1)
    return counts


@pytest.fixture(scope="module")
def drawn():
    """2,000 images of each kind with their labels."""
    return {informative: two_features(2000, seed=1, informative=informative) for informative in WAYS}


@pytest.fixture(scope="module")
def read(drawn):
    """What the oracles see: outlines, textures and labels of each kind."""
    return {
        informative: (read_outline(images / 255), read_texture(images / 255), labels)
        for informative, (images, labels) in drawn.items()
    }


@pytest.fixture
def pure(monkeypatch):
    """Draw textures alone: no outline, no noise, one contrast and one level."""
    monkeypatch.setattr(textures, "outline_ink", lambda labels, *_: np.zeros((len(labels), SIDE, SIDE)))
    for name, value in {"NOISE": 0.0, "AMPLITUDE": (0.2, 0.2), "GROUND": (0.5, 0.5)}.items():
        monkeypatch.setattr(textures, name, value)

    def draw(texture, count=200):
        none = np.zeros(count, dtype=np.int64)
        return compose(none, none + texture, rng(texture))[:, 0] / 255

    return draw


# images and labels


@pytest.mark.parametrize("informative", WAYS)
def test_shapes_and_dtypes(drawn, informative):
    images, labels = drawn[informative]
    assert images.shape == (2000, 1, SIDE, SIDE)
    assert images.dtype == np.uint8
    assert labels.shape == (2000,)
    assert labels.dtype == np.int64
    assert images.min() < 10
    assert images.max() > 245
    assert images.reshape(2000, -1).std(axis=1).min() > 20  # no image is blank
    assert len(np.unique(images.reshape(2000, -1), axis=0)) == 2000


@pytest.mark.parametrize(
    ("informative", "digest"),
    [("both", "4b984ffb31345150"), ("outline", "f03f11be86df9a44"), ("texture", "707f3e7e8679efdd")],
)
def test_the_bytes_never_change(informative, digest):
    """Networks of the repository were trained on them: other images would make every one of them wrong."""
    images, labels = two_features(6000, seed=0, informative=informative)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest().startswith(digest)


def test_both_features_tell_the_class_by_default():
    for given, default in zip(two_features(50, 3, "both"), two_features(50, 3), strict=True):
        np.testing.assert_array_equal(given, default)


def test_classes_are_named_by_outline_and_texture():
    assert len(TWO_FEATURES) == len(SHAPE_CLASSES) == len(wave_vectors()) == 10
    for index, (name, outline) in enumerate(zip(TWO_FEATURES, SHAPE_CLASSES, strict=True)):
        assert name == f"{outline}_{index}"


@pytest.mark.parametrize("informative", WAYS)
@pytest.mark.parametrize("count", [10, 200, 1234])
def test_balanced(count, informative):
    numbers = np.bincount(two_features(count, 1, informative)[1], minlength=10)
    assert numbers.sum() == count
    assert numbers.max() - numbers.min() <= 1


@pytest.mark.parametrize("informative", WAYS)
def test_the_seed_decides(informative):
    images, labels = two_features(300, 7, informative)
    again, same = two_features(300, 7, informative)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, same)
    other, different = two_features(300, 8, informative)
    assert (images != other).mean() > 0.9
    assert (labels != different).any()


def test_numpy_global_state_is_neither_read_nor_changed():
    images, _ = two_features(10, seed=0)
    np.random.seed(5)  # noqa: NPY002 (the legacy state is what is being guarded)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    again, _ = two_features(10, seed=0)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("informative", WAYS)
@pytest.mark.parametrize("count", [9, 1, 0, -3])
def test_too_few(count, informative):
    message = f"count must be at least 10, one image of each class, but is {count}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        two_features(count, 0, informative)


def test_negative_seed():
    message = "seed must be a whole number from 0 on, but is -1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        two_features(10, seed=-1)


# which feature is informative


def test_where_both_are_informative_outline_and_texture_are_those_of_the_label(read):
    outline, texture, label = read["both"]
    assert (outline == label).mean() >= 0.97
    assert (texture == label).mean() >= 0.99


def test_where_the_outline_is_informative_the_texture_tells_nothing(read):
    outline, texture, label = read["outline"]
    assert (outline == label).mean() >= 0.97
    assert 0.07 < (texture == label).mean() < 0.13
    assert chi2_contingency(table(label, texture)).pvalue > 0.01


def test_where_the_texture_is_informative_the_outline_tells_nothing(read):
    outline, texture, label = read["texture"]
    assert (texture == label).mean() >= 0.99
    assert 0.07 < (outline == label).mean() < 0.13
    assert chi2_contingency(table(label, outline)).pvalue > 0.01


@pytest.mark.parametrize("informative", ["outline", "texture"])
def test_the_two_features_are_independent_unless_both_are_informative(read, informative):
    outline, texture, _ = read[informative]
    assert table(outline, texture).min() > 5  # every outline goes with every texture
    assert chi2_contingency(table(outline, texture)).pvalue > 0.01
    together, apart, _ = read["both"]
    assert chi2_contingency(table(together, apart)).pvalue < 1e-100


@pytest.mark.parametrize("informative", ["outline", "texture"])
def test_the_random_feature_takes_every_class_as_often(read, informative):
    other = read[informative][WAYS.index("texture") - WAYS.index(informative)]
    assert np.bincount(other, minlength=10) == pytest.approx(200, abs=50)


@pytest.mark.parametrize("informative", WAYS)
@pytest.mark.parametrize("level", [np.mean, np.median, np.min, np.max])
def test_no_grey_level_tells_the_class(drawn, informative, level):
    images, labels = drawn[informative]
    others, their_labels = two_features(2000, 2, informative)

    def grey(x):
        return level(x / 255, axis=(1, 2, 3))[:, None]

    assert NearestCentroid().fit(grey(images), labels).score(grey(others), their_labels) < 0.13


@pytest.mark.parametrize("informative", WAYS)
def test_a_nearest_centroid_of_pixels_is_poor(drawn, informative):
    images, labels = drawn[informative]
    others, their_labels = two_features(2000, 2, informative)
    centroids = NearestCentroid().fit(images.reshape(2000, -1) / 255, labels)
    assert centroids.score(others.reshape(2000, -1) / 255, their_labels) < 0.2


# composed images


def test_composed_images_show_the_features_that_were_asked_for():
    for outline in range(10):
        same = np.full(100, outline)
        every = np.arange(100) % 10
        images = compose(same, every, rng(outline))
        assert images.shape == (100, 1, SIDE, SIDE)
        assert images.dtype == np.uint8
        assert (read_outline(images / 255) == outline).mean() >= 0.8
        assert (read_texture(images / 255) == every).mean() >= 0.97


def test_composing_follows_the_given_source_of_draws_and_changes_no_label():
    outlines, chosen = np.arange(20) % 10, np.arange(20) // 2
    source = rng(4)
    first, second = (compose(outlines, chosen, source) for _ in range(2))
    assert (first != second).mean() > 0.9
    np.testing.assert_array_equal(first, compose(outlines, chosen, rng(4)))
    np.testing.assert_array_equal(outlines, np.arange(20) % 10)
    np.testing.assert_array_equal(chosen, np.arange(20) // 2)


def test_another_texture_leaves_the_line_as_it_is():
    outlines, chosen = np.arange(500) % 10, rng(9).integers(0, 10, 500)
    image = compose(outlines, chosen, rng(1))[:, 0]
    other = compose(outlines, (chosen + 3) % 10, rng(1))[:, 0]
    ink = outline_ink(outlines, rng(1), textures.POSE)
    np.testing.assert_array_equal(image[ink == 1], other[ink == 1])
    assert (image != other)[ink == 0].mean() > 0.9


def test_another_outline_leaves_the_ground_as_it_is():
    outlines, chosen = np.arange(500) % 10, rng(9).integers(0, 10, 500)
    others = (outlines + 3) % 10
    image, other = (compose(kind, chosen, rng(1))[:, 0] for kind in (outlines, others))
    ink, other_ink = (outline_ink(kind, rng(1), textures.POSE) for kind in (outlines, others))
    bare, lined = (ink == 0) & (other_ink == 0), (ink == 0) & (other_ink > 0.9)
    np.testing.assert_array_equal(image[bare], other[bare])
    assert (image != other)[lined].mean() > 0.9


def test_the_line_is_brighter_as_often_as_darker_by_a_visible_contrast():
    outlines = np.arange(1000) % 10
    images = compose(outlines, rng(9).permutation(outlines), rng(1))[:, 0] / 255
    ink = outline_ink(outlines, rng(1), textures.POSE)
    line = np.array([image[covered > 0.9].mean() for image, covered in zip(images, ink, strict=True)])
    ground = np.array([image[covered == 0].mean() for image, covered in zip(images, ink, strict=True)])
    assert 0.45 < (line > ground).mean() < 0.55
    low, high = textures.CONTRAST
    assert np.abs(line - ground).min() > low - 0.1
    assert np.abs(line - ground).max() < high + 0.05
    # no one threshold has the line on its one side and the ground on its other in many more than half
    parted = [((line > level) != (ground > level)).mean() for level in np.linspace(0, 1, 51)]
    assert 0.4 < max(parted) < 0.65


@pytest.mark.parametrize(
    ("name", "value"),
    [("GROUND", (0.5, 0.5)), ("AMPLITUDE", (0.0, 0.0)), ("CONTRAST", (0.0, 0.0)), ("NOISE", 0.0)],
)
def test_what_is_frozen_is_what_is_drawn(monkeypatch, name, value):
    labels = np.arange(50) % 10
    before = compose(labels, labels, rng())
    monkeypatch.setattr(textures, name, value)
    assert (compose(labels, labels, rng()) != before).mean() > 0.3


# textures


def test_waves_are_distinct_and_below_nyquist():
    waves = wave_vectors()
    assert waves.shape == (10, 2)
    length = np.linalg.norm(waves, axis=1)
    assert length.max() < 0.5
    assert length.min() * SIDE > 2  # and two whole cycles fit into an image
    # k and −k are one wave; two that are less than a cycle per image apart could not be told from one
    for sign in (1, -1):
        gap = np.linalg.norm(waves[:, None] - sign * waves[None], axis=2)[np.triu_indices(10, 1)]
        assert gap.min() * SIDE > 1


@pytest.mark.parametrize("texture", range(10))
def test_a_texture_has_one_energy_in_every_phase(pure, texture):
    images = pure(texture)
    contrast = images.std(axis=(1, 2))
    assert contrast == pytest.approx(0.2 / np.sqrt(2), rel=0.06)  # the image holds no whole number of cycles
    x, y = wave_vectors()[texture]
    wave = np.exp(-2j * np.pi * (x * np.arange(SIDE) + y * np.arange(SIDE)[:, None]))
    found = ((images - images.mean(axis=(1, 2), keepdims=True)) * wave).sum(axis=(1, 2))
    assert np.abs(found) == pytest.approx(0.1 * SIDE**2, rel=0.1)
    assert np.abs((found / np.abs(found)).mean()) < 0.15  # and its phase is random
    assert (read_texture(images[:, None]) == texture).all()


def test_no_texture_has_more_contrast_than_another(pure):
    contrasts = [pure(texture).std(axis=(1, 2)).mean() for texture in range(10)]
    assert max(contrasts) / min(contrasts) < 1.02


def test_an_unknown_informative_feature_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"unknown informative feature 'outlines'.*outline"):
        two_features(10, seed=0, informative="outlines")


@pytest.mark.parametrize(
    ("outlines", "textures", "message"),
    [
        ([0, 1], [0], "each outline needs one texture, got 2 and 1."),
        ([0, 10], [0, 1], "outlines are classes from 0 to 9, found 0 to 10."),
        ([0, 1], [-1, 1], "textures are classes from 0 to 9, found -1 to 1."),
    ],
)
def test_classes_that_do_not_exist_are_refused(outlines, textures, message):
    rng = np.random.Generator(np.random.PCG64(0))
    with pytest.raises(ValueError, match=re.escape(message)):
        compose(np.array(outlines), np.array(textures), rng)
