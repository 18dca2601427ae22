"""Tables of probes hold what each number comes to by hand, of images that the probes have not seen too."""

import dataclasses
import re
from functools import cache

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from repsim.activations import Observer, capture
from repsim.attacks import Attack, run_attack
from repsim.data import load_data
from repsim.measures import PREDICTION_MEASURES, find_measure
from repsim.studies.probing import (
    OWN,
    ProbeOptions,
    classify,
    experiments,
    fit_probe,
    obtain_probes,
    overfitting,
    probe_accuracy,
)
from repsim.training import predict, zoo
from repsim.training.model_store import TrainedModel, find

LABELS = ["architecture", "method", "norm", "epsilon", "seed"]
RIDGE = ProbeOptions(penalty=0.01)
FLAT = ProbeOptions(penalty=0.01, pool=False)
ADAM = ProbeOptions("adam", epochs=20, learning_rate=0.02, batch_size=50)
ATTACK = Attack(0.1, steps=5)
BLOCKS = ["layer1.0.relu2", "layer2.0.relu2", "layer3.0.relu2"]


@cache
def trained(architecture="mlp", epsilon=0.0, seed=0):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def classifier_agreement(models, data, options, *measures, layer="penultimate", progress=False, **how):
    return classify(models, data, options, layer=layer, progress=progress).agreement(*measures, **how)


def agreement_within(models, data, options, progress=False):
    return classify(models, data, options, progress=progress).within_models()


@pytest.fixture(scope="module")
def data():
    """Few digits to fit to, many to be tried on: what is true of the former is not of the latter."""
    return load_data("digits", train_size=150)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def features_of(model, images, layer="penultimate", pool=True):
    (values,) = capture(model.network, images, layer).values()
    if pool and values.dim() > 2:
        values = values.mean((2, 3)) if values.dim() == 4 else values.mean(1)
    return values.flatten(1)


def by_normal_equations(features, labels, penalty):
    """Weights and bias of ridge, in double."""
    x = torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], 1)
    added = penalty * float(features.double().var(0, correction=0).mean())
    free = torch.diag(torch.tensor([1.0] * features.shape[1] + [0.0], dtype=torch.float64))
    found = torch.linalg.solve(x.T @ x + len(x) * added * free, x.T @ F.one_hot(labels, 10).double())
    return found[:-1].T, found[-1]


def share_right(model, data, layer, images, labels, options=RIDGE):
    """How accurate a ridge probe is, by another way from the images on."""
    own = features_of(model, data.train.images, layer, options.pool)
    weight, bias = by_normal_equations(own, data.train.labels, options.penalty)
    logits = F.linear(features_of(model, images, layer, options.pool).double(), weight, bias)
    return float((logits.argmax(1) == labels).double().mean())


# -- how accurate probes are --------------------------------------------------------------------------------


def test_accuracies_are_those_computed_by_hand(tiny_data):
    models = [trained("resnet_tiny"), trained()]
    table = probe_accuracy(models, tiny_data, RIDGE, attack=ATTACK, attacked=30, progress=False)
    assert table.columns.tolist() == [
        *LABELS,
        *("layer", "depth", "inputs", "attack_norm", "attack_epsilon", "classifier", "images", "accuracy"),
    ]
    inputs = ("training", "test", "adversarial")
    layers = {"resnet_tiny": BLOCKS, "mlp": ["hidden.1", "hidden.3", "hidden.5"]}
    assert table[["architecture", "inputs", "layer"]].to_numpy().tolist() == [
        [name, kind, layer] for name in layers for kind in inputs for layer in layers[name]
    ]
    assert table["depth"].tolist() == [0.0, 0.5, 1.0] * 6
    assert set(table["classifier"]) == {"ridge(penalty=0.01)"}
    some = tiny_data.test.subset(30)
    for model in models:
        adversarial = run_attack(model.network, some.images, some.labels, ATTACK)
        shown = {
            "training": (tiny_data.train.images, tiny_data.train.labels),
            "test": (tiny_data.test.images, tiny_data.test.labels),
            "adversarial": (adversarial, some.labels),
        }
        for row in table[table["architecture"] == model.recipe.architecture].itertuples():
            images, labels = shown[row.inputs]
            assert row.images == len(labels)
            assert row.accuracy == pytest.approx(share_right(model, tiny_data, row.layer, images, labels))
    assert table.groupby("inputs")["images"].first().to_dict() == {
        "training": 200,
        "test": 60,
        "adversarial": 30,
    }
    mean = table.groupby("inputs")["accuracy"].mean()
    assert mean["training"] > mean["test"] > mean["adversarial"] + 0.1


