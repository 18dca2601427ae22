"""Tests against chance: is a value more than any pairing of the inputs would give?"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from repsim.measures.measure import Measure, count_option
from repsim.measures.pairing import checked_predictions, checked_representations
from repsim.measures.predictions import Labels, PredictionMeasure
from repsim.measures.registry import find_any
from repsim.support.arrays import Values
from repsim.support.progress import progress_bar


class PermutationTest(NamedTuple):
    """A value beside its distribution when rows are paired at random."""

    value: float
    p_value: float
    null_mean: float
    null_sd: float
    permutations: int


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

    Rows have to be exchangeable, as independently drawn inputs are: the test asks whether it matters which is
    which. Where neighbouring rows are alike for another reason (frames of a video, steps of a walk, inputs
    sorted by class, several versions of one image), it rejects for any two representations that show this.
    Then take one row of each such group, or permute groups yourself.

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
        first, second, right = checked_predictions(measure, x, y, labels, pool, dtype)

        def evaluate(order: Tensor | None = None) -> float:
            return measure.evaluate(
                first, second if order is None else second[order.to(second.device)], right
            )
    else:
        first, second = checked_representations(measure, x, y, labels, pool, dtype)

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
