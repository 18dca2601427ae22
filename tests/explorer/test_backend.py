"""What an explorer shows is what the library says of the same networks and images, computed once."""

import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from repsim.activations import Observer, capture
from repsim.attacks import Attack, fgsm, run_attack
from repsim.data import load_data
from repsim.explorer import Backend, Setting, cached_inputs
from repsim.explorer import backend as making
from repsim.measures import MEASURES
from repsim.studies.inversion import InversionOptions, InversionRecipe, Pairs, find_inverted
from repsim.studies.stitching.experiments import fitting_method
from repsim.studies.stitching.store import stored_stitches
from repsim.training import zoo
from repsim.training.model_store import find, obtain

IMAGES = 24
SMALL = {"images": IMAGES, "layers": ["blocks"], "attack_steps": 2, "device": "cpu"}
QUICK = {**SMALL, "layers": ["hidden.1", "hidden.5"]}  # of the mlp
MLP = Setting(architecture_a="mlp", architecture_b="mlp", image=3)
RESNET = Setting(image=3)
MIXED = Setting(architecture_a="mlp", image=3)
UNSTORED = MLP.but(seed=2)  # its networks are there, and no images inverted through them
VIEWS = ["pictures", "answers", "map", "curve", "neighbors", "stitched"]
SIDES = ("a", "b")


@cache
def trained(architecture="mlp", epsilon=0.0, seed=0):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def model_of(setting, side):
    kind, epsilon = (getattr(setting, f"{name}_{side}") for name in ("architecture", "trained"))
    return trained(kind, epsilon, setting.seed)


@cache
def natural():
    """The images and labels that networks are compared on."""
    data = load_data("digits")
    pairs = Pairs.draw(data, 250)
    return pairs.targets(data.test)[:IMAGES], data.test.labels[pairs.target_index][:IMAGES]


def stored_set(setting, side):
    pairs, options = Pairs.draw(load_data("digits"), 250), InversionOptions(iterations=300)
    return find_inverted(InversionRecipe.of(model_of(setting, side), pairs, "penultimate", options))


def attacked(backend, setting, side):
    return run_attack(model_of(setting, side).network, *natural(), backend.attack(setting))


def looked_at(backend, setting, side):
    """By another way than the backend's."""
    if setting.inputs == "adversarial":
        return attacked(backend, setting, side)
    if setting.inputs == "inverted":
        return stored_set(setting, "a").images[:IMAGES]
    return natural()[0]


def seen(setting, side, images):
    """Layer → what the network of one side makes of images, one row for each."""
    found = capture(model_of(setting, side).network, images, "blocks")
    return {layer: values.flatten(1).double() for layer, values in found.items()}


def probabilities(setting, side, images):
    with torch.no_grad():
        return model_of(setting, side).network(images).double().softmax(1)


def expected_map(backend, setting):
    a, b = (seen(setting, side, looked_at(backend, setting, side)) for side in SIDES)
    measure = MEASURES[setting.measure]
    rows = [[float(measure(x, y)) for y in b.values()] for x in a.values()]
    return pd.DataFrame(rows, index=list(a), columns=list(b))


def close_to(frame):
    return pytest.approx(frame.to_numpy(), rel=1e-4, abs=1e-5)


def assert_same(results, other):
    assert (results.setting, results.layers, results.true) == (other.setting, other.layers, other.true)
    assert (results.neighbors, results.notes) == (other.neighbors, other.notes)
    for name in ("answers", "map", "curve", "stitched"):
        pd.testing.assert_frame_equal(getattr(results, name), getattr(other, name))
    assert list(results.pictures) == list(other.pictures)
    for name, picture in results.pictures.items():
        assert torch.equal(picture, other.pictures[name])


def refused(message, ask):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


@cache
def stitches(dataset):
    return stored_stitches(dataset)


@pytest.fixture(autouse=True)
def _stitches_read_once(monkeypatch):
    """They are hundreds, and every `Scenes` reads them anew."""
    monkeypatch.setattr(making, "stored_stitches", stitches)


@pytest.fixture(scope="module")
def backend():
    return Backend(**SMALL)


@pytest.fixture
def attacks(monkeypatch):
    """All attacks that are run from here on."""
    made = []

    def counted(network, images, labels, attack):
        made.append(attack)
        return run_attack(network, images, labels, attack)

    monkeypatch.setattr(cached_inputs, "run_attack", counted)
    return made


