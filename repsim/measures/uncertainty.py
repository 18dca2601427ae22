"""How sure a value is: intervals over the choice of inputs, and tests against chance.

A bootstrap that draws rows with replacement is wrong for these measures: the copies of a row are each other's
neighbours, at distance 0, and look like agreement of the two representations.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from repsim.arrays import Values
from repsim.measures.measure import Measure, count_option, number_option, represent_pair
from repsim.measures.predictions import Labels, PredictionMeasure, prediction_pair
from repsim.measures.registry import find_any
from repsim.measures.representation import SMALLEST, Memory, Representation
from repsim.progress import progress_bar

SHARE = 0.9  # of the inputs in a subsample


class Interval(NamedTuple):
    """A value and its confidence interval.

    `method` is `subsampling`, `jackknife` or `bootstrap`; see `interval`.
    """

    value: float
    low: float
    high: float
    level: float
    method: str


class PermutationTest(NamedTuple):
    """A value beside its distribution when rows are paired at random."""

    value: float
    p_value: float
    null_mean: float
    null_sd: float
    permutations: int


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
    measure is debiased.

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
        How many subsamples or bootstrap samples are drawn; the jackknife has no use for them.
    seed
        Of what is drawn.
    pool, dtype
        Of representation measures; see `Measure.__call__`.
    progress
        Show a progress bar.

    Notes
    -----
    - *Subsampling* without replacement (most measures): the spread of values on subsamples of m of the n
      inputs, times √(m / (n − m)), and (n / m)^growth for norms over all inputs; the delete-d jackknife of
      Shao & Wu (1989). On average its variance is not too small for any statistic, smooth or not (Efron &
      Stein, 1981): the interval errs on the wide side, most of all for measures of neighbours. With few
      inputs from a population of heavy tails it may still be too narrow.
    - *Jackknife* (debiased measures): leaving out one input at a time, by a formula.
    - *Bootstrap* of rows (prediction measures): their inputs count one by one, so that copies do no harm.
      Where all inputs agree, or none, it has no width; by the rule of three the truth is then within 3 / n.
    - Measures that draw at random (`rtd` of fewer points than inputs, `imd` of fewer probes) come out too
      wide, as their own noise is taken for that of the inputs: give them all points, or more probes.

    Returns
    -------
    Interval
        The value for these inputs, the ends of the interval (within the range of the measure), the level, and
        the method.

    Raises
    ------
    ValueError
        As the measure itself; fewer than 5 inputs, or a subsample too small for the measure.
    """
    measure = find_any(measure)
    number_option("level", level, lambda value: 0 < value < 1, "a share between 0 and 1")
    count_option("resamples", resamples, 20)
    count_option("seed", seed, 0)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(measure, PredictionMeasure):
        pair = _predictions(measure, x, y, labels, pool, dtype)
        return _bootstrap(measure, *pair, level, resamples, generator, progress)
    first, second = _representations(measure, x, y, labels, pool, dtype)
    if first.n <= SMALLEST:
        raise ValueError(f"an interval needs at least {SMALLEST + 1} inputs, got {first.n}.")
    value = measure.evaluate(first, second)
    if measure.leave_one_out is not None:
        without = measure.leave_one_out(first, second)
        n = first.n
        error = math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))
        if not math.isfinite(error):
            raise ValueError(f"{measure.label} has no interval here: without one of the inputs it is 0 / 0.")
        return _around(measure, value, error, n - 1, level, "jackknife")

    drawn = min(round(SHARE * first.n), first.n - 1)
    values = [
        _on_subsample(measure, first, second, torch.randperm(first.n, generator=generator)[:drawn])
        for _ in progress_bar(range(resamples), f"subsamples for {measure.name}", "subsample", progress)
    ]
    to_all = (first.n / drawn) ** measure.growth * math.sqrt(drawn / (first.n - drawn))
    error = float(torch.tensor(values, dtype=torch.float64).std()) * to_all
    return _around(measure, value, error, resamples - 1, level, "subsampling")


