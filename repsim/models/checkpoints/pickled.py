"""Weights and modules of a whole pickled network, its class installed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from repsim.models.checkpoints import normalizers
from repsim.models.checkpoints.modules import Layers, described


def is_network(content: object) -> bool:
    """Whether this is a pickled network, or what stands in for one whose class is not installed."""
    return isinstance(content, nn.Module) or (
        hasattr(content, "__dict__") and isinstance(vars(content).get("_modules"), Mapping)
    )


def tensors_of(network: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """A network's weights by its own record."""
    if isinstance(network, torch.jit.ScriptModule):
        yield from network.state_dict().items()
        return
    parts = vars(network)
    left_out = parts.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in parts.get(kind, {}).items():
            if value is not None and name not in left_out:
                yield prefix + name, value.detach()
    yield from ((prefix + name, value) for name, value in _normalizer_of(parts))
    for name, child in _children(network):
        yield from tensors_of(child, f"{prefix}{name}.")


def _normalizer_of(parts: Mapping) -> Iterator[tuple[str, Tensor]]:
    """Mean and deviation that a module has as attributes, or as buffers that are not saved with it."""
    left_out = parts.get("_non_persistent_buffers_set", ())
    plain = {**parts, **{name: parts["_buffers"].get(name) for name in left_out}}
    for names in normalizers.NAMES:
        pair = [_numbers(plain.get(name)) for name in names]
        if all(each is not None for each in pair):
            yield from zip(names, pair, strict=True)
            return


def _numbers(value: object) -> Tensor | None:
    """Numbers per channel as a tensor; None of anything else."""
    if isinstance(value, list | tuple) and all(isinstance(each, int | float) for each in value):
        value = torch.tensor(value, dtype=torch.float64)
    return value.detach() if isinstance(value, Tensor) and value.numel() in (1, 3) else None


def layers_of(network: object) -> Layers | None:
    """All modules of a network by their names; None of TorchScript, whose modules keep no settings."""
    if isinstance(network, torch.jit.ScriptModule):
        return None
    return {name: described(module) for name, module in _named(network, "")}


def _named(network: object, prefix: str) -> Iterator[tuple[str, object]]:
    for name, child in _children(network):
        yield prefix + name, child
        yield from _named(child, f"{prefix}{name}.")


def _children(network: object) -> Iterator[tuple[str, object]]:
    modules = vars(network).get("_modules", {})
    return ((name, child) for name, child in modules.items() if child is not None)
