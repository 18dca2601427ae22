"""Trained models are made once, stored whole, resumed, completed, and never read when damaged."""

import dataclasses
import json
import re

import jaxtyping
import pandas as pd
import pytest
import torch

from repsim import paths, zoo
from repsim.artifacts import DamagedArtifact, checksum
from repsim.data import Split, load_data
from repsim.training import Recipe, accuracy
from repsim.zoo import TrainedModel, build, find, load_model, obtain, table


def recipe_on(dataset, **options):
    return Recipe.on(dataset, **{"architecture": "mlp", "epochs": 3, "batch_size": 100, **options})


def get(recipe, dataset, **options):
    return obtain(recipe, dataset, device="cpu", progress=False, **options)


def store():
    return paths.models()[0] / "digits"


def files():
    return sorted(path.name for path in store().iterdir() if not path.name.endswith(".lock"))


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def trainings(monkeypatch):
    """How often something was trained, counted in a list."""
    train, calls = zoo.train, []
    monkeypatch.setattr(zoo, "train", lambda *args, **options: calls.append(1) or train(*args, **options))
    return calls


class Killed(Exception):
    pass


def kill_after(monkeypatch, last):
    """From now on, training is killed before the checkpoint of epoch `last` + 1 is written."""
    train = zoo.train

    def until(*args, on_epoch, **options):
        def both(epoch, network):
            on_epoch(epoch, network)
            if epoch > last:
                raise Killed

        return train(*args, on_epoch=both, **options)

    monkeypatch.setattr(zoo, "train", until)


# made once


def test_trains_and_stores_then_only_loads(tiny_data, trainings):
    recipe = recipe_on(tiny_data)
    assert find(recipe) is None
    first = get(recipe, tiny_data)
    second = get(recipe, tiny_data)
    assert len(trainings) == 1
    assert first.recipe == second.recipe == recipe
    assert same(first.network, second.network)
    assert find(recipe).path == first.path


def test_the_files_and_the_record(tiny_data):
    recipe = recipe_on(tiny_data)
    model = get(recipe, tiny_data)
    name = f"mlp-{recipe.address}"
    assert files() == [f"{name}.json", f"{name}.safetensors"]
    assert model.name == name
    assert model.path == store() / f"{name}.json"
    record = json.loads(model.path.read_text(encoding="utf-8"))
    assert Recipe(**record["recipe"]) == recipe
    assert record["dataset"] == "digits"
    assert record["classes"] == [str(digit) for digit in range(10)]
    assert record["image_shape"] == [1, 16, 16]
    assert record["torch"] == torch.__version__
    assert record["checksums"] == {"3": checksum(store() / f"{name}.safetensors")}
    assert str(store()) not in model.path.read_text(encoding="utf-8")
    assert list(model.curve.columns) == ["accuracy", "epoch", "learning_rate", "loss"]
    assert model.curve["epoch"].tolist() == [1, 2, 3]


def test_the_network_is_the_one_that_was_trained(tiny_data, monkeypatch):
    train, made = zoo.train, []
    monkeypatch.setattr(
        zoo, "train", lambda *args, **options: made.append(train(*args, **options)) or made[0]
    )
    model = get(recipe_on(tiny_data), tiny_data)
    assert same(model.network, made[0][0])
    assert not model.network.training
    assert model.network is model.network
    assert model.network.normalize.mean.item() == pytest.approx(tiny_data.mean[0])
    assert model.curve["loss"].tolist() == made[0][1]["loss"].round(6).tolist()


def test_the_recorded_accuracies(tiny_data):
    model = get(recipe_on(tiny_data, epochs=8), tiny_data)
    assert model.accuracies["norm"].tolist() == ["linf"] * 4
    assert model.accuracies["epsilon"].tolist() == [0, 0.05, 0.1, 0.2]
    assert model.accuracies["accuracy"].is_monotonic_decreasing
    clean = accuracy(model.network, tiny_data.test.images, tiny_data.test.labels)
    assert model.accuracies["accuracy"][0] == pytest.approx(clean, abs=1e-6)


def test_a_model_is_tried_at_its_own_epsilon_and_norm_too(tiny_data):
    model = get(recipe_on(tiny_data, method="pgd", norm="l2", epsilon=0.7, attack_steps=1), tiny_data)
    assert model.accuracies["epsilon"].tolist() == [0, 0.5, 0.7, 1, 2]
    assert set(model.accuracies["norm"]) == {"l2"}


def test_retrain_trains_again_to_the_same_end(tiny_data, trainings):
    recipe = recipe_on(tiny_data)
    first = get(recipe, tiny_data)
    again = get(recipe, tiny_data, retrain=True)
    assert len(trainings) == 2
    assert same(first.network, again.network)
    assert first.record == again.record


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


