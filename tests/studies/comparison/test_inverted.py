"""Of images inverted through a model: what others make of them, and of what it does not see in them."""

import dataclasses
import itertools
import re
from functools import cache

import pandas as pd
import pytest
import torch

from repsim.activations import capture
from repsim.data import load_data
from repsim.measures import PREDICTION_MEASURES, compare
from repsim.studies.comparison import compare_models, stir
from repsim.studies.inversion import InversionOptions, Pairs
from repsim.studies.inversion.experiments import obtain_sets
from repsim.support import paths
from repsim.training import predict, zoo
from repsim.training.model_store import find

LABELS = ["architecture", "method", "norm", "epsilon", "seed"]
SIDES = [f"{label}_{side}" for side in "ab" for label in LABELS]
HEAD = ["dataset", "inputs", "layer", "model_a", "model_b", *SIDES, "measure", "orientation", "n"]
COLUMNS = [*HEAD, "value", "note"]
FEW = InversionOptions(iterations=40, tolerance=0.0)
COUNT = 16


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


# -- inverted images ----------------------------------------------------------------------------------------


def test_inverted_images_are_those_of_the_first_model(tiny_data, pairs, sets):
    table = compared(three(), tiny_data, ["cka", "agreement"], "inverted", pairs=pairs, sets=sets)
    models = {model.name: model for model in three()}
    by_measure = dict(list(table.groupby("measure")))
    assert ordered(by_measure["cka"]) == ordered(by_measure["agreement"])
    assert ordered(by_measure["cka"]) == list(itertools.permutations(names(), 2))
    for row in table.itertuples():
        own, both = sets[row.model_a].images, [models[name] for name in (row.model_a, row.model_b)]
        if row.measure == "cka":
            assert row.value == expected("cka", *(seen(model, own) for model in both))
        else:
            a, b = (predict(model.network, own).argmax(1) for model in both)
            assert row.value == pytest.approx((a == b).double().mean().item())
    assert set(table["inputs"]) == {"inverted"}
    assert set(table["n"]) == {COUNT}
    values = by_measure["cka"].set_index(["model_a", "model_b"])["value"]
    a, b, _ = names()
    assert values[a, b] != pytest.approx(values[b, a], abs=1e-3)


@pytest.mark.slow
def test_models_without_inverted_images_are_only_compared_with(tiny_data, pairs, sets):
    whole = compared(three(), tiny_data, inputs="inverted", pairs=pairs, sets=sets)
    one = names()[1]
    table = compared(
        three(), tiny_data, inputs="inverted", pairs=pairs, sets={one: sets[one]}, recompute=True
    )
    assert table["model_a"].tolist() == [one, one]
    assert table["model_b"].tolist() == [name for name in names() if name != one]
    rows = whole[whole["model_a"] == one].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, rows)


def test_an_inverted_image_has_the_label_of_its_target(tiny_data, pairs, sets):
    """Erratum 15: which label an image is held against is a matter of its pair, not of its place."""
    labels = tiny_data.test.labels
    query = ["accuracy_difference", "normalized_disagreement"]
    table = compared(three(), tiny_data, query, "inverted", pairs=pairs, sets=sets)
    models = {model.name: model for model in three()}
    for row in table.itertuples():
        own = sets[row.model_a]
        a, b = (predict(models[name].network, own.images) for name in (row.model_a, row.model_b))
        found = PREDICTION_MEASURES[row.measure](a, b, labels[own.target_index])
        assert row.value == pytest.approx(found, abs=1e-9)
        of_targets, of_seeds, in_order = (
            (a.argmax(1) == labels[index]).double().mean().item()
            for index in (pairs.target_index, pairs.seed_index, torch.arange(COUNT))
        )
        assert row.accuracy_a == pytest.approx(of_targets)
        assert row.accuracy_a > 0.6  # what was inverted is taken for its target
        assert row.accuracy_a != pytest.approx(of_seeds)
        assert row.accuracy_a != pytest.approx(in_order)
    assert table.groupby("measure")["value"].nunique().min() > 1


def test_no_pair_of_a_model_with_inverted_images_is_alike(tiny_data, pairs, sets):
    """The two multilayer perceptrons are a pair; the one that has inverted images has no partner."""
    one = names()[2]
    with pytest.raises(ValueError, match=r"^there is no pair to compare"):
        compared(
            three(),
            tiny_data,
            inputs="inverted",
            pairs=pairs,
            sets={one: sets[one]},
            within=("architecture",),
        )


def test_a_measure_that_is_defined_for_no_inverted_pair(tiny_data, pairs, sets):
    refused(
        f"jaccard(k={COUNT}) is not defined for any pair of models here: k must be a whole number of at "
        f"least 1 and at most {COUNT - 1} (there are {COUNT} inputs), not {COUNT}.",
        lambda: compared(three(), tiny_data, f"jaccard(k={COUNT})", "inverted", pairs=pairs, sets=sets),
    )


