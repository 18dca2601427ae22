"""Models that are compared: each looked into at the same layers, by an observer of its own."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from repsim.activations import Layers, Observation, Observer
from repsim.training.model_store import TrainedModel


def by_its_name(layers: Layers) -> Layers:
    """A list of one layer is that layer."""
    return layers[0] if isinstance(layers, (list, tuple)) and len(layers) == 1 else layers


class Observers:
    """Models by their names; each is cut when it is first needed.

    Parameters
    ----------
    layers
        `penultimate` is a layer of each model's own; others are compared with their namesakes, so that all
        models must have them.

    Attributes
    ----------
    layers
        What tables call them.

    Raises
    ------
    ValueError
        There are fewer than two models, they take images of different shapes, or their layers differ.
    """

    def __init__(self, models: Mapping[str, TrainedModel], layers: Layers = "penultimate"):
        if len(models) < 2:
            raise ValueError(f"a comparison needs at least 2 models, got {len(models)}.")
        shapes = {tuple(model.record["image_shape"]) for model in models.values()}
        if len(shapes) > 1:
            raise ValueError(f"models for images of one shape can be compared, not of {sorted(shapes)}.")
        self.models = models
        self._observers: dict[str, Observer] = {}
        self.layers = ["penultimate"] if layers == "penultimate" else self._common(layers)

    def _common(self, layers: Layers) -> list[str]:
        """The layers that a selection means in every model."""
        first, *others = self.models
        selected = self.models[first].graph.select(layers)
        for other in others:
            if (found := self.models[other].graph.select(layers)) != selected:
                raise ValueError(
                    f"layers are compared with their namesakes, but {layers!r} are {_few(selected)} of "
                    f"{first} and {_few(found)} of {other}: name layers that all have, or take 'penultimate'."
                )
        return selected

    def observe(self, name: str, images: Float[Tensor, "n c h w"]) -> Observation:
        """The activations of the model of that name for images: its values by what tables call the layers."""
        if name not in self._observers:
            model = self.models[name]
            chosen = [layer for each in self.layers for layer in model.graph.select(each)]
            self._observers[name] = model.observer(*chosen)
        found = self._observers[name].observe(images)
        return Observation(dict(zip(self.layers, found.values.values(), strict=True)), found.logits)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, … ({len(names)})"
