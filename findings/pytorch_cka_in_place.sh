#!/usr/bin/env bash
# pytorch-cka gives the layer before an in-place ReLU the values behind it.
#
# Versions: pytorch-cka 1.1.3, torch 2.13.0.
# Expected: ReLU(inplace=True) and ReLU() make the same network, and their maps are the same: the row of the BatchNorm
#   before it is of what the BatchNorm puts out.
# What happens: outputs are kept by hooks as references (`detach` copies nothing), and are used once the whole network
#   has run. By then the ReLU has written into the BatchNorm's output: its row and column are the ReLU's, and CKA of
#   the two is exactly 1. Nothing is said.
# Who meets it: whoever compares all layers of torchvision's ResNets, VGGs, DenseNets or MobileNets, which have
#   in-place activations throughout: many rows of the map are copies of their neighbours.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 pytorch-cka==1.1.3
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from cka import compute_cka
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def build(inplace):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace), nn.Conv2d(8, 8, 3)).eval()


def debiased_cka(x, y):
    """From HSICs of Song et al. (2012), equation 5, of centred features in float64."""

    def hsic(k, l):
        n = len(k)
        k, l = (matrix - matrix.diagonal().diag() for matrix in (k, l))
        mean = k.sum() * l.sum() / ((n - 1) * (n - 2))
        return (k * l).sum() + mean - 2 / (n - 2) * k.sum(1) @ l.sum(1)

    x, y = ((side - side.mean(0)).flatten(1).double() for side in (x, y))
    k, l = x @ x.T, y @ y.T
    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


torch.manual_seed(1)
images = torch.randn(128, 3, 12, 12)
loader = DataLoader(TensorDataset(images), batch_size=128)
maps = []
with torch.no_grad():
    assert torch.equal(build(False)(images), build(True)(images))
    normalized = build(False)[:2](images)
    right = debiased_cka(normalized, normalized.relu())
for inplace in (False, True):
    network = build(inplace)
    maps.append(compute_cka(network, network, loader, device="cpu", progress=False)[0])
    print(f"ReLU(inplace={inplace}): CKA of BatchNorm with ReLU {maps[-1][1, 2]:.4f}, by the formula {right:.4f}")
    print("  row of the BatchNorm:", [round(value, 3) for value in maps[-1][1].tolist()])
    print("  row of the ReLU:     ", [round(value, 3) for value in maps[-1][2].tolist()])
assert abs(maps[0][1, 2] - right) < 1e-3 and right < 0.95
assert torch.equal(maps[1][1], maps[1][2]), "outputs are copied now"
PYTHON
