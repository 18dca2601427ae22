"""Where channels are, in networks that have them now first and now last: values against the bare network's.

There are as many channels as rows, or as tokens of a window, so that shapes do not tell one from the other.
"""

import pytest
import torch
from torch import nn
from toy_networks import randomized

from repsim.activations import Observer, capture, trace
from repsim.measures import MEASURES
from repsim.studies.cka_maps.layer_maps import layer_cka
from repsim.support.compat import torchvision

convnext, maxvit, swin = (
    getattr(torchvision.models, name) for name in ("convnext", "maxvit", "swin_transformer")
)
MAXVIT = "blocks.0.layers.0.layers."


def small_swin():
    return swin.SwinTransformer([2, 2], 8, [1, 2], [2, 2], [4, 4], num_classes=5)


def small_convnext():
    blocks = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)]
    return convnext.ConvNeXt(blocks, num_classes=5)


def small_maxvit():
    return maxvit.MaxVit((16, 16), 4, 2, [4], [1], 4, 0.0, num_classes=5)


LAST, FIRST = (1, 2), (2, 3)  # positions in (n, …), where channels are last, and where they are first
# What builds it, its image, and by layer where the positions are.
NETWORKS = {
    "Swin": (
        small_swin,
        (3, 16, 16),
        {
            "features.0.0": FIRST,
            "features.0.2": LAST,
            "features.1.0.mlp.1": LAST,
            "features.3.1.add_1": LAST,  # after a shifted window
            "permute": FIRST,
        },
    ),
    "ConvNeXt": (
        small_convnext,
        (3, 32, 32),
        {
            "features.0.1": FIRST,  # a LayerNorm between two permutations
            "features.1.0.block.2": LAST,
            "features.1.0.block.4": LAST,
            "features.1.0.add": FIRST,
        },
    ),
    "MaxViT": (
        small_maxvit,
        (3, 16, 16),
        {  # (n, windows, tokens, channels) but for the first and the last
            f"{MAXVIT}MBconv.layers.conv_c": FIRST,
            f"{MAXVIT}window_attention.partition_op": LAST,
            f"{MAXVIT}grid_attention.partition_swap": LAST,
            f"{MAXVIT}grid_attention.mlp_layer.2": LAST,
            f"{MAXVIT}grid_attention.departition_op": FIRST,
        },
    ),
}


def values_of(network, images, modules):
    """What modules put out, by hooks on the bare network."""
    found = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: output.clone()})
        )
        for name in modules
    ]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return [found[name] for name in modules]


def as_traced(network):
    return network


def as_hooked(network):
    """The same network, whose forward pass decides by its values, so that no graph is made of it."""

    class Deciding(type(network)):
        def forward(self, x):
            return super().forward(-x if x.sum() < -1 else x)

    network.__class__ = Deciding
    return network


@pytest.mark.parametrize(
    ("name", "read"), [*((name, as_traced) for name in NETWORKS), ("ConvNeXt", as_hooked)]
)
def test_values_and_their_means_over_positions_are_the_networks(name, read):
    build, shape, layers = NETWORKS[name]
    torch.manual_seed(0)
    network = read(randomized(build()))
    images = torch.rand(8, *shape)
    if read is as_hooked:  # where sums are no layers
        layers = {layer: axes for layer, axes in layers.items() if ".add" not in layer}
    modules = [layer.partition(".add")[0] for layer in layers]  # a block puts out its last sum
    values = values_of(network, images, modules)
    means = [value.mean(axes) for value, axes in zip(values, layers.values(), strict=True)]
    graph = trace(network, shape)
    assert graph.how == read.__name__.removeprefix("as_")
    captured = capture(graph, images, list(layers))
    for pool, expected in ((False, [value.flatten(1) for value in values]), (True, means)):
        observed = Observer(graph, list(layers), pool=pool).observe(images).values
        maps = layer_cka(
            graph,
            graph,
            images,
            layers_a=list(layers),
            layers_b=list(layers)[-1],
            estimator="biased",
            batch_size=None,
            pool=pool,
            progress=False,
        )
        for layer, value, row in zip(layers, expected, maps["value"], strict=True):
            torch.testing.assert_close(observed[layer], value, rtol=1e-3, atol=1e-4)
            assert row == pytest.approx(MEASURES["cka"](value, expected[-1]), abs=1e-5)
    for layer, value in zip(layers, values, strict=True):
        torch.testing.assert_close(captured[layer], value, rtol=1e-3, atol=1e-4)


class Windows(nn.Module):
    """Windows of 4 × 4 positions, folded into the batch, with as many channels as a window has positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.mix, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        maps = self.embed(x).permute(0, 2, 3, 1)  # (n, 8, 8, 16)
        windows = maps.unflatten(1, (2, 4)).unflatten(3, (2, 4)).transpose(2, 3).reshape(-1, 16, 16)
        windows = self.mix(self.norm(windows)).relu()
        return self.head(windows.unflatten(0, (-1, 4)).mean((1, 2)))


@pytest.mark.parametrize("read", [as_traced, as_hooked])
def test_windows_in_the_batch_are_positions_of_their_image(read):
    torch.manual_seed(0)
    network = read(randomized(Windows()))
    images = torch.rand(6, 3, 16, 16)
    means = [value.view(6, 64, 16).mean(1) for value in values_of(network, images, ["norm", "mix"])]
    graph = trace(network, (3, 16, 16))
    assert graph.how == read.__name__.removeprefix("as_")
    assert graph.layers["mix"].shape == (4, 16, 16)
    observed = Observer(graph, ["norm", "mix"], pool=True).observe(images).values
    for layer, value in zip(("norm", "mix"), means, strict=True):
        torch.testing.assert_close(observed[layer], value, rtol=1e-3, atol=1e-4)
    options = {"layers_a": "norm", "layers_b": "mix", "estimator": "biased", "pool": True, "progress": False}
    found = layer_cka(graph, graph, images, batch_size=None, **options)["value"].item()
    assert found == pytest.approx(MEASURES["cka"](*means), abs=1e-5)
