"""Tables of pairs in both orders, as matrices of groups, and as means over pairs of chosen kinds."""

import itertools
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from repsim.data import load_data
from repsim.measures import agreement_reference
from repsim.studies.comparison import (
    both_orders,
    compare_groups,
    compare_models,
    concise,
    mean_similarity,
    side_by_side,
    similarity_matrix,
    with_references,
)
from repsim.training import zoo
from repsim.training.model_store import find

LABELS = ["architecture", "method", "norm", "epsilon", "seed"]


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def three():
    return [trained(0.2), trained(), trained(architecture="resnet_tiny_w4")]


def refused(message, ask):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


def pairs_table(inputs, rows, measure="cka", layer="penultimate"):
    """A table of pairs (group, seed), (group, seed), value, as `compare_models` makes them."""
    found = []
    for a, b, value in rows:
        row = {"dataset": "digits", "inputs": inputs, "layer": layer}
        row |= {"measure": measure, "value": value, "n": 10}
        for side, (group, seed) in (("a", a), ("b", b)):
            row[f"model_{side}"] = f"{group}-{seed}"
            row |= {f"{label}_{side}": "" for label in LABELS}
            row |= {f"architecture_{side}": group, f"seed_{side}": seed, f"epsilon_{side}": 0.1 * seed}
        found.append(row)
    return pd.DataFrame(found)


def architecture(labels):
    return labels["architecture"]


NATURAL = [
    (("x", 0), ("x", 1), 0.9),
    (("x", 0), ("y", 0), 0.4),
    (("x", 1), ("y", 0), 0.2),
]


# -- matrices -----------------------------------------------------------------------------------------------


def test_a_matrix_of_natural_images_is_mirrored_and_holds_means_over_seeds():
    matrix = similarity_matrix(pairs_table("natural", NATURAL), architecture)
    assert matrix.index.tolist() == matrix.columns.tolist() == ["x", "y"]
    assert matrix.loc["x", "x"] == 0.9
    assert matrix.loc["x", "y"] == matrix.loc["y", "x"] == pytest.approx(0.3)
    assert np.isnan(matrix.loc["y", "y"])  # no pair of two such models


def test_a_matrix_of_inverted_images_has_the_first_model_down():
    rows = [(("x", 0), ("y", 0), 0.8), (("y", 0), ("x", 0), 0.1), (("x", 1), ("y", 0), 0.6)]
    matrix = similarity_matrix(pairs_table("inverted", rows), architecture)
    assert matrix.loc["x", "y"] == pytest.approx(0.7)
    assert matrix.loc["y", "x"] == pytest.approx(0.1)
    assert np.isnan(matrix.loc["x", "x"])


def test_a_matrix_of_a_measure_that_is_not_symmetric_keeps_its_orders():
    rows = [(("x", 0), ("y", 0), 0.8), (("y", 0), ("x", 0), 0.2)]
    matrix = similarity_matrix(pairs_table("natural", rows, "pwcca"), architecture)
    assert (matrix.loc["x", "y"], matrix.loc["y", "x"]) == (0.8, 0.2)


def test_groups_stand_in_the_order_asked_for():
    table = pairs_table("natural", [*NATURAL, (("x", 0), ("a", 0), 0.5)])
    assert similarity_matrix(table, architecture).index.tolist() == ["x", "y", "a"]
    usual = similarity_matrix(table, architecture)
    turned = similarity_matrix(table, architecture, ["a", "x", "y"])
    assert turned.index.tolist() == turned.columns.tolist() == ["a", "x", "y"]
    pd.testing.assert_frame_equal(turned.loc[usual.index, usual.columns], usual)
    assert similarity_matrix(table, architecture, ["y", "x"]).shape == (2, 2)


def test_groups_may_be_of_any_label_or_of_the_name():
    table = pairs_table("natural", NATURAL)
    by_seed = similarity_matrix(table, lambda labels: f"seed {labels['seed']}")
    assert by_seed.loc["seed 0", "seed 1"] == pytest.approx((0.9 + 0.2) / 2)
    by_name = similarity_matrix(table, lambda labels: labels["model"])
    assert by_name.index.tolist() == ["x-0", "x-1", "y-0"]
    assert by_name.loc["y-0", "x-1"] == 0.2


# -- both orders --------------------------------------------------------------------------------------------


def test_both_orders_mirrors_what_is_there_once():
    table = pairs_table("natural", NATURAL)
    both = both_orders(table)
    pd.testing.assert_frame_equal(both[:3], table)
    assert len(both) == 6
    for before, after in zip(table.to_dict("records"), both[3:].to_dict("records"), strict=True):
        for name in table.columns:
            other = f"{name[:-1]}{'b' if name[-1] == 'a' else 'a'}" if name[-2:] in ("_a", "_b") else name
            assert after[other] == before[name]
    pd.testing.assert_frame_equal(both_orders(both), both)


