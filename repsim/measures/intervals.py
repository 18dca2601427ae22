"""How sure a value is: intervals over the choice of inputs.

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
from repsim.measures.measure import Measure, count_option, number_option
from repsim.measures.pairing import checked_predictions, checked_representations
from repsim.measures.predictions import Labels, PredictionMeasure
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
        pair = checked_predictions(measure, x, y, labels, pool, dtype)
        return _bootstrap(measure, *pair, level, resamples, generator, progress)
    first, second = checked_representations(measure, x, y, labels, pool, dtype)
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
            return measure.evaluate(*(side.subset(rows, memory) for side in (x, y)))
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
