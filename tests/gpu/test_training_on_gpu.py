"""Random numbers, attacks and training on a GPU."""

import copy
import dataclasses

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from repsim.activations.trial import watched_randomness
from repsim.attacks import APGD, Attack, AutoAttack, fgsm, make_attack, run_attack
from repsim.data import Augmentation
from repsim.models import build_model, to_attacker_model
from repsim.support.devices import lay_out, resolve_device, seeded, training_format
from repsim.training import Recipe, accuracy, augmented, model_store, predict, robust_accuracy, train

EPSILON = 0.1
WAYS = {
    "standard": {},
    "pgd": {"method": "pgd", "epsilon": EPSILON, "attack_steps": 2},
    "pgd l2": {"method": "pgd", "epsilon": 1.0, "norm": "l2", "attack_steps": 2, "attack_ratio": 0.5},
    "trades": {"method": "trades", "epsilon": EPSILON, "attack_steps": 2},
}


def recipe_on(data, fitting_method="pgd", **options):
    return Recipe.on(data, "resnet_tiny", batch_size=50, epochs=2, **{**WAYS[fitting_method], **options})


def weights(network):
    return {name: value.detach().cpu() for name, value in network.state_dict().items()}


# devices


def test_the_device_is_the_accelerator(device, on_gpu):
    assert resolve_device("auto").type == resolve_device("cuda:0").type == device.type
    assert training_format(device) == torch.channels_last


def test_a_device_that_is_not_there_is_refused_by_its_name(tiny_data, committed):
    there = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"there is no device 'cuda:{there + 7}' here"):
        train(recipe_on(tiny_data), tiny_data, device=f"cuda:{there + 7}", progress=False)
    with pytest.raises(ValueError, match="unknown device 'cudda'; did you mean 'cuda'"):
        dataclasses.replace(committed(), device="cudda").at_epoch(30)


def test_random_numbers_are_those_of_the_seed_and_others_go_on(device):
    def draw():
        return torch.cat([torch.rand(3), torch.rand(3, device=device).cpu()])

    with seeded(5, device):
        expected = draw()
    torch.manual_seed(1)
    following = draw()
    torch.manual_seed(1)
    with seeded(5, device):
        assert torch.equal(draw(), expected)
    assert torch.equal(draw(), following)
    with watched_randomness(device) as seen:
        torch.rand(1, device=device)
    assert seen.torch
    assert not torch.equal(expected[:3], following[:3])


def test_work_on_the_cpu_leaves_the_random_numbers_of_a_gpu_alone(on_gpu):
    before = torch.cuda.get_rng_state()
    with seeded(5, torch.device("cpu")):
        torch.rand(3)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_network_is_built_as_on_the_cpu(device):
    expected = weights(build_model("resnet_tiny", (1, 16, 16), 10, [0.5], [0.2], seed=3))
    with torch.device(device):
        network = build_model("resnet_tiny", (1, 16, 16), 10, [0.5], [0.2], seed=3).to(device)
    assert {name: value.shape for name, value in weights(network).items()} == {
        name: value.shape for name, value in expected.items()
    }


@pytest.mark.parametrize("fitting_method", [{"crop": 2}, {"flip": True}, {"resized_crop": True}])
def test_images_are_augmented_as_on_the_cpu(device, tiny_data, alike, fitting_method):
    images, augmentation = tiny_data.train.images[:40], Augmentation(**fitting_method)
    found = []
    for where in ("cpu", device):
        with seeded(0, torch.device(where)):
            found.append(augmented(images.to(where), augmentation))
    assert found[1].device.type == device.type
    alike(found[1], found[0], 1e-4)


# attacks


@pytest.fixture(scope="module")
def some(tiny_data):
    return tiny_data.test.images[:40], tiny_data.test.labels[:40]


@pytest.mark.parametrize(
    "attack",
    [
        Attack(EPSILON, steps=5),
        Attack(1.0, "l2", steps=5),
        fgsm(EPSILON),
        APGD(EPSILON, steps=10),
        APGD(EPSILON, steps=5, loss="t"),
        make_attack("snow", 0.25, steps=3),
        make_attack("jpeg", 0.4, steps=3),
        make_attack("gabor", 0.35, steps=3),
    ],
    ids=lambda attack: f"{attack.name} {attack.norm}",
)
def test_an_attack_fools_as_many_as_on_the_cpu(device, committed, some, attack):
    if isinstance(attack, APGD):
        pytest.importorskip("pyautoattack")
    images, labels = some
    here, there = committed(where="cpu").network, committed().network
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    found = run_attack(there, images.to(device), labels, attack)
    assert torch.equal(torch.rand(1), before)
    assert found.device.type == device.type
    assert run_attack(there, images, labels.to(device), attack).device == images.device
    assert found.min() >= 0
    assert found.max() <= 1
    change = (found.cpu() - images).flatten(1)
    if attack.name not in ("snow", "jpeg", "gabor"):
        size = change.abs().amax(1) if attack.norm == "linf" else change.norm(dim=1)
        assert size.max() <= attack.epsilon + 1e-5
    expected = accuracy(here, run_attack(here, images, labels, attack), labels)
    assert expected < accuracy(here, images, labels) - 0.2
    assert accuracy(there, found, labels) == pytest.approx(expected, abs=0.15)


