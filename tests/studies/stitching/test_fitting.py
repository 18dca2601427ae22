"""Fitting finds what an independent computation finds, does what its options say, and leaves donors alone."""

import copy
import math
import re
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from repsim.activations import trace
from repsim.attacks import Attack, run_attack
from repsim.data import Augmentation, load_data
from repsim.measures import MEASURES
from repsim.models import build_model
from repsim.studies.stitching import (
    Budget,
    StitchedNetwork,
    StitchOptions,
    make_transform,
    splice,
    stitch,
)
from repsim.studies.stitching import fitting as fitting_module
from repsim.studies.stitching.fitting import linear_cka, transfer_set
from repsim.support import devices, paths
from repsim.training import accuracy, model_store, optimization, zoo
from repsim.training.optimization import Diverged

BLOCK = "layer2.0.relu2"  # 16 × 8 × 8
INSIDE = "layer2.0.conv1"  # of a residual branch: something of the end goes around it
MLP = "hidden.3"
QUICK = {"epochs": 3, "batch_size": 50, "learning_rate": 0.03, "schedule": "constant"}
METHODS = {
    "standard": {},
    "pgd": {"method": "pgd", "epsilon": 0.1, "attack_steps": 2},
    "trades": {"method": "trades", "epsilon": 0.1, "attack_steps": 2},
    "transfer": {"method": "pgd", "epsilon": 0.1, "attack_steps": 2, "attacked": "both"},
    "soft": {"targets": "soft_12", "temperature": 2.0},
    "cka": {"cka_weight": 0.5, "l1": 1.0},
    "update_batchnorm": {"update_batchnorm": True},
    "pseudo_inverse": {"method": "pseudo_inverse"},
    "orthogonal": {"method": "orthogonal"},
    "least_squares": {"method": "least_squares", "ridge": 1e-3},
}
DIRECT = ("pseudo_inverse", "orthogonal", "least_squares")


@cache
def trained(architecture="resnet_tiny", epsilon=0.0, seed=0):
    """The layer graph of a committed network."""
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return trace(model_store.find(recipe, "cpu").network, (1, 16, 16))


@cache
def untrained(architecture="mlp", seed=0, classes=10):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(architecture, (1, 16, 16), classes, [0.3], [0.4]).eval()


def fit(front, end, layer, data, *, other=None, labels=None, options=None, **more):
    """Fit, quickly unless told otherwise."""
    arguments = {
        name: more.pop(name)
        for name in ("budget", "augmentation", "on_epoch", "cross_task", "images")
        if name in more
    }
    if options is None:
        options = StitchOptions(**(more if more.get("method") in DIRECT else {**QUICK, **more}))
    labels = data.train.labels if labels is None else labels
    images = arguments.pop("images", data.train.images)
    return stitch(front, end, layer, other or layer, images, labels, options, **arguments, progress=False)


def weights(stitched):
    return stitched.transform.weight.detach()


def state(stitched):
    return {name: value.clone() for name, value in stitched.transform.state_dict().items()}


