"""Copies of networks, and of their parts, that nothing done to the original changes."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

Held = TypeVar("Held")
MUTABLE = (list, dict, set)
OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Put back, after the block, what a network sets of its own while it runs: attributes, lists, buffers.

    A cache that is filled lazily would otherwise hold what stood for a tensor, or a trial's values, for good.
    """
    modules = list(network.modules())
    attributes = [_own_attributes(module) for module in modules]
    held = [value for own in attributes for value in own.values() if isinstance(value, MUTABLE)]
    contents = [copy.copy(value) for value in held]
    buffers = [(module, dict(module._buffers)) for module in modules]
    values = [(buffer, buffer.clone()) for _, own in buffers for buffer in own.values() if buffer is not None]
    try:
        yield
    finally:
        for module, own in zip(modules, attributes, strict=True):
            for name in set(_own_attributes(module)) - set(own):
                del vars(module)[name]
            vars(module).update(own)
        for value, before in zip(held, contents, strict=True):
            if _identities(value) != _identities(before):
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(before)
        for module, own in buffers:
            if set(module._buffers) != set(own) or any(
                module._buffers[name] is not own[name] for name in own
            ):
                module._buffers.clear()
                module._buffers.update(own)
        with torch.no_grad():
            for buffer, before in values:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def _own_attributes(module: nn.Module) -> dict[str, object]:
    """The attributes of a module beyond those that every module has."""
    return {name: value for name, value in vars(module).items() if name not in OF_EVERY_MODULE}


def _identities(held: list | dict | set) -> list[tuple]:
    """The objects that are held; they are not compared, since tensors give no single answer to that."""
    pairs = held.items() if isinstance(held, dict) else enumerate(held)
    return [(key, id(each)) for key, each in pairs]


def frozen(network: nn.Module) -> nn.Module:
    """The network itself, put into evaluation mode; no weight takes a gradient."""
    return network.eval().requires_grad_(False)


def copied(held: Held, modules: Iterable[nn.Module]) -> Held:
    """A deep copy of a network, or of a mapping of its parts; what they share stays shared.

    Beyond what `copy.deepcopy` does, it copies weights that are computed from others (old-style weight norm,
    pruning), and functions put in the place of `forward`, which would go on calling the original.

    Parameters
    ----------
    modules
        All modules inside.
    """
    memo: dict[int, object] = {}
    functions: list[tuple[types.FunctionType, types.FunctionType]] = []
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif name == "forward" and isinstance(value, types.FunctionType) and value.__closure__:
                twin = _with_empty_cells(value)
                memo[id(value)] = twin
                functions.append((value, twin))
    result = copy.deepcopy(held, memo)
    for function, twin in functions:
        for cell, empty in zip(function.__closure__, twin.__closure__, strict=True):
            empty.cell_contents = copy.deepcopy(cell.cell_contents, memo)
    return result


def _with_empty_cells(function: types.FunctionType) -> types.FunctionType:
    cells = tuple(types.CellType() for _ in function.__closure__)
    twin = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin
