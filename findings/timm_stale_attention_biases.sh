#!/usr/bin/env bash
# After load_state_dict, a timm network that has already run answers with some of its old weights.
#
# Versions: timm 1.0.31, torch 2.13.0.
# Expected: network.load_state_dict(weights) says that all keys match, and from then on the network computes what
#   any other network with these weights computes.
# What happens: LeViT, TinyViT, EfficientFormer and EfficientViT (MSRA) keep the biases of their attention, picked
#   out for every pair of positions, from the first forward pass in evaluation mode on. Weights that are loaded
#   later, or changed in place, do not reach them: logits are a mixture of old and new weights, without a warning,
#   until train() is called, which no evaluation does.
# Who meets it: whoever evaluates several checkpoints, or averages of weights, with one network object in evaluation
#   mode; and whoever perturbs weights of one that has run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 timm==1.0.31
"$folder/venv/bin/python" - <<'PYTHON'
import torch

try:
    import timm
except RuntimeError:
    # A torchvision built for CUDA does not load its operators beside a torch without it, and then fails to
    # import. Nothing here needs them: their names are enough.
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] in ("torchvision", "timm")]:
        del sys.modules[name]
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm


def build(name, seed):
    """A network whose every weight has been moved at random, as training would."""
    torch.manual_seed(seed)
    network = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network


images = torch.rand(2, 3, 224, 224)
for name in ("levit_128s", "tiny_vit_5m_224", "efficientformer_l1", "efficientvit_m0"):
    weights = build(name, 1).state_dict()
    network, fresh = build(name, 0), build(name, 2)
    with torch.no_grad():
        network(images)  # it has run once, with other weights
        keys = network.load_state_dict(weights)
        fresh.load_state_dict(weights)
        right, loaded = fresh(images), network(images)
        again = network.train().eval()(images)
    error = ((loaded - right).abs().max() / right.abs().max()).item()
    print(f"{name}: {keys}")
    print(f"  off by {error:.1e} of the largest logit; after train().eval() equal: {torch.equal(again, right)}")
    assert error > 1e-5, "the loaded weights are all used now"
    assert torch.equal(again, right)
PYTHON
