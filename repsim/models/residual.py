"""Residual networks for small images: the CIFAR ResNet, and the pre-activation ResNet and WideResNet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = {  # per stage of the ImageNet ResNets (He et al., 2015, table 1)
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECKS = (50, 101, 152)
AT_ENDS = (0, 1, 0, 1)  # padding on the right and below


def conv3x3(channels_in: int, channels_out: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 3 × 3 convolution that keeps height and width, but for its stride."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=bias)


def conv1x1(channels_in: int, channels_out: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 1 × 1 convolution."""
    return nn.Conv2d(channels_in, channels_out, 1, stride, bias=bias)


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, with channels of zeros on both sides: option A of He et al., 2015.

    Behind the others only, as Facebook's code has it, after `put_behind`.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.stride = stride
        self.before = (channels_out - channels_in) // 2
        self.behind = channels_out - channels_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        taken = x[:, :, :: self.stride, :: self.stride]
        return F.pad(taken, (0, 0, 0, 0, self.before, self.behind))

    def put_behind(self) -> None:
        """Move all channels of zeros behind the others."""
        self.before, self.behind = 0, self.before + self.behind


class BasicBlock(nn.Module):
    """conv → bn → relu → conv → bn, plus the input, then relu (He et al., 2015).

    Where the shape changes, the shortcut is a 1 × 1 convolution with BatchNorm (option B), or has no weights
    (option A) where `projects` is False.
    """

    expansion = 1

    def __init__(self, channels_in: int, channels_out: int, stride: int, projects: bool = True):
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            if projects:
                projection = conv1x1(channels_in, channels_out, stride)
                self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))
            else:
                self.shortcut = PaddedShortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nn.Module):
    """conv → bn → relu, of 1 × 1 and 3 × 3 pixels, conv → bn of 1 × 1, plus the input, then relu."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int):
        super().__init__()
        channels_out = self.expansion * width
        self.conv1, self.bn1, self.relu1 = conv1x1(channels_in, width), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = conv3x3(width, width, stride), nn.BatchNorm2d(width), nn.ReLU()
        self.conv3, self.bn3 = conv1x1(width, channels_out), nn.BatchNorm2d(channels_out)
        self.relu3 = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            projection = conv1x1(channels_in, channels_out, stride)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        return self.relu3(out + (x if self.shortcut is None else self.shortcut(x)))


class PreActivationBlock(nn.Module):
    """bn → relu → conv → bn → relu → conv, plus the input (He et al., 2016).

    Where the shape changes, the shortcut is a 1 × 1 convolution of the activated input, or of the input
    itself, as some write it, where `activates_shortcut` is False. Where `activates_residual` is, too, the
    first BatchNorm and ReLU are used nowhere.
    """

    expansion = 1
    activates_shortcut = True
    activates_residual = True

    def __init__(self, channels_in: int, channels_out: int, stride: int, bias: bool = False):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(channels_in, channels_out, stride, bias)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(channels_out, channels_out, bias=bias)
        self.pad: nn.Module | None = None
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = conv1x1(channels_in, channels_out, stride, bias)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x)) if self.activates_residual or self.activates_shortcut else x
        out = self.residual(activated if self.activates_residual else x)
        if self.shortcut is None:
            return out + x
        return out + self.shortcut(activated if self.activates_shortcut else x)

    def residual(self, x: Tensor) -> Tensor:
        """Compute from the activated input what is added to the input."""
        x = self.conv1(x if self.pad is None else self.pad(x))
        return self.conv2(self.relu2(self.bn2(x)))

    def pad_at_ends(self) -> bool:
        """Pad before a stride right and below only, as TensorFlow's `SAME`; False where there is none."""
        if self.conv1.stride == (1, 1):
            return False
        self.pad = nn.ZeroPad2d(AT_ENDS)
        self.conv1.padding = (0, 0)
        return True


