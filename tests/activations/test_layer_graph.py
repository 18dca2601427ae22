"""Layer names, tables and selections; values that are what hooks see, in-place operations or not."""

import copy
import importlib
import re
from itertools import pairwise

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from toy_networks import Branching, Inplace, randomized

from repsim.activations import LayerGraph, capture, trace
from repsim.models import build_model
from repsim.models.layers import without_inplace
from repsim.support.compat import torchvision

SMALL = ["resnet_tiny", "resnet_tiny_deep", "wrn_tiny", "vgg_tiny", "mlp", "vit_tiny"]
LARGE = ["resnet18", "preactresnet18", "vgg11_bn", "densenet121", "torchvision:resnet18"]
SHAPES = {"torchvision:resnet18": (3, 64, 64), "vgg11_bn": (3, 32, 32)}


def build(name, shape=None):
    """A network whose every weight and statistic is random: no two layers agree by chance."""
    shape = shape or SHAPES.get(name, (3, 16, 16))
    return randomized(build_model(name, shape, 10, [0.5] * shape[0], [0.25] * shape[0]))


def images_for(name="", count=6, shape=None):
    shape = shape or SHAPES.get(name, (3, 16, 16))
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def hooks_of(network):
    return [
        hook for module in network.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]


def hooked_outputs(network, images):
    """What every innermost module puts out, by forward hooks on a copy without in-place operations."""
    twin = without_inplace(copy.deepcopy(network))
    outputs, calls = {}, {}

    def hook_for(path):
        def hook(module, inputs, output):
            call = calls.get(path, 0)
            calls[path] = call + 1
            if isinstance(output, torch.Tensor):
                outputs[f"{path}_{call}" if call else path] = output.clone()

        return hook

    for path, module in twin.named_modules():
        if not list(module.children()):
            module.register_forward_hook(hook_for(path))
    with torch.no_grad():
        twin(images)
    return outputs


# -- names --------------------------------------------------------------------------------------------------


class Visited(fx.Interpreter):
    """Runs torchvision's graph of a network, and keeps what each of its names stands for."""

    def __init__(self, network, monkeypatch):
        extraction = importlib.import_module(f"{torchvision.models.__name__}.feature_extraction")
        self.tracer = extraction.NodePathTracer(**extraction._set_default_tracer_kwargs(None))
        with monkeypatch.context() as patch:
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tracer passes no tensors
            super().__init__(fx.GraphModule(network, self.tracer.trace(network)))
        self.values = {}

    def run_node(self, n):
        value = super().run_node(n)
        first = value[0] if isinstance(value, tuple) and value else value  # of attention and its weights
        if isinstance(first, torch.Tensor) and n in self.tracer.node_to_qualname and n.op != "output":
            self.values[self.tracer.node_to_qualname[n]] = first.clone()  # it may be overwritten
        return value


def ours_of(name):
    """What torchvision's name is with us: calls of modules have the modules' names."""
    path, _, end = name.rpartition(".")
    return f"{path}.{ {'ln': 'ln_1', 'ln_1': 'ln_2'}.get(end, end) }" if ".encoder_layer_" in name else name


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", [*SMALL, "densenet121", "torchvision:resnet18"])
def test_names_are_torchvisions(name, monkeypatch):
    network, images = build(name), images_for(name)
    visited = Visited(network, monkeypatch)
    with torch.no_grad():
        visited.run(images)
    theirs = {ours_of(node): value for node, value in visited.values.items() if len(value) == len(images)}
    assert len(theirs) > 8
    graph = trace(network, SHAPES.get(name, (3, 16, 16)))
    assert [node for node in graph.values if node in theirs] == list(theirs)
    for node, value in capture(graph, images, list(theirs)).items():
        assert torch.equal(value, theirs[node]), node

    modules = dict(network.named_modules())
    innermost = {path for path, module in modules.items() if not list(module.children())} - {"normalize"}
    attention = {path for path, module in modules.items() if isinstance(module, nn.MultiheadAttention)}
    for node in graph.values:
        is_call = {node, re.sub(r"_\d+$", "", node)} & (innermost | attention)
        is_sum = (
            re.fullmatch(r"add(_\d+)?", node.rpartition(".")[2]) and node != "encoder.add"
        )  # of positions
        assert (node in graph.layers) == bool(is_call or is_sum), node
        if node not in theirs:  # torchvision has no names of blocks, and none of what is inside of an MLP
            assert node in modules or ".mlp." in node, node


