"""Two models part the images; what is said of a part is said of its images alone, and of as many of each."""

import dataclasses
import itertools
import math
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from repsim.activations import Observer, capture
from repsim.attacks import Attack, run_attack
from repsim.data import Split, load_data
from repsim.measures import MEASURES, PREDICTION_MEASURES
from repsim.measures.measure import measure as make_measure
from repsim.studies.comparison import compare_groups, compare_models
from repsim.studies.comparison.groups import GROUPINGS, Sampling
from repsim.studies.comparison.values import Activations
from repsim.studies.inversion import InversionOptions, Pairs
from repsim.studies.inversion.experiments import obtain_sets
from repsim.support import paths
from repsim.training import predict, zoo
from repsim.training.model_store import find

LABELS = ["architecture", "method", "norm", "epsilon", "seed"]
SIDES = [f"{label}_{side}" for side in "ab" for label in LABELS]
HEAD = ["dataset", "inputs", "layer", "model_a", "model_b", *SIDES, "measure", "orientation"]
COLUMNS = [*HEAD, "by", "group", "group_size", "n", "value", "note"]
ATTACK = Attack(0.1, steps=3)
NEED = "needs labels, the right class of every image: give a data set or a split."


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def three():
    """Not one of them is right all the time on what they are shown here."""
    return [trained(0.2), trained(0.2, 1), trained()]


def names(models=None):
    return [model.name for model in models or three()]


def grouped(*args, **options):
    return compare_groups(*args, **{"progress": False, **options})


@pytest.fixture(scope="module")
def noisy():
    """400 images that models take for this and that."""
    clean = load_data("digits").test.subset(400)
    noise = torch.rand(clean.images.shape, generator=torch.Generator().manual_seed(0))
    return Split(0.35 * clean.images + 0.65 * noise, clean.labels)


@pytest.fixture(scope="module")
def few(noisy):
    return noisy.subset(60)


@pytest.fixture(scope="module")
def pairs(tiny_data):
    """Each image is the target of the first one that is of another class."""
    target, labels = torch.arange(60), tiny_data.test.labels
    others = [(labels != labels[i]).nonzero().flatten() for i in target]
    return Pairs.of(tiny_data, torch.stack([each[0] for each in others]), target)


@pytest.fixture(scope="module")
def sets(tiny_data, pairs, tmp_path_factory):
    home, options = tmp_path_factory.mktemp("home"), InversionOptions(iterations=25, tolerance=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "inverted", lambda: [home])
        return obtain_sets(three(), tiny_data, pairs, options, progress=False)


@pytest.fixture
def drawn(monkeypatch):
    """The rows of the groups that were compared, in the order in which they were."""
    original, found = Activations.part, []

    def noted(self, names, rows):
        found.append(rows)
        return original(self, names, rows)

    monkeypatch.setattr(Activations, "part", noted)
    return found


@pytest.fixture
def computed(monkeypatch):
    """What was computed rather than read: models and measure, in a list."""
    original, found = Activations.row, []

    def noted(self, value, query):
        found.append((value.model_a, value.model_b, value.measure.label))
        return original(self, value, query)

    monkeypatch.setattr(Activations, "row", noted)
    return found


def forbidden(*_args, **_options):
    raise AssertionError("this was known already")


def seen(model, images):
    (values,) = capture(model.network, images, "penultimate").values()
    return values.flatten(1)


def logits_of(images, models=None):
    """By another way than the comparison's, in batches of as many."""
    return {model.name: predict(model.network, images, batch_size=250).numpy() for model in models or three()}


def in_rank_order(values):
    return np.argsort(np.argsort(values, kind="stable"))


def parted(by, a, b, labels, quantiles=4):
    """The rows of each group, in the order of the groups, from the logits of two models."""
    own, other = a.argmax(1), b.argmax(1)
    if by == "agreement":
        places, count = (own != other).astype(int), 2
    elif by == "correctness":
        places, count = 2 - (own == labels) - (other == labels), 3
    elif by == "class":
        places, count = labels, a.shape[1]
    else:
        margins = [np.diff(np.sort(each.astype(float), axis=1)[:, -2:], axis=1)[:, 0] for each in (a, b)]
        mean_rank = sum(in_rank_order(margin) for margin in margins) / 2
        places, count = np.floor(in_rank_order(mean_rank) / len(a) * quantiles), quantiles
    return [np.flatnonzero(places == place) for place in range(count)]


