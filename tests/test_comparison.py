"""Tables of many models say what one comparison of two representations says, on the images they name."""

import itertools
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from repsim import paths, zoo
from repsim.comparison import Comparison, both_orders, mean_similarity, similarity_matrix
from repsim.data import load_data
from repsim.graphs import capture
from repsim.inversion import InversionOptions, Pairs
from repsim.inversion.experiments import obtain_sets
from repsim.measures import compare, interval
from repsim.store import TrainedModel, find

LABELS = ["architecture", "method", "norm", "epsilon", "seed"]
SIDES = [f"{label}_{side}" for side in "ab" for label in LABELS]
VALUES = ["measure", "value", "orientation", "note", "n"]
COLUMNS = ["inputs", "model_a", "model_b", *SIDES, *VALUES]
FEW = InversionOptions(iterations=10, tolerance=0.0)
COUNT = 16


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def three():
    return [trained(0.1), trained(), trained(seed=1, architecture="resnet_tiny")]


def names():
    return [model.name for model in three()]


@pytest.fixture(scope="module")
def comparison():
    return Comparison(three())


@pytest.fixture(scope="module")
def images(tiny_data):
    return tiny_data.test.images[:20]


@pytest.fixture(scope="module")
def pairs(tiny_data):
    generator = torch.Generator().manual_seed(0)
    target = torch.randperm(60, generator=generator)[:COUNT]
    others = [(tiny_data.test.labels != tiny_data.test.labels[i]).nonzero().flatten() for i in target]
    return Pairs.of(tiny_data, torch.stack([each[0] for each in others]), target)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where sets are kept that several tests read."""
    return tmp_path_factory.mktemp("home")


def made(tiny_data, pairs, home, models, start="seed", options=FEW, **how):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "inverted", lambda: [home])
        return obtain_sets(models, tiny_data, pairs, options, start=start, progress=False, **how)


@pytest.fixture(scope="module")
def sets(tiny_data, pairs, home):
    return made(tiny_data, pairs, home, three())


@pytest.fixture(scope="module")
def from_noise(tiny_data, pairs, home):
    return made(tiny_data, pairs, home, three(), "noise")


@pytest.fixture(scope="module")
def paired(tiny_data, pairs):
    """What STIR takes its targets from."""
    return pairs, tiny_data.test


def seen(model, images, layer="penultimate"):
    """What a model makes of images, by another way than `Comparison`'s."""
    (values,) = capture(model.network, images, layer).values()
    return values.flatten(1)


def expected(measure, x, y):
    return pytest.approx(compare(x, y, measure)["value"].item(), rel=1e-4, abs=1e-5)


# -- representations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["penultimate", "layer2.0.relu2"])
def test_a_representation_is_what_the_layer_puts_out(images, layer):
    models = [trained(architecture="resnet_tiny"), trained(0.1, architecture="resnet_tiny")]
    comparison = Comparison(models, layer)
    for model in models:
        found = comparison.representation(model.name, images)
        assert found.shape == (20, found[0].numel())
        assert torch.allclose(found, seen(model, images, layer), atol=1e-5, rtol=1e-5)


def test_how_many_images_there_are_makes_no_difference(comparison, monkeypatch, images):
    (name, *_) = names()
    whole = comparison.representation(name, images)
    monkeypatch.setattr("repsim.comparison.BATCH", 7)
    assert torch.allclose(comparison.representation(name, images), whole, atol=1e-6)
    assert not comparison.representation(name, images).requires_grad


def test_models_are_as_they_were(tiny_data, images, sets):
    models = three()
    before = [{name: v.clone() for name, v in model.network.state_dict().items()} for model in models]
    comparison = Comparison(models)
    comparison.natural(images, progress=False)
    comparison.inverted(sets, progress=False)
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in model.network.state_dict().items())
        assert not model.network.training
        assert all(weight.requires_grad for weight in model.network.parameters())


# -- natural images -----------------------------------------------------------------------------------------


