"""A first script, which knows `repsim` alone, plain torch networks and tensors."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import repsim

PACKAGE = Path(repsim.__file__).parent
SHAPE = (1, 16, 16)


@pytest.fixture(scope="module")
def networks():
    """Two small classifiers of grey images of 16 × 16 pixels."""

    def network(seed):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)]
        return nn.Sequential(*layers).eval()

    return network(0), network(1)


@pytest.fixture(scope="module")
def images():
    return repsim.load_data("digits", train_size=100, test_size=40).test.images


@pytest.fixture(scope="module")
def labels():
    return repsim.load_data("digits", train_size=100, test_size=40).test.labels


def test_data_are_loaded_by_name(images, labels):
    assert images.shape == (40, *SHAPE)
    assert labels.bincount().tolist() == [4] * 10


def test_a_stored_network_is_loaded_by_name():
    from repsim.support import paths

    record = next((paths.models()[-1] / "digits").glob("*.json"))
    found = repsim.load_model(record.stem, "cpu")
    assert found.network(torch.zeros(2, *SHAPE)).shape == (2, 10)


def test_layers_are_listed_and_captured(networks, images):
    table = repsim.layers(networks[0], SHAPE)
    assert table["layer"].tolist() == ["0", "1", "2", "3"]
    values = repsim.capture(networks[0], images, table["layer"].tolist())
    assert torch.equal(values["3"], networks[0](images))


def test_layers_and_matrices_are_compared(networks, images):
    options = {"layers_a": ["1"], "layers_b": ["1"], "estimator": "biased", "batch_size": None}
    table = repsim.layer_cka(*networks, images, **options)
    values = [repsim.capture(network, images, ["1"])["1"].flatten(1) for network in networks]
    compared = repsim.compare(*values, "cka")
    assert table["value"].item() == pytest.approx(compared["value"].item(), abs=1e-5)


def test_networks_are_stitched(networks, images, labels):
    stitched, curve = repsim.stitch(*networks, "1", "1", images, labels, progress=False)
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    assert stitched(images).shape == (40, 10)


def test_images_are_inverted(networks, images):
    found = repsim.invert(networks[0], images[:4], images[4:8], "1", iterations=30, progress=False)
    assert found.curve["loss"].iloc[-1] < found.curve["loss"].iloc[0] / 2


def test_images_are_attacked(networks, images, labels):
    attacked = repsim.attack(networks[0], images, labels, "8/255")
    assert (attacked - images).abs().max().item() == pytest.approx(8 / 255, abs=1e-6)
    losses = [nn.functional.cross_entropy(networks[0](each), labels) for each in (images, attacked)]
    assert losses[1] > losses[0]
    moved = repsim.attack(networks[0], images, labels, 0.5, "l2", name="fgsm") - images
    assert moved.flatten(1).norm(dim=1).max() <= 0.5 + 1e-5


def test_layers_are_compared_without_what_is_slow_to_import():
    """Its import costs little more than torch's: what others take a second for is not among it."""
    slow = (
        "torch._dynamo torchvision scipy.stats scipy.optimize sklearn matplotlib ripser robustness sympy PIL"
    )
    code = f"""
        import sys
        import torch
        before = set(sys.modules)
        from repsim import capture, compare, layer_cka, layers
        print(*(set({slow.split()}) & (set(sys.modules) - before)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("__init__.pyi")), ids=lambda stub: stub.parent.name)
def test_rooms_have_what_their_stubs_list(stub):
    room = importlib.import_module(".".join(stub.parent.relative_to(PACKAGE.parent).parts))
    (listed,) = re.findall(r"__all__ = (\[.*?\])", stub.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert room.__all__ == sorted(ast.literal_eval(listed))
    assert all(getattr(room, name) is not None for name in room.__all__)


def test_names_are_what_their_rooms_have_and_say_what_they_do():
    assert repsim.__version__
    assert set(repsim.__all__) <= set(dir(repsim))
    for name in repsim.__all__:
        found = getattr(repsim, name)
        assert getattr(importlib.import_module(found.__module__), name) is found
        assert inspect.getdoc(found)
    with pytest.raises(ImportError, match="layer_ck"):
        exec("from repsim import layer_ck")