def test_models_are_told_apart_by_their_labels(tiny_data):
    models = [trained(), trained(epsilon=0.1), trained(seed=1)]
    table = probe_accuracy(models, tiny_data, RIDGE, "penultimate", progress=False)
    assert table[LABELS].to_dict("records") == [dict(model.labels) for model in models for _ in range(2)]
    assert set(table["depth"]) == {0.0}  # of one layer
    assert set(table["layer"]) == {"hidden.5"}


@pytest.mark.parametrize("attack", [ATTACK, Attack(1.0, "l2", steps=3)], ids=["linf", "l2"])
def test_the_attack_is_named_where_there_is_one(tiny_data, attack):
    table = probe_accuracy(
        [trained()], tiny_data, RIDGE, "penultimate", attack=attack, attacked=20, progress=False
    ).set_index("inputs")
    assert table["attack_epsilon"].to_dict() == {"training": 0, "test": 0, "adversarial": attack.epsilon}
    assert table.loc["adversarial", "attack_norm"] == attack.norm


def test_each_network_is_attacked_by_itself(tiny_data, monkeypatch):
    """Not the probe, and not one network for all."""
    original, attacked = experiments.run_attack, []

    def kept(network, images, labels, attack, **options):
        attacked.append((network, images, labels, attack))
        return original(network, images, labels, attack, **options)

    monkeypatch.setattr(experiments, "run_attack", kept)
    models = [trained(), trained(epsilon=0.1)]
    probe_accuracy(models, tiny_data, RIDGE, attack=ATTACK, attacked=30, progress=False)
    assert [network for network, *_ in attacked] == [model.network for model in models]
    for _, images, labels, attack in attacked:
        assert torch.equal(images, tiny_data.test.subset(30).images)
        assert torch.equal(labels, tiny_data.test.subset(30).labels)
        assert attack == ATTACK


def test_features_may_be_flattened(tiny_data):
    model = trained("resnet_tiny")
    averaged, flat = (
        probe_accuracy([model], tiny_data, options, BLOCKS[1], progress=False).set_index("inputs")["accuracy"]
        for options in (RIDGE, FLAT)
    )
    test = tiny_data.test
    expected = share_right(model, tiny_data, BLOCKS[1], test.images, test.labels, FLAT)
    assert flat["test"] == pytest.approx(expected)
    assert flat["test"] != averaged["test"]


def test_probes_are_fitted_once_and_never_to_test_images(tiny_data, monkeypatch):
    seen = []
    original = Observer.observe
    monkeypatch.setattr(
        Observer, "observe", lambda self, images: seen.append(len(images)) or original(self, images)
    )
    probe_accuracy([trained()], tiny_data, RIDGE, progress=False)
    assert seen == [200, 200, 60]  # fitted, read on training images, and on test images
    seen.clear()
    probe_accuracy([trained()], tiny_data, RIDGE, progress=False)
    assert seen == [200, 60]
    fewer = load_data("digits", train_size=200, test_size=20)  # the same training images
    probe_accuracy([trained()], fewer, RIDGE, progress=False)
    assert seen == [200, 60, 200, 20]