# -- STIR ---------------------------------------------------------------------------------------------------


def through(from_noise, pairs, split, measures="cka", models=None, **options):
    return stir(models or three(), from_noise, pairs, split, measures, progress=False, **options)


def test_stir_compares_what_the_second_sees_in_the_targets_and_in_the_inverted_images(
    tiny_data, pairs, from_noise
):
    targets = pairs.targets(tiny_data.test)
    table = through(from_noise, pairs, tiny_data.test)
    models = {model.name: model for model in three()}
    assert sorted(ordered(table)) == sorted(itertools.product(names(), repeat=2))
    for row in table.itertuples():
        b = models[row.model_b]
        assert row.value == expected("cka", seen(b, targets), seen(b, from_noise[row.model_a].images))
    assert table.columns.tolist() == COLUMNS
    assert set(table["inputs"]) == {"stir"}
    assert set(table["layer"]) == {"penultimate"}
    assert set(table["n"]) == {COUNT}
    assert table["value"].nunique() == 9


@pytest.mark.slow
@pytest.mark.matrix
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
    table = through(sets, pairs, tiny_data.test, measure, models)
    known, differences = {model.name: model for model in models}, []
    for row in table.itertuples():
        b = known[row.model_b]
        x, y = seen(b, targets), seen(b, sets[row.model_a].images)
        there, back = (compare(*each, measure)["value"].item() for each in ((x, y), (y, x)))
        differences.append(abs(there - back))
        assert row.value == pytest.approx(there, abs=1e-4)
    assert max(differences) > 1e-3


@pytest.mark.slow
def test_a_model_agrees_with_itself_on_well_inverted_images(tiny_data, pairs, home):
    models = [trained(), trained(0.1)]
    options = InversionOptions(iterations=300, tolerance=0.02)
    sets = made(tiny_data, pairs, home, models, "noise", options)
    assert all(found.record["loss"] < 0.05 for found in sets.values())
    values = through(sets, pairs, tiny_data.test, models=models).set_index(["model_a", "model_b"])["value"]
    for one, other in itertools.permutations(names(models)):
        assert values[one, one] > 0.98
        assert values[one, one] > values[one, other] + 0.02


@pytest.mark.slow
def test_stir_at_a_layer(tiny_data, pairs, home):
    models = [trained(), trained(0.1)]
    sets = made(tiny_data, pairs, home, models, "noise", layer="hidden.1")
    table = through(sets, pairs, tiny_data.test, models=models, layer="hidden.1")
    targets, known = pairs.targets(tiny_data.test), {model.name: model for model in models}
    assert set(table["layer"]) == {"hidden.1"}
    for row in table.itertuples():
        seen_by_b = [
            seen(known[row.model_b], each, "hidden.1") for each in (targets, sets[row.model_a].images)
        ]
        assert row.value == expected("cka", *seen_by_b)


def test_stir_of_too_few_images_for_a_measure(tiny_data, pairs, from_noise):
    first = names()[0]
    with pytest.raises(ValueError, match=f"^stir, {COUNT} images: jaccard\\(k={COUNT}\\) of 'targets' and"):
        through(from_noise, pairs, tiny_data.test, f"jaccard(k={COUNT})")
    with pytest.raises(ValueError, match=re.escape(f"of 'targets' and {first!r}: k must be a whole number")):
        through(from_noise, pairs, tiny_data.test, f"jaccard(k={COUNT})")


def test_fewer_than_two_models(tiny_data, pairs):
    for models, count in (([], 0), ([trained()], 1), ([trained(), trained()], 1)):
        refused(
            f"a comparison needs at least 2 models, got {count}.",
            lambda models=models: stir(models, {}, pairs, tiny_data.test),
        )


@pytest.mark.slow
def test_labels_are_those_of_both_models(tiny_data, pairs, sets, from_noise):
    models = {model.name: model for model in three()}
    for table in (
        compared(three(), tiny_data, inputs="inverted", pairs=pairs, sets=sets),
        through(from_noise, pairs, tiny_data.test),
    ):
        assert table.columns.tolist() == COLUMNS
        for row in table.to_dict("records"):
            for side in "ab":
                labels = {label: row[f"{label}_{side}"] for label in LABELS}
                assert labels == models[row[f"model_{side}"]].labels


@pytest.mark.slow
def test_models_are_as_they_were(tiny_data, pairs, sets, from_noise):
    models = three()
    before = [{name: v.clone() for name, v in model.network.state_dict().items()} for model in models]
    compared(models, tiny_data, inputs="inverted", pairs=pairs, sets=sets)
    through(from_noise, pairs, tiny_data.test)
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in model.network.state_dict().items())
        assert not model.network.training
        assert all(weight.requires_grad for weight in model.network.parameters())


# -- sets that do not fit -----------------------------------------------------------------------------------


