"""Which network a file holds: committed ones in disguise are found, and what cannot be told is said."""

import ast
import dataclasses
import re
import shlex

import pytest
import torch
import yaml

from repsim.cli.main import main
from repsim.data import load_data
from repsim.training import Recipe, identifying, load_model, predict, train, zoo
from repsim.training.identifying import identify, wilson
from repsim.training.loading import load_models
from repsim.training.model_store import find


@pytest.fixture(scope="module")
def data():
    return load_data("digits", train_size=100, test_size=300)


@pytest.fixture(scope="module")
def committed():
    """Robust networks of the checkout."""
    recipes = zoo.recipes(load_data("digits"), ["mlp", "resnet_tiny"], [0.1], [0])
    return {recipe.architecture: find(recipe, "cpu").network for recipe in recipes}


@pytest.fixture(scope="module")
def variant():
    """A network of Softplus, in whose keys nothing says so."""
    digits = load_data("digits")
    network, _ = train(
        Recipe.on(digits, "wrn_10_1+softplus", epochs=3, batch_size=64), digits, device="cpu", progress=False
    )
    return network


def without_normalizer(network):
    return {name: value for name, value in network.state_dict().items() if name[:10] != "normalize."}


def folded(mlp, mean, std):
    """The weights of a perceptron that wants its images normalised otherwise, and computes the same then."""
    own_mean, own_std = mlp.normalize.mean.item(), mlp.normalize.std.item()
    weights = without_normalizer(mlp)
    first = weights["hidden.0.weight"]
    weights["hidden.0.bias"] = weights["hidden.0.bias"] + first.sum(1) * (mean - own_mean) / own_std
    weights["hidden.0.weight"] = first * std / own_std
    return weights


def found(file, data, **options):
    return identify(file, data, device="cpu", progress=False, **options)


def same_as(network, file, data, told, epsilon=0.1):
    """Whether the line that is to be written next loads the network."""
    line = told.python.replace("epsilon=...", f"epsilon={epsilon}")
    options = {option.arg: option.value for option in ast.parse(line).body[0].value.keywords}
    del options["dataset"]
    options = {name: ast.literal_eval(value) for name, value in options.items()}
    model = load_model(file, "cpu", dataset=data, **options)
    return torch.allclose(
        predict(model.network, data.test.images), predict(network, data.test.images), atol=1e-4
    )


def test_keys_of_others(committed, data, tmp_path):
    network, file = committed["resnet_tiny"], str(tmp_path / "a.pth")
    weights = {f"module.{name.replace('fc.', 'linear.')}": v for name, v in network.state_dict().items()}
    torch.save({"net": weights, "epoch": 3}, file)
    told = found(file, data)
    assert told.settled
    assert told.table["architecture"].tolist() == ["resnet_tiny"]
    assert same_as(network, file, data, told)


def test_another_normalisation(committed, data, tmp_path):
    network, file = committed["mlp"], str(tmp_path / "b.pt")
    torch.save({"weights": 1, "state_dict": folded(network, 0.0, 1.0)}, file)
    told = found(file, data)
    assert told.table["normalization"].tolist()[0] == "none"
    assert set(told.table["normalization"]) == {"data", "none", "0.5", "mnist", "fashion_mnist"}
    assert same_as(network, file, data, told)
    assert not told.settled  # others are nearly as good on 300 digits
    assert told.verdict.startswith("A tie: mlp, normalization none (0.967); mlp, normalization ")
    assert "The architecture is mlp in all of them." in told.verdict


def test_what_batchnorm_keeps_of_training_breaks_ties(committed, data, tmp_path):
    file = str(tmp_path / "b.pt")
    torch.save(without_normalizer(committed["resnet_tiny"]), file)
    told = found(file, data)
    off = told.table.set_index("normalization")["off"]
    assert off["data"] < 0.3 * off[["none", "0.5", "mnist"]].min()
    assert not told.settled
    assert f'normalization="{off.idxmin()}"' in told.python
    assert f"keeps fit resnet_tiny, normalization {off.idxmin()} best: off by {off.min():.2g}" in told.verdict
    torch.save(without_normalizer(committed["mlp"]), file)
    assert found(file, data).table["off"].isna().all()


