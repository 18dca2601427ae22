"""Claims of the papers, each with one effect, its interval over trained models, and a verdict.

A claim's effect and direction are written down before its result is seen. The interval is over
independently trained models: whatever is measured many times on one model (images, layers, pairs) is first
reduced to one number per model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
COLUMNS = ["claim", "paper", "effect", "value", "low", "high", "models", "verdict", "paper_used"]
Unit = TypeVar("Unit")
Values = Sequence[float] | np.ndarray | pd.Series  # one number per model


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the number that decides it: the claim is that `effect` > 0.

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
    """

    text: str
    paper: str
    effect: str
    paper_used: str


@dataclass(frozen=True)
class Verdict:
    """A claim's effect on our models, with its 95 % interval."""

    claim: Claim
    value: float
    low: float
    high: float
    models: str

    @property
    def verdict(self) -> str:
        """`holds` or `does not hold` where the interval excludes 0, else `inconclusive`."""
        if self.low > 0:
            return "holds"
        return "does not hold" if self.high < 0 else "inconclusive"


def difference(claim: Claim, larger: Values, smaller: Values) -> Verdict:
    """The claim that one group of models has larger values than another: Welch's interval of the means.

    Parameters
    ----------
    larger, smaller
        One value per independently trained model.
    """
    a, b = _values(larger), _values(smaller)
    effect = a.mean() - b.mean()
    low = high = math.nan
    if len(a) > 1 and len(b) > 1:
        error_a, error_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        error = error_a + error_b
        low = high = effect
        if error > 0:
            freedom = error**2 / (error_a**2 / (len(a) - 1) + error_b**2 / (len(b) - 1))
            low, high = _interval(effect, math.sqrt(error), freedom)
    return Verdict(claim, float(effect), low, high, f"{len(a)} + {len(b)}")


def mean(claim: Claim, values: Values) -> Verdict:
    """The claim that a quantity is above 0: the t interval of its mean.

    Parameters
    ----------
    values
        One per independently trained model, or per pair of models that shares none with another pair.
    """
    x = _values(values)
    low = high = math.nan
    if len(x) > 1:
        low, high = _interval(x.mean(), x.std(ddof=1) / math.sqrt(len(x)), len(x) - 1)
    return Verdict(claim, float(x.mean()), low, high, str(len(x)))


def slope(claim: Claim, x: Values, y: Values) -> Verdict:
    """The claim that `y` rises with `x`: the least-squares slope, each point one trained model."""
    x, y = _values(x), _values(y)
    if len(x) != len(y):
        raise ValueError(f"a slope needs one y per x, got {len(x)} and {len(y)}.")
    if np.ptp(x) == 0:
        raise ValueError("a slope needs at least two different values of x.")
    low = high = math.nan
    line = stats.linregress(x, y)
    if len(x) > 2:
        low, high = _interval(line.slope, line.stderr, len(x) - 2)
    return Verdict(claim, float(line.slope), low, high, str(len(x)))


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
    return Verdict(claim, float(_values([effect])[0]), low, high, f"{count} {noun}")


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


def _values(values: Values) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"a verdict needs one value per model, got an array of shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"a verdict needs finite values, got {array}.")
    return array


def _interval(effect: float, error: float, freedom: float) -> tuple[float, float]:
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    return float(effect - reach), float(effect + reach)