def rows_of(by, table_row, logits, labels, **options):
    """The rows of the group that a row of a table is of."""
    parts = parted(by, logits[table_row.model_a], logits[table_row.model_b], labels.numpy(), **options)
    return dict(zip(named(by, **options), parts, strict=True))[table_row.group]


def named(by, quantiles=4):
    return {
        "agreement": ["agree", "disagree"],
        "correctness": ["both right", "one right", "both wrong"],
        "class": [str(digit) for digit in range(10)],
        "margin": {
            2: ["0–50 %", "50–100 %"],
            3: ["0–33 %", "33–67 %", "67–100 %"],
            4: ["0–25 %", "25–50 %", "50–75 %", "75–100 %"],
        }[quantiles],
    }[by]


def refused(message, ask):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


# -- groups -------------------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("by", GROUPINGS)
def test_groups_are_what_they_are_called(noisy, by):
    query = ["cka", "procrustes"]
    table = grouped(three(), noisy, query, by, size=None)
    own, logits = {model.name: seen(model, noisy.images) for model in three()}, logits_of(noisy.images)
    assert [(row.model_a, row.model_b, row.measure, row.group) for row in table.itertuples()] == [
        (*pair, measure, group)
        for pair in itertools.combinations(names(), 2)
        for measure in query
        for group in named(by)
    ]
    for row in table.itertuples():
        rows = rows_of(by, row, logits, noisy.labels)
        assert row.group_size == row.n == len(rows) > 4
        found = MEASURES[row.measure](own[row.model_a][rows], own[row.model_b][rows])
        assert row.value == pytest.approx(found, rel=1e-5, abs=1e-6)
    assert table.columns.tolist() == COLUMNS
    assert set(table["by"]) == {by}
    assert set(table["layer"]) == {"penultimate"}
    assert set(table["inputs"]) == {"natural"}
    assert set(table["note"]) == {""}
    cka = table[table["measure"] == "cka"]
    assert set(cka.groupby(["model_a", "model_b"])["group_size"].sum()) == {400}


@pytest.mark.matrix
@pytest.mark.parametrize("quantiles", [2, 3])
def test_margins_come_in_as_many_groups_as_are_asked_for(noisy, quantiles):
    table = grouped(three()[:2], noisy, "cka", "margin", size=None, quantiles=quantiles)
    assert table["group"].tolist() == named("margin", quantiles)
    own, logits = [seen(model, noisy.images) for model in three()[:2]], logits_of(noisy.images)
    for row in table.itertuples():
        rows = rows_of("margin", row, logits, noisy.labels, quantiles=quantiles)
        assert row.group_size == len(rows)
        assert row.value == pytest.approx(MEASURES["cka"](*(each[rows] for each in own)), rel=1e-5)


def test_an_asymmetric_measure_takes_both_orders(noisy):
    table = grouped(three(), noisy, ["cka", "cknna(k=5)"], size=30)
    both = table[table["measure"] == "cknna(k=5)"]
    assert list(zip(both["model_a"], both["model_b"], both["group"], strict=True)) == [
        (*pair, group) for pair in itertools.permutations(names(), 2) for group in named("agreement")
    ]
    assert len(table) - len(both) == 3 * 2
    values = both.set_index(["model_a", "model_b", "group"])["value"]
    sizes = both.set_index(["model_a", "model_b", "group"])["group_size"]
    for (a, b), group in itertools.product(itertools.combinations(names(), 2), named("agreement")):
        assert sizes[a, b, group] == sizes[b, a, group]
        assert values[a, b, group] != values[b, a, group]


def test_both_orders_are_of_the_same_images(noisy, drawn):
    table = grouped(three()[:2], noisy, "cknna(k=5)", size=30)
    one, other = (
        {group: rows.tolist() for group, rows in zip(named("agreement"), part, strict=True)}
        for part in (drawn[:2], drawn[2:])
    )
    assert one == other
    own = {model.name: seen(model, noisy.images) for model in three()[:2]}
    for row in table.itertuples():
        x, y = (own[name][one[row.group]] for name in (row.model_a, row.model_b))
        assert row.value == pytest.approx(MEASURES["cknna"](x, y, k=5), rel=1e-4)


# -- predictions --------------------------------------------------------------------------------------------


