"""Residual networks for small images: the CIFAR ResNet, and the pre-activation ResNet and WideResNet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3 × 3 convolution without bias that keeps height and width, but for its stride."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def conv1x1(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A 1 × 1 convolution without bias."""
    return nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """conv → bn → relu → conv → bn, plus the input, then relu (He et al., 2015)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.shortcut = None
        if stride != 1 or channels_in != channels_out:
            projection = conv1x1(channels_in, channels_out, stride)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + (x if self.shortcut is None else self.shortcut(x)))


class PreActivationBlock(nn.Module):
    """bn → relu → conv → bn → relu → conv, plus the input (He et al., 2016).

    Where the shape changes, the shortcut is a 1 × 1 convolution of the activated input, or of the input
    itself, as some write it, where `activates_shortcut` is False.
    """

    activates_shortcut = True

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(channels_out, channels_out)
        self.shortcut = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = conv1x1(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        if self.shortcut is None:
            return out + x
        return out + self.shortcut(activated if self.activates_shortcut else x)


class ResNet(nn.Module):
    """A convolution, stages of residual blocks, average pooling and a linear classifier.

    Each stage but the first halves height and width.

    Parameters
    ----------
    block
        `BasicBlock` or `PreActivationBlock`; the latter ends in one more bn and relu.
    blocks
        How many blocks each stage has.
    widths
        How many channels each stage has.
    stem
        Channels of the first convolution.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[PreActivationBlock],
        blocks: Sequence[int],
        widths: Sequence[int],
        stem: int,
        channels: int,
        num_classes: int,
    ):
        super().__init__()
        preactivation = block is PreActivationBlock
        self.conv1 = conv3x3(channels, stem)
        self.bn1 = None if preactivation else nn.BatchNorm2d(stem)
        self.relu1 = None if preactivation else nn.ReLU()
        self.stages = [f"layer{index + 1}" for index in range(len(blocks))]
        width_in = stem
        for index, (name, count, width) in enumerate(zip(self.stages, blocks, widths, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            stage = [block(width if i else width_in, width, stride) for i, stride in enumerate(strides)]
            self.add_module(name, nn.Sequential(*stage))
            width_in = width
        self.bn2 = nn.BatchNorm2d(width_in) if preactivation else None
        self.relu2 = nn.ReLU() if preactivation else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.bn1 is not None:
            x = self.relu1(self.bn1(x))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        if self.bn2 is not None:
            x = self.relu2(self.bn2(x))
        return self.fc(self.avgpool(x).flatten(1))


def cifar_resnet(depth: int, width: int, channels: int, num_classes: int) -> ResNet:
    """The 6n + 2 layer ResNet for CIFAR, its first stage `width` channels wide (16 in the paper)."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, …), not {depth}.")
    if width < 1:
        raise ValueError(f"a CIFAR ResNet is at least 1 channel wide, not {width}.")
    blocks = [(depth - 2) // 6] * 3
    return ResNet(BasicBlock, blocks, [width, 2 * width, 4 * width], width, channels, num_classes)


def wide_resnet(depth: int, factor: int, channels: int, num_classes: int, base: int = 16) -> ResNet:
    """WRN-depth-factor (Zagoruyko & Komodakis, 2016): 6n + 4 layers, `factor` times the base width."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"a WideResNet has 6n + 4 layers (10, 16, 22, 28, …), not {depth}.")
    if factor < 1:
        raise ValueError(f"a WideResNet is at least 1 × as wide as its base, not {factor} ×.")
    widths = [base * factor, 2 * base * factor, 4 * base * factor]
    return ResNet(PreActivationBlock, [(depth - 4) // 6] * 3, widths, base, channels, num_classes)


def preact_resnet18(channels: int, num_classes: int, width: int = 64) -> ResNet:
    """The 18-layer pre-activation ResNet with a CIFAR stem, its first stage `width` channels wide."""
    widths = [width, 2 * width, 4 * width, 8 * width]
    return ResNet(PreActivationBlock, [2, 2, 2, 2], widths, width, channels, num_classes)
