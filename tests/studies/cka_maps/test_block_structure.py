"""Tables of block structure are those of `layer_cka`, model by model, and move the way they should."""

import numpy as np
import pandas as pd
import pytest

from repsim.attacks import Attack, Snow, fgsm, run_attack
from repsim.data import load_data
from repsim.studies.cka_maps import block_structure as module
from repsim.studies.cka_maps.block_structure import (
    block_structure,
    by_attack,
    maps,
    natural_vs_adversarial,
    parting,
)
from repsim.studies.cka_maps.layer_maps import (
    as_matrix,
    block_strength,
    layer_cka,
    matched_cka,
    mean_off_diagonal,
)
from repsim.training import accuracy, model_store, zoo

LABELS = ["architecture", "method", "norm", "epsilon", "seed"]
LAYERS = ["conv1", "layer1.0.add", "layer2.0.add", "layer3.0.add", "fc"]
PGD = Attack(0.1, steps=3)
QUIET = {"layers": LAYERS, "progress": False}


@pytest.fixture(scope="module")
def split():
    return load_data("digits").test.subset(60)


@pytest.fixture(scope="module")
def models():
    """A standard and a robust committed network."""
    recipes = zoo.recipes(load_data("digits"), ["resnet_tiny"], [0.0, 0.1], [0])
    return [model_store.find(recipe, "cpu") for recipe in recipes]


def attacked(model, split, attack=PGD):
    return run_attack(model.network, split.images, split.labels, attack)


# maps


def test_maps_are_those_of_each_pair(models, split):
    standard, robust = models
    pairs = {"within": (standard, standard), "across": (standard, robust)}
    table = maps(pairs, split, batch_size=30, **QUIET)
    columns = ["pair", "model_a", "model_b", "layer_a", "layer_b", "measure", "value", "n"]
    assert list(table.columns) == columns
    assert table["pair"].tolist() == ["within"] * 25 + ["across"] * 25
    for title, (a, b) in pairs.items():
        direct = layer_cka(
            a.network,
            b.network,
            split.images,
            layers_a=LAYERS,
            layers_b=LAYERS,
            batch_size=30,
            names=(a.name, b.name),
            progress=False,
        )
        found = table[table["pair"] == title].drop(columns="pair").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, direct, rtol=1e-6)
    within = as_matrix(table[table["pair"] == "within"])
    assert (np.diagonal(within) == 1).all()


def test_under_attack_each_model_sees_its_own_images(models, split):
    standard, robust = models
    table = maps({"across": (standard, robust)}, split, attack=PGD, **QUIET)
    own = attacked(standard, split), attacked(robust, split)
    direct = layer_cka(
        standard.network, robust.network, own, layers_a=LAYERS, layers_b=LAYERS, progress=False
    )
    assert table["value"].tolist() == pytest.approx(direct["value"].tolist(), rel=1e-5)
    shared = layer_cka(
        standard.network, robust.network, own[0], layers_a=LAYERS, layers_b=LAYERS, progress=False
    )
    assert np.abs(table["value"] - shared["value"]).max() > 0.01


# block strength


def test_block_structure(models, split):
    table = block_structure(iter(models), split.images, **QUIET)
    assert list(table.columns) == [*LABELS, "epoch", "block_strength", "mean_cka"]
    assert table["epsilon"].tolist() == [0, 0.1]
    assert table["epoch"].tolist() == [30, 30]
    for row, model in zip(table.itertuples(), models, strict=True):
        network = model.network
        matrix = as_matrix(
            layer_cka(network, network, split.images, layers_a=LAYERS, layers_b=LAYERS, progress=False)
        )
        assert row.block_strength == pytest.approx(block_strength(matrix))
        assert row.mean_cka == pytest.approx(mean_off_diagonal(matrix))


def test_options_reach_the_map(models, split):
    plain, other = (
        block_structure(models[:1], split.images, **QUIET, **options)["mean_cka"][0]
        for options in ({}, {"estimator": "biased"})
    )
    assert abs(plain - other) > 1e-4


def test_every_epoch_that_was_kept(models, split):
    table = block_structure(models, split.images, every_epoch=True, **QUIET)
    assert table["epoch"].tolist() == [5, 10, 15, 20, 25, 30] * 2
    assert table["epsilon"].tolist() == [0] * 6 + [0.1] * 6
    assert table["mean_cka"].nunique() == 12
    last = block_structure(models, split.images, **QUIET)
    pd.testing.assert_frame_equal(table[table["epoch"] == 30].reset_index(drop=True), last)


# natural and adversarial


