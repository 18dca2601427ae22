"""`two_features`: which feature follows the label, what is independent of what, and what tells nothing."""

import hashlib
import re
from typing import get_args

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from sklearn.neighbors import NearestCentroid

from repsim.data.synthetic import (
    Informative,
    compose,
    read_outline,
    read_texture,
    two_features,
)
from repsim.data.synthetic.drawing import SIDE
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


# images and labels


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("informative", "digest"),
    [("both", "4b984ffb31345150"), ("outline", "f03f11be86df9a44"), ("texture", "707f3e7e8679efdd")],
)
def test_the_bytes_never_change(informative, digest):
    """Networks of the repository were trained on them: other images would make every one of them wrong."""
    images, labels = two_features(6000, seed=0, informative=informative)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest().startswith(digest)


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


@pytest.mark.matrix
@pytest.mark.parametrize("informative", WAYS)
@pytest.mark.parametrize("level", [np.mean, np.median, np.min, np.max])
def test_no_grey_level_tells_the_class(drawn, informative, level):
    images, labels = drawn[informative]
    others, their_labels = two_features(2000, 2, informative)

    def grey(x):
        return level(x / 255, axis=(1, 2, 3))[:, None]

    assert NearestCentroid().fit(grey(images), labels).score(grey(others), their_labels) < 0.13


# composed images


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
