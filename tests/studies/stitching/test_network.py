"""Two networks spliced into one: exact with themselves, by hand with others; donors stay as they are."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_networks import Aside, randomized

from repsim.activations import capture, trace
from repsim.models import build_model
from repsim.models.layers import with_normalization
from repsim.studies.stitching import Layout, Moments, Transform, make_transform, network, splice
from repsim.studies.stitching.network import layer_moments, layout_between
from repsim.support.compat import torchvision

SHAPE = (3, 16, 16)
FAMILIES = ["resnet_tiny", "wrn_tiny", "vgg_tiny", "vit_tiny", "mlp", "densenet", "untraceable"]


def build(name, seed=0, classes=10, shape=SHAPE):
    """A network whose every weight and statistic is random."""
    kind = "resnet_tiny" if name == "untraceable" else name
    if name == "densenet":
        torch.manual_seed(seed)
        model = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=classes)
        model = with_normalization(model, [0.5] * 3, [0.25] * 3)
    else:
        model = build_model(kind, shape, classes, [0.5] * 3, [0.25] * 3, seed)
    model = randomized(model, seed)
    return untraceable(model) if name == "untraceable" else model


def untraceable(model):
    """The same network, but it looks at its images."""
    kind = type(model)

    class Untraceable(kind):
        def forward(self, images):
            if images.sum() < 0:
                images = -images
            return kind.forward(self, images)

    twin = copy.deepcopy(model)
    twin.__class__ = Untraceable
    return twin


def shape_of(name):
    return (3, 32, 32) if name == "densenet" else SHAPE


def graph_of(name, seed=0, classes=10):
    return trace(build(name, seed, classes), shape_of(name))


def images_for(count=4, shape=SHAPE, seed=1):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_state(module, state):
    now = module.state_dict()
    return now.keys() == state.keys() and all(torch.equal(now[name], state[name]) for name in state)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def train_transform(stitched, images, steps=3):
    """A few steps of all that can be trained, with weight decay, as fitting takes them."""
    stitched.train()
    labels = torch.arange(len(images)) % 10
    optimizer = torch.optim.Adam(stitched.parameters(), 0.05, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(stitched(images), labels).backward()
        optimizer.step()


# -- exactness ----------------------------------------------------------------------------------------------


@pytest.mark.matrix("resnet_tiny", "mlp")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_stitched_to_itself_by_the_identity_is_itself_at_every_layer(name):
    graph, images = graph_of(name), images_for(2, shape_of(name))
    with torch.no_grad():
        expected = graph.network(images)
        wrong = []
        for layer in graph.layers:
            transform = make_transform(graph, graph, layer, layer, initial="identity")
            found = splice(graph, graph, layer, layer, transform)(images)
            if not torch.equal(found, expected):
                wrong.append(layer)
    assert len(graph.layers) >= 7
    assert wrong == []


def test_maps_of_two_residual_networks_are_stitched_as_by_hand():
    front, end, images = build("resnet_tiny"), build("resnet_tiny", 1), images_for()
    layers = "layer1.0.relu2", "layer2.0.bn1"
    options = {"image_shape": SHAPE, "resize": True}
    transform = make_transform(front, end, *layers, **options)
    stitched = splice(front, end, *layers, transform, image_shape=SHAPE)
    with torch.no_grad():

        def stem(model):
            return model.relu1(model.bn1(model.conv1(model.normalize(images))))

        value = front.layer1(stem(front))
        value = F.interpolate(value, (8, 8), mode="bilinear", antialias=True)
        value = F.conv2d(value, transform.weight[:, :, None, None], transform.bias)
        block = end.layer2[0]  # its shortcut sees the images through the end's own layers
        around = block.shortcut(end.layer1(stem(end)))
        x = block.relu2(block.bn2(block.conv2(block.relu1(value))) + around)
        expected = end.fc(end.avgpool(end.layer3(x)).flatten(1))
        assert torch.equal(stitched(images), expected)
    assert transform.weight.shape == (16, 8)


def test_a_residual_network_is_stitched_to_a_transformer_as_by_hand():
    front, end, images = build("resnet_tiny"), build("vit_tiny"), images_for()
    tokens, width = trace(end, SHAPE).values["encoder.layers.encoder_layer_1.add_1"].shape
    side = int((tokens - 1) ** 0.5)
    layers = "layer2.0.relu2", "encoder.layers.encoder_layer_1.add_1"
    transform = make_transform(front, end, *layers, image_shape=SHAPE, resize=True)
    stitched = splice(front, end, *layers, transform, image_shape=SHAPE)
    with torch.no_grad():
        x = front.relu1(front.bn1(front.conv1(front.normalize(images))))
        x = front.layer2(front.layer1(x))
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True).flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True), x], 1) @ transform.weight.T + transform.bias
        for block in list(end.encoder.layers)[2:]:
            x = block(x)
        expected = end.heads(end.encoder.ln(x)[:, 0])
        torch.testing.assert_close(stitched(images), expected)
    assert transform.weight.shape == (width, 16)


def test_a_transformer_is_stitched_to_a_residual_network_as_by_hand():
    front, end, images = build("vit_tiny"), build("resnet_tiny"), images_for()
    layers = "encoder.layers.encoder_layer_1.add_1", "layer2.0.relu2"
    transform = make_transform(front, end, *layers, image_shape=SHAPE, resize=True)
    stitched = splice(front, end, *layers, transform, image_shape=SHAPE)
    with torch.no_grad():
        tokens = capture(front, images, layers[0])[layers[0]][:, 1:]
        side = int(tokens.shape[1] ** 0.5)
        x = F.interpolate(tokens.mT.unflatten(2, (side, side)), (8, 8), mode="bilinear", antialias=True)
        x = torch.einsum("gt,nthw->nghw", transform.weight, x) + transform.bias[:, None, None]
        expected = end.fc(end.avgpool(end.layer3(x)).flatten(1))
        torch.testing.assert_close(stitched(images), expected)


def test_batchnorm_is_read_and_written_before_its_relu():
    """Erratum 1: a reference that an in-place ReLU rewrites would read what comes after the ReLU."""
    model = torchvision.models.resnet18(num_classes=10).eval()
    with torch.no_grad():
        model.layer1[0].bn1.bias.normal_(generator=torch.Generator().manual_seed(0))
    graph, images = trace(model, (3, 32, 32)), images_for(2, (3, 32, 32))
    assert model.layer1[0].relu.inplace
    norm, relu = "layer1.0.bn1", "layer1.0.relu"
    identity = make_transform(graph, graph, norm, norm, initial="identity")
    taken = {}
    for layer in (norm, relu):
        stitched = splice(graph, graph, layer, norm, identity)
        taken[layer] = stitched.before(images)[0]
        with torch.no_grad():  # ReLU twice is ReLU once
            assert torch.equal(stitched(images), model(images))
    assert taken[norm].min() < 0
    assert torch.equal(taken[relu], taken[norm].relu())
    turned = Transform.of(identity.layout, -torch.eye(64), torch.zeros(64))
    with torch.no_grad():
        read = splice(graph, graph, norm, norm, turned)(images)
        overwritten = splice(graph, graph, relu, norm, turned)(images)  # nothing passes the second ReLU
        written = splice(graph, graph, norm, relu, identity)(images)  # no ReLU follows
    assert not torch.allclose(read, overwritten)
    assert not torch.allclose(written, model(images))


def test_what_does_not_depend_on_the_transform_can_be_had_before_it():
    graph, images = graph_of("resnet_tiny"), images_for()
    layers = "layer1.0.conv1", "layer1.0.bn2"
    transform = make_transform(graph, graph, *layers)
    stitched = splice(graph, graph, *layers, transform)
    before = stitched.before(images)
    captured = capture(graph, images, ["layer1.0.conv1", "relu1"])
    assert all(torch.equal(*pair) for pair in zip(before, captured.values(), strict=True))
    assert torch.equal(stitched.after(*before), stitched(images))
    with torch.no_grad():
        transform.bias.add_(1)
    assert all(torch.equal(*pair) for pair in zip(before, stitched.before(images), strict=True))
    assert torch.equal(stitched.after(*before), stitched(images))


def test_only_what_is_needed_is_held():
    front, end = graph_of("resnet_tiny"), graph_of("resnet_tiny", 1)
    layers = "layer1.0.relu2", "layer2.0.relu2"
    stitched = splice(front, end, *layers, make_transform(front, end, *layers, resize=True))
    held = {name for name, _ in stitched.named_parameters() if not name.startswith("transform.")}
    of_front = {f"prefix.{n}" for n, _ in front.network.named_parameters() if n < "layer2" and n[:2] != "fc"}
    of_end = {
        f"rest.{n}" for n, _ in end.network.named_parameters() if n[:6] in ("layer3", "fc.wei", "fc.bia")
    }
    assert held == of_front | of_end


# -- donors stay as they are --------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["resnet_tiny", "untraceable"])
def test_training_the_transform_changes_nothing_else(name):
    front, end = build(name).train(), build(name, 1)
    modes = [[module.training for module in donor.modules()] for donor in (front, end)]
    states = [state_of(donor) for donor in (front, end)]
    layers = "layer2.0.bn1", "layer2.0.bn1"
    transform = make_transform(front, end, *layers, image_shape=SHAPE)
    stitched = splice(front, end, *layers, transform, image_shape=SHAPE)
    assert stitched.transform is transform
    trained = {id(weight) for weight in stitched.parameters() if weight.requires_grad}
    assert trained == {id(weight) for weight in transform.parameters()}
    before = state_of(stitched)
    train_transform(stitched, images_for(12))
    stitched.eval()(images_for())
    for donor, state, mode in zip((front, end), states, modes, strict=True):
        assert same_state(donor, state)
        assert [module.training for module in donor.modules()] == mode
        assert all(weight.grad is None and weight.requires_grad for weight in donor.parameters())
        assert not any(module._forward_hooks for module in donor.modules())
    for key, value in stitched.state_dict().items():
        assert torch.equal(value, before[key]) == (not key.startswith("transform.")), key


@pytest.mark.matrix("untraceable", "vit_tiny")
@pytest.mark.parametrize("name", ["resnet_tiny", "untraceable", "vit_tiny"])
def test_the_donors_parts_are_in_evaluation_mode_whatever_the_mode(name):
    donor = build(name).train()
    layer = "conv_proj" if name == "vit_tiny" else "layer2.0.conv1"
    graph = trace(donor, SHAPE)
    stitched = splice(graph, graph, layer, layer, make_transform(graph, graph, layer, layer))
    kinds = (nn.BatchNorm2d, nn.Dropout, nn.MultiheadAttention)
    frozen = [module for module in stitched.modules() if isinstance(module, kinds)]
    assert frozen
    images = images_for()
    with torch.no_grad():
        expected = stitched(images)
        for mode in (True, False):
            assert stitched.train(mode) is stitched
            assert stitched.training == stitched.transform.training == mode
            assert not any(module.training for module in frozen)
            assert torch.equal(stitched(images), expected)
            nn.Sequential(stitched).train(mode)  # as a part of something else
            assert not any(module.training for module in frozen)


def test_parts_share_no_memory_with_the_donors():
    front, end = build("resnet_tiny"), build("resnet_tiny", 1)
    stitched = splice(
        front,
        end,
        "layer1.0.bn1",
        "layer1.0.bn1",
        make_transform(front, end, "layer1.0.bn1", "layer1.0.bn1", image_shape=SHAPE),
        image_shape=SHAPE,
    )
    places = [
        {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        for model in (stitched, front, end)
    ]
    assert places[0].isdisjoint(places[1] | places[2])


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["resnet_tiny", "untraceable"])
def test_gradients_reach_the_transform_and_the_images(name):
    graph = graph_of(name)
    layers = "layer2.0.bn1", "layer2.0.bn1"
    stitched = splice(graph, graph, *layers, make_transform(graph, graph, *layers, initial="identity"))
    images = images_for().requires_grad_()
    twin = images.detach().clone().requires_grad_()
    stitched(images)[:, 3].sum().backward()
    graph.network(twin)[:, 3].sum().backward()
    torch.testing.assert_close(images.grad, twin.grad)
    assert all(weight.grad.any() for weight in stitched.transform.parameters())


# -- BatchNorm statistics, where they are updated -----------------------------------------------------------


def updated(stitched, images):
    """Let the donors' copies learn the statistics of what they see, as fitting does when it is told to."""
    stitched.train()
    for module in stitched.batchnorms().values():
        module.train()
    with torch.no_grad():
        stitched(images)
    return stitched.eval()


