"""Layer graphs: they name layers, select them, run up to them, and are cut in two at one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim.activations.channels import ChannelAxes
from repsim.activations.penultimate import is_affine_of_alone
from repsim.activations.rows import Rows, alike
from repsim.activations.trial import FEW, MORE, Seen, depends_on_randomness, rows_of, trial_images, try_out
from repsim.models.wrappers import logits_key
from repsim.support import messages
from repsim.support.devices import device_of, evaluating, tf32

Layers = Literal["all", "blocks", "penultimate"] | str | Sequence[str | float] | float
Layout = Literal["channels_first", "channels_last"]
Visit = Callable[[str, Tensor], None]

GROUPS = ("all", "blocks", "penultimate")
LAYOUTS = ("channels_first", "channels_last")
NORMALIZERS = ("normalize", "normalizer")  # of our networks, and of those of `robustness`
AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
HEADS = 8  # of the last affine maps of a network, how many may be its classifier


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes
    ----------
    name
        The path of the module that computes it; a residual sum has one of its own.
    operation
        The class of the module, or `add`; None of what is no layer (a view, a function, a whole block).
    shape
        Of its value for one image.
    parameters
        Of the network up to and with it.
    rows
        Where the images are in the value as the network computes it.
    channel_axis
        Which axis of `shape` holds the channels; None where nothing tells.
    dtype
        Of its value.
    """

    name: str
    operation: str | None
    shape: tuple[int, ...]
    parameters: int
    rows: Rows
    channel_axis: int | None
    dtype: torch.dtype

    @property
    def layout(self) -> str:
        """`vector`, `channels_first`, `channels_last`, or `unknown`."""
        if len(self.shape) == 1:
            return "vector"
        return {0: "channels_first", len(self.shape) - 1: "channels_last"}.get(self.channel_axis, "unknown")


class Done(BaseException):  # that no network catches
    """Every wanted layer has been visited: the rest of the network need not run."""


@dataclass(frozen=True)
class Suffix:
    """The end of a network, from one of its layers on.

    Attributes
    ----------
    context
        Images → a tuple of all else that the end takes: where the layer is inside a residual branch, what
        goes around it.
    rest
        The layer's value and the context → the network's logits (its whole output, where it has none).
    """

    context: nn.Module
    rest: nn.Module


