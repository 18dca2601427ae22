"""Claims of the papers, each with one effect, its interval over trained models, and a verdict.

A claim's effect and direction are written down before its result is seen. The interval is over
independently trained models: whatever is measured many times on one model (images, layers, pairs) is first
reduced to one number per model. Models of one group are to be trained alike: what fine-tunes of one network,
or checkpoints of one training, have in common is no evidence, and makes intervals too short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import pandas as pd
import scipy

LEVEL = 0.95
COLUMNS = ["claim", "paper", "effect", "value", "low", "high", "models", "verdict", "paper_used"]
Unit = TypeVar("Unit")
Values: TypeAlias = Sequence[float] | np.ndarray | pd.Series  # one number per model


@dataclass(frozen=True)
class Claim:
    """A paper's claim, and the number that decides it: the claim is that `effect` > 0, or that it is not 0.

    Attributes
    ----------
    text
        The claim in a few words.
    paper
        Who says so.
    effect
        How the number is computed, with its unit.
    paper_used
        On which models and data the paper says so.
    either_way
        The claim is that there is a difference, whichever.
    """

    text: str
    paper: str
    effect: str
    paper_used: str
    either_way: bool = False


@dataclass(frozen=True)
class Verdict:
    """A claim's effect on our models, with its 95 % interval.

    Attributes
    ----------
    claim, value
        The claim, and its effect.
    low, high
        The ends of the interval: NaN where there are too few models for one.
    models
        How many there are, of each kind.
    needed
        How many models an interval needs; said where there is none.
    """

    claim: Claim
    value: float
    low: float
    high: float
    models: str
    needed: str

    @property
    def verdict(self) -> str:
        """`holds` or `does not hold` where the interval excludes 0, else `inconclusive`.

        With too few models for an interval it is how many are needed.

        A claim that there is a difference either way cannot be refuted by an interval around 0.
        """
        if self.low > 0:
            return "holds"
        if self.high < 0:
            return "holds" if self.claim.either_way else "does not hold"
        return self.needed if math.isnan(self.low) else "inconclusive"


def contrast(claim: Claim, groups: Sequence[Values], weights: Sequence[float]) -> Verdict:
    """The claim that a weighted sum of the means of groups is above 0: Welch's interval of it.

    Parameters
    ----------
    groups
        One value per independently trained model in each.
    weights
        One per group.
    """
    if not len(groups):
        raise ValueError("a verdict needs at least one group of models.")
    if len(groups) != len(weights):
        raise ValueError(f"each group needs one weight, got {len(groups)} groups and {len(weights)} weights.")
    values = [_values(group) for group in groups]
    effect = sum(weight * group.mean() for weight, group in zip(weights, values, strict=True))
    low = high = math.nan
    if all(len(group) > 1 for group in values):
        errors = [w**2 * group.var(ddof=1) / len(group) for w, group in zip(weights, values, strict=True)]
        low = high = effect
        if (error := sum(errors)) > 0:
            parts = zip(errors, values, strict=True)
            freedom = error**2 / sum(part**2 / (len(group) - 1) for part, group in parts)
            low, high = _interval(effect, math.sqrt(error), freedom)
    models = " + ".join(str(len(group)) for group in groups)
    needed = _needed(2, "networks of each kind" if len(groups) > 1 else "networks")
    return Verdict(claim, float(effect), float(low), float(high), models, needed)


def difference(claim: Claim, larger: Values, smaller: Values) -> Verdict:
    """The claim that one group of models has larger values than another: Welch's interval of the means.

    Parameters
    ----------
    larger, smaller
        One value per independently trained model.
    """
    return contrast(claim, [larger, smaller], [1, -1])


def slope_of_means(claim: Claim, x: Sequence[float], groups: Sequence[Values]) -> Verdict:
    """The claim that the means of groups rise with `x`: their least-squares slope, by `contrast`.

    Parameters
    ----------
    x
        One per group.
    groups
        One value per independently trained model in each.
    """
    if len(set(x)) < 2:
        raise ValueError("a slope needs at least two different values of x.")
    offsets = np.asarray(x, dtype=float) - np.mean(x)
    return contrast(claim, groups, list(offsets / (offsets**2).sum()))


def both(claim: Claim, first: Verdict, second: Verdict) -> Verdict:
    """The claim that two effects are above 0: the lesser of them, and of the ends of their intervals.

    It holds where both do, and does not where one does not; each at the level of its own interval
    (intersection–union, Berger 1982).
    """
    value, low, high = (min(getattr(first, end), getattr(second, end)) for end in ("value", "low", "high"))
    unknown = [verdict for verdict in (first, second) if math.isnan(verdict.low)]
    if unknown:
        low = high = math.nan
    needed = "; ".join(dict.fromkeys(verdict.needed for verdict in unknown))
    models = first.models if first.models == second.models else f"{first.models}; {second.models}"
    return Verdict(claim, value, low, high, models, needed)


def mean(claim: Claim, values: Values, noun: str = "networks") -> Verdict:
    """The claim that a quantity is above 0: the t interval of its mean.

    Parameters
    ----------
    values
        One per independently trained model, or per pair of models that shares none with another pair.
    noun
        What the values are of.
    """
    x = _values(values)
    low = high = math.nan
    if len(x) > 1:
        low, high = _interval(x.mean(), x.std(ddof=1) / math.sqrt(len(x)), len(x) - 1)
    return Verdict(claim, float(x.mean()), low, high, str(len(x)), _needed(2, noun))


def slope(claim: Claim, x: Values, y: Values) -> Verdict:
    """The claim that `y` rises with `x`: the least-squares slope, each point one trained model."""
    x, y = _values(x), _values(y)
    if len(x) != len(y):
        raise ValueError(f"a slope needs one y per x, got {len(x)} and {len(y)}.")
    if np.ptp(x) == 0:
        raise ValueError("a slope needs at least two different values of x.")
    low = high = math.nan
    offsets, rises = x - x.mean(), y - y.mean()
    value = offsets @ rises / (offsets @ offsets)
    if len(x) > 2:
        rest = rises - value * offsets
        error = math.sqrt(rest @ rest / (len(x) - 2) / (offsets @ offsets))
        low, high = _interval(value, error, len(x) - 2)
    return Verdict(claim, float(value), low, high, str(len(x)), _needed(3, "networks"))


def jackknife(
    claim: Claim, statistic: Callable[[list[Unit]], float], units: Sequence[Unit], noun: str
) -> Verdict:
    """The claim that a statistic of pairs of models is above 0: the jackknife over independent units.

    Pairs that share a model are dependent, so that whole models are left out, one unit at a time; nothing is
    counted as often as there are pairs.

    Parameters
    ----------
    statistic
        From the units that are kept to the effect among them.
    units
        What is independent: architectures, or models.
    noun
        What the units are called.
    """
    units = list(units)
    effect = statistic(units)
    low = high = math.nan
    count = len(units)
    if count > 2:  # pairs among what is left
        without = _values([statistic(units[:i] + units[i + 1 :]) for i in range(count)])
        error = math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
        low, high = _interval(effect, error, count - 1)
    value = float(_values([effect])[0])
    return Verdict(claim, value, low, high, f"{count} {noun}", _needed(3, noun))


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One row per claim: what it is, its effect with the interval, models, verdict, what the paper used."""
    rows = [
        {
            "claim": verdict.claim.text,
            "paper": verdict.claim.paper,
            "effect": verdict.claim.effect,
            "value": verdict.value,
            "low": verdict.low,
            "high": verdict.high,
            "models": verdict.models,
            "verdict": verdict.verdict,
            "paper_used": verdict.claim.paper_used,
        }
        for verdict in verdicts
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _needed(count: int, noun: str) -> str:
    return f"at least {count} {noun} are needed"


def _values(values: Values) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"a verdict needs one value per model, got an array of shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"a verdict needs finite values, got {array}.")
    return array


def _interval(effect: float, error: float, freedom: float) -> tuple[float, float]:
    reach = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    return float(effect - reach), float(effect + reach)
