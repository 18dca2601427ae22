#!/usr/bin/env bash
# A traced network has the same values and other gradients: torch.fx looks through torch.autograd.Function.
#
# Versions: torch 2.13.0.
# Expected: torch.fx.symbolic_trace(network) computes what the network computes, its gradients too, or says that
#   it cannot.
# What happens: the forward of a torch.autograd.Function is recorded as the operations inside it, and its backward
#   is gone; so is `torch.no_grad()` around a part of the forward, which is run while tracing and is no node. The
#   values are equal, the gradients are not, and nothing is said. (Of `torch.no_grad()` PyTorch knows: issue 62043,
#   closed, says that torch.fx does not support context managers.)
# Who meets it: whoever traces networks with straight-through estimators, gradient reversal, surrogate gradients
#   of spiking networks or a frozen part under `torch.no_grad()`, and then trains, attacks or explains them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/python" -W ignore::UserWarning - <<'PYTHON'
import torch
from torch import fx, nn


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * 1.0

    @staticmethod
    def backward(context, gradient):
        return -gradient


class Reversed(nn.Module):
    def forward(self, x):
        return Reversal.apply(x).square()


class PartlyFrozen(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            scale = x.exp()
        return scale * x


def gradient(network, x):
    x = x.clone().requires_grad_()
    value = network(x)
    value.sum().backward()
    return value.detach(), x.grad


x = torch.tensor([0.5, 1.0, 2.0])
for network in (Reversed(), PartlyFrozen()):
    traced = fx.symbolic_trace(network)
    (value, own), (traced_value, other) = gradient(network, x), gradient(traced, x)
    print(f"{type(network).__name__}: values equal: {torch.equal(value, traced_value)}")
    print(f"  gradient of the network: {own.tolist()}")
    print(f"  gradient once traced:    {other.tolist()}")
    assert torch.equal(value, traced_value), "the values have changed"
    assert not torch.allclose(own, other), "the gradients are right now"
PYTHON