class LayerGraph(ABC):
    """A network as the sequence of its layers: what they are, and running it up to any of them.

    Attributes
    ----------
    how
        How layers are read: `traced`, from a graph of the network's operations, or `hooked`, from its modules
        while it runs.
    reason
        Why it is not traced, where it is not.
    dtype
        In which precision it is given images.
    layers
        Calls of innermost modules, and residual sums, by name, in the order in which they are computed.
    values
        Whatever else the network computes for each image too (views, functions, blocks): to be had by name.
    left_out
        By name, why something is no layer though a module computes it.
    classes
        How many logits it puts out; None where it puts out none.
    draws
        Whether it draws random numbers in evaluation mode, so that values differ from call to call.
    batch_dependent
        Whether what it makes of an image depends on the others in its batch.
    """

    how: ClassVar[Literal["traced", "hooked"]]

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        dtype: torch.dtype,
        reason: str,
        layout: Layout | None,
    ):
        if layout not in (None, *LAYOUTS):
            raise ValueError(messages.unknown("layout", layout, LAYOUTS))
        self.network = network
        self.image_shape = tuple(image_shape)
        self.dtype, self.reason, self.layout = dtype, reason, layout
        self._heads: dict[str, Tensor] = {}
        parameters: dict[str, int] = {}
        counted: set[nn.Parameter] = set()
        total = 0

        def walk(images: Tensor, note: Visit, axes: ChannelAxes | None) -> object:
            def visit(name: str, value: object) -> None:
                nonlocal total
                module = self._module_of(name)
                used = [] if module is None else network.get_submodule(module).parameters()
                if isinstance(value, nn.Parameter):  # one that the network uses outside of its modules
                    used = [value]
                new = [weight for weight in used if weight not in counted]
                counted.update(new)
                total += sum(weight.numel() for weight in new)
                parameters[name] = total
                note(name, value)
                if isinstance(value, Tensor) and self._is_head(name):
                    self._keep_head(name, value)

            return self._walk(images, visit, axes)

        def walk_again(images: Tensor, note: Visit, axes: ChannelAxes | None) -> object:
            return self._walk(images, note, axes)

        with evaluating(network), torch.no_grad():
            few = try_out(walk, self.trial_images(FEW), follow=True)
            more = try_out(walk_again, self.trial_images(MORE), follow=False)
        self.outputs = {FEW: few.output, MORE: more.output}
        self.values: dict[str, Layer] = {}
        self.left_out: dict[str, str] = {}
        for name, seen in few.seen.items():
            self._describe(name, seen, more.seen.get(name), parameters[name])
        self.layers = {
            name: layer
            for name, layer in self.values.items()
            if layer.operation and name.rpartition(".")[2] not in NORMALIZERS
        }
        self.draws = False
        if few.drew.torch or few.drew.python:
            with evaluating(network):
                self.draws = depends_on_randomness(network, self.trial_images(FEW))
        self.key: str | int | None = None
        self.classes, self.batch_dependent = None, False
        with suppress(ValueError):
            self.key = logits_key(few.output)
            logits, others = self.logits_of(few.output), self.logits_of(more.output)
            self.classes = logits.shape[1]
            self.batch_dependent = not self.draws and not alike(logits, others[:FEW])

    @property
    def device(self) -> torch.device:
        """The device of the network's weights."""
        return device_of(self.network)

    def _describe(self, name: str, few: Seen, more: Seen | None, parameters: int) -> None:
        rows = None if more is None else rows_of(few, more)
        if few.dtype.is_complex:
            self.left_out[name] = "its values are complex numbers"
            return
        if rows is None:
            if self._operation(name):
                self.left_out[name] = (
                    f"its value for {FEW} images is {tuple(few.shape)}, which has no row for each image"
                )
            return
        shape = rows.shape_of(few.shape)
        axis = rows.axis_of(few.axis.value if few.axis else None, len(few.shape))
        if len(shape) == 1:
            axis = 0
        elif axis is None and self.layout:
            axis = 0 if self.layout == "channels_first" else len(shape) - 1
        self.values[name] = Layer(name, self._operation(name), shape, parameters, rows, axis, few.dtype)

    def trial_images(self, count: int) -> Float[Tensor, "n c h w"]:
        """Random images of the network's shape, device and dtype, the same at every call."""
        return trial_images(count, self.image_shape, self.device, self.dtype)

    def logits_of(self, output: object) -> object:
        """The logits in what the network puts out; all of it, where there are none."""
        return output if self.key is None else output[self.key]

    @abstractmethod
    def _walk(self, images: Tensor, visit: Visit, axes: ChannelAxes | None) -> object:
        """Run the network, calling `visit` with the name and value of everything it computes."""

    @abstractmethod
    def _module_of(self, name: str) -> str | None:
        """The path of the module that computes `name`."""

    @abstractmethod
    def _operation(self, name: str) -> str | None:
        """The operation of `name` in tables, None where it is no layer (a view, a size, the input)."""

    @abstractmethod
    def _is_head(self, name: str) -> bool:
        """Whether an affine map takes the value of this name."""

    @abstractmethod
    def _blocks(self) -> list[str]:
        """The outputs of residual blocks or stages.

        Raises
        ------
        ValueError
            None can be seen.
        """

    @abstractmethod
    def prefix(self, layer: str) -> nn.Module:
        """Images → the value of a layer (n, …), by a frozen copy of only what is needed for it.

        Raises
        ------
        ValueError
            The layer is unknown, or can't be read in the way that gradients need.
        """

    @abstractmethod
    def with_activations(self, layers: Sequence[str]) -> nn.Module:
        """Images → a tuple of the values of layers, and last the network's logits, by a frozen copy."""

    @abstractmethod
    def suffix(self, layer: str) -> Suffix:
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
            With the nearest names that it has, or why it is none.
        """
        if layer in self.left_out:
            raise ValueError(f"{layer!r} is no layer: {self.left_out[layer]}.")
        if layer not in self.values:
            raise ValueError(messages.unknown("layer", layer, list(self.layers)))

    def check_images(self, images: Float[Tensor, "n c h w"]) -> None:
        """Refuse images of another shape than the graph was made for.

        Raises
        ------
        ValueError
            With both shapes.
        """
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"the layers were traced for images of shape {self.image_shape} (channels, height, width), "
                f"not {tuple(images.shape[1:])}: trace the network for these."
            )

    def channel_axis(self, layer: str) -> int:
        """The axis of a layer's value for one image that holds the channels.

        Raises
        ------
        ValueError
            The layer is unknown, or nothing tells.
        """
        self.check_known(layer)
        axis = self.values[layer].channel_axis
        if axis is None:
            raise ValueError(
                f"layer {layer!r} has values of shape {self.values[layer].shape} for an image, and nothing "
                "that the network does tells which axis holds the channels: say so with trace(network, "
                "image_shape, layout='channels_first' or 'channels_last'), and hand over the result."
            )
        return axis

    def run(self, images: Float[Tensor, "n c h w"], visit: Visit, layers: Iterable[str]) -> None:
        """Run the network in evaluation mode up to the last of `layers`, visiting each of them.

        A value (n, …) is valid inside the call of `visit` only: it may be changed in place or freed later.

        Raises
        ------
        ValueError
            A layer is unknown, or the network does not compute it for these images.
        """
        self.check_images(images)
        wanted = dict.fromkeys(layers)
        for name in wanted:
            self.check_known(name)

        def pass_on(name: str, value: object) -> None:
            if name in wanted:
                del wanted[name]
                value = self.values[name].rows.of(value)
                if len(value) != len(images):
                    raise ValueError(
                        f"layer {name!r} has {len(value)} rows for {len(images)} images: the network "
                        "computes it for a part of them at a time."
                    )
                visit(name, value)
                if not wanted:
                    raise Done

        images = images.to(self.device, self.dtype, copy=True)  # the network may work in place
        with evaluating(self.network), torch.no_grad(), suppress(Done):
            self._walk(images, pass_on, None)
        if wanted:
            raise ValueError(never_computed(next(iter(wanted))))

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
        if isinstance(layers, str) and layers not in {*self.values, *self.left_out}:
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
            return [self._penultimate]
        names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
        for name in names:
            if name in GROUPS and len(names) > 1:
                raise ValueError(f"{name!r} stands for layers by itself, and not in a list of several.")
            if name not in self.values and name not in self.left_out:
                raise ValueError(messages.unknown("layer", name, [*known, *GROUPS]))
            self.check_known(name)
        return names

    def _keep_head(self, name: str, value: Tensor) -> None:
        """Keep what the last affine maps take of the trial's images, to find the classifier among them."""
        self._heads.pop(name, None)
        self._heads[name] = value.detach().clone()
        if len(self._heads) > HEADS:
            del self._heads[next(iter(self._heads))]

    @cached_property
    def _penultimate(self) -> str:
        """The value of which the network's answer is an affine map, and which alone decides it."""
        if self.classes is None:
            raise ValueError("the network puts out no logits, so that it has no penultimate layer: name one.")
        heads = [name for name in reversed(self._heads) if name in self.values]
        if not heads:
            raise ValueError("the network has no linear layer, so no penultimate one: name the layer.")
        for name in heads:
            if self._is_classified(name):
                return name
        raise ValueError(
            "the network's answer is an affine map of no layer's value alone, so that it has no penultimate "
            f"layer: name one. Its last affine maps take {', '.join(heads[:3])}."
        )

    def _is_classified(self, name: str) -> bool:
        """Whether logits go with a layer's value when images exchange it, and are in the middle with it."""
        value = self.values[name].rows.of(self._heads[name])
        with evaluating(self.network), torch.no_grad(), tf32(False):
            suffix = self._suffix(name)
            return is_affine_of_alone(suffix.rest, value, suffix.context(self.trial_images(FEW)))

    @abstractmethod
    def _suffix(self, layer: str) -> Suffix:
        """`suffix` of a layer on which the output is known to depend, not compared with the network."""

    def _check_cut(self, layer: str, suffix: Suffix) -> None:
        """Refuse a cut whose parts do not make the network: some ways to work in place cannot be seen."""
        images = self.trial_images(FEW)
        with evaluating(self.network), torch.no_grad():
            parts = suffix.rest(self.prefix(layer)(images), *suffix.context(images))
            whole = self.logits_of(self.network(images.clone()))
        if isinstance(whole, Tensor) and not self.draws and not alike(parts, whole):
            raise ValueError(
                f"the network cannot be cut at {layer!r}: it changes values in place in a way that its "
                "graph does not show."
            )

    def table(self) -> pd.DataFrame:
        """One row per layer, as far as the network computes it for each image.

        Returns
        -------
        DataFrame
            `layer`, `operation`, `shape` (without the batch), `layout` (where the channels are), `parameters`
            up to there, and `read` (`traced` or `hooked`).
        """
        rows = [
            (
                layer.name,
                layer.operation,
                " × ".join(map(str, layer.shape)),
                layer.layout,
                layer.parameters,
                self.how,
            )
            for layer in self.layers.values()
        ]
        return pd.DataFrame(rows, columns=["layer", "operation", "shape", "layout", "parameters", "read"])

    @property
    def notes(self) -> list[str]:
        """Notes for a reader of its values, one sentence each."""
        found = []
        if self.reason:
            found.append(f"Layers are read by hooks, and residual sums have no names: {self.reason}.")
        if self.draws:
            found.append("The network draws random numbers in evaluation mode: values differ at each call.")
        if self.batch_dependent:
            found.append("What it makes of an image depends on the others in its batch.")
        found += [f"{name!r} is left out: {why}." for name, why in self.left_out.items()]
        return found


def never_computed(layer: str) -> str:
    """Say that a network has no value of a layer for the images at hand."""
    return f"for these images the network never computes {layer!r}: it branches on them."