@pytest.mark.matrix("options0")
@pytest.mark.parametrize("options", [{}, {"rank": 3}, {"mask": "random_permutation"}])
def test_what_fitting_has_changed_rebuilds_the_stitched_network(options):
    front, end, images = graph_of("resnet_tiny"), graph_of("resnet_tiny", 1), images_for(8)
    layers = "layer2.0.relu1", "layer2.0.conv1"
    stitched = splice(front, end, *layers, make_transform(front, end, *layers, **options))
    train_transform(stitched, images)
    updated(stitched, images)
    learned = {name: value.clone() for name, value in stitched.learned(with_batchnorm=True).items()}
    expected = stitched(images).detach()

    prefix = "transform."
    state = {name.removeprefix(prefix): value for name, value in learned.items() if name.startswith(prefix)}
    layout = layout_between(front, end, *layers)
    again = splice(front, end, *layers, Transform.restored(layout, state))
    assert not torch.equal(again(images), expected)  # the statistics are still the donors'
    again.restore_batchnorm(learned)
    assert torch.equal(again(images), expected)
    assert torch.equal(again(images[:1]), stitched(images[:1]))


def test_without_batchnorm_only_the_transform_is_learned():
    graph, images = graph_of("resnet_tiny"), images_for()
    layers = "layer1.0.bn1", "layer1.0.bn1"
    stitched = splice(graph, graph, *layers, make_transform(graph, graph, *layers))
    learned = stitched.learned(with_batchnorm=False)
    assert set(learned) == {"transform.full", "transform.bias"}
    expected = stitched(images)
    stitched.restore_batchnorm(learned)  # there is nothing to restore
    assert torch.equal(stitched(images), expected)
    more = stitched.learned(with_batchnorm=True)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert set(more) - set(learned) == {
        f"batchnorm.{name}.{statistic}" for name in stitched.batchnorms() for statistic in statistics
    }


