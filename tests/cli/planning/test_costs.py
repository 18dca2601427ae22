"""Passes are counted, and one is measured on the device."""

import dataclasses

import pytest
import torch

from repsim.cli.planning.costs import (
    FORWARD,
    Network,
    cost,
    duration,
    memory_of,
    passes_of_one,
    size,
    stitch_passes,
    training_passes,
)
from repsim.studies.stitching import StitchOptions
from repsim.support import devices
from repsim.training import Recipe

ROBUST = {"method": "pgd", "epsilon": 0.1, "attack_steps": 7}


def test_a_pass_is_measured():
    small, large = (Network("resnet_tiny", (1, side, side), 10) for side in (8, 32))
    deep = Network("resnet_tiny_deep", (1, 8, 8), 10)
    for network in (small, large, deep):
        assert 0 < cost(network, "cpu").seconds < 1
    assert cost(large, "cpu").kept == pytest.approx(16 * cost(small, "cpu").kept, rel=0.1)
    assert cost(deep, "cpu").kept > 1.5 * cost(small, "cpu").kept
    assert cost(deep, "cpu").weights > cost(small, "cpu").weights == cost(large, "cpu").weights
    assert cost(small, "cpu") is cost(Network("resnet_tiny", (1, 8, 8), 10), "cpu")


def test_what_is_kept_is_what_a_layer_by_layer_count_gives():
    """Of an MLP, linear layers keep their inputs, which are the outputs that the ReLUs keep."""
    network = Network("mlp", (1, 4, 4), 10)
    kept = cost(network, "cpu").kept
    floats = 16 + 3 * 64 + 10  # the normalised image, three hidden layers, log-probabilities
    assert 4 * floats <= kept <= 4 * 2 * floats


def test_a_dry_run_refuses_what_this_processor_would_train_slowly(monkeypatch):
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match=r"^this processor does not multiply bfloat16 itself"):
        cost(Network("mlp", (1, 4, 4), 3, "bfloat16"), "cpu")


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, 1),
        (ROBUST, 8),
        ({**ROBUST, "attack_ratio": 0.5}, 4.5),
        ({**ROBUST, "method": "trades"}, 9 + FORWARD),
        ({**ROBUST, "training_attack": "fgsm", "held_out": 10}, 2 + 20 * 10 / 200),
        ({**ROBUST, "training_attack": "free", "held_out": 10, "attack_steps": 4}, 4 + 20 * 10 / 200),
    ],
    ids=["standard", "pgd", "half", "trades", "fgsm", "free"],
)
def test_passes_of_one_image(tiny_data, settings, passes):
    recipe = Recipe.on(tiny_data, "mlp", epochs=3, **settings)
    watched = 20 * recipe.held_out / 200 if recipe.is_cheap else 0
    assert passes_of_one(recipe) == pytest.approx(passes - watched)
    measured = len(tiny_data.test) * (FORWARD + (20 if settings else 0))
    assert training_passes(recipe, tiny_data) == pytest.approx(3 * 200 * passes + measured)
    assert training_passes(dataclasses.replace(recipe, epochs=6), tiny_data) == pytest.approx(
        6 * 200 * passes + measured
    )


def test_passes_of_a_stitch():
    plain = StitchOptions(epochs=4)
    attacked = StitchOptions(epochs=4, method="pgd", epsilon=0.1, attack_steps=5)
    fooled = attacked.but(attacked="front")
    matched = StitchOptions(method="orthogonal")
    found = [stitch_passes(each, 100) for each in (plain, attacked, fooled, matched)]
    assert found == pytest.approx([400, 2400, 900, 200 / 3])


def test_durations_and_sizes_are_told_as_people_do():
    told = [duration(each) for each in (0, 0.2, 45, 119, 300, 9000, 40000, 1e6, 1e7)]
    assert told == ["–", "< 1 s", "45 s", "119 s", "5 min", "2.5 h", "11 h", "12 days", "116 days"]
    assert size(12.34e9) == "12.3 GB"
    assert memory_of(torch.device("cpu")) > 1e8
