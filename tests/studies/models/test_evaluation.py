"""Tables over many models agree with each model asked directly."""

import pandas as pd
import pytest
import torch

from repsim.attacks import Attack, Gabor, run_attack
from repsim.data import load_data
from repsim.studies.models.evaluation import (
    accuracy_table,
    adversarial_examples,
    attack_examples,
    curve_table,
    transfer_table,
)
from repsim.training import accuracy, model_store, predict, robust_accuracy, zoo

LABELS = ["architecture", "method", "norm", "epsilon", "seed"]
PGD = Attack(0.1, steps=3)


@pytest.fixture(scope="module")
def data():
    return load_data("digits", test_size=40)


@pytest.fixture(scope="module")
def models():
    """A standard and a robust committed network, and another standard one."""
    recipes = zoo.recipes(load_data("digits"), ["resnet_tiny"], [0.0, 0.1], [0, 1])
    return [model_store.find(recipe, "cpu") for recipe in (recipes[0], recipes[2], recipes[1])]


# accuracy


def test_accuracy_table(models, data):
    attacks = [Attack(0.0), PGD, Attack(1.0, "l2", 2), Gabor(0.3, steps=2)]
    table = accuracy_table(models, data, attacks, progress=False)
    measured = ["attack", "attack_norm", "attack_epsilon", "attack_steps", "images", "accuracy"]
    assert list(table.columns) == LABELS + measured
    assert len(table) == 12
    assert table["epsilon"].tolist() == [0] * 4 + [0.1] * 4 + [0] * 4  # trained with
    assert table["seed"].tolist() == [0] * 8 + [1] * 4
    assert table["attack"].tolist() == ["pgd", "pgd", "pgd", "gabor"] * 3
    assert table["attack_epsilon"].tolist() == [0, 0.1, 1, 0.3] * 3
    assert table["attack_norm"].tolist() == ["linf", "linf", "l2", "linf"] * 3
    assert table["attack_steps"].tolist() == [20, 3, 2, 2] * 3
    assert set(table["images"]) == {40}
    direct = pd.concat([robust_accuracy(model.network, data.test, attacks) for model in models])
    assert table["accuracy"].tolist() == pytest.approx(direct["accuracy"].tolist(), abs=1e-6)


def test_accuracies_on_record_are_taken_from_it(models):
    data = load_data("digits")
    levels = zoo.EPSILONS["digits", "linf"]
    fresh = [model_store.stored_model(model.path, "cpu") for model in models]
    recorded = [value for model in fresh for value in model.accuracies["accuracy"]]
    table = accuracy_table(fresh, data, [Attack(level) for level in levels], progress=False)
    assert not any("network" in vars(model) for model in fresh)  # nothing was computed
    assert table["accuracy"].tolist() == recorded


# transfer


def test_transfer_table(models, data):
    table = transfer_table(iter(models), data.test, PGD)
    assert list(table.columns) == ["source", "target", "attack", "norm", "epsilon", "accuracy"]
    assert set(table["attack"]) == {"pgd"}
    names = [model.name for model in models]
    assert list(zip(table["source"], table["target"], strict=True)) == [(a, b) for a in names for b in names]
    assert set(table["norm"]) == {"linf"}
    assert set(table["epsilon"]) == {0.1}

    found = table.pivot(index="source", columns="target", values="accuracy").loc[names, names].to_numpy()
    for row, source in enumerate(models):
        images = run_attack(source.network, data.test.images, data.test.labels, PGD)
        for column, target in enumerate(models):
            assert found[row, column] == accuracy(target.network, images, data.test.labels)
    white_box = [robust_accuracy(model.network, data.test, [PGD])["accuracy"][0] for model in models]
    assert found.diagonal().tolist() == white_box


def test_images_that_fool_one_standard_network_fool_it_most(models, data):
    table = transfer_table(models, data.test, PGD)
    of_first = table[table["source"] == models[0].name].set_index("target")["accuracy"]
    assert of_first.idxmin() == models[0].name
    assert of_first[models[1].name] > 0.7  # the robust one is hardly moved


# training curves


