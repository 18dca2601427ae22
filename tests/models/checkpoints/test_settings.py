"""What files, their settings and their names say: ε with its unit, norm, and the name of the architecture."""

import argparse

import pytest
import torch

from repsim.models.checkpoints import read_checkpoint
from repsim.models.checkpoints.settings import architectures, from_name, read_facts


@pytest.mark.parametrize(
    ("settings", "epsilon", "norm", "note"),
    [
        ({"epsilon": 8, "norm": "l_inf"}, 8 / 255, "linf", "epsilon = 8 in its settings is read as 8/255"),
        ({"epsilon": 8}, 8 / 255, None, "is read as 8/255, in levels of 255: give epsilon= if it is not."),
        ({"epsilon": "8", "norm": "inf"}, 8 / 255, "linf", "is read as 8/255"),
        ({"epsilon": 128, "norm": "l_2"}, 128 / 255, "l2", "is read as 128/255"),
        ({"attack_eps": 8 / 255, "attack_norm": "linf"}, 8 / 255, "linf", ""),
        ({"eps": "8. / 255.", "norm": "linf"}, 8 / 255, "linf", ""),
        ({"eps": 0.3, "norm": "linf"}, 0.3, "linf", ""),
        ({"eps": 3, "norm": "l2"}, 3, "l2", ""),
        ({"eps": 0.031}, 0.031, None, ""),
        (
            {"eps": 1e-8, "epsilon": 8, "norm": "linf"},
            8 / 255,
            "linf",
            "epsilon = 8",
        ),  # an optimizer's before
        ({"eps": 1e-8, "lr": 0.1}, None, None, ""),
        (
            {"eps": 1e-3},
            None,
            None,
            "eps = 0.001 in its settings may be an optimizer's, and is not read as ε",
        ),
        ({"eps": 0.5}, None, None, "eps = 0.5 in its settings is of a unit and a norm that it does not say"),
        ({"eps": 12.5}, None, None, "is of a unit and a norm that it does not say: give epsilon= and norm=."),
        (
            {"eps": 100, "norm": "linf"},
            None,
            "linf",
            "eps = 100 in its settings is no ε of L∞: give epsilon=.",
        ),
        ({"adv_train": 0, "eps": 8, "norm": "linf"}, 0, "linf", ""),
    ],
)
def test_an_epsilon_in_settings_is_read_with_its_unit_or_asked_for(settings, epsilon, norm, note):
    facts, notes = read_facts({"args": argparse.Namespace(**settings)})
    assert facts.get("norm") == norm
    assert facts.get("epsilon") == (None if epsilon is None else pytest.approx(epsilon))
    assert note in " ".join(notes)
    assert bool(note) == bool(notes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18_l2_eps3.ckpt", ("l2", 3)),
        ("resnet18_l2_eps0.ckpt", ("l2", 0)),
        ("wide_resnet50_4_l2_eps0.01.ckpt", ("l2", 0.01)),
        ("resnet50_linf_eps4.0.ckpt", ("linf", 4 / 255)),
        ("resnet50_linf_eps0.5.ckpt", ("linf", 0.5 / 255)),
        ("cifar_l2_0_25.pt", ("l2", 0.25)),
        ("imagenet_l2_3_0.pt", ("l2", 3)),
        ("cifar_linf_8.pt", ("linf", 8 / 255)),
        ("wrn_linf_0.03.pt", ("linf", 0.03)),
        ("resnet18_linf_8_255.pt", ("linf", 8 / 255)),
        ("resnet18_linf_8-255.pt", ("linf", 8 / 255)),
        ("resnet18_l2_128_255.pt", ("l2", 128 / 255)),
        ("Linf_eps8.pt", ("linf", 8 / 255)),
        ("eps8_linf_seed3.pth.tar", ("linf", 8 / 255)),
        ("x_l_inf_8.pth", ("linf", 8 / 255)),
        ("wrn_eps8_255.pt", (None, 8 / 255)),
        ("wrn_eps0.pt", (None, 0)),
        ("wrn_eps8.pt", None),  # of a norm that it does not say, and so of any unit
        ("wrn_linf_8_2.pt", None),
        ("wrn_l2_1_5.pt", None),
        ("wrn_l2_128.pt", None),
        ("wrn_linf_100.pt", None),
        ("linf_4_and_l2_3.pt", None),
        ("checkpoint.pt.best", None),
        ("model_l2_norm.pt", None),
        ("shell2_3.pt", None),
    ],
)
def test_names_say_what_a_network_was_trained_at(name, expected):
    found = from_name(name)
    norm, epsilon = expected or (None, None)
    assert found.get("norm") == norm
    assert found.get("epsilon") == (None if epsilon is None else pytest.approx(epsilon))


def test_a_name_counts_where_settings_are_silent_and_do_not_contradict():
    facts, notes = read_facts({"args": {"eps": 3}}, "cifar_l2_eps1.pt")
    assert (facts, notes) == ({"norm": "l2", "epsilon": 3.0}, [])
    facts, notes = read_facts({"args": {"norm": "linf"}}, "cifar_l2_eps1.pt")
    assert (facts, notes) == ({"norm": "linf"}, [])


def test_names_of_the_architecture_are_collected():
    content = {
        "arch": "preactresnet18",
        "net": {"conv.weight": torch.zeros(1, 1, 1, 1)},
        "hyper_parameters": {"model": {"name": "wrn"}, "arch": "preactresnet18", "backbone": None},
    }
    assert architectures(content) == ["preactresnet18", "wrn"]
    assert architectures(torch.zeros(1)) == []


def test_lightning_hyper_parameters(tmp_path, small):
    content = {
        "state_dict": {f"model.{key}": value for key, value in small().state_dict().items()},
        "hyper_parameters": {"eps": "4/255", "norm": "Linf"},
        "epoch": 9,
    }
    torch.save(content, tmp_path / "last.ckpt")
    read = read_checkpoint(tmp_path / "last.ckpt")
    assert (read.epsilon, read.norm, read.epoch) == (4 / 255, "linf", 9)


@pytest.mark.parametrize("value", [1, 2.0, 3, 5])
def test_a_whole_number_that_may_be_of_l2_is_asked_for(value):
    facts, notes = read_facts({"args": {"epsilon": value}}, "model.pt")
    assert facts == {}
    said = f"epsilon = {value:g} in its settings is of a unit and a norm that it does not say: "
    assert notes == [f"{said}give epsilon= and norm=."]
