"""Networks by a name or a file: what others trained becomes a model of the store, or is refused by name."""

import dataclasses
import hashlib
import re

import pytest
import torch

from repsim.data import load_data
from repsim.models import build_model
from repsim.studies.stitching.experiments import obtain_donors
from repsim.training import Recipe, loading, predict, train, zoo
from repsim.training.loading import describe, is_foreign, load_model, load_models
from repsim.training.model_store import find, stored_model


@pytest.fixture(scope="module")
def robust():
    """The committed network that is brought back as others' files would bring it."""
    (recipe,) = zoo.recipes(load_data("digits"), ["resnet_tiny"], [0.1], [0])
    return find(recipe, "cpu")


def write(path, weights):
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)
    return str(path)


def fresh(path, seed=0, *, channels=1, classes=10, normalized=True):
    network = build_model(
        "resnet_tiny", (channels, 16, 16), classes, [0.5] * channels, [0.5] * channels, seed
    )
    weights = network.state_dict()
    return write(path, {k: v for k, v in weights.items() if normalized or not k.startswith("normalize.")})


def without_normalizer(model):
    return {k: v for k, v in model.network.state_dict().items() if not k.startswith("normalize.")}


def load(name, data, **options):
    return load_model(name, "cpu", dataset=data, **options)


def test_a_file_becomes_a_model_of_the_store(robust, tiny_data, tmp_path):
    file = write(tmp_path / "robust.pt", robust.network.state_dict())
    before = hashlib.sha256((tmp_path / "robust.pt").read_bytes()).hexdigest()
    model = load(file, tiny_data, epsilon=0.1)
    assert torch.equal(
        predict(model.network, tiny_data.test.images), predict(robust.network, tiny_data.test.images)
    )
    assert model.recipe.method == "imported"
    assert (model.recipe.architecture, model.recipe.epsilon, model.recipe.seed) == ("resnet_tiny", 0.1, 0)
    assert (model.recipe.dataset, model.recipe.fingerprint) == ("digits", tiny_data.fingerprint)
    assert model.record["classes"] == list(tiny_data.classes)
    assert model.record["source"]["sha256"] == before
    assert hashlib.sha256((tmp_path / "robust.pt").read_bytes()).hexdigest() == before
    (tmp_path / "robust.pt").unlink()  # from now on it is ours
    again = stored_model(model.name, "cpu")
    assert torch.equal(
        predict(again.network, tiny_data.test.images), predict(robust.network, tiny_data.test.images)
    )
    assert model.accuracies["accuracy"].tolist() == [pytest.approx(again.accuracies["accuracy"].item())]
    assert model.accuracies["accuracy"].item() > 0.9


def test_reading_a_file_twice_makes_one_model(robust, tiny_data, tmp_path):
    file = write(tmp_path / "a.pt", robust.network.state_dict())
    first = load(file, tiny_data, epsilon=0.1)
    written = first.path.stat().st_mtime_ns
    assert load(file, tiny_data, epsilon=0.1).path == first.path
    assert first.path.stat().st_mtime_ns == written
    assert load(file, tiny_data, epsilon=0.2).path != first.path
    assert load(file, tiny_data, epsilon=0.1, norm="l2").path != first.path


@pytest.mark.parametrize(
    ("given", "mean", "said"),
    [
        ({}, None, "Normalisation: digits's own, as the file holds none."),
        ({"normalization": "data"}, None, "Normalisation: digits's own, as asked."),
        ({"normalization": "none"}, 0.0, "Normalisation: none, as asked."),
        ({"normalization": "imagenet"}, 0.485, "Normalisation: imagenet, as asked."),
        ({"normalization": "cifar10"}, 0.4914, "Normalisation: cifar10, as asked."),
    ],
)
def test_a_file_without_normalisation_takes_the_one_asked_for(robust, tiny_data, tmp_path, given, mean, said):
    file = write(tmp_path / "a.pt", without_normalizer(robust))
    model = load(file, tiny_data, epsilon=0, **given)
    expected = tiny_data.mean[0] if mean is None else mean
    assert model.network.normalize.mean.item() == pytest.approx(expected)
    assert said in model.record["source"]["notes"]


def test_a_files_own_normalisation_is_kept_unless_another_is_asked_for(robust, tiny_data, tmp_path):
    file = write(tmp_path / "a.pt", robust.network.state_dict())
    own, other = load(file, tiny_data, epsilon=0), load(file, tiny_data, epsilon=0, normalization="none")
    assert torch.equal(own.network.normalize.mean, robust.network.normalize.mean)
    assert "Normalisation: the file's own." in own.record["source"]["notes"]
    assert other.network.normalize.mean.item() == 0
    assert own.weights != other.weights


