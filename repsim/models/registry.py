"""The names of architectures, and `build_model`, which makes a network from one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from repsim.models import libraries, own
from repsim.models.dla import DLA
from repsim.models.layers import with_normalization, without_inplace
from repsim.models.mobilenet import BiasedMobileNetV2, CifarMobileNetV2
from repsim.models.repvgg import SIZES, RepVGG
from repsim.models.residual import (
    cifar_bottleneck_resnet,
    cifar_resnet,
    on_hypersphere,
    padded_preact_resnet,
    preact_resnet,
    squeezed_preact_resnet,
    wide_resnet,
)
from repsim.models.small import (
    MLP,
    VGG,
    CifarCNN,
    LeNet,
    MnistNet,
    SmallCNN,
    StridedMnistNet,
    Tiny10,
    vision_transformer,
)
from repsim.models.variants import VARIANTS, split_variants, vary
from repsim.support import messages
from repsim.support.compat import torchvision
from repsim.support.devices import seeded


@dataclass(frozen=True)
class Architecture:
    """A family of networks, and how to make one.

    Attributes
    ----------
    name
        As users type it, with capitals where a number stands: `wrn_D_K`.
    pattern
        What such a name matches; its groups are the numbers.
    build
        Called with the match, the image shape (channels, height, width) and the number of classes.
    """

    name: str
    pattern: str
    build: Callable[[re.Match, tuple[int, int, int], int], nn.Module]


ARCHITECTURES: dict[str, Architecture] = {}


def _register(*names: str, pattern: str | None = None) -> Callable:
    def keep(build: Callable) -> Callable:
        for name in names:
            ARCHITECTURES[name] = Architecture(name, pattern or re.escape(name), build)
        return build

    return keep


def build_model(
    name: str,
    image_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
) -> nn.Module:
    """Build a freshly initialised network that takes images in [0, 1] and gives logits.

    Parameters
    ----------
    name
        One of `ARCHITECTURES`, or a classifier of torchvision: by its own name where none of ours has it, or
        as `torchvision:resnet18`. Also `robustness:cifar/resnet18` and `robustness:imagenet/resnet50`,
        `timm:NAME` and `robustbench:NAME`, as these packages build them; or a class of one's own,
        `mymodule:Net(width=4)` (see `repsim.models.own`). Behind any of them `+VARIANT`, once or more often:
        one of `VARIANTS`, such as `wrn_28_10+silu`.
    image_shape
        Channels, height, width.
    mean, std
        Per channel, for the normalisation that is the network's first layer.
    seed
        Of the initial weights. The caller's random state is left alone.

    Raises
    ------
    ValueError
        The name is unknown, its numbers fit no such network, or the images don't fit it.
    """
    if len(mean) != image_shape[0] or len(std) != image_shape[0]:
        raise ValueError(f"mean and std need one value per channel ({image_shape[0]}), got {mean} and {std}.")
    if theirs_own := own.find_own(split_variants(name)[0]):
        theirs_own.target()  # imported before weights are drawn: a module may set seeds
    with seeded(seed, torch.get_default_device()):
        network = vary(_build(split_variants(name)[0], tuple(image_shape), num_classes), name)
    return without_inplace(with_normalization(network, mean, std))


def is_architecture(name: str) -> bool:
    """Whether `build_model` knows the name; of other packages' networks, whether the package is known.

    Classes of one's own have no such name: what a file says of itself must not have a module imported.
    """
    name, variants = split_variants(name)
    if not set(variants) <= set(VARIANTS):
        return False
    ours = any(re.fullmatch(architecture.pattern, name) for architecture in ARCHITECTURES.values())
    if name.startswith("torchvision:"):
        return name.removeprefix("torchvision:") in libraries.torchvision_names()
    return ours or name in libraries.torchvision_names() or libraries.split_library(name) is not None


def _build(name: str, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    for architecture in ARCHITECTURES.values():
        if match := re.fullmatch(architecture.pattern, name):
            return architecture.build(match, image_shape, num_classes)
    if found := libraries.split_library(name):
        library, theirs = found
        return libraries.LIBRARIES[library](theirs, image_shape, num_classes)
    if theirs_own := own.find_own(name):
        return theirs_own.build(num_classes)
    known = libraries.torchvision_names()
    if name not in known:
        raise ValueError(messages.unknown("model", name, [*ARCHITECTURES, *known]))
    return libraries.torchvision_network(name, image_shape, num_classes)


@_register("resnet_tiny", pattern=r"resnet_tiny(?:_d(?P<depth>\d+))?(?:_w(?P<width>\d+))?")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """An 8-layer CIFAR ResNet 8 channels wide; `resnet_tiny_d14_w16` changes depth and width."""
    return cifar_resnet(int(match["depth"] or 8), int(match["width"] or 8), shape[0], classes)


@_register("resnet20_wK", pattern=r"resnet20_w(?P<width>\d+)")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The 20-layer CIFAR ResNet, K times as wide as in its paper."""
    return cifar_resnet(20, 16 * int(match["width"]), shape[0], classes)


