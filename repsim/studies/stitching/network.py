"""Two networks spliced into one: the front's beginning, a transform, and the end's rest."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim.activations import LayerGraph, channels_side_by_side, fold_batchnorm, trace
from repsim.studies.stitching.layouts import Layout
from repsim.studies.stitching.moments import Moments
from repsim.studies.stitching.transforms import MATCHED, Initial, Mask, Transform
from repsim.support.devices import Precision, device_of, rounding_to, training_format

BATCH = 250  # images whose activations are held at once


class StitchedNetwork(nn.Module):
    """The front up to a layer, a transform, and the end from a layer on.

    It holds frozen copies of the parts of the donors that run, in evaluation mode also while it trains.

    Attributes
    ----------
    transform
        All that can be trained.
    precision
        In which all of it computes; logits are float32 at least.
    """

    precision: Precision = "float32"

    def __init__(
        self, front: LayerGraph, end: LayerGraph, layer_front: str, layer_end: str, transform: Transform
    ):
        super().__init__()
        suffix = end.suffix(layer_end)
        self.transform = transform
        self.prefix = front.prefix(layer_front)
        self.context = suffix.context
        self.rest = suffix.rest
        self.dtype = end.values[layer_end].dtype
        self.to(end.device)

    def before(self, images: Float[Tensor, "n c h w"]) -> tuple[Tensor, ...]:
        """All that does not depend on the transform: what it takes, then what goes around it."""
        with self._rounding(images.device):
            return (self.prefix(images), *self.context(images))

    def after(self, value: Tensor, *context: Tensor) -> Float[Tensor, "n classes"]:
        """Logits from what `before` gives."""
        with self._rounding(value.device):
            logits = self.rest(self._given(value), *context)
        if self.precision == "float32":
            return logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _rounding(self, device: torch.device) -> AbstractContextManager:
        # of float32 none at all: a caller's own is left alone
        return nullcontext() if self.precision == "float32" else rounding_to(self.precision, device)

    def _given(self, value: Tensor) -> Tensor:
        """The value that the end gets for the front's: each in its own precision."""
        if self.precision != "float32":
            return self.transform(value)
        return self.transform(value.to(self.transform.bias.dtype)).to(self.dtype)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.after(*self.before(images))

    def train(self, mode: bool = True) -> StitchedNetwork:
        """Set the mode of the transform; the donors' parts stay in evaluation mode."""
        super().train(False)
        self.training = mode
        self.transform.train(mode)
        return self

    def computing_in(self, precision: Precision) -> StitchedNetwork:
        """A twin, of the same modules, that computes in another precision."""
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        twin.precision = precision
        return twin

    def faster(self, images: Float[Tensor, "n c h w"]) -> StitchedNetwork:
        """A faster twin for fitting and attacks: the same transform, and the donors' BatchNorm folded away.

        Its weights are in the format in which networks are trained. It computes the same but for rounding, as
        is seen on `images`, of which few suffice.
        """
        with torch.no_grad():
            value, *context = self.before(images)
            given = self._given(value)
        inputs = {"prefix": (images,), "context": (images,), "rest": (given, *context)}
        side_by_side = training_format(images.device) == torch.channels_last
        twin = self.computing_in(self.precision)
        for name, given in inputs.items():
            part = fold_batchnorm(self._modules[name], *given)
            twin._modules[name] = channels_side_by_side(part, *given) if side_by_side else part
        return twin

    def batchnorms(self) -> dict[str, nn.Module]:
        """The donors' BatchNorm layers that run, by the names that files of stitches have for them."""
        kind = nn.modules.batchnorm._BatchNorm
        return {
            re.sub(r"^prefix\b", "beginning", name): module
            for name, module in self.named_modules()
            if isinstance(module, kind)
        }

    def learned(self, *, with_batchnorm: bool) -> dict[str, Tensor]:
        """The changes by fitting: the transform, and the BatchNorm statistics if they were updated."""
        state = {f"transform.{name}": value for name, value in self.transform.state_dict().items()}
        if with_batchnorm:
            for module, layer in self.batchnorms().items():
                state |= {f"batchnorm.{module}.{name}": value for name, value in layer.named_buffers()}
        return state

    def restore_batchnorm(self, learned: Mapping[str, Tensor]) -> None:
        """Take the BatchNorm statistics, where there are any, from what `learned` gave."""
        for module, layer in self.batchnorms().items():
            for name, buffer in layer.named_buffers():
                if (key := f"batchnorm.{module}.{name}") in learned:
                    buffer.copy_(learned[key])


def as_graph(model: nn.Module | LayerGraph, image_shape: Sequence[int] | None) -> LayerGraph:
    """A network's layer graph, traced now unless it was."""
    if isinstance(model, LayerGraph):
        return model
    if image_shape is None:
        raise ValueError("give image_shape=(channels, height, width), or networks that were traced with it.")
    return trace(model, image_shape)


