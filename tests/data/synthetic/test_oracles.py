"""What an image shows, read without a network: right on fresh images, and whatever the light."""

import re

import numpy as np
import pytest

from repsim.data.synthetic import compose, oracles, read_outline, read_texture, textures
from repsim.data.synthetic.drawing import SIDE

ORACLES = {"outline": (read_outline, 0.97), "texture": (read_texture, 0.99)}


@pytest.fixture(scope="module")
def fresh():
    """3,000 images of independent features, in [0, 1], and the class of each feature."""
    rng = np.random.Generator(np.random.PCG64(20))
    shown = {"outline": rng.integers(0, 10, 3000), "texture": rng.integers(0, 10, 3000)}
    return compose(shown["outline"], shown["texture"], rng) / 255, shown


@pytest.fixture(scope="module")
def noise():
    return np.random.Generator(np.random.PCG64(21)).standard_normal((3000, 1, SIDE, SIDE))


@pytest.mark.slow
@pytest.mark.parametrize("feature", ORACLES)
def test_an_oracle_is_right_on_fresh_images(fresh, feature):
    images, shown = fresh
    oracle, least = ORACLES[feature]
    found = oracle(images)
    assert found.shape == (3000,)
    assert (found == shown[feature]).mean() >= least
    right = [(found[shown[feature] == label] == label).mean() for label in range(10)]
    assert min(right) >= 0.85  # of every class


@pytest.mark.parametrize("feature", ORACLES)
def test_an_oracle_does_not_read_the_other_feature(fresh, feature):
    images, shown = fresh
    (other,) = set(shown) - {feature}
    assert 0.08 < (ORACLES[feature][0](images) == shown[other]).mean() < 0.12


@pytest.mark.parametrize("feature", ORACLES)
def test_an_oracle_bears_noise(fresh, noise, feature):
    images, shown = fresh
    oracle, _ = ORACLES[feature]
    assert (oracle(images + 0.1 * noise) == shown[feature]).mean() >= 0.95
    assert (oracle((images + 0.1 * noise).clip(0, 1)) == shown[feature]).mean() >= 0.95
    assert (oracle(images + 3 * noise) == shown[feature]).mean() < 0.5  # but sees what is there


@pytest.mark.parametrize("feature", ORACLES)
def test_polarity_and_brightness_do_not_matter(fresh, feature):
    images, _ = fresh
    oracle, _ = ORACLES[feature]
    found = oracle(images)
    for same in (1 - images, images + 0.2, images - 0.4):
        np.testing.assert_array_equal(oracle(same), found)


def test_the_clip_keeps_lines_from_being_taken_for_waves(monkeypatch):
    monkeypatch.setattr(textures, "AMPLITUDE", (0.06, 0.06))  # fainter than any that is drawn
    rng = np.random.Generator(np.random.PCG64(23))
    shown = rng.integers(0, 10, 2000)
    images = compose(rng.integers(0, 10, 2000), shown, rng) / 255
    clipped = (read_texture(images) == shown).mean()
    monkeypatch.setattr(oracles, "CLIP", 1.0)
    assert (read_texture(images) == shown).mean() < clipped - 0.02


@pytest.mark.parametrize("feature", ORACLES)
@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 16, 16), (4, 16, 16), (16, 16), (1, 4, 16, 16)])
def test_images_of_another_shape_are_refused(feature, shape):
    message = f"images of two_features are (n, 1, 16, 16), not {shape}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ORACLES[feature][0](np.zeros(shape))
