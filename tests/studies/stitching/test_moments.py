"""Direct matching: streamed moments are those of all rows, and solutions those of independent solvers."""

import dataclasses
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from repsim.studies.stitching import Moments
from repsim.studies.stitching.moments import MATCHES


def rows(count=60, taken=5, given=4, *, noise=1.0, seed=0):
    """Correlated x and a noisy affine function of it, with means of their own."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, taken)) @ random.normal(size=(taken, taken)) + random.normal(size=taken)
    y = x @ random.normal(size=(taken, given)) + random.normal(size=given)
    return x, y + noise * random.normal(size=y.shape)


def moments(x, y, sizes=()):
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    sizes = [*sizes, len(x) - sum(sizes)]
    return Moments.of(zip(x.split(sizes), y.split(sizes), strict=True))


def solve(x, y, method="pseudo_inverse", **options):
    weight, bias = moments(x, y).solve(method, **options)
    return weight.numpy(), bias.numpy()


def error(x, y, weight, bias):
    return np.square(x @ weight.T + bias - y).mean(0).sum()


def assert_same(one, other, tolerance=1e-9):
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# moments


@st.composite
def batchings(draw):
    """A number of rows, and sizes of the batches that they come in; a batch may be empty."""
    sizes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=6))
    return 1 + sum(sizes), draw(st.permutations(sizes))


@given(batchings(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_moments_are_those_of_all_rows_at_once_however_they_come(batching, taken, given, seed):
    count, sizes = batching
    x, y = rows(count, taken, given, seed=seed)
    found = moments(x, y, sizes)
    assert found.rows == count
    assert_same(found.mean_x, x.mean(0))
    assert_same(found.mean_y, y.mean(0))
    assert_same(found.xx, np.cov(x, rowvar=False, ddof=0).reshape(taken, taken))
    assert_same(found.xy, (x - x.mean(0)).T @ (y - y.mean(0)) / count)
    assert_same(found.variance_y, y.var(0))


def test_a_variance_much_smaller_than_the_mean_loses_no_digits():
    """In float32, where sums of squares about zero would have none left."""
    random = np.random.default_rng(0)
    x, y = ((5 + 0.001 * random.normal(size=(400, d))).astype(np.float32) for d in (3, 2))
    found = moments(x, y, [1, 99, 100])
    for value in (found.mean_x, found.xx, found.xy, found.variance_y):
        assert value.dtype == torch.float64
    x, y = x.astype(np.float64), y.astype(np.float64)
    for value, expected in (
        (found.xx, np.cov(x, rowvar=False, ddof=0)),
        (found.xy, (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)),
        (found.variance_y, y.var(0)),
    ):
        assert_same(value / 1e-6, expected / 1e-6, 1e-8)


def test_constants_have_no_variance():
    x = np.full((7, 2), 0.1)
    found = moments(x, x, [3])
    assert (found.variance_y == 0).all()
    assert (found.xx == 0).all()


@pytest.mark.parametrize("batches", [[], [(torch.empty(0, 3), torch.empty(0, 2))]])
def test_no_rows(batches):
    with pytest.raises(ValueError, match=r"^a match needs at least one image\.$"):
        Moments.of(batches)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("row", [0, 50])
def test_values_that_are_no_numbers(value, side, row):
    both = rows()
    both[side][row, 1] = value
    message = (
        "a match needs finite values, and one of the layers puts out NaN or infinity: its weights or "
        "inputs are damaged."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        moments(*both, [30])


# least squares


@pytest.mark.parametrize("given", [2, 5, 8])
@pytest.mark.parametrize("method", ["least_squares", "pseudo_inverse"])
def test_regression_is_least_squares_with_a_bias_column(method, given):
    x, y = rows(given=given)
    weight, bias = solve(x, y, method)
    expected = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    assert_same(weight, expected[:-1].T)
    assert_same(bias, expected[-1])


@pytest.mark.parametrize("ridge", [1e-3, 0.3, 10.0])
def test_ridge_is_in_units_of_the_mean_variance(ridge):
    x, y = rows()
    weight, bias = solve(x, y, "least_squares", ridge=ridge)
    peer = Ridge(alpha=ridge * len(x) * x.var(0).mean(), tol=1e-12).fit(x, y)
    assert_same(weight, peer.coef_, 1e-8)
    assert_same(bias, peer.intercept_, 1e-8)


def degenerate(x):
    """The same rows with a constant channel, one that is another's copy, and one that is a sum."""
    return np.column_stack([x, np.full(len(x), 0.3), x[:, 0], x[:, 1] + x[:, 2]])


