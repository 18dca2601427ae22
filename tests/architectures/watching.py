"""What a network computes, watched by plain forward hooks: no code of the package is used here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

AFFINE = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass
class Watched:
    """The values of every call of every module, by name, and the network's output."""

    values: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    calls: dict[str, list[str]] = field(default_factory=dict)  # path → the names of its calls
    taken: dict[str, Tensor] = field(default_factory=dict)  # what affine modules take
    order: list[str] = field(default_factory=list)
    output: object = None

    @property
    def logits(self) -> Tensor | None:
        """The network's own logits: its output, or what a mapping or a tuple has of them."""
        output = self.output
        if isinstance(output, Mapping):
            output = output.get("logits")
        elif isinstance(output, tuple | list) and len(output):
            output = output[0]
        return output if isinstance(output, Tensor) and output.dim() == 2 else None


@torch.no_grad()
def watch(network: nn.Module, images: Tensor) -> Watched:
    """Run a network once. A call of a module is named by the module's path; a second one `path_1`, …"""
    watched = Watched()
    paths = {path for path, _ in network.named_modules()}

    def name_of(path: str) -> str:
        calls = watched.calls.setdefault(path, [])
        name, number = path, 0
        while (number and name in paths) or name in watched.values:
            number += 1
            name = f"{path}_{number}"
        calls.append(name)
        return name

    def hooks_for(path: str, module: nn.Module):
        def before(module: nn.Module, inputs: tuple) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                watched.taken[path] = inputs[0].clone()

        def after(module: nn.Module, inputs: tuple, output: object) -> None:
            value = _first_tensor(output)
            if value is not None:
                name = name_of(path)
                watched.values[name] = value.clone()  # the network may work in place
                watched.modules[name] = module
                watched.order.append(name)

        return before, after

    handles = []
    for path, module in network.named_modules():
        before, after = hooks_for(path, module)
        if path:
            handles.append(module.register_forward_hook(after))
        if isinstance(module, AFFINE):
            handles.append(module.register_forward_pre_hook(before))
    try:
        watched.output = network(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return watched


def _first_tensor(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list) and len(value):
        return _first_tensor(value[0])
    return None


# linear layers of MLP-like networks that act across tokens, (images, channels, tokens)
ACROSS_TOKENS = ("mlp_tokens.", "linear_tokens", "gate.proj")


def channel_axis(name: str, module: nn.Module, value: Tensor) -> int | None:
    """Which axis of a module's value holds the channels, as far as its kind says; None where it does not."""
    if value.dim() <= 2:
        return value.dim() - 1
    if any(words in name for words in ACROSS_TOKENS):
        return 1
    if isinstance(module, nn.Linear):
        return value.dim() - 1
    spatial = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    if isinstance(module, spatial):
        return 1
    if type(module) is nn.LayerNorm:  # those of timm and torchvision for maps are subclasses
        return value.dim() - 1
    return None


def rows_first(raw: Tensor, count: int) -> list[Tensor]:
    """Every way to read a raw value as one row for each image: the images' axis may be any, or folded."""
    readings = []
    for axis, size in enumerate(raw.shape):
        if size % count:
            continue
        folded = size // count
        outer = raw.unflatten(axis, (count, folded)).movedim(axis, 0)
        inner = raw.unflatten(axis, (folded, count)).movedim(axis + 1, 0)
        readings += [outer, inner] if folded > 1 else [outer.squeeze(axis + 1)]
    return readings


def cka(x: Tensor, y: Tensor, estimator: str) -> float:
    """Linear CKA of two matrices, one row for each image, in float64 (Kornblith 2019; Song 2012)."""
    n = len(x)
    centering = torch.eye(n, dtype=torch.float64) - 1 / n

    def gram(features: Tensor) -> Tensor:
        features = features.double().flatten(1)
        features = features - features.mean(0)
        return features @ features.T

    def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        if estimator == "biased":
            return torch.trace(k @ centering @ l @ centering)
        k, l = (matrix - matrix.diag().diag() for matrix in (k, l))  # noqa: E741
        ones = torch.ones(n, dtype=torch.float64)
        whole = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
        return torch.trace(k @ l) + whole - 2 / (n - 2) * (ones @ k @ l @ ones)

    k, l = gram(x), gram(y)  # noqa: E741
    return (hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()).item()
