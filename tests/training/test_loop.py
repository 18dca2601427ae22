"""Recipes and their addresses; training by each of them; kill and resume; evaluation."""

import copy
import dataclasses
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from repsim.attacks import Attack, run_attack
from repsim.data import Augmentation, Split, load_data
from repsim.models import build_model
from repsim.support.devices import evaluating
from repsim.training import Recipe, accuracy, augmented, loop, predict, robust_accuracy, train
from repsim.training.optimization import Diverged, objective

PGD = {"method": "pgd", "epsilon": 0.1}
TRADES = {"method": "trades", "epsilon": 0.1}


def run(dataset, architecture="mlp", *, checkpoint=None, on_epoch=None, **options):
    recipe = Recipe.on(dataset, architecture, **{"epochs": 3, "batch_size": 50, **options})
    return train(recipe, dataset, device="cpu", progress=False, checkpoint=checkpoint, on_epoch=on_epoch)


def weights(dataset, architecture="mlp", **options):
    return run(dataset, architecture, **options)[0].state_dict()


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


# recipes


def test_there_is_one_standard_recipe():
    standard = Recipe("digits", "mlp")
    without_attack = [
        Recipe("digits", "mlp", method="pgd"),
        Recipe("digits", "mlp", method="trades", beta=3.0),
        Recipe("digits", "mlp", norm="l2", attack_steps=3, step_size=0.5, random_start=False),
        Recipe("digits", "mlp", method="pgd", epsilon_warmup=0.5, attack_ratio=0.5, beta=1.0),
    ]
    for recipe in without_attack:
        assert recipe == standard
        assert recipe.address == standard.address
        assert recipe.attack() is None


def test_beta_is_of_trades_alone():
    assert Recipe("digits", "mlp", **PGD, beta=3.0) == Recipe("digits", "mlp", **PGD)
    assert Recipe("digits", "mlp", **TRADES, beta=3.0) != Recipe("digits", "mlp", **TRADES)


@pytest.mark.parametrize(("unused", "value"), [("attack_ratio", 0.5), ("random_start", False)])
def test_trades_attacks_every_image_from_beside_it(unused, value):
    trades = Recipe("digits", "mlp", **TRADES)
    same_one = Recipe("digits", "mlp", **TRADES, **{unused: value})
    assert same_one == trades
    assert same_one.address == trades.address
    assert Recipe("digits", "mlp", **PGD, **{unused: value}) != Recipe("digits", "mlp", **PGD)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("epsilon", 1),
        ("step_size", 1),
        ("epsilon_warmup", 1),
        ("attack_ratio", 0),
        ("learning_rate", 1),
        ("weight_decay", 0),
    ],
)
def test_a_whole_number_is_the_same_setting_as_a_float(name, whole):
    one, other = (Recipe("digits", "mlp", **{**PGD, name: kind(whole)}) for kind in (int, float))
    assert one.address == other.address
    assert type(getattr(one, name)) is float
    assert (
        Recipe("digits", "mlp", **TRADES, beta=3).address
        == Recipe("digits", "mlp", **TRADES, beta=3.0).address
    )


def test_some_options_from_a_mapping():
    given = {"epochs": 40, "learning_rate": 1e-3, "beta": 3, "step_size": "2/255", "schedule": "thirds"}
    assert Recipe.options(given) == {**given, "beta": 3.0, "step_size": 2 / 255}
    assert Recipe.options({}) == {}


@pytest.mark.parametrize("name", ["seed", "epsilon", "norm", "method", "dataset", "origin", "epocs"])
def test_what_tells_networks_of_one_set_apart_is_no_such_option(name):
    with pytest.raises(ValueError, match=f"^unknown training option '{name}'"):
        Recipe.options({name: 1})


@pytest.mark.usefixtures("unchecked")
def test_epsilon_may_be_written_as_a_fraction():
    recipe = Recipe("digits", "mlp", method="pgd", epsilon="8/255")
    assert recipe.epsilon == 8 / 255
    assert recipe.address == Recipe("digits", "mlp", method="pgd", epsilon=8 / 255).address