def test_wrn_28_1_has_79_layers_and_12_sums():
    layers = trace(build("wrn_28_1"), (3, 32, 32)).layers
    operations = [layer.operation for layer in layers.values()]
    counts = {operation: operations.count(operation) for operation in dict.fromkeys(operations)}
    assert counts == {
        "Conv2d": 27,  # three of them where the shape changes
        "BatchNorm2d": 25,
        "ReLU": 25,
        "add": 12,
        "AdaptiveAvgPool2d": 1,
        "Linear": 1,
    }
    assert sum(counts.values()) == 79 + 12


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", SMALL)
def test_no_layer_is_a_view_a_size_the_input_or_the_normalization(name):
    graph = trace(build(name), (3, 16, 16))
    assert all(layer.operation for layer in graph.layers.values())
    for layer in graph.layers:
        assert not layer.startswith(("normalize", "images", "flatten", "getattr", "getitem", "reshape"))
    assert "images" in graph.values  # they can be asked for by name all the same
    assert "normalize.truediv" in graph.values


def test_what_is_no_value_per_image_is_no_layer():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.rand(3))
            self.fc = nn.Linear(48, 3)

        def forward(self, x):
            return self.fc((x - self.mean[:, None, None]).flatten(1))

    assert list(trace(Shifted(), (3, 4, 4)).values) == ["x", "sub", "flatten", "fc"]


# -- tables -------------------------------------------------------------------------------------------------


def test_table():
    table = trace(build("resnet_tiny"), (3, 16, 16)).table()
    assert list(table.columns) == ["layer", "operation", "shape", "layout", "parameters", "read"]
    stem = ["8 × 16 × 16", "channels_first"]
    assert table.iloc[0].tolist() == ["conv1", "Conv2d", *stem, 3 * 8 * 9, "traced"]
    assert table.iloc[1].tolist() == ["bn1", "BatchNorm2d", *stem, 3 * 8 * 9 + 16, "traced"]
    assert table.iloc[2].tolist() == ["relu1", "ReLU", *stem, 3 * 8 * 9 + 16, "traced"]
    assert table.iloc[8].tolist()[:3] == ["layer1.0.add", "add", "8 × 16 × 16"]
    assert table.iloc[-1].tolist()[:4] == ["fc", "Linear", "10", "vector"]
    tokens = trace(build("vit_tiny"), (3, 16, 16)).table().set_index("layer")
    assert tokens.loc["conv_proj", "layout"] == "channels_first"
    assert tokens.loc["encoder.ln", "layout"] == "channels_last"


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", [*SMALL, "densenet121"])
def test_parameters_add_up(name):
    network = build(name)
    parameters = trace(network, SHAPES.get(name, (3, 16, 16))).table()["parameters"]
    assert parameters.is_monotonic_increasing
    assert parameters.iloc[-1] == sum(weight.numel() for weight in network.parameters())


def test_parameters_of_a_module_that_is_called_twice_count_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.flatten, self.fc = nn.Flatten(), nn.Linear(48, 48)

        def forward(self, x):
            return self.fc(self.fc(self.flatten(x)))

    table = trace(Twice(), (3, 4, 4)).table()
    assert table["layer"].tolist() == ["flatten", "fc", "fc_1"]
    assert table["parameters"].tolist() == [0, 48 * 49, 48 * 49]


# -- selections ---------------------------------------------------------------------------------------------


BLOCKS = {
    "resnet_tiny": ["layer1.0.relu2", "layer2.0.relu2", "layer3.0.relu2"],
    "wrn_tiny": ["layer1.0.add", "layer2.0.add", "layer3.0.add"],  # a BatchNorm comes first
    "vgg_tiny": ["features.6", "features.13", "features.20", "avgpool"],
    "mlp": ["hidden.1", "hidden.3", "hidden.5"],
    "vit_tiny": [f"encoder.layers.encoder_layer_{i}.{part}" for i in range(4) for part in ("add", "add_1")],
    "torchvision:resnet18": [f"layer{i}.{j}.relu_1" for i in (1, 2, 3, 4) for j in (0, 1)],
}


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name):
    assert trace(build(name), SHAPES.get(name, (3, 16, 16))).select("blocks") == BLOCKS[name]


