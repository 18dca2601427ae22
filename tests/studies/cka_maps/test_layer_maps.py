"""CKA of every layer with every layer: against the textbook, over batches, and what is refused."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from repsim.activations import capture, trace
from repsim.measures.hsic import centered_gram, hsic_scale, recenter_
from repsim.models import build_model
from repsim.studies.cka_maps.layer_maps import (
    as_matrix,
    block_strength,
    last_minus_first_third,
    layer_cka,
    matched_cka,
    mean_off_diagonal,
)

ESTIMATORS = ["unbiased", "biased"]
COLUMNS = ["model_a", "model_b", "layer_a", "layer_b", "measure", "value", "n"]
SHAPE = (1, 16, 16)


def build(name="mlp", seed=0, shape=SHAPE):
    return build_model(name, shape, 10, [0.5] * shape[0], [0.25] * shape[0], seed=seed).eval()


def noise(n=40, seed=0, shape=SHAPE):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def textbook_cka(x, y, estimator):
    """From Kornblith et al. (2019) and Song et al. (2012), in float64 and of all rows at once."""
    n = len(x)
    k, l = ((f := features.double().flatten(1)) @ f.T for features in (x, y))  # noqa: E741
    if estimator == "biased":
        h = torch.eye(n, dtype=torch.float64) - 1 / n

        def hsic(a, b):
            return torch.trace(a @ h @ b @ h)
    else:
        k, l = k.fill_diagonal_(0), l.fill_diagonal_(0)  # noqa: E741

        def hsic(a, b):
            return (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a @ b).sum()

    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


def hooked(network, images, layers):
    """Outputs of modules, by forward hooks."""
    outputs = {}
    handles = [
        network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: outputs.update({layer: output.clone()})
        )
        for layer in layers
    ]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return outputs


def textbook_map(a, b, estimator):
    return pd.DataFrame({y: {x: textbook_cka(a[x], b[y], estimator) for x in a} for y in b})


def forwards(*networks):
    """A list that grows by the number of rows whenever one of the networks is run."""
    rows = []
    for network in networks:
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear))
        first.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    return rows


def close(table, expected, tolerance):
    matrix = as_matrix(table)
    assert list(matrix.index) == list(expected.index)
    assert list(matrix.columns) == list(expected.columns)
    np.testing.assert_allclose(matrix.to_numpy(), expected.to_numpy(), rtol=0, atol=tolerance)


# -- against the textbook -----------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_batch_is_textbook_cka(estimator):
    a, b = build("resnet_tiny"), build("vgg_tiny", seed=1)
    layers_a = ["conv1", "bn1", "relu1", "layer2.0.bn2", "layer2.0.shortcut.0", "avgpool", "fc"]
    layers_b = ["features.0", "features.6", "features.20", "classifier"]
    images = noise()
    expected = textbook_map(hooked(a, images, layers_a), hooked(b, images, layers_b), estimator)
    table = layer_cka(
        a, b, images, layers_a=layers_a, layers_b=layers_b, estimator=estimator, batch_size=None
    )
    close(table, expected, 1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_batches_are_averaged_before_the_ratio(estimator):
    """The HSICs of both batches, weighted by their sizes, and one ratio at the end (Nguyen et al., 2021)."""
    network, images = build(), noise(21)
    layers = ["hidden.0", "hidden.3", "classifier"]
    order = torch.randperm(21, generator=torch.Generator().manual_seed(7))
    outputs = {layer: value[order].double() for layer, value in hooked(network, images, layers).items()}

    def hsic(x, y):
        total = 0
        for rows in (slice(0, 11), slice(11, 21)):
            k, l = (f[rows] @ f[rows].T for f in (x, y))  # noqa: E741
            n = len(k)
            if estimator == "biased":
                h = torch.eye(n, dtype=torch.float64) - 1 / n
                total += n * torch.trace(k @ h @ l @ h) / (n - 1) ** 2
            else:
                k, l = k.fill_diagonal_(0), l.fill_diagonal_(0)  # noqa: E741
                three = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
                total += n * three / (n * (n - 3))
        return total

    table = layer_cka(
        network, network, images, layers_a=layers, layers_b=layers, estimator=estimator, batch_size=10, seed=7
    )
    for _, row in table.iterrows():
        x, y = outputs[row.layer_a], outputs[row.layer_b]
        assert row.value == pytest.approx(float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()), abs=1e-5)


def test_large_means_in_float32():
    """Erratum 2: a bias of 5 beside a deviation of 0.1 changes nothing."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 512), nn.Linear(512, 300))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for linear, width in ((network[1], 256), (network[2], 512)):
            linear.weight.normal_(0, 0.3 / width**0.5, generator=generator)
        network[1].bias.fill_(5)
        network[2].bias.fill_(50)
    images = noise(128)
    outputs = hooked(network, images, ["1", "2"])
    assert outputs["1"].mean() > 20 * outputs["1"].std(0).mean()
    centered = {layer: value.double() - value.double().mean(0) for layer, value in outputs.items()}
    table = layer_cka(
        network, copy.deepcopy(network), images, layers_a=["1", "2"], layers_b=["1", "2"], batch_size=None
    )
    close(table, textbook_map(centered, centered, "unbiased"), 1e-5)


