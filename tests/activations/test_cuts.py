"""Networks cut in two at any layer: exact when put together again, frozen, apart from their donors, no longer
than needed.
"""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Aside, Branching, Inplace, randomized

from repsim.activations import capture, trace
from repsim.models import build_model
from repsim.models.layers import with_normalization
from repsim.support.compat import torchvision

SHAPE = (3, 16, 16)
SHAPES = {"densenet121": (3, 32, 32), "small_densenet": (3, 32, 32), "torchvision:resnet18": (3, 64, 64)}


OVERWRITE = {
    "module": lambda network, x: network.relu(x),
    "function": lambda network, x: F.relu(x, inplace=True),
    "method": lambda network, x: x.relu_(),
}


class Overwriting(nn.Module):
    """Relies on working in place: what overwrites a value is not what it goes on with."""

    def __init__(self, overwrite, branching=False):
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(768, 9), nn.ReLU(inplace=True), nn.Linear(9, 3)
        self.overwrite, self.branching = overwrite, branching

    def forward(self, x):
        x = self.fc1(x.flatten(1))
        if self.branching and x.sum() > 1e9:
            x = -x
        self.overwrite(self, x)
        return self.fc2(x)


class Moody(nn.Module):
    """Cannot be traced, and calls a layer for some images only."""

    def __init__(self):
        super().__init__()
        self.extra, self.fc = nn.Linear(768, 768), nn.Linear(768, 3)

    def forward(self, x):
        x = x.flatten(1)
        if x.mean() > 0.25:
            x = self.extra(x)
        return self.fc(x)


OWN = {
    "Inplace": Inplace,
    "Branching": Branching,
    **{f"Overwriting:{way}": lambda way=way: Overwriting(OVERWRITE[way]) for way in OVERWRITE},
    **{
        f"Overwriting:{way}:branching": lambda way=way: Overwriting(OVERWRITE[way], True) for way in OVERWRITE
    },
}


def build(name):
    if name in OWN:
        torch.manual_seed(0)
        return randomized(OWN[name]())
    shape = SHAPES.get(name, SHAPE)
    if name == "small_densenet":
        torch.manual_seed(0)
        network = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=10)
        return randomized(with_normalization(network, [0.5] * 3, [0.25] * 3))
    return randomized(build_model(name, shape, 10, [0.5] * 3, [0.25] * 3))


def images_for(name="", count=3):
    return torch.rand(count, *SHAPES.get(name, SHAPE), generator=torch.Generator().manual_seed(1))


def graph_of(name):
    network = build(name)
    return network, trace(network, SHAPES.get(name, SHAPE))


def recombined(graph, layer, images):
    suffix = graph.suffix(layer)
    return suffix.rest(graph.prefix(layer)(images), *suffix.context(images))


def parts_of(graph, layer):
    suffix = graph.suffix(layer)
    return {"prefix": graph.prefix(layer), "context": suffix.context, "rest": suffix.rest}


