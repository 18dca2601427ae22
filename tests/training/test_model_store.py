"""Trained models are made once, stored whole, resumed, completed, measured, and never read when damaged."""

import dataclasses
import json
import re
import shutil

import pandas as pd
import pytest
import torch

from repsim.attacks import APGD, JPEG, Attack, Gabor, Snow, fgsm
from repsim.data import Split, load_data
from repsim.support import paths
from repsim.support.artifacts import DamagedArtifact, checksum
from repsim.training import Recipe, accuracy, model_store, robust_accuracy, zoo
from repsim.training.model_store import find, measure, obtain, obtain_all, stored_model, table


def recipe_on(dataset, **options):
    return Recipe.on(dataset, **{"architecture": "mlp", "epochs": 3, "batch_size": 100, **options})


def get(recipe, dataset, **options):
    return obtain(recipe, dataset, device="cpu", progress=False, **options)


def folder():
    return paths.models()[0] / "digits"


def files():
    return sorted(path.name for path in folder().iterdir() if not path.name.endswith(".lock"))


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def trainings(monkeypatch):
    """How often something was trained, counted in a list."""
    train, calls = model_store.train, []
    monkeypatch.setattr(
        model_store, "train", lambda *args, **options: calls.append(1) or train(*args, **options)
    )
    return calls


class Killed(Exception):
    pass


def kill_after(monkeypatch, last):
    """From now on, training is killed before the checkpoint of epoch `last` + 1 is written."""
    train = model_store.train

    def until(*args, on_epoch, **options):
        def both(epoch, network):
            on_epoch(epoch, network)
            if epoch > last:
                raise Killed

        return train(*args, on_epoch=both, **options)

    monkeypatch.setattr(model_store, "train", until)


# made once


def test_the_files_and_the_record(tiny_data):
    recipe = recipe_on(tiny_data)
    model = get(recipe, tiny_data)
    name = f"mlp-{recipe.address}"
    assert files() == [f"{name}.json", f"{name}.safetensors"]
    assert model.name == name
    assert model.path == folder() / f"{name}.json"
    record = json.loads(model.path.read_text(encoding="utf-8"))
    assert Recipe(**record["recipe"]) == recipe
    assert record["dataset"] == "digits"
    assert record["classes"] == [str(digit) for digit in range(10)]
    assert record["image_shape"] == [1, 16, 16]
    assert record["torch"] == torch.__version__
    assert record["checksums"] == {"3": checksum(folder() / f"{name}.safetensors")}
    assert str(folder()) not in model.path.read_text(encoding="utf-8")
    assert list(model.curve.columns) == ["epoch", "learning_rate", "loss", "accuracy"]
    assert model.curve["epoch"].tolist() == [1, 2, 3]


def test_the_network_is_the_one_that_was_trained(tiny_data, monkeypatch):
    train, made = model_store.train, []
    monkeypatch.setattr(
        model_store, "train", lambda *args, **options: made.append(train(*args, **options)) or made[0]
    )
    model = get(recipe_on(tiny_data), tiny_data)
    assert same(model.network, made[0][0])
    assert not model.network.training
    assert model.network is model.network
    assert model.network.normalize.mean.item() == pytest.approx(tiny_data.mean[0])
    assert model.curve["loss"].tolist() == made[0][1]["loss"].round(6).tolist()


def test_the_recorded_accuracies(tiny_data):
    model = get(recipe_on(tiny_data, epochs=8), tiny_data)
    assert list(model.accuracies.columns) == ["attack", "norm", "epsilon", "steps", "images", "accuracy"]
    assert model.accuracies["attack"].tolist() == ["pgd"]
    assert model.accuracies["norm"].tolist() == ["linf"]
    assert model.accuracies["epsilon"].tolist() == [0]
    assert model.accuracies["images"].tolist() == [60]
    clean = accuracy(model.network, tiny_data.test.images, tiny_data.test.labels)
    assert model.accuracies["accuracy"][0] == pytest.approx(clean, abs=1e-6)


def test_a_model_is_tried_at_its_own_epsilon_and_norm_too(tiny_data):
    model = get(recipe_on(tiny_data, method="pgd", norm="l2", epsilon=0.7, attack_steps=1), tiny_data)
    assert model.accuracies["epsilon"].tolist() == [0, 0.7]
    assert set(model.accuracies["norm"]) == {"l2"}


