"""Small networks without residual blocks: VGG, LeNet, Tiny10, a perceptron and a vision transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from repsim.support.compat import torchvision


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


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling, as the stitching papers have it: 2 convolutions, 3 linear layers.

    Raises
    ------
    ValueError
        The images are too small for its convolutions.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 16:
            raise ValueError(f"lenet needs images of at least 16 × 16 pixels, not {height} × {width}.")
        cells = math.prod(((length - 4) // 2 - 4) // 2 for length in (height, width))
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        self.fc1, self.relu3 = nn.Linear(16 * cells, 120), nn.ReLU()
        self.fc2, self.relu4 = nn.Linear(120, 84), nn.ReLU()
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x))).flatten(1)
        return self.fc3(self.relu4(self.fc2(self.relu3(self.fc1(x)))))


class Tiny10(nn.Module):
    """Eight unpadded convolutions, each with BatchNorm and ReLU, then the mean (Kornblith et al., 2019).

    Parameters
    ----------
    norm
        Whether it has its BatchNorms.

    Raises
    ------
    ValueError
        The images are too small for its convolutions.
    """

    CONVOLUTIONS = (
        (16, 3, 1),
        (16, 3, 1),
        (32, 3, 2),
        (32, 3, 1),
        (32, 3, 1),
        (64, 3, 2),
        (64, 3, 1),
        (64, 1, 1),
    )

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, norm: bool = True):
        super().__init__()
        width_in, height, width = image_shape
        if min(height, width) < 27:
            raise ValueError(f"tiny10 needs images of at least 27 × 27 pixels, not {height} × {width}.")
        self.parts = ("conv", "bn", "relu") if norm else ("conv", "relu")
        for index, (width_out, size, stride) in enumerate(self.CONVOLUTIONS, start=1):
            self.add_module(f"conv{index}", nn.Conv2d(width_in, width_out, size, stride))
            if norm:
                self.add_module(f"bn{index}", nn.BatchNorm2d(width_out))
            self.add_module(f"relu{index}", nn.ReLU())
            width_in = width_out
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(1, len(self.CONVOLUTIONS) + 1):
            for part in self.parts:
                x = self.get_submodule(f"{part}{index}")(x)
        return self.fc(self.avgpool(x).flatten(1))


class SmallCNN(nn.Module):
    """Four unpadded convolutions, pooled after every second, and three linear layers, for MNIST.

    From Carlini & Wagner, 2017; with dropout, as TRADES (Zhang et al., 2019) trains it.

    Raises
    ------
    ValueError
        The images are too small for its convolutions.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 16:
            raise ValueError(f"small_cnn needs images of at least 16 × 16 pixels, not {height} × {width}.")
        cells = math.prod(((length - 4) // 2 - 4) // 2 for length in (height, width))
        self.feature_extractor = nn.Sequential()
        before = channels
        for index, after in enumerate((32, 32, 64, 64), start=1):
            self.feature_extractor.add_module(f"conv{index}", nn.Conv2d(before, after, 3))
            self.feature_extractor.add_module(f"relu{index}", nn.ReLU())
            if index % 2 == 0:
                self.feature_extractor.add_module(f"maxpool{index // 2}", nn.MaxPool2d(2))
            before = after
        self.classifier = nn.Sequential()
        self.classifier.add_module("fc1", nn.Linear(64 * cells, 200))
        self.classifier.add_module("relu1", nn.ReLU())
        self.classifier.add_module("drop", nn.Dropout(0.5))
        self.classifier.add_module("fc2", nn.Linear(200, 200))
        self.classifier.add_module("relu2", nn.ReLU())
        self.classifier.add_module("fc3", nn.Linear(200, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.feature_extractor(x).flatten(1))


class CifarCNN(nn.Module):
    """Three stages of two padded convolutions with BatchNorm and max pooling, and two linear layers.

    The small network of the friendly and of the misclassification-aware adversarial training.

    Raises
    ------
    ValueError
        The images are too small for its pooling.
    """

    WIDTHS = (64, 128, 196)

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        before, height, width = image_shape
        if min(height, width) < 8:
            raise ValueError(
                f"small_cnn_cifar needs images of at least 8 × 8 pixels, not {height} × {width}."
            )
        for stage, after in enumerate(self.WIDTHS, start=1):
            for index in (1, 2):
                self.add_module(f"block{stage}_conv{index}", nn.Conv2d(before, after, 3, padding=1))
                self.add_module(f"batchnorm{stage}_{index}", nn.BatchNorm2d(after))
                self.add_module(f"relu{stage}_{index}", nn.ReLU())
                before = after
            self.add_module(f"block{stage}_pool1", nn.MaxPool2d(2))
        self.fc1 = nn.Linear(before * (height // 8) * (width // 8), 256)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in range(1, len(self.WIDTHS) + 1):
            for index in (1, 2):
                for part in (
                    f"block{stage}_conv{index}",
                    f"batchnorm{stage}_{index}",
                    f"relu{stage}_{index}",
                ):
                    x = self.get_submodule(part)(x)
            x = self.get_submodule(f"block{stage}_pool1")(x)
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


class MnistNet(nn.Module):
    """Two 5 × 5 convolutions, pooled, and two linear layers, with dropout: PyTorch's older MNIST example.

    Raises
    ------
    ValueError
        The images are too small for its convolutions.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 16:
            raise ValueError(f"mnist_net needs images of at least 16 × 16 pixels, not {height} × {width}.")
        cells = math.prod(((length - 4) // 2 - 4) // 2 for length in (height, width))
        self.conv1, self.pool1, self.relu1 = nn.Conv2d(channels, 10, 5), nn.MaxPool2d(2), nn.ReLU()
        self.conv2, self.drop1 = nn.Conv2d(10, 20, 5), nn.Dropout2d()
        self.pool2, self.relu2 = nn.MaxPool2d(2), nn.ReLU()
        self.fc1, self.relu3, self.drop2 = nn.Linear(20 * cells, 50), nn.ReLU(), nn.Dropout()
        self.fc2 = nn.Linear(50, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.pool1(self.conv1(x)))
        x = self.relu2(self.pool2(self.drop1(self.conv2(x)))).flatten(1)
        return self.fc2(self.drop2(self.relu3(self.fc1(x))))


class StridedMnistNet(nn.Module):
    """Two 4 × 4 convolutions of stride 2 and two linear layers, for MNIST (Wong & Kolter, 2018)."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        channels, height, width = image_shape
        self.conv1, self.relu1 = nn.Conv2d(channels, 16, 4, 2, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(16, 32, 4, 2, padding=1), nn.ReLU()
        self.fc1, self.relu3 = nn.Linear(32 * (height // 4) * (width // 4), 100), nn.ReLU()
        self.fc2 = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.relu1(self.conv1(x)))).flatten(1)
        return self.fc2(self.relu3(self.fc1(x)))


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
