"""Stitches, inverted images and probes of networks on a GPU: as on the CPU, and kept for any device."""

import pandas as pd
import pytest
import torch

from repsim.activations import capture
from repsim.attacks import Attack
from repsim.studies.inversion import (
    FeatureExtractor,
    InversionOptions,
    InversionRecipe,
    Pairs,
    find_inverted,
    invert,
    obtain_inverted,
)
from repsim.studies.probing import ProbeOptions, fit_probe, obtain_probes
from repsim.studies.stitching import (
    Budget,
    Evaluation,
    StitchOptions,
    StitchRecipe,
    find_stitch,
    obtain_stitch,
    stitch,
)
from repsim.training import accuracy, predict

BLOCK = "layer2.0.relu2"
INSIDE = "layer2.0.conv1"  # of a residual branch: something of the end goes around it
QUICK = {"epochs": 2, "batch_size": 50, "learning_rate": 0.03, "schedule": "constant"}
DIRECT = {
    "pseudo_inverse": {"method": "pseudo_inverse"},
    "orthogonal": {"method": "orthogonal"},
    "least_squares": {"method": "least_squares", "ridge": 1e-3},
    "of a rank": {"method": "pseudo_inverse", "rank": 3},
}
BY_LOSS = {
    "standard": {},
    "pgd": {"method": "pgd", "epsilon": 0.1, "attack_steps": 2},
    "trades": {"method": "trades", "epsilon": 0.1, "attack_steps": 2},
    "transfer": {"method": "pgd", "epsilon": 0.1, "attack_steps": 2, "attacked": "both"},
    "soft": {"targets": "soft_12", "temperature": 2.0},
    "cka": {"cka_weight": 0.5, "l1": 1e-3},
    "update_batchnorm": {"update_batchnorm": True},
    "augmented": {"augment": True},
    "matched": {"initial": "pseudo_inverse", "mask": "semi_match"},
}


def fit(committed, data, where, layer=BLOCK, images=None, **options):
    front, end = committed(where=where).graph, committed(epsilon=0.1, where=where).graph
    images = data.train.images if images is None else images
    budget = options.pop("budget", None)
    return stitch(
        front,
        end,
        layer,
        layer,
        images,
        data.train.labels,
        StitchOptions(**options),
        augmentation=data.augmentation,
        budget=budget,
        progress=False,
    )


# stitches


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("layer", [BLOCK, INSIDE])
@pytest.mark.parametrize("fitting_method", DIRECT)
def test_layers_are_matched_as_on_the_cpu(device, committed, tiny_data, alike, fitting_method, layer):
    there, _ = fit(committed, tiny_data, device.type, layer, **DIRECT[fitting_method])
    here, _ = fit(committed, tiny_data, "cpu", layer, **DIRECT[fitting_method])
    assert there.transform.weight.device.type == device.type
    given = here.prefix(tiny_data.test.images)
    alike(there.transform(given.to(device)), here.transform(given), 1e-3)
    alike(predict(there, tiny_data.test.images), predict(here, tiny_data.test.images), 1e-2)


@pytest.mark.parametrize("fitting_method", BY_LOSS)
def test_stitches_are_fitted_as_on_the_cpu(device, committed, tiny_data, fitting_method):
    options = {**QUICK, **BY_LOSS[fitting_method]}
    there, curve = fit(committed, tiny_data, device.type, **options)
    here, expected = fit(committed, tiny_data, "cpu", **options)
    pd.testing.assert_frame_equal(curve, expected, rtol=0.1, atol=0.05)
    assert {value.device.type for value in there.state_dict().values()} == {device.type}
    found, wanted = (accuracy(each, tiny_data.test.images, tiny_data.test.labels) for each in (there, here))
    assert found == pytest.approx(wanted, abs=0.1)


def test_activations_that_are_kept_on_disk_are_those_in_memory(device, committed, tiny_data, alike):
    networks = [
        fit(committed, tiny_data, device.type, images=images, budget=budget, **QUICK)[0]
        for images, budget in (
            (None, Budget()),
            (tiny_data.train.images.to(device), Budget(memory=0)),
            (None, Budget(memory=0, disk=0)),
        )
    ]
    for other in networks[1:]:
        alike(other.transform.weight, networks[0].transform.weight, 1e-2)


@pytest.mark.usefixtures("_alone")
def test_a_stitch_made_on_a_gpu_is_found_on_the_cpu(device, committed, tiny_data):
    recipe = StitchRecipe.of(
        committed(), committed(epsilon=0.1), BLOCK, BLOCK, tiny_data, StitchOptions(**QUICK)
    )
    there, here = (
        Evaluation(tiny_data, Attack(0.1, steps=2), device=where) for where in (device.type, "cpu")
    )
    made = obtain_stitch(recipe, there)
    found = find_stitch(recipe)
    assert {value.device.type for value in found.learned.values()} == {"cpu"}
    images = tiny_data.test.images
    torch.testing.assert_close(
        predict(found.network(here), images), predict(made.network(there), images), rtol=0, atol=0.1
    )
    # under another attack it is measured again, now on the CPU
    again = obtain_stitch(recipe, Evaluation(tiny_data, Attack(0.1, steps=3), device="cpu"))
    first, second = (pd.Series(row) for row in again.record["measured"])
    clean = ["accuracy", "cross_entropy", "agreement_front", "cka_before", "cka_after", "distance_after"]
    pd.testing.assert_series_equal(first[clean], second[clean], rtol=0.05, atol=0.02, check_names=False)


