"""Measures by name and by option: what they are called, what they refuse, what they return."""

import math
import re
import warnings

import numpy as np
import pytest
import torch

from repsim.measures import MEASURES, compare, compare_many, find_measure, interval, permutation_test
from repsim.measures.measure import measure
from repsim.measures.registry import FAMILIES

N = 30
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X @ torch.diag(torch.arange(1.0, 7).double()) + X.flip(0)
LISTED = (
    "cka, cka_debiased, cka_rbf, cka_angular, cca_mean, cca_mean_squared, svcca, pwcca, eigenspace_overlap, "
    "procrustes, procrustes_similarity, procrustes_angular, … (36 in all)."
)


def message(call):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the caller compares the message)
        call()
    return str(caught.value)


def declared(value, **metadata):
    """A measure that answers `value` to everything."""

    def constant(x, y):
        return value

    return measure(
        **{"orientation": "similarity", "range": (0, 1), "invariances": "", "reference": "", **metadata}
    )(constant)


# -- names and options --------------------------------------------------------------------------------------


def test_every_measure_is_found_by_name_and_by_its_label():
    for name in MEASURES:
        found = find_measure(name)
        assert found is MEASURES[name]
        assert found.name == found.label == name
        assert found.family in FAMILIES
        for example in found.examples:
            other = found.using(**example)
            assert find_measure(other.label) == other


@pytest.mark.parametrize(
    ("text", "label"),
    {
        "jaccard": "jaccard",
        "jaccard()": "jaccard",
        "jaccard(k=10)": "jaccard",
        "jaccard(k=20, metric='euclidean')": "jaccard(k=20, metric='euclidean')",
        'jaccard(metric="euclidean",k=20,)': "jaccard(k=20, metric='euclidean')",
        " jaccard ( center = True ) ": "jaccard(center=True)",
        "second_order_cosine(k=None)": "second_order_cosine(k=None)",
        "shape_metric(alpha=0)": "shape_metric(alpha=0)",
        "gulp(lam=1e-3)": "gulp(lam=0.001)",
    }.items(),
)
def test_options_in_a_text(text, label):
    assert find_measure(text).label == label


def test_a_measure_is_found_as_itself():
    chosen = MEASURES["jaccard"].using(k=3)
    assert find_measure(chosen) is chosen


@pytest.mark.parametrize(
    "text",
    [
        "jaccard(20)",
        "jaccard(k=20",
        "jaccard(k=20))",
        "jaccard(k=)",
        "jaccard(k=n)",
        "jaccard(k=2 + x)",
        "jaccard(k=open('file'))",
        "jaccard(k=20) + 1",
        "jaccard(k=20).real",
        "jaccard(k=20)(k=3)",
        "jaccard(k=2, k=3)",
        "jaccard(*[3])",
        "jaccard(**{'k': 3})",
        "jaccard(k=3); 1",
    ],
)
def test_bad_syntax(text):
    assert message(lambda: find_measure(text)) == (
        f"options of a measure are written as in jaccard(k=20, metric='euclidean'), not {text!r}."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "jacard": f"unknown measure 'jacard'; did you mean 'jaccard' or 'rank_jaccard'? Known: {LISTED}",
        "CKA(k=3)": "unknown measure 'CKA'; did you mean 'cka' or 'cknna' or 'cka_rbf'? Known: " + LISTED,
        "xyzxyz": f"unknown measure 'xyzxyz'; known: {LISTED}",
        "": f"unknown measure ''; known: {LISTED}",
        "jaccard(kk=3)": "unknown option of jaccard 'kk'; did you mean 'k'? Known: k, metric, center.",
        "jaccard(points=3)": "unknown option of jaccard 'points'; known: k, metric, center.",
        "cka(k=3)": "unknown option of cka 'k'; there is no option of cka at all",
    }.items(),
)
def test_unknown_names(text, expected):
    assert message(lambda: find_measure(text)) == expected


