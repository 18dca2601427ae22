"""Many stitches at once: which donors, which layers, which ways; and one table of what came out."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from repsim.activations import Layers
from repsim.compute.processes import in_processes
from repsim.data import Dataset
from repsim.studies.stitching.evaluation import Evaluation
from repsim.studies.stitching.measuring import MEASURED
from repsim.studies.stitching.options import StitchOptions
from repsim.studies.stitching.recipe import StitchRecipe
from repsim.studies.stitching.store import Stitch, find_stitch, obtain_stitch
from repsim.support.progress import progress_bar
from repsim.training import zoo
from repsim.training.loading import Checkpoints
from repsim.training.model_store import TrainedModel, stored_model

# How transforms are fitted on each data set unless told otherwise. On a few batches per epoch the published
# settings end far from a minimum; these had the lowest training loss of those tried (task loss, and nothing
# else, was looked at).
FITTING: dict[str, dict[str, object]] = {
    name: {"initial": "pseudo_inverse", "learning_rate": 0.03, "epochs": 20} for name in ("digits", "shapes")
}
STANDARD, ROBUST = "standard", "robust"
# Of two attacks in one table, that of fitting; `attack_…` is the one under which stitches are measured.
FITTED = {name: f"fitting_{name}" for name in ("norm", "epsilon", "attack_steps", "step_size")}


def settings_for(dataset: Dataset, **options) -> dict[str, object]:
    """Fields of `StitchOptions` for a data set, but for those that are given."""
    StitchOptions(**{**options, "method": "standard", "epsilon": 0.0})  # refuses unknown names
    return {**FITTING.get(dataset.name, {}), **options}


def obtain_donors(
    dataset: Dataset,
    architecture: str,
    epsilon: float,
    seeds: int,
    *,
    checkpoints: Checkpoints | None = None,
    device: str = "auto",
    **options,
) -> tuple[list[TrainedModel], list[TrainedModel]]:
    """Standard and robust networks, as many of each; options are those of `Recipe`.

    Parameters
    ----------
    seeds
        How many of each there are, unless they are read.
    checkpoints
        As `load_models` takes them: networks of the first one's architecture are taken from these.

    Raises
    ------
    ValueError
        As `donors_among`.
    """
    models = zoo.networks(
        dataset,
        [architecture],
        [0.0, epsilon],
        range(seeds),
        checkpoints=checkpoints,
        device=device,
        **options,
    )
    return donors_among(models, epsilon)


def donors_among(
    models: Sequence[TrainedModel], epsilon: float
) -> tuple[list[TrainedModel], list[TrainedModel]]:
    """Standard networks, and as many robust ones, of the first one's architecture.

    Raises
    ------
    ValueError
        There are no such two: checkpoints do not hold both.
    """
    alike = [each for each in models if each.recipe.architecture == models[0].recipe.architecture]
    level = zoo.robust_epsilon(alike, epsilon)
    standard, robust = ([each for each in alike if each.recipe.epsilon == kind] for kind in (0.0, level))
    if not (standard and robust):
        there = ", ".join(f"{each.recipe.architecture}, {_kind(each.recipe.epsilon)}" for each in models)
        raise ValueError(
            f"a standard and a robust network of one architecture are stitched; the checkpoints hold {there}."
        )
    count = min(len(standard), len(robust))
    return standard[:count], robust[:count]


def plain_method(settings: Mapping[str, object]) -> StitchOptions:
    """Task loss on clean images."""
    return StitchOptions(**{**settings, "method": "standard", "epsilon": 0.0})


def attacked_method(settings: Mapping[str, object], alpha: float, **attack) -> StitchOptions:
    """Task loss with a share α of attacked images; `attack` has `method`, `norm` and `epsilon`.

    TRADES knows no share, so that any α above 0 is the same.
    """
    if alpha == 0:
        return plain_method(settings)
    return StitchOptions(**{**settings, **attack, "attack_ratio": alpha})


def direct_method(settings: Mapping[str, object], method: str) -> StitchOptions:
    """A direct match: of the settings only what it has, which is how layers are laid out."""
    layout = {name: settings[name] for name in ("flatten", "resize") if name in settings}
    return StitchOptions(method=method, **layout)


def fitting_methods(
    settings: Mapping[str, object], alphas: Sequence[float], direct: Sequence[str], **attack
) -> list[StitchOptions]:
    """Task loss with each share α of attacked images, then each direct match."""
    task = [attacked_method(settings, alpha, **attack) for alpha in alphas]
    return list(dict.fromkeys([*task, *(direct_method(settings, method) for method in direct)]))


def donor_pairs(
    standard: Sequence[TrainedModel], robust: Sequence[TrainedModel]
) -> list[tuple[TrainedModel, TrainedModel]]:
    """Fronts and ends: each model with one of its own kind and one of the other, in both directions.

    Models of the two kinds are paired in order, so that mixed pairs share no model with one another; with its
    own kind each is paired with the next.
    """
    mixed = list(zip(standard, robust, strict=True))
    pairs = [*mixed, *((robust_one, standard_one) for standard_one, robust_one in mixed)]
    if len(standard) > 1:
        for kind in (standard, robust):
            pairs += zip(kind, [*kind[1:], kind[0]], strict=True)
    return pairs


def same_layer(
    pairs: Iterable[tuple[TrainedModel, TrainedModel]],
    layers: Layers,
    dataset: Dataset,
    methods: Iterable[StitchOptions],
    *,
    cross_task: bool = False,
) -> list[StitchRecipe]:
    """Stitches of equal layers of donors of one architecture. The seed of each is that of its front."""
    pairs, methods = list(pairs), list(methods)
    names = pairs[0][0].graph.select(layers)
    return [
        StitchRecipe.of(
            front,
            end,
            layer,
            layer,
            dataset,
            options.but(seed=front.recipe.seed),
            cross_task=cross_task,
        )
        for options, (front, end), layer in itertools.product(methods, pairs, names)
    ]


def cross_layer(
    front: TrainedModel,
    end: TrainedModel,
    layers: Layers,
    dataset: Dataset,
    options: StitchOptions,
) -> list[StitchRecipe]:
    """Stitches of every layer of one network with every layer of another; maps that differ are resized."""
    fronts = front.graph.select(layers)
    ends = end.graph.select(layers)
    resized = options.but(resize=True, seed=front.recipe.seed)
    return [StitchRecipe.of(front, end, *pair, dataset, resized) for pair in itertools.product(fronts, ends)]


def run(
    recipes: Iterable[StitchRecipe],
    evaluation: Evaluation,
    *,
    truncations: Sequence[int] = (),
    recompute: bool = False,
    jobs: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Obtain stitches, each saved as it is made: an interrupted run goes on with the next one.

    Parameters
    ----------
    truncations
        Ranks; measure copies truncated to them, too.
    recompute
        Fit and measure again what is stored.
    jobs
        How many are made at the same time, each on one core.

    Returns
    -------
    DataFrame
        One row per stitch and truncation: what it is made of (`front`, `end`, their `…_epsilon` and `…_seed`,
        `pair`, `layer_front`, `layer_end`), how (`method`, `alpha`, `rank` and the other options, those of an
        attack as `fitting_…`), on what it was measured (`attack_…`), and what came out: see `measure_stitch`.
    """
    recipes = list(recipes)
    if jobs > 1:
        work = (
            recipes
            if recompute
            else [each for each in recipes if not _is_done(each, evaluation, truncations)]
        )
        if work:
            make = functools.partial(_make, evaluation, truncations, recompute)
            in_processes(make, work, jobs, "stitches", "stitch", progress)
        recompute = False
    options = {"truncations": truncations, "recompute": recompute}
    bar = progress_bar(recipes, "stitches", "stitch", progress)
    return table([obtain_stitch(recipe, evaluation, **options) for recipe in bar], evaluation, truncations)


