"""Layer graphs of networks that cannot be traced: layers are innermost modules, watched by hooks."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from repsim.activations.channels import ChannelAxes
from repsim.activations.copying import copied, frozen
from repsim.activations.layer_graph import (
    AFFINE,
    Done,
    Layer,
    LayerGraph,
    Layout,
    Suffix,
    Visit,
    never_computed,
)
from repsim.activations.naming import module_paths, name_of_call
from repsim.activations.rows import alike
from repsim.activations.trial import FEW, tensors_in, watched_randomness
from repsim.models.layers import operation_of
from repsim.support.devices import evaluating

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
INPUT = ".input"  # behind the name of a call: what it takes rather than what it puts out


@dataclass(frozen=True)
class Call:
    """A call of a module, and whether its input is meant rather than its output."""

    path: str
    number: int
    takes: bool = False


class HookedGraph(LayerGraph):
    """Layers are calls of innermost modules; hooks live while the network runs."""

    how = "hooked"

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        dtype: torch.dtype,
        reason: str,
        layout: Layout | None = None,
    ):
        self.calls: dict[str, Call] = {}
        self._paths = module_paths(network)
        self._outer: set[str] = set()  # names of calls during which other modules are called
        self._sums: list[list[str]] = []  # names of calls that put out one and the same residual sum
        self._summed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        super().__init__(network, image_shape, dtype, reason, layout)

    def _walk(self, images: Tensor, visit: Visit, axes: ChannelAxes | None) -> object:
        def note(call: Call, value: object, is_innermost: bool) -> None:
            name = name_of_call(call.path, call.number, self._paths) + (INPUT if call.takes else "")
            self.calls[name] = call
            if not is_innermost:
                self._outer.add(name)
            if axes is not None and not call.takes and isinstance(value, Tensor) and axes.is_sum(value):
                self._note_sum(name, value)
            visit(name, value)

        with watched(self.network, note):
            return self.network(images)

    def _note_sum(self, name: str, value: Tensor) -> None:
        if value not in self._summed:
            self._summed[value] = names = []
            self._sums.append(names)
        self._summed[value].append(name)

    def _module_of(self, name: str) -> str | None:
        call = self.calls[name]
        return None if call.takes or name in self._outer else call.path

    def _operation(self, name: str) -> str | None:
        path = self._module_of(name)
        module = None if path is None else self.network.get_submodule(path)
        return None if module is None or isinstance(module, CONTAINERS) else operation_of(module)

    def _is_head(self, name: str) -> bool:
        return name.endswith(INPUT)

    def _blocks(self) -> list[str]:
        """Blocks that put out residual sums; without such, modules that are repeated in a row."""
        found = [
            next((name for name in names if self._is_in_row(name)), names[0])
            for names in self._sums
            if names[0] in self.values
        ]
        found = found or self._repeated()
        if not found:
            raise ValueError(
                "the network is read by hooks, which see neither residual sums nor repeated blocks in it: "
                "name its layers instead."
            )
        return list(dict.fromkeys(found))

    def _is_in_row(self, name: str) -> bool:
        """Whether a call is of a module that stands in a list or a sequence of modules."""
        parent = self.calls[name].path.rpartition(".")[0]
        return name in self.values and isinstance(self.network.get_submodule(parent), CONTAINERS)

    def _repeated(self) -> list[str]:
        """The outermost blocks of a class that stands several times in a row."""
        in_rows = [name for name in self.values if name in self._outer and self._is_in_row(name)]

        def kind(name: str) -> tuple[str, type]:
            path = self.calls[name].path
            return path.rpartition(".")[0], type(self.network.get_submodule(path))

        kinds = [kind(name) for name in in_rows]
        repeated = [name for name in in_rows if kinds.count(kind(name)) > 1]
        inside = {name for name in repeated for other in repeated if name.startswith(f"{other}.")}
        return [name for name in repeated if name not in inside]

    def reaches_output(self, layer: str) -> bool:
        """Whether the output changes when two images exchange their values of a layer."""
        images = self.trial_images(FEW)
        found: list[Tensor] = []
        self.run(images, lambda name, value: found.append(value.clone()), [layer])
        with torch.no_grad(), evaluating(self.network), watched_randomness(self.device):
            run = self._replaced(layer, self.network)
            own, exchanged = (tensors_in(run(value, images)) for value in (found[0], found[0].flip(0)))
        return not all(torch.equal(a, b) for a, b in zip(own, exchanged, strict=True))

    def prefix(self, layer: str) -> nn.Module:
        self.check_known(layer)
        return _UpTo(self._copy(), self.calls[layer], self.values[layer], self.dtype)

    def with_activations(self, layers: Sequence[str]) -> nn.Module:
        for layer in layers:
            self.check_known(layer)
        known = [(self.calls[layer], self.values[layer]) for layer in layers]
        return _Read(self._copy(), known, self.key, self.dtype)

    def suffix(self, layer: str) -> Suffix:
        self.check_known(layer)
        if not self.reaches_output(layer):
            raise ValueError(f"the network's output does not depend on layer {layer!r}.")
        suffix = self._suffix(layer)
        self._check_cut(layer, suffix)
        return suffix

    def _suffix(self, layer: str) -> Suffix:
        return Suffix(context=_Images(), rest=self._replaced(layer, self._copy()))

    def _replaced(self, layer: str, network: nn.Module) -> nn.Module:
        return _Replaced(network, self.calls[layer], self.values[layer], self.key, self.dtype)

    def _copy(self) -> nn.Module:
        """Copy a network; in-place operations stay, since a network that runs as it is may rely on them."""
        if not self._is_copied_truly:
            raise ValueError(
                "a copy of the network does not compute what the network does (does something in it hold "
                "on to the original?): its layers can be captured, but it can neither be cut nor inverted."
            )
        return self._twin()

    def _twin(self) -> nn.Module:
        try:
            return frozen(copied(self.network, self.network.modules()))
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise ValueError(
                f"the network cannot be copied ({error}), so that its layers can be captured, but it can "
                "neither be cut nor inverted."
            ) from error

    @cached_property
    def _is_copied_truly(self) -> bool:
        """Whether a copy calls modules of its own, and computes what the network does."""
        twin = self._twin()
        called: list[Call] = []
        images = self.trial_images(FEW)
        with (
            torch.no_grad(),
            watched_randomness(self.device),
            watched(twin, lambda call, value, is_innermost: called.append(call)),
        ):
            output = twin(images.clone())
        with torch.no_grad(), evaluating(self.network), watched_randomness(self.device):
            own = self.network(images.clone())
        found, expected = self.logits_of(output), self.logits_of(own)
        return bool(called) and (not isinstance(found, Tensor) or alike(found, expected))


class _Part(nn.Module):
    """A network watched while it runs on images, which it takes in its own dtype and leaves as they are."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def _own(self, images: Tensor) -> Tensor:
        return images.to(self.dtype, copy=True)


