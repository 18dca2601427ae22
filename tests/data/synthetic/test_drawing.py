"""Lines on a grid of pixels, labels in balance, random numbers from a seed."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from repsim.data.synthetic.drawing import SIDE, balanced_labels, draw_ink, generator

INSIDE = st.floats(-4, SIDE + 4)


def distance(pixel, start, end):
    """Of a pixel to a segment, by the segment's nearest point."""
    along = end - start
    position = np.dot(pixel - start, along) / np.dot(along, along) if np.abs(along).max() > 1e-6 else 0.0
    return np.linalg.norm(pixel - start - min(max(position, 0.0), 1.0) * along)


# lines


@pytest.mark.slow
@given(arrays(float, (4, 2), elements=INSIDE), st.floats(0.5, 3), st.booleans())
def test_ink_is_by_the_distance_to_the_nearest_segment(corners, stroke, closed):
    joined = np.concatenate([corners, corners[:1]]) if closed else corners
    ink = draw_ink(corners[None], np.array([stroke]), closed)[0]
    assert ink.shape == (SIDE, SIDE)
    for x, y in [(0, 0), (5, 9), (15, 2), *np.rint(corners.clip(0, SIDE - 1)).astype(int)]:
        pixel = np.array([x, y], dtype=float)
        nearest = min(distance(pixel, *ends) for ends in itertools.pairwise(joined))
        # the drawing bounds lengths from below, so that a segment of less than a millionth is a point
        assert ink[y, x] == pytest.approx(np.clip(0.5 + stroke / 2 - nearest, 0, 1), abs=1e-5)


def test_images_are_drawn_apart():
    rng = generator(10, 10, 0)
    corners, stroke = rng.uniform(0, SIDE, (6, 5, 2)), rng.uniform(0.5, 2, 6)
    one_by_one = [draw_ink(corners[i : i + 1], stroke[i : i + 1])[0] for i in range(6)]
    np.testing.assert_array_equal(draw_ink(corners, stroke), one_by_one)


# labels


@given(st.integers(2, 12), st.integers(0, 300), st.integers(0, 10**6))
def test_labels_are_in_balance_and_in_random_order(classes, more, seed):
    count = classes + more
    labels = balanced_labels(count, classes, generator(count, classes, seed))
    assert labels.dtype == np.int64
    numbers = np.bincount(labels, minlength=classes)
    assert len(numbers) == classes
    assert numbers.sum() == count
    assert numbers.max() - numbers.min() <= 1
    np.testing.assert_array_equal(labels, balanced_labels(count, classes, generator(count, classes, seed)))


# the source of every draw


@given(st.integers(0, 2**64))
def test_a_generator_is_pcg64_from_the_seed_alone(seed):
    expected = np.random.Generator(np.random.PCG64(seed)).random(3).tolist()
    assert generator(10, 10, seed).random(3).tolist() == expected
    assert generator(99, 7, seed).random(3).tolist() == expected


@pytest.mark.parametrize(("count", "classes"), [(9, 10), (0, 10), (-3, 4)])
def test_every_class_has_an_image(count, classes):
    message = f"count must be at least {classes}, one image of each class, but is {count}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        generator(count, classes, 0)


def test_a_seed_is_not_negative():
    message = "seed must be a whole number from 0 on, but is -1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        generator(10, 10, -1)