def drops(*rows):
    """A table of accuracies on training and test images, of networks that their seeds tell apart."""
    return pd.DataFrame(
        [
            {
                **{**trained().labels, "seed": seed, "layer": f"layer {depth}", "depth": depth},
                **{"inputs": inputs, "accuracy": accuracy},
            }
            for seed, depth, *both in rows
            for inputs, accuracy in zip(("training", "test"), both, strict=True)
        ]
    )


def test_the_drop_of_accuracy_of_each_layer():
    table = drops((1, 0.0, 0.9, 0.8), (1, 1.0, 0.5, 0.5), (0, 0.5, 1.0, 0.25))
    found = experiments.accuracy_drop(table)
    assert found.columns.tolist() == [*LABELS, "layer", "depth", "training", "test", "drop"]
    assert found[["seed", "layer", "training", "test"]].to_numpy().tolist() == [
        [0, "layer 0.5", 1.0, 0.25],
        [1, "layer 0.0", 0.9, 0.8],
        [1, "layer 1.0", 0.5, 0.5],
    ]
    assert found["drop"].tolist() == pytest.approx([0.75, 0.1, 0.0])


def test_overfitting_is_how_much_more_is_lost_in_the_last_third_than_in_the_first():
    """Here 0.3 in the last third and 0.05 in the first, and 0.2 in between, which does not count."""
    table = drops(
        (0, 0.0, 0.5, 0.5), (0, 0.25, 0.6, 0.5), (0, 0.5, 0.9, 0.7), (0, 0.75, 0.9, 0.7), (0, 1.0, 1.0, 0.6),
        (1, 0.0, 0.9, 0.8), (1, 1.0, 0.5, 0.5),
    )  # fmt: skip
    found = overfitting(table)
    assert found.columns.tolist() == [*LABELS, "overfitting"]
    assert found["seed"].tolist() == [0, 1]
    assert found["overfitting"].tolist() == pytest.approx([0.25, -0.1])


# -- how far classifiers agree ------------------------------------------------------------------------------


def several():
    """Of two training ε, two of each."""
    return [trained("resnet_tiny"), trained(), trained(epsilon=0.1), trained("resnet_tiny", epsilon=0.1)]


def pairs_of(models):
    return [(models[0].name, models[1].name), (models[2].name, models[3].name)]


def answers_of(model, data, split, options):
    """What a probe that is fitted to training images says of those of a split."""
    probe = fit_probe(
        features_of(model, data.train.images, pool=options.pool), data.train.labels, 10, options
    )
    return probe.logits(features_of(model, split.images, pool=options.pool)).argmax(1)


def share_equal(one, other):
    return float((one == other).double().mean())


@pytest.mark.slow
def test_agreement_of_networks_and_of_their_probes(data):
    models = several()
    options = [RIDGE, ADAM, dataclasses.replace(ADAM, seed=1)]
    table = classifier_agreement(models, data, options, progress=False)
    classifiers = [OWN, "ridge(penalty=0.01)", ADAM.label, options[2].label]
    assert options[2].label == "adam(epochs=20, learning_rate=0.02, batch_size=50, seed=1)"
    assert table[["classifier", "model_a", "model_b", "measure"]].to_numpy().tolist() == [
        [classifier, *pair, measure]
        for classifier in classifiers
        for pair in pairs_of(models)
        for measure in ("agreement", "normalized_disagreement")
    ]
    assert set(table["n"]) == {500}
    named = {model.name: model for model in models}
    for row in table[table["measure"] == "agreement"].itertuples():
        both = [named[row.model_a], named[row.model_b]]
        if row.classifier == OWN:
            answers = [predict(model.network, data.test.images).argmax(1) for model in both]
        else:
            way = options[classifiers.index(row.classifier) - 1]
            answers = [answers_of(model, data, data.test, way) for model in both]
        # what is observed is rounded in another way: of 500 images, one or two may be between two classes
        assert row.value == pytest.approx(share_equal(*answers), abs=0.0041)
        right = [share_equal(each, data.test.labels) for each in answers]
        assert [row.accuracy_a, row.accuracy_b] == pytest.approx(right, abs=0.0041)