class PreActivationBottleneck(PreActivationBlock):
    """bn → relu → conv, three times, of 1 × 1, 3 × 3 and 1 × 1 pixels, plus the input (He et al., 2016)."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, bias: bool = False):
        super().__init__(channels_in, width, stride, bias)
        channels_out = self.expansion * width
        self.conv1 = conv1x1(channels_in, width, bias=bias)
        self.conv2 = conv3x3(width, width, stride, bias)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU()
        self.conv3 = conv1x1(width, channels_out, bias=bias)
        self.shortcut = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = conv1x1(channels_in, channels_out, stride, bias)

    def residual(self, x: Tensor) -> Tensor:
        return self.conv3(self.relu3(self.bn3(super().residual(x))))


class PaddedPreActivationBlock(PreActivationBlock):
    """A pre-activation block padded as in TensorFlow, with shortcuts of 3 × 3 pixels (Rebuffi et al., 2021).

    The shortcut is of the input itself.
    """

    activates_shortcut = False

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__(channels_in, channels_out, stride)
        self.pad_at_ends()
        if self.shortcut is not None:
            pad = nn.ZeroPad2d(1 if stride == 1 else AT_ENDS)
            self.shortcut = nn.Sequential(pad, nn.Conv2d(channels_in, channels_out, 3, stride, bias=False))


class SqueezedPreActivationBlock(PreActivationBlock):
    """A pre-activation block whose residual has scaled channels (squeeze and excitation, Hu et al., 2018)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__(channels_in, channels_out, stride)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels_out, channels_out // 16, 1)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Conv2d(channels_out // 16, channels_out, 1)
        self.sigmoid = nn.Sigmoid()

    def residual(self, x: Tensor) -> Tensor:
        x = super().residual(x)
        return x * self.sigmoid(self.fc2(self.relu3(self.fc1(self.pool(x)))))


class UnitFeatures(nn.Module):
    """Features of each image, scaled to a Euclidean length."""

    def __init__(self, length: float = 1.0):
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x) * self.length


class UnitWeights(nn.Module):
    """A linear layer without bias whose weights have length 1 for each class."""

    def __init__(self, features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, features))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight))


