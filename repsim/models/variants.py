"""Variants of architectures, as `NAME+VARIANT`: the same weights compute something else.

Strides, pooling, activations, the source of a shortcut and the eps of a BatchNorm are not in the keys and
shapes of a state dict. What differs from an architecture's usual way is part of its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from repsim.models.residual import PreActivationBlock
from repsim.support import messages

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
}

ACTIVATIONS = ("leaky_relu", "leaky_relu_0.1", "silu", "gelu", "softplus")
# What others train by these names and keys (without a package's prefix), the likeliest first: each text is
# one network, of one variant or of several.
FIELD: dict[str, tuple[str, ...]] = {
    r"preactresnet\d+(_\w+)?": ("raw_shortcut", *ACTIVATIONS),
    r"wrn_\d+_\d+": (*ACTIVATIONS, "raw_shortcut", "leaky_relu_0.1+bn_eps_1e-3"),
    r"resnet20_w\d+": ACTIVATIONS,
}