def test_natural_vs_adversarial(models, split):
    table = natural_vs_adversarial(iter(models), split, PGD, **QUIET)
    of_the_attack = ["attack_norm", "attack_epsilon", "accuracy"]
    assert list(table.columns) == [*LABELS, *of_the_attack, "layer", "depth", "value"]
    assert table["layer"].tolist() == LAYERS * 2
    assert table["depth"].tolist() == [0, 0.25, 0.5, 0.75, 1] * 2
    assert table["epsilon"].tolist() == [0] * 5 + [0.1] * 5
    assert set(table["attack_norm"]) == {"linf"}
    assert set(table["attack_epsilon"]) == {0.1}
    for place, model in enumerate(models):
        images = attacked(model, split)
        direct = matched_cka(model.network, split.images, images, layers=LAYERS, progress=False)
        found = table[5 * place : 5 * place + 5]
        assert found["value"].tolist() == pytest.approx(direct["value"].tolist())
        assert set(found["accuracy"]) == {accuracy(model.network, images, split.labels)}


@pytest.mark.slow
def test_without_an_attack_they_are_the_same(models, split):
    table = natural_vs_adversarial(models, split, Attack(0.0), layers="all", progress=False)
    assert table["value"].tolist() == pytest.approx([1.0] * len(table), abs=1e-6)


def test_by_attack(models, split):
    attacks = {"PGD": PGD, "FGSM": fgsm(0.1), "l2": Attack(1.0, "l2", 2), "snow": Snow(0.5, steps=2)}
    table = by_attack(iter(models), split, attacks, **QUIET)
    assert table.columns[0] == "attack"
    assert table["attack"].tolist() == ["PGD"] * 10 + ["FGSM"] * 10 + ["l2"] * 10 + ["snow"] * 10
    alone = natural_vs_adversarial(models, split, fgsm(0.1), **QUIET)
    found = table[table["attack"] == "FGSM"].drop(columns="attack").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, alone)
    assert set(table[table["attack"] == "l2"]["attack_norm"]) == {"l2"}


# parting


def depths(values, **labels):
    """A table as `natural_vs_adversarial` gives it."""
    depth = np.linspace(0, 1, len(values))
    layers = [f"layer{i}" for i in range(len(values))]
    return pd.DataFrame({**labels, "layer": layers, "depth": depth, "value": values})


def test_parting_by_hand():
    table = pd.concat(
        [
            depths([1.0, 0.9, 0.7, 0.4, 0.3, 0.2, 0.1], architecture="a", seed=1),
            depths([1.0] * 7, architecture="a", seed=0),
        ],
        ignore_index=True,
    )
    found = parting(table)
    assert list(found.columns) == ["architecture", "seed", "parting"]
    assert found["seed"].tolist() == [1, 0]  # in the table's order
    # thirds of seven layers: the first three (depths 0, 1/6, 1/3) and the last three
    assert found["parting"].tolist() == pytest.approx([(1.0 + 0.9 + 0.7) / 3 - (0.3 + 0.2 + 0.1) / 3, 0.0])


@pytest.mark.parametrize("layers", [4, 7, 34, 46, 67, 100])
def test_the_first_and_the_last_third_are_as_long(layers):
    """In floating point, the depth of layer 12 of 34 is more than a third."""
    third = (layers - 1) // 3 + 1
    values = [1.0] * third + [0.0] * (layers - 2 * third) + [1.0] * third
    found = parting(depths(values, seed=0))
    assert found["parting"][0] == 0
    values[third - 1] = 0.0
    assert parting(depths(values, seed=0))["parting"][0] == pytest.approx(-1 / third)


@pytest.mark.slow
def test_a_standard_network_parts_more_than_a_robust_one(models):
    some = load_data("digits").test.subset(200)
    table = parting(natural_vs_adversarial(models, some, Attack(0.1, steps=5), **QUIET))
    standard, robust = table.set_index("epsilon")["parting"].loc[[0.0, 0.1]]
    assert standard > robust + 0.1


def test_images_are_attacked_once_for_maps_and_curves(models, split, monkeypatch):
    standard, robust = models[:2]
    attack, made = Attack(0.07, steps=2), []
    monkeypatch.setattr(module, "run_attack", lambda *given: made.append(1) or run_attack(*given))
    maps({"across": (standard, robust)}, split, attack=attack, **QUIET)
    natural_vs_adversarial([standard, robust], split, attack, **QUIET)
    assert len(made) == 2
    natural_vs_adversarial([standard], split, Attack(0.08, steps=2), **QUIET)
    natural_vs_adversarial([standard], split.subset(len(split) // 2), attack, **QUIET)
    assert len(made) == 4
