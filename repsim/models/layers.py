"""Layers and habits that all our networks share."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


class Normalize(nn.Module):
    """(x − mean) / std per channel: the first layer of every model, so that attacks see pixels."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return (images - self.mean) / self.std


def with_normalization(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Make `Normalize` the first layer of any network, as its sub-module `normalize`.

    The network becomes an instance of a subclass of its own class, rather than a part of a wrapper, so that
    the names of its layers and the keys of its weights stay what they are elsewhere.
    """
    first = Normalize(mean, std)
    if (
        type(network).forward is nn.Sequential.forward
    ):  # it runs its modules in order: ours has to be the first
        modules = list(network.named_children())
        for name, _ in modules:
            delattr(network, name)
        for name, module in [("normalize", first), *modules]:
            network.add_module(name, module)
        return network
    network.__class__ = _normalized(type(network))
    network.normalize = first
    return network


@functools.cache
def _normalized(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of networks that normalise their images and then do what `kind` does, under its name."""

    class Normalized(kind):  # type: ignore[valid-type]  # a class made for each class
        def forward(self, images: Tensor) -> Tensor:
            return kind.forward(self, self.normalize(images))

        def __reduce__(self) -> tuple:
            return _new_normalized, (kind,), self.__dict__

    Normalized.__name__ = Normalized.__qualname__ = kind.__name__
    return Normalized


def _new_normalized(kind: type[nn.Module]) -> nn.Module:
    """An object such as pickles of these networks begin with."""
    normalized = _normalized(kind)
    return normalized.__new__(normalized)


def without_inplace(network: nn.Module) -> nn.Module:
    """Switch in-place activations off: a captured BatchNorm output must not become its ReLU's."""
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return network


def operation_of(module: nn.Module) -> str:
    """The operation of a module, by the name of its class; a parametrised one does what it did before."""
    kind = type(module)
    return (kind.__mro__[1] if is_parametrized(module) else kind).__name__
