"""Probes are fitted once, kept with what they were fitted to, and never read when damaged."""

import dataclasses
import json
import re
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from toy_networks import Branching, randomized

from repsim.activations import Observer, capture, trace
from repsim.attacks import Attack, run_attack
from repsim.data import load_data
from repsim.models import build_model
from repsim.studies.probing import ProbeOptions, ProbeRecipe, fit_probe, obtain_probes
from repsim.studies.probing import store as probes
from repsim.support import paths
from repsim.support.artifacts import checksum
from repsim.training import accuracy, zoo
from repsim.training.model_store import TrainedModel, find

RIDGE, FLAT = ProbeOptions(penalty=0.01), ProbeOptions(penalty=0.01, pool=False)
QUICK = ProbeOptions("adam", epochs=2, batch_size=50)
BLOCK = "layer2.0.relu2"


@cache
def trained(architecture="mlp", epsilon=0.0, seed=0):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


@cache
def untrained(name):
    """As if it were in the store: a network of tokens, and one that cannot be traced."""
    if name == "untraceable":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network, shape = randomized(Branching()), [3, 16, 16]
    else:
        network, shape = build_model(name, (1, 16, 16), 10, [0.3], [0.4]).eval(), [1, 16, 16]
    record = {
        "classes": list(map(str, range(10))),
        "image_shape": shape,
        "checksums": {"30": name.encode().hex()},
    }
    model = TrainedModel(trained().recipe, paths.data() / f"{name}.json", record)
    model.__dict__["network"] = network  # where the weights of a stored one would be, once read
    return model


def get(dataset, *options, model=None, layers="penultimate", **how):
    return obtain_probes(
        [model or trained()], dataset, list(options or [RIDGE]), layers, progress=False, **how
    )


def in_colour(dataset):
    """Images of another shape."""
    train, test = (
        dataclasses.replace(split, images=split.images.expand(-1, 3, -1, -1))
        for split in (dataset.train, dataset.test)
    )
    return dataclasses.replace(dataset, name="colours", title="colours", train=train, test=test)


@pytest.fixture
def fits(monkeypatch):
    """How each probe was fitted, in a list."""
    return counted(monkeypatch)


def counted(monkeypatch):
    original, found = probes.fit_probe, []

    def counting(features, labels, classes, options):
        found.append(options)
        return original(features, labels, classes, options)

    monkeypatch.setattr(probes, "fit_probe", counting)
    return found


@pytest.fixture
def observed(monkeypatch):
    """Of which layers, and of how many images, features were made, in a list."""
    original, found = Observer.observe, []

    def counting(self, images):
        found.append((self.layers, len(images)))
        return original(self, images)

    monkeypatch.setattr(Observer, "observe", counting)
    return found


def features_of(model, images, layer="penultimate", pool=True):
    """By another way than the one that probes are fitted to."""
    (values,) = capture(model.network, images, layer).values()
    if pool and values.dim() > 2:
        values = values.mean((2, 3)) if values.dim() == 4 else values.mean(1)
    return values.flatten(1)


def folder(dataset="digits"):
    return paths.probes() / dataset


def files():
    return sorted(path.name for path in folder().iterdir() if not path.name.endswith(".lock"))


def same(one, other):
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


# -- made once ----------------------------------------------------------------------------------------------


@pytest.mark.matrix("penultimate", "ridge-mlp", "flat-resnet_tiny")
@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ("mlp", "hidden.1"),
        ("resnet_tiny", BLOCK),
        ("resnet_tiny", "penultimate"),
        ("vgg_tiny", "features.13"),
    ],
)
@pytest.mark.parametrize(
    "options", [RIDGE, FLAT, ProbeOptions("logistic"), QUICK], ids=["ridge", "flat", "logistic", "adam"]
)
def test_a_probe_is_what_fitting_it_to_the_training_images_gives(tiny_data, architecture, layer, options):
    model = trained(architecture)
    (stored,) = get(tiny_data, options, model=model, layers=layer)
    features = features_of(model, tiny_data.train.images, layer, options.pool)
    expected = fit_probe(features, tiny_data.train.labels, 10, options)
    found = stored.probe
    assert found.weight.shape == (10, features.shape[1])
    assert found.penalty == expected.penalty
    test = features_of(model, tiny_data.test.images, layer, options.pool)
    torch.testing.assert_close(found.logits(test), expected.logits(test), rtol=1e-3, atol=5e-3)
    assert not torch.equal(found.logits(test), torch.zeros(60, 10))


