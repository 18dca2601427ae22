"""The table of architectures says what the networks themselves say."""

import re

import pytest

from repsim.models import ARCHITECTURES, build_model
from repsim.models.checkpoints import index
from repsim.models.checkpoints.indexing import row
from repsim.models.libraries import import_timm, robustness_builders, torchvision_names

ROWS = {each.name: each for each in index.rows()}
OURS = [name for name, known in ARCHITECTURES.items() if re.fullmatch(known.pattern, name)]
LIBRARIES = [name for name in ROWS if name not in OURS and not name.startswith(("timm:", "robustbench:"))]
TIMM = [name for name in ROWS if name.startswith("timm:")]


def shapes_of(name, shape, classes):
    state = build_model(name, shape, classes, [0.0] * shape[0], [1.0] * shape[0]).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.startswith("normalize.")}


def test_all_architectures_without_numbers_are_in_it():
    assert set(OURS) <= set(ROWS)
    theirs = {name if name not in ARCHITECTURES else f"torchvision:{name}" for name in torchvision_names()}
    assert theirs <= set(ROWS)
    cifar = {f"robustness:{name}" for name in robustness_builders() if name.startswith("cifar/")}
    assert cifar <= set(ROWS)
    assert len(TIMM) > 1000
    assert {name.removeprefix("timm:") for name in TIMM[::50]} <= set(import_timm().list_models())


@pytest.mark.parametrize("name", ["resnet_tiny", "mlp", "vit_tiny", "lenet", "squeezenet1_1"])
def test_a_row_is_what_its_network_says(name):
    assert row(name) == ROWS[name]


@pytest.mark.slow
@pytest.mark.parametrize("names", [OURS, LIBRARIES, TIMM[::40]], ids=["ours", "libraries", "timm"])
def test_rows_are_what_their_networks_say(names):
    assert {name: row(name) for name in names} == {name: ROWS[name] for name in names}


def test_weights_are_looked_up_by_names_and_shapes():
    shapes = shapes_of("resnet_tiny", (1, 16, 16), 7)
    assert index.lookup(shapes) == ["resnet_tiny"]
    without = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert index.lookup(without) == ["resnet_tiny"]
    assert index.lookup({**shapes, "layer1.0.conv1.weight": (8, 8, 1, 1)}) == []
    assert index.lookup({**shapes, "conv1.weight": (8, 1, 5, 5)}) == []
    assert index.lookup({**shapes, "gate": (1,)}) == []


def test_the_nearest_share_names_and_size():
    shapes = shapes_of("torchvision:resnet18", (3, 64, 64), 10)
    del shapes["fc.bias"]
    assert "torchvision:resnet18" in index.nearest(shapes, 6)
    assert index.nearest({"nobody.w": (3, 3)}, 6) == []
