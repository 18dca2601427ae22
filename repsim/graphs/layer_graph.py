"""What every layer graph can do: name layers, select them, run up to them, and be cut in two at one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim import messages
from repsim.attacks import device_of, evaluating

Layers = Literal["all", "blocks", "penultimate"] | str | Sequence[str | float] | float
Visit = Callable[[str, Tensor], None]

GROUPS = ("all", "blocks", "penultimate")
NORMALIZERS = ("normalize", "normalizer")  # of our networks, and of those of `robustness`


@dataclass(frozen=True)
class Layer:
    """One layer: its name, operation, output shape for one image, and parameters up to and with it."""

    name: str
    operation: str | None
    shape: tuple[int, ...]
    parameters: int


class Done(Exception):
    """Every wanted layer has been visited: the rest of the network need not run."""


@dataclass(frozen=True)
class Ending:
    """The end of a network, from one of its layers on.

    Attributes
    ----------
    context
        Images → a tuple of all else that the end takes: where the layer is inside a residual branch, what
        goes around it.
    rest
        The layer's value and the context → the network's output.
    """

    context: nn.Module
    rest: nn.Module


def frozen(network: nn.Module) -> nn.Module:
    """The network itself, put into evaluation mode; no weight takes a gradient."""
    return network.eval().requires_grad_(False)


class LayerGraph(ABC):
    """A network as the sequence of its layers: what they are, and running it up to any of them.

    Attributes
    ----------
    layers
        Module calls and residual sums, by name, in the order in which they are computed.
    values
        Whatever else the network computes for each image too (views, functions): to be had by name.
    classes
        How many logits it puts out; None where it puts out something else than one row for each image.
    """

    def __init__(self, network: nn.Module, image_shape: Sequence[int]):
        self.network = network
        self.image_shape = tuple(image_shape)
        self.values: dict[str, Layer] = {}
        counted: dict[nn.Parameter, int] = {}

        def describe(name: str, value: object) -> None:
            module = self._module_of(name)
            used = [] if module is None else network.get_submodule(module).parameters()
            if isinstance(value, nn.Parameter):  # one that the network uses outside of its modules
                used = [value]
            counted.update((weight, weight.numel()) for weight in used)
            has_batch = isinstance(value, Tensor) and value.dim() >= 2 and len(value) == len(images)
            if has_batch:
                shape = tuple(value.shape[1:])
                self.values[name] = Layer(name, self._operation(name), shape, sum(counted.values()))

        # Five images: a length that hardly any other dimension of a network has.
        images = torch.full((5, *self.image_shape), 0.5, device=device_of(network))
        with evaluating(network), torch.no_grad():
            output = self._walk(images, describe)
        is_rows = isinstance(output, Tensor) and output.dim() == 2
        self.classes = output.shape[1] if is_rows else None
        self.layers = {
            name: layer for name, layer in self.values.items() if layer.operation and name not in NORMALIZERS
        }

    @abstractmethod
    def _walk(self, images: Tensor, visit: Visit) -> object:
        """Run the network, calling `visit` with the name and value of everything it computes."""

    @abstractmethod
    def _module_of(self, name: str) -> str | None:
        """The path of the module that computes `name`."""

    @abstractmethod
    def _operation(self, name: str) -> str | None:
        """What `name` is called in tables, None where it is no layer (a view, a size, the input)."""

    @abstractmethod
    def _after(self, name: str) -> list[str]:
        """The names that take `name`'s value."""

    @abstractmethod
    def _before(self, name: str) -> str:
        """The name whose value `name` takes."""

    @abstractmethod
    def beginning(self, layer: str) -> nn.Module:
        """Images → the value of a layer, by a frozen copy of only what is needed for it."""

    @abstractmethod
    def reading(self, layers: Sequence[str]) -> nn.Module:
        """Images → a tuple of the values of layers, and last the network's output, by a frozen copy."""

    @abstractmethod
    def ending(self, layer: str) -> Ending:
        """The network from a layer on, by a frozen copy of only what is needed for it.

        Raises
        ------
        ValueError
            The layer is unknown, or the network's output does not depend on it.
        """

    @abstractmethod
    def reaches_output(self, layer: str) -> bool:
        """Whether the network's output depends on a layer, as far as can be seen without trying."""

    def check_known(self, layer: str) -> None:
        """Refuse a layer that the network does not have.

        Raises
        ------
        ValueError
            With the nearest names that it has.
        """
        if layer not in self.values:
            raise ValueError(messages.unknown("layer", layer, list(self.layers)))

    def run(self, images: Float[Tensor, "n c h w"], visit: Visit, layers: Iterable[str]) -> None:
        """Run the network in evaluation mode up to the last of `layers`, visiting each of them.

        A value is valid inside the call of `visit` only: it may be changed in place or freed later.
        """
        wanted = set(layers)

        def pass_on(name: str, value: object) -> None:
            if name in wanted:
                visit(name, value)
                wanted.remove(name)
                if not wanted:
                    raise Done

        with evaluating(self.network), torch.no_grad(), suppress(Done):
            self._walk(images.to(device_of(self.network)), pass_on)

    def select(self, layers: Layers) -> list[str]:
        """Layer names from `all`, `blocks`, `penultimate`, names, or a fraction of all, evenly spaced.

        A list of one entry means what the entry means, and a fraction may be a text, as notebooks have it.

        Raises
        ------
        ValueError
            A name is unknown, a fraction is not in (0, 1], or the network has no such layers.
        """
        known = list(self.layers)
        if isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) == 1:
            layers = layers[0]
        if isinstance(layers, str) and layers not in self.values:
            with suppress(ValueError):
                layers = float(layers)
        if isinstance(layers, int | float):
            if not 0 < layers <= 1:
                raise ValueError(f"a fraction of the layers must be in (0, 1], not {layers}.")
            count = max(2, round(layers * len(known)))
            return [known[round(i * (len(known) - 1) / (count - 1))] for i in range(count)]
        if layers == "all":
            return known
        if layers == "blocks":
            return self._blocks()
        if layers == "penultimate":
            return [self._penultimate()]
        names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
        for name in names:
            if name not in self.values:
                raise ValueError(messages.unknown("layer", name, [*known, *GROUPS]))
        return names

    def _blocks(self) -> list[str]:
        """What residual blocks put out; without such, what pooling stages do; without such, every ReLU."""
        for kind in ("add", "Pool", "ReLU"):
            found = [name for name, layer in self.layers.items() if kind in layer.operation]
            if found:
                return [self._activated(name) for name in found]
        raise ValueError("the network has no residual sums, pooling or ReLU: name its layers instead.")

    def _activated(self, name: str) -> str:
        """Where a ReLU is all that takes a layer's value: that ReLU."""
        after = self._after(name)
        is_relu = len(after) == 1 and after[0] in self.layers and self.layers[after[0]].operation == "ReLU"
        return after[0] if is_relu else name

    def _penultimate(self) -> str:
        """The input of the last linear layer, often a view: flattened channels, or the class token."""
        linear = [name for name, layer in self.layers.items() if layer.operation == "Linear"]
        if not linear:
            raise ValueError("the network has no linear layer, so no penultimate one: name the layer.")
        return self._before(linear[-1])

    def table(self) -> pd.DataFrame:
        """One row per layer: `layer`, `operation`, `shape` (without the batch), `parameters` up to there."""
        rows = [
            (layer.name, layer.operation, " × ".join(map(str, layer.shape)), layer.parameters)
            for layer in self.layers.values()
        ]
        return pd.DataFrame(rows, columns=["layer", "operation", "shape", "parameters"])
