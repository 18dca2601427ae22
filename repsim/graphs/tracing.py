"""From a network to its layer graph, and from images to the values of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jaxtyping
import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from repsim._compat import NodePathTracer
from repsim.attacks import evaluating
from repsim.graphs.hooked import HookedGraph
from repsim.graphs.layer_graph import LayerGraph, Layers
from repsim.graphs.traced import TracedGraph
from repsim.models.attacker_model import unwrapped


def trace(network: nn.Module, image_shape: Sequence[int]) -> LayerGraph:
    """The layers of any classifier for images of `image_shape` (channels, height, width).

    The graph shares the network's weights. Of an `AttackerModel` of the `robustness` package, the layers are
    those of the classifier inside it, such as `model.layer1.0.conv1`.
    """
    network = unwrapped(network)
    tracer = NodePathTracer()
    with evaluating(network), _unchecked():
        try:
            graph = tracer.trace(network)
        except (fx.proxy.TraceError, TypeError, RuntimeError):  # it branches on what it computes
            return HookedGraph(network, image_shape)
    names = {node: name for node, name in tracer.node_to_qualname.items() if node.op != "output"}
    return TracedGraph(network, image_shape, graph, names)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Where shape annotations are checked, let pass what stands for a tensor while a network is traced."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


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