def test_agreement_is_of_images_that_no_classifier_was_fitted_to(data):
    """Erratum 21: on the training images it is another number."""
    models = [trained("resnet_tiny"), trained()]
    table = classifier_agreement(models, data, [RIDGE], "agreement", progress=False)
    found = table.set_index("classifier")["value"]
    own = [predict(model.network, data.train.images).argmax(1) for model in models]
    assert found[OWN] < share_equal(*own) == 1
    label = RIDGE.label
    on_test, on_train = (
        share_equal(*(answers_of(model, data, split, RIDGE) for model in models))
        for split in (data.test, data.train)
    )
    assert found[label] == pytest.approx(on_test, abs=0.0041)
    assert found[label] < on_train - 0.02


def test_probes_of_averaged_and_of_flat_features_stand_side_by_side(data):
    same = [trained("resnet_tiny"), trained("resnet_tiny", seed=1)]
    table = classifier_agreement(same, data, [FLAT, RIDGE], "agreement", layer=BLOCKS[1], progress=False)
    assert table["classifier"].tolist() == [OWN, FLAT.label, RIDGE.label]
    for options in (FLAT, RIDGE):
        probes = [stored.probe for stored in obtain_probes(same, data, [options], BLOCKS[1], progress=False)]
        answers = [
            probe.logits(features_of(model, data.test.images, BLOCKS[1], options.pool)).argmax(1)
            for probe, model in zip(probes, same, strict=True)
        ]
        value = table.set_index("classifier").loc[options.label, "value"]
        assert value == pytest.approx(share_equal(*answers), abs=0.0041)


def test_columns_of_the_table(data):
    table = classifier_agreement(several(), data, [RIDGE], progress=False)
    sides = [f"{label}_{side}" for side in "ab" for label in LABELS]
    assert table.columns.tolist() == [
        *("dataset", "inputs", "layer", "model_a", "model_b", *sides, "classifier"),
        *("measure", "orientation", "n", "value", "note"),
        *("accuracy_a", "accuracy_b", "lowest", "highest"),
    ]
    assert table[["dataset", "inputs", "layer"]].drop_duplicates().to_numpy().tolist() == [
        ["digits", "natural", "output"]
    ]
    named = {model.name: model for model in several()}
    for side in "ab":
        expected = [list(named[name].labels.values()) for name in table[f"model_{side}"]]
        assert table[[f"{label}_{side}" for label in LABELS]].to_numpy().tolist() == expected
    agreement = table[table["measure"] == "agreement"]
    assert (agreement["lowest"] <= agreement["value"] + 1e-9).all()
    assert (agreement["value"] <= agreement["highest"] + 1e-9).all()
    assert table[table["measure"] != "agreement"][["lowest", "highest"]].isna().all(axis=None)


