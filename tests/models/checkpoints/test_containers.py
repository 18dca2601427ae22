"""Weights under any key of a file, and which of several are taken."""

import re

import pytest
import torch

from repsim.models.checkpoints import convert, read_checkpoint


@pytest.fixture
def saved(tmp_path, small, bare):
    """A file of trained weights and averaged ones, in whatever arrangement; says which a reading found."""
    trained = bare(small())
    averaged = {key: value + 1 for key, value in trained.items()}

    def save(arrange):
        torch.save(arrange(trained, averaged), tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    def found(**options):
        read = read_checkpoint(tmp_path / "weights.pt", **options)
        return "trained" if torch.equal(read.weights["fc.weight"], trained["fc.weight"]) else "averaged"

    save.found, save.path = found, tmp_path / "weights.pt"
    return save


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2, 2)}}, "param_groups": []}
BY_NAME = {"state": {"fc.weight": {"exp_avg": torch.zeros(2, 2), "step": torch.zeros(1)}}}
ARRANGEMENTS = {
    **{
        key: lambda trained, _, key=key: {key: trained, "epoch": 3}
        for key in ("state_dict_ema", "best_model", "classifier", "state", "module", "anything")
    },
    "nested": lambda trained, _: {"model": {"state_dict": trained, "step": 3}},
    "beside plain keys": lambda trained, _: {"epoch": 3, "loss": torch.zeros(2), **trained},
    "with an optimizer": lambda trained, _: {"optimizer": OPTIMIZER, "opt": BY_NAME, "other": trained},
    "in a list": lambda trained, _: {"networks": [trained]},
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_only_weights_are_found_under_any_key(saved, arrangement):
    saved(ARRANGEMENTS[arrangement])
    assert saved.found() == "trained"


def test_what_holds_itself_is_read(saved):
    def arrange(trained, _):
        content = {"state_dict": trained}
        return content | {"self": content}

    saved(arrange)
    assert saved.found() == "trained"


@pytest.mark.parametrize(
    ("raw", "average"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("params", "params_ema"), ("net", "ema")],
)
def test_averages_are_said_and_chosen_by_a_word(saved, raw, average):
    saved(lambda trained, averaged: {average: averaged, raw: trained})
    read = read_checkpoint(saved.path)
    note = (
        f"It holds weights as {raw}, which were taken, and as {average} (averaged): weights=ema takes the "
        "averaged ones."
    )
    assert note in read.notes
    assert [saved.found(), saved.found(weights=raw)] == ["trained", "trained"]
    assert [saved.found(weights=word) for word in ("ema", average)] == ["averaged", "averaged"]
    assert f"Its weights are {average}, as asked." in read_checkpoint(saved.path, weights="ema").notes


def test_an_averaged_copy_among_the_names_of_one_state_dict(saved):
    saved(
        lambda trained, averaged: {
            "state_dict": {
                **{f"model.{key}": value for key, value in trained.items()},
                **{f"ema_model.module.{key}": value for key, value in averaged.items()},
            }
        }
    )
    assert any("and as state_dict.ema_model (averaged)" in note for note in read_checkpoint(saved.path).notes)
    assert (saved.found(), saved.found(weights="ema")) == ("trained", "averaged")


def test_the_last_epoch_comes_before_the_best(saved):
    saved(lambda trained, averaged: {"best": averaged, "last": trained})
    assert (saved.found(), saved.found(weights="best")) == ("trained", "averaged")
    note = "It holds weights as last, which were taken, and as best: weights=best takes the others."
    assert note in read_checkpoint(saved.path).notes


def refused(path, message, **options):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_checkpoint(path, **options)


def test_of_several_without_a_usual_name_none_is_guessed(saved):
    path = saved(lambda trained, averaged: {"runs": {"a": trained, "b": averaged}})
    message = (
        f"{path} holds the weights of several networks (runs.a, runs.b): say which is meant, such as "
        "weights=runs.a."
    )
    refused(path, message)
    assert (saved.found(weights="runs.a"), saved.found(weights="b")) == ("trained", "averaged")


def test_an_unknown_name_of_weights(saved):
    path = saved(lambda trained, averaged: {"model": trained, "model_ema": averaged})
    message = (
        f"{path}: unknown weights 'modle'; did you mean 'model' or 'model_ema'? Known: model, model_ema, ema."
    )
    refused(path, message, weights="modle")
    path = saved(lambda trained, _: trained)
    message = f"{path} holds one network, under no name: leave weights out (there is no 'ema' in it)."
    refused(path, message, weights="ema")
    refused("timm:resnet18", "timm:resnet18 names its weights: leave weights out.", weights="ema")


def test_what_might_compute_something_is_not_left_out(saved):
    """Two networks in one state dict; and a part beside a network, of which nothing says what it does."""
    path = saved(
        lambda trained, averaged: {
            **{f"module.student.{key}": value for key, value in trained.items()},
            **{f"module.teacher.{key}": value for key, value in averaged.items()},
        }
    )
    message = (
        f"{path} holds the weights of a network as student. (of wrn_tiny) and teacher. (of wrn_tiny): "
        "weights=student takes the first alone."
    )
    refused(path, message)
    assert (saved.found(weights="student"), saved.found(weights="teacher")) == ("trained", "averaged")
    path = saved(
        lambda trained, _: {"gate.weight": torch.ones(10), **{f"net.{k}": v for k, v in trained.items()}}
    )
    message = (
        f"{path} holds the weights of a network as net. (of wrn_tiny), beside gate.weight: weights=net takes "
        "that network alone."
    )
    refused(path, message)
    assert saved.found(weights="net") == "trained"


def test_the_choice_is_kept_when_a_file_is_converted(saved, tmp_path):
    path = saved(lambda trained, averaged: {"model": trained, "ema": averaged})
    convert(path, tmp_path / "ema.safetensors", weights="ema")
    assert "Its weights are ema, as asked." in read_checkpoint(tmp_path / "ema.safetensors").notes
