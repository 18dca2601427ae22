"""What is measured of a stitched network is what is computed by hand, and undefined where it has to be."""

import math
import sys
import types
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repsim.activations import trace
from repsim.attacks import Attack, autoattack, run_attack
from repsim.data import Split, load_data
from repsim.measures import MEASURES
from repsim.models import build_model
from repsim.studies.stitching import StitchOptions, make_transform, measuring, splice, stitch
from repsim.studies.stitching.measuring import MEASURED, OF_A_DONOR, Donor, measure_stitch
from repsim.training import model_store, zoo

BLOCK, LATER = "layer2.0.relu2", "layer3.0.relu2"
ATTACK = Attack(0.1, steps=2)


@cache
def trained(architecture="resnet_tiny", epsilon=0.0, seed=0):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return trace(model_store.find(recipe, "cpu").network, (1, 16, 16))


def donor_of(graph, split, attack=ATTACK):
    return Donor(graph, split, attack)


def spliced(front, end, layer, other=None, **options):
    other = other or layer
    return splice(front, end, layer, other, make_transform(front, end, layer, other, **options))


@pytest.fixture(scope="module")
def case(tiny_data):
    """A standard front, a robust end, a transform that is not perfect, and all that is measured of them."""
    front, end = trained(), trained(epsilon=0.1)
    stitched, _ = stitch(
        front, end, BLOCK, BLOCK, tiny_data.train.images, tiny_data.train.labels,
        StitchOptions(epochs=6, batch_size=50, learning_rate=0.03), progress=False,
    )  # fmt: skip
    split = tiny_data.test
    row = measure_stitch(stitched, donor_of(front, split), donor_of(end, split), BLOCK, BLOCK)
    return types.SimpleNamespace(front=front, end=end, stitched=stitched, split=split, row=row)


def logits_of(network, images):
    with torch.no_grad():
        return network(images)


def share(condition):
    return condition.float().mean().item()


# -- by hand ------------------------------------------------------------------------------------------------


def test_every_column_is_there_and_no_other(case):
    assert set(case.row) == {*MEASURED} - {"autoattack_accuracy"}
    assert all(isinstance(value, float) and math.isfinite(value) for value in case.row.values())
    assert len(set(MEASURED)) == len(MEASURED)


def test_accuracies_are_shares_of_right_answers(case):
    split, labels = case.split, case.split.labels
    networks = {"": case.stitched, "_front": case.front.network, "_end": case.end.network}
    for suffix, network in networks.items():
        attacked = run_attack(network, split.images, labels, ATTACK)
        clean = share(logits_of(network, split.images).argmax(1) == labels)
        robust = share(logits_of(network, attacked).argmax(1) == labels)
        assert case.row[f"accuracy{suffix}"] == pytest.approx(clean)
        assert case.row[f"robust_accuracy{suffix}"] == pytest.approx(robust)
    assert 0.1 < case.row["accuracy"] < 1  # so that what follows says something
    for side in ("front", "end"):
        for name in ("accuracy", "robust_accuracy"):
            expected = case.row[name] / case.row[f"{name}_{side}"]
            assert case.row[f"relative_{name}_{side}"] == pytest.approx(expected)


def test_transfer_is_accuracy_on_images_made_to_fool_a_donor(case):
    for side, donor in (("front", case.front), ("end", case.end)):
        attacked = run_attack(donor.network, case.split.images, case.split.labels, ATTACK)
        right = logits_of(case.stitched, attacked).argmax(1) == case.split.labels
        assert case.row[f"transfer_{side}"] == pytest.approx(share(right))


def test_shares_of_right_and_wrong_answers_are_counted_and_add_up(case):
    labels, row = case.split.labels, case.row
    own = logits_of(case.stitched, case.split.images).argmax(1) == labels
    for side, donor in (("front", case.front), ("end", case.end)):
        others = logits_of(donor.network, case.split.images).argmax(1) == labels
        assert row[f"both_right_{side}"] == pytest.approx(share(own & others))
        assert row[f"only_stitch_right_{side}"] == pytest.approx(share(own & ~others))
        assert row[f"only_donor_right_{side}"] == pytest.approx(share(~own & others))
        assert row[f"both_wrong_{side}"] == pytest.approx(share(~own & ~others))
        names = ("both_right", "only_stitch_right", "only_donor_right", "both_wrong")
        assert sum(row[f"{name}_{side}"] for name in names) == pytest.approx(1)
        right = row[f"both_right_{side}"] + row[f"only_stitch_right_{side}"]
        assert right == pytest.approx(row["accuracy"])
        right = row[f"both_right_{side}"] + row[f"only_donor_right_{side}"]
        assert right == pytest.approx(row[f"accuracy_{side}"])