@pytest.fixture
def observations(monkeypatch):
    """All that networks are given to look at from here on."""
    made, observe = [], Observer.observe

    def counted(self, images):
        made.append(images)
        return observe(self, images)

    monkeypatch.setattr(Observer, "observe", counted)
    return made


# -- the map ------------------------------------------------------------------------------------------------


@pytest.mark.matrix("two-cka")
@pytest.mark.parametrize("measure", ["cka", "procrustes_similarity"])
@pytest.mark.parametrize("setting", [RESNET, MIXED], ids=["one architecture", "two"])
def test_the_map_has_the_measure_of_every_pair_of_layers(backend, setting, measure):
    setting = setting.but(measure=measure)
    found, expected = backend.results(setting).map, expected_map(backend, setting)
    assert found.index.tolist() == expected.index.tolist()
    assert found.columns.tolist() == expected.columns.tolist()
    assert found.to_numpy() == close_to(expected)


def test_layers_are_those_that_were_asked_for_in_the_networks_order():
    backend = Backend(**{**SMALL, "layers": ["classifier", "hidden.1", 0.3]})
    graph = trained().graph
    asked = {"classifier", "hidden.1", *graph.select(0.3)}
    layers = [layer for layer in graph.select("all") if layer in asked]
    results = backend.results(MLP)
    assert results.layers == (layers, layers)
    assert results.map.index.tolist() == results.map.columns.tolist() == layers


def test_the_value_is_that_of_the_chosen_pair(backend):
    results = backend.results(MIXED.but(layer_a="hidden.3", layer_b="layer1.0.relu2"))
    assert results.value == results.map.loc["hidden.3", "layer1.0.relu2"]
    assert results.value != backend.results(MIXED).value


def test_of_adversarial_inputs_each_network_sees_its_own(backend):
    setting = MIXED.but(inputs="adversarial", epsilon=0.2)
    found = backend.results(setting).map.to_numpy()
    assert found == close_to(expected_map(backend, setting))
    assert found != pytest.approx(backend.results(MIXED).map.to_numpy(), abs=1e-3)
    of_a = attacked(backend, setting, "a")
    both = [seen(setting, side, of_a) for side in SIDES]
    assert found != pytest.approx(
        np.array([[float(MEASURES["cka"](x, y)) for y in both[1].values()] for x in both[0].values()]),
        abs=1e-3,
    )


def test_of_inverted_inputs_both_networks_see_those_of_the_first(backend):
    setting = MIXED.but(inputs="inverted")
    found = backend.results(setting).map.to_numpy()
    assert found == close_to(expected_map(backend, setting))
    assert found != pytest.approx(backend.results(MIXED).map.to_numpy(), abs=1e-3)


# -- the curve ----------------------------------------------------------------------------------------------


@pytest.mark.matrix("adversarial-cka")
@pytest.mark.parametrize("measure", ["cka", "procrustes_similarity"])
@pytest.mark.parametrize("inputs", ["natural", "adversarial", "inverted"])
def test_the_curve_is_of_natural_against_attacked_images_whatever_the_inputs(backend, measure, inputs):
    setting = MIXED.but(measure=measure, inputs=inputs)
    curve = backend.results(setting).curve
    rows = []
    for side in SIDES:
        before = seen(setting, side, natural()[0])
        after = seen(setting, side, attacked(backend, setting, side))
        values = [float(MEASURES[measure](before[layer], after[layer])) for layer in before]
        rows += zip([side.upper()] * 3, before, [0.0, 0.5, 1.0], values, strict=True)
    assert curve.columns.tolist() == ["network", "layer", "depth", "value"]
    assert list(zip(curve["network"], curve["layer"], curve["depth"], strict=True)) == [r[:3] for r in rows]
    assert curve["value"].tolist() == pytest.approx([row[3] for row in rows], rel=1e-4, abs=1e-5)


# -- answers ------------------------------------------------------------------------------------------------