def test_sets_of_another_model(tiny_data, pairs, sets, from_noise):
    a, b, _ = three()
    message = (
        f"the inverted images {sets[b.name].recipe.address} are of {b.name} (weights {b.weights}…), not of "
        f"{a.name} (weights {a.weights}…)."
    )
    own = {a.name: sets[b.name]}
    refused(message, lambda: compared(three(), tiny_data, inputs="inverted", pairs=pairs, sets=own))
    message = message.replace(sets[b.name].recipe.address, from_noise[b.name].recipe.address)
    refused(message, lambda: through({a.name: from_noise[b.name]}, pairs, tiny_data.test))


def test_sets_of_a_model_that_was_trained_again(tiny_data, pairs, sets):
    a, b, c = three()
    again = trained(0.2, 1).record["checksums"]
    other = copied(a, checksums=again)
    refused(
        f"the inverted images {sets[a.name].recipe.address} are of {a.name} (weights {a.weights}…), not of "
        f"{a.name} (weights {other.weights}…).",
        lambda: compared([other, b, c], tiny_data, inputs="inverted", pairs=pairs, sets=sets),
    )


def test_no_sets(tiny_data, pairs, sets):
    message = "none of the 3 models has inverted images here."
    for given in ({}, {"another": sets[names()[0]]}):
        refused(
            message,
            lambda given=given: compared(three(), tiny_data, inputs="inverted", pairs=pairs, sets=given),
        )
        refused(message, lambda given=given: through(given, pairs, tiny_data.test))


def began(otherwise, needed):
    first = names()[0]
    return f"the images inverted through {first} began as {otherwise}; needed are such as began as {needed}."


def test_stir_of_images_that_began_as_seeds(tiny_data, pairs, sets, from_noise):
    message = began("the pairs' seeds", "noise")
    refused(message, lambda: through(sets, pairs, tiny_data.test))
    mixed = {**from_noise, names()[0]: sets[names()[0]]}
    refused(message, lambda: through(mixed, pairs, tiny_data.test))


def test_inverted_images_that_began_as_noise(tiny_data, pairs, sets, from_noise):
    message = began("noise", "the pairs' seeds")
    for given in (from_noise, {**sets, names()[0]: from_noise[names()[0]]}):
        refused(
            message,
            lambda given=given: compared(three(), tiny_data, inputs="inverted", pairs=pairs, sets=given),
        )


@pytest.mark.slow
def test_sets_of_another_layer(tiny_data, pairs, home):
    models = [trained(), trained(0.1)]
    message = "the images of {} were inverted at layer {!r}; the comparison is of {!r}."
    name = models[0].name

    def inverted(own, layer):
        return compared(models, tiny_data, inputs="inverted", layers=layer, pairs=pairs, sets=own)

    def stirred(own, layer):
        return through(own, pairs, tiny_data.test, models=models, layer=layer)

    for start, ask in (("seed", inverted), ("noise", stirred)):
        at_end, at_layer = (
            made(tiny_data, pairs, home, models, start, layer=layer) for layer in ("penultimate", "hidden.1")
        )
        refused(
            message.format(name, "penultimate", "hidden.1"),
            lambda ask=ask, own=at_end: ask(own, "hidden.1"),
        )
        refused(
            message.format(name, "hidden.1", "penultimate"),
            lambda ask=ask, own=at_layer: ask(own, "penultimate"),
        )
        refused(message.format(name, "penultimate", "all"), lambda ask=ask, own=at_end: ask(own, "all"))
        assert len(ask(at_layer, "hidden.1")) == len(ask(at_end, "penultimate")) > 0


def test_sets_of_other_pairs(tiny_data, pairs, sets, from_noise):
    fewer = Pairs.of(tiny_data, pairs.seed_index[:9], pairs.target_index[:9])
    turned = Pairs.of(tiny_data, pairs.seed_index.flip(0), pairs.target_index.flip(0))
    first = names()[0]
    for other, (own, ask) in itertools.product(
        (fewer, turned),
        (
            (sets, lambda other: compared(three(), tiny_data, inputs="inverted", pairs=other, sets=sets)),
            (from_noise, lambda other: through(from_noise, other, tiny_data.test)),
        ),
    ):
        refused(
            f"the inverted images {own[first].recipe.address} of {first} are of pairs {pairs.address}, not "
            f"of {other.address}.",
            lambda ask=ask, other=other: ask(other),
        )


def test_one_set_of_other_pairs(tiny_data, pairs, sets, home):
    fewer = Pairs.of(tiny_data, pairs.seed_index[:9], pairs.target_index[:9])
    own = made(tiny_data, fewer, home, [trained()])
    (name,) = own
    refused(
        f"the inverted images {own[name].recipe.address} of {name} are of pairs {fewer.address}, not of "
        f"{pairs.address}.",
        lambda: compared(three(), tiny_data, inputs="inverted", pairs=pairs, sets={**sets, **own}),
    )
