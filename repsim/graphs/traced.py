"""Layer graphs of networks that torch.fx traces: layers are nodes, and a cut goes through the graph."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from repsim.attacks import device_of, evaluating
from repsim.graphs.layer_graph import Ending, LayerGraph, Visit, frozen
from repsim.models.layers import without_inplace

ADDITIONS = (operator.add, operator.iadd, torch.add)
VIEWS = (
    *("getitem", "narrow", "select", "chunk", "split", "getattr"),
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("transpose", "permute", "movedim", "expand"),
)
OUTPUT = ""  # stands for the output node among the names of nodes: no layer is called so


class TracedGraph(LayerGraph):
    """Layers are nodes of the torch.fx graph, named as torchvision's feature extraction names them."""

    def __init__(self, network: nn.Module, image_shape: Sequence[int], graph: fx.Graph, names: dict):
        self.module = fx.GraphModule(network, graph)
        self.names: dict[fx.Node, str] = names
        self.nodes = {name: node for node, name in names.items()}
        super().__init__(network, image_shape)

    def _walk(self, images: Tensor, visit: Visit) -> object:
        return _Visitor(self.module, self.names, visit).run(images)

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

    def reaches_output(self, layer: str) -> bool:
        return self._cuttable[OUTPUT] in _descendants(self._cuttable[layer])

    def beginning(self, layer: str) -> nn.Module:
        self.check_known(layer)
        node = self._cuttable[layer]
        return self._part([*_ancestors([node]), node], lambda copied: copied[node])

    def reading(self, layers: Sequence[str]) -> nn.Module:
        for layer in layers:
            self.check_known(layer)
        nodes, output = [self._cuttable[layer] for layer in layers], self._cuttable[OUTPUT]

        def read(node: fx.Node, copied: dict[fx.Node, fx.Node]) -> fx.Node:
            """A node's value as it is when it is made: a function after it may overwrite it."""
            own = copied[node]
            if not any(each.op != "call_module" and self._overwrites(each) for each in _following(node)):
                return own
            with own.graph.inserting_after(own):
                return own.graph.call_method("clone", (own,))

        return self._part(
            [*_ancestors([*nodes, output]), *nodes],
            lambda copied: (
                *(read(node, copied) for node in nodes),
                fx.map_arg(output.args[0], copied.__getitem__),
            ),
        )

    def ending(self, layer: str) -> Ending:
        self.check_known(layer)
        nodes = self._cuttable
        cut, output = nodes[layer], nodes[OUTPUT]
        beyond = _descendants(cut)
        if not self.reaches_output(layer):
            raise ValueError(f"the network's output does not depend on layer {layer!r}.")
        names = {node: name for name, node in nodes.items()}
        rest = [node for node in _ancestors([output]) if node in beyond]

        # What the rest takes from outside it: values of each image are its context; weights, sizes and what
        # is made of them are made again, since a size is that of one batch only.
        context: dict[fx.Node, None] = {}
        again: dict[fx.Node, None] = {}
        pending = [term for node in [*rest, output] for term in node.all_input_nodes]
        while pending:
            node = pending.pop()
            if node is cut or node in beyond or node in context or node in again:
                continue
            if node.op != "get_attr" and names.get(node) in self.values:
                context[node] = None
            else:
                again[node] = None
                pending += node.all_input_nodes
        inner = {*rest, *again}
        taken = [node for node in cut.graph.nodes if node in context]
        ending = Ending(
            context=self._part(_ancestors(taken) + taken, lambda copied: tuple(copied[n] for n in taken)),
            rest=self._part(
                [node for node in cut.graph.nodes if node in inner],
                lambda copied: fx.map_arg(output.args[0], copied.__getitem__),
                given=[cut, *taken],
            ),
        )
        self._check_cut(layer, ending)
        return ending

    def _check_cut(self, layer: str, ending: Ending) -> None:
        """Refuse a cut whose parts do not make the network: some ways to work in place cannot be seen."""
        images = torch.rand(2, *self.image_shape, generator=torch.Generator().manual_seed(0))
        images = images.to(device_of(self.network))
        with evaluating(self.network), torch.no_grad():
            parts = ending.rest(self.beginning(layer)(images), *ending.context(images))
            if not torch.allclose(parts, self.network(images), rtol=1e-3, atol=1e-4, equal_nan=True):
                raise ValueError(
                    f"the network cannot be cut at {layer!r}: it changes values in place in a way that its "
                    "graph does not show."
                )

    @cached_property
    def _cuttable(self) -> dict[str, fx.Node]:
        """The nodes of a copy of the graph, by name, in which what overwrites a value is what is used of it.

        A network may call `relu(x, inplace=True)` and go on with `x`. In a part of the graph that says
        nothing of the call, so there whatever follows takes the call's result.
        """
        graph, copied = fx.Graph(), {}
        output = graph.output(graph.graph_copy(self.module.graph, copied))
        for node in graph.nodes:
            if self._overwrites(node):
                later = set(_following(node))
                base = node.all_input_nodes[0]
                while _is_view(base):
                    base = base.all_input_nodes[0]
                    if later & set(base.users):
                        raise ValueError(
                            f"the network cannot be cut: {node.name} changes a part of {base.name} in place."
                        )
                node.all_input_nodes[0].replace_all_uses_with(node, lambda user, later=later: user in later)
        found = {name: copied[node] for node, name in self.names.items() if node in copied}
        return {**found, OUTPUT: output}

    def _overwrites(self, node: fx.Node) -> bool:
        """Whether a node changes the value of its first input."""
        if not node.all_input_nodes:
            return False
        if node.op == "call_module":
            return getattr(self.module.get_submodule(node.target), "inplace", False)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        is_operator = getattr(node.target, "__module__", "") == "_operator"  # such as and_
        named_so = name.endswith("_") and not name.endswith("__") and not is_operator
        return node.kwargs.get("inplace", False) or named_so or node.target is operator.iadd

    def _part(
        self,
        nodes: Iterable[fx.Node],
        result: Callable[[dict[fx.Node, fx.Node]], object],
        given: Sequence[fx.Node] | None = None,
    ) -> nn.Module:
        """A frozen network of some of the nodes, in the order of the graph.

        Parameters
        ----------
        result
            Of the nodes' copies: what the part puts out.
        given
            Nodes whose values the part is called with, in this order; the images, unless given.
        """
        graph, copied = fx.Graph(), {}
        for index, node in enumerate(given or []):
            copied[node] = graph.placeholder(f"given_{index}")
        for node in given or []:
            if any(user.op != "call_module" and self._overwrites(user) for user in node.users):
                copied[node] = graph.call_method("clone", (copied[node],))  # what is given is the caller's
        chosen = set(nodes)
        if given is None:  # a part takes images even where it needs none
            image = next(node for node in self._cuttable[OUTPUT].graph.nodes if node.op == "placeholder")
            copied[image] = graph.node_copy(image)
            chosen.discard(image)
        for node in self._cuttable[OUTPUT].graph.nodes:
            if node in chosen:
                copied[node] = graph.node_copy(node, copied.__getitem__)
        graph.output(result(copied))
        # Copied in one go, so that what the network shares (a weight that is used twice) stays shared.
        used = {n.target: self._held(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr")}
        return frozen(without_inplace(fx.GraphModule(copy.deepcopy(used), graph)))

    def _held(self, target: str) -> nn.Module | Tensor:
        """The module or weight of the network at a path."""
        owner, _, name = target.rpartition(".")
        return getattr(self.network.get_submodule(owner), name)


def _is_view(node: fx.Node) -> bool:
    """Whether a node's value may share memory with its first input."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and name in VIEWS


def _ancestors(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """All that some nodes are computed from, in the order of their graph."""
    found: set[fx.Node] = set()
    pending = [term for node in nodes for term in node.all_input_nodes]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return [node for node in nodes[0].graph.nodes if node in found] if nodes else []


def _descendants(node: fx.Node) -> set[fx.Node]:
    """All that is computed from a node."""
    found: set[fx.Node] = set()
    for later in _following(node):
        if any(term is node or term in found for term in later.all_input_nodes):
            found.add(later)
    return found


def _following(node: fx.Node) -> Iterable[fx.Node]:
    """The nodes after a node, in the order in which they are computed."""
    nodes = iter(node.graph.nodes)
    next(each for each in nodes if each is node)
    return nodes


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
