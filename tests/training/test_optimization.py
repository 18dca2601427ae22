"""What one batch loses, by the labels or by any other task; optimizers, schedules, batches; divergence."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from repsim.attacks import Attack
from repsim.models import build_model
from repsim.studies.stitching import StitchOptions
from repsim.support import artifacts
from repsim.training import Recipe, optimization
from repsim.training.optimization import (
    Diverged,
    Settings,
    Task,
    batches_of,
    check_finite,
    make_optimizer,
    make_schedule,
    objective,
)

PGD = {"method": "pgd", "epsilon": 0.1}
TRADES = {"method": "trades", "epsilon": 0.1}


def recipe(**options):
    return Recipe("digits", "mlp", **options)


@pytest.mark.parametrize("settings", [recipe(**TRADES), StitchOptions(**TRADES)], ids=["recipe", "stitch"])
def test_recipes_and_stitching_options_are_settings(settings):
    assert isinstance(settings, Settings)


# the loss of a batch


@pytest.mark.parametrize("epsilon", [0.002, 0.1])
def test_trades_attack_starts_beside_the_image_and_stays_in_the_ball(tiny_data, monkeypatch, epsilon):
    recipe = Recipe.on(tiny_data, "mlp", method="trades", epsilon=epsilon)
    model = build_model("mlp", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std).train()
    x, y = tiny_data.train.images[:20], tiny_data.train.labels[:20]
    perturb, seen = optimization.perturb, []

    def spy(loss, images, attack, start):
        assert not model.training
        assert 0 < (start - images).abs().max() < 0.01
        seen.append(perturb(loss, images, attack, start=start))
        return seen[-1]

    monkeypatch.setattr(optimization, "perturb", spy)
    objective(recipe, recipe.attack(), model, x, y)[0].backward()
    assert model.training
    assert ((seen[0] - x).abs() <= epsilon + 1e-6).all()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize(("ratio", "attacked"), [(0.3, 15), (0.5, 25), (1.0, 50)])
def test_exactly_the_share_is_attacked(tiny_data, monkeypatch, ratio, attacked):
    recipe = Recipe.on(tiny_data, "mlp", **PGD, attack_ratio=ratio, attack_steps=2)
    model = build_model("mlp", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std).train()
    x, y = tiny_data.train.images[:50], tiny_data.train.labels[:50]
    perturb, sizes, trained_on = optimization.perturb, [], []

    def spy(loss, images, attack):
        sizes.append(len(images))
        return perturb(loss, images, attack)

    monkeypatch.setattr(optimization, "perturb", spy)
    model.register_forward_pre_hook(
        lambda module, inputs: trained_on.append(inputs[0]) if module.training else None
    )
    objective(recipe, recipe.attack(), model, x, y)
    assert sizes == [attacked]
    moved = (trained_on[0] != x).flatten(1).any(dim=1)
    assert moved.tolist() == [True] * attacked + [False] * (50 - attacked)


def test_a_share_of_less_than_half_an_image_is_none(tiny_data):
    settings = recipe(**PGD, attack_ratio=0.1)
    model = build_model("mlp", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std)
    x, y = tiny_data.train.images[:4], tiny_data.train.labels[:4]
    loss, _ = objective(settings, settings.attack(), model, x, y)
    assert torch.equal(loss, F.cross_entropy(model(x), y))


@pytest.mark.parametrize(("options", "batches"), [({}, 1), (PGD, 1), (TRADES, 2)])
def test_batchnorm_learns_from_what_is_trained_on_and_not_from_the_attack(tiny_data, options, batches):
    settings = recipe(**options, attack_steps=2)
    model = build_model("resnet_tiny", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std).train()
    objective(settings, settings.attack(), model, tiny_data.train.images[:8], tiny_data.train.labels[:8])
    counts = {buffer.item() for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {batches}
    assert model.training


# any other task


class Squares:
    """The squared distance of logits from any targets; remembers how it was asked for."""

    def __init__(self):
        self.reductions = []

    def __call__(self, logits, targets, *, reduction="mean"):
        self.reductions.append(reduction)
        losses = (logits - targets).square().sum(1)
        return losses.mean() if reduction == "mean" else losses.sum()


@pytest.fixture
def regression():
    """A small network, images, and what it should answer: targets that are no labels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, 0.3 + 0.4 * torch.rand(6, 1, 4, 4), torch.randn(6, 3)