def test_a_recipe_for_other_images_is_refused(tiny_data, trainings):
    fewer = Split(tiny_data.train.images[:50], tiny_data.train.labels[:50])
    other = dataclasses.replace(tiny_data, train=fewer, fingerprint="50x1x16x16")
    message = (
        "the recipe is for digits (200x1x16x16), the data set is digits (50x1x16x16): make the recipe with "
        "Recipe.on(dataset, …)."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        get(recipe_on(tiny_data), other)
    with pytest.raises(
        ValueError, match=re.escape("the recipe is for digits (no fingerprint), the data set")
    ):
        get(Recipe("digits", "mlp"), tiny_data)
    assert trainings == []


# epochs


def test_kept_epochs(tiny_data, trainings):
    recipe = recipe_on(tiny_data, save_every=2, epochs=5)
    model = get(recipe, tiny_data)
    assert model.epochs_saved == [2, 4, 5]
    name = model.name
    assert files() == [
        f"{name}-epoch002.safetensors",
        f"{name}-epoch004.safetensors",
        f"{name}.json",
        f"{name}.safetensors",
    ]
    assert same(model.at_epoch(5), model.network)
    assert not same(model.at_epoch(2), model.at_epoch(4))
    assert not model.at_epoch(2).training
    with pytest.raises(ValueError, match=re.escape(f"{name} kept epochs [2, 4, 5], not 3.")):
        model.at_epoch(3)


def test_asking_for_fewer_epochs_loads_and_for_more_trains(tiny_data, trainings):
    recipe = recipe_on(tiny_data)
    one = get(recipe, tiny_data)
    kept = get(dataclasses.replace(recipe, save_every=1), tiny_data)
    assert len(trainings) == 2
    assert kept.epochs_saved == [1, 2, 3]
    assert same(kept.network, one.network)
    assert get(recipe, tiny_data).epochs_saved == [1, 2, 3]
    assert len(trainings) == 2


# interruptions


def test_resuming_with_more_epochs_to_keep_leaves_none_out(tiny_data, monkeypatch):
    recipe = recipe_on(tiny_data, epochs=5)
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(Killed):
            get(recipe, tiny_data)
    model = get(dataclasses.replace(recipe, save_every=2), tiny_data)
    assert model.epochs_saved == [2, 4, 5]
    assert not same(model.at_epoch(2), model.network)


def test_weights_are_stored_before_they_are_evaluated_and_evaluated_later(tiny_data, trainings, monkeypatch):
    recipe = recipe_on(tiny_data)
    measure = model_store.measure

    def fail(*_):
        raise Killed

    monkeypatch.setattr(model_store, "measure", fail)
    with pytest.raises(Killed):
        get(recipe, tiny_data)
    stored = find(recipe)
    assert files() == [f"{stored.name}.json", f"{stored.name}.safetensors"]
    assert stored.record["accuracies"] == []
    network = stored.network
    monkeypatch.setattr(model_store, "measure", measure)
    completed = get(recipe, tiny_data)
    assert len(trainings) == 1
    assert len(completed.accuracies) == 1
    assert same(completed.network, network)
    assert find(recipe).record == completed.record


# damage


@pytest.fixture
def stored(tiny_data):
    return get(recipe_on(tiny_data), tiny_data)


def weights_file(model):
    return model.path.with_suffix(".safetensors")


def rewrite(model, **changes):
    model.path.write_text(json.dumps({**model.record, **changes}), encoding="utf-8")


def test_weights_of_another_number_of_classes(stored):
    rewrite(stored, classes=["cat", "dog", "bird"])
    message = (
        f"{stored.path} is damaged or was altered (its weights are no mlp with 3 classes: classifier.weight "
        f"is (10, 64) and should be (3, 64)): remove {stored.name}.json to make it again."
    )
    with pytest.raises(DamagedArtifact, match=re.escape(message)):
        stored_model(stored.name).network  # noqa: B018


def test_weights_of_another_architecture(stored):
    rewrite(stored, recipe={**stored.record["recipe"], "architecture": "vgg_tiny"})
    message = "vgg_tiny with 10 classes: features.0.weight is not there and should be (8, 1, 3, 3)"
    with pytest.raises(DamagedArtifact, match=re.escape(message)):
        stored_model(stored.name).network  # noqa: B018


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"depth": 3}, {"norm": "l3", "epsilon": 0.1, "method": "pgd"}]
)
def test_a_record_of_no_possible_recipe(stored, change):
    rewrite(stored, recipe={**stored.record["recipe"], **change})
    message = f"{stored.path} is damaged or was altered (no record of trained models: "
    with pytest.raises(DamagedArtifact, match=re.escape(message)):
        stored_model(stored.name)


