"""Recipes of the zoos, and the committed networks that were made by them."""

import dataclasses
import re
from functools import cache
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from repsim.attacks import Attack
from repsim.compute import processes
from repsim.data import from_bytes, load_data
from repsim.data.synthetic import Informative, compose
from repsim.support import paths
from repsim.training import Recipe, accuracy, predict, robust_accuracy, zoo
from repsim.training.model_store import TrainedModel, find, measure, obtain
from repsim.training.zoo import build, family, recipes


def recipe_on(dataset, **options):
    return Recipe.on(dataset, **{"architecture": "mlp", "epochs": 3, "batch_size": 100, **options})


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def shapes():
    return load_data("shapes")


# recipes


def test_every_combination_has_a_recipe(digits):
    found = recipes(digits, ["mlp", "vgg_tiny"], [0.0, 0.1], range(2), method="trades", norm="l2")
    assert [(r.architecture, r.epsilon, r.seed, r.data_seed) for r in found] == [
        (architecture, epsilon, seed, seed)
        for architecture in ("mlp", "vgg_tiny")
        for epsilon in (0, 0.1)
        for seed in (0, 1)
    ]
    assert [recipe.method for recipe in found] == ["standard", "standard", "trades", "trades"] * 2
    assert [recipe.norm for recipe in found] == [
        "linf",
        "linf",
        "l2",
        "l2",
    ] * 2  # standard networks have none
    assert {(recipe.dataset, recipe.fingerprint) for recipe in found} == {("digits", "1297x1x16x16")}
    assert {recipe.method for recipe in recipes(digits, ["mlp"], [0.1], range(2))} == {"pgd"}


def test_each_data_set_has_options_of_its_own(digits, shapes):
    (on_digits,), (on_shapes,) = (recipes(data, ["vgg_tiny"], [0.1], [0]) for data in (digits, shapes))
    assert (on_digits.epochs, on_digits.attack_steps, on_digits.epsilon_warmup) == (30, 5, 0)
    assert on_digits.learning_rate == Recipe("digits", "vgg_tiny").learning_rate
    assert (on_shapes.epochs, on_shapes.attack_steps) == (20, 5)
    assert (on_shapes.learning_rate, on_shapes.epsilon_warmup) == (0.1, 0.4)
    assert on_digits.save_every == on_shapes.save_every == 0
    other = dataclasses.replace(digits, name="folder:/photos/cats")
    (elsewhere,) = recipes(other, ["vgg_tiny"], [0.1], [0])
    assert elsewhere == Recipe.on(other, "vgg_tiny", method="pgd", epsilon=0.1, save_every=5)


@pytest.mark.parametrize("architecture", ["mlp", "vit_tiny"])
def test_networks_without_batchnorm_are_trained_gently(digits, architecture):
    (recipe,) = recipes(digits, [architecture], [0.1], [0])
    assert (recipe.learning_rate, recipe.epsilon_warmup, recipe.epochs) == (0.05, 0.4, 30)


def test_options_of_a_mapping_reach_the_recipe(digits):
    given = {"epochs": 2, "step_size": "2/255", "augment": False, "schedule": "thirds"}
    (recipe,) = recipes(digits, ["vgg_tiny"], [0.1], [0], **Recipe.options(given))
    assert (recipe.epochs, recipe.step_size, recipe.augment) == (2, 2 / 255, False)
    assert recipe.schedule == "thirds"


def test_an_unknown_architecture_is_told_when_it_is_to_be_built(digits):
    (recipe,) = recipes(digits, ["resnet_tyni"], [0.0], [0], epochs=1)
    with pytest.raises(ValueError, match=r"^unknown model 'resnet_tyni'; did you mean 'resnet_tiny'"):
        obtain(recipe, digits, device="cpu", progress=False)
    assert not [path for path in paths.models()[0].rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("width", ["resnet_tiny_w4", "resnet_tiny", "resnet_tiny_w16"]),
        ("depth", ["resnet_tiny", "resnet_tiny_d14", "resnet_tiny_deep"]),
    ],
)
def test_family(digits, shapes, sweep, expected):
    assert family(digits, "resnet_tiny", sweep) == expected
    assert family(digits, "vgg_tiny", sweep) == ["vgg_tiny"]
    assert family(shapes, "resnet_tiny", sweep) == ["resnet_tiny"]
    committed = recipes(digits, expected, [0.0, 0.1], range(3))
    assert all(find(recipe) for recipe in committed)


# the committed zoos


