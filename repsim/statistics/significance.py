"""Tests and intervals for numbers that belong to pairs of models: two pairs that share a model are dependent.

What is independent is a model. A mean over pairs is therefore taken apart into one number for each model, its
jackknife pseudo-value: with k models, −(k − 1) times the mean of the pairs without the model, but for a
constant. Their mean is the mean over pairs, and their spread is what the choice of models makes of it,
each pair counted once however often it stands in a table.

The tests are of exchangeable units: models trained independently and in the same way. Fine-tuned from one
another, or checkpoints of one training, they are not, and p-values come out too small.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

PERMUTATIONS = 9999
ROUNDING = 1e-12  # beside the numbers themselves
ALPHA = 0.05
PAIRED_UNITS = 6  # the least with which a p-value can be below ALPHA: 2 / 2⁶
EXCHANGED_UNITS = 7  # likewise, of both groups: 1 / 21 (2 + 5) or 1 / 35 (3 + 4); of 3 + 3 it is 2 / 20


class Test(NamedTuple):
    """A difference, and how often chance makes one as large.

    Attributes
    ----------
    value
        The mean difference.
    p_value
        The share of rearrangements with a difference at least as large, either way.
    units
        How many were rearranged.
    permutations
        In how many ways, beside the one that was found.
    least_p_value
        What the p-value of so many units can be at least, where none are tied.
    needed
        The least number of units with which it can be below 5 %.
    """

    value: float
    p_value: float
    units: int
    permutations: int
    least_p_value: float
    needed: int

    @property
    def lacking(self) -> str:
        """A note where no difference, however large, is significant at 5 %; else empty."""
        if self.least_p_value <= ALPHA:
            return ""
        least = f"with {self.units} networks the least p-value is {self.least_p_value:.2g}"
        return f"{least}: at least {self.needed} networks are needed."


def unordered(table: pd.DataFrame) -> pd.Series:
    """One value for each two models: the mean of both orders, where both are there.

    Parameters
    ----------
    table
        With columns `model_a`, `model_b` and `value`, of one measure and one kind of inputs; what it says of
        a model with itself is left out.

    Raises
    ------
    ValueError
        There is no pair, a value is missing, or a pair stands there twice in one order.
    """
    table = table[table["model_a"] != table["model_b"]]
    if table.empty:
        raise ValueError("there is no pair of models in the table.")
    if table["value"].isna().any():
        raise ValueError(f"{int(table['value'].isna().sum())} of {len(table)} pairs have no value.")
    if table.duplicated(["model_a", "model_b"]).any():
        raise ValueError("a pair stands in the table twice: choose one measure and one kind of inputs.")
    pairs = [tuple(sorted(pair)) for pair in zip(table["model_a"], table["model_b"], strict=True)]
    index = pd.MultiIndex.from_tuples(pairs, names=["model_a", "model_b"])
    return pd.Series(table["value"].to_numpy(float), index).groupby(level=[0, 1], sort=False).mean()


def pseudo_values(values: pd.Series) -> pd.Series:
    """One number for each model, whose mean is the mean over the pairs; see above.

    Parameters
    ----------
    values
        As `unordered` gives them.

    Raises
    ------
    ValueError
        There are fewer than 3 models.
    """
    models = list(dict.fromkeys(itertools.chain.from_iterable(values.index)))
    count = len(models)
    if count < 3:
        raise ValueError(f"the spread over models needs at least 3 of them, got {count}.")
    first, second = (values.index.get_level_values(level) for level in (0, 1))
    found = {}
    for model in models:
        rest = values[(first != model) & (second != model)]
        if rest.empty:
            raise ValueError(f"without {model} there is no pair left.")
        found[model] = -(count - 1) * rest.mean()
    spread = pd.Series(found)
    return (
        spread - spread.mean() + values.mean()
    )  # where a pair is missing, the jackknife would move the mean


def of_models(table: pd.DataFrame) -> pd.Series:
    """The pseudo-values of a table of pairs."""
    return pseudo_values(unordered(table))


def without_levels(groups: Sequence[pd.Series]) -> pd.Series:
    """Groups of one kind (data set) at several levels (ε), moved to the mean of their means.

    What is between levels is then no spread. What is within is stretched, as much as a mean of its own has
    shrunk it, so that `exchange_test` compares the means of two kinds over their levels.

    Raises
    ------
    ValueError
        A level has fewer than 2 units.
    """
    if min(map(len, groups), default=0) < 2:
        raise ValueError(f"each level needs at least 2 units, got {[len(group) for group in groups]}.")
    middle = np.mean([group.mean() for group in groups])
    stretched = [middle + (group - group.mean()) * np.sqrt(len(group) / (len(group) - 1)) for group in groups]
    return pd.concat(stretched)


def paired_test(differences: Sequence[float] | pd.Series, seed: int = 0) -> Test:
    """Whether differences have a mean other than 0: their signs are exchanged (all ways, or 9,999 of them).

    Parameters
    ----------
    differences
        One for each independent unit: the pseudo-value of a model (`of_models`), whose sign chance could as
        well have turned. Of pairs that share models the p-value comes out too small.
    """
    values = _finite(differences)
    least = 2 / 2 ** len(values)  # all signs turned make as large a mean
    if 2 ** len(values) <= PERMUTATIONS + 1:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    else:
        least = 1 / (PERMUTATIONS + 1)
        drawn = np.random.default_rng(seed).choice((1, -1), (PERMUTATIONS, len(values)))
        signs = np.concatenate([np.ones((1, len(values)), int), drawn])
    return _test(values.mean(), (signs * values).mean(1), len(values), least, PAIRED_UNITS)


def exchange_test(
    first: Sequence[float] | pd.Series, second: Sequence[float] | pd.Series, seed: int = 0
) -> Test:
    """Whether two groups differ in their means: units are exchanged (all ways, or 9,999 of them).

    What is compared is Welch's t, so that groups of different spread do no harm (Janssen, 1997).

    Parameters
    ----------
    first, second
        One for each independent unit, which chance could as well have put into the other group:
        pseudo-values of models (`of_models`).

    Raises
    ------
    ValueError
        A group has fewer than 2 units.
    """
    a, b = _finite(first), _finite(second)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"each group needs at least 2 units, got {len(a)} and {len(b)}.")
    pooled = np.concatenate([a, b])
    ways = math.comb(len(pooled), len(a))
    least = (2 if len(a) == len(b) else 1) / ways  # groups of one size may change places
    if ways <= PERMUTATIONS + 1:
        orders = _partitions(len(pooled), len(a))
    else:
        least = 1 / (PERMUTATIONS + 1)
        drawn = np.random.default_rng(seed).random((PERMUTATIONS, len(pooled))).argsort(1)
        orders = np.concatenate([np.arange(len(pooled))[None], drawn])
    shuffled = pooled[orders]
    null = _welch(shuffled[:, : len(a)], shuffled[:, len(a) :])
    found = _test(null[0], null, len(pooled), least, EXCHANGED_UNITS)
    return found._replace(value=float(a.mean() - b.mean()))


def _partitions(count: int, first: int) -> np.ndarray:
    """All ways to part so many units into two groups, one in each row; the first keeps their order."""
    chosen = np.array(list(itertools.combinations(range(count), first)))
    is_second = np.ones((len(chosen), count), dtype=bool)
    np.put_along_axis(is_second, chosen, values=False, axis=1)
    return is_second.argsort(1, kind="stable")


def _welch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row; groups that vary in nothing but their means are as far apart as can be."""
    spread = np.sqrt(a.var(1, ddof=1) / a.shape[1] + b.var(1, ddof=1) / b.shape[1])
    difference = a.mean(1) - b.mean(1)
    scale = np.abs(np.hstack([a, b])).max(1)
    varies = spread > ROUNDING * scale
    largest = np.where(np.abs(difference) > ROUNDING * scale, np.copysign(np.inf, difference), 0.0)
    return np.divide(difference, spread, out=largest, where=varies)


def _test(value: float, null: np.ndarray, units: int, least: float, needed: int) -> Test:
    """The first row of the null is what was found."""
    finite = np.abs(null[np.isfinite(null)])
    tie = ROUNDING * finite.max(initial=0.0)  # what is equal but for rounding counts as much
    extreme = np.abs(null) >= abs(value) - tie
    return Test(float(value), float(extreme.mean()), units, len(null) - 1, least, needed)


def _finite(values: Sequence[float] | pd.Series) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"a test needs finite numbers, one for each unit, got {array}.")
    return array