def layout_between(
    front: LayerGraph,
    end: LayerGraph,
    layer_front: str,
    layer_end: str,
    *,
    flatten: bool = False,
    resize: bool = False,
) -> Layout:
    """The layout by which the values of two layers fit each other.

    Raises
    ------
    ValueError
        A layer is unknown, or the shapes do not fit; the layers are named.
    """
    front.check_known(layer_front)
    end.check_known(layer_end)
    try:
        shapes = front.values[layer_front].shape, end.values[layer_end].shape
        if flatten:
            return Layout(*shapes, flatten, resize)
        axes = front.channel_axis(layer_front), end.channel_axis(layer_end)
        return Layout(*shapes, flatten, resize, *axes)
    except ValueError as error:
        raise ValueError(f"{layer_front} → {layer_end}: {error}") from error


def kind_of_stitch(graph: LayerGraph, layer: str) -> str:
    """The kind of transform that a layer takes, or that there is none."""
    shape, axis = graph.values[layer].shape, graph.values[layer].channel_axis
    if not graph.reaches_output(layer):
        return "no: the output does not depend on it"
    if axis is None:
        return "no: its channels may be first or last (see layout=)"
    return Layout(shape, shape, front_axis=axis, end_axis=axis).description


def layer_moments(
    front: LayerGraph,
    end: LayerGraph,
    layer_front: str,
    layer_end: str,
    layout: Layout,
    images: Float[Tensor, "n c h w"],
) -> Moments:
    """The moments of two layers' values over images, streamed: a few hundred images are held at once."""
    beginnings = front.prefix(layer_front), end.prefix(layer_end)
    device = device_of(front.network)

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        with torch.no_grad():
            for batch in images.split(BATCH):
                taken, given = (prefix(batch.to(device)) for prefix in beginnings)
                yield layout.rows(layout.arrange(taken)), layout.rows(given)

    return Moments.of(rows())


def make_transform(
    front: nn.Module | LayerGraph,
    end: nn.Module | LayerGraph,
    layer_front: str,
    layer_end: str,
    *,
    image_shape: Sequence[int] | None = None,
    flatten: bool = False,
    resize: bool = False,
    rank: int = 0,
    initial: Initial = "random",
    mask: Mask = "identity",
    images: Float[Tensor, "n c h w"] | None = None,
    seed: int = 0,
) -> Transform:
    """A transform that fits between two layers.

    Parameters
    ----------
    image_shape
        Channels, height, width; not needed for traced networks.
    flatten, resize
        See `Layout`.
    rank, initial, mask, seed
        See `Transform`.
    images
        Of training, for the initialisations and masks that are made from the layers' values.

    Raises
    ------
    ValueError
        A layer is unknown; shapes or options do not fit.
    """
    front, end = as_graph(front, image_shape), as_graph(end, image_shape)
    layout = layout_between(front, end, layer_front, layer_end, flatten=flatten, resize=resize)
    moments = None
    if images is not None and (initial in MATCHED["initial"] or mask in MATCHED["mask"]):
        moments = layer_moments(front, end, layer_front, layer_end, layout, images)
    return Transform(layout, rank=rank, initial=initial, mask=mask, moments=moments, seed=seed)


def splice(
    front: nn.Module | LayerGraph,
    end: nn.Module | LayerGraph,
    layer_front: str,
    layer_end: str,
    transform: Transform,
    *,
    image_shape: Sequence[int] | None = None,
    cross_task: bool = False,
) -> StitchedNetwork:
    """Let one network go on with what another has made of the images, through a transform that is there.

    Only what is needed runs: the front up to its layer, the end from its layer on, and, where that lies
    inside a residual branch, what of the end goes around it, which still sees the images.

    Parameters
    ----------
    front, end
        Networks with pixels in [0, 1] as input and logits as output, or their `trace`. They stay as they are.
    layer_front, layer_end
        Whose value is taken, and whose is replaced; `trace(network, shape).table()` lists them.
    transform
        The map in between: see `make_transform`.
    image_shape
        Channels, height, width; not needed for traced networks.
    cross_task
        Allow donors with different numbers of classes.

    Raises
    ------
    ValueError
        A layer is unknown, or nothing of the output depends on it; the transform is for other shapes; the
        donors tell different numbers of classes apart.
    """
    front, end = as_graph(front, image_shape), as_graph(end, image_shape)
    check_donors(front, end, cross_task)
    flatten, resize = transform.layout.flatten, transform.layout.resize
    layout = layout_between(front, end, layer_front, layer_end, flatten=flatten, resize=resize)
    if layout != transform.layout:
        raise ValueError(
            f"the transform is from {transform.layout.front} to {transform.layout.end}, the layers are "
            f"{layout.front} and {layout.end}."
        )
    return StitchedNetwork(front, end, layer_front, layer_end, transform)


def check_donors(front: LayerGraph, end: LayerGraph, cross_task: bool) -> None:
    """Refuse donors that cannot be stitched, whatever the layers.

    Raises
    ------
    ValueError
        They take images of different shapes, put out no logits, or tell different numbers of classes
        apart without `cross_task`.
    """
    if front.image_shape != end.image_shape:
        raise ValueError(
            f"the front takes images of shape {front.image_shape}, the end of shape {end.image_shape}."
        )
    for side, graph in (("front", front), ("end", end)):
        if graph.classes is None:
            raise ValueError(f"the {side} puts out no logits, (images, classes), and cannot be stitched.")
    if front.classes != end.classes and not cross_task:
        raise ValueError(
            f"the front tells {front.classes} classes apart, the end {end.classes}: cross_task=True stitches "
            "them all the same, and the result answers with the end's classes."
        )
