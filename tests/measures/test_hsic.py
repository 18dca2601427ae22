"""Gram matrices and HSIC against the textbook, and in float32 where means are large (erratum 2)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repsim.measures import products
from repsim.measures.hsic import COLUMNS, STRIP, centered_gram, hsic_scale, recenter_

ESTIMATORS = ["biased", "unbiased"]


def recentered(k, estimator):
    return recenter_(k.clone(), estimator)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def hsic(x, y, estimator):
    """As `layer_cka` puts the pieces together."""
    k, l = (recentered(centered_gram(features).double(), estimator) for features in (x, y))  # noqa: E741
    return float((k * l).sum() * hsic_scale(len(x), estimator))


def gram(x):
    return x.flatten(1) @ x.flatten(1).T


def song(k, l):  # noqa: E741
    """Song et al. (2012), equation 5: three terms of uncentred Grams with zero diagonals."""
    n = len(k)
    k, l = k.clone().fill_diagonal_(0), l.clone().fill_diagonal_(0)  # noqa: E741
    one = torch.ones(n, 1, dtype=k.dtype)
    middle = (one.T @ k @ one) * (one.T @ l @ one) / ((n - 1) * (n - 2))
    return float((torch.trace(k @ l) + middle - 2 / (n - 2) * (one.T @ k @ l @ one)) / (n * (n - 3)))


def gretton(k, l):  # noqa: E741
    """Gretton et al. (2005): tr(KHLH)/(n − 1)²."""
    n = len(k)
    h = torch.eye(n, dtype=k.dtype) - 1 / n
    return float(torch.trace(k @ h @ l @ h) / (n - 1) ** 2)


TEXTBOOK = {"unbiased": song, "biased": gretton}


def relative(value, truth):
    return float((value.double() - truth).norm() / truth.norm())


# -- Gram matrices ------------------------------------------------------------------------------------------


def gram_of_centered(x):
    flat = x.double().flatten(1)
    return gram(flat - flat.mean(0))


@settings(max_examples=30)
@given(n=st.integers(1, 3 * STRIP), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_gram_of_any_shape(n, width, seed):
    x = random(n, width, seed=seed)
    torch.testing.assert_close(centered_gram(x), gram_of_centered(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [STRIP - 1, STRIP, STRIP + 1])
@pytest.mark.parametrize("width", [COLUMNS - 1, COLUMNS, COLUMNS + 1, 2 * COLUMNS + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_where_strips_and_pieces_of_columns_meet(n, width, dtype):
    x = random(n, width, dtype=dtype)
    result = centered_gram(x)
    assert result.dtype == dtype
    assert relative(result, gram_of_centered(x)) < 100 * torch.finfo(dtype).eps
    assert torch.equal(result, result.T)


def test_gram_without_onednn_is_the_same(monkeypatch):
    x = 3 + random(100, COLUMNS + 50, dtype=torch.float32)
    usual = centered_gram(x)
    monkeypatch.setattr(products, "HAS_ONEDNN", False)
    assert relative(centered_gram(x), usual.double()) < 1e-6


@pytest.mark.parametrize("shape", [(9, 4, 5, 6), (9, 7, 8), (9, 3)])
def test_gram_flattens_features(shape):
    x = random(*shape)
    torch.testing.assert_close(centered_gram(x), gram_of_centered(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_takes_features_however_they_lie_in_memory(dtype):
    x = random(70, 6, 10, 10, dtype=dtype)
    expected = centered_gram(x)
    channels_last = x.to(memory_format=torch.channels_last)
    transposed = x.flatten(1).T.contiguous().T
    every_second = x.repeat_interleave(2, dim=1)[:, ::2]
    for view in (channels_last, transposed, every_second):
        assert not view.is_contiguous()
        torch.testing.assert_close(centered_gram(view), expected)


def test_gram_leaves_features_as_they_were():
    x = random(10, 20)
    before = x.clone()
    centered_gram(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_of_constant_features_is_exactly_zero(constant, dtype):
    x = constant * random(1, 50, dtype=dtype).expand(101, 50)  # the mean of 101 equal numbers is rounded
    assert torch.equal(centered_gram(x), torch.zeros(101, 101, dtype=dtype))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gram_of_features_that_hardly_vary_is_not_zero(estimator):
    x = 5 + 1e-4 * random(50, 30, dtype=torch.float32)
    truth = recentered(gram_of_centered(x), estimator)
    assert relative(recentered(centered_gram(x).double(), estimator), truth) < 1e-5


# -- HSIC ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(n=st.integers(4, 80), widths=st.tuples(st.integers(1, 30), st.integers(1, 30)), seed=st.integers(0, 9))
def test_hsic_is_the_textbooks(estimator, n, widths, seed):
    x, y = 2 + random(n, widths[0], seed=seed), random(n, widths[1], seed=seed + 10)
    expected = TEXTBOOK[estimator](gram(x), gram(y))
    scale = (TEXTBOOK[estimator](gram(x), gram(x)) * TEXTBOOK[estimator](gram(y), gram(y))) ** 0.5
    assert hsic(x, y, estimator) == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale + 1e-12)


@given(n=st.integers(4, 60), width=st.integers(1, 20), seed=st.integers(0, 9))
def test_u_centered(n, width, seed):
    k = gram(random(n, width, seed=seed))
    centered = recentered(k, "unbiased")
    size = float(k.abs().max())
    zero = torch.zeros(n, dtype=torch.float64)
    assert torch.equal(centered.diagonal(), zero)
    torch.testing.assert_close(centered, centered.T)
    torch.testing.assert_close(centered.sum(0), zero, rtol=0, atol=1e-11 * size)
    torch.testing.assert_close(recentered(centered, "unbiased"), centered, rtol=0, atol=1e-11 * size)
    shifted = k + 3.0  # a constant does not count
    torch.testing.assert_close(recentered(shifted, "unbiased"), centered, rtol=0, atol=1e-11 * (size + 3))


def test_large_means_in_float32():
    """Mean 5, standard deviation 0.1: centred first, the error is that of float32; if not, it is absurd."""
    x = 5 + 0.1 * random(128, 512, dtype=torch.float32)
    truth = song(gram_of_centered(x), gram_of_centered(x))
    ours = hsic(x, x, "unbiased")
    assert ours > 0
    assert ours == pytest.approx(truth, rel=1e-5)
    three_terms = song(gram(x), gram(x))
    assert abs(three_terms - truth) > 10 * truth
