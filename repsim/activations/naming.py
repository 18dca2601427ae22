"""Names of layers: a call of a module is called as the module's path, a later call as no module is."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

from torch import nn


def module_paths(network: nn.Module) -> set[str]:
    """The paths of all modules inside a network."""
    return {path for path, _ in network.named_modules() if path}


def name_of_call(path: str, number: int, paths: Collection[str]) -> str:
    """The name of the first (0) or a later call of a module, given the paths of all modules."""
    return path if number == 0 else next(itertools.islice(_numbered(path, paths), number - 1, None))


def name_of_function(base: str, taken: Collection[str]) -> str:
    """The first name after a function that neither a module nor another function has."""
    return base if base not in taken else next(_numbered(base, taken))


def _numbered(base: str, taken: Collection[str]) -> Iterator[str]:
    numbered = (f"{base}_{index}" for index in itertools.count(1))
    return (name for name in numbered if name not in taken)
