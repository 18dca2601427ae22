"""Ranks are those of the data as they came: of float32 features, rounding is no direction."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from repsim.activations import capture
from repsim.data import load_data
from repsim.measures import MEASURES, compare
from repsim.measures.representation import Memory, precision_of, represent
from repsim.support.compat import torchvision
from repsim.training.model_store import find
from repsim.training.zoo import recipes

OF_RANK = [
    "cca_mean",
    "cca_mean_squared",
    "pwcca",
    "eigenspace_overlap",
    "linear_regression",
    "gulp",
    "shape_metric(alpha=0.0)",
]
EPS = {
    dtype: torch.finfo(dtype).eps for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(n=400):
    """Rank 16 in 64 and 48 units."""
    shared = normal(n, 16)
    return shared @ normal(16, 64, seed=1), (shared + 0.5 * normal(n, 16, seed=2)) @ normal(16, 48, seed=3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shift", [0, 1_000])
@pytest.mark.parametrize("name", OF_RANK)
def test_rounding_is_no_direction(name, shift):
    """Counted as such, cca_mean came to 0.526 instead of 0.891, and a large mean did the same to float64."""
    x, y = low_rank()
    found = compare(x, y, [name]).value[0]
    if name == "eigenspace_overlap" and shift:  # not centred: the mean is one more direction, in both
        found = (16 * found + 1) / 17
    x, y = (side + shift * side.std() for side in (x, y))
    close = {"rel": 0.03} if name == "eigenspace_overlap" and shift else {"rel": 1e-5}
    for a, b in ((x, y), (x.float(), y.float()), (x.float().double(), y.float().numpy())):
        assert compare(a, b, [name]).value[0] == pytest.approx(found, **close)


GIVEN = {
    "float64": (normal(30, 4), torch.float64),
    "float32": (normal(30, 4).float(), torch.float32),
    "float32, widened": (normal(30, 4).float().double(), torch.float32),
    "float32, all of one power of 2": ((1000 + normal(30, 4)).float(), torch.float32),
    "bfloat16": (normal(30, 4).bfloat16(), torch.bfloat16),
    "bfloat16, widened": (normal(30, 4).bfloat16().float(), torch.bfloat16),
    "float16, widened": (normal(30, 4).half().double(), torch.float16),
    "one-hot": (torch.eye(4).repeat(8, 1), torch.float64),
    "one-hot in half precision": (torch.eye(4).repeat(8, 1).bfloat16(), torch.float64),
    "sixteenths": (torch.arange(120).view(30, 4) % 17 / 16, torch.float64),
    "bytes": (torch.arange(120).view(30, 4) * 37 % 256, torch.float64),
    "bytes as floats": ((torch.arange(120).view(30, 4) * 37 % 256).float(), torch.float64),
    "shares of bytes": ((torch.arange(120).view(30, 4) * 37 % 256).float() / 255, torch.float32),
    "True and False": (normal(30, 4) > 0, torch.float64),
}


@pytest.mark.parametrize("case", GIVEN)
def test_the_precision_that_values_came_in(case):
    values, expected = GIVEN[case]
    assert precision_of(values, torch.float64) == EPS[expected]
    assert precision_of(values, torch.float32) == max(EPS[expected], EPS[torch.float32])


def test_a_subset_and_another_order_are_of_the_same_precision():
    x = represent(normal(30, 4).float(), "x", pool=False, dtype=torch.float64, device=None, memory=Memory())
    assert x.precision == EPS[torch.float32]
    assert x.permuted(torch.arange(30).flip(0)).precision == x.precision
    assert x.subset(torch.arange(9), Memory()).precision == x.precision


def test_what_varies_by_rounding_alone_is_constant():
    x = (1000 + 1e-5 * normal(40, 3)).float()
    with pytest.raises(ValueError, match="x does not vary"):
        MEASURES["cka"](x, normal(40, 3))
    units = torch.cat([normal(40, 3).float(), (7 + 1e-7 * normal(40, 1)).float()], dim=1)
    with pytest.warns(UserWarning, match="1 of 4 units of x are constant"):
        MEASURES["correlation_match_soft"](units, normal(40, 3))


@pytest.mark.parametrize("rdm", ["euclidean", "correlation", "cosine"])
@pytest.mark.parametrize("compare_by", ["spearman", "kendall"])
def test_ranks_of_distances_have_ties_where_float32_hides_them(rdm, compare_by):
    """Rotated one-hot labels have two distances, not thousands."""
    labels = torch.eye(5, dtype=torch.float64)[torch.arange(60) % 5]
    turned = labels @ torch.linalg.qr(normal(8, 5)).Q.T
    other = normal(60, 6)
    exact = MEASURES["rsa"](turned, other, rdm=rdm, compare=compare_by)
    assert MEASURES["rsa"](turned.float(), other, rdm=rdm, compare=compare_by) == pytest.approx(
        exact, abs=1e-6
    )


@pytest.mark.parametrize("name", OF_RANK)
def test_what_the_data_do_not_decide_is_said(name):
    """Singular values that fall evenly through what float32 resolves: which of them are there?"""
    scale = 10.0 ** -torch.linspace(0, 9, 20, dtype=torch.float64)
    x, y = ((normal(300, 20, seed=seed) * scale) @ normal(20, 20, seed=seed + 5) for seed in (0, 1))
    with pytest.warns(UserWarning, match="these data, with 7 digits, do not decide which there are"):
        MEASURES[name.partition("(")[0]](x.float(), y.float(), **({"alpha": 0.0} if "(" in name else {}))


def digits_networks(architecture):
    """A committed standard and a robust one."""
    made = recipes(load_data("digits"), [architecture], [0, 0.1], seeds=[0])
    return [find(recipe, "cpu").network for recipe in made]


def random_resnet18(seed):
    """With statistics and weights as after training, so that no layer is nearly constant."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torchvision.models.resnet18(weights=None).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return network


