"""Attacks stay in their ball, raise the loss, agree with `robustness`, and leave everything as it was."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from repsim.attacks import (
    ATTACKS,
    JPEG,
    Attack,
    Gabor,
    Snow,
    epsilon_text,
    fgsm,
    make_attack,
    parse_epsilon,
    perturb,
    read_attacks,
    run_attack,
)
from repsim.models import batch_statistics, build_model
from repsim.support.compat import import_robustness
from repsim.support.devices import device_of, evaluating, seeded
from repsim.training import Recipe, train


@pytest.fixture(scope="module")
def trained(tiny_data):
    return train(Recipe.on(tiny_data, "resnet_tiny", epochs=8, batch_size=50), tiny_data, progress=False)[0]


@pytest.fixture(scope="module")
def batch(tiny_data):
    return tiny_data.test.images[:24], tiny_data.test.labels[:24]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def losses(model, images, labels):
    with evaluating(model), torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


def length(difference, norm):
    flat = difference.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


# ε


@pytest.mark.parametrize(
    ("value", "epsilon"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.1", 0.1),
        ("1e-2", 0.01),
        ("2", 2.0),
        (0.25, 0.25),
        ("0", 0.0),
        (0.0, 0.0),
    ],
)
def test_parse_epsilon(value, epsilon):
    parsed = parse_epsilon(value)
    assert type(parsed) is float
    assert parsed == epsilon


@pytest.mark.parametrize(
    "value", ["", "eight", "8/255/2", "1/0", "nan", "inf", "8//255", "1e400", "__import__('os')"]
)
def test_epsilon_that_is_no_number(value):
    message = f"epsilon must be a number or a fraction such as '8/255', not {value!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_epsilon(value)


@pytest.mark.parametrize("value", [-0.1, "-8/255", float("inf"), float("nan")])
def test_epsilon_out_of_range(value):
    message = f"epsilon must be a finite number ≥ 0 in pixel units, not {value!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_epsilon(value)


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.0, "0"),
        (0.05, "0.05"),
        (0.1, "0.1"),
        (0.025, "0.025"),
        (2.0, "2"),
        (1.0, "1"),
        (8 / 255, "8/255"),
        (0.5 / 255, "0.00196078"),
        (1 / 255, "1/255"),
        (0.0123456, "0.0123456"),
    ],
)
def test_epsilon_text(epsilon, text):
    assert epsilon_text(epsilon) == text
    assert parse_epsilon(text) == pytest.approx(epsilon, rel=1e-5)


# settings


def test_step_size_follows_from_epsilon_and_steps():
    assert Attack(0.1, steps=5).step_size == pytest.approx(0.05)
    assert Attack(0.1, steps=5, step_size=0.01).step_size == 0.01


@pytest.mark.usefixtures("unchecked")
def test_epsilon_may_be_written_as_a_fraction():
    assert Attack("8/255").epsilon == 8 / 255


@pytest.mark.usefixtures("unchecked")
def test_unknown_norm():
    with pytest.raises(
        ValueError, match=re.escape("unknown norm 'l_inf'; did you mean 'linf'? Known: linf, l2.")
    ):
        Attack(0.1, "l_inf")
    with pytest.raises(ValueError, match=re.escape("unknown norm 'l1'; did you mean 'l2'")):
        make_attack("pgd", 0.1, "l1")


def test_fgsm_is_one_step_from_the_image():
    assert fgsm("8/255") == Attack(8 / 255, steps=1, step_size=8 / 255, random_start=False)


STEPS = {"fgsm": 1, "apgd_ce": 100, "apgd_dlr": 100, "apgd_t": 100, "autoattack": 100}
KINDS = [(name, norm) for name in ATTACKS for norm in ("linf", "l2")]
KINDS = [kind for kind in KINDS if kind not in (("snow", "l2"), ("gabor", "l2"))]


@pytest.mark.parametrize(("name", "norm"), KINDS)
def test_make_attack(name, norm):
    attack = make_attack(name, "1/10", norm)
    assert (attack.epsilon, attack.norm) == (0.1, norm)
    assert attack.steps == STEPS.get(name, 20)
    assert attack.name == name
    assert make_attack(name, 0.1, norm, steps=attack.steps) == attack
    fixed = name in ("fgsm", "autoattack")
    assert make_attack(name, 0.1, norm, steps=3).steps == (STEPS[name] if fixed else 3)


def test_an_attack_that_is_none_of_fgsms_settings_is_pgd():
    for other in (
        Attack(0.1, steps=1),
        Attack(0.1, steps=1, step_size=0.1),
        Attack(0.1, steps=1, step_size=0.2, random_start=False),
        Attack(0.1, steps=2, step_size=0.1, random_start=False),
    ):
        assert other.name == "pgd"


@pytest.mark.parametrize(
    ("attack", "title"),
    [
        (Attack(0.1, steps=10), "PGD-10 linf 0.1"),
        (Attack(8 / 255, "l2"), "PGD-20 l2 8/255"),
        (fgsm(0.1), "FGSM linf 0.1"),
        (make_attack("apgd_dlr", 0.1), "APGD-DLR-100 linf 0.1"),
        (make_attack("autoattack", 0.5, "l2"), "AutoAttack l2 0.5"),
        (make_attack("snow", 0.25), "SNOW-20 linf 0.25"),
        (make_attack("jpeg", 2, "l2", steps=5), "JPEG-5 l2 2"),
    ],
    ids=["pgd", "l2", "fgsm", "apgd", "autoattack", "snow", "jpeg"],
)
def test_titles(attack, title):
    assert attack.title == title


def test_attacks_by_name_or_with_what_tells_them_apart():
    l2, snow = {"attack": "pgd", "norm": "l2", "epsilon": "2"}, {"attack": "snow", "epsilon": 0.5}
    jpeg = {"attack": "jpeg", "epsilon": 1}
    chosen = [
        "pgd",
        "fgsm",
        l2,
        {"attack": "pgd", "norm": "linf"},
        snow,
        jpeg,
        {**jpeg, "norm": "l2"},
        "gabor",
    ]
    found = read_attacks(chosen, "8/255", steps=7)
    assert list(found.values()) == [
        Attack(8 / 255, steps=7),
        fgsm(8 / 255),
        Attack(2.0, "l2", 7),
        Snow(0.5, steps=7),  # `pgd` in linf is `pgd` again
        JPEG(1.0, steps=7),
        JPEG(1.0, "l2", steps=7),
        Gabor(8 / 255, steps=7),
    ]
    assert all(attack.title == title for title, attack in found.items())
    inside = read_attacks(["pgd", snow], 1.0, "l2")
    assert list(inside.values()) == [Attack(1.0, "l2"), Snow(0.5)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("snw", "unknown attack 'snw'; did you mean 'snow'?"),
        ({"attack": "pgd", "norm": "l3"}, "unknown norm 'l3'; did you mean 'l2'? Known: linf, l2."),
        ({"attack": "snow", "norm": "l2"}, "the attack snow has the norm linf only."),
        ({"atack": "snow"}, "the attack option attack is missing."),
        ({"attack": "snow", "epsilom": 1}, "unknown attack option 'epsilom'; did you mean 'epsilon'?"),
    ],
)
def test_what_is_no_attack(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_attacks([wrong], 0.1)


# the ball


@given(
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.floats(0.001, 3),
    steps=st.integers(1, 4),
    scale=st.floats(0.1, 20),
    random_start=st.booleans(),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_stays_in_the_ball_and_among_pixels(norm, epsilon, steps, scale, random_start, channels, seed):
    model = build_model("mlp", (channels, 6, 6), 4, [0.5] * channels, [0.2] * channels)
    images = torch.rand(5, channels, 6, 6, generator=generator(seed))
    images[0], images[1] = 0, 1  # on the edge of the pixels' range
    attack = Attack(epsilon, norm, steps, scale * epsilon / steps, random_start)
    adversarial = run_attack(model, images, torch.arange(5) % 4, attack)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == images.dtype
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert (length(adversarial - images, norm) <= epsilon * (1 + 1e-5) + 1e-7).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_start_is_inside_the_ball_and_differs_by_image(norm):
    images = torch.full((64, 1, 8, 8), 0.5)
    starts = []

    def loss(x):
        starts.append(x.detach().clone())
        return x.sum()

    torch.manual_seed(0)
    perturb(loss, images, Attack(0.2, norm, steps=1, step_size=0.0))
    away = length(starts[0] - images, norm)
    assert (away > 0).all()
    assert (away <= 0.2 * (1 + 1e-5)).all()
    assert len(away.unique()) > 1 or norm == "l2"  # L2's start is on the surface
    assert not torch.equal(starts[0][0], starts[0][1])


def test_without_random_start_the_first_step_begins_at_the_image(batch):
    starts = []
    perturb(
        lambda x: starts.append(x.detach().clone()) or x.sum(),
        batch[0],
        Attack(0.1, steps=1, random_start=False),
    )
    assert torch.equal(starts[0], batch[0])


def test_a_given_start_is_used(batch):
    starts = []
    start = (batch[0] + 0.01).clamp(0, 1)
    perturb(
        lambda x: starts.append(x.detach().clone()) or x.sum(), batch[0], Attack(0.1, steps=2), start=start
    )
    assert torch.equal(starts[0], start)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_epsilon_gives_the_images(trained, batch, norm):
    adversarial = run_attack(trained, *batch, Attack(0.0, norm))
    assert torch.equal(adversarial, batch[0])
    assert adversarial.data_ptr() != batch[0].data_ptr()


@pytest.mark.matrix("resnet_tiny-l2")
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("architecture", ["resnet_tiny", "vgg_tiny", "mlp", "vit_tiny"])
def test_colour_images_in_any_memory_format(architecture, norm):
    """Training keeps weights channels last, and then so are the gradients, which L2's step cannot view."""
    model = build_model(architecture, (3, 16, 16), 4, [0.5] * 3, [0.2] * 3).to(
        memory_format=torch.channels_last
    )
    images, labels = torch.rand(4, 3, 16, 16, generator=generator()), torch.arange(4)
    attack = Attack(0.5, norm, steps=2)
    plain = run_attack(model, images, labels, attack)
    last = run_attack(model, images.to(memory_format=torch.channels_last), labels, attack)
    assert (length(plain - images, norm) <= 0.5 + 1e-5).all()
    assert torch.equal(plain, last)