def test_using_makes_another_measure():
    jaccard = MEASURES["jaccard"]
    other = jaccard.using(k=3).using(metric="euclidean")
    assert other.options == {"k": 3, "metric": "euclidean", "center": False}
    assert jaccard.options == {"k": 10, "metric": "cosine", "center": False}
    assert other.invariances["x"] - jaccard.invariances["x"] == {"translation"}
    assert other(X, Y) == jaccard(X, Y, k=3, metric="euclidean") != jaccard(X, Y)
    assert other.using(k=10, metric="cosine") == jaccard
    assert message(lambda: jaccard(X, Y, kk=3)) == (
        "unknown option of jaccard 'kk'; did you mean 'k'? Known: k, metric, center."
    )


def test_numpy_numbers_are_numbers():
    chosen = MEASURES["jaccard"].using(k=np.int64(3), center=np.bool_(True))
    assert chosen.label == "jaccard(k=3, center=True)"
    assert type(chosen.options["k"]) is int
    assert MEASURES["gulp"](X, Y, lam=np.float32(0.5)) == MEASURES["gulp"](X, Y, lam=0.5)


def test_range_and_invariances_follow_the_options():
    regression = MEASURES["linear_regression"]
    assert regression.range == (0, 1)
    assert regression.using(folds=5).range == (-math.inf, 1)
    assert regression.invariances["x"] == {"orthogonal", "permutation", "scale", "translation"}
    assert regression.invariances["y"] == {"linear", *regression.invariances["x"]}
    assert regression.using(ridge=1.0).invariances["y"] == {"orthogonal", "permutation", "translation"}


@pytest.mark.parametrize(
    ("text", "closure"),
    {
        "": set(),
        "linear": {"linear", "orthogonal", "permutation", "scale"},
        "orthogonal translation": {"orthogonal", "permutation", "translation"},
        "permutation scale": {"permutation", "scale"},
    }.items(),
)
def test_invariances_close(text, closure):
    found = declared(0.5, invariances=(text, "scale"))
    assert found.invariances == {"x": closure, "y": {"scale"}}


# -- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value", "returned"),
    [
        (torch.float64, 1 + 1e-9, 1.0),
        (torch.float64, -1e-9, 0.0),
        (torch.float64, 1 + 1e-6, 1 + 1e-6),  # no rounding: better wrong than hidden
        (torch.float64, -0.1, -0.1),
        (torch.float32, 1 + 1e-6, 1.0),
        (torch.float32, -1e-6, 0.0),
        (torch.float32, 1.01, 1.01),
        (torch.float64, 0.25, 0.25),
        (torch.float64, torch.tensor(0.25), 0.25),
    ],
)
def test_only_rounding_is_taken_back_into_the_range(dtype, value, returned):
    result = declared(value)(X, Y, dtype=dtype)
    assert type(result) is float
    assert result == returned


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_no_number_is_an_error(value):
    assert message(lambda: declared(value, range=(-math.inf, math.inf))(X, Y)) == (
        "constant is undefined here: it comes to 0 / 0, or beyond torch.float64. The 30 inputs are "
        "too few, too much alike, or too large or small in value."
    )


def test_undefined_names_the_options():
    far = 1e6 * X
    assert message(lambda: MEASURES["rsa"](far, far, rdm="gaussian", compare="pearson", width=2.0)) == (
        "rsa(rdm='gaussian', compare='pearson', width=2.0) is undefined here: it comes to 0 / 0, or beyond "
        "torch.float64. The 30 inputs are too few, too much alike, or too large or small in value."
    )


# -- how many inputs a measure needs ------------------------------------------------------------------------

WIDTHS = [(1, 1), (3, 3), (1, 5), (5, 1), (40, 7)]


def independent(n, widths, seed):
    """Two representations that have nothing to do with each other."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=generator, dtype=torch.float64) for width in widths]


def values_at(text, n, widths, count=6):
    """Of so many independent pairs, whatever the measure has to say against it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [find_measure(text)(*independent(n, widths, seed)) for seed in range(count)]


def test_every_measure_says_how_many_inputs_it_needs():
    for name in MEASURES:
        for options in ({}, *MEASURES[name].examples):
            for widths in WIDTHS:
                least = MEASURES[name].using(**options).least_inputs(*widths)
                assert type(least) is int
                assert least >= 4


