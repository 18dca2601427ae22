"""Tables of many models say what one comparison of two models says, on the images they name."""

import dataclasses
import itertools
import math
import re
from functools import cache

import pandas as pd
import pytest
import torch

from repsim.activations import Observation, capture
from repsim.attacks import Attack, run_attack
from repsim.data import Split, load_data
from repsim.measures import MEASURES, PREDICTION_MEASURES, compare, interval, permutation_test
from repsim.studies import comparison
from repsim.studies.comparison import compare_models, values
from repsim.studies.comparison.values import Activations
from repsim.studies.inversion import Pairs
from repsim.training import predict, zoo
from repsim.training.model_store import find

LABELS = ["architecture", "method", "norm", "epsilon", "seed"]
SIDES = [f"{label}_{side}" for side in "ab" for label in LABELS]
HEAD = ["dataset", "inputs", "layer", "model_a", "model_b", *SIDES, "measure", "orientation", "n"]
COLUMNS = [*HEAD, "value", "note"]
NULL = ["null_mean", "null_sd", "p_value"]
COUNT = 16
ATTACK = Attack(0.1, steps=3)


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def three():
    """The first gives other classes than the others, now and then."""
    return [trained(0.2), trained(), trained(seed=1, architecture="resnet_tiny")]


def names(models=None):
    return [model.name for model in models or three()]


def compared(*args, **options):
    return compare_models(*args, **{"progress": False, **options})


@pytest.fixture(scope="module")
def images(tiny_data):
    return tiny_data.test.images[:20]


@pytest.fixture(scope="module")
def noisy(tiny_data):
    """Images that models take for this and that."""
    generator = torch.Generator().manual_seed(0)
    clean = tiny_data.test.images
    return Split((clean + torch.rand(clean.shape, generator=generator)) / 2, tiny_data.test.labels)


@pytest.fixture(scope="module")
def pairs(tiny_data):
    generator = torch.Generator().manual_seed(0)
    target = torch.randperm(60, generator=generator)[:COUNT]
    others = [(tiny_data.test.labels != tiny_data.test.labels[i]).nonzero().flatten() for i in target]
    return Pairs.of(tiny_data, torch.stack([each[0] for each in others]), target)


def seen(model, images, layer="penultimate"):
    """What a model makes of images, by another way than the comparison's."""
    (values,) = capture(model.network, images, layer).values()
    return values.flatten(1)


def expected(measure, x, y):
    return pytest.approx(compare(x, y, measure)["value"].item(), rel=1e-4, abs=1e-5)


def ordered(table):
    return list(zip(table["model_a"], table["model_b"], strict=True))


def copied(model, network=None, **record):
    """A model of the same name, with another network or record."""
    found = dataclasses.replace(model, record={**model.record, **record})
    found.__dict__["network"] = network or model.network
    return found


def refused(message, ask):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


# -- natural images -----------------------------------------------------------------------------------------


def test_natural_images_give_what_comparing_each_pair_gives(images):
    table = compared(three(), images, ["cka", "procrustes", "jaccard(k=3)"])
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
    assert set(table["layer"]) == {"penultimate"}
    assert set(table["n"]) == {20}
    assert set(table["note"]) == {""}
    assert table["orientation"].unique().tolist() == ["similarity", "distance"]


@pytest.mark.matrix
@pytest.mark.parametrize("measure", ["linear_regression", "pwcca", "cknna(k=3)"])
def test_of_a_measure_that_is_not_symmetric_both_orders_are_there(measure):
    images = load_data("digits").test.images[:140]  # more than units
    table = compared(three(), images, measure)
    own = {model.name: seen(model, images) for model in three()}
    assert ordered(table) == list(itertools.permutations(names(), 2))
    for row in table.itertuples():
        assert row.value == pytest.approx(
            compare(own[row.model_a], own[row.model_b], measure)["value"].item(), rel=1e-2
        )
    values = table.set_index(["model_a", "model_b"])["value"]
    there, back = names()[:2], names()[1::-1]
    assert abs(values[*there] - values[*back]) > 1e-6