def _is_done(recipe: StitchRecipe, evaluation: Evaluation, truncations: Sequence[int]) -> bool:
    stored = find_stitch(recipe)
    return stored is not None and all(stored.measured(evaluation, rank) for rank in (0, *truncations))


def _make(evaluation: Evaluation, truncations: Sequence[int], recompute: bool, recipe: StitchRecipe) -> None:
    obtain_stitch(recipe, evaluation, truncations=truncations, recompute=recompute)


def table(
    stitches: Iterable[Stitch], evaluation: Evaluation, truncations: Sequence[int] = ()
) -> pd.DataFrame:
    """One row per measured stitch and truncation; see `run`."""
    describe = functools.cache(stored_model)
    rows = []
    for stitch, rank in itertools.product(stitches, (0, *truncations)):
        recipe, options = stitch.recipe, dataclasses.asdict(stitch.recipe.options)
        front, end = describe(recipe.front).recipe, describe(recipe.end).recipe
        rows.append(
            {
                "front": recipe.front,
                "end": recipe.end,
                "front_epsilon": front.epsilon,
                "end_epsilon": end.epsilon,
                "front_seed": front.seed,
                "end_seed": end.seed,
                "front_task": front.dataset,
                "end_task": end.dataset,
                "pair": f"{_kind(front.epsilon)} → {_kind(end.epsilon)}",
                "layer_front": recipe.layer_front,
                "layer_end": recipe.layer_end,
                "fitted_on": recipe.dataset,
                "fitting_method": fitting_method(recipe.options),
                "alpha": _alpha(recipe.options),
                **{FITTED.get(name, name): value for name, value in options.items()},
                **stitch.measured(evaluation, rank),
            }
        )
    found = pd.DataFrame(rows)
    described = [name for name in found.columns if name not in MEASURED]
    measured = [name for name in MEASURED if name in found.columns]
    return found[[*described, *measured]]


