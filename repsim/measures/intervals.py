"""Intervals: how sure a value is over the choice of inputs.

A bootstrap that draws rows with replacement is wrong for measures of representations: the copies of a row are
each other's neighbours, at distance 0, and look like agreement of the two representations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from repsim.measures.measure import Measure, count_option, number_option
from repsim.measures.pairing import checked_predictions, checked_representations
from repsim.measures.predictions import Labels, PredictionMeasure
from repsim.measures.registry import find_any
from repsim.measures.representation import SMALLEST, Memory, Representation
from repsim.support.arrays import Values
from repsim.support.progress import progress_bar

EVEN_SHARE, UNEVEN_SHARE = 0.75, 0.5  # of the inputs in a subsample
EVEN = 25  # degrees of freedom; with fewer, inputs are uneven in what they add to a variance
FEW = 10  # degrees of freedom; with fewer, a few inputs decide
LEAST_FREEDOM = 4  # t of fewer has no fourth moment, which degrees of freedom are found by
SAMPLES = 100  # drawn for the mean of a ratio of counts
COUNTED = ("agreement", "disagreement", "cohen_kappa", "accuracy_difference", "normalized_disagreement")


class Interval(NamedTuple):
    """A value and its confidence interval.

    `method` is `subsampling`, `jackknife`, `Jeffreys`, `Agresti-Min` or `Dirichlet`; see `interval`.
    """

    value: float
    low: float
    high: float
    level: float
    method: str


def interval(
    measure: str | Measure | PredictionMeasure,
    x: Values,
    y: Values,
    labels: Labels | None = None,
    *,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
    pool: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: bool = True,
) -> Interval:
    """A confidence interval for a measure over the choice of inputs.

    It is for what the measure gives on average for this many inputs from the same population. The bias that a
    measure has at this number of inputs is not in it: two intervals compare only at equal n, unless the
    measure is debiased. Inputs must be independent draws: of dependent ones, such as the frames of a video or
    augmented copies of an image, whole groups would have to be left out, which is not offered, and the
    interval is too narrow.

    Parameters
    ----------
    measure
        A representation measure, or a prediction measure (then `x`, `y` are predictions, with `labels`
        where it needs them); by name with options, such as `jaccard(k=20)`.
    labels
        The right classes, for the prediction measures that need them.
    level
        Of confidence.
    resamples
        How many values are computed, at most, to see how they vary; see the notes.
    seed
        Of what is drawn.
    pool, dtype
        Of representation measures; see `Measure.__call__`.
    progress
        Show a progress bar.

    Notes
    -----
    - *Subsampling* without replacement (most measures of representations) takes the lesser of two spreads:
      that of the values with a group of inputs left out, for each of as many groups as half the `resamples`
      (a jackknife), and that on subsamples of ¾ of the inputs, rescaled to all of them (the delete-d
      jackknife of Shao & Wu, 1989). On average neither variance is too small for any statistic, smooth or
      not (Efron & Stein, 1981), and for neighbours and truncated spectra one is far too large. It errs on
      the wide side.
    - *Jackknife* (debiased measures; `jensen_shannon`, `jensen_shannon_similarity` and `surrogate_churn`):
      the spread of the values without each input or group of inputs (Tukey, 1958). Debiased measures have a
      formula. The others are means of numbers that are never negative, mostly next to 0: their interval is
      taken on the scale of the root of the distance from complete agreement, on which spread does not grow
      with the mean (Bartlett, 1936). It has no width where all predictions are the same number by number.
    - Both take Student's t with the degrees of freedom that the jackknife's variance has by the kurtosis of
      what the inputs add to it (Satterthwaite, 1946), though at least 4: where a few inputs make up the
      spread, it is unsure, and the interval is wider. With fewer than 25 (or a quarter of the groups),
      subsamples are of half the inputs (McCarthy, 1969), which show what values are like without the
      largest: the interval then reaches to each side as far as their spread on that side says, or the
      jackknife's if that is larger.
    - *Jeffreys* (`agreement`, `disagreement`, `cohen_kappa`): the equal-tailed interval of a share under a
      Beta(½, ½) prior, from 0 where none was counted and to 1 where all were (Brown, Cai & DasGupta, 2001).
      If all inputs agree, it reaches down to 1 − 2.5 / n. For kappa it is that of agreement, at the chance
      agreement that was found; of unrelated predictions of rare classes it is up to three times too wide.
    - *Agresti–Min* (`accuracy_difference`): the difference of two paired shares after half an input is
      added to each of the four kinds (Agresti & Min, 2005), and of its ends the absolute values: from 0
      where it may have either sign.
    - *Dirichlet* (`normalized_disagreement`, a ratio of counts that may be 0 / 0): shares of the five kinds
      of inputs that it counts are drawn under Jeffreys' prior, as often as `resamples`; the hull of the
      equal-tailed intervals of the ratio of these shares and of its mean over as many inputs.
    - Measures that draw at random (`rtd` of fewer points than inputs, `imd` of fewer probes) come out too
      wide, as their own noise is taken for that of the inputs: give them all points, or more probes.

    Warns
    -----
    UserWarning
        A few of the inputs decide (fewer than 10 degrees of freedom, or a quarter of the groups), as
        in populations of heavy tails: what is rare there may be missing among these inputs, and no method
        could know. `tests/coverages.csv` has how often intervals are too narrow then.

    Returns
    -------
    Interval
        The value for these inputs, the ends of the interval (within the range of the measure), the level, and
        the method.

    Raises
    ------
    ValueError
        As the measure itself; fewer than 5 inputs, or 2 for the jackknife of predictions; or too few for the
        measure in a subsample.
    """
    measure = find_any(measure)
    number_option("level", level, lambda value: 0 < value < 1, "a share between 0 and 1")
    count_option("resamples", resamples, 20)
    count_option("seed", seed, 0)
    if isinstance(measure, PredictionMeasure):
        tables = checked_predictions(measure, x, y, labels, pool, dtype)
        value = measure.evaluate(*tables)
        if measure.name in COUNTED:
            low, high, method = _of_counts(measure, *tables, level, resamples, seed)
        else:
            _check_enough(len(tables[0]), 2)
            spread, method = _spread_of_predictions(measure, *tables, resamples, seed, progress), "jackknife"
            low, high = _around_root(measure, value, *_reach(measure, spread, len(tables[0]), level))
    else:
        pair = checked_representations(measure, x, y, labels, pool, dtype)
        _check_enough(pair[0].n, SMALLEST + 1)
        value = measure.evaluate(*pair)
        spread = _spread_of_representations(measure, *pair, resamples, seed, progress)
        below, above = _reach(measure, spread, pair[0].n, level)
        low, high = value - below, value + above
        method = "subsampling" if measure.leave_one_out is None else "jackknife"
    lowest, highest = map(float, measure.range)
    return Interval(value, max(min(low, value), lowest), min(max(high, value), highest), level, method)


def _check_enough(n: int, least: int) -> None:
    if n < least:
        raise ValueError(f"an interval needs at least {least} inputs, got {n}.")


class _Spread(NamedTuple):
    """The spread of values below and above their mean, as standard deviations, and how sure that is."""

    below: float
    above: float
    freedom: float
    groups: int

    def rests_on_fewer_than(self, freedom: float) -> bool:
        """Whether there are fewer degrees of freedom, and far fewer than for groups that are all alike."""
        return self.freedom < min(freedom, self.groups / 4)


def _reach(
    measure: Measure | PredictionMeasure, spread: _Spread, n: int, level: float
) -> tuple[float, float]:
    """The reach of the interval below and above the value; a warning where a few inputs decide."""
    if spread.rests_on_fewer_than(FEW):
        warnings.warn(
            f"{measure.label} rests on a few of the {n} inputs here ({spread.freedom:.1f} degrees of "
            "freedom): others of their kind may be missing, and its interval may be too narrow.",
            stacklevel=3,
        )
    freedom = max(spread.freedom, min(LEAST_FREEDOM, spread.groups - 1))
    quantile = float(scipy.stats.t.ppf((1 + level) / 2, freedom))
    return quantile * spread.below, quantile * spread.above


def _jackknife(without: Sequence[float], sizes: Sequence[int]) -> _Spread:
    """The jackknife's spread, of the values without each group in turn, of these sizes."""
    groups, remaining = len(sizes), sum(sizes) - np.array(sizes)
    off = np.array(without) - np.average(without, weights=remaining)
    squares = remaining / sum(sizes) * np.square(off)
    error = math.sqrt(squares.sum())
    if not error:
        return _Spread(0.0, 0.0, groups - 1, groups)
    # of a sum of squares s: 2 (Σs)² over its variance, which is that of one s times their number
    uneven = np.square(squares / squares.sum()).sum() - 1 / groups
    return _Spread(error, error, 2 / max(float(uneven), 2 / (groups - 1)), groups)


