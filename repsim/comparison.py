"""Many models and many measures: on natural images, on each model's own inverted ones, and as STIR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from repsim.data import Split, check_pixels
from repsim.inversion import InvertedSet, Pairs
from repsim.inversion.inverting import Reader
from repsim.inversion.recipe import Start
from repsim.measures import compare_many, interval
from repsim.measures.comparing import Measures
from repsim.progress import progress_bar
from repsim.store import TrainedModel

BATCH = 250
LABELS = ("architecture", "method", "norm", "epsilon", "seed")
TARGETS = "targets"  # what STIR compares a model's inverted images with

Values = Mapping[str, Float[Tensor, "n d"]]
Pair = tuple[str, str]


class Comparison:
    """Models whose representations, at one layer, are compared with one another.

    All tables have one row per pair of models and measure: `inputs` (`natural`, `inverted` or `stir`),
    `model_a`, `model_b`, the labels of both (`architecture_a`, `epsilon_a`, …), `measure`, `value`,
    `orientation`, `note`, and `n`, the number of images. With `intervals`, also `low` and `high`, the 95 %
    interval over the choice of images (see `measures.interval`), which takes some hundred times as long.

    Parameters
    ----------
    models
        At least two, for images of one shape.
    layer
        Whose value represents an image.

    Raises
    ------
    ValueError
        There are fewer than two models, they take images of different shapes, or one has no such layer.
    """

    def __init__(self, models: Iterable[TrainedModel], layer: str = "penultimate"):
        self.models = {model.name: model for model in models}
        if len(self.models) < 2:
            raise ValueError(f"a comparison needs at least 2 models, got {len(self.models)}.")
        shapes = {tuple(model.record["image_shape"]) for model in self.models.values()}
        if len(shapes) > 1:
            raise ValueError(f"models for images of one shape can be compared, not of {sorted(shapes)}.")
        self.layer = layer
        self._readers = {
            name: Reader(model.network, layer, model.record["image_shape"])
            for name, model in self.models.items()
        }

    def representation(self, name: str, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """What the model of that name makes of images, on their device."""
        read = self._readers[name]
        with torch.no_grad():
            parts = [read(batch.to(read.device)).to(images.device) for batch in images.split(BATCH)]
        return torch.cat(parts)

    def natural(
        self,
        images: Float[Tensor, "n c h w"],
        measures: Measures = "cka",
        *,
        intervals: bool = False,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Measures of all pairs of models on the same images.

        Of a symmetric measure, each pair is there once; of another, both orders.

        Raises
        ------
        ValueError
            As the measures: too few images, for one.
        """
        check_pixels(images)
        values = {name: self.representation(name, images) for name in self.models}
        return self._described(self._table("natural", values, None, measures, intervals, progress))

    def inverted(
        self,
        sets: Mapping[str, InvertedSet],
        measures: Measures = "cka",
        *,
        intervals: bool = False,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Measures of all pairs of models on images inverted through the first of each (Jones et al., 2022).

        With X' inverted through model a, it is m(a(X'), b(X')): whether b, too, uses what a uses. It is not
        symmetric: both orders of each pair are there.

        Parameters
        ----------
        sets
            By the names of the models that they were inverted through; models without one are `model_b` only.

        Raises
        ------
        ValueError
            A set is of another model or layer, began as noise, or is of other pairs than the rest; or as the
            measures.
        """
        tables = []
        for a in progress_bar(self._with_sets(sets, "seed"), "inverted", "model", progress):
            values = {name: self.representation(name, sets[a].images) for name in self.models}
            pairs = [(a, b) for b in self.models if b != a]
            tables.append(self._table("inverted", values, pairs, measures, intervals, False))
        return self._described(pd.concat(tables, ignore_index=True))

    def stir(
        self,
        sets: Mapping[str, InvertedSet],
        pairs: Pairs,
        split: Split,
        measures: Measures = "cka",
        *,
        intervals: bool = False,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Similarity through inverted representations (Nanda et al., 2022): what a ignores, does b ignore?

        With X' inverted through model a from noise, so that a sees in X' what it sees in the targets X, it is
        m(b(X), b(X')). Both orders of each pair are there, and each model with itself.

        Parameters
        ----------
        sets
            Inverted from noise, by the names of the models that they were inverted through.
        pairs, split
            X is their targets.

        Raises
        ------
        ValueError
            A set is of another model or layer, of other pairs, or began at images instead of noise; or as the
            measures.
        """
        own = self._with_sets(sets, "noise")
        for a in own:
            sets[a].check_pairs(pairs)
        targets = pairs.targets(split)
        tables = []
        for b in progress_bar(self.models, "STIR", "model", progress):
            values = {a: self.representation(b, sets[a].images) for a in own}
            values[TARGETS] = self.representation(b, targets)
            found = self._table("stir", values, [(TARGETS, a) for a in own], measures, intervals, False)
            tables.append(found.assign(model_a=found["model_b"], model_b=b))
        return self._described(pd.concat(tables, ignore_index=True))

    def _with_sets(self, sets: Mapping[str, InvertedSet], start: Start) -> list[str]:
        own = [name for name in self.models if name in sets]
        if not own:
            raise ValueError(f"none of the {len(self.models)} models has inverted images here.")
        for name in own:
            sets[name].check_model(self.models[name])
            recipe = sets[name].recipe
            if recipe.start != start:
                began = {"seed": "the pairs' seeds", "noise": "noise"}
                raise ValueError(
                    f"the images inverted through {name} began as {began[recipe.start]}; needed are such as "
                    f"began as {began[start]}."
                )
            if recipe.layer != self.layer:
                raise ValueError(
                    f"the images of {name} were inverted at layer {recipe.layer!r}; the comparison is of "
                    f"{self.layer!r}."
                )
            if recipe.pairs != sets[own[0]].recipe.pairs:
                raise ValueError(f"{own[0]} and {name} were inverted for different pairs of images.")
        return own

    def _table(
        self,
        inputs: str,
        values: Values,
        pairs: Sequence[Pair] | None,
        measures: Measures,
        intervals: bool,
        progress: bool,
    ) -> pd.DataFrame:
        count = len(next(iter(values.values())))
        try:
            table = compare_many(values, measures, pairs=pairs, progress=progress)
        except ValueError as error:
            raise ValueError(f"{inputs} images, {count} of them: {error}") from error
        table.insert(0, "inputs", inputs)
        if intervals:
            found = [
                interval(row.measure, values[row.model_a], values[row.model_b], progress=False)
                for row in table.itertuples()
            ]
            table["low"], table["high"] = [each.low for each in found], [each.high for each in found]
        return table.assign(n=count)

    def _described(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the labels of both models behind their names."""
        labels = {name: model.labels for name, model in self.models.items()}
        columns = ["inputs", "model_a", "model_b"]
        for side in ("a", "b"):
            for label in LABELS:
                known = {name: own[label] for name, own in labels.items()}
                table[f"{label}_{side}"] = table[f"model_{side}"].map(known)
                columns.append(f"{label}_{side}")
        return table[[*columns, *table.columns.drop(columns)]]


def both_orders(table: pd.DataFrame) -> pd.DataFrame:
    """A table of pairs, each in both orders: natural pairs that are there once get their mirror image."""
    natural = table[table["inputs"] == "natural"]
    mirrored = natural.rename(columns={name: _other_side(name) for name in natural.columns})[table.columns]
    key = ["model_a", "model_b", "measure"]
    there = natural.set_index(key).index
    return pd.concat([table, mirrored[~mirrored.set_index(key).index.isin(there)]], ignore_index=True)


def _other_side(column: str) -> str:
    name, _, side = column.rpartition("_")
    return f"{name}_{'b' if side == 'a' else 'a'}" if side in ("a", "b") else column


def similarity_matrix(
    table: pd.DataFrame, group: Callable[[Mapping[str, object]], str], order: Sequence[str] = ()
) -> pd.DataFrame:
    """A table of pairs as a matrix of groups of models: the first model's group down, the second's across.

    Parameters
    ----------
    table
        Of one kind of inputs and one measure.
    group
        From a model's labels, and its name as `model`, to the name of its group.
    order
        Of the groups; by default, that of the table.

    Returns
    -------
    DataFrame
        The mean over the pairs of each two groups.

    Raises
    ------
    ValueError
        The table is of several kinds of inputs, or of several measures.
    """
    table = both_orders(_of_one_kind(table))
    named = table[["value"]].copy()
    for side in ("a", "b"):
        names = ("model", *LABELS)
        labels = table[[f"{name}_{side}" for name in names]].set_axis(list(names), axis=1)
        named[side] = [group(row) for row in labels.to_dict("records")]
    names = list(order) or list(dict.fromkeys([*named["a"], *named["b"]]))
    return named.pivot_table("value", "a", "b").reindex(index=names, columns=names)


def _of_one_kind(table: pd.DataFrame) -> pd.DataFrame:
    for column in ("inputs", "measure"):
        if len(found := table[column].unique()) > 1:
            raise ValueError(f"a mean over {column} {', '.join(found)} says nothing: choose one of them.")
    return table


def mean_similarity(
    table: pd.DataFrame, *, architectures: Sequence[str], epsilon_a: float, epsilon_b: float
) -> float:
    """The mean over pairs of different models of these architectures, the two trained at these ε.

    Parameters
    ----------
    table
        Of one kind of inputs and one measure.

    Raises
    ------
    ValueError
        It is of several, or has no such pair.
    """
    table = both_orders(_of_one_kind(table))
    chosen = (
        table["architecture_a"].isin(architectures)
        & table["architecture_b"].isin(architectures)
        & (table["epsilon_a"] == epsilon_a)
        & (table["epsilon_b"] == epsilon_b)
        & (table["model_a"] != table["model_b"])
    )
    if not chosen.any():
        raise ValueError(
            f"no two different models of {', '.join(architectures)} were trained at ε = {epsilon_a:g} and "
            f"{epsilon_b:g}."
        )
    return float(table.loc[chosen, "value"].mean())