# the climb


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "fgsm"])
def test_raises_the_loss(trained, batch, name, norm):
    epsilon = {"linf": 0.1, "l2": 1.0}[norm]
    clean = losses(trained, *batch)
    attacked = losses(trained, run_attack(trained, *batch, make_attack(name, epsilon, norm)), batch[1])
    assert attacked.mean() > clean.mean() + 0.5
    assert (attacked > clean).float().mean() > 0.9


def test_more_epsilon_and_more_steps_raise_it_more(trained, batch):
    def loss(**options):
        return losses(
            trained, run_attack(trained, *batch, Attack(random_start=False, **options)), batch[1]
        ).mean()

    by_epsilon = [loss(epsilon=epsilon) for epsilon in (0.0, 0.02, 0.05, 0.1, 0.2)]
    assert by_epsilon == sorted(by_epsilon)
    by_steps = [loss(epsilon=0.1, steps=steps, step_size=0.02) for steps in (1, 3, 10)]
    assert by_steps == sorted(by_steps)


def test_it_is_the_given_labels_whose_loss_rises(trained, batch):
    images, labels = batch
    wrong = (labels + 1) % 10
    away = losses(trained, run_attack(trained, images, wrong, Attack(0.1)), wrong)
    assert away.mean() > losses(trained, images, wrong).mean()


