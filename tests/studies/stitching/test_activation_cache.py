"""Activations that are kept: the same values wherever they are, and nothing left behind."""

import pytest
import torch
from torch import nn

from repsim.activations import trace
from repsim.models import build_model
from repsim.studies.stitching import Budget, activation_cache, make_transform, splice
from repsim.studies.stitching.activation_cache import cached_activations
from repsim.support import paths
from repsim.support.devices import lay_out

SHAPE = (1, 8, 8)
IMAGES = torch.rand(7, *SHAPE, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """What goes around the first layer, and around the second, is the image itself."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.more = nn.Conv2d(1, 1, 3, padding=1)
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        return self.fc((self.more(self.conv(x)) + x).flatten(1))


def stitched_at(layer, network=None):
    torch.manual_seed(0)
    network = network or build_model("resnet_tiny", SHAPE, 4, [0.5], [0.25])
    graph = trace(network.eval(), SHAPE)
    return splice(graph, graph, layer, layer, make_transform(graph, graph, layer, layer, seed=1))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Three batches, the last one not full."""
    monkeypatch.setattr(activation_cache, "BATCH", 3)


def files():
    return [path for path in paths.data().rglob("*") if path.is_file()]


def folders():
    return [path for path in (paths.data() / "cache").glob("*") if path.is_dir()]


def bytes_of(stitched, images=IMAGES):
    with torch.no_grad():
        return sum(4 * value.numel() for value in stitched.before(images))


def in_parts(stitched, images=IMAGES):
    """What is before the transform, computed again, in the same batches."""
    with torch.no_grad():
        parts = [stitched.before(batch) for batch in images.split(3)]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


# Inside a residual branch, what goes around it is kept too.
LAYERS = ["layer2.0.relu2", "layer2.0.conv2", "layer3.0.add"]
BUDGETS = {"memory": Budget(), "disk": Budget(memory=0)}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_what_is_kept_is_what_would_be_computed_again(layer, budget):
    stitched = stitched_at(layer)
    expected = in_parts(stitched)
    assert len(expected) == (2 if layer == "layer2.0.conv2" else 1)
    with cached_activations(stitched, IMAGES, budget) as found:
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
            assert not one.requires_grad


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_channels_stay_side_by_side_where_the_network_has_put_them_so(budget):
    stitched = lay_out(stitched_at("layer2.0.conv2"), torch.channels_last)
    expected = in_parts(stitched)
    with cached_activations(stitched, IMAGES, budget) as found:
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
            assert one.stride()[1:] == other.stride()[1:]
            assert one.stride(1) == 1
            assert one[torch.tensor([2, 0])].stride(1) == 1  # as batches are taken


def test_memory_then_disk_then_nothing():
    stitched = stitched_at("layer2.0.conv2")
    need = bytes_of(stitched)
    seen = {}
    for name, budget in {
        "just memory": Budget(need, 0),
        "memory before disk": Budget(need, need),
        "just disk": Budget(need - 1, need),
        "neither": Budget(need - 1, need - 1),
        "nothing": Budget(0, 0),
    }.items():
        with cached_activations(stitched, IMAGES, budget) as found:
            on_disk = sum(path.stat().st_size for path in files())
            seen[name] = None if found is None else on_disk
    assert seen == {
        "just memory": 0,
        "memory before disk": 0,
        "just disk": need,
        "neither": None,
        "nothing": None,
    }


def test_nothing_is_computed_or_written_where_the_budget_is_too_small():
    stitched = stitched_at("layer2.0.conv2")
    seen = []
    stitched.prefix.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with cached_activations(stitched, IMAGES, Budget(0, 0)) as found:
        assert found is None
        assert not files()
    assert seen == [1]  # one image, for the sizes


def test_each_image_runs_through_the_front_once_and_what_is_kept_replaces_it():
    stitched = stitched_at("layer2.0.relu2")
    seen = []
    stitched.prefix.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with cached_activations(stitched, IMAGES, Budget()) as found:
        assert seen == [1, 3, 3, 1]
        for _ in range(3):
            stitched.after(*found)
    assert seen == [1, 3, 3, 1]


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_files_go_with_the_block(budget):
    stitched = stitched_at("layer2.0.conv2")
    with cached_activations(stitched, IMAGES, budget) as found:
        assert (len(files()) == 2) is (budget.memory == 0)
        inside = [tensor.clone() for tensor in found]
    assert not files()
    assert not folders()
    for one, other in zip(found, inside, strict=True):  # who still holds them may still read them
        assert torch.equal(one, other)


class Stopped(Exception):
    pass


def test_files_go_also_where_they_cannot_be_filled():
    stitched = stitched_at("layer2.0.conv2")
    lengths = []

    def stop(module, inputs):
        lengths.append(len(inputs[0]))
        if len(lengths) == 3:
            assert len(files()) == 2
            raise Stopped

    stitched.prefix.register_forward_pre_hook(stop)
    with pytest.raises(Stopped), cached_activations(stitched, IMAGES, Budget(memory=0)):
        pass
    assert lengths == [1, 3, 3]
    assert not files()
    assert not folders()


def test_two_blocks_at_once_do_not_share_files():
    one, other = (stitched_at(layer) for layer in ("layer2.0.relu2", "layer3.0.add"))
    with cached_activations(one, IMAGES, Budget(0)) as first:
        with cached_activations(other, IMAGES, Budget(0)) as second:
            assert torch.equal(second[0], in_parts(other)[0])
        assert len(files()) == 1
        assert torch.equal(first[0], in_parts(one)[0])


def test_images_that_go_around_the_layer_are_not_copied():
    stitched = stitched_at("conv", Around())
    value = bytes_of(stitched) // 2  # the layer's value is as large as the images
    for budget, written in ((Budget(value, 0), 0), (Budget(0, value), 1)):
        with cached_activations(stitched, IMAGES, budget) as found:
            assert len(found) == 2
            assert found[1] is IMAGES
            assert found[0].data_ptr() != IMAGES.data_ptr()
            assert torch.equal(found[0], in_parts(stitched)[0])
            assert len(files()) == written
    with cached_activations(stitched, IMAGES, Budget(value - 1, value - 1)) as found:
        assert found is None


def test_images_that_are_themselves_what_is_stitched_cost_nothing():
    stitched = stitched_at("x", Around())
    with cached_activations(stitched, IMAGES, Budget(0, 0)) as found:
        assert found is not None
        assert all(tensor is IMAGES for tensor in found)