def test_models_agree_where_they_agree(noisy):
    table = grouped(three(), noisy, ["agreement", "disagreement", "cohen_kappa"], size=25)
    values = table.set_index(["measure", "group"])["value"]
    assert set(values["agreement", "agree"]) == set(values["disagreement", "disagree"]) == {1.0}
    assert set(values["agreement", "disagree"]) == set(values["disagreement", "agree"]) == {0.0}
    assert set(values["cohen_kappa", "agree"]) == {1.0}
    assert (values["cohen_kappa", "disagree"] <= 0).all()
    assert set(table["layer"]) == {"output"}
    assert set(table["n"]) == {25}


def test_models_are_right_where_they_are_right(noisy):
    table = grouped(three(), noisy, ["agreement", "accuracy_difference"], "correctness", size=None)
    for row in table.itertuples():
        if row.group == "one right":
            assert row.accuracy_a + row.accuracy_b == pytest.approx(1)
        else:
            assert row.accuracy_a == row.accuracy_b == (row.group == "both right")
    agreement = table[table["measure"] == "agreement"].groupby("group")["value"]
    assert set(agreement.get_group("both right")) == {1.0}
    assert set(agreement.get_group("one right")) == {0.0}
    assert agreement.get_group("both wrong").between(0.01, 0.99).all()


@pytest.mark.matrix
@pytest.mark.parametrize("by", GROUPINGS)
def test_predictions_are_those_of_the_group(noisy, by):
    query = ["jensen_shannon", "normalized_disagreement", "agreement"]
    table = grouped(three()[:2], noisy, query, by, size=None)
    logits = logits_of(noisy.images)
    for row in table.itertuples():
        rows = rows_of(by, row, logits, noisy.labels)
        a, b, labels = (each[rows] for each in (logits[row.model_a], logits[row.model_b], noisy.labels))
        found = PREDICTION_MEASURES[row.measure](a, b, labels)
        assert row.value == pytest.approx(found, abs=1e-6)
        right = (a.argmax(1) == labels.numpy()).mean()
        assert row.accuracy_a == pytest.approx(right)
        if row.measure == "agreement":
            assert row.lowest - 1e-9 <= row.value <= row.highest + 1e-9


# -- independent of one another -----------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("size", [None, 25])
@pytest.mark.parametrize("measure", ["cka_debiased", "jaccard(k=5)", "agreement"])
def test_what_is_found_in_a_group_is_not_a_matter_of_the_others(noisy, measure, size):
    """Erratum 13: sums of the first group that are carried over to the next make both look alike."""
    models = three()[:2]
    logits = logits_of(noisy.images)
    agree, disagree = parted("agreement", *(logits[name] for name in names(models)), None)
    fewer = np.sort(np.concatenate([agree[:30], disagree]))
    whole, part = (
        grouped(models, Split(noisy.images[rows], noisy.labels[rows]), measure, size=size).set_index("group")
        for rows in (np.arange(400), fewer)
    )
    assert part.loc["agree", "group_size"] == 30 < whole.loc["agree", "group_size"]
    assert part.loc["disagree", "value"] == pytest.approx(whole.loc["disagree", "value"], abs=1e-6)
    if measure != "agreement":
        assert abs(part.loc["agree", "value"] - whole.loc["agree", "value"]) > 1e-3


# -- equal draws --------------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("by", ["agreement", "correctness", "class", "margin"])
def test_as_many_of_each_group_are_compared(noisy, drawn, by):
    table = grouped(three()[:2], noisy, "cka", by, size=20)
    own, logits = [seen(model, noisy.images) for model in three()[:2]], logits_of(noisy.images)
    assert set(table["n"]) == {20}
    assert (table["group_size"] > 20).any()
    for row, rows in zip(table.itertuples(), drawn, strict=True):
        members = rows_of(by, row, logits, noisy.labels)
        assert row.group_size == len(members)
        assert len(set(rows.tolist())) == 20
        assert set(rows.tolist()) <= set(members.tolist())
        assert row.value == pytest.approx(MEASURES["cka"](*(each[rows] for each in own)), rel=1e-5)


