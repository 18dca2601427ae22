"""Anti-aliased ResNets: where they halve, activations are averaged or blurred rather than left out."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BlurPool(nn.Module):
    """The binomial filter of 3 × 3 at every second place, on reflected edges (Zhang, 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        line = x.new_tensor([0.25, 0.5, 0.25])
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, torch.outer(line, line).expand(channels, 1, 3, 3), stride=2, groups=channels)


class PooledConv2d(nn.Conv2d):
    """A convolution of what a pooling makes of its input."""

    pool: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pool(x))


def pool_where_it_halves(network: nn.Module, blur: bool) -> bool:
    """Make a ResNet of torchvision's an anti-aliased one, in place; False where it is none.

    A block's convolution of stride 2 gets stride 1, and the next one takes pooled activations. So does the
    stem: average pooling of 2 × 2 in place of max pooling, or dense max pooling that is then blurred.
    """
    if not (hasattr(network, "maxpool") and hasattr(network, "layer1")):
        return False
    make = BlurPool if blur else lambda: nn.AvgPool2d(2)
    if isinstance(network.maxpool, nn.MaxPool2d):
        network.maxpool = nn.Sequential(nn.MaxPool2d(3, 1, 1), make()) if blur else make()
    for block in network.modules():
        convolutions = [getattr(block, f"conv{number}", None) for number in (1, 2, 3)]
        for halving, following in itertools.pairwise(convolutions):
            if following is not None and block is not network and halving.stride == (2, 2):
                halving.stride = (1, 1)
                following.__class__ = PooledConv2d
                following.pool = make()
    return True
