"""Probes are what independent computations of the same minimum, or of the same training, come to."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from repsim.studies.probing import Probe, ProbeOptions, fit_probe, fitting
from repsim.studies.probing.fitting import PENALTIES, NotAtMinimum
from repsim.studies.probing.options import KINDS
from repsim.training.optimization import Diverged

TALL, WIDE = (40, 5), (30, 60)  # more inputs than features, and fewer
CLOSED = ("ridge", "logistic")  # kinds that have one minimum
shapes = pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def drawn(shape=TALL, classes=3, noise=1.0, seed=0):
    """Features of unequal variances, away from 0; labels that follow some of them, but for noise."""
    n, d = shape
    features = torch.randn(n, d, generator=generator(seed)) * torch.linspace(0.5, 2, d) + 3
    directions = torch.randn(d, classes, generator=generator(seed + 1)) / d**0.5
    disturbed = noise * torch.randn(n, classes, generator=generator(seed + 2))
    labels = ((features - 3) @ directions + disturbed).argmax(1)
    labels[:classes] = torch.arange(classes)  # each class is there
    return features, labels


def mean_variance(features):
    """What a penalty is in units of: by NumPy, in double."""
    return float(np.var(features.double().numpy(), axis=0).mean())


def probabilities(probe, features):
    return probe.logits(features).softmax(1)


def same(one, other):
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


# -- ridge --------------------------------------------------------------------------------------------------


def by_normal_equations(features, labels, classes, added):
    """Weights and bias of the least mean squared error + `added` ‖W‖², the bias as one more, free, weight."""
    x, targets = features.double(), F.one_hot(labels, classes).double()
    n, d = x.shape
    x = torch.cat([x, torch.ones(n, 1, dtype=torch.float64)], 1)
    free = torch.diag(torch.tensor([1.0] * d + [0.0], dtype=torch.float64))
    found = torch.linalg.solve(x.T @ x + n * added * free, x.T @ targets)
    return found[:-1].T, found[-1]


@shapes
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 10.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_ridge_solves_the_normal_equations(shape, penalty, classes):
    features, labels = drawn(shape, classes)
    probe = fit_probe(features, labels, classes, ProbeOptions(penalty=penalty))
    weight, bias = by_normal_equations(features, labels, classes, penalty * mean_variance(features))
    assert probe.weight.shape == (classes, shape[1])
    torch.testing.assert_close(probe.weight.double(), weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(probe.bias.double(), bias, rtol=1e-4, atol=1e-5)
    assert probe.penalty == penalty


def left_out_one_by_one(features, labels, classes, penalty):
    """Sum of squared errors where each input is predicted from all others, the ‖W‖² term being as it was."""
    added, total, n = penalty * mean_variance(features), 0.0, len(features)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        own = added * n / (n - 1)  # beside the sum, rather than the mean, of the losses
        weight, bias = by_normal_equations(features[others], labels[others], classes, own)
        answer = weight @ features[i].double() + bias
        total += float((answer - F.one_hot(labels[i], classes)).square().sum())
    return total


def clusters(shape, noise, seed):
    """Features near one point for each class: what least squares can tell."""
    n, d = shape
    labels = torch.arange(n) % 3
    centres = torch.randn(3, d, generator=generator(seed))
    return centres[labels] + noise * torch.randn(n, d, generator=generator(seed + 1)), labels


LEFT_OUT = [
    *((clusters, shape, noise, 0) for shape in (TALL, WIDE) for noise in (0.001, 0.01, 0.1)),
    *((drawn, shape, noise, 2) for shape in (TALL, WIDE) for noise in (0.0, 4.0)),
]


@pytest.mark.matrix("0.01", "4.0")
@pytest.mark.parametrize(("make", "shape", "noise", "seed"), LEFT_OUT)
def test_the_penalty_of_ridge_is_that_of_leaving_out_each_input(make, shape, noise, seed):
    features, labels = make(shape, noise=noise, seed=seed)
    errors = {penalty: left_out_one_by_one(features, labels, 3, penalty) for penalty in PENALTIES}
    best, second, *_ = sorted(errors, key=errors.get)
    assert errors[second] > errors[best] * (1 + 1e-6)  # not by rounding
    probe = fit_probe(features, labels, 3)
    assert probe.penalty == best
    assert same(probe, fit_probe(features, labels, 3, ProbeOptions(penalty=best)))


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_whatever_float32_rounds_the_penalty_is_that_of_float64(noise, monkeypatch):
    """Of many inputs in few directions, errors of small penalties are alike to six digits."""
    features, labels = clusters((3000, 4), noise, 1)
    original, asked = fitting._left_out, []

    def rounded_by_all_that_it_may(principal, rest, penalties, dtype):
        errors, doubt = original(principal, rest, penalties, dtype)
        asked.append((dtype, len(penalties)))
        if dtype == torch.float32:
            exact, _ = original(principal, rest, penalties, torch.float64)
            assert ((errors - exact).abs() <= doubt * exact).all()
            assert doubt.max() < 1e-3  # and would tell most penalties apart
            best = torch.arange(len(doubt)) == exact.argmin()
            errors = exact * torch.where(best, 1 + 0.9 * doubt, 1 - 0.9 * doubt)
            assert errors.argmin() != exact.argmin()
        return errors, doubt

    expected = fit_probe(features, labels, 3)
    monkeypatch.setattr(fitting, "_left_out", rounded_by_all_that_it_may)
    assert fit_probe(features, labels, 3).penalty == expected.penalty
    assert [dtype for dtype, _ in asked] == [torch.float32, torch.float64]
    assert 1 < asked[1][1] < asked[0][1] == len(PENALTIES)


# -- logistic -----------------------------------------------------------------------------------------------


def objective(weight, bias, features, labels, penalty):
    """Mean cross-entropy + penalty · mean variance / 2 · ‖W‖²."""
    logits = features @ weight.T + bias
    chosen = logits[torch.arange(len(labels)), labels]
    loss = (logits.exp().sum(1).log() - chosen).mean()
    return loss + penalty * mean_variance(features) / 2 * (weight**2).sum()


@pytest.mark.matrix
@shapes
@pytest.mark.parametrize("penalty", [1e-3, 0.1])
@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_reaches_the_minimum(shape, penalty, classes):
    features, labels = drawn(shape, classes)
    probe = fit_probe(features, labels, classes, ProbeOptions("logistic", penalty=penalty))
    assert probe.penalty == penalty
    # Slopes along centred features in units of their spread: of uncentred ones they hold the bias's too.
    centred = features.double() - features.double().mean(0)
    weight = probe.weight.double().requires_grad_()
    bias = (probe.bias.double() + probe.weight.double() @ features.double().mean(0)).requires_grad_()
    own = objective(weight, bias, centred, labels, penalty)
    own.backward()
    assert weight.grad.abs().max() / mean_variance(features) ** 0.5 < 5e-4
    assert bias.grad.abs().max() < 5e-4
    start = objective(torch.zeros_like(weight), torch.zeros_like(bias), centred, labels, penalty)
    assert own < start - 0.05


def by_scikit_learn(features, labels, classes, penalty):
    """Of two classes it has one row of weights w, where the same minimum of ours has −w/2 and w/2."""
    x = features.double().numpy()
    halves = 2 if classes == 2 else 1
    strength = halves / (penalty * mean_variance(features) * len(x))
    found = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(x - x.mean(0), labels.numpy())
    weight, bias = found.coef_, found.intercept_
    if classes == 2:
        weight, bias = (np.concatenate([-part, part]) / 2 for part in (weight, bias))
    return torch.from_numpy(weight), torch.from_numpy(bias - weight @ x.mean(0))


@pytest.mark.matrix
@shapes
@pytest.mark.parametrize("penalty", [1e-3, 0.1])
@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_is_scikit_learns(shape, penalty, classes):
    features, labels = drawn(shape, classes, noise=2.0)
    probe = fit_probe(features, labels, classes, ProbeOptions("logistic", penalty=penalty))
    weight, bias = by_scikit_learn(features, labels, classes, penalty)
    # of wide features, directions that hardly matter to the loss are found less exactly
    near, doubtful = (0.005, 0.02) if shape == TALL else (0.1, 0.1)
    assert (probe.weight - weight).norm() < near * weight.norm()
    fresh, _ = drawn((500, shape[1]), classes, seed=9)
    expected = fresh.double() @ weight.T + bias
    sure = expected.softmax(1).sort(1).values.diff(dim=1)[:, -1] > doubtful
    assert sure.double().mean() > 0.8
    assert torch.equal(probe.logits(fresh).argmax(1)[sure], expected.argmax(1)[sure])
    best = objective(weight, bias, features.double(), labels, penalty)
    own = objective(probe.weight.double(), probe.bias.double(), features.double(), labels, penalty)
    assert best - 1e-7 < own < best + 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("classes", [3, 10])
def test_logistic_reaches_the_minimum_where_classes_can_be_separated(classes):
    """There slopes are small long before; what is answered to other inputs must not hang on when it ends."""
    features, labels = drawn((200, 400), classes)
    probe = fit_probe(features, labels, classes, ProbeOptions("logistic"))
    weight, bias = by_scikit_learn(features, labels, classes, 1e-3)
    fresh, _ = drawn((1000, 400), classes, seed=9)
    expected = (fresh.double() @ weight.T + bias).argmax(1)
    assert (probe.logits(fresh).argmax(1) == expected).double().mean() > 0.985
    assert (probe.weight - weight).norm() < 0.02 * weight.norm()


@pytest.mark.parametrize("penalty", [1e-5, 1e-3])
def test_logistic_of_correlated_features_is_scikit_learns_in_few_steps(penalty, monkeypatch):
    """Spreads of directions from 1 to 1000: the steps know them. Not to be at the minimum is a warning."""
    monkeypatch.setattr(fitting, "MOST_STEPS", 40)
    d = 20
    spread = torch.randn(2000, d, generator=generator(0)) * torch.logspace(0, -3, d)
    labels = (
        spread[:, :3] + 50 * spread[:, -3:] + 0.5 * torch.randn(2000, 3, generator=generator(1))
    ).argmax(1)
    features = (spread.double() @ rotation(d, 2) + 1).float()
    probe = fit_probe(features, labels, 3, ProbeOptions("logistic", penalty=penalty))
    weight, bias = by_scikit_learn(features, labels, 3, penalty)
    best = objective(weight, bias, features.double(), labels, penalty)
    own = objective(probe.weight.double(), probe.bias.double(), features.double(), labels, penalty)
    assert best - 1e-9 < own < best + 1e-7


def test_the_bias_is_not_penalised():
    """With all weights shrunk away, the probabilities are the shares of the classes."""
    features, _ = drawn((60, 5))
    labels = torch.tensor([0] * 36 + [1] * 18 + [2] * 6)
    for kind in CLOSED:
        probe = fit_probe(features, labels, 3, ProbeOptions(kind, penalty=1e6))
        logits = probe.logits(features)
        found = logits if kind == "ridge" else logits.softmax(1)
        torch.testing.assert_close(found, torch.tensor([[0.6, 0.3, 0.1]]).expand(60, 3), rtol=0, atol=1e-3)


# -- what makes no difference -------------------------------------------------------------------------------


def rotation(d, seed):
    return torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=torch.float64))[0]


@pytest.mark.matrix("tall-ridge", "ridge-tall", "wide-logistic", "logistic-wide")
@pytest.mark.parametrize("kind", CLOSED)
@shapes
@settings(max_examples=12)
@given(power=st.floats(-3, 3), shift=st.floats(-20, 20), turn=st.integers(0, 100))
def test_scale_shift_and_rotation_make_no_difference(kind, shape, power, shift, turn):
    """The penalty is in units of the features' own variance."""
    features, labels = drawn(shape)
    moved = (10**power * (features.double() @ rotation(shape[1], turn) + shift)).float()
    options = ProbeOptions(kind, penalty=0.01)
    probe, other = (fit_probe(each, labels, 3, options) for each in (features, moved))
    difference = probabilities(probe, features) - probabilities(other, moved)
    assert difference.abs().max() < (1e-3 if kind == "ridge" else 1e-2)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", CLOSED)