# inverted images


@pytest.mark.parametrize("options", [{}, {"optimizer": "adam"}, {"epsilon": 2.0}, {"precision": "bfloat16"}])
def test_images_are_inverted_as_near_as_on_the_cpu(device, committed, tiny_data, options):
    seeds, targets = tiny_data.test.images[:20], tiny_data.test.images[20:40]
    options = {"iterations": 60, **options}
    there = invert(committed().network, seeds.to(device), targets, progress=False, **options)
    here = invert(committed(where="cpu").network, seeds, targets, progress=False, **options)
    assert there.images.device.type == there.loss.device.type == there.iterations.device.type == device.type
    assert there.loss.mean().item() == pytest.approx(here.loss.mean().item(), rel=0.15, abs=0.01)
    assert there.loss.mean() < 0.6
    assert there.images.min() >= 0
    assert there.images.max() <= 1
    read = FeatureExtractor(committed().network, "penultimate", tiny_data.image_shape)
    with torch.no_grad():
        given, wanted = read(there.images), read(targets.to(device))
    distance = (given - wanted).norm(dim=1) / wanted.norm(dim=1)
    torch.testing.assert_close(distance, there.loss, rtol=0.05, atol=0.01)


@pytest.mark.filterwarnings("ignore")  # what compiling says of itself
def test_a_compiled_network_inverts_as_well(on_gpu, committed, tiny_data):
    seeds, targets = tiny_data.test.images[:16], tiny_data.test.images[16:32]
    plain, compiled = (
        FeatureExtractor(committed().network, "penultimate", tiny_data.image_shape, compiled=how)
        for how in (False, True)
    )
    found, expected = (
        invert(read, seeds, targets, iterations=40, progress=False) for read in (compiled, plain)
    )
    assert found.loss.mean().item() == pytest.approx(expected.loss.mean().item(), rel=0.15, abs=0.01)


@pytest.mark.usefixtures("_alone")
def test_images_inverted_on_a_gpu_are_found_on_the_cpu(committed, tiny_data):
    pairs = Pairs.draw(tiny_data, 10)
    options = InversionOptions(iterations=10)
    for start in ("seed", "noise"):
        recipe = InversionRecipe.of(committed(), pairs, "penultimate", options, start=start)
        made = obtain_inverted(recipe, committed(), tiny_data, pairs, batch_size=4, progress=False)
        found = find_inverted(recipe)
        assert found.images.device.type == found.loss.device.type == "cpu"
        assert torch.equal(found.images, made.images)
        read = FeatureExtractor(committed(where="cpu").network, "penultimate", tiny_data.image_shape)
        with torch.no_grad():
            given, wanted = read(found.images), read(pairs.targets(tiny_data.test))
        distance = (given - wanted).norm(dim=1) / wanted.norm(dim=1)
        torch.testing.assert_close(distance, found.loss, rtol=0.1, atol=0.02)


# probes


@pytest.mark.parametrize(
    "options",
    [
        ProbeOptions(),
        ProbeOptions(penalty=0.01),
        ProbeOptions("logistic"),
        ProbeOptions("adam", epochs=3, batch_size=50),
    ],
    ids=["ridge", "ridge of a penalty", "logistic", "adam"],
)
@pytest.mark.parametrize("layer", ["penultimate", BLOCK])
def test_a_probe_of_the_same_features_is_the_same(device, committed, tiny_data, alike, options, layer):
    (features,) = capture(committed(where="cpu").graph, tiny_data.train.images, layer).values()
    features, labels = features.flatten(1), tiny_data.train.labels
    expected = fit_probe(features, labels, 10, options)
    found = fit_probe(features.to(device), labels, 10, options)
    assert found.weight.device.type == found.bias.device.type == device.type
    assert found.penalty == expected.penalty
    logits = found.logits(features.to(device))
    bound = {"ridge": 1e-5, "logistic": 0.02, "adam": 0.02}[options.kind]
    alike(logits, expected.logits(features), bound)
    assert found.accuracy(features.to(device), labels) == pytest.approx(
        expected.accuracy(features, labels), abs=0.02
    )


def test_a_probe_made_on_a_gpu_is_found_on_the_cpu(device, committed, tiny_data):
    options = [ProbeOptions(penalty=0.01), ProbeOptions("adam", epochs=2, batch_size=50)]
    made = obtain_probes([committed()], tiny_data, options, BLOCK, progress=False)
    for there, here in zip(
        made, obtain_probes([committed(where="cpu")], tiny_data, options, BLOCK, progress=False), strict=True
    ):
        assert here.record == there.record
        assert here.probe.weight.device.type == "cpu"
        found, expected = (predict(each.network(), tiny_data.test.images) for each in (there, here))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * float(expected.abs().max()))
        assert {value.device.type for value in there.network().state_dict().values()} == {device.type}