def equal(one, other):
    one, other = state(one), state(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def close(one, other):
    one, other = state(one), state(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def values_of(graph, layer, images):
    with torch.no_grad():
        return graph.prefix(layer)(images)


def multilabel(labels, classes=10):
    """For each digit: its own class, and the next."""
    return (F.one_hot(labels, classes) + F.one_hot((labels + 1) % classes, classes)).float()


# -- an independent computation -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_fitting_is_plain_training_of_a_linear_layer(tiny_data, optimizer):
    front, end = trained("mlp"), trained("mlp", seed=1)
    options = StitchOptions(
        **{**QUICK, "learning_rate": 0.01}, optimizer=optimizer, weight_decay=0.01, seed=3, initial="identity"
    )
    stitched, curve = fit(front, end, MLP, tiny_data, options=options)

    images, labels = tiny_data.train.images, tiny_data.train.labels
    taken = values_of(front, MLP, images)
    layer, rest = nn.Linear(64, 64), end.network.hidden[4:]
    with torch.no_grad():
        layer.weight.copy_(torch.eye(64))
        layer.bias.zero_()
    if optimizer == "adam":
        steps = torch.optim.Adam(layer.parameters(), 0.01, weight_decay=0.01)
    else:
        steps = torch.optim.SGD(layer.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=0.01)
    losses = []
    with torch.random.fork_rng():
        for epoch in range(3):
            torch.manual_seed(3 * 100_003 + epoch)
            total = 0.0
            for batch in torch.randperm(200).split(50):
                loss = F.cross_entropy(end.network.classifier(rest(layer(taken[batch]))), labels[batch])
                steps.zero_grad()
                loss.backward()
                steps.step()
                total += loss.item() * 50 / 200
            losses.append(total)
    end.network.zero_grad()
    torch.testing.assert_close(weights(stitched), layer.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stitched.transform.bias.detach(), layer.bias.detach(), rtol=1e-4, atol=1e-5)
    assert curve["loss"].tolist() == pytest.approx(losses, rel=1e-4)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"l1": 50.0},
        {"cka_weight": 2.0},
        {"cka_weight": -0.5, "l1": 100.0},
        {"targets": "soft_1"},
        {"targets": "soft_2", "temperature": 3.0},
        {"targets": "soft_12", "temperature": 0.5},
        {"targets": "soft_1_plus_2"},
        {"targets": "soft_1_plus_2", "temperature": 4.0, "cka_weight": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("kept", [True, False])
def test_the_loss_is_the_one_that_is_documented(tiny_data, options, kept):
    front, end = trained("mlp"), trained("mlp", 0.1)
    budget = Budget() if kept else Budget(0, 0)
    one_step = {"epochs": 1, "batch_size": 200, "initial": "identity"}
    _, curve = fit(front, end, MLP, tiny_data, budget=budget, **one_step, **options)

    images, labels = tiny_data.train.images, tiny_data.train.labels
    with torch.no_grad():
        taken, own = values_of(front, MLP, images), values_of(end, MLP, images)
        logits = end.network.classifier(end.network.hidden[4:](taken))
        of_front, of_end = front.network(images), end.network(images)
        temperature = options.get("temperature", 1.0)

        def against(wanted):
            terms = -(wanted / temperature).softmax(1) * (logits / temperature).log_softmax(1)
            return terms.sum(1).mean()

        expected = {
            "hard": F.cross_entropy(logits, labels),
            "soft_1": against(of_front),
            "soft_2": against(of_end),
            "soft_12": (against(of_front) + against(of_end)) / 2,
            "soft_1_plus_2": against((of_front + of_end) / 2),
        }[options.get("targets", "hard")]
        expected += options.get("l1", 0) * 64 / 64**2  # the mean of the identity's weights
        expected += options.get("cka_weight", 0) * MEASURES["cka"](taken, own)
    assert curve["loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert curve["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())


@settings(max_examples=25)
@given(st.integers(4, 12), st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_the_differentiable_cka_is_the_measures_cka(count, width, other, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, 2, generator=generator) + 3
    y = torch.randn(count, other, generator=generator)
    expected = MEASURES["cka"](x.flatten(1), y)
    assert linear_cka(x, y).item() == pytest.approx(expected, abs=1e-4)


def test_the_cka_of_constant_values_is_zero_and_has_a_gradient():
    x = torch.ones(5, 3, requires_grad=True)
    value = linear_cka(x, torch.randn(5, 3))
    value.backward()
    assert value.item() == 0
    assert x.grad.isfinite().all()


# -- what comes back ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name not in DIRECT and name != "trades"])
def test_the_loss_falls(tiny_data, method):
    _, curve = fit(trained(), trained(seed=1), BLOCK, tiny_data, **{**METHODS[method], "epochs": 4})
    assert curve["loss"].iloc[-1] < 0.9 * curve["loss"].iloc[0]


def test_the_curve_has_a_row_for_each_epoch_and_the_network_is_in_evaluation_mode(tiny_data):
    stitched, curve = fit(trained("mlp"), trained("mlp", seed=1), MLP, tiny_data, epochs=4)
    assert curve.columns.tolist() == ["epoch", "learning_rate", "loss", "accuracy"]
    assert curve["epoch"].tolist() == [1, 2, 3, 4]
    assert curve["accuracy"].between(0, 1).all()
    assert curve["accuracy"].iloc[-1] > curve["accuracy"].iloc[0]
    assert not any(module.training for module in stitched.modules())


def test_layer_graphs_and_networks_are_taken_alike(tiny_data):
    front, end = trained("mlp"), trained("mlp", seed=1)
    one, _ = fit(front, end, MLP, tiny_data)
    other, _ = fit(front.network, end.network, MLP, tiny_data)
    assert equal(one, other)


# -- donors stay as they are (errata 5) ---------------------------------------------------------------------


def everything(network):
    return {
        **{f"value {name}": value.clone() for name, value in network.state_dict().items()},
        **{f"gradient {name}": value.grad.clone() for name, value in network.named_parameters()},
        **{f"wants {name}": value.requires_grad for name, value in network.named_parameters()},
        **{f"trains {name}": module.training for name, module in network.named_modules()},
        **{f"hooks {name}": len(module._forward_hooks) for name, module in network.named_modules()},
    }


def unusual(network, seed):
    """A copy in training mode but for one part, with gradients, of which some are not wanted."""
    twin = copy.deepcopy(network).train()
    twin.layer1.eval()
    generator = torch.Generator().manual_seed(seed)
    for place, weight in enumerate(twin.parameters()):
        weight.grad = torch.randn(weight.shape, generator=generator)
        weight.requires_grad_(place % 3 > 0)
    return twin


@pytest.mark.matrix("pgd with batchnorm")
@pytest.mark.parametrize("method", [*METHODS, "pgd with batchnorm", "trades with batchnorm"])
def test_donors_are_bitwise_what_they_were(tiny_data, method):
    name, _, updates = method.partition(" with ")
    options = {**METHODS[name], **({"update_batchnorm": True} if updates else {})}
    front, end = unusual(trained().network, 0), unusual(trained(seed=1).network, 1)
    before = everything(front), everything(end)
    stitched, _ = fit(
        front, end, BLOCK, tiny_data, **(options if name in DIRECT else options | {"epochs": 1})
    )
    for old, new in zip(before, (everything(front), everything(end)), strict=True):
        assert old.keys() == new.keys()
        for key, value in old.items():
            assert torch.equal(value, new[key]) if isinstance(value, torch.Tensor) else value == new[key], key
    own = {weight.data_ptr() for network in (front, end) for weight in network.state_dict().values()}
    assert own.isdisjoint(value.data_ptr() for value in stitched.state_dict().values())


def test_only_the_transform_takes_gradients(tiny_data):
    stitched, _ = fit(trained(), trained(seed=1), BLOCK, tiny_data, epochs=1)
    wanted = {name for name, weight in stitched.named_parameters() if weight.requires_grad}
    assert wanted == {"transform.full", "transform.bias"}
    assert {name for name, weight in stitched.named_parameters() if weight.grad is not None} <= wanted


# -- BatchNorm ----------------------------------------------------------------------------------------------


def statistics(stitched):
    return {
        f"{name}.{buffer}": value.clone()
        for name, module in stitched.batchnorms().items()
        for buffer, value in module.named_buffers()
    }


def fresh(front, end, layer):
    return splice(front, end, layer, layer, make_transform(front, end, layer, layer))


@pytest.mark.matrix("trades-2")
@pytest.mark.parametrize(
    ("method", "passes"),
    [("standard", 1), ("pgd", 1), ("trades", 2), ("transfer", 1), ("soft", 1), ("cka", 1)],
)
def test_batchnorm_sees_each_batch_where_it_is_to_be_updated(tiny_data, method, passes):
    """Passes for the attack are none of its business."""
    front, end = trained(), trained(seed=1)
    before = statistics(fresh(front, end, BLOCK))
    stitched, _ = fit(front, end, BLOCK, tiny_data, **METHODS[method], update_batchnorm=True)
    after = statistics(stitched)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if name.endswith("num_batches_tracked"):
            assert after[name] == value + 3 * 4 * passes
        else:
            assert not torch.equal(value, after[name]), name


@pytest.mark.matrix("standard")
@pytest.mark.parametrize("method", ["standard", "pgd", "trades", "transfer"])
def test_batchnorm_is_left_alone_by_default(tiny_data, method):
    front, end = trained(), trained(seed=1)
    before = statistics(fresh(front, end, BLOCK))
    stitched, _ = fit(front, end, BLOCK, tiny_data, **METHODS[method])
    assert all(torch.equal(value, before[name]) for name, value in statistics(stitched).items())


def test_the_first_batchnorm_learns_the_mean_of_what_it_sees(tiny_data):
    """Of one batch of all images: a step of 0.1 from the old mean to the batch's."""
    front, end = trained(epsilon=0.1), trained(seed=1)
    stitched, _ = fit(front, end, BLOCK, tiny_data, epochs=1, batch_size=200, update_batchnorm=True)
    convolved = values_of(front, "conv1", tiny_data.train.images)
    old = front.network.bn1.running_mean
    (new,) = (
        module.running_mean
        for name, module in stitched.batchnorms().items()
        if name.startswith("beginning") and name.endswith("bn1") and "layer" not in name
    )
    torch.testing.assert_close(new, 0.9 * old + 0.1 * convolved.mean((0, 2, 3)))


# -- precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["standard", "pgd", "transfer", "cka", "update_batchnorm"])
def test_bfloat16_gives_another_transform_of_the_same_accuracy_in_float32(tiny_data, monkeypatch, method):
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda device: True)
    front, end, images = trained(), trained(epsilon=0.1), tiny_data.train.images
    (exact, exact_curve), (rounded, curve) = (
        fit(front, end, INSIDE, tiny_data, initial="pseudo_inverse", precision=precision, **METHODS[method])
        for precision in ("float32", "bfloat16")
    )
    assert not equal(exact, rounded)
    assert curve["loss"].tolist() == pytest.approx(exact_curve["loss"].tolist(), rel=0.1)
    found = [accuracy(each, images, tiny_data.train.labels) for each in (exact, rounded)]
    assert found[0] == pytest.approx(found[1], abs=0.03)
    # nothing of the network that comes out is rounded
    assert all(value.dtype == torch.float32 for value in state(rounded).values())
    if method != "update_batchnorm":
        assert torch.equal(rounded(images), splice(front, end, INSIDE, INSIDE, rounded.transform)(images))


def test_activations_in_bfloat16_take_half_the_room(tiny_data, monkeypatch, runs):
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda device: True)
    size = 4 * math.prod(trained().values[BLOCK].shape) * len(tiny_data.train)
    kept = []
    for precision in ("float32", "bfloat16"):
        before = len(runs)
        budget = Budget(size // 2, size // 2)
        fit(trained(), trained(seed=1), BLOCK, tiny_data, precision=precision, budget=budget)
        kept.append(len(runs) - before < 10)
    assert kept == [False, True]


@pytest.mark.parametrize("method", ["standard", "pgd", "transfer"])
def test_bfloat16_is_refused_where_it_is_slow_before_anything_is_computed(
    tiny_data, monkeypatch, runs, method
):
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match="does not multiply bfloat16"):
        fit(trained(), trained(seed=1), BLOCK, tiny_data, precision="bfloat16", **METHODS[method])
    assert runs == []


# -- what is kept -------------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch):
    """How often what comes before the transform is computed, counted in a list."""
    before, counted = StitchedNetwork.before, []
    monkeypatch.setattr(StitchedNetwork, "before", lambda *args: counted.append(1) or before(*args))
    return counted


@pytest.mark.matrix
@pytest.mark.parametrize("layer", [BLOCK, INSIDE])
@pytest.mark.parametrize(
    "options", [{}, {"cka_weight": -1.0, "targets": "soft_12"}, METHODS["transfer"]], ids=str
)
def test_kept_and_recomputed_activations_give_the_same_transform(tiny_data, layer, options):
    front, end = trained(), trained(epsilon=0.1)
    fitted = [
        fit(front, end, layer, tiny_data, budget=budget, **options)
        for budget in (Budget(), Budget(0, 2**30), Budget(0, 0))
    ]
    (memory, curve), (disk, disk_curve), (recomputed, recomputed_curve) = fitted
    assert equal(memory, disk)
    assert curve.equals(disk_curve)
    close(memory, recomputed)
    assert curve["loss"].tolist() == pytest.approx(recomputed_curve["loss"].tolist(), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "files", "again"),
    [
        (Budget(), 0, 0),
        (Budget(200 * 1024 * 4, 0), 0, 0),
        (Budget(200 * 1024 * 4 - 1, 0), None, 8),
        (Budget(0, 200 * 1024 * 4), 1, 0),
        (Budget(0, 200 * 1024 * 4 - 1), None, 8),
        (Budget(200 * 1024 * 4 - 1, 200 * 1024 * 4), 1, 0),
        (Budget(0, 0), None, 8),
    ],
    ids=str,
)
def test_activations_are_kept_within_the_budget_and_removed(tiny_data, budget, files, again, runs):
    """200 images of 16 × 8 × 8 values; of three epochs of four batches, the last two are watched."""
    found, counts = [], []
    cache_folder = paths.data() / "cache"

    def on_epoch(epoch, stitched):
        counts.append(len(runs))
        found.append([path for path in cache_folder.glob("activations-*/*") if path.stat().st_size])

    fit(trained(), trained(seed=1), BLOCK, tiny_data, budget=budget, on_epoch=on_epoch)
    assert [len(paths_) for paths_ in found] == [files or 0] * 3
    assert counts[2] - counts[0] == again
    assert not cache_folder.exists() or not list(cache_folder.iterdir())