class _UpTo(_Part):
    """A network that stops at a call, and gives its value."""

    def __init__(self, network: nn.Module, call: Call, layer: Layer, dtype: torch.dtype):
        super().__init__(network, dtype)
        self.call, self.layer = call, layer

    def forward(self, images: Tensor) -> Tensor:
        found: list[Tensor] = []

        def stop(call: Call, value: Tensor, is_innermost: bool) -> None:
            if call == self.call:
                found.append(value)
                raise Done

        with watched(self.network, stop):
            try:
                self.network(self._own(images))
            except Done:
                return self.layer.rows.of(found[0])
        raise ValueError(never_computed(self.layer.name))


class _Read(_Part):
    """A network that gives the values of calls, and last its logits."""

    def __init__(
        self,
        network: nn.Module,
        calls: Sequence[tuple[Call, Layer]],
        key: str | int | None,
        dtype: torch.dtype,
    ):
        super().__init__(network, dtype)
        self.calls, self.key = list(calls), key

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found: dict[Call, Tensor] = {}
        wanted = {call for call, _ in self.calls}

        def keep(call: Call, value: Tensor, is_innermost: bool) -> None:
            if call in wanted:
                found[call] = value.clone()  # the network may work in place

        with watched(self.network, keep):
            output = self.network(self._own(images))
        for call, layer in self.calls:
            if call not in found:
                raise ValueError(never_computed(layer.name))
        logits = output if self.key is None else output[self.key]
        return *(layer.rows.of(found[call]) for call, layer in self.calls), logits


