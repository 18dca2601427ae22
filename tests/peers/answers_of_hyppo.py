"""Answers of hyppo."""

from importlib.metadata import version

import hyppo
import hyppo.independence
import numpy as np
from answering import answer


def origin():
    return [version("hyppo"), hyppo.__file__]


def statistic(x, y, *, test, **options):
    """In float64, as `test` has it: compiled, distance correlation and HSIC raise an error in float32."""
    x, y = (side.astype(np.float64) for side in (x, y))
    return float(getattr(hyppo.independence, test)(**options).statistic(x, y))


def outcome(x, y, *, test, how, **options):
    """Statistic and p-value, and mean and standard deviation of the statistic permuted, if it was."""
    test = getattr(hyppo.independence, test)(**options)
    value, p_value = test.test(x, y, **how)[:2]
    null = test.null_dist
    moments = [None, None] if null is None else [float(np.mean(null)), float(np.std(null, ddof=1))]
    return [float(value), float(p_value), *moments]


answer(origin, statistic, outcome)