def test_files_of_activations_go_when_fitting_fails(tiny_data):
    with pytest.raises(Diverged):
        fit(trained(), trained(seed=1), BLOCK, tiny_data, budget=Budget(0, 2**30), learning_rate=1e30)
    assert list((paths.data() / "cache").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, True),
        (METHODS["transfer"], True),
        (METHODS["soft"], True),
        (METHODS["cka"], True),
        ({"augmentation": Augmentation(crop=1), "augment": False}, True),
        ({"augmentation": Augmentation()}, True),
        ({"augmentation": Augmentation(crop=1)}, False),
        (METHODS["pgd"], False),
        (METHODS["trades"], False),
        (METHODS["update_batchnorm"], False),
        ({**METHODS["transfer"], "update_batchnorm": True}, False),
    ],
    ids=str,
)
def test_activations_are_kept_where_nothing_before_the_transform_changes(tiny_data, options, kept, runs):
    counts = []
    watch = lambda epoch, stitched: counts.append(len(runs))  # noqa: E731
    fit(trained(), trained(seed=1), BLOCK, tiny_data, on_epoch=watch, **options)
    assert (counts[2] == counts[0]) == kept


def test_donors_run_only_where_a_loss_needs_them(tiny_data):
    """Soft targets of fixed images are computed once, of moving ones for each batch; hard ones never."""

    def runs(**options):
        networks = [copy.deepcopy(trained("mlp", seed=seed).network) for seed in (0, 1)]
        graphs = [trace(network, (1, 16, 16)) for network in networks]
        calls = [0, 0]
        for place, network in enumerate(networks):

            def count(module, inputs, output, place=place, own=network.classifier):
                calls[place] += module is own and len(output) >= 50  # copies of it are no donors

            network.classifier.register_forward_hook(count)
        fit(*graphs, MLP, tiny_data, **options)
        return calls

    assert runs() == [0, 0]
    assert runs(cka_weight=1.0) == [0, 0]
    assert runs(targets="soft_1") == [1, 0]
    assert runs(targets="soft_2") == [0, 1]
    assert runs(targets="soft_12") == [1, 1]
    assert runs(targets="soft_1", augmentation=Augmentation(crop=1)) == [12, 0]


