"""One pass gives the values of layers and the logits, and both are those of the network as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Aside, Branching, Inplace, randomized

from repsim.activations import Observer, as_rows, capture, observing, trace
from repsim.models import build_model
from repsim.support.compat import torchvision

SHAPE = (3, 16, 16)
BUILT = ["resnet_tiny", "wrn_tiny", "vgg_tiny", "mlp", "vit_tiny"]
NETWORKS = {
    **{name: lambda name=name: build_model(name, SHAPE, 10, [0.5] * 3, [0.25] * 3) for name in BUILT},
    "in place": Inplace,
    "branching": Branching,
    "aside": Aside,
    "branching aside": lambda: Aside(branching=True),
}


def every(test):
    """Of the quick set, a network that is traced and one that is hooked."""
    return pytest.mark.matrix("resnet_tiny", "branching")(pytest.mark.parametrize("name", NETWORKS)(test))


def make(name):
    """A network whose every weight and statistic is random: no two layers agree by chance."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomized(NETWORKS[name]())


def images_for(count=7):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def logits_of(network, images):
    with torch.no_grad():
        return network(images)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def hooks_of(network):
    return [hook for each in network.modules() for hook in (*each._forward_hooks, *each._forward_pre_hooks)]


# -- what is seen -------------------------------------------------------------------------------------------


@every
def test_all_layers_at_once_and_the_logits(name):
    network, images = make(name), images_for()
    graph = trace(network, SHAPE)
    layers = list(graph.layers)
    found, expected = Observer(graph, layers).observe(images), capture(network, images, "all")
    assert list(found.values) == layers
    for layer in layers:
        assert found.values[layer].shape == (7, expected[layer][0].numel())
        close(found.values[layer], expected[layer].flatten(1))
    close(found.logits, logits_of(network, images))
    assert not found.logits.requires_grad
    assert not any(value.requires_grad for value in found.values.values())


@pytest.mark.matrix("branching")
@pytest.mark.parametrize("name", ["resnet_tiny", "branching"])
def test_layers_stand_in_the_order_asked_for(name):
    network, images = make(name), images_for()
    layers = ["fc", "conv1", "bn1"]
    found = Observer(trace(network, SHAPE), layers).observe(images)
    assert list(found.values) == layers
    for layer, expected in capture(network, images, layers).items():
        close(found.values[layer], expected.flatten(1))


@every
def test_without_a_layer_there_are_the_logits(name):
    network, images = make(name), images_for()
    found = Observer(trace(network, SHAPE), []).observe(images)
    assert found.values == {}
    close(found.logits, logits_of(network, images))


@pytest.mark.matrix("vit_tiny", "branching")
@pytest.mark.parametrize("name", ["mlp", "vit_tiny", "branching"])
def test_the_penultimate_value_may_be_no_layer(name):
    """Flattened channels, or the class token."""
    network, images = make(name), images_for()
    graph = trace(network, SHAPE)
    found = Observer(graph, graph.select("penultimate")).observe(images)
    (value,), (expected,) = found.values.values(), capture(network, images, "penultimate").values()
    close(value, expected)
    last = [each for each in network.modules() if isinstance(each, nn.Linear)][-1]
    close(found.logits, F.linear(value, last.weight, last.bias).detach())


def test_the_images_themselves_can_be_asked_for():
    network, images = make("resnet_tiny"), images_for()
    found = Observer(trace(network, SHAPE), ["images", "relu1"]).observe(images)
    assert torch.equal(found.values["images"], images.flatten(1))
    assert found.values["images"].data_ptr() != images.data_ptr()


def test_a_value_is_what_it_was_before_others_overwrote_it():
    """Erratum 1, in a network of torchvision's own: it ends with F.relu(…, inplace=True) of a BatchNorm."""
    network = randomized(torchvision.models.DenseNet(4, (2, 2), 8, num_classes=10))
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    layers = ["features.norm5", "classifier"]
    found = Observer(trace(network, (3, 64, 64)), layers).observe(images)
    assert found.values["features.norm5"].min() < 0
    for layer, expected in capture(network, images, layers).items():
        close(found.values[layer], expected.flatten(1))


# -- what BatchNorm is folded into --------------------------------------------------------------------------