def test_batchnorm_rows_differ_from_relu_rows():
    """Erratum 1: with the hooks of the original code both would be the ReLU's."""
    network = build("resnet_tiny")
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    matrix = as_matrix(layer_cka(network, network, noise()))
    for before, after in (
        ("bn1", "relu1"),
        ("layer1.0.bn1", "layer1.0.relu1"),
        ("layer1.0.bn2", "layer1.0.add"),
    ):
        assert matrix.loc[before, after] < 0.999
        assert (matrix.loc[before] - matrix.loc[after]).abs().max() > 0.01


def test_pooled():
    network, images = build("resnet_tiny"), noise(30)
    layers = ["conv1", "layer2.0.add", "fc"]
    values = capture(network, images, layers)
    pooled = {layer: value.mean((2, 3)) if value.dim() == 4 else value for layer, value in values.items()}
    table = layer_cka(network, network, images, layers_a=layers, layers_b=layers, pool=True, batch_size=None)
    close(table, textbook_map(pooled, pooled, "unbiased"), 1e-5)


def test_pooled_over_tokens():
    network, images = build("vit_tiny"), noise(30)
    layers = ["encoder.layers.encoder_layer_1.add", "encoder.ln"]
    pooled = {layer: value.mean(1) for layer, value in capture(network, images, layers).items()}
    table = layer_cka(network, network, images, layers_a=layers, layers_b=layers, pool=True, batch_size=None)
    close(table, textbook_map(pooled, pooled, "unbiased"), 1e-5)


# -- batches ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_unbiased_agrees_over_batch_sizes_and_biased_does_not():
    network, images = build("resnet_tiny"), noise(512)
    maps = {
        estimator: [
            layer_cka(
                network,
                network,
                images,
                layers_a="blocks",
                layers_b=0.2,
                estimator=estimator,
                batch_size=size,
            )
            for size in (32, 64, 128, None)
        ]
        for estimator in ESTIMATORS
    }
    spread = {name: np.ptp([table["value"] for table in tables], axis=0) for name, tables in maps.items()}
    assert spread["unbiased"].max() < 0.03
    assert spread["biased"].max() > 0.1


def test_passes_go_through_all_images_in_other_batches():
    network, images = build(), noise(60)
    graph = trace(network, SHAPE)
    rows = forwards(network)
    maps = [layer_cka(graph, graph, images, batch_size=15, passes=passes) for passes in (1, 8)]
    assert rows == [15] * 4 * 9
    whole = layer_cka(graph, graph, images, batch_size=None)["value"]
    errors = [np.abs(table["value"] - whole).max() for table in maps]
    assert 0 < errors[1] < errors[0]
    assert maps[1]["n"].unique().tolist() == [60]


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(33, 32, [33]), (65, 32, [33, 32]), (10, 4, [5, 5]), (7, 4, [7]), (20, 100, [20]), (48, 32, [24, 24])],
)
def test_no_small_batch_is_left_over(n, batch_size, sizes):
    network = build()
    graph = trace(network, SHAPE)
    rows = forwards(network)
    table = layer_cka(graph, graph, noise(n), batch_size=batch_size)
    assert sorted(rows) == sorted(sizes)
    assert table["value"].notna().all()


def test_seed_chooses_the_batches():
    network, images = build(), noise(40)
    one, again, other = (
        layer_cka(network, network, images, batch_size=10, seed=s)["value"] for s in (0, 0, 1)
    )
    assert one.equals(again)
    assert not one.equals(other)


# -- models and inputs --------------------------------------------------------------------------------------