def test_a_data_set_stands_for_its_test_images(tiny_data):
    whole, split, images = (
        compared(three()[:2], data) for data in (tiny_data, tiny_data.test, tiny_data.test.images)
    )
    assert set(whole["dataset"]) == {"digits"}
    assert set(split["dataset"]) == set(images["dataset"]) == {""}
    assert whole["n"].item() == 60
    assert whole["value"].item() == split["value"].item() == images["value"].item()
    assert whole["value"].item() == expected(
        "cka", *(seen(model, tiny_data.test.images) for model in three()[:2])
    )


def test_of_pairs_the_targets_are_taken(tiny_data, pairs):
    table = compared(three()[:2], tiny_data, ["cka", "accuracy_difference"], pairs=pairs)
    targets = tiny_data.test.images[pairs.target_index]
    assert table["value"][0] == expected("cka", *(seen(model, targets) for model in three()[:2]))
    assert table["value"][0] != expected(
        "cka", *(seen(model, tiny_data.test.images[pairs.seed_index]) for model in three()[:2])
    )
    assert set(table["n"]) == {COUNT}
    predicted = predict(three()[0].network, targets).argmax(1)
    right = (predicted == tiny_data.test.labels[pairs.target_index]).double().mean().item()
    assert table["accuracy_a"][1] == pytest.approx(right)


def test_labels_are_those_of_both_models(images):
    table = compared(three(), images, "cknna(k=3)")
    models = {model.name: model for model in three()}
    for row in table.to_dict("records"):
        for side in "ab":
            labels = {label: row[f"{label}_{side}"] for label in LABELS}
            assert labels == models[row[f"model_{side}"]].labels


def test_models_are_as_they_were(tiny_data):
    models = three()
    before = [{name: v.clone() for name, v in model.network.state_dict().items()} for model in models]
    compared(models, tiny_data, ["cka", "agreement"])
    compared(models, tiny_data, inputs="adversarial", attack=ATTACK)
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in model.network.state_dict().items())
        assert not model.network.training
        assert all(weight.requires_grad for weight in model.network.parameters())
        assert all(weight.grad is None for weight in model.network.parameters())


@pytest.mark.slow
def test_several_measures_at_once_are_each_as_alone(noisy):
    query = ["cka", "procrustes", "cohen_kappa"]
    together = compared(three(), noisy, query)
    for measure in query:
        alone = compared(three(), noisy, measure, recompute=True)
        rows = together[together["measure"] == measure].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[alone.columns], alone)


def test_what_the_package_offers_is_there():
    assert [name for name in comparison.__all__ if not hasattr(comparison, name)] == []


# -- layers -------------------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("layers", ["blocks", "all"])
def test_each_layer_is_compared_with_its_namesake(images, layers):
    models = [trained(epsilon, architecture="resnet_tiny") for epsilon in (0.0, 0.1)]
    table = compared(models, images, ["cka", "procrustes"], layers=layers)
    captured = [capture(model.network, images, layers) for model in models]
    assert table["layer"].tolist() == [layer for layer in captured[0] for _ in range(2)]
    for row in table.itertuples():
        assert row.value == expected(row.measure, *(each[row.layer].flatten(1) for each in captured))
    assert len(set(table["layer"])) == {"blocks": 3, "all": 30}[layers]


def test_layers_that_differ():
    (mlp, _, resnet), images = three(), torch.rand(8, 1, 16, 16)
    end = ": name layers that all have, or take 'penultimate'."
    refused(
        "layers are compared with their namesakes, but 'blocks' are hidden.1, hidden.3, hidden.5 of "
        f"{mlp.name} and layer1.0.relu2, layer2.0.relu2, layer3.0.relu2 of {resnet.name}{end}",
        lambda: compared([mlp, resnet], images, layers="blocks"),
    )
    refused(
        "layers are compared with their namesakes, but 'all' are hidden.0, hidden.1, hidden.2, … (7) of "
        f"{mlp.name} and conv1, bn1, relu1, … (30) of {resnet.name}{end}",
        lambda: compared([mlp, resnet], images, layers="all"),
    )


def test_a_layer_that_one_of_them_lacks(images):
    with pytest.raises(ValueError, match=r"^unknown layer 'hidden\.1'"):
        compared(three(), images, layers="hidden.1")