def operations(observer):
    return [type(each).__name__ for each in observer._part.modules()]


@pytest.mark.matrix("resnet_tiny", "layers2-in place")
@pytest.mark.parametrize("name", ["resnet_tiny", "in place"])
@pytest.mark.parametrize("layers", [["conv"], ["bn"], ["conv", "bn"], ["bn", "conv"], ["relu"]])
def test_what_is_asked_for_is_not_folded_away(name, layers):
    """A convolution that is looked at keeps its own value, though its BatchNorm could be a part of it."""
    numbered = {"resnet_tiny": {"conv": "conv1", "bn": "bn1", "relu": "relu1"}, "in place": {"bn": "bn1"}}
    layers = [numbered[name].get(layer, layer) for layer in layers]
    network, images = make(name), images_for()
    observer = Observer(trace(network, SHAPE), layers)
    expected = capture(network, images, layers)
    found = observer.observe(images)
    for layer in layers:
        close(found.values[layer], expected[layer].flatten(1))
    close(found.logits, logits_of(network, images))


def test_every_batchnorm_is_folded_where_only_the_end_is_looked_at():
    graph = trace(make("resnet_tiny"), SHAPE)
    assert "BatchNorm2d" not in operations(Observer(graph, graph.select("penultimate")))
    kept = operations(Observer(graph, ["conv1", "layer2.0.conv1"]))
    assert kept.count("BatchNorm2d") == 2
    assert "BatchNorm2d" not in operations(Observer(graph, ["bn1", "layer2.0.bn1"]))


# -- batches ------------------------------------------------------------------------------------------------


@every
def test_how_many_images_go_at_a_time_makes_no_difference(name, monkeypatch):
    network, images = make(name), images_for(11)
    graph = trace(network, SHAPE)
    layers = list(graph.layers)[-3:]
    whole = Observer(graph, layers).observe(images)
    for size in (1, 4, 11, 12):
        monkeypatch.setattr(observing, "BATCH", size)
        parts = Observer(graph, layers).observe(images)
        for layer in layers:
            torch.testing.assert_close(parts.values[layer], whole.values[layer], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-4, atol=1e-5)


def test_batches_are_as_large_as_they_are_said_to_be(monkeypatch):
    monkeypatch.setattr(observing, "BATCH", 4)
    sizes = []
    network = make("mlp")
    network.hidden[1].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    observer = Observer(trace(network, SHAPE), ["hidden.1"])
    sizes.clear()  # of a few random images that it was tried on
    assert len(observer.observe(images_for(10)).logits) == 10
    assert sizes == [4, 4, 2]


# -- what is kept of a value --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet_tiny", "branching"])
def test_a_value_may_be_averaged_over_positions(name, monkeypatch):
    monkeypatch.setattr(observing, "BATCH", 4)
    network, images = make(name), images_for()
    expected = capture(network, images, ["conv1", "bn1"])
    found = Observer(trace(network, SHAPE), ["conv1", "bn1"], pool=True).observe(images)
    for layer, value in expected.items():
        assert found.values[layer].shape == (7, value.shape[1])
        close(found.values[layer], value.mean((2, 3)))
    close(found.logits, logits_of(network, images))  # of which everything is kept


def test_of_tokens_and_of_maps_with_channels_last_the_mean_of_each_channel_is_kept():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.fc = nn.Conv2d(3, 5, 4, 4), nn.LayerNorm(5), nn.Linear(5, 10)

        def forward(self, x):
            return self.fc(self.norm(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))

    images = images_for()
    for network, layer, axes in (
        (make("vit_tiny"), "encoder.ln", (1,)),
        (randomized(Last()), "norm", (1, 2)),
        (randomized(Last()), "embed", (2, 3)),
    ):
        (value,) = capture(network, images, layer).values()
        found = Observer(trace(network, SHAPE), [layer], pool=True).observe(images).values[layer]
        close(found, value.mean(axes))


def test_maps_are_averaged_over_positions():
    maps = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    assert as_rows(maps, 0).tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]
    assert as_rows(maps.permute(0, 2, 3, 1), 2).tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]
    assert as_rows(maps).tolist() == [list(range(12)), list(range(12, 24))]