@pytest.mark.matrix("7-adversarial")
@pytest.mark.parametrize("inputs", ["natural", "adversarial", "inverted"])
@pytest.mark.parametrize("image", [0, 7])
def test_answers_are_probabilities_of_the_image_that_each_network_looks_at(backend, inputs, image):
    setting = MIXED.but(inputs=inputs, image=image)
    answers = backend.results(setting).answers
    assert answers.columns.tolist() == ["network", "class", "probability"]
    for side in SIDES:
        own = answers[answers["network"] == side.upper()]
        expected = probabilities(setting, side, looked_at(backend, setting, side))[image]
        assert own["class"].tolist() == list(load_data("digits").classes)
        assert own["probability"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        assert own["probability"].sum() == pytest.approx(1)


# -- pictures -----------------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("attack", "norm", "epsilon"),
    [("pgd", "linf", 0.1), ("pgd", "l2", 1.0), ("fgsm", "linf", 0.1), ("fgsm", "l2", 1.0)],
)
def test_attacked_pictures_are_near_and_worse_for_the_standard_network(backend, attack, norm, epsilon):
    order = float("inf") if norm == "linf" else 2
    for image in (0, 1, 7):
        setting = MLP.but(attack=attack, norm=norm, epsilon=epsilon, image=image)
        pictures, label = backend.results(setting).pictures, int(natural()[1][image])
        assert torch.equal(pictures["natural"], natural()[0][image])
        for side in SIDES:
            change = pictures[f"fools {side.upper()}"] - pictures["natural"]
            assert 0 < change.flatten().norm(order).item() <= epsilon + 1e-5
            assert torch.equal(pictures[f"fools {side.upper()}"], attacked(backend, setting, side)[image])
        both = torch.stack([pictures["natural"], pictures["fools A"]])
        before, after = probabilities(setting, "a", both)[:, label].tolist()
        assert after <= before
        for picture in pictures.values():
            assert 0 <= picture.min() <= picture.max() <= 1


def test_the_change_is_shown_around_grey_as_strong_as_can_be(backend):
    pictures = backend.results(MLP).pictures
    for side in "AB":
        change = pictures[f"fools {side}"] - pictures["natural"]
        shown = pictures[f"change, {side}"] - 0.5
        assert shown.abs().max().item() == pytest.approx(0.5)
        assert torch.allclose(shown * 2 * change.abs().max(), change, atol=1e-6)
        assert (shown[change == 0] == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_epsilon_0_adversarial_images_are_the_natural_ones(backend, attacks, norm):
    setting = MLP.but(inputs="adversarial", epsilon=0.0, norm=norm)
    results, plain = backend.results(setting), backend.results(setting.but(inputs="natural"))
    for side in "AB":
        assert torch.equal(results.pictures[f"fools {side}"], results.pictures["natural"])
        assert (results.pictures[f"change, {side}"] == 0.5).all()
    for name in ("map", "answers"):
        pd.testing.assert_frame_equal(getattr(results, name), getattr(plain, name))
    assert results.neighbors == plain.neighbors
    assert results.curve["value"].tolist() == pytest.approx([1.0] * 6)
    assert attacks == []


def test_inverted_pictures_are_those_of_the_stored_sets(backend):
    results = backend.results(MLP)
    for side in SIDES:
        images = stored_set(MLP, side).images
        assert torch.equal(results.pictures[f"inverted, {side.upper()}"], images[MLP.image])
        assert torch.equal(backend.inverted(MLP, side), images[:IMAGES])
    assert list(results.pictures) == [
        *("natural", "fools A", "change, A", "fools B", "change, B"),
        *("inverted, A", "inverted, B"),
    ]


# -- inputs and attacks -------------------------------------------------------------------------------------


def test_natural_images_are_the_first_targets_of_the_committed_pairs(backend):
    images, labels = backend.natural("digits")
    assert torch.equal(images, natural()[0])
    assert torch.equal(labels, natural()[1])
    committed = stored_set(MLP, "a")
    assert torch.equal(images, load_data("digits").test.images[committed.target_index[:IMAGES]])


def test_an_attack_of_several_steps_takes_as_many_as_said(backend):
    assert backend.attack(MLP) == Attack(0.1, "linf", 2)
    assert backend.attack(MLP.but(norm="l2", epsilon=1.5)) == Attack(1.5, "l2", 2)
    assert backend.attack(MLP.but(attack="fgsm")) == fgsm(0.1)
    assert Backend().attack(MLP).steps == 10


def test_without_inverted_images_the_other_views_are_there(backend):
    results = backend.results(UNSTORED.but(inputs="inverted"))
    assert results.notes == [
        "no images inverted through mlp, standard, seed 2, are in the store: choose other inputs, or make "
        "them with notebook 03."
    ]
    assert [name for name in VIEWS if getattr(results, name) is None] == ["answers", "map", "neighbors"]
    assert list(results.pictures) == ["natural", "fools A", "change, A", "fools B", "change, B"]
    assert len(results.curve) == 6


def test_the_second_network_needs_no_inverted_images(backend):
    setting = UNSTORED.but(architecture_a="resnet_tiny", inputs="inverted")
    results = backend.results(setting)
    assert results.notes == []
    assert "inverted, A" in results.pictures
    assert "inverted, B" not in results.pictures
    assert results.map.to_numpy() == close_to(expected_map(backend, setting))


# -- neighbours ---------------------------------------------------------------------------------------------


def nearest(values, image, count):
    """By the cosine of centred values, most alike first."""
    rows = values.numpy() - values.numpy().mean(0)
    cosine = rows @ rows[image] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[image])
    return [int(i) for i in np.argsort(-cosine) if i != image][:count]


