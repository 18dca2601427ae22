"""Tracing a network: its operations as a torch.fx graph, each with the module that it is of."""

from __future__ import annotations

import inspect
import operator
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module

from repsim.activations.hooked import CONTAINERS
from repsim.activations.naming import module_paths, name_of_call, name_of_function

# what tells of a tensor's sizes, not of its values
SIZES = ("shape", "ndim", "dtype", "device", "size", "dim", "numel", "stride", "is_floating_point")
_tracing = threading.RLock()  # while it traces, torch.fx replaces methods of all modules


# torch's own modules whose parts are layers of their own
COMPOSITE = (
    *(nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder),
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)


class NetworkTracer(fx.Tracer):
    """Traces a network as it is called with images alone, and keeps which module each operation is of.

    Parameters
    ----------
    examples
        Two batches of different size, on which operations are computed while they are traced, so that a
        network may ask for sizes and decide by them. Where it decides by values of tensors, or by how many
        images there are, tracing ends.

    Attributes
    ----------
    blocks
        By name, calls of modules that are more than one operation: the module's path, and the node whose
        value it puts out.
    """

    def __init__(self, network: nn.Module, examples: Sequence[Tensor] = ()):
        super().__init__()
        self.network = network
        self._examples = list(examples)
        self._computed: dict[fx.Node, list[object]] = {}
        self._unknown: set[fx.Node] = set()  # numbers that hang on what images show
        self._by_count: set[fx.Node] = set()  # … and on how many images there are
        self._computing = False
        self.blocks: dict[str, tuple[str, fx.Node]] = {}
        self._owners: dict[fx.Node, str] = {}
        self._calls: dict[str, int] = {}
        self._paths = module_paths(network)
        self._thread = threading.get_ident()

    def obstacle(self) -> str:
        """The reason why the network's operations are not all that it does; empty where they may be."""
        if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
            return "there are hooks on all modules"
        for path, module in self.network.named_modules():
            if (module._forward_hooks or module._forward_pre_hooks) and not self.is_leaf_module(module, path):
                return f"there are hooks on {path or 'the whole network'}"
        return ""

    def graph_of_network(self) -> fx.Graph:
        """The graph of the network's operations."""
        with _tracing:
            graph = self.trace(self.network)
        for node in graph.nodes:
            node.type = None  # annotations that are texts cannot be pickled
        return graph

    def names(self) -> dict[fx.Node, str]:
        """The names of nodes: calls of modules as the modules, functions by the module that calls them."""
        found: dict[fx.Node, str] = {}
        calls: dict[str, int] = {}
        taken = {*self._paths, *self.blocks}
        for node in self.graph.nodes:
            if node.op == "call_module":
                number = calls[node.target] = calls.get(node.target, -1) + 1
                found[node] = name_of_call(node.target, number, self._paths)
        taken.update(found.values())
        for node in self.graph.nodes:
            if node.op not in ("call_module", "output"):
                own = re.sub(r"_\d+$", "", node.name)
                owner = self._owners[node]
                found[node] = name_of_function(f"{owner}.{own}" if owner else own, taken)
                taken.add(found[node])
        return {node: found[node] for node in self.graph.nodes if node in found}

    def create_args_for_root(
        self, root_fn: Callable, is_module: bool, concrete_args: dict | tuple | None = None
    ) -> tuple[Callable, list]:
        """The network's own forward (also one put in the place of its class's), called with images alone."""
        parameters = inspect.signature(self.network.forward).parameters
        images = self.create_proxy("placeholder", next(iter(parameters), "images"), (), {})
        return lambda root, images: root.forward(images), [self.root, images]

    def create_node(self, kind: str, *arguments: object, **named: object) -> fx.Node:
        node = super().create_node(kind, *arguments, **named)
        self._owners[node] = self.scope.module_path
        if self._examples and node.op != "output":
            self._computing = True
            try:
                self._computed[node] = [self._compute(node, place) for place in range(len(self._examples))]
            finally:
                self._computing = False
            self._note_origin(node)
        return node

    def _compute(self, node: fx.Node, place: int) -> object:
        """The value of a node for one of the examples."""
        args, named = fx.node.map_arg(
            (node.args, dict(node.kwargs)), lambda each: self._computed[each][place]
        )
        if node.op == "placeholder":
            return self._examples[place].clone()
        if node.op == "get_attr":
            owner, _, name = node.target.rpartition(".")
            return getattr(self.network.get_submodule(owner), name)
        if node.op == "call_module":
            return self.network.get_submodule(node.target)(*args, **named)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **named)
        return node.target(*args, **named)

    def _note_origin(self, node: fx.Node) -> None:
        """Note of what is no tensor whether it hangs on what images show, or on how many there are."""
        few, more = self._computed[node]
        if isinstance(few, Tensor):
            return
        inputs = node.all_input_nodes
        args = node.args
        tells_sizes = node.target in SIZES or (node.target is getattr and args[1] in SIZES)
        of_tensors = any(isinstance(self._computed[each][0], Tensor) for each in inputs)
        if any(each in self._unknown for each in inputs) or (of_tensors and not tells_sizes):
            self._unknown.add(node)
        by_count = [each in self._by_count for each in inputs]
        compares = node.target in (operator.eq, operator.ne) and len(by_count) == 2 and all(by_count)
        is_count = isinstance(few, int | float) and few != more
        if is_count or (any(by_count) and not compares and not isinstance(few, torch.Size)):
            self._by_count.add(node)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self) if self._examples else super().proxy(node)

    def known(self, obj: fx.Proxy) -> object:
        """The value of something traced for the examples, if it is the same for all images of their shape.

        Raises
        ------
        TraceError
            It is not.
        """
        if not self._examples or obj.node in self._unknown or self._is_tensor(obj):
            raise fx.proxy.TraceError("the network decides by what it computes of the images")
        if obj.node in self._by_count:
            raise fx.proxy.TraceError("the network decides by how many images there are")
        return self._computed[obj.node][0]

    def _is_tensor(self, obj: fx.Proxy) -> bool:
        return isinstance(self._computed[obj.node][0], Tensor)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.known(obj))

    def iter(self, obj: fx.Proxy) -> Iterator:
        found = self._computed.get(obj.node, [None])[0]
        if not isinstance(found, tuple | list):
            return super().iter(obj)
        return iter([obj[index] for index in range(len(found))])

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation: torch's own layers, and subclasses of them without parts."""
        if isinstance(m, (*CONTAINERS, *COMPOSITE)):
            return False
        if super().is_leaf_module(m, module_qualified_name):
            return True
        parts = [name for name, _ in m.named_children() if name != "parametrizations"]
        kinds = [kind for kind in type(m).__mro__ if kind is not nn.Module]
        return not parts and any(kind.__module__.startswith("torch.nn.modules") for kind in kinds)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> object:
        if self._computing or threading.get_ident() != self._thread:  # a network runs meanwhile
            return forward(*args, **kwargs)
        result = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m)
        if not self.is_leaf_module(m, path):
            number = self._calls[path] = self._calls.get(path, -1) + 1
            first = result[0] if isinstance(result, list | tuple) and result else result
            if isinstance(first, fx.Proxy):
                self.blocks[name_of_call(path, number, self._paths)] = path, first.node
        return result

    def getattr(self, attr: str, attr_val: object, parameter_proxy_cache: dict) -> object:
        if self._computing or threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class _Known(fx.Proxy):
    """Stands for something of which sizes are known."""

    def __getattr__(self, name: str) -> Any:
        if name in SIZES and not callable(getattr(Tensor, name)):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name)

    def __int__(self) -> int:
        return int(self.tracer.known(self))

    def __float__(self) -> float:
        return float(self.tracer.known(self))

    def __index__(self) -> int:
        return operator.index(self.tracer.known(self))

    def __len__(self) -> int:
        return len(self.tracer.known(self))