def test_both_orders_leaves_what_has_both_already():
    inverted = pairs_table("inverted", NATURAL)
    pd.testing.assert_frame_equal(both_orders(inverted), inverted)
    there = [(("x", 0), ("y", 0), 0.8), (("y", 0), ("x", 0), 0.2)]
    asymmetric = pairs_table("natural", there, "pwcca")
    pd.testing.assert_frame_equal(both_orders(asymmetric), asymmetric)
    mixed = pd.concat([asymmetric, pairs_table("natural", there[:1])], ignore_index=True)
    assert both_orders(mixed)["measure"].tolist() == ["pwcca", "pwcca", "cka", "cka"]


def test_both_orders_of_a_layer_are_of_that_layer():
    """What is there in both orders at one layer may be there once at another."""
    there = [(("x", 0), ("y", 0), 0.8), (("y", 0), ("x", 0), 0.2)]
    late, early = pairs_table("natural", there), pairs_table("natural", there[:1], layer="hidden.1")
    both = both_orders(pd.concat([late, early], ignore_index=True))
    assert both["layer"].tolist() == ["penultimate"] * 2 + ["hidden.1"] * 2
    assert both["model_a"].tolist() == ["x-0", "y-0", "x-0", "y-0"]
    assert both["value"].tolist() == [0.8, 0.2, 0.8, 0.8]


def test_what_is_of_one_of_the_two_models_changes_sides():
    table = pairs_table("natural", NATURAL[:1], "agreement", "output")
    table = table.assign(accuracy_a=0.9, accuracy_b=0.7, lowest=0.6, highest=0.8, null_mean=0.1, p_value=0.05)
    there, back = both_orders(table).to_dict("records")
    assert (
        (there["accuracy_a"], there["accuracy_b"]) == (back["accuracy_b"], back["accuracy_a"]) == (0.9, 0.7)
    )
    for name in ("lowest", "highest", "null_mean", "p_value", "value", "n", "layer", "dataset"):
        assert there[name] == back[name]


@pytest.mark.slow
def test_both_orders_of_a_real_table_are_those_of_asking_the_other_way_round(tiny_data):
    query = ["cka", "cknna(k=4)", "agreement", "accuracy_difference"]
    one, other = (
        both_orders(compare_models(models, tiny_data, query, progress=False))
        for models in (three(), three()[::-1])
    )
    key = ["measure", "model_a", "model_b"]
    assert len(one) == 4 * 6
    one, other = (each.sort_values(key, ignore_index=True) for each in (one, other))
    pd.testing.assert_frame_equal(one, other, rtol=1e-6)


@pytest.mark.slow
def test_both_orders_of_groups(tiny_data):
    """Each pair comes with all of its groups."""
    table = compare_groups(three(), tiny_data, ["cka", "cknna(k=4)"], "class", size=None, progress=False)
    both = both_orders(table)
    assert both["measure"].value_counts().to_dict() == {"cka": 6 * 10, "cknna(k=4)": 6 * 10}
    cka = both[both["measure"] == "cka"].set_index(["model_a", "model_b", "group"])["value"].sort_index()
    assert cka.index.is_unique
    for a, b in itertools.combinations([model.name for model in three()], 2):
        assert cka[a, b].tolist() == cka[b, a].tolist()


# -- means --------------------------------------------------------------------------------------------------


def test_a_mean_over_pairs_of_different_models_of_chosen_kinds():
    rows = [
        (("x", 1), ("y", 2), 0.4),
        (("y", 1), ("x", 2), 0.6),
        (("x", 1), ("x", 1), 9.0),  # itself
        (("x", 1), ("y", 1), 0.1),
        (("x", 1), ("z", 2), 7.0),
        (("x", 2), ("y", 1), 0.8),
    ]
    table = pairs_table("stir", rows)
    both = {"architectures": ["x", "y"]}
    assert mean_similarity(table, **both, epsilon_a=0.1, epsilon_b=0.2) == pytest.approx(0.5)
    assert mean_similarity(table, **both, epsilon_a=0.2, epsilon_b=0.1) == pytest.approx(0.8)
    assert mean_similarity(table, **both, epsilon_a=0.1, epsilon_b=0.1) == pytest.approx(0.1)
    assert mean_similarity(table, architectures=["x", "z"], epsilon_a=0.1, epsilon_b=0.2) == 7.0
    natural = pairs_table("natural", rows[:1] + rows[5:])
    for one, other in ((0.1, 0.2), (0.2, 0.1)):
        assert mean_similarity(natural, **both, epsilon_a=one, epsilon_b=other) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "ask",
    [
        lambda table: similarity_matrix(table, architecture),
        lambda table: mean_similarity(table, architectures=["x", "y"], epsilon_a=0, epsilon_b=0.1),
    ],
)
def test_a_mean_over_several_inputs_measures_or_layers(ask):
    natural, inverted = (pairs_table(inputs, NATURAL) for inputs in ("natural", "inverted"))
    ask(natural)
    ask(inverted)
    message = "a mean over inputs natural, inverted says nothing: choose one of them."
    refused(message, lambda: ask(pd.concat([natural, inverted], ignore_index=True)))
    other = pairs_table("natural", NATURAL, "rsa")
    message = "a mean over measure cka, rsa says nothing: choose one of them."
    refused(message, lambda: ask(pd.concat([natural, other], ignore_index=True)))
    early = pairs_table("natural", NATURAL, layer="hidden.1")
    message = "a mean over layer penultimate, hidden.1 says nothing: choose one of them."
    refused(message, lambda: ask(pd.concat([natural, early], ignore_index=True)))