# -- seeds --------------------------------------------------------------------------------------------------


@pytest.mark.matrix("pgd")
@pytest.mark.parametrize("method", ["standard", "pgd", "trades", "transfer"])
def test_a_seed_decides_everything_and_the_callers_random_state_stays(tiny_data, method):
    front, end = trained("mlp"), trained("mlp", seed=1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, curve = fit(front, end, MLP, tiny_data, seed=1, **METHODS[method])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    other, other_curve = fit(front, end, MLP, tiny_data, seed=1, **METHODS[method])
    assert equal(one, other)
    assert curve.equals(other_curve)
    different, _ = fit(front, end, MLP, tiny_data, seed=2, **METHODS[method])
    assert not torch.allclose(weights(one), weights(different))


# -- options of training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.01] * 6),
        ("thirds", [0.01, 0.001, 0.001, 0.0001, 0.0001, 0.0001]),
    ],
)
def test_the_learning_rate_follows_the_schedule(tiny_data, schedule, expected):
    """Of each epoch, that after its last batch."""
    options = {"epochs": 6, "learning_rate": 0.01, "schedule": schedule}
    _, curve = fit(trained("mlp"), trained("mlp", seed=1), MLP, tiny_data, **options)
    assert curve["learning_rate"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("size", "expected"), [(60, [60, 60, 60]), (199, [199]), (100, [100, 100]), (200, [200]), (500, [200])]
)
def test_images_that_do_not_fill_a_batch_are_left_out_unless_there_are_no_others(
    tiny_data, monkeypatch, size, expected
):
    seen, objective = [], fitting_module.objective

    def watched(options, attack, network, images, *others):
        seen.append(images)
        return objective(options, attack, network, images, *others)

    monkeypatch.setattr(fitting_module, "objective", watched)
    front, end = trained("mlp"), trained("mlp", seed=1)
    fit(front, end, MLP, tiny_data, budget=Budget(0, 0), epochs=2, batch_size=size)
    assert [len(images) for images in seen] == 2 * expected
    epochs = torch.cat(seen).split(sum(expected))
    assert [len(images.unique(dim=0)) for images in epochs] == [sum(expected)] * 2
    if size == 60:  # others in each epoch
        assert len(torch.cat(seen).unique(dim=0)) > 180


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 40},
        {"learning_rate": 0.01},
        {"optimizer": "sgd"},
        {"schedule": "thirds"},
        {"epochs": 4},
    ],
    ids=str,
)
def test_an_option_of_training_changes_the_transform(tiny_data, options):
    front, end = trained("mlp"), trained("mlp", seed=1)
    usual, _ = fit(front, end, MLP, tiny_data)
    other, _ = fit(front, end, MLP, tiny_data, **options)
    assert not torch.allclose(weights(usual), weights(other))