def test_no_blocks_and_no_linear_layer():
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid()), (3, 4, 4))
    with pytest.raises(ValueError, match="no residual sums, pooling or ReLU: name its layers instead"):
        graph.select("blocks")
    with pytest.raises(ValueError, match="puts out no logits, so that it has no penultimate layer: name one"):
        graph.select("penultimate")
    graph = trace(nn.Sequential(nn.Sigmoid(), nn.AvgPool2d(4), nn.Flatten()), (3, 4, 4))
    with pytest.raises(ValueError, match="no linear layer, so no penultimate one: name the layer"):
        graph.select("penultimate")


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_penultimate_is_what_the_last_linear_layer_takes(name):
    network, images = build(name), images_for(name)
    taken = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0].clone()))
    with torch.no_grad():
        network(images)
    handle.remove()
    (penultimate,) = capture(network, images, "penultimate").values()
    torch.testing.assert_close(penultimate, taken[0], rtol=0, atol=0)
    assert penultimate.shape == (6, last.in_features)


@pytest.mark.parametrize("last", [nn.Identity, nn.Softmax, nn.LogSoftmax])
def test_the_penultimate_layer_is_found_where_probabilities_are_put_out(last):
    """The logits, of which probabilities are made, are an affine map of it; they are so of no other layer."""
    end = [last()] if last is nn.Identity else [last(1)]
    layers = nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 10)
    graph = trace(randomized(nn.Sequential(*layers, *end)), (3, 4, 4))
    assert graph.select("penultimate") == ["2"]
    graph = trace(randomized(nn.Sequential(*layers, nn.Sigmoid(), *end)), (3, 4, 4))
    with pytest.raises(ValueError, match="is an affine map of no layer's value alone"):
        graph.select("penultimate")


def test_fractions_are_evenly_spaced_and_keep_both_ends():
    graph = trace(build("resnet_tiny_deep"), (3, 16, 16))
    known = list(graph.layers)
    assert graph.select(1) == graph.select(1.0) == graph.select("all") == known
    half = graph.select(0.5)
    assert len(half) == round(len(known) / 2)
    places = [known.index(name) for name in half]
    assert (places[0], places[-1]) == (0, len(known) - 1)
    assert {b - a for a, b in pairwise(places)} <= {2, 3}
    assert graph.select(0.001) == [known[0], known[-1]]


@pytest.mark.parametrize("written", ["0.25", ["0.25"], [0.25]])
def test_fractions_may_be_written_as_notebooks_write_them(written):
    graph = trace(build("resnet_tiny"), (3, 16, 16))
    assert graph.select(written) == graph.select(0.25)
    assert graph.select(["all"]) == graph.select("all")


@pytest.mark.parametrize("fraction", [0, 0.0, -0.5, 1.5, 2])
def test_impossible_fraction(fraction):
    graph = trace(build("mlp"), (3, 16, 16))
    with pytest.raises(ValueError, match=rf"a fraction of the layers must be in \(0, 1\], not {fraction}\."):
        graph.select(fraction)


def test_names_are_taken_in_the_order_given():
    graph = trace(build("mlp"), (3, 16, 16))
    assert graph.select("hidden.2") == ["hidden.2"]
    assert graph.select(["classifier", "flatten", "hidden.0"]) == ["classifier", "flatten", "hidden.0"]


def test_unknown_layer_names_the_nearest():
    graph = trace(build("mlp"), (3, 16, 16))
    with pytest.raises(ValueError, match="unknown layer") as error:
        graph.select(["hidden.0", "hiden.3"])
    assert str(error.value) == (
        "unknown layer 'hiden.3'; did you mean 'hidden.3' or 'hidden.5' or 'hidden.4'? Known: hidden.0, "
        "hidden.1, hidden.2, hidden.3, hidden.4, hidden.5, classifier, all, blocks, penultimate."
    )