@_register("resnet_tiny_deep")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A 20-layer CIFAR ResNet 8 channels wide."""
    return cifar_resnet(20, 8, shape[0], classes)


@_register("wrn_tiny")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A 10-layer wide ResNet, 8 channels wide at its first block."""
    return wide_resnet(10, 1, shape[0], classes, base=8)


@_register("vgg_tiny", pattern=r"vgg_tiny(?:_w(?P<width>\d+))?")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A VGG of three stages with 8, 16 and 32 channels; `vgg_tiny_w24` has 24, 48 and 96."""
    width = _width(match, 8)
    return VGG([[times * width] * 2 for times in (1, 2, 4)], shape[0], classes)


@_register("mlp")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A perceptron with three hidden layers of 64 units."""
    return MLP([64, 64, 64], shape[0] * shape[1] * shape[2], classes)


@_register("vit_tiny")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A vision transformer: patches of 4 × 4 pixels, 32 channels, 4 blocks of 4 heads."""
    channels, height, width = shape
    if height != width or height % 4:
        raise ValueError(f"vit_tiny needs square images whose side 4 divides, not {height} × {width}.")
    return vision_transformer(height, 4, 32, 4, 4, channels, classes)


@_register("wrn_D_K", pattern=r"wrn_(?P<depth>\d+)_(?P<factor>\d+)")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The wide ResNet of D layers, K times as wide (Zagoruyko & Komodakis, 2016)."""
    return wide_resnet(int(match["depth"]), int(match["factor"]), shape[0], classes)


@_register("preactresnet18", pattern=r"preactresnet18(?:_w(?P<width>\d+))?")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The 18-layer ResNet with activations before its convolutions; `preactresnet18_w8` begins 8 wide."""
    return preact_resnet(18, shape[0], classes, _width(match, 64))


def _width(match: re.Match, usual: int) -> int:
    width = int(match["width"] or usual)
    if width < 1:
        raise ValueError(f"{match[0]}: a network is at least 1 channel wide.")
    return width


@_register("lenet")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max pooling."""
    return LeNet(shape, classes)


@_register("tiny10")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Eight unpadded convolutions, then the mean (Kornblith et al., 2019)."""
    return Tiny10(shape, classes)


@_register(
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "wide_resnet50_2", "wide_resnet50_4"),
)
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's ResNet with the CIFAR stem: one 3 × 3 convolution, no pooling."""
    options = {"num_classes": classes, "weights": None}
    if match[0] == "wide_resnet50_4":  # torchvision has the one of factor 2 only
        network = torchvision.models.resnet50(width_per_group=4 * 64, **options)
    else:
        network = torchvision.models.get_model(match[0], **options)
    network.conv1 = nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


