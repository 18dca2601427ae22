"""A small trained network and images that it knows."""

import pytest

from repsim.training import Recipe, train


@pytest.fixture(scope="session")
def trained(tiny_data):
    return train(Recipe.on(tiny_data, "resnet_tiny", epochs=8, batch_size=50), tiny_data, progress=False)[0]


@pytest.fixture(scope="session")
def batch(tiny_data):
    return tiny_data.test.images[:24], tiny_data.test.labels[:24]
