"""Trained networks as artifacts: found by their recipe, trained where they are missing.

A model is two files under `data/models/<dataset>/`: its weights, `<architecture>-<address>.safetensors`,
and its record beside them, `….json`, with the recipe, the weights' checksums, the training curve and the
measured accuracies; see `repsim.store`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from repsim.activations import LayerGraph, Observer, trace
from repsim.attacks import AnyAttack, Attack, make_attack
from repsim.data import Dataset
from repsim.models import build_model
from repsim.models.own import check_definition, definition_of, find_own, text_of
from repsim.models.variants import split_variants
from repsim.store import Artifact, Draft, Store, read_unfinished_tensors, write_unfinished_tensors
from repsim.store.records import damaged
from repsim.support import messages, paths
from repsim.support.devices import resolve_device
from repsim.support.progress import progress_bar
from repsim.training.evaluation import robust_accuracy
from repsim.training.loop import train
from repsim.training.recipe import Recipe

EVALUATED = 1000  # test images on which robust accuracy is measured
CURVE = ["epoch", "learning_rate", "loss", "accuracy"]  # columns, in the order in which tables have them
FOLLOWED = ["robust", "pgd_steps"]  # and those of cheap attacks
ACCURACIES = ["attack", "norm", "epsilon", "steps", "images", "accuracy"]
DIGITS = 12  # of a checksum that recipes of what is made from a model hold


@dataclass(frozen=True)
class TrainedModel(Artifact):
    """A stored network and what is known of it; `network` loads the weights."""

    recipe: Recipe
    device: str = "cpu"  # on which `network` is

    @classmethod
    def upgraded(cls, record: dict) -> dict:
        """A record that says nothing of the attack is of PGD, once the only one."""
        return {**record, "accuracies": [{"attack": "pgd", **row} for row in record["accuracies"]]}

    @property
    def checksums(self) -> dict[str, str]:
        return {_suffix(self.recipe, int(epoch)): found for epoch, found in self.record["checksums"].items()}

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def weights(self) -> str:
        """The beginning of the checksum of its weights: what is made from a network belongs to these."""
        return self.record["checksums"][str(self.recipe.epochs)][:DIGITS]

    @property
    def labels(self) -> dict[str, object]:
        """The columns that tell a model from others in a table of several."""
        recipe = self.recipe
        return {
            "architecture": recipe.architecture,
            "method": recipe.method,
            "norm": recipe.norm,
            "epsilon": recipe.epsilon,
            "seed": recipe.seed,
        }

    @property
    def epochs_saved(self) -> list[int]:
        """The epochs whose weights were kept, the last one included."""
        return sorted(int(epoch) for epoch in self.record["checksums"])

    @property
    def curve(self) -> pd.DataFrame:
        """One row per epoch of training, with the columns that `train` gives."""
        columns = [*CURVE, *FOLLOWED] if self.recipe.is_cheap else CURVE
        return pd.DataFrame(self.record["curve"], columns=columns)

    @property
    def accuracies(self) -> pd.DataFrame:
        """Measured test accuracy: `attack` (its name), `norm`, `epsilon`, `steps`, `images`, `accuracy`."""
        return pd.DataFrame(self.record["accuracies"], columns=ACCURACIES)

    @cached_property
    def network(self) -> nn.Module:
        return self.at_epoch(self.recipe.epochs)

    @cached_property
    def graph(self) -> LayerGraph:
        """The network by its layers."""
        return trace(self.network, self.record["image_shape"])

    def observer(self, *layers: str) -> Observer:
        """An observer of these layers and the logits: cut out of the network once for each choice of them."""
        if layers not in self._observers:
            self._observers[layers] = Observer(self.graph, list(layers))
        return self._observers[layers]

    @cached_property
    def _observers(self) -> dict[tuple[str, ...], Observer]:
        return {}

    def at_epoch(self, epoch: int) -> nn.Module:
        """The network as it was after `epoch` epochs, in evaluation mode.

        Raises
        ------
        ValueError
            That epoch was not kept; or it is of a class of somebody's own, which is not found.
        DamagedArtifact
            The weights' file is missing, or not the one that was written, or holds another network's weights.
        """
        if epoch not in self.epochs_saved:
            raise ValueError(f"{self.name} kept epochs {self.epochs_saved}, not {epoch}.")
        weights = self.tensors(_suffix(self.recipe, epoch))
        if find_own(split_variants(self.recipe.architecture)[0]):
            self._check_own()
        shape, classes = self.record["image_shape"], self.record["classes"]
        unset = [0.0] * shape[0]  # normalisation comes with the weights
        network = build_model(self.recipe.architecture, shape, len(classes), unset, [1.0] * shape[0])
        found, expected = _shapes(weights), _shapes(network.state_dict())
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                raise damaged(
                    self.path,
                    f"its weights are no {self.recipe.architecture} with {len(classes)} classes: {name} is "
                    f"{found.get(name, 'not there')} and should be {expected.get(name, 'not there')}",
                    self.path,
                )
        network.load_state_dict(weights)
        return network.eval().to(resolve_device(self.device))

    def _check_own(self) -> None:
        """Refuse a class of somebody's own that a record from elsewhere names: its module would be run."""
        folders = MODELS.folders()
        if not any(self.path.resolve().is_relative_to(folder.resolve()) for folder in folders):
            raise ValueError(
                f"{self.path} is of somebody's own class, {self.recipe.architecture}, whose module would be "
                "imported, which runs it. If you trust it, put both files into "
                f"{folders[0] / self.recipe.group}."
            )
        check_definition(self.recipe.architecture, self.record.get("definition", {}), self.name)

    def check_classes(self, dataset: Dataset) -> None:
        """Refuse a data set that the network cannot classify.

        Raises
        ------
        ValueError
            Its number of classes, or the shape of its images, is another.
        """
        own = (len(self.record["classes"]), tuple(self.record["image_shape"]))
        given = (len(dataset.classes), dataset.image_shape)
        if own != given:
            raise ValueError(
                f"{self.name} has {own[0]} classes and takes images of shape {own[1]}; {dataset.title} has "
                f"{given[0]} classes and images of shape {given[1]}."
            )

    def check_class_names(self, dataset: Dataset) -> None:
        """Refuse a data set whose classes are others than the network knows, or in another order.

        Raises
        ------
        ValueError
            As `check_classes`; or the classes are as many, but not the same.
        """
        self.check_classes(dataset)
        own = tuple(self.record["classes"])
        if own != dataset.classes:
            raise ValueError(
                f"{self.name} has the classes {', '.join(own[:3])}, …; {dataset.title} has "
                f"{', '.join(dataset.classes[:3])}, …: what it answers says nothing of those."
            )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _suffix(recipe: Recipe, epoch: int) -> str:
    """The suffix of an epoch's weights, behind the model's name."""
    return "" if epoch == recipe.epochs else f"-epoch{epoch:03d}"


