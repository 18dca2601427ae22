"""MobileNetV2 (Sandler et al., 2018) for small images, with biases and a stem of 1 × 1."""

from __future__ import annotations

from torch import Tensor, nn

# per stage: blocks, channels, stride of the first block; the paper's table 2 with fewer halvings
STAGES = ((1, 16, 1), (2, 24, 2), (3, 32, 2), (4, 64, 2), (3, 96, 1), (3, 160, 1), (1, 320, 1))


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


class MobileNetV2(nn.Module):
    """A 1 × 1 stem on images with a border of one pixel, seven stages, and a 1 × 1 classifier.

    Every convolution has a bias.
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.pre = nn.Sequential(*_activated(nn.Conv2d(channels, 32, 1, padding=1)))
        width_in = 32
        for number, (count, width, stride) in enumerate(STAGES, start=1):
            expansion = 1 if number == 1 else 6
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