def test_curve_table(models):
    table = curve_table(models)
    assert list(table.columns) == [*LABELS, "epoch", "learning_rate", "loss", "accuracy"]
    assert table["epoch"].tolist() == list(range(1, 31)) * 3
    for model, part in zip(models, [table[:30], table[30:60], table[60:]], strict=True):
        assert set(part["epsilon"]) == {model.recipe.epsilon}
        pd.testing.assert_frame_equal(part[model.curve.columns].reset_index(drop=True), model.curve)


# images


def test_adversarial_examples(models, data):
    split, pair = data.test.subset(6), models[:2]
    rows, table = adversarial_examples(pair, split, PGD)
    assert list(rows) == [
        "test image",
        "trained at ε = 0: attacked",
        "trained at ε = 0: added",
        "trained at ε = 0.1: attacked",
        "trained at ε = 0.1: added",
    ]
    assert rows["test image"] is split.images
    assert list(table.columns) == [*LABELS, "image", "label", "prediction", "confidence"]
    assert table["image"].tolist() == list(range(6)) * 2
    assert table["label"].tolist() == split.labels.tolist() * 2
    for place, model in enumerate(pair):
        attacked, added = (
            rows[f"trained at ε = {model.recipe.epsilon:g}: {what}"] for what in ("attacked", "added")
        )
        moved = attacked - split.images
        assert moved.abs().max() <= 0.1 + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        assert torch.equal(attacked, run_attack(model.network, split.images, split.labels, PGD))
        # grey is nothing; the largest change of each image is black or white
        assert torch.equal(added == 0.5, moved == 0)
        assert torch.equal((added - 0.5).sign(), moved.sign())
        torch.testing.assert_close((added - 0.5).abs().amax((1, 2, 3)), torch.full((6,), 0.5))
        part = table[6 * place : 6 * place + 6]
        chances = predict(model.network, attacked).softmax(1)
        assert part["prediction"].tolist() == chances.argmax(1).tolist()
        assert part["confidence"].tolist() == pytest.approx(chances.amax(1).tolist())
        assert set(part["epsilon"]) == {model.recipe.epsilon}


def test_without_an_attack_nothing_is_added(models, data):
    rows, _ = adversarial_examples(models[:1], data.test.subset(3), Attack(0.0))
    assert torch.equal(rows["trained at ε = 0: attacked"], rows["test image"])
    assert (rows["trained at ε = 0: added"] == 0.5).all()


def test_two_models_of_one_epsilon_keep_rows_of_their_own(models, data):
    rows, table = adversarial_examples([models[0], models[2]], data.test.subset(3), PGD)
    second = f"trained at ε = 0 ({models[2].name})"
    assert list(rows)[1:] == [
        "trained at ε = 0: attacked",
        "trained at ε = 0: added",
        f"{second}: attacked",
        f"{second}: added",
    ]
    assert not torch.equal(rows["trained at ε = 0: attacked"], rows[f"{second}: attacked"])
    assert table["seed"].tolist() == [0] * 3 + [1] * 3


def test_examples_of_several_attacks(models, data):
    split, model = data.test.subset(6), models[0]
    attacks = {"PGD": PGD, "Gabor": Gabor(0.3, steps=2)}
    rows, table = attack_examples(model, split, attacks)
    assert list(rows) == ["test image", "PGD", "PGD: added", "Gabor", "Gabor: added"]
    of_the_attack = ["attack_norm", "attack_epsilon"]
    answers = ["image", "label", "prediction", "confidence"]
    assert list(table.columns) == ["attack", *LABELS, *of_the_attack, *answers]
    assert table["attack"].tolist() == ["PGD"] * 6 + ["Gabor"] * 6
    assert table["attack_epsilon"].tolist() == [0.1] * 6 + [0.3] * 6
    alone, of_one = adversarial_examples([model], split, PGD)
    assert torch.equal(rows["PGD"], alone["trained at ε = 0: attacked"])
    assert torch.equal(rows["PGD: added"], alone["trained at ε = 0: added"])
    pd.testing.assert_frame_equal(table[:6][of_one.columns], of_one)
    assert torch.equal(rows["Gabor"], run_attack(model.network, split.images, split.labels, attacks["Gabor"]))
