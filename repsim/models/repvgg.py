"""RepVGG (Ding et al., 2021): a VGG whose every layer is a sum of 3 × 3, 1 × 1 and the input, as trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

# blocks per stage, and how many times 64, 128, 256 and 512 channels they have (table 3)
SIZES = {
    "a0": ((2, 4, 14, 1), (0.75, 0.75, 0.75, 2.5)),
    "a1": ((2, 4, 14, 1), (1, 1, 1, 2.5)),
    "a2": ((2, 4, 14, 1), (1.5, 1.5, 1.5, 2.75)),
    "b0": ((4, 6, 16, 1), (1, 1, 1, 2.5)),
    "b1": ((4, 6, 16, 1), (2, 2, 2, 4)),
    "b2": ((4, 6, 16, 1), (2.5, 2.5, 2.5, 5)),
    "b3": ((4, 6, 16, 1), (3, 3, 3, 5)),
}


class RepVGGBlock(nn.Module):
    """Normalised 3 × 3 and 1 × 1 convolutions, and the normalised input where the shape stays; then ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        same = stride == 1 and channels_in == channels_out
        self.rbr_identity = nn.BatchNorm2d(channels_in) if same else None
        self.rbr_dense = _normalized(nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False))
        self.rbr_1x1 = _normalized(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.rbr_dense(x) + self.rbr_1x1(x)
        return self.relu(out if self.rbr_identity is None else out + self.rbr_identity(x))


class RepVGG(nn.Module):
    """A block, four stages of blocks, average pooling and a linear classifier, for small images.

    The stem and the first stage keep height and width; of each later stage the first block halves them.

    Parameters
    ----------
    blocks
        How many blocks each stage has.
    widths
        How many times its usual 64, 128, 256, 512 channels each stage has.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[float], channels: int, num_classes: int):
        super().__init__()
        width_in = min(64, int(64 * widths[0]))
        self.stage0 = RepVGGBlock(channels, width_in, 1)
        for number, (count, times) in enumerate(zip(blocks, widths, strict=True), start=1):
            width = int(32 * 2**number * times)
            stage = nn.Sequential()
            for index in range(count):
                stage.append(RepVGGBlock(width_in, width, 2 if index == 0 and number > 1 else 1))
                width_in = width
            self.add_module(f"stage{number}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(5):
            x = getattr(self, f"stage{number}")(x)
        return self.linear(self.avgpool(x).flatten(1))


def halve_at_once(network: nn.Module) -> bool:
    """Make a RepVGG one for large images, whose stem and first stage halve; False where it is none."""
    if not isinstance(network, RepVGG) or network.stage1[0].rbr_identity is not None:
        return False
    for block in (network.stage0, network.stage1[0]):
        for branch in (block.rbr_dense, block.rbr_1x1):
            branch.conv.stride = (2, 2)
    return True


def _normalized(convolution: nn.Conv2d) -> nn.Sequential:
    branch = nn.Sequential()
    branch.add_module("conv", convolution)
    branch.add_module("bn", nn.BatchNorm2d(convolution.out_channels))
    return branch