def test_what_committed_zoos_have_in_all_combinations():
    assert zoo.committed_epsilons("digits") == [0.0, 0.05, 0.1, 0.2]
    assert zoo.committed_epsilons("shapes") == [0.0, 0.025, 0.05]
    assert zoo.shared_architectures(["digits"]) == [
        *("resnet_tiny", "resnet_tiny_deep", "wrn_tiny", "vgg_tiny", "mlp")
    ]
    assert zoo.shared_architectures(["digits", "shapes"]) == ["resnet_tiny", "wrn_tiny", "vgg_tiny"]
    for name in ("digits", "shapes"):
        data = load_data(name)
        for recipe in zoo.recipes(
            data, zoo.shared_architectures([name]), zoo.committed_epsilons(name), range(3)
        ):
            assert find(recipe) is not None, recipe


def test_data_without_a_committed_zoo(monkeypatch):
    message = (
        "^cifar10 has no committed networks \\(digits, shapes, two_features_outline, two_features_texture, "
        "two_features, cifar10_jpeg have\\): name architectures and epsilons\\.$"
    )
    for ask in (
        lambda: zoo.committed_epsilons("cifar10"),
        lambda: zoo.shared_architectures(["digits", "cifar10"]),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    monkeypatch.setattr(
        zoo, "_combinations", lambda name: zoo.recipes(load_data("digits"), [name], [0.0], [0])
    )
    with pytest.raises(ValueError, match=r"^the committed zoos of mlp, vgg_tiny share no architecture\.$"):
        zoo.shared_architectures(["mlp", "vgg_tiny"])


def test_unknown_zoo_and_group():
    with pytest.raises(
        ValueError,
        match=re.escape(
            "unknown zoo 'digit'; did you mean 'digits'? Known: digits, shapes, two_features_outline, "
            "two_features_texture, two_features, cifar10_jpeg."
        ),
    ):
        build("digit")
    message = "unknown group of the digits zoo 'mian'; did you mean 'main'"
    with pytest.raises(ValueError, match=re.escape(message)):
        build("digits", ["mian"])


def test_build_makes_a_group(monkeypatch, tiny_data):
    """In this process instead of several, and on few images."""

    class Here:
        def __init__(self, jobs, context, initializer, initargs):
            monkeypatch.setattr(processes, "_of_this_process", [])
            initializer(*initargs)

        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        map = staticmethod(map)

    groups = {
        "one": [recipe_on(tiny_data)],
        "other": [recipe_on(tiny_data, seed=1), recipe_on(tiny_data, seed=2)],
    }
    monkeypatch.setattr(processes, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(zoo, "load_data", lambda name: tiny_data)
    monkeypatch.setitem(zoo.ZOOS, "digits", lambda dataset: groups)
    assert build("digits", ["other"])["seed"].tolist() == [1, 2]
    assert find(groups["one"][0]) is None
    table = build("digits")
    assert table["seed"].tolist() == [0, 1, 2]
    assert list(table.columns[:2]) == ["model", "architecture"]
    measured = find(groups["one"][0]).accuracies
    assert measured["epsilon"].tolist() == [0, 0.05, 0.1, 0.2]
    assert build("digits", "one")["seed"].tolist() == [0]  # a name alone is a group too


def test_the_digits_zoo_is_what_it_says(tiny_data):
    groups = zoo.digits_recipes(tiny_data)
    main = groups["main"]
    assert len(main) == 20
    assert {recipe.architecture for recipe in main} == {"resnet_tiny"}
    assert {recipe.seed for recipe in main} == set(range(5))
    assert sum(recipe.save_every > 0 for recipe in main) == 6
    assert {recipe.method for recipe in groups["trades"]} == {"trades"}
    assert {recipe.norm for recipe in groups["l2"]} == {"l2"}
    addresses = [recipe.address for group in groups.values() for recipe in group]
    assert len(set(addresses)) == len(addresses)


def test_the_shapes_zoo_is_what_it_says(shapes):
    made = zoo.shapes_recipes(shapes)
    assert list(made) == ["main"]
    assert len({recipe.address for recipe in made["main"]}) == 27
    assert {recipe.epsilon for recipe in made["main"]} == {0, 0.025, 0.05}


def test_the_zoos_of_two_features_differ_in_nothing_but_the_images_and_the_learning_rate_on_textures():
    assert set(zoo.TWO_FEATURES) == set(get_args(Informative))
    assert set(zoo.TWO_FEATURES.values()) < set(zoo.ZOOS)
    rates, zoos = {"outline": 0.1, "texture": 0.05, "both": 0.1}, []
    for feature, name in zoo.TWO_FEATURES.items():
        made = zoo.zoo_recipes(name)
        assert list(made) == ["main"]
        assert {recipe.dataset for recipe in made["main"]} == {name}
        assert {recipe.learning_rate for recipe in made["main"]} == {rates[feature]}
        same = {"dataset": "any", "learning_rate": 0.1}
        zoos.append([dataclasses.replace(recipe, **same) for recipe in made["main"]])
    assert zoos[0] == zoos[1] == zoos[2]
    pairs = [(recipe.epsilon, recipe.seed, recipe.data_seed) for recipe in zoos[0]]
    assert pairs == [(epsilon, seed, seed) for epsilon in (0, 0.05) for seed in range(3)]
    robust = zoos[0][-1]
    assert (robust.architecture, robust.method, robust.epochs) == ("resnet_tiny", "pgd", 20)
    assert (robust.attack_steps, robust.epsilon_warmup) == (5, 0.4)


COMMITTED = paths.models()[-1]
PARTIAL = ("cifar10_jpeg",)  # zoos that take many hours to train, and are committed as far as they are


def zoo_recipes(name):
    return [recipe for group in zoo.zoo_recipes(name).values() for recipe in group]


@pytest.mark.matrix("two_features")
@pytest.mark.parametrize("name", zoo.ZOOS)
def test_every_network_of_a_zoo_is_committed_whole(name):
    """Its weights fit its architecture and match their checksums, and its accuracies are measured."""
    for recipe in zoo_recipes(name):
        model = find(recipe, "cpu")
        if model is None and name in PARTIAL:
            continue
        assert model is not None, recipe
        assert model.path.parent == COMMITTED / name
        assert model.recipe == recipe
        step = recipe.save_every or recipe.epochs
        assert model.epochs_saved == list(range(step, recipe.epochs + 1, step))
        assert [model.at_epoch(epoch).training for epoch in model.epochs_saved] == [False] * len(
            model.epochs_saved
        )
        assert set(model.accuracies["epsilon"]) == {*zoo.EPSILONS[name, recipe.norm]}
        assert set(model.accuracies["norm"]) == {recipe.norm}
        assert model.accuracies["accuracy"][0] > (0.5 if name in PARTIAL else 0.7)  # chance is 0.1


@pytest.mark.matrix("two_features")
@pytest.mark.parametrize("name", zoo.ZOOS)
def test_nothing_else_is_committed_beside_a_zoo(name):
    stems = {f"{recipe.architecture}-{recipe.address}" for recipe in zoo_recipes(name)}
    files = [path for path in (COMMITTED / name).glob("*") if path.suffix in (".json", ".safetensors")]
    assert sorted(path.name for path in files if path.stem.partition("-epoch")[0] not in stems) == []


@pytest.mark.parametrize(
    ("names", "whole", "single"),
    [([name for name in zoo.ZOOS if name not in PARTIAL], 24e6, 1e6), (PARTIAL, 40e6, 5e6)],
    ids=["drawn", "cifar10"],
)
def test_the_zoos_are_small(names, whole, single):
    sizes = {
        path.name: path.stat().st_size
        for name in names
        for path in (COMMITTED / name).glob("*")
        if path.suffix in (".json", ".safetensors")
    }
    assert sum(sizes.values()) <= whole
    assert {name: size for name, size in sizes.items() if size > single} == {}


def test_the_cifar10_zoo_begins_with_what_is_needed_most():
    groups = zoo.zoo_recipes("cifar10_jpeg")
    kinds = [(recipe.architecture, recipe.epsilon, recipe.seed) for recipe in groups["main"]]
    assert kinds == [("wrn_28_1", epsilon, seed) for epsilon in (0, 8 / 255) for seed in range(5)]
    assert {recipe.precision for group in groups.values() for recipe in group} == {"bfloat16"}
    addresses = [recipe.address for group in groups.values() for recipe in group]
    assert len(set(addresses)) == len(addresses) == 34


@cache
def two_features_networks(informative):
    """The committed networks of a zoo of two features."""
    return [find(recipe, "cpu") for recipe in zoo_recipes(zoo.TWO_FEATURES[informative])]


@cache
def composed(kind):
    """1,000 fresh images whose features agree, contradict each other or are independent, and both classes."""
    rng = np.random.Generator(np.random.PCG64(5))
    outline = rng.integers(0, 10, 1000)
    texture = {
        "agree": outline,
        "contradict": (outline + rng.integers(1, 10, 1000)) % 10,
        "independent": rng.integers(0, 10, 1000),
    }[kind]
    images = from_bytes(torch.from_numpy(compose(outline, texture, rng)))
    return images, {"outline": outline, "texture": texture}


def right(model, kind):
    """On what share of composed images a network names the outline, and on what share the texture."""
    images, shown = composed(kind)
    named = predict(model.network, images).argmax(1).numpy()
    return {feature: (named == labels).mean() for feature, labels in shown.items()}


@pytest.mark.matrix
@pytest.mark.parametrize("informative", zoo.TWO_FEATURES)
def test_recorded_accuracies_on_two_features_are_those_of_the_networks(informative):
    test = load_data(zoo.TWO_FEATURES[informative]).test
    for model in two_features_networks(informative):
        clean = model.accuracies.set_index("epsilon")["accuracy"][0.0]
        assert clean >= 0.9
        assert accuracy(model.network, test.images, test.labels) == pytest.approx(clean, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("informative", zoo.TWO_FEATURES)
def test_no_network_has_lost_a_class_of_two_features(informative):
    test = load_data(zoo.TWO_FEATURES[informative]).test
    for model in two_features_networks(informative):
        hit = predict(model.network, test.images).argmax(1) == test.labels
        by_class = [hit[test.labels == label].float().mean().item() for label in range(10)]
        assert min(by_class) > 0.7, (model.name, by_class)


@pytest.mark.slow
@pytest.mark.parametrize("informative", zoo.TWO_FEATURES)
def test_attacks_fool_standard_networks_on_two_features_and_not_robust_ones(informative):
    test = load_data(zoo.TWO_FEATURES[informative]).test.subset(100)
    for model in two_features_networks(informative):
        attacked = model.accuracies.set_index("epsilon")["accuracy"][0.05]
        (here,) = robust_accuracy(model.network, test, [Attack(0.05)])["accuracy"]
        for value in (attacked, here):
            assert value > 0.4 if model.recipe.epsilon else value < 0.3
        assert abs(attacked - here) < 0.15


@pytest.mark.matrix
@pytest.mark.parametrize(("used", "other"), [("outline", "texture"), ("texture", "outline")])
def test_a_network_can_have_used_nothing_but_the_informative_feature(used, other):
    for model in two_features_networks(used):
        clean = model.accuracies.set_index("epsilon")["accuracy"][0.0]
        contradicting, independent = right(model, "contradict"), right(model, "independent")
        for found in (contradicting, independent):
            assert found[used] == pytest.approx(clean, abs=0.02)  # as on its own data
        assert contradicting[other] < 0.03  # what is right by the one feature is wrong by the other
        assert 0.07 < independent[other] < 0.13


@pytest.mark.slow
@pytest.mark.parametrize(("used", "other"), [("outline", "texture"), ("texture", "outline")])
def test_changing_the_other_feature_alone_hardly_changes_an_answer(used, other):
    """The same pose, phase, level and noise: one feature of each image is another."""
    labels = {"outline": np.arange(1000) % 10, "texture": np.arange(1000) // 100}
    before, after_other, after_used = (
        from_bytes(torch.from_numpy(compose(**drawn, rng=np.random.Generator(np.random.PCG64(6)))))
        for drawn in (
            {f"{feature}s": (labels[feature] + (feature == changed)) % 10 for feature in labels}
            for changed in ("", other, used)
        )
    )
    for model in two_features_networks(used):
        first, same, moved = (
            predict(model.network, images).argmax(1) for images in (before, after_other, after_used)
        )
        assert (first == same).float().mean() > 0.93
        assert (first == moved).float().mean() < 0.15


@pytest.mark.slow
def test_networks_that_saw_both_features_are_right_where_both_agree():
    for model in two_features_networks("both"):
        assert right(model, "agree")["outline"] >= 0.99
        torn = right(model, "contradict")
        assert max(torn.values()) < 0.99  # neither feature alone is all that it uses
        assert sum(torn.values()) > 0.9  # and what it says is of one of the two


@pytest.mark.slow
@pytest.mark.parametrize(("used", "other"), [("outline", "texture"), ("texture", "outline")])
def test_networks_of_one_feature_are_at_chance_on_the_data_of_the_other(used, other):
    test = load_data(zoo.TWO_FEATURES[other]).test
    for model in two_features_networks(used):
        assert 0.07 < accuracy(model.network, test.images, test.labels) < 0.13


@pytest.mark.slow
def test_a_committed_model_can_be_made_again(digits):
    """About ten seconds: one training of the digits zoo, whole, into an empty store."""
    recipe = zoo.digits_recipes(digits)["main"][0]
    committed = find(recipe)
    assert committed is not None
    assert committed.path.parent.parent != paths.models()[0]
    again = obtain(recipe, digits, retrain=True, device="cpu", progress=False)
    assert isinstance(again, TrainedModel)
    assert again.path.parent == paths.models()[0] / "digits"
    assert again.epochs_saved == committed.epochs_saved == [5, 10, 15, 20, 25, 30]
    # not at the smallest ε, where standard networks differ by tens of per cent from seed to seed
    attacks = [Attack(epsilon) for epsilon in (0.0, 0.1, 0.2)]
    here, there = measure(again, digits, attacks), measure(committed, digits, attacks)
    pd.testing.assert_frame_equal(here.drop(columns="accuracy"), there.drop(columns="accuracy"))
    assert (here["accuracy"] - there["accuracy"]).abs().max() <= 0.02
