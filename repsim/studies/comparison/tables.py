"""Tables of pairs of models: both orders of each, means over groups, and matrices of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from repsim.attacks import epsilon_text
from repsim.measures import agreement_reference
from repsim.studies.comparison.comparing import LABELS
from repsim.training.model_store import TrainedModel


def both_orders(table: pd.DataFrame) -> pd.DataFrame:
    """A table of pairs, each in both orders: natural pairs that are there once get their mirror image."""
    natural = table[table["inputs"] == "natural"]
    mirrored = natural.rename(columns={name: _other_side(name) for name in natural.columns})[table.columns]
    key = ["layer", "model_a", "model_b", "measure"]
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
    for column in ("dataset", "inputs", "layer", "measure", "by", "group", "classifier"):
        if column in table and len(found := table[column].unique()) > 1:
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


def with_references(table: pd.DataFrame, classes: int) -> pd.DataFrame:
    """Rows of `agreement` with what the two accuracies would give by the references of Fort et al. (2019).

    Returns
    -------
    DataFrame
        With `independent` and `perturbed` (see `measures.agreement_reference`; NaN where an accuracy is below
        chance) and `accuracy`, the mean of both.
    """
    rows = []
    for a, b in zip(table["accuracy_a"], table["accuracy_b"], strict=True):
        above_chance = min(a, b) >= 1 / classes < max(a, b)
        found = agreement_reference(a, b, classes)["agreement"].tolist() if above_chance else [math.nan] * 2
        rows.append(found)
    columns = dict(zip(("independent", "perturbed"), zip(*rows, strict=True), strict=True))
    return table.assign(**columns, accuracy=(table["accuracy_a"] + table["accuracy_b"]) / 2)


def concise(table: pd.DataFrame) -> pd.DataFrame:
    """A table to be saved: without what is empty, or told by other columns.

    The names of models give way to what tells them apart, what both models of all pairs have in common is
    there once, and whether a measure is a similarity or a distance is known. `where` only names places in
    figures.
    """
    shown = table.copy()
    for label in LABELS:
        a, b = f"{label}_a", f"{label}_b"
        if (shown[a] == shown[b]).all():
            shown = shown.drop(columns=b).rename(columns={a: label})
    empty = [name for name in shown if shown[name].isna().all() or (shown[name] == "").all()]
    return shown.drop(columns=["model_a", "model_b", "orientation", "where", *empty], errors="ignore")


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A table to be saved, with a column for each measure in place of a row; notes are left out."""
    told = [name for name in table if name not in ("measure", "value", "note")]
    wide = table.pivot(index=told, columns="measure", values="value")[table["measure"].unique()]
    return wide.rename_axis(columns=None).reset_index()


def model_matrix(table: pd.DataFrame, models: Iterable[TrainedModel]) -> pd.DataFrame:
    """`similarity_matrix` of networks by ε and architecture."""
    recipes = [model.recipe for model in models]
    levels = sorted({recipe.epsilon for recipe in recipes})
    architectures = dict.fromkeys(recipe.architecture for recipe in recipes)
    order = [f"ε = {epsilon_text(e)}, {architecture}" for e in levels for architecture in architectures]
    return similarity_matrix(
        table, lambda labels: f"ε = {epsilon_text(labels['epsilon'])}, {labels['architecture']}", order
    )


def repeated_levels(models: Iterable[TrainedModel]) -> list[float]:
    """The ε at which at least two networks were trained: there are pairs of these."""
    counts = Counter(model.recipe.epsilon for model in models)
    return sorted(epsilon for epsilon, count in counts.items() if count > 1)


def similarity_by_epsilon(tables: Mapping[str, pd.DataFrame], models: Sequence[TrainedModel]) -> pd.DataFrame:
    """Means over pairs of networks of one ε: a row for each ε, a column for each table.

    Parameters
    ----------
    tables
        Title → a table of one kind of inputs and one measure.
    """
    architectures = list(dict.fromkeys(model.recipe.architecture for model in models))
    levels = repeated_levels(models)
    found = {
        title: pd.Series(
            [mean_similarity(table, architectures=architectures, epsilon_a=e, epsilon_b=e) for e in levels],
            index=[epsilon_text(e) for e in levels],
            dtype=float,
        )
        for title, table in tables.items()
    }
    return pd.DataFrame(found).rename_axis("ε")


def over_epsilon(table: pd.DataFrame, norm: str) -> pd.DataFrame:
    """Means over pairs, of networks `against` those of the same ε and against standard ones.

    Parameters
    ----------
    table
        Of one measure, and several kinds of inputs.
    norm
        Of ε.

    Returns
    -------
    DataFrame
        One row per `against`, `inputs`, `architecture_a` and `epsilon_a`: `value`, `norm`.
    """
    pooled = both_orders(table)
    pooled = pooled[pooled["model_a"] != pooled["model_b"]]
    against = {
        "networks of the same ε": pooled["epsilon_a"] == pooled["epsilon_b"],
        "standard networks": pooled["epsilon_b"] == 0,
    }
    parts = [pooled[rows].assign(against=name) for name, rows in against.items()]
    groups = ["against", "inputs", "architecture_a", "epsilon_a"]
    means = pd.concat(parts, ignore_index=True).groupby(groups, sort=False, as_index=False)["value"].mean()
    return means.assign(norm=norm)


def by_measure(table: pd.DataFrame, norm: str) -> pd.DataFrame:
    """Means over pairs of networks of one ε, by `measure`, `inputs` and `epsilon_a`."""
    both = both_orders(table)
    same = both[both["epsilon_a"] == both["epsilon_b"]]
    means = same.groupby(["measure", "inputs", "epsilon_a"], sort=False, as_index=False)["value"].mean()
    return means.assign(norm=norm)


def several(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of at least three networks of one data set and ε: fewer have no spread."""
    networks = table.groupby(["dataset", "epsilon_a"])["model_a"].transform("nunique")
    return table[networks > 2]