@_register(*(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")))
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's VGG with the CIFAR head: a linear layer on the 512 averaged channels."""
    network = torchvision.models.get_model(match[0], weights=None, num_classes=classes)
    first = network.features[0]
    network.features[0] = nn.Conv2d(shape[0], first.out_channels, 3, padding=1)
    nn.init.kaiming_normal_(network.features[0].weight, mode="fan_out", nonlinearity="relu")
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(512, classes)
    return network


@_register("densenet121", "densenet161", "densenet169", "densenet201")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's DenseNet with the CIFAR stem: one 3 × 3 convolution, no pooling."""
    network = torchvision.models.get_model(match[0], weights=None, num_classes=classes)
    first = network.features.conv0
    network.features.conv0 = nn.Conv2d(shape[0], first.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(network.features.conv0.weight)
    network.features.pool0 = nn.Identity()
    return network


# residual


@_register("resnetD_wK", pattern=r"resnet(?P<depth>\d+)_w(?P<width>\d+)")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The CIFAR ResNet of D layers (32, 44, 56, 110, …), K times as wide as in its paper."""
    return cifar_resnet(int(match["depth"]), 16 * int(match["width"]), shape[0], classes)


@_register("resnetD_wK_option_a", pattern=r"resnet(?P<depth>\d+)_w(?P<width>\d+)_option_a")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The CIFAR ResNet whose shortcuts have no weights, but stride and pad, as in its paper."""
    return cifar_resnet(int(match["depth"]), 16 * int(match["width"]), shape[0], classes, projects=False)


@_register(
    "resnetD_wK_bottleneck",
    "preresnetD_wK_bottleneck",
    pattern=r"(?P<pre>pre)?resnet(?P<depth>\d+)_w(?P<width>\d+)_bottleneck",
)
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The CIFAR ResNet of bottlenecks, D layers deep (110, 164, …), and the one with activations before."""
    width, before = 16 * int(match["width"]), bool(match["pre"])
    return cifar_bottleneck_resnet(int(match["depth"]), width, shape[0], classes, preactivation=before)


@_register("preactresnetD", pattern=r"preactresnet(?P<depth>18|34|50|101|152)(?:_w(?P<width>\d+))?")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The pre-activation ResNet of 18, 34, 50, 101 or 152 layers with a CIFAR stem."""
    return preact_resnet(int(match["depth"]), shape[0], classes, _width(match, 64))


@_register(
    "preactresnetD_no_final_bn",
    pattern=r"preactresnet(?P<depth>18|34|50|101|152)_no_final_bn(?:_w(?P<width>\d+))?",
)
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The pre-activation ResNet without BatchNorm and ReLU at its end, as kuangliu's pytorch-cifar has it."""
    options = {"activates_end": False}
    return preact_resnet(int(match["depth"]), shape[0], classes, _width(match, 64), **options)


@_register("preactresnetD_bias", pattern=r"preactresnet(?P<depth>18|34|50|101|152)_bias(?:_w(?P<width>\d+))?")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The pre-activation ResNet with biases, and BatchNorm and ReLU at its beginning rather than its end."""
    options = {"bias": True, "activates_stem": True, "activates_end": False}
    return preact_resnet(int(match["depth"]), shape[0], classes, _width(match, 64), **options)


@_register("preactresnetD_he", pattern=r"preactresnet(?P<depth>18|34|50|101|152)_he(?:_w(?P<width>\d+))?")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The pre-activation ResNet whose logits are 15 times cosines (hypersphere embedding)."""
    return on_hypersphere(preact_resnet(int(match["depth"]), shape[0], classes, _width(match, 64)), 15.0)


@_register(
    "dm_preactresnet18", "dm_preactresnet34", pattern=r"dm_preactresnet(?P<depth>18|34)(?:_w(?P<width>\d+))?"
)
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The pre-activation ResNet of Rebuffi et al. (2021), with 3 × 3 shortcuts and TensorFlow's padding."""
    return padded_preact_resnet(int(match["depth"]), shape[0], classes, _width(match, 64))


@_register("wrn_D_K_bias", pattern=r"wrn_(?P<depth>\d+)_(?P<factor>\d+)_bias")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The wide ResNet with biases in its convolutions."""
    return wide_resnet(int(match["depth"]), int(match["factor"]), shape[0], classes, bias=True)


@_register("wrn_D_K_he", pattern=r"wrn_(?P<depth>\d+)_(?P<factor>\d+)_he")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The wide ResNet whose logits are cosines (hypersphere embedding)."""
    return on_hypersphere(wide_resnet(int(match["depth"]), int(match["factor"]), shape[0], classes), 1.0)


@_register("senet18", "senet34", pattern=r"senet(?P<depth>18|34)")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The pre-activation ResNet with squeeze and excitation, as kuangliu's pytorch-cifar has it."""
    return squeezed_preact_resnet(int(match["depth"]), shape[0], classes)


@_register("dla", "dla_simple", pattern=r"dla(?P<simple>_simple)?")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """DLA-34 with a CIFAR stem (Yu et al., 2018); of simpler trees, as kuangliu's pytorch-cifar has both."""
    return DLA(shape[0], classes, simple=bool(match["simple"]))


@_register("mobilenet_v2_cifar")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """MobileNetV2 with ReLU and strides for CIFAR, as kuangliu's pytorch-cifar has it."""
    return CifarMobileNetV2(shape[0], classes)


@_register("nbn_tiny10")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """tiny10 without its BatchNorms."""
    return Tiny10(shape, classes, norm=False)


@_register("small_cnn")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network for MNIST of TRADES: four convolutions, three linear layers."""
    return SmallCNN(shape, classes)


@_register("small_cnn_cifar")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The small network for CIFAR of friendly adversarial training: six convolutions, two linear layers."""
    return CifarCNN(shape, classes)


@_register("mnist_net")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """PyTorch's older MNIST example, which TRADES has, too: two convolutions, two linear layers."""
    return MnistNet(shape, classes)


@_register("mnist_net_strided")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network for MNIST of fast adversarial training: two strided convolutions, two linear layers."""
    return StridedMnistNet(shape, classes)


# others


@_register("mlp_wK", pattern=r"mlp_w(?P<width>\d+)")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A perceptron with three hidden layers of K units."""
    return MLP([_width(match, 64)] * 3, shape[0] * shape[1] * shape[2], classes)


@_register("vggD_hW", "vggD_bn_hW", pattern=r"(?P<base>vgg(?:11|13|16|19)(?:_bn)?)_h(?P<hidden>\d+(?:_\d+)*)")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The VGG of CIFAR with hidden layers between: `vgg16_bn_h4096_4096`, `vgg11_bn_h256_128`."""
    network = _build(match["base"], shape, classes)
    width_in, head = 512, nn.Sequential()
    for width in map(int, match["hidden"].split("_")):
        head.extend([nn.Linear(width_in, width), nn.ReLU(), nn.Dropout()])
        width_in = width
    network.classifier = head.append(nn.Linear(width_in, classes))
    return network


@_register("densenetD_conv_stem", pattern=r"(?P<base>densenet(?:121|161|169|201))_conv_stem")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The DenseNet of CIFAR without BatchNorm and ReLU behind its stem, as in its paper."""
    network = _build(match["base"], shape, classes)
    network.features.norm0, network.features.relu0 = nn.Identity(), nn.Identity()
    return network


@_register("mobilenet_v2_xW", pattern=r"mobilenet_v2_x(?P<width>\d+(?:_\d+)?)")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's MobileNetV2, W times as wide: `mobilenet_v2_x0_5`, `mobilenet_v2_x1_4`."""
    times = float(match["width"].replace("_", "."))
    network = torchvision.models.mobilenet_v2(weights=None, num_classes=classes, width_mult=times)
    first = network.features[0][0]
    if shape[0] != first.in_channels:
        network.features[0][0] = nn.Conv2d(shape[0], first.out_channels, 3, 2, padding=1, bias=False)
        nn.init.kaiming_normal_(network.features[0][0].weight, mode="fan_out")
    return network


@_register("mobilenet_v2_cifar_bias")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A MobileNetV2 for CIFAR whose stem is a 1 × 1 convolution and whose convolutions all have biases."""
    return BiasedMobileNetV2(shape[0], classes)


@_register(*(f"repvgg_{size}" for size in SIZES))
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """RepVGG as it is trained, with the strides of CIFAR: its stem and first stage do not halve."""
    return RepVGG(*SIZES[match[0].rpartition("_")[2]], shape[0], classes)


@_register("cifar_googlenet")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's GoogLeNet whose stem is one 3 × 3 convolution without pooling."""
    network = torchvision.models.googlenet(
        weights=None, num_classes=classes, aux_logits=False, init_weights=True
    )
    network.conv1 = _basic_stem(network.conv1, shape[0])
    for name in ("maxpool1", "conv2", "conv3", "maxpool2"):
        setattr(network, name, nn.Identity())
    network.maxpool3, network.maxpool4 = nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1)
    return network


@_register("cifar_inception_v3")
def _(match: re.Match, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's Inception v3 whose stem is one 3 × 3 convolution without pooling."""
    network = torchvision.models.inception_v3(
        weights=None, num_classes=classes, aux_logits=False, init_weights=True
    )
    network.Conv2d_1a_3x3 = _basic_stem(network.Conv2d_1a_3x3, shape[0])
    for name in ("Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool1", "maxpool2"):
        setattr(network, name, nn.Identity())
    return network


def _basic_stem(theirs: nn.Module, channels: int) -> nn.Module:
    """A convolution to 192 channels, BatchNorm and ReLU, of the class that the network has for them."""
    stem = type(theirs)(channels, 192, kernel_size=3, padding=1)
    nn.init.trunc_normal_(stem.conv.weight, std=0.1, a=-0.2, b=0.2)
    return stem