# -- predictions --------------------------------------------------------------------------------------------


def test_predictions_are_compared_in_the_same_table(noisy):
    query = ["agreement", "cka", *(name for name in PREDICTION_MEASURES if name != "agreement"), "rsa"]
    table = compared(three(), noisy, query)
    logits = {model.name: predict(model.network, noisy.images) for model in three()}
    own = {model.name: seen(model, noisy.images) for model in three()}
    two = list(itertools.combinations(names(), 2))
    of_predictions = [name for name in query if name in PREDICTION_MEASURES]
    assert [(row.layer, row.model_a, row.model_b, row.measure) for row in table.itertuples()] == [
        *(("penultimate", *pair, measure) for pair in two for measure in ("cka", "rsa")),
        *(("output", *pair, measure) for pair in two for measure in of_predictions),
    ]
    for row in table.itertuples():
        if row.layer == "output":
            a, b = logits[row.model_a], logits[row.model_b]
            found = PREDICTION_MEASURES[row.measure](a, b, noisy.labels)
            assert row.value == pytest.approx(found, rel=1e-4, abs=1e-5)
            for accuracy, name in ((row.accuracy_a, row.model_a), (row.accuracy_b, row.model_b)):
                right = (logits[name].argmax(1) == noisy.labels).double().mean().item()
                assert accuracy == pytest.approx(right)
                assert 0.1 < accuracy < 0.9 or name == names()[1]
        else:
            assert row.value == expected(row.measure, own[row.model_a], own[row.model_b])
            assert math.isnan(row.accuracy_a)
    bounds = ["accuracy_a", "accuracy_b", "lowest", "highest"]
    assert table.columns.tolist() == [*COLUMNS, *bounds]


def test_bounds_hold_what_two_accuracies_allow(noisy):
    table = compared(three(), noisy, ["agreement", "disagreement", "cohen_kappa"])
    assert table[table["measure"] == "cohen_kappa"][["lowest", "highest"]].isna().all(axis=None)
    table = table.set_index("measure")
    for row in table.loc[["agreement", "disagreement"]].itertuples():
        assert row.lowest - 1e-9 <= row.value <= row.highest + 1e-9
        wrong_a, wrong_b = 1 - row.accuracy_a, 1 - row.accuracy_b
        least, most = abs(wrong_a - wrong_b), min(wrong_a + wrong_b, 1)  # to disagree on, of many classes
        ends = (least, most) if row.Index == "disagreement" else (1 - most, 1 - least)
        assert (row.lowest, row.highest) == pytest.approx(ends)
        assert row.lowest < row.highest


def test_images_without_labels_have_predictions_but_no_accuracy(noisy):
    table = compared(three()[:2], noisy.images, ["agreement", "jensen_shannon"])
    labelled = compared(three()[:2], noisy, ["agreement", "jensen_shannon"])
    assert table["value"].tolist() == labelled["value"].tolist()
    assert table[["accuracy_a", "accuracy_b"]].isna().all(axis=None)
    assert "lowest" not in table
    assert labelled["lowest"].notna().tolist() == [True, False]


@pytest.mark.parametrize("measure", ["normalized_disagreement", "accuracy_difference"])
def test_labels_that_are_missing(noisy, measure):
    refused(
        f"{measure} needs labels, the right class of every image: give a data set or a split.",
        lambda: compared(three()[:2], noisy.images, ["cka", measure]),
    )


def cross_task():
    """Two models of one input shape that tell digits and shapes apart."""
    (recipe,) = zoo.recipes(load_data("shapes"), ["resnet_tiny"], [0.0], [0])
    return [trained(), find(recipe, "cpu")]


def test_models_of_different_classes_have_representations_only(noisy):
    digits, shapes = cross_task()
    table = compared([digits, shapes], noisy)
    assert table["value"].item() == expected("cka", seen(digits, noisy.images), seen(shapes, noisy.images))
    shown = ", ".join(shapes.record["classes"][:3])
    message = (
        f"predictions are of the same classes only if the models are: {digits.name} has 0, 1, 2, …, and "
        f"{shapes.name} has {shown}, …. Leave the measures of predictions out, or compare models of one task."
    )
    refused(message, lambda: compared([digits, shapes], noisy, ["cka", "agreement"]))
    refused(message, lambda: compared([digits, trained(0.2), shapes], noisy, "all"))


