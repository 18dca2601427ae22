"""Layer graphs of networks that cannot be traced: layers are innermost modules, watched by hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repsim.attacks import device_of
from repsim.graphs.layer_graph import Done, Ending, LayerGraph, Visit, frozen


@dataclass(frozen=True)
class Call:
    """Which call of which module, and whether what it takes is meant rather than what it puts out."""

    path: str
    number: int
    takes: bool = False


class HookedGraph(LayerGraph):
    """Layers are calls of innermost modules; hooks live while the network runs."""

    def __init__(self, network: nn.Module, image_shape: Sequence[int]):
        self.calls: dict[str, Call] = {}
        super().__init__(network, image_shape)

    def _walk(self, images: Tensor, visit: Visit) -> object:
        def note(call: Call, value: object) -> None:
            name = f"{call.path}_{call.number}" if call.number else call.path
            name += ".input" if call.takes else ""
            self.calls[name] = call
            visit(name, value)

        with _watched(self.network, note):
            return self.network(images)

    def _module_of(self, name: str) -> str | None:
        call = self.calls[name]
        return None if call.takes else call.path

    def _operation(self, name: str) -> str | None:
        path = self._module_of(name)
        return None if path is None else type(self.network.get_submodule(path)).__name__

    def _after(self, name: str) -> list[str]:
        order = list(self.layers)
        place = order.index(name)
        return order[place + 1 : place + 2]

    def _before(self, name: str) -> str:
        return f"{name}.input"

    def reaches_output(self, layer: str) -> bool:
        image = torch.full((1, *self.image_shape), 0.5, device=device_of(self.network))
        with torch.enable_grad():
            value = self.beginning(layer)(image).requires_grad_()
            return _Replaced(self._copy(), self.calls[layer])(value, image).requires_grad

    def beginning(self, layer: str) -> nn.Module:
        self.check_known(layer)
        return _UpTo(self._copy(), self.calls[layer])

    def reading(self, layers: Sequence[str]) -> nn.Module:
        for layer in layers:
            self.check_known(layer)
        return _Read(self._copy(), [self.calls[layer] for layer in layers])

    def ending(self, layer: str) -> Ending:
        self.check_known(layer)
        if not self.reaches_output(layer):
            raise ValueError(f"the network's output does not depend on layer {layer!r}.")
        return Ending(context=_Images(), rest=_Replaced(self._copy(), self.calls[layer]))

    def _copy(self) -> nn.Module:
        """In-place operations stay: a network that runs as it is may rely on them."""
        return frozen(copy.deepcopy(self.network))


class _UpTo(nn.Module):
    """A network that stops at a call, and gives its value."""

    def __init__(self, network: nn.Module, call: Call):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, images: Tensor) -> Tensor:
        found: list[Tensor] = []

        def stop(call: Call, value: Tensor) -> None:
            if call == self.call:
                found.append(value)
                raise Done

        with _watched(self.network, stop):
            try:
                self.network(images)
            except Done:
                return found[0]
        raise ValueError(_never_called(self.call))


class _Read(nn.Module):
    """A network that gives the values of calls, and last its output."""

    def __init__(self, network: nn.Module, calls: Sequence[Call]):
        super().__init__()
        self.network, self.calls = network, list(calls)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found: dict[Call, Tensor] = {}

        def keep(call: Call, value: Tensor) -> None:
            if call in self.calls:
                found[call] = value.clone()  # the network may work in place

        with _watched(self.network, keep):
            output = self.network(images)
        for call in self.calls:
            if call not in found:
                raise ValueError(_never_called(call))
        return *(found[call] for call in self.calls), output


def _never_called(call: Call) -> str:
    return f"for these images the network never calls {call.path}: it branches on them."


class _Images(nn.Module):
    """The context of a network that has to be run whole: the images themselves."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images,)


class _Replaced(nn.Module):
    """A network in which the value of a call is replaced by a given one."""

    def __init__(self, network: nn.Module, call: Call):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, given: Tensor, images: Tensor) -> Tensor:
        replaced = False

        def replace(call: Call, value: Tensor) -> Tensor | None:
            nonlocal replaced
            if call != self.call:
                return None
            replaced = True
            return given.clone()  # the network may work in place

        with _watched(self.network, replace):
            output = self.network(images)
        if not replaced:
            raise ValueError(_never_called(self.call))
        return output


@contextmanager
def _watched(network: nn.Module, see: Callable[[Call, object], object]) -> Iterator[None]:
    """Call `see` with what innermost modules put out, and linear ones take; what it returns replaces that."""
    numbers: dict[str, int] = {}

    def hooks_for(path: str) -> tuple[Callable, Callable]:
        def before(module: nn.Module, inputs: tuple) -> object:
            if isinstance(module, nn.Linear):  # what it takes need not be what any module puts out
                return see(Call(path, numbers.get(path, 0), takes=True), inputs[0])
            return None

        def after(module: nn.Module, inputs: tuple, output: object) -> object:
            number = numbers.get(path, 0)
            numbers[path] = number + 1
            return see(Call(path, number), output)

        return before, after

    handles = []
    for path, part in network.named_modules():
        if not list(part.children()):
            before, after = hooks_for(path)
            handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
