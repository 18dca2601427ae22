"""Observing a network: the values of some layers and its output for images, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.activations.folding import channels_side_by_side, fold_batchnorm
from repsim.activations.layer_graph import LayerGraph
from repsim.activations.rows import as_rows
from repsim.activations.trial import FEW

BATCH = 250  # images at a time


@dataclass(frozen=True, eq=False)
class Observation:
    """The values of one network for images: by layer, one row per image; and logits."""

    values: dict[str, Float[Tensor, "n d"]]
    logits: Float[Tensor, "n classes"]

    def part(self, rows: Int[Tensor, " m"]) -> Observation:
        """The observation of some of the images."""
        return Observation({layer: each[rows] for layer, each in self.values.items()}, self.logits[rows])


class Observer:
    """A frozen copy of a network, with BatchNorm folded, that gives the values of layers beside its output.

    Parameters
    ----------
    layers
        By their names.
    pool
        Average values over their positions, rather than flatten them: one number for each channel is kept.

    Raises
    ------
    ValueError
        A layer is unknown; the network puts out no logits; or it can't be seen which axis has the channels.
    """

    def __init__(
        self,
        graph: LayerGraph,
        layers: Sequence[str],
        *,
        pool: bool = False,
    ):
        self.layers = list(layers)
        if graph.classes is None:
            raise ValueError("the network puts out no logits, (images, classes): capture reads its layers.")
        self._graph, self._device = graph, graph.device
        self._axes = [graph.channel_axis(layer) if pool else None for layer in self.layers]
        images = graph.trial_images(FEW)
        self._part = channels_side_by_side(
            fold_batchnorm(graph.with_activations(self.layers), images), images
        )

    def observe(self, images: Float[Tensor, "n c h w"]) -> Observation:
        """Observe the network on images, on their device."""
        self._graph.check_images(images)
        batches = []
        with torch.no_grad():
            for batch in images.split(BATCH):
                *values, logits = self._part(batch.to(self._device))
                rows = map(as_rows, values, self._axes)
                batches.append([each.to(images.device) for each in [*rows, logits]])
        *values, logits = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return Observation(dict(zip(self.layers, values, strict=True)), logits)