def test_natural_images_give_what_comparing_each_pair_gives(comparison, images):
    table = comparison.natural(images, ["cka", "procrustes", "jaccard(k=3)"], progress=False)
    own = {model.name: seen(model, images) for model in three()}
    rows = [(row.model_a, row.model_b, row.measure) for row in table.itertuples()]
    assert rows == [
        (*pair, measure)
        for pair in itertools.combinations(names(), 2)
        for measure in ("cka", "procrustes", "jaccard(k=3)")
    ]
    for row in table.itertuples():
        assert row.value == expected(row.measure, own[row.model_a], own[row.model_b])
    assert table.columns.tolist() == COLUMNS
    assert set(table["inputs"]) == {"natural"}
    assert set(table["n"]) == {20}
    assert table["orientation"].unique().tolist() == ["similarity", "distance"]


@pytest.mark.parametrize("measure", ["linear_regression", "pwcca", "cknna(k=3)"])
def test_of_a_measure_that_is_not_symmetric_both_orders_are_there(tiny_data, comparison, measure):
    images = tiny_data.test.images
    table = comparison.natural(images, measure, progress=False)
    own = {model.name: seen(model, images) for model in three()}
    assert list(zip(table["model_a"], table["model_b"], strict=True)) == list(
        itertools.permutations(names(), 2)
    )
    for row in table.itertuples():
        assert row.value == pytest.approx(
            compare(own[row.model_a], own[row.model_b], measure)["value"].item(), rel=1e-2
        )


def test_one_measure_is_cka_unless_said(comparison, images):
    usual = comparison.natural(images, progress=False)
    pd.testing.assert_frame_equal(usual, comparison.natural(images, "cka", progress=False))
    assert set(usual["measure"]) == {"cka"}


def test_the_layer_decides(images):
    models = [trained(), trained(0.1)]
    late, early = Comparison(models), Comparison(models, "hidden.1")
    (value,) = early.natural(images, progress=False)["value"]
    assert value == expected("cka", *(seen(model, images, "hidden.1") for model in models))
    assert value != late.natural(images, progress=False)["value"].item()


def test_labels_are_those_of_both_models(comparison, images, sets, from_noise, paired):
    tables = [
        comparison.natural(images, progress=False),
        comparison.inverted(sets, progress=False),
        comparison.stir(from_noise, *paired, progress=False),
    ]
    models = {model.name: model for model in three()}
    for table in tables:
        assert table.columns.tolist() == COLUMNS
        for row in table.to_dict("records"):
            for side in "ab":
                labels = {label: row[f"{label}_{side}"] for label in LABELS}
                assert labels == models[row[f"model_{side}"]].labels


# -- inverted images ----------------------------------------------------------------------------------------


def test_inverted_images_are_those_of_the_first_model(comparison, sets):
    table = comparison.inverted(sets, "cka", progress=False)
    models = {model.name: model for model in three()}
    assert list(zip(table["model_a"], table["model_b"], strict=True)) == list(
        itertools.permutations(names(), 2)
    )
    for row in table.itertuples():
        own = sets[row.model_a].images
        assert row.value == expected("cka", *(seen(models[n], own) for n in (row.model_a, row.model_b)))
    assert set(table["inputs"]) == {"inverted"}
    assert set(table["n"]) == {COUNT}
    values = table.set_index(["model_a", "model_b"])["value"]
    a, b, _ = names()
    assert values[a, b] != pytest.approx(values[b, a], abs=1e-3)


def test_an_asymmetric_measure_of_inverted_images_takes_the_first_model_first(comparison, sets):
    table = comparison.inverted(sets, "cknna(k=4)", progress=False)
    models = {model.name: model for model in three()}
    for row in table.itertuples():
        own = sets[row.model_a].images
        assert row.value == expected(
            "cknna(k=4)", seen(models[row.model_a], own), seen(models[row.model_b], own)
        )