def test_a_draw_is_the_same_every_time_and_another_with_another_seed(noisy, drawn):
    first = grouped(three()[:2], noisy, size=25)
    again = grouped(three()[:2], noisy, size=25, recompute=True)
    pd.testing.assert_frame_equal(first, again)
    other = grouped(three()[:2], noisy, size=25, seed=1)
    assert (other["value"] != first["value"]).all()
    assert [rows.tolist() for rows in drawn[:2]] == [rows.tolist() for rows in drawn[2:4]]
    for before, after in zip(drawn[:2], drawn[4:], strict=True):
        assert set(before.tolist()) != set(after.tolist())


def test_a_size_is_100_unless_said(noisy, drawn):
    table = grouped(three()[:2], noisy)
    assert table["n"].tolist()[0] == 100 == len(drawn[0])
    pd.testing.assert_frame_equal(table, grouped(three()[:2], noisy, size=100, recompute=True))


def test_a_draw_is_not_the_first_there_are(noisy, drawn):
    grouped(three()[:2], noisy, size=25)
    logits = logits_of(noisy.images)
    for rows, members in zip(
        drawn, parted("agreement", *(logits[name] for name in names()[:2]), None), strict=True
    ):
        assert rows.tolist() == sorted(rows.tolist())
        assert rows.tolist() != members[:25].tolist()
        assert rows.max() > 150


# -- the same classes ---------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("size", [None, 12])
@pytest.mark.parametrize("by", ["agreement", "correctness", "margin"])
def test_every_group_has_as_many_of_each_class(noisy, drawn, by, size):
    table = grouped(three(), noisy, "cka", by, size=size, match_classes=True)
    logits, count = logits_of(noisy.images), len(named(by))
    for start in range(0, len(table), count):
        row = next(table.iloc[[start]].itertuples())
        histograms = [noisy.labels[rows].bincount(minlength=10).tolist() for rows in drawn[start:][:count]]
        assert histograms.count(histograms[0]) == count
        members = parted(by, logits[row.model_a], logits[row.model_b], noisy.labels.numpy())
        there = np.min([np.bincount(noisy.labels[rows], minlength=10) for rows in members], axis=0)
        assert there.sum() > 20
        assert (np.array(histograms[0]) <= there).all()
        assert sum(histograms[0]) == (there.sum() if size is None else size)
        exact = there * sum(histograms[0]) / there.sum()
        assert (np.abs(np.array(histograms[0]) - exact) < 1).all()
    assert table["n"].nunique() == (1 if size else 3)


def test_without_matching_groups_are_of_other_classes(noisy, drawn):
    """So that there is something to be matched: what models disagree on is not of all classes alike."""
    grouped(three()[:2], noisy, "cka", size=40)
    histograms = [noisy.labels[rows].bincount(minlength=10) for rows in drawn]
    assert (histograms[0] - histograms[1]).abs().max() > 3


def test_too_few_of_the_same_classes(noisy):
    table = grouped(three()[1:], noisy, "cka", size=150, match_classes=True)
    count = table["n"].max()
    note = f"dropped: {count} images of classes that all groups have, where 150 are wanted"
    assert table["note"].tolist() == [note] * 2
    assert table["value"].isna().all()
    assert count < table["group_size"].min()


# -- too few ------------------------------------------------------------------------------------------------


def test_a_group_that_is_too_small_is_dropped(noisy):
    models = three()[:2]
    table = grouped(models, noisy, ["cka", "agreement"], size=80)
    logits = logits_of(noisy.images)
    agree, disagree = parted("agreement", *(logits[name] for name in names(models)), None)
    assert len(disagree) < 80 < len(agree)
    for _, rows in table.groupby("measure"):
        rows = rows.set_index("group")
        assert rows.loc["agree", "value"] > 0
        assert rows.loc["agree", "note"] == ""
        assert math.isnan(rows.loc["disagree", "value"])
        assert rows.loc["disagree", "note"] == f"dropped: {len(disagree)} images, where 80 are wanted"
        assert rows.loc["disagree", "n"] == rows.loc["disagree", "group_size"] == len(disagree)


