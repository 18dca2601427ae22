"""What a whole pickled network says of itself: its weights, and its layers with their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

# Settings of layers that weights do not show, by their names in torch.
SETTINGS = (
    *("stride", "padding", "dilation", "groups", "kernel_size", "padding_mode", "ceil_mode"),
    *(
        "count_include_pad",
        "output_size",
        "eps",
        "affine",
        "negative_slope",
        "beta",
        "threshold",
        "approximate",
    ),
    *("p", "transform_input"),
)
Layers = dict[str, dict[str, object]]


def is_network(content: object) -> bool:
    """Whether this is a pickled network, its class installed or not."""
    return isinstance(content, nn.Module) or (
        hasattr(content, "__dict__") and isinstance(vars(content).get("_modules"), Mapping)
    )


def tensors_of(network: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """A network's weights by its own record, so that its class need not be installed."""
    if isinstance(network, torch.jit.ScriptModule):
        yield from network.state_dict().items()
        return
    parts = vars(network)
    left_out = parts.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in parts.get(kind, {}).items():
            if value is not None and name not in left_out:
                yield prefix + name, value.detach()
    for name, child in parts.get("_modules", {}).items():
        if child is not None:
            yield from tensors_of(child, f"{prefix}{name}.")


def layers_of(network: object, name: str = "") -> Iterator[tuple[str, dict[str, object]]]:
    """Names of a network's modules, itself as "" → class and those settings that its weights do not show.

    Of TorchScript, whose modules keep no settings, only the classes are known.
    """
    if isinstance(network, torch.jit.ScriptModule):
        yield from ((name, {"class": each.original_name}) for name, each in network.named_modules())
        return
    parts = vars(network)
    settings = {key: parts[key] for key in SETTINGS if _is_plain(parts.get(key))}
    yield name, {"class": type(network).__name__, **settings}
    for key, child in parts.get("_modules", {}).items():
        if child is not None:
            yield from layers_of(child, f"{name}.{key}" if name else key)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    return isinstance(value, bool | int | float | str)
