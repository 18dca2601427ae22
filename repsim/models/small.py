"""Small networks without residual blocks: a VGG, a multilayer perceptron and a vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from repsim._compat import torchvision


class VGG(nn.Module):
    """Stages of 3 × 3 convolutions with BatchNorm, each stage ending in 2 × 2 max pooling.

    Parameters
    ----------
    stages
        For each stage the channels of its convolutions.
    """

    def __init__(self, stages: Sequence[Sequence[int]], channels: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        width_in = channels
        for widths in stages:
            for width in widths:
                layers += [
                    nn.Conv2d(width_in, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                width_in = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class MLP(nn.Module):
    """Fully connected layers with ReLU on the flattened image."""

    def __init__(self, hidden: Sequence[int], inputs: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.hidden = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.hidden(x.flatten(1)))


def vision_transformer(
    image_size: int, patch: int, width: int, depth: int, heads: int, channels: int, num_classes: int
) -> nn.Module:
    """torchvision's vision transformer, made small, for images of any number of channels."""
    network = torchvision.models.VisionTransformer(
        image_size=image_size,
        patch_size=patch,
        num_layers=depth,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=2 * width,
        num_classes=num_classes,
    )
    network.conv_proj = nn.Conv2d(channels, width, patch, patch)
    return network