# -- adversarial images -------------------------------------------------------------------------------------


def test_adversarial_images_fool_the_first_model(noisy):
    table = compared(three(), noisy, ["cka", "agreement"], "adversarial", attack=ATTACK)
    models = {model.name: model for model in three()}
    assert table["inputs"].unique().tolist() == ["adversarial"]
    for measure, rows in table.groupby("measure"):
        assert ordered(rows) == list(itertools.permutations(names(), 2)), measure
    for row in table.itertuples():
        a, b = models[row.model_a], models[row.model_b]
        made_for_a = run_attack(a.network, noisy.images, noisy.labels, ATTACK)
        if row.measure == "cka":
            assert row.value == expected("cka", seen(a, made_for_a), seen(b, made_for_a))
        else:
            of_a, of_b = (predict(model.network, made_for_a).argmax(1) for model in (a, b))
            assert row.value == pytest.approx((of_a == of_b).double().mean().item())
            assert row.accuracy_a == pytest.approx((of_a == noisy.labels).double().mean().item())
            assert row.accuracy_b == pytest.approx((of_b == noisy.labels).double().mean().item())
    values = table[table["measure"] == "cka"].set_index(["model_a", "model_b"])["value"]
    a, b, _ = names()
    assert values[a, b] != pytest.approx(values[b, a], abs=1e-3)


@pytest.mark.slow
def test_of_pairs_the_targets_are_attacked(tiny_data, pairs):
    models = three()[:2]
    table = compared(models, tiny_data, inputs="adversarial", pairs=pairs, attack=ATTACK)
    index = pairs.target_index
    targets, labels = tiny_data.test.images[index], tiny_data.test.labels[index]
    attacked = run_attack(models[0].network, targets, labels, ATTACK)
    assert table["value"][0] == expected("cka", *(seen(model, attacked) for model in models))
    assert set(table["n"]) == {COUNT}


def test_an_attack_needs_labels(noisy):
    refused(
        "an attack needs labels, the right class of every image: give a data set or a split.",
        lambda: compared(three(), noisy.images, inputs="adversarial", attack=ATTACK),
    )


# -- which pairs --------------------------------------------------------------------------------------------


def four():
    return [trained(0.2), trained(0.2, 1), trained(), trained(architecture="resnet_tiny")]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("within", "chosen"),
    [
        ((), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        (("epsilon",), [(0, 1), (2, 3)]),
        (("architecture",), [(0, 1), (0, 2), (1, 2)]),
        (("architecture", "epsilon"), [(0, 1)]),
        (["seed"], [(0, 2), (0, 3), (2, 3)]),
    ],
)
def test_pairs_may_be_of_models_that_are_alike(images, within, chosen):
    known = names(four())
    table = compared(four(), images, ["cka", "linear_regression"], within=within)
    assert ordered(table[table["measure"] == "cka"]) == [(known[i], known[j]) for i, j in chosen]
    both = table[table["measure"] == "linear_regression"]
    wanted = {frozenset((known[i], known[j])) for i, j in chosen}
    assert ordered(both) == [pair for pair in itertools.permutations(known, 2) if frozenset(pair) in wanted]


def test_no_pair_is_alike(images):
    start = "there is no pair to compare: no two of the"
    refused(
        f"{start} 2 models have the same epsilon.",
        lambda: compared([trained(), trained(0.2)], images, within=("epsilon",)),
    )
    refused(
        f"{start} 3 models have the same architecture and epsilon.",
        lambda: compared(three(), images, within=("architecture", "epsilon")),
    )


def test_an_unknown_label(images):
    refused(
        "unknown label 'eps'; did you mean 'epsilon'? Known: architecture, method, norm, epsilon, seed.",
        lambda: compared(three(), images, within=("eps",)),
    )


@pytest.mark.parametrize(("twice", "count"), [(0, 0), (1, 1), (2, 1)])
def test_fewer_than_two_models(images, twice, count):
    refused(
        f"a comparison needs at least 2 models, got {count}.",
        lambda: compared(iter([trained()] * twice), images),
    )