def test_the_address_tells_recipes_apart_but_not_how_many_epochs_they_keep():
    recipe = Recipe("digits", "mlp", **PGD)
    assert dataclasses.replace(recipe, save_every=5).address == recipe.address
    changes = {
        "dataset": "shapes",
        "architecture": "vgg_tiny",
        "fingerprint": "x",
        "method": "trades",
        "norm": "l2",
        "epsilon": 0.2,
        "attack_steps": 3,
        "step_size": 0.01,
        "random_start": False,
        "epsilon_warmup": 0.5,
        "attack_ratio": 0.5,
        "epochs": 21,
        "batch_size": 64,
        "learning_rate": 0.1,
        "schedule": "thirds",
        "optimizer": "adam",
        "weight_decay": 0.0,
        "augment": False,
        "precision": "bfloat16",
        "training_attack": "fgsm",
        "seed": 1,
        "data_seed": 1,
    }
    of_others = {"beta", "held_out", "save_every", "origin"}
    assert {*changes, *of_others} == {field.name for field in dataclasses.fields(Recipe)}
    addresses = {dataclasses.replace(recipe, **{name: value}).address for name, value in changes.items()}
    assert len(addresses | {recipe.address}) == len(changes) + 1
    one, other = (dataclasses.replace(recipe, method="imported", origin=origin) for origin in ("a", "b"))
    assert len({one.address, other.address, recipe.address}) == 3


def test_an_imported_network_may_be_standard():
    recipe = Recipe("digits", "robustness:cifar/resnet18", method="imported", origin="a")
    assert (recipe.method, recipe.epsilon) == ("imported", 0)
    assert recipe.name == f"robustness_cifar_resnet18-{recipe.address}"  # a file can be called so


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "trade"},
            "unknown method 'trade'; did you mean 'trades'? Known: standard, pgd, trades, imported.",
        ),
        ({"norm": "linfinity"}, "unknown norm 'linfinity'; did you mean 'linf'? Known: linf, l2."),
        ({"schedule": "1cycle"}, "unknown schedule '1cycle'; did you mean 'onecycle'?"),
        ({"optimizer": "adamw"}, "unknown optimizer 'adamw'; did you mean 'adam'? Known: sgd, adam."),
        ({"epochs": 0}, "epochs must be at least 1, not 0."),
        ({"batch_size": -1}, "batch_size must be at least 1, not -1."),
        ({**PGD, "attack_steps": 0}, "attack_steps must be at least 1, not 0."),
        ({**PGD, "attack_ratio": 1.5}, "attack_ratio must be at most 1, not 1.5."),
        ({**PGD, "epsilon_warmup": -0.5}, "epsilon_warmup must be at least 0, not -0.5."),
        ({"epsilon": 0.1}, "method='standard' makes no attack: epsilon must be 0, not 0.1."),
        ({"epsilon": "8/0"}, "epsilon must be a number or a fraction such as '8/255', not '8/0'."),
        ({"method": "pgd", "epsilon": -0.1}, "epsilon must be a finite number ≥ 0 in pixel units, not -0.1."),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe("digits", "mlp", **options)


def test_the_training_attack_grows_over_the_warm_up():
    recipe = Recipe("digits", "mlp", **PGD, epsilon_warmup=0.5, attack_steps=5)
    assert [recipe.attack(done).epsilon for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [0, 0.05, 0.1, 0.1]
    )
    assert recipe.attack(0.25).step_size == pytest.approx(2.5 * 0.05 / 5)
    fixed = dataclasses.replace(recipe, step_size=0.04)
    assert fixed.attack(0.25).step_size == pytest.approx(0.02)
    at_once = Recipe("digits", "mlp", **PGD, norm="l2", random_start=False, attack_steps=5)
    assert at_once.attack(0.0) == Attack(0.1, "l2", 5, 0.05, random_start=False)


# training


def test_the_loss_falls_and_the_table_says_so(tiny_data):
    model, curve = run(tiny_data, "resnet_tiny", epochs=8)
    assert list(curve.columns) == ["epoch", "learning_rate", "loss", "accuracy"]
    assert curve["epoch"].tolist() == list(range(1, 9))
    assert curve["loss"].iloc[-1] < 0.5 * curve["loss"].iloc[0]
    assert curve["accuracy"].between(0, 1).all()
    assert curve["accuracy"].iloc[-1] > 0.8
    assert not model.training
    assert accuracy(model, tiny_data.test.images, tiny_data.test.labels) > 0.6