def test_models_without_inverted_images_are_only_compared_with(comparison, sets):
    whole = comparison.inverted(sets, progress=False)
    one = names()[1]
    table = comparison.inverted({one: sets[one]}, progress=False)
    assert table["model_a"].tolist() == [one, one]
    assert table["model_b"].tolist() == [name for name in names() if name != one]
    rows = whole[whole["model_a"] == one].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, rows)


def test_several_measures_at_once_are_each_as_alone(comparison, images, sets, from_noise, paired):
    asked = ["cka", "rsa", "procrustes"]
    for ask in (
        lambda measures: comparison.natural(images, measures, progress=False),
        lambda measures: comparison.inverted(sets, measures, progress=False),
        lambda measures: comparison.stir(from_noise, *paired, measures, progress=False),
    ):
        together = ask(asked)
        for measure in asked:
            alone = ask(measure)
            rows = together[together["measure"] == measure].reset_index(drop=True)
            pd.testing.assert_frame_equal(rows, alone)


# -- STIR ---------------------------------------------------------------------------------------------------


def stir_pairs(table):
    return list(zip(table["model_a"], table["model_b"], strict=True))


def test_stir_compares_what_the_second_sees_in_the_targets_and_in_the_inverted_images(
    comparison, from_noise, paired
):
    pairs, split = paired
    targets = pairs.targets(split)
    table = comparison.stir(from_noise, pairs, split, progress=False)
    models = {model.name: model for model in three()}
    assert sorted(stir_pairs(table)) == sorted(itertools.product(names(), repeat=2))
    for row in table.itertuples():
        b = models[row.model_b]
        assert row.value == expected("cka", seen(b, targets), seen(b, from_noise[row.model_a].images))
    assert set(table["inputs"]) == {"stir"}
    assert set(table["n"]) == {COUNT}
    assert table["value"].nunique() == 9


@pytest.mark.parametrize("measure", ["pwcca", "linear_regression"])
def test_stir_of_an_asymmetric_measure_takes_the_targets_first(tiny_data, home, measure):
    """m(b(X), b(X′)), as its documentation says."""
    models = [trained(architecture="resnet_tiny_w4"), trained(0.1, architecture="resnet_tiny_w4")]
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(60, generator=generator)
    labels = tiny_data.test.labels
    index = index[labels[index] != labels[0]]
    pairs = Pairs.of(tiny_data, torch.zeros_like(index), index)
    sets = made(tiny_data, pairs, home, models, "noise")
    targets = pairs.targets(tiny_data.test)
    table = Comparison(models).stir(sets, pairs, tiny_data.test, measure, progress=False)
    known, differences = {model.name: model for model in models}, []
    for row in table.itertuples():
        b = known[row.model_b]
        x, y = seen(b, targets), seen(b, sets[row.model_a].images)
        there, back = (compare(*each, measure)["value"].item() for each in ((x, y), (y, x)))
        differences.append(abs(there - back))
        assert row.value == pytest.approx(there, abs=1e-4)
    assert max(differences) > 1e-3


def test_a_model_agrees_with_itself_on_well_inverted_images(tiny_data, pairs, home):
    models = [trained(), trained(0.1)]
    options = InversionOptions(iterations=300, tolerance=0.02)
    sets = made(tiny_data, pairs, home, models, "noise", options)
    assert all(found.record["loss"] < 0.05 for found in sets.values())
    values = (
        Comparison(models)
        .stir(sets, pairs, tiny_data.test, progress=False)
        .set_index(["model_a", "model_b"])["value"]
    )
    for one, other in itertools.permutations([model.name for model in models]):
        assert values[one, one] > 0.98
        assert values[one, one] > values[one, other] + 0.02


def test_stir_of_some_models(comparison, from_noise, paired):
    whole = comparison.stir(from_noise, *paired, progress=False)
    one = names()[2]
    table = comparison.stir({one: from_noise[one]}, *paired, progress=False)
    assert stir_pairs(table) == [(one, name) for name in names()]
    rows = whole[whole["model_a"] == one]
    assert table["value"].tolist() == pytest.approx(rows["value"].tolist())


# -- intervals ----------------------------------------------------------------------------------------------