@pytest.mark.matrix("hidden.1-adversarial")
@pytest.mark.parametrize("inputs", ["natural", "adversarial"])
@pytest.mark.parametrize("layer", ["hidden.1", "hidden.5"])
def test_neighbors_are_nearest_by_the_cosine_at_the_chosen_layer(backend, inputs, layer):
    for image in (0, 7):
        setting = MIXED.but(inputs=inputs, layer_a=layer, layer_b="layer2.0.relu2", image=image)
        found = backend.results(setting).neighbors
        for side, chosen in zip(SIDES, (layer, "layer2.0.relu2"), strict=True):
            values = seen(setting, side, looked_at(backend, setting, side))[chosen]
            assert found[side.upper()] == nearest(values, image, 5)


@pytest.mark.matrix
@pytest.mark.parametrize("shown", [1, 7])
def test_as_many_neighbors_as_said_and_never_the_image_itself(shown):
    backend = Backend(**QUICK, shown=shown)
    for image in (0, 11, 23):
        for found in backend.results(MLP.but(image=image)).neighbors.values():
            assert len(set(found)) == len(found) == shown
            assert image not in found


@pytest.mark.slow
def test_of_few_images_all_others_are_neighbors():
    backend = Backend(**{**QUICK, "images": 5}, shown=7)
    for image in (0, 4):
        for found in backend.results(MLP.but(image=image)).neighbors.values():
            assert sorted(found) == [other for other in range(5) if other != image]


# -- stitches -----------------------------------------------------------------------------------------------


def test_stitches_of_the_chosen_layers_have_the_recorded_accuracies(backend):
    names = tuple(model_of(RESNET, side).name for side in SIDES)
    stored = [each for each in stitches("digits") if (each.recipe.front, each.recipe.end) == names]
    layers = {(each.recipe.layer_front, each.recipe.layer_end) for each in stored}
    assert layers
    for layer_a, layer_b in layers:
        found = backend.results(RESNET.but(layer_a=layer_a, layer_b=layer_b)).stitched
        rows = [
            (measured["accuracy"], measured["robust_accuracy"], fitting_method(each.recipe.options))
            for each in stored
            if (each.recipe.layer_front, each.recipe.layer_end) == (layer_a, layer_b)
            for measured in each.record["measured"]
            if measured["truncated_to"] == 0
        ]
        plain = found["fitting_method"].str.replace(
            r", (rank \d+|attacked: \w+|random start|learning rate [\d.]+|BatchNorm updated)", "", regex=True
        )
        assert sorted(zip(found["clean"], found["robust"], plain, strict=True)) == sorted(rows)
        assert found.columns.tolist() == ["fitting_method", "clean", "robust"]
        assert found["fitting_method"].is_monotonic_increasing
        assert found["fitting_method"].is_unique


@pytest.mark.parametrize("setting", [MLP, RESNET.but(layer_a="layer1.0.relu2", layer_b="layer3.0.relu2")])
def test_where_no_stitch_is_stored_there_is_none(backend, setting):
    stitched = backend.results(setting).stitched
    assert stitched.columns.tolist() == ["fitting_method", "clean", "robust"]
    assert len(stitched) == 0


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inputs": "natual"}, "unknown inputs 'natual'; did you mean 'natural'? Known: natural, "
         "adversarial, inverted."),
        ({"measure": "procrustes"}, "similarities are shown, and procrustes is a distance."),
        ({"attack": "pdg"}, "unknown attack 'pdg'; did you mean 'pgd'? Known: pgd, fgsm."),
        ({"epsilon": -0.1}, "epsilon must be a finite number ≥ 0 in pixel units, not -0.1."),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(wrong, message):
    refused(message, lambda: Setting(**wrong))
    refused(message, lambda: MLP.but(**wrong))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_norm():
    refused("unknown norm 'l3'; did you mean 'l2'? Known: linf, l2.", lambda: Setting(norm="l3"))


