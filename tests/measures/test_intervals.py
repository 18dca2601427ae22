"""Intervals cover what they should, for every family."""

import json
import math
import os
import subprocess
import sys

import populations
import pytest
import torch
from filelock import FileLock
from populations import POPULATIONS, N, draw, draw_predictions

from repsim.measures import MEASURES, PREDICTION_MEASURES, interval
from repsim.measures.registry import find_any


@pytest.fixture(scope="module")
def coverages(tmp_path_factory):
    """Computed once, however many processes run these tests: the first one leaves them in a file."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    kept = tmp_path_factory.getbasetemp().parent / f"coverages-{run}.json"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            done = subprocess.run(
                [sys.executable, populations.__file__], check=True, capture_output=True, text=True
            )
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


def test_options_of_prediction_measures_are_written_the_same_way():
    a, b, _ = draw_predictions(torch.Generator().manual_seed(0))
    found = interval("surrogate_churn(alpha=2.0)", a, b, resamples=20, progress=False)
    assert found.value == PREDICTION_MEASURES["surrogate_churn"](a, b, alpha=2.0)


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
    ],
)
def test_bad_input(call, message):
    x, y = draw("related", torch.Generator().manual_seed(0))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call(x, y)
    assert message in str(caught.value)
