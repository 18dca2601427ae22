"""On the device that there is: without a GPU skipped, or run on the CPU where asked for with `-m gpu`."""

from functools import cache
from pathlib import Path

import pytest
import torch

from repsim.data import load_data
from repsim.support import paths
from repsim.support.devices import tf32
from repsim.training import zoo
from repsim.training.model_store import find

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pytest_collection_modifyitems(config, items):
    here = Path(__file__).parent
    asked_for = "gpu" in config.getoption("-m")
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if DEVICE == "cpu" and not asked_for:
                item.add_marker(pytest.mark.skip(reason="there is no GPU here; -m gpu runs it on the CPU"))


@pytest.fixture(scope="session")
def device():
    """Where what is checked is computed."""
    return torch.device(DEVICE)


@pytest.fixture(scope="session")
def on_gpu(device):
    """For what there is on a GPU only."""
    if device.type == "cpu":
        pytest.skip("of a GPU's memory and states")
    return device


@pytest.fixture
def exact():
    """Convolutions and products of float32 in float32."""
    with tf32(False):
        yield


@pytest.fixture
def coarse():
    """Convolutions and products of float32 in TF32, where the device has it."""
    with tf32(True):
        yield


@pytest.fixture
def _alone(monkeypatch):
    """What of stitches and inverted images is in the checkout is not looked for."""
    for name in ("stitches", "inverted"):
        monkeypatch.setattr(paths, name, lambda name=name: [paths.data() / name])


@pytest.fixture(scope="session")
def committed():
    """A committed network of the digits by its architecture, ε and device."""

    @cache
    def take(architecture="resnet_tiny", epsilon=0.0, seed=0, where=DEVICE):
        (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
        return find(recipe, where)

    return take


@pytest.fixture(scope="session")
def alike():
    """Whether tensors or tables of numbers are the same, to a share of the largest value."""

    def check(found, expected, share):
        found, expected = (torch.as_tensor(each).detach().cpu().double() for each in (found, expected))
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=share * float(expected.abs().max()) + 1e-300)

    return check
