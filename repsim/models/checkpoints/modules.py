"""Modules of a whole pickled network, compared with those of one of ours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from torch import nn

Layers = Mapping[
    str, Mapping[str, object]
]  # module name → its class, and its settings as far as they are told
SETTINGS = ("stride", "padding", "dilation", "eps", "negative_slope", "transform_input")
CONVOLUTIONS, NORMS = {"Conv2d"}, {"BatchNorm2d"}
WEIGHTED = CONVOLUTIONS | NORMS | {"Linear", "LayerNorm", "GroupNorm"}
IDLE = re.compile("Identity|Drop|Flatten|Adaptive")  # global pooling is written in many ways
POOLING = {"MaxPool2d", "AvgPool2d", "Identity"}
ACTIVATIONS = {
    *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "SiLU", "GELU", "Softplus", "ELU", "CELU", "SELU", "Mish"),
    *("Hardswish", "Hardtanh", "Tanh", "Sigmoid"),
}


def described(module: object) -> dict[str, object]:
    """The class of a module and what its weights do not tell: `{"class": "Conv2d", "stride": (2, 2), …}`.

    The module may be a stand-in for one whose class is not installed.
    """
    settings = vars(module)
    told = {name: settings[name] for name in SETTINGS if isinstance(settings.get(name), int | float | tuple)}
    return {"class": type(module).__name__, **told}


def layers_of(network: nn.Module) -> Layers:
    """All modules of a network by their names."""
    return {path: described(module) for path, module in network.named_modules() if path}


def alike(one: Layers, other: Layers) -> bool:
    """Whether two networks of the same weights do the same with them, as far as their modules tell.

    One may call a module twice where the other has two, or have some that do nothing: only those with weights
    are counted.
    """
    return _kinds(one) == _kinds(other)


def _kinds(layers: Layers) -> tuple[Counter, frozenset]:
    parents = {path.rpartition(".")[0] for path in layers}
    weighted, others = Counter(), set()
    for path, layer in layers.items():
        kind = layer["class"].replace("BatchNormAct2d", "BatchNorm2d")  # timm's, which is followed by ReLU
        told = (kind, *((name, str(value)) for name, value in layer.items() if name != "class"))
        if kind in WEIGHTED:
            weighted[told] += 1
        elif path not in parents and not IDLE.search(kind):
            others.add(told)
    return weighted, frozenset(others)


def agree(theirs: Layers, ours: Layers) -> bool:
    """Whether the modules of a pickled network do what those of one of ours do.

    Functions that a network calls are not among its modules: where it has no activations or no pooling,
    nothing is known of them.
    """
    compared = (*((CONVOLUTIONS, name) for name in ("stride", "padding", "dilation")), (NORMS, "eps"))
    for classes, setting in compared:
        if _counts(theirs, classes, setting) != _counts(ours, classes, setting):
            return False
    theirs_active, ours_active = _activations(theirs), _activations(ours)
    if theirs_active and theirs_active != ours_active:
        return False
    same = theirs.keys() & ours.keys()
    pooled = [path for path in same if POOLING & {theirs[path]["class"], ours[path]["class"]}]
    return all(theirs[path]["class"] == ours[path]["class"] for path in pooled)


def told(layers: Layers) -> str:
    """Activations and pooling of a network in words: `17 SiLU, 1 MaxPool2d`."""
    held = Counter(layer["class"] for layer in layers.values() if layer["class"] in ACTIVATIONS | POOLING)
    return ", ".join(f"{count} {kind}" for kind, count in held.items()) or "strides or BatchNorms"


def _activations(layers: Layers) -> set[tuple]:
    return {
        (layer["class"], layer.get("negative_slope"))
        for layer in layers.values()
        if layer["class"] in ACTIVATIONS
    }


def _counts(layers: Layers, classes: set[str], setting: str) -> Counter:
    return Counter(str(layer.get(setting)) for layer in layers.values() if layer["class"] in classes)
