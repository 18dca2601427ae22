"""Networks that several test files cut, watch and stitch."""

import torch
import torch.nn.functional as F
from torch import nn


def randomized(network, seed=0):
    """A network whose every weight and statistic is random: no two layers agree by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


class Inplace(nn.Module):
    """Overwrites what its layers put out in every way there is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.bn2 = nn.BatchNorm2d(4)
        self.bn3 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        skip = self.conv(x)
        x = self.relu(self.bn1(skip))
        x = F.relu(self.bn2(x), inplace=True)
        x = self.bn3(x)
        x += skip
        x = F.relu_(x)
        return self.fc(x.mean((2, 3)))


class Branching(nn.Module):
    """Cannot be traced: it looks at its values. One module is called twice, in place."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        if x.sum() < 0:
            x = -x
        x = self.pool(self.relu(self.conv2(x)))
        return self.fc(F.relu(x).mean((2, 3)))


class Aside(nn.Module):
    """Computes what its output does not depend on."""

    def __init__(self, branching=False):
        super().__init__()
        self.aside, self.fc = nn.Linear(768, 5), nn.Linear(768, 3)
        self.branching = branching

    def forward(self, x):
        x = x.flatten(1)
        if self.branching and x.sum() > 1e9:
            x = -x
        self.aside(x)
        return self.fc(x)
