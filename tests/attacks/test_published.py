"""APGD and AutoAttack, by the real package: stronger than PGD, quiet, and leaving everything as it was."""

import logging
import random
import re
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repsim.attacks import APGD, AutoAttack, fgsm, run_attack
from repsim.models import build_model
from repsim.training import accuracy

QUICK = {
    "apgd_ce": APGD(0.05, steps=5),
    "apgd_dlr": APGD(0.05, steps=5, loss="dlr"),
    "apgd_t": APGD(0.05, steps=5, loss="t"),
    "l2": APGD(0.5, "l2", steps=5),
}
each = pytest.mark.parametrize("kind", QUICK)


def of_classes(classes):
    return build_model("mlp", (1, 8, 8), classes, [0.5], [0.2], seed=1)


def images_of(count):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@each
def test_fools_inside_the_ball(trained, tiny_data, kind):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    attack = QUICK[kind]
    found = run_attack(trained, images, labels, attack)
    assert found.shape == images.shape
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    away = (found - images).flatten(1)
    length = away.norm(dim=1) if attack.norm == "l2" else away.abs().amax(1)
    assert (length <= attack.epsilon * (1 + 1e-4)).all()
    assert accuracy(trained, found, labels) < accuracy(trained, images, labels) - 0.2


def test_more_epsilon_fools_more(trained, tiny_data):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    found = [
        accuracy(trained, run_attack(trained, images, labels, APGD(epsilon, steps=5)), labels)
        for epsilon in (0.0, 0.03, 0.15)
    ]
    assert found[0] > found[1] > found[2]
    assert found[0] == accuracy(trained, images, labels)


@pytest.mark.slow
def test_more_steps_fool_no_fewer(trained, tiny_data):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    few, many = (
        accuracy(trained, run_attack(trained, images, labels, APGD(0.04, steps=steps)), labels)
        for steps in (2, 20)
    )
    assert many < few


@pytest.mark.matrix
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 1.5)])
def test_autoattack_fools_more_than_one_step(trained, batch, norm, epsilon):
    images, labels = batch[0][:8], batch[1][:8]
    weak = run_attack(trained, images, labels, fgsm(epsilon / 2, norm))
    strong = run_attack(trained, images, labels, AutoAttack(epsilon, norm))
    assert accuracy(trained, strong, labels) == 0 < accuracy(trained, weak, labels)
    away = (strong - images).flatten(1)
    length = away.norm(dim=1) if norm == "l2" else away.abs().amax(1)
    assert (length <= epsilon * (1 + 1e-4)).all()


@pytest.mark.slow
def test_autoattack_where_none_of_its_attacks_can_fool():
    """All four are gone through, on a network of fewer classes than they would aim at."""
    model, images = of_classes(4), images_of(2)
    with torch.no_grad():
        labels = model(images).argmax(1)
    assert torch.equal(run_attack(model, images, labels, AutoAttack(1e-5)), images)


def test_an_image_that_it_cannot_fool_is_returned_as_it_is(trained, tiny_data):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    found = run_attack(trained, images, labels, APGD(0.03, steps=2))
    kept = (found == images).all(dim=(1)).flatten(1).all(1)
    with torch.no_grad():
        right = trained(found).argmax(1) == labels
        known = trained(images).argmax(1) == labels
    assert torch.equal(kept, right | ~known)
    assert 0 < (kept & right).sum() < len(images)


def test_which_loss_matters(trained, batch):
    few = batch[0][:8], batch[1][:8]
    found = [run_attack(trained, *few, QUICK[kind]) for kind in ("apgd_ce", "apgd_dlr", "apgd_t")]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.usefixtures("unchecked")
def test_unknown_loss():
    message = "unknown loss of APGD 'cw'; did you mean 'ce'? Known: ce, dlr, t."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        APGD(0.1, loss="cw")


# classes


@pytest.mark.parametrize(
    ("attack", "classes"),
    [(APGD(0.2, steps=2), 2), (APGD(0.2, steps=2, loss="dlr"), 3), (APGD(0.2, steps=2, loss="t"), 4)],
    ids=["ce", "dlr", "t"],
)
def test_few_classes(attack, classes):
    images, model = images_of(6), of_classes(classes)
    with torch.no_grad():
        labels = model(images).argmax(1)
    assert accuracy(model, run_attack(model, images, labels, attack), labels) < 1
    if classes == 2:
        return
    message = (
        f"{attack.name} needs a model of at least {classes} classes, not {classes - 1}: its loss compares "
        f"the {classes} largest logits. apgd_ce does with two."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_attack(of_classes(classes - 1), images, labels % (classes - 1), attack)


@pytest.mark.slow
def test_autoattack_on_few_classes():
    images = images_of(6)
    model = of_classes(4)
    with torch.no_grad():
        labels = model(images).argmax(1)
    found = run_attack(model, images, labels, AutoAttack(0.2))
    assert accuracy(model, found, labels) < 0.5
    with pytest.raises(ValueError, match=r"^autoattack needs a model of at least 4 classes, not 3: its loss"):
        run_attack(of_classes(3), images, labels % 3, AutoAttack(0.2))


# bad input


@each
def test_what_is_missing_is_said(trained, batch, monkeypatch, kind):
    for module in ("pyautoattack", "pyautoattack.autopgd_base"):
        monkeypatch.setitem(sys.modules, module, None)
    message = "APGD needs the package pyautoattack: pip install 'robust-repsim[autoattack]'"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        run_attack(trained, *batch, QUICK[kind])


def test_labels_that_are_not_classes(trained, batch):
    message = "apgd_ce needs one class for each image, not labels of shape (24, 10)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_attack(trained, batch[0], torch.ones(24, 10), QUICK["apgd_ce"])


def test_another_loss(trained, batch):
    message = "apgd_dlr climbs a loss of its own: give it none."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_attack(trained, *batch, QUICK["apgd_dlr"], loss=F.multi_margin_loss)


# what is left alone


@pytest.mark.matrix("apgd_ce", "l2")
@pytest.mark.usefixtures("unchecked")  # which draws the item of a list that it looks at
@pytest.mark.parametrize("attack", [*QUICK.values(), AutoAttack(0.3)], ids=[*QUICK, "autoattack"])
def test_quiet_and_without_a_trace(trained, batch, capfd, caplog, attack):
    images, labels = batch[0][:6].clone(), batch[1][:6]
    model = build_model("mlp", (1, 16, 16), 10, [0.3], [0.4]).train()
    model.classifier.eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002  whether the package touches it is the question
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    level = logger.level
    run_attack(model, images, labels, attack)
    assert sys.gettrace() is trace
    assert logger.level == level
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(images, batch[0][:6])


@pytest.mark.matrix("apgd_ce", "l2")
@each
def test_the_seed_is_respected(trained, batch, kind):
    few = batch[0][:8], batch[1][:8]
    one, again, other = (run_attack(trained, *few, QUICK[kind], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_batches(trained, batch):
    """Random starts are drawn batch by batch; what is bounded and fooled is not a matter of them."""
    calls = []
    handle = trained.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    try:
        run_attack(trained, *batch, APGD(0.05, steps=2), batch_size=10)
    finally:
        handle.remove()
    assert max(calls) == 10