def test_intervals_are_around_the_values(comparison, images, sets, from_noise, paired):
    for ask in (
        lambda **options: comparison.natural(images, "cka_debiased", progress=False, **options),
        lambda **options: comparison.inverted(sets, "cka_debiased", progress=False, **options),
        lambda **options: comparison.stir(from_noise, *paired, "cka_debiased", progress=False, **options),
    ):
        plain, table = ask(), ask(intervals=True)
        assert {*table.columns} - {*plain.columns} == {"low", "high"}
        pd.testing.assert_frame_equal(table[plain.columns], plain)
        assert (table["low"] <= table["value"]).all()
        assert (table["value"] <= table["high"]).all()
        assert (table["low"] < table["high"]).all()


def test_an_interval_is_that_of_its_pair_and_measure(images):
    comparison = Comparison(three()[:2])
    table = comparison.natural(images, ["cka_debiased", "rsa"], intervals=True, progress=False)
    values = {name: comparison.representation(name, images) for name in names()[:2]}
    for row in table.itertuples():
        found = interval(row.measure, values[row.model_a], values[row.model_b], progress=False)
        assert (row.low, row.high) == pytest.approx((found.low, found.high))


# -- refused ------------------------------------------------------------------------------------------------


def refused(message, ask):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ask()


def test_fewer_than_two_models():
    refused("a comparison needs at least 2 models, got 0.", lambda: Comparison([]))
    refused("a comparison needs at least 2 models, got 1.", lambda: Comparison(iter([trained()])))
    refused("a comparison needs at least 2 models, got 1.", lambda: Comparison([trained(), trained()]))


def test_an_unknown_layer():
    refused("unknown layer 'hiden.1'; did you mean 'hidden.1'", lambda: Comparison(three()[:2], "hiden.1"))


def test_a_layer_that_one_of_them_lacks():
    refused("unknown layer 'hidden.1'", lambda: Comparison(three(), "hidden.1"))


def test_several_layers_represent_nothing():
    refused("one layer represents an image; 'all' are ", lambda: Comparison(three(), "all"))


def test_sets_of_another_model(comparison, sets, from_noise, paired):
    a, b, _ = three()
    message = (
        f"the inverted images {sets[b.name].recipe.address} are of {b.name} (weights {b.weights}…), not of "
        f"{a.name} (weights {a.weights}…)."
    )
    refused(message, lambda: comparison.inverted({a.name: sets[b.name]}, progress=False))
    message = message.replace(sets[b.name].recipe.address, from_noise[b.name].recipe.address)
    refused(message, lambda: comparison.stir({a.name: from_noise[b.name]}, *paired, progress=False))


def test_no_sets(comparison, sets, paired):
    message = "none of the 3 models has inverted images here."
    for given in ({}, {"another": sets[names()[0]]}):
        refused(message, lambda given=given: comparison.inverted(given, progress=False))
        refused(message, lambda given=given: comparison.stir(given, *paired, progress=False))


@pytest.mark.parametrize("change", [lambda x: x * 255, lambda x: x - 0.5, lambda x: x * float("nan")])
def test_images_outside_of_the_range_of_pixels(comparison, images, change):
    message = "images must have pixels in [0, 1], found ["
    refused(message, lambda: comparison.natural(change(images), progress=False))


def test_too_few_images_for_a_measure_says_how_many_there_are(comparison, images):
    a, b, _ = names()
    message = (
        f"natural images, 8 of them: jaccard of {a!r} and {b!r}: k must be a whole number of at least 1 "
        "and at most 7"
    )
    refused(message, lambda: comparison.natural(images[:8], ["cka", "jaccard"], progress=False))


def test_too_few_inverted_images_for_a_measure(comparison, sets, from_noise, paired):
    measure = f"jaccard(k={COUNT})"
    refused(
        f"inverted images, {COUNT} of them: {measure} of ",
        lambda: comparison.inverted(sets, measure, progress=False),
    )
    refused(
        f"stir images, {COUNT} of them: {measure} of ",
        lambda: comparison.stir(from_noise, *paired, measure, progress=False),
    )