@pytest.mark.slow
@pytest.mark.parametrize("layer", [BLOCK, INSIDE])
def test_the_cka_weight_drives_values_apart_above_zero_and_together_below(tiny_data, layer):
    front, end = trained(), trained(epsilon=0.1)
    images = tiny_data.train.images
    own = values_of(end, layer, images).flatten(1)

    def likeness(cka_weight):
        stitched, _ = fit(front, end, layer, tiny_data, cka_weight=cka_weight, epochs=5)
        with torch.no_grad():
            return MEASURES["cka"](stitched.transform(values_of(front, layer, images)).flatten(1), own)

    apart, usual, together = likeness(20.0), likeness(0.0), likeness(-20.0)
    assert apart < usual - 0.02
    assert together > usual + 0.02


@pytest.mark.slow
def test_images_are_augmented_where_the_data_set_has_that(tiny_data):
    front, end = trained("mlp"), trained("mlp", seed=1)
    plain, _ = fit(front, end, MLP, tiny_data)
    nothing, _ = fit(front, end, MLP, tiny_data, augmentation=Augmentation())
    unwanted, _ = fit(front, end, MLP, tiny_data, augmentation=Augmentation(crop=2), augment=False)
    moved, _ = fit(front, end, MLP, tiny_data, augmentation=Augmentation(crop=2))
    mirrored, _ = fit(front, end, MLP, tiny_data, augmentation=Augmentation(flip=True))
    assert equal(plain, nothing)
    assert equal(plain, unwanted)
    assert not torch.allclose(weights(plain), weights(moved))
    assert not torch.allclose(weights(plain), weights(mirrored))


# -- adversarial training -----------------------------------------------------------------------------------


def test_no_share_of_adversarial_images_is_standard_training(tiny_data):
    front, end = trained("mlp"), trained("mlp", seed=1)
    standard, _ = fit(front, end, MLP, tiny_data)
    for none in ({"attack_ratio": 0.0, "epsilon": 0.1}, {"epsilon": 0.0}):
        other, _ = fit(front, end, MLP, tiny_data, method="pgd", **none)
        assert equal(standard, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"attack_ratio": 0.5},
        {"epsilon": 0.2},
        {"attack_steps": 4},
        {"step_size": 0.01},
        {"norm": "l2", "epsilon": 1.0},
        {"attacked": "front"},
        {"attacked": "end"},
        {"attacked": "both"},
    ],
    ids=str,
)
def test_an_option_of_the_attack_changes_the_transform(tiny_data, options):
    front, end = trained("mlp"), trained("mlp", seed=1)
    usual, _ = fit(front, end, MLP, tiny_data, **METHODS["pgd"])
    other, _ = fit(front, end, MLP, tiny_data, **{**METHODS["pgd"], **options})
    assert not torch.allclose(weights(usual), weights(other))


def test_the_share_of_each_batch_that_is_asked_for_is_attacked(tiny_data, monkeypatch):
    sizes, perturb = [], optimization.perturb

    def counted(loss, images, attack, **options):
        sizes.append(len(images))
        assert attack == Attack(0.1, "linf", 2)
        return perturb(loss, images, attack, **options)

    monkeypatch.setattr(optimization, "perturb", counted)
    fit(trained("mlp"), trained("mlp", seed=1), MLP, tiny_data, **METHODS["pgd"], attack_ratio=0.3)
    assert sizes == [15] * 12


@pytest.mark.slow
def test_adversarial_training_makes_a_stitched_network_more_robust(tiny_data):
    front, end = trained(), trained(epsilon=0.1)
    split = tiny_data.train
    options = {"initial": "pseudo_inverse", "epochs": 6, "schedule": "thirds"}

    def robustness(**method):
        stitched, _ = fit(front, end, "relu1", tiny_data, **options, **method)
        attacked = run_attack(stitched, split.images, split.labels, Attack(0.1, steps=5))
        return accuracy(stitched, attacked, split.labels)

    adversarial = {"epsilon": 0.1, "attack_steps": 3}
    standard = robustness()
    pgd, trades = robustness(method="pgd", **adversarial), robustness(method="trades", **adversarial)
    assert pgd > standard + 0.05
    assert trades > standard + 0.05


def test_trades_without_weight_on_robustness_is_standard_training(tiny_data):
    front, end = trained("mlp"), trained("mlp", seed=1)
    standard, _ = fit(front, end, MLP, tiny_data)
    trades, _ = fit(front, end, MLP, tiny_data, **METHODS["trades"], beta=0.0)
    close(standard, trades)


# -- transfer sets ------------------------------------------------------------------------------------------


def changed_images(attacked, data, front, end, **options):
    options = StitchOptions(
        **{"method": "pgd", "epsilon": 0.15, "attack_steps": 5, "attacked": attacked, **options}
    )
    images = transfer_set(front.network, end.network, data.train.images, data.train.labels, options)
    changed = (images != data.train.images).flatten(1).any(1)
    return images, changed


@pytest.mark.matrix("both-0.5", "0.5-both")
@pytest.mark.parametrize("attacked", ["front", "end", "both"])
@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.1])
def test_a_transfer_set_changes_the_share_that_is_asked_for(tiny_data, attacked, ratio):
    before = tiny_data.train.images.clone()
    front, end = trained(), trained(seed=1)
    images, changed = changed_images(attacked, tiny_data, front, end, attack_ratio=ratio)
    assert changed.sum() == round(200 * ratio)
    assert (images - tiny_data.train.images).abs().max() <= 0.15 + 1e-6
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(tiny_data.train.images, before)


def test_a_transfer_set_of_the_l2_norm_is_within_its_ball(tiny_data):
    options = {"norm": "l2", "epsilon": 1.5}
    images, changed = changed_images("end", tiny_data, trained(), trained(seed=1), **options)
    assert changed.all()
    assert (images - tiny_data.train.images).flatten(1).norm(dim=1).max() <= 1.5 + 1e-4


