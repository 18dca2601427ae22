"""`shapes`: shapes and dtypes, determinism, balance, labels, difficulty from below."""

import dataclasses
import hashlib

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from repsim.data.synthetic import SHAPE_CLASSES, shapes
from repsim.data.synthetic.drawing import SIDE, balanced_labels
from repsim.data.synthetic.outlines import (
    CLEAN,
    OUTLINES,
    Nuisance,
    _clutter_ink,
    _develop,
    _draw,
    outline_ink,
)


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def templates():
    """The outline of each class without nuisance, white on black, in [0, 1]: (classes, SIDE, SIDE)."""
    return outline_ink(np.arange(len(SHAPE_CLASSES)), rng(), CLEAN)


def test_shapes_and_dtypes():
    images, labels = shapes(1030, seed=0)  # more than one chunk
    assert images.shape == (1030, 1, SIDE, SIDE)
    assert images.dtype == np.uint8
    assert labels.shape == (1030,)
    assert labels.dtype == np.int64
    assert images.min() < 10
    assert images.max() > 245
    assert images.reshape(1030, -1).std(axis=1).min() > 2  # no image is blank


@pytest.mark.parametrize(
    ("count", "seed", "digest"), [(6000, 0, "62b58255df0f5eb5"), (4000, 1, "2b4c49ee26cd6fd5")]
)
def test_the_bytes_never_change(count, seed, digest):
    """Networks of the repository were trained on them: other images would make every one of them wrong."""
    images, labels = shapes(count, seed=seed)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest().startswith(digest)


def test_classes():
    assert list(SHAPE_CLASSES) == list(OUTLINES)
    assert len(SHAPE_CLASSES) == len(set(SHAPE_CLASSES)) == 10
    assert all(name.isidentifier() for name in SHAPE_CLASSES)
    assert set(shapes(10, seed=5)[1]) == set(range(10))


@pytest.mark.parametrize("count", [10, 200, 1234])
def test_balanced(count):
    numbers = np.bincount(shapes(count, seed=1)[1], minlength=10)
    assert numbers.sum() == count
    assert numbers.max() - numbers.min() <= 1


def test_the_seed_decides():
    images, labels = shapes(300, seed=7)
    again, same = shapes(300, seed=7)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, same)
    other, different = shapes(300, seed=8)
    assert (images != other).mean() > 0.9
    assert (labels != different).any()


def test_numpy_global_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (the legacy state is what is being guarded)
    shapes(10, seed=0)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_images_differ_from_each_other():
    images, _ = shapes(2000, seed=2)
    assert len(np.unique(images.reshape(2000, -1), axis=0)) == 2000


def test_outlines_fill_the_unit_circle():
    for outline in OUTLINES.values():
        radius = np.sqrt((outline**2).sum(axis=1))
        assert radius.max() == pytest.approx(1.0)
        assert np.isfinite(outline).all()


def test_templates_are_distinct(templates):
    flat = templates.reshape(len(templates), -1)
    similarity = np.corrcoef(flat) - np.eye(len(flat))
    assert similarity.max() < 0.9
    assert (flat > 0.5).sum(axis=1).min() > 20


def test_labels_name_the_outline_when_nuisance_is_off(templates):
    labels = balanced_labels(100, 10, rng())
    images = _draw(labels, rng(), CLEAN)[:, 0] / 255
    inverted = images[:, 0, 0] > 0.5  # the corner is background
    assert 20 < inverted.sum() < 80  # both polarities
    images[inverted] = 1 - images[inverted]
    np.testing.assert_allclose(images, templates[labels], atol=0.5 / 255 + 1e-9)


def test_labels_correspond_under_pose_alone(templates):
    """Position and contrast alone: the best-correlated shifted template still names the class."""
    nuisance = dataclasses.replace(CLEAN, margin=-0.5, contrast=(0.5, 0.9))  # up to one pixel either way
    labels = balanced_labels(200, 10, rng())
    images = _draw(labels, rng(1), nuisance).reshape(200, -1).astype(float)
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    bank = np.stack([np.roll(templates, shift, (1, 2)).reshape(10, -1) for shift in shifts])
    scores = np.abs(np.corrcoef(images, bank.reshape(90, -1))[:200, 200:]).reshape(200, 9, 10).max(axis=1)
    assert (scores.argmax(axis=1) == labels).mean() > 0.95


def test_a_nearest_centroid_is_poor_yet_above_chance():
    images, labels = shapes(3000, seed=0)
    test_images, test_labels = shapes(1000, seed=1)

    def features(images):
        x = images.reshape(len(images), -1) / 255.0
        x = np.abs(x - np.median(x, axis=1, keepdims=True))  # else the polarities cancel in the mean
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    accuracy = NearestCentroid().fit(features(images), labels).score(features(test_images), test_labels)
    assert 0.14 < accuracy < 0.5


@pytest.mark.parametrize("count", [9, 1, 0, -3])
def test_too_few(count):
    with pytest.raises(ValueError, match=f"count must be at least 10.*{count}"):
        shapes(count, seed=0)


def test_negative_seed():
    with pytest.raises(ValueError, match="seed must be a whole number from 0 on, but is -1"):
        shapes(10, seed=-1)


@pytest.mark.parametrize(
    "nuisance",
    [
        {"radius": (3.8, 6.5)},
        {"aspect": (0.8, 1.25)},
        {"rotation": (-0.7, 0.7)},
        {"margin": 0.5},
        {"stroke": (0.9, 1.8)},
        {"contrast": (0.6, 1.0)},
        {"clutter": 3},
        {"occluded": 1.0},
        {"noise": (0.01, 0.06)},
    ],
    ids=lambda nuisance: next(iter(nuisance)),
)
def test_each_nuisance_makes_images_of_a_class_differ(nuisance):
    labels = np.full(40, 2)
    clean, varied = (
        _draw(labels, rng(), dataclasses.replace(CLEAN, **options)).reshape(40, -1)
        for options in ({}, nuisance)
    )
    assert len(np.unique(clean, axis=0)) == 2  # the two polarities
    assert len(np.unique(varied, axis=0)) > 20


def test_clutter_is_as_much_as_it_is_said_to_be():
    def clutter(**options):
        return _clutter_ink(300, rng(), Nuisance(**options))

    usual = clutter()
    assert not clutter(clutter=0).any()
    assert usual.sum() < clutter(clutter=6).sum()
    assert clutter(clutter_length=(2.0, 3.0)).sum() < usual.sum() < clutter(clutter_length=(8.0, 9.0)).sum()
    assert usual.max() <= 1
    assert clutter(clutter_strength=(0.1, 0.2)).max() <= 0.2
    alone = (clutter(clutter=1) > 0).any(axis=(1, 2))
    assert 0.4 < alone.mean() < 0.6  # none, or one, as often as the other


def test_occluders_are_as_many_and_as_large_as_they_are_said_to_be():
    def covered(occluded, occluder):
        flat = dataclasses.replace(CLEAN, contrast=(0.0, 0.0), occluded=occluded, occluder=occluder)
        images = _develop(np.zeros((300, SIDE, SIDE)), rng(), flat)
        return (images != np.median(images, axis=(2, 3), keepdims=True)).sum(axis=(1, 2, 3))

    assert not covered(0.0, (3.0, 8.5)).any()
    assert 0.25 < (covered(0.3, (3.0, 8.5)) > 0).mean() < 0.35
    area = covered(1.0, (4.0, 6.0))
    assert set(area[area > 0]) <= {width * height for width in (4, 5, 6) for height in (4, 5, 6)}
    assert (area > 0).mean() > 0.98  # all but those of the level of their ground
