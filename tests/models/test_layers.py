"""Normalisation inside any network, and in-place activations switched off."""

import copy
import re

import pytest
import torch
from torch import nn

from repsim.models import ARCHITECTURES, build_model
from repsim.models.layers import Normalize, with_normalization, without_inplace

SMALL = ["resnet_tiny", "resnet_tiny_deep", "wrn_tiny", "vgg_tiny", "mlp", "vit_tiny", "wrn_10_1"]
MEAN, STD = [0.1, 0.5, 0.7], [0.2, 0.3, 0.9]


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def build(name, mean=MEAN, std=STD):
    model = build_model(name, (3, 16, 16), 10, mean, std).eval()
    with torch.no_grad():
        for weight in model.parameters():  # vit_tiny's head begins at zero, which would hide everything
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return model


def test_normalize():
    pixels = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3).expand(2, 2, 1, 3)
    normalized = Normalize([0.5, 0.0], [0.25, 2.0])(pixels)
    assert normalized[1, 0, 0].tolist() == [-2, 0, 2]
    assert normalized[1, 1, 0].tolist() == [0, 0.25, 0.5]


@pytest.mark.parametrize("name", SMALL)
def test_normalization_comes_first(name, images):
    by_hand = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    inside, neutral = build(name), build(name, [0.0] * 3, [1.0] * 3)
    torch.testing.assert_close(inside(images), neutral(by_hand), rtol=0, atol=0)
    assert not torch.allclose(inside(images), neutral(images))


def test_normalization_of_any_network_keeps_its_class_its_keys_and_its_buffers():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten())
    keys = list(network.state_dict())
    model = with_normalization(network, [0.5, 0.5], [0.1, 0.2])
    assert model is network
    assert isinstance(model, nn.Sequential)
    assert type(model).__name__ == "Sequential"
    assert set(model.state_dict()) == {*keys, "normalize.mean", "normalize.std"}
    assert not any(name.startswith("normalize") for name, _ in model.named_parameters())


def test_two_networks_of_one_class_keep_their_own_normalization(images):
    one, other = build("mlp"), build("mlp", [0.0] * 3, [1.0] * 3)
    assert one.normalize.mean.flatten().tolist() == pytest.approx(MEAN)
    assert other.normalize.mean.flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", SMALL)
def test_a_deep_copy_is_independent(name, images):
    model = build(name)
    logits = model(images)
    twin = copy.deepcopy(model)
    assert type(twin) is type(model)
    torch.testing.assert_close(twin(images), logits, rtol=0, atol=0)
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()
    torch.testing.assert_close(model(images), logits, rtol=0, atol=0)
    shared = {id(module) for module in model.modules()} & {id(module) for module in twin.modules()}
    assert not shared


def test_without_inplace_reaches_nested_modules():
    network = nn.Sequential(
        nn.ReLU(inplace=True), nn.Sequential(nn.Dropout(inplace=True), nn.SiLU(inplace=True))
    )
    assert without_inplace(network) is network
    assert not any(getattr(module, "inplace", False) for module in network.modules())


@pytest.mark.matrix("resnet18", "vgg11_bn", "mobilenet_v2", "vit_tiny")
@pytest.mark.parametrize(
    "name",
    [
        *(name for name, known in ARCHITECTURES.items() if re.fullmatch(known.pattern, name)),
        *("resnet20_w1", "wrn_16_2", "mobilenet_v2"),
        *("torchvision:vgg11", "robustness:imagenet/resnet18"),
    ],
)
def test_no_module_works_in_place(name):
    with torch.device("meta"):
        model = build_model(name, (3, 32, 32), 10, MEAN, STD)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_a_captured_batchnorm_is_not_its_relu(images):
    """The reference code's hooks saw torchvision's in-place ReLU overwrite its BatchNorm's output."""
    model = build_model("resnet18", (3, 16, 16), 10, MEAN, STD).eval()
    captured = {}
    for name in ("bn1", "relu"):
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: captured.setdefault(name, output)
        )
    with torch.no_grad():
        model(images)
    assert captured["bn1"].min() < 0 <= captured["relu"].min()


def test_a_sequence_of_modules_is_normalised_first_and_only_then():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    expected = network((torch.ones(2, 3, 2, 2) - 0.5) / 0.25)
    normalized = with_normalization(network, [0.5] * 3, [0.25] * 3)
    assert torch.equal(normalized(torch.ones(2, 3, 2, 2)), expected)
    assert set(normalized.state_dict()) == {"normalize.mean", "normalize.std", "1.weight", "1.bias"}
