"""What was compared is kept: only what is missing is computed, and nothing is taken for something else."""

import dataclasses
import itertools
import json
import math
import re
from functools import cache

import pandas as pd
import pytest
import torch

from repsim.activations import Observer, capture
from repsim.attacks import Attack
from repsim.data import Split, load_data
from repsim.measures import PredictionMeasure
from repsim.measures.measure import measure as make_measure
from repsim.store.records import write_record
from repsim.studies.comparison import compare_models, values
from repsim.studies.comparison import input_sets as view_module
from repsim.studies.comparison.values import Activations
from repsim.studies.inversion import InversionOptions, InvertedSet, Pairs
from repsim.studies.inversion.experiments import obtain_sets
from repsim.support import paths
from repsim.training import predict, zoo
from repsim.training.model_store import find

FEW = InversionOptions(iterations=5, tolerance=0.0)
ATTACK = Attack(0.1, steps=3)


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def three():
    return [trained(0.2), trained(), trained(0.2, 1)]


def uneven():
    """The last has fewer units than the others, so that some measures are not defined of it."""
    return [trained(0.2), trained(), trained(architecture="resnet_tiny_w4")]


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
    """Each of the first sixteen images is the seed of the last image of another class."""
    target = torch.arange(16)
    others = [(tiny_data.test.labels != tiny_data.test.labels[i]).nonzero().flatten() for i in target]
    return Pairs.of(tiny_data, torch.stack([each[-1] for each in others]), target)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where sets are kept that several tests read."""
    return tmp_path_factory.mktemp("home")


def made(tiny_data, pairs, home, options=FEW):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "inverted", lambda: [home])
        return obtain_sets(three(), tiny_data, pairs, options, progress=False)


@pytest.fixture(scope="module")
def sets(tiny_data, pairs, home):
    return made(tiny_data, pairs, home)


@pytest.fixture
def computed(monkeypatch):
    """What was computed rather than read: layer, models and measure, in a list."""
    original, found = Activations.row, []

    def noted(self, value, query):
        found.append((value.layer, value.model_a, value.model_b, value.measure.label))
        return original(self, value, query)

    monkeypatch.setattr(Activations, "row", noted)
    return found


def forbidden(*_args, **_options):
    raise AssertionError("this was known already")


def ordered(table):
    return list(zip(table["model_a"], table["model_b"], strict=True))


def trained_again(model):
    """A model of the same name and recipe whose weights are others."""
    other = trained(seed=2)
    found = dataclasses.replace(model, record={**model.record, "checksums": other.record["checksums"]})
    found.__dict__["network"] = other.network
    return found


def kept_files():
    return sorted(paths.comparisons().glob("*.json"))


# -- read rather than computed ------------------------------------------------------------------------------


def ways(tiny_data, pairs, sets):
    """Each kind of inputs, asked for in one way."""
    query = ["cka", "cknna(k=4)", "agreement", "accuracy_difference"]
    return {
        "natural": lambda **options: compared(three(), tiny_data, query, **options),
        "inverted": lambda **options: compared(
            three(), tiny_data, query, "inverted", pairs=pairs, sets=sets, **options
        ),
        "adversarial": lambda **options: compared(
            three(), tiny_data, query, "adversarial", attack=ATTACK, **options
        ),
    }


@pytest.mark.matrix("natural", "inverted")
@pytest.mark.parametrize("inputs", ["natural", "inverted", "adversarial"])
def test_what_was_computed_is_only_read(tiny_data, pairs, sets, monkeypatch, inputs):
    ask = ways(tiny_data, pairs, sets)[inputs]
    first = ask()
    monkeypatch.setattr(Observer, "observe", forbidden)
    monkeypatch.setattr(Activations, "row", forbidden)
    monkeypatch.setattr(view_module, "run_attack", forbidden)
    monkeypatch.setattr(InvertedSet, "images", property(forbidden))
    pd.testing.assert_frame_equal(ask(), first)


def test_one_file_holds_one_view(tiny_data, pairs, sets):
    for inputs, more in (("natural", 1), ("inverted", 3), ("adversarial", 3)):
        before = len(kept_files())
        ways(tiny_data, pairs, sets)[inputs]()
        assert len(kept_files()) == before + more


def test_a_new_measure_is_all_that_is_computed(images, computed):
    compared(three(), images, ["cka", "cknna(k=4)"])
    assert len(computed) == 3 + 6
    computed.clear()
    table = compared(three(), images, ["rsa", "cka", "cknna(k=4)"])
    assert computed == [("penultimate", *pair, "rsa") for pair in itertools.combinations(names(), 2)]
    pd.testing.assert_frame_equal(
        table, compared(three(), images, ["rsa", "cka", "cknna(k=4)"], recompute=True), rtol=1e-9
    )


def test_of_a_new_model_its_pairs_are_all_that_is_computed(images, computed):
    a, b, c = names()
    compared(three()[:2], images)
    computed.clear()
    table = compared(three(), images)
    assert computed == [("penultimate", a, c, "cka"), ("penultimate", b, c, "cka")]
    assert ordered(table) == [(a, b), (a, c), (b, c)]


def test_models_without_anything_new_are_not_looked_into(images, monkeypatch):
    """Of pairs within an architecture, those with the last model are missing: the third is in none."""
    models = [*uneven(), trained(0.2, 1)]
    compared(models[:3], images)
    monkeypatch.setattr(values, "ACTIVATION_CACHE", values.Memory(limit=2**30))  # as in another process
    looked, original = [], Observer.observe

    def noted(self, images):
        looked.append(self)
        return original(self, images)

    monkeypatch.setattr(Observer, "observe", noted)
    compared(models, images, within=("architecture",))
    assert len(looked) == 3


def test_models_look_at_the_same_images_once_in_a_process(images, monkeypatch):
    """Another measure, or another table, of what they have seen already."""
    looked, original = [], Observer.observe

    def noted(self, images):
        looked.append(self)
        return original(self, images)

    monkeypatch.setattr(Observer, "observe", noted)
    compared(three(), images)
    assert len(looked) == 3
    again = compare_models(three(), images, "procrustes", progress=False)
    assert len(looked) == 3
    compare_models(three(), images.flip(0), "procrustes", progress=False)
    assert len(looked) == 6
    monkeypatch.setattr(values, "ACTIVATION_CACHE", values.Memory(limit=2**30))
    pd.testing.assert_frame_equal(
        again, compare_models(three(), images, "procrustes", recompute=True, progress=False)
    )


def test_recompute_computes_again(images, computed):
    first = compared(three(), images)
    computed.clear()
    again = compared(three(), images, recompute=True)
    assert len(computed) == 3
    pd.testing.assert_frame_equal(again, first)
    computed.clear()
    compared(three(), images)
    assert computed == []


def test_recompute_replaces_what_is_kept(images):
    expected_table = compared(three(), images)
    (path,) = kept_files()
    whole = path.read_text(encoding="utf-8")
    changed = json.loads(re.sub(r'"value": [\d.]+', '"value": 0.5', whole))
    del changed["record_checksum"]
    write_record(path, changed)
    assert compared(three(), images)["value"].tolist() == [0.5] * 3  # it is read, so that this can be seen
    pd.testing.assert_frame_equal(compared(three(), images, recompute=True), expected_table)
    assert path.read_text(encoding="utf-8") == whole


def test_recompute_leaves_what_was_not_asked_for(images, computed):
    compared(three(), images, ["cka", "rsa"])
    compared(three(), images, "cka", recompute=True)
    computed.clear()
    compared(three(), images, ["cka", "rsa"])
    assert computed == []


def interrupted_at(monkeypatch, last):
    """From now on, a run is interrupted at its value number `last`; what came before, in a list."""
    original, done = Activations.row, []

    def until(self, value, query):
        if len(done) == last - 1:
            raise KeyboardInterrupt
        done.append((value.layer, value.model_a, value.model_b, value.measure.label))
        return original(self, value, query)

    monkeypatch.setattr(Activations, "row", until)
    return done


@pytest.mark.matrix
@pytest.mark.parametrize("inputs", ["natural", "inverted", "adversarial"])
def test_an_interrupted_run_goes_on(tiny_data, pairs, sets, monkeypatch, computed, inputs):
    ask = ways(tiny_data, pairs, sets)[inputs]
    with monkeypatch.context() as patch:
        done = interrupted_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            ask()
    assert len(done) == 5
    computed.clear()
    table = ask()
    assert set(computed).isdisjoint(done)
    assert len(computed) + len(done) == len(table)
    pd.testing.assert_frame_equal(table, ask(recompute=True))


def test_a_measure_that_fails_leaves_what_was_computed(images, computed):
    with pytest.raises(ValueError, match=r"^jaccard is not defined for any pair"):
        compared(three(), images[:8], ["cka", "jaccard"])
    computed.clear()
    compared(three(), images[:8], "cka")
    assert computed == []


CHANGES = {
    "images": lambda models, split: (models, Split(split.images.flip(0), split.labels), {}),
    "labels": lambda models, split: (models, Split(split.images, split.labels.flip(0)), {}),
    "weights": lambda models, split: ([trained_again(models[0]), models[1]], split, {}),
    "other weights": lambda models, split: ([models[0], trained_again(models[1])], split, {}),
    "order": lambda models, split: (models[::-1], split, {}),
    "options": lambda models, split: (
        models,
        split,
        {"measures": ["jaccard(k=4)", "surrogate_churn(alpha=2)"]},
    ),
    "layer": lambda models, split: (models, split, {"layers": "hidden.1"}),
    "permutations": lambda models, split: (models, split, {"permutations": 5}),
    "more permutations": lambda models, split: (models, split, {"permutations": 6}),
}


@pytest.mark.matrix("images", "weights", "options", "permutations")
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_taken_for_something_else(noisy, computed, change):
    """Whatever decides a value is part of what it is kept under: computed alone, it is the same."""
    usual = {"measures": ["jaccard(k=3)", "surrogate_churn"]}
    models = [trained(), trained(0.2)]
    compared(models, noisy, **usual)
    compared(models, noisy, **usual, permutations=4)
    models, split, options = CHANGES[change](models, noisy)
    computed.clear()
    table = compared(models, split, **{**usual, **options})
    assert len(computed) == (1 if change == "layer" else 2)  # the output is the same whatever the layer
    computed.clear()
    pd.testing.assert_frame_equal(compared(models, split, **{**usual, **options}), table)
    assert computed == []
    alone = compared(models, split, **{**usual, **options}, recompute=True)
    pd.testing.assert_frame_equal(table, alone)


@pytest.mark.matrix
@pytest.mark.parametrize("permutations", [0, 3])
def test_intervals_are_asked_for_and_kept_apart(images, computed, permutations):
    models, options = three()[:2], {"permutations": permutations}
    plain = compared(models, images, "cka_debiased", **options)
    computed.clear()
    table = compared(models, images, "cka_debiased", intervals=True, **options)
    assert len(computed) == 1
    pd.testing.assert_frame_equal(table[plain.columns], plain)
    pd.testing.assert_frame_equal(compared(models, images, "cka_debiased", intervals=True, **options), table)
    pd.testing.assert_frame_equal(compared(models, images, "cka_debiased", **options), plain)
    assert len(computed) == 1


@pytest.mark.matrix
@pytest.mark.parametrize(
    "attack", [Attack(0.1, steps=4), Attack(0.05, steps=3), Attack(0.1, steps=3, random_start=False)]
)
def test_another_attack_makes_other_images(noisy, computed, attack):
    first = compared(three()[:2], noisy, inputs="adversarial", attack=ATTACK)
    computed.clear()
    table = compared(three()[:2], noisy, inputs="adversarial", attack=attack)
    assert len(computed) == 2
    assert (table["value"] != first["value"]).all()


@pytest.mark.slow
def test_other_inverted_images_are_other_images(tiny_data, pairs, sets, home, computed):
    first = compared(three(), tiny_data, inputs="inverted", pairs=pairs, sets=sets)
    others = made(tiny_data, pairs, home, InversionOptions(iterations=6, tolerance=0.0))
    computed.clear()
    table = compared(three(), tiny_data, inputs="inverted", pairs=pairs, sets=others)
    assert len(computed) == 6
    assert (table["value"] != first["value"]).all()


def test_labels_that_change_change_what_depends_on_them(noisy):
    turned = Split(noisy.images, noisy.labels.flip(0))
    values = [
        compared(three()[:2], split, ["accuracy_difference", "normalized_disagreement"])
        for split in (noisy, turned)
    ]
    assert (values[0]["value"] != values[1]["value"]).any()
    assert (values[0]["accuracy_a"] != values[1]["accuracy_a"]).all()


def test_a_value_that_is_not_there_is_kept_with_its_note(images, monkeypatch):
    first = compared(uneven(), images, "permutation_angular", permutations=2)
    assert first["value"].isna().sum() == 2
    monkeypatch.setattr(Activations, "row", forbidden)
    pd.testing.assert_frame_equal(compared(uneven(), images, "permutation_angular", permutations=2), first)


def test_accuracies_without_labels_are_kept(images, monkeypatch):
    first = compared(three(), images, "agreement")
    monkeypatch.setattr(Activations, "row", forbidden)
    pd.testing.assert_frame_equal(compared(three(), images, "agreement"), first)


# -- measures of one's own ----------------------------------------------------------------------------------


def difference_of_means(calls):
    @make_measure(orientation="distance", range=(0, math.inf), invariances="permutation", reference="ours")
    def mine(x, y):
        calls.append(1)
        return (x.values.mean() - y.values.mean()).abs()

    return mine


def expected_of_mine(table, images):
    means = {}
    for model in three():
        (values,) = capture(model.network, images, "penultimate").values()
        means[model.name] = values.double().mean().item()
    return pytest.approx([abs(means[a] - means[b]) for a, b in ordered(table)], rel=1e-4, abs=1e-6)


def test_a_measure_of_ones_own_is_computed_each_time(images):
    """Its function may have changed, and its name tells nothing of that."""
    calls = []
    for times in (1, 2, 3):
        table = compared(three(), images, difference_of_means(calls))
        assert len(calls) == 3 * times
        assert table["value"].tolist() == expected_of_mine(table, images)
    assert all("mine" not in path.read_text(encoding="utf-8") for path in kept_files())


@pytest.mark.usefixtures("unchecked")
def test_a_measure_of_ones_own_beside_one_that_is_kept(images, computed):
    calls = []
    for _ in range(2):
        table = compared(three(), images, ["cka", difference_of_means(calls)])
        mine = table[table["measure"] == "mine"]
        assert mine["value"].tolist() == expected_of_mine(mine, images)
    assert len(calls) == 6
    assert [measure for *_, measure in computed].count("cka") == 3


def test_a_measure_of_ones_own_is_not_the_one_whose_name_it_has(images):
    """Neither is what is kept of the known one read, nor is it replaced."""
    known = compared(three(), images, "cka")

    @make_measure(orientation="similarity", range=(0, 1), invariances="permutation", reference="ours")
    def cka(x, y):
        return 0.25

    assert compared(three(), images, cka)["value"].tolist() == [0.25] * 3
    pd.testing.assert_frame_equal(compared(three(), images, "cka"), known)


def test_a_prediction_measure_of_ones_own(noisy):
    calls = []

    def both_seven(a, b):
        calls.append(1)
        return ((a.argmax(1) == 7) & (b.argmax(1) == 7)).double().mean()

    mine = PredictionMeasure(both_seven, "similarity", (0, 1), False, "ours", {})
    predicted = {model.name: predict(model.network, noisy.images).argmax(1) for model in three()}
    for times in (1, 2):
        table = compared(three(), noisy, mine)
        assert len(calls) == 3 * times
        for row in table.itertuples():
            both = (predicted[row.model_a] == 7) & (predicted[row.model_b] == 7)
            assert row.value == pytest.approx(both.double().mean().item())