def representatives(graph):
    """Of each kind of value, the one in the middle: in deep networks well inside a block."""
    kinds = {}
    for name, value in graph.values.items():
        kind = value.operation or re.sub(r"_\d+$", "", name.rpartition(".")[2])
        kinds.setdefault(kind, []).append(name)
    return [names[len(names) // 2] for names in kinds.values()]


def innermost(part):
    """Modules without modules; of the normalization, parts have the arithmetic only."""
    found = {path for path, module in part.named_modules() if path and not list(module.children())}
    return found - {"normalize"}


def calls(part, run):
    """The innermost modules that run, in order."""
    called = []
    handles = [
        part.get_submodule(path).register_forward_hook(lambda *_, path=path: called.append(path))
        for path in innermost(part)
    ]
    run()
    for handle in handles:
        handle.remove()
    return called


# -- exactness ----------------------------------------------------------------------------------------------


@pytest.mark.matrix("resnet_tiny", "vit_tiny", "Inplace", "Branching", "Overwriting:module:branching")
@pytest.mark.parametrize(
    "name", ["resnet_tiny", "wrn_tiny", "vgg_tiny", "mlp", "vit_tiny", "small_densenet", *OWN]
)
def test_the_parts_make_up_the_network_exactly_at_every_layer(name):
    network, graph = graph_of(name)
    images = images_for(name)
    assert len(graph.values) >= 4
    layers = list(graph.values)
    if name == "Overwriting:module:branching":
        layers.remove("relu")  # what it puts out is not what the network goes on with: see below
    with torch.no_grad():  # with gradients, torch's attention rounds otherwise
        expected = network(images)
        wrong = [layer for layer in layers if not torch.equal(recombined(graph, layer, images), expected)]
    assert wrong == []


def test_what_a_hooked_network_computes_in_place_only_is_cut_exactly_or_refused():
    network, graph = graph_of("Overwriting:module:branching")
    images = images_for()
    try:
        found = recombined(graph, "relu", images)
    except ValueError as refusal:
        assert str(refusal) == "the network's output does not depend on layer 'relu'."  # noqa: PT017
    else:
        assert torch.equal(found, network(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision:resnet18", "densenet121"])
def test_the_parts_make_up_large_networks_exactly_at_every_kind_of_layer(name):
    network, graph = graph_of(name)
    images = images_for(name, 2)
    inner = ("features", "layer", "relu")
    layers = [layer for layer in representatives(graph) if layer.startswith(inner)]
    assert len(layers) >= 4
    with torch.no_grad():
        expected = network(images)
        wrong = [layer for layer in layers if not torch.equal(recombined(graph, layer, images), expected)]
    assert wrong == []


@pytest.mark.matrix("resnet_tiny", "Branching")
@pytest.mark.parametrize("name", ["resnet_tiny", "vit_tiny", "small_densenet", "Inplace", "Branching"])
def test_a_beginning_gives_the_value_that_capture_gives(name):
    _network, graph = graph_of(name)
    images = images_for(name)
    captured = capture(graph, images, list(graph.values))
    for layer in representatives(graph):
        assert torch.equal(graph.prefix(layer)(images), captured[layer]), layer


@pytest.mark.matrix("resnet_tiny", "Branching")
@pytest.mark.parametrize("name", ["resnet_tiny", "vit_tiny", "Branching"])
def test_parts_take_any_number_of_images(name):
    """No size of a batch is part of a part, five (that of tracing) no more than any other."""
    network, graph = graph_of(name)
    for layer in representatives(graph):
        parts = parts_of(graph, layer)
        for count in (1, 5, 7):
            images = images_for(name, count)
            with torch.no_grad():
                found = parts["rest"](parts["prefix"](images), *parts["context"](images))
                assert torch.equal(found, network(images)), layer


def test_batchnorm_values_are_not_those_of_the_relu_after_it():
    """Erratum 1: neither read (what a beginning gives) nor written (what an ending takes)."""
    network = randomized(torchvision.models.resnet18(num_classes=10))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    graph = trace(network, (3, 32, 32))
    assert network.relu.inplace
    for norm, relu in (("bn1", "relu"), ("layer3.1.bn1", "layer3.1.relu")):
        before, after = (graph.prefix(layer)(images) for layer in (norm, relu))
        assert before.min() < 0
        assert torch.equal(after, before.relu())
        suffix = graph.suffix(norm)
        context = suffix.context(images)
        nothing = suffix.rest(torch.zeros_like(before), *context)
        assert torch.equal(suffix.rest(-before.abs(), *context), nothing)  # a ReLU follows
        assert not torch.equal(suffix.rest(before.abs(), *context), nothing)
        beyond = graph.suffix(relu)
        assert not torch.equal(beyond.rest(-before.abs(), *context), beyond.rest(0 * before, *context))


def test_what_is_overwritten_through_a_view_is_cut_exactly_or_refused():
    def overwrite_some(network, x):
        x[:, :4].mul_(2)

    network = randomized(Overwriting(overwrite_some))
    images = images_for()
    expected = network(images).detach()
    graph = trace(network, SHAPE)
    for layer in ("flatten", "fc1", "fc2"):
        try:
            found = recombined(graph, layer, images)
        except ValueError as refusal:
            assert "in place" in str(refusal)  # noqa: PT017
        else:
            assert torch.equal(found, expected), layer


@pytest.mark.matrix("Inplace", "Branching", "Overwriting:method")
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("Inplace", ["bn1", "bn2", "bn3", "add"]),
        ("Branching", ["bn1", "conv2"]),
        ("Overwriting:module", ["fc1"]),
        ("Overwriting:function", ["fc1"]),
        ("Overwriting:method", ["fc1"]),
        ("Overwriting:function:branching", ["fc1"]),
        ("small_densenet", ["features.norm5"]),
    ],
)
def test_an_end_does_not_overwrite_what_it_is_given(name, layers):
    _network, graph = graph_of(name)
    images = images_for(name)
    for layer in layers:
        value = graph.prefix(layer)(images)
        suffix = graph.suffix(layer)
        context = suffix.context(images)
        kept, kept_context = value.clone(), [each.clone() for each in context]
        first = suffix.rest(value, *context)
        assert torch.equal(value, kept), layer
        assert all(torch.equal(one, other) for one, other in zip(context, kept_context, strict=True))
        assert torch.equal(suffix.rest(value, *context), first)


# -- frozen copies ------------------------------------------------------------------------------------------


FEW = {
    "resnet_tiny": ["conv1", "layer2.0.bn1", "layer3.0.relu2"],
    "vit_tiny": ["conv_proj", "encoder.layers.encoder_layer_1.mlp.0"],
    "small_densenet": ["features.denseblock1.denselayer2.conv1"],
    "Inplace": ["bn1"],
    "Branching": ["relu", "fc.input"],
}
EACH = [(name, layer) for name, layers in FEW.items() for layer in layers]


@pytest.mark.matrix("conv1", "relu")
@pytest.mark.parametrize(("name", "layer"), EACH)
def test_no_part_shares_memory_with_the_network_or_takes_a_gradient(name, layer):
    network, graph = graph_of(name)
    images = images_for(name).requires_grad_()
    own = {
        each.untyped_storage().data_ptr()
        for source in (network, getattr(graph, "module", network))
        for each in (*source.parameters(), *source.buffers())
    }
    parts = parts_of(graph, layer)
    tensors = [each for part in parts.values() for each in (*part.parameters(), *part.buffers())]
    assert tensors
    assert own.isdisjoint({each.untyped_storage().data_ptr() for each in tensors})
    assert not any(each.requires_grad for each in tensors)
    assert all(weight.requires_grad for weight in network.parameters())
    value = parts["prefix"](images)
    parts["rest"](value, *parts["context"](images)).sum().backward()
    assert all(each.grad is None for each in tensors)
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.matrix("layer2.0.bn1", "relu")
@pytest.mark.parametrize(("name", "layer"), EACH)
def test_parts_are_in_evaluation_mode_and_the_network_stays_as_it_is(name, layer):
    network = build(name).train()
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    graph = trace(network, SHAPES.get(name, SHAPE))
    parts = parts_of(graph, layer)
    kinds = (nn.BatchNorm2d, nn.Dropout, nn.MultiheadAttention)
    found = [module for part in parts.values() for module in part.modules() if isinstance(module, kinds)]
    assert not any(module.training for module in found)
    images = images_for(name)
    with torch.no_grad():
        first = parts["rest"](parts["prefix"](images), *parts["context"](images))
        again = parts["rest"](parts["prefix"](images), *parts["context"](images))
        assert torch.equal(first, again)
        assert torch.equal(first, copy.deepcopy(network).eval()(images))
    assert [module.training for module in network.modules()] == modes
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", ["resnet_tiny", "Branching"])
def test_what_becomes_of_a_network_does_not_reach_its_parts_nor_the_other_way_round(name):
    network, graph = graph_of(name)
    images = images_for(name)
    parts = parts_of(graph, "bn1")
    expected = network(images).detach()
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    assert torch.equal(parts["rest"](parts["prefix"](images), *parts["context"](images)), expected)
    with torch.no_grad():
        for part in parts.values():
            for weight in part.parameters():
                weight.fill_(1)
    assert not any(weight.any() for weight in network.parameters())


# -- only what is needed ------------------------------------------------------------------------------------


@pytest.mark.matrix("layer2.0.relu2", "features.6")
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet_tiny", "layer1.0.relu2"),
        ("resnet_tiny", "layer2.0.relu2"),
        ("vgg_tiny", "features.6"),
        ("mlp", "hidden.3"),
        ("small_densenet", "features.transition1.pool"),
    ],
)
def test_at_a_block_output_each_module_is_in_one_part_and_runs_once(name, layer):
    network, graph = graph_of(name)
    images = images_for(name)
    order = calls(network, lambda: network(images))
    cut = order.index(layer) + 1
    parts = parts_of(graph, layer)
    assert innermost(parts["prefix"]) == set(order[:cut])
    assert innermost(parts["rest"]) == set(order[cut:])
    assert innermost(parts["context"]) == set()
    value = parts["prefix"](images)
    assert calls(parts["prefix"], lambda: parts["prefix"](images)) == order[:cut]
    assert calls(parts["rest"], lambda: parts["rest"](value)) == order[cut:]
    prefix, rest = (sum(weight.numel() for weight in parts[p].parameters()) for p in ("prefix", "rest"))
    assert prefix == graph.layers[layer].parameters
    assert prefix + rest == sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("name", "layer", "idle"),
    [
        ("resnet_tiny", "layer2.0.bn1", {"layer2.0.conv1", "layer2.0.bn1"}),
        ("resnet_tiny", "layer2.0.shortcut.0", {"layer2.0.shortcut.0"}),
        ("wrn_tiny", "layer3.0.conv2", {f"layer3.0.{part}" for part in ("conv1", "bn2", "relu2", "conv2")}),
        # whatever else takes the layer's value takes the one that replaces it
        ("wrn_tiny", "layer2.0.relu1", {"conv1", "normalize"} | {"layer1", "layer2.0.bn1", "layer2.0.relu1"}),
    ],
)
def test_inside_a_branch_only_what_goes_around_the_layer_runs_before_it(name, layer, idle):
    network, graph = graph_of(name)
    images = images_for(name)
    order = calls(network, lambda: network(images))
    parts = parts_of(graph, layer)
    around, rest = innermost(parts["context"]), innermost(parts["rest"])
    idle = {path for path in order if any(path == each or path.startswith(f"{each}.") for each in idle)}
    assert around | rest == set(order) - idle
    assert around.isdisjoint(rest)
    assert innermost(parts["prefix"]) <= set(order[: order.index(layer) + 1])
    context = parts["context"](images)
    assert calls(parts["context"], lambda: parts["context"](images)) == [p for p in order if p in around]
    value = parts["prefix"](images)
    assert calls(parts["rest"], lambda: parts["rest"](value, *context)) == [p for p in order if p in rest]