def test_unbiased_is_near_zero_on_independent_data_and_biased_is_far():
    a, b = build("mlp"), build("vgg_tiny", seed=1)
    inputs = (noise(400, seed=1), noise(400, seed=2))
    values = {
        estimator: layer_cka(a, b, inputs, estimator=estimator, batch_size=50, pool=False)["value"]
        for estimator in ESTIMATORS
    }
    assert values["unbiased"].abs().max() < 0.1
    assert values["unbiased"].abs().mean() < 0.03
    assert values["biased"].max() > 0.4


def test_a_model_with_itself_is_symmetric_with_unit_diagonal_and_runs_once():
    network, images = build("resnet_tiny"), noise(30)
    rows = forwards(network)
    graph = trace(network, SHAPE)
    rows.clear()
    table = layer_cka(graph, graph, images, batch_size=15)
    assert rows == [15, 15]
    matrix = as_matrix(table).to_numpy()
    assert np.array_equal(matrix, matrix.T)
    assert (np.diagonal(matrix) == 1).all()
    assert np.abs(matrix).max() <= 1 + 1e-9
    assert set(table["model_a"]) == set(table["model_b"]) == {"a"}


def test_two_inputs_for_one_model():
    network = build()
    inputs = noise(40), noise(40, seed=1)
    layers = ["hidden.1", "classifier"]
    a, b = (capture(network, images, layers) for images in inputs)
    table = layer_cka(network, network, inputs, layers_a=layers, layers_b=layers, batch_size=None)
    close(table, textbook_map(a, b, "unbiased"), 1e-5)
    assert as_matrix(table).loc["hidden.1", "hidden.1"] < 0.5
    assert set(table["model_b"]) == {"b"}


def test_two_data_sets_of_different_shapes():
    a, b = build(shape=(3, 8, 8)), build()
    inputs = noise(20, shape=(3, 8, 8)), noise(20)
    table = layer_cka(a, b, inputs, layers_a="penultimate", layers_b="penultimate", batch_size=None)
    outputs = [
        capture(model, images, "penultimate")["hidden.5"]
        for model, images in zip((a, b), inputs, strict=True)
    ]
    assert table["value"].item() == pytest.approx(textbook_cka(*outputs, "unbiased"), abs=1e-5)


def test_chosen_layers_are_a_part_of_the_full_map():
    network, images = build("resnet_tiny"), noise(30)
    full = as_matrix(layer_cka(network, network, images, batch_size=15))
    layers_a, layers_b = ["fc", "conv1"], ["layer1.0.add", "fc", "bn1"]
    part = as_matrix(layer_cka(network, network, images, layers_a=layers_a, layers_b=layers_b, batch_size=15))
    assert list(part.index) == layers_a
    assert list(part.columns) == layers_b
    pd.testing.assert_frame_equal(part, full.loc[layers_a, layers_b], check_exact=False, atol=1e-9)
    assert part.loc["fc", "fc"] == 1


# -- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("estimator", "measure"), [("unbiased", "cka_debiased"), ("biased", "cka")])
def test_table(estimator, measure):
    table = layer_cka(build(), build("vgg_tiny"), noise(12), layers_a="blocks", estimator=estimator)
    assert list(table.columns) == COLUMNS
    assert len(table) == 3 * 23
    assert table["layer_a"].unique().tolist() == ["hidden.1", "hidden.3", "hidden.5"]
    assert set(table["measure"]) == {measure}
    assert set(table["n"]) == {12}


