"""The committed zoos: which networks there are, and making them, or any part of them, again."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from repsim.attacks import Attack, Norm, parse_epsilon
from repsim.compute.processes import in_processes
from repsim.data import Dataset, load_data
from repsim.support import messages
from repsim.training.loading import Checkpoints, describe, load_models
from repsim.training.model_store import TrainedModel, measure, obtain, obtain_all, table
from repsim.training.recipe import Images, Recipe

MAIN = "resnet_tiny"

# The feature that tells the classes → the data set on which networks can have used nothing else.
TWO_FEATURES = {
    "outline": "two_features_outline",
    "texture": "two_features_texture",
    "both": "two_features",
}

# How networks are trained on each data set unless told otherwise. Networks on drawn data, and those without
# BatchNorm, never leave chance if the attack is at full strength from the start; on textures, a learning rate
# of 0.1 made one network of three give up a class.
DRAWN = {"epochs": 20, "attack_steps": 5, "learning_rate": 0.1, "epsilon_warmup": 0.4}
TRAINING: dict[str, dict[str, object]] = {
    "digits": {"epochs": 30, "attack_steps": 5},
    "shapes": DRAWN,
    "two_features": DRAWN,
    "two_features_outline": DRAWN,
    "two_features_texture": {**DRAWN, "learning_rate": 0.05},
    # What two CPU cores train on 50,000 images in a night; with PGD-7 in float32 it would be several.
    "cifar10_jpeg": {"epochs": 15, "training_attack": "fgsm", "precision": "bfloat16"},
}
GENTLE = {name: {"learning_rate": 0.05, "epsilon_warmup": 0.4} for name in ("mlp", "vit_tiny")}
SAVE_EVERY = 5  # epochs, for networks outside the committed zoos, where space is no matter

# Which ε the committed networks are tried at.
EPSILONS: dict[tuple[str, Norm], tuple[float, ...]] = {
    ("digits", "linf"): (0.0, 0.05, 0.1, 0.2),
    ("digits", "l2"): (0.0, 0.5, 1.0, 2.0),
    ("shapes", "linf"): (0.0, 0.025, 0.05, 0.1),
    **{(name, "linf"): (0.0, 0.05) for name in TWO_FEATURES.values()},
    ("cifar10_jpeg", "linf"): (0.0, 2 / 255, 4 / 255, 8 / 255),
}

# Architectures that differ in one thing only, for sweeps.
FAMILIES = {
    "width": (f"{MAIN}_w4", MAIN, f"{MAIN}_w16"),
    "depth": (MAIN, f"{MAIN}_d14", "resnet_tiny_deep"),
}


def recipes(
    dataset: Dataset | Images,
    architectures: Iterable[str],
    epsilons: Iterable[float],
    seeds: Iterable[int],
    *,
    method: str = "pgd",
    **options,
) -> list[Recipe]:
    """Recipes for every combination of architecture, training ε and seed.

    Parameters
    ----------
    seeds
        Each is the seed of both the initial weights and the order of the data.
    method
        How the networks with ε > 0 are trained.
    options
        Of `Recipe`, in place of the data set's own in `TRAINING`.
    """
    defaults = TRAINING.get(dataset.name, {"save_every": SAVE_EVERY})
    return [
        Recipe.on(
            dataset,
            architecture,
            **{**defaults, **GENTLE.get(architecture, {}), **options},
            method=method if epsilon else "standard",
            epsilon=epsilon,
            seed=seed,
            data_seed=seed,
        )
        for architecture, epsilon, seed in itertools.product(architectures, epsilons, seeds)
    ]


@dataclass(frozen=True, eq=False)
class NetworkSet:
    """Networks of one data set: by recipes, or by checkpoints that somebody brings.

    Attributes
    ----------
    recipes
        Of networks that are trained where they are missing; of no account where there are checkpoints.
    checkpoints
        As `load_models` takes them.
    """

    dataset: Dataset
    recipes: Sequence[Recipe]
    checkpoints: Checkpoints | None = None

    def obtain(self, *, retrain: bool = False, device: str = "auto") -> list[TrainedModel]:
        """Load the networks, or train them; what checkpoints hold is printed.

        Parameters
        ----------
        retrain
            Train again what is stored.

        Raises
        ------
        ValueError
            See `load_models`.
        """
        if self.checkpoints:
            models = load_models(self.checkpoints, self.dataset, device=device)
            print(describe(models))
            return models
        return obtain_all(self.recipes, self.dataset, retrain=retrain, device=device)


def network_set(
    dataset: Dataset,
    architectures: Sequence[str],
    epsilons: Sequence[float],
    seeds: Iterable[int],
    *,
    checkpoints: Checkpoints | None = None,
    among: Sequence[str] = (),
    **options,
) -> NetworkSet:
    """Networks by `recipes`, or checkpoints.

    Parameters
    ----------
    architectures, epsilons
        Empty: those of the committed zoo.
    checkpoints
        As `load_models` takes them; where there are any, they are the networks.
    among
        Data sets whose zoos must all have the architectures that are taken from the committed one.

    Raises
    ------
    ValueError
        The data set has no committed zoo, and its networks are not named.
    """
    if checkpoints:
        return NetworkSet(dataset, (), checkpoints)
    architectures = architectures or shared_architectures(among or [dataset.name])
    epsilons = epsilons or committed_epsilons(dataset.name)
    return NetworkSet(dataset, recipes(dataset, architectures, epsilons, seeds, **options))


def epsilons_of(models: Iterable[TrainedModel]) -> list[float]:
    """The training ε that there are among networks, from the smallest."""
    return sorted({model.recipe.epsilon for model in models})


def architectures_of(models: Iterable[TrainedModel]) -> list[str]:
    """The architectures that there are among networks, in order."""
    return list(dict.fromkeys(model.recipe.architecture for model in models))


def robust_epsilon(models: Iterable[TrainedModel], asked: str | float) -> float:
    """The ε at which robust networks are looked at: the one asked for, else the greatest that there is.

    It is also what networks are attacked at, so that where none is robust it is the one asked for.
    """
    there, asked = epsilons_of(models), parse_epsilon(asked)
    return asked if asked in there or not any(there) else max(there)


def family(dataset: Dataset, architecture: str, sweep: str) -> list[str]:
    """The architectures of the committed zoo that differ from this one in `width` or `depth` only."""
    committed = dataset.name == "digits" and architecture == MAIN
    return list(FAMILIES[sweep]) if committed else [architecture]


def committed_epsilons(dataset: str) -> list[float]:
    """The L∞ ε at which all architectures of a committed zoo are trained.

    Raises
    ------
    ValueError
        There is no zoo for this data set.
    """
    return list(dict.fromkeys(recipe.epsilon for recipe in _combinations(dataset)))


def shared_architectures(datasets: Iterable[str]) -> list[str]:
    """The architectures that the committed zoos of all these data sets have, at all their L∞ ε.

    Raises
    ------
    ValueError
        A data set has no zoo, or they share none.
    """
    datasets = list(datasets)
    first, *others = ([recipe.architecture for recipe in _combinations(name)] for name in datasets)
    shared = [name for name in dict.fromkeys(first) if all(name in other for other in others)]
    if not shared:
        raise ValueError(f"the committed zoos of {', '.join(datasets)} share no architecture.")
    return shared


def _combinations(dataset: str) -> list[Recipe]:
    """Networks of a zoo that come in all combinations of architecture, ε and seed."""
    if dataset not in ZOOS:
        raise ValueError(
            f"{dataset} has no committed networks ({', '.join(ZOOS)} have): name architectures and epsilons."
        )
    groups = zoo_recipes(dataset)
    return [*groups["main"], *groups.get("architectures", [])]


def digits_recipes(dataset: Dataset | Images) -> dict[str, list[Recipe]]:
    """The digits zoo: group → recipes. Six models of `main` keep every fifth epoch."""
    epsilons = EPSILONS["digits", "linf"]
    others = ("resnet_tiny_deep", "wrn_tiny", "vgg_tiny", "mlp")
    ends = (0.0, 0.1)
    main = [
        dataclasses.replace(recipe, save_every=5 * (recipe.epsilon in ends and recipe.seed < 3))
        for recipe in recipes(dataset, [MAIN], epsilons, range(5))
    ]
    return {
        "main": main,
        "architectures": recipes(dataset, others, epsilons, range(3)),
        "trades": recipes(dataset, [MAIN], epsilons[1:], range(3), method="trades"),
        "l2": recipes(dataset, [MAIN], EPSILONS["digits", "l2"][1:], range(3), norm="l2"),
        "widths": recipes(dataset, [f"{MAIN}_w4", f"{MAIN}_w16"], ends, range(3)),
        "depths": recipes(dataset, [f"{MAIN}_d14"], ends, range(3)),
    }


def shapes_recipes(dataset: Dataset | Images) -> dict[str, list[Recipe]]:
    """The shapes zoo: group → recipes."""
    architectures = (MAIN, "wrn_tiny", "vgg_tiny")
    return {"main": recipes(dataset, architectures, (0.0, 0.025, 0.05), range(3))}


def two_features_recipes(dataset: Dataset | Images) -> dict[str, list[Recipe]]:
    """The zoo of one of the data sets of `TWO_FEATURES`: group → recipes."""
    return {"main": recipes(dataset, [MAIN], (0.0, 0.05), range(3))}


def cifar10_recipes(dataset: Dataset | Images) -> dict[str, list[Recipe]]:
    """The CIFAR-10 zoo: group → recipes, what is needed most first."""
    small = ("resnet20_w1", "preactresnet18_w8", "vgg_tiny_w24")
    return {
        "main": recipes(dataset, ["wrn_28_1"], (0.0, 8 / 255), range(5)),
        "architectures": recipes(dataset, small, (0.0, 8 / 255), range(3)),
        "epsilons": recipes(dataset, ["wrn_28_1"], (2 / 255, 4 / 255), range(3)),
    }


ZOOS: dict[str, Callable[[Dataset | Images], dict[str, list[Recipe]]]] = {
    "digits": digits_recipes,
    "shapes": shapes_recipes,
    **dict.fromkeys(TWO_FEATURES.values(), two_features_recipes),
    "cifar10_jpeg": cifar10_recipes,
}
FINGERPRINTS = {"cifar10_jpeg": "50000x3x32x32"}  # of data sets that are not part of the package


def zoo_recipes(name: str) -> dict[str, list[Recipe]]:
    """The recipes of a zoo by group; images that would have to be downloaded are not."""
    known = FINGERPRINTS.get(name)
    return ZOOS[name](load_data(name) if known is None else Images(name, known))


def build(
    dataset: str, groups: Sequence[str] = (), *, retrain: bool = False, jobs: int | None = None
) -> pd.DataFrame:
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
    known = zoo_recipes(dataset)
    groups = [groups] if isinstance(groups, str) else list(groups or known)
    for group in groups:
        if group not in known:
            raise ValueError(messages.unknown(f"group of the {dataset} zoo", group, known))
    work = [recipe for group in groups for recipe in known[group]]
    load_data(dataset)  # what cannot be loaded is said here, and what is downloaded is downloaded once
    build_one = functools.partial(_build_one, dataset, retrain)
    return table(in_processes(build_one, work, jobs or os.cpu_count(), f"{dataset} zoo", "model"))


def _build_one(name: str, retrain: bool, recipe: Recipe) -> TrainedModel:
    dataset = load_data(name)
    model = obtain(recipe, dataset, retrain=retrain, progress=False, device="cpu")
    measure(model, dataset, [Attack(epsilon, recipe.norm) for epsilon in EPSILONS[name, recipe.norm]])
    # A fresh one: networks that have been loaded do not travel between processes.
    return TrainedModel(model.recipe, model.path, model.record)
