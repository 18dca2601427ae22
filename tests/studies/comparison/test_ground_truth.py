"""Networks of which it is known what they can have used: what their inverted images show, in numbers."""

import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from repsim.data import load_data
from repsim.data.synthetic import read_outline, read_texture
from repsim.studies.comparison import compare_models
from repsim.studies.comparison.ground_truth import (
    EPSILON,
    carried,
    features_shown,
    told_apart,
    used,
)
from repsim.studies.inversion import InversionOptions, Pairs
from repsim.studies.inversion.experiments import obtain_sets
from repsim.support import paths
from repsim.training import zoo
from repsim.training.model_store import find

OPTIONS = InversionOptions(iterations=60)
HASTY = InversionOptions(iterations=2)  # enough where only what is read from the images is at issue
LABELS = ["architecture", "method", "norm", "epsilon", "seed"]
COUNT = 60


@cache
def networks():
    recipes = [
        recipe
        for name in zoo.TWO_FEATURES.values()
        for recipe in zoo.two_features_recipes(load_data(name))["main"]
    ]
    return [find(recipe, "cpu") for recipe in recipes if recipe.seed == 0]


def robust():
    return [model for model in networks() if model.recipe.epsilon]


@cache
def on_digits():
    (recipe,) = zoo.recipes(load_data("digits"), ["mlp"], [0.0], [0])
    return find(recipe, "cpu")


@pytest.fixture(scope="module")
def data():
    return load_data("two_features", train_size=10, test_size=200)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where what several tests read is kept."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def pairs(data, home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "inverted", lambda: [home])
        return Pairs.draw(data, COUNT)


