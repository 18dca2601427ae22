"""Networks on a GPU: their graphs are those of the CPU, and the values of their layers but for rounding."""

import warnings

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from toy_networks import Branching, Inplace, randomized

from repsim.activations import Observer, capture, fold_batchnorm, trace
from repsim.models import build_model
from repsim.studies.cka_maps.layer_maps import layer_cka, matched_cka
from repsim.training import accuracy, predict

ARCHITECTURES = ["resnet_tiny", "wrn_tiny", "vgg_tiny", "mlp"]
LARGE = ["resnet18", "wrn_28_4", "preactresnet18", "densenet121", "vgg11_bn"]
SINGLE = 1e-4  # float32 with sums in another order, through some ten layers
ROUGH = 2**-6  # TF32, which rounds factors to 10 bits of mantissa, through as many


@pytest.fixture(params=["exact", "coarse"])
def share(request):
    """How far values may be off, as a share of the largest: without TF32, and with it."""
    request.getfixturevalue(request.param)
    return {"exact": SINGLE, "coarse": ROUGH}[request.param]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_committed_network_has_the_layers_and_values_of_the_cpu(
    device, committed, tiny_data, alike, share, architecture
):
    images = tiny_data.test.images
    there, here = (committed(architecture, where=where) for where in (device.type, "cpu"))
    assert there.graph.device.type == device.type
    assert (there.graph.how, list(there.graph.layers)) == ("traced", list(here.graph.layers))
    assert (there.graph.batch_dependent, there.graph.draws) == (False, False)
    alike(predict(there.network, images), predict(here.network, images), share)
    assert predict(there.network, images.to(device)).device.type == device.type
    found, expected = (capture(each.graph, images, "all") for each in (there, here))
    for name, value in expected.items():
        assert found[name].device == images.device
        alike(found[name], value, share)
    seen = Observer(there.graph, list(expected)).observe(images.to(device))
    assert seen.logits.device.type == device.type
    for name, value in expected.items():
        alike(seen.values[name], value.flatten(1), share)
    assert accuracy(there.network, images, tiny_data.test.labels) == pytest.approx(
        accuracy(here.network, images, tiny_data.test.labels), abs=0.02
    )


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("architecture", LARGE)
def test_a_deep_network_is_traced_and_folded_in_spite_of_tf32(device, alike, architecture):
    """What a graph gives is compared with what the network gives, and a warning says where that fails."""
    network = build_model(architecture, (3, 32, 32), 10, [0.5] * 3, [0.2] * 3).eval().to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = trace(network, (3, 32, 32))
        assert graph.how == "traced"
        assert not graph.batch_dependent
        layer = graph.select("penultimate")[0]
        prefix = graph.prefix(layer)
        folded = fold_batchnorm(prefix, graph.trial_images(2))
    assert sum("BatchNorm" in type(each).__name__ for each in folded.modules()) < sum(
        "BatchNorm" in type(each).__name__ for each in prefix.modules()
    )
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        alike(folded(images), prefix(images), 4 * ROUGH)


def tokens():
    """A network of products, where others have convolutions."""
    return build_model("vit_tiny", (3, 16, 16), 10, [0.5] * 3, [0.2] * 3)


@pytest.mark.parametrize("kind", [Inplace, Branching, tokens])
def test_networks_that_overwrite_branch_or_attend(device, alike, share, kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = randomized(kind())
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = capture(network, images, "all")
    network.to(device)
    found = capture(network, images, "all")
    assert list(found) == list(expected)
    for name, value in expected.items():
        alike(found[name], value, share)


def test_a_network_cut_in_two_gives_what_it_gives_whole(device, committed, tiny_data, alike, share):
    graph = committed().graph
    images = tiny_data.test.images[:20].to(device)
    with torch.no_grad():
        whole = graph.network(images)
        for layer in graph.layers:
            suffix = graph.suffix(layer)
            alike(suffix.rest(graph.prefix(layer)(images), *suffix.context(images)), whole, share)


def test_a_map_is_that_of_the_cpu(device, committed, tiny_data, share):
    images = tiny_data.test.images
    there, here = (
        (committed(where=where).graph, committed("vgg_tiny", 0.1, where=where).graph)
        for where in (device.type, "cpu")
    )
    # where convolutions are rounded, so is what is compared: of layers with a hundredth of it in common
    bound = {SINGLE: 1e-4, ROUGH: 2e-2}[share]
    for options in ({}, {"estimator": "biased", "batch_size": None, "pool": True}):
        expected = layer_cka(*here, images, progress=False, **options)
        for given in (images, images.to(device)):
            found = layer_cka(*there, given, progress=False, **options)
            pd.testing.assert_frame_equal(found, expected, rtol=0, atol=bound)
    shifted = (images + 0.1).clamp(max=1)
    pd.testing.assert_frame_equal(
        matched_cka(there[0], images, shifted.to(device), progress=False),
        matched_cka(here[0], images, shifted, progress=False),
        rtol=0,
        atol=bound,
    )


def test_networks_on_two_devices_are_compared(device, committed, tiny_data):
    there, here = committed().graph, committed(where="cpu").graph
    values = layer_cka(there, here, tiny_data.test.images, progress=False)
    same = values[values["layer_a"] == values["layer_b"]]["value"]
    assert (same > 0.999).all()


def test_images_come_from_a_loader_that_pins_its_memory(device, committed, tiny_data):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, pin_memory=device.type == "cuda")
    found = capture(committed().graph, loader, "penultimate")
    torch.testing.assert_close(found, capture(committed().graph, images, "penultimate"), rtol=0, atol=1e-2)
    assert accuracy(committed().network, loader) == pytest.approx(
        accuracy(committed().network, images, labels), abs=0.02
    )
