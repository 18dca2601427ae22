"""A network becomes its layer graph, and images the values of its layers."""

from __future__ import annotations

import copyreg
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jaxtyping
import pandas as pd
import torch
from torch import Tensor, nn

from repsim.activations.copying import restored
from repsim.activations.hooked import HookedGraph
from repsim.activations.layer_graph import LayerGraph, Layers, Layout
from repsim.activations.traced import TracedGraph
from repsim.activations.tracer import NetworkTracer
from repsim.activations.trial import FEW, MORE, trial_images, watched_randomness
from repsim.data import ImageSource, as_images_in_order
from repsim.models.wrappers import bare, image_dtype
from repsim.support.devices import device_of, evaluating


def trace(network: nn.Module, image_shape: Sequence[int], layout: Layout | None = None) -> LayerGraph:
    """The layers of any network for images of `image_shape` (channels, height, width).

    A graph of the network's operations is used after it has given what the network gives, on a few random
    images; else layers are read by hooks, and `reason` says why. The graph shares the network's weights. Of
    wrappers (DataParallel, torch.compile, `AttackerModel`, …), the layers are those of the network inside.

    Parameters
    ----------
    layout
        Where channels are in the values of those layers of which nothing else tells.

    Raises
    ------
    ValueError
        It is no network, or fails on such images.
    """
    network = bare(network)
    graph = _traced(network, image_shape, layout)
    if graph.draws:
        warnings.warn(
            "the network draws random numbers in evaluation mode: values of its layers differ at each call.",
            stacklevel=2,
        )
    if graph.batch_dependent:
        warnings.warn(
            "what the network makes of an image depends on the other images in its batch (BatchNorm without "
            "running statistics does so), and so do all results.",
            stacklevel=2,
        )
    return graph


def _traced_again(graph: LayerGraph) -> tuple:
    return trace, (graph.network, graph.image_shape, graph.layout)


# a graph holds functions of its own making: copied or pickled, the network is traced again
for kind in (TracedGraph, HookedGraph):
    copyreg.pickle(kind, _traced_again)


def _traced(network: nn.Module, image_shape: Sequence[int], layout: Layout | None) -> LayerGraph:
    reason = NetworkTracer(network).obstacle()
    with restored(network):
        device, dtype = device_of(network), image_dtype(network, image_shape)
    # by its operations alone; and where it asks for sizes on the way, with those of a few images at hand
    for counts in [] if reason else [(), (FEW, MORE)]:
        examples = [trial_images(count, image_shape, device, dtype) for count in counts]
        tracer = NetworkTracer(network, examples)
        try:
            with restored(network):
                # other random numbers than trials draw: one that becomes a constant is seen to be one
                with evaluating(network), torch.no_grad(), _unchecked(), watched_randomness(device, seed=2):
                    graph = tracer.graph_of_network()
                traced = TracedGraph(
                    network, image_shape, dtype, graph, tracer.names(), tracer.blocks, layout
                )
                reason = traced.difference(of_sizes=bool(examples))
            if not reason:
                return traced
        except Exception as error:  # whatever a network does that a stand-in for a tensor does not stand
            reason = f"torch.fx cannot trace it ({_first_line(error)})"
    try:
        with restored(network):
            return HookedGraph(network, image_shape, dtype, reason, layout)
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__} fails on images of shape {tuple(image_shape)} (channels, height, "
            f"width): {_first_line(error)}. It must be callable with a batch of images alone."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


@contextmanager
def _unchecked() -> Iterator[None]:
    """Let pass, where shape annotations are checked, what stands for a tensor while a network is traced."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def layers(network: nn.Module, image_shape: Sequence[int]) -> pd.DataFrame:
    """The layers of any network for images of `image_shape` (channels, height, width), as a table.

    Returns
    -------
    DataFrame
        One row per layer, in the order in which they are computed: see `LayerGraph.table`. The names in its
        column `layer` are those by which layers are chosen.

    Raises
    ------
    ValueError
        See `trace`.
    """
    return trace(network, image_shape).table()


def capture(
    network: nn.Module | LayerGraph,
    images: ImageSource,
    layers: Layers,
    *,
    batch_size: int = 500,
) -> dict[str, Tensor]:
    """The outputs of layers for images, on the device of `images`.

    Parameters
    ----------
    images
        A tensor, as the network is to be given it; or an array, or batches, such as of a `DataLoader`, in
        [0, 1] (see `as_images`).

    Returns
    -------
    dict
        Layer name → tensor (n, …), in the order of `layers`. No tensor shares memory with another.

    Raises
    ------
    ValueError
        A layer is unknown, or the network does not compute it for these images.
    """
    # what comes by batches is checked; a tensor is what the network is to be given, normalised or not
    images = images if isinstance(images, Tensor) else as_images_in_order(images)
    graph = network if isinstance(network, LayerGraph) else trace(network, images.shape[1:])
    parts: dict[str, list[Tensor]] = {name: [] for name in graph.select(layers)}

    def keep(name: str, value: Tensor) -> None:
        parts[name].append(value.to(images.device, copy=True))

    for batch in images.split(batch_size):
        graph.run(batch, keep, parts)
    return {name: torch.cat(part) for name, part in parts.items()}
