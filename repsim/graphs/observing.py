"""What a network makes of images: the values of some layers and its output, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.attacks import device_of
from repsim.graphs.folding import fold_batchnorm
from repsim.graphs.layer_graph import LayerGraph

BATCH = 250  # images at a time


@dataclass(frozen=True, eq=False)
class Observation:
    """What one network makes of images: by layer, one row per image; and logits."""

    values: dict[str, Float[Tensor, "n d"]]
    logits: Float[Tensor, "n classes"]

    def part(self, rows: Int[Tensor, " m"]) -> Observation:
        """Of some of the images."""
        return Observation({layer: each[rows] for layer, each in self.values.items()}, self.logits[rows])


class Observer:
    """A frozen copy of a network, with BatchNorm folded, that gives the values of layers beside its output.

    Parameters
    ----------
    layers
        By their names.
    reduce
        What to keep of a layer's value for a batch of images, as one row for each; all of it by default.
    """

    def __init__(
        self,
        graph: LayerGraph,
        layers: Sequence[str],
        reduce: Callable[[Tensor], Tensor] = lambda value: value.flatten(1),
    ):
        self.layers = list(layers)
        self._device = device_of(graph.network)
        self._part = fold_batchnorm(graph.reading(self.layers))
        self._reduce = reduce

    def observe(self, images: Float[Tensor, "n c h w"]) -> Observation:
        """What the network makes of images, on their device."""
        batches = []
        with torch.no_grad():
            for batch in images.split(BATCH):
                *values, logits = self._part(batch.to(self._device))
                batches.append([each.to(images.device) for each in [*map(self._reduce, values), logits]])
        *values, logits = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return Observation(dict(zip(self.layers, values, strict=True)), logits)