def test_tokens_are_averaged_over_the_sequence():
    tokens = torch.arange(2 * 3 * 2.0).view(2, 3, 2)
    assert as_rows(tokens, 1).tolist() == [[2, 3], [8, 9]]
    assert as_rows(tokens.mT, 0).tolist() == [[2, 3], [8, 9]]
    assert as_rows(tokens).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("shape", "axis", "pooled", "flat"), [((4, 3, 2, 5), 0, 3, 30), ((4, 3, 5), 1, 5, 15)]
)
def test_the_layout_in_memory_makes_no_difference(shape, axis, pooled, flat):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    turned = values.transpose(1, -1).contiguous().transpose(1, -1)
    for channel_axis, width in ((axis, pooled), (None, flat)):
        found = as_rows(turned, channel_axis)
        assert found.shape == (4, width)
        torch.testing.assert_close(found, as_rows(values, channel_axis))


# -- nothing else changes -----------------------------------------------------------------------------------


@every
def test_the_network_is_left_as_it_was(name):
    network, images = make(name).train(), images_for()
    state, modes = copy.deepcopy(network.state_dict()), [each.training for each in network.modules()]
    graph = trace(network, SHAPE)
    Observer(graph, list(graph.layers)).observe(images)
    assert [each.training for each in network.modules()] == modes
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    assert hooks_of(network) == []


@every
def test_a_network_that_is_training_is_seen_as_it_is_used(name):
    """In evaluation mode: with the statistics that BatchNorm has learned, and without dropout."""
    network, images = make(name), images_for()
    expected = logits_of(network, images)
    graph = trace(network.train(), SHAPE)
    close(Observer(graph, list(graph.layers)[:1]).observe(images).logits, expected)


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["resnet_tiny", "branching"])
def test_what_becomes_of_the_network_later_is_not_seen(name):
    network, images = make(name), images_for()
    observer = Observer(trace(network, SHAPE), ["bn1"])
    before = observer.observe(images)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    after = observer.observe(images)
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.values["bn1"], before.values["bn1"])


@every
def test_no_value_shares_memory_with_another(name):
    network, images = make(name), images_for()
    graph = trace(network, SHAPE)
    found = Observer(graph, list(graph.values)[:4]).observe(images)
    tensors = [*found.values.values(), found.logits, images]
    assert len({each.untyped_storage().data_ptr() for each in tensors}) == len(tensors)


# -- the part itself ----------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["resnet_tiny", "branching"])
def test_a_reading_is_frozen(name):
    part = trace(make(name).train(), SHAPE).with_activations(["bn1"])
    assert not any(each.training for each in part.modules() if each is not part)
    assert not any(weight.requires_grad for weight in part.parameters())


def test_a_layer_that_is_not_called_for_these_images():
    class Either(nn.Module):
        """Has a branch for dark images and one for bright ones."""

        def __init__(self):
            super().__init__()
            self.dark, self.bright, self.fc = nn.Linear(768, 4), nn.Linear(768, 4), nn.Linear(4, 3)

        def forward(self, x):
            x = x.flatten(1)
            return self.fc(self.dark(x) if x.mean() < 0.6 else self.bright(x))

    network = randomized(Either())
    graph = trace(network, SHAPE)  # which looks at gray images
    found = Observer(graph, ["dark"]).observe(images_for() / 2)
    close(found.values["dark"], network.dark((images_for() / 2).flatten(1)).detach())
    with pytest.raises(
        ValueError, match=r"^for these images the network never computes 'dark': it branches on them\.$"
    ):
        Observer(graph, ["dark"]).observe(1 - images_for() / 4)


class Viewing(nn.Module):
    """Views what a convolution gives, which only values with their channels first allow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 8 * 8, 5)

    def forward(self, images):
        return self.fc(self.conv(images).view(len(images), -1))


def test_networks_that_need_channels_first_are_observed_as_they_are():
    torch.manual_seed(0)
    network, images = Viewing().eval(), torch.rand(6, 3, 8, 8)
    observer = Observer(trace(network, (3, 8, 8)), ["conv"])
    found = observer.observe(images)
    assert torch.equal(found.logits, network(images))
    assert torch.equal(found.values["conv"], network.conv(images).flatten(1))
    assert network.conv.weight.is_contiguous()
