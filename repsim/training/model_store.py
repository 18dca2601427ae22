"""Trained networks as artifacts: found by their recipe, trained where they are missing.

A model is two files under `data/models/<dataset>/`: its weights, `<architecture>-<address>.safetensors`,
and its record beside them, `….json`, with the recipe, the weights' checksums, the training curve and the
measured accuracies. The record is written last, so that weights without one are simply made again.
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

from repsim.activations import LayerGraph, trace
from repsim.attacks import AnyAttack, Attack, make_attack
from repsim.data import Dataset
from repsim.models import build_model
from repsim.support import artifacts, messages, paths
from repsim.support.devices import resolve_device
from repsim.support.progress import progress_bar
from repsim.training.evaluation import robust_accuracy
from repsim.training.loop import train
from repsim.training.recipe import Recipe

EVALUATED = 1000  # test images on which robust accuracy is measured
CURVE = ["epoch", "learning_rate", "loss", "accuracy"]  # columns, in the order in which tables have them
ACCURACIES = ["attack", "norm", "epsilon", "steps", "images", "accuracy"]
DIGITS = 12  # of a checksum that recipes of what is made from a model hold
RECORDED = ("recipe", "classes", "image_shape", "checksums", "curve", "accuracies")  # what is read again


@dataclass(frozen=True)
class TrainedModel:
    """A stored network and what is known of it; `network` loads the weights."""

    recipe: Recipe
    path: Path
    record: dict
    device: str = "cpu"  # on which `network` is

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def weights(self) -> str:
        """The beginning of the checksum of its weights: what is made from a network belongs to these."""
        return self.record["checksums"][str(self.recipe.epochs)][:DIGITS]

    @property
    def labels(self) -> dict[str, object]:
        """What tells a model from others in a table of several."""
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
        """One row per epoch of training: `epoch`, `learning_rate`, `loss`, `accuracy`."""
        return pd.DataFrame(self.record["curve"], columns=CURVE)

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

    def at_epoch(self, epoch: int) -> nn.Module:
        """The network as it was after `epoch` epochs, in evaluation mode.

        Raises
        ------
        ValueError
            That epoch was not kept.
        DamagedArtifact
            The weights' file is missing, or not the one that was written, or holds another network's weights.
        """
        if epoch not in self.epochs_saved:
            raise ValueError(f"{self.name} kept epochs {self.epochs_saved}, not {epoch}.")
        file = _weights_file(self.path, self.recipe, epoch)
        if not file.exists():
            raise artifacts.DamagedArtifact(f"{file} is missing: remove {self.path.name} to make it again.")
        weights = artifacts.read_tensors(file, self.record["checksums"][str(epoch)])
        shape, classes = self.record["image_shape"], self.record["classes"]
        unset = [0.0] * shape[0]  # normalisation comes with the weights
        network = build_model(self.recipe.architecture, shape, len(classes), unset, [1.0] * shape[0])
        found, expected = _shapes(weights), _shapes(network.state_dict())
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                raise artifacts.DamagedArtifact(
                    f"{file} does not hold the network of {self.path.name}, {self.recipe.architecture} with "
                    f"{len(classes)} classes: {name} is {found.get(name, 'not there')} and should be "
                    f"{expected.get(name, 'not there')}."
                )
        network.load_state_dict(weights)
        return network.eval().to(resolve_device(self.device))

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


def _weights_file(path: Path, recipe: Recipe, epoch: int) -> Path:
    suffix = "" if epoch == recipe.epochs else f"-epoch{epoch:03d}"
    return path.with_name(f"{path.stem}{suffix}.safetensors")


def find(recipe: Recipe, device: str = "auto") -> TrainedModel | None:
    """The stored model of a recipe, None where there is none."""
    for store in paths.models():
        path = store / recipe.dataset / f"{recipe.name}.json"
        if path.exists():
            return _read(path, device)
    return None


def _read(path: Path, device: str) -> TrainedModel:
    record = artifacts.read_json(path)
    if missing := [key for key in RECORDED if key not in record]:
        raise artifacts.DamagedArtifact(f"{path} is no record of a trained model (no {', '.join(missing)}).")
    try:
        # records that say nothing of the attack are of PGD, once the only one
        record["accuracies"] = [{"attack": "pgd", **row} for row in record["accuracies"]]
        return TrainedModel(Recipe(**record["recipe"]), path, record, device)
    except (TypeError, ValueError) as error:
        raise artifacts.DamagedArtifact(f"{path} is no record of a trained model ({error}).") from error


def stored_model(name: str | Path, device: str = "auto") -> TrainedModel:
    """A stored model by the path of either of its files, its name, or its address.

    Raises
    ------
    ValueError
        No stored model is called so, or the file is another program's.
    """
    path = Path(name)
    if path.suffix in (".json", ".safetensors") and path.with_suffix(".json").is_file():
        return _read(path.with_suffix(".json"), device)
    if path.is_file():
        raise ValueError(
            f"{path} is no model of the store (weights as .safetensors, with their record as .json beside "
            "them): repsim.training.loading.load_model reads what others trained."
        )
    stored = {p.stem: p for store in reversed(paths.models()) for p in sorted(store.glob("*/*.json"))}
    matching = [p for stem, p in stored.items() if str(name) in (stem, stem.rpartition("-")[2])]
    if not matching:
        raise ValueError(messages.unknown("trained model", str(name), stored))
    return _read(matching[0], device)


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
        Train it again though it is stored.

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
    stored = None if retrain else find_whole(recipe, device)
    if stored is not None and stored.record["accuracies"]:
        return stored
    path = paths.models()[0] / recipe.dataset / f"{recipe.name}.json"
    with artifacts.locked(path):
        stored = None if retrain else find_whole(recipe, device)  # another process may have made it meanwhile
        if stored is None:
            stored = _make(recipe, dataset, path, device, progress)
        if not stored.record["accuracies"]:
            own = [Attack(epsilon, recipe.norm) for epsilon in sorted({0.0, recipe.epsilon})]
            measure(stored, dataset, own)
        return _read(stored.path, device)


def find_whole(recipe: Recipe, device: str = "auto") -> TrainedModel | None:
    """The stored model of a recipe, if it kept all the epochs that the recipe wants."""
    stored = find(recipe, device)
    return stored if stored and set(_kept(recipe)) <= set(stored.epochs_saved) else None


def _make(recipe: Recipe, dataset: Dataset, path: Path, device: str, progress: bool) -> TrainedModel:
    """Train and store: what was waited for is saved before it is evaluated."""
    checksums: dict[str, str] = {}
    # named by what it keeps: resuming with another save_every would leave earlier epochs out
    checkpoint = path.with_suffix(f".every{recipe.save_every}.checkpoint")

    def keep(epoch: int, network: nn.Module) -> None:
        if epoch in _kept(recipe):
            path.unlink(missing_ok=True)  # of an earlier training, whose weights are now replaced
            file = _weights_file(path, recipe, epoch)
            checksums[str(epoch)] = artifacts.write_tensors(file, network.state_dict())

    options = {"device": device, "progress": progress}
    _, curve = train(recipe, dataset, checkpoint=checkpoint, on_epoch=keep, **options)
    for epoch in _kept(recipe):  # some were kept before a kill that training resumed from
        checksums.setdefault(str(epoch), artifacts.checksum(_weights_file(path, recipe, epoch)))
    record = {
        "recipe": dataclasses.asdict(recipe),
        "dataset": dataset.title,
        "classes": list(dataset.classes),
        "image_shape": list(dataset.image_shape),
        "torch": torch.__version__,
        "checksums": checksums,
        "curve": curve.round(6).to_dict("records"),
        "accuracies": [],
    }
    artifacts.write_json(path, record)
    checkpoint.unlink(missing_ok=True)
    return _read(path, device)


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
    rows, missing = [], False
    for attack in attacks:
        split = dataset.test.subset(EVALUATED if attack.epsilon else None)
        asked = {"attack": attack.name, "norm": attack.norm, "epsilon": attack.epsilon, "steps": attack.steps}
        asked["images"] = len(split)
        usual = own and attack == make_attack(attack.name, attack.epsilon, attack.norm, steps=attack.steps)
        known = [row for row in model.record["accuracies"] if usual and asked.items() <= row.items()]
        if not known:
            accuracy = robust_accuracy(model.network, split, [attack])["accuracy"].item()
            known = [{**asked, "accuracy": round(accuracy, 6)}]
            if usual:
                missing = True
                model.record["accuracies"].append(known[0])
        rows.append(known[0])
    # PGD first: its ε = 0 is the clean accuracy
    model.record["accuracies"].sort(key=lambda row: [row["attack"] != "pgd", *map(row.get, ACCURACIES)])
    if missing and model.path.is_relative_to(paths.models()[0]):  # another store is not ours to write to
        artifacts.write_json(model.path, model.record)
    return pd.DataFrame(rows, columns=ACCURACIES)


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
