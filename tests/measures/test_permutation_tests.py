"""Tests against chance reject when they should, and only then."""

import numpy as np
import pytest
import torch
from populations import N, draw, draw_predictions, mixing

from repsim.measures import MEASURES, PREDICTION_MEASURES, find_measure, permutation_test
from repsim.measures.procrustes import nuclear_norm
from repsim.measures.rdm import COMPARISONS


def test_related_representations_are_told_from_chance():
    x, y = draw("related", torch.Generator().manual_seed(0), 40)
    for name in ("cka", "procrustes", "jaccard", "rsa"):
        found = permutation_test(name, x, y, permutations=39, progress=False)
        assert found.p_value == 1 / 40, name
        better = found.value - found.null_mean
        assert (better > 0) == (MEASURES[name].orientation == "similarity")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y: permutation_test("cka", x, y, torch.zeros(N, dtype=torch.long)),
            "labels are for prediction measures; cka compares representations.",
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


@pytest.mark.parametrize("walk", [False, True])
def test_rows_have_to_be_exchangeable(walk):
    """Two random walks that know nothing of each other are told from chance, as the docstring says."""
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(60, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    x, y = (side.cumsum(0) if walk else side for side in steps)
    assert (permutation_test("cka", x, y, permutations=39, progress=False).p_value <= 0.05) == walk


PERMUTED = ["cka", "cka_debiased", "cka_rbf", "cka_angular", "distance_correlation", "jaccard", "procrustes"]
OF_RDMS = [f"rsa(rdm={rdm!r}, compare={by!r})" for rdm in ("euclidean", "correlation") for by in COMPARISONS]


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(5, 4), (90, 80)])
@pytest.mark.parametrize("name", [*PERMUTED, *OF_RDMS, "distance_correlation_unbiased"])
def test_what_is_reordered_is_what_would_be_computed(name, widths):
    """Though matrices of pairs are read in order rather than made again, of few units and of many."""
    x, y = (
        torch.randn(70, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64) for d in widths
    )
    found = permutation_test(name, x, y, permutations=3, progress=False)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(70, generator=generator) for _ in range(3)]
    by_hand = [find_measure(name)(x, y[order]) for order in orders]
    assert found.null_mean == pytest.approx(np.mean(by_hand), rel=1e-9, abs=1e-12)
    assert found.null_sd == pytest.approx(np.std(by_hand, ddof=1), rel=1e-6)


def test_nuclear_norms_of_small_singular_values():
    """Roots of eigenvalues would be off by 1e-8 where singular values are small: then they are not taken."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64)).Q
    for values in (torch.linspace(1, 2, 30), 10.0 ** -torch.linspace(0, 14, 30), torch.eye(30)[0]):
        values = values.double()
        for matrix in (turn * values, (turn * values)[:, :20].T @ turn):
            assert float(nuclear_norm(matrix)) == pytest.approx(
                float(torch.linalg.svdvals(matrix).sum()), rel=1e-11
            )
