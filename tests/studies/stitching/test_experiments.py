"""Which stitches an experiment makes, that it goes on where it stopped, and the one table that comes out."""

from functools import cache
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repsim.activations import trace
from repsim.attacks import Attack
from repsim.data import load_data
from repsim.studies.stitching import Evaluation, StitchOptions, experiments, find_stitch, obtain_stitch
from repsim.studies.stitching import store as stitches
from repsim.studies.stitching.experiments import (
    cross_layer,
    curves,
    depth,
    donor_pairs,
    fitting_method,
    fitting_methods,
    plain_method,
    run,
    same_layer,
    settings_for,
    singular_values,
    table,
)
from repsim.studies.stitching.measuring import MEASURED, OF_A_DONOR
from repsim.support import paths
from repsim.training import zoo
from repsim.training.model_store import TrainedModel, find

BLOCKS = ["layer1.0.relu2", "layer2.0.relu2", "layer3.0.relu2"]
DIRECT = StitchOptions(method="pseudo_inverse")
QUICK_SETTINGS = {"epochs": 1, "batch_size": 100, "learning_rate": 0.03}
QUICK = StitchOptions(**QUICK_SETTINGS)


@cache
def trained(epsilon=0.0, seed=0, architecture="resnet_tiny"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def kinds(seeds):
    return [trained(0.0, seed) for seed in range(seeds)], [trained(0.1, seed) for seed in range(seeds)]


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Stitches of the checkout are not looked for."""
    monkeypatch.setattr(paths, "stitches", lambda: [paths.data() / "stitches"])


@pytest.fixture(scope="module")
def evaluation(tiny_data):
    return Evaluation(tiny_data, Attack(0.1, steps=1), device="cpu")


@pytest.fixture
def fits(monkeypatch):
    """What was fitted, in a list of addresses."""
    make, found = stitches._make, []

    def counted(recipe, *args):
        found.append(recipe.address)
        return make(recipe, *args)

    monkeypatch.setattr(stitches, "_make", counted)
    return found


def names(pairs):
    return [(front.name, end.name) for front, end in pairs]


# -- donors -------------------------------------------------------------------------------------------------


def stand_in(name):
    """A trained model in name only."""
    return TrainedModel(trained().recipe, Path(f"{name}.json"), {})


@settings(max_examples=8)
@given(st.integers(1, 8))
def test_each_model_is_a_front_once_and_an_end_once_in_each_kind_of_pair(seeds):
    standard, robust = ([stand_in(f"{kind}{seed}") for seed in range(seeds)] for kind in "sr")
    pairs = names(donor_pairs(standard, robust))
    for kind in ("ss", "rr", "sr", "rs"):
        own = [(front, end) for front, end in pairs if front[0] + end[0] == kind]
        assert len(own) == (0 if seeds == 1 and kind in ("ss", "rr") else seeds)
        assert len({front for front, _ in own}) == len({end for _, end in own}) == len(own)
        assert all(front != end for front, end in own)
        if kind == "sr":
            assert len({model for pair in own for model in pair}) == 2 * len(own)


def test_of_one_seed_there_are_mixed_pairs_only():
    standard, robust = kinds(1)
    pairs = donor_pairs(standard, robust)
    assert names(pairs) == names([(standard[0], robust[0]), (robust[0], standard[0])])


def test_as_many_networks_of_each_kind_are_asked_for():
    standard, robust = kinds(2)
    with pytest.raises(ValueError, match="shorter"):
        donor_pairs(standard, robust[:1])


# -- options ------------------------------------------------------------------------------------------------


def test_settings_of_a_data_set_give_way_to_those_that_are_given(tiny_data):
    usual = plain_method(settings_for(tiny_data))
    assert usual == StitchOptions(**experiments.FITTING["digits"])
    assert plain_method(settings_for(tiny_data, epochs=3, seed=2)) == usual.but(epochs=3, seed=2)
    with pytest.raises(ValueError, match=r"^unknown stitching option 'epoch'; did you mean 'epochs'"):
        settings_for(tiny_data, epoch=3)


def test_settings_of_an_attack_reach_the_ways_that_attack(tiny_data):
    settings = settings_for(tiny_data, attack_steps=3, step_size=0.01, beta=1.0, attacked="front")
    (pgd,) = fitting_methods(settings, [1.0], [], method="pgd", norm="linf", epsilon=0.1)
    assert (pgd.attack_steps, pgd.step_size, pgd.attacked) == (3, 0.01, "front")
    del settings["attacked"]
    (trades,) = fitting_methods(settings, [1.0], [], method="trades", norm="linf", epsilon=0.1)
    assert (trades.attack_steps, trades.beta) == (3, 1.0)
    assert plain_method(settings).attack is None


def test_direct_ways_leave_what_only_training_has(tiny_data):
    settings = {"mask": "semi_match", "l1": 0.1, "resize": True}
    (direct,) = fitting_methods(settings, [], ["orthogonal"])
    assert direct == StitchOptions(method="orthogonal", resize=True)


def test_ways_are_shares_of_attacked_images_then_direct_matches():
    methods = fitting_methods(
        QUICK_SETTINGS, [0, 0.5, 1], ["pseudo_inverse", "orthogonal"], method="pgd", norm="linf", epsilon=0.1
    )
    assert [(each.method, each.attack_ratio, each.epsilon) for each in methods] == [
        ("standard", 1.0, 0.0),
        ("pgd", 0.5, 0.1),
        ("pgd", 1.0, 0.1),
        ("pseudo_inverse", 1.0, 0.0),
        ("orthogonal", 1.0, 0.0),
    ]
    assert [fitting_method(each) for each in methods] == [
        "task loss, α = 0",
        "task loss, α = 0.5",
        "task loss, α = 1",
        "direct, pseudo inverse",
        "direct, orthogonal",
    ]
    assert {each.epochs for each in methods[:3]} == {1}


def test_ways_of_trades_are_two_whatever_the_shares():
    methods = fitting_methods(QUICK_SETTINGS, [0, 0.5, 1], [], method="trades", norm="linf", epsilon=0.1)
    assert [fitting_method(each) for each in methods] == ["task loss, α = 0", "task loss, TRADES"]


# -- which stitches -----------------------------------------------------------------------------------------


def test_every_way_and_pair_is_stitched_at_every_block(tiny_data):
    standard, robust = kinds(2)
    pairs = donor_pairs(standard, robust)
    recipes = same_layer(pairs, "blocks", tiny_data, [QUICK, DIRECT])
    assert len(recipes) == len({recipe.address for recipe in recipes}) == 2 * 8 * 3
    assert all(recipe.layer_front == recipe.layer_end for recipe in recipes)
    assert [recipe.layer_front for recipe in recipes[:3]] == BLOCKS
    seeds = {model.name: model.recipe.seed for model in (*standard, *robust)}
    assert all(
        recipe.options.seed == seeds[recipe.front] for recipe in recipes if not recipe.options.is_direct
    )
    assert not any(recipe.cross_task for recipe in recipes)
    assert all(
        recipe.cross_task for recipe in same_layer(pairs, "blocks", tiny_data, [QUICK], cross_task=True)
    )


def test_every_layer_is_stitched_to_every_layer(tiny_data):
    layers = list(trace(trained().network, (1, 16, 16)).layers)[:27:3]  # of maps, in every stage
    recipes = cross_layer(trained(), trained(0.1, 1), layers, tiny_data, DIRECT)
    assert len(recipes) == 81
    assert [(recipe.layer_front, recipe.layer_end) for recipe in recipes] == list(product(layers, layers))
    assert all(recipe.options.resize for recipe in recipes)
    fitted = cross_layer(trained(0.1, 1), trained(), layers, tiny_data, QUICK)
    assert {recipe.options.seed for recipe in fitted} == {1}


@pytest.mark.slow
def test_layers_of_other_architectures_are_stitched_to_one_another(tiny_data, evaluation):
    recipes = cross_layer(trained(), trained(architecture="wrn_tiny"), "blocks", tiny_data, DIRECT)
    assert {recipe.layer_front for recipe in recipes} == set(BLOCKS)
    assert len({recipe.layer_end for recipe in recipes}) * 3 == len(recipes)
    found = run(recipes[::4], evaluation, progress=False)
    assert found["accuracy"].notna().all()


# -- running ------------------------------------------------------------------------------------------------


@pytest.fixture
def recipes(tiny_data):
    """Of two pairs at two layers each."""
    standard, robust = kinds(1)
    return same_layer(donor_pairs(standard, robust), BLOCKS[1:], tiny_data, [QUICK])


def test_a_row_for_each_stitch_in_order(recipes, evaluation):
    found = run(recipes, evaluation, progress=False)
    assert len(found) == 4
    assert list(zip(found["front"], found["layer_end"], strict=True)) == [
        (recipe.front, recipe.layer_end) for recipe in recipes
    ]
    assert found["pair"].tolist() == ["standard → robust"] * 2 + ["robust → standard"] * 2
    for recipe, (_, row) in zip(recipes, found.iterrows(), strict=True):
        measured = find_stitch(recipe).measured(evaluation)
        assert {name: row[name] for name in measured} == measured


@pytest.mark.slow
def test_two_processes_make_the_same_table_as_one(recipes, evaluation, fits, monkeypatch, tmp_path):
    one = run(recipes, evaluation, progress=False, truncations=[2])
    assert len(fits) == 4
    monkeypatch.setenv("REPSIM_HOME", str(tmp_path / "other"))
    assert find_stitch(recipes[0]) is None
    two = run(recipes, evaluation, jobs=2, progress=False, truncations=[2])
    assert len(fits) == 4  # none of them in this process
    pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    again = run(recipes, evaluation, jobs=2, progress=False, truncations=[2])  # nothing is left to be done
    pd.testing.assert_frame_equal(two, again)


def test_an_interrupted_run_goes_on_with_the_next_stitch(recipes, evaluation, fits, monkeypatch):
    fit, calls = stitches.stitch, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*args, **options)

    monkeypatch.setattr(stitches, "stitch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(recipes, evaluation, progress=False)
    assert [find_stitch(recipe) is not None for recipe in recipes] == [True, True, False, False]
    del fits[:]
    found = run(recipes, evaluation, progress=False)
    assert fits == [recipe.address for recipe in recipes[2:]]
    assert len(found) == 4
    run(recipes, evaluation, progress=False)
    assert len(fits) == 2


def test_what_is_stored_is_made_again_if_asked(recipes, evaluation, fits):
    first = run(recipes[:1], evaluation, progress=False)
    again = run(recipes[:1], evaluation, recompute=True, progress=False)
    assert len(fits) == 2
    pd.testing.assert_frame_equal(first, again)


# -- the table ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tiny_data, evaluation, tmp_path_factory):
    """Every kind of way at one layer, in one table, which no test changes."""
    pgd = QUICK.but(method="pgd", epsilon=0.1, attack_steps=1, attack_ratio=0.5)
    trades = QUICK.but(method="trades", epsilon=0.1, attack_steps=1)
    methods = [QUICK, pgd, trades, DIRECT]
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPSIM_HOME", str(folder))
        patch.setattr(paths, "stitches", lambda: [folder / "stitches"])
        recipes = same_layer([(trained(), trained(0.1))], BLOCKS[1], tiny_data, methods)
        return run(recipes, evaluation, progress=False)


def test_no_column_is_there_twice_and_what_was_measured_comes_last(mixed):
    columns = mixed.columns.tolist()
    assert len(set(columns)) == len(columns)
    measured = [name for name in MEASURED if name != "autoattack_accuracy"]
    assert columns[-len(measured) :] == measured
    assert not mixed[measured].isna().any().any()


def test_the_attack_of_fitting_is_told_from_that_of_measuring(mixed):
    assert mixed["fitting_epsilon"].tolist() == [0, 0.1, 0.1, 0]
    assert mixed["fitting_attack_steps"].tolist()[1:3] == [1, 1]
    assert {"fitting_norm", "fitting_step_size"} <= set(mixed.columns)
    assert mixed["attack_epsilon"].tolist() == [0.1] * 4
    assert mixed["attack_norm"].tolist() == ["linf"] * 4
    assert {"norm", "epsilon", "step_size"}.isdisjoint(mixed.columns)


def test_alpha_is_the_share_of_attacked_images_and_undefined_in_direct_matching(mixed):
    assert mixed["alpha"].tolist()[:3] == [0, 0.5, 1]
    assert pd.isna(mixed["alpha"].iloc[3])
    assert mixed["fitting_method"].tolist() == [
        "task loss, α = 0",
        "task loss, α = 0.5",
        "task loss, TRADES",
        "direct, pseudo inverse",
    ]
    assert mixed["method"].tolist() == ["standard", "pgd", "trades", "pseudo_inverse"]


def test_donors_are_described(mixed):
    row = mixed.iloc[0]
    assert (row["front"], row["end"]) == (trained().name, trained(0.1).name)
    assert (row["front_epsilon"], row["end_epsilon"]) == (0, 0.1)
    assert (row["front_seed"], row["end_seed"]) == (0, 0)
    assert (row["front_task"], row["end_task"], row["fitted_on"]) == ("digits",) * 3
    assert row["evaluated_on"] == "digits"
    assert row["images"] == 60


def test_depth_is_the_place_among_the_layers():
    found = pd.DataFrame({"layer_end": ["a", "b", "c", "a", "b", "c"]})
    assert depth(found).tolist() == [0, 0.5, 1, 0, 0.5, 1]
    assert depth(found.iloc[:1]).tolist() == [0]


# -- truncation ---------------------------------------------------------------------------------------------


def test_truncation_is_of_copies_and_at_full_rank_the_whole(tiny_data, evaluation):
    """The reference code truncates in place before it saves (errata 8)."""
    recipes = same_layer([(trained(), trained(0.1))], BLOCKS[1], tiny_data, [DIRECT])
    whole = obtain_stitch(recipes[0], evaluation)
    before = {name: value.clone() for name, value in whole.learned.items()}
    found = run(recipes, evaluation, truncations=[1, 4, 16], progress=False)
    assert found["truncated_to"].tolist() == [0, 1, 4, 16]
    assert found["rank"].tolist() == [0] * 4
    assert all(torch.equal(value, before[name]) for name, value in find_stitch(recipes[0]).learned.items())
    errors = found["distance_after"].tolist()
    assert errors[1] > errors[2] > errors[3]
    assert errors[3] == pytest.approx(errors[0], rel=1e-4)
    assert found["accuracy"].iloc[3] == found["accuracy"].iloc[0]
    assert table([whole], evaluation).iloc[0].to_dict() == pytest.approx(found.iloc[0].to_dict(), nan_ok=True)


@pytest.mark.slow
def test_truncations_that_are_missing_are_measured_without_fitting(tiny_data, evaluation, fits):
    recipes = same_layer([(trained(), trained(0.1))], BLOCKS[1], tiny_data, [DIRECT])
    assert len(run(recipes, evaluation, progress=False)) == 1
    assert len(run(recipes, evaluation, truncations=[3], progress=False)) == 2
    assert len(run(recipes, evaluation, truncations=[3, 5], progress=False)) == 3
    assert len(fits) == 1


def test_a_rank_above_the_channel_count_is_refused(tiny_data, evaluation):
    recipes = same_layer([(trained(), trained(0.1))], BLOCKS[1], tiny_data, [DIRECT])
    with pytest.raises(ValueError, match=r"^rank must be between 1 and 16"):
        run(recipes, evaluation, truncations=[17], progress=False)


# -- singular values, curves --------------------------------------------------------------------------------


def test_singular_values_are_those_of_the_stored_weights(tiny_data, evaluation):
    methods = [DIRECT, DIRECT.but(rank=2)]
    made = [
        obtain_stitch(recipe, evaluation)
        for recipe in same_layer([(trained(), trained(0.1))], BLOCKS[1:], tiny_data, methods)
    ]
    found = singular_values(made)
    columns = ["front", "end", "layer_front", "layer_end", "fitting_method", "index", "value", "share"]
    assert found.columns.tolist() == columns
    assert len(found) == 2 * (16 + 32)
    for stitch, start, size in zip(made, (0, 16, 48, 64), (16, 32, 16, 32), strict=True):
        own = found.iloc[start : start + size]
        assert own["index"].tolist() == list(range(1, size + 1))
        expected = torch.linalg.svdvals(stitch.transform.weight.detach().double()).tolist()
        assert own["value"].tolist() == pytest.approx(expected, abs=1e-6)
        assert own["layer_end"].unique().tolist() == [stitch.recipe.layer_end]
    low = found.iloc[48:64]["value"]
    assert (low.iloc[:2] > 1e-3).all()
    assert (low.iloc[2:] < 1e-5).all()


def test_curves_have_a_row_for_each_epoch_and_both_learning_rates(tiny_data, evaluation):
    methods = [QUICK.but(epochs=2), QUICK.but(epochs=3, learning_rate=0.01)]
    made = [
        obtain_stitch(recipe, evaluation)
        for recipe in same_layer([(trained(), trained(0.1))], BLOCKS[1], tiny_data, methods)
    ]
    found = curves(made)
    assert found["epoch"].tolist() == [1, 2, 1, 2, 3]
    assert found["initial_rate"].tolist() == [0.03] * 2 + [0.01] * 3
    assert found["learning_rate"].iloc[-1] < 0.01
    assert found["loss"].tolist() == [*made[0].curve["loss"], *made[1].curve["loss"]]
    assert len(set(found.columns)) == len(found.columns)


@pytest.mark.slow
def test_networks_of_two_tasks_are_stitched_on_the_data_of_either(tiny_data):
    shapes = load_data("shapes", train_size=100, test_size=40)
    (recipe,) = zoo.recipes(load_data("shapes"), ["resnet_tiny"], [0.0], [0])
    there = find(recipe, "cpu")
    tables = []
    for own in (tiny_data, shapes):
        seen = Evaluation(own, Attack(0.1, steps=1), device="cpu")
        pairs = [(trained(), there), (there, trained())]
        methods = [StitchOptions(epochs=10, batch_size=50, learning_rate=0.03)]
        tables.append(
            run(same_layer(pairs, [BLOCKS[2]], own, methods, cross_task=True), seen, progress=False)
        )
    crossed = pd.concat(tables, ignore_index=True)
    assert crossed["front_task"].tolist() == ["digits", "shapes"] * 2
    assert crossed["end_task"].tolist() == ["shapes", "digits"] * 2
    assert (
        crossed["fitted_on"].tolist() == crossed["evaluated_on"].tolist() == ["digits"] * 2 + ["shapes"] * 2
    )
    # what a network knows of its own task can be put into the other task's answers
    on_digits = crossed[crossed["fitted_on"] == "digits"].set_index("front_task")
    assert on_digits.loc["digits", "accuracy_front"] > 0.9
    assert on_digits.loc["digits", "accuracy"] > 0.5
    # a donor that was asked another question has no accuracy, and agrees with nothing, here
    foreign = [
        name for name in crossed.columns if name.endswith("_end") and name.removesuffix("_end") in OF_A_DONOR
    ]
    assert len(foreign) == len(OF_A_DONOR)
    assert on_digits.loc["digits", foreign].isna().all()
    assert on_digits.loc["shapes", foreign].notna().any()