MODELS = Store(
    "trained models",
    lambda: paths.models(),
    Recipe,
    TrainedModel,
    ("recipe", "classes", "image_shape", "checksums", "curve", "accuracies"),
)


def find(recipe: Recipe, device: str = "auto") -> TrainedModel | None:
    """The stored model of a recipe, None where there is none."""
    found = MODELS.find(recipe)
    return found and dataclasses.replace(found, device=device)


def stored_model(name: str | Path, device: str = "auto") -> TrainedModel:
    """A stored model by the path of either of its files, its name, or its address.

    Raises
    ------
    ValueError
        No stored model is called so, or the file is another program's.
    """
    path = Path(name)
    if path.suffix in (".json", ".safetensors") and (found := MODELS.read(path.with_suffix(".json"))):
        return dataclasses.replace(found, device=device)
    if path.is_file():
        raise ValueError(
            f"{path} is no model of the store (weights as .safetensors, with their record as .json beside "
            "them): repsim.training.loading.load_model reads what others trained."
        )
    stored = MODELS.paths()
    matching = [p for stem, p in stored.items() if str(name) in (stem, stem.rpartition("-")[2])]
    if not matching or not (found := MODELS.read(matching[0])):
        raise ValueError(messages.unknown("trained model", str(name), stored))
    return dataclasses.replace(found, device=device)