def began(otherwise, needed):
    first = names()[0]
    return f"the images inverted through {first} began as {otherwise}; needed are such as began as {needed}."


def test_stir_of_images_that_began_as_seeds(comparison, sets, from_noise, paired):
    message = began("the pairs' seeds", "noise")
    refused(message, lambda: comparison.stir(sets, *paired, progress=False))
    mixed = {**from_noise, names()[0]: sets[names()[0]]}
    refused(message, lambda: comparison.stir(mixed, *paired, progress=False))


def test_inverted_images_that_began_as_noise(comparison, sets, from_noise):
    message = began("noise", "the pairs' seeds")
    refused(message, lambda: comparison.inverted(from_noise, progress=False))
    mixed = {**sets, names()[0]: from_noise[names()[0]]}
    refused(message, lambda: comparison.inverted(mixed, progress=False))


def test_sets_of_another_layer(tiny_data, pairs, paired, home):
    models = [trained(), trained(0.1)]
    early, late = Comparison(models, "hidden.1"), Comparison(models)
    message = "the images of {} were inverted at layer {!r}; the comparison is of {!r}."
    name = models[0].name
    for start, ask in (
        ("seed", lambda comparison, sets: comparison.inverted(sets, progress=False)),
        ("noise", lambda comparison, sets: comparison.stir(sets, *paired, progress=False)),
    ):
        at_end, at_layer = (
            made(tiny_data, pairs, home, models, start, layer=layer) for layer in ("penultimate", "hidden.1")
        )
        refused(message.format(name, "penultimate", "hidden.1"), lambda ask=ask, own=at_end: ask(early, own))
        refused(message.format(name, "hidden.1", "penultimate"), lambda ask=ask, own=at_layer: ask(late, own))
        assert len(ask(early, at_layer)) == len(ask(late, at_end)) > 0


def test_sets_of_different_pairs(tiny_data, pairs, comparison, sets, from_noise, paired, home):
    fewer = Pairs.of(tiny_data, pairs.seed_index[:9], pairs.target_index[:9])
    turned = Pairs.of(tiny_data, pairs.seed_index.flip(0), pairs.target_index.flip(0))
    first, second, _ = names()
    message = f"{first} and {second} were inverted for different pairs of images."
    for other in (fewer, turned):
        own = made(tiny_data, other, home, [trained()])
        refused(message, lambda own=own: comparison.inverted({**sets, **own}, progress=False))
        own = made(tiny_data, other, home, [trained()], "noise")
        refused(message, lambda own=own: comparison.stir({**from_noise, **own}, *paired, progress=False))


def test_stir_of_other_pairs(tiny_data, pairs, comparison, from_noise):
    found = from_noise[names()[0]].recipe
    fewer = Pairs.of(tiny_data, pairs.seed_index[:9], pairs.target_index[:9])
    turned = Pairs.of(tiny_data, pairs.seed_index.flip(0), pairs.target_index.flip(0))
    for other in (fewer, turned):
        message = (
            f"the inverted images {found.address} of {found.model} are of pairs {pairs.address}, not of "
            f"{other.address}."
        )
        refused(
            message, lambda other=other: comparison.stir(from_noise, other, tiny_data.test, progress=False)
        )


def test_models_for_images_of_different_shapes():
    (recipe,) = zoo.recipes(load_data("digits"), ["resnet_tiny"], [0.1], [0])
    found = find(recipe, "cpu")
    wide = TrainedModel(found.recipe, found.path, {**found.record, "image_shape": [3, 32, 32]})
    refused(
        "models for images of one shape can be compared, not of [(1, 16, 16), (3, 32, 32)].",
        lambda: Comparison([trained(), wide, trained(0.1)]),
    )


def test_an_unknown_measure(comparison, images):
    with pytest.raises(ValueError, match=re.escape("unknown measure 'ckaa'; did you mean 'cka'")):
        comparison.natural(images, "ckaa", progress=False)


# -- both orders, matrices and means ------------------------------------------------------------------------