@pytest.mark.slow
def test_a_transfer_set_fools_the_donor_that_is_attacked(tiny_data):
    """Images made to fool a network fool it more than images made to fool another one."""
    front, end = trained(), trained("mlp")
    labels = tiny_data.train.labels
    of_front, _ = changed_images("front", tiny_data, front, end)
    of_end, _ = changed_images("end", tiny_data, front, end)
    for donor, own, other in ((front, of_front, of_end), (end, of_end, of_front)):
        assert accuracy(donor.network, tiny_data.train.images, labels) > 0.95
        assert accuracy(donor.network, own, labels) < accuracy(donor.network, other, labels) - 0.1


@pytest.mark.slow
def test_a_transfer_set_of_both_is_half_of_each(tiny_data):
    front, end = trained(), trained("mlp")
    labels = tiny_data.train.labels
    of_both, _ = changed_images("both", tiny_data, front, end)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    for donor, own in ((front, order[:100]), (end, order[100:])):
        rest = torch.tensor([place for place in range(200) if place not in own.tolist()])
        fooled = [accuracy(donor.network, of_both[places], labels[places]) for places in (own, rest)]
        assert fooled[0] < fooled[1] - 0.1


def test_a_transfer_set_is_chosen_by_its_seed_and_leaves_the_random_state(tiny_data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    donors = trained("mlp"), trained("mlp", seed=1)
    one, changed = changed_images("front", tiny_data, *donors, attack_ratio=0.5, seed=1)
    again, _ = changed_images("front", tiny_data, *donors, attack_ratio=0.5, seed=1)
    _, others = changed_images("front", tiny_data, *donors, attack_ratio=0.5, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, again)
    assert not torch.equal(changed, others)


def test_fitting_on_a_transfer_set_is_standard_training_on_its_images(tiny_data):
    front, end = trained("mlp"), trained("mlp", seed=1)
    options = StitchOptions(**QUICK, **METHODS["transfer"], attack_ratio=0.7, seed=2)
    stitched, curve = fit(front, end, MLP, tiny_data, options=options)
    images = transfer_set(front.network, end.network, tiny_data.train.images, tiny_data.train.labels, options)
    standard, standard_curve = stitch(
        front, end, MLP, MLP, images, tiny_data.train.labels, StitchOptions(**QUICK, seed=2), progress=False
    )
    assert equal(stitched, standard)
    assert curve.equals(standard_curve)


def test_a_transfer_set_attacks_multi_label_data(tiny_data):
    options = StitchOptions(**METHODS["transfer"])
    labels = multilabel(tiny_data.train.labels)
    images = transfer_set(
        trained("mlp").network, trained("mlp", seed=1).network, tiny_data.train.images, labels, options
    )
    assert (images != tiny_data.train.images).flatten(1).any(1).all()


# -- the transform ------------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("method", ["standard", "pgd"])
def test_a_low_rank_stays_low(tiny_data, method):
    front, end = trained(), trained(seed=1)
    stitched, curve = fit(front, end, BLOCK, tiny_data, rank=3, **METHODS[method], epochs=4)
    assert torch.linalg.matrix_rank(weights(stitched).double(), rtol=1e-5) == 3
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


@pytest.mark.matrix
@pytest.mark.parametrize("mask", ["semi_match", "absolute_semi_match", "random_permutation"])
def test_a_mask_stays_on(tiny_data, mask):
    """With weight decay, which would move weights that are not in use too."""
    front, end = trained(), trained(seed=1)
    start = make_transform(front, end, BLOCK, BLOCK, mask=mask, images=tiny_data.train.images)
    stitched, curve = fit(front, end, BLOCK, tiny_data, mask=mask, weight_decay=0.1, epochs=4)
    used = weights(stitched) != 0
    assert torch.equal(used, start.mask.bool())
    assert (used.sum(1) == 1).all()
    assert not torch.allclose(weights(stitched), start.weight.detach())
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        *(
            {"initial": name}
            for name in ("identity", "permutation", "pseudo_inverse", "random", "ones", "zeros")
        ),
        *({"mask": name} for name in ("semi_match", "absolute_semi_match", "random_permutation")),
        {"rank": 2},
        {"rank": 2, "initial": "pseudo_inverse"},
    ],
    ids=str,
)
def test_fitting_begins_at_the_initial_transform(tiny_data, options):
    front, end = trained(), trained(seed=1)
    start = make_transform(front, end, BLOCK, BLOCK, images=tiny_data.train.images, seed=4, **options)
    stitched, _ = fit(front, end, BLOCK, tiny_data, learning_rate=0.0, seed=4, epochs=1, **options)
    torch.testing.assert_close(weights(stitched), start.weight.detach(), rtol=0, atol=0)
    torch.testing.assert_close(stitched.transform.bias.detach(), start.bias.detach(), rtol=0, atol=0)


def test_flattened_values_are_mapped_each_to_each(tiny_data):
    front, end = trained(), trained("mlp")
    stitched, curve = fit(
        front, end, "layer3.0.relu2", tiny_data, other=MLP, flatten=True, learning_rate=3e-3
    )
    assert weights(stitched).shape == (64, 32 * 4 * 4)
    assert curve["loss"].iloc[-1] < 0.9 * curve["loss"].iloc[0]


@pytest.mark.matrix
@pytest.mark.parametrize("method", ["standard", "least_squares"])
def test_maps_of_other_sizes_are_resized(tiny_data, method):
    front, end = trained(), trained(seed=1)
    options = {"resize": True, "method": method}
    stitched, _ = fit(front, end, BLOCK, tiny_data, other="layer3.0.relu2", **options)
    assert weights(stitched).shape == (32, 16)
    assert accuracy(stitched, tiny_data.train.images, tiny_data.train.labels) > 0.15