def test_the_pseudo_inverse_is_of_least_norm_with_dead_and_duplicated_channels():
    x, y = rows()
    x = degenerate(x)
    weight, bias = solve(x, y, "pseudo_inverse")
    expected = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=1e-8)[0].T
    assert_same(weight, expected, 1e-8)
    assert_same(bias, y.mean(0) - expected @ x.mean(0), 1e-8)
    np.testing.assert_allclose(weight[:, 5], 0, atol=1e-12)
    assert_same(weight[:, 0], weight[:, 6], 1e-8)


def test_the_pseudo_inverse_with_fewer_rows_than_channels_fits_them_all():
    x, y = rows(count=4, taken=9)
    weight, bias = solve(x, y)
    assert_same(x @ weight.T + bias, y, 1e-8)
    expected = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=1e-8)[0].T
    assert_same(weight, expected, 1e-8)


@pytest.mark.parametrize(
    ("x", "singular", "channels"),
    [(degenerate(rows()[0]), 3, 8), (np.full((60, 5), 0.3), 5, 5), (rows(taken=70)[0], 11, 70)],
    ids=["dead and duplicated", "constant", "fewer rows than channels"],
)
def test_singular_least_squares_is_refused_and_ridge_helps(x, singular, channels):
    y = rows()[1]
    message = (
        f"least squares is singular: of the front layer's {channels} channels {singular} are constant or "
        "made of the others. Take method='pseudo_inverse' (the solution of least norm) or a ridge such as "
        "1e-3."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        solve(x, y, "least_squares")
    solve(x, y, "pseudo_inverse")
    if x.var() > 0:
        weight, bias = solve(x, y, "least_squares", ridge=1e-3)
        peer = Ridge(alpha=1e-3 * len(x) * x.var(0).mean()).fit(x, y)
        assert_same(weight, peer.coef_, 1e-6)
        assert_same(bias, peer.intercept_, 1e-6)


# orthogonal


def centred(x):
    return x - x.mean(0)


def test_orthogonal_is_procrustes_on_centred_rows():
    x, y = rows(given=5)
    weight, bias = solve(x, y, "orthogonal")
    assert_same(weight.T, scipy.linalg.orthogonal_procrustes(centred(x), centred(y))[0])
    assert_same(bias, y.mean(0) - weight @ x.mean(0))
    assert_same(weight @ weight.T, np.eye(5))


@pytest.mark.parametrize(("taken", "given"), [(6, 3), (3, 6)])
def test_orthogonal_of_different_widths_is_procrustes_with_channels_of_zeros(taken, given):
    x, y = rows(taken=taken, given=given)
    weight, bias = solve(x, y, "orthogonal")
    x, y = (np.pad(z, ((0, 0), (0, 6 - z.shape[1]))) for z in (x, y))
    padded = scipy.linalg.orthogonal_procrustes(centred(x), centred(y))[0]
    assert_same(weight.T, padded[:taken, :given])
    smaller = weight @ weight.T if given < taken else weight.T @ weight
    assert_same(smaller, np.eye(3))
    assert_same(bias, (y.mean(0) - np.pad(weight, ((0, 6 - given), (0, 6 - taken))) @ x.mean(0))[:given])


def test_a_planted_rotation_is_recovered_also_where_a_channel_is_dead():
    x, _ = rows()
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    weight, bias = solve(x, x @ rotation.T + 2, "orthogonal")
    assert_same(weight, rotation)
    assert_same(bias, np.full(5, 2.0))
    x[:, 3] = 0.7
    y = x @ rotation.T + 2
    weight, bias = solve(x, y, "orthogonal")
    assert_same(weight @ weight.T, np.eye(5))
    assert_same(x @ weight.T + bias, y)


# reduced rank


def brute_force(x, y, rank, penalty=0.0, starts=5):
    """The least error of any weight of a rank, by alternating least squares on its two factors."""
    x, y = centred(x), centred(y)
    xx = x.T @ x / len(x) + penalty * np.eye(x.shape[1])
    xy = x.T @ y / len(x)
    best = np.inf
    for start in range(starts):
        up = np.random.default_rng(start).normal(size=(y.shape[1], rank))
        for _ in range(2000):
            down = np.linalg.solve(xx, xy @ up).T
            down = np.linalg.solve(up.T @ up, down)
            up = np.linalg.solve(down @ xx @ down.T, down @ xy).T
        weight = up @ down
        loss = np.square(x @ weight.T - y).mean(0).sum() + penalty * np.square(weight).sum()
        best = min(best, loss)
    return best


@pytest.mark.matrix("2")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_weight_of_the_rank_has_a_smaller_error(rank):
    x, y = rows(noise=5.0)
    weight, bias = solve(x, y, rank=rank)
    assert np.linalg.matrix_rank(weight) == rank
    assert_same(error(x, y, weight, bias), brute_force(x, y, rank), 1e-7)


def test_no_penalised_weight_of_the_rank_is_better():
    x, y = rows(noise=5.0)
    ridge = 0.5
    penalty = ridge * x.var(0).mean()
    weight, bias = solve(x, y, "least_squares", ridge=ridge, rank=2)
    found = error(x, y, weight, bias) + penalty * np.square(weight).sum()
    assert_same(found, brute_force(x, y, 2, penalty), 1e-7)


def test_reduced_rank_with_dead_and_duplicated_channels():
    x, y = rows(noise=5.0)
    lean = solve(x, y, rank=2)
    weight, bias = solve(degenerate(x), y, rank=2)
    assert np.linalg.matrix_rank(weight) == 2
    assert_same(degenerate(x) @ weight.T + bias, x @ lean[0].T + lean[1], 1e-7)


@pytest.mark.parametrize("given", [3, 8])
def test_full_rank_is_the_fit_itself(given):
    x, y = rows(given=given)
    whole = solve(x, y)
    for rank in (0, min(5, given)):
        for one, other in zip(solve(x, y, rank=rank), whole, strict=True):
            assert_same(one, other)


# what is refused


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "least_square"},
            "unknown match 'least_square'; did you mean 'least_squares'? Known: least_squares, "
            "pseudo_inverse, orthogonal.",
        ),
        (
            {"method": "least_squares", "ridge": -0.1},
            "ridge is a number ≥ 0, for method='least_squares' only; not -0.1 for 'least_squares'.",
        ),
        (
            {"method": "pseudo_inverse", "ridge": 0.1},
            "ridge is a number ≥ 0, for method='least_squares' only; not 0.1 for 'pseudo_inverse'.",
        ),
        (
            {"method": "orthogonal", "ridge": 0.1},
            "ridge is a number ≥ 0, for method='least_squares' only; not 0.1 for 'orthogonal'.",
        ),
        (
            {"method": "orthogonal", "rank": 2},
            "an orthogonal match has full rank: rank is for the other methods.",
        ),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        moments(*rows()).solve(**options)


# correlation


def test_correlation_is_numpys_and_zero_where_a_channel_is_constant():
    x, y = rows()
    found = moments(x, y, [10]).correlation()
    assert_same(found, np.corrcoef(x, y, rowvar=False)[5:, :5])
    x[:, 2], y[:, 1] = 0.5, 0.5
    found = moments(x, y, [10]).correlation().numpy()
    assert np.isfinite(found).all()
    assert (found[:, 2] == 0).all()
    assert (found[1] == 0).all()
    assert (np.delete(np.delete(found, 1, 0), 2, 1) != 0).all()


def test_solving_leaves_the_moments_as_they_are():
    found = moments(*rows())
    before = {name: value.clone() for name, value in vars(found).items() if name != "rows"}
    for method in MATCHES:
        found.solve(method)
    found.correlation()
    for field in dataclasses.fields(Moments)[1:]:
        assert torch.equal(getattr(found, field.name), before[field.name])
