"""Models that are compared see the same images, each through its own network, at layers of one name."""

import dataclasses
import re
from functools import cache

import pytest
import torch

from repsim.activations import Observer, capture
from repsim.data import load_data
from repsim.studies.comparison.observing import Observers
from repsim.training import model_store, predict, zoo
from repsim.training.model_store import TrainedModel, find


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def by_name(*models):
    return {model.name: model for model in models}


def unseen(*models):
    """As if they had just been found."""
    return by_name(*(dataclasses.replace(model) for model in models))


def mixed():
    """A multilayer perceptron and a residual network: other layers, and other widths."""
    return by_name(trained(), trained(architecture="resnet_tiny"))


def refused(message, ask):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


@pytest.fixture(scope="module")
def images(tiny_data):
    return tiny_data.test.images[:12]


@pytest.fixture
def traced(monkeypatch):
    """Which networks were traced, in a list."""
    original, found = model_store.trace, []
    monkeypatch.setattr(
        model_store, "trace", lambda network, *a: found.append(network) or original(network, *a)
    )
    return found


@pytest.fixture
def cut(monkeypatch):
    """At which layers networks were cut, in a list."""
    found = []

    class Noted(Observer):
        def __init__(self, graph, layers):
            found.append((graph.network, list(layers)))
            super().__init__(graph, layers)

    monkeypatch.setattr(model_store, "Observer", Noted)
    return found


# -- what is seen -------------------------------------------------------------------------------------------


def test_the_penultimate_layer_is_each_models_own(images):
    observers = Observers(mixed())
    assert observers.layers == ["penultimate"]
    for name, model in mixed().items():
        found = observers.observe(name, images)
        assert list(found.values) == ["penultimate"]
        (expected,) = capture(model.network, images, "penultimate").values()
        torch.testing.assert_close(found.values["penultimate"], expected.flatten(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.logits, predict(model.network, images), rtol=1e-4, atol=1e-4)


@pytest.mark.matrix("names0", "blocks-names3")
@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("hidden.1", ["hidden.1"]),
        (["hidden.1"], ["hidden.1"]),
        (["hidden.4", "hidden.1"], ["hidden.4", "hidden.1"]),
        ("blocks", ["hidden.1", "hidden.3", "hidden.5"]),
        ("all", [*(f"hidden.{i}" for i in range(6)), "classifier"]),
        (0.3, ["hidden.0", "classifier"]),
    ],
)
def test_layers_that_all_have(images, layers, names):
    models = by_name(trained(), trained(0.2))
    observers = Observers(models, layers)
    assert observers.layers == names
    for name, model in models.items():
        found, expected = observers.observe(name, images), capture(model.network, images, names)
        assert list(found.values) == names
        for layer in names:
            torch.testing.assert_close(found.values[layer], expected[layer], rtol=1e-4, atol=1e-5)


def test_rows_can_be_chosen(images):
    models = by_name(trained(), trained(0.2))
    name, rows = trained().name, torch.tensor([7, 0, 3])
    whole = Observers(models, "blocks").observe(name, images)
    part, alone = whole.part(rows), Observers(models, "blocks").observe(name, images[rows])
    assert list(part.values) == list(whole.values)
    for layer in part.values:
        assert torch.equal(part.values[layer], whole.values[layer][rows])
        torch.testing.assert_close(part.values[layer], alone.values[layer])
    torch.testing.assert_close(part.logits, alone.logits)


# -- only as needed -----------------------------------------------------------------------------------------


def test_networks_are_traced_and_cut_once_and_when_they_are_needed(images, traced, cut):
    models = unseen(*mixed().values())
    first, second = models
    observers = Observers(models)
    assert traced == cut == []
    observers.observe(second, images)
    assert traced == [models[second].network]
    observers.observe(second, 1 - images)
    observers.observe(first, images)
    observers.observe(second, images)
    assert traced == [models[second].network, models[first].network]
    assert cut == [(models[second].network, ["flatten"]), (models[first].network, ["hidden.5"])]
    Observers(models).observe(first, images)
    assert len(traced) == 2


def test_to_find_common_layers_all_are_traced_and_none_is_cut(traced, cut):
    models = unseen(trained(), trained(0.2))
    Observers(models, "blocks")
    assert traced == [model.network for model in models.values()]
    assert cut == []


# -- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_models(count):
    refused(
        f"a comparison needs at least 2 models, got {count}.",
        lambda: Observers(by_name(*[trained()][:count])),
    )


def test_images_of_different_shapes():
    found = trained(0.1)
    wide = TrainedModel(found.recipe, found.path, {**found.record, "image_shape": [3, 8, 8]})
    refused(
        "models for images of one shape can be compared, not of [(1, 16, 16), (3, 8, 8)].",
        lambda: Observers(by_name(trained(), wide)),
    )


def test_layers_that_differ():
    first, second = mixed()
    names = "layer1.0.relu2, layer2.0.relu2, layer3.0.relu2"
    refused(
        f"layers are compared with their namesakes, but 'blocks' are hidden.1, hidden.3, hidden.5 of {first} "
        f"and {names} of {second}: name layers that all have, or take 'penultimate'.",
        lambda: Observers(mixed(), "blocks"),
    )


def test_layers_of_which_one_lacks_some():
    """The deeper network has what the other has, and more."""
    shallow, deep = trained(architecture="resnet_tiny"), trained(architecture="resnet_tiny_deep")
    shown = "conv1, bn1, relu1, … "
    with pytest.raises(
        ValueError, match=r"^layers are compared with their namesakes, but 'all' are"
    ) as error:
        Observers(by_name(shallow, deep), "all")
    assert str(error.value) == (
        f"layers are compared with their namesakes, but 'all' are {shown}(30) of {shallow.name} and "
        f"{shown}({len(capture(deep.network, torch.rand(1, 1, 16, 16), 'all'))}) of {deep.name}: name layers "
        "that all have, or take 'penultimate'."
    )
    assert Observers(by_name(shallow, deep), "layer1.0.relu2").layers == ["layer1.0.relu2"]


def test_an_unknown_layer():
    refused(
        "unknown layer 'hiden.1'; did you mean 'hidden.1' or 'hidden.5' or 'hidden.4'? Known: hidden.0, "
        "hidden.1, hidden.2, hidden.3, hidden.4, hidden.5, classifier, all, blocks, penultimate.",
        lambda: Observers(by_name(trained(), trained(0.2)), ["hidden.0", "hiden.1"]),
    )