def test_what_is_read_is_what_was_fitted(tiny_data, monkeypatch):
    fitted = []
    original = probes.fit_probe
    monkeypatch.setattr(probes, "fit_probe", lambda *given: fitted.append(original(*given)) or fitted[-1])
    stored = get(tiny_data, RIDGE, ProbeOptions(), ProbeOptions("logistic"), QUICK)
    assert len(fitted) == 4
    for found, expected in zip(stored, fitted, strict=True):
        assert same(found.probe, expected)
        assert found.probe.penalty == expected.penalty == found.record["penalty"]
    assert stored[1].probe.penalty is not None  # the one that it chose
    assert stored[3].probe.penalty is None


def test_only_what_is_missing_is_fitted(tiny_data, fits, observed):
    get(tiny_data, RIDGE, layers="hidden.1")
    del fits[:], observed[:]
    found = get(tiny_data, RIDGE, QUICK, layers=["hidden.1", "hidden.3"])
    assert fits == [QUICK, RIDGE, QUICK]
    assert observed == [(["hidden.1", "hidden.3"], 200)]
    assert [(each.recipe.layer, each.recipe.options) for each in found] == [
        ("hidden.1", RIDGE),
        ("hidden.1", QUICK),
        ("hidden.3", RIDGE),
        ("hidden.3", QUICK),
    ]


def test_features_are_made_once_for_several_probes(tiny_data, observed, fits):
    options = [RIDGE, ProbeOptions("logistic"), QUICK, dataclasses.replace(QUICK, seed=1)]
    get(tiny_data, *options, model=trained("resnet_tiny"), layers="blocks")
    assert observed == [(["layer1.0.relu2", BLOCK, "layer3.0.relu2"], 200)]
    assert len(fits) == 12


def test_features_that_are_averaged_and_those_that_are_not_are_made_apart(tiny_data, observed):
    averaged, flat = get(tiny_data, RIDGE, FLAT, model=trained("resnet_tiny"), layers=BLOCK)
    assert [len(layers) for layers, _ in observed] == [1, 1]
    assert averaged.probe.weight.shape == (10, 16)
    assert flat.probe.weight.shape == (10, 16 * 8 * 8)


def test_several_models_in_their_order(tiny_data):
    models = [trained(seed=1), trained("resnet_tiny"), trained()]
    found = obtain_probes(models, tiny_data, [RIDGE, QUICK], progress=False)
    assert [each.model for each in found] == [model for model in models for _ in range(2)]
    assert [each.recipe.model for each in found] == [model.name for model in models for _ in range(2)]
    assert [each.recipe.layer for each in found[::2]] == ["hidden.5", "flatten", "hidden.5"]
    assert len({each.recipe.address for each in found}) == 6


def test_asking_for_nothing_gives_nothing(tiny_data, observed):
    assert obtain_probes([], tiny_data, [RIDGE], progress=False) == []
    assert obtain_probes([trained()], tiny_data, [], progress=False) == []
    assert observed == []


def test_a_probe_that_is_asked_for_twice_is_fitted_once(tiny_data, fits):
    found = get(tiny_data, RIDGE, RIDGE)
    assert {each.recipe for each in found} == {get(tiny_data)[0].recipe}
    assert fits == [RIDGE]


def test_the_record(tiny_data):
    (stored,) = get(tiny_data, ProbeOptions())
    text = stored.path.read_text(encoding="utf-8")
    record = json.loads(text)
    del record["record_checksum"]
    assert record == stored.record
    options = record["recipe"].pop("options")
    assert ProbeRecipe(**record["recipe"], options=ProbeOptions(**options)) == stored.recipe
    assert record["checksum"] == checksum(stored.file)
    assert record["penalty"] == stored.probe.penalty
    assert str(folder()) not in text
    assert {name: each.shape for name, each in load_file(stored.file).items()} == {
        "weight": (10, 64),
        "bias": (10,),
    }


