"""Trained networks as artifacts: found by their recipe, trained when missing, and the committed zoos.

A model is two files under `data/models/<dataset>/`: its weights, `<architecture>-<address>.safetensors`,
and its record beside them, `….json`, with the recipe, the weights' checksums, the training curve and the
measured accuracies. The record is written last, so that weights without one are simply made again.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from repsim import artifacts, messages, paths
from repsim.attacks import Attack
from repsim.data import Dataset, load_data
from repsim.models import build_model
from repsim.training import Recipe, resolve_device, robust_accuracy, train

# Which ε each data set's models are tried at; a model trained at another ε is tried at that one too.
EPSILONS = {
    ("digits", "linf"): (0.05, 0.1, 0.2),
    ("digits", "l2"): (0.5, 1.0, 2.0),
    ("shapes", "linf"): (0.025, 0.05, 0.1),
}
EVALUATED = 1000  # test images on which robust accuracy is measured
RECORDED = ("recipe", "classes", "image_shape", "checksums", "curve", "accuracies")  # what is read again


@dataclass(frozen=True)
class TrainedModel:
    """A stored network and what is known of it; `network` loads the weights."""

    recipe: Recipe
    path: Path
    record: dict

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def epochs_saved(self) -> list[int]:
        """The epochs whose weights were kept, the last one included."""
        return sorted(int(epoch) for epoch in self.record["checksums"])

    @property
    def curve(self) -> pd.DataFrame:
        """One row per epoch of training: `epoch`, `learning_rate`, `loss`, `accuracy`."""
        return pd.DataFrame(self.record["curve"])

    @property
    def accuracies(self) -> pd.DataFrame:
        """Test accuracy by attack: `norm`, `epsilon`, `steps`, `accuracy`."""
        return pd.DataFrame(self.record["accuracies"])

    @cached_property
    def network(self) -> nn.Module:
        return self.at_epoch(self.recipe.epochs)

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
        return network.eval()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _weights_file(path: Path, recipe: Recipe, epoch: int) -> Path:
    suffix = "" if epoch == recipe.epochs else f"-epoch{epoch:03d}"
    return path.with_name(f"{path.stem}{suffix}.safetensors")


def find(recipe: Recipe) -> TrainedModel | None:
    """The stored model of a recipe, None where there is none."""
    for store in paths.models():
        path = store / recipe.dataset / f"{recipe.architecture}-{recipe.address}.json"
        if path.exists():
            return _read(path)
    return None


def _read(path: Path) -> TrainedModel:
    record = artifacts.read_json(path)
    if missing := [key for key in RECORDED if key not in record]:
        raise artifacts.DamagedArtifact(f"{path} is no record of a trained model (no {', '.join(missing)}).")
    try:
        return TrainedModel(Recipe(**record["recipe"]), path, record)
    except (TypeError, ValueError) as error:
        raise artifacts.DamagedArtifact(f"{path} is no record of a trained model ({error}).") from error


def load_model(name: str | Path) -> TrainedModel:
    """A stored model by the path of either of its files, its name, or its address.

    Raises
    ------
    ValueError
        No stored model is called so.
    """
    path = Path(name).with_suffix(".json")
    if path.is_file():
        return _read(path)
    stored = {p.stem: p for store in reversed(paths.models()) for p in sorted(store.glob("*/*.json"))}
    matching = [p for stem, p in stored.items() if str(name) in (stem, stem.rpartition("-")[2])]
    if not matching:
        raise ValueError(messages.unknown("trained model", str(name), stored))
    return _read(matching[0])


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
    stored = None if retrain else _stored(recipe)
    if stored is not None and stored.record["accuracies"]:
        return stored
    path = paths.models()[0] / recipe.dataset / f"{recipe.architecture}-{recipe.address}.json"
    with artifacts.locked(path):
        stored = None if retrain else _stored(recipe)  # another process may have made it meanwhile
        if stored is None:
            stored = _make(recipe, dataset, path, device, progress)
        if not stored.record["accuracies"]:
            network = stored.network.to(resolve_device(device), memory_format=torch.channels_last)
            measured = _measure(recipe, network, dataset).to_dict("records")
            artifacts.write_json(stored.path, {**stored.record, "accuracies": measured})
        return _read(stored.path)


def _stored(recipe: Recipe) -> TrainedModel | None:
    """The stored model of a recipe, if it kept all the epochs that the recipe wants."""
    stored = find(recipe)
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
    return _read(path)


def _kept(recipe: Recipe) -> list[int]:
    step = recipe.save_every or recipe.epochs
    return sorted({*range(step, recipe.epochs, step), recipe.epochs})


def _measure(recipe: Recipe, network: nn.Module, dataset: Dataset) -> pd.DataFrame:
    epsilons = {*EPSILONS.get((recipe.dataset, recipe.norm), ()), recipe.epsilon} - {0.0}
    clean = robust_accuracy(network, dataset.test, [Attack(0.0, recipe.norm)])
    attacks = [Attack(epsilon, recipe.norm) for epsilon in sorted(epsilons)]
    robust = robust_accuracy(network, dataset.test.subset(EVALUATED), attacks)
    return pd.concat([clean, robust], ignore_index=True).round(6)


def table(models: Iterable[TrainedModel]) -> pd.DataFrame:
    """One row per model: its name, what tells it from the others, and its clean test accuracy."""
    rows = [
        {
            "model": model.name,
            "architecture": model.recipe.architecture,
            "method": model.recipe.method,
            "norm": model.recipe.norm,
            "epsilon": model.recipe.epsilon,
            "seed": model.recipe.seed,
            "accuracy": model.accuracies["accuracy"].iloc[0],
        }
        for model in models
    ]
    return pd.DataFrame(rows)


# The committed zoos. Everything about them is here; `build` makes them, or again any part of them.

DIGITS = {"epochs": 30, "attack_steps": 5}
SHAPES = {"epochs": 20, "attack_steps": 5, "learning_rate": 0.1, "epsilon_warmup": 0.4}
MAIN = "resnet_tiny"


def _sets(
    dataset: Dataset, architectures: Sequence[str], epsilons: Sequence[float], seeds: int, **options
) -> list[Recipe]:
    return [
        Recipe.on(
            dataset,
            architecture,
            **{"method": "pgd" if epsilon else "standard", **options, "epsilon": epsilon, "seed": seed, "data_seed": seed},
        )
        for architecture, epsilon, seed in itertools.product(architectures, epsilons, range(seeds))
    ]


def digits_recipes(dataset: Dataset) -> dict[str, list[Recipe]]:
    """The digits zoo: group → recipes. Six models of `main` keep every fifth epoch."""
    epsilons = (0.0, 0.05, 0.1, 0.2)
    others = ("resnet_tiny_deep", "wrn_tiny", "vgg_tiny", "mlp")
    return {
        "main": [
            dataclasses.replace(recipe, save_every=5 * (recipe.epsilon in (0.0, 0.1) and recipe.seed < 3))
            for recipe in _sets(dataset, [MAIN], epsilons, 5, **DIGITS)
        ],
        "architectures": _sets(dataset, others, epsilons, 3, **DIGITS),
        "trades": _sets(dataset, [MAIN], epsilons[1:], 3, **DIGITS, method="trades"),
        "l2": _sets(dataset, [MAIN], EPSILONS["digits", "l2"], 3, **DIGITS, norm="l2"),
        "widths": _sets(dataset, [f"{MAIN}_w4", f"{MAIN}_w16"], (0.0, 0.1), 3, **DIGITS),
        "depths": _sets(dataset, [f"{MAIN}_d14"], (0.0, 0.1), 3, **DIGITS),
    }


def shapes_recipes(dataset: Dataset) -> dict[str, list[Recipe]]:
    """The shapes zoo: group → recipes."""
    architectures = (MAIN, "wrn_tiny", "vgg_tiny")
    return {"main": _sets(dataset, architectures, (0.0, 0.025, 0.05), 3, **SHAPES)}


ZOOS: dict[str, Callable[[Dataset], dict[str, list[Recipe]]]] = {
    "digits": digits_recipes,
    "shapes": shapes_recipes,
}


def build(dataset: str, groups: Sequence[str] = (), *, retrain: bool = False, jobs: int | None = None) -> pd.DataFrame:
    """Train what is missing of a committed zoo (or all of it again), several models at once.

    Parameters
    ----------
    groups
        Names of parts of the zoo; all of them by default.
    jobs
        How many models are trained at the same time, each on one core; as many as there are cores.

    Returns
    -------
    DataFrame
        The zoo's `table`.
    """
    if dataset not in ZOOS:
        raise ValueError(messages.unknown("zoo", dataset, ZOOS))
    recipes = ZOOS[dataset](load_data(dataset))
    for group in groups:
        if group not in recipes:
            raise ValueError(messages.unknown(f"group of the {dataset} zoo", group, recipes))
    wanted = [recipe for group in groups or recipes for recipe in recipes[group]]
    jobs = jobs or os.cpu_count() or 1
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        made = pool.map(_build_one, [(recipe, dataset, retrain) for recipe in wanted])
        return table(list(tqdm(made, total=len(wanted), desc=f"{dataset} zoo", unit="model")))


def _build_one(job: tuple[Recipe, str, bool]) -> TrainedModel:
    recipe, dataset, retrain = job
    return obtain(recipe, load_data(dataset), retrain=retrain, progress=False, device="cpu")