# -- values -------------------------------------------------------------------------------------------------


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", [*SMALL, "preactresnet18", "torchvision:resnet18"])
def test_values_are_what_hooks_see(name):
    network, images = build(name), images_for(name)
    expected = hooked_outputs(network, images)
    captured = capture(network, images, "all")
    modules = {layer for layer in captured if layer in expected}
    assert len(modules) > len(captured) / 2
    for layer in modules:
        torch.testing.assert_close(captured[layer], expected[layer], rtol=0, atol=0)
    logits = captured[list(captured)[-1]]
    torch.testing.assert_close(logits, network(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_batchnorm_is_not_overwritten_by_its_relu():
    """Erratum 1, in torchvision's own networks, whose in-place operations nobody has switched off."""
    resnet = randomized(torchvision.models.resnet18(num_classes=10))
    densenet = randomized(torchvision.models.densenet121(num_classes=10))
    images = torch.rand(2, 3, 64, 64)
    norm5 = capture(densenet, images, ["features.norm5", "relu"])  # F.relu(…, inplace=True)
    stem = capture(resnet, images, ["bn1", "relu"])
    last = capture(resnet, images, ["layer4.1.bn2", "layer4.1.add", "layer4.1.relu_1"])
    for before, after in (norm5.values(), stem.values(), list(last.values())[1:]):
        assert before.min() < 0
        assert torch.equal(after, before.relu())
    assert not torch.equal(last["layer4.1.bn2"], last["layer4.1.add"])  # out += identity
    assert resnet.relu.inplace


def test_every_way_to_work_in_place():
    network, images = randomized(Inplace()), images_for()
    captured = capture(network, images, ["conv", "bn1", "relu", "bn2", "relu_1", "bn3", "add", "relu_", "fc"])
    network = copy.deepcopy(network)
    expected = {"conv": network.conv(images)}
    expected["bn1"] = network.bn1(expected["conv"])
    expected["relu"] = expected["bn1"].clamp(min=0)
    expected["bn2"] = network.bn2(expected["relu"])
    expected["relu_1"] = expected["bn2"].clamp(min=0)
    expected["bn3"] = network.bn3(expected["relu_1"])
    expected["add"] = expected["bn3"] + expected["conv"]
    expected["relu_"] = expected["add"].clamp(min=0)
    expected["fc"] = network.fc(expected["relu_"].mean((2, 3)))
    for name, value in expected.items():
        torch.testing.assert_close(captured[name], value.detach(), msg=name)


@pytest.mark.parametrize("functional", [True, False])
def test_a_network_that_relies_on_working_in_place_means_the_same(functional):
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.relu, self.fc2 = nn.Linear(48, 9), nn.ReLU(inplace=True), nn.Linear(9, 3)

        def forward(self, x):
            x = self.fc1(x.flatten(1))
            if functional:
                F.relu(x, inplace=True)
            else:
                self.relu(x)
            return self.fc2(x)

    network, images = Overwriting(), images_for(shape=(3, 4, 4))
    expected = network(images).detach()
    assert torch.equal(capture(network, images, "fc2")["fc2"], expected)
    assert torch.equal(network(images), expected)
    assert network.relu.inplace


@pytest.mark.parametrize("name", ["resnet_tiny", "vit_tiny"])
def test_batches_agree_with_one_batch(name):
    network, images = build(name), images_for(count=7)
    whole, parts = (capture(network, images, "all", batch_size=size) for size in (7, 3))
    assert list(whole) == list(parts)
    for layer in whole:
        assert len(parts[layer]) == 7
        torch.testing.assert_close(parts[layer], whole[layer], rtol=1e-4, atol=1e-5)


def test_captured_values_are_the_callers_own():
    network, images = build("mlp"), images_for()
    graph = trace(network, (3, 16, 16))
    layers = ["images", "flatten", "hidden.0", "hidden.1"]
    captured = capture(graph, images, layers)
    assert list(captured) == layers
    places = {value.untyped_storage().data_ptr() for value in captured.values()}
    assert len(places) == 4
    assert images.untyped_storage().data_ptr() not in places
    kept = {layer: value.clone() for layer, value in captured.items()}
    captured["images"].zero_()
    capture(graph, 1 - images, layers)
    for layer in layers[1:]:
        assert torch.equal(captured[layer], kept[layer])
        assert not captured[layer].requires_grad


# -- running ------------------------------------------------------------------------------------------------


def called_modules(network, run):
    called = []
    handles = [
        module.register_forward_hook(lambda *_, path=path: called.append(path))
        for path, module in network.named_modules()
        if path
    ]
    run()
    for handle in handles:
        handle.remove()
    return called


@pytest.mark.parametrize("make", [lambda: build("mlp"), lambda: randomized(Branching())])
def test_nothing_runs_after_the_last_wanted_layer(make):
    network = make()
    graph = trace(network, (3, 16, 16))
    layers = list(graph.layers)
    called = called_modules(network, lambda: capture(graph, images_for(), [layers[2], layers[0]]))
    assert layers[2] in called
    assert layers[3] not in called
    assert layers[-1] not in called


@pytest.mark.parametrize("make", [lambda: build("resnet_tiny"), lambda: randomized(Branching())])
def test_the_network_is_left_as_it_was(make):
    network = make()
    network.train()
    network.bn1.eval()  # frozen, as some networks' are
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    graph = trace(network, (3, 16, 16))
    capture(graph, images_for(), "all")
    capture(graph, images_for(), "conv1")
    assert [module.training for module in network.modules()] == modes
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert hooks_of(network) == []


@pytest.mark.parametrize("make", [lambda: build("resnet_tiny"), lambda: randomized(Branching())])
def test_weights_are_shared(make):
    network, images = make(), images_for()
    graph = trace(network, (3, 16, 16))
    before = capture(graph, images, "fc")["fc"]
    with torch.no_grad():
        network.fc.bias.add_(1)
    torch.testing.assert_close(capture(graph, images, "fc")["fc"], before + 1)


@pytest.mark.parametrize("make", [lambda: build("resnet_tiny"), lambda: randomized(Branching())])
def test_an_error_while_running_keeps_its_words_and_leaves_no_hook(make):
    network = make()
    network.train()
    graph = trace(network, (3, 16, 16))

    def refuse(name, value):
        raise KeyError(name)

    with pytest.raises(KeyError, match=r"^'conv1'$"):
        graph.run(images_for(), refuse, ["conv1"])
    assert hooks_of(network) == []
    assert network.training
    assert capture(graph, images_for(), "conv1")["conv1"].shape == (6, graph.layers["conv1"].shape[0], 16, 16)


# -- networks that cannot be traced -------------------------------------------------------------------------


def test_branching_networks_are_watched_by_hooks():
    network, images = randomized(Branching()), images_for()
    graph = trace(network, (3, 16, 16))
    assert isinstance(graph, LayerGraph)
    assert graph.select("all") == ["conv1", "bn1", "relu", "conv2", "relu_1", "pool", "fc"]
    expected = hooked_outputs(network, images)
    captured = capture(graph, images, "all")
    for layer, value in captured.items():
        torch.testing.assert_close(value, expected[layer], rtol=0, atol=0)
    assert captured["bn1"].min() < 0
    assert torch.equal(captured["relu"], captured["bn1"].relu())


def test_branching_networks_have_the_same_table_and_selections():
    graph = trace(Branching(), (3, 16, 16))
    table = graph.table()
    assert table["operation"].tolist() == [
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Conv2d",
        "ReLU",
        "MaxPool2d",
        "Linear",
    ]
    assert table["shape"].tolist()[-2:] == ["4 × 8 × 8", "10"]
    assert table["parameters"].tolist() == [112, 120, 120, 268, 268, 268, 318]
    assert table["read"].tolist() == ["hooked"] * 7
    with pytest.raises(
        ValueError, match="see neither residual sums nor repeated blocks in it: name its layers"
    ):
        graph.select("blocks")
    assert graph.select(0.4) == ["conv1", "conv2", "fc"]
    with pytest.raises(ValueError, match="unknown layer 'relu_2'; did you mean 'relu_1'"):
        graph.select("relu_2")


def test_a_traced_network_and_its_hooked_twin_agree():
    class Untraceable(type(build("resnet_tiny"))):
        def forward(self, images):
            if images.sum() < 0:
                images = -images
            return super().forward(images)

    network, images = build("resnet_tiny"), images_for()
    twin = copy.deepcopy(network)
    twin.__class__ = Untraceable
    traced, hooked = trace(network, (3, 16, 16)), trace(twin, (3, 16, 16))
    shared = [name for name, layer in traced.layers.items() if layer.operation != "add"]
    assert list(hooked.layers) == shared
    ours, theirs = capture(traced, images, shared), capture(hooked, images, shared)
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    sums = traced.table()["operation"] == "add"
    expected = traced.table()[~sums].reset_index(drop=True)
    assert set(expected["read"]) == {"traced"}
    assert hooked.table().equals(expected.assign(read="hooked"))


def test_a_layer_named_twice_is_one_layer():
    graph = trace(build("resnet_tiny"), (3, 16, 16))
    assert graph.select(["conv1", "fc", "conv1"]) == ["conv1", "fc"]
