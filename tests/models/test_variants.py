"""Variants: each computes something else with the same weights, or refuses where it has nothing to change."""

import re

import pytest
import torch
from toy_networks import randomized

from repsim.models import build_model, is_architecture
from repsim.models.variants import FIELD, VARIANTS, alternatives, said_of, split_variants

RESIDUAL = {
    "wrn_10_2": (
        *("silu", "gelu", "softplus", "elu", "selu", "celu_1.2", "tanh", "leaky_relu", "leaky_relu_0.1"),
        *("raw_shortcut", "raw_transitions", "same_padding", "second_stride", "unit_features", "bn_eps_1e-3"),
    ),
    "preactresnet50_w8": ("first_stride", "raw_shortcut", "unit_features"),
    "preactresnet18_he_w8": ("plain_head", "raw_shortcut", "softplus"),
    "wrn_10_2_bias": ("raw_shortcut+second_stride", "leaky_relu_0.1+bn_eps_1e-3+raw_transitions"),
    "dm_preactresnet18_w8": ("silu",),
    "resnet8_w1_option_a": ("silu", "bn_eps_1e-3", "zeros_behind"),
    "small_cnn_cifar": ("silu",),
    "robustness:cifar/resnet18": ("silu",),
}
# one name for each row of `FIELD`, and more
SAMPLES = [
    *("wrn_10_1", "wrn_10_1_bias", "wrn_10_1_he", "preactresnet18", "preactresnet18_w8", "preactresnet34"),
    *("preactresnet18_bias", "preactresnet50_bias", "preactresnet18_he", "preactresnet101_no_final_bn"),
    *("robustness:cifar/resnet18", "robustness:cifar/resnet50", "resnet8_w1"),
    *("resnet11_w1_bottleneck", "preresnet11_w1_bottleneck"),
    *("dm_preactresnet18", "dm_preactresnet34_w8", "resnet20_w1", "resnet56_w2", "resnet20_w1_option_a"),
    *("torchvision:resnet18", "torchvision:resnext50_32x4d", "resnet34", "wide_resnet50_2", "timm:resnet50"),
    *("torchvision:densenet121", "densenet161", "densenet201_conv_stem", "mobilenet_v2_x0_5"),
    *("shufflenet_v2_x0_5", "efficientnet_b0", "mobilenet_v3_small", "mnasnet0_5"),
    *("repvgg_a2", "googlenet", "inception_v3", "vit_b_16", "timm:xcit_nano_12_p16_224"),
]


def build(name, shape=(3, 16, 16)):
    return build_model(name, shape, 10, [0.5] * 3, [0.25] * 3)


@pytest.mark.matrix("silu-wrn_10_2", "raw_transitions-wrn_10_2", "plain_head-preactresnet18_he_w8")
@pytest.mark.parametrize(
    ("variant", "name"), [(variant, name) for name, variants in RESIDUAL.items() for variant in variants]
)
def test_a_variant_computes_something_else_with_the_same_weights(variant, name):
    shape = (3, 32, 32) if name.startswith("robustness:") else (3, 16, 16)
    usual, varied = randomized(build(name, shape)), build(f"{name}+{variant}", shape).eval()
    varied.load_state_dict(usual.state_dict())
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (varied(images) - usual(images)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("mlp", "raw_shortcut"),
        ("resnet20_w1", "same_padding"),
        ("preactresnet18", "first_stride"),
        ("preactresnet50", "second_stride"),
        ("preactresnet18_he", "unit_features"),
        ("preactresnet18", "plain_head"),
        ("lenet", "bn_eps_1e-3"),
        ("resnet20_w1", "raw_transitions"),
        ("resnet20_w1", "zeros_behind"),
        ("mlp", "blur_pooling"),
        ("mobilenet_v3_small", "cifar_strides"),
        ("repvgg_a0", "imagenet_strides"),
        ("resnet18", "no_max_pooling"),
        ("resnet18", "ln_eps_1e-12"),
        ("mlp", "standardized_images"),
        ("timm:xcit_nano_12_p8_224", "patches_of_4"),
    ],
)
def test_a_variant_refuses_where_it_has_nothing_to_change(name, variant):
    message = f"^{name} has no variant {variant}: there is nothing in it"
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build(f"{name}+{variant}", (3, 32, 32))


def test_an_unknown_variant_is_told_the_nearest():
    with pytest.raises(ValueError, match="unknown variant 'silo'; did you mean 'silu'"):
        build("wrn_10_1+silo")
    assert not is_architecture("wrn_10_1+silo")


def test_variants_of_a_name_are_split_and_said():
    assert split_variants("wrn_28_10+silu+same_padding") == ("wrn_28_10", ("silu", "same_padding"))
    assert said_of("wrn_28_10+silu+raw_shortcut") == ("SiLU for ReLU and shortcuts of x, not of relu(bn(x))")
    assert said_of("wrn_28_10") == "as usual"


@pytest.mark.matrix("wrn_10_1", "preactresnet18_w8")
@pytest.mark.parametrize("name", SAMPLES)
def test_alternatives_of_a_name_have_its_weights(name):
    found = list(alternatives(name))
    assert 0 < len(found) == len({*found, name}) - 1
    with torch.device("meta"):
        usual = build(name, (3, 32, 32))
        for other in found:
            shapes = {key: value.shape for key, value in build(other, (3, 32, 32)).state_dict().items()}
            assert shapes == {key: value.shape for key, value in usual.state_dict().items()}


def test_the_usual_is_an_alternative_of_a_variant():
    assert next(alternatives("dm_preactresnet18+silu")) == "dm_preactresnet18"
    assert "wrn_28_10" in alternatives("wrn_28_10+silu")
    assert "wrn_28_10+silu" not in alternatives("wrn_28_10+silu")


def test_what_the_field_varies_is_known():
    assert {each for row in FIELD.values() for text in row for each in text.split("+")} <= set(VARIANTS)
    bare = [*SAMPLES, *(name.rpartition(":")[2] for name in SAMPLES)]
    assert [pattern for pattern in FIELD if not any(re.fullmatch(pattern, name) for name in bare)] == []
