"""The networks that a notebook's parameters ask for: as they are stored, or what stands in for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from torch import nn

from repsim.attacks import parse_epsilon
from repsim.cli.planning.work import Network, Remarks, Work, check, training_passes
from repsim.data import Dataset
from repsim.models import is_architecture
from repsim.models.checkpoints import read_checkpoint
from repsim.models.checkpoints.contents import from_name
from repsim.studies.comparison import ground_truth
from repsim.support import artifacts
from repsim.support.options import read_options
from repsim.training import Recipe, zoo
from repsim.training.loading import ELSEWHERE, Checkpoints, ImportOptions, is_foreign
from repsim.training.model_store import MODELS, TrainedModel, find_whole, stored_model

ATTACKED_TOGETHER = 500  # test images
FEATURE_SEEDS = 3  # of the networks of which it is known what they can have used
SHORTENED = {  # names of files → torchvision's
    "densenet": "densenet161",
    "mobilenet": "mobilenet_v2",
    "shufflenet": "shufflenet_v2_x1_0",
    "mnasnet": "mnasnet1_0",
}

Values = Mapping[str, object]


class PendingModel(TrainedModel):
    """A network that is not there yet, in its place while plans are made: nothing was made from it."""

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset) -> PendingModel:
        """The network of a recipe; nothing is trained.

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


def is_explorer(values: Values) -> bool:
    """Whether a notebook looks at two networks that are there."""
    return "architecture_a" in values


def others(values: Values) -> list[str]:
    """Data sets beside the first whose networks a notebook wants; not those that an explorer offers."""
    return [] if values.get("checkpoints") or is_explorer(values) else list(values.get("others", []))


def _recipes(values: Values, data: Dataset, architectures: Sequence[str], epsilons, seeds) -> list[Recipe]:
    """Recipes by all that a notebook says of training."""
    told = () if is_explorer(values) else ("method", "norm")  # an explorer's norm is that of its attack
    options = {name: values[name] for name in told if name in values}
    return zoo.recipes(data, architectures, epsilons, seeds, **options, **Recipe.options(values["training"]))


def _found(values: Values, data: Dataset, recipes: Iterable[Recipe]) -> list[TrainedModel]:
    """The networks of recipes, as they are stored, or in their place what is not there."""
    stored = [None if values.get("retrain") else find_whole(recipe, "cpu") for recipe in recipes]
    return [own or PendingModel.of(recipe, data) for own, recipe in zip(stored, recipes, strict=True)]


def networks(values: Values, data: Mapping[str, Dataset], name: str, remarks: Remarks) -> list[TrainedModel]:
    """Those that a notebook is about, of one data set."""
    own = data[name]
    if values.get("checkpoints"):
        return list(_checkpoints(values["checkpoints"], own, remarks))
    if is_explorer(values):
        sides = {(values[f"architecture_{side}"], parse_epsilon(values[f"trained_{side}"])) for side in "ab"}
        each = [_recipes(values, own, [kind], [level], [values["seed"]]) for kind, level in sorted(sides)]
        return _found(values, own, list(itertools.chain(*each)))
    if "epsilons" in values:
        levels = [parse_epsilon(each) for each in values["epsilons"]] or zoo.committed_epsilons(name)
    else:
        levels = [0.0, parse_epsilon(values["epsilon"])]
    if "architectures" in values:
        among = [values["dataset"], *others(values)]
        architectures = values["architectures"] or zoo.shared_architectures(among)
    else:
        architectures = [values["model"]]
    return _found(values, own, _recipes(values, own, architectures, levels, range(values["seeds"])))


def networks_beside(values: Values, data: Mapping[str, Dataset]) -> list[tuple[str, list[TrainedModel]]]:
    """Networks of sweeps, of other tasks, and of known features: name of the data set → networks."""
    own, found = data[values["dataset"]], []
    few = range(values.get("sweep_seeds", 0))
    for sweep in ("width", "depth"):
        if f"{sweep}s" in values:
            committed = [] if values.get("checkpoints") else zoo.family(own, values["model"], sweep)
            family = values[f"{sweep}s"] or committed
            levels = [0.0, parse_epsilon(values["epsilon"])]
            if len(family) > 1:
                found.append((own.name, _found(values, own, _recipes(values, own, family, levels, few))))
    if values.get("cross_model") and not values.get("checkpoints"):
        levels = [0.0, parse_epsilon(values["epsilon"])]
        recipes = _recipes(values, own, [values["cross_model"]], levels, range(1))
        found.append((own.name, _found(values, own, recipes)))
    if values.get("cross_dataset") and not values.get("checkpoints"):
        other = data[values["cross_dataset"]]
        levels = [0.0, parse_epsilon(values["cross_epsilon"])]
        few = range(min(values["sweep_seeds"], values["seeds"]))
        recipes = _recipes(values, other, [values["model"]], levels, few)
        found.append((other.name, _found(values, other, recipes)))
    if values.get("ground_truth"):
        for features, recipes in ground_truth.network_recipes(FEATURE_SEEDS):
            found.append((features.name, _found({}, features, recipes)))
    return found


def by_architecture(models: Iterable[TrainedModel]) -> dict[str, list[TrainedModel]]:
    """Architecture → its networks."""
    found: dict[str, list[TrainedModel]] = {}
    for model in models:
        found.setdefault(model.recipe.architecture, []).append(model)
    return found


def trained(data: Dataset, models: Iterable[TrainedModel]) -> Iterator[Work]:
    """Networks of one data set: how many there are, and how long training the others takes."""
    for kind, of_kind in by_architecture(models).items():
        missing = [m for m in of_kind if isinstance(m, PendingModel) and m.recipe.method != "imported"]
        passes = sum(training_passes(model.recipe, data) for model in missing)
        batches = [batch for m in missing for batch in (m.recipe.batch_size, _tested(m.recipe, data))]
        counts = len(of_kind) - len(missing), len(missing)
        yield Work(
            data.slug, "networks", kind, *counts, Network.of(of_kind[0]), passes, max(batches, default=0)
        )


def _tested(recipe: Recipe, data: Dataset) -> int:
    """Images that are attacked together once a network is trained."""
    return min(ATTACKED_TOGETHER, len(data.test)) if recipe.epsilon else 0


def _checkpoints(checkpoints: Checkpoints, data: Dataset, remarks: Remarks) -> Iterator[TrainedModel]:
    """Networks that others trained, as far as a look at their files tells."""
    for number, (name, given) in enumerate(checkpoints.items()):
        options = read_options(ImportOptions, given or {})
        if not (name.startswith(ELSEWHERE) or (is_foreign(name) and Path(name).is_file())):
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
            found = read_checkpoint(
                name, architecture=options.get("architecture", ""), image_shape=data.image_shape
            )
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
    checksum = artifacts.checksum(path)
    made_from = (m for m in MODELS.listed(data.slug) if m.record.get("source", {}).get("sha256") == checksum)
    return next((m for m in made_from if options.get("epsilon", m.recipe.epsilon) == m.recipe.epsilon), None)