@pytest.mark.matrix("resnet_tiny")
@pytest.mark.parametrize(
    "name", ["resnet_tiny", "wrn_tiny", "vgg_tiny", "mlp", "vit_tiny", "torchvision:resnet18"]
)
def test_nothing_goes_around_a_block_output(name):
    _network, graph = graph_of(name)
    images = images_for(name, 1)
    for layer in graph.select("blocks"):
        assert graph.suffix(layer).context(images) == (), layer
        assert innermost(graph.suffix(layer).context) == set()


def test_around_dense_layers_goes_what_they_are_joined_with():
    _network, graph = graph_of("small_densenet")
    images = images_for("small_densenet")
    suffix = graph.suffix("features.denseblock1.denselayer2.conv2")
    captured = capture(graph, images, ["features.pool0", "features.denseblock1.denselayer1.conv2"])
    context = suffix.context(images)
    assert len(context) == 2
    assert all(torch.equal(*pair) for pair in zip(context, captured.values(), strict=True))


def test_a_hooked_beginning_stops_at_its_layer():
    _network, graph = graph_of("Branching")
    prefix = graph.prefix("relu")
    called = calls(prefix, lambda: prefix(images_for()))
    assert [path.rpartition(".")[2] for path in called] == ["conv1", "bn1", "relu"]
    assert not any(module._forward_hooks for module in prefix.modules())


