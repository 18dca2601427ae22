"""Layer names, and networks run layer by layer, by means of torch.fx.

A layer is a node of the traced graph, named as torchvision's feature extraction names it
(`layer1.0.add`, `layer1.0.relu_1`), so that residual sums have names too. Networks that cannot be traced
are watched through hooks instead; their layers are their innermost modules.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import jaxtyping
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from repsim import messages
from repsim._compat import NodePathTracer
from repsim.attacks import device_of, evaluating

Layers = Literal["all", "blocks", "penultimate"] | str | Sequence[str | float] | float
Visit = Callable[[str, Tensor], None]

GROUPS = ("all", "blocks", "penultimate")
ADDITIONS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Layer:
    """One layer: its name, operation, output shape for one image, and parameters up to and with it."""

    name: str
    operation: str | None
    shape: tuple[int, ...]
    parameters: int


class _Done(Exception):
    """Every wanted layer has been visited: the rest of the network need not run."""


class LayerGraph(ABC):
    """A network as the sequence of its layers: what they are, and running it up to any of them.

    Attributes
    ----------
    layers
        Module calls and residual sums, by name, in the order in which they are computed.
    values
        Whatever else the network computes for each image too (views, functions): to be had by name.
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
            self._walk(images, describe)
        self.layers = {
            name: layer for name, layer in self.values.items() if layer.operation and name != "normalize"
        }

    @abstractmethod
    def _walk(self, images: Tensor, visit: Visit) -> None:
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
                    raise _Done

        with evaluating(self.network), torch.no_grad(), suppress(_Done):
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


def trace(network: nn.Module, image_shape: Sequence[int]) -> LayerGraph:
    """The layers of any classifier for images of `image_shape` (channels, height, width).

    The graph shares the network's weights.
    """
    tracer = NodePathTracer()
    with evaluating(network), _unchecked():
        try:
            graph = tracer.trace(network)
        except (fx.proxy.TraceError, TypeError, RuntimeError):  # it branches on what it computes
            return _Hooked(network, image_shape)
    names = {node: name for node, name in tracer.node_to_qualname.items() if node.op != "output"}
    return _Traced(network, image_shape, graph, names)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Where shape annotations are checked, let pass what stands for a tensor while a network is traced."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


class _Traced(LayerGraph):
    """Layers are nodes of the torch.fx graph."""

    def __init__(self, network: nn.Module, image_shape: Sequence[int], graph: fx.Graph, names: dict):
        self.module = fx.GraphModule(network, graph)
        self.names: dict[fx.Node, str] = names
        self.nodes = {name: node for node, name in names.items()}
        super().__init__(network, image_shape)

    def _walk(self, images: Tensor, visit: Visit) -> None:
        _Visitor(self.module, self.names, visit).run(images)

    def _module_of(self, name: str) -> str | None:
        node = self.nodes[name]
        return node.target if node.op == "call_module" else None

    def _operation(self, name: str) -> str | None:
        node = self.nodes[name]
        if node.op == "call_module":
            return type(self.module.get_submodule(node.target)).__name__
        computed = [term for term in node.all_input_nodes if term.op != "get_attr"]  # not what is learned
        is_sum = node.op == "call_function" and node.target in ADDITIONS and len(computed) == 2
        return "add" if is_sum else None

    def _after(self, name: str) -> list[str]:
        return [self.names[user] for user in self.nodes[name].users if user in self.names]

    def _before(self, name: str) -> str:
        return self.names[self.nodes[name].all_input_nodes[0]]


class _Visitor(fx.Interpreter):
    """Runs a graph node by node; values are freed once nothing downstream needs them."""

    def __init__(self, module: fx.GraphModule, names: dict[fx.Node, str], visit: Visit):
        super().__init__(module, garbage_collect_values=True)
        self.names, self.visit = names, visit
        self.extra_traceback = False  # errors keep their own words

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        if node in self.names:
            self.visit(self.names[node], value)
        return value


class _Hooked(LayerGraph):
    """Layers are innermost modules, watched by hooks that live while the network runs."""

    def __init__(self, network: nn.Module, image_shape: Sequence[int]):
        self.paths: dict[str, str] = {}  # layer name → module path, which differ from a second call on
        super().__init__(network, image_shape)

    def _walk(self, images: Tensor, visit: Visit) -> None:
        calls: dict[str, int] = {}

        def name_of(path: str) -> str:
            return f"{path}_{calls[path]}" if calls.get(path) else path

        def hooks_for(path: str) -> tuple[Callable, Callable]:
            def before(module: nn.Module, inputs: tuple) -> None:
                if isinstance(module, nn.Linear):  # what it takes need not be what any module puts out
                    visit(f"{name_of(path)}.input", inputs[0])

            def after(module: nn.Module, inputs: tuple, output: object) -> None:
                name = name_of(path)
                self.paths[name] = path
                calls[path] = calls.get(path, 0) + 1
                visit(name, output)

            return before, after

        handles = []
        for path, part in self.network.named_modules():
            if not list(part.children()):
                before, after = hooks_for(path)
                handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
        try:
            self.network(images)
        finally:
            for handle in handles:
                handle.remove()

    def _module_of(self, name: str) -> str | None:
        return self.paths.get(name)

    def _operation(self, name: str) -> str | None:
        path = self.paths.get(name)
        return None if path is None else type(self.network.get_submodule(path)).__name__

    def _after(self, name: str) -> list[str]:
        order = list(self.layers)
        place = order.index(name)
        return order[place + 1 : place + 2]

    def _before(self, name: str) -> str:
        return f"{name}.input"


def capture(
    network: nn.Module | LayerGraph,
    images: Float[Tensor, "n c h w"],
    layers: Layers,
    *,
    batch_size: int = 500,
) -> dict[str, Tensor]:
    """The outputs of layers for images, on the device of `images`.

    Returns
    -------
    dict
        Layer name → tensor (n, …), in the order of `layers`. No tensor shares memory with another.
    """
    graph = network if isinstance(network, LayerGraph) else trace(network, images.shape[1:])
    parts: dict[str, list[Tensor]] = {name: [] for name in graph.select(layers)}

    def keep(name: str, value: Tensor) -> None:
        parts[name].append(value.to(images.device, copy=True))

    for batch in images.split(batch_size):
        graph.run(batch, keep, parts)
    return {name: torch.cat(part) for name, part in parts.items()}
