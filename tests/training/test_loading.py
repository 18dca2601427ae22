"""Networks by a name or a file: what others trained becomes a model of the store, or is refused by name."""

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repsim.data import load_data
from repsim.models import build_model
from repsim.studies.stitching.experiments import donors_among
from repsim.training import Recipe, loading, predict, train, zoo
from repsim.training.loading import describe, is_foreign, load_model, load_models
from repsim.training.model_store import find, stored_model

ROOT = Path(__file__).parents[2]


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
    return without_normalizer_of(model.network)


def without_normalizer_of(network):
    return {k: v for k, v in network.state_dict().items() if not k.startswith("normalize.")}


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
        (None, None, "digits's own, as the file holds none; another is chosen by normalization=…"),
        ("data", None, "digits's own, as asked."),
        ("none", 0.0, "mean 0, std 1: none, as asked."),
        ("mnist", 0.1307, "mean 0.131, std 0.308: mnist, as asked."),
        ("0.25 / 0.5", 0.25, "mean 0.25, std 0.5, as asked."),
        (
            {"mean": [51.0], "std": 127.5},
            0.2,
            "mean 0.2, std 0.5, as asked. Numbers above 2 are of pixels up",
        ),
    ],
)
def test_a_file_without_normalisation_takes_the_one_asked_for(robust, tiny_data, tmp_path, given, mean, said):
    file = write(tmp_path / "a.pt", without_normalizer(robust))
    model = load(file, tiny_data, epsilon=0, **({"normalization": given} if given else {}))
    expected = tiny_data.mean[0] if mean is None else mean
    assert model.network.normalize.mean.item() == pytest.approx(expected)
    (note,) = (note for note in model.record["source"]["notes"] if note.startswith("Normalisation: mean "))
    assert said in note
    assert note in describe([model])


def test_a_normalisation_of_colours_is_refused_for_grey_images(robust, tiny_data, tmp_path):
    file = write(tmp_path / "a.pt", without_normalizer(robust))
    with pytest.raises(ValueError, match="normalization imagenet has 3 channels, the images have 1 channel"):
        load(file, tiny_data, epsilon=0, normalization="imagenet")


def test_a_files_own_normalisation_is_kept_unless_another_is_asked_for(robust, tiny_data, tmp_path):
    file = write(tmp_path / "a.pt", robust.network.state_dict())
    own, other = load(file, tiny_data, epsilon=0), load(file, tiny_data, epsilon=0, normalization="none")
    assert torch.equal(own.network.normalize.mean, robust.network.normalize.mean)
    assert any("the file's own; another is chosen by" in note for note in own.record["source"]["notes"])
    assert any("none, as asked. The file's own is mean" in note for note in other.record["source"]["notes"])
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


def test_what_the_file_says_of_its_epsilon_stands_beside_the_question(tiny_data, tmp_path):
    file = fresh(tmp_path / "a.pt")
    torch.save({**torch.load(file), "args": {"epsilon": 12.5}}, file)
    with pytest.raises(ValueError, match=r"does not say .*\nepsilon = 12\.5 in its settings is of a unit"):
        load(file, tiny_data)


def test_another_number_of_classes_is_refused(tiny_data, tmp_path):
    file = fresh(tmp_path / "a.pt", classes=7)
    message = f"{file} has 7 classes, digits has 10 (0, 1, 2, …)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(file, tiny_data, epsilon=0)