def pairs_table(inputs, rows, measure="cka"):
    """A table of pairs (group, seed), (group, seed), value, as `Comparison` makes them."""
    found = []
    for a, b, value in rows:
        row = {"inputs": inputs, "measure": measure, "value": value, "n": 10}
        for side, (group, seed) in (("a", a), ("b", b)):
            row[f"model_{side}"] = f"{group}-{seed}"
            row |= {f"{label}_{side}": "" for label in LABELS}
            row |= {f"architecture_{side}": group, f"seed_{side}": seed, f"epsilon_{side}": 0.1 * seed}
        found.append(row)
    return pd.DataFrame(found)


def architecture(labels):
    return labels["architecture"]


NATURAL = [
    (("x", 0), ("x", 1), 0.9),
    (("x", 0), ("y", 0), 0.4),
    (("x", 1), ("y", 0), 0.2),
]


def test_a_matrix_of_natural_images_is_mirrored_and_holds_means_over_seeds():
    matrix = similarity_matrix(pairs_table("natural", NATURAL), architecture)
    assert matrix.index.tolist() == matrix.columns.tolist() == ["x", "y"]
    assert matrix.loc["x", "x"] == 0.9
    assert matrix.loc["x", "y"] == matrix.loc["y", "x"] == pytest.approx(0.3)
    assert np.isnan(matrix.loc["y", "y"])  # no pair of two such models


def test_a_matrix_of_inverted_images_has_the_first_model_down():
    rows = [(("x", 0), ("y", 0), 0.8), (("y", 0), ("x", 0), 0.1), (("x", 1), ("y", 0), 0.6)]
    matrix = similarity_matrix(pairs_table("inverted", rows), architecture)
    assert matrix.loc["x", "y"] == pytest.approx(0.7)
    assert matrix.loc["y", "x"] == pytest.approx(0.1)
    assert np.isnan(matrix.loc["x", "x"])


def test_a_matrix_of_a_measure_that_is_not_symmetric_keeps_its_orders():
    rows = [(("x", 0), ("y", 0), 0.8), (("y", 0), ("x", 0), 0.2)]
    matrix = similarity_matrix(pairs_table("natural", rows, "pwcca"), architecture)
    assert (matrix.loc["x", "y"], matrix.loc["y", "x"]) == (0.8, 0.2)


def test_groups_stand_in_the_order_asked_for():
    table = pairs_table("natural", [*NATURAL, (("x", 0), ("a", 0), 0.5)])
    assert similarity_matrix(table, architecture).index.tolist() == ["x", "y", "a"]
    usual = similarity_matrix(table, architecture)
    turned = similarity_matrix(table, architecture, ["a", "x", "y"])
    assert turned.index.tolist() == turned.columns.tolist() == ["a", "x", "y"]
    pd.testing.assert_frame_equal(turned.loc[usual.index, usual.columns], usual)
    assert similarity_matrix(table, architecture, ["y", "x"]).shape == (2, 2)


def test_groups_may_be_of_any_label_or_of_the_name():
    table = pairs_table("natural", NATURAL)
    by_seed = similarity_matrix(table, lambda labels: f"seed {labels['seed']}")
    assert by_seed.loc["seed 0", "seed 1"] == pytest.approx((0.9 + 0.2) / 2)
    by_name = similarity_matrix(table, lambda labels: labels["model"])
    assert by_name.index.tolist() == ["x-0", "x-1", "y-0"]
    assert by_name.loc["y-0", "x-1"] == 0.2


def test_both_orders_mirrors_what_is_there_once():
    table = pairs_table("natural", NATURAL)
    both = both_orders(table)
    pd.testing.assert_frame_equal(both[:3], table)
    assert len(both) == 6
    for before, after in zip(table.to_dict("records"), both[3:].to_dict("records"), strict=True):
        for name in table.columns:
            other = f"{name[:-1]}{'b' if name[-1] == 'a' else 'a'}" if name[-2:] in ("_a", "_b") else name
            assert after[other] == before[name]
    pd.testing.assert_frame_equal(both_orders(both), both)


