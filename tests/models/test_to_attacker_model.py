"""Networks in robustness' wrapper do what networks of that package do, and every function here takes them."""

import copy
import re

import pytest
import torch
from torch import nn
from toy_networks import randomized

from repsim.activations import capture, trace
from repsim.attacks import make_attack, run_attack
from repsim.data import Split
from repsim.models import bare, build_model, to_attacker_model
from repsim.studies.cka_maps.layer_maps import layer_cka
from repsim.studies.inversion import invert
from repsim.studies.stitching import StitchOptions, stitch
from repsim.support.compat import import_robustness
from repsim.training import accuracy, predict, robust_accuracy

SHAPE = (3, 16, 16)
NAMES = ["resnet_tiny", "wrn_tiny", "vgg_tiny", "mlp"]


def network(name="resnet_tiny", seed=0, shape=SHAPE):
    return randomized(build_model(name, shape, 5, [0.4] * shape[0], [0.3] * shape[0], seed=seed), seed)


def pixels(count=6, shape=SHAPE, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


# the wrapper


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", [*NAMES, "vit_tiny", "torchvision:shufflenet_v2_x0_5"])
def test_it_answers_as_the_network_does(name):
    shape = (3, 32, 32) if ":" in name else SHAPE
    model = network(name, shape=shape)
    wrapper = to_attacker_model(model)
    assert isinstance(wrapper, import_robustness("attacker").AttackerModel)
    images = pixels(shape=shape)
    with torch.no_grad():
        logits, seen = wrapper(images)
        assert torch.equal(logits, model(images))
        assert torch.equal(seen, images)
        assert torch.equal(wrapper(images, with_image=False), logits)
        (again, latent), _ = wrapper(images, with_latent=True)
    torch.testing.assert_close(again, logits)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(last(latent), logits)
    torch.testing.assert_close(*(bare(each)(images) for each in (wrapper, model)))


def test_it_is_the_same_network():
    model = network()
    wrapper = to_attacker_model(model)
    keys = {f"model.{key}" for key in model.state_dict()}
    attacker = {f"attacker.{key}" for key in keys} | {
        "attacker.normalize.new_mean",
        "attacker.normalize.new_std",
    }
    assert set(wrapper.state_dict()) == keys | attacker | {"normalizer.new_mean", "normalizer.new_std"}
    with torch.no_grad():
        model.fc.bias += 1
    assert torch.equal(wrapper(pixels(), with_image=False), model(pixels()))
    model.fc = nn.Linear(32, 3)
    assert wrapper(pixels(), with_image=False).shape == (6, 3)
    assert type(model(pixels())) is torch.Tensor  # the network itself takes no options still
    with pytest.raises(TypeError):
        model(pixels(), with_latent=True)


@pytest.mark.parametrize("training", [True, False])
def test_it_is_in_the_mode_of_the_network(training):
    model = network().train(training)
    wrapper = to_attacker_model(model)
    assert {module.training for module in wrapper.modules()} == {training}


@pytest.mark.matrix("mlp")
@pytest.mark.parametrize("name", NAMES)
def test_without_its_last_relu(name):
    wrapper = to_attacker_model(network(name))
    with torch.no_grad():
        (_, latent), _ = wrapper(pixels(), with_latent=True)
        (_, before), _ = wrapper(pixels(), with_latent=True, no_relu=True)
    assert before.min() < 0 <= latent.min()
    if name == "mlp":  # elsewhere pooling comes between
        torch.testing.assert_close(before.clamp(min=0), latent)


@pytest.mark.matrix("mlp")
@pytest.mark.parametrize("name", NAMES)
def test_its_last_relu_passes_gradients_if_asked(name):
    model = network(name)
    with torch.no_grad():  # its last ReLU is dead
        if name == "resnet_tiny":
            model.layer3[0].shortcut[1].weight.zero_()
        last = (
            model.hidden[-2]
            if name == "mlp"
            else [m for m in model.modules() if hasattr(m, "running_mean")][-1]
        )
        (model.layer3[0].bn2 if name == "resnet_tiny" else last).bias.fill_(-100.0)
    wrapper = to_attacker_model(model)

    def slope(**options):
        images = pixels().requires_grad_()
        (_, latent), _ = wrapper(images, with_latent=True, **options)
        return torch.autograd.grad(latent.sum(), images)[0].abs().sum()

    assert slope() == 0
    assert slope(fake_relu=True) > 0
    with torch.no_grad():
        assert torch.equal(wrapper(pixels(), fake_relu=True)[0], wrapper(pixels())[0])


def test_options_leave_the_network_as_it_was():
    model = network()
    model.relu1.train()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    wrapper = to_attacker_model(model)
    wrapper(pixels(), with_latent=True, fake_relu=True)
    wrapper(pixels(), with_latent=True, no_relu=True)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_networks_of_other_activations_have_no_last_relu():
    wrapper = to_attacker_model(network("vit_tiny"))
    message = "fake_relu and no_relu are for networks of ReLUs, which VisionTransformer is not."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        wrapper(pixels(), with_latent=True, no_relu=True)


def test_its_own_adversarial_images_need_no_gpu():
    model = network()
    wrapper, labels = to_attacker_model(model), torch.arange(6) % 5
    settings = {"constraint": "inf", "eps": 0.1, "step_size": 0.05, "iterations": 3}
    logits, adversarial = wrapper(pixels(), labels, make_adv=True, **settings)
    assert type(adversarial) is torch.Tensor
    assert (adversarial - pixels()).abs().max() == pytest.approx(0.1, abs=1e-6)
    torch.testing.assert_close(logits, model(adversarial))
    loss = nn.CrossEntropyLoss()
    assert loss(model(adversarial), labels) > loss(model(pixels()), labels)
    center = pixels(seed=1)
    _, around = wrapper(pixels(), labels, make_adv=True, orig_input=center, **settings)
    assert (around - center).abs().max() == pytest.approx(0.1, abs=1e-6)


def test_a_network_that_takes_the_options_is_left_as_it_is():
    theirs = import_robustness("cifar_models").resnet18(num_classes=10)
    assert to_attacker_model(theirs).model is theirs


def test_a_wrapper_is_wrapped_already():
    wrapper = to_attacker_model(network())
    assert to_attacker_model(wrapper) is wrapper


# every function takes it

ATTACK = ("pgd", 0.05)


def stitched(front, end):
    layers = ("layer2.0.relu2",) * 2
    named = [
        f"model.{layers[0]}" if "attacker" in dict(m.named_children()) else layers[0] for m in (front, end)
    ]
    options = StitchOptions(epochs=1, batch_size=3)
    labels = torch.arange(6) % 5
    both, curve = stitch(front, end, *named, pixels(), labels, options, progress=False)
    return both(pixels()), torch.tensor(curve["loss"].to_numpy())


FUNCTIONS = {
    "run_attack": lambda model: run_attack(model, pixels(), torch.arange(6) % 5, make_attack(*ATTACK)),
    "predict": lambda model: predict(model, pixels()),
    "accuracy": lambda model: torch.tensor(accuracy(model, pixels(), torch.arange(6) % 5)),
    "robust_accuracy": lambda model: torch.tensor(
        robust_accuracy(model, Split(pixels(), torch.arange(6) % 5), [make_attack(*ATTACK)])[
            "accuracy"
        ].to_numpy()
    ),
    "transfer": lambda model: torch.tensor(
        robust_accuracy(
            network(seed=1), Split(pixels(), torch.arange(6) % 5), [make_attack(*ATTACK)], source=model
        )["accuracy"].to_numpy()
    ),
    "trace": lambda model: trace(model, SHAPE).network(pixels()),
    "capture": lambda model: torch.cat(
        [value.flatten() for value in capture(model, pixels(), "all").values()]
    ),
    "layer_cka": lambda model: torch.tensor(
        layer_cka(model, network(seed=1), pixels(8), progress=False)["value"].to_numpy()
    ),
    "invert": lambda model: invert(model, pixels(), pixels(seed=1), iterations=3, progress=False).images,
    "stitch, as the front": lambda model: stitched(model, network(seed=1)),
    "stitch, as the end": lambda model: stitched(network(seed=1), model),
}


@pytest.mark.matrix(
    "run_attack", "transfer", "layer_cka", "stitch, as the front", "stitch, as the end", "invert"
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_the_same_for_a_network_and_for_its_wrapper(name):
    expected, found = FUNCTIONS[name](network()), FUNCTIONS[name](to_attacker_model(network()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