def test_interrupted_training_resumes(tiny_data, trainings, monkeypatch):
    recipe = recipe_on(tiny_data, epochs=5, save_every=2)
    whole = get(recipe, tiny_data)
    for path in store().iterdir():
        path.unlink()
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(Killed):
            get(recipe, tiny_data)
    assert find(recipe) is None
    started = []
    train = zoo.train

    def watched(*args, on_epoch, **options):
        return train(*args, on_epoch=lambda *a: started.append(a[0]) or on_epoch(*a), **options)

    monkeypatch.setattr(zoo, "train", watched)
    resumed = get(recipe, tiny_data)
    assert started == [4, 5]
    assert resumed.record == whole.record
    assert same(resumed.at_epoch(2), whole.at_epoch(2))
    assert not any(name.endswith((".checkpoint", ".partial")) for name in files())


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
    measure = zoo._measure

    def fail(*_):
        raise Killed

    monkeypatch.setattr(zoo, "_measure", fail)
    with pytest.raises(Killed):
        get(recipe, tiny_data)
    stored = find(recipe)
    assert files() == [f"{stored.name}.json", f"{stored.name}.safetensors"]
    assert stored.record["accuracies"] == []
    network = stored.network
    monkeypatch.setattr(zoo, "_measure", measure)
    completed = get(recipe, tiny_data)
    assert len(trainings) == 1
    assert len(completed.accuracies) == 4
    assert same(completed.network, network)
    assert find(recipe).record == completed.record


def test_an_interrupted_retraining_leaves_no_record_of_other_weights(tiny_data, monkeypatch):
    recipe = recipe_on(tiny_data, epochs=4, save_every=1)
    first = get(recipe, tiny_data)
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(Killed):
            get(recipe, tiny_data, retrain=True)
    assert find(recipe) is None
    assert get(recipe, tiny_data).record == first.record


def test_a_retraining_that_never_stored_anything_leaves_the_model(tiny_data, monkeypatch):
    recipe = recipe_on(tiny_data)
    first = get(recipe, tiny_data)

    def fail(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(zoo, "train", fail)
        with pytest.raises(Killed):
            get(recipe, tiny_data, retrain=True)
    assert same(get(recipe, tiny_data).network, first.network)


def test_a_model_that_another_process_made_meanwhile_is_taken(tiny_data, trainings, monkeypatch):
    recipe = recipe_on(tiny_data)
    get(recipe, tiny_data)
    look, answers = zoo.find, [None]  # none at first sight; then what is there
    monkeypatch.setattr(zoo, "find", lambda recipe: answers.pop() if answers else look(recipe))
    get(recipe, tiny_data)
    assert answers == []
    assert len(trainings) == 1


# damage


@pytest.fixture
def stored(tiny_data):
    return get(recipe_on(tiny_data), tiny_data)


def weights_file(model):
    return model.path.with_suffix(".safetensors")


def test_truncated_weights(stored):
    file = weights_file(stored)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DamagedArtifact, match=re.escape(f"{file} is damaged or was altered: its SHA-256 is")):
        load_model(stored.name).network  # noqa: B018


def test_tampered_weights(stored):
    file = weights_file(stored)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    message = (
        f"its record says {stored.record['checksums']['3'][:12]}…. Remove it and its .json to make it again."
    )
    with pytest.raises(DamagedArtifact, match=re.escape(message)):
        load_model(stored.name).network  # noqa: B018


def test_missing_weights(stored):
    file = weights_file(stored)
    file.unlink()
    message = f"{file} is missing: remove {stored.name}.json to make it again."
    with pytest.raises(DamagedArtifact, match=re.escape(message)):
        load_model(stored.name).network  # noqa: B018


def rewrite(model, **changes):
    model.path.write_text(json.dumps({**model.record, **changes}), encoding="utf-8")


def test_weights_of_another_number_of_classes(stored):
    rewrite(stored, classes=["cat", "dog", "bird"])
    message = (
        f"{weights_file(stored)} does not hold the network of {stored.name}.json, mlp with 3 classes: "
        "classifier.weight is (10, 64) and should be (3, 64)."
    )
    with pytest.raises(DamagedArtifact, match=re.escape(message)):
        load_model(stored.name).network  # noqa: B018