@pytest.mark.parametrize(
    ("column", "values"), [("group", ("agree", "disagree")), ("dataset", ("digits", "shapes"))]
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda table: similarity_matrix(table, architecture),
        lambda table: mean_similarity(table, architectures=["x", "y"], epsilon_a=0, epsilon_b=0.1),
    ],
)
def test_a_mean_over_several_groups_or_data_sets(ask, column, values):
    """As of inputs: where models agree and where they do not are two numbers, and their mean is neither."""
    tables = [pairs_table("natural", NATURAL).assign(**{column: value}) for value in values]
    ask(tables[0])
    refused(
        f"a mean over {column} {', '.join(values)} says nothing: choose one of them.",
        lambda: ask(pd.concat(tables, ignore_index=True)),
    )


@pytest.mark.parametrize(
    ("architectures", "epsilon_a", "epsilon_b", "message"),
    [
        (["x", "y"], 0.1, 0.3, "x, y were trained at ε = 0.1 and 0.3."),
        (["z"], 0.1, 0.0, "z were trained at ε = 0.1 and 0."),
        (["y"], 0.0, 0.0, "y were trained at ε = 0 and 0."),
    ],
)
def test_a_mean_over_no_pair(architectures, epsilon_a, epsilon_b, message):
    table = pairs_table("inverted", [*NATURAL, (("y", 0), ("y", 0), 1.0)])  # itself alone
    refused(
        f"no two different models of {message}",
        lambda: mean_similarity(table, architectures=architectures, epsilon_a=epsilon_a, epsilon_b=epsilon_b),
    )


# -- references, and what is saved --------------------------------------------------------------------------


def test_references_are_those_of_both_accuracies():
    table = pairs_table("natural", NATURAL, "agreement", "output")
    table = table.assign(accuracy_a=[0.9, 0.75, 1.0], accuracy_b=[0.7, 0.75, 1.0])
    found = with_references(table, 10)
    pd.testing.assert_frame_equal(found[table.columns], table)
    assert found.columns.tolist()[len(table.columns) :] == ["independent", "perturbed", "accuracy"]
    for row in found.itertuples():
        expected = agreement_reference(row.accuracy_a, row.accuracy_b, 10).set_index("reference")["agreement"]
        assert (row.independent, row.perturbed) == (expected["independent"], expected["perturbed"])
        assert row.accuracy == pytest.approx((row.accuracy_a + row.accuracy_b) / 2)
    assert found[["independent", "perturbed"]].iloc[2].tolist() == [1.0, 1.0]
    assert found["perturbed"][1] == 1.0  # equally accurate, the one may be the other


def test_a_concise_table_says_once_what_is_the_same():
    table = pairs_table("natural", NATURAL).assign(note="")
    table["norm_a"] = table["norm_b"] = "linf"
    table["method_a"], table["method_b"] = "pgd", ["pgd", "pgd", "trades"]
    found = concise(table)
    assert {"model_a", "model_b", "note", "norm_a", "norm_b"}.isdisjoint(found.columns)
    assert found["norm"].tolist() == ["linf"] * 3
    assert found["method_b"].tolist() == ["pgd", "pgd", "trades"]
    assert found["method_a"].tolist() == ["pgd"] * 3
    assert found["value"].tolist() == table["value"].tolist()
    assert found["dataset"].tolist() == ["digits"] * 3
    assert "note" in concise(table.assign(note=["", "dropped: 3 images", ""]))
    assert "dataset" not in concise(table.assign(dataset=""))
    assert table.columns.tolist()[-1] == "note"  # the table itself is as it was


def test_measures_stand_side_by_side_without_loss():
    table = concise(
        compare_models(
            three(), load_data("digits").test.images[:40], ["rank", "cka", "jaccard"], progress=False
        )
    )
    wide = side_by_side(table)
    assert wide.columns.tolist()[-3:] == ["rank", "cka", "jaccard"]
    told = [name for name in wide if name not in ("rank", "cka", "jaccard")]
    again = wide.melt(told, var_name="measure")
    pd.testing.assert_frame_equal(
        *(
            each.sort_values([*told, "measure"]).reset_index(drop=True)[table.columns]
            for each in (again, table)
        ),
        check_dtype=False,
    )
