"""Populations of which the truth is known, and how often intervals hold it.

`python tests/populations.py > tests/coverages.csv` asks every measure on every population; it takes long.
"""

import argparse
import csv
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from torch.nn.functional import one_hot

from repsim.measures import MEASURES, PREDICTION_MEASURES, interval
from repsim.measures.registry import find_any

N = 80
TRUTHS, DRAWS, RESAMPLES = 400, 120, 40
COLUMNS = ("measure", "population", "n", "truth", "coverage", "width", "warned")
# Slow ones see fewer inputs; the square of the last is a mean with heavy tails, and needs more.
SIZES = {"rtd": 20, "imd": 40, "rsm_norm_difference": 320}
CHEAPER = {"imd": "imd(probes=10)", "rtd": "rtd(points=1000)", "gulp": "gulp(lam=0.1)"}
HEAVY = ("t3", "t3_independent", "exponentials")
POPULATIONS = ("related", "independent", "wide", "relu", "sparse", "one_hot", *HEAVY)
IN_MANY = ("cka", "cka_debiased", "procrustes", "linear_regression", "jaccard")  # asked at 400 inputs, too
# classes, how far the right class is ahead, how many times as large logits are, and the share of class 1
PREDICTIONS = {
    "predictions": (3, 2.0, 1.0, None),
    "accurate": (10, 6.9, 1.0, None),
    "accurate_sharp": (10, 6.9, 3.0, None),
    "accurate_two": (2, 5.0, 1.0, None),
    "imbalanced": (2, 4.0, 1.0, 0.04),
    "agreeing": (10, 60.0, 1.0, None),
    "unequal": (3, 2.0, 1.0, None),
}


def mixing(width, seed):
    return torch.randn(4, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(population, generator, n=N):
    """Inputs from a population of two representations.

    `related` share four directions, `wide` ones in more units. `relu` are rectified, with a fifth of the rows
    of each dead; `sparse` have a tenth of their units active; `one_hot` are classes, of which a fifth are
    drawn anew on either side. Rows of `t3` (related) and `t3_independent` are scaled by Student's t of 3
    degrees of freedom, the same on both sides; `exponentials` are those of related Gaussian units of
    variance 1.
    """

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def chance(share, *shape):
        return torch.rand(*shape, generator=generator) < share

    def units(latent, width, seed):
        return latent @ mixing(width, seed) + 0.7 * normal(n, width)

    latent = normal(n, 4)
    if population == "independent":
        return normal(n, 10) + 0.3, normal(n, 10)
    if population == "one_hot":
        classes = torch.randint(8, (n,), generator=generator)
        drawn = (torch.randint(8, (n,), generator=generator) for _ in range(2))
        return tuple(one_hot(torch.where(chance(0.8, n), classes, other), 8).double() for other in drawn)
    if population in HEAVY:
        scale = normal(n, 1) / normal(n, 3).square().mean(1, keepdim=True).sqrt()
        if population == "t3_independent":
            return normal(n, 10) * scale, normal(n, 10) * scale
        if population == "exponentials":
            return tuple(
                (units(latent, 10, seed) / (mixing(10, seed).square().sum(0) + 0.49).sqrt()).exp()
                for seed in (1, 2)
            )
    if population == "sparse":
        x, y = (units(latent, 40, seed) / (mixing(40, seed).square().sum(0) + 0.49).sqrt() for seed in (1, 2))
        return (x - 1.28).relu(), (y - 1.28).relu()
    width = 30 if population == "wide" else 10
    other = latent.abs() ** 1.3 * latent.sign()
    x, y = units(latent, width, 1) + 0.3, units(other, width, 2)
    if population == "t3":
        return x * scale, y * scale
    if population == "relu":
        return x.relu() * ~chance(0.2, n, 1), y.relu() * ~chance(0.2, n, 1)
    return x, y


def draw_predictions(generator, n=N, population="predictions"):
    """Logits of two models, and the right classes.

    Both see the same of each input, and each its own noise, which of `unequal` is twice as large for one.
    """
    classes, margin, scale, rare = PREDICTIONS[population]
    truth = (
        torch.randint(classes, (n,), generator=generator)
        if rare is None
        else (torch.rand(n, generator=generator) < rare).long()
    )
    shared = margin * one_hot(truth, classes).double() + torch.randn(
        n, classes, generator=generator, dtype=torch.float64
    )
    noise = (1, 2) if population == "unequal" else (1, 1)
    a, b = (
        scale * (shared + own * torch.randn(n, classes, generator=generator, dtype=torch.float64))
        for own in noise
    )
    return a, b, truth


def coverage(name, population, n):
    """How often the 95 % interval holds what the measure is on average for so many inputs, and at what cost.

    Returns
    -------
    tuple
        As in `COLUMNS`. Widths are shares of that of an oracle, which knows how values of n inputs vary: the
        wider of their central 95 %, and of value ± the reach that holds the truth in 95 %.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    measure, generator = find_any(name), torch.Generator().manual_seed(0)

    def sample():
        if population not in PREDICTIONS:
            return draw(population, generator, n)
        a, b, labels = draw_predictions(generator, n, population)
        return (a, b, labels) if measure.needs_labels else (a, b)

    values = np.array([measure(*sample()) for _ in range(TRUTHS)])
    truth = values.mean()
    spread = np.subtract(*np.quantile(values, (0.975, 0.025)))
    oracle = max(spread, 2 * np.quantile(abs(values - truth), 0.95))
    held, widths, warned = [], [], []
    for seed in range(DRAWS):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = interval(measure, *sample(), resamples=RESAMPLES, seed=seed, progress=False)
        held.append(found.low - 1e-12 <= truth <= found.high + 1e-12)
        widths.append(found.high - found.low)
        warned.append(any("rests on a few" in str(warning.message) for warning in said))
    width = np.mean(widths) / oracle if oracle > 1e-12 else np.nan
    return measure.name, population, n, truth, np.mean(held), width, np.mean(warned)


def all_cases():
    """Every measure on every population, with how many inputs."""
    cases = []
    for population in PREDICTIONS:
        sizes = (150, 400) if population.startswith("accurate") else (150,)
        cases += [(name, population, n) for n in sizes for name in PREDICTION_MEASURES]
    for population in HEAVY:
        cases += [(CHEAPER.get(name, name), population, SIZES.get(name, 150)) for name in MEASURES]
        cases += [(name, population, 400) for name in IN_MANY]
    for population in POPULATIONS:
        if population not in HEAVY:
            cases += [(CHEAPER.get(name, name), population, SIZES.get(name, N)) for name in MEASURES]
    return cases


def main():
    """In a process of its own, as the checks of annotations that tests are under take time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", nargs="*", help="MEASURE@POPULATION@N, rather than all")
    asked = parser.parse_args()
    cases = all_cases()
    if asked.only:
        cases = [
            (name, population, int(n)) for name, population, n in (only.split("@") for only in asked.only)
        ]
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        for name, population, n, *figures in pool.map(coverage, *zip(*cases, strict=True)):
            table.writerow((name, population, n, *(f"{figure:.3g}" for figure in figures)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