def test_numbers_of_a_normalisation_are_tried_alone(committed, data, tmp_path):
    network, file = committed["mlp"], str(tmp_path / "b.pt")
    torch.save(folded(network, 0.25, 0.125), file)
    told = found(file, data, normalization="63.75 / 31.875")
    assert told.table["normalization"].tolist() == ["0.25 / 0.125"]
    assert same_as(network, file, data, told)


def test_a_variant(variant, data, tmp_path):
    file = str(tmp_path / "c.pt")
    torch.save(variant.state_dict(), file)
    told = found(file, data)
    assert told.settled
    assert told.verdict.startswith("Found: wrn_10_1+softplus, normalization the file's own: accuracy 0.9")
    assert ", far above the next (" in told.verdict
    assert told.table["images"].tolist()[:2] == [300, 200]  # only what is open is looked at longer
    assert same_as(variant, file, data, told)
    assert found(file, data, architecture="wrn_10_1").table["architecture"].tolist() == ["wrn_10_1"]


def test_averaged_weights_beside_others(committed, data, tmp_path):
    network, file = committed["resnet_tiny"], str(tmp_path / "d.pth.tar")
    weights = network.state_dict()
    raw = {name: value.flip(0) if name.startswith("fc.") else value for name, value in weights.items()}
    torch.save({"epoch": 9, "state_dict": raw, "state_dict_ema": weights}, file)
    told = found(file, data)
    assert told.settled
    assert told.table["weights"].tolist() == ["state_dict_ema", ""]
    assert same_as(network, file, data, told)
    assert found(file, data, weights="ema").table["weights"].tolist() == ["ema"]


def test_a_normaliser_of_255(committed, data, tmp_path):
    network, file = committed["resnet_tiny"], str(tmp_path / "e.pt")
    weights = {f"backbone.{name}": value for name, value in without_normalizer(network).items()}
    weights |= {
        f"data_preprocessor.{name}": 255 * getattr(network.normalize, name) for name in ("mean", "std")
    }
    torch.save({"state_dict": weights}, file)
    told = found(file, data)
    assert told.settled
    assert told.table["normalization"].tolist() == ["the file's own"]
    assert same_as(network, file, data, told)


def test_the_recorded_accuracy_breaks_a_tie(committed, data, tmp_path):
    file = str(tmp_path / "d.pt")
    weights = folded(committed["mlp"], 0.0, 1.0)
    torch.save({"state_dict": weights, "acc": 98.0}, file)
    told = found(file, data)
    assert told.settled
    assert told.verdict.startswith(
        "Found by the accuracy that the file records, 0.980: mlp, normalization none"
    )
    torch.save({"state_dict": weights, "acc": 91.5}, file)
    assert not found(file, data).settled


def test_less_than_the_recorded_accuracy_is_not_enough(committed, data, tmp_path):
    file = str(tmp_path / "e.pt")
    weights = {k: v.clone() for k, v in committed["mlp"].state_dict().items()}
    weights["classifier.bias"][:3] -= 100  # never these classes
    torch.save({"state_dict": weights, "acc": 96.7}, file)
    told = found(file, data)
    assert not told.settled
    assert re.match(r"Not settled: best is mlp, .* but the file records 0\.967\.", told.verdict)


def test_nothing_is_found_near_chance(committed, data, tmp_path):
    file = str(tmp_path / "e.pt")
    weights = dict(committed["resnet_tiny"].state_dict())
    for name in ("fc.weight", "fc.bias"):
        weights[name] = weights[name].roll(1, 0)  # classes in another order
    torch.save(weights, file)
    told = found(file, data)
    assert not told.settled
    assert told.verdict.startswith("Nothing is found: the best candidate's accuracy is 0.0")
    assert "classes in another order" in told.verdict


