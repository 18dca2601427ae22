"""Many models and many measures in one table: on the same images, or on those made for each of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from torch import Tensor

from repsim.activations import Layers
from repsim.attacks import Attack
from repsim.data import Dataset, ImageSource, Split
from repsim.measures import Measure, compare_many
from repsim.measures.comparing import Measures
from repsim.studies.comparison.input_sets import Inputs, InputSet, as_data, check_sets, make_input_sets
from repsim.studies.comparison.observing import Observers, by_its_name
from repsim.studies.comparison.result_cache import ResultCache
from repsim.studies.comparison.values import OUTPUT, Activations, AnyMeasure, Query, Value
from repsim.studies.inversion import InvertedSet, Pairs
from repsim.support import messages
from repsim.support.progress import progress_bar
from repsim.training.model_store import TrainedModel, only_stored

LABELS = ("architecture", "method", "norm", "epsilon", "seed")
# Of a table, behind what its rows are of; those that were not asked for are left out.
COLUMNS = (
    *(
        "classifier",
        "measure",
        "orientation",
        "by",
        "group",
        "group_size",
        "n",
        "value",
        "note",
        "low",
        "high",
    ),
    *("null_mean", "null_sd", "p_value", "accuracy_a", "accuracy_b", "lowest", "highest"),
)
TARGETS = "targets"  # what STIR compares a model's inverted images with

Names = Mapping[str, TrainedModel]


def compare_models(
    models: Iterable[TrainedModel],
    data: Dataset | Split | ImageSource,
    measures: Measures = "cka",
    inputs: Inputs = "natural",
    layers: Layers = "penultimate",
    *,
    pairs: Pairs | None = None,
    sets: Mapping[str, InvertedSet] | None = None,
    attack: Attack | None = None,
    within: Sequence[str] = (),
    permutations: int = 0,
    intervals: bool = False,
    recompute: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Measures of all pairs of models, of their representations and of their predictions.

    What models make of images is captured once per model, and shared work is done once. Values are kept in
    `data/comparisons/`: those that are there are not computed again, and an interrupted run goes on.

    Parameters
    ----------
    data
        Whose test images the models see; or a split of them; or images, with labels or without, as a tensor,
        an array or a loader (see `as_images`).
    measures
        Of representations and of predictions, by name with options (`jaccard(k=20)`), or `"all"`; of all,
        `rtd` takes most of the time.
    inputs
        `natural`: the same images for all. `inverted` (Jones et al., 2022): images inverted through the first
        model of each pair, whether the second uses what the first uses. `adversarial`: images made to fool
        the first.
    layers
        `penultimate`, of each model its own; or layers that all have, each compared with its namesake: names,
        `all`, `blocks` or a fraction.
    pairs
        Take only the targets of these pairs of seed and target images; `inverted` images belong to them.
    sets
        Inverted images by the names of the models that they were inverted through; models without are only
        the second of a pair.
    attack
        How `adversarial` images are made.
    within
        Labels (`epsilon`, `architecture`, …) in which the two models of a pair are alike.
    permutations
        Put beside each value what it is when the images of the second model are permuted, so many times.
    intervals
        Put a 95 % interval over the choice of images beside each value (see `measures.interval`), which takes
        some hundred times as long.
    recompute
        Compute again what is kept.

    Returns
    -------
    DataFrame
        One row per layer, pair and measure: `dataset`, `inputs`, `layer` (`output` of predictions),
        `model_a`, `model_b`, the labels of both (`architecture_a`, `epsilon_a`, …), `measure`, `orientation`,
        `n`, the number of images, `value` and `note`. Of natural images and a symmetric measure, each pair
        is there once; else in both orders. Beside measures of predictions, `accuracy_a` and `accuracy_b` on
        these images, and beside `agreement` and `disagreement` the least and greatest value that these allow,
        `lowest` and `highest`. With `permutations`, also `null_mean`, `null_sd` and `p_value`; with
        `intervals`, `low` and `high`.

    Raises
    ------
    ValueError
        There is no pair to compare; models take images of different shapes, or have different layers or
        classes; labels are missing; sets, pairs or images do not fit; a measure, layer or label is unknown; a
        measure is not defined for any pair (too few images, for one; where it is for some, the others have a
        note in place of a value, and with `"all"` so have all).
    """
    models, layers = {model.name: model for model in only_stored(models)}, by_its_name(layers)
    data = as_data(data)
    observers = Observers(models, layers)
    query = Query.of(measures, permutations, intervals)
    if query.predictions or inputs == "adversarial":
        check_classes(models, data)
    chosen = pairs_within(models, within)
    input_sets = make_input_sets(models, data, inputs, layers, pairs=pairs, sets=sets, attack=attack)
    check_input_sets(input_sets, chosen)
    rows = []
    for input_set in progress_bar(input_sets, f"{inputs} images", "model", progress and len(input_sets) > 1):
        work = work_of(input_set, chosen, observers.layers, query.measures)
        rows += _rows(input_set, work, observers, query, recompute, progress and len(input_sets) == 1)
    table = finished(rows, data, inputs, models)
    if measures != "all":
        _check_defined(table)
    return table