class _Images(nn.Module):
    """The context of a network that has to be run whole: the images themselves."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images,)


class _Replaced(_Part):
    """A network in which the value of a call is replaced by a given one."""

    def __init__(
        self, network: nn.Module, call: Call, layer: Layer, key: str | int | None, dtype: torch.dtype
    ):
        super().__init__(network, dtype)
        self.call, self.layer, self.key = call, layer, key

    def forward(self, given: Tensor, images: Tensor) -> Tensor:
        replaced = False

        def replace(call: Call, value: Tensor, is_innermost: bool) -> Tensor | None:
            nonlocal replaced
            if call != self.call:
                return None
            replaced = True
            return self.layer.rows.undo(given).clone()  # the network may work in place

        with watched(self.network, replace):
            output = self.network(self._own(images))
        if not replaced:
            raise ValueError(never_computed(self.layer.name))
        return output if self.key is None else output[self.key]


@contextmanager
def watched(network: nn.Module, see: Callable[[Call, object, bool], object]) -> Iterator[None]:
    """Call `see` with what modules put out, and affine ones take; what it returns replaces that.

    Its last argument says whether a module is an innermost one: no other is called while it is. Of outputs
    that are tuples or mappings, it is given the first tensor. Calls in other threads are not seen.
    """
    numbers: dict[str, int] = {}
    stack: list[bool] = []  # for each call that goes on: whether it is innermost, as far as seen
    thread = threading.get_ident()

    def hooks_for(path: str) -> tuple[Callable, Callable]:
        def before(module: nn.Module, inputs: tuple, named: dict) -> object:
            if threading.get_ident() != thread:
                return None
            if stack:
                stack[-1] = False
            stack.append(True)
            if not isinstance(module, AFFINE):
                return None
            # what it takes need not be what any module puts out
            taken = inputs or tuple(named.values())
            new = see(Call(path, numbers.get(path, 0), takes=True), taken[0], True)
            if new is None:
                return None
            if inputs:
                return (new, *inputs[1:]), named
            return inputs, {**named, next(iter(named)): new}

        def after(module: nn.Module, inputs: tuple, output: object) -> object:
            if threading.get_ident() != thread:
                return None
            number = numbers.get(path, 0)
            numbers[path] = number + 1
            new = see(Call(path, number), first_tensor(output), stack.pop())
            return None if new is None else _with_first(output, new)

        return before, after

    handles = []
    for path, part in network.named_modules():
        if path and "parametrizations" not in path.split("."):
            before, after = hooks_for(path)
            handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(part.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_key(output: object) -> int | str | None:
    """The key of the first tensor in a tuple or mapping that a module puts out; None for anything else."""
    if not isinstance(output, list | tuple | Mapping):
        return None
    pairs = output.items() if isinstance(output, Mapping) else enumerate(output)
    return next((key for key, each in pairs if isinstance(each, Tensor)), None)


def first_tensor(output: object) -> object:
    """The first tensor of a tuple, or of a mapping, that a module puts out; anything else as it is."""
    key = first_key(output)
    return output if key is None else output[key]


def _with_first(output: Any, new: Tensor) -> object:
    """An output whose first tensor is another one."""
    key = first_key(output)
    if key is None:
        return new
    if isinstance(output, Mapping):
        twin = copy.copy(output)
        twin[key] = new
        return twin
    values = [new if place == key else each for place, each in enumerate(output)]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
