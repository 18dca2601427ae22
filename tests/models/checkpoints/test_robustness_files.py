"""Files of the `robustness` package, as its own training writes them."""

import argparse
import sys
import warnings

import dill
import pytest
import torch
from cox.utils import Parameters
from torch import nn
from toy_networks import randomized

from repsim.models.checkpoints import read_checkpoint, to_attacker_model
from repsim.support.compat import import_robustness

SHAPE = (3, 32, 32)


class Statistics:
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])


def attacker_model(network):
    return import_robustness("attacker").AttackerModel(network, Statistics).eval()


def write(path, model, name="model", **more):
    """What `robustness.train.train_model` saves, and how: a DataParallel's state, pickled with dill."""
    parallel = nn.DataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    content = {
        name: parallel.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": 7,
        "amp": None,
        **more,
    }
    torch.save(content, path, pickle_module=dill)
    return path


@pytest.fixture
def wrapped(small):
    """A network of ours in their wrapper, which for a network that is not theirs adds one more."""
    return attacker_model(import_robustness("model_utils").DummyModel(small(mean=0.1, std=0.9)))


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["checkpoint.pt.best", "checkpoint.pt.latest"])
def test_a_network_of_theirs(tmp_path, name, rebuilt, pixels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = attacker_model(randomized(import_robustness("cifar_models").resnet18(num_classes=10)))
    read = read_checkpoint(write(tmp_path / name, model, nat_prec1=torch.tensor(91.5)))
    assert read.source == str(tmp_path / name)
    assert read.format == "robustness checkpoint"
    assert read.architecture == "robustness:cifar/resnet18"
    assert (read.num_classes, read.image_shape) == (10, SHAPE)
    assert (read.epoch, read.accuracy) == (7, pytest.approx(0.915))
    assert (read.epsilon, read.norm) == (None, None)
    assert read.mean == pytest.approx(Statistics.mean.tolist())
    assert read.std == pytest.approx(Statistics.std.tolist())
    (taken_out,) = read.notes
    assert taken_out == (
        "Keys begin with module.model.: a robustness checkpoint. Its normaliser comes first in the network; "
        "its attacker, which holds the same weights, was left out."
    )
    assert read.left_open.startswith(
        "Names and shapes of its weights fit robustness:cifar/resnet18, and leave open, among other things: "
        "LeakyReLU"
    )
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(pixels()), model(pixels(), with_image=False))


def test_a_file_that_their_training_wrote(tmp_path, monkeypatch, small, rebuilt, pixels):
    """Their own loop, told that everything is on the GPU already."""
    for kind in (nn.Module, torch.Tensor):
        monkeypatch.setattr(kind, "cuda", lambda self, *arguments, **options: self)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Apex is missing
        train = import_robustness("train")
    settings = {
        **{"out_dir": str(tmp_path), "epochs": 1, "lr": 0.01, "weight_decay": 0.0, "momentum": 0.0},
        **{"adv_train": 1, "adv_eval": 0, "attack_lr": "0.01", "constraint": "inf", "eps": "8/255"},
        **{"attack_steps": 1, "use_best": 1, "random_restarts": 0, "random_start": 0, "step_lr": 10},
        **{"log_iters": 1, "save_ckpt_iters": -1, "mixed_precision": 0, "step_lr_gamma": 0.1},
    }
    batches = [(pixels(count=4), torch.arange(4))]
    model = attacker_model(import_robustness("model_utils").DummyModel(small()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        train.train_model(Parameters(settings), model, (batches, batches))
    read = read_checkpoint(tmp_path / "checkpoint.pt.latest")
    assert (read.architecture, read.epoch, read.accuracy) == ("wrn_tiny", 1, None)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(pixels()), model.eval()(pixels(), with_image=False))


def test_both_normalisers_of_a_network_of_ours_in_their_wrapper(tmp_path, wrapped, rebuilt, pixels):
    read = read_checkpoint(write(tmp_path / "checkpoint.pt", wrapped))
    assert read.architecture == "wrn_tiny"
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(pixels()), wrapped(pixels(), with_image=False))
    assert read.mean[0] == pytest.approx(0.4914 + 0.2023 * 0.1)
    assert read.std[0] == pytest.approx(0.2023 * 0.9)


def test_what_to_attacker_model_makes(tmp_path, small, rebuilt, pixels):
    model = small()
    read = read_checkpoint(write(tmp_path / "checkpoint.pt", to_attacker_model(model)))
    assert read.architecture == "wrn_tiny"
    assert read.mean == pytest.approx([0.4] * 3)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(pixels()), model(pixels()))


def test_older_files_name_the_weights_otherwise(tmp_path, wrapped):
    read = read_checkpoint(write(tmp_path / "old.pt", wrapped, name="state_dict"))
    assert (read.format, read.architecture) == ("robustness checkpoint", "wrn_tiny")


SETTINGS = {"eps": "8/255", "constraint": "inf", "adv_train": 1, "arch": "resnet18"}


@pytest.mark.parametrize("kind", [Parameters, dict, lambda settings: argparse.Namespace(**settings)],
                         ids=["cox", "mapping", "argparse"])  # fmt: skip
def test_settings_say_what_it_was_trained_at(tmp_path, wrapped, kind, monkeypatch):
    path = write(tmp_path / "checkpoint.pt", wrapped, args=kind(SETTINGS))
    monkeypatch.setitem(sys.modules, "cox.utils", None)  # they are read without the package
    read = read_checkpoint(path)
    assert (read.epsilon, read.norm) == (8 / 255, "linf")


@pytest.mark.parametrize(
    ("settings", "epsilon", "norm"),
    [
        ({"eps": 0.5, "constraint": "2", "adv_train": 1}, 0.5, "l2"),
        ({"eps": 0.5, "constraint": "2", "adv_train": 0}, 0.0, "l2"),
        ({"epsilon": 0.031}, 0.031, None),
        ({"eps": "wide", "constraint": "fourier"}, None, None),
        ({}, None, None),
    ],
)
def test_settings(tmp_path, wrapped, settings, epsilon, norm):
    read = read_checkpoint(write(tmp_path / "checkpoint.pt", wrapped, args=settings))
    assert (read.epsilon, read.norm) == (epsilon, norm)


def test_settings_come_before_names(tmp_path, wrapped):
    path = write(tmp_path / "cifar_l2_0_5.pt", wrapped)
    read = read_checkpoint(path)
    assert (read.epsilon, read.norm) == (0.5, "l2")
    assert "ε = 0.5 and l2 are from its name." in read.notes
    read = read_checkpoint(write(path, wrapped, args={"eps": 0.1, "constraint": "inf"}))
    assert (read.epsilon, read.norm) == (0.1, "linf")
    assert not any("its name" in note for note in read.notes)
