"""Memory formats; modes and random numbers where several threads work at once."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from repsim.attacks import Attack, run_attack
from repsim.models import build_model
from repsim.studies.probing import Probe
from repsim.studies.probing.store import Probed
from repsim.support.devices import evaluating, laid_out, lay_out, seeded, training_format
from repsim.training import Recipe, train

CPU = torch.device("cpu")
ATTACK = Attack(0.1, steps=5)


@pytest.fixture
def network(tiny_data):
    """In training mode, but for two frozen modules, one of them within another."""
    network = build_model("resnet_tiny", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std).train()
    network.bn1.eval()
    network.layer2.eval()
    return network


@pytest.fixture
def images(tiny_data):
    return tiny_data.test.images[:40]


def modes(network):
    return {name: module.training for name, module in network.named_modules()}


def at_once(*functions):
    """What functions return, each called by a thread of its own, all of them at the same time."""
    together = threading.Barrier(len(functions))

    def call(function):
        together.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))


# memory formats


@pytest.mark.parametrize(
    ("device", "threads", "expected"),
    [
        ("cpu", 1, torch.channels_last),
        ("cpu", 2, torch.contiguous_format),
        ("cpu", 3, torch.contiguous_format),
        ("cuda", 2, torch.channels_last),
    ],
)
def test_channels_last_is_for_accelerators_and_for_one_thread(monkeypatch, device, threads, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert training_format(torch.device(device)) == expected


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (5, 1, 4, 6), (5, 3, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("before", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_the_strides_of_another_format_are_taken_off_also_where_they_mean_the_same(
    shape, before, memory_format
):
    """Maps of one channel or of one pixel are in both formats at once, as `is_contiguous` has it."""
    values = torch.rand(shape)
    tensor = torch.empty(shape, memory_format=before).copy_(values)
    found = laid_out(tensor, memory_format)
    assert torch.equal(found, values)
    assert found.stride() == torch.empty(shape, memory_format=memory_format).stride()
    assert laid_out(found, memory_format) is found


def test_a_network_is_laid_out_in_place(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = list(network.parameters())
    for memory_format in (torch.channels_last, torch.contiguous_format):
        assert lay_out(network, memory_format) is network
        assert all(one is other for one, other in zip(network.parameters(), weights, strict=True))
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(laid_out(value, memory_format) is value for value in network.parameters())


# modes


def test_modes_are_as_before_after_nested_blocks(network):
    before = modes(network)
    with evaluating(network):
        with evaluating(network.layer1), evaluating(network):
            assert not any(modes(network).values())
        assert not any(modes(network).values())
    assert modes(network) == before


def test_a_part_that_two_networks_share_goes_back_with_the_last_of_them(network):
    first, second = (nn.Sequential(network.layer1, nn.Dropout()) for _ in range(2))
    one, other = evaluating(first), evaluating(second)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert first[1].training
    assert not network.layer1.training
    assert not second[1].training
    other.__exit__(None, None, None)
    assert network.layer1.training
    assert second[1].training


class Refusing(nn.Module):
    """Cannot be put into evaluation mode."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout()

    def eval(self):
        self.dropout.eval()
        raise ZeroDivisionError


def test_a_network_that_cannot_be_evaluated_keeps_its_modes():
    network = Refusing()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), evaluating(network):
            raise AssertionError("never inside")
        assert all(modes(network).values())
    with evaluating(network.dropout):
        assert not network.dropout.training
    assert network.dropout.training


def test_modes_are_as_before_when_one_of_several_threads_fails(network):
    before = modes(network)

    def fail():
        with pytest.raises(ZeroDivisionError), evaluating(network):
            raise ZeroDivisionError

    def look():
        with evaluating(network):
            return any(modes(network).values())

    assert at_once(fail, look, fail, look) == [None, False, None, False]
    assert modes(network) == before


def test_a_copy_that_is_made_meanwhile_is_one_of_its_own(network):
    before = modes(network)
    with evaluating(network):
        copied = copy.deepcopy(network)
    assert modes(network) == before
    assert not any(modes(copied).values())
    copied.train()
    with evaluating(copied):
        assert modes(network) == before
    assert all(modes(copied).values())


# random numbers


@pytest.mark.slow
def test_threads_that_attack_one_network_at_once_leave_it_as_it_was(network, images):
    labels = torch.zeros(len(images)).long()
    before = modes(network)

    def attack():
        return run_attack(network, images, labels, ATTACK, batch_size=10)

    alone = attack()
    for found in at_once(*[attack] * 8):
        assert torch.equal(found, alone)
    assert modes(network) == before
    assert all(weight.grad is None for weight in network.parameters())


def test_threads_that_train_at_once_make_the_weights_of_one_after_the_other(tiny_data):
    recipes = [
        Recipe.on(tiny_data, "vgg_tiny", epochs=3, batch_size=50, seed=1),
        Recipe.on(tiny_data, "vit_tiny", method="pgd", epsilon=0.1, attack_steps=2, epochs=2, seed=2),
    ]

    def training(recipe):
        return lambda: train(recipe, tiny_data, device="cpu", progress=False)[0].state_dict()

    alone = [training(recipe)() for recipe in recipes]
    for found, expected in zip(at_once(*map(training, recipes)), alone, strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_threads_that_build_at_once_build_what_one_alone_builds():
    def building(seed):
        return lambda: build_model("vgg_tiny", (1, 16, 16), 10, [0.5], [0.2], seed).state_dict()

    alone = [building(seed)() for seed in range(4)]
    before = torch.get_rng_state()
    for _ in range(5):
        for found, expected in zip(at_once(*map(building, range(4))), alone, strict=True):
            assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_of_random_numbers_may_be_nested():
    with seeded(1, CPU):
        expected = torch.rand(6)
    with seeded(1, CPU):
        first = torch.rand(3)
        with seeded(2, CPU):
            torch.rand(4)
        assert torch.equal(torch.cat([first, torch.rand(3)]), expected)


def test_random_numbers_of_the_cpu_leave_accelerators_alone(monkeypatch):
    """`torch.manual_seed` would seed them too, and nobody would give the caller's states back."""
    asked = []
    for accelerator in (torch.cuda, torch.mps, torch.xpu):
        monkeypatch.setattr(accelerator, "manual_seed", asked.append)
    for accelerator in (torch.cuda, torch.xpu):
        monkeypatch.setattr(accelerator, "manual_seed_all", asked.append)
    with seeded(7, CPU):
        drawn = torch.rand(4)
    assert asked == []
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(7)))


def test_a_probed_network_draws_no_random_numbers():
    before = torch.get_rng_state()
    probe = Probe(torch.rand(3, 4, generator=torch.Generator()), torch.zeros(3), None)
    probed = Probed(nn.Flatten(), probe, None)
    assert torch.equal(torch.get_rng_state(), before)
    features = torch.rand(2, 4, generator=torch.Generator())
    assert torch.equal(probed(features[:, :, None, None]), probe.logits(features))