@pytest.mark.parametrize("measure", ["cka", "agreement", "normalized_disagreement"])
def test_a_group_without_images_is_dropped(few, measure):
    """Of a model and its copy, there is nothing that they disagree on."""
    twin = dataclasses.replace(trained(), path=trained().path.with_name("twin.json"))
    twin.__dict__["network"] = trained().network
    table = grouped([trained(), twin], few, measure, size=None).set_index("group")
    assert table.loc["agree", "value"] == pytest.approx(0 if measure == "normalized_disagreement" else 1)
    assert math.isnan(table.loc["disagree", "value"])
    assert table.loc["disagree", "note"] == "dropped: 0 images, where 1 are wanted"
    assert table.loc["disagree", ["group_size", "n"]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("measure", "size", "needed"),
    [("jaccard", 15, 21), ("jaccard(k=5)", 10, 11), ("mutual_knn", 20, 21), ("cca_mean", 30, 129)],
)
def test_a_size_that_is_too_small_for_a_measure(noisy, measure, size, needed):
    """Among few images everything is a neighbour, and of more units than images all is a linear map."""
    table = grouped(three()[:2], noisy, ["cka", measure], size=size)
    cka, other = table[table["measure"] == "cka"], table[table["measure"] == measure]
    assert cka["value"].notna().all()
    assert other["value"].isna().all()
    note = f"dropped: {size} images, where {measure} needs {needed} to say something of 64 and 64 units"
    assert other["note"].tolist() == [note] * 2
    assert set(other["n"]) == {size}


def test_widths_of_both_models_decide_what_is_enough():
    """In as many dimensions as images, a regression fits anything: what it is on has 64 or 32 of them."""
    models = [trained(0.2), trained(architecture="resnet_tiny")]
    table = grouped(models, load_data("digits"), "linear_regression", size=40)
    least = MEASURES["linear_regression"].least_inputs
    widths = {models[0].name: 64, models[1].name: 32}
    for row in table.itertuples():
        needed = least(widths[row.model_a], widths[row.model_b])
        if needed > 40:
            assert row.note == (
                f"dropped: 40 images, where linear_regression needs {needed} to say something of "
                f"{widths[row.model_a]} and {widths[row.model_b]} units"
            )
        assert math.isnan(row.value) == (needed > 40)
    assert table["value"].isna().sum() == 2 == len(table) / 2


def test_images_that_are_all_the_same_to_a_model(few):
    images = few.images[:1].repeat(8, 1, 1, 1)
    table = grouped(three()[:2], images, ["cka", "agreement"], size=None)
    cka = table[table["measure"] == "cka"]
    filled = cka[cka["group_size"] == 8]["note"].item()
    assert filled.removeprefix("dropped: ") == (
        f"{names()[0]} does not vary: all its rows are the same, and no measure is defined on it."
    )
    empty = cka[cka["group_size"] == 0]["note"].item()
    assert empty == "dropped: 0 images, where 1 are wanted"
    assert table[table["measure"] == "agreement"]["value"].notna().sum() == 1


MANY = ["cka_debiased", "cca_mean", "jaccard", "cknna(k=3)", "permutation_angular", "agreement"]


@pytest.mark.matrix("agreement-True-5", "5-agreement-True")
@pytest.mark.parametrize("size", [None, 2, 5, 30])
@pytest.mark.parametrize(
    ("by", "match_classes"),
    [("agreement", False), ("agreement", True), ("correctness", True), ("class", False), ("margin", False)],
)
def test_no_value_is_missing_without_a_word(few, by, size, match_classes):
    models = [trained(0.2), trained(architecture="resnet_tiny_w4")]
    table = grouped(models, few, MANY, by, size=size, match_classes=match_classes)
    missing = table["value"].isna()
    assert missing.any()  # of 60 images, there is too little for some of these
    assert table.loc[missing, "note"].str.match("dropped: .{10,}").all()
    assert not table.loc[~missing, "note"].str.startswith("dropped: ").any()
    assert (table["n"] <= table["group_size"]).all()
    if size is not None:
        assert (table.loc[~missing, "n"] == size).all()


# -- on other images ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_groups_of_adversarial_images_are_those_of_the_first_model(few):
    models = three()
    table = grouped(
        models, few, ["cka", "agreement"], "correctness", size=None, inputs="adversarial", attack=ATTACK
    )
    by_name = {model.name: model for model in models}
    assert set(zip(table["model_a"], table["model_b"], strict=True)) == set(
        itertools.permutations(names(), 2)
    )
    for row in table.itertuples():
        a, b = by_name[row.model_a], by_name[row.model_b]
        fooling = run_attack(a.network, few.images, few.labels, ATTACK)
        rows = rows_of("correctness", row, logits_of(fooling, [a, b]), few.labels)
        assert row.group_size == len(rows)
        if row.measure == "cka" and len(rows) > 4:
            found = MEASURES["cka"](seen(a, fooling)[rows], seen(b, fooling)[rows])
            assert row.value == pytest.approx(found, rel=1e-4)
    assert table["value"].notna().sum() > len(table) / 2


