"""Many at once gives what one by one does, and does shared work once."""

import numpy as np
import pandas as pd
import pytest
import torch

from repsim.measures import MEASURES, PREDICTION_MEASURES, compare, compare_many, find_measure
from repsim.measures import representation as representations
from repsim.measures.comparing import choose, prepare
from repsim.measures.hsic import recenter_
from repsim.measures.registry import find_any


def related(n, *widths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return [
        latent @ torch.randn(3, width, generator=generator, dtype=torch.float64)
        + 0.5 * torch.randn(n, width, generator=generator, dtype=torch.float64)
        for width in widths
    ]


def test_all_measures_at_once_give_what_each_gives_alone():
    x, y = related(30, 6, 6)
    table = compare(x, y)
    assert table["measure"].tolist() == list(MEASURES)
    assert (table["note"] == "").all()
    for row in table.itertuples():
        assert row.value == pytest.approx(MEASURES[row.measure](x, y), rel=1e-12, abs=1e-12)
        assert row.orientation == MEASURES[row.measure].orientation


def test_some_measures_in_the_order_asked_for_with_their_options():
    x, y = related(30, 6, 9)
    asked = ["jaccard(k=3)", "cka", MEASURES["shape_metric"].using(alpha=1.0), "jaccard"]
    table = compare(x, y, asked)
    assert table["measure"].tolist() == ["jaccard(k=3)", "cka", "shape_metric(alpha=1.0)", "jaccard"]
    assert table["value"].tolist() == pytest.approx([find_measure(one)(x, y) for one in asked])


def test_with_all_what_is_not_defined_is_said_in_its_note():
    x, y = related(9, 4, 5)
    table = compare(x, y, "all").set_index("measure")
    assert np.isnan(table.loc["permutation_angular", "value"])
    assert "needs equal widths, got 4 and 5" in table.loc["permutation_angular", "note"]
    assert "k must be a whole number of at least 1 and at most 8" in table.loc["jaccard", "note"]
    assert (table["note"] != "").equals(table["value"].isna())


def test_what_a_single_call_warns_of_is_a_note():
    x, y = related(8, 20, 5)
    table = compare(x, y, ["cca_mean", "cka"])
    with pytest.warns(UserWarning, match="cca_mean says nothing here") as caught:
        MEASURES["cca_mean"](x, y)
    assert table["note"].tolist() == [str(caught[0].message), ""]


def test_every_measure_has_its_own_note_whatever_came_before():
    x, y = related(20, 4, 4)
    x[:, 0] = 1
    names = ["correlation_match_hard", "correlation_match_soft"]
    notes = compare(x, y, names)["note"]
    assert notes.tolist() == ["1 of 4 units of x are constant, have no correlation, and are left out."] * 2
    table = compare_many({"x": x, "y": y, "z": y.flip(0)}, names, progress=False)
    assert ((table["note"] != "") == (table["model_a"] == "x")).all()


@pytest.mark.usefixtures("unchecked")
def test_what_is_equal_but_of_another_type_is_refused_whatever_came_before():
    x, y = related(20, 4, 4)
    with pytest.raises(ValueError, match=r"k must be a whole number of at least 1 and at most 19"):
        compare(x, y, ["jaccard(k=5)", "rank(k=5.0)"])
    with pytest.raises(ValueError, match=r"center must be True or False, not 1"):
        compare(x, y, ["jaccard(center=True)", "rank(center=1)"])


def test_models_may_be_called_as_measures_are():
    named = dict(zip(["b", "cka", "a"], related(20, 4, 4, 4), strict=True))
    table = compare_many(named, "cka", progress=False)
    assert table["model_a"].tolist() == ["b", "b", "cka"]
    assert table["model_b"].tolist() == ["cka", "a", "a"]


def test_what_was_asked_for_by_name_must_be_defined():
    x, y = related(9, 4, 5)
    with pytest.raises(
        ValueError, match=r"^permutation_angular: permutation_angular matches units one to one"
    ):
        compare(x, y, ["cka", "permutation_angular"])


def test_options_of_the_call_reach_every_measure():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(12, 5, 3, 3, generator=generator) for _ in range(2)]
    pooled = compare(*maps, ["cka", "procrustes"], pool=True)
    assert pooled["value"].tolist() == pytest.approx(
        [MEASURES[name](*(side.double().mean((2, 3)) for side in maps)) for name in ("cka", "procrustes")]
    )
    single = compare(*maps, "cka", dtype=torch.float32)["value"][0]
    assert single == MEASURES["cka"](*maps, dtype=torch.float32) != MEASURES["cka"](*maps)


