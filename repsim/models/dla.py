"""Deep layer aggregation (Yu et al., 2018) for small images, and the simpler tree that is often trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repsim.models.residual import BasicBlock, conv1x1, conv3x3


class Root(nn.Module):
    """A 1 × 1 convolution, bn and relu of all that comes together at the end of a tree."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = conv1x1(channels_in, channels_out)
        self.bn = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()

    def forward(self, *parts: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(torch.cat(parts, 1))))


class Tree(nn.Module):
    """Two residual blocks in a row, and a root that takes the outputs of both."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.left_node = BasicBlock(channels_in, channels_out, stride)
        self.right_node = BasicBlock(channels_out, channels_out, 1)
        self.root = Root(2 * channels_out, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left_node(x)
        return self.root(left, self.right_node(left))


class DeepTree(nn.Module):
    """A tree, then two blocks; the root takes all their outputs, and a block of the input's."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.prev_root = BasicBlock(channels_in, channels_out, stride)
        self.level_1 = Tree(channels_in, channels_out, stride)
        self.left_node = BasicBlock(channels_out, channels_out, 1)
        self.right_node = BasicBlock(channels_out, channels_out, 1)
        self.root = Root(4 * channels_out, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        around, inner = self.prev_root(x), self.level_1(x)
        left = self.left_node(inner)
        return self.root(around, inner, left, self.right_node(left))


class SimpleTree(nn.Module):
    """Two parts in a row, blocks or trees of `levels` − 1, and a root that takes the outputs of both."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, levels: int = 1):
        super().__init__()
        if levels == 1:
            self.left_tree: nn.Module = BasicBlock(channels_in, channels_out, stride)
            self.right_tree: nn.Module = BasicBlock(channels_out, channels_out, 1)
        else:
            self.left_tree = SimpleTree(channels_in, channels_out, stride, levels - 1)
            self.right_tree = SimpleTree(channels_out, channels_out, 1, levels - 1)
        self.root = Root(2 * channels_out, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left_tree(x)
        return self.root(left, self.right_tree(left))


class DLA(nn.Module):
    """DLA-34 with a CIFAR stem: three convolutions, then four trees, of which three halve the image.

    Parameters
    ----------
    simple
        Trees as in `SimpleTree`, rather than those of the paper.
    """

    def __init__(self, channels: int, num_classes: int, simple: bool = False):
        super().__init__()
        for name, before, after in (("base", channels, 16), ("layer1", 16, 16), ("layer2", 16, 32)):
            self.add_module(name, nn.Sequential(conv3x3(before, after), nn.BatchNorm2d(after), nn.ReLU()))
        if simple:
            self.layer3: nn.Module = SimpleTree(32, 64, 1)
            self.layer4: nn.Module = SimpleTree(64, 128, 2, levels=2)
            self.layer5: nn.Module = SimpleTree(128, 256, 2, levels=2)
            self.layer6: nn.Module = SimpleTree(256, 512, 2)
        else:
            self.layer3 = Tree(32, 64, 1)
            self.layer4 = DeepTree(64, 128, 2)
            self.layer5 = DeepTree(128, 256, 2)
            self.layer6 = Tree(256, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.base(x)))
        x = self.layer6(self.layer5(self.layer4(self.layer3(x))))
        return self.linear(self.avgpool(x).flatten(1))