def test_training_is_reproducible_and_leaves_the_callers_random_state_alone(tiny_data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights(tiny_data, **PGD)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(weights(tiny_data, **PGD), first)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_adversarial_training_makes_robust(tiny_data, method):
    options = {"epochs": 25, "attack_steps": 4, "learning_rate": 0.1}
    attacks = [Attack(0.0), Attack(0.1)]
    standard = robust_accuracy(run(tiny_data, "resnet_tiny", **options)[0], tiny_data.test, attacks)[
        "accuracy"
    ]
    trained, curve = run(tiny_data, "resnet_tiny", **options, method=method, epsilon=0.1)
    robust = robust_accuracy(trained, tiny_data.test, attacks)["accuracy"]
    assert robust[1] > standard[1] + 0.2
    assert robust[0] > 0.6
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


@pytest.fixture
def threads():
    """Sets the number of torch's threads; it is as before after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def in_format(tensor, memory_format):
    return tensor.stride() == torch.empty(tensor.shape, memory_format=memory_format).stride()


@pytest.mark.matrix("images_channels_last")
@pytest.mark.parametrize("last", [False, True], ids=["images_contiguous", "images_channels_last"])
def test_weights_and_images_are_channels_last_in_epochs_of_one_thread_only(monkeypatch, threads, last):
    """Here nothing can go wrong with two: no convolution has a stride; see test_several_threads.py."""
    data = load_data("shapes", train_size=60, test_size=20)
    if last:
        images = data.train.images.to(memory_format=torch.channels_last)
        data = dataclasses.replace(data, train=dataclasses.replace(data.train, images=images))
    seen = []

    def watched(settings, attack, model, x, targets, **named):
        maps = [x, *(weight for weight in model.parameters() if weight.dim() == 4)]
        for memory_format in (torch.contiguous_format, torch.channels_last):
            if all(in_format(tensor, memory_format) for tensor in maps):
                seen.append(memory_format)
        return objective(settings, attack, model, x, targets, **named)

    monkeypatch.setattr(loop, "objective", watched)
    numbers = [1, 2, 1, 3]
    threads(numbers[0])
    model, _ = run(
        data,
        "vgg_tiny",
        epochs=4,
        batch_size=60,
        augment=False,
        on_epoch=lambda epoch, _: threads([*numbers, 1][epoch]),
    )
    formats = {1: torch.channels_last, 2: torch.contiguous_format, 3: torch.contiguous_format}
    assert seen == [formats[number] for number in numbers]
    assert all(
        in_format(weight, torch.contiguous_format) for weight in model.parameters() if weight.dim() == 4
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_a_checkpoint_of_one_number_of_threads_goes_on_with_another(
    tiny_data, tmp_path, threads, optimizer, numbers
):
    checkpoint = tmp_path / "run.checkpoint"
    options = {"optimizer": optimizer, "learning_rate": 0.01, "epochs": 4, "batch_size": 50}

    def kill(epoch, model):
        if epoch == 3:
            raise Killed

    threads(1)
    _, curve = run(tiny_data, "vgg_tiny", **options)
    threads(numbers[0])
    with pytest.raises(Killed):
        run(tiny_data, "vgg_tiny", **options, checkpoint=checkpoint, on_epoch=kill)
    threads(numbers[1])
    model, table = run(tiny_data, "vgg_tiny", **options, checkpoint=checkpoint)
    # but for rounding, which grows from step to step
    pd.testing.assert_frame_equal(table, curve, rtol=0.02)
    assert all(
        in_format(weight, torch.contiguous_format) for weight in model.parameters() if weight.dim() == 4
    )


@pytest.mark.matrix("inference_mode-trades", "trades-inference_mode")
@pytest.mark.parametrize("options", [{}, PGD, TRADES], ids=["standard", "pgd", "trades"])
@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_training_needs_no_gradients_of_the_callers(tiny_data, without, options):
    expected = weights(tiny_data, **options)
    with without():
        found, _ = run(tiny_data, **options)
        assert not torch.is_grad_enabled()
    assert same(found.state_dict(), expected)
    assert all(weight.requires_grad and not weight.is_inference() for weight in found.parameters())


def test_no_share_attacked_is_standard_training(tiny_data):
    options = {"architecture": "resnet_tiny", "epochs": 2}
    assert same(weights(tiny_data, **options, **PGD, attack_ratio=0.0), weights(tiny_data, **options))


def rates(dataset, monkeypatch, **options):
    """The learning rate of every step of a training, and its table."""
    seen, make = [], loop.make_optimizer

    def watched(recipe, model):
        optimizer = make(recipe, model)
        optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", watched)
    _, curve = run(dataset, **options)
    return seen, curve


def test_thirds_schedule(tiny_data, monkeypatch):
    seen, curve = rates(tiny_data, monkeypatch, schedule="thirds", epochs=3, learning_rate=0.1)
    assert seen == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 4)
    assert curve["learning_rate"].tolist() == pytest.approx([0.01, 0.001, 0.001])  # at the epoch's end


def test_augmentation_is_used_unless_told_otherwise(tiny_data):
    moving = dataclasses.replace(tiny_data, augmentation=Augmentation(crop=2, flip=True))
    plain = weights(tiny_data)
    assert not same(weights(moving), plain)
    assert same(weights(moving, augment=False), plain)


def first_batch(dataset, **options):
    """The initial weights and the first batch of a training."""
    seen = {}

    class Stop(Exception):
        pass

    def look(recipe, attack, model, x, y, **named):
        seen["weights"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        seen["images"] = x
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "objective", look)
        with pytest.raises(Stop):
            run(dataset, **options)
    return seen


def test_each_seed_has_its_own_job(tiny_data):
    plain = first_batch(tiny_data)
    seeded, reordered = first_batch(tiny_data, seed=1), first_batch(tiny_data, data_seed=1)
    assert torch.equal(seeded["images"], plain["images"])
    assert not same(seeded["weights"], plain["weights"])
    assert same(reordered["weights"], plain["weights"])
    assert not torch.equal(reordered["images"], plain["images"])


def test_each_epoch_has_an_order_of_its_own(tiny_data, monkeypatch):
    loss, orders = loop.objective, []

    def look(recipe, attack, model, x, y, **named):
        orders.append(y)
        return loss(recipe, attack, model, x, y, **named)

    monkeypatch.setattr(loop, "objective", look)
    run(tiny_data, epochs=2, batch_size=200)
    assert not torch.equal(*orders)
    assert torch.equal(orders[0].sort().values, orders[1].sort().values)


def test_the_starting_weights_are_the_architectures(tiny_data):
    initial = build_model(
        "mlp", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std, seed=4
    ).state_dict()
    assert same(first_batch(tiny_data, seed=4)["weights"], initial)


@pytest.mark.parametrize("count", [101, 51])
def test_a_last_batch_of_one_is_left_out(tiny_data, count):
    """On 4 × 4 images, the last BatchNorms see one pixel, and would refuse a single image."""
    small = Split(tiny_data.train.images[:count, :, ::4, ::4], tiny_data.train.labels[:count])
    dataset = dataclasses.replace(tiny_data, train=small, test=small)
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        loss = loop.objective
        patch.setattr(loop, "objective", lambda *a, **n: steps.append(len(a[-1])) or loss(*a, **n))
        _, curve = run(dataset, "resnet_tiny", epochs=2)
    assert steps == [50] * (count // 50) * 2
    assert len(curve) == 2


@pytest.mark.parametrize(("count", "sizes"), [(102, [50, 50, 2]), (100, [50, 50]), (30, [30]), (1, [1])])
def test_every_other_batch_is_used(tiny_data, monkeypatch, count, sizes):
    some = Split(tiny_data.train.images[:count], tiny_data.train.labels[:count])
    steps, loss = [], loop.objective
    monkeypatch.setattr(loop, "objective", lambda *a, **n: steps.append(len(a[-1])) or loss(*a, **n))
    run(dataclasses.replace(tiny_data, train=some), epochs=1)
    assert steps == sizes


def test_a_loss_that_is_no_number_stops(tiny_data):
    broken = Split(tiny_data.train.images * float("nan"), tiny_data.train.labels)
    message = (
        "the loss became nan in epoch 1, at learning rate 0.008. Lower learning_rate (now 0.2), or look for "
        "NaN in the images."
    )
    with pytest.raises(Diverged, match=re.escape(message)):
        run(dataclasses.replace(tiny_data, train=broken))


def test_divergence_names_its_epoch(tiny_data):
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) in epoch 2, at learning rate 1e\+30\."):
        run(tiny_data, schedule="constant", learning_rate=1e30, batch_size=200, weight_decay=0.0)


# kill and resume


class Killed(Exception):
    pass


@pytest.mark.matrix("pgd")
@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "resnet_tiny"},
        {
            "architecture": "resnet_tiny",
            **PGD,
            "attack_steps": 2,
            "epsilon_warmup": 0.5,
            "schedule": "thirds",
        },
        {**TRADES, "attack_steps": 2, "optimizer": "adam", "learning_rate": 0.01},
        {"optimizer": "adam", "schedule": "constant", "learning_rate": 0.01},
    ],
    ids=["standard", "pgd", "trades", "adam"],
)
def test_a_kill_and_a_resumption_change_nothing(tiny_data, tmp_path, options):
    checkpoint = tmp_path / "deep" / "run.checkpoint"
    moving = dataclasses.replace(tiny_data, augmentation=Augmentation(crop=1, flip=True))
    options = {"epochs": 5, **options}

    def kill(epoch, model):
        if epoch == 4:
            raise Killed

    model, curve = run(moving, **options)
    with pytest.raises(Killed):
        run(moving, **options, checkpoint=checkpoint, on_epoch=kill)
    torch.rand(3)  # the random state of the second process is another
    epochs = []
    resumed, table = run(
        moving, **options, checkpoint=checkpoint, on_epoch=lambda epoch, _: epochs.append(epoch)
    )
    assert epochs == [4, 5]
    assert same(resumed.state_dict(), model.state_dict())
    pd.testing.assert_frame_equal(table, curve, check_exact=True)


@pytest.mark.slow
def test_a_real_kill_and_a_resumption_change_nothing(tiny_data, tmp_path):
    checkpoint = tmp_path / "run.checkpoint"
    program = f"""
        import os, signal, torch
        from pathlib import Path
        from repsim.data import load_data
        from repsim.training import Recipe, train

        torch.set_num_threads({torch.get_num_threads()})
        data = load_data("digits", train_size=200, test_size=60)
        recipe = Recipe.on(data, "resnet_tiny", epochs=5, batch_size=50)

        def kill(epoch, model):
            if epoch == 4:
                os.kill(os.getpid(), signal.SIGKILL)

        train(recipe, data, device="cpu", progress=False, checkpoint=Path({str(checkpoint)!r}), on_epoch=kill)
    """
    root = Path(loop.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]
    model, curve = run(tiny_data, "resnet_tiny", epochs=5)
    resumed, table = run(tiny_data, "resnet_tiny", epochs=5, checkpoint=checkpoint)
    assert same(resumed.state_dict(), model.state_dict())
    pd.testing.assert_frame_equal(table, curve, check_exact=True)


def test_a_checkpoint_of_another_recipe_is_refused(tiny_data, tmp_path):
    checkpoint = tmp_path / "run.checkpoint"
    run(tiny_data, checkpoint=checkpoint)
    theirs, ours = (
        Recipe.on(tiny_data, "mlp", epochs=3, batch_size=50, seed=seed).address for seed in (0, 1)
    )
    message = (
        f"{checkpoint} belongs to recipe {theirs}, not to {ours}: give each recipe a checkpoint of its own."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tiny_data, checkpoint=checkpoint, seed=1)


# augmentation


@pytest.fixture
def pictures():
    return torch.rand(64, 3, 6, 8, generator=torch.Generator().manual_seed(0))


def test_no_augmentation_changes_nothing(pictures):
    state = torch.get_rng_state()
    assert torch.equal(augmented(pictures, Augmentation()), pictures)
    assert torch.equal(torch.get_rng_state(), state)


def test_flips_mirror_about_half_of_the_images(pictures):
    torch.manual_seed(0)
    out = augmented(pictures, Augmentation(flip=True))
    kept = (out == pictures).flatten(1).all(1)
    mirrored = (out == pictures.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_crops_shift_within_a_margin_of_zeros(pictures):
    torch.manual_seed(0)
    margin = 2
    out = augmented(pictures, Augmentation(crop=margin))
    assert out.shape == pictures.shape
    padded = F.pad(pictures, [margin] * 4)
    shifts = set()
    for image, wide in zip(out, padded, strict=True):
        fits = [
            (top, left)
            for top in range(2 * margin + 1)
            for left in range(2 * margin + 1)
            if torch.equal(image, wide[:, top : top + 6, left : left + 8])
        ]
        assert len(fits) == 1
        shifts.add(fits[0])
    assert {top for top, _ in shifts} == {left for _, left in shifts} == set(range(2 * margin + 1))


# evaluation


@pytest.fixture(scope="module")
def pair(tiny_data):
    """Two standard networks of different seeds."""
    return [run(tiny_data, "resnet_tiny", epochs=8, seed=seed, data_seed=seed)[0] for seed in (0, 1)]


def test_predict(tiny_data, pair):
    model = pair[0].train()
    images = tiny_data.test.images[:10]
    logits = predict(model, images, batch_size=3)
    assert logits.shape == (10, 10)
    assert not logits.requires_grad
    assert all(module.training for module in model.modules())
    with evaluating(model), torch.no_grad():
        torch.testing.assert_close(logits, model(images), rtol=0, atol=1e-5)
    assert accuracy(model, images, logits.argmax(1)) == 1
    assert accuracy(model, images, (logits.argmax(1) + 1) % 10) == 0


def test_robust_accuracy(tiny_data, pair):
    attacks = [Attack(0.0), Attack(0.1, steps=5), Attack(0.5, "l2", steps=3)]
    table = robust_accuracy(pair[0], tiny_data.test, attacks)
    assert list(table.columns) == ["attack", "norm", "epsilon", "steps", "accuracy"]
    assert table["norm"].tolist() == ["linf", "linf", "l2"]
    assert table["epsilon"].tolist() == [0, 0.1, 0.5]
    assert table["steps"].tolist() == [20, 5, 3]
    assert table["accuracy"][0] == accuracy(pair[0], tiny_data.test.images, tiny_data.test.labels)
    assert table["accuracy"][1] < table["accuracy"][0]


def test_transfer_uses_the_images_of_the_source(tiny_data, pair):
    model, source = pair
    attack, test = Attack(0.1), tiny_data.test
    transfer = robust_accuracy(model, test, [attack], source=source)["accuracy"][0]
    assert transfer == accuracy(model, run_attack(source, test.images, test.labels, attack), test.labels)
    assert transfer > robust_accuracy(model, test, [attack])["accuracy"][0]


# images and labels as their users have them


def loader(split, **options):
    pairs = torch.utils.data.TensorDataset(split.images, split.labels)
    return torch.utils.data.DataLoader(pairs, batch_size=7, **options)


@pytest.fixture(scope="module")
def network(tiny_data):
    return build_model("mlp", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std)


def test_predictions_of_whatever_holds_images(tiny_data, network):
    images = tiny_data.test.images
    expected = predict(network, images)
    for source in (images.numpy(), loader(tiny_data.test), (batch for batch in images.split(9))):
        torch.testing.assert_close(predict(network, source), expected)
    torch.testing.assert_close(
        predict(copy.deepcopy(network).double(), images), expected.double(), rtol=1e-4, atol=1e-5
    )
    half = predict(copy.deepcopy(network).bfloat16(), images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0.05)


def test_accuracy_of_whatever_holds_images_and_labels(tiny_data, network):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    expected = accuracy(network, images, labels)
    one_hot = F.one_hot(labels, 10)
    for given in ((images, one_hot), (images.numpy(), one_hot.numpy()), (images, labels.tolist())):
        assert accuracy(network, *given) == expected
    for shuffle in (False, True):
        assert accuracy(network, loader(tiny_data.test, shuffle=shuffle)) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"give labels=None, which takes them from its batches\.$"):
        accuracy(network, loader(tiny_data.test, shuffle=True), labels)
    attacks = [Attack(0.0), Attack(0.1, steps=1, random_start=False)]
    pd.testing.assert_frame_equal(
        robust_accuracy(network, loader(tiny_data.test), attacks),
        robust_accuracy(network, Split(images, one_hot.float()), attacks),
    )


def test_predictions_say_where_they_hang_on_the_batch():
    norm = torch.nn.BatchNorm2d(3, track_running_stats=False)
    network = torch.nn.Sequential(norm, torch.nn.Flatten(), torch.nn.Linear(48, 3))
    with pytest.warns(
        UserWarning, match=r"^BatchNorm without running statistics \(0\) takes those of the batch"
    ):
        predict(network, torch.rand(5, 3, 4, 4))
