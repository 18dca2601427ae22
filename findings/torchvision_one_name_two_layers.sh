#!/usr/bin/env bash
# torchvision's feature extraction gives one name to two layers, and the layer asked for is not the one that is got.
#
# Versions: torch 2.13.0, torchvision 0.28.0.
# Expected: a network with the modules conv_1 and conv_2, called in this order, has the nodes conv_1 and conv_2, and
#   create_feature_extractor(network, ["conv_1"]) gives what the module conv_1 puts out. The documentation says
#   that a node is named by the path of its module ("layer4.2.relu"), and that only a further call of the same
#   module gets a number behind it ("layer4.2.relu_1", "layer4.2.relu_2").
# What happens: names that end in an underscore and a number are numbered anew, as if they were calls of one
#   module: conv_1 and conv_2 are listed as "conv" and "conv_1". Asked for "conv_1", it gives the values of the
#   module conv_2, without a warning.
# Who meets it: whoever reads layers by name from networks whose modules are numbered with an underscore: fc_1 and
#   fc_2, norm_1 and norm_2, and ln_1 and ln_2 of torchvision's own vision transformers, where "ln_1" is ln_2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn

try:
    import torchvision.models.feature_extraction as extraction
except RuntimeError:
    # A torchvision built for CUDA does not load its operators beside a torch without it, and then fails to
    # import. Nothing here needs them: their names are enough.
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.models.feature_extraction as extraction
import torchvision


class Numbered(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_1 = nn.Conv2d(3, 4, 3)
        self.conv_2 = nn.Conv2d(4, 5, 3)

    def forward(self, images):
        return self.conv_2(self.conv_1(images))


torch.manual_seed(0)
network, images = Numbered().eval(), torch.rand(2, 3, 8, 8)
_, names = extraction.get_graph_node_names(network)
got = extraction.create_feature_extractor(network, ["conv_1"])(images)["conv_1"]
first = network.conv_1(images)
second = network.conv_2(first)
print("modules:   ", [name for name, _ in network.named_children()])
print("node names:", names)
print('asked for "conv_1", got a value of shape', tuple(got.shape))
print("  it is what the module conv_1 puts out:", got.shape == first.shape and torch.equal(got, first))
print("  it is what the module conv_2 puts out:", got.shape == second.shape and torch.equal(got, second))
assert names[1:] == ["conv", "conv_1"], "the names have changed"
assert got.shape == second.shape and torch.equal(got, second), "the value has changed"

# Of torchvision's own networks: in each block of a vision transformer, ln_1 is before attention, ln_2 behind it.
sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
transformer = torchvision.models.VisionTransformer(image_size=32, patch_size=16, **sizes).eval()
block = "encoder.layers.encoder_layer_0"
seen = {}
for name in ("ln_1", "ln_2"):
    module = transformer.get_submodule(f"{block}.{name}")
    module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
with torch.no_grad():
    images = torch.rand(2, 3, 32, 32)
    transformer(images)
    got = extraction.create_feature_extractor(transformer, [f"{block}.ln_1"])(images)[f"{block}.ln_1"]
print(f'vision transformer, asked for "{block}.ln_1"')
print("  it is what the module ln_1 puts out:", torch.allclose(got, seen["ln_1"]))
print("  it is what the module ln_2 puts out:", torch.allclose(got, seen["ln_2"]))
assert torch.allclose(got, seen["ln_2"]) and not torch.allclose(got, seen["ln_1"]), "the value has changed"
PYTHON