def test_a_run_that_was_interrupted_keeps_what_it_had_fitted(tiny_data, monkeypatch):
    original = probes.fit_probe

    def interrupted(features, labels, classes, options):
        if options == QUICK:
            raise KeyboardInterrupt
        return original(features, labels, classes, options)

    with monkeypatch.context() as patch:
        patch.setattr(probes, "fit_probe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(tiny_data, RIDGE, QUICK)
    assert len(files()) == 2
    fits = counted(monkeypatch)
    found = get(tiny_data, RIDGE, QUICK)
    assert fits == [QUICK]
    assert len(found) == 2
    assert found[0].probe.weight.shape == (10, 64)


# -- addresses ----------------------------------------------------------------------------------------------


def recipe_of(**changes):
    fields = {"dataset": "digits", "fingerprint": "f", "model": "m", "weights": "w", "layer": "l"}
    return ProbeRecipe(**{**fields, "options": QUICK, **changes})


def test_equal_recipes_have_equal_addresses():
    assert recipe_of() == recipe_of()
    assert recipe_of().address == recipe_of().address
    assert re.fullmatch("[0-9a-f]{12}", recipe_of().address)
    unused = dataclasses.replace(QUICK, penalty=3.0)  # of adam
    assert recipe_of(options=unused).address == recipe_of().address


def test_a_recipe_that_differs_in_any_field_has_another_address():
    fields = [field.name for field in dataclasses.fields(ProbeRecipe)]
    others = [recipe_of(**{name: "x"}) for name in fields if name != "options"]
    changes = {"pool": False, "epochs": 3, "learning_rate": 0.1, "batch_size": 7, "seed": 2}
    others += [recipe_of(options=dataclasses.replace(QUICK, **{name: changes[name]})) for name in changes]
    others += [recipe_of(options=ProbeOptions(kind)) for kind in ("ridge", "logistic")]
    others.append(recipe_of(options=RIDGE))
    assert {"kind", "penalty", *changes} == {field.name for field in dataclasses.fields(ProbeOptions)}
    assert len({each.address for each in [recipe_of(), *others]}) == 1 + len(others) == 14


def test_the_recipe_of_a_probe(tiny_data):
    model = trained("resnet_tiny")
    (stored,) = get(tiny_data, QUICK, model=model)
    assert stored.recipe == ProbeRecipe(
        "digits", tiny_data.fingerprint, model.name, model.weights, "flatten", QUICK
    )


def test_a_layer_by_its_own_name_and_by_what_it_is_are_one(tiny_data, fits):
    model = trained("resnet_tiny")
    recipes = [
        get(tiny_data, model=model, layers=layers)[0].recipe
        for layers in ("penultimate", "flatten", ["flatten"])
    ]
    assert recipes[0] == recipes[1] == recipes[2]
    blocks = get(tiny_data, model=model, layers="blocks")
    assert get(tiny_data, model=model, layers=BLOCK)[0].recipe == blocks[1].recipe
    assert len(fits) == 4


def test_other_training_images_make_other_probes(tiny_data, fits):
    fewer = load_data("digits", train_size=100, test_size=60)
    (one,), (other,) = get(tiny_data), get(fewer)
    assert one.recipe.address != other.recipe.address
    assert not same(one.probe, other.probe)
    assert len(fits) == 2
    # the test images are no part of it
    assert get(load_data("digits", train_size=200, test_size=10))[0].recipe == one.recipe


# -- as a network -------------------------------------------------------------------------------------------

NETWORKS = {
    "mlp": "hidden.3",
    "resnet_tiny": BLOCK,
    "vgg_tiny": "features.13",
    "vit_tiny": "encoder.layers.encoder_layer_0.add_1",
    "untraceable": "relu_1",
}


def donor(name):
    return trained(name) if name in ("mlp", "resnet_tiny", "vgg_tiny") else untrained(name)


@pytest.mark.matrix("averaged-inner", "flat-penultimate-resnet_tiny")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layer", ["inner", "penultimate"])
@pytest.mark.parametrize("pool", [True, False], ids=["averaged", "flat"])
def test_a_network_gives_the_probes_answers_to_images(tiny_data, name, layer, pool):
    dataset = in_colour(tiny_data) if name == "untraceable" else tiny_data
    layer = NETWORKS[name] if layer == "inner" else layer
    (stored,) = get(dataset, ProbeOptions(penalty=0.01, pool=pool), model=donor(name), layers=layer)
    network, images = stored.network(), dataset.test.images
    features = features_of(stored.model, images, stored.recipe.layer, pool)
    expected = stored.probe.logits(features)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
    found = accuracy(network, images, dataset.test.labels)
    assert found == pytest.approx(stored.probe.accuracy(features, dataset.test.labels))
    assert name == "untraceable" or found > 0.2  # that one was never trained


def test_a_network_is_frozen(tiny_data):
    (stored,) = get(tiny_data, model=trained("resnet_tiny"))
    network = stored.network()
    assert not any(weight.requires_grad for weight in network.parameters())
    both = [{weight.data_ptr() for weight in each.parameters()} for each in (network, stored.model.network)]
    assert both[0].isdisjoint(both[1])


def test_a_network_is_in_evaluation_mode(tiny_data):
    (stored,) = get(tiny_data, model=trained("resnet_tiny"))
    assert not any(module.training for module in stored.network().modules())


@pytest.mark.matrix("resnet_tiny", "untraceable")
@pytest.mark.parametrize("name", ["mlp", "resnet_tiny", "untraceable"])
def test_a_network_can_be_attacked(tiny_data, name):
    dataset = in_colour(tiny_data) if name == "untraceable" else tiny_data
    (stored,) = get(dataset, model=donor(name), layers=NETWORKS[name])
    network, images, labels = stored.network(), dataset.test.images, dataset.test.labels
    adversarial = run_attack(network, images, labels, Attack(0.1, steps=5))
    assert (adversarial - images).abs().max() <= 0.1 + 1e-6

    def loss(given):
        features = features_of(stored.model, given, stored.recipe.layer)
        return float(F.cross_entropy(stored.probe.logits(features), labels))

    assert loss(adversarial) > loss(images) + 0.1
    assert accuracy(network, adversarial, labels) < accuracy(network, images, labels)


# -- models and data ----------------------------------------------------------------------------------------


@pytest.mark.matrix("resnet_tiny")
@pytest.mark.parametrize("name", ["mlp", "resnet_tiny", "untraceable"])
def test_models_are_as_they_were(tiny_data, name):
    model = donor(name)
    dataset = in_colour(tiny_data) if name == "untraceable" else tiny_data
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    flags = [weight.requires_grad for weight in model.network.parameters()]
    layers = ["relu", "pool"] if name == "untraceable" else "blocks"  # of which it has none
    for stored in get(dataset, RIDGE, FLAT, QUICK, model=model, layers=layers):
        run_attack(stored.network(), dataset.test.images[:5], dataset.test.labels[:5], Attack(0.1, steps=1))
    after = model.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [weight.requires_grad for weight in model.network.parameters()] == flags
    assert not any(module.training for module in model.network.modules())


def test_a_model_of_images_of_another_shape_is_refused(tiny_data, fits):
    message = f"{trained().name} takes images of shape (1, 16, 16), not of (3, 16, 16), as colours has."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        get(in_colour(tiny_data))
    assert fits == []


def test_a_layer_that_a_model_has_not(tiny_data, fits):
    with pytest.raises(ValueError, match=r"^unknown layer 'hidden\.9'; did you mean 'hidden"):
        get(tiny_data, layers="hidden.9")
    assert fits == []


def test_a_model_of_another_task_may_be_probed():
    """Digits networks, of drawn shapes; and of two classes, where the network has ten."""
    shapes = load_data("shapes", train_size=300, test_size=100)
    model = trained("resnet_tiny")
    options = ProbeOptions("logistic", pool=False)
    (stored,) = get(shapes, options, model=model, layers=BLOCK)
    assert stored.path.parent == folder("shapes")
    features = features_of(model, shapes.train.images, BLOCK, pool=False)
    expected = fit_probe(features, shapes.train.labels, 10, options).logits(features)
    torch.testing.assert_close(stored.probe.logits(features), expected, rtol=1e-2, atol=1e-2)
    assert stored.probe.accuracy(features, shapes.train.labels) > 0.9
    assert accuracy(model.network, shapes.train.images, shapes.train.labels) < 0.3

    halves = {
        name: dataclasses.replace(split, labels=split.labels % 2)
        for name, split in (("train", shapes.train), ("test", shapes.test))
    }
    two = dataclasses.replace(shapes, name="halves", classes=("even", "odd"), **halves)
    (stored,) = get(two, model=model)
    assert stored.probe.weight.shape == (2, 32)
    assert stored.network()(two.test.images).shape == (100, 2)


def test_a_layer_of_an_untraceable_network(tiny_data):
    model = untrained("untraceable")
    (stored,) = get(in_colour(tiny_data), model=model)
    assert stored.recipe.layer == trace(model.network, (3, 16, 16)).select("penultimate")[0] == "fc.input"