# -- replacing a value --------------------------------------------------------------------------------------


def test_inside_a_residual_branch_the_rest_still_sees_the_original_input():
    network, graph = graph_of("resnet_tiny")
    images = images_for()
    given = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    suffix = graph.suffix("layer2.0.bn1")
    with torch.no_grad():
        x = network.layer1(network.relu1(network.bn1(network.conv1(network.normalize(images)))))
        block = network.layer2[0]
        x = block.relu2(block.bn2(block.conv2(block.relu1(given))) + block.shortcut(x))
        expected = network.fc(network.avgpool(network.layer3(x)).flatten(1))
    assert torch.equal(suffix.rest(given, *suffix.context(images)), expected)


def test_inside_a_preactivation_block_the_shortcut_goes_around():
    network, graph = graph_of("wrn_tiny")
    images = images_for()
    suffix = graph.suffix("layer2.0.conv1")
    block = network.layer2[0]
    with torch.no_grad():
        activated = block.relu1(block.bn1(network.layer1(network.conv1(network.normalize(images)))))
        given = torch.randn_like(block.conv1(activated))
        x = block.conv2(block.relu2(block.bn2(given))) + block.shortcut(activated)
        x = network.relu2(network.bn2(network.layer3(x)))
        expected = network.fc(network.avgpool(x).flatten(1))
    assert torch.equal(suffix.rest(given, *suffix.context(images)), expected)


