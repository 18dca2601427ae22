"""The procedural data sets: shapes and dtypes, determinism, balance, labels, difficulty from below."""

import dataclasses

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from repsim import synthetic
from repsim.synthetic import CLEAN, SHAPE_CLASSES, SIDE, shapes


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def templates():
    """The outline of each class without nuisance, white on black, in [0, 1]: (classes, SIDE, SIDE)."""
    return synthetic._outline_ink(np.arange(len(SHAPE_CLASSES)), rng(), CLEAN)


def test_shapes_and_dtypes():
    images, labels = shapes(1030, seed=0)  # more than one chunk
    assert images.shape == (1030, 1, SIDE, SIDE)
    assert images.dtype == np.uint8
    assert labels.shape == (1030,)
    assert labels.dtype == np.int64
    assert images.min() < 10
    assert images.max() > 245
    assert images.reshape(1030, -1).std(axis=1).min() > 2  # no image is blank


def test_classes():
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
    for outline in synthetic._OUTLINES.values():
        radius = np.sqrt((outline**2).sum(axis=1))
        assert radius.max() == pytest.approx(1.0)
        assert np.isfinite(outline).all()


def test_templates_are_distinct(templates):
    flat = templates.reshape(len(templates), -1)
    similarity = np.corrcoef(flat) - np.eye(len(flat))
    assert similarity.max() < 0.9
    assert (flat > 0.5).sum(axis=1).min() > 20


def test_ink_is_a_soft_line_at_its_place():
    ink = synthetic._ink(np.array([[[3.0, 5.0], [12.0, 5.0]]]), np.array([1.0]), closed=False)[0]
    assert ink[5, 3:13] == pytest.approx(1.0)  # rows are y
    assert ink[[4, 6], 3:13] == pytest.approx(0.0)
    softer = synthetic._ink(np.array([[[3.0, 5.5], [12.0, 5.5]]]), np.array([1.0]), closed=False)[0]
    assert softer[5:7, 3:13] == pytest.approx(0.5)  # half-way between two rows: half on each


def test_ink_closes_the_polyline():
    corners = np.array([[[3.0, 3.0], [12.0, 3.0], [12.0, 12.0]]])
    assert synthetic._ink(corners, np.array([1.0]))[0, 8, 8] == pytest.approx(1.0)
    assert synthetic._ink(corners, np.array([1.0]), closed=False)[0, 8, 8] == 0.0


def test_labels_name_the_outline_when_nuisance_is_off(templates):
    labels = synthetic._balanced_labels(100, 10, rng())
    images = synthetic._draw(labels, rng(), CLEAN)[:, 0] / 255
    inverted = images[:, 0, 0] > 0.5  # the corner is background
    assert 20 < inverted.sum() < 80  # both polarities
    images[inverted] = 1 - images[inverted]
    np.testing.assert_allclose(images, templates[labels], atol=0.5 / 255 + 1e-9)


def test_labels_correspond_under_pose_alone(templates):
    """Position and contrast alone: the best-correlated shifted template still names the class."""
    nuisance = dataclasses.replace(CLEAN, margin=-0.5, contrast=(0.5, 0.9))  # up to one pixel either way
    labels = synthetic._balanced_labels(200, 10, rng())
    images = synthetic._draw(labels, rng(1), nuisance).reshape(200, -1).astype(float)
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