def made(data, pairs, home, options):
    """Of the robust networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "inverted", lambda: [home])
        return obtain_sets(robust(), data, pairs, options, progress=False)


@pytest.fixture(scope="module")
def sets(data, pairs, home):
    return made(data, pairs, home, OPTIONS)


@pytest.fixture(scope="module")
def hasty(data, pairs, home):
    return made(data, pairs, home, HASTY)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def shares(shown):
    return shown.set_index(["used", "feature", "of"])["share"]


# the networks


def test_there_is_each_kind_standard_and_robust():
    kinds = [(used(model), model.recipe.epsilon) for model in networks()]
    assert kinds == [(feature, epsilon) for feature in zoo.TWO_FEATURES for epsilon in (0.0, EPSILON)]
    assert {model.recipe.seed for model in networks()} == {0}


def test_what_another_network_has_used_is_not_known():
    with refused(
        f"{on_digits().name} was trained on digits: only of networks trained on two_features_outline, "
        "two_features_texture, two_features is it known what they can have used."
    ):
        used(on_digits())


# what images show


def test_there_is_a_row_for_each_model_feature_and_whose_it_is(data, pairs, hasty):
    table = features_shown(iter(robust()), hasty, pairs, data)
    assert table.columns.tolist() == ["used", *LABELS, "feature", "of", "share"]
    assert [(row.used, row.feature, row.of) for row in table.itertuples()] == [
        (kind, feature, of)
        for kind in zoo.TWO_FEATURES
        for feature in ("outline", "texture")
        for of in ("target", "seed")
    ]
    for number, model in enumerate(robust()):
        rows = table[4 * number : 4 * number + 4]
        assert (rows[LABELS] == list(model.labels.values())).all(axis=None)


def test_shares_are_those_of_what_the_oracles_read(data, pairs, hasty):
    found = shares(features_shown(robust(), hasty, pairs, data))
    labels = data.test.labels.numpy()
    for model in robust():
        images = hasty[model.name].images.numpy()
        for feature, read in (("outline", read_outline), ("texture", read_texture)):
            for of, index in (("target", pairs.target_index), ("seed", pairs.seed_index)):
                right = [shown == labels[i] for shown, i in zip(read(images), index, strict=True)]
                assert found[used(model), feature, of] == pytest.approx(np.mean(right))


@pytest.mark.slow
def test_robust_networks_carry_over_what_they_used_and_leave_the_seeds_other_feature(data, pairs, sets):
    found = shares(features_shown(robust(), sets, pairs, data))
    for one, other in (("outline", "texture"), ("texture", "outline")):
        assert found[one, one, "target"] > found[one, other, "target"] + 0.2
        assert found[one, other, "seed"] > found[one, one, "seed"]


def test_images_of_other_pairs_or_of_another_model(data, pairs, hasty):
    one, two, _ = robust()
    other = Pairs.of(data, pairs.seed_index.flip(0), pairs.target_index.flip(0))
    own, another = (hasty[model.name].recipe for model in (one, two))
    with refused(
        f"the inverted images {own.address} of {own.model} are of pairs {pairs.address}, not of "
        f"{other.address}."
    ):
        features_shown(robust(), hasty, other, data)
    with refused(
        f"the inverted images {another.address} are of {two.name} (weights {two.weights}…), not of "
        f"{one.name} (weights {one.weights}…)."
    ):
        features_shown([one], {one.name: hasty[two.name]}, pairs, data)


def test_networks_are_left_as_they_are(data):
    model = networks()[1]
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    pairs = Pairs.draw(data, 4)
    own = obtain_sets([model], data, pairs, InversionOptions(iterations=3), progress=False)
    features_shown([model], own, pairs, data)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert not model.network.training


# what follows


@pytest.mark.slow
def test_inversion_tells_apart_what_natural_images_do_not(data, pairs, sets):
    shared = {"pairs": pairs, "progress": False}
    natural = compare_models(robust(), data, **shared)
    inverted = compare_models(robust(), data, inputs="inverted", sets=sets, **shared)
    (effect,) = told_apart(natural, inverted, {model.name: used(model) for model in robust()})
    assert effect > 0.2
    shown = features_shown(robust(), sets, pairs, data)
    for feature in ("outline", "texture"):
        (gain,) = carried(shown, feature)
        assert gain > 0.2


def test_told_apart_takes_robust_pairs_of_one_seed_across_the_two_features():
    kinds = {
        "o0": "outline",
        "t0": "texture",
        "b0": "both",
        "o1": "outline",
        "t1": "texture",
        "s0": "outline",
    }
    rows = [
        ("natural", "o0", "t0", 0.1, 0.1, 0, 0, 0.6),
        ("natural", "o0", "b0", 0.1, 0.1, 0, 0, 0.9),
        ("natural", "o0", "t1", 0.1, 0.1, 0, 1, 0.9),
        ("natural", "s0", "t0", 0.0, 0.1, 0, 0, 0.9),
        ("natural", "o1", "t1", 0.1, 0.1, 1, 1, 0.5),
        ("inverted", "o0", "t0", 0.1, 0.1, 0, 0, 0.2),
        ("inverted", "t0", "o0", 0.1, 0.1, 0, 0, 0.4),
        ("inverted", "b0", "o0", 0.1, 0.1, 0, 0, 0.9),
        ("inverted", "o1", "t1", 0.1, 0.1, 1, 1, 0.1),
        ("inverted", "t1", "o1", 0.1, 0.1, 1, 1, 0.1),
    ]
    columns = ["inputs", "model_a", "model_b", "epsilon_a", "epsilon_b", "seed_a", "seed_b", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(measure="cka", layer="penultimate")
    tables = (table[table["inputs"] == inputs] for inputs in ("natural", "inverted"))
    assert told_apart(*tables, kinds) == pytest.approx([0.3, 0.4])


def test_carried_is_a_difference_of_shares_of_robust_networks():
    rows = [
        ("outline", 0.1, 0, "outline", "target", 0.7),
        ("outline", 0.1, 0, "texture", "target", 0.1),
        ("outline", 0.1, 0, "texture", "seed", 0.9),
        ("outline", 0.1, 1, "outline", "target", 0.5),
        ("outline", 0.1, 1, "texture", "target", 0.0),
        ("outline", 0.0, 0, "outline", "target", 0.0),
        ("texture", 0.1, 0, "texture", "target", 0.9),
        ("texture", 0.1, 0, "outline", "target", 0.2),
    ]
    shown = pd.DataFrame(rows, columns=["used", "epsilon", "seed", "feature", "of", "share"])
    assert carried(shown, "outline") == pytest.approx([0.6, 0.5])
    assert carried(shown, "texture") == pytest.approx([0.7])
