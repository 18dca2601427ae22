"""Variants of architectures, as `NAME+VARIANT`: the same weights compute something else.

Strides, pooling, activations, the source of a shortcut and the eps of a BatchNorm are not in the keys and
shapes of a state dict. What differs from an architecture's usual way is part of its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from repsim.models.pooling import Standardize, pool_where_it_halves, prepared
from repsim.models.repvgg import halve_at_once
from repsim.models.residual import (
    CommonResNet,
    PaddedShortcut,
    PreActivationBlock,
    ResNet,
    UnitFeatures,
    UnitWeights,
)
from repsim.support import messages
from repsim.support.compat import torchvision

Change = Callable[[nn.Module], bool]


@dataclass(frozen=True)
class Variant:
    """One way to depart from an architecture.

    Attributes
    ----------
    said
        What it is, as a note says it.
    change
        Changes a network in place; False where there is nothing to change.
    """

    said: str
    change: Change


def split_variants(name: str) -> tuple[str, tuple[str, ...]]:
    """Split a name: `resnet18+max_pooling+silu` is `resnet18` and its variants."""
    base, *variants = re.split(r"\+(?![^(]*\))", name)  # not within the arguments of somebody's own class
    return base, tuple(variants)


def vary(network: nn.Module, name: str) -> nn.Module:
    """Change a network as the variants in its name say.

    Raises
    ------
    ValueError
        There is no such variant, or nothing in the network that it could change.
    """
    base, variants = split_variants(name)
    for variant in variants:
        if variant not in VARIANTS:
            raise ValueError(messages.unknown("variant", variant, VARIANTS))
        if not VARIANTS[variant].change(network):
            raise ValueError(f"{base} has no variant {variant}: there is nothing in it to change.")
    return network


def alternatives(name: str) -> Iterator[str]:
    """Names of the field's other networks that have the weights of this one, but compute something else."""
    base, _ = split_variants(name)
    bare = base.rpartition(":")[2]
    open_ = next((each for pattern, each in FIELD.items() if re.fullmatch(pattern, base)), None)
    if open_ is None:
        open_ = next((each for pattern, each in FIELD.items() if re.fullmatch(pattern, bare)), ())
    for text in ("", *open_):
        if (other := base + "".join(f"+{each}" for each in text.split("+") if each)) != name:
            yield other


def said_of(name: str) -> str:
    """Say in words what tells a variant from its architecture."""
    _, variants = split_variants(name)
    return " and ".join(VARIANTS[each].said for each in variants) or "as usual"


def _activation(make: Callable[[], nn.Module]) -> Change:
    """Every ReLU becomes another function; not of networks that call a function rather than a module."""

    def change(network: nn.Module) -> bool:
        if type(network).__module__ == "robustness.cifar_models.resnet":  # it calls functions
            network.__dict__ = CommonResNet(network).__dict__
            network.__class__ = CommonResNet
        found = [
            (module, name)
            for module in network.modules()
            for name, child in module.named_children()
            if type(child) is nn.ReLU
        ]
        for module, name in found:
            setattr(module, name, make())
        return bool(found)

    return change


def _raw_shortcut(network: nn.Module) -> bool:
    blocks = [each for each in network.modules() if isinstance(each, PreActivationBlock)]
    for block in blocks:
        block.activates_shortcut = False
    return any(block.shortcut is not None for block in blocks)


