"""The axis of a value that holds the channels, as the operations that made it tell.

Convolutions, BatchNorm and pooling have channels first, linear layers and LayerNorm last; permutations and
views move them; all else keeps them where they are. So one look at a network's operations, while it runs on
a few images, tells a map (channels, height, width) from one of (height, width, channels).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

FIRST = ("convolution", "batch_norm", "group_norm", "pool", "upsample", "pixel_shuffle", "instance_norm")
LAST = ("linear", "addmm", "layer_norm", "mm")  # whole names, but for the norm
VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "expand", "flatten")
SPLITTING = ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
REDUCING = ("mean", "sum", "amax", "amin", "prod", "var", "std", "max", "min", "select", "logsumexp")
ACTIVATIONS = ("relu", "relu_", "gelu", "silu", "hardswish", "leaky_relu", "elu", "clamp", "clamp_min")


class Axis:
    """The axis that holds the channels; None as long as nothing has told. Values of one shape share it."""

    _numbers = itertools.count()

    def __init__(self, value: int | None = None):
        self.value = value
        self.age = next(self._numbers)


class ChannelAxes(TorchDispatchMode):
    """Follows, inside the block, the channels of all that is computed, and which values are sums of two."""

    def __init__(self):
        super().__init__()
        self._axes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._sums: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._flattened: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # (rows, last axis) → that axis

    def of(self, value: Tensor) -> Axis:
        """The channel axis of a value; what is not known yet may be told by later operations."""
        if value not in self._axes:
            self._axes[value] = Axis(1 if value.dim() == 2 else None)
        return self._axes[value]

    def is_sum(self, value: Tensor) -> bool:
        """Whether a value is the sum of two of its shape, or the activation of one."""
        return value in self._sums

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.rpartition("::")[2]
        inputs = [arg for arg in args if isinstance(arg, Tensor)]
        listed = [arg for arg in args if isinstance(arg, list | tuple) and arg and isinstance(arg[0], Tensor)]
        inputs += [each for group in listed for each in group]
        if inputs:
            for output in _tensors(result):
                if not any(output is each for each in inputs):  # in place: as it was
                    self._axes[output] = self._axis(name, inputs, args, output)
                self._note_sum(name, inputs, output)
        return result

    def _axis(self, name: str, inputs: list[Tensor], args: Sequence, output: Tensor) -> Axis:
        given = inputs[0]
        if output.dim() == 2:
            if name in VIEWS and output.shape[-1] == given.shape[-1]:
                self._flattened[output] = self.of(given), given.dim() - 1
            if name in LAST:  # linear layers flatten what they take
                for axis, last in [self._flattened[each] for each in inputs if each in self._flattened]:
                    axis.value = last if axis.value is None else axis.value
                    self._flattened[output] = axis, last
            return Axis(1)
        if any(word in name for word in FIRST) and given.dim() > 2:
            self._tell(given, 1)
            return Axis(1)
        if name in LAST or "layer_norm" in name or "rms_norm" in name:
            if "layer_norm" in name:
                if len(args) < 2 or len(args[1]) == 1:
                    self._tell(given, given.dim() - 1)
                return self.of(given)
            self._tell(given, given.dim() - 1)
            return Axis(self.of(given).value)  # another one, where tokens are mixed
        source = self.of(given)
        if name in ("permute", "transpose", "t", "movedim", "swapaxes"):
            return self._moved(source, name, args, given)
        if name in VIEWS and given in self._flattened:
            axis, last = self._flattened[given]
            if last == output.dim() - 1:
                return Axis(axis.value)
        if name in VIEWS:
            return Axis(_seen_again(source.value, given.shape, output.shape))
        if name in SPLITTING or name in ("slice", "narrow", "index_select"):
            return Axis(source.value)
        if name in REDUCING or name == "unbind":
            return self._reduced(source, args, given, output)
        if name == "stack":
            dim = (args[1] if len(args) > 1 else 0) % output.dim()
            return Axis(None if source.value is None else source.value + (source.value >= dim))
        same = [each for each in inputs if each.shape == output.shape]
        if same:
            return self._shared(same)
        # broadcast, padded, concatenated: what has as many axes has them in the same places
        known = (self.of(each).value for each in inputs if each.dim() == output.dim())
        return Axis(None if name == "bmm" else next((axis for axis in known if axis is not None), None))

    def _tell(self, value: Tensor, axis: int) -> None:
        known = self.of(value)
        if known.value is None:
            known.value = axis

    def _shared(self, values: list[Tensor]) -> Axis:
        """The axis of values that are put together element by element: the oldest tells."""
        axes = sorted((self.of(value) for value in values), key=lambda axis: axis.age)
        known = next((axis for axis in axes if axis.value is not None), axes[0])
        for axis in axes:
            if axis.value is None:
                axis.value = known.value
        return known

    def _moved(self, source: Axis, name: str, args: Sequence, given: Tensor) -> Axis:
        if source.value is None:
            return Axis()
        order = list(range(given.dim()))
        if name == "permute":
            order = [axis % given.dim() for axis in args[1]]
        elif name == "t":
            order.reverse()
        else:
            a, b = (axis % given.dim() for axis in args[1:3])
            order[a], order[b] = order[b], order[a]
        return Axis(order.index(source.value))

    def _reduced(self, source: Axis, args: Sequence, given: Tensor, output: Tensor) -> Axis:
        if source.value is None or given.dim() == output.dim():
            return Axis(source.value)
        gone = args[1] if len(args) > 1 else 0
        gone = [gone] if isinstance(gone, int) else gone
        if not isinstance(gone, list | tuple) or not all(isinstance(axis, int) for axis in gone):
            return Axis()
        gone = [axis % given.dim() for axis in gone]
        if source.value in gone:
            return Axis()
        return Axis(source.value - sum(axis < source.value for axis in gone))

    def _note_sum(self, name: str, inputs: list[Tensor], output: Tensor) -> None:
        is_sum = name in ("add", "add_") and len(inputs) == 2 and inputs[0].shape == inputs[1].shape
        if is_sum or (name in ACTIVATIONS and self.is_sum(inputs[0])):
            self._sums[output] = True


def _seen_again(axis: int | None, before: torch.Size, after: torch.Size) -> int | None:
    """The place of an axis after a view: with as many values before it and behind it as it had."""
    if axis is None:
        return None
    place = before[axis], math.prod(before[:axis]), math.prod(before[axis + 1 :])
    for index, size in enumerate(after):
        if (size, math.prod(after[:index]), math.prod(after[index + 1 :])) == place:
            return index
    return None


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
