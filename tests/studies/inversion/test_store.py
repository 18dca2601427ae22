"""Inverted images are made once, part by part, kept as bytes, and never read when damaged."""

import dataclasses
import json
import re
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from repsim.data import from_bytes, load_data, to_bytes
from repsim.studies.inversion import (
    InversionOptions,
    InversionRecipe,
    Pairs,
    invert,
    obtain_inverted,
)
from repsim.studies.inversion import store as inverted
from repsim.support import paths
from repsim.support.artifacts import checksum
from repsim.training import zoo
from repsim.training.model_store import TrainedModel, find

OPTIONS = {"iterations": 3, "tolerance": 0.0}
QUICK = InversionOptions(**OPTIONS)
PART = 4  # images inverted together, in place of 100


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def pairs_on(dataset, count=10, seed=0):
    return Pairs.draw(dataset, count, seed)


def recipe_of(dataset, *, model=None, pairs=None, layer="penultimate", start="seed", options=QUICK):
    return InversionRecipe.of(model or trained(), pairs or pairs_on(dataset), layer, options, start=start)


def get(recipe, dataset, *, model=None, pairs=None, **options):
    pairs = pairs or pairs_on(dataset)
    options = {"batch_size": PART, "progress": False, **options}
    return obtain_inverted(recipe, model or trained(), dataset, pairs, **options)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Inverted images of the checkout are not looked for."""
    monkeypatch.setattr(paths, "inverted", lambda: [paths.data() / "inverted"])


@pytest.fixture
def parts(monkeypatch):
    """How many images were inverted at each call, in a list."""
    return counted(monkeypatch)


def counted(monkeypatch):
    original, sizes = inverted.invert, []

    def counting(model, seeds, *args, **options):
        sizes.append(len(seeds))
        return original(model, seeds, *args, **options)

    monkeypatch.setattr(inverted, "invert", counting)
    return sizes


class Killed(Exception):
    pass


def kill_at(monkeypatch, last):
    """From now on, the inversion of part `last` is killed."""
    original, calls = inverted.invert, []

    def until(*args, **options):
        calls.append(1)
        if len(calls) == last:
            raise Killed
        return original(*args, **options)

    monkeypatch.setattr(inverted, "invert", until)


def killed(recipe, dataset, monkeypatch, last, **options):
    """A run that has saved the parts before `last`: their files."""
    with monkeypatch.context() as patch:
        kill_at(patch, last)
        with pytest.raises(Killed):
            get(recipe, dataset, **options)
    return sorted((folder() / f"{recipe.address}.parts").iterdir())


def folder():
    return paths.inverted()[0] / "digits"


def files():
    hidden = (".lock", ".csv", ".sha256")  # locks, and the pairs
    return sorted(path.name for path in folder().iterdir() if not path.name.endswith(hidden))


def path_of(recipe):
    return folder() / f"{recipe.address}.json"


def content(found):
    return found.tensors()


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def close(found, expected):
    """Two contents that differ by rounding alone."""
    assert set(found) == set(expected)
    for name in found:
        tolerance = 1 if name == "images" else 1e-4
        torch.testing.assert_close(found[name].double(), expected[name].double(), rtol=0, atol=tolerance)


# -- made once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"optimizer": "adam"}, {"epsilon": 0.5, "step_size": 0.3}])
def test_a_set_is_what_inverting_in_batches_gives_rounded(tiny_data, options):
    options, pairs = {**OPTIONS, **options}, pairs_on(tiny_data)
    found = get(recipe_of(tiny_data, options=InversionOptions(**options)), tiny_data)
    seeds, targets = pairs.seeds(tiny_data.test), pairs.targets(tiny_data.test)
    direct = invert(trained().network, seeds, targets, batch_size=PART, progress=False, **options)
    assert torch.equal(found.images, (direct.images * 255).round() / 255)
    assert not torch.equal(found.images, (direct.images * 255).floor() / 255)
    assert not torch.equal(found.images, seeds)
    assert torch.equal(found.loss, direct.loss)
    assert torch.equal(found.iterations, direct.iterations)
    assert found.curve.columns.tolist() == direct.curve.columns.tolist() == ["iteration", "loss", "converged"]
    assert found.curve["iteration"].tolist() == [0, 1, 2, 3]
    for column in ("loss", "converged"):
        assert found.curve[column].tolist() == pytest.approx(direct.curve[column].tolist(), rel=1e-6)


def test_options_decide_what_is_made(tiny_data):
    usual = get(recipe_of(tiny_data), tiny_data)
    for options in ({"optimizer": "adam"}, {"iterations": 5}, {"step_size": 0.01}, {"epsilon": 0.02}):
        other = recipe_of(tiny_data, options=InversionOptions(**{**OPTIONS, **options}))
        assert not torch.equal(get(other, tiny_data).images, usual.images)


def test_the_layer_decides_what_is_made(tiny_data):
    recipe, pairs = recipe_of(tiny_data, layer="hidden.1"), pairs_on(tiny_data)
    found = get(recipe, tiny_data)
    assert not torch.equal(found.images, get(recipe_of(tiny_data), tiny_data).images)
    seeds, targets = pairs.seeds(tiny_data.test), pairs.targets(tiny_data.test)
    direct = invert(trained().network, seeds, targets, "hidden.1", batch_size=PART, progress=False, **OPTIONS)
    assert torch.equal(found.images, from_bytes(to_bytes(direct.images)))


@pytest.mark.matrix("options1-made1")
@pytest.mark.parametrize(
    ("options", "made"), [({}, [10]), ({"batch_size": 3}, [3, 3, 3, 1]), ({"batch_size": 10}, [10])]
)
def test_how_many_images_are_inverted_together_makes_no_difference(tiny_data, parts, options, made):
    recipe, pairs = recipe_of(tiny_data), pairs_on(tiny_data)
    whole = content(get(recipe, tiny_data))
    assert parts == [4, 4, 2]
    parts.clear()
    options = {"recompute": True, "progress": False, **options}
    found = obtain_inverted(recipe, trained(), tiny_data, pairs, **options)
    assert parts == made
    close(content(found), whole)


def test_a_network_is_compiled_once_for_all_parts(tiny_data, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda part, **_: compiled.append(part) or part)
    recipe = recipe_of(tiny_data, layer="hidden.1")
    plain = content(get(recipe, tiny_data))
    assert compiled == []
    found = content(get(recipe, tiny_data, compiled=True, recompute=True))
    (part,) = compiled
    count = len([module for module in trained().network.modules() if isinstance(module, nn.Linear)])
    assert 0 < len([module for module in part.modules() if isinstance(module, nn.Linear)]) < count
    close(found, plain)
    get(recipe, tiny_data, compiled=True)
    assert len(compiled) == 1


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none(tiny_data, batch_size):
    with pytest.raises(ValueError, match=f"^batch_size must be at least 1, not {batch_size}\\.$"):
        get(recipe_of(tiny_data), tiny_data, batch_size=batch_size)
    assert files() == []


def test_the_record(tiny_data):
    recipe = recipe_of(tiny_data, options=InversionOptions(iterations=30, tolerance=0.5))
    found = get(recipe, tiny_data)
    text = path_of(recipe).read_text(encoding="utf-8")
    record = json.loads(text)
    del record["record_checksum"]
    assert record == found.record
    options = record["recipe"].pop("options")
    assert InversionRecipe(**record["recipe"], options=InversionOptions(**options)) == recipe
    assert record["checksum"] == checksum(found.file)
    assert record["images"] == 10
    assert record["loss"] == pytest.approx(found.loss.mean().item(), abs=1e-6)
    assert record["converged"] == pytest.approx((found.loss <= 0.5).float().mean().item(), abs=1e-6)
    assert record["converged"] > 0
    assert str(folder()) not in text


def test_each_image_stays_with_its_pair(tiny_data):
    pairs = pairs_on(tiny_data)
    found = get(recipe_of(tiny_data), tiny_data)
    assert torch.equal(found.seed_index, pairs.seed_index)
    assert torch.equal(found.target_index, pairs.target_index)
    network = trained().network
    for image, loss, seed, target in zip(
        found.images, found.loss, found.seed_index, found.target_index, strict=True
    ):
        seeds, targets = tiny_data.test.images[seed][None], tiny_data.test.images[target][None]
        alone = invert(network, seeds, targets, progress=False, **OPTIONS)
        assert (alone.images[0] - image).abs().max() < 0.01
        assert alone.loss.item() == pytest.approx(loss.item(), rel=1e-3)


def test_from_noise_no_image_has_a_seed(tiny_data):
    pairs, options = pairs_on(tiny_data), {"iterations": 1, "step_size": 1e-6, "use_best": False}
    recipe = recipe_of(tiny_data, start="noise", options=InversionOptions(**options))
    found = get(recipe, tiny_data)
    assert found.seed_index.tolist() == [-1] * 10
    assert torch.equal(found.target_index, pairs.target_index)
    assert (found.images - pairs.noise(tiny_data.test)).abs().max() < 1 / 255
    seeded = get(dataclasses.replace(recipe, start="seed"), tiny_data)
    assert (seeded.images - pairs.seeds(tiny_data.test)).abs().max() < 1 / 255
    assert (seeded.images - found.images).abs().max() > 0.5


def test_models_are_as_they_were(tiny_data):
    model = trained()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    flags = [weight.requires_grad for weight in model.network.parameters()]
    get(recipe_of(tiny_data), tiny_data)
    assert same(model.network.state_dict(), before)
    assert [weight.requires_grad for weight in model.network.parameters()] == flags
    assert not model.network.training


# -- interruptions ------------------------------------------------------------------------------------------


@pytest.mark.matrix("8-made1")
@pytest.mark.parametrize(("batch_size", "made"), [(5, [5, 5]), (8, [8, 2]), (2, [2] * 5), (10, [10])])
def test_parts_of_another_length_are_made_again(tiny_data, monkeypatch, batch_size, made):
    recipe = recipe_of(tiny_data)
    whole = content(get(recipe, tiny_data))
    path_of(recipe).unlink()
    killed(recipe, tiny_data, monkeypatch, 3)
    sizes = counted(monkeypatch)
    found = content(get(recipe, tiny_data, batch_size=batch_size))
    assert sizes == made
    close(found, whole)
    assert files() == [f"{recipe.address}.json", f"{recipe.address}.safetensors"]


# -- whose they are -----------------------------------------------------------------------------------------


def refused(recipe, dataset, pairs, model):
    message = (
        f"the recipe is for {recipe.model} (weights {recipe.weights}…) and pairs {recipe.pairs} of "
        f"{recipe.dataset} ({recipe.fingerprint}); given are {model.name} (weights {model.weights}…) and "
        f"pairs {pairs.address} of {dataset.slug} ({dataset.fingerprint})."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        get(recipe, dataset, model=model, pairs=pairs)


def test_a_recipe_of_another_model_is_refused(tiny_data, parts):
    refused(recipe_of(tiny_data), tiny_data, pairs_on(tiny_data), trained(seed=1))
    assert parts == []


def test_a_recipe_of_other_pairs_is_refused(tiny_data, parts):
    refused(recipe_of(tiny_data), tiny_data, pairs_on(tiny_data, seed=1), trained())
    refused(recipe_of(tiny_data), tiny_data, pairs_on(tiny_data, 9), trained())
    assert parts == []


@pytest.mark.parametrize("change", [{"fingerprint": "50x1x16x16"}, {"name": "shapes"}])
def test_a_recipe_of_other_data_is_refused(tiny_data, parts, change):
    pairs = pairs_on(tiny_data)
    refused(recipe_of(tiny_data), dataclasses.replace(tiny_data, **change), pairs, trained())
    assert parts == []


def test_other_test_images_are_other_data(tiny_data):
    """Where an image stands among fewer test images is not where it stands among more."""
    fewer = load_data("digits", train_size=200, test_size=50)
    index = torch.tensor([0, 3]), torch.tensor([40, 45])
    own, other = Pairs.of(tiny_data, *index), Pairs.of(fewer, *index)
    assert not torch.equal(own.targets(tiny_data.test), other.targets(fewer.test))
    assert recipe_of(tiny_data, pairs=own).address != recipe_of(fewer, pairs=other).address


def test_images_of_other_pairs_are_refused(tiny_data):
    own = pairs_on(tiny_data)
    recipe = recipe_of(tiny_data)
    found = get(recipe, tiny_data)
    found.check_pairs(own)
    found.check_pairs(Pairs.of(tiny_data, own.seed_index.clone(), own.target_index.clone()))
    turned = Pairs.of(tiny_data, own.seed_index.flip(0), own.target_index.flip(0))
    for other in (turned, pairs_on(tiny_data, seed=1), pairs_on(tiny_data, 9)):
        message = (
            f"the inverted images {recipe.address} of {recipe.model} are of pairs {own.address}, not of "
            f"{other.address}."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            found.check_pairs(other)


def test_images_of_another_model_are_refused(tiny_data):
    own, other = trained(), trained(seed=1)
    recipe = recipe_of(tiny_data)
    found = get(recipe, tiny_data)
    found.check_model(own)
    message = (
        f"the inverted images {recipe.address} are of {own.name} (weights {own.weights}…), not of "
        f"{other.name} (weights {other.weights}…)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        found.check_model(other)
    retrained = TrainedModel(
        own.recipe, own.path, {**own.record, "checksums": {str(own.recipe.epochs): "0" * 64}}
    )
    with pytest.raises(ValueError, match=re.escape(f"not of {own.name} (weights 000000000000…).")):
        found.check_model(retrained)


def test_the_weights_of_a_model_are_its_last_checksum():
    model = trained(architecture="resnet_tiny")
    file = model.path.with_suffix(".safetensors")
    assert model.weights == checksum(file)[:12]
    epochs = model.recipe.epochs
    kept = TrainedModel(model.recipe, model.path, {"checksums": {"1": "1" * 64, str(epochs): "f" * 64}})
    assert kept.weights == "f" * 12


# -- addresses ----------------------------------------------------------------------------------------------


def test_equal_recipes_have_equal_addresses(tiny_data):
    one, other = recipe_of(tiny_data), recipe_of(tiny_data)
    assert one == other
    assert one.address == other.address
    assert re.fullmatch("[0-9a-f]{12}", one.address)
    # what has no effect, and 1 for 1.0, make no difference
    explicit = InversionOptions(**OPTIONS, step_size=1 / 8, epsilon=0)
    assert recipe_of(tiny_data, options=explicit).address == one.address


def test_a_recipe_that_differs_in_any_field_has_another_address(tiny_data):
    recipe = recipe_of(tiny_data)
    others = [
        dataclasses.replace(recipe, **{field.name: getattr(recipe, field.name) + "x"})
        for field in dataclasses.fields(recipe)
        if field.name not in ("start", "options")
    ]
    others.append(dataclasses.replace(recipe, start="noise"))
    changes = {
        "optimizer": "adam", "iterations": 4, "step_size": 0.5, "momentum": 0.5, "use_best": False,
        "epsilon": 1.0, "tolerance": 0.1, "precision": "bfloat16",
    }  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(InversionOptions)}
    for name, value in changes.items():
        others.append(dataclasses.replace(recipe, options=dataclasses.replace(QUICK, **{name: value})))
    assert len({each.address for each in [recipe, *others]}) == 1 + len(others) == 17


def test_a_recipe_of_a_model_and_pairs(tiny_data):
    model, pairs = trained(), pairs_on(tiny_data)
    recipe = InversionRecipe.of(model, pairs)
    assert recipe == InversionRecipe(
        dataset="digits",
        fingerprint=tiny_data.fingerprint,
        pairs=pairs.address,
        start="seed",
        model=model.name,
        weights=model.weights,
        layer="penultimate",
        options=InversionOptions(),
    )
    assert InversionRecipe.of(model, pairs, start="noise").start == "noise"


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_start(tiny_data):
    message = "unknown start 'nois'; did you mean 'noise'? Known: seed, noise."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        recipe_of(tiny_data, start="nois")


# -- bytes --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_a_pixel_goes_to_the_nearest_level(values):
    pixels = torch.tensor(values).view(1, 1, 1, -1)
    found = from_bytes(to_bytes(pixels))
    assert to_bytes(pixels).dtype == torch.uint8
    assert (found.double() - pixels.double()).abs().max() <= 0.5 / 255 + 1e-7
    assert torch.equal(from_bytes(to_bytes(found)), found)
