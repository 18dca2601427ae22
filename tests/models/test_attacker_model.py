"""What is known of a network is known of it inside an `AttackerModel` of the `robustness` package too."""

import re

import pytest
import torch
from torch import nn
from toy_networks import randomized

from repsim.activations import capture, trace
from repsim.models import build_model
from repsim.models.wrappers import Unwrapped, unwrapped
from repsim.studies.inversion import invert
from repsim.support.compat import import_robustness

SHAPE = (3, 8, 8)
PARTS = ("normalizer", "model", "attacker")


class Statistics:
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])


class Latent(nn.Module):
    """A network as `robustness` calls its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
        self.fc = nn.Linear(6, 4)

    def forward(self, x, with_latent=False, fake_relu=False, no_relu=False):
        latent = self.act(self.bn(self.conv(x))).mean((2, 3))
        return (self.fc(latent), latent) if with_latent else self.fc(latent)


class Looking(Latent):
    """Cannot be traced."""

    def forward(self, x, with_latent=False, fake_relu=False, no_relu=False):
        return super().forward(-x if x.sum() < -1e9 else x, with_latent)


def network(kind=Latent):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomized(kind())


def wrapped(inner):
    return import_robustness("attacker").AttackerModel(inner, Statistics).eval()


def pixels(count=5, shape=SHAPE, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def normalized(images):
    return (images - Statistics.mean.view(3, 1, 1)) / Statistics.std.view(3, 1, 1)


def penultimate(model, images):
    (value,) = capture(model, images, "penultimate").values()
    return value


def modes(model):
    return [module.training for module in model.modules()]


# the classifier inside


@pytest.mark.matrix
@pytest.mark.parametrize("kind", [Latent, Looking])
def test_inside_is_a_classifier_from_images_to_logits(kind):
    model = wrapped(network(kind))
    inside = unwrapped(model)
    assert isinstance(inside, Unwrapped)
    with torch.no_grad():
        logits, images = model(pixels())
        assert torch.equal(inside(pixels()), logits)
        torch.testing.assert_close(inside(pixels()), model.model(normalized(pixels())))
    assert torch.equal(images, pixels())


def test_it_shares_weights_with_its_wrapper():
    model = wrapped(network())
    inside = unwrapped(model)
    assert inside.model is model.model
    assert inside.normalizer is model.normalizer
    assert [id(weight) for weight in inside.parameters()] == [id(weight) for weight in model.parameters()]
    with torch.no_grad():
        model.model.fc.bias += 1
    assert torch.equal(inside(pixels()), model(pixels(), with_image=False))


@pytest.mark.parametrize("training", [True, False])
def test_it_is_in_the_mode_of_its_wrapper_and_changes_no_parts(training):
    model = wrapped(network()).train(training)
    model.model.bn.train(not training)
    before = modes(model)
    assert unwrapped(model).training == training
    assert modes(model) == before


@pytest.mark.parametrize("left_out", [None, *PARTS])
def test_any_other_network_is_returned_as_it_is(left_out):
    model = nn.Module()
    for name in PARTS:
        if name != left_out:
            setattr(model, name, nn.Identity())
    assert (unwrapped(model) is model) == (left_out is not None)
    own = build_model("mlp", SHAPE, 4, [0.5] * 3, [0.2] * 3)
    assert unwrapped(own) is own


# its layers


@pytest.mark.parametrize("kind", [Latent, Looking])
def test_layers_are_those_of_the_network_inside(kind):
    model = wrapped(network(kind))
    graph, own = trace(model, SHAPE), trace(network(kind), SHAPE)
    assert list(graph.layers) == [f"model.{name}" for name in own.layers]
    assert list(graph.layers) == ["model.conv", "model.bn", "model.act", "model.fc"]
    if graph.how == "traced":  # hooks see neither sums nor their absence
        assert graph.select("blocks") == ["model.act"]
    assert graph.classes == own.classes == 4
    assert graph.table()["parameters"].tolist() == own.table()["parameters"].tolist()


@pytest.mark.matrix("Looking")
@pytest.mark.parametrize("kind", [Latent, Looking])
def test_the_normalizer_is_no_layer(kind):
    graph = trace(wrapped(network(kind)), SHAPE)
    assert not any("normalizer" in name for name in graph.layers)
    assert any("normalizer" in name for name in graph.values)
    message = "unknown layer 'normaliser'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        graph.select("normaliser")


@pytest.mark.parametrize("kind", [Latent, Looking])
def test_values_are_those_of_the_network_inside_for_normalised_images(kind):
    model = wrapped(network(kind))
    own = network(kind)
    values = capture(model, pixels(), "all")
    expected = capture(own, normalized(pixels()), "all")
    for name, value in expected.items():
        torch.testing.assert_close(values[f"model.{name}"], value)
    assert len(values) == len(expected)
    with torch.no_grad():
        (_, latent), _ = model(pixels(), with_latent=True)
    for each in (model, trace(model, SHAPE)):
        torch.testing.assert_close(penultimate(each, pixels()), latent)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", [Latent, Looking])
def test_a_wrapped_network_is_cut_like_any_other(kind):
    model = wrapped(network(kind))
    graph = trace(model, SHAPE)
    with torch.no_grad():
        value = graph.prefix("model.bn")(pixels())
        suffix = graph.suffix("model.bn")
        torch.testing.assert_close(suffix.rest(value, *suffix.context(pixels())), model(pixels())[0])


def test_a_network_of_robustness():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = import_robustness("cifar_models").ResNet(
            import_robustness("cifar_models.resnet").BasicBlock, [1, 1, 1, 1], num_classes=10, wm=1 / 16
        )
    model, images = wrapped(randomized(inner)), pixels(3, (3, 32, 32))
    graph = trace(model, (3, 32, 32))
    assert "model.layer4.0.add" in graph.layers
    assert graph.classes == 10
    values = capture(model, images, ["model.layer4.0.conv2", "model.linear"])
    hooked = {}
    model.model.layer4[0].conv2.register_forward_hook(lambda *call: hooked.update(conv2=call[2].clone()))
    with torch.no_grad():
        (logits, latent), _ = model(images, with_latent=True)
    torch.testing.assert_close(values["model.layer4.0.conv2"], hooked["conv2"])
    torch.testing.assert_close(values["model.linear"], logits)
    torch.testing.assert_close(penultimate(model, images), latent)


# inverted


@pytest.mark.matrix
@pytest.mark.parametrize("kind", [Latent, Looking])
@pytest.mark.parametrize("layer", ["penultimate", "bn"])
def test_inverting_through_the_wrapper_is_inverting_through_the_network(kind, layer):
    model = wrapped(network(kind))

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network(kind)

        def forward(self, images):
            return self.inner(normalized(images))

    names = {"penultimate": ("penultimate", "penultimate"), "bn": ("model.bn", "inner.bn")}[layer]
    options = {"iterations": 5, "tolerance": 0.0, "progress": False}
    found, graph, expected = (
        invert(each, pixels(), pixels(seed=1), name, **options)
        for each, name in (
            (model, names[0]),
            (trace(model, SHAPE), names[0]),
            (Bare().eval(), names[1]),
        )
    )
    torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-5)
    assert torch.equal(graph.images, found.images)
    assert (found.images - pixels()).abs().max() > 0.03
