"""Populations of which the truth is known, and how often intervals hold it: `python tests/populations.py`."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from repsim.measures import MEASURES, PREDICTION_MEASURES, interval
from repsim.measures.registry import find_any

N = 80
SIZES = {
    "rtd": 20,
    "imd": 40,
    "rsm_norm_difference": 320,
}  # the last, as its square is a mean with heavy tails
POPULATIONS = ("related", "independent", "wide")


def mixing(width, seed):
    return torch.randn(4, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(population, generator, n=N):
    """Inputs from a population of two representations."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    latent = normal(n, 4)
    if population == "independent":
        return normal(n, 10) + 0.3, normal(n, 10)
    width = 30 if population == "wide" else 10
    other = latent.abs() ** 1.3 * latent.sign()
    return latent @ mixing(width, 1) + 0.7 * normal(n, width) + 0.3, other @ mixing(width, 2) + 0.7 * normal(
        n, width
    )


def draw_predictions(generator, n=N):
    truth = torch.randint(3, (n,), generator=generator)
    own = 2 * torch.nn.functional.one_hot(truth, 3).double()
    shared = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    a, b = (own + shared + torch.randn(n, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return a, b, truth


def coverage(name, population):
    """How often, in 200 draws, the 95 % interval holds what the measure is on average for so many inputs."""
    torch.set_num_threads(1)
    measure, generator = find_any(name), torch.Generator().manual_seed(0)
    n = SIZES.get(measure.name, N)

    def sample():
        if population != "predictions":
            return draw(population, generator, n)
        a, b, labels = draw_predictions(generator)
        return (a, b, labels) if measure.needs_labels else (a, b)

    truth = np.mean([measure(*sample()) for _ in range(600)])
    intervals = (interval(measure, *sample(), resamples=20, seed=i, progress=False) for i in range(200))
    return name, population, float(np.mean([found.low <= truth <= found.high for found in intervals]))


def print_coverages():
    """Of every measure on every population: run in a process of its own, as checked annotations take time."""
    cheaper = {"imd": "imd(probes=10)", "rtd": "rtd(points=1000)", "gulp": "gulp(lam=0.1)"}
    names = [cheaper.get(name, name) for name in MEASURES]
    cases = [(name, population) for population in POPULATIONS for name in names]
    cases += [(name, "predictions") for name in PREDICTION_MEASURES]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        print(json.dumps(list(pool.map(coverage, *zip(*cases, strict=True)))))


if __name__ == "__main__":
    print_coverages()