def test_agreement_is_the_share_of_equal_answers(case):
    own = logits_of(case.stitched, case.split.images).argmax(1)
    for side, donor in (("front", case.front), ("end", case.end)):
        others = logits_of(donor.network, case.split.images).argmax(1)
        assert case.row[f"agreement_{side}"] == pytest.approx(share(own == others))


def test_cross_entropies_are_means_over_images_in_nats(case):
    """Not divided by the number of classes as well (errata 7)."""
    logs = logits_of(case.stitched, case.split.images).double().log_softmax(1)
    hand = -logs[torch.arange(60), case.split.labels].mean().item()
    assert case.row["cross_entropy"] == pytest.approx(hand, rel=1e-5)
    for side, donor in (("front", case.front), ("end", case.end)):
        probabilities = logits_of(donor.network, case.split.images).double().softmax(1)
        hand = -(probabilities * logs).sum(1).mean().item()
        assert case.row[f"cross_entropy_{side}"] == pytest.approx(hand, rel=1e-5)


def test_likenesses_and_distances_are_those_of_the_layers_values(case):
    images = case.split.images
    with torch.no_grad():
        taken, own = (graph.prefix(BLOCK)(images) for graph in (case.front, case.end))
        given = case.stitched.transform(taken)
    answers = logits_of(case.stitched, images), logits_of(case.end.network, images)
    for where, (x, y) in {"before": (taken, own), "after": (given, own), "logits": answers}.items():
        x, y = x.flatten(1), y.flatten(1)
        assert case.row[f"cka_{where}"] == pytest.approx(MEASURES["cka"](x, y), abs=1e-6)
        hand = (x.double() - y.double()).square().mean().item()
        assert case.row[f"distance_{where}"] == pytest.approx(hand, rel=1e-5)


def test_measuring_twice_gives_the_same_and_leaves_all_as_it_was(case):
    before = {name: value.clone() for name, value in case.stitched.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    donors = donor_of(case.front, case.split), donor_of(case.end, case.split)
    assert measure_stitch(case.stitched, *donors, BLOCK, BLOCK) == case.row
    assert torch.equal(torch.get_rng_state(), state)
    after = case.stitched.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module.training for module in case.stitched.modules())


# -- a network stitched to itself ---------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer1.0.add", BLOCK, "avgpool"])
def test_a_network_stitched_to_itself_by_the_identity_is_itself(tiny_data, layer):
    graph = trained(epsilon=0.1)
    donor = donor_of(graph, tiny_data.test)
    row = measure_stitch(spliced(graph, graph, layer, initial="identity"), donor, donor, layer, layer)
    ones = [f"{name}_{side}" for side in ("front", "end") for name in ("relative_accuracy", "agreement")]
    ones += [f"relative_robust_accuracy_{side}" for side in ("front", "end")]
    ones += [f"cka_{where}" for where in ("before", "after", "logits")]
    assert {name: row[name] for name in ones} == pytest.approx(dict.fromkeys(ones, 1.0))
    for where in ("before", "after", "logits"):
        assert row[f"distance_{where}"] == pytest.approx(0, abs=1e-9)
    for side in ("front", "end"):
        assert row[f"only_stitch_right_{side}"] == row[f"only_donor_right_{side}"] == 0
        assert row[f"transfer_{side}"] == pytest.approx(row["robust_accuracy"])


# -- undefined, or extreme ----------------------------------------------------------------------------------


def scaled(graph, factor):
    """The same network, with larger logits."""
    network = build_model("mlp", (1, 16, 16), 10, [0.3], [0.4])
    network.load_state_dict(graph.network.state_dict())
    with torch.no_grad():
        network.classifier.weight.mul_(factor)
        network.classifier.bias.mul_(factor)
    return trace(network.eval(), (1, 16, 16))


@pytest.mark.matrix
@pytest.mark.parametrize("factor", [1e4, 1e8])
def test_cross_entropies_of_huge_logits_are_finite(tiny_data, factor):
    """Probabilities of 0 and 1 exactly, whose products and logarithms would be no numbers (errata 7)."""
    front, end = (scaled(trained("mlp", seed=seed), factor) for seed in (0, 1))
    donors = donor_of(front, tiny_data.test), donor_of(end, tiny_data.test)
    assert set(donors[0].logits.softmax(1).unique().tolist()) >= {0.0, 1.0}
    row = measure_stitch(spliced(front, end, "hidden.3", initial="identity"), *donors, "hidden.3", "hidden.3")
    for name in ("cross_entropy", "cross_entropy_front", "cross_entropy_end"):
        assert math.isfinite(row[name])
        assert row[name] > 0
    itself = measure_stitch(
        spliced(front, front, "hidden.3", initial="identity"), donors[0], donors[0], "hidden.3", "hidden.3"
    )
    assert itself["cross_entropy_front"] == pytest.approx(0, abs=1e-6)