def test_batchnorm_layers_are_those_that_run():
    front, end = graph_of("resnet_tiny"), graph_of("resnet_tiny", 1)
    layers = "layer1.0.bn1", "layer2.0.bn1"
    stitched = splice(front, end, *layers, make_transform(front, end, *layers, resize=True))
    around = ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.shortcut.1"]
    after = ["layer2.0.bn2", "layer3.0.bn1", "layer3.0.bn2", "layer3.0.shortcut.1"]
    assert set(stitched.batchnorms()) == {
        "beginning.bn1",
        "beginning.layer1.0.bn1",
        *(f"context.{name}" for name in around),
        *(f"rest.{name}" for name in after),
    }


# -- a faster twin ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_channels_lie_side_by_side_in_the_twin_where_one_thread_computes(monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    graph, images = graph_of("resnet_tiny"), images_for(4, shape_of("resnet_tiny"))
    layer = "layer2.0.conv1"
    stitched = splice(graph, graph, layer, layer, make_transform(graph, graph, layer, layer))
    twin = stitched.faster(images)
    kernels = {  # of several pixels and channels: others lie in both ways at once
        network: [each for each in network.parameters() if each.dim() == 4 and min(each.shape[1:]) > 1]
        for network in (twin, stitched)
    }
    assert {kernel.stride(1) == 1 for kernel in kernels[twin]} == {threads == 1}
    assert {kernel.stride(1) == 1 for kernel in kernels[stitched]} == {False}
    torch.testing.assert_close(twin(images), stitched(images), rtol=1e-4, atol=1e-4)


