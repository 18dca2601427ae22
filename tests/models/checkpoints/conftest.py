"""Networks to write, and networks rebuilt from what was read."""

import pytest
import torch
from toy_networks import randomized

from repsim.models import build_model


@pytest.fixture
def small():
    """An untrained network of ours with random weights and statistics."""

    def make(name="wrn_tiny", shape=(3, 32, 32), classes=10, mean=0.4, std=0.3):
        return randomized(build_model(name, shape, classes, [mean] * shape[0], [std] * shape[0]))

    return make


@pytest.fixture
def rebuilt():
    """The network of a checkpoint, as `build_model` makes it, with its weights loaded strictly."""

    def make(read):
        channels = read.image_shape[0]
        unset = [0.0] * channels, [1.0] * channels
        network = build_model(read.architecture, read.image_shape, read.num_classes, *unset)
        normalization = {
            key: value for key, value in network.state_dict().items() if key.startswith("normalize.")
        }
        network.load_state_dict(normalization | read.weights)
        return network.eval()

    return make


@pytest.fixture
def pixels():
    """A few random images."""

    def make(shape=(3, 32, 32), count=3):
        return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))

    return make


@pytest.fixture
def bare():
    """The weights of a network of ours as code that normalises outside of it saves them."""

    def make(network):
        return {k: v for k, v in network.state_dict().items() if not k.startswith("normalize.")}

    return make