def test_models_for_images_of_different_shapes(images):
    wide = copied(trained(0.1, architecture="resnet_tiny"), image_shape=[3, 32, 32])
    refused(
        "models for images of one shape can be compared, not of [(1, 16, 16), (3, 32, 32)].",
        lambda: compared([trained(), wide, trained(0.1)], images),
    )


# -- beside the values --------------------------------------------------------------------------------------


def test_intervals_are_around_the_values(noisy):
    models = three()[:2]
    for inputs in ({}, {"inputs": "adversarial", "attack": ATTACK}):
        plain, table = (
            compared(models, noisy, "cka_debiased", intervals=intervals, **inputs)
            for intervals in (False, True)
        )
        assert table.columns.tolist() == [*COLUMNS, "low", "high"]
        pd.testing.assert_frame_equal(table[plain.columns], plain)
        assert (table["low"] < table["value"]).all()
        assert (table["value"] < table["high"]).all()


@pytest.mark.slow
def test_an_interval_is_that_of_its_pair_and_measure(noisy):
    models = three()[:2]
    table = compared(
        models, noisy, ["cka_debiased", "concentricity_difference", "accuracy_difference"], intervals=True
    )
    values = [seen(model, noisy.images) for model in models]
    logits = [predict(model.network, noisy.images) for model in models]
    for row in table.itertuples():
        both = (*logits, noisy.labels) if row.layer == "output" else values
        found = interval(row.measure, *both, progress=False)
        assert (row.low, row.high) == pytest.approx((found.low, found.high), abs=1e-5)
        assert row.low < row.value <= row.high


@pytest.mark.matrix("cka", "agreement")
@pytest.mark.parametrize("measure", ["cka", "procrustes", "cknna(k=5)", "agreement", "accuracy_difference"])
def test_the_null_is_that_of_permuted_images(noisy, measure):
    models = three()[:2]
    table = compared(models, noisy, measure, permutations=19)
    by_name = {model.name: model for model in models}
    assert table.columns.tolist()[: len(COLUMNS) + 3] == [*COLUMNS, *NULL]
    for row in table.itertuples():
        two = [by_name[name] for name in (row.model_a, row.model_b)]
        if row.layer == "output":
            given = [*(predict(model.network, noisy.images) for model in two), noisy.labels]
        else:
            given = [seen(model, noisy.images) for model in two]
        found = permutation_test(measure, *given, permutations=19, progress=False)
        assert row.null_mean == pytest.approx(found.null_mean, abs=1e-5)
        assert row.null_sd == pytest.approx(found.null_sd, abs=1e-5)
        assert row.p_value == found.p_value
        assert row.value == pytest.approx(found.value, abs=1e-5)
    assert len(table) == 2 if measure.startswith("cknna") else len(table) == 1


# -- measures that are not defined --------------------------------------------------------------------------


def test_a_measure_that_is_not_defined_for_some_pairs_has_a_note(images):
    """It matches units one to one: two of the three models have equally many."""
    table = compared(three(), images, ["cka", "permutation_angular"])
    cka, matched = (table[table["measure"] == name] for name in ("cka", "permutation_angular"))
    assert cka["value"].notna().all()
    assert matched["value"].notna().tolist() == [True, False, False]
    assert matched["note"].tolist()[0] == ""
    for note in matched["note"].tolist()[1:]:
        assert note.startswith("permutation_angular matches units one to one and needs equal widths, got 64")
    a, b = three()[:2]
    assert matched["value"].iloc[0] == expected("permutation_angular", seen(a, images), seen(b, images))


def test_a_measure_that_is_not_defined_has_nothing_beside_it(images):
    table = compared(three(), images[:6], "permutation_angular", permutations=5, intervals=True)
    beside = [*NULL, "low", "high"]
    assert table[beside].notna().all(axis=1).tolist() == [True, False, False]
    assert table[beside].isna().all(axis=1).tolist() == [False, True, True]