def test_what_is_relative_to_a_donor_without_robustness_is_undefined(tiny_data):
    strong = Attack(0.5, steps=10)
    front, end = (
        donor_of(trained(), tiny_data.test, strong),
        donor_of(trained("mlp", 0.1), tiny_data.test, strong),
    )
    assert front.robust_accuracy == 0
    stitched = spliced(front.graph, end.graph, BLOCK, "hidden.3", flatten=True)
    row = measure_stitch(stitched, front, end, BLOCK, "hidden.3")
    assert math.isnan(row["relative_robust_accuracy_front"])
    assert math.isfinite(row["relative_accuracy_front"])


def test_the_distance_of_layers_of_other_shapes_is_undefined_before_the_transform_only(tiny_data):
    front, end = trained(), trained(epsilon=0.1)
    donors = donor_of(front, tiny_data.test), donor_of(end, tiny_data.test)
    row = measure_stitch(spliced(front, end, BLOCK, LATER, resize=True), *donors, BLOCK, LATER)
    assert {name for name, value in row.items() if math.isnan(value)} == {"distance_before"}


def test_what_asks_for_equal_classes_is_undefined_across_tasks(tiny_data):
    network = build_model("mlp", (1, 16, 16), 4, [0.3], [0.4]).eval()
    front, end = trace(network, (1, 16, 16)), trained("mlp")
    fewer = tiny_data.test.labels < 4  # labels that both know
    split = Split(tiny_data.test.images[fewer], tiny_data.test.labels[fewer])
    transform = make_transform(front, end, "hidden.3", "hidden.3")
    stitched = splice(front, end, "hidden.3", "hidden.3", transform, cross_task=True)
    row = measure_stitch(stitched, donor_of(front, split), donor_of(end, split), "hidden.3", "hidden.3")
    shared = {
        "cross_entropy",
        "agreement",
        *(name for name in OF_A_DONOR if "right" in name or "wrong" in name),
    }
    undefined = {name for name, value in row.items() if math.isnan(value)}
    assert undefined >= {f"{name}_front" for name in shared}
    assert all(name.endswith("_front") for name in undefined)


def test_the_donors_of_a_cross_task_stitch_may_know_fewer_classes_than_the_images_have(tiny_data):
    """The end's task is what counts; a front of four classes is wrong about the others."""
    network = build_model("mlp", (1, 16, 16), 4, [0.3], [0.4]).eval()
    front, end = trace(network, (1, 16, 16)), trained("mlp")
    transform = make_transform(front, end, "hidden.3", "hidden.3")
    stitched = splice(front, end, "hidden.3", "hidden.3", transform, cross_task=True)
    donors = donor_of(front, tiny_data.test), donor_of(end, tiny_data.test)
    row = measure_stitch(stitched, *donors, "hidden.3", "hidden.3")
    assert not row["accuracy_front"] > share(tiny_data.test.labels < 4)  # it may be undefined
    of_the_end = [value for name, value in row.items() if name.endswith("_end")]
    assert all(math.isfinite(value) for value in [row["accuracy"], row["robust_accuracy"], *of_the_end])


@pytest.mark.parametrize("initial", ["zeros", "identity"])
def test_the_cka_of_constant_values_is_undefined(tiny_data, initial):
    """A transform of zeros makes all images alike. Warnings are errors here."""
    front, end = trained(), trained(epsilon=0.1)
    donors = donor_of(front, tiny_data.test), donor_of(end, tiny_data.test)
    row = measure_stitch(spliced(front, end, BLOCK, initial=initial), *donors, BLOCK, BLOCK)
    assert math.isfinite(row["cka_before"])
    for name in ("cka_after", "cka_logits"):
        assert math.isnan(row[name]) == (initial == "zeros")


# -- donors -------------------------------------------------------------------------------------------------


