"""Linear probes as artifacts: found by what they were fitted to and how, fitted where they are missing.

A probe is two files under `data/probes/<dataset>/`: `<address>.safetensors`, and its record, `….json`; see
`repsim.store`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor, nn

from repsim.activations import LayerGraph, Layers, Observer, as_rows
from repsim.data import Dataset
from repsim.store import Artifact, Draft, Store, StoredRecipe
from repsim.studies.probing.fitting import Probe, fit_probe
from repsim.studies.probing.options import ProbeOptions
from repsim.support import paths
from repsim.support.labels import check_one_class
from repsim.support.progress import progress_bar
from repsim.training.model_store import TrainedModel, only_stored


@dataclass(frozen=True)
class ProbeRecipe(StoredRecipe):
    """All that decides what a probe is; equal recipes make equal probes.

    Attributes
    ----------
    dataset, fingerprint
        Whose training images it is fitted to.
    model, weights
        The network's name in the store, and the beginning of its weights' checksum.
    layer
        By its own name.
    """

    dataset: str
    fingerprint: str
    model: str
    weights: str
    layer: str
    options: ProbeOptions


@dataclass(frozen=True)
class StoredProbe(Artifact):
    """A probe in the store, and the network that it belongs to."""

    recipe: ProbeRecipe
    model: TrainedModel | None = None

    @cached_property
    def probe(self) -> Probe:
        """Its weights.

        Raises
        ------
        DamagedArtifact
            Their file is missing, or not the one that was written.
        """
        found = self.tensors()
        return Probe(found["weight"], found["bias"], self.record["penalty"])

    def network(self) -> nn.Module:
        """Images → the probe's logits: a classifier like any other, which can be attacked."""
        graph, layer = self.model.graph, self.recipe.layer
        axis = graph.channel_axis(layer) if self.recipe.options.pool else None
        return Probed(graph.prefix(layer), self.probe, axis)


PROBES = Store(
    "probes", lambda: [paths.probes()], ProbeRecipe, StoredProbe, ("recipe", "checksum", "penalty")
)


class Probed(nn.Module):
    """The beginning of a network with a probe on it, both frozen."""

    def __init__(self, prefix: nn.Module, probe: Probe, channel_axis: int | None):
        super().__init__()
        self.prefix = prefix
        self.channel_axis = channel_axis  # of what is averaged over positions; None: nothing is
        classes, width = probe.weight.shape
        self.probe = nn.utils.skip_init(nn.Linear, width, classes)  # draws no random numbers
        self.probe.load_state_dict({"weight": probe.weight, "bias": probe.bias})
        device = next(iter([*prefix.parameters(), *prefix.buffers()]), probe.weight).device
        self.requires_grad_(False).eval()
        self.probe.to(device)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.probe(as_rows(self.prefix(images), self.channel_axis))


def obtain_probes(
    models: Iterable[TrainedModel],
    dataset: Dataset,
    options: Sequence[ProbeOptions],
    layers: Layers = "penultimate",
    *,
    recompute: bool = False,
    progress: bool = True,
) -> list[StoredProbe]:
    """Probes of each model at each layer, fitted in each way: from the store, else fitted and stored.

    Each is stored as soon as it is fitted. What the network makes of the training images is captured once for
    all that are missing.

    Raises
    ------
    ValueError
        A model is for images of another shape; it has no such layer; the data are multi-label; or what
        `fit_probe` refuses.
    """
    check_one_class(dataset.train.labels, "probes need")
    found = []
    for model in progress_bar(only_stored(models), "probes", "model", progress):
        check_shape(model, dataset)
        recipes = [
            ProbeRecipe(dataset.slug, dataset.fingerprint, model.name, model.weights, layer, each)
            for layer in model.graph.select(layers)
            for each in dict.fromkeys(options)
        ]
        stored: dict[ProbeRecipe, StoredProbe] = {}
        for pool in (True, False):
            alike = [recipe for recipe in recipes if recipe.options.pool is pool]
            stored |= _obtain_alike(model.graph, dataset, alike, recompute)
        found += [dataclasses.replace(stored[recipe], model=model) for recipe in recipes]
    return found


def check_shape(model: TrainedModel, dataset: Dataset) -> None:
    """Refuse images that a model does not take. Its classes may be others: a probe learns its own.

    Raises
    ------
    ValueError
        They are of another shape.
    """
    if tuple(model.record["image_shape"]) != dataset.image_shape:
        raise ValueError(
            f"{model.name} takes images of shape {tuple(model.record['image_shape'])}, not of "
            f"{dataset.image_shape}, as {dataset.title} has."
        )


def observer_of(graph: LayerGraph, recipes: Sequence[ProbeRecipe]) -> Observer:
    """The observer that makes the features of probes of one network, all pooled or none."""
    pool = any(recipe.options.pool for recipe in recipes)
    return Observer(graph, list(dict.fromkeys(recipe.layer for recipe in recipes)), pool=pool)


def _obtain_alike(
    graph: LayerGraph, dataset: Dataset, recipes: Sequence[ProbeRecipe], recompute: bool
) -> dict[ProbeRecipe, StoredProbe]:
    """Probes of one network, whose features are made in the same way: together, when the first is fitted."""
    missing = [recipe for recipe in recipes if recompute or PROBES.find(recipe) is None]
    features: dict[str, Tensor] = {}

    def make(recipe: ProbeRecipe, draft: Draft) -> dict[str, object]:
        if recipe.layer not in features:
            wanted = missing if recipe in missing else [recipe]  # one that is there no longer
            features.update(observer_of(graph, wanted).observe(dataset.train.images).values)
        own = features[recipe.layer]
        probe = fit_probe(own, dataset.train.labels, len(dataset.classes), recipe.options)
        checksum = draft.write({"weight": probe.weight, "bias": probe.bias})
        return {"checksum": checksum, "penalty": probe.penalty}

    return {
        recipe: PROBES.obtain(recipe, functools.partial(make, recipe), again=recompute) for recipe in recipes
    }