def _check_defined(table: pd.DataFrame) -> None:
    for label, rows in table.groupby("measure", sort=False):
        if rows["value"].isna().all():
            raise ValueError(f"{label} is not defined for any pair of models here: {rows['note'].iloc[0]}")


def _rows(
    input_set: InputSet,
    work: Sequence[Value],
    observers: Observers,
    query: Query,
    recompute: bool,
    progress: bool,
) -> list[dict[str, object]]:
    """One row for each value of an input set: kept from an earlier run, or computed and kept now."""
    with ResultCache(input_set.identity, recompute) as known:
        keys = {value: value.key(observers.models, query) for value in work}
        found = {value: known[key] for value, key in keys.items() if key in known}
        missing = [value for value in work if value not in found]
        if missing:
            names = [name for value in missing for name in (value.model_a, value.model_b)]
            captured = Activations.of(input_set, observers, names)
            captured.check_labels(query)
            for value in progress_bar(_by_family(missing), "comparing", "value", progress):
                found[value] = captured.row(value, query)
                known.put(keys[value], found[value])
    return [{**value.columns, **found[value]} for value in work]


def _by_family(work: Iterable[Value]) -> list[Value]:
    """Family by family: what its measures share is then still in memory."""
    families: dict[str, list[Value]] = {}
    for value in work:
        family = value.measure.family if isinstance(value.measure, Measure) else ""
        families.setdefault(f"{value.layer} {family}", []).append(value)
    return list(itertools.chain.from_iterable(families.values()))


def work_of(
    input_set: InputSet,
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[str],
    measures: Sequence[AnyMeasure],
) -> list[Value]:
    """All values of an input set, in the order of the table; symmetric ones once where all see the same."""
    first = {pair: place for place, pair in enumerate(pairs)}
    ours = [pair for pair in pairs if input_set.generated_for in (None, pair[0])]
    of_values = [measure for measure in measures if isinstance(measure, Measure)]
    of_predictions = [measure for measure in measures if not isinstance(measure, Measure)]
    work = []
    for layer, kind in [*((layer, of_values) for layer in layers), (OUTPUT, of_predictions)]:
        for a, b in ours:
            for measure in kind:
                once = input_set.generated_for is None and getattr(measure, "symmetric", True)
                if not once or first[a, b] < first[b, a]:
                    work.append(Value(layer, a, b, measure))
    return work


def comparable(models: Sequence[TrainedModel]) -> list[str]:
    """The columns `within` which models are compared: ε where some two share it; else none."""
    epsilons = [model.recipe.epsilon for model in models]
    return ["epsilon"] if len(set(epsilons)) < len(epsilons) else []