def test_matched_is_the_diagonal():
    network, images, others = build("resnet_tiny"), noise(30), noise(30, seed=1)
    full = as_matrix(layer_cka(network, network, (images, others), batch_size=15, estimator="biased"))
    table = matched_cka(network, images, others, batch_size=15, estimator="biased")
    assert list(table.columns) == ["layer", "depth", "value"]
    assert table["layer"].tolist() == list(full.index)
    np.testing.assert_allclose(table["value"], np.diagonal(full), atol=1e-12)
    assert (table["depth"].iloc[0], table["depth"].iloc[-1]) == (0, 1)
    assert np.allclose(np.diff(table["depth"]), 1 / (len(table) - 1))
    few = matched_cka(network, images, others, layers=["fc", "conv1"], batch_size=None)
    assert few["layer"].tolist() == ["fc", "conv1"]


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (noise(3), {}, "CKA needs at least 4 images, got 3."),
        (noise(0), {}, "images are empty: there is no image."),
        (noise(8), {"batch_size": 3}, "batch_size must be at least 4, or None for one batch, not 3."),
        (noise(8), {"batch_size": 0}, "batch_size must be at least 4, or None for one batch, not 0."),
        (noise(8), {"passes": 0}, "passes must be at least 1, not 0."),
        ((noise(8), noise(9)), {}, "the two models need matching rows, got 8 and 9 images."),
        (
            noise(8) + 0.5,
            {},
            "images must have pixels in [0, 1], found [0.5, 1.5]. Models normalise inside: give them raw "
            "pixels, divided by 255 when they are bytes.",
        ),
        (
            (noise(8), noise(8) * float("nan")),
            {},
            "images must have pixels in [0, 1], found [nan, nan]. Models normalise inside: give them raw "
            "pixels, divided by 255 when they are bytes.",
        ),
        (
            noise(8),
            {"layers_b": ["hidden.0", "hiden.9"]},
            "unknown layer 'hiden.9'; did you mean 'hidden.5' or 'hidden.4' or 'hidden.3'? Known: hidden.0, "
            "hidden.1, hidden.2, hidden.3, hidden.4, hidden.5, classifier, all, blocks, penultimate.",
        ),
    ],
)
def test_messages(images, options, message):
    network = build()
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        layer_cka(network, network, images, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_activations_that_are_not_finite_name_their_layer(value):
    network = build("resnet_tiny")
    with torch.no_grad():
        network.layer2[0].bn1.weight[3] = value
    with pytest.raises(ValueError, match="not finite") as error:
        layer_cka(network, network, noise(8))
    assert str(error.value) == (
        "layer 'layer2.0.bn1' has activations that are not finite (NaN or infinite, or too large to square): "
        "the weights or the inputs are damaged."
    )
    early = layer_cka(network, network, noise(8), layers_a=["bn1"], layers_b=["conv1"])
    assert early["value"].notna().all()


def dying():
    """A network whose first ReLU is dead, so that all that follows is constant but not zero."""
    network = build()
    with torch.no_grad():
        network.hidden[0].weight.zero_()
        network.hidden[0].bias.fill_(-1)
        network.hidden[2].bias.uniform_(0.1, 0.2, generator=torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [16, 101])
def test_constant_layers_are_nan_with_a_warning(estimator, n):
    living, dead = build(), dying()
    layers = ["hidden.1", "hidden.2", "flatten"]
    message = (
        "2 layers of model 'b' give every image the same output, so that their CKA is undefined (NaN): "
        "hidden.1, hidden.2"
    )
    with pytest.warns(UserWarning) as caught:  # noqa: PT030 (the whole message is compared)
        table = layer_cka(living, dead, noise(n), layers_b=layers, estimator=estimator)
    assert [str(warning.message) for warning in caught] == [message]
    matrix = as_matrix(table)
    assert matrix[["hidden.1", "hidden.2"]].isna().all(axis=None)
    assert matrix["flatten"].notna().all()


def test_constant_layers_of_a_model_with_itself_are_warned_of_once():
    network = dying()
    layers = ["flatten", "hidden.0", "hidden.4"]
    with pytest.warns(UserWarning, match="^2 layers of model 'a' give every image the same output") as caught:
        table = layer_cka(network, network, noise(50), layers_a=layers, layers_b=layers)
    assert len(caught) == 1
    values = as_matrix(table).to_numpy()
    assert values[0, 0] == 1
    assert np.isnan(np.delete(values.flatten(), 0)).all()


# -- what is read off a map ---------------------------------------------------------------------------------


def slow_block_strength(values):
    depth = len(values)
    best = -np.inf
    for first in range(depth):
        for last in range(first + 2, depth + 1):
            if not depth / 4 <= last - first <= 3 * depth / 4:
                continue
            block = [i for i in range(depth) if first <= i < last]
            rest = [i for i in range(depth) if not first <= i < last]
            within = np.mean([values[i, j] for i in block for j in block if i != j])
            between = np.mean([values[i, j] for i in block for j in rest])
            best = max(best, within - between)
    return best


@given(depth=st.integers(3, 13), seed=st.integers(0, 99))
def test_block_strength_by_brute_force(depth, seed):
    values = np.random.default_rng(seed).random((depth, depth))
    values = (values + values.T) / 2
    assert block_strength(values) == pytest.approx(slow_block_strength(values), abs=1e-12)
    assert block_strength(pd.DataFrame(values)) == block_strength(values)


def test_block_strength_of_a_map_with_holes_is_nan():
    values = np.full((6, 6), 0.5)
    values[5, :] = values[:, 5] = np.nan
    assert np.isnan(block_strength(values))


def test_block_strength_needs_three_layers():
    with pytest.raises(ValueError, match=r"^block structure needs a map of at least 3 layers, got 2\.$"):
        block_strength(np.eye(2))


def test_mean_off_diagonal():
    values = np.array([[1.0, 0.2, 0.4], [0.2, 1.0, 0.9], [0.4, 0.9, 1.0]])
    assert mean_off_diagonal(values) == pytest.approx(0.5)
    assert mean_off_diagonal(pd.DataFrame(values)) == mean_off_diagonal(values)


def test_the_last_third_less_the_first_is_taken_model_by_model():
    """Of six layers two are a third; of a thirty-fourth layer rounding must not decide."""
    tables = []
    for model, count in (("a", 6), ("b", 34)):
        depth = np.linspace(0, 1, count)
        tables.append(pd.DataFrame({"model": model, "depth": depth, "value": np.arange(count) ** 2.0}))
    found = last_minus_first_third(pd.concat(tables), ["model"])
    assert found["a"] == (16 + 25) / 2 - (0 + 1) / 2
    squares = np.arange(34) ** 2.0
    assert found["b"] == pytest.approx(squares[22:].mean() - squares[:12].mean())


# -- images as users have them ------------------------------------------------------------------------------


def one_batch(images, **options):
    network = build()
    return layer_cka(network, network, images, batch_size=None, progress=False, **options)["value"].to_numpy()


def loader_of(images, **options):
    dataset = torch.utils.data.TensorDataset(images, torch.zeros(len(images)))
    return torch.utils.data.DataLoader(dataset, batch_size=7, **options)


def test_arrays_loaders_mappings_and_generators_mean_their_images():
    images = noise(24)
    expected = one_batch(images)
    for same in (
        images.numpy(),
        loader_of(images),
        loader_of(images, shuffle=True),  # read once, for both networks
        [{"pixel_values": batch, "labels": 0} for batch in images.split(7)],
        iter(images.split(7)),
        (batch for batch in loader_of(images)),
    ):
        np.testing.assert_allclose(one_batch(same), expected, atol=1e-6)
    pair = one_batch((loader_of(images), images.numpy()))
    np.testing.assert_allclose(pair, one_batch((images, images.clone())), atol=1e-6)


def test_a_generator_is_gone_through_once_in_its_order_and_in_batches_of_the_size_asked():
    images, network = noise(26), build()
    options = {"progress": False, "estimator": "unbiased"}
    found = layer_cka(network, network, iter(images.split(3)), batch_size=8, **options)
    assert set(found["n"]) == {26}
    graph, total, own = trace(network, images.shape[1:]), 0.0, 0.0
    x, y = (capture(graph, images, name)[name].flatten(1).double() for name in ("hidden.0", "hidden.4"))
    for rows in (slice(0, 8), slice(8, 16), slice(16, 26)):  # 2 would be too small a rest
        a, b = (recenter_(centered_gram(each[rows]), "unbiased") for each in (x, y))
        weight = len(a) * hsic_scale(len(a), "unbiased")
        total, own = total + weight * (a * b).sum(), own + weight * torch.stack([a.norm(), b.norm()]).square()
    value = found.query("layer_a == 'hidden.0' and layer_b == 'hidden.4'")["value"].item()
    assert value == pytest.approx((total / own.prod().sqrt()).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (lambda: iter(noise(8).split(4)), {"passes": 2}, "can be gone through once only: passes must be 1"),
        (lambda: iter(noise(3).split(2)), {}, "CKA needs at least 4 images, got 3"),
        (
            lambda: (iter(noise(12).split(4)), noise(9)),
            {},
            "need matching rows, and one source has more images",
        ),
        (
            lambda: (loader_of(noise(12), shuffle=True), noise(12)),
            {},
            "a loader that shuffles gives its own in another order each time",
        ),
        (lambda: iter([noise(4), 2 * noise(4)]), {}, r"must have pixels in \[0, 1\]"),
    ],
)
def test_images_that_cannot_be_matched_are_refused(images, options, message):
    network = build()
    with pytest.raises(ValueError, match=message):
        layer_cka(network, build(seed=1), images(), progress=False, **options)
