#!/usr/bin/env bash
# pytorch-cka says that a matrix is not similar to itself, where means are large beside what varies.
#
# Versions: pytorch-cka 1.1.3, torch 2.13.0.
# Expected: CKA of a matrix with itself is 1, and of two different ones the same in float32 and float64 but for
#   rounding: CKA does not depend on the features' means. The package calls itself "numerically stable".
# What happens: Gram matrices of features that are not centred are made and centred in float32. Where the mean is
#   50 times the standard deviation, nothing is left but rounding: CKA of a matrix with itself, and of two
#   independent ones, is 0 or 1, by chance. In float64 the same call is right. Nothing is said.
# Who meets it: whoever compares layers with large biases or after ReLUs and poolings whose values are far from 0,
#   in the usual float32; `compute_cka` and `cka_from_features` alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 pytorch-cka==1.1.3
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from cka import cka_from_features, compute_cka
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Shifted(nn.Module):
    """One layer, that puts out what it takes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        return self.layer(x)


wrong = 0
for seed in range(10):
    generator = torch.Generator().manual_seed(seed)
    x, y = (5 + 0.1 * torch.randn(256, 64, generator=generator) for _ in range(2))
    itself, of_double = cka_from_features(x, x).item(), cka_from_features(x.double(), x.double()).item()
    network, loader = Shifted(), DataLoader(TensorDataset(x), batch_size=256)
    by_network = compute_cka(network, network, loader, layers=["layer"], device="cpu", progress=False)[0].item()
    other, other_double = cka_from_features(x, y).item(), cka_from_features(x.double(), y.double()).item()
    centered = cka_from_features(x - x.mean(0), x - x.mean(0)).item()
    print(
        f"x with x: float32 {itself:.3f}, by compute_cka {by_network:.3f}, float64 {of_double:.3f}, "
        f"float32 of x - mean {centered:.3f}; x with y: float32 {other:.3f}, float64 {other_double:.3f}"
    )
    assert abs(of_double - 1) < 1e-3 and abs(centered - 1) < 1e-3
    wrong += itself < 0.5
print(f"of 10 matrices, {wrong} have a CKA below 0.5 with themselves")
assert wrong >= 2, "CKA of a matrix with itself is right now"
PYTHON