# names


def test_stored_model_by_path_name_and_address(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [stored.path, str(stored.path), weights_file(stored), stored.name, stored.recipe.address]
    for name in names:
        assert stored_model(name).path == stored.path


def test_stored_model_by_path_from_anywhere(stored, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in folder().iterdir():
        path.rename(elsewhere / path.name)
    assert find(stored.recipe) is None
    monkeypatch.chdir(elsewhere)
    assert same(
        stored_model(f"{stored.name}.safetensors").network, stored_model(elsewhere / stored.path.name).network
    )


def test_unknown_trained_model(stored):
    typo = stored.name[:-1] + ("0" if stored.name[-1] != "0" else "1")
    with pytest.raises(
        ValueError, match=re.escape(f"unknown trained model '{typo}'; did you mean '{stored.name}'")
    ):
        stored_model(typo)


def test_a_model_of_the_own_store_comes_before_a_committed_one(stored, monkeypatch, tmp_path):
    own, committed = folder().parent, tmp_path / "committed"
    monkeypatch.setattr(paths, "models", lambda: [own, committed])
    (committed / "digits").mkdir(parents=True)
    (committed / "digits" / stored.path.name).write_bytes(stored.path.read_bytes())
    assert stored_model(stored.name).path == find(stored.recipe).path == stored.path
    stored.path.unlink()
    assert (
        stored_model(stored.name).path == find(stored.recipe).path == committed / "digits" / stored.path.name
    )


# tables


def test_table(tiny_data):
    recipes = [recipe_on(tiny_data, seed=1), recipe_on(tiny_data, method="pgd", epsilon=0.1, attack_steps=1)]
    models = [get(recipe, tiny_data) for recipe in recipes]
    found = table(models)
    assert list(found.columns) == ["model", "architecture", "method", "norm", "epsilon", "seed", "accuracy"]
    assert found["model"].tolist() == [model.name for model in models]
    assert found["method"].tolist() == ["standard", "pgd"]
    assert found["epsilon"].tolist() == [0, 0.1]
    assert found["seed"].tolist() == [1, 0]
    assert found["accuracy"].tolist() == [model.accuracies["accuracy"][0] for model in models]


def test_obtain_all_makes_what_is_missing_in_the_order_asked(tiny_data, trainings):
    recipes = [recipe_on(tiny_data, seed=seed, epochs=1) for seed in (2, 0, 1)]
    get(recipes[1], tiny_data)
    models = obtain_all(iter(recipes), tiny_data, device="cpu", progress=False)
    assert len(trainings) == 3
    assert [model.recipe for model in models] == recipes
    assert [model.device for model in models] == ["cpu"] * 3
    obtain_all(recipes, tiny_data, device="cpu", progress=False)
    assert len(trainings) == 3
    obtain_all(recipes[:1], tiny_data, retrain=True, device="cpu", progress=False)
    assert len(trainings) == 4


# accuracies


@pytest.fixture
def measurements(monkeypatch):
    """The attacks that were really run, in a list."""
    run, attacks = model_store.robust_accuracy, []

    def watched(network, split, given, **options):
        attacks.extend(given)
        return run(network, split, given, **options)

    monkeypatch.setattr(model_store, "robust_accuracy", watched)
    return attacks


def test_what_is_recorded_is_not_measured_again(stored, tiny_data, measurements):
    known, weak, strong = Attack(0.0), Attack(0.05, steps=2), Attack(0.2, steps=2)
    found = measure(stored, tiny_data, [weak, known, strong])
    assert measurements == [weak, strong]
    assert list(found.columns) == ["attack", "norm", "epsilon", "steps", "images", "accuracy"]
    assert found["attack"].tolist() == ["pgd"] * 3
    assert found["norm"].tolist() == ["linf"] * 3
    assert found["epsilon"].tolist() == [0.05, 0, 0.2]
    assert found["steps"].tolist() == [2, 20, 2]
    assert found["images"].tolist() == [60] * 3
    direct = robust_accuracy(stored.network, tiny_data.test, [weak, known, strong])["accuracy"]
    assert found["accuracy"].tolist() == pytest.approx(direct.tolist(), abs=1e-6)

    again = stored_model(stored.name)
    assert again.accuracies["epsilon"].tolist() == [0, 0.05, 0.2]  # written, after what was there
    measurements.clear()
    pd.testing.assert_frame_equal(measure(again, tiny_data, [weak, known, strong]), found)
    assert measurements == []
    assert "network" not in vars(again)  # not even loaded


@pytest.mark.matrix("recorded1-asked1", "recorded4-asked4", "recorded7-asked7")
@pytest.mark.parametrize(
    ("recorded", "asked"),
    [
        (Attack(0.1, steps=1), Attack(0.1, steps=2)),
        (Attack(0.1, steps=2), Attack(0.1, "l2", steps=2)),
        (Attack(0.1, steps=2), Attack(0.05, steps=2)),
        (Attack(0.1, steps=1), fgsm(0.1)),  # of one step too, but of another length
        (fgsm(0.1), Attack(0.1, steps=1)),
        (Attack(0.1, steps=2), Attack(0.1, steps=2, random_start=False)),
        (Gabor(0.1, steps=2), Attack(0.1, steps=2)),
        (Gabor(0.1, steps=2), Snow(0.1, steps=2)),
        (JPEG(0.1, steps=2), JPEG(0.1, steps=2, quality=50)),
    ],
)
def test_another_attack_is_measured(stored, tiny_data, measurements, recorded, asked):
    measure(stored, tiny_data, [recorded])
    measure(stored_model(stored.name), tiny_data, [asked])
    assert measurements == [recorded, asked]


def test_an_unusual_attack_is_measured_and_not_recorded(stored, tiny_data, measurements):
    before = stored.path.read_bytes()
    unusual = Attack(0.1, steps=1, step_size=0.02)
    first, again = (measure(stored, tiny_data, [unusual]) for _ in range(2))
    assert measurements == [unusual] * 2
    pd.testing.assert_frame_equal(first, again)
    assert stored.path.read_bytes() == before


@pytest.mark.parametrize(
    "attack",
    [fgsm(0.1), Gabor(0.1, steps=1), Snow(0.1, steps=1), JPEG(0.1, "l2", steps=1), APGD(0.1, steps=2)],
    ids=["fgsm", "gabor", "snow", "jpeg", "apgd_ce"],
)
def test_attacks_of_every_kind_are_recorded(stored, tiny_data, measurements, attack):
    found = measure(stored, tiny_data, [attack])
    assert found.loc[0, "attack"] == attack.name
    again = stored_model(stored.name)
    pd.testing.assert_frame_equal(measure(again, tiny_data, [attack]), found)
    assert measurements == [attack]
    assert table([again])["accuracy"][0] == again.accuracies["accuracy"][0]  # the clean one


def test_compressed_images_are_not_the_clean_ones(stored, tiny_data):
    """The error of JPEG without ε is an accuracy of its own, and no network's clean accuracy."""
    clean = table([stored])["accuracy"][0]
    harsh = JPEG(0.0, quality=1)
    found = measure(stored, tiny_data, [harsh, JPEG(0.0), Attack(0.0)])
    assert found["accuracy"][0] != clean
    assert found["accuracy"][2] == clean
    assert table([stored_model(stored.name)])["accuracy"][0] == clean


def test_a_record_from_before_there_were_other_attacks_is_of_pgd(stored, tiny_data, measurements):
    attack = Attack(0.1, steps=2)
    found = measure(stored, tiny_data, [attack])
    record = json.loads(stored.path.read_text(encoding="utf-8"))
    del record["record_checksum"]
    for row in record["accuracies"]:
        del row["attack"]
    stored.path.write_text(json.dumps(record), encoding="utf-8")
    old = stored_model(stored.name)
    assert old.accuracies["attack"].tolist() == ["pgd", "pgd"]
    pd.testing.assert_frame_equal(measure(old, tiny_data, [attack]), found)
    assert measurements == [attack]
    gabor = Gabor(0.1, steps=2)
    measure(old, tiny_data, [gabor])
    assert measurements == [attack, gabor]
    assert stored_model(stored.name).accuracies["attack"].tolist() == ["pgd", "pgd", "gabor"]


def test_other_images_as_many_are_measured_and_not_recorded(stored, tiny_data, measurements):
    shapes = load_data("shapes", train_size=200, test_size=60)
    before = stored.path.read_bytes()
    found = measure(stored, shapes, [Attack(0.0)])
    assert measurements == [Attack(0.0)]
    assert found["accuracy"][0] == pytest.approx(
        accuracy(stored.network, shapes.test.images, shapes.test.labels), abs=1e-6
    )
    assert stored.path.read_bytes() == before


def test_robust_accuracy_is_of_at_most_so_many_images(stored, tiny_data, monkeypatch):
    monkeypatch.setattr(model_store, "EVALUATED", 30)
    found = measure(stored, tiny_data, [Attack(0.0), Attack(0.1, steps=1)])
    assert found["images"].tolist() == [60, 30]
    part = robust_accuracy(stored.network, tiny_data.test.subset(30), [Attack(0.1, steps=1)])
    assert found["accuracy"][1] == pytest.approx(part["accuracy"][0], abs=1e-6)


def test_the_record_of_a_committed_model_is_left_as_it_is(measurements, monkeypatch, tmp_path):
    dataset = load_data("digits")
    (recipe,) = zoo.recipes(dataset, ["mlp"], [0.0], [0])
    own, checkout = paths.models()
    committed = tmp_path / "committed"  # a copy, lest a mistake change the checkout
    shutil.copytree(checkout / "digits", committed / "digits", ignore=lambda _, names: others(names, recipe))
    monkeypatch.setattr(paths, "models", lambda: [own, committed])
    model = find(recipe)
    assert model.path.is_relative_to(committed)
    before = model.path.read_bytes()
    attack = Attack(0.03, steps=1)
    found = measure(model, dataset, [Attack(0.0), Attack(0.1), attack])
    assert measurements == [attack]
    assert found["accuracy"].between(0, 1).all()
    assert model.path.read_bytes() == before
    assert not own.exists()


def others(names, recipe):
    return [name for name in names if recipe.address not in name]


@pytest.mark.parametrize(
    ("classes", "shape", "given"),
    [
        (("0", "1", "2"), (1, 16, 16), "3 classes and images of shape (1, 16, 16)."),
        (tuple("0123456789"), (1, 8, 8), "10 classes and images of shape (1, 8, 8)."),
    ],
)
def test_images_that_a_model_cannot_classify_are_refused(
    stored, tiny_data, measurements, classes, shape, given
):
    images = torch.zeros(60, *shape)
    other = dataclasses.replace(
        tiny_data, title="odd ones", classes=classes, test=Split(images, tiny_data.test.labels)
    )
    message = f"{stored.name} has 10 classes and takes images of shape (1, 16, 16); odd ones has {given}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        measure(stored, other, [Attack(0.0)])
    assert measurements == []


def test_a_model_knows_its_classes_by_name_and_order(tiny_data):
    (recipe,) = zoo.recipes(load_data("digits"), ["mlp"], [0.0], [0])
    model = find(recipe, "cpu")
    model.check_class_names(tiny_data)
    other = dataclasses.replace(tiny_data, title="reversed", classes=tiny_data.classes[::-1])
    message = f"{model.name} has the classes 0, 1, 2, …; reversed has 9, 8, 7, …: what it answers says"
    with pytest.raises(ValueError, match=f"^{re.escape(message)} nothing of those\\.$"):
        model.check_class_names(other)
    fewer = dataclasses.replace(tiny_data, title="fewer", classes=tiny_data.classes[:3])
    with pytest.raises(ValueError, match=f"^{model.name} has 10 classes and takes images of shape"):
        model.check_class_names(fewer)