@pytest.mark.slow
def test_groups_of_inverted_images_are_by_the_labels_of_their_targets(tiny_data, pairs, sets):
    """Erratum 15."""
    options = {"size": None, "inputs": "inverted", "pairs": pairs, "sets": sets}
    table = grouped(three(), tiny_data, "agreement", "correctness", **options)
    by_name, labels = {model.name: model for model in three()}, tiny_data.test.labels
    for (a, b), rows in table.groupby(["model_a", "model_b"]):
        logits = logits_of(sets[a].images, [by_name[a], by_name[b]])
        of_targets, of_seeds = (
            [len(part) for part in parted("correctness", logits[a], logits[b], labels[index].numpy())]
            for index in (pairs.target_index, pairs.seed_index)
        )
        assert rows["group"].tolist() == named("correctness")
        assert rows["group_size"].tolist() == of_targets != of_seeds
    by_class = grouped(three(), tiny_data, "cka", "class", **options)
    assert set(by_class["group_size"]) == {6}


# -- what is kept -------------------------------------------------------------------------------------------


ASKED = ["cka", "cknna(k=4)", "agreement"]


@pytest.mark.matrix
@pytest.mark.parametrize("by", GROUPINGS)
def test_what_was_computed_is_only_read(few, monkeypatch, by):
    first = grouped(three(), few, ASKED, by, size=6)
    assert first["value"].notna().any()
    monkeypatch.setattr(Observer, "observe", forbidden)
    monkeypatch.setattr(Activations, "row", forbidden)
    monkeypatch.setattr(Sampling, "draw", forbidden)
    pd.testing.assert_frame_equal(grouped(three(), few, ASKED, by, size=6), first)


def test_what_was_dropped_is_kept_with_its_note(few, monkeypatch):
    first = grouped(three(), few, ["cka", "jaccard", "agreement"], size=20)
    assert first["value"].isna().any()
    monkeypatch.setattr(Observer, "observe", forbidden)
    pd.testing.assert_frame_equal(grouped(three(), few, ["cka", "jaccard", "agreement"], size=20), first)


def test_only_what_is_missing_is_computed(few, computed):
    grouped(three()[:2], few, "cka", size=6)
    computed.clear()
    grouped(three()[:2], few, ["cka", "rsa"], size=6)
    assert computed == [(*names()[:2], "rsa")] * 2
    computed.clear()
    grouped(three(), few, "cka", size=6)
    assert len(computed) == 4
    assert set(computed) == {(names()[0], names()[2], "cka"), (names()[1], names()[2], "cka")}


def test_recompute_computes_again(few, computed):
    first = grouped(three()[:2], few, size=6)
    computed.clear()
    pd.testing.assert_frame_equal(grouped(three()[:2], few, size=6, recompute=True), first)
    assert len(computed) == 2


@pytest.mark.matrix("change1", "change4")
@pytest.mark.parametrize(
    "change",
    [
        {"size": 7},
        {"size": None},
        {"seed": 1},
        {"match_classes": True},
        {"by": "correctness"},
        {"by": "margin"},
        {"layer": "hidden.1"},
        {"measures": ["rsa"]},
    ],
)
def test_nothing_is_taken_for_something_else(few, change):
    usual = {"measures": ["cka"], "by": "agreement", "size": 6}
    grouped(three()[:2], few, **usual)
    table = grouped(three()[:2], few, **{**usual, **change})
    alone = grouped(three()[:2], few, **{**usual, **change}, recompute=True)
    pd.testing.assert_frame_equal(table, alone)


def test_groups_and_wholes_are_kept_apart(few, computed):
    """In one file, as they are of the same images."""
    whole = compare_models(three()[:2], few, ["cka", "agreement"], progress=False)
    table = grouped(three()[:2], few, ["cka", "agreement"], size=None)
    assert len(list(paths.comparisons().glob("*.json"))) == 1
    assert len(computed) == 2 + 4
    again = compare_models(three()[:2], few, ["cka", "agreement"], progress=False)
    pd.testing.assert_frame_equal(again, whole)
    pd.testing.assert_frame_equal(grouped(three()[:2], few, ["cka", "agreement"], size=None), table)
    assert len(computed) == 2 + 4


