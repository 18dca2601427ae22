"""Recipes of the zoos, and the committed networks that were made by them."""

import dataclasses
import re

import pandas as pd
import pytest

from repsim import paths, zoo
from repsim.attacks import Attack
from repsim.data import load_data
from repsim.store import TrainedModel, find, measure, obtain
from repsim.training import Recipe
from repsim.zoo import build, family, recipes


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


def test_what_is_given_goes_first(digits):
    (recipe,) = recipes(digits, ["mlp"], [0.1], [0], epochs=2, learning_rate=0.5, save_every=1)
    assert (recipe.epochs, recipe.learning_rate, recipe.save_every) == (2, 0.5, 1)
    assert (recipe.epsilon_warmup, recipe.attack_steps) == (0.4, 5)


def test_options_from_texts_reach_the_recipe(digits):
    texts = ["epochs=2", "step_size = 2/255", "augment=False", "schedule=thirds"]
    (recipe,) = recipes(digits, ["vgg_tiny"], [0.1], [0], **Recipe.options(texts))
    assert (recipe.epochs, recipe.step_size, recipe.augment) == (2, 2 / 255, False)
    assert recipe.schedule == "thirds"


def test_unknown_option(digits):
    with pytest.raises(ValueError, match=r"^unknown training option 'epoch'; did you mean 'epochs'"):
        recipes(digits, ["mlp"], [0.0], [0], epoch=3)


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


def test_unknown_zoo_and_group():
    with pytest.raises(
        ValueError, match=re.escape("unknown zoo 'digit'; did you mean 'digits'? Known: digits, shapes.")
    ):
        build("digit")
    message = "unknown group of the digits zoo 'mian'; did you mean 'main'"
    with pytest.raises(ValueError, match=re.escape(message)):
        build("digits", ["mian"])


def test_build_makes_a_group(monkeypatch, tiny_data):
    """In this process instead of several, and on few images."""

    class Here:
        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        map = staticmethod(map)

    groups = {
        "one": [recipe_on(tiny_data)],
        "other": [recipe_on(tiny_data, seed=1), recipe_on(tiny_data, seed=2)],
    }
    monkeypatch.setattr(zoo, "ProcessPoolExecutor", Here)
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


COMMITTED = paths.models()[-1]


def zoo_recipes(name):
    return [recipe for group in zoo.ZOOS[name](load_data(name)).values() for recipe in group]


@pytest.mark.parametrize("name", zoo.ZOOS)
def test_every_network_of_a_zoo_is_committed_whole(name):
    """Its weights fit its architecture and match their checksums, and its accuracies are measured."""
    for recipe in zoo_recipes(name):
        model = find(recipe, "cpu")
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
        assert model.accuracies["accuracy"][0] > 0.7  # chance is 0.1


@pytest.mark.parametrize("name", zoo.ZOOS)
def test_nothing_else_is_committed_beside_a_zoo(name):
    stems = {f"{recipe.architecture}-{recipe.address}" for recipe in zoo_recipes(name)}
    files = [path for path in (COMMITTED / name).iterdir() if path.suffix in (".json", ".safetensors")]
    assert sorted(path.name for path in files if path.stem.partition("-epoch")[0] not in stems) == []


def test_the_zoos_are_small():
    sizes = {
        path.name: path.stat().st_size
        for name in zoo.ZOOS
        for path in (COMMITTED / name).iterdir()
        if path.suffix in (".json", ".safetensors")
    }
    assert sum(sizes.values()) <= 24e6
    assert {name: size for name, size in sizes.items() if size > 1e6} == {}


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
