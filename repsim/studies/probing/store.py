"""Linear probes as artifacts: found by what they were fitted to and how, fitted where they are missing.

A probe is two files under `data/probes/<dataset>/`: `<address>.safetensors`, and its record, `….json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from repsim.activations import LayerGraph, Layers, Observer, as_rows
from repsim.data import Dataset
from repsim.studies.probing.fitting import Probe, fit_probe
from repsim.studies.probing.options import ProbeOptions
from repsim.support import artifacts, paths
from repsim.support.labels import check_one_class
from repsim.support.progress import progress_bar
from repsim.training.model_store import TrainedModel

RECORDED = ("checksum", "penalty")  # what is read again


@dataclass(frozen=True)
class ProbeRecipe:
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

    @property
    def address(self) -> str:
        """Equal for recipes that make equal probes."""
        return artifacts.address(dataclasses.asdict(self))

    @property
    def path(self) -> Path:
        """The path of its record."""
        return paths.probes() / self.dataset / f"{self.address}.json"


@dataclass(frozen=True)
class StoredProbe:
    """A probe in the store, and the network that it belongs to."""

    recipe: ProbeRecipe
    record: dict
    model: TrainedModel

    @cached_property
    def probe(self) -> Probe:
        """Its weights.

        Raises
        ------
        DamagedArtifact
            Their file is missing, or not the one that was written.
        """
        file = self.recipe.path.with_suffix(".safetensors")
        if not file.exists():
            raise artifacts.DamagedArtifact(
                f"{file} is missing: remove {self.recipe.path.name} to fit the probe again."
            )
        found = artifacts.read_tensors(file, self.record["checksum"])
        return Probe(found["weight"], found["bias"], self.record["penalty"])

    def network(self) -> nn.Module:
        """Images → the probe's logits: a classifier like any other, which can be attacked."""
        graph, layer = self.model.graph, self.recipe.layer
        axis = graph.channel_axis(layer) if self.recipe.options.pool else None
        return Probed(graph.prefix(layer), self.probe, axis)


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
    for model in progress_bar(list(models), "probes", "model", progress):
        check_shape(model, dataset)
        recipes = [
            ProbeRecipe(dataset.slug, dataset.fingerprint, model.name, model.weights, layer, each)
            for layer in model.graph.select(layers)
            for each in dict.fromkeys(options)
        ]
        missing = [recipe for recipe in recipes if recompute or not recipe.path.exists()]
        for pool in (True, False):
            _fit(model.graph, dataset, [recipe for recipe in missing if recipe.options.pool is pool])
        found += [StoredProbe(recipe, _read(recipe.path), model) for recipe in recipes]
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


def _fit(graph: LayerGraph, dataset: Dataset, recipes: Sequence[ProbeRecipe]) -> None:
    """Fit and store probes of one network, whose features are made in the same way."""
    if not recipes:
        return
    observer = observer_of(graph, recipes)
    features = observer.observe(dataset.train.images).values
    for recipe in recipes:
        own = features[recipe.layer]
        probe = fit_probe(own, dataset.train.labels, len(dataset.classes), recipe.options)
        with artifacts.locked(recipe.path):
            recipe.path.unlink(missing_ok=True)  # of an earlier fit, whose weights are now replaced
            tensors = {"weight": probe.weight, "bias": probe.bias}
            checksum = artifacts.write_tensors(recipe.path.with_suffix(".safetensors"), tensors)
            record = {"recipe": dataclasses.asdict(recipe), "checksum": checksum, "penalty": probe.penalty}
            artifacts.write_json(recipe.path, record)


def _read(path: Path) -> dict:
    record = artifacts.read_json(path)
    if missing := [key for key in RECORDED if key not in record]:
        raise artifacts.DamagedArtifact(f"{path} is no record of a probe (no {', '.join(missing)}).")
    return record