def test_inside_a_transformer_block_the_tokens_go_around():
    network, graph = graph_of("vit_tiny")
    images = images_for()
    name = "encoder.layers.encoder_layer_1"
    suffix = graph.suffix(f"{name}.mlp.3")
    tokens = capture(graph, images, f"{name}.add")[f"{name}.add"]  # after attention
    given = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        x = tokens + given
        for block in list(network.encoder.layers)[2:]:
            x = block(x)
        expected = network.heads(network.encoder.ln(x)[:, 0])
    assert torch.equal(suffix.rest(given, *suffix.context(images)), expected)


@pytest.mark.parametrize("layer", ["conv1", "relu", "relu_1", "pool", "fc.input", "fc"])
def test_a_hooked_end_goes_on_with_what_it_is_given(layer):
    network, graph = graph_of("Branching")
    images = images_for()
    given = torch.rand(3, *graph.values[layer].shape, generator=torch.Generator().manual_seed(2)) - 0.3
    suffix = graph.suffix(layer)
    with torch.no_grad():
        steps = {
            "conv1": lambda x: network.bn1(x).relu(),
            "relu": lambda x: network.conv2(x if x.sum() >= 0 else -x).relu(),
            "relu_1": network.pool,
            "pool": lambda x: F.relu(x).mean((2, 3)),
            "fc.input": network.fc,
            "fc": lambda x: x,
        }
        expected = given
        for name in list(steps)[list(steps).index(layer) :]:
            expected = steps[name](expected)
        assert torch.equal(suffix.rest(given, *suffix.context(images)), expected)


@pytest.mark.slow
def test_a_traced_network_and_its_hooked_twin_are_cut_alike():
    class Untraceable(type(build("resnet_tiny"))):
        def forward(self, images):
            if images.sum() < 0:
                images = -images
            return super().forward(images)

    network, graph = graph_of("resnet_tiny")
    twin = copy.deepcopy(network)
    twin.__class__ = Untraceable
    hooked = trace(twin, SHAPE)
    images = images_for()
    generator = torch.Generator().manual_seed(2)
    for layer in ("bn1", "layer1.0.bn2", "layer2.0.conv1", "layer2.0.shortcut.0", "layer3.0.relu2", "fc"):
        assert torch.equal(graph.prefix(layer)(images), hooked.prefix(layer)(images))
        given = torch.randn(3, *graph.values[layer].shape, generator=generator)
        ours, theirs = graph.suffix(layer), hooked.suffix(layer)
        results = [suffix.rest(given, *suffix.context(images)) for suffix in (ours, theirs)]
        assert torch.equal(*results), layer


# -- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.matrix("conv1", "relu", "bn2")
@pytest.mark.parametrize(("name", "layer"), [*EACH, ("vgg_tiny", "features.6"), ("Inplace", "bn2")])
def test_gradients_flow_through_both_parts_to_the_images(name, layer):
    network, graph = graph_of(name)
    images = images_for(name)
    weights = torch.randn(10, generator=torch.Generator().manual_seed(3))

    def slope(model):
        x = images.clone().requires_grad_()
        (model(x) @ weights).sum().backward()
        return x.grad

    expected = slope(network)
    assert expected.abs().min() < expected.abs().max()
    torch.testing.assert_close(slope(lambda x: recombined(graph, layer, x)), expected)


