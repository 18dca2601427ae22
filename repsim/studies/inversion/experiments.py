"""Many inverted sets at once, and tables of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from repsim.attacks import epsilon_text
from repsim.compute.processes import in_processes
from repsim.data import Dataset
from repsim.studies.inversion.inverting import BATCH, Inversion, invert
from repsim.studies.inversion.options import InversionOptions
from repsim.studies.inversion.pairs import Pairs
from repsim.studies.inversion.published import read_sets
from repsim.studies.inversion.recipe import InversionRecipe, Start
from repsim.studies.inversion.store import InvertedSet, find_inverted, obtain_inverted
from repsim.support.progress import progress_bar
from repsim.training.model_store import TrainedModel, only_stored, stored_model


def obtain_sets(
    models: Iterable[TrainedModel],
    dataset: Dataset,
    pairs: Pairs,
    options: InversionOptions,
    *,
    layer: str = "penultimate",
    start: Start = "seed",
    published: str = "",
    batch_size: int = BATCH,
    compiled: bool = False,
    recompute: bool = False,
    jobs: int = 1,
    progress: bool = True,
) -> dict[str, InvertedSet]:
    """The same pairs inverted through each model: by the models' names.

    Parameters
    ----------
    start
        From the pairs' seeds, or from `noise` (without a ball around it).
    published
        A folder of images that others have made, which are read instead: see `read_sets`.
    batch_size, compiled
        How they are run; see `obtain_inverted`.
    recompute
        Make again what is stored.
    jobs
        How many sets are made at the same time, each on one core, or all on one accelerator.
    """
    if jobs < 1:
        raise ValueError(f"jobs is how many sets are made at the same time, 1 or more, not {jobs}.")
    models = only_stored(models)
    if published:
        return read_sets(published, models, dataset, pairs, layer=layer)
    recipes = set_recipes(models, pairs, options, layer=layer, start=start)
    how = {"batch_size": batch_size, "compiled": compiled, "recompute": recompute}
    make: Callable[..., InvertedSet] = functools.partial(obtain_inverted, dataset=dataset, pairs=pairs, **how)
    if jobs > 1:
        missing = [each for each in recipes if recompute or find_inverted(each) is None]
        if missing:
            of_one = functools.partial(_make, make, models[0].device)
            in_processes(of_one, missing, jobs, "inverted sets", "set", progress)
        make = functools.partial(make, recompute=False)
    work = progress_bar(list(zip(recipes, models, strict=True)), "inverted sets", "set", progress)
    return {model.name: make(recipe, model, progress=jobs == 1 and progress) for recipe, model in work}


def set_recipes(
    models: Iterable[TrainedModel],
    pairs: Pairs,
    options: InversionOptions,
    *,
    layer: str = "penultimate",
    start: Start = "seed",
) -> list[InversionRecipe]:
    """Recipes of the sets that `obtain_sets` gives, in the order of the models."""
    if start == "noise":
        options = dataclasses.replace(options, epsilon=0.0)
    return [InversionRecipe.of(model, pairs, layer, options, start=start) for model in models]


@dataclass(frozen=True, eq=False)
class SetBatch:
    """Inverted sets that are made alike, of one data set; see `obtain_sets`.

    Attributes
    ----------
    published
        A folder of images that others have made, which are read instead.
    """

    models: Sequence[TrainedModel]
    dataset: Dataset
    pairs: Pairs
    options: InversionOptions
    layer: str = "penultimate"
    start: Start = "seed"
    published: str = ""

    @property
    def recipes(self) -> list[InversionRecipe]:
        """One per network; of no account where sets are read."""
        return set_recipes(self.models, self.pairs, self.options, layer=self.layer, start=self.start)

    def obtain(self, **running) -> dict[str, InvertedSet]:
        """Obtain the sets, by the names of the networks.

        Parameters
        ----------
        running
            How they are made: arguments of `obtain_sets`.
        """
        chosen = {"layer": self.layer, "start": self.start, "published": self.published}
        return obtain_sets(self.models, self.dataset, self.pairs, self.options, **chosen, **running)


def _make(make: Callable[..., InvertedSet], device: str, recipe: InversionRecipe) -> None:
    """Make a set in a process of its own: loaded networks do not travel, so that it loads its own."""
    make(recipe, stored_model(recipe.model, device), progress=False)


def curves(
    models: Iterable[TrainedModel], sets: Mapping[str, InvertedSet], *, every: int = 1
) -> pd.DataFrame:
    """Curves of how sets were made: the models' labels, `iteration`, `loss`, `converged`.

    Parameters
    ----------
    every
        Keep iterations that this divides.
    """
    tables = [sets[model.name].curve.assign(**model.labels) for model in models]
    table = pd.concat(tables, ignore_index=True)
    table = table[table["iteration"] % every == 0]
    return table[[*table.columns[3:], *table.columns[:3]]]


def set_table(models: Iterable[TrainedModel], sets: Mapping[str, InvertedSet]) -> pd.DataFrame:
    """One row per set: the model's labels, `start`, `images`, and mean `loss`, `converged`, `iterations`."""
    rows = []
    for model in models:
        found = sets[model.name]
        rows.append(
            {
                **model.labels,
                "start": found.recipe.start,
                "images": len(found.loss),
                "loss": found.loss.mean().item(),
                "converged": found.record["converged"],
                "iterations": found.iterations.float().mean().item(),
            }
        )
    return pd.DataFrame(rows)