@pytest.mark.parametrize("name", MEASURES)
def test_with_as_many_inputs_every_measure_is_defined(name):
    """Without a warning that it says nothing, which would be an error here."""
    for options in MEASURES[name].examples:
        chosen = MEASURES[name].using(**options)
        for widths in [(3, 3)] if "permutation" in name else [(3, 3), (2, 5), (5, 2)]:
            assert math.isfinite(chosen(*independent(chosen.least_inputs(*widths), widths, seed=0)))


@pytest.mark.parametrize(
    ("text", "widths"),
    [
        *(
            (text, widths)
            for text in ("cca_mean", "cca_mean_squared", "pwcca", "gulp", "shape_metric(alpha=0)")
            for widths in [(1, 5), (5, 1)]
        ),
        ("svcca(variance=1)", (1, 5)),
        ("svcca(dims=3)", (1, 9)),  # one of three
        ("svcca(dims=1)", (1, 9)),
        ("eigenspace_overlap", (1, 5)),
        ("eigenspace_overlap", (5, 1)),
        ("linear_regression", (1, 5)),
        ("linear_regression", (8, 5)),
    ],
)
def test_with_one_input_less_it_says_the_same_of_any_two(text, widths):
    """A single unit is a linear map of as many others as there are inputs but one."""
    least = find_measure(text).least_inputs(*widths)
    if least > 4:
        forced = values_at(text, least - 1, widths)
        assert forced == pytest.approx([forced[0]] * len(forced), abs=1e-7)
        assert forced[0] == pytest.approx(1) or text in (
            "gulp",
            "shape_metric(alpha=0)",
            "eigenspace_overlap",
        )
    free = values_at(text, least, widths)
    assert max(free) - min(free) > 0.01


def greatest_correlation(x, y):
    """By NumPy: the cosine of the least angle between two spans of centred columns."""
    spans = [np.linalg.qr(side - side.mean(0))[0] for side in (x.numpy(), y.numpy())]
    return np.linalg.svd(spans[0].T @ spans[1], compute_uv=False)[0]


