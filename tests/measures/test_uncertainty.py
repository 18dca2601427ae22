"""Intervals cover what they should, for every family; tests against chance reject when they should."""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from filelock import FileLock

from repsim.measures import MEASURES, PREDICTION_MEASURES, interval, permutation_test
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


@pytest.fixture(scope="module")
def coverages(tmp_path_factory):
    """Computed once, however many processes run these tests: the first one leaves them in a file."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    kept = tmp_path_factory.getbasetemp().parent / f"coverages-{run}.json"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            done = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
            kept.write_text(done.stdout)
    found = json.loads(kept.read_text())
    return {(find_any(name).name, population): value for name, population, value in found}


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("name", MEASURES)
def test_representation_intervals_cover(coverages, name, population):
    assert coverages[name, population] >= 0.9


@pytest.mark.parametrize("name", PREDICTION_MEASURES)
def test_prediction_intervals_cover(coverages, name):
    assert coverages[name, "predictions"] >= 0.9


@pytest.mark.filterwarnings("ignore:.* inputs have the rows of others")  # as a bootstrap draws them
@pytest.mark.parametrize("name", ["cka_debiased", "jaccard"])
def test_a_naive_bootstrap_of_rows_would_miss_altogether(name):
    x, y = draw("independent", torch.Generator().manual_seed(3), 300)
    measure = MEASURES[name]
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(300, (300,), generator=generator) for _ in range(40)]
    naive = [measure(x[chosen], y[chosen]) for chosen in rows]
    found = interval(measure, x, y, resamples=40, progress=False)
    assert min(naive) > found.high


def test_intervals_narrow_with_inputs_and_widen_with_level():
    x, y = draw("related", torch.Generator().manual_seed(0), 320)
    few, many = (interval("cka", x[:n], y[:n], resamples=60, progress=False) for n in (80, 320))
    ratio = (few.high - few.low) / (many.high - many.low)
    assert 1.4 < ratio < 2.9  # a half, in the long run
    wide = interval("cka", x[:80], y[:80], level=0.99, resamples=60, progress=False)
    assert wide.low < few.low < few.value < few.high < wide.high
    assert wide.level == 0.99


def test_an_interval_is_made_of_its_seed_and_resamples():
    x, y = draw("related", torch.Generator().manual_seed(0))
    first = interval("jaccard", x, y, resamples=20, seed=1, progress=False)
    assert first == interval("jaccard", x, y, resamples=20, seed=1, progress=False)
    assert first != interval("jaccard", x, y, resamples=20, seed=2, progress=False)
    assert first != interval("jaccard", x, y, resamples=30, seed=1, progress=False)
    assert first.value == MEASURES["jaccard"](x, y)


@pytest.mark.parametrize(
    ("name", "method"),
    [("cka", "subsampling"), ("cka_debiased", "jackknife"), ("distance_correlation_unbiased", "jackknife")],
)
def test_each_family_has_its_method(name, method):
    x, y = draw("related", torch.Generator().manual_seed(0))
    assert interval(name, x, y, resamples=20, progress=False).method == method


def test_the_jackknife_is_the_textbooks():
    x, y = draw("related", torch.Generator().manual_seed(0), 20)
    found = interval("cka_debiased", x, y, progress=False)
    keep = [[i for i in range(20) if i != left_out] for left_out in range(20)]
    without = torch.tensor([MEASURES["cka_debiased"](x[rows], y[rows]) for rows in keep], dtype=torch.float64)
    error = math.sqrt(19 / 20 * float((without - without.mean()).square().sum()))
    assert found.high - found.value == pytest.approx(2.093024 * error, rel=1e-5)  # t of 19 degrees of freedom


@pytest.mark.parametrize("name", ["cka", "cka_debiased", "procrustes"])
def test_the_least_inputs_that_an_interval_takes(name):
    x, y = draw("related", torch.Generator().manual_seed(0), 5)
    found = interval(name, x, y, resamples=20, progress=False)
    assert found.low < found.value < found.high


def test_an_interval_stays_within_the_range():
    x, _ = draw("related", torch.Generator().manual_seed(0), 12)
    found = interval("procrustes", x, x, resamples=20, progress=False)
    assert found.low == 0
    assert found.high < 1e-12


def test_options_of_a_measure_reach_its_interval():
    x, y = draw("related", torch.Generator().manual_seed(0))
    assert interval("jaccard(k=3)", x, y, resamples=20, progress=False).value == MEASURES["jaccard"](
        x, y, k=3
    )
    pooled = interval("cka", x.view(-1, 5, 2), y.view(-1, 5, 2), pool=True, resamples=20, progress=False)
    assert pooled.value == MEASURES["cka"](x.view(-1, 5, 2).mean(1), y.view(-1, 5, 2).mean(1))
    single = interval("cka", x, y, dtype=torch.float32, resamples=20, progress=False)
    assert single.value == MEASURES["cka"](x, y, dtype=torch.float32)


def test_related_representations_are_told_from_chance():
    x, y = draw("related", torch.Generator().manual_seed(0), 40)
    for name in ("cka", "procrustes", "jaccard", "rsa"):
        found = permutation_test(name, x, y, permutations=39, progress=False)
        assert found.p_value == 1 / 40, name
        better = found.value - found.null_mean
        assert (better > 0) == (MEASURES[name].orientation == "similarity")


@pytest.mark.parametrize("name", ["cka", "procrustes", "jaccard"])
def test_under_the_null_p_values_are_uniform(name):
    generator = torch.Generator().manual_seed(0)
    values = [
        permutation_test(
            name, *draw("independent", generator, 20), permutations=19, seed=i, progress=False
        ).p_value
        for i in range(100)
    ]
    assert 0.4 < np.mean(values) < 0.65
    assert np.mean(np.array(values) <= 0.1) < 0.2


def test_what_leaves_the_value_as_it_is_counts_as_a_tie():
    """Against labels, permutations within a class change nothing but roundings."""
    labels = torch.eye(3, dtype=torch.float64).repeat_interleave(3, 0)
    noise = 0.1 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = labels @ mixing(4, 1)[:3] + noise
    found = permutation_test("procrustes", x, labels, permutations=999, progress=False)
    assert (
        found.p_value > 0.5 / 280
    )  # there are 9! / 3!³ = 1,680 ways, and 3! of them are the same by symmetry
    generator = torch.Generator().manual_seed(0)
    same = sum(
        bool((labels[order] @ labels[order].T == labels @ labels.T).all())
        for order in (torch.randperm(9, generator=generator) for _ in range(999))
    )
    assert found.p_value * 1000 == 1 + same


def test_options_of_prediction_measures_are_written_the_same_way():
    a, b, _ = draw_predictions(torch.Generator().manual_seed(0))
    found = interval("surrogate_churn(alpha=2.0)", a, b, resamples=20, progress=False)
    assert found.value == PREDICTION_MEASURES["surrogate_churn"](a, b, alpha=2.0)


def test_the_null_permutes_rows():
    """Not batches of them, as the published code does (erratum 16)."""
    x, y = draw("related", torch.Generator().manual_seed(0), 40)
    found = permutation_test("cka_debiased", x, y, permutations=99, progress=False)
    assert abs(found.null_mean) < 0.03
    generator = torch.Generator().manual_seed(0)
    by_hand = [MEASURES["cka_debiased"](x, y[torch.randperm(40, generator=generator)]) for _ in range(99)]
    assert found.null_mean == pytest.approx(np.mean(by_hand))
    assert found.null_sd == pytest.approx(np.std(by_hand, ddof=1))
    assert found.permutations == 99


def test_predictions_are_tested_against_chance_with_their_labels():
    a, b, labels = draw_predictions(torch.Generator().manual_seed(0), 400)
    assert permutation_test("agreement", a, b, permutations=39, progress=False).p_value == 1 / 40
    found = permutation_test("accuracy_difference", a, b, labels, permutations=39, progress=False)
    generator = torch.Generator().manual_seed(0)
    measure = PREDICTION_MEASURES["accuracy_difference"]
    by_hand = [measure(a, b[torch.randperm(400, generator=generator)], labels) for _ in range(39)]
    assert found.null_mean == pytest.approx(np.mean(by_hand))
    assert found.value == measure(a, b, labels)


@pytest.mark.filterwarnings("ignore:.* inputs have the rows of others")
@pytest.mark.parametrize(
    "name", ["rsm_norm_difference", "procrustes_size_shape", "permutation_procrustes", "cka"]
)
def test_values_grow_with_inputs_as_declared(name):
    x, y = draw("related", torch.Generator().manual_seed(0))
    measure = MEASURES[name]
    assert measure(x.repeat(4, 1), y.repeat(4, 1)) == pytest.approx(4**measure.growth * measure(x, y))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: interval("cka", x, y, level=95), "level must be a share between 0 and 1, not 95."),
        (
            lambda x, y: interval("cka", x, y, resamples=5),
            "resamples must be a whole number of at least 20, not 5.",
        ),
        (lambda x, y: interval("cka", x, y[:-1]), "x and y must have one row for each of the same inputs"),
        (lambda x, y: interval("cka", x[:4], y[:4]), "an interval needs at least 5 inputs, got 4."),
        (
            lambda x, y: interval("cka", x, y, torch.zeros(N, dtype=torch.long)),
            "labels are for prediction measures; cka compares representations.",
        ),
        (
            lambda x, y: permutation_test("cka", x, y, torch.zeros(N, dtype=torch.long)),
            "labels are for prediction measures; cka compares representations.",
        ),
        (
            lambda x, y: interval("cka_debiased", torch.eye(8)[:, :2].sum(1, keepdim=True), y[:8]),
            "cka_debiased has no interval here: without one of the inputs it is 0 / 0.",
        ),
        (
            lambda x, y: interval("agreement", x, y, pool=True),
            "pool and dtype are for representations; agreement compares predictions.",
        ),
        (lambda x, y: interval("agreement", x * math.nan, y), "x has predictions that are not finite"),
        (lambda x, y: interval("agrement", x, y), "unknown measure 'agrement'; did you mean 'agreement'"),
        (lambda x, y: interval("ckaa", x, y), "unknown measure 'ckaa'; did you mean 'cka'"),
        (
            lambda x, y: interval("jaccard(k=10)", x[:11], y[:11], progress=False),
            "on a subsample of 10 of the 11 inputs: k must be a whole number of at least 1 and at most 9",
        ),
        (
            lambda x, y: interval("normalized_disagreement", x, y),
            "normalized_disagreement needs labels, the right class of every input.",
        ),
        (
            lambda x, y: permutation_test("cka", x, y, permutations=0),
            "permutations must be a whole number of at least 1, not 0.",
        ),
    ],
)
def test_bad_input(call, message):
    x, y = draw("related", torch.Generator().manual_seed(0))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call(x, y)
    assert message in str(caught.value)


if __name__ == "__main__":
    print_coverages()
