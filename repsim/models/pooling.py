"""Modules that variants put before a convolution: the pooling of anti-aliased ResNets, standard images."""

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


class Standardize(nn.Module):
    """Each image minus its mean, over its deviation or, of flat ones, over that of a single step of 1."""

    def forward(self, images: Tensor) -> Tensor:
        axes = tuple(range(1, images.ndim))
        deviation = images.std(axes, keepdim=True).clamp(min=images[0].numel() ** -0.5)
        return (images - images.mean(axes, keepdim=True)) / deviation


class Conv2d(nn.Conv2d):
    """A convolution of what another module makes of its input."""

    prepare: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.prepare(x))


def prepared(convolution: nn.Conv2d, prepare: nn.Module) -> None:
    """Put a module before a convolution, in place and without a change of the names of its weights."""
    convolution.__class__ = Conv2d
    convolution.prepare = prepare


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
                prepared(following, make())
    return True