def test_a_wrong_normalisation_in_the_file_is_told(committed, data, tmp_path):
    file = str(tmp_path / "f.pt")
    weights = dict(committed["resnet_tiny"].state_dict())
    weights["normalize.mean"] = weights["normalize.mean"] + 3
    torch.save(weights, file)
    told = found(file, data)
    assert told.table["normalization"].tolist()[0] == "data"
    assert "the file's own" in told.table["normalization"].tolist()
    assert (
        "The normalisation that the file holds is worse: resnet_tiny, normalization the file's own has 0."
        in (told.verdict)
    )


def test_candidates_that_compute_the_same_are_one(committed, data, tmp_path):
    file = str(tmp_path / "g.pt")
    torch.save(
        {
            **committed["resnet_tiny"].state_dict(),
            "normalize.mean": torch.full((1, 1, 1), 0.5),
            "normalize.std": torch.full((1, 1, 1), 0.5),
        },
        file,
    )
    table = found(file, data).table
    assert table["same"].tolist() == ["resnet_tiny, normalization 0.5"]


def test_normalisations_that_hardly_differ_are_as_good_as_one(variant, data, tmp_path):
    file = str(tmp_path / "i.pt")
    torch.save(without_normalizer(variant), file)
    near = dataclasses.replace(
        data, mean=(0.2861,), std=(0.3531,)
    )  # as fashion_mnist has them, to three digits
    told = found(file, near, architecture="wrn_10_1+softplus")
    assert told.settled
    assert told.verdict.startswith("Found but for what hardly matters: wrn_10_1+softplus, normalization ")
    assert set(told.table["normalization"].tolist()[:2]) == {"data", "fashion_mnist"}


def test_what_a_longer_look_opens_again_is_looked_at_as_long(committed, data, tmp_path, monkeypatch):
    file = str(tmp_path / "j.pt")
    torch.save(folded(committed["mlp"], 0.0, 1.0), file)
    still_open, calls = identifying._still_open, []

    def only_one_at_first(rows, recorded):
        calls.append(rows)
        return still_open(rows, recorded)[: 1 if len(calls) == 1 else None]

    monkeypatch.setattr(identifying, "_still_open", only_one_at_first)
    table = found(file, data).table
    assert table["images"].tolist()[:4] == [300] * 4
    assert len(calls) == 3


def test_few_images_are_refused(committed, tiny_data, tmp_path):
    torch.save(committed["mlp"].state_dict(), tmp_path / "h.pt")
    with pytest.raises(
        ValueError, match=r"60 labelled test images of digits are too few .*: give at least 200"
    ):
        found(tmp_path / "h.pt", tiny_data)


def test_intervals_are_wilsons():
    low, high = wilson(8, 10)  # of Newcombe (1998)'s formula, by hand: (0.4902, 0.9433)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson(0, 200)[0] == pytest.approx(0, abs=1e-12)
    assert wilson(200, 200)[1] == pytest.approx(1)


def test_the_command_prints_what_to_write(variant, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(variant.state_dict(), "lr=0.1,wd=5e-4.pt")
    assert main(["check", "lr=0.1,wd=5e-4.pt", "--dataset", "digits", "--test-size", "250"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ *wrn_10_1\+softplus +the file's own +0\.9\d+", out, re.MULTILINE)
    line = next(line for line in out.splitlines() if "-p checkpoints" in line)
    name, options = next(iter(yaml.safe_load(shlex.split(line)[-1]).items()))
    models = load_models({name: {**options, "epsilon": 0}}, data, device="cpu", progress=False)
    assert models[0].recipe.architecture == "wrn_10_1+softplus"
    wrong = ["--architecture", "wrn_10_1", "--test-size", "200"]
    assert main(["check", "lr=0.1,wd=5e-4.pt", "--dataset", "digits", *wrong]) == 1
    assert "Nothing is found" in capsys.readouterr().out