def pairs_within(models: Names, within: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of two models, in both orders, that have these labels in common.

    Raises
    ------
    ValueError
        There is none, or a label is unknown.
    """
    for label in within:
        if label not in LABELS:
            raise ValueError(messages.unknown("label", label, LABELS))
    labels = {name: model.labels for name, model in models.items()}
    chosen = [
        (a, b)
        for a, b in itertools.permutations(models, 2)
        if all(labels[a][label] == labels[b][label] for label in within)
    ]
    if not chosen:
        raise ValueError(
            f"there is no pair to compare: no two of the {len(models)} models have the same "
            f"{' and '.join(within)}."
        )
    return chosen


def check_input_sets(input_sets: Iterable[InputSet], pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse images that belong to models which are first in no pair.

    Raises
    ------
    ValueError
        There is no pair of any input set.
    """
    if not any(input_set.generated_for in (None, a) for input_set in input_sets for a, _ in pairs):
        raise ValueError("there is no pair to compare: no model with images of its own is alike another.")


def check_classes(models: Names, data: Dataset | Split | Tensor) -> None:
    """Refuse models whose predictions mean different things, or not what the labels mean.

    Raises
    ------
    ValueError
        Two of them have different classes, a data set has others, or a split has labels beyond them.
    """
    first, *others = models.values()
    if isinstance(data, Dataset):
        first.check_class_names(data)
    labels, count = getattr(data, "labels", None), len(first.record["classes"])
    if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
        raise ValueError(
            f"{first.name} tells {count} classes apart, and labels go from {int(labels.min())} to "
            f"{int(labels.max())}: give images of its own classes."
        )
    for other in others:
        if other.record["classes"] != first.record["classes"]:
            own, its = (", ".join(each.record["classes"][:3]) for each in (first, other))
            raise ValueError(
                f"predictions are of the same classes only if the models are: {first.name} has {own}, …, and "
                f"{other.name} has {its}, …. Leave the measures of predictions out, or compare models of one "
                "task."
            )


def finished(
    rows: Sequence[Mapping[str, object]], data: Dataset | Split | Tensor, inputs: str, models: Names
) -> pd.DataFrame:
    """Rows as a table: with what they are of before, and the labels of both models behind their names."""
    table = pd.DataFrame(rows)
    table["dataset"], table["inputs"] = data.slug if isinstance(data, Dataset) else "", inputs
    labelled = []
    for side in ("a", "b"):
        for label in LABELS:
            known = {name: model.labels[label] for name, model in models.items()}
            table[f"{label}_{side}"] = table[f"model_{side}"].map(known)
            labelled.append(f"{label}_{side}")
    head = ["dataset", "inputs", "layer", "model_a", "model_b", *labelled]
    return table[[*head, *(name for name in COLUMNS if name in table)]]


def stir(
    models: Iterable[TrainedModel],
    sets: Mapping[str, InvertedSet],
    pairs: Pairs,
    split: Split,
    measures: Measures = "cka",
    layer: str = "penultimate",
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Similarity through inverted representations (Nanda et al., 2022): what a ignores, does b ignore?

    With X' inverted through model a from noise, so that a sees in X' what it sees in the targets X, it is
    m(b(X), b(X')).

    Parameters
    ----------
    sets
        Inverted from noise, by the names of the models that they were inverted through.
    pairs, split
        X is their targets.

    Returns
    -------
    DataFrame
        As `compare_models`, with `inputs` `stir`: both orders of each pair, and each model with itself.

    Raises
    ------
    ValueError
        A set is of another model or layer, of other pairs, or began at images instead of noise; or as the
        measures.
    """
    models = {model.name: model for model in only_stored(models)}
    observers = Observers(models, layer)
    own = check_sets(models, sets, pairs, layer, "noise")
    targets = pairs.targets(split)
    tables = []
    for b in progress_bar(models, "STIR", "model", progress):
        shown = {TARGETS: targets, **{a: sets[a].images for a in own}}
        values = {name: observers.observe(b, images).values[layer] for name, images in shown.items()}
        try:
            table = compare_many(values, measures, pairs=[(TARGETS, a) for a in own], progress=False)
        except ValueError as error:
            raise ValueError(f"stir, {len(targets)} images: {error}") from error
        tables.append(table.assign(model_a=table["model_b"], model_b=b))
    table = pd.concat(tables, ignore_index=True).assign(layer=layer, n=len(targets))
    return finished(table.to_dict("records"), split, "stir", models)


def pair_intervals(
    models: Iterable[TrainedModel],
    data: Dataset,
    measure: str,
    layer: str,
    pairs: Pairs,
    sets: Mapping[str, InvertedSet],
) -> pd.DataFrame:
    """The interval of one pair of networks at each ε: the first two seeds of the first architecture.

    Parameters
    ----------
    pairs, sets
        Of natural and inverted images; see `compare_models`.

    Returns
    -------
    DataFrame
        As `compare_models` with intervals, on natural and on inverted images; empty where no ε has two.
    """
    models = only_stored(models)
    alike = [each for each in models if each.recipe.architecture == models[0].recipe.architecture]
    tables = []
    for level in dict.fromkeys(each.recipe.epsilon for each in alike):
        two = [each for each in alike if each.recipe.epsilon == level and each.recipe.seed in (0, 1)]
        if len(two) == 2:
            options = {"pairs": pairs, "intervals": True, "progress": False}
            tables.append(compare_models(two, data, measure, "natural", layer, **options))
            tables.append(compare_models(two, data, measure, "inverted", layer, sets=sets, **options))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