def test_a_value_whose_interval_is_not_defined_is_there_all_the_same(images):
    """Ten neighbours among eleven images, but not among the ten of a subsample: the note says so."""
    table = compared(three()[:2], images[:11], ["cka_debiased", "jaccard"], intervals=True)
    assert table["value"].notna().all()
    assert table[["low", "high"]].notna().all(axis=1).tolist() == [True, False]
    assert "k must be a whole number of at least 1 and at most 9" in table["note"].iloc[1]


def test_a_measure_that_is_defined_for_no_pair(images):
    refused(
        "jaccard is not defined for any pair of models here: k must be a whole number of at least 1 and at "
        "most 7 (there are 8 inputs), not 10.",
        lambda: compared(three(), images[:8], ["cka", "jaccard"]),
    )


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_images_than_any_measure_takes(images, count):
    refused(
        f"cka is not defined for any pair of models here: {names()[0]} has {count} rows; a measure needs at "
        "least 4 inputs.",
        lambda: compared(three(), images[:count]),
    )
    table = compared(three()[:2], images[:count], "agreement")
    one, other = (predict(model.network, images[:count]).argmax(1) for model in three()[:2])
    assert table["value"].item() == pytest.approx((one == other).double().mean().item())


@pytest.mark.slow
def test_of_all_measures_those_that_are_not_defined_have_a_note(images, monkeypatch):
    quick = {name: each for name, each in {**MEASURES, **PREDICTION_MEASURES}.items() if name != "rtd"}
    monkeypatch.setattr("repsim.studies.comparison.values.EVERY", quick)
    split = Split(images[:8], load_data("digits").test.labels[:8])
    table = compared(three()[:2], split, "all")
    assert set(table["measure"]) == set(quick)
    undefined = table[table["value"].isna()]
    assert {"jaccard", "mutual_knn", "cknna"} <= set(undefined["measure"])
    assert (undefined["note"] != "").all()
    assert table[table["value"].notna()]["measure"].nunique() > 25


def test_a_model_that_sees_no_difference_leaves_the_others_their_values(images):
    """Nothing is defined of it, as its rows are all the same; what there is of other pairs is not lost."""
    a, b, c = three()
    silent = copied(c, checksums={**c.record["checksums"], str(c.recipe.epochs): "0" * 64})
    silent.__dict__["network"] = c.at_epoch(c.recipe.epochs)
    with torch.no_grad():
        for weight in silent.network.parameters():
            weight.zero_()
    table = compared([a, b, silent], images)
    assert table["value"].notna().tolist() == [True, False, False]
    assert all("does not vary: all its rows are the same" in note for note in table["note"][1:])
    assert table["value"][0] == expected("cka", seen(a, images), seen(b, images))


def test_what_a_measure_warns_of_is_a_note(noisy):
    """With fewer images than units, CCA says nothing."""
    table = compared(three(), noisy, "cca_mean")
    for row in table.itertuples():
        by_name = {model.name: model for model in three()}
        two = [seen(by_name[name], noisy.images) for name in (row.model_a, row.model_b)]
        assert row.note == compare(*two, "cca_mean")["note"].item()
    assert (table["note"] != "").any()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"permutations": 2}, {"intervals": True}])
def test_what_a_measure_warns_of_is_a_note_whatever_is_beside_it(noisy, options):
    """Warnings are errors here: one that is in the table already is not given a second time."""
    table = compared(three()[:2], noisy, "cca_mean", **options)
    assert (table["note"] != "").any()


# -- what has to be given -----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda x: x * 255, lambda x: x - 0.5, lambda x: x * float("nan")])
def test_images_outside_of_the_range_of_pixels(images, change):
    with pytest.raises(ValueError, match=r"^images must have pixels in \[0, 1\], found \["):
        compared(three(), change(images))


@pytest.mark.parametrize(
    ("inputs", "given", "missing"),
    [
        ("inverted", [], "pairs"),
        ("inverted", ["sets"], "pairs"),
        ("inverted", ["pairs"], "sets"),
        ("adversarial", [], "attack"),
        ("adversarial", ["pairs"], "attack"),
    ],
)
def test_what_is_missing(tiny_data, pairs, inputs, given, missing):
    known = {"pairs": pairs, "sets": {}}
    refused(
        f"inputs={inputs!r} needs {missing}.",
        lambda: compared(three(), tiny_data, inputs=inputs, **{name: known[name] for name in given}),
    )