def test_fgsm_by_hand(trained, batch):
    images, labels = batch
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(trained.eval()(x), labels), x)
    by_hand = (images + 0.05 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(run_attack(trained, images, labels, fgsm(0.05)), by_hand, rtol=0, atol=1e-6)


def test_l2_step_by_hand(trained, batch):
    images, labels = batch
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(trained.eval()(x), labels, reduction="sum"), x)
    direction = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    by_hand = (images + 0.5 * direction).clamp(0, 1)
    torch.testing.assert_close(
        run_attack(trained, images, labels, fgsm(0.5, "l2")), by_hand, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_images_result_depends_on_no_other(trained, batch, norm):
    images, labels = batch
    attack = Attack(0.1, norm, steps=5, random_start=False)
    together = run_attack(trained, images, labels, attack)
    in_parts = run_attack(trained, images, labels, attack, batch_size=7)
    torch.testing.assert_close(in_parts, together, rtol=0, atol=1e-5)


class TakesAnything(nn.Module):
    """A model as `robustness` calls it, and as it normalises: from outside."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images, **_):
        return self.network(images)


@pytest.mark.parametrize(("norm", "constraint", "epsilon"), [("linf", "inf", 0.1), ("l2", "2", 1.0)])
def test_agrees_with_robustness(tiny_data, trained, batch, monkeypatch, norm, constraint, epsilon):
    attacker = import_robustness("attacker")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor)
    bare = build_model("resnet_tiny", tiny_data.image_shape, 10, [0.0], [1.0])
    weights = {
        **trained.state_dict(),
        **{f"normalize.{k}": v for k, v in bare.normalize.state_dict().items()},
    }
    bare.load_state_dict(weights)

    class Statistics:
        mean, std = torch.tensor(tiny_data.mean), torch.tensor(tiny_data.std)

    theirs = attacker.AttackerModel(TakesAnything(bare), Statistics).eval()
    options = {
        "eps": epsilon,
        "step_size": epsilon / 4,
        "iterations": 6,
        "random_start": False,
        "use_best": False,
    }
    _, expected = theirs(*batch, make_adv=True, constraint=constraint, **options)
    found = run_attack(trained, *batch, Attack(epsilon, norm, 6, epsilon / 4, random_start=False))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert length(found - batch[0], norm).mean() > epsilon / 2


# what is left alone


@pytest.mark.parametrize("steps", [1, 7])
def test_one_forward_pass_per_step(trained, batch, steps):
    calls = []
    handle = trained.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    try:
        run_attack(trained, *batch, Attack(0.1, steps=steps))
        assert calls == [24] * steps
        calls.clear()
        run_attack(trained, *batch, Attack(0.1, steps=steps), batch_size=10)
        assert calls == [10] * steps + [10] * steps + [4] * steps
    finally:
        handle.remove()


def modes(model):
    return [module.training for module in model.modules()]


def test_each_modules_mode_is_restored(tiny_data, batch):
    model = build_model("resnet_tiny", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std).train()
    model.bn1.eval()
    model.layer2[0].conv1.eval()
    before = modes(model)
    run_attack(model, *batch, Attack(0.1, steps=1))
    assert modes(model) == before
    with evaluating(model) as same:
        assert same is model
        assert not any(modes(model))
    assert modes(model) == before


def test_modes_are_restored_when_the_model_fails(tiny_data, batch):
    model = build_model("mlp", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std).train()

    def fail(module, inputs):
        raise ZeroDivisionError

    model.classifier.register_forward_pre_hook(fail)
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        run_attack(model, *batch, Attack(0.1))
    assert all(modes(model))
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_gradients_and_running_averages_are_untouched(tiny_data, batch):
    model = build_model("resnet_tiny", tiny_data.image_shape, 10, tiny_data.mean, tiny_data.std).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = batch[0].clone()
    run_attack(model, images, batch[1], Attack(0.1, steps=2))
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(images, batch[0])


def test_the_callers_random_state_is_untouched_and_the_seed_matters(trained, batch):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, again = (run_attack(trained, *batch, Attack(0.1, steps=2), seed=1) for _ in range(2))
    other = run_attack(trained, *batch, Attack(0.1, steps=2), seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("worst", "shown"), [(2.0, "0.2, 2"), (-0.5, "-0.5, 0.2"), (float("nan"), "nan, nan")]
)
def test_images_outside_the_pixel_range_are_refused(trained, worst, shown):
    images = torch.full((2, 1, 16, 16), 0.2)
    images[0, 0, 3, 3] = worst
    message = f"images must have pixels in [0, 1], found [{shown}]. Models normalise inside"
    with pytest.raises(ValueError, match=re.escape(message)):
        run_attack(trained, images, torch.zeros(2, dtype=torch.long), Attack(0.1))


def test_device_of():
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")


# random numbers


def test_seeded_draws_are_the_seeds_and_leave_the_callers_alone():
    cpu = torch.device("cpu")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(7, cpu):
        first = torch.rand(4)
    with seeded(7, cpu):
        again = torch.rand(4)
    with seeded(8, cpu):
        other = torch.rand(4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(4), expected)


def test_seeded_gives_the_callers_state_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(7, torch.device("cpu")):
        torch.rand(4).view(3)
    assert torch.equal(torch.get_rng_state(), before)


# networks and images as their users have them


class Small(nn.Module):
    """A network without BatchNorm, whose output a test may wrap."""

    def __init__(self, give=lambda logits: logits):
        super().__init__()
        self.conv, self.fc, self.give = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), give

    def forward(self, x):
        return self.give(self.fc(self.conv(x).relu().mean((2, 3))))


class InPlace(Small):
    def forward(self, x):
        x.sub_(0.5).div_(0.2)
        return super().forward(x)


class Output(dict):
    """As Hugging Face's ModelOutput: a mapping, by attribute too."""


def small(kind=Small, *arguments):
    torch.manual_seed(0)
    return kind(*arguments).eval()


PHOTOS, CLASSES = torch.rand(6, 3, 10, 10, generator=generator(3)), torch.tensor([0, 1, 2, 3, 0, 1])
EVERY = [make_attack(name, 0.05, steps=2) for name in ATTACKS if name != "autoattack"]
EVERY += [make_attack("pgd", 0.5, "l2", steps=2), make_attack("autoattack", 0.05)]
every = pytest.mark.parametrize("attack", EVERY, ids=lambda attack: f"{attack.name} {attack.norm}")


@pytest.mark.matrix("pgd linf", "apgd_ce linf", "snow linf")
@every
def test_outputs_that_are_no_tensors(attack):
    expected = run_attack(small(), PHOTOS, CLASSES, attack)
    for give in (lambda y: (y, y[:, :2]), lambda y: [y], lambda y: Output(loss=None, logits=y)):
        assert torch.equal(run_attack(small(Small, give), PHOTOS, CLASSES, attack), expected)


@pytest.mark.parametrize(
    ("give", "shown"),
    [
        (lambda y: {"hidden": y}, "dict with hidden"),
        (lambda y: y[:, :, None], "a tensor of shape (6, 4, 1)"),
        (lambda y: None, "NoneType"),
    ],
)
def test_outputs_without_logits_are_refused(give, shown):
    message = (
        "the network puts out no logits, (images, classes): neither as a tensor, nor first in a tuple, nor "
        f"as 'logits' in a mapping. It puts out {shown}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_attack(small(Small, give), PHOTOS, CLASSES, Attack(0.1))


def test_networks_that_are_wrapped():
    expected = run_attack(small(), PHOTOS, CLASSES, Attack(0.1, steps=2))
    wrapped = [
        nn.DataParallel(small()),
        torch.optim.swa_utils.AveragedModel(small()),
        torch.compile(small(), backend="eager"),
        nn.DataParallel(nn.DataParallel(small())),
    ]
    for network in wrapped:
        assert torch.equal(run_attack(network, PHOTOS, CLASSES, Attack(0.1, steps=2)), expected)


def test_hooks_on_a_wrapper_are_kept():
    network = nn.DataParallel(small())
    network.register_forward_hook(lambda module, images, logits: logits.flip(1))
    found = run_attack(network, PHOTOS, CLASSES, Attack(0.1, steps=2))
    flipped = small(Small, lambda logits: logits.flip(1))
    assert torch.equal(found, run_attack(flipped, PHOTOS, CLASSES, Attack(0.1, steps=2)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_network_is_refused():
    exported = torch.export.export(small(), (PHOTOS,))
    compiled = torch.jit.trace(small(), PHOTOS)
    for network, message in (
        (
            compiled,
            "a TorchScript module was compiled for running: hand over the network that it was made of.",
        ),
        (exported, "a torch.export program was compiled for running: hand over the network that it was made"),
        (exported.module(), "a torch.export program was compiled for running: hand over the network that it"),
        (
            lambda x: x,
            "expected a network, a torch.nn.Module, not function: hand over the network itself, not ",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            run_attack(network, PHOTOS, CLASSES, Attack(0.1))


@pytest.mark.matrix("pgd linf", "apgd_ce linf", "snow linf")
@every
@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode])
def test_without_gradients_around(attack, surroundings):
    expected = run_attack(small(), PHOTOS, CLASSES, attack)
    network = small()
    with surroundings():
        images, labels = PHOTOS.clone(), CLASSES.clone()
        assert torch.equal(run_attack(network, images, labels, attack), expected)
        assert not torch.is_grad_enabled()


def test_networks_without_gradients_are_refused():
    network = small()
    network.forward = torch.no_grad()(network.forward)
    for attack in (Attack(0.1), make_attack("apgd_ce", 0.1)):
        with pytest.raises(ValueError, match=r"^the network's logits have no gradient for an attack"):
            run_attack(network, PHOTOS, CLASSES, attack)
    with torch.inference_mode():
        network = small()
    with pytest.raises(ValueError, match=r"^the network's weights were made under torch\.inference_mode"):
        run_attack(network, PHOTOS, CLASSES, Attack(0.1))


@pytest.mark.matrix("pgd linf", "apgd_ce linf", "snow linf")
@every
@pytest.mark.parametrize("network", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_and_images_of_any_precision(attack, network):
    model = small().to(network)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        images = PHOTOS.to(dtype)
        found = run_attack(model, images, CLASSES, attack)
        assert found.dtype == dtype
        assert (found.min() >= 0, found.max() <= 1) == (True, True)
    assert all(weight.dtype == network for weight in model.parameters())


@pytest.mark.matrix("pgd linf", "apgd_ce linf", "snow linf")
@every
def test_a_network_that_works_in_place_leaves_the_images_as_they_are(attack):
    before = PHOTOS.clone()
    found = run_attack(small(InPlace), PHOTOS, CLASSES, attack)
    assert torch.equal(PHOTOS, before)
    assert found.min() >= 0


def test_one_hot_labels_are_classes(batch, trained):
    expected = run_attack(trained, *batch, Attack(0.1))
    for labels in (F.one_hot(batch[1], 10).float(), batch[1].tolist(), batch[1].numpy()):
        assert torch.equal(run_attack(trained, batch[0], labels, Attack(0.1)), expected)


def test_labels_of_a_loss_of_ones_own_are_as_they_are_given():
    seen = []

    def loss(logits, labels, reduction):
        seen.append(labels)
        return F.cross_entropy(logits, labels, reduction=reduction)

    soft = F.one_hot(CLASSES, 4).float()
    run_attack(small(), PHOTOS, soft, Attack(0.1, steps=1), loss=loss)
    assert torch.equal(seen[0], soft)


def test_images_of_a_loader():
    expected = run_attack(small(), PHOTOS, CLASSES, Attack(0.1, steps=2))
    pairs = torch.utils.data.TensorDataset(PHOTOS, CLASSES)
    loader = torch.utils.data.DataLoader(pairs, batch_size=4)
    for images, labels in ((loader, None), (loader, CLASSES), (PHOTOS.numpy(), CLASSES.numpy())):
        assert torch.equal(run_attack(small(), images, labels, Attack(0.1, steps=2)), expected)
    shuffled = torch.utils.data.DataLoader(pairs, batch_size=4, shuffle=True)
    run_attack(small(), shuffled, None, Attack(0.1, steps=2))
    with pytest.raises(ValueError, match=r"give labels=None, which takes them from its batches\.$"):
        run_attack(small(), shuffled, CLASSES, Attack(0.1))


def test_batchnorm_without_running_statistics_is_said():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    network.append(nn.Linear(256, 4)).eval()
    message = r"^BatchNorm without running statistics \(1\) takes those of the batch: what the network makes"
    with pytest.warns(UserWarning, match=message):
        run_attack(network, PHOTOS, CLASSES, Attack(0.1, steps=1))
    assert batch_statistics(network) == ["1"]
    network[1] = nn.BatchNorm2d(4).train()
    assert batch_statistics(network) == ["1"]
    assert batch_statistics(network.eval()) == []
