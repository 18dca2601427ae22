"""Networks that are not there yet, or not read yet, and what stands in for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import nn

from repsim.cli.planning.costs import Network, check
from repsim.data import Dataset
from repsim.models import is_architecture
from repsim.models.checkpoints import read_checkpoint
from repsim.models.checkpoints.settings import from_name
from repsim.support import artifacts
from repsim.support.options import read_options
from repsim.training import Recipe
from repsim.training.loading import ELSEWHERE, Checkpoints, ImportOptions, asked_of, is_foreign
from repsim.training.model_store import MODELS, TrainedModel, find_whole, stored_model
from repsim.training.zoo import NetworkSet

SHORTENED = {  # names of files → torchvision's
    "densenet": "densenet161",
    "mobilenet": "mobilenet_v2",
    "shufflenet": "shufflenet_v2_x1_0",
    "mnasnet": "mnasnet1_0",
}


@dataclass
class Remarks:
    """Remarks to be made before a notebook starts.

    Attributes
    ----------
    absent
        What is needed and not there, one sentence each.
    notes
        What else is to be known.
    """

    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class PendingModel(TrainedModel):
    """A network that is not there yet, in its place while plans are made: nothing was made from it."""

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset) -> PendingModel:
        """Make one by its recipe; nothing is trained.

        Raises
        ------
        ValueError
            There can be no such network.
        """
        record = {
            "checksums": {str(recipe.epochs): "not there yet"},
            "classes": list(dataset.classes),
            "image_shape": list(dataset.image_shape),
        }
        model = cls(recipe, Path(f"{recipe.name}.json"), record)
        check(Network.of(model))
        return model

    @cached_property
    def network(self) -> nn.Module:
        return Network.of(self).built()


def find_networks(networks: NetworkSet, remarks: Remarks, *, retrain: bool = False) -> list[TrainedModel]:
    """Look for networks in the store; in the place of those that are not there stands a `PendingModel`."""
    if networks.checkpoints:
        return list(_checkpoints(networks.checkpoints, networks.dataset, remarks))
    stored = [None if retrain else find_whole(recipe, "cpu") for recipe in networks.recipes]
    return [
        own or PendingModel.of(recipe, networks.dataset)
        for own, recipe in zip(stored, networks.recipes, strict=True)
    ]


def _checkpoints(checkpoints: Checkpoints, data: Dataset, remarks: Remarks) -> Iterator[TrainedModel]:
    """Networks that others trained, as far as a look at their files tells."""
    for number, (name, given) in enumerate(checkpoints.items()):
        options = read_options(ImportOptions, given or {})
        if not (name.startswith(ELSEWHERE) or (is_foreign(name) and Path(name).exists())):
            try:
                yield stored_model(name, "cpu")
            except ValueError:
                remarks.absent.append(
                    f"the checkpoint {name}: there is no such file, and no stored network of that name."
                )
            continue
        if name.startswith(ELSEWHERE):
            remarks.notes.append(f"{name} is fetched when the notebook runs, unless it is kept already.")
            architecture, said = options.get("architecture") or _named(name), from_name(Path(name).name)
        else:
            if known := _imported(Path(name), options, data):
                yield known
                continue
            chosen = {key: options[key] for key in ("architecture", "weights") if options.get(key)}
            found = read_checkpoint(name, image_shape=data.image_shape, **chosen)
            architecture, said = found.architecture, {"norm": found.norm, "epsilon": found.epsilon}
        if not architecture:
            remarks.notes.append(f"{name}: of which architecture is not known before; it is left out here.")
            continue
        said = {**said, **options}
        yield PendingModel.of(
            Recipe(
                *(data.slug, architecture, data.fingerprint),
                method="imported",
                norm=said.get("norm") or "linf",
                epsilon=said.get("epsilon") or 0.0,
                seed=number,
                origin="not read",
            ),
            data,
        )


def _named(name: str) -> str:
    """The architecture in a published name, as in `torchvision:resnet18` or `hf:…/resnet18_l2_eps3.ckpt`."""
    library, _, rest = name.partition(":")
    if library != "hf":
        return name if is_architecture(name) else ""
    stem = rest.rpartition("/")[2].partition("_l2_")[0].partition("_linf_")[0]
    stem = SHORTENED.get(stem, stem)
    return f"torchvision:{stem}" if is_architecture(f"torchvision:{stem}") else ""


def _imported(path: Path, options: Mapping[str, object], data: Dataset) -> TrainedModel | None:
    """The stored network that this file has become."""
    if path.is_dir():  # its checksum takes as long as reading it
        return None
    checksum = artifacts.checksum(path)
    made_from = [m for m in MODELS.listed(data.slug) if m.record.get("source", {}).get("sha256") == checksum]
    asked = asked_of(options)
    made_from = [m for m in made_from if m.record["source"].get("asked", {}) == asked]
    wanted = {name: options[name] for name in ("architecture", "epsilon") if options.get(name) is not None}
    return next((m for m in made_from if wanted.items() <= vars(m.recipe).items()), None)