def test_an_interrupted_run_goes_on(few, monkeypatch, computed):
    with monkeypatch.context() as patch:
        original, done = Activations.row, []

        def until(self, value, query):
            if len(done) == 4:
                raise KeyboardInterrupt
            done.append(value)
            return original(self, value, query)

        patch.setattr(Activations, "row", until)
        with pytest.raises(KeyboardInterrupt):
            grouped(three(), few, "cka", size=6)
    computed.clear()
    table = grouped(three(), few, "cka", size=6)
    assert len(computed) == 2
    pd.testing.assert_frame_equal(table, grouped(three(), few, "cka", size=6, recompute=True))


@pytest.mark.usefixtures("unchecked")
def test_a_measure_of_ones_own_is_computed_for_each_pair_and_group(noisy):
    """It is not kept, as its function may have changed; nor is one pair's value taken for another's."""

    @make_measure(orientation="distance", range=(0, math.inf), invariances="permutation", reference="ours")
    def mine(x, y):
        return (x.values.mean() - y.values.mean()).abs()

    own, logits = {model.name: seen(model, noisy.images) for model in three()}, logits_of(noisy.images)
    for _ in range(2):
        table = grouped(three(), noisy, mine, size=None)
        for row in table.itertuples():
            rows = rows_of("agreement", row, logits, noisy.labels)
            x, y = (own[name][rows].double().mean().item() for name in (row.model_a, row.model_b))
            assert row.value == pytest.approx(abs(x - y), rel=1e-4, abs=1e-6)


# -- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"by": "agreemnt"},
            "unknown grouping 'agreemnt'; did you mean 'agreement'? Known: agreement, correctness, class, "
            "margin.",
        ),
        ({"size": 0}, "size is a number of images, or None for all of a group, not 0."),
        ({"size": -5}, "size is a number of images, or None for all of a group, not -5."),
        (
            {"by": "margin", "quantiles": 1},
            "quantiles part the images into 2 to 100 groups, not 1.",
        ),
        (
            {"by": "class", "match_classes": True},
            "groups by class have no classes in common: leave match_classes out.",
        ),
        ({"layer": "all"}, "groups are compared at one layer; 'all' are 7."),
        ({"layer": "blocks"}, "groups are compared at one layer; 'blocks' are 3."),
        (
            {"within": ("architecture", "seed", "epsilon")},
            "there is no pair to compare: no two of the 2 models have the same architecture and seed and "
            "epsilon.",
        ),
        ({"inputs": "adversarial"}, "inputs='adversarial' needs attack."),
        ({"inputs": "inverted"}, "inputs='inverted' needs pairs."),
        ({"attack": ATTACK}, "attack has no use with inputs='natural'."),
    ],
)
def test_what_cannot_be(few, options, message):
    refused(message, lambda: grouped(three()[:2], few, **options))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"by": "correctness"}, "by='correctness'"),
        ({"by": "class"}, "by='class'"),
        ({"match_classes": True}, "match_classes"),
        ({"by": "margin", "match_classes": True}, "match_classes"),
        ({"by": "correctness", "match_classes": True}, "by='correctness'"),
    ],
)
def test_labels_that_groups_need(few, options, what):
    refused(f"{what} {NEED}", lambda: grouped(three()[:2], few.images, **options))


@pytest.mark.parametrize("measure", ["normalized_disagreement", "accuracy_difference"])
def test_labels_that_a_measure_needs(few, measure):
    """As for `compare_models`, and unlike a group that is too small: no group would have a value."""
    refused(f"{measure} {NEED}", lambda: grouped(three()[:2], few.images, measure, size=None))


@pytest.mark.slow
def test_models_of_different_classes(few):
    """Which class they give is no matter of representations, but which images are a group is."""
    (recipe,) = zoo.recipes(load_data("shapes"), ["resnet_tiny"], [0.0], [0])
    other = find(recipe, "cpu")
    shown = ", ".join(other.record["classes"][:3])
    refused(
        f"predictions are of the same classes only if the models are: {trained().name} has 0, 1, 2, …, and "
        f"{other.name} has {shown}, …. Leave the measures of predictions out, or compare models of one task.",
        lambda: grouped([trained(), other], few, "cka", "class"),
    )