def test_an_unknown_measure():
    listed = ", ".join(list(MEASURES)[:12])
    refused(
        "unknown measure 'ckaa'; did you mean 'cka' or 'cknna' or 'cka_rbf'? "
        f"Known: {listed}, … ({len(MEASURES)} in all).",
        lambda: Setting(measure="ckaa"),
    )


def test_a_measure_may_have_options(backend):
    found = backend.results(MLP.but(measure="jaccard(k=3)"))
    x, y = (seen(MLP, side, natural()[0])["hidden.5"] for side in SIDES)
    assert found.value == pytest.approx(float(MEASURES["jaccard"].using(k=3)(x, y)), abs=1e-5)


def test_layers_that_are_not_there_become_the_last_one(backend):
    found = backend.complete(MIXED.but(layer_a="layer1.0.relu2", layer_b="layer1.0.relu2"))
    assert (found.layer_a, found.layer_b) == ("hidden.5", "layer1.0.relu2")
    found = backend.complete(MIXED)
    assert (found.layer_a, found.layer_b) == ("hidden.5", "layer3.0.relu2")
    assert backend.results(MIXED).setting == found


@pytest.mark.parametrize(("asked", "shown"), [(-4, 0), (0, 0), (23, 23), (24, 23), (1000, 23)])
def test_the_image_is_one_that_there_is(backend, asked, shown):
    assert backend.complete(MLP.but(image=asked)).image == shown
    assert torch.equal(backend.results(MLP.but(image=asked)).pictures["natural"], natural()[0][shown])


# -- what cannot be shown -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (MLP.but(seed=7), "mlp, standard, seed 7,"),
        (MLP.but(trained_b=0.3), "mlp, ε = 0.3, seed 0,"),
        (Setting(architecture_b="wrn_tiny", trained_b=8 / 255), "wrn_tiny, ε = 8/255, seed 0,"),
    ],
)
def test_a_network_that_is_not_in_the_store(backend, setting, text):
    message = f"{text} is not in the store of digits: choose another, or train it with notebook 00."
    refused(message, lambda: backend.results(setting))
    refused(message, lambda: next(backend.partial_results(setting)))


def test_a_network_that_was_missing_is_found_when_it_is_trained():
    backend = Backend(
        **SMALL,
        architectures=["mlp"],
        epsilons=[0.0],
        training={"epochs": 1},
        sizes={"train_size": 200, "test_size": 60},
    )
    setting = MLP.but(trained_b=0.0)
    with pytest.raises(ValueError, match=r"^mlp, standard, seed 0, is not in the store of "):
        backend.results(setting)
    data = load_data("digits", train_size=200, test_size=60)
    (recipe,) = zoo.recipes(data, ["mlp"], [0.0], [0], epochs=1)
    obtain(recipe, data, progress=False, device="cpu")
    results = backend.results(setting)
    assert results.notes == []
    assert list(results.pictures) == ["natural", "fools A", "change, A", "fools B", "change, B"]
    assert np.diag(results.map).tolist() == pytest.approx([1.0] * 3)


def test_too_few_images_for_a_measure():
    results = Backend(**{**SMALL, "images": 3}).results(MLP)
    assert results.notes == ["hidden.1 has 3 rows; a measure needs at least 4 inputs.",
                           "hidden.5 has 3 rows; a measure needs at least 4 inputs."]  # fmt: skip
    assert [name for name in VIEWS if getattr(results, name) is None] == ["map", "curve", "neighbors"]


def test_a_measure_that_is_nowhere_defined_leaves_a_note():
    """Ten neighbours of eight images: a map and a curve without any value say nothing by themselves."""
    results = Backend(**{**SMALL, "images": 8}).results(MLP.but(measure="jaccard"))
    assert any("k must be a whole number of at least 1 and at most 7" in note for note in results.notes)