@pytest.mark.parametrize(
    ("inputs", "given", "unused"),
    [
        ("natural", ["sets"], "sets"),
        ("natural", ["pairs", "sets"], "sets"),
        ("natural", ["attack"], "attack"),
        ("inverted", ["pairs", "sets", "attack"], "attack"),
        ("adversarial", ["sets", "attack"], "sets"),
    ],
)
def test_what_has_no_use(tiny_data, pairs, inputs, given, unused):
    known = {"pairs": pairs, "sets": {}, "attack": ATTACK}
    refused(
        f"{unused} has no use with inputs={inputs!r}.",
        lambda: compared(three(), tiny_data, inputs=inputs, **{name: known[name] for name in given}),
    )


@pytest.mark.usefixtures("unchecked")
def test_unknown_inputs(images):
    refused(
        "unknown inputs 'invert'; did you mean 'inverted'? Known: natural, inverted, adversarial.",
        lambda: compared(three(), images, inputs="invert"),
    )


def test_pairs_of_images_without_labels(tiny_data, pairs):
    refused(
        "pairs are of a data set's test images: give the data set, or its test split.",
        lambda: compared(three(), tiny_data.test.images, pairs=pairs),
    )


def test_pairs_of_other_images(noisy, pairs):
    refused(
        "these 60 images are not those of digits that the pairs were drawn from.",
        lambda: compared(three(), noisy, pairs=pairs),
    )


# -- what labels mean ---------------------------------------------------------------------------------------


def test_an_attack_takes_labels_of_the_models_own_classes_only():
    shapes = load_data("shapes")
    with pytest.raises(ValueError, match="classes"):
        compared(three(), shapes, "cka", "adversarial", attack=Attack(0.1, steps=1))


@pytest.mark.parametrize("measures", ["agreement", "cka"])
def test_labels_beyond_the_classes(noisy, measures):
    others = Split(noisy.images, noisy.labels + 7)
    given = {} if measures == "agreement" else {"inputs": "adversarial", "attack": Attack(0.1, steps=1)}
    low, high = int(others.labels.min()), int(others.labels.max())
    refused(
        f"{three()[0].name} tells 10 classes apart, and labels go from {low} to {high}: give images of its "
        "own classes.",
        lambda: compared(three(), others, measures, **given),
    )


def test_what_a_network_gives_are_logits_whatever_they_look_like(noisy):
    """Those of least squares often sum to 1 and are not negative."""
    logits = torch.eye(10)[noisy.labels]
    captured = Activations({"a": Observation({}, logits)}, noisy.labels)
    assert captured.probabilities["a"].max().item() == pytest.approx(math.e / (math.e + 9))


def test_a_value_and_its_interval_may_both_have_a_note():
    row = values._joined({"value": 0.5, "note": "one"}, {"low": math.nan, "notes": ["other", "one"]})
    assert row == {"value": 0.5, "note": "one; other", "low": math.nan}
    assert values._joined({"note": "one"}, {"low": 0.1}) == {"note": "one", "low": 0.1}


def test_models_are_compared_within_an_epsilon_where_two_share_it():
    standard, robust = trained(), trained(0.2)
    assert comparison.comparable([standard, robust, trained(seed=1)]) == ["epsilon"]
    assert comparison.comparable([standard, robust]) == []


# -- images as their users have them ------------------------------------------------------------------------


def test_images_of_arrays_and_loaders(images, tiny_data):
    expected = compared(three(), images)
    for source in (images.numpy(), torch.utils.data.DataLoader(images, batch_size=7)):
        pd.testing.assert_frame_equal(compared(three(), source), expected)
    split = tiny_data.test
    pairs = torch.utils.data.TensorDataset(split.images, torch.nn.functional.one_hot(split.labels, 10))
    found = compared(three(), torch.utils.data.DataLoader(pairs, batch_size=7), ["cka", "agreement"])
    pd.testing.assert_frame_equal(found, compared(three(), split, ["cka", "agreement"]))


def test_a_generator_of_images_is_refused(images):
    with pytest.raises(TypeError, match=r"^images must be there to be gone through again, which"):
        compared(three(), iter(images.split(7)))