def obtain(
    recipe: Recipe,
    dataset: Dataset,
    *,
    retrain: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> TrainedModel:
    """The model of a recipe: from the store, else trained, stored, evaluated and recorded.

    Interrupted training resumes from its last whole epoch, and a model that was stored but not evaluated is
    evaluated. Two processes that ask for the same model train it once.

    Parameters
    ----------
    retrain
        Train it again though it is stored, from the beginning.

    Raises
    ------
    ValueError
        The recipe is for other images than `dataset`'s.
    """
    if (recipe.dataset, recipe.fingerprint) != (dataset.slug, dataset.fingerprint):
        raise ValueError(
            f"the recipe is for {recipe.dataset} ({recipe.fingerprint or 'no fingerprint'}), the data set is "
            f"{dataset.slug} ({dataset.fingerprint}): make the recipe with Recipe.on(dataset, …)."
        )
    stored = MODELS.obtain(
        recipe,
        lambda draft: _make(recipe, dataset, draft, device, progress),
        again=retrain,
        accept=lambda found: _is_whole(found, recipe),
    )
    stored = dataclasses.replace(stored, device=device)
    if not stored.record["accuracies"]:
        measure(stored, dataset, [Attack(epsilon, recipe.norm) for epsilon in sorted({0.0, recipe.epsilon})])
    return stored


def only_stored(models: Iterable[TrainedModel]) -> list[TrainedModel]:
    """The models, where all of them are stored ones: what is made from a network is kept under its weights.

    Raises
    ------
    ValueError
        One is a network itself; told with the two lines that make a stored one of it.
    """
    models = list(models)
    for model in models:
        if isinstance(model, nn.Module):
            raise ValueError(
                "what is made from networks here is kept under their weights, so that they have to be stored "
                f"ones, not {type(model).__name__} itself. Two lines make one (epsilon: what it was trained "
                'at):\n    torch.save(network.state_dict(), "network.pt")\n'
                '    model = repsim.load_model("network.pt", dataset=data, epsilon=0, normalization="none", '
                f'architecture="{text_of(model)}")'
            )
    return models


def find_whole(recipe: Recipe, device: str = "auto") -> TrainedModel | None:
    """The stored model of a recipe, if it kept all the epochs that the recipe wants."""
    stored = find(recipe, device)
    return stored if stored and _is_whole(stored, recipe) else None


def _is_whole(stored: TrainedModel, recipe: Recipe) -> bool:
    return set(_kept(recipe)) <= set(stored.epochs_saved)


def _make(recipe: Recipe, dataset: Dataset, draft: Draft, device: str, progress: bool) -> dict[str, object]:
    """Train, and write the weights: what was waited for is stored before it is evaluated."""

    def part(epoch: int) -> Path:
        return draft.parts / f"epoch{epoch:03d}.safetensors"

    def keep(epoch: int, network: nn.Module) -> None:
        if epoch in _kept(recipe):
            write_unfinished_tensors(part(epoch), network.state_dict())

    # named by what it keeps: resuming with another save_every would leave earlier epochs out
    checkpoint = draft.parts / f"every{recipe.save_every}.checkpoint"
    _, curve = train(recipe, dataset, device=device, progress=progress, checkpoint=checkpoint, on_epoch=keep)
    checksums = {}
    for epoch in _kept(recipe):
        weights = read_unfinished_tensors(part(epoch))
        if weights is None:  # of an earlier run, and damaged since
            checkpoint.unlink(missing_ok=True)
            return _make(recipe, dataset, draft, device, progress)
        checksums[str(epoch)] = draft.write(weights, _suffix(recipe, epoch))
    return {
        "dataset": dataset.title,
        "classes": list(dataset.classes),
        "image_shape": list(dataset.image_shape),
        "torch": torch.__version__,
        "checksums": checksums,
        "curve": curve.round(6).to_dict("records"),
        "accuracies": [],
        **definition_of(recipe.architecture),
    }


def _kept(recipe: Recipe) -> list[int]:
    step = recipe.save_every or recipe.epochs
    return sorted({*range(step, recipe.epochs, step), recipe.epochs})


def measure(model: TrainedModel, dataset: Dataset, attacks: Sequence[AnyAttack]) -> pd.DataFrame:
    """Test accuracy under each attack: from the model's record, or measured and recorded now.

    Clean accuracy (ε = 0) is that of all test images, robust accuracy that of at most 1,000. The record is
    for the data set that the model was trained on and for attacks at their usual settings: accuracy on other
    images, or under other attacks, is measured each time.

    Returns
    -------
    DataFrame
        One row per attack: `attack` (its name), `norm`, `epsilon`, `steps`, `images` (how many), `accuracy`.
    """
    model.check_classes(dataset)
    own = (dataset.slug, dataset.fingerprint) == (model.recipe.dataset, model.recipe.fingerprint)
    rows, new = [], []
    for attack in attacks:
        split = dataset.test.subset(EVALUATED if attack.epsilon else None)
        asked = {"attack": attack.name, "norm": attack.norm, "epsilon": attack.epsilon, "steps": attack.steps}
        asked["images"] = len(split)
        usual = own and attack == make_attack(attack.name, attack.epsilon, attack.norm, steps=attack.steps)
        known = [row for row in (*model.record["accuracies"], *new) if usual and asked.items() <= row.items()]
        if not known:
            accuracy = robust_accuracy(model.network, split, [attack])["accuracy"].item()
            known = [{**asked, "accuracy": round(accuracy, 6)}]
            new += known if usual else []
        rows.append(known[0])
    if new:
        model.record.update(_with_accuracies(model, new))
        if model.path == MODELS.path(model.recipe):  # another store is not ours to write to
            MODELS.add(
                model.recipe,
                lambda now: _with_accuracies(now, new) if now and now.weights == model.weights else None,
            )
    return pd.DataFrame(rows, columns=ACCURACIES)


def _with_accuracies(model: TrainedModel, rows: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """The record of a model with what was measured; PGD first: its ε = 0 is the clean accuracy."""
    known = model.record["accuracies"]
    found = [*known, *(row for row in rows if row not in known)]
    found.sort(key=lambda row: [row["attack"] != "pgd", *map(row.get, ACCURACIES)])
    return {**model.record, "accuracies": found}


def obtain_all(
    recipes: Iterable[Recipe],
    dataset: Dataset,
    *,
    retrain: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> list[TrainedModel]:
    """`obtain` each of several recipes, behind a progress bar."""
    bar = progress_bar(list(recipes), "models", "model", progress)
    return [obtain(recipe, dataset, retrain=retrain, device=device, progress=progress) for recipe in bar]


def table(models: Iterable[TrainedModel]) -> pd.DataFrame:
    """One row per model: `model`, its labels, and its clean test `accuracy`."""
    rows = []
    for model in models:
        clean = model.accuracies.query("attack == 'pgd' and epsilon == 0")["accuracy"].iloc[0]
        rows.append({"model": model.name, **model.labels, "accuracy": clean})
    return pd.DataFrame(rows)