def test_images_of_any_size_where_weights_do_not_depend_on_it(tmp_path):
    """pytorch-cifar's ResNet-18 with a pooling that takes what there is, for 64 pixels."""
    digits = load_data("digits", train_size=10, test_size=10)
    large = [dataclasses.replace(s, images=torch.rand(10, 3, 64, 64)) for s in (digits.train, digits.test)]
    data = dataclasses.replace(digits, train=large[0], test=large[1], mean=(0.5,) * 3, std=(0.25,) * 3)
    theirs = build_model("robustness:cifar/resnet18", (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3).eval()
    file = write(tmp_path / "a.pt", without_normalizer_of(theirs))
    (model,) = load_models({file: {"epsilon": 0}}, data, device="cpu", progress=False)
    images = data.test.images[:2]
    features = theirs.bn1(theirs.conv1((images - 0.5) / 0.25)).relu()
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        features = stage(features)
    assert torch.allclose(predict(model.network, images), theirs.linear(features.mean((2, 3))), atol=1e-5)


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
    with pytest.raises(ValueError, match=r"unknown normalization 'imagnet'; did you mean 'imagenet'"):
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
    assert is_foreign(tmp_path)  # folders may be checkpoints, too
    assert is_foreign("runs/best")
    with pytest.raises(ValueError, match="unknown trained model"):
        load_model("resnet_tine")


def test_a_file_that_is_not_there_is_said_to_be_missing(tiny_data, tmp_path):
    fresh(tmp_path / "robust.pt")
    message = f"there is no file {tmp_path / 'robust.pth'}; did you mean robust.pt?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_models({str(tmp_path / "robust.pth"): {"epsilon": 0}}, tiny_data, device="cpu", progress=False)


@pytest.mark.parametrize("name", ["mlp", "vgg_tiny", "resnet_tiny", "resnet_tiny_deep", "wrn_tiny"])
def test_files_keep_the_names_and_so_the_addresses_that_they_had(name, tmp_path):
    torch.save(build_model(name, (1, 16, 16), 10, [0.5], [0.5]).state_dict(), tmp_path / "a.pt")
    assert loading.read_checkpoint(tmp_path / "a.pt", image_shape=(1, 16, 16)).architecture == name


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


def test_what_is_said_of_a_file_is_of_this_file(robust, tiny_data, tmp_path):
    weights = robust.network.state_dict()
    first = load(write(tmp_path / "first.pt", weights), tiny_data, epsilon=0.1)
    torch.save({"net": weights, "acc": 50.0}, tmp_path / "second.pth")
    second = load(tmp_path / "second.pth", tiny_data, epsilon=0.1)
    assert second.path == first.path
    assert "first" not in describe([second])
    assert second.record["source"]["accuracy"] == 0.5
    assert "the file records 0.500" in second.record["source"]["notes"][-1]
    assert stored_model(first.name, "cpu").record["source"] == first.record["source"]  # whence it came


def test_a_network_near_chance_is_said(tiny_data, tmp_path):
    model = load(fresh(tmp_path / "a.pt"), tiny_data, epsilon=0)
    assert model.record["source"]["notes"][-1].startswith("Accuracy on digits is 0.")
    assert "chance is 0.100: is it normalised as in training" in model.record["source"]["notes"][-1]
    assert f"`repsim check {tmp_path / 'a.pt'} --dataset digits`" in model.record["source"]["notes"][-1]


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
        f"{bare} does not say how it normalises: give a data set, or normalization= one of none (mean 0, "
        "std 1), 0.5 (mean 0.5, std 0.5), mnist (mean 0.131, std 0.308)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_model(bare, "cpu", epsilon=0.1)
    assert load_model(bare, "cpu", epsilon=0.1, normalization="none").weights != model.weights


@pytest.fixture
def open_(monkeypatch):
    """Reading a file finds that its keys fit a second network, and may record an accuracy."""
    read = loading.read_checkpoint

    def finding(other, **fields):
        def read_it(*arguments, **options):
            found = read(*arguments, **options)
            return dataclasses.replace(found, alternatives=(other,), settled_by="", **fields)

        monkeypatch.setattr(loading, "read_checkpoint", read_it)

    return finding


@pytest.fixture(scope="module")
def more_data():
    """Digits, enough to tell networks apart."""
    return load_data("digits", train_size=100, test_size=220)


def test_what_keys_leave_open_is_warned_of(robust, tiny_data, tmp_path, open_):
    file = write(tmp_path / "a.pt", robust.network.state_dict())
    open_("resnet_tiny+softplus")
    warning = (
        r"leave open, among other things: Softplus for ReLU \(resnet_tiny\+softplus\).*"
        rf"`repsim check {file} --dataset NAME`"
    )
    with pytest.warns(UserWarning, match=warning):
        load_model(file, "cpu", epsilon=0)
    with pytest.warns(UserWarning, match=warning.replace("NAME", "digits")):  # 60 images are too few
        load(file, tiny_data, epsilon=0)
    told = describe(load_models({file: {"epsilon": 0}}, tiny_data, device="cpu", progress=False))
    assert (
        "leave open, among other things: Softplus for ReLU (resnet_tiny+softplus)" in told
    )  # callers print it


def test_accuracy_on_images_tells_what_keys_leave_open(robust, more_data, tmp_path, open_):
    file = write(tmp_path / "a.pt", robust.network.state_dict())
    open_("resnet_tiny+softplus")
    model = load(file, more_data, epsilon=0)
    assert re.search(r"On 200 test images resnet_tiny has 0\.9\d+, the next 0\.\d", describe([model]))
    torch.save({"net": robust.network.state_dict()}, tmp_path / "b.pt")
    again = load(tmp_path / "b.pt", more_data, epsilon=0)  # by what was tried then
    assert again.record["tried"] == model.record["tried"]
    assert [images for _, images in model.record["tried"].values()] == [200, 40]  # the other soon fell behind
    assert "On 200 test images resnet_tiny has" in describe([again])


def test_the_other_network_that_keys_fit_is_named_where_it_is_better(robust, more_data, tmp_path, open_):
    file = write(tmp_path / "a.pt", robust.network.state_dict())
    open_("resnet_tiny", architecture="resnet_tiny+softplus")
    with pytest.warns(
        UserWarning, match=r"but on 200 .* resnet_tiny has .*: load it with architecture=resnet_tiny"
    ):
        load(file, more_data, epsilon=0)


def test_a_recorded_accuracy_tells_what_keys_leave_open(robust, tiny_data, tmp_path, open_):
    file = write(tmp_path / "a.pt", robust.network.state_dict())
    open_("resnet_tiny+softplus", accuracy=load(file, tiny_data, epsilon=0).accuracies["accuracy"].item())
    assert "resnet_tiny has the accuracy that the file records" in describe(
        [load(file, tiny_data, epsilon=0)]
    )


OWN = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, num_classes=10):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, width, 3), nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(F.relu(self.conv(images)).mean((2, 3)))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working directory with a class of networks, and weights of one."""
    (tmp_path / "mine_here.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    network = build_model("mine_here:Net(width=6)", (1, 16, 16), 10, [0.0], [1.0])
    weights = {name: value for name, value in network.state_dict().items() if name[:9] != "normalize"}
    torch.save({"model": weights, "epoch": 3}, "own.pt")
    yield network
    sys.modules.pop("mine_here", None)


def test_a_class_of_ones_own_is_an_architecture(own, tiny_data, tmp_path):
    text = "mine_here:Net(width=6)"
    model = load("own.pt", tiny_data, epsilon=0, architecture=text, normalization="none")
    images = tiny_data.test.images
    assert torch.equal(predict(model.network, images), predict(own, images))
    assert model.recipe.architecture == text
    assert model.record["definition"]["file"] == str(tmp_path / "mine_here.py")
    del sys.modules["mine_here"]  # as in a later process
    assert torch.equal(predict(stored_model(model.name, "cpu").network, images), predict(own, images))


@pytest.mark.slow
def test_a_later_process_finds_the_class(own, tiny_data, tmp_path):
    given = {"epsilon": 0, "architecture": "mine_here:Net(width=6)", "normalization": "none"}
    model = load("own.pt", tiny_data, **given)
    command = [sys.executable, "-m", "repsim", "layers", model.name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"^ *conv +Conv2d", told.stdout, re.MULTILINE)


def test_a_class_that_is_not_found_is_told_with_its_file(own, tiny_data, tmp_path, monkeypatch):
    given = {"epsilon": 0, "architecture": "mine_here:Net(width=6)", "normalization": "none"}
    name = load("own.pt", tiny_data, **given).name
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    del sys.modules["mine_here"]
    with pytest.raises(ValueError, match=f"defined in {tmp_path}/mine_here.py: run from {tmp_path}, or with"):
        stored_model(name, "cpu").network  # noqa: B018


def test_a_record_from_elsewhere_imports_nothing(own, tiny_data, tmp_path, monkeypatch):
    given = {"epsilon": 0, "architecture": "mine_here:Net(width=6)", "normalization": "none"}
    model = load("own.pt", tiny_data, **given)
    monkeypatch.setenv("REPSIM_HOME", str(tmp_path / "mine"))
    del sys.modules["mine_here"]
    with pytest.raises(ValueError, match=r"If you trust it, put both files into .*mine/data/models/digits\."):
        stored_model(model.path, "cpu").network  # noqa: B018
    assert "mine_here" not in sys.modules
    folder = tmp_path / "mine" / "data" / "models" / "digits"
    folder.mkdir(parents=True)
    for suffix in (".json", ".safetensors"):
        shutil.copy(model.path.with_suffix(suffix), folder)
    assert torch.equal(stored_model(model.name, "cpu").network.head.weight, own.head.weight)


def test_weights_of_another_class_are_refused(own, tiny_data):
    with pytest.raises(ValueError, match=r"(?s)is no mine_here:Net .*wrong shape: conv\.weight"):
        load("own.pt", tiny_data, epsilon=0, architecture="mine_here:Net", normalization="none")


def test_a_changed_class_is_warned_of_until_the_file_is_loaded_anew(own, tiny_data, tmp_path):
    given = {"epsilon": 0, "architecture": "mine_here:Net(width=6)", "normalization": "none"}
    model = load("own.pt", tiny_data, **given)
    (tmp_path / "mine_here.py").write_text(OWN.replace("F.relu", "F.silu"))
    del sys.modules["mine_here"]
    with pytest.warns(UserWarning, match="is not what it was when mine_here_Net"):
        changed = stored_model(model.name, "cpu").network
    assert not torch.equal(predict(changed, tiny_data.test.images), predict(own, tiny_data.test.images))
    load("own.pt", tiny_data, **given)
    assert stored_model(model.name, "cpu").network is not None


def test_an_imported_recipe_cannot_be_trained_and_needs_an_origin(robust, tiny_data, tmp_path):
    model = load(write(tmp_path / "a.pt", robust.network.state_dict()), tiny_data, epsilon=0)
    with pytest.raises(ValueError, match=f"{model.name} was trained elsewhere"):
        train(model.recipe, tiny_data, device="cpu", progress=False)
    for given in ({"method": "imported"}, {"origin": "abc"}):
        with pytest.raises(ValueError, match="imported networks, and no others, have an origin"):
            Recipe.on(tiny_data, "mlp", **given)


def test_a_notebooks_networks_are_checkpoints_where_there_are_any(tiny_data, tmp_path, capsys):
    chosen = {fresh(tmp_path / f"{i}.pt", i): {"epsilon": e} for i, e in enumerate((0, "0.1", 0.3))}
    models = zoo.network_set(tiny_data, ["mlp"], [0.0], range(5), checkpoints=chosen).obtain(device="cpu")
    assert zoo.architectures_of(models) == ["resnet_tiny"]
    assert zoo.epsilons_of(models) == [0.0, 0.1, 0.3]
    assert zoo.robust_epsilon(models, "0.1") == 0.1
    assert zoo.robust_epsilon(models, "8/255") == 0.3
    assert zoo.robust_epsilon(models[:1], "8/255") == 8 / 255
    assert capsys.readouterr().out.count(", resnet_tiny, ") == 3


def test_a_notebooks_networks_are_the_committed_ones_unless_named():
    data = load_data("shapes")
    models = zoo.network_set(data, [], [], [0]).obtain(device="cpu")
    assert len(models) == len(zoo.shared_architectures(["shapes"])) * len(zoo.committed_epsilons("shapes"))
    both = zoo.network_set(data, [], [0.05], [0], among=["digits", "shapes"]).obtain(device="cpu")
    assert zoo.architectures_of(both) == zoo.shared_architectures(["digits", "shapes"])
    assert zoo.epsilons_of(both) == [0.05]


def test_donors_are_taken_from_checkpoints(tiny_data, tmp_path):
    files = [fresh(tmp_path / f"{i}.pt", i) for i in range(3)]
    chosen = dict(zip(files, [{"epsilon": 0}, {"epsilon": 0.1}, {"epsilon": 0.1}], strict=True))
    networks = zoo.network_set(tiny_data, ["mlp"], [0.0, 0.05], range(9), checkpoints=chosen)
    models = networks.obtain(device="cpu")
    standard, robust = donors_among(models, 0.05)
    assert [m.recipe.epsilon for m in standard + robust] == [0, 0.1]
    with pytest.raises(ValueError, match="the checkpoints hold resnet_tiny, standard") as error:
        donors_among(models[:1], 0.05)
    assert str(error.value).startswith("a standard and a robust network of one architecture are stitched")