@pytest.mark.matrix("resnet_tiny", "untraceable")
@pytest.mark.parametrize("name", ["resnet_tiny", "wrn_tiny", "vgg_tiny", "densenet", "untraceable"])
def test_with_batchnorm_folded_away_a_stitched_network_means_the_same(name):
    front, end, images = graph_of(name), graph_of(name, 1), images_for(4, shape_of(name))
    layer = list(front.layers)[len(front.layers) // 2]
    stitched = splice(front, end, layer, layer, make_transform(front, end, layer, layer))
    state, norms = state_of(stitched), len(stitched.batchnorms())
    twin = stitched.faster(images)
    assert twin.transform is stitched.transform
    assert (len(twin.batchnorms()) < norms) == (name != "untraceable")
    gradients = []
    for each in (stitched, twin):
        stitched.transform.zero_grad()
        each(images).square().mean().backward()
        gradients.append([weight.grad.clone() for weight in stitched.transform.parameters()])
    torch.testing.assert_close(twin(images), stitched(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    train_transform(twin, images)
    assert len(stitched.batchnorms()) == norms
    assert all(
        torch.equal(value, state[key]) == (not key.startswith("transform."))
        for key, value in stitched.state_dict().items()
    )


# -- networks that cannot be traced -------------------------------------------------------------------------


@pytest.mark.matrix("layers2")
@pytest.mark.parametrize(
    "layers",
    [("bn1", "layer1.0.bn2"), ("layer2.0.relu2", "layer2.0.conv1"), ("layer3.0.bn1", "layer3.0.shortcut.0")],
)
def test_networks_that_cannot_be_traced_are_stitched_with_the_same_meaning(layers):
    models = build("resnet_tiny"), build("resnet_tiny", 1)
    traced = [trace(model, SHAPE) for model in models]
    hooked = [trace(untraceable(model), SHAPE) for model in models]
    images = images_for(20)
    options = {"resize": True, "initial": "pseudo_inverse", "images": images}
    transform = make_transform(*traced, *layers, **options)
    other = make_transform(*hooked, *layers, **options)
    assert torch.equal(other.weight, transform.weight)
    with torch.no_grad():
        expected = splice(*traced, *layers, transform)(images)
        for front in (traced[0], hooked[0]):
            for end in (traced[1], hooked[1]):
                assert torch.equal(splice(front, end, *layers, transform)(images), expected)


# -- transforms between layers ------------------------------------------------------------------------------


@pytest.fixture
def batches(monkeypatch):
    """How many images the first convolution of two networks sees at once, of batches of at most seven."""
    monkeypatch.setattr(network, "BATCH", 7)
    seen, graphs = [], []
    for seed in (0, 1):
        model = build("resnet_tiny", seed)
        model.conv1.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
        graphs.append(trace(model, SHAPE))
        graphs[-1].prefix("conv1")  # which tries out a few random images
    seen.clear()
    return graphs, seen


@pytest.mark.matrix("layers1-options1", "layers3-options3")
@pytest.mark.parametrize(
    ("layers", "options"),
    [
        (("layer1.0.bn1", "layer1.0.relu2"), {}),
        (("layer1.0.bn1", "layer3.0.relu2"), {"resize": True}),
        (("flatten", "layer3.0.conv1"), {"flatten": True}),
        (("flatten", "fc"), {}),
    ],
)
def test_streamed_moments_are_those_of_all_rows_at_once(batches, layers, options):
    (front, end), seen = batches
    images = images_for(20)
    layout = layout_between(front, end, *layers, **options)
    found = layer_moments(front, end, *layers, layout, images)
    assert seen == [7, 7, 7, 7, 6, 6]
    x = layout.rows(layout.arrange(capture(front, images, layers[0])[layers[0]]))
    y = layout.rows(capture(end, images, layers[1])[layers[1]])
    both = np.concatenate([x.double().numpy(), y.double().numpy()], axis=1)
    covariance, width = np.cov(both, rowvar=False, ddof=0), x.shape[1]
    assert found.rows == len(both) == len(y)
    expected = {
        "mean_x": both.mean(0)[:width],
        "mean_y": both.mean(0)[width:],
        "xx": covariance[:width, :width],
        "xy": covariance[:width, width:],
        "variance_y": covariance.diagonal()[width:],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name).numpy(), value, rtol=1e-5, atol=1e-6, err_msg=name)
    whole = Moments.of([(x, y)])
    torch.testing.assert_close(found.xx, whole.xx, rtol=1e-5, atol=1e-6)


def test_images_are_looked_at_only_where_values_are_needed(batches):
    (front, end), seen = batches
    layers = "layer1.0.bn1", "layer1.0.bn1"
    for options in ({}, {"initial": "permutation"}, {"mask": "random_permutation"}, {"rank": 2}):
        make_transform(front, end, *layers, images=images_for(9), **options)
        assert seen == []
    for options in ({"initial": "pseudo_inverse"}, {"mask": "semi_match"}, {"mask": "absolute_semi_match"}):
        make_transform(front, end, *layers, images=images_for(9), **options)
        assert len(seen) == 4
        seen.clear()


def test_options_reach_the_transform():
    front, end, layers = graph_of("resnet_tiny"), graph_of("resnet_tiny", 1), ("layer2.0.bn1", "layer2.0.bn1")
    assert make_transform(front, end, *layers).layout == Layout((16, 8, 8), (16, 8, 8))
    assert make_transform(front, end, *layers, flatten=True, rank=1).weight.shape == (1024, 1024)
    assert make_transform(front, end, *layers, rank=3).up.shape == (16, 3)
    assert not make_transform(front, end, *layers, initial="zeros").weight.any()
    weights = [make_transform(front, end, *layers, seed=seed).weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with refused("mask='semi_match' is made from the layers' values: give images."):
        make_transform(front, end, *layers, mask="semi_match")


# -- refusals -----------------------------------------------------------------------------------------------


def test_unknown_layers_are_refused_with_the_nearest():
    graph = graph_of("mlp")
    transform = make_transform(graph, graph, "hidden.1", "hidden.1")
    message = "^unknown layer 'hiden.1'; did you mean 'hidden.1'"
    for layers in (("hiden.1", "hidden.1"), ("hidden.1", "hiden.1")):
        with pytest.raises(ValueError, match=message):
            make_transform(graph, graph, *layers)
        with pytest.raises(ValueError, match=message):
            splice(graph, graph, *layers, transform)


def test_layers_that_do_not_fit_are_named():
    graph = graph_of("resnet_tiny")
    with refused(
        "layer1.0.relu2 → layer2.0.relu2: maps of 16 × 16 and 8 × 8 positions do not match: resize=True "
        "resizes the front's, flatten=True maps every value to every value."
    ):
        make_transform(graph, graph, "layer1.0.relu2", "layer2.0.relu2")
    with refused(
        "flatten → conv1: a vector (32,) cannot be stitched to a map (8, 16, 16) channel by channel: "
        "flatten=True maps every value to every value."
    ):
        make_transform(graph, graph, "flatten", "conv1")


def test_a_transform_for_other_shapes_is_refused():
    graph = graph_of("resnet_tiny")
    transform = make_transform(graph, graph, "layer1.0.relu2", "layer1.0.relu2")
    with refused(
        "the transform is from (8, 16, 16) to (8, 16, 16), the layers are (16, 8, 8) and (16, 8, 8)."
    ):
        splice(graph, graph, "layer2.0.relu2", "layer2.0.relu2", transform)
    assert splice(graph, graph, "bn1", "layer1.0.bn2", transform).transform is transform  # shapes are enough


def test_donors_of_different_class_counts_are_refused_unless_the_task_is_crossed():
    front, end, images = graph_of("resnet_tiny"), graph_of("resnet_tiny", 1, classes=4), images_for()
    layers = "layer2.0.relu2", "layer2.0.relu2"
    transform = make_transform(front, end, *layers)
    for one, other, classes in ((front, end, (10, 4)), (end, front, (4, 10))):
        with refused(
            f"the front tells {classes[0]} classes apart, the end {classes[1]}: cross_task=True stitches "
            "them all the same, and the result answers with the end's classes."
        ):
            splice(one, other, *layers, transform)
        crossed = splice(one, other, *layers, transform, cross_task=True)
        assert crossed(images).shape == (4, classes[1])


def test_donors_for_images_of_different_shapes_are_refused():
    front = graph_of("resnet_tiny")
    end = trace(build("resnet_tiny", 1), (3, 8, 8))
    layers = "layer2.0.relu2", "layer1.0.relu2"
    transform = Transform(Layout((16, 8, 8), (8, 8, 8)))
    for cross_task in (False, True):
        with refused("the front takes images of shape (3, 16, 16), the end of shape (3, 8, 8)."):
            splice(front, end, *layers, transform, cross_task=cross_task)


def test_networks_need_an_image_shape_and_traced_ones_do_not():
    model = build("mlp")
    graph = trace(model, SHAPE)
    layers = "hidden.1", "hidden.1"
    transform = make_transform(graph, graph, *layers)
    message = "give image_shape=(channels, height, width), or networks that were traced with it."
    for front, end in ((model, model), (graph, model), (model, graph)):
        with refused(message):
            make_transform(front, end, *layers)
        with refused(message):
            splice(front, end, *layers, transform)
        given = make_transform(front, end, *layers, image_shape=SHAPE)
        assert torch.equal(given.weight, transform.weight)
        images = images_for()
        stitched = splice(front, end, *layers, transform, image_shape=SHAPE)
        assert torch.equal(stitched(images), splice(graph, graph, *layers, transform)(images))


def test_a_layer_on_which_the_end_does_not_depend_is_refused():
    graph = trace(Aside(), SHAPE)
    to_aside, from_aside = (
        make_transform(graph, graph, *layers, initial="zeros")
        for layers in (("flatten", "aside"), ("aside", "flatten"))
    )
    with refused("the network's output does not depend on layer 'aside'."):
        splice(graph, graph, "flatten", "aside", to_aside)
    assert splice(graph, graph, "aside", "flatten", from_aside)(images_for()).shape == (4, 3)


def test_batchnorm_without_running_statistics_is_not_folded():
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(108, 4)
    )
    with pytest.warns(UserWarning, match="depends on the other images in its batch"):
        graph = trace(network.eval(), (1, 8, 8))
    stitched = splice(graph, graph, "0", "0", make_transform(graph, graph, "0", "0", initial="identity"))
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(stitched.faster(images)(images), network(images))
