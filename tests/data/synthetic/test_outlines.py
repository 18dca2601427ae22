"""`shapes`: shapes and dtypes, determinism, balance, labels, difficulty from below."""

import hashlib

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from repsim.data.synthetic import SHAPE_CLASSES, shapes
from repsim.data.synthetic.drawing import balanced_labels
from repsim.data.synthetic.outlines import (
    CLEAN,
    _draw,
    outline_ink,
)


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def templates():
    """The outline of each class without nuisance, white on black, in [0, 1]: (classes, SIDE, SIDE)."""
    return outline_ink(np.arange(len(SHAPE_CLASSES)), rng(), CLEAN)


@pytest.mark.parametrize(
    ("count", "seed", "digest"), [(6000, 0, "62b58255df0f5eb5"), (4000, 1, "2b4c49ee26cd6fd5")]
)
def test_the_bytes_never_change(count, seed, digest):
    """Networks of the repository were trained on them: other images would make every one of them wrong."""
    images, labels = shapes(count, seed=seed)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest().startswith(digest)


def test_labels_name_the_outline_when_nuisance_is_off(templates):
    labels = balanced_labels(100, 10, rng())
    images = _draw(labels, rng(), CLEAN)[:, 0] / 255
    inverted = images[:, 0, 0] > 0.5  # the corner is background
    assert 20 < inverted.sum() < 80  # both polarities
    images[inverted] = 1 - images[inverted]
    np.testing.assert_allclose(images, templates[labels], atol=0.5 / 255 + 1e-9)


def test_a_nearest_centroid_is_poor_yet_above_chance():
    images, labels = shapes(3000, seed=0)
    test_images, test_labels = shapes(1000, seed=1)

    def features(images):
        x = images.reshape(len(images), -1) / 255.0
        x = np.abs(x - np.median(x, axis=1, keepdims=True))  # else the polarities cancel in the mean
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    accuracy = NearestCentroid().fit(features(images), labels).score(features(test_images), test_labels)
    assert 0.14 < accuracy < 0.5