def test_all_pairs_give_what_each_pair_gives():
    named = dict(zip("abc", related(25, 5, 5, 7), strict=True))
    table = compare_many(named, ["pwcca", "cka", "jaccard"], progress=False)
    assert table.columns.tolist() == ["model_a", "model_b", "measure", "value", "orientation", "note"]
    order = [(row.model_a, row.model_b, row.measure) for row in table.itertuples()]
    assert order == [
        ("a", "b", "pwcca"), ("a", "b", "cka"), ("a", "b", "jaccard"),
        ("a", "c", "pwcca"), ("a", "c", "cka"), ("a", "c", "jaccard"),
        ("b", "a", "pwcca"),
        ("b", "c", "pwcca"), ("b", "c", "cka"), ("b", "c", "jaccard"),
        ("c", "a", "pwcca"),
        ("c", "b", "pwcca"),
    ]  # fmt: skip
    for row in table.itertuples():
        assert row.value == pytest.approx(MEASURES[row.measure](named[row.model_a], named[row.model_b]))


def test_all_pairs_and_all_measures():
    named = dict(zip("abc", related(25, 5, 5, 7), strict=True))
    table = compare_many(named, progress=False)
    undefined = table[table["value"].isna()]
    assert undefined["measure"].unique().tolist() == ["permutation_angular"]
    assert undefined["note"].str.contains("needs equal widths").all()
    ordered = sum(3 if measure.symmetric else 6 for measure in MEASURES.values())
    assert len(table) == ordered


def test_with_less_memory_much_is_still_done_once(monkeypatch):
    from repsim.measures import rdm

    made = []
    monkeypatch.setattr(rdm, "recenter_", lambda *given: made.append(1) or recenter_(*given))
    of_one = 3 * 25 * 25 * 8  # squared distances, distances and their centring
    monkeypatch.setattr(representations.Memory.__init__, "__defaults__", (5 * of_one,))
    named = dict(zip("abcdefghi", related(25, *[5] * 9), strict=True))
    compare_many(named, "distance_correlation", progress=False)
    assert len(made) <= 24  # of 72 without any memory, and 42 if it were always the oldest that is needed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda named: {"a": named["a"]}, "compare_many needs at least 2 representations, got 1."),
        (
            lambda named: {**named, "b": named["b"][:5]},
            "representations['a'] and representations['b'] must have one row for each of the same inputs; "
            "got 20 and 5 rows.",
        ),
        (
            lambda named: {**named, "b": named["b"] * float("nan")},
            "representations['b'] has values that are not finite (NaN or infinite) in 20 of its rows.",
        ),
    ],
    ids=["one", "rows", "nan"],
)
def test_bad_representations_are_named(change, message):
    named = dict(zip("ab", related(20, 4, 5), strict=True))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        compare_many(change(named), "cka", progress=False)
    assert str(caught.value) == message


@pytest.mark.usefixtures("unchecked")
def test_representations_without_names():
    with pytest.raises(TypeError, match="representations must be given by name, in a dict, not in a list"):
        compare_many(related(9, 4, 5), "cka")


# only some pairs


def test_only_the_pairs_asked_for_in_their_order_of_the_two():
    named = dict(zip("abc", related(25, 5, 5, 7), strict=True))
    asked = ["pwcca", "cka", "jaccard"]
    table = compare_many(named, asked, pairs=[("a", "c"), ("c", "a"), ("b", "b")], progress=False)
    order = [(row.model_a, row.model_b, row.measure) for row in table.itertuples()]
    assert order == [(*pair, measure) for pair in ("ac", "bb", "ca") for measure in asked]
    for row in table.itertuples():
        assert row.value == pytest.approx(MEASURES[row.measure](named[row.model_a], named[row.model_b]))
    there, back = table[table["measure"] == "pwcca"].set_index("model_a")["value"][["a", "c"]]
    assert there != pytest.approx(back)


def test_pairs_may_be_any_iterable_and_none_are_all():
    named = dict(zip("abc", related(25, 5, 5, 7), strict=True))
    whole = compare_many(named, ["cka", "pwcca"], progress=False)
    pd.testing.assert_frame_equal(compare_many(named, ["cka", "pwcca"], pairs=None, progress=False), whole)
    every = ((a, b) for a in named for b in named if a != b)
    table = compare_many(named, ["cka", "pwcca"], pairs=every, progress=False)
    mirrored = (table["measure"] == "cka") & (table["model_a"] > table["model_b"])
    pd.testing.assert_frame_equal(table[~mirrored].reset_index(drop=True), whole)
    assert mirrored.sum() == 3


def test_a_pair_of_an_unknown_name():
    named = dict(zip(["first", "second"], related(25, 5, 5), strict=True))
    message = "unknown representation 'secnd'; did you mean 'second'? Known: first, second."
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        compare_many(named, "cka", pairs=[("first", "second"), ("secnd", "first")], progress=False)
    assert str(caught.value) == message