def test_weights_of_another_architecture(stored):
    rewrite(stored, recipe={**stored.record["recipe"], "architecture": "vgg_tiny"})
    message = "vgg_tiny with 10 classes: features.0.weight is not there and should be (8, 1, 3, 3)."
    with pytest.raises(DamagedArtifact, match=re.escape(message)):
        load_model(stored.name).network  # noqa: B018


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not valid JSON"),
        (
            "[1, 2]",
            "holds no JSON mapping",
        ),
        (
            '{"recipe": {}}',
            "is no record of a trained model (no classes, image_shape, checksums, curve, accuracies).",
        ),
    ],
)
def test_a_record_that_is_none(stored, content, reason):
    stored.path.write_text(content, encoding="utf-8")
    with pytest.raises(DamagedArtifact, match=re.escape(f"{stored.path} {reason}")):
        load_model(stored.name)
    with pytest.raises(DamagedArtifact, match=re.escape(str(stored.path))):
        find(stored.recipe)


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"depth": 3}, {"norm": "l3", "epsilon": 0.1, "method": "pgd"}]
)
def test_a_record_of_no_possible_recipe(stored, change):
    rewrite(stored, recipe={**stored.record["recipe"], **change})
    jaxtyping.config.update("jaxtyping_disable", True)  # as outside tests, where annotations are not checked
    try:
        with pytest.raises(
            DamagedArtifact, match=re.escape(f"{stored.path} is no record of a trained model (")
        ):
            load_model(stored.name)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# names


def test_load_model_by_path_name_and_address(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [stored.path, str(stored.path), weights_file(stored), stored.name, stored.recipe.address]
    for name in names:
        assert load_model(name).path == stored.path


def test_load_model_by_path_from_anywhere(stored, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in store().iterdir():
        path.rename(elsewhere / path.name)
    assert find(stored.recipe) is None
    monkeypatch.chdir(elsewhere)
    assert same(
        load_model(f"{stored.name}.safetensors").network, load_model(elsewhere / stored.path.name).network
    )


def test_unknown_trained_model(stored):
    typo = stored.name[:-1] + ("0" if stored.name[-1] != "0" else "1")
    with pytest.raises(
        ValueError, match=re.escape(f"unknown trained model '{typo}'; did you mean '{stored.name}'")
    ):
        load_model(typo)


def test_a_model_of_the_own_store_comes_before_a_committed_one(stored, monkeypatch, tmp_path):
    own, committed = store().parent, tmp_path / "committed"
    monkeypatch.setattr(paths, "models", lambda: [own, committed])
    (committed / "digits").mkdir(parents=True)
    (committed / "digits" / stored.path.name).write_bytes(stored.path.read_bytes())
    assert load_model(stored.name).path == find(stored.recipe).path == stored.path
    stored.path.unlink()
    assert load_model(stored.name).path == find(stored.recipe).path == committed / "digits" / stored.path.name


# zoos


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


def test_unknown_zoo_and_group():
    with pytest.raises(
        ValueError, match=re.escape("unknown zoo 'digit'; did you mean 'digits'? Known: digits, shapes.")
    ):
        build("digit")
    message = "unknown group of the digits zoo 'mian'; did you mean 'main'"
    with pytest.raises(ValueError, match=re.escape(message)):
        build("digits", ["mian"])


def test_build_makes_a_group(monkeypatch, tiny_data):
    """In this process instead of several, and on few images."""

    class Here:
        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        map = staticmethod(map)

    recipes = {
        "one": [recipe_on(tiny_data)],
        "other": [recipe_on(tiny_data, seed=1), recipe_on(tiny_data, seed=2)],
    }
    monkeypatch.setattr(zoo, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(zoo, "load_data", lambda name: tiny_data)
    monkeypatch.setitem(zoo.ZOOS, "digits", lambda dataset: recipes)
    assert build("digits", ["other"])["seed"].tolist() == [1, 2]
    assert find(recipes["one"][0]) is None
    assert build("digits")["seed"].tolist() == [0, 1, 2]


def test_the_digits_zoo_is_what_it_says(tiny_data):
    recipes = zoo.digits_recipes(tiny_data)
    main = recipes["main"]
    assert len(main) == 20
    assert {recipe.architecture for recipe in main} == {"resnet_tiny"}
    assert {recipe.seed for recipe in main} == set(range(5))
    assert sum(recipe.save_every > 0 for recipe in main) == 6
    assert {recipe.method for recipe in recipes["trades"]} == {"trades"}
    assert {recipe.norm for recipe in recipes["l2"]} == {"l2"}
    addresses = [recipe.address for group in recipes.values() for recipe in group]
    assert len(set(addresses)) == len(addresses)


def test_a_committed_model_can_be_made_again():
    """About ten seconds: one training of the digits zoo, whole, into an empty store."""
    dataset = load_data("digits")
    recipe = zoo.digits_recipes(dataset)["main"][0]
    committed = find(recipe)
    assert committed is not None
    assert committed.path.parent.parent != paths.models()[0]
    again = get(recipe, dataset, retrain=True)
    assert isinstance(again, TrainedModel)
    assert again.path.parent == store()
    assert again.epochs_saved == committed.epochs_saved == [5, 10, 15, 20, 25, 30]
    columns = ["norm", "epsilon", "steps"]
    pd.testing.assert_frame_equal(again.accuracies[columns], committed.accuracies[columns])
    assert (again.accuracies["accuracy"] - committed.accuracies["accuracy"]).abs().max() <= 0.02
