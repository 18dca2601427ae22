"""Ties among neighbours say nothing: they are broken at random, independently in the two representations."""

import numpy as np
import pytest
import torch

from repsim.measures import MEASURES, permutation_test
from repsim.measures import neighbor_search as module
from repsim.measures.measure import represent_pair
from repsim.measures.neighbor_search import nearest, neighbors

OF_NEIGHBORS = ["jaccard", "rank", "rank_jaccard", "mutual_knn", "cknna", "second_order_cosine"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.* inputs have the rows of others", "ignore:.* are not decided"
)


def dead_rows(n, width, generator):
    x = torch.randn(n, width, generator=generator).relu()
    x[torch.randperm(n, generator=generator)[: 3 * n // 10]] = 0
    return x


def one_hot(n, width, generator):
    return torch.eye(width)[torch.randint(width, (n,), generator=generator)]


def few_valued(n, width, generator):
    return torch.randint(2, (n, 3), generator=generator) + 0.5


def duplicated(n, width, generator):
    x = torch.randn(n, width, generator=generator)
    return x[torch.randint(n // 3, (n,), generator=generator)]


KINDS = {found.__name__: found for found in (dead_rows, one_hot, few_valued, duplicated)}
kinds = pytest.mark.parametrize("kind", KINDS)


def independent(kind, n, generator):
    return (KINDS[kind](n, width, generator) for width in (5, 4))


def rejections(name, kind, draws, n=24):
    """P-values of independent representations, 19 permutations each."""
    generator = torch.Generator().manual_seed(0)
    return np.array(
        [
            permutation_test(
                name, *independent(kind, n, generator), permutations=19, seed=seed, progress=False
            ).p_value
            for seed in range(draws)
        ]
    )


@pytest.mark.matrix("few_valued")
@kinds
def test_p_values_are_uniform_under_the_null(kind):
    """Broken by row number, 57 % of those of few values came to at most 0.05."""
    found = rejections("mutual_knn(k=5)", kind, 40)
    assert (found <= 0.1).mean() < 0.3
    assert 0.35 < found.mean() < 0.7


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("name", OF_NEIGHBORS)
def test_p_values_of_each_are_uniform_under_the_null(kind, name):
    found = rejections(f"{name}(k=5)", kind, 200)
    assert (found <= 0.05).mean() < 0.11
    assert 0.44 < found.mean() < 0.6


@pytest.mark.matrix("jaccard", "mutual_knn-few_valued")
@kinds
@pytest.mark.parametrize("name", ["jaccard", "rank", "mutual_knn"])
def test_the_order_of_rows_is_no_agreement(kind, name):
    """Values in the order given are no other than in random orders of both together."""
    generator = torch.Generator().manual_seed(1)
    x, y = independent(kind, 200, generator)
    value = MEASURES[name](x, y)
    orders = [torch.randperm(200, generator=generator) for _ in range(10)]
    reordered = [MEASURES[name](x[order], y[order]) for order in orders]
    assert abs(value - np.mean(reordered)) < 5 * np.std(reordered, ddof=1)


def test_dead_rows_are_like_chance():
    generator = torch.Generator().manual_seed(0)
    x, y = (dead_rows(200, width, generator) for width in (20, 15))
    found = permutation_test("jaccard", x, y, permutations=39, progress=False)
    assert found.p_value > 0.05
    assert abs(found.value - found.null_mean) < 3 * found.null_sd


@pytest.mark.matrix("100", "600-one_hot")
@kinds
@pytest.mark.parametrize("n", [100, 600])
def test_what_is_equal_breaks_ties_alike(kind, n):
    """So that anything is as similar to itself as can be, and a value the same at every call."""
    x = KINDS[kind](n, 5, torch.Generator().manual_seed(0))
    y = KINDS[kind](n, 5, torch.Generator().manual_seed(1))
    for name in OF_NEIGHBORS[:-2]:
        assert MEASURES[name](x, x.clone()) == 1
        assert MEASURES[name](x, y) == MEASURES[name](x, y.numpy())
    first, second = represent_pair(x, x + 0.0)
    assert torch.equal(neighbors(first, 7, "cosine", False), neighbors(second, 7, "cosine", False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [300, 600])
def test_each_of_the_tied_is_as_likely(n, dtype):
    """Of three classes in one-hot rows, neighbours are drawn from the own class alone, evenly."""
    classes = torch.arange(3).repeat(n // 3)
    x, _ = represent_pair(torch.eye(3)[classes], torch.eye(3)[classes], dtype=dtype)
    found = nearest(x, 10, "cosine", False)
    assert found.tied.all()
    assert (classes[found.inputs] == classes[:, None]).all()
    assert all(len(set(row.tolist()) - {i}) == 10 for i, row in enumerate(found.inputs))
    chosen = found.inputs.flatten().bincount(minlength=n)
    assert abs(chosen.double().var() / 10 - 1) < 0.35  # about binomial, of mean 10
    halves = [chosen[: n // 2].sum(), chosen[n // 2 :].sum()]
    assert abs(halves[0] - halves[1]) < 4 * (10 * n) ** 0.5


@pytest.mark.parametrize("block", [512, 16])
def test_what_is_nearer_than_the_tied_stays(block, monkeypatch):
    """Two nearest, four tied for the two places that are left, and the rest, for each of two inputs."""
    monkeypatch.setattr(module, "BLOCK", block)
    angles = np.array([0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 1, 1.1, 1.2, 1.4, 1.5, 1.7, 1.8, 2, 2.3, 2.6, 2.9])
    chosen = set()
    for width in range(2, 40):
        x = np.zeros((len(angles), width))
        x[:, 0], x[:, 1] = width * np.cos(angles), width * np.sin(angles)
        representation, _ = represent_pair(x, x)
        found = nearest(representation, 3, "cosine", False)
        assert set(found.inputs[0, :2].tolist()) == {1, 2}
        assert found.tied[0]
        chosen.add((int(found.inputs[0, 0]), int(found.inputs[0, 2])))
    assert chosen == {(1, 3), (2, 3), (1, 4), (2, 4)}  # the first two are tied for their order, too


def test_where_many_are_tied_it_is_said():
    generator = torch.Generator().manual_seed(0)
    x, y = dead_rows(100, 8, generator), torch.randn(100, 8, generator=generator)
    with pytest.warns(UserWarning, match=r"for 30% of the inputs the 10 nearest of x are not decided"):
        MEASURES["jaccard"](x, y)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", OF_NEIGHBORS)
def test_where_none_are_tied_nothing_is_said(name):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(60, 8, generator=generator) for _ in range(2))
    MEASURES[name](x, y)