def test_a_pair_that_is_asked_for_and_fails_names_itself():
    named = dict(zip("abc", related(20, 4, 4, 5), strict=True))
    compare_many(named, "permutation_angular", pairs=[("b", "a")], progress=False)
    with pytest.raises(ValueError, match=r"^permutation_angular of 'c' and 'b': "):
        compare_many(named, "permutation_angular", pairs=[("b", "a"), ("c", "b")], progress=False)


# measures that are asked for

EVERY = {**MEASURES, **PREDICTION_MEASURES}


def labels_of(chosen):
    return [measure.label for measure in chosen]


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        ("cka", ["cka"]),
        ("agreement", ["agreement"]),
        ("surrogate_churn(alpha=2)", ["surrogate_churn(alpha=2)"]),
        (PREDICTION_MEASURES["agreement"], ["agreement"]),
        (["agreement", "cka"], ["agreement", "cka"]),
        ([PREDICTION_MEASURES["cohen_kappa"]], ["cohen_kappa"]),
        (("jaccard(k=3)", "cohen_kappa"), ["jaccard(k=3)", "cohen_kappa"]),
        (["surrogate_churn", "surrogate_churn(alpha=2)"], ["surrogate_churn", "surrogate_churn(alpha=2)"]),
        ("all", [*EVERY]),
    ],
)
def test_measures_of_predictions_may_be_among_those_asked_for(asked, labels):
    assert labels_of(choose(asked, find_any, EVERY)) == labels


def test_all_are_those_that_are_known():
    assert choose("all") == list(MEASURES.values())
    assert choose("all", find_any, PREDICTION_MEASURES) == list(PREDICTION_MEASURES.values())
    assert choose("cka", lambda name: EVERY["agreement"]) == [EVERY["agreement"]]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("agreemnt", "unknown measure 'agreemnt'; did you mean 'agreement'"),
        (["agreement", "cka", "agreement"], "measures are asked for twice: agreement."),
        (["cka", MEASURES["cka"]], "measures are asked for twice: cka."),
        (["surrogate_churn", "surrogate_churn(alpha=1.0)"], "measures are asked for twice: surrogate_churn."),
        ("surrogate_churn(beta=1)", "unknown option of surrogate_churn 'beta'; known: alpha."),
        ([], "no measure was asked for; name some, or say 'all'."),
        ([5], "a measure is asked for by its name, such as 'cka', not by 5."),
        (5, "measures must be 'all', a name or a list of names, not 5."),
        ({"cka"}, "measures must be 'all', a name or a list of names, not {'cka'}."),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_measures_of_any_kind_that_cannot_be_asked_for(asked, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        choose(asked, find_any, EVERY)
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("unchecked")
def test_representations_are_not_compared_by_measures_of_predictions():
    x, y = related(9, 4, 5)
    with pytest.raises(ValueError, match=r"^unknown measure 'agreement'"):
        compare(x, y, "agreement")
    with pytest.raises(ValueError, match=r"^a measure is asked for by its name, such as 'cka', not by Pred"):
        compare(x, y, [PREDICTION_MEASURES["agreement"]])


# representations that are prepared together


def test_what_is_derived_from_representations_is_shared_by_those_prepared_together(monkeypatch):
    sizes = []
    svd = torch.linalg.svd
    monkeypatch.setattr(
        torch.linalg, "svd", lambda matrix, **how: sizes.append(matrix.shape) or svd(matrix, **how)
    )
    named = dict(zip("abc", related(25, 5, 6, 7), strict=True))
    prepared = prepare(named)
    assert list(prepared) == ["a", "b", "c"]
    assert len({id(each.memory) for each in prepared.values()}) == 1
    for pair in ("ab", "ac", "bc", "ba"):
        x, y = (prepared[name] for name in pair)
        for measure in ("cca_mean", "svcca", "gulp"):
            expected = MEASURES[measure](*(named[name] for name in pair))
            assert MEASURES[measure].evaluate(x, y) == pytest.approx(expected)
    sizes.clear()
    prepared = prepare(named)  # nothing is known from before
    for measure in ("cca_mean", "svcca", "gulp"):
        for x, y in ("ab", "ac", "bc"):
            MEASURES[measure].evaluate(prepared[x], prepared[y])
    assert [sizes.count((25, width)) for width in (5, 6, 7)] == [1, 1, 1]


def test_representations_prepared_apart_share_nothing():
    (x,) = related(25, 5)
    one, other = (prepare({"a": x})["a"] for _ in range(2))
    assert one.memory is not other.memory
