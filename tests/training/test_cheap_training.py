"""Training in bfloat16 and by cheap attacks: as good where it works, undone where it fails."""

import dataclasses
import errno
import os

import pandas as pd
import pytest
import torch

from repsim.attacks import Attack
from repsim.data import load_data
from repsim.models import build_model
from repsim.support import devices
from repsim.training import Recipe, loop, overfitting, robust_accuracy, train
from repsim.training.optimization import Diverged, free_objectives
from repsim.training.overfitting import CatastrophicOverfitting, Guard

PGD = {"method": "pgd", "epsilon": 0.1, "attack_steps": 3}
FGSM = {**PGD, "training_attack": "fgsm"}
FREE = {**PGD, "training_attack": "free", "attack_steps": 2}


def recipe(dataset, architecture="resnet_tiny", **options):
    return Recipe.on(dataset, architecture, **{"epochs": 3, "batch_size": 50, **options})


def run(dataset, architecture="resnet_tiny", *, checkpoint=None, on_epoch=None, **options):
    chosen = recipe(dataset, architecture, **options)
    return train(chosen, dataset, device="cpu", progress=False, checkpoint=checkpoint, on_epoch=on_epoch)


def same(one, other):
    return all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())


# recipes


def test_what_has_no_effect_has_its_default():
    plain = Recipe("digits", "mlp", **PGD)
    assert Recipe("digits", "mlp", **PGD, held_out=99) == plain
    assert Recipe("digits", "mlp", training_attack="fgsm") == Recipe("digits", "mlp")
    trades = {**PGD, "method": "trades"}
    assert Recipe("digits", "mlp", **trades, training_attack="free") == Recipe("digits", "mlp", **trades)
    assert Recipe("digits", "mlp", **{**FGSM, "attack_steps": 9}) == Recipe("digits", "mlp", **FGSM)
    addresses = {Recipe("digits", "mlp", **kind, held_out=n).address for kind in (FGSM, FREE) for n in (9, 8)}
    assert len(addresses | {plain.address}) == 5


def test_the_attacks_are_their_authors():
    """Wong et al. (2020), Section 4; Shafahi et al. (2019), Algorithm 1."""
    assert Recipe("digits", "mlp", **FGSM).attack() == Attack(0.1, steps=1, step_size=0.125)
    assert Recipe("digits", "mlp", **FREE).attack() == Attack(0.1, steps=2, step_size=0.1)
    assert Recipe("digits", "mlp", **FGSM).attack(pgd_steps=4) == Attack(0.1, steps=4)
    growing = Recipe("digits", "mlp", **FGSM, epsilon_warmup=0.5).attack(0.25)
    assert growing == Attack(0.05, steps=1, step_size=0.0625)


# precision


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.matrix("pgd")
@pytest.mark.parametrize(
    "options",
    [{}, PGD, {**PGD, "method": "trades"}, FGSM, FREE],
    ids=["standard", "pgd", "trades", "fgsm", "free"],
)
def test_bfloat16_trains_the_same_network_but_for_rounding(tiny_data, options):
    """Rounding grows from step to step: after a few, losses are still nearly the same."""
    exact, coarse = (
        run(tiny_data, **options, precision=each, learning_rate=0.05) for each in ("float32", "bfloat16")
    )
    assert all(weight.dtype == torch.float32 for weight in coarse[0].parameters())
    assert not same(exact[0], coarse[0])
    assert coarse[1]["loss"].tolist() == pytest.approx(exact[1]["loss"].tolist(), rel=0.05)


@pytest.fixture
def bfloat16(monkeypatch):
    """A device that multiplies bfloat16 itself, or says that it does."""
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda device: True)


@pytest.mark.usefixtures("bfloat16")
def test_a_network_that_cannot_be_copied_is_attacked_itself(tiny_data, monkeypatch):
    copied, _ = run(tiny_data, **PGD, precision="bfloat16", epochs=1)

    def refuse(*given):
        raise ValueError("not to be traced")

    monkeypatch.setattr(loop, "FollowingCopy", refuse)
    network, curve = run(tiny_data, **PGD, precision="bfloat16", epochs=1)
    assert (
        curve["loss"].isfinite().all() if hasattr(curve["loss"], "isfinite") else curve["loss"].notna().all()
    )
    assert not same(network, copied)  # but for the rounding of what is folded


def test_a_device_without_bfloat16_refuses_before_anything_is_built(tiny_data, monkeypatch):
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda device: False)
    monkeypatch.setattr(loop, "build_model", None)
    message = r"^this processor does not multiply bfloat16 itself, and is faster with precision='float32'\."
    with pytest.raises(ValueError, match=message):
        run(tiny_data, precision="bfloat16")


