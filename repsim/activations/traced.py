"""Layer graphs of networks that torch.fx traces: layers are nodes, and a cut goes through the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from repsim.activations.channels import ChannelAxes
from repsim.activations.copying import copied, frozen
from repsim.activations.hooked import CONTAINERS, INPUT, Call, HookedGraph, first_key, watched
from repsim.activations.layer_graph import AFFINE, HEADS, LayerGraph, Layout, Suffix, Visit
from repsim.activations.naming import module_paths, name_of_call
from repsim.activations.rows import Rows, alike
from repsim.activations.trial import FEW, MORE, depends_on_randomness, mark_of, tensors_in, watched_randomness
from repsim.models.layers import operation_of, without_inplace
from repsim.support.devices import evaluating

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (
    *(F.linear, F.conv1d, F.conv2d, operator.matmul, torch.matmul, torch.mm, torch.einsum),
    *("matmul", "mm"),
)
POOLS = tuple(getattr(nn, name) for name in dir(nn) if "Pool" in name and name.endswith("d"))
TORCHS = {kind for kind in vars(nn).values() if isinstance(kind, type)}
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU)
VIEWS = (
    *("getitem", "narrow", "select", "chunk", "split", "getattr"),
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("transpose", "permute", "movedim", "expand"),
)
OUTPUT = ""  # stands for the output node among the names of nodes: no layer is called so


class TracedGraph(LayerGraph):
    """Layers are nodes of the torch.fx graph.

    Parameters
    ----------
    graph
        Of the network's operations.
    names
        Of its nodes: a call of a module has the module's path.
    blocks
        By name, calls of modules that are more than one node: the module's path, and the node whose value it
        puts out.
    """

    how = "traced"

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        dtype: torch.dtype,
        graph: fx.Graph,
        names: Mapping[fx.Node, str],
        blocks: Mapping[str, tuple[str, fx.Node]],
        layout: Layout | None = None,
    ):
        self.module = fx.GraphModule(network, graph)
        self.names = dict(names)
        self.nodes = {name: node for node, name in names.items()}
        self.nodes |= {name: node for name, (_, node) in blocks.items()}
        self._paths = {name: path for name, (path, _) in blocks.items()}
        self._blocks_of: dict[fx.Node, list[str]] = {}
        for name, (_, node) in blocks.items():
            self._blocks_of.setdefault(node, []).append(name)
        taken = [node for each in reversed(graph.nodes) for node in self._mapped(each)]
        self._last_taken = [names[node] for node in dict.fromkeys(taken)][:HEADS]  # by affine maps
        self._marks: dict[str, Tensor] = {}
        self._several: dict[str, int | str] = {}  # of names whose module puts out several values: the first
        super().__init__(network, image_shape, dtype, "", layout)

    def difference(self, *, of_sizes: bool = False) -> str:
        """The graph's difference from the network, as tried out on a few images; empty where there is none.

        Parameters
        ----------
        of_sizes
            Try it on another number of images, too: the graph was made with sizes of a few at hand.
        """
        paths = module_paths(self.network)
        for count in (MORE, FEW) if of_sizes else (FEW,):
            ours, images = self.outputs[count], self.trial_images(count)
            marks: dict[str, Tensor] = {}

            def note(call: Call, value: object, is_innermost: bool, marks: dict = marks) -> None:
                name = name_of_call(call.path, call.number, paths)
                if name in self._marks and isinstance(value, Tensor) and not call.takes:
                    marks[name] = mark_of(value)

            with evaluating(self.network), torch.no_grad():
                with watched_randomness(self.device) as drew, watched(self.network, note):
                    theirs = self.network(images.clone())
                if drew.python and depends_on_randomness(self.network, images):
                    return "it draws random numbers outside of torch"
            if _structure(ours) != _structure(theirs) or not all(
                alike(a, b) for a, b in zip(tensors_in(ours), tensors_in(theirs), strict=True)
            ):
                return "its graph computes something else than it does"
            for name, mark in marks.items() if count == FEW else ():
                if not alike(self._marks[name], mark):
                    return f"{name!r} puts out something else than its graph shows, as it works in place"
        return ""

    def _check_current(self) -> None:
        """Refuse to go on where the network's modules are others than they were."""
        for node in self.module.graph.nodes:
            if node.op == "call_module" and _module_at(self.network, node.target) is not _module_at(
                self.module, node.target
            ):
                raise ValueError(
                    f"{node.target!r} is another module than it was when the network was traced."
                )

    def _walk(self, images: Tensor, visit: Visit, axes: ChannelAxes | None) -> object:
        self._check_current()

        def visit_all(node: fx.Node, value: object) -> None:
            for name in [self.names.get(node), *self._blocks_of.get(node, [])]:
                if name is not None:
                    key = first_key(value)
                    if key is not None:
                        self._several[name] = key
                    value_of_name = value if key is None else value[key]
                    visit(name, value_of_name)
                    if axes is not None and self._may_work_in_place(name, value_of_name):
                        self._marks[name] = mark_of(value_of_name)

        return _Visitor(self.module, visit_all).run(images)

    def _may_work_in_place(self, name: str, value: object) -> bool:
        """Whether a module that is not torch's own puts out a value, perhaps before it has done with it."""
        node = self.nodes[name]
        if not isinstance(value, Tensor) or name in self._paths:
            return isinstance(value, Tensor)
        return node.op == "call_module" and type(self.module.get_submodule(node.target)) not in TORCHS

    def _module_of(self, name: str) -> str | None:
        node = self.nodes[name]
        return node.target if node.op == "call_module" and name not in self._paths else None

    def _module(self, name: str) -> nn.Module | None:
        """The module that alone computes a value."""
        node = self.nodes[name]
        if name in self._paths:
            block = self.network.get_submodule(self._paths[name])
            return None if list(block.children()) or isinstance(block, CONTAINERS) else block
        return self.module.get_submodule(node.target) if node.op == "call_module" else None

    def _operation(self, name: str) -> str | None:
        module = self._module(name)
        if module is not None:
            return operation_of(module)
        return "add" if self._is_sum(name) else None

    def _is_sum(self, name: str) -> bool:
        """Whether a node adds two values of each image (rather than what is learned to one)."""
        node = self.nodes[name]
        is_addition = node.op in ("call_function", "call_method") and node.target in ADDITIONS
        terms = [term for term in node.all_input_nodes if self.names[term] in self.values]
        return is_addition and name == self.names[node] and len(terms) == 2

    def _is_head(self, name: str) -> bool:
        return name in self._last_taken

    def _mapped(self, node: fx.Node) -> list[fx.Node]:
        """The input of a node that may be an affine map of it: a linear layer, or a product with weights."""
        if node.op == "call_module":
            is_affine = isinstance(self.module.get_submodule(node.target), AFFINE)
            return node.all_input_nodes[:1] if is_affine else []
        is_product = node.op in ("call_function", "call_method") and node.target in PRODUCTS
        return node.all_input_nodes if is_product else []

    def _blocks(self) -> list[str]:
        """Residual sums; without such, blocks in a row; without such, pooling stages, and last every ReLU."""
        sums = [name for name, layer in self.layers.items() if layer.operation == "add"]
        if sums:
            return [self._activated(name) for name in sums]
        modules = {name: module for name in self.layers if (module := self._module(name)) is not None}
        repeated = [
            name
            for name, module in modules.items()
            if list(module.children()) and isinstance(self._parent(name), CONTAINERS)
        ]
        if repeated:
            return repeated
        for kinds in (POOLS, RECTIFIERS):
            stages = [name for name, module in modules.items() if isinstance(module, kinds)]
            if found := [self._activated(name) for name in stages if self._all_passes(name)]:
                return found
        raise ValueError("the network has no residual sums, pooling or ReLU: name its layers instead.")

    def _parent(self, name: str) -> nn.Module:
        return self.network.get_submodule(self.nodes[name].target.rpartition(".")[0])

    def _activated(self, name: str) -> str:
        """The ReLU that a layer's value goes into, where that is all that takes it."""
        after = [self.names[user] for user in self.nodes[name].users if user in self.names]
        is_relu = len(after) == 1 and after[0] in self.layers and isinstance(self._module(after[0]), nn.ReLU)
        return after[0] if is_relu else name

    def _all_passes(self, name: str) -> bool:
        """Whether all that the output is made of goes through a layer, which no branch's layer sees."""
        cut = self.nodes[name]
        (image,) = (node for node in cut.graph.nodes if node.op == "placeholder")
        reached, pending = {image}, [image]
        while pending:
            users = [user for user in pending.pop().users if user is not cut and user not in reached]
            reached.update(users)
            pending += users
        return not any(node.op == "output" for node in reached)

    def reaches_output(self, layer: str) -> bool:
        return self._cuttable[OUTPUT] in _descendants(self._cuttable[layer])

    def prefix(self, layer: str) -> nn.Module:
        self.check_known(layer)
        if not self._has_own_gradient:
            return self._by_hooks.prefix(self._hooked_name(layer))
        node, rows = self._cuttable[layer], self.values[layer].rows
        return self._part([*_ancestors([node]), node], lambda copied: _as_rows(copied[node], rows))

    def with_activations(self, layers: Sequence[str]) -> nn.Module:
        for layer in layers:
            self.check_known(layer)
        nodes, output = [self._cuttable[layer] for layer in layers], self._cuttable[OUTPUT]

        def read(node: fx.Node, copied: dict[fx.Node, fx.Node]) -> fx.Node:
            """A node's value as it is when it is made: what comes after it may overwrite it."""
            own = copied[node]
            with own.graph.inserting_after(own):
                return own.graph.call_method("clone", (own,))

        return self._part(
            [*_ancestors([*nodes, output]), *nodes],
            lambda copied: (
                *(
                    _as_rows(read(node, copied), self.values[layer].rows)
                    for node, layer in zip(nodes, layers, strict=True)
                ),
                fx.map_arg(output.args[0], copied.__getitem__),
            ),
        )

    def suffix(self, layer: str) -> Suffix:
        self.check_known(layer)
        if not self.reaches_output(layer):
            raise ValueError(f"the network's output does not depend on layer {layer!r}.")
        if not self._has_own_gradient:
            return self._by_hooks.suffix(self._hooked_name(layer))
        suffix = self._suffix(layer)
        self._check_cut(layer, suffix)
        return suffix

    def _suffix(self, layer: str) -> Suffix:
        nodes = self._cuttable
        cut, output = nodes[layer], nodes[OUTPUT]
        beyond = _descendants(cut)
        names = {node: name for name, node in reversed(nodes.items())}
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
        rows = {node: self.values[names[node]].rows for node in [cut, *taken]}
        return Suffix(
            context=self._part(
                _ancestors(taken) + taken, lambda copied: tuple(_as_rows(copied[n], rows[n]) for n in taken)
            ),
            rest=self._part(
                [node for node in cut.graph.nodes if node in inner],
                lambda copied: fx.map_arg(output.args[0], copied.__getitem__),
                given=rows,
            ),
        )

    @cached_property
    def _has_own_gradient(self) -> bool:
        """Whether the graph has the network's gradient: tracing drops backward passes of its own making."""
        ours, theirs = (self._gradient(run) for run in (self.module, self.network))
        return ours is theirs if ours is None or theirs is None else alike(ours, theirs)

    def _gradient(self, run: Callable[[Tensor], object]) -> Tensor | None:
        with evaluating(self.network), torch.enable_grad(), watched_randomness(self.device):
            image = self.trial_images(1).requires_grad_()
            output = self.logits_of(run(image.clone()))  # the network may work in place
            terms = [each for each in tensors_in(output) if each.requires_grad]
            if not terms:
                return None
            weights = [torch.linspace(1, 2, each.numel()).view_as(each).to(each) for each in terms]
            total = sum((each * weight).sum() for each, weight in zip(terms, weights, strict=True))
            (gradient,) = torch.autograd.grad(total, image, allow_unused=True)
        return gradient

    @cached_property
    def _by_hooks(self) -> HookedGraph:
        reason = "its graph has another gradient"
        return HookedGraph(self.network, self.image_shape, self.dtype, reason, self.layout)

    def _hooked_name(self, layer: str) -> str:
        """The name that hooks give a layer of the graph.

        Raises
        ------
        ValueError
            It is no module's, nor what a linear one takes.
        """
        node = self.nodes[layer]
        takers = [self.names[user] + INPUT for user in node.users if node in self._mapped(user)]
        known = [layer, self.names[node], *self._blocks_of.get(node, []), *takers]
        for name in known:
            if name in self._by_hooks.values:
                return name
        raise ValueError(
            f"the network's gradient is not that of its operations (it has a backward pass of its own, or "
            f"stops gradients), so that only outputs of modules can be cut at, and {layer!r} is none."
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
        found = {
            name: self._first_of(copied[node], name) for name, node in self.nodes.items() if node in copied
        }
        whole = output.args[0]
        if self.key is not None and isinstance(whole, fx.Node):
            with graph.inserting_before(output):
                output.args = (graph.call_function(operator.getitem, (whole, self.key)),)
        elif self.key is not None:
            output.args = (whole[self.key],)
        return {**found, OUTPUT: output}

    def _first_of(self, node: fx.Node, name: str) -> fx.Node:
        """The node of a name's value, where the module puts out several of which that is the first."""
        key = self._several.get(name)
        if key is None:
            return node
        same = (user for user in node.users if user.target is operator.getitem and user.args[1] == key)
        found = next(same, None)
        if found is None:
            with node.graph.inserting_after(node):
                found = node.graph.call_function(operator.getitem, (node, key))
        return found

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
        given: Mapping[fx.Node, Rows] | None = None,
    ) -> nn.Module:
        """A frozen network of some of the nodes, in the order of the graph.

        Parameters
        ----------
        result
            Of the nodes' copies: what the part puts out.
        given
            Nodes whose values the part is called with, one row for each image, in this order, and where the
            network has the images in them; the images themselves, unless given.
        """
        self._check_current()
        graph, copies = fx.Graph(), {}
        image = next(node for node in self._cuttable[OUTPUT].graph.nodes if node.op == "placeholder")
        taken = {image: Rows()} if given is None else given  # a part takes images even where it needs none
        for index, node in enumerate(taken):
            copies[node] = graph.placeholder("images" if given is None else f"given_{index}")
        for node, rows in taken.items():
            if node is image:
                copies[node] = graph.call_method("to", (copies[node], self.dtype))
            copies[node] = _as_rows(copies[node], rows, undo=True)
            if any(user.op != "call_module" and self._overwrites(user) for user in node.users):
                copies[node] = graph.call_method("clone", (copies[node],))  # what is given is the caller's
        chosen = {node for node in nodes if node not in taken}
        for node in self._cuttable[OUTPUT].graph.nodes:
            if node in chosen:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(result(copies))
        # Copied in one go, so that what the network shares (a weight that is used twice) stays shared.
        used = {n.target: self._held(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr")}
        held = [each for each in used.values() if isinstance(each, nn.Module)]
        modules = [module for each in held for module in each.modules()]
        return frozen(without_inplace(fx.GraphModule(copied(used, modules), graph)))

    def _held(self, target: str) -> nn.Module | Tensor:
        """The module or weight at a path."""
        owner, _, name = target.rpartition(".")
        held = getattr(self.module.get_submodule(owner), name)
        return held.detach() if isinstance(held, Tensor) and not held.is_leaf else held


def _module_at(network: nn.Module, path: str) -> nn.Module | None:
    """The module at a path; None where there is none any more."""
    for name in path.split("."):
        network = None if network is None else network._modules.get(name)
    return network


def _as_rows(node: fx.Node, rows: Rows, *, undo: bool = False) -> fx.Node:
    """Add, behind a node, what `rows.of` (or `rows.undo`) does to its value."""
    call = node.graph.call_method
    if rows.interleaved:
        if undo:
            return call("flatten", (call("transpose", (node, 0, 1)), 0, 1))
        return call("transpose", (call("unflatten", (node, 0, (rows.parts, -1))), 0, 1))
    if rows.parts > 1:
        return call("flatten", (node, 0, 1)) if undo else call("unflatten", (node, 0, (-1, rows.parts)))
    if rows.axis:
        return call("movedim", (node, 0, rows.axis) if undo else (node, rows.axis, 0))
    return node


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

    def __init__(self, module: fx.GraphModule, visit: Callable[[fx.Node, object], None]):
        super().__init__(module, garbage_collect_values=True)
        self.visit = visit
        self.extra_traceback = False  # errors keep their own words

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        self.visit(node, value)
        return value


def _structure(value: object) -> list[object]:
    """The output of a network but for the tensors: their shapes, and everything else."""
    return [leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(value)]
