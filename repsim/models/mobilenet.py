"""MobileNetV2 (Sandler et al., 2018) for small images."""

from __future__ import annotations

from torch import Tensor, nn

from repsim.models.residual import conv1x1, conv3x3

STAGES = (  # how much wider blocks are inside, their channels, their number, the stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two of 1 × 1 pixels; the last is not activated.

    A block that keeps height and width is added to its input, projected where the channels differ.
    """

    def __init__(self, channels_in: int, channels_out: int, factor: int, stride: int):
        super().__init__()
        width = factor * channels_in
        self.conv1, self.bn1, self.relu1 = conv1x1(channels_in, width), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv3, self.bn3 = conv1x1(width, channels_out), nn.BatchNorm2d(channels_out)
        self.is_added = stride == 1
        self.shortcut: nn.Module | None = None
        if self.is_added and channels_in != channels_out:
            self.shortcut = nn.Sequential(conv1x1(channels_in, channels_out), nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        if not self.is_added:
            return out
        return out + (x if self.shortcut is None else self.shortcut(x))


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 with ReLU, which halves images three times rather than five times."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = conv3x3(channels, 32), nn.BatchNorm2d(32), nn.ReLU()
        blocks, before = [], 32
        for factor, width, count, stride in STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(before, width, factor, 1 if index else stride))
                before = width
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2, self.relu2 = conv1x1(before, 1280), nn.BatchNorm2d(1280), nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(self.avgpool(x).flatten(1))


class LinearBottleneck(nn.Module):
    """1 × 1 wider, 3 × 3 per channel, 1 × 1 narrower; plus the input where the shape is the same."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int):
        super().__init__()
        inner = expansion * channels_in
        self.residual = nn.Sequential(
            *_activated(nn.Conv2d(channels_in, inner, 1)),
            *_activated(nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner)),
            nn.Conv2d(inner, channels_out, 1),
            nn.BatchNorm2d(channels_out),
        )
        self.adds_input = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + x if self.adds_input else self.residual(x)


class BiasedMobileNetV2(nn.Module):
    """MobileNetV2 that begins with a 1 × 1 convolution on images with a border of one pixel.

    Every convolution has a bias, and the classifier is one too.
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.pre = nn.Sequential(*_activated(nn.Conv2d(channels, 32, 1, padding=1)))
        width_in = 32
        for number, (expansion, width, count, usual) in enumerate(STAGES, start=1):
            stride = {2: 2, 6: 1}.get(number, usual)
            first = LinearBottleneck(width_in, width, stride, expansion)
            others = [LinearBottleneck(width, width, 1, expansion) for _ in range(count - 1)]
            self.add_module(f"stage{number}", nn.Sequential(first, *others) if others else first)
            width_in = width
        self.conv1 = nn.Sequential(*_activated(nn.Conv2d(width_in, 1280, 1)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.conv2 = nn.Conv2d(1280, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre(x)
        for number in range(1, len(STAGES) + 1):
            x = getattr(self, f"stage{number}")(x)
        return self.conv2(self.avgpool(self.conv1(x))).flatten(1)


def _activated(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU6()