# -- what there is to choose from ---------------------------------------------------------------------------


def test_networks_of_a_committed_zoo(backend):
    networks = backend.networks("digits")
    assert networks["mlp, standard"] == ("mlp", 0.0)
    assert networks["resnet_tiny, ε = 0.05"] == ("resnet_tiny", 0.05)
    assert list(networks.values()) == [
        (kind, epsilon)
        for kind in ("resnet_tiny", "resnet_tiny_deep", "wrn_tiny", "vgg_tiny", "mlp")
        for epsilon in (0.0, 0.05, 0.1, 0.2)
    ]


@pytest.mark.slow
def test_all_networks_that_are_offered_are_there(backend):
    for kind, epsilon in backend.networks("digits").values():
        setting = MLP.but(architecture_a=kind, trained_a=epsilon)
        assert backend.model(setting, "a").recipe == model_of(setting, "a").recipe


@pytest.mark.matrix
@pytest.mark.parametrize(("dataset", "most"), [("digits", 0.3), ("shapes", 0.075)])
def test_epsilon_goes_from_0_to_half_above_the_greatest_of_training(backend, dataset, most):
    stops = backend.epsilons(dataset, "linf")
    assert len(stops) == 13
    assert stops[0] == 0
    assert stops == pytest.approx(np.linspace(0, most, 13), rel=1e-3)
    assert backend.epsilons(dataset, "l2") == pytest.approx([10 * stop for stop in stops], rel=1e-3)


def test_a_data_set_without_committed_networks(backend):
    message = (
        f"cifar10 has no committed networks ({', '.join(zoo.ZOOS)} have): name architectures and epsilons."
    )
    refused(message, lambda: backend.networks("cifar10"))
    refused(message, lambda: backend.epsilons("cifar10", "linf"))
    refused(message, lambda: Backend(architectures=["resnet18"]).networks("cifar10"))
    refused(message, lambda: Backend(epsilons=[0.0]).networks("cifar10"))


def test_networks_and_epsilons_that_were_named():
    backend = Backend(architectures=["resnet18", "vgg11"], epsilons=[0.0, 8 / 255])
    assert backend.networks("cifar10") == {
        "resnet18, standard": ("resnet18", 0.0),
        "resnet18, ε = 8/255": ("resnet18", 8 / 255),
        "vgg11, standard": ("vgg11", 0.0),
        "vgg11, ε = 8/255": ("vgg11", 8 / 255),
    }
    assert backend.epsilons("cifar10", "linf") == pytest.approx(np.linspace(0, 12 / 255, 13), rel=1e-3)


# -- computed once ------------------------------------------------------------------------------------------


def test_a_second_look_attacks_and_observes_nothing_more(attacks, observations):
    backend = Backend(**SMALL)
    first = backend.results(MLP)
    assert attacks == [Attack(0.1, "linf", 2)] * 2
    observed = len(observations)
    assert_same(backend.results(MLP), first)
    for other in (
        {"image": 9},
        {"layer_a": "hidden.1", "layer_b": "hidden.3"},
        {"measure": "procrustes_similarity"},
    ):
        backend.results(MLP.but(**other))
    assert len(observations) == observed
    backend.results(MLP.but(inputs="adversarial"))  # the attacked images are those of the curve
    assert len(attacks) == 2
    assert len(observations) == observed


def test_what_settings_share_does_not_depend_on_what_came_before():
    """All at one ε, where images that are others could be taken for each other."""
    shared = Backend(**QUICK)
    for setting in (
        MLP,
        MLP.but(trained_a=0.1, trained_b=0.0, inputs="adversarial"),
        MLP.but(seed=1, inputs="inverted"),
        MLP.but(attack="fgsm", norm="l2", inputs="adversarial", measure="rsa", layer_a="hidden.1"),
    ):
        assert_same(shared.results(setting), Backend(**QUICK).results(setting))


# -- ahead --------------------------------------------------------------------------------------------------


@pytest.fixture
def stops(monkeypatch):
    """Fewer than there are, as each takes its time."""
    monkeypatch.setattr(cached_inputs, "STOPS", 4)
    return [0.0, 0.1, 0.2, 0.3]