@shapes
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_features_that_are_constant_do_no_harm(kind, shape, value):
    """But that the mean variance of a feature, which penalties are in units of, is less."""
    features, labels = drawn(shape)
    d = shape[1]
    more = torch.cat([features, torch.full((len(features), d), value)], 1)
    probe = fit_probe(features, labels, 3, ProbeOptions(kind, penalty=0.01))
    other = fit_probe(more, labels, 3, ProbeOptions(kind, penalty=0.02))
    assert other.weight[:, d:].abs().max() < 1e-6
    torch.testing.assert_close(probabilities(other, more), probabilities(probe, features), rtol=0, atol=2e-3)
    assert fit_probe(more, labels, 3, ProbeOptions(kind)).weight.isfinite().all()


@pytest.mark.parametrize("kind", CLOSED)
@shapes
def test_features_that_are_there_twice_do_no_harm(kind, shape):
    """Each half has half of the weight, and so the two together half of the penalty."""
    features, labels = drawn(shape)
    d = shape[1]
    twice = torch.cat([features, features], 1)
    probe = fit_probe(features, labels, 3, ProbeOptions(kind, penalty=0.01))
    other = fit_probe(twice, labels, 3, ProbeOptions(kind, penalty=0.02))
    torch.testing.assert_close(other.weight[:, :d], other.weight[:, d:], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(probabilities(other, twice), probabilities(probe, features), rtol=0, atol=2e-3)
    assert fit_probe(twice, labels, 3, ProbeOptions(kind)).weight.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_changes_nothing_that_it_is_given(kind):
    features, labels = drawn()
    before, state = (features.clone(), labels.clone()), torch.random.get_rng_state()
    fit_probe(features, labels, 3, ProbeOptions(kind))
    assert torch.equal(features, before[0])
    assert torch.equal(labels, before[1])
    assert torch.equal(torch.random.get_rng_state(), state)


# -- adam ---------------------------------------------------------------------------------------------------


def untouched(features, labels, classes, seed):
    """The probe before its training: one epoch whose steps are lost in rounding."""
    return fit_probe(
        features, labels, classes, ProbeOptions("adam", epochs=1, learning_rate=1e-30, seed=seed)
    )


@pytest.fixture
def orders(monkeypatch):
    """The orders in which inputs are taken, one for each epoch."""
    original, found = torch.randperm, []

    def kept(*arguments, **options):
        found.append(original(*arguments, **options))
        return found[-1].clone()

    monkeypatch.setattr(torch, "randperm", kept)
    return found


@pytest.mark.matrix
@shapes
@pytest.mark.parametrize(("batch_size", "seed"), [(7, 0), (7, 3), (1024, 1)])
def test_adam_is_plain_training_of_a_linear_layer(shape, batch_size, seed, orders):
    features, labels = drawn(shape)
    first = untouched(features, labels, 3, seed)
    orders.clear()
    options = ProbeOptions("adam", epochs=4, learning_rate=0.05, batch_size=batch_size, seed=seed)
    probe = fit_probe(features, labels, 3, options)
    assert [sorted(order.tolist()) for order in orders] == [list(range(len(labels)))] * 4
    assert len({tuple(order.tolist()) for order in orders}) == 4  # another one in each epoch

    layer = nn.Linear(shape[1], 3)
    layer.load_state_dict({"weight": first.weight, "bias": first.bias})
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=1e-6)
    for order in list(orders):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(layer(features[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    torch.testing.assert_close(probe.weight, layer.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probe.bias, layer.bias.detach(), rtol=1e-4, atol=1e-5)
    assert (probe.weight - first.weight).abs().max() > 0.1
    assert probe.penalty is None
    assert not probe.weight.requires_grad


def test_the_learning_rate_falls_to_a_millionth_and_no_further():
    """From a millionth on, it stays: each of 20 steps along one slope is as long."""
    features, labels = drawn()
    probe = fit_probe(features, labels, 3, ProbeOptions("adam", epochs=20, learning_rate=1e-6))
    moved = (probe.weight - untouched(features, labels, 3, 0).weight).abs()
    assert moved.max() == pytest.approx(20e-6, rel=0.02)


def test_adam_begins_where_torchs_linear_layers_do():
    features, labels = drawn((40, 400))
    found = untouched(features, labels, 3, 0)
    reach = nn.Linear(400, 3).weight.detach().abs().max()  # all but 1/20: the greatest of 1,200 uniform ones
    for part in (found.weight, found.bias):
        assert part.abs().max() <= 1 / 20
    assert found.weight.abs().max() == pytest.approx(float(reach), rel=0.01)
    assert found.weight.mean().abs() < 0.005
    assert found.weight.std() == pytest.approx(1 / 20 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_matter_for_adam_only(kind):
    features, labels = drawn()
    first, again, other = (
        fit_probe(features, labels, 3, ProbeOptions(kind, seed=seed)) for seed in (0, 0, 1)
    )
    assert same(first, again)
    assert same(first, other) == (kind != "adam")


def test_a_learning_rate_that_is_too_great():
    features, labels = drawn()
    options = ProbeOptions("adam", learning_rate=3e37, batch_size=10)
    message = "the probe's weights became infinite in epoch 1: lower learning_rate (now 3e+37)."
    with pytest.raises(Diverged, match=f"^{re.escape(message)}$"):
        fit_probe(features, labels, 3, options)


# -- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLOSED)
def test_a_direction_of_hardly_any_variance_is_found(kind):
    """Where the classes differ, rather than where the features vary."""
    labels = torch.arange(2).repeat(100)
    spread = torch.tensor([1.0] * 7 + [0.02])

    def seen(seed):
        features = spread * torch.randn(200, 8, generator=generator(seed))
        features[:, 7] += 0.1 * labels
        return features @ rotation(8, 1).float()

    probe = fit_probe(seen(0), labels, 2, ProbeOptions(kind, penalty=1e-5))
    assert probe.accuracy(seen(1), labels) > 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_never_occur_are_never_answered(kind):
    features, labels = drawn((60, 5), classes=2, noise=0.3)
    labels = torch.tensor([3, 1])[labels]  # of five
    options = ProbeOptions(kind, epochs=200, learning_rate=0.05)
    probe = fit_probe(features, labels, 5, options)
    assert probe.weight.shape == (5, 5)
    assert probe.weight.isfinite().all()
    assert probe.bias.isfinite().all()
    assert set(probe.logits(features).argmax(1).tolist()) == {1, 3}
    assert probe.accuracy(features, labels) > 0.8
    if kind == "ridge":
        assert probe.weight[[0, 2, 4]].abs().max() == probe.bias[[0, 2, 4]].abs().max() == 0


def test_accuracy_is_the_share_of_right_answers():
    probe = Probe(torch.eye(3), torch.tensor([0.0, 0.0, 0.5]), None)
    features = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.4, 0, 0]])
    assert probe.logits(features).tolist() == [
        [1, 0, 0.5],
        [0, 1, 0.5],
        [0, 0, 1.5],
        [0.4000000059604645, 0, 0.5],
    ]
    assert probe.accuracy(features, torch.tensor([0, 1, 0, 0])) == 0.5
    assert probe.accuracy(features, torch.tensor([0, 1, 2, 2])) == 1


# -- kinds of numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_precision(kind, dtype):
    features, labels = drawn()
    features = features.bfloat16().half().to(dtype)  # numbers that all of them hold
    probe = fit_probe(features, labels, 3, ProbeOptions(kind))
    assert probe.weight.dtype == probe.bias.dtype == torch.float32
    assert same(probe, fit_probe(features.float(), labels, 3, ProbeOptions(kind)))
    assert probe.logits(features).dtype == torch.float32
    assert torch.equal(probe.logits(features), probe.logits(features.float()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
def test_labels_of_few_bits(kind, dtype):
    features, labels = drawn()
    probe = fit_probe(features, labels.to(dtype), 3, ProbeOptions(kind))
    assert same(probe, fit_probe(features, labels, 3, ProbeOptions(kind)))
    assert probe.accuracy(features, labels.to(dtype)) == probe.accuracy(features, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_labels_are_classes(kind):
    features, labels = drawn((30, 4), classes=3)
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    plain, other = (fit_probe(features, each, 3, ProbeOptions(kind)) for each in (labels, one_hot.numpy()))
    assert torch.equal(plain.weight, other.weight)
    assert other.accuracy(features, one_hot) == plain.accuracy(features, labels)
    with pytest.raises(ValueError, match=r"^a probe needs one class for each image; these images have 3"):
        fit_probe(features, torch.ones(30, 3), 3)


# -- what cannot be -----------------------------------------------------------------------------------------

FEATURES, LABELS = drawn((6, 4), classes=3)
NOT_A_NUMBER, INFINITE = FEATURES.clone(), FEATURES.clone()
NOT_A_NUMBER[2, 1] = torch.nan
INFINITE[2, 1] = -torch.inf
NOT_FINITE = "features have values that are not finite (NaN or infinite)."
OUTSIDE = "labels must be whole numbers from 0 to 2, one at least."
ALL_ALIKE = "features do not vary: all inputs have the same."


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (FEATURES[:5], LABELS, "each input needs one label, got 5 inputs and 6 labels."),
        (NOT_A_NUMBER, LABELS, NOT_FINITE),
        (INFINITE, LABELS, NOT_FINITE),
        (FEATURES, LABELS + 1, OUTSIDE),
        (FEATURES, LABELS - 1, "labels must be classes, counted from 0; found -1."),
        (FEATURES[:0], LABELS[:0], OUTSIDE),
        (FEATURES, torch.ones(6, dtype=torch.int64), "a probe tells classes apart: all labels are the same."),
        (FEATURES[:1].expand(6, 4), LABELS, ALL_ALIKE),
        (torch.zeros(6, 4), LABELS, ALL_ALIKE),
    ],
    ids=["lengths", "NaN", "infinite", "above", "below", "none", "one class", "no variance", "zero"],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_fitted(kind, features, labels, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit_probe(features, labels, 3, ProbeOptions(kind))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 3.7])
def test_what_varies_by_rounding_of_its_mean_does_not_vary(value):
    """The mean of 33 equal numbers may be the number next to them."""
    features = torch.full((33, 4), value, dtype=torch.float64)
    labels = torch.arange(33) % 3
    with pytest.raises(ValueError, match=f"^{re.escape(ALL_ALIKE)}$"):
        fit_probe(features, labels, 3)


def test_a_minimum_that_was_not_reached_is_said(monkeypatch):
    monkeypatch.setattr(fitting, "MOST_STEPS", 2)
    features, labels = drawn()
    with pytest.warns(NotAtMinimum, match="not at its minimum after 2 steps: .* Raise penalty"):
        fit_probe(features, labels, 3, ProbeOptions("logistic", 1e-6))


# gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_fit_needs_no_gradients_of_the_callers(kind, without):
    features, labels = drawn()
    expected = fit_probe(features, labels, 3, ProbeOptions(kind))
    with without():
        found = fit_probe(features.clone(), labels.clone(), 3, ProbeOptions(kind))
        assert not torch.is_grad_enabled()
    assert same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_takes_no_gradient_back_to_the_features(kind):
    features, labels = drawn()
    weight = torch.ones(features.shape[1], requires_grad=True)
    found = fit_probe(features * weight, labels, 3, ProbeOptions(kind))
    assert same(found, fit_probe(features, labels, 3, ProbeOptions(kind)))
    assert not found.weight.requires_grad
    assert weight.grad is None