def climbed(model, x, targets, epsilon, step, steps):
    """Images that climb the squared distance by signs of gradients, written out."""
    moved = x
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((model(moved) - targets).square().sum(), moved)
        moved = (x + (moved + step * gradient.sign() - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return moved.detach()


def test_a_task_is_what_a_loss_is():
    assert isinstance(Squares(), Task)
    assert isinstance(F.cross_entropy, Task)


def test_without_an_attack_the_task_is_the_loss(regression):
    model, x, targets = regression
    task = Squares()
    loss, logits = objective(recipe(), None, model, x, targets, task)
    assert torch.equal(logits, model(x))
    torch.testing.assert_close(loss, (model(x) - targets).square().sum() / 6)
    assert task.reductions == ["mean"]


@pytest.mark.parametrize(("ratio", "attacked"), [(1.0, 6), (0.5, 3)])
def test_adversarial_training_attacks_and_minimises_the_task(regression, ratio, attacked):
    model, x, targets = regression
    task, attack = Squares(), Attack(0.1, steps=3, step_size=0.05, random_start=False)
    loss, logits = objective(recipe(**PGD, attack_ratio=ratio), attack, model, x, targets, task)
    moved = torch.cat([climbed(model, x[:attacked], targets[:attacked], 0.1, 0.05, 3), x[attacked:]])
    torch.testing.assert_close(logits, model(moved))
    torch.testing.assert_close(loss, (model(moved) - targets).square().sum() / 6)
    assert loss > (model(x) - targets).square().sum() / 6
    assert task.reductions == ["sum"] * 3 + ["mean"]


def test_trades_minimises_the_task_and_attacks_the_divergence(regression):
    model, x, targets = regression
    task, settings = Squares(), recipe(**TRADES, beta=3.0, attack_steps=2)
    loss, logits = objective(settings, settings.attack(), model, x, targets, task)
    p, q = model(x).softmax(1), logits.softmax(1)
    by_hand = (model(x) - targets).square().sum() / 6 + 3 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(loss, by_hand)
    assert task.reductions == ["mean"]
    assert not torch.allclose(logits, model(x))


# optimizers


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_three_steps_by_hand(kind):
    """On one weight whose gradient is the weight itself."""
    weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    settings = recipe(optimizer=kind, learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(settings, [weight])
    expected, momentum, square = 2.0, 0.0, 0.0
    for step in (1, 2, 3):
        optimizer.zero_grad()
        (weight.square() / 2).backward()
        optimizer.step()
        gradient = expected + 0.5 * expected
        if kind == "sgd":
            momentum = 0.9 * momentum + gradient
            expected -= 0.1 * (gradient + 0.9 * momentum)
        else:
            momentum = 0.9 * momentum + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            expected -= 0.1 * (momentum / (1 - 0.9**step)) / ((square / (1 - 0.999**step)) ** 0.5 + 1e-8)
        assert weight.item() == pytest.approx(expected)


# schedules


def rates(schedule, epochs, batches, *, rate=0.1, optimizer="sgd"):
    """The learning rate of each step."""
    settings = recipe(schedule=schedule, epochs=epochs, learning_rate=rate, optimizer=optimizer)
    optimizer = make_optimizer(settings, nn.Linear(1, 1).parameters())
    scheduler = make_schedule(settings, optimizer, batches)
    found = []
    for _ in range(epochs * batches):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def published_rates(epochs):
    """The rule of Balogh & Jelasity's code, which looks at its list of drops before each epoch (from 0)."""
    left, rate, found = [0.333, 0.666], 0.1, []
    for epoch in range(epochs):
        if left and epoch / epochs >= left[0]:
            rate, left = rate / 10, left[1:]
        found.append(rate)
    return found


@pytest.mark.matrix("4-5-sgd", "sgd-5-4", "7-1-adam", "adam-1-7")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batches", [1, 5])
@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 6, 7, 20, 30, 301])
def test_thirds_divide_the_rate_before_the_epochs_of_the_published_code(epochs, batches, optimizer):
    expected = [rate for rate in published_rates(epochs) for _ in range(batches)]
    assert rates("thirds", epochs, batches, optimizer=optimizer) == pytest.approx(expected)


@pytest.mark.parametrize("options", [{}, {"schedule": "thirds", "epochs": 30}, {"schedule": "constant"}])
def test_networks_whose_training_is_what_it_was_are_where_they_were(options):
    assert recipe(**options).address == former_address(recipe(**options))


@pytest.mark.parametrize("epochs", [1, 2, 4, 20])
def test_networks_whose_rate_fell_within_an_epoch_are_not_taken_for_others(epochs):
    now = recipe(schedule="thirds", epochs=epochs)
    assert now.address != former_address(now)


def former_address(recipe):
    """Where a network trained here was stored when thirds were counted in steps, always in float32."""
    made_by = dataclasses.asdict(recipe)
    for name in ("save_every", "origin", "precision", "training_attack", "held_out"):
        del made_by[name]
    return artifacts.address(made_by)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_constant_rate_stays(optimizer):
    assert rates("constant", 3, 4, optimizer=optimizer) == [0.1] * 12


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_onecycle_rises_from_little_to_the_rate_and_falls_to_less(optimizer):
    found = rates("onecycle", 5, 8, optimizer=optimizer)
    peak = found.index(max(found))
    assert max(found) == pytest.approx(0.1, rel=0.01)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[0] == pytest.approx(0.1 / 25)
    assert 0 < found[-1] < found[0]


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 20))
def test_batches_are_all_but_one_that_would_hold_a_single_image(count, size):
    lengths = [len(batch) for batch in torch.arange(count).split(size)]
    if len(lengths) > 1 and size > 1 and lengths[-1] == 1:
        lengths.pop()
    assert batches_of(recipe(batch_size=size), count) == len(lengths)


# divergence


@pytest.mark.parametrize(
    ("loss", "name"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")]
)
@pytest.mark.parametrize("settings", [recipe(learning_rate=0.2), StitchOptions(learning_rate=0.2)])
def test_a_loss_that_is_no_number_is_said_with_epoch_and_rate(loss, name, settings):
    message = (
        f"the loss became {name} in epoch 3, at learning rate 0.00801. Lower learning_rate (now 0.2), or "
        "look for NaN in the images."
    )
    with pytest.raises(Diverged, match=f"^{re.escape(message)}$"):
        check_finite(loss, 3, 0.0080051, settings)