def differences(networks, images, names):
    """At every layer, how far values of float32 networks are from those in float64; and what notes say."""
    single = [capture(network, images, "all") for network in networks]
    double = [capture(copy.deepcopy(network).double(), images.double(), "all") for network in networks]
    found = []
    for layer in single[0]:
        if double[0][layer].std() == 0:
            continue
        tables = [compare(a[layer], b[layer], names, pool=True) for a, b in (single, double)]
        for ours, exact in zip(*(table.itertuples() for table in tables), strict=True):
            if not (math.isnan(ours.value) and math.isnan(exact.value)):
                off = abs(ours.value - exact.value) / max(1, abs(exact.value))
                found.append((off, "do not decide" in ours.note, layer, ours.measure))
    return found


def check(found, flagged):
    assert len({layer for _, _, layer, _ in found}) > 6
    assert max(one for one in found if not one[1])[0] <= 1e-3
    assert sum(said for _, said, _, _ in found) <= flagged * len(found)


@pytest.mark.slow
def test_float32_networks_give_what_they_give_in_float64():
    images = load_data("digits").test.images[:120]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(differences(digits_networks("resnet_tiny"), images, [*OF_RANK, "cka", "jaccard"]), 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet_tiny", "vgg_tiny", "mlp", "wrn_tiny", "resnet_tiny_deep"])
def test_all_measures_of_float32_networks(architecture):
    images = load_data("digits").test.images[:300]
    names = [name for name in MEASURES if name != "rtd"] + [OF_RANK[-1], "rtd(trials=1, points=60)"]
    check(differences(digits_networks(architecture), images, names), 0.05)


@pytest.mark.slow
def test_all_measures_of_a_float32_resnet18():
    images = torch.rand(300, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    names = [name for name in MEASURES if name not in ("rtd", "imd")]
    check(differences([random_resnet18(seed) for seed in (0, 1)], images, names), 0.2)


def test_whole_numbers_are_exact_or_refused():
    x = 2**30 + torch.arange(40).view(20, 2) ** 2
    assert MEASURES["cka"](x, normal(20, 3)) == pytest.approx(
        MEASURES["cka"](x - 2**30, normal(20, 3)), rel=1e-12
    )
    with pytest.raises(
        ValueError, match=r"x has whole numbers up to 107\d+, which torch.float32 does not hold"
    ):
        MEASURES["cka"](x, normal(20, 3), dtype=torch.float32)