@pytest.mark.slow
@pytest.mark.parametrize("measure", [*PREDICTION_MEASURES, "surrogate_churn(alpha=2)"])
def test_any_measure_of_predictions(tiny_data, measure):
    models = [trained(), trained("resnet_tiny")]
    (row,) = (
        classifier_agreement(models, tiny_data, [RIDGE], measure, progress=False)
        .query("classifier == 'own'")
        .itertuples()
    )
    name, _, rest = measure.partition("(")
    chosen = PREDICTION_MEASURES[name].using(**({"alpha": 2} if rest else {}))
    logits = [predict(model.network, tiny_data.test.images) for model in models]
    assert row.value == pytest.approx(chosen(*logits, tiny_data.test.labels), rel=1e-4, abs=1e-6)
    assert (row.measure, row.orientation) == (chosen.label, chosen.orientation)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("within", "expected"),
    [
        (["epsilon"], [(0, 1), (2, 3)]),
        (["architecture"], [(0, 3), (1, 2)]),
        (["seed"], [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ([], [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
    ],
)
def test_pairs_are_alike_in_some_labels(tiny_data, within, expected):
    models = several()
    table = classifier_agreement(models, tiny_data, [RIDGE], "agreement", within=within, progress=False)
    own = table[table["classifier"] == OWN]
    assert list(zip(own["model_a"], own["model_b"], strict=True)) == [
        (models[i].name, models[j].name) for i, j in expected
    ]


def test_a_layer_that_not_all_models_have(tiny_data):
    with pytest.raises(ValueError, match=r"^unknown layer 'hidden\.3'"):
        classifier_agreement([trained(), trained("resnet_tiny")], tiny_data, [RIDGE], layer="hidden.3")


def test_agreement_of_classifiers_of_one_representation(data):
    models = [trained(), trained("resnet_tiny", epsilon=0.1)]
    options = [RIDGE, ADAM]
    table = agreement_within(models, data, options, progress=False)
    assert table.columns.tolist() == [*LABELS, "classifier_a", "classifier_b", "agreement"]
    names = [(OWN, RIDGE.label), (OWN, ADAM.label), (RIDGE.label, ADAM.label)]
    assert table[["classifier_a", "classifier_b"]].to_numpy().tolist() == [list(each) for each in names] * 2
    assert table[LABELS].to_dict("records") == [model.labels for model in models for _ in range(3)]
    expected = []
    for model in models:
        own = predict(model.network, data.test.images).argmax(1)
        ridge, adam = (answers_of(model, data, data.test, way) for way in options)
        expected += [share_equal(*both) for both in ((own, ridge), (own, adam), (ridge, adam))]
    assert table["agreement"].tolist() == pytest.approx(expected, abs=0.0041)
    assert table["agreement"].nunique() > 3


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["cka", "jaccard(k=3)"])
def test_a_measure_of_representations(tiny_data, measure):
    message = f"classifiers are compared by their predictions, which {measure} is not of."
    for asked in (measure, ["agreement", measure], find_measure(measure)):
        with refused(message):
            classifier_agreement([trained(), trained(seed=1)], tiny_data, [RIDGE], asked, progress=False)


def of_other_classes(classes):
    model = trained(seed=1)
    return TrainedModel(model.recipe, model.path, {**model.record, "classes": classes})


def test_models_of_different_classes(tiny_data):
    other = of_other_classes([f"shape {i}" for i in range(10)])
    message = (
        f"{other.name} has the classes shape 0, shape 1, shape 2, …; digits has 0, 1, 2, …: what it answers "
        "says nothing of those."
    )
    with refused(message):
        classifier_agreement([trained(), other], tiny_data, [RIDGE], progress=False)


def test_a_data_set_of_other_classes(tiny_data):
    halves = {
        name: dataclasses.replace(split, labels=split.labels % 2)
        for name, split in (("train", tiny_data.train), ("test", tiny_data.test))
    }
    two = dataclasses.replace(tiny_data, title="halves", classes=("even", "odd"), **halves)
    message = (
        f"{trained().name} has 10 classes and takes images of shape (1, 16, 16); halves has 2 classes and "
        "images of shape (1, 16, 16)."
    )
    for table in (classifier_agreement, agreement_within):
        with refused(message):
            table([trained(), trained(seed=1)], two, [RIDGE], progress=False)


def test_a_data_set_of_as_many_but_other_classes(tiny_data):
    """A network's own answers to it mean nothing, however many they are."""
    names = tuple(f"shape {i}" for i in range(10))
    other = dataclasses.replace(tiny_data, name="other", title="other", classes=names)
    with pytest.raises(ValueError, match=f"^{trained().name} "):
        classifier_agreement([trained(), trained(seed=1)], other, [RIDGE], progress=False)


def test_all_measures_are_those_of_predictions(tiny_data):
    found = classify([trained(), trained(seed=1)], tiny_data, [], progress=False).agreement("all")
    assert set(found["measure"]) == set(PREDICTION_MEASURES)