@pytest.mark.matrix("conv1", "relu", "bn2")
@pytest.mark.parametrize(
    ("name", "layer"),
    [*EACH, ("Inplace", "bn2"), ("Inplace", "add"), ("Overwriting:function:branching", "fc1")],
)
def test_gradients_flow_to_the_value_that_is_given(name, layer):
    _network, graph = graph_of(name)
    images = images_for(name)
    suffix = graph.suffix(layer)
    value = graph.prefix(layer)(images).requires_grad_()
    suffix.rest(value, *suffix.context(images)).square().sum().backward()
    assert value.grad.any()


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["prefix", "suffix"])
def test_an_unknown_layer_is_refused_and_the_nearest_named(cut):
    _, graph = graph_of("mlp")
    with pytest.raises(ValueError, match="unknown layer") as error:
        getattr(graph, cut)("hiden.3")
    assert str(error.value) == (
        "unknown layer 'hiden.3'; did you mean 'hidden.3' or 'hidden.5' or 'hidden.4'? Known: hidden.0, "
        "hidden.1, hidden.2, hidden.3, hidden.4, hidden.5, classifier."
    )
    _, hooked = graph_of("Branching")
    with pytest.raises(
        ValueError, match=re.escape("unknown layer 'relu_2'; did you mean 'relu_1' or 'relu'?")
    ):
        getattr(hooked, cut)("relu_2")


@pytest.mark.parametrize("branching", [False, True])
def test_a_layer_on_which_the_output_does_not_depend_is_refused(branching):
    network = randomized(Aside(branching))
    images = images_for()
    graph = trace(network, SHAPE)
    expected = network.aside(images.flatten(1)).detach()
    assert torch.equal(graph.prefix("aside")(images), expected)  # it can be looked at all the same
    with pytest.raises(
        ValueError, match="^" + re.escape("the network's output does not depend on layer 'aside'.")
    ):
        graph.suffix("aside")
    assert torch.equal(recombined(graph, "fc", images), network(images))


def test_a_layer_that_some_images_never_reach_is_refused_when_they_come():
    network = randomized(Moody())
    graph = trace(network, SHAPE)
    bright, dark = images_for(), 0.1 * images_for()
    assert torch.equal(recombined(graph, "extra", bright), network(bright))
    message = "for these images the network never computes 'extra': it branches on them."
    prefix, suffix = graph.prefix("extra"), graph.suffix("extra")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prefix(dark)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        suffix.rest(torch.zeros(3, 768), *suffix.context(dark))
    assert torch.equal(recombined(graph, "extra", bright), network(bright))  # no hook was left behind
    assert not any(module._forward_hooks for part in (prefix, suffix.rest) for module in part.modules())
    assert torch.equal(recombined(graph, "fc", dark), network(dark))


class Hidden(nn.Module):
    """Works in place on a value that goes on being used under another name."""

    def __init__(self, same):
        super().__init__()
        self.fc1, self.same, self.relu, self.fc2 = (
            nn.Linear(48, 9),
            same,
            nn.ReLU(inplace=True),
            nn.Linear(9, 3),
        )

    def forward(self, x):
        x = self.fc1(x.flatten(1))
        self.relu(self.same(x))
        return self.fc2(x)


@pytest.mark.parametrize("same", [nn.Identity(), nn.Dropout()])
def test_a_cut_that_would_not_make_the_network_is_refused(same):
    graph = trace(Hidden(same).eval(), (3, 4, 4))
    with pytest.raises(ValueError, match=r"^the network cannot be cut at 'fc1': it changes values in place"):
        graph.suffix("fc1")


def test_operators_that_end_in_an_underscore_do_not_work_in_place():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(48, 3)

        def forward(self, x):
            x = x.flatten(1)
            high = x > 0.3
            both = high & (x < 0.6)
            return self.fc(torch.where(high, x, 0.0) + both.float())

    network = Both().eval()
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    graph = trace(network, (3, 4, 4))
    with torch.no_grad():
        for layer in ("gt", "flatten"):
            suffix = graph.suffix(layer)
            value = graph.prefix(layer)(images)
            assert torch.equal(suffix.rest(value, *suffix.context(images)), network(images))