class ResNet(nn.Module):
    """A convolution, stages of residual blocks, average pooling and a linear classifier.

    Each stage but the first halves height and width.

    Parameters
    ----------
    block
        Makes a block from its channels in, its width and its stride: `BasicBlock`, `PreActivationBlock`, ….
    blocks
        How many blocks each stage has.
    widths
        How many channels the blocks of each stage work in.
    stem
        Channels of the first convolution.
    expansion
        How many times as many channels blocks put out.
    bias
        Of the first convolution.
    activates_stem, activates_end
        Whether bn and relu follow the first convolution, and the last block.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        blocks: Sequence[int],
        widths: Sequence[int],
        stem: int,
        channels: int,
        num_classes: int,
        *,
        expansion: int = 1,
        bias: bool = False,
        activates_stem: bool = True,
        activates_end: bool = False,
    ):
        super().__init__()
        self.conv1 = conv3x3(channels, stem, bias=bias)
        self.bn1 = nn.BatchNorm2d(stem) if activates_stem else None
        self.relu1 = nn.ReLU() if activates_stem else None
        self.stages = [f"layer{index + 1}" for index in range(len(blocks))]
        width_in = stem
        for index, (name, count, width) in enumerate(zip(self.stages, blocks, widths, strict=True)):
            stage = []
            for stride in [1 if index == 0 else 2] + [1] * (count - 1):
                stage.append(block(width_in, width, stride))
                width_in = expansion * width
            self.add_module(name, nn.Sequential(*stage))
        self.bn2 = nn.BatchNorm2d(width_in) if activates_end else None
        self.relu2 = nn.ReLU() if activates_end else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.embedding: nn.Module | None = None
        self.fc: nn.Module = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def pooled(self, x: Tensor) -> Tensor:
        """Compute the features of images: all but the embedding and the last layer."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = self.relu1(self.bn1(x))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        if self.bn2 is not None:
            x = self.relu2(self.bn2(x))
        return self.avgpool(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pooled(x)
        return self.fc(x if self.embedding is None else self.embedding(x))


class CommonResNet(ResNet):
    """A network of robustness' CIFAR ResNets, whose ReLUs are modules here; all names are theirs."""

    def __init__(self, theirs: nn.Module):
        stages = [theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4]
        block = Bottleneck if hasattr(stages[0][0], "conv3") else BasicBlock
        blocks, widths = [len(stage) for stage in stages], [stage[0].conv2.out_channels for stage in stages]
        stem, classes = theirs.conv1, theirs.linear.out_features
        super().__init__(
            *(block, blocks, widths, stem.out_channels, stem.in_channels, classes), expansion=block.expansion
        )
        del self.fc
        self.avgpool = nn.AvgPool2d(4)
        self.linear = nn.Linear(theirs.linear.in_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pooled(x))


def on_hypersphere(network: ResNet, length: float) -> ResNet:
    """Scale features to a length, weights of classes to 1 (hypersphere embedding, Pang et al., 2020)."""
    network.embedding = UnitFeatures(length)
    network.fc = UnitWeights(network.fc.in_features, network.fc.out_features)
    return network


def cifar_resnet(depth: int, width: int, channels: int, num_classes: int, projects: bool = True) -> ResNet:
    """The 6n + 2 layer ResNet for CIFAR, its first stage `width` channels wide (16 in the paper).

    `projects` of its shortcuts: see `BasicBlock`.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, …), not {depth}.")
    if width < 1:
        raise ValueError(f"a CIFAR ResNet is at least 1 channel wide, not {width}.")
    blocks = [(depth - 2) // 6] * 3
    block = functools.partial(BasicBlock, projects=projects)
    return ResNet(block, blocks, [width, 2 * width, 4 * width], width, channels, num_classes)


def cifar_bottleneck_resnet(
    depth: int, width: int, channels: int, num_classes: int, preactivation: bool = False
) -> ResNet:
    """The 9n + 2 layer ResNet of bottlenecks for CIFAR (He et al., 2016), first `width` wide inside."""
    if depth < 11 or (depth - 2) % 9:
        raise ValueError(f"a CIFAR ResNet of bottlenecks has 9n + 2 layers (11, 20, 29, …), not {depth}.")
    if width < 1:
        raise ValueError(f"a CIFAR ResNet is at least 1 channel wide, not {width}.")
    block = PreActivationBottleneck if preactivation else Bottleneck
    ends = {"activates_stem": not preactivation, "activates_end": preactivation}
    blocks, widths = [(depth - 2) // 9] * 3, [width, 2 * width, 4 * width]
    return ResNet(block, blocks, widths, width, channels, num_classes, expansion=block.expansion, **ends)


def wide_resnet(
    depth: int, factor: int, channels: int, num_classes: int, base: int = 16, bias: bool = False
) -> ResNet:
    """WRN-depth-factor (Zagoruyko & Komodakis, 2016): 6n + 4 layers, `factor` times the base width."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"a WideResNet has 6n + 4 layers (10, 16, 22, 28, …), not {depth}.")
    if factor < 1:
        raise ValueError(f"a WideResNet is at least 1 × as wide as its base, not {factor} ×.")
    widths = [base * factor, 2 * base * factor, 4 * base * factor]
    block = functools.partial(PreActivationBlock, bias=bias)
    ends = {"activates_stem": False, "activates_end": True}
    return ResNet(block, [(depth - 4) // 6] * 3, widths, base, channels, num_classes, bias=bias, **ends)


def preact_resnet(depth: int, channels: int, num_classes: int, width: int = 64, **options: bool) -> ResNet:
    """The pre-activation ResNet of a depth in `BLOCKS` with a CIFAR stem, its first stage `width` wide.

    `options` are those of `ResNet`; a `bias` is of all its convolutions.
    """
    kind = PreActivationBottleneck if depth in BOTTLENECKS else PreActivationBlock
    widths = [width, 2 * width, 4 * width, 8 * width]
    block = functools.partial(kind, bias=options.get("bias", False))
    ends = {"activates_stem": False, "activates_end": True} | options
    return ResNet(
        block, BLOCKS[depth], widths, width, channels, num_classes, expansion=kind.expansion, **ends
    )


def padded_preact_resnet(depth: int, channels: int, num_classes: int, width: int = 64) -> ResNet:
    """The pre-activation ResNet-18 or 34 of Rebuffi et al., 2021, of `PaddedPreActivationBlock`s."""
    widths = [width, 2 * width, 4 * width, 8 * width]
    ends = {"activates_stem": False, "activates_end": True}
    return ResNet(PaddedPreActivationBlock, BLOCKS[depth], widths, width, channels, num_classes, **ends)


def squeezed_preact_resnet(depth: int, channels: int, num_classes: int) -> ResNet:
    """The ResNet-18 or 34 of `SqueezedPreActivationBlock`s, with bn and relu behind its stem only."""
    widths = [64, 128, 256, 512]
    return ResNet(SqueezedPreActivationBlock, BLOCKS[depth], widths, 64, channels, num_classes)