def test_distortions_draw_the_same_on_every_device(device, committed, some):
    images, labels = some
    attack = make_attack("gabor", 0.35, steps=1)
    step = dataclasses.replace(attack, step_size=1e-9)  # begins as it is drawn, and stays there
    here = run_attack(committed(where="cpu").network, images, labels, step)
    there = run_attack(committed().network, images, labels, step)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-4)


def test_autoattack_fools_more_than_pgd(committed, some):
    pytest.importorskip("pyautoattack")
    images, labels = (each[:12] for each in some)
    attacks = [Attack(EPSILON, steps=5), AutoAttack(EPSILON)]
    found = [run_attack(committed().network, images, labels, attack) for attack in attacks]
    reached = [accuracy(committed().network, each, labels) for each in found]
    assert reached[1] <= reached[0]
    assert found[1].device == images.device


def test_an_attacker_model_attacks_where_its_images_are(device, committed, some):
    images, labels = (each.to(device) for each in some)
    wrapped = to_attacker_model(copy.deepcopy(committed().network))
    options = {"constraint": "inf", "eps": EPSILON, "step_size": 0.05, "iterations": 5}
    logits, adversarial = wrapped(images, labels, make_adv=True, **options)
    assert adversarial.device.type == logits.device.type == device.type
    assert (adversarial - images).abs().max() <= EPSILON + 1e-5
    assert accuracy(wrapped, adversarial, labels) < accuracy(committed().network, images, labels) - 0.2


# training


@pytest.mark.parametrize("fitting_method", WAYS)
def test_training_learns_as_on_the_cpu(device, tiny_data, fitting_method):
    recipe = recipe_on(tiny_data, fitting_method)
    recipe = dataclasses.replace(recipe, epochs=8 if fitting_method == "standard" else 2)
    network, curve = train(recipe, tiny_data, device=device.type, progress=False)
    _, expected = train(recipe, tiny_data, device="cpu", progress=False)
    assert all(value.device.type == device.type for value in network.parameters())
    assert not network.training
    # bfloat16 there: each step differs in the third digit
    assert curve["loss"].iloc[0] == pytest.approx(expected["loss"].iloc[0], rel=0.2)
    if fitting_method == "standard":
        assert curve["accuracy"].iloc[-1] > 0.7
        assert accuracy(network, tiny_data.test.images, tiny_data.test.labels) > 0.6


@pytest.mark.parametrize("fitting_method", WAYS)
def test_training_twice_makes_the_same_weights(device, tiny_data, monkeypatch, fitting_method):
    """With cuDNN's deterministic ways, bit for bit."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    first, second = (
        weights(train(recipe_on(tiny_data, fitting_method), tiny_data, device=device.type, progress=False)[0])
        for _ in range(2)
    )
    for name, value in first.items():
        assert torch.equal(second[name], value), name


class Killed(Exception):
    pass


@pytest.mark.parametrize(("begun", "ended"), [("there", "there"), ("there", "here"), ("here", "there")])
def test_training_is_resumed_on_either_device(device, tiny_data, tmp_path, monkeypatch, begun, ended):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    where = {"here": "cpu", "there": device.type}
    checkpoint = tmp_path / "training"
    recipe = dataclasses.replace(recipe_on(tiny_data), epochs=3)

    def kill(epoch, network):
        if epoch == 2:
            raise Killed

    whole, curve = train(recipe, tiny_data, device=where[begun], progress=False)
    with pytest.raises(Killed):
        train(
            recipe,
            tiny_data,
            device=where[begun],
            progress=False,
            checkpoint=checkpoint,
            on_epoch=kill,
        )
    resumed, found = train(recipe, tiny_data, device=where[ended], progress=False, checkpoint=checkpoint)
    assert all(value.device.type == where[ended] for value in resumed.parameters())
    pd.testing.assert_frame_equal(found[:1], curve[:1])
    assert len(found) == 3
    if begun == ended:
        pd.testing.assert_frame_equal(found, curve)
        for name, value in weights(whole).items():
            assert torch.equal(weights(resumed)[name], value), name
    else:
        assert found["loss"].iloc[-1] == pytest.approx(curve["loss"].iloc[-1], rel=0.3)


def test_a_network_made_on_a_gpu_is_found_on_the_cpu(device, tiny_data):
    recipe = recipe_on(tiny_data, "standard")
    made = model_store.obtain(recipe, tiny_data, device=device.type, progress=False)
    found = model_store.find(recipe, "cpu")
    assert {value.device.type for value in made.network.parameters()} == {device.type}
    assert {value.device.type for value in found.network.parameters()} == {"cpu"}
    for name, value in weights(made.network).items():
        assert torch.equal(weights(found.network)[name], value)
    there, here = (predict(each.network, tiny_data.test.images) for each in (made, found))
    torch.testing.assert_close(there, here, rtol=0, atol=0.02 * float(here.abs().max()))


def test_accuracies_are_those_of_the_cpu(committed, tiny_data):
    attacks = [Attack(0.0), Attack(EPSILON, steps=3)]
    found, expected = (
        robust_accuracy(committed("resnet_tiny", 0.1, where=where).network, tiny_data.test, attacks)
        for where in (committed().device, "cpu")
    )
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0.04)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_network_computes_the_same_in_either_format(
    device, committed, tiny_data, alike, exact, memory_format
):
    network = lay_out(copy.deepcopy(committed().network), memory_format)
    images = tiny_data.test.images[:20].to(device)
    with torch.no_grad():
        found = network(images.contiguous(memory_format=memory_format))
        alike(found, committed().network(images), 1e-4)
    assert F.softmax(found, 1).isfinite().all()
