"""A network's weights behind what training put around them are the same network."""

import re

import pytest
import torch
from torch import nn
from toy_networks import randomized

from repsim.models.checkpoints import read_checkpoint
from repsim.support.compat import torchvision

PREFIXES = (
    *("net.", "backbone.", "0.", "1.", "1.module.", "model.model.", "timm_model.", "module.net.0."),
    *("_fsdp_wrapped_module.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."),
)


def around(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


def moved(pattern, new):
    return lambda weights: {re.sub(pattern, new, key): value for key, value in weights.items()}


BESIDE = {
    "SWA": lambda weights: {"n_averaged": torch.tensor(3), **around("module.", weights)},
    "thop": lambda weights: {**weights, "total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)},
    "a loss": lambda weights: {"criterion.weight": torch.ones(10), **around("model.", weights)},
    "metrics": lambda weights: {**around("model.", weights), "train_acc.total": torch.zeros(1)},
    "wrapped inside": moved(r"^layer1\.", "layer1._fsdp_wrapped_module."),
    "parallel inside": moved(r"^layer(\d)\.", r"layer\1.module."),
    "dropout before the last layer": moved(r"^fc\.", "fc.1."),
    "a head": moved(r"^(?!fc)", "backbone."),
    "a body and a head": lambda weights: moved(r"^fc", "head.fc")(BESIDE["a head"](weights)),
    "a body, and a dropout before its head": lambda weights: moved(r"^fc", "head.1")(
        BESIDE["a head"](weights)
    ),
    "a body and a classifier": lambda weights: moved(r"^fc", "classifier")(BESIDE["a head"](weights)),
}


@pytest.mark.parametrize("wrapping", [*PREFIXES, *BESIDE])
def test_what_is_around_a_network_is_left_out(tmp_path, small, bare, rebuilt, pixels, wrapping):
    network = small(mean=0.0, std=1.0)
    weights = bare(network)
    wrapped = BESIDE[wrapping](weights) if wrapping in BESIDE else around(wrapping, weights)
    assert wrapped.keys() != weights.keys()
    torch.save({"state_dict": wrapped}, tmp_path / "weights.pt")
    read = read_checkpoint(tmp_path / "weights.pt")
    assert read.architecture == "wrn_tiny"
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(pixels()), network(pixels()))
    assert re.search(r"left out|Left out|taken for dropout", " ".join(read.notes))


def test_features_that_run_in_parallel(tmp_path, rebuilt, pixels):
    """As torchvision's training of VGG wraps all but the last layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = randomized(torchvision.models.squeezenet1_1(num_classes=5))
    parallel = torchvision.models.squeezenet1_1(num_classes=5)
    parallel.load_state_dict(network.state_dict())
    parallel.features = nn.DataParallel(parallel.features)
    torch.save(parallel.state_dict(), tmp_path / "weights.pt")
    read = read_checkpoint(tmp_path / "weights.pt")
    assert read.architecture == "squeezenet1_1"
    assert "module inside of names, which wrappers put there, was left out." in read.notes
    images = pixels((3, 64, 64), 2)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(images), network(images))


def test_what_stands_before_a_network_without_weights_is_said(tmp_path, small, bare):
    note = "if it normalises, normalization=… says how."
    for prefix, said in ("1.", True), ("1.module.", True), ("0.", False), ("model.", False):
        torch.save(around(prefix, bare(small())), tmp_path / "weights.pt")
        assert (note in " ".join(read_checkpoint(tmp_path / "weights.pt").notes)) == said


def test_two_layers_before_the_logits_are_no_dropout(tmp_path, small, bare):
    weights = moved(r"^fc\.", "fc.2.")(bare(small()))
    torch.save(
        {**weights, "fc.0.weight": torch.eye(32), "fc.0.bias": torch.zeros(32)}, tmp_path / "weights.pt"
    )
    with pytest.raises(ValueError, match=r"fc\.0\.weight"):
        read_checkpoint(tmp_path / "weights.pt")


def test_what_is_wrong_is_said_of_the_network_inside(tmp_path, small, bare):
    weights = bare(small())
    del weights["bn2.bias"]
    torch.save(around("module.net.", weights), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"(?s)nearest is wrn_\w+ .*\n  missing: bn2\.bias(\n|$)"):
        read_checkpoint(tmp_path / "weights.pt")


def test_a_part_of_weights_that_were_chosen_is_named_as_it_is_chosen(tmp_path, small, bare):
    """As DINO saves them: a student and a teacher, each with a head that is a network of its own."""
    head = {
        "head.mlp.0.weight": torch.eye(3),
        "head.mlp.0.bias": torch.zeros(3),
        "head.last.weight": torch.eye(3),
    }
    student, teacher = (
        {**around("backbone.", bare(small(name))), **head} for name in ("wrn_tiny", "wrn_10_1")
    )
    torch.save({"student": student, "teacher": teacher}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"backbone\. \(of wrn_10_1\).*: weights=teacher\.backbone takes"):
        read_checkpoint(tmp_path / "weights.pt", weights="teacher")
    read = read_checkpoint(tmp_path / "weights.pt", weights="teacher.backbone")
    assert read.architecture == "wrn_10_1"


def test_what_the_file_says_that_it_is_stands_in_the_refusal(tmp_path, small, bare):
    weights = bare(small())
    del weights["bn2.bias"]
    torch.save({"state_dict": weights, "arch": "wrn_of_mine"}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"\nWhat the file says that it is: wrn_of_mine\.$"):
        read_checkpoint(tmp_path / "weights.pt")
