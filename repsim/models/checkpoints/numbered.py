"""Names of architectures that hold numbers, read off the shapes of their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from repsim.models.residual import BLOCKS, BOTTLENECKS

Shapes = Mapping[str, tuple[int, ...]]
THIRD_BLOCK = {24: 121, 36: 161, 32: 169, 48: 201}  # layers of a DenseNet (Huang et al., 2017, table 1)


def numbered(shapes: Shapes) -> Iterator[str]:
    """Names of ours that hold numbers, as the weights would have them."""
    if len(first := shapes.get("features.0.weight", ())) == 4:
        yield "vgg_tiny" if first[0] == 8 else f"vgg_tiny_w{first[0]}"
    if "conv1.weight" in shapes and "layer1.0.conv1.weight" in shapes:
        yield from _residual(shapes)
    yield from _others(shapes)


def _residual(shapes: Shapes) -> Iterator[str]:
    stem, first = shapes["conv1.weight"], shapes["layer1.0.conv1.weight"]
    blocks = tuple(_blocks(shapes, stage) for stage in (1, 2, 3, 4))
    if blocks[3]:
        yield from _four_stages(shapes, stem[0], blocks)
    elif "layer1.0.conv3.weight" in shapes:
        before = "pre" if "bn2.weight" in shapes else ""
        yield f"{before}resnet{9 * blocks[0] + 2}_w{max(1, stem[0] // 16)}_bottleneck"
    elif "bn2.weight" in shapes:  # pre-activation
        yield f"wrn_{6 * blocks[0] + 4}_{max(1, first[0] // 16)}{_kind(shapes)}"
    else:
        yield from _three_stages(shapes, stem[0], 6 * blocks[0] + 2)


def _blocks(shapes: Shapes, stage: int) -> int:
    return len({key.split(".")[1] for key in shapes if key.startswith(f"layer{stage}.")})


def _kind(shapes: Shapes) -> str:
    """The end of a pre-activation network's name, from its first and last layers."""
    if "conv1.bias" in shapes:
        return "_bias"
    return "" if "fc.bias" in shapes else "_he"


def _four_stages(shapes: Shapes, stem: int, blocks: tuple[int, ...]) -> Iterator[str]:
    has_bottlenecks = "layer1.0.conv3.weight" in shapes
    found = (d for d, counts in BLOCKS.items() if counts == blocks and (d in BOTTLENECKS) == has_bottlenecks)
    depth, starts, ends = next(found, None), "bn1.weight" in shapes, "bn2.weight" in shapes
    if depth is None or (starts and "conv1.bias" not in shapes):  # rather a ResNet whose blocks end in relu
        return
    padded = "layer2.0.shortcut.1.weight" in shapes  # the name of a convolution behind its padding
    name = f"dm_preactresnet{depth}" if padded else f"preactresnet{depth}"
    kind = _kind(shapes) if ends or starts else "_no_final_bn"
    yield f"{name}{kind}" + ("" if stem == 64 else f"_w{stem}")


def _three_stages(shapes: Shapes, stem: int, depth: int) -> Iterator[str]:
    projects = any(key.startswith("layer2.0.shortcut.") for key in shapes)
    if stem % 16 == 0:
        yield f"resnet{depth}_w{stem // 16}" + ("" if projects else "_option_a")
    yield from (name for name in ("resnet_tiny", "resnet_tiny_deep") if stem == 8)
    yield f"resnet_tiny_d{depth}_w{stem}"


def _others(shapes: Shapes) -> Iterator[str]:
    if last := shapes.get("hidden.4.weight"):
        yield f"mlp_w{last[0]}" if last[0] != 64 else "mlp"
    if "classifier.3.weight" in shapes and shapes.get("classifier.0.weight", (0, 0))[1] == 512:
        convolutions = sum(len(shape) == 4 for shape in shapes.values())
        norm = "_bn" if "features.1.running_mean" in shapes else ""
        heads = (at for at in (0, 3) if f"classifier.{at + 3}.weight" in shapes)
        widths = (shapes[f"classifier.{at}.weight"][0] for at in heads)
        yield f"vgg{convolutions + 3}{norm}_h" + "_".join(map(str, widths))
    layers = len({key.split(".")[2] for key in shapes if key.startswith("features.denseblock3.")})
    if layers in THIRD_BLOCK and "features.norm0.weight" not in shapes:
        yield f"densenet{THIRD_BLOCK[layers]}_conv_stem"
    last = shapes.get("features.17.conv.2.weight")
    if last and last[0] != 320:
        yield f"mobilenet_v2_x{last[0] / 320:.3g}".replace(".", "_")