def _kind(epsilon: float) -> str:
    return ROBUST if epsilon else STANDARD


def _alpha(options: StitchOptions) -> float | None:
    """The share of adversarial images in fitting: none in standard training, undefined in direct matching."""
    if options.is_direct:
        return None
    return 0.0 if options.method == "standard" else options.attack_ratio


def fitting_method(options: StitchOptions) -> str:
    """The fitting method of a transform, as figures call it."""
    if options.is_direct:
        return f"direct, {options.method.replace('_', ' ')}"
    return "task loss, TRADES" if options.method == "trades" else f"task loss, α = {_alpha(options):g}"


def depth(table: pd.DataFrame) -> pd.Series:
    """The depth of each stitch of a table of `same_layer`: 0 at its first layer, 1 at its last."""
    order = {layer: i for i, layer in enumerate(table["layer_end"].unique())}
    return table["layer_end"].map(order) / max(1, len(order) - 1)


def curves(stitches: Iterable[Stitch]) -> pd.DataFrame:
    """Curves of fitting stitches: a row per epoch, with the donors, the layers and the options.

    `learning_rate` is that of the epoch's end, `initial_rate` what fitting began with.
    """
    tables = []
    for stitch in stitches:
        recipe, options = stitch.recipe, dataclasses.asdict(stitch.recipe.options)
        described = {
            **{name: getattr(recipe, name) for name in ("front", "end", "layer_front", "layer_end")},
            **options,
            "initial_rate": options["learning_rate"],
        }
        del described["learning_rate"]
        tables.append(stitch.curve.assign(**described))
    return pd.concat(tables, ignore_index=True)


def singular_values(stitches: Iterable[Stitch]) -> pd.DataFrame:
    """Singular values: `front`, `end`, `layer_front`, `layer_end`, `fitting_method`, `index`, `value`."""
    rows = []
    for stitch in stitches:
        recipe = stitch.recipe
        rows += [
            {
                "front": recipe.front,
                "end": recipe.end,
                "layer_front": recipe.layer_front,
                "layer_end": recipe.layer_end,
                "fitting_method": fitting_method(recipe.options),
                "index": index,
                "value": value,
            }
            for index, value in enumerate(stitch.transform.singular_values().tolist(), start=1)
        ]
    return pd.DataFrame(rows)