def _eps(value: float) -> Change:
    def change(network: nn.Module) -> bool:
        norms = [each for each in network.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.eps = value
        return bool(norms)

    return change


def _max_pooling(network: nn.Module) -> bool:
    """Put 3 × 3 pooling of stride 2 behind the stem of torchvision's ResNets and DenseNets."""
    if isinstance(getattr(network, "maxpool", None), nn.Identity):
        network.maxpool = nn.MaxPool2d(3, 2, 1)
        return True
    features = getattr(network, "features", None)
    if isinstance(getattr(features, "pool0", None), nn.Identity):
        features.pool0 = nn.MaxPool2d(3, 2, 1)
        return True
    return False


def _no_max_pooling(network: nn.Module) -> bool:
    """Take the pooling behind the stem of torchvision's ResNets and DenseNets out."""
    owner = getattr(network, "features", network)
    name = "pool0" if hasattr(owner, "pool0") else "maxpool"
    if not isinstance(getattr(owner, name, None), nn.MaxPool2d):
        return False
    setattr(owner, name, nn.Identity())
    return True


def _stem_stride(stride: int) -> Change:
    def change(network: nn.Module) -> bool:
        stem = next((each for each in network.modules() if isinstance(each, nn.Conv2d)), None)
        if stem is None or stem.stride == (stride, stride):
            return False
        stem.stride = (stride, stride)
        return True

    return change


def _first_stride(network: nn.Module) -> bool:
    """Bottlenecks halve in their first convolution, as He et al. had it; torchvision's in their second."""
    halving = [
        each
        for each in network.modules()
        if hasattr(each, "conv3") and hasattr(each, "conv2") and each.conv2.stride != (1, 1)
    ]
    for block in halving:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return bool(halving)


def _transform_input(network: nn.Module) -> bool:
    """GoogLeNet and Inception normalise once more, as torchvision's published weights want it."""
    if not hasattr(network, "transform_input"):
        return False
    network.transform_input = True
    return True


def _cifar_strides(network: nn.Module) -> bool:
    """torchvision's MobileNetV2 halves in its stem and at 24 channels; here in neither."""
    features = getattr(network, "features", None)
    if not isinstance(network, torchvision.models.MobileNetV2) or features[0][0].stride == (1, 1):
        return False
    features[0][0].stride = features[2].conv[1][0].stride = (1, 1)
    return True


def _patches_of_4(network: nn.Module) -> bool:
    """timm's XCiT for patches of 16 halves in four convolutions; for CIFAR the first two of them do not."""
    embedding = getattr(network, "patch_embed", None)
    stem = getattr(embedding, "proj", None)
    if getattr(embedding, "patch_size", None) != 16 or not isinstance(stem, nn.Sequential) or len(stem) != 7:
        return False
    stem[0][0].stride = stem[2][0].stride = (1, 1)
    embedding.patch_size = 4
    return True


def _no_transition_relu(network: nn.Module) -> bool:
    """DenseNets go from BatchNorm to convolution between their blocks."""
    transitions = [
        each for name, each in network.named_modules() if re.fullmatch(r"features\.transition\d", name)
    ]
    for transition in transitions:
        transition.relu = nn.Identity()
    return bool(transitions)


def _standardized_images(network: nn.Module) -> bool:
    """Put each image at mean 0 and deviation 1 before the first convolution, as TensorFlow does."""
    stem = next((each for each in network.modules() if isinstance(each, nn.Conv2d)), None)
    if stem is None:
        return False
    prepared(stem, Standardize())
    return True


def _layer_norm_eps(value: float) -> Change:
    def change(network: nn.Module) -> bool:
        norms = [each for each in network.modules() if isinstance(each, nn.LayerNorm)]
        for norm in norms:
            norm.eps = value
        return bool(norms)

    return change


def _raw_transitions(network: nn.Module) -> bool:
    """Blocks that change the shape, but in the first stage, take x itself, as PyTorch's MixMatch has it."""
    blocks = [
        each
        for name, each in network.named_modules()
        if isinstance(each, PreActivationBlock) and each.shortcut is not None and name[:7] != "layer1."
    ]
    for block in blocks:
        block.activates_shortcut = block.activates_residual = False
    return bool(blocks)


def _same_padding(network: nn.Module) -> bool:
    """Strided convolutions of pre-activation blocks pad as TensorFlow's `SAME`."""
    blocks = [each for each in network.modules() if isinstance(each, PreActivationBlock)]
    return sum(block.pad_at_ends() for block in blocks) > 0


def _second_stride(network: nn.Module) -> bool:
    """Pre-activation blocks halve in their second convolution rather than in their first."""
    blocks = [each for each in network.modules() if isinstance(each, PreActivationBlock)]
    halving = [each for each in blocks if each.conv1.stride != (1, 1)]
    for block in halving:
        block.conv2.stride, block.conv1.stride = block.conv1.stride, (1, 1)
    return bool(halving)


def _zeros_behind(network: nn.Module) -> bool:
    """Shortcuts without weights pad channels at one side only."""
    shortcuts = [each for each in network.modules() if isinstance(each, PaddedShortcut)]
    for shortcut in shortcuts:
        shortcut.put_behind()
    return bool(shortcuts)


def _unit_features(network: nn.Module) -> bool:
    if not isinstance(network, ResNet) or network.embedding is not None:
        return False
    network.embedding = UnitFeatures()
    return True


def _plain_head(network: nn.Module) -> bool:
    """Logits that are products with weights rather than cosines."""
    if not isinstance(network, ResNet) or not isinstance(network.fc, UnitWeights):
        return False
    classes, features = network.fc.weight.shape
    network.embedding, network.fc = None, nn.Linear(features, classes, bias=False)
    return True


VARIANTS: dict[str, Variant] = {
    "silu": Variant("SiLU for ReLU", _activation(nn.SiLU)),
    "gelu": Variant("GELU for ReLU", _activation(nn.GELU)),
    "softplus": Variant("Softplus for ReLU", _activation(nn.Softplus)),
    "leaky_relu": Variant("LeakyReLU (0.01) for ReLU", _activation(nn.LeakyReLU)),
    "leaky_relu_0.1": Variant("LeakyReLU (0.1) for ReLU", _activation(lambda: nn.LeakyReLU(0.1))),
    "elu": Variant("ELU for ReLU", _activation(nn.ELU)),
    "raw_shortcut": Variant("shortcuts of x, not of relu(bn(x))", _raw_shortcut),
    "bn_eps_1e-3": Variant("BatchNorms of eps 0.001", _eps(1e-3)),
    "max_pooling": Variant("max pooling behind the stem", _max_pooling),
    "no_max_pooling": Variant("no max pooling behind the stem", _no_max_pooling),
    "stem_stride_1": Variant("a stem of stride 1", _stem_stride(1)),
    "stem_stride_2": Variant("a stem of stride 2", _stem_stride(2)),
    "first_stride": Variant("bottlenecks that halve in their first convolution", _first_stride),
    "transform_input": Variant("images normalised once more inside", _transform_input),
    "average_pooling": Variant(
        "average pooling where it halves", lambda network: pool_where_it_halves(network, blur=False)
    ),
    "blur_pooling": Variant("blur where it halves", lambda network: pool_where_it_halves(network, blur=True)),
    "cifar_strides": Variant("strides of 1 in the stem and at its first halving", _cifar_strides),
    "imagenet_strides": Variant("a stem and a first stage of stride 2", halve_at_once),
    "patches_of_4": Variant("patches of 4 × 4 rather than of 16 × 16 pixels", _patches_of_4),
    "no_transition_relu": Variant("no ReLU between dense blocks", _no_transition_relu),
    "standardized_images": Variant("each image at mean 0 and deviation 1", _standardized_images),
    "ln_eps_1e-12": Variant("LayerNorms of eps 1e-12", _layer_norm_eps(1e-12)),
    "ln_eps_1e-5": Variant("LayerNorms of eps 1e-5", _layer_norm_eps(1e-5)),
    "selu": Variant("SELU for ReLU", _activation(nn.SELU)),
    "celu_1.2": Variant("CELU (1.2) for ReLU", _activation(lambda: nn.CELU(1.2))),
    "tanh": Variant("tanh for ReLU", _activation(nn.Tanh)),
    "raw_transitions": Variant("blocks of x, not of relu(bn(x)), where later stages begin", _raw_transitions),
    "second_stride": Variant("blocks that halve in their second convolution", _second_stride),
    "same_padding": Variant("padding on the right and below where a convolution has a stride", _same_padding),
    "zeros_behind": Variant("shortcuts with all zeros behind the channels", _zeros_behind),
    "unit_features": Variant("features of length 1 before the last layer", _unit_features),
    "plain_head": Variant("a last layer without bias rather than cosines", _plain_head),
}

ACTIVATIONS = ("leaky_relu", "leaky_relu_0.1", "silu", "gelu", "softplus")
SMALL_STEM = ("max_pooling", "stem_stride_2", "stem_stride_2+max_pooling")
LARGE_STEM = (
    *("no_max_pooling", "stem_stride_1+no_max_pooling", "stem_stride_1"),
    *("blur_pooling", "average_pooling"),
)
# What others train by these names and keys (without a package's prefix), the likeliest first: each text is
# one network, of one variant or of several.
FIELD: dict[str, tuple[str, ...]] = {
    r"preactresnet(50|101|152)_bias(_\w+)?": ("raw_shortcut+first_stride", "raw_shortcut"),
    r"preactresnet\d+_bias(_\w+)?": ("raw_shortcut",),
    r"wrn_\d+_\d+_bias": (
        "raw_shortcut",
        "raw_shortcut+second_stride",
        "leaky_relu_0.1+bn_eps_1e-3+raw_transitions",
    ),
    r"(preactresnet\d+|wrn_\d+_\d+)_he(_\w+)?": ("plain_head", "softplus", "gelu", "leaky_relu_0.1", "elu"),
    r"preactresnet\d+(_\w+)?": (
        *("raw_shortcut", *ACTIVATIONS),
        *("elu", "unit_features", "selu", "celu_1.2", "tanh"),
    ),
    r"wrn_\d+_\d+": (
        *ACTIVATIONS,
        "raw_shortcut",
        "leaky_relu_0.1+raw_transitions",
        "leaky_relu_0.1+bn_eps_1e-3+raw_transitions",
        "leaky_relu_0.1+bn_eps_1e-3",
        "silu+same_padding",
        "same_padding",
        "elu",
        "standardized_images",
    ),
    r"dm_preactresnet\d+(_w\d+)?": ("silu",),
    r"resnet\d+_w\d+(_bottleneck)?": ACTIVATIONS,
    r"preresnet\d+_w\d+_bottleneck": ("raw_shortcut", *ACTIVATIONS),
    r"resnet\d+_w\d+_option_a": ("zeros_behind", *ACTIVATIONS),
    r"robustness:cifar/resnet\d+": ACTIVATIONS,
    # others
    r"(torchvision|timm):resnet(18|34)": (*LARGE_STEM, "leaky_relu", "bn_eps_1e-3"),
    r"(torchvision|timm):(resnet(50|101|152)|resnext\w+|wide_resnet\w+)": (
        "first_stride",
        *LARGE_STEM,
        "leaky_relu",
        "bn_eps_1e-3",
    ),
    r"(torchvision|timm):densenet\d+": ("no_max_pooling", "stem_stride_1+no_max_pooling"),
    r"resnet(18|34)": (*SMALL_STEM, *ACTIVATIONS, "bn_eps_1e-3"),
    r"resnet(50|101|152)|resnext\w+|wide_resnet\w+": (
        *SMALL_STEM,
        "first_stride",
        *ACTIVATIONS,
        "bn_eps_1e-3",
    ),
    r"densenet\d+": ("max_pooling",),
    r"densenet\d+_conv_stem": ("no_transition_relu",),
    r"mobilenet_v2(_x\d+(_\d+)?)?": ("cifar_strides", "stem_stride_1"),
    r"shufflenet_v2_x\d_\d": ("stem_stride_1+no_max_pooling", "stem_stride_1"),
    r"(mobilenet_v3_|efficientnet_|mnasnet|regnet_)\w+": ("stem_stride_1",),
    r"repvgg_(a2|b[123])": ("imagenet_strides",),
    r"googlenet|inception_v3": ("transform_input",),
    r"xcit_\w+_p16_\w+": ("patches_of_4",),
    r"vit_[blh]_\d+": ("ln_eps_1e-12", "ln_eps_1e-5"),
}