def test_both_orders_leaves_what_has_both_already():
    inverted = pairs_table("inverted", NATURAL)
    pd.testing.assert_frame_equal(both_orders(inverted), inverted)
    there = [(("x", 0), ("y", 0), 0.8), (("y", 0), ("x", 0), 0.2)]
    asymmetric = pairs_table("natural", there, "pwcca")
    pd.testing.assert_frame_equal(both_orders(asymmetric), asymmetric)
    mixed = pd.concat([asymmetric, pairs_table("natural", there[:1])], ignore_index=True)
    assert both_orders(mixed)["measure"].tolist() == ["pwcca", "pwcca", "cka", "cka"]


def test_both_orders_of_a_real_table_are_those_of_asking_the_other_way_round(comparison, images):
    table = comparison.natural(images, progress=False)
    other = Comparison(three()[::-1]).natural(images, progress=False)
    key = ["model_a", "model_b"]
    one, two = (both_orders(each).sort_values(key, ignore_index=True) for each in (table, other))
    pd.testing.assert_frame_equal(one, two, rtol=1e-6)


def test_a_mean_over_pairs_of_different_models_of_chosen_kinds():
    rows = [
        (("x", 1), ("y", 2), 0.4),
        (("y", 1), ("x", 2), 0.6),
        (("x", 1), ("x", 1), 9.0),  # itself
        (("x", 1), ("y", 1), 0.1),
        (("x", 1), ("z", 2), 7.0),
        (("x", 2), ("y", 1), 0.8),
    ]
    table = pairs_table("stir", rows)
    both = {"architectures": ["x", "y"]}
    assert mean_similarity(table, **both, epsilon_a=0.1, epsilon_b=0.2) == pytest.approx(0.5)
    assert mean_similarity(table, **both, epsilon_a=0.2, epsilon_b=0.1) == pytest.approx(0.8)
    assert mean_similarity(table, **both, epsilon_a=0.1, epsilon_b=0.1) == pytest.approx(0.1)
    assert mean_similarity(table, architectures=["x", "z"], epsilon_a=0.1, epsilon_b=0.2) == 7.0
    natural = pairs_table("natural", rows[:1] + rows[5:])
    for one, other in ((0.1, 0.2), (0.2, 0.1)):
        assert mean_similarity(natural, **both, epsilon_a=one, epsilon_b=other) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "ask",
    [
        lambda table: similarity_matrix(table, architecture),
        lambda table: mean_similarity(table, architectures=["x", "y"], epsilon_a=0, epsilon_b=0.1),
    ],
)
def test_a_mean_over_several_inputs_or_measures(ask):
    natural, inverted = (pairs_table(inputs, NATURAL) for inputs in ("natural", "inverted"))
    ask(natural)
    ask(inverted)
    message = "a mean over inputs natural, inverted says nothing: choose one of them."
    refused(message, lambda: ask(pd.concat([natural, inverted], ignore_index=True)))
    other = pairs_table("natural", NATURAL, "rsa")
    message = "a mean over measure cka, rsa says nothing: choose one of them."
    refused(message, lambda: ask(pd.concat([natural, other], ignore_index=True)))


@pytest.mark.parametrize(
    ("architectures", "epsilon_a", "epsilon_b", "message"),
    [
        (["x", "y"], 0.1, 0.3, "x, y were trained at ε = 0.1 and 0.3."),
        (["z"], 0.1, 0.0, "z were trained at ε = 0.1 and 0."),
        (["y"], 0.0, 0.0, "y were trained at ε = 0 and 0."),
    ],
)
def test_a_mean_over_no_pair(architectures, epsilon_a, epsilon_b, message):
    table = pairs_table("inverted", [*NATURAL, (("y", 0), ("y", 0), 1.0)])  # itself alone
    refused(
        f"no two different models of {message}",
        lambda: mean_similarity(table, architectures=architectures, epsilon_a=epsilon_a, epsilon_b=epsilon_b),
    )