def _random_groups(n: int, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return torch.randperm(n, generator=generator).tensor_split(min(count, n))


def _but(rows: Int[Tensor, " m"], n: int) -> Int[Tensor, " k"]:
    """All rows but these."""
    kept = torch.ones(n, dtype=torch.bool)
    kept[rows] = False
    return kept.nonzero().squeeze(1)


def _spread_of_representations(
    measure: Measure, x: Representation, y: Representation, resamples: int, seed: int, progress: bool
) -> _Spread:
    n, generator = x.n, torch.Generator().manual_seed(seed)
    if measure.leave_one_out is not None:
        spread = _jackknife(measure.leave_one_out(x, y).tolist(), [1] * n)
        if not math.isfinite(spread.above):
            raise ValueError(f"{measure.label} has no interval here: without one of the inputs it is 0 / 0.")
        if not spread.rests_on_fewer_than(EVEN):
            return spread
    else:
        groups = _random_groups(n, resamples // 2, generator)
        bar = progress_bar(groups, f"groups left out of {measure.name}", "group", progress)
        without = [_on_subsample(measure, x, y, _but(group, n)) for group in bar]
        spread = _jackknife(without, [len(group) for group in groups])

    uneven = spread.rests_on_fewer_than(EVEN)
    drawn = round((UNEVEN_SHARE if uneven else EVEN_SHARE) * n)
    least = measure.least_inputs(x.width, y.width)
    drawn = least if drawn < least < n else drawn
    bar = progress_bar(
        range(resamples - resamples // 2), f"subsamples for {measure.name}", "subsample", progress
    )
    rows = (torch.randperm(n, generator=generator)[:drawn] for _ in bar)
    values = np.array([_on_subsample(measure, x, y, chosen) for chosen in rows])
    off = (values - values.mean()) * math.sqrt(drawn / (n - drawn))
    if not uneven:
        error = min(spread.above, float(off.std(ddof=1)))
        return spread._replace(below=error, above=error)
    below, above = (_root_mean_square(side) for side in (off[off < 0], off[off > 0]))
    return spread._replace(below=max(spread.below, below), above=max(spread.above, above))


def _root_mean_square(values: np.ndarray) -> float:
    return math.sqrt(np.square(values).sum() / max(len(values), 1))


def _on_subsample(measure: Measure, x: Representation, y: Representation, rows: Tensor) -> float:
    """The value, per number of inputs as all of them."""
    chosen = rows.to(x.values.device)
    memory = Memory()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once already, of all inputs
            value = measure.evaluate(*(side.subset(chosen, memory) for side in (x, y)))
    except ValueError as error:
        raise ValueError(f"on a subsample of {len(rows)} of the {x.n} inputs: {error}") from error
    return value * (x.n / len(rows)) ** measure.growth


def _spread_of_predictions(
    measure: PredictionMeasure,
    a: Tensor,
    b: Tensor,
    labels: Tensor | None,
    resamples: int,
    seed: int,
    progress: bool,
) -> _Spread:
    groups = _random_groups(len(a), resamples, torch.Generator().manual_seed(seed))
    values = []
    for group in progress_bar(groups, f"groups left out for {measure.name}", "group", progress):
        rows = _but(group, len(a)).to(a.device)
        values.append(measure.evaluate(a[rows], b[rows], None if labels is None else labels[rows]))
    return _jackknife(values, [len(group) for group in groups])


def _around_root(measure: PredictionMeasure, value: float, below: float, above: float) -> tuple[float, float]:
    """An interval on the scale of the root of the distance from complete agreement."""
    lowest, highest = map(float, measure.range)
    distance = measure.orientation == "distance"
    root = math.sqrt(value - lowest if distance else highest - value)
    if not root:
        return value, value
    less, more = max(root - below / (2 * root), 0) ** 2, (root + above / (2 * root)) ** 2
    return (lowest + less, lowest + more) if distance else (highest - more, highest - less)


# --- functions of counts ----------------------------------------------------------------------------------


def _of_counts(
    measure: PredictionMeasure,
    a: Tensor,
    b: Tensor,
    labels: Tensor | None,
    level: float,
    resamples: int,
    seed: int,
) -> tuple[float, float, str]:
    """Both ends, and the method."""
    n, classes = a.shape
    one, other = a.argmax(1), b.argmax(1)
    if measure.name == "accuracy_difference":
        only_one, only_other = (
            int((x & ~y).sum()) for x, y in permutations((one == labels, other == labels))
        )
        return *_agresti_min(only_one, only_other, n, level), "Agresti-Min"
    if measure.name == "normalized_disagreement":
        kinds = _kinds(one == labels, other == labels, one == other)
        return *_dirichlet(kinds, classes, level, resamples, seed), "Dirichlet"
    low, high = _jeffreys(int((one == other).sum()), n, level)
    if measure.name == "disagreement":
        low, high = 1 - high, 1 - low
    if measure.name == "cohen_kappa":
        low, high = _kappa(low, one, other), _kappa(high, one, other)
    return low, high, "Jeffreys"


def _jeffreys(count: int, n: int, level: float) -> tuple[float, float]:
    """The interval of a share of which `count` were found among n inputs."""
    low, high = scipy.stats.beta.ppf(((1 - level) / 2, (1 + level) / 2), count + 0.5, n - count + 0.5)
    return float(low) if count else 0.0, float(high) if count < n else 1.0


def _kappa(agreement: float, one: Int[Tensor, " n"], other: Int[Tensor, " n"]) -> float:
    """Cohen's kappa with this agreement and the classes that were predicted.

    Where both models predict one and the same class, a single other answer would make it 0.
    """
    own, others = (
        classes.bincount(minlength=int(torch.max(one, other).max()) + 1).double() for classes in (one, other)
    )
    chance = float(own @ others) / len(one) ** 2
    if chance == 1:
        return float(agreement == 1)
    return (agreement - chance) / (1 - chance)


def _agresti_min(only_one: int, only_other: int, n: int, level: float) -> tuple[float, float]:
    """The interval of the absolute difference of two paired shares, of which so many hold for only one."""
    n, only_one, only_other = n + 2, only_one + 0.5, only_other + 0.5
    difference = abs(only_one - only_other) / n
    error = math.sqrt((only_one + only_other) / n - difference**2) / math.sqrt(n)
    reach = float(scipy.stats.norm.ppf((1 + level) / 2)) * error
    return max(difference - reach, 0.0), difference + reach


def _kinds(
    right_one: Bool[Tensor, " n"], right_other: Bool[Tensor, " n"], agree: Bool[Tensor, " n"]
) -> tuple[int, ...]:
    """Counts of inputs that both models get right, only one, or only the other; both wrong, alike or not."""
    both_wrong = ~right_one & ~right_other
    kinds = (right_one & right_other, right_one & ~right_other, ~right_one & right_other)
    return tuple(int(kind.sum()) for kind in (*kinds, both_wrong & agree, both_wrong & ~agree))


def _dirichlet(
    kinds: tuple[int, ...], classes: int, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The interval of `normalized_disagreement`, from the inputs of each of the `_kinds`."""
    generator = np.random.default_rng(seed)
    possible = kinds if classes > 2 else kinds[:-1]  # of two classes, only one is wrong
    shares = np.zeros((resamples, len(kinds)))
    shares[:, : len(possible)] = generator.dirichlet(np.array(possible) + 0.5, resamples)
    counts = generator.multinomial(sum(kinds), shares, size=(SAMPLES, resamples))
    drawn = _normalized_disagreement(shares, classes), _normalized_disagreement(counts, classes).mean(0)
    ends = [np.quantile(values, ((1 - level) / 2, (1 + level) / 2)) for values in drawn]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def _normalized_disagreement(kinds: np.ndarray, classes: int) -> np.ndarray:
    """The measure for counts or shares of the `_kinds`, along the last axis."""
    _, only_one, only_other, alike, differently = np.moveaxis(kinds, -1, 0)
    n = kinds.sum(-1)
    wrong = only_one + only_other + 2 * (alike + differently)
    least = np.abs(only_one - only_other)
    most = np.minimum(wrong, 2 * n - wrong if classes == 2 else n)
    room = most - least
    return np.divide(
        only_one + only_other + differently - least, room, out=np.zeros(room.shape), where=room > 0
    )