def _representations(
    measure: Measure, x: Values, y: Values, labels: Labels | None, pool: bool, dtype: torch.dtype
) -> tuple[Representation, Representation]:
    if labels is not None:
        raise ValueError(f"labels are for prediction measures; {measure.name} compares representations.")
    pair = represent_pair(x, y, pool=pool, dtype=dtype)
    for caveat in measure.caveats(*pair):
        warnings.warn(caveat, stacklevel=3)
    return pair


def _predictions(
    measure: PredictionMeasure, a: Values, b: Values, labels: Labels | None, pool: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    if pool or dtype != torch.float64:
        raise ValueError(f"pool and dtype are for representations; {measure.name} compares predictions.")
    return prediction_pair(a, b, labels, measure.name if measure.needs_labels else "", ("x", "y"))


def _around(
    measure: Measure | PredictionMeasure, value: float, error: float, freedom: int, level: float, method: str
) -> Interval:
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    low, high = map(float, measure.range)
    return Interval(value, max(value - reach, low), min(value + reach, high), level, method)


def _on_subsample(measure: Measure, x: Representation, y: Representation, rows: Tensor) -> float:
    rows = rows.to(x.values.device)
    memory = Memory()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once already, of all inputs
            return measure.evaluate(
                *(Representation(side.values[rows], memory, side.name) for side in (x, y))
            )
    except ValueError as error:
        raise ValueError(f"on a subsample of {len(rows)} of the {x.n} inputs: {error}") from error


def _bootstrap(
    measure: PredictionMeasure,
    a: Tensor,
    b: Tensor,
    labels: Tensor | None,
    level: float,
    resamples: int,
    generator: torch.Generator,
    progress: bool,
) -> Interval:
    value = measure.evaluate(a, b, labels)
    values = []
    for _ in progress_bar(range(resamples), f"samples for {measure.name}", "sample", progress):
        rows = torch.randint(len(a), (len(a),), generator=generator).to(a.device)
        values.append(measure.evaluate(a[rows], b[rows], None if labels is None else labels[rows]))
    error = float(torch.tensor(values, dtype=torch.float64).std())
    return _around(measure, value, error, resamples - 1, level, "bootstrap")


def permutation_test(
    measure: str | Measure | PredictionMeasure,
    x: Values,
    y: Values,
    labels: Labels | None = None,
    *,
    permutations: int = 199,
    seed: int = 0,
    pool: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: bool = True,
) -> PermutationTest:
    """Whether two representations are more alike than chance makes them: the rows of the second are permuted.

    Parameters
    ----------
    measure
        As for `interval`.
    permutations
        How often; the least p-value is 1 / (permutations + 1).

    Returns
    -------
    PermutationTest
        The value; the share of permutations, the actual order among them, that are at least as much alike;
        mean and standard deviation of the permuted values (the null).

    Raises
    ------
    ValueError
        As the measure itself.
    """
    measure = find_any(measure)
    count_option("permutations", permutations, 1)
    count_option("seed", seed, 0)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(measure, PredictionMeasure):
        first, second, right = _predictions(measure, x, y, labels, pool, dtype)

        def evaluate(order: Tensor | None = None) -> float:
            return measure.evaluate(
                first, second if order is None else second[order.to(second.device)], right
            )
    else:
        first, second = _representations(measure, x, y, labels, pool, dtype)

        def evaluate(order: Tensor | None = None) -> float:
            other = second if order is None else second.permuted(order.to(second.values.device))
            return measure.evaluate(first, other)

    value = evaluate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said once already, of the rows as they are
        null = torch.tensor(
            [
                evaluate(torch.randperm(len(x), generator=generator))
                for _ in progress_bar(
                    range(permutations), f"permutations for {measure.name}", "permutation", progress
                )
            ],
            dtype=torch.float64,
        )
    tie = abs(value) * torch.finfo(dtype).eps ** 0.75  # what is equal but for rounding counts as much
    extreme = null >= value - tie if measure.orientation == "similarity" else null <= value + tie
    p_value = (1 + int(extreme.sum())) / (1 + permutations)
    spread = float(null.std()) if permutations > 1 else math.nan
    return PermutationTest(value, p_value, float(null.mean()), spread, permutations)