def test_a_donor_computes_each_thing_once_and_only_if_it_is_asked_for(tiny_data, monkeypatch):
    donor, calls = donor_of(trained(), tiny_data.test), []

    def count(name):
        function = getattr(measuring, name)
        monkeypatch.setattr(measuring, name, lambda *args: calls.append(name) or function(*args))

    for name in ("predict", "run_attack", "_in_batches"):
        count(name)
    assert calls == []
    for _ in range(2):
        assert donor.accuracy > 0.9
        assert donor.logits is donor.logits
    assert calls == ["predict"]
    for _ in range(2):
        assert donor.robust_accuracy < donor.accuracy
        assert donor.adversarial is donor.adversarial
    assert calls == ["predict", "run_attack"]
    assert donor.value(BLOCK) is donor.value(BLOCK)
    assert donor.value(LATER) is donor.value(LATER)
    assert calls == ["predict", "run_attack", "_in_batches", "_in_batches"]


# -- AutoAttack, through another package --------------------------------------------------------------------


@pytest.fixture
def package(monkeypatch):
    """A package of that name, which turns images dark and writes down what it was asked."""
    made = []

    class AutoAttack:
        def __init__(self, model, norm="Linf", eps=0.3, seed=None, device="cuda", **options):
            made.append({"model": model, "norm": norm, "eps": eps, "seed": seed, "device": str(device)})

        def run_standard_evaluation(self, x, y, batch_size=250, **options):
            made[-1] |= {"labels": y, "batch_size": batch_size, "logits": made[-1]["model"](x).detach()}
            torch.rand(3)
            return torch.zeros_like(x), y

    module = types.ModuleType("pyautoattack")
    module.AutoAttack = AutoAttack
    monkeypatch.setitem(sys.modules, "pyautoattack", module)
    return made


@pytest.mark.parametrize(("norm", "name"), [("linf", "Linf"), ("l2", "L2")])
def test_autoattack_is_asked_for_the_norm_and_the_epsilon(tiny_data, package, norm, name):
    network = build_model("mlp", (1, 16, 16), 10, [0.3], [0.4]).train()
    state, modes = torch.get_rng_state(), set()

    def note(module, inputs):
        modes.update(part.training for part in module.modules())

    network.register_forward_pre_hook(note)
    found = autoattack(
        network, tiny_data.test.images, tiny_data.test.labels, 0.25, norm, batch_size=30, seed=4
    )
    (asked,) = package
    assert modes == {False}
    torch.testing.assert_close(asked["logits"], network(tiny_data.test.images).detach())
    assert (asked["norm"], asked["eps"], asked["seed"], asked["device"]) == (name, 0.25, 4, "cpu")
    assert asked["batch_size"] == 30
    assert torch.equal(asked["labels"], tiny_data.test.labels)
    assert network.training
    assert torch.equal(found, torch.zeros_like(tiny_data.test.images))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stitched_network_is_measured_under_autoattack_where_that_is_wanted(case, package):
    weaker = Attack(0.2, "l2", steps=1)
    donors = donor_of(case.front, case.split, weaker), donor_of(case.end, case.split, weaker)
    assert "autoattack_accuracy" not in measure_stitch(case.stitched, *donors, BLOCK, BLOCK)
    assert package == []
    row = measure_stitch(case.stitched, *donors, BLOCK, BLOCK, with_autoattack=True)
    (asked,) = package
    torch.testing.assert_close(asked["logits"], logits_of(case.stitched, case.split.images))
    assert (asked["norm"], asked["eps"]) == ("L2", 0.2)
    dark = logits_of(case.stitched, torch.zeros_like(case.split.images)).argmax(1)
    assert row["autoattack_accuracy"] == pytest.approx(share(dark == case.split.labels))
    assert set(row) == set(MEASURED)


def test_a_network_that_cannot_be_traced_is_measured_too(tiny_data):
    class Watchful(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.normalize, self.hidden = network.normalize, network.hidden
            self.classifier = network.classifier

        def forward(self, x):
            x = self.normalize(x).flatten(1)
            return self.classifier(self.hidden(x if x.sum() != math.pi else -x))

    front, end = trained("mlp"), trained("mlp", seed=1)
    watchful = [trace(Watchful(graph.network).eval(), (1, 16, 16)) for graph in (front, end)]
    rows = [
        measure_stitch(
            spliced(*graphs, "hidden.3"),
            *(donor_of(graph, tiny_data.test) for graph in graphs),
            "hidden.3",
            "hidden.3",
        )
        for graphs in ((front, end), watchful)
    ]
    assert rows[0] == rows[1]
    assert rows[0]["cross_entropy"] == pytest.approx(
        F.cross_entropy(
            logits_of(spliced(front, end, "hidden.3"), tiny_data.test.images), tiny_data.test.labels
        ).item()
    )