def test_ahead_there_is_all_that_sliders_show(attacks, observations, stops):
    backend = Backend(**QUICK)
    backend.ahead(MLP)
    done = len(attacks), len(observations)
    for epsilon, image, layer in zip(stops, (0, 1, 2, 23), ["hidden.1", "hidden.5"] * 2, strict=True):
        results = backend.results(MLP.but(epsilon=epsilon, image=image, layer_a=layer, layer_b=layer))
        assert results.notes == []
    assert (len(attacks), len(observations)) == done
    assert len(attacks) == 2 * 3  # none at ε = 0


@pytest.mark.parametrize(
    ("norm", "epsilon", "order"),
    [("linf", 0.29, [0.3, 0.2, 0.1]), ("l2", 1.6, [2.0, 1.0, 3.0])],
)
def test_ahead_the_nearest_epsilon_comes_first(attacks, stops, norm, epsilon, order):
    backend = Backend(**QUICK)
    backend.ahead(MLP.but(norm=norm, epsilon=epsilon))
    assert [attack.epsilon for attack in attacks[::2]] == order
    assert {attack.norm for attack in attacks} == {norm}


# -- step by step -------------------------------------------------------------------------------------------


class Enough(Exception):
    """What a step raises in these tests."""


def raising_at(count):
    """A step that raises when it is called for the `count`th time."""
    left = iter(range(count))

    def step():
        if next(left, None) is None:
            raise Enough

    return step


def test_views_come_one_by_one_the_quickest_first(backend):
    filled = []
    for results in backend.partial_results(MLP):
        filled.append([name for name in VIEWS if getattr(results, name) is not None])
    assert filled == [VIEWS[: count + 1] for count in range(len(VIEWS))]


def test_steps_are_taken_between_views_and_while_attacking(backend):
    for count in range(len(VIEWS)):
        with pytest.raises(Enough):
            list(backend.partial_results(MLP, raising_at(count)))


@pytest.mark.slow
def test_what_was_interrupted_anywhere_is_as_good_as_new():
    interrupted, count = Backend(**QUICK), 0
    setting = MLP.but(inputs="adversarial")
    while True:
        try:
            *_, last = interrupted.partial_results(setting, raising_at(count))
        except Enough:
            count += 1
        else:
            break
    assert count > len(VIEWS)
    assert_same(last, Backend(**QUICK).results(setting))
    assert_same(interrupted.results(setting), last)


def test_work_ahead_ends_at_a_step_and_what_is_kept_is_right(attacks, stops):
    interrupted, fresh = Backend(**QUICK), Backend(**QUICK)
    with pytest.raises(Enough):
        interrupted.ahead(MLP, raising_at(24))
    assert 0 < len(attacks) < 6
    for epsilon in stops[1:3]:
        assert_same(interrupted.results(MLP.but(epsilon=epsilon)), fresh.results(MLP.but(epsilon=epsilon)))


def test_networks_are_as_they_were():
    backend = Backend(**SMALL)
    networks = [backend.model(MIXED, side).network for side in SIDES]
    before = [{name: v.clone() for name, v in network.state_dict().items()} for network in networks]
    for inputs in ("natural", "adversarial", "inverted"):
        backend.results(MIXED.but(inputs=inputs))
    for side, network, old in zip(SIDES, networks, before, strict=True):
        assert backend.model(MIXED, side).network is network
        assert all(torch.equal(value, old[name]) for name, value in network.state_dict().items())
        assert not any(module.training for module in network.modules())
        assert all(weight.requires_grad for weight in network.parameters())
        assert all(weight.grad is None for weight in network.parameters())


def test_given_models_are_what_there_is_to_choose_from():
    first, last = trained("mlp", 0.0, 1), trained("vgg_tiny", 0.2, 0)
    backend = Backend(**SMALL, models=[first, last])
    assert backend.networks("digits") == {
        "mlp, standard": ("mlp", 0.0),
        "vgg_tiny, ε = 0.2": ("vgg_tiny", 0.2),
    }
    assert backend.epsilons("digits", "linf")[-1] == pytest.approx(0.3)
    setting = Setting(architecture_a="mlp", seed=1)
    assert backend.model(setting, "a") is first
    with pytest.raises(
        ValueError, match=r"^resnet_tiny, ε = 0.1, seed 1, is not in the store of digits: choose another\.$"
    ):
        backend.model(setting, "b")
    # a slider of ε where no network is robust
    stops = Backend(**SMALL, models=[first]).epsilons("digits", "linf")
    assert stops[-1] == pytest.approx(12 / 255, rel=1e-3)