@pytest.mark.parametrize("widths", [(2, 2), (2, 5), (5, 2), (4, 4), (7, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_with_one_input_less_some_direction_is_shared_by_any_two(widths, seed):
    least = MEASURES["cca_mean"].least_inputs(*widths)
    assert greatest_correlation(*independent(least - 1, widths, seed)) == pytest.approx(1, abs=1e-12)
    assert greatest_correlation(*independent(least, widths, seed)) < 1 - 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", ["jaccard", "mutual_knn"])
def test_of_one_input_less_any_two_neighbourhoods_meet(name, k):
    least = MEASURES[name].using(k=k).least_inputs(6, 6)
    one = 1 / k if name == "mutual_knn" else 1 / (2 * k - 1)  # if each input shares one neighbour
    assert min(values_at(f"{name}(k={k})", least - 1, (6, 6), 50)) >= one - 1e-12
    assert min(values_at(f"{name}(k={k})", least, (6, 6), 150)) < one


@pytest.mark.parametrize(
    ("text", "widths", "least"),
    [
        ("cka", (512, 512), 4),
        ("procrustes", (512, 512), 4),
        ("cca_mean", (1, 1), 4),
        ("cca_mean", (512, 64), 577),
        ("pwcca", (3, 4), 8),
        ("cca_mean_squared", (3, 4), 8),
        ("svcca", (512, 64), 577),
        ("svcca(dims=10)", (512, 64), 21),
        ("svcca(dims=10)", (512, 6), 17),
        ("svcca(dims=100)", (512, 64), 165),
        ("svcca(variance=0.5)", (512, 64), 577),  # how many are kept is not known before
        ("gulp", (512, 64), 577),
        ("gulp(lam=0.1)", (512, 64), 4),
        ("shape_metric", (512, 64), 4),
        ("shape_metric(alpha=1)", (512, 64), 4),
        ("shape_metric(alpha=0)", (512, 64), 577),
        ("linear_regression", (512, 64), 66),  # as many weights as inputs, and an intercept
        ("linear_regression", (64, 512), 514),
        ("linear_regression(ridge=1.0)", (64, 512), 4),
        ("linear_regression(folds=5)", (64, 512), 5),
        ("linear_regression(folds=2)", (64, 512), 4),
        ("linear_regression(ridge=1.0, folds=10)", (64, 512), 10),
        *((name, (3, 512), 21) for name in ("jaccard", "rank", "rank_jaccard", "mutual_knn", "cknna")),
        ("second_order_cosine", (3, 512), 21),
        ("second_order_cosine(k=None)", (3, 512), 4),
        ("jaccard(k=1)", (3, 3), 4),
        ("jaccard(k=2)", (3, 3), 5),
        ("cknna(k=20)", (3, 3), 41),
        ("jaccard(k=20, metric='euclidean', center=True)", (3, 3), 41),
        ("imd", (3, 512), 11),
        ("imd(k=8, probes=3)", (3, 512), 17),
    ],
)
def test_how_many_inputs_follows_from_widths_and_options(text, widths, least):
    assert find_measure(text).least_inputs(*widths) == least


def test_a_measure_of_ones_own_needs_4_inputs_unless_it_says_so():
    assert declared(0.5).least_inputs(100, 100) == 4
    assert declared(0.5, least=lambda width_x, width_y: 10 * width_x + width_y).least_inputs(2, 3) == 23


# -- options out of range -----------------------------------------------------------------------------------

WHOLE_K = "k must be a whole number of at least 1 and at most 29 (there are 30 inputs), not "
WHOLE_SEED = "seed must be a whole number of at least 0, not "
FOLDS = "folds must be a whole number of at least 0 and at most 30 (the number of inputs), not "
VARIANCE = "variance must be a share above 0 and at most 1, not "
REFUSED = [
    ("jaccard", {"k": 30}, WHOLE_K + "30."),
    ("jaccard", {"k": 0}, WHOLE_K + "0."),
    ("rank", {"k": -1}, WHOLE_K + "-1."),
    ("rank_jaccard", {"k": 1000}, WHOLE_K + "1000."),
    ("mutual_knn", {"k": 2.0}, WHOLE_K + "2.0."),
    ("cknna", {"k": True}, WHOLE_K + "True."),
    ("second_order_cosine", {"k": "all"}, WHOLE_K + "'all'."),
    ("imd", {"k": 30}, WHOLE_K + "30."),
    ("jaccard", {"k": None}, WHOLE_K + "None."),
    ("jaccard", {"metric": "euclid"}, "did you mean 'euclidean'? Known: cosine, euclidean."),
    ("mutual_knn", {"metric": "l1"}, "unknown metric 'l1'; known: cosine, euclidean."),
    ("rsa", {"rdm": "corr"}, "did you mean 'correlation'? Known: correlation, euclidean, cosine, gaussian."),
    ("rsa", {"compare": "tau"}, "known: pearson, spearman, kendall, cosine, whitened_cosine."),
    ("rsa", {"rdm": "gaussian", "width": -1.0}, "width must be a number of at least 0, not -1.0."),
    ("shape_metric", {"alpha": 1.5}, "alpha must be a number from 0 to 1, not 1.5."),
    ("shape_metric", {"alpha": -0.1}, "alpha must be a number from 0 to 1, not -0.1."),
    ("shape_metric", {"alpha": math.nan}, "alpha must be a number from 0 to 1, not nan."),
    ("shape_metric", {"alpha": "half"}, "alpha must be a number from 0 to 1, not 'half'."),
    ("svcca", {"variance": 0}, VARIANCE + "0."),
    ("svcca", {"variance": 99}, VARIANCE + "99."),
    ("svcca", {"variance": True}, VARIANCE + "True."),
    ("svcca", {"dims": -1}, "dims must be a whole number of at least 0, not -1."),
    ("svcca", {"dims": 2.5}, "dims must be a whole number of at least 0, not 2.5."),
    ("cka_rbf", {"threshold": 0.0}, "threshold must be a number above 0, not 0.0."),
    ("uniformity_difference", {"t": -2.0}, "t must be a number above 0, not -2.0."),
    ("gulp", {"lam": -1e-9}, "lam must be a number of at least 0, not -1e-09."),
    ("linear_regression", {"ridge": -1}, "ridge must be a number of at least 0, not -1."),
    ("linear_regression", {"folds": 1}, "folds must be 0 (in sample) or at least 2, not 1."),
    ("linear_regression", {"folds": 31}, FOLDS + "31."),
    ("linear_regression", {"folds": -2}, FOLDS + "-2."),
    ("linear_regression", {"folds": 5, "seed": -1}, WHOLE_SEED + "-1."),
    ("linear_regression", {"folds": 5, "seed": None}, WHOLE_SEED + "None."),
    ("rtd", {"trials": 0}, "trials must be a whole number of at least 1, not 0."),
    ("rtd", {"points": 3}, "points must be a whole number of at least 4, not 3."),
    ("rtd", {"seed": 0.5}, WHOLE_SEED + "0.5."),
    ("imd", {"probes": 0}, "probes must be a whole number of at least 1, not 0."),
    ("imd", {"seed": -1}, WHOLE_SEED + "-1."),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "options", "expected"), REFUSED)
def test_options_out_of_range(name, options, expected):
    found = message(lambda: MEASURES[name](X, Y, **options))
    assert found.endswith(expected)
    assert found.startswith(("unknown " + next(iter(options)), expected))


@pytest.mark.parametrize("name", ["jaccard", "rank", "second_order_cosine", "mutual_knn", "cknna", "imd"])
def test_largest_and_smallest_k(name):
    for k in (1, N - 1):
        assert MEASURES[name](X, X, k=k) == pytest.approx(0.0 if name == "imd" else 1.0)


def test_limits_belong_to_the_options():
    assert MEASURES["svcca"](X, Y, variance=1) == pytest.approx(MEASURES["cca_mean"](X, Y))
    assert MEASURES["svcca"](X, Y, dims=100) == pytest.approx(MEASURES["cca_mean"](X, Y))
    assert MEASURES["linear_regression"](X, X, folds=N) == pytest.approx(1)
    assert MEASURES["shape_metric"](X, Y, alpha=1) == MEASURES["shape_metric"](X, Y, alpha=1.0)


# -- what is said of a value --------------------------------------------------------------------------------

FINE = 3.0 + torch.randn(60, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOST = "cca_mean is not to be trusted here: features are of half precision, whose rounding can hide what it "
COPIES = "2 of the 60 inputs have the rows of others, in both representations, as where a loader pads with "


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_said_where_it_matters(dtype):
    other = FINE.square()
    with pytest.warns(UserWarning, match=f"^{re.escape(LOST)}"):
        MEASURES["cca_mean"](FINE, other.to(dtype))
    MEASURES["cka"](FINE.to(dtype), other.to(dtype))
    notes = compare(FINE.to(dtype), other, ["cka", "cca_mean"])["note"]
    assert [note.startswith(LOST) for note in notes] == [False, True]


@pytest.mark.parametrize(
    "name", [name for name, found in MEASURES.items() if found.half_precision < math.inf and name != "rtd"]
)
def test_features_in_half_precision_are_as_right_as_is_said(name):
    generator = torch.Generator().manual_seed(0)
    shared, *own = torch.randn(3, 200, 16, generator=generator, dtype=torch.float64)
    scale = torch.arange(1, 17) ** -0.5
    x, y = ((shared + each) * scale for each in own)
    value, rounded = MEASURES[name](x, y), MEASURES[name](x.bfloat16(), y.bfloat16())
    assert abs(value - rounded) <= MEASURES[name].half_precision * max(1, abs(value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_of_inputs_are_said(dtype):
    x, y = FINE.clone(), FINE.square()
    for table in (x, y):
        table[[20, 59]] = table[[5, 6]]
    with pytest.warns(UserWarning, match=f"^{re.escape(COPIES)}"):
        MEASURES["uniformity_difference"](x, y, dtype=dtype)
    for ask in (interval, permutation_test):
        with pytest.warns(UserWarning, match=f"^{re.escape(COPIES)}"):
            ask("cka_rbf", x, y, progress=False)
    table = compare_many({"a": x, "b": y}, "cka", dtype=dtype, progress=False)
    assert table["note"].item().startswith(COPIES)


def test_rows_that_are_alike_in_one_representation_are_no_copies():
    """A narrow layer after a ReLU gives many images nothing but zeros."""
    silent = FINE.clone()
    silent[:30] = 0
    silent[15:30] *= -1  # −0 is 0
    MEASURES["cka"](silent, FINE)
    with pytest.warns(UserWarning, match=r"^29 of the 60 inputs have the rows of others"):
        MEASURES["cka"](silent, silent)