@pytest.mark.parametrize("method", ["standard", "pseudo_inverse"])
def test_maps_of_other_sizes_are_refused_unless_they_may_be_resized(tiny_data, method):
    message = (
        f"{BLOCK} → layer3.0.relu2: maps of 8 × 8 and 4 × 4 positions do not match: resize=True resizes the "
        "front's, flatten=True maps every value to every value."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(trained(), trained(seed=1), BLOCK, tiny_data, other="layer3.0.relu2", method=method)


# -- direct matching ----------------------------------------------------------------------------------------


def rows_of(graph, layer, images):
    """As a double-precision matrix: a row for each image and position."""
    return values_of(graph, layer, images).double().permute(0, 2, 3, 1).flatten(0, 2)


def test_a_pseudo_inverse_match_is_least_squares_on_all_rows(tiny_data):
    front, end = trained(), trained(epsilon=0.1)
    stitched, curve = fit(front, end, BLOCK, tiny_data, method="pseudo_inverse")
    x, y = (rows_of(graph, BLOCK, tiny_data.train.images) for graph in (front, end))
    design = torch.cat([x, torch.ones(len(x), 1).double()], dim=1)
    solution = torch.linalg.lstsq(design, y, driver="gelsd").solution
    fitted = x @ weights(stitched).double().T + stitched.transform.bias.detach().double()
    torch.testing.assert_close(fitted, design @ solution, rtol=1e-4, atol=1e-4)
    assert curve.columns.tolist() == ["epoch", "learning_rate", "loss", "accuracy"]
    assert len(curve) == 0


@pytest.mark.matrix
@pytest.mark.parametrize("method", DIRECT)
def test_direct_matching_looks_at_the_images_only(tiny_data, method):
    front, end = trained(), trained(epsilon=0.1)
    one, _ = fit(front, end, BLOCK, tiny_data, **METHODS[method])
    other, _ = fit(front, end, BLOCK, tiny_data, **METHODS[method], labels=tiny_data.train.labels.flip(0))
    assert equal(one, other)
    fewer, _ = fit(front, end, BLOCK, tiny_data, **METHODS[method], labels=tiny_data.train.labels[:100],
                   images=tiny_data.train.images[:100])  # fmt: skip
    assert not torch.allclose(weights(one), weights(fewer))


# -- multi-label data ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, METHODS["soft"], METHODS["pgd"], METHODS["transfer"]], ids=str)
def test_multi_label_data_are_fitted_with_every_kind_of_loss(tiny_data, options):
    front, end = trained("mlp"), trained("mlp", seed=1)
    labels = multilabel(tiny_data.train.labels)
    stitched, curve = fit(front, end, "hidden.5", tiny_data, labels=labels, **{**options, "epochs": 5})
    assert curve["loss"].iloc[-1] < 0.9 * curve["loss"].iloc[0]
    assert curve["accuracy"].between(0, 1).all()
    assert not any(module.training for module in stitched.modules())


def test_the_multi_label_loss_is_the_mean_binary_cross_entropy(tiny_data):
    front, end = trained("mlp"), trained("mlp", seed=1)
    labels = multilabel(tiny_data.train.labels)
    one_step = {"epochs": 1, "batch_size": 200, "initial": "identity"}
    _, curve = fit(front, end, MLP, tiny_data, labels=labels, **one_step)
    _, soft = fit(front, end, MLP, tiny_data, labels=labels, **one_step, targets="soft_2", temperature=2.0)
    with torch.no_grad():
        logits = end.network.classifier(end.network.hidden[4:](values_of(front, MLP, tiny_data.train.images)))
        p, q = logits.double().sigmoid(), (logits.double() / 2).sigmoid()
        wanted = (end.network(tiny_data.train.images).double() / 2).sigmoid()
        hard = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean().item()
        expected = -(wanted * q.log() + (1 - wanted) * (1 - q).log()).mean().item()
        right = ((logits > 0).float() == labels).float().mean().item()
    assert curve["loss"].item() == pytest.approx(hard, rel=1e-4)
    assert curve["accuracy"].item() == pytest.approx(right)
    assert soft["loss"].item() == pytest.approx(expected, rel=1e-4)


# -- other donors -------------------------------------------------------------------------------------------


class Watchful(nn.Module):
    """The same network, which cannot be traced: it looks at its values."""

    def __init__(self, network):
        super().__init__()
        self.normalize, self.hidden, self.classifier = network.normalize, network.hidden, network.classifier

    def forward(self, x):
        x = self.normalize(x).flatten(1)
        if x.sum() == math.pi:
            x = -x
        return self.classifier(self.hidden(x))


@pytest.mark.matrix
@pytest.mark.parametrize(
    "options",
    [{}, METHODS["cka"], {**METHODS["pgd"], "epochs": 1, "attack_steps": 1}, METHODS["pseudo_inverse"]],
    ids=str,
)
def test_a_network_that_cannot_be_traced_is_stitched_all_the_same(tiny_data, options):
    front, end = trained("mlp").network, trained("mlp", seed=1).network
    expected, _ = fit(front, end, MLP, tiny_data, **options)
    found, _ = fit(Watchful(front), Watchful(end), MLP, tiny_data, **options)
    assert equal(expected, found)
    with torch.no_grad():
        assert torch.equal(expected(tiny_data.test.images), found(tiny_data.test.images))


def test_donors_of_different_tasks_are_stitched_where_that_is_allowed(tiny_data):
    front, end = untrained("mlp", 0, classes=4), trained("mlp")
    stitched, curve = fit(front, end, MLP, tiny_data, cross_task=True, epochs=5)
    with torch.no_grad():
        assert stitched(tiny_data.test.images).shape == (60, 10)
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


# -- bad input ----------------------------------------------------------------------------------------------


def test_singular_least_squares_names_its_layers_and_ways_out(tiny_data):
    network = copy.deepcopy(trained().network)
    with torch.no_grad():
        network.conv1.weight[:2] = 0
    message = (
        "conv1 → conv1: least squares is singular: of the front layer's 8 channels 2 are constant or made of "
        "the others. Take method='pseudo_inverse' (the solution of least norm) or a ridge such as 1e-3."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(network, trained(seed=1), "conv1", tiny_data, method="least_squares")
    for way_out in ({"method": "pseudo_inverse"}, {"method": "least_squares", "ridge": 1e-3}):
        stitched, _ = fit(network, trained(seed=1), "conv1", tiny_data, **way_out)
        assert weights(stitched).isfinite().all()


@pytest.mark.parametrize("method", ["standard", "pseudo_inverse"])
def test_donors_of_different_class_counts_are_refused(tiny_data, method):
    message = (
        "the front tells 4 classes apart, the end 10: cross_task=True stitches them all the same, and the "
        "result answers with the end's classes."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(untrained("mlp", classes=4), trained("mlp"), MLP, tiny_data, method=method)


@pytest.mark.parametrize("targets", ["soft_1", "soft_12", "soft_1_plus_2"])
def test_targets_of_a_front_with_other_classes_are_refused(tiny_data, targets):
    message = f"targets='{targets}' needs a front that tells as many classes apart as the end, not 4 and 10."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(untrained("mlp", classes=4), trained("mlp"), MLP, tiny_data, targets=targets, cross_task=True)


@pytest.mark.parametrize("attacked", ["front", "both"])
def test_a_front_that_does_not_know_the_labels_cannot_be_attacked(tiny_data, attacked):
    """By name, not with an error of indices from inside the loss."""
    options = {**METHODS["transfer"], "attacked": attacked, "cross_task": True}
    with pytest.raises(ValueError, match="classes"):
        fit(untrained("mlp", classes=4), trained("mlp"), MLP, tiny_data, **options)


def test_targets_of_the_end_do_not_ask_for_a_front_of_the_same_classes(tiny_data):
    front = untrained("mlp", classes=4)
    _, curve = fit(front, trained("mlp"), MLP, tiny_data, targets="soft_2", cross_task=True, epochs=5)
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


def test_data_with_more_classes_than_the_end_has_answers_are_refused(tiny_data):
    ends = untrained("mlp", classes=4), untrained("mlp", 1, classes=4)
    message = "the data have 10 classes or more, the end's answers are 4."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(*ends, MLP, tiny_data)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(*ends, MLP, tiny_data, labels=multilabel(tiny_data.train.labels))


@pytest.mark.parametrize("method", ["standard", "pseudo_inverse", "least_squares"])
def test_a_rank_above_the_channel_count_is_refused(tiny_data, method):
    message = "rank must be between 1 and 8, as the transform takes 8 channels and gives 16; it is 9."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(trained(), trained(seed=1), "layer1.0.relu2", tiny_data, other=BLOCK, resize=True, rank=9,
            method=method)  # fmt: skip


@pytest.mark.parametrize("method", ["standard", "pseudo_inverse"])
def test_an_unknown_layer_is_refused_with_the_nearest_that_there_are(tiny_data, method):
    for layers in (("layer2.0.relu3", BLOCK), (BLOCK, "layer2.0.relu3")):
        with pytest.raises(
            ValueError, match=r"^unknown layer 'layer2\.0\.relu3'; did you mean 'layer2\.0\.relu"
        ):
            fit(trained(), trained(seed=1), layers[0], tiny_data, other=layers[1], method=method)


def test_a_loss_that_is_no_number_any_more_ends_fitting(tiny_data):
    options = {"learning_rate": 1e30, "schedule": "constant"}
    with pytest.raises(
        Diverged, match=r"^the loss became (nan|inf) in epoch 1, at learning rate 1e\+30\. Lower"
    ):
        fit(trained("mlp"), trained("mlp", seed=1), MLP, tiny_data, **options)


def test_as_many_labels_as_images_are_asked_for(tiny_data, unchecked):
    for method in ("standard", "pgd"):
        options = METHODS[method]
        with pytest.raises(ValueError, match="labels"):
            fit(trained("mlp"), trained("mlp", seed=1), MLP, tiny_data,
                labels=tiny_data.train.labels[:150], **options)  # fmt: skip


def test_a_progress_bar_counts_the_epochs(tiny_data, monkeypatch):
    bars = []

    def bar(items, what, unit, wanted=True, **options):
        bars.append((len(items), what, unit, wanted))
        return make_bar(items, what, unit, False, **options)

    make_bar = fitting_module.progress_bar
    monkeypatch.setattr(fitting_module, "progress_bar", bar)
    stitch(
        trained("mlp"),
        trained("mlp", seed=1),
        MLP,
        MLP,
        tiny_data.train.images,
        tiny_data.train.labels,
        StitchOptions(epochs=2),
    )
    assert bars == [(2, "stitch", "epoch", True)]


@pytest.mark.matrix("pgd-no_grad", "no_grad-pgd")
@pytest.mark.parametrize("name", ["standard", "pgd", "trades", "soft", "cka", "pseudo_inverse"])
@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_fitting_needs_no_gradients_of_the_callers(tiny_data, without, name):
    front, end = trained(), trained(seed=1)
    expected, curve = fit(front, end, BLOCK, tiny_data, **METHODS[name])
    with without():
        found, table = fit(front, end, BLOCK, tiny_data, **METHODS[name])
        assert not torch.is_grad_enabled()
    assert torch.equal(weights(found), weights(expected))
    assert table.equals(curve)