def test_what_it_was_trained_at_must_be_known(tiny_data, tmp_path):
    file = fresh(tmp_path / "a.pt")
    message = (
        f"{file} does not say what it was trained at: epsilon=0 (in YAML, {file}: {{epsilon: 0}}) if it is a "
        "standard network, such as epsilon=8/255 if it is a robust one."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(file, tiny_data)


def test_another_number_of_classes_is_refused(tiny_data, tmp_path):
    file = fresh(tmp_path / "a.pt", classes=7)
    message = f"{file} has 7 classes, digits has 10 (0, 1, 2, …)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(file, tiny_data, epsilon=0)


def test_grey_images_for_a_colour_network_are_refused(tiny_data, tmp_path):
    file = fresh(tmp_path / "a.pt", channels=3)
    message = f"{file} takes colour images (3 channels), digits has grey-scale images (1 channel)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(file, tiny_data, epsilon=0)


def test_a_hash_that_does_not_match_is_refused(tiny_data, tmp_path):
    file = fresh(tmp_path / "a.pt")
    digest = hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()
    load(file, tiny_data, epsilon=0, sha256=digest[:16].upper())
    message = f"{file} is not the file that was meant: its SHA-256 is {digest[:12]}…, expected beefbeef…"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(file, tiny_data, epsilon=0, sha256="beefbeef")


def test_unknown_options_name_the_nearest(tiny_data, tmp_path):
    file = fresh(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"unknown checkpoint option 'epsilom'; did you mean 'epsilon'\?"):
        load_models({file: {"epsilom": 1}}, tiny_data, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"unknown checkpoint option 'epsilom'; did you mean 'epsilon'\?"):
        load(file, tiny_data, epsilom=1)
    with pytest.raises(ValueError, match=r"unknown normalization 'imagnet'; did you mean 'imagenet'\?"):
        load(file, tiny_data, normalization="imagnet")


def test_models_of_the_store_take_no_options(robust, tiny_data):
    assert load(robust.name, tiny_data).path == robust.path
    with pytest.raises(ValueError, match=f"{robust.name} is a model of the store, which takes no epsilon"):
        load(robust.name, tiny_data, epsilon=0.1)


def test_which_names_are_foreign(robust, tmp_path):
    assert not is_foreign(robust.name)
    assert not is_foreign(robust.path)
    assert not is_foreign(robust.path.with_suffix(".safetensors"))
    assert is_foreign(fresh(tmp_path / "a.pt"))
    assert is_foreign("hf:owner/repository/file.ckpt")
    with pytest.raises(ValueError, match="unknown trained model"):
        load_model("resnet_tine")


def test_a_file_that_is_not_there_is_said_to_be_missing(tiny_data, tmp_path):
    fresh(tmp_path / "robust.pt")
    message = f"there is no file {tmp_path / 'robust.pth'}; did you mean robust.pt?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_models({str(tmp_path / "robust.pth"): {"epsilon": 0}}, tiny_data, device="cpu", progress=False)


def test_networks_of_one_kind_are_numbered(tiny_data, tmp_path):
    files = [fresh(tmp_path / f"{seed}.pt", seed) for seed in range(4)]
    options = [{"epsilon": 0}, {"epsilon": 0}, {"epsilon": "0.1"}, {"epsilon": 0, "seed": 7}]
    chosen = dict(zip(files, options, strict=True))
    models = load_models(chosen, tiny_data, device="cpu", progress=False)
    assert [(m.recipe.epsilon, m.recipe.seed) for m in models] == [(0, 0), (0, 1), (0.1, 0), (0, 7)]
    again = load_models(dict(reversed(chosen.items())), tiny_data, device="cpu", progress=False)
    assert [(m.recipe.epsilon, m.recipe.seed) for m in again] == [(0, 7), (0.1, 0), (0, 8), (0, 9)]


def test_one_network_twice_is_refused(tiny_data, tmp_path):
    chosen = {fresh(tmp_path / name): {"epsilon": 0} for name in ("a.pt", "b.pt")}
    with pytest.raises(ValueError, match=r"b\.pt holds the same network as resnet_tiny-\w+, which is there"):
        load_models(chosen, tiny_data, device="cpu", progress=False)


def test_a_recorded_accuracy_is_checked(robust, tiny_data, tmp_path, monkeypatch):
    file = write(tmp_path / "a.pt", robust.network.state_dict())
    read = loading.read_checkpoint

    def recording(accuracy):
        def read_it(*args, **options):
            return dataclasses.replace(read(*args, **options), accuracy=accuracy)

        monkeypatch.setattr(loading, "read_checkpoint", read_it)

    recording(0.5)
    (note,) = load(file, tiny_data, epsilon=0.1).record["source"]["notes"][-1:]
    assert re.match(r"Accuracy on 60 test images of digits is \d\.\d+, the file records 0.500", note)
    recording(load(file, tiny_data, epsilon=0.1).accuracies["accuracy"].item())
    notes = load(file, tiny_data, epsilon=0.2).record["source"]["notes"]
    assert not any(note.startswith("Accuracy") for note in notes)


def test_a_network_near_chance_is_said(tiny_data, tmp_path):
    model = load(fresh(tmp_path / "a.pt"), tiny_data, epsilon=0)
    assert model.record["source"]["notes"][-1].startswith("Accuracy on digits is 0.")
    assert "chance is 0.100: is it normalised as in training" in model.record["source"]["notes"][-1]


def test_what_was_found_is_told(robust, tiny_data, tmp_path):
    model = load(write(tmp_path / "mine.pt", robust.network.state_dict()), tiny_data, epsilon="8/255")
    first, *rest = describe([model, robust]).splitlines()
    accuracy = model.accuracies["accuracy"].item()
    assert first.startswith("mine.pt: ")
    assert first.endswith(f", resnet_tiny, ε = 8/255 (linf), seed 0, accuracy {accuracy:.3f}")
    assert rest[-1].startswith(f"{robust.name}: model of the store, resnet_tiny, ε = 0.1 (linf), seed 0")
    assert all(line.startswith("    ") for line in rest[:-1])


def test_without_a_data_set(robust, tmp_path):
    model = load_model(write(tmp_path / "a.pt", robust.network.state_dict()), "cpu", epsilon=0.1)
    assert model.record["classes"] == [str(i) for i in range(10)]
    assert model.accuracies.empty
    bare = write(tmp_path / "b.pt", without_normalizer(robust))
    message = (
        f"{bare} does not say how it normalises: give a data set, or normalization= one of none, imagenet"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_model(bare, "cpu", epsilon=0.1)
    assert load_model(bare, "cpu", epsilon=0.1, normalization="none").weights != model.weights


def test_an_imported_recipe_cannot_be_trained_and_needs_an_origin(robust, tiny_data, tmp_path):
    model = load(write(tmp_path / "a.pt", robust.network.state_dict()), tiny_data, epsilon=0)
    with pytest.raises(ValueError, match=f"{model.name} was trained elsewhere"):
        train(model.recipe, tiny_data, device="cpu", progress=False)
    for given in ({"method": "imported"}, {"origin": "abc"}):
        with pytest.raises(ValueError, match="imported networks, and no others, have an origin"):
            Recipe.on(tiny_data, "mlp", **given)


def test_a_notebooks_networks_are_checkpoints_where_there_are_any(tiny_data, tmp_path, capsys):
    chosen = {fresh(tmp_path / f"{i}.pt", i): {"epsilon": e} for i, e in enumerate((0, "0.1", 0.3))}
    models = zoo.networks(tiny_data, ["mlp"], [0.0], range(5), checkpoints=chosen, device="cpu", method="pgd")
    assert zoo.architectures_of(models) == ["resnet_tiny"]
    assert zoo.epsilons_of(models) == [0.0, 0.1, 0.3]
    assert zoo.robust_epsilon(models, "0.1") == 0.1
    assert zoo.robust_epsilon(models, "8/255") == 0.3
    assert zoo.robust_epsilon(models[:1], "8/255") == 8 / 255
    assert capsys.readouterr().out.count(", resnet_tiny, ") == 3


def test_a_notebooks_networks_are_the_committed_ones_unless_named():
    data = load_data("shapes")
    models = zoo.networks(data, [], [], [0], device="cpu")
    assert len(models) == len(zoo.shared_architectures(["shapes"])) * len(zoo.committed_epsilons("shapes"))
    both = zoo.networks(data, [], [0.05], [0], among=["digits", "shapes"], device="cpu")
    assert zoo.architectures_of(both) == zoo.shared_architectures(["digits", "shapes"])
    assert zoo.epsilons_of(both) == [0.05]


def test_donors_are_taken_from_checkpoints(tiny_data, tmp_path):
    files = [fresh(tmp_path / f"{i}.pt", i) for i in range(3)]
    chosen = dict(zip(files, [{"epsilon": 0}, {"epsilon": 0.1}, {"epsilon": 0.1}], strict=True))
    standard, robust = obtain_donors(
        tiny_data, "mlp", 0.05, 9, checkpoints=chosen, device="cpu", method="pgd"
    )
    assert [m.recipe.epsilon for m in standard + robust] == [0, 0.1]
    with pytest.raises(ValueError, match="the checkpoints hold resnet_tiny, standard") as error:
        obtain_donors(tiny_data, "mlp", 0.05, 9, checkpoints={files[0]: {"epsilon": 0}}, device="cpu")
    assert str(error.value).startswith("a standard and a robust network of one architecture are stitched")
