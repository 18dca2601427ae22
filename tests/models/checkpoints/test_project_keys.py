"""Files as projects of robust training and common CIFAR code write them: one of the names has their logits.

Each network is written once more here, as functions of the weights that it asks a `Pen` for.
"""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from toy_networks import randomized

from repsim.models import build_model
from repsim.models.checkpoints import read_checkpoint
from repsim.support.compat import import_robustness


class Pen:
    """Draws the weights that a network asks for, by the names of its file, and computes with them."""

    def __init__(self):
        self.weights = {}
        self.generator = torch.Generator().manual_seed(0)

    def drawn(self, key, *shape, low=-1.0, high=1.0):
        if key not in self.weights:
            self.weights[key] = torch.empty(shape).uniform_(low, high, generator=self.generator)
        return self.weights[key]

    def linear(self, x, key, classes=10, bias=True):
        limit = (3 / x.shape[1]) ** 0.5
        weight = self.drawn(f"{key}.weight", classes, x.shape[1], low=-limit, high=limit)
        return F.linear(x, weight, self.drawn(f"{key}.bias", classes) if bias else None)

    def conv(self, x, key, channels, size=3, stride=1, bias=False, groups=1, padding=None):
        inputs = x.shape[1] // groups
        limit = (4 / (inputs * size**2)) ** 0.5
        weight = self.drawn(f"{key}.weight", channels, inputs, size, size, low=-limit, high=limit)
        bias = self.drawn(f"{key}.bias", channels) if bias else None
        return F.conv2d(x, weight, bias, stride, size // 2 if padding is None else padding, groups=groups)

    def norm(self, x, key, eps=1e-5):
        channels = x.shape[1]
        weight = self.drawn(f"{key}.weight", channels, low=0.5, high=1.5)
        bias = self.drawn(f"{key}.bias", channels)
        mean = self.drawn(f"{key}.running_mean", channels)
        variance = self.drawn(f"{key}.running_var", channels, low=0.02, high=2.0)
        self.weights[f"{key}.num_batches_tracked"] = torch.tensor(7)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    def conv_norm(self, x, conv, norm, *options, **named):
        return self.norm(self.conv(x, conv, *options, **named), norm)


# the networks


@dataclass(frozen=True)
class Names:
    """What a project calls the parts of a pre-activation network."""

    stem: str = "conv1"
    stem_norm: str = "bn1"
    block: str = "layer{}.{}."
    start: int = 1
    parts: tuple = ("bn1", "conv1", "bn2", "conv2", "bn3", "conv3")
    shortcut: str = "shortcut.0"
    end: str = "bn"
    head: str = "linear"


PLAIN_NAMES = Names()
TRADES = Names(block="block{}.layer.{}.", shortcut="convShortcut", end="bn1", head="fc")
BEARPAW = Names(shortcut="downsample.0", head="fc")
MELIKETOY = Names(end="bn1")
GOWAL = Names(
    *("init_conv", "", "layer.{}.block.{}.", 0, ("batchnorm_0", "conv_0", "batchnorm_1", "conv_1")),
    *("shortcut", "batchnorm", "logits"),
)
REBUFFI = Names(
    *("conv_2d", "", "layer_{}.{}.", 0, ("batchnorm_0", "conv_2d_1", "batchnorm_1", "conv_2d_2")),
    *("shortcut", "batchnorm", "logits"),
)
WEIAICUNZAI = Names(
    "pre.0", "pre.1", "stage{}.{}.", 1, tuple(f"residual.{i}" for i in (0, 2, 3, 5, 6, 8)), "shortcut"
)
WEIAICUNZAI_WIDE = Names("init_conv", "", "conv{}.{}.", 2, tuple(f"residual.{i}" for i in (0, 2, 3, 6)))


def preactivation(
    pen,
    x,
    names=PLAIN_NAMES,
    widths=(8, 16, 32, 64),
    blocks=(2, 2, 2, 2),
    stem=8,
    act=F.relu,
    raw=False,  # the shortcut takes x
    raw_later=False,  # and so does the residual, of the first blocks of later stages
    same=False,  # TensorFlow's padding
    second=False,  # the second convolution has the stride
    bottleneck=None,  # which of its convolutions has the stride
    squeeze=False,
    shortcut_size=1,
    bias=False,
    eps=1e-5,
    stem_norm=False,
    end=True,
    unit=None,  # the length of features
    cosine=False,
):
    def conv(x, key, channels, size=3, stride=1):
        if same and stride == 2 and size == 3:
            return pen.conv(F.pad(x, (0, 1, 0, 1)), key, channels, size, stride, padding=0)
        return pen.conv(x, key, channels, size, stride, bias)

    x = pen.conv(x, names.stem, stem, bias=bias)
    if stem_norm:
        x = act(pen.norm(x, names.stem_norm, eps))
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for index in range(count):
            at = names.block.format(stage + names.start, index)
            norm1, conv1, norm2, conv2, *others = (at + part for part in names.parts)
            stride, out = 2 if stage and index == 0 else 1, width * (4 if bottleneck else 1)
            changes, raw_both = stride > 1 or x.shape[1] != out, raw_later and stage > 0 and index == 0
            active = act(pen.norm(x, norm1, eps))
            inner = x if raw_both else active
            if bottleneck:
                norm3, conv3 = others
                strides = {bottleneck: stride}
                inner = conv(inner, conv1, width, 1, strides.get(1, 1))
                inner = conv(act(pen.norm(inner, norm2, eps)), conv2, width, 3, strides.get(2, 1))
                inner = conv(act(pen.norm(inner, norm3, eps)), conv3, out, 1)
            else:
                inner = conv(inner, conv1, width, stride=1 if second else stride)
                inner = conv(act(pen.norm(inner, norm2, eps)), conv2, width, stride=stride if second else 1)
            if squeeze:
                scale = act(pen.conv(inner.mean((2, 3), keepdim=True), at + "fc1", width // 16, 1, bias=True))
                inner = inner * pen.conv(scale, at + "fc2", width, 1, bias=True).sigmoid()
            if changes:
                source = x if raw or raw_both else active
                x = conv(source, at + names.shortcut, out, shortcut_size, stride)
            x = x + inner
    x = act(pen.norm(x, names.end, eps)) if end else x
    x = x.mean((2, 3))
    if unit:
        x = unit * x / x.norm(dim=1, keepdim=True)
    if cosine:
        pen.linear(x, names.head, bias=False)
        weight = pen.weights[f"{names.head}.weight"]
        return x @ (weight / weight.norm(dim=1, keepdim=True)).T
    return pen.linear(x, names.head)


def wide(factor=1):
    return {"stem": 16, "widths": [16 * factor * times for times in (1, 2, 4)], "blocks": (1, 1, 1)}


def basic_block(pen, x, at, width, stride, act=F.relu, shortcut="shortcut.{}", parts=None, option_a=False):
    conv1, norm1, conv2, norm2 = (at + part for part in parts or ("conv1", "bn1", "conv2", "bn2"))
    inner = act(pen.conv_norm(x, conv1, norm1, width, stride=stride))
    inner = pen.conv_norm(inner, conv2, norm2, width)
    if x.shape[1] == width and stride == 1:
        return act(inner + x)
    if option_a:
        zeros = torch.zeros(len(x), width // 4, *inner.shape[2:])
        kept = F.max_pool2d(x, 1, 2)
        around = [kept, zeros, zeros] if option_a == "behind" else [zeros, kept, zeros]
        return act(inner + torch.cat(around, 1))
    project = [at + shortcut.format(index) for index in (0, 1)]
    return act(inner + pen.conv_norm(x, *project, width, 1, stride))


PARTS = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")


def bottleneck_block(pen, x, at, width, stride, act=F.relu, shortcut="shortcut.{}", parts=None):
    conv1, norm1, conv2, norm2, conv3, norm3 = (at + part for part in parts or PARTS)
    inner = act(pen.conv_norm(x, conv1, norm1, width, 1))
    inner = act(pen.conv_norm(inner, conv2, norm2, width, 3, stride))
    inner = pen.conv_norm(inner, conv3, norm3, 4 * width, 1)
    if x.shape[1] != 4 * width:
        x = pen.conv_norm(x, *(at + shortcut.format(index) for index in (0, 1)), 4 * width, 1, stride)
    return act(inner + x)


def resnet(
    pen,
    x,
    widths=(16, 32, 64),
    blocks=(3, 3, 3),
    block="layer{}.{}.",
    start=1,
    stem=("conv1", "bn1"),
    head="linear",
    act=F.relu,
    kind=basic_block,
    **options,
):
    x = act(pen.conv_norm(x, *stem, widths[0]))
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for index in range(count):
            at, stride = block.format(stage + start, index), 2 if stage and index == 0 else 1
            x = kind(pen, x, at, width, stride, act, **options)
    return pen.linear(x.mean((2, 3)), head)


FOUR = {"widths": (64, 128, 256, 512), "blocks": (2, 2, 2, 2)}
WEIAICUNZAI_RESNET = {
    **{"block": "conv{}_x.{}.", "start": 2, "stem": ("conv1.0", "conv1.1"), "head": "fc"},
    "parts": [f"residual_function.{index}" for index in (0, 1, 3, 4, 6, 7)],
}


def dla(pen, x, simple=False):
    def root(key, *parts):
        return F.relu(pen.conv_norm(torch.cat(parts, 1), f"{key}.conv", f"{key}.bn", parts[0].shape[1], 1))

    def pair(at, x, width, stride, names, part=None):
        part = part or partial(basic_block, pen)
        left = part(x, f"{at}{names[0]}.", width, stride)
        return left, part(left, f"{at}{names[1]}.", width, 1)

    def tree(at, x, width, stride, levels):
        names = ("left_tree", "right_tree") if simple else ("left_node", "right_node")
        if levels == 1:
            return root(f"{at}root", *pair(at, x, width, stride, names))
        if simple:
            inner = lambda x, at, width, stride: tree(at, x, width, stride, 1)  # noqa: E731
            return root(f"{at}root", *pair(at, x, width, stride, names, inner))
        around = basic_block(pen, x, f"{at}prev_root.", width, stride)
        below = tree(f"{at}level_1.", x, width, stride, 1)
        return root(f"{at}root", around, below, *pair(at, below, width, 1, names))

    for name, width in (("base", 16), ("layer1", 16), ("layer2", 32)):
        x = F.relu(pen.conv_norm(x, f"{name}.0", f"{name}.1", width))
    for index, (width, stride, levels) in enumerate(((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 1))):
        x = tree(f"layer{index + 3}.", x, width, stride, levels)
    return pen.linear(x.mean((2, 3)), "linear")


def mobilenet_v2(pen, x):
    x = F.relu(pen.conv_norm(x, "conv1", "bn1", 32))
    strides = [1, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    widths = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    for index, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        at, wide = f"layers.{index}.", x.shape[1] * (6 if index else 1)
        inner = F.relu(pen.conv_norm(x, f"{at}conv1", f"{at}bn1", wide, 1))
        inner = F.relu(pen.conv_norm(inner, f"{at}conv2", f"{at}bn2", wide, 3, stride, groups=wide))
        inner = pen.conv_norm(inner, f"{at}conv3", f"{at}bn3", width, 1)
        if stride == 1 and x.shape[1] != width:
            x = pen.conv_norm(x, f"{at}shortcut.0", f"{at}shortcut.1", width, 1)
        x = inner + x if stride == 1 else inner
    return pen.linear(F.relu(pen.conv_norm(x, "conv2", "bn2", 1280, 1)).mean((2, 3)), "linear")


def small_cnn(pen, x):
    for index, width in enumerate((32, 32, 64, 64), start=1):
        x = F.relu(pen.conv(x, f"feature_extractor.conv{index}", width, bias=True, padding=0))
        x = F.max_pool2d(x, 2) if index % 2 == 0 else x
    x = F.relu(pen.linear(x.flatten(1), "classifier.fc1", 200))
    return pen.linear(F.relu(pen.linear(x, "classifier.fc2", 200)), "classifier.fc3")


def small_cnn_cifar(pen, x):
    for stage, width in enumerate((64, 128, 196), start=1):
        for index in (1, 2):
            x = pen.conv(x, f"block{stage}_conv{index}", width, bias=True)
            x = F.relu(pen.norm(x, f"batchnorm{stage}_{index}"))
        x = F.max_pool2d(x, 2)
    return pen.linear(F.relu(pen.linear(x.flatten(1), "fc1", 256)), "fc2")


def mnist_net(pen, x):
    for index, width in ((1, 10), (2, 20)):
        x = F.max_pool2d(pen.conv(x, f"conv{index}", width, 5, bias=True, padding=0), 2).relu()
    return pen.linear(F.relu(pen.linear(x.flatten(1), "fc1", 50)), "fc2")


def mnist_net_strided(pen, x):
    for index, width in ((0, 16), (2, 32)):
        x = F.relu(pen.conv(x, f"{index}", width, 4, 2, bias=True, padding=1))
    return pen.linear(F.relu(pen.linear(x.flatten(1), "5", 100)), "7")


def nbn_tiny10(pen, x):
    sizes = ((16, 3, 1), (16, 3, 1), (32, 3, 2), (32, 3, 1), (32, 3, 1), (64, 3, 2), (64, 3, 1), (64, 1, 1))
    for index, (width, size, stride) in enumerate(sizes, start=1):
        x = F.relu(pen.conv(x, f"conv{index}", width, size, stride, bias=True, padding=0))
    return pen.linear(x.mean((2, 3)), "fc")


def trades_wide(pen, x):
    logits = preactivation(pen, x, TRADES, **wide())
    for key in [key for key in pen.weights if key.startswith("block1.")]:  # never called
        pen.weights["sub_" + key] = pen.weights[key] + 1
    return logits


# the files

leaky = partial(F.leaky_relu, negative_slope=0.1)
RAW = {"raw": True}
SSL = {**wide(2), "act": leaky, "raw_later": True}
DOWNSAMPLE = {"shortcut": "downsample.{}", "head": "fc"}
PLAIN = "preactresnet18_w8"
GREY, COLOUR, CIFAR = (1, 28, 28), (3, 16, 16), (3, 32, 32)
# project and network, how it computes, what its keys are taken for, and which of the names left open it is
FILES = [
    ("kuangliu PreActResNet18", partial(preactivation, end=False), "preactresnet18_no_final_bn_w8", ""),
    (
        "kuangliu PreActResNet50",
        partial(preactivation, end=False, bottleneck=2, blocks=(3, 4, 6, 3)),
        *("preactresnet50_no_final_bn_w8", ""),
    ),
    ("kuangliu DLA", dla, "dla", ""),
    ("kuangliu SimpleDLA", partial(dla, simple=True), "dla_simple", ""),
    ("kuangliu MobileNetV2", mobilenet_v2, "mobilenet_v2_cifar", ""),
    (
        "kuangliu SENet18",
        partial(preactivation, squeeze=True, stem=64, widths=FOUR["widths"], stem_norm=True, end=False),
        *("senet18", ""),
    ),
    ("kuangliu ResNet18", partial(resnet, **FOUR), "robustness:cifar/resnet18", ""),
    ("common ResNet18 SiLU", partial(resnet, **FOUR, act=F.silu), "robustness:cifar/resnet18", "silu"),
    (
        "common ResNet50 GELU",
        partial(resnet, **{**FOUR, "blocks": (3, 4, 6, 3)}, act=F.gelu, kind=bottleneck_block),
        *("robustness:cifar/resnet50", "gelu"),
    ),
    ("TRADES WideResNet", trades_wide, "wrn_10_1", ""),
    ("TRADES SmallCNN", small_cnn, "small_cnn", ""),
    ("TRADES Net", mnist_net, "mnist_net", ""),
    ("friendly training SmallCNN", small_cnn_cifar, "small_cnn_cifar", ""),
    ("robust_overfitting PreActResNet18", preactivation, PLAIN, ""),
    ("robust_overfitting WideResNet", partial(preactivation, names=TRADES, **wide()), "wrn_10_1", ""),
    ("fast_adversarial PreActResNet18", partial(preactivation, raw=True), PLAIN, "raw_shortcut"),
    ("fast_adversarial mnist_net", mnist_net_strided, "mnist_net_strided", ""),
    ("Bag-of-Tricks Softplus", partial(preactivation, act=F.softplus), PLAIN, "softplus"),
    ("Bag-of-Tricks GELU", partial(preactivation, act=F.gelu), PLAIN, "gelu"),
    ("Bag-of-Tricks LeakyReLU", partial(preactivation, act=leaky), PLAIN, "leaky_relu_0.1"),
    ("Bag-of-Tricks ELU", partial(preactivation, act=F.elu), PLAIN, "elu"),
    ("Bag-of-Tricks SELU", partial(preactivation, act=F.selu), PLAIN, "selu"),
    ("Bag-of-Tricks CELU", partial(preactivation, act=partial(F.celu, alpha=1.2)), PLAIN, "celu_1.2"),
    ("Bag-of-Tricks tanh", partial(preactivation, act=torch.tanh), PLAIN, "tanh"),
    ("Bag-of-Tricks normalize_only_FN", partial(preactivation, unit=1), PLAIN, "unit_features"),
    ("Bag-of-Tricks normalize", partial(preactivation, unit=15, cosine=True), "preactresnet18_he_w8", ""),
    (
        "Bag-of-Tricks WideResNet GELU",
        partial(preactivation, names=TRADES, **wide(), act=F.gelu),
        "wrn_10_1",
        "gelu",
    ),
    (
        "Bag-of-Tricks WideResNet normalize",
        partial(preactivation, names=TRADES, **wide(), unit=1, cosine=True),
        *("wrn_10_1_he", ""),
    ),
    (
        "DM-Improves-AT WideResNet SiLU",
        partial(preactivation, names=GOWAL, **wide(2), act=F.silu, same=True),
        *("wrn_10_2+silu+same_padding", ""),
    ),
    (
        "DM-Improves-AT WideResNet ReLU",
        partial(preactivation, names=GOWAL, **wide(2), same=True),
        *("wrn_10_2+silu+same_padding", "same_padding"),
    ),
    (
        "DM-Improves-AT PreActResNet18 SiLU",
        partial(preactivation, names=REBUFFI, act=F.silu, same=True, shortcut_size=3, **RAW),
        *("dm_preactresnet18_w8+silu", ""),
    ),
    (
        "DM-Improves-AT PreActResNet18 ReLU",
        partial(preactivation, names=REBUFFI, same=True, shortcut_size=3, **RAW),
        *("dm_preactresnet18_w8+silu", "-"),
    ),
    (
        "DM-Improves-AT PreActResNet34 SiLU",
        partial(
            preactivation, names=REBUFFI, blocks=(3, 4, 6, 3), act=F.silu, same=True, shortcut_size=3, **RAW
        ),
        *("dm_preactresnet34_w8+silu", ""),
    ),
    ("akamaster resnet20, option A", partial(resnet, option_a=True), "resnet20_w1_option_a", ""),
    (
        "option A as Facebook's",
        partial(resnet, option_a="behind"),
        *("resnet20_w1_option_a", "zeros_behind"),
    ),
    ("akamaster resnet20, option B", resnet, "resnet20_w1", ""),
    (
        "akamaster resnet56, option A",
        partial(resnet, blocks=(9, 9, 9), option_a=True),
        "resnet56_w1_option_a",
        "",
    ),
    ("chenyaofo resnet20", partial(resnet, **DOWNSAMPLE), "resnet20_w1", ""),
    ("chenyaofo resnet56", partial(resnet, blocks=(9, 9, 9), **DOWNSAMPLE), "resnet56_w1", ""),
    ("robust-stitching ResNet20", partial(resnet, widths=(48, 96, 192), **DOWNSAMPLE), "resnet20_w3", ""),
    ("robust-stitching NbnTiny10", nbn_tiny10, "nbn_tiny10", ""),
    ("bearpaw resnet32", partial(resnet, blocks=(5, 5, 5), **DOWNSAMPLE), "resnet32_w1", ""),
    (
        "bearpaw preresnet14",
        partial(preactivation, names=BEARPAW, **{**wide(), "blocks": (2, 2, 2)}, raw=True),
        *("wrn_16_1+raw_shortcut", ""),
    ),
    (
        "bearpaw resnet11 of bottlenecks",
        partial(resnet, blocks=(1, 1, 1), kind=bottleneck_block, **DOWNSAMPLE),
        *("resnet11_w1_bottleneck", ""),
    ),
    (
        "bearpaw preresnet20 of bottlenecks",
        partial(preactivation, names=BEARPAW, **{**wide(), "blocks": (2, 2, 2)}, raw=True, bottleneck=2),
        *("preresnet20_w1_bottleneck+raw_shortcut", ""),
    ),
    (
        "weiaicunzai resnet18",
        partial(resnet, **FOUR, **{**WEIAICUNZAI_RESNET, "parts": WEIAICUNZAI_RESNET["parts"][:4]}),
        *("resnet18", ""),
    ),
    (
        "weiaicunzai resnet50",
        partial(
            resnet, widths=FOUR["widths"], blocks=(3, 4, 6, 3), kind=bottleneck_block, **WEIAICUNZAI_RESNET
        ),
        *("resnet50", ""),
    ),
    (
        "weiaicunzai preactresnet18",
        partial(preactivation, names=WEIAICUNZAI, stem_norm=True, end=False, bias=True, **RAW),
        *("preactresnet18_bias_w8+raw_shortcut", ""),
    ),
    (
        "weiaicunzai preactresnet50",
        partial(
            partial(preactivation, names=WEIAICUNZAI, blocks=(3, 4, 6, 3), bottleneck=1),
            **{"stem_norm": True, "end": False, "bias": True, "raw": True},
        ),
        *("preactresnet50_bias_w8+raw_shortcut+first_stride", ""),
    ),
    (
        "weiaicunzai wideresnet",
        partial(preactivation, names=WEIAICUNZAI_WIDE, **wide(2), bias=True, raw=True),
        *("wrn_10_2_bias+raw_shortcut", ""),
    ),
    (
        "meliketoy Wide_ResNet",
        partial(preactivation, names=MELIKETOY, **wide(2), bias=True, raw=True, second=True),
        *("wrn_10_2_bias+raw_shortcut+second_stride", ""),
    ),
    (
        "FixMatch-pytorch WideResNet",
        partial(preactivation, names=TRADES, **SSL),
        *("wrn_10_2", "leaky_relu_0.1+raw_transitions"),
    ),
    (
        "USB WideResNet",
        partial(preactivation, names=TRADES, **SSL, eps=1e-3),
        *("wrn_10_2", "leaky_relu_0.1+bn_eps_1e-3+raw_transitions"),
    ),
    (
        "TorchSSL WideResNet",
        partial(preactivation, names=TRADES, **SSL, eps=1e-3, bias=True),
        *("wrn_10_2_bias", "leaky_relu_0.1+bn_eps_1e-3+raw_transitions"),
    ),
]
SHAPES = dict.fromkeys(("TRADES SmallCNN", "TRADES Net", "fast_adversarial mnist_net"), GREY)
SHAPES |= dict.fromkeys(
    (
        *("robust-stitching NbnTiny10", "friendly training SmallCNN", "kuangliu ResNet18"),
        *("common ResNet18 SiLU", "common ResNet50 GELU"),
    ),
    CIFAR,
)


def prefixed(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


# how a project saves weights, by the first word of its rows; the others save a state dict as it is
SAVED = {
    "kuangliu": lambda weights: {"net": prefixed("module.", weights), "acc": 95.3, "epoch": 199},
    "robust_overfitting": lambda weights: {
        "state_dict": prefixed("module.", weights),
        "test_robust_acc": 0.5,
    },
    "Bag-of-Tricks": lambda weights: {"state_dict": prefixed("module.", weights), "test_acc": 0.8},
    "DM-Improves-AT": lambda weights: {"model_state_dict": prefixed("module.0.", weights), "epoch": 400},
    "akamaster": lambda weights: {"state_dict": prefixed("module.", weights), "best_prec1": 91.7},
    "bearpaw": lambda weights: {"epoch": 164, "state_dict": prefixed("module.", weights), "acc": 93.0},
    "FixMatch-pytorch": lambda weights: {"epoch": 9, "state_dict": weights, "ema_state_dict": more(weights)},
    "TorchSSL": lambda weights: {"model": prefixed("module.", weights), "it": 9},
}


def more(weights):
    return {key: value + 1 for key, value in weights.items()}


QUICK = [
    *("kuangliu PreActResNet18", "TRADES WideResNet", "fast_adversarial PreActResNet18"),
    *("DM-Improves-AT WideResNet SiLU", "akamaster resnet20, option A", "chenyaofo resnet20"),
    *("FixMatch-pytorch WideResNet", "TRADES SmallCNN"),
]


@pytest.mark.matrix(*QUICK)
@pytest.mark.parametrize(("project", "network", "taken_for", "is_"), FILES, ids=[row[0] for row in FILES])
def test_one_of_the_names_has_the_logits_of_the_project(tmp_path, pixels, project, network, taken_for, is_):
    pen, images = Pen(), pixels(SHAPES.get(project, COLOUR), 2)
    expected = network(pen, images)
    torch.save(SAVED.get(project.split()[0], dict)(pen.weights), tmp_path / "model_best.pth.tar")
    read = read_checkpoint(tmp_path / "model_best.pth.tar")
    assert read.architecture == taken_for
    name = taken_for
    if is_:
        name = taken_for.partition("+")[0] + ("" if is_ == "-" else f"+{is_}")
        assert name in read.alternatives
    torch.testing.assert_close(
        logits(name, read, images), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item()
    )


def logits(name, read, images):
    shape = (read.image_shape[0], *images.shape[2:])
    model = build_model(name, shape, read.num_classes, [0.0] * shape[0], [1.0] * shape[0])
    neutral = {key: value for key, value in model.state_dict().items() if key.startswith("normalize.")}
    model.load_state_dict(neutral | read.weights)
    with torch.no_grad():
        return model.eval()(images)


def test_a_leaky_resnet_of_robustness_is_a_variant_of_torchvisions(tmp_path, pixels):
    theirs = randomized(import_robustness("imagenet_models").leaky_resnet18(num_classes=10))
    torch.save(theirs.state_dict(), tmp_path / "leaky.pt")
    read, images = read_checkpoint(tmp_path / "leaky.pt"), pixels((3, 64, 64), 2)
    assert read.architecture == "torchvision:resnet18"
    assert "torchvision:resnet18+leaky_relu" in read.alternatives
    with torch.no_grad():
        expected = theirs(images)
    torch.testing.assert_close(logits("torchvision:resnet18+leaky_relu", read, images), expected)


def test_a_common_resnet18_for_larger_images_is_one_of_ours(tmp_path, pixels):
    """The class of the robustness package takes 32 × 32 pixels only; many average whatever there is."""
    pen, images = Pen(), pixels((3, 64, 64), 2)
    expected = resnet(pen, images, **FOUR)
    torch.save(pen.weights, tmp_path / "tiny_imagenet.pth")
    read = read_checkpoint(tmp_path / "tiny_imagenet.pth", image_shape=(3, 64, 64))
    assert (read.architecture, read.image_shape) == ("resnet18", (3, 64, 64))
    tolerance = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(logits("resnet18", read, images), expected, rtol=1e-5, atol=tolerance)