def grid(
    models: Iterable[TrainedModel],
    sets: Mapping[str, InvertedSet],
    pairs: Pairs,
    dataset: Dataset,
    count: int,
    names: Sequence[str] = (),
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """The first inverted images of some models, below their seeds and targets.

    Parameters
    ----------
    names
        What to call the models; by default, by their architecture and ε, and the seed where that is needed.

    Returns
    -------
    tuple
        Name of a row of images → images; and a table with one row per model and image: the model's labels,
        `pair`, `seed_class`, `target_class`, `loss`.
    """
    models, some = list(models), slice(0, count)
    for model in models:
        sets[model.name].check_model(model)
        sets[model.name].check_pairs(pairs)
    described = pairs.table(dataset).iloc[some][["pair", "seed_class", "target_class"]]
    rows = {"seed": pairs.seeds(dataset.test)[some], "target": pairs.targets(dataset.test)[some]}
    tables = []
    kinds = [(model.recipe.architecture, model.recipe.epsilon) for model in models]
    default = [_shown_name(model, len(set(kinds)) < len(kinds)) for model in models]
    for model, name in zip(models, names or default, strict=True):
        rows[name] = sets[model.name].images[some]
        tables.append(described.assign(**model.labels, loss=sets[model.name].loss[some].numpy()))
    table = pd.concat(tables, ignore_index=True)
    return rows, table[[*table.columns[3:-1], *table.columns[:3], "loss"]]


def firsts(
    models: Iterable[TrainedModel], architectures: Sequence[str], seeds: Sequence[int] = (0,)
) -> list[TrainedModel]:
    """The networks of some architectures and seeds, by architecture and then by ε."""
    chosen = [m for m in models if m.recipe.architecture in architectures and m.recipe.seed in seeds]
    return sorted(chosen, key=lambda m: (architectures.index(m.recipe.architecture), m.recipe.epsilon))


def make_again(batch: SetBatch, model: TrainedModel, count: int) -> Inversion:
    """Invert the first pairs of a batch through a network now, storing nothing."""
    seeds, targets = (of(batch.dataset.test)[:count] for of in (batch.pairs.seeds, batch.pairs.targets))
    return invert(model.network, seeds, targets, batch.layer, progress=False, **vars(batch.options))


def _shown_name(model: TrainedModel, with_seed: bool) -> str:
    recipe = model.recipe
    seed = f", seed {recipe.seed}" if with_seed else ""
    return f"{recipe.architecture}, ε = {epsilon_text(recipe.epsilon)}{seed}"