@pytest.mark.usefixtures("bfloat16")
def test_a_checkpoint_of_another_precision_is_refused(tiny_data, tmp_path):
    checkpoint = tmp_path / "run.checkpoint"
    run(tiny_data, "mlp", checkpoint=checkpoint)
    written = checkpoint.read_bytes()
    with pytest.raises(ValueError, match="give each recipe a checkpoint of its own"):
        run(tiny_data, "mlp", checkpoint=checkpoint, precision="bfloat16")
    assert checkpoint.read_bytes() == written


def test_a_full_disk_is_said_and_loses_nothing(tiny_data, tmp_path, monkeypatch):
    checkpoint = tmp_path / "run.checkpoint"
    model, _ = run(tiny_data, "mlp")
    with monkeypatch.context() as patch:
        write, written = os.fsync, []

        def fill(handle):
            written.append(handle)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device", str(checkpoint))
            write(handle)

        patch.setattr(os, "fsync", fill)
        with pytest.raises(OSError, match=r"No space left on device: .*run\.checkpoint"):
            run(tiny_data, "mlp", checkpoint=checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["run.checkpoint"]
    epochs = []
    resumed, _ = run(tiny_data, "mlp", checkpoint=checkpoint, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [2, 3]
    assert same(resumed, model)


# cheap attacks


def test_free_training_shows_each_batch_several_times(tiny_data, monkeypatch):
    steps, make = [], loop.make_optimizer

    def watched(*given):
        optimizer = make(*given)
        optimizer.register_step_pre_hook(lambda *_: steps.append(optimizer.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", watched)
    run(tiny_data, "mlp", **{**FREE, "attack_steps": 3}, held_out=20, epochs=2)
    assert len(steps) == 2 * 3 * 4  # 180 images in batches of 50
    assert steps[0] == steps[2] != steps[3]


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.7)])
def test_free_training_moves_images_by_the_gradient_of_the_weights(tiny_data, norm, epsilon):
    """Each time within the ball, and up the loss; the next batch begins where this one ended."""
    model = build_model("mlp", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std)
    x, y = tiny_data.train.images[:20], tiny_data.train.labels[:20]
    attack, moves, seen, losses, ends = Attack(epsilon, norm, 4, epsilon / 2), [], [], [], []

    def watched(images):
        seen.append(images.detach())
        return model(images)

    for _ in range(2):
        for loss, _logits in free_objectives(watched, attack, x, y, moves):
            losses.append(loss.item())
            loss.backward()
        ends.append(moves[0].clone())
    size = (
        (lambda move: move.flatten(1).norm(dim=1))
        if norm == "l2"
        else (lambda move: move.abs().amax((1, 2, 3)))
    )
    assert torch.equal(seen[0], x)
    assert all((size(images - x) <= epsilon * 1.0001).all() for images in seen)
    assert losses[:4] == sorted(losses[:4])
    torch.testing.assert_close(seen[4] - x, ends[0])
    assert losses[4] > losses[1]


def test_held_out_images_are_of_all_classes_and_never_trained_on(tiny_data):
    images = tiny_data.train
    guard = Guard(recipe(tiny_data, **FGSM, held_out=20), images, 10)
    assert len(guard.others) == len(images) - 20
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[guard.others] = False
    assert images.labels[rest].bincount().tolist() == [2] * 10
    few = Guard(recipe(tiny_data, **FGSM), images, 10)
    assert len(few.others) == len(images) - len(images) // 10  # at most a tenth
    assert len(Guard(recipe(tiny_data, **FGSM), images.subset(5), 10).others) == 4  # and one at least


@pytest.mark.parametrize("options", [FGSM, FREE], ids=["fgsm", "free"])
def test_a_kill_and_a_resumption_change_nothing(tiny_data, tmp_path, options):
    class Killed(Exception):
        pass

    def kill(epoch, model):
        if epoch == 3:
            raise Killed

    checkpoint = tmp_path / "run.checkpoint"
    model, curve = run(tiny_data, "mlp", **options, epochs=4)
    with pytest.raises(Killed):
        run(tiny_data, "mlp", **options, epochs=4, checkpoint=checkpoint, on_epoch=kill)
    resumed, table = run(tiny_data, "mlp", **options, epochs=4, checkpoint=checkpoint)
    assert same(resumed, model)
    pd.testing.assert_frame_equal(table, curve, check_exact=True)


def falling(monkeypatch, *values):
    """Robust accuracies that the guard finds, one after the other."""
    found = iter(values)
    monkeypatch.setattr(Guard, "accuracy", lambda self, network, batch_size: next(found))


def attacks_of(monkeypatch):
    seen, objective = [], loop.objective

    def watched(settings, attack, *given, **named):
        seen.append(attack)
        return objective(settings, attack, *given, **named)

    monkeypatch.setattr(loop, "objective", watched)
    return seen


def test_a_network_that_overfits_goes_back_and_on_with_pgd(monkeypatch):
    data = load_data("digits", train_size=1000, test_size=20)
    options = {**FGSM, "held_out": 100, "batch_size": 450, "learning_rate": 0.01}
    kept = {}
    falling(monkeypatch, 0.7, 0.8, 0.01, 0.75, 0.02, 0.8)
    attacks = attacks_of(monkeypatch)
    with pytest.warns(CatastrophicOverfitting) as caught:
        _, curve = run(
            data, "mlp", **options, epochs=4, on_epoch=lambda e, m: kept.setdefault(e, m.state_dict())
        )
    fell = "catastrophic overfitting: accuracy under PGD-20 on 100 held-out images fell to"
    assert [str(each.message) for each in caught] == [
        f"{fell} 0.010 in epoch 3, from 0.800. Training goes back to epoch 2, and on with PGD-2.",
        f"{fell} 0.020 in epoch 4, from 0.800. Training goes back to epoch 3, and on with PGD-4.",
    ]
    assert curve["epoch"].tolist() == [1, 2, 3, 4]
    assert curve["robust"].tolist() == [0.7, 0.8, 0.75, 0.8]
    assert curve["pgd_steps"].tolist() == [0, 0, 2, 4]
    assert [attack.steps for attack in attacks] == [1] * 6 + [2] * 4 + [4] * 2
    assert list(kept) == [1, 2, 3, 4]


def test_going_back_is_as_if_the_bad_epoch_had_not_been(tiny_data, monkeypatch):
    """From the second epoch on it is what training by PGD-2 makes of the same state."""
    monkeypatch.setattr(overfitting, "ERRORS", 0)
    falling(monkeypatch, 0.5, 0.0, 0.5)
    states = []
    with pytest.warns(CatastrophicOverfitting):
        run(tiny_data, "mlp", **FGSM, epochs=2, on_epoch=lambda e, m: states.append(m.state_dict()))
    falling(monkeypatch, 0.5, 0.5)
    attack = Recipe.attack
    monkeypatch.setattr(
        Recipe, "attack", lambda self, done=1.0, steps=0: attack(self, done, 2 if done >= 0.5 else steps)
    )
    expected, _ = run(tiny_data, "mlp", **FGSM, epochs=2)
    assert all(torch.equal(states[-1][name], value) for name, value in expected.state_dict().items())


def test_a_network_that_falls_again_and_again_is_given_up(tiny_data, monkeypatch):
    monkeypatch.setattr(overfitting, "ERRORS", 0)
    falling(monkeypatch, 0.5, *[0.0] * 9)
    message = (
        r"fell to 0\.000 in epoch 2, from 0\.500, also where PGD-8 attacks\. Lower learning_rate, or epsilon"
    )
    with pytest.warns(CatastrophicOverfitting), pytest.raises(Diverged, match=message):
        run(tiny_data, "mlp", **FGSM, epochs=3)


def test_while_the_attack_grows_nothing_is_a_fall(tiny_data, monkeypatch):
    monkeypatch.setattr(overfitting, "ERRORS", 0)
    falling(monkeypatch, 0.5, 0.0, 0.4, 0.4)
    _, curve = run(tiny_data, "mlp", **FGSM, epochs=4, epsilon_warmup=0.75)
    assert curve["robust"].tolist() == [0.5, 0.0, 0.4, 0.4]


@pytest.mark.parametrize(
    ("count", "robust", "fell"), [(100, 0.05, True), (100, 0.3, False), (10, 0.05, False)]
)
def test_a_fall_is_more_than_chance(tiny_data, count, robust, fell):
    images = dataclasses.replace(
        tiny_data.train,
        images=tiny_data.train.images.repeat(10, 1, 1, 1),
        labels=tiny_data.train.labels.repeat(10),
    )
    guard = Guard(recipe(tiny_data, **FGSM, held_out=count), images, 10)
    guard.keep({"history": [{"robust": 0.5, "pgd_steps": 0}]})
    assert guard.has_fallen(robust) is fell


@pytest.mark.slow
@pytest.mark.parametrize("options", [FGSM, FREE], ids=["fgsm", "free"])
def test_cheap_attacks_make_robust(options):
    data = load_data("digits")
    attacks = [Attack(0.0), Attack(0.1)]
    plain = {"epochs": 10, "batch_size": 128, "learning_rate": 0.1}
    standard, robust = (
        robust_accuracy(run(data, **plain, **each)[0], data.test, attacks)["accuracy"]
        for each in ({}, options)
    )
    assert robust[1] > standard[1] + 0.2
    assert robust[0] > 0.9
