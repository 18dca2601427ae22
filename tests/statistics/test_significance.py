"""Numbers of pairs that share models are tested model by model, and such a test is right about chance."""

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from repsim.statistics import significance
from repsim.statistics.significance import (
    exchange_test,
    of_models,
    paired_test,
    unordered,
    without_levels,
)


def table_of(values):
    """A table of pairs, from a value of each."""
    rows = [{"model_a": a, "model_b": b, "value": value} for (a, b), value in values.items()]
    return pd.DataFrame(rows, columns=["model_a", "model_b", "value"])


def all_pairs(count, value):
    """Of models m0, m1, …: what `value` says of each two."""
    return {(f"m{i}", f"m{j}"): value(i, j) for i, j in itertools.combinations(range(count), 2)}


def random_pairs(count, seed=0):
    draws = np.random.default_rng(seed)
    own = draws.normal(size=count)
    return all_pairs(count, lambda i, j: float(own[i] + own[j] + draws.normal()))


def mirrored(table):
    return table.rename(columns={"model_a": "model_b", "model_b": "model_a"})[table.columns]


def refused(message, ask):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


FEW = st.lists(st.integers(-50, 50), min_size=1, max_size=7)
GROUP = st.lists(st.integers(-20, 20), min_size=2, max_size=4)

# -- one value for each two models --------------------------------------------------------------------------


def test_both_orders_are_one_pair():
    table = table_of({("a", "b"): 0.2, ("b", "a"): 0.6, ("c", "a"): 0.5, ("b", "c"): 0.1})
    found = unordered(table)
    assert found.to_dict() == {("a", "b"): pytest.approx(0.4), ("a", "c"): 0.5, ("b", "c"): 0.1}
    assert found.index.names == ["model_a", "model_b"]


def test_what_is_no_table_of_pairs():
    refused("there is no pair of models in the table.", lambda: unordered(table_of({})))
    table = table_of({("a", "b"): math.nan, ("a", "c"): 1.0, ("b", "c"): math.nan})
    refused("2 of 3 pairs have no value.", lambda: of_models(table))
    twice = pd.concat([table_of({("a", "b"): 0.5}), table_of({("a", "b"): 0.6})])
    refused(
        "a pair stands in the table twice: choose one measure and one kind of inputs.",
        lambda: unordered(twice),
    )


# -- one number for each model ------------------------------------------------------------------------------


def by_hand(values):
    """The jackknife as in textbooks: k times the whole minus k − 1 times what is left without each."""
    models = sorted({name for pair in values for name in pair})
    exact = {pair: Fraction(value) for pair, value in values.items()}
    whole, found = sum(exact.values()) / len(exact), {}
    for model in models:
        rest = [value for pair, value in exact.items() if model not in pair]
        found[model] = float(len(models) * whole - (len(models) - 1) * sum(rest) / len(rest))
    return found


@pytest.mark.parametrize("count", [3, 4, 8, 13])
def test_they_are_jackknife_pseudo_values(count):
    values = random_pairs(count)
    found = of_models(table_of(values))
    assert found.to_dict() == pytest.approx(by_hand(values))
    assert list(found.index) == [f"m{i}" for i in range(count)]


@pytest.mark.parametrize("count", [3, 5, 10])
def test_their_mean_is_the_mean_over_pairs(count):
    values = random_pairs(count, seed=1)
    assert of_models(table_of(values)).mean() == pytest.approx(np.mean(list(values.values())))


@pytest.mark.parametrize("count", [3, 6, 20])
def test_of_what_models_add_to_a_value_that_is_left_twice(count):
    """Value = u_a + u_b: the pseudo-value of a model is 2u."""
    own = np.random.default_rng(0).normal(size=count)
    found = of_models(table_of(all_pairs(count, lambda i, j: float(own[i] + own[j])))).to_numpy()
    assert found == pytest.approx(2 * own)


def test_a_pair_counts_once_in_however_many_orders_it_stands():
    """Erratum 17: each pair twice, as in a matrix, made differences look surer than they are."""
    table = table_of(random_pairs(7))
    both = pd.concat([table, mirrored(table)], ignore_index=True)
    some = pd.concat([table, mirrored(table[3:11])], ignore_index=True)
    expected = of_models(table)
    for other in (both, some):
        pd.testing.assert_series_equal(of_models(other), expected)
        assert paired_test(of_models(other)) == paired_test(expected)
        half = [f"m{i}" for i in range(3)]
        tests = [
            exchange_test(each[each.index.isin(half)], each[~each.index.isin(half)])
            for each in (expected, of_models(other))
        ]
        assert tests[0] == tests[1]
    naive = [paired_test(each["value"].tolist()).p_value for each in (table, both)]
    assert naive[1] < naive[0]  # which is what it is about


def test_the_spread_over_fewer_than_three_models():
    refused(
        "the spread over models needs at least 3 of them, got 2.",
        lambda: of_models(table_of({("a", "b"): 0.5})),
    )


def test_pairs_that_all_share_a_model():
    refused(
        "without a there is no pair left.",
        lambda: of_models(table_of({("a", "b"): 0.1, ("a", "c"): 0.2, ("a", "d"): 0.3})),
    )


def test_pairs_of_which_some_are_not_there_keep_their_mean():
    """Pseudo-values say that their mean is the mean over the pairs, whichever these are."""
    values = random_pairs(6)
    del values["m0", "m1"], values["m0", "m2"], values["m1", "m5"]
    assert of_models(table_of(values)).mean() == pytest.approx(np.mean(list(values.values())))


# -- signs --------------------------------------------------------------------------------------------------


def share_of_signs(values):
    """How many of all ways to choose signs make a sum at least as large as it is; in whole numbers."""
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in signs_of(len(values))]
    return sum(each >= abs(sum(values)) for each in sums) / len(sums)


def signs_of(count):
    return itertools.product((-1, 1), repeat=count)


@given(FEW)
def test_of_few_units_all_signs_are_tried(values):
    found = paired_test([float(value) for value in values])
    assert found.p_value == share_of_signs(values)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.units, found.permutations) == (len(values), 2 ** len(values) - 1)


@pytest.mark.parametrize("whole", [[1, 2, -3, 7], [-1, -2, 3, 7, 6], [1, 5, -6, 2, 3, -5]])
@pytest.mark.parametrize("unit", [0.1, 1e-3, 1 / 3, 0.7e6])
def test_what_is_equal_but_for_rounding_counts_as_much(whole, unit):
    """0.1 + 0.2 − 0.3 is not 0 to a computer: to change these signs leaves the mean as it is all the same."""
    assert paired_test([unit * value for value in whole]).p_value == share_of_signs(whole)


def test_numbers_may_be_small():
    """A p-value is no matter of the unit that differences are measured in."""
    values = [0.9, 1.1, 0.7, 1.3, 0.2, -0.4]
    for scale in (1e-6, 1e-12, 1e-15):
        assert paired_test([scale * value for value in values]).p_value == paired_test(values).p_value


def test_of_many_units_signs_are_drawn():
    values = np.random.default_rng(0).normal(0.3, 1.0, 20)
    found = paired_test(list(values))
    assert (found.units, found.permutations) == (20, significance.PERMUTATIONS)
    assert found == paired_test(list(values))
    other = paired_test(list(values), seed=1)
    assert other.value == found.value
    assert other.p_value != found.p_value
    assert other.p_value == pytest.approx(found.p_value, abs=0.015)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20000, rng=np.random.default_rng(2)
    )
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.015)


@pytest.mark.parametrize(("count", "drawn"), [(13, 2**13 - 1), (14, significance.PERMUTATIONS)])
def test_thirteen_units_are_few(count, drawn):
    assert paired_test([1.0] * count).permutations == drawn
    assert paired_test([1.0] * count).p_value == pytest.approx(2 ** (1 - count), abs=2e-4)


def test_no_p_value_is_zero():
    """The signs as they are are among those that are tried."""
    assert paired_test([1.0] * 40).p_value == 1 / (significance.PERMUTATIONS + 1)


# -- exchange -----------------------------------------------------------------------------------------------


def welch(a, b, axis=-1):
    """The absolute value of Welch's t."""
    return np.abs(stats.ttest_ind(a, b, axis=axis, equal_var=False).statistic)


@pytest.mark.parametrize("sizes", [(3, 3), (4, 3), (2, 5), (5, 5)])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_exchanging_is_a_permutation_test_of_welchs_t(sizes, shift):
    draws = np.random.default_rng(sum(sizes))
    a, b = draws.normal(shift, 1.0, sizes[0]), draws.normal(0.0, 2.0, sizes[1])
    expected = stats.permutation_test(
        (a, b), welch, vectorized=True, n_resamples=np.inf, alternative="greater"
    )
    found = exchange_test(list(a), list(b))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert (found.units, found.permutations) == (sum(sizes), math.comb(sum(sizes), sizes[0]) - 1)


@pytest.mark.parametrize(("sizes", "all_ways"), [((7, 8), True), ((8, 8), False), ((2, 141), False)])
def test_of_few_units_all_exchanges_are_tried_and_of_many_they_are_drawn(sizes, all_ways):
    draws = np.random.default_rng(3)
    a, b = (list(draws.normal(size=size)) for size in sizes)
    found = exchange_test(a, b)
    assert found == exchange_test(a, b)
    other = exchange_test(a, b, seed=1)
    assert (other.p_value == found.p_value) == all_ways
    assert other.p_value == pytest.approx(found.p_value, abs=0.02)
    drawn = significance.PERMUTATIONS
    assert found.permutations == (math.comb(sum(sizes), sizes[0]) - 1 if all_ways else drawn)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1, 1e-3, 8.0])
def test_groups_that_vary_in_nothing_but_their_means_are_as_far_apart_as_can_be(scale):
    """Of 20 ways to part six units into three and three, two are as these, whatever they are measured in."""
    found = exchange_test([scale] * 3, [0.0] * 3)
    assert found.value == pytest.approx(scale)
    assert found.p_value == 0.1


def test_units_that_are_all_the_same_do_not_differ():
    found = exchange_test([0.5] * 3, [0.5] * 4)
    assert (found.value, found.p_value) == (0.0, 1.0)


@settings(max_examples=15)
@given(GROUP, GROUP)
def test_a_p_value_is_no_matter_of_scale_or_place(first, second):
    a, b = ([float(value) for value in group] for group in (first, second))
    usual = exchange_test(a, b).p_value
    assert exchange_test([4 * value for value in a], [4 * value for value in b]).p_value == usual
    assert exchange_test([value / 8 for value in a], [value / 8 for value in b]).p_value == usual


# -- the least p-value --------------------------------------------------------------------------------------


def apart(*sizes):
    """Groups that are as far apart as can be, of units no two of which are equal."""
    return [[float(100 * place + at) for at in range(size)] for place, size in enumerate(sizes)]


@pytest.mark.parametrize("count", range(1, 8))
def test_no_signs_make_a_smaller_p_value_than_the_least(count):
    [values] = apart(count)
    found = paired_test([1 + value for value in values])
    assert found.p_value == found.least_p_value
    smaller = found.least_p_value <= significance.ALPHA
    assert smaller == (count >= found.needed)
    assert bool(found.lacking) != smaller


@pytest.mark.parametrize("sizes", list(itertools.product(range(2, 7), repeat=2)))
def test_no_exchange_makes_a_smaller_p_value_than_the_least(sizes):
    """Reached by groups that do not overlap, whichever is larger."""
    found = exchange_test(*apart(*sizes))
    assert found.p_value == found.least_p_value
    smaller = found.least_p_value <= significance.ALPHA
    assert smaller == (sum(sizes) >= found.needed)
    assert bool(found.lacking) != smaller


def test_what_is_said_of_too_few_units():
    said = "with 5 networks the least p-value is 0.062: at least 6 networks are needed."
    assert paired_test([1.0, 2.0, 3.0, 4.0, 5.0]).lacking == said
    said = "with 6 networks the least p-value is 0.1: at least 7 networks are needed."
    assert exchange_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]).lacking == said
    assert exchange_test([0.5] * 3, [0.5] * 3).lacking == said  # whatever was found


def test_the_least_p_value_of_many_units_is_that_of_the_draws():
    least = 1 / (significance.PERMUTATIONS + 1)
    assert paired_test([1.0] * 40).least_p_value == least
    assert exchange_test(*apart(8, 8)).least_p_value == least


# -- right about chance -------------------------------------------------------------------------------------


def dependent(draws, count):
    """Differences of pairs under chance: what models add to them, which pairs share, and some noise."""
    own, noise = draws.normal(0.0, 1.0, count), draws.normal(0.0, 0.5, (count, count))
    return all_pairs(count, lambda i, j: float(own[i] + own[j] + noise[i, j]))


def test_signs_reject_as_often_as_they_should_where_signs_of_pairs_do_not():
    """At 5 % in 300 simulations; the naive test takes pairs that share a model for independent."""
    draws, ours, naive = np.random.default_rng(0), [], []
    for _ in range(300):
        table = table_of(dependent(draws, 8))
        ours.append(paired_test(of_models(table)).p_value)
        naive.append(stats.ttest_1samp(table["value"], 0).pvalue)
    assert np.mean(np.array(ours) < 0.05) <= 0.08
    assert np.mean(np.array(ours) < 0.5) == pytest.approx(0.5, abs=0.12)
    assert np.mean(np.array(naive) < 0.05) > 0.25


@pytest.mark.slow
def test_exchanging_rejects_as_often_as_it_should_where_exchanging_pairs_does_not(monkeypatch):
    monkeypatch.setattr(significance, "PERMUTATIONS", 199)
    draws, ours, naive = np.random.default_rng(0), [], []
    for _ in range(200):
        tables = [table_of(dependent(draws, 6)) for _ in range(2)]
        ours.append(exchange_test(*(of_models(table) for table in tables)).p_value)
        naive.append(exchange_test(*(table["value"] for table in tables)).p_value)
    assert np.mean(np.array(ours) < 0.05) <= 0.09
    assert np.mean(np.array(ours) < 0.5) == pytest.approx(0.5, abs=0.15)
    assert np.mean(np.array(naive) < 0.05) > 0.2


@pytest.mark.slow
def test_groups_of_different_spread_do_no_harm(monkeypatch):
    """Few of a large spread against many of a small one: by the means alone, it would reject too often."""
    monkeypatch.setattr(significance, "PERMUTATIONS", 199)
    draws, ours, means = np.random.default_rng(0), [], []
    for seed in range(250):
        a, b = draws.normal(0, 4.0, 6), draws.normal(0, 1.0, 18)
        ours.append(exchange_test(list(a), list(b), seed).p_value)
        pooled = np.concatenate([a, b])
        shuffled = draws.permuted(np.tile(pooled, (199, 1)), axis=1)
        null = np.abs(shuffled[:, :6].mean(1) - shuffled[:, 6:].mean(1))
        means.append((1 + (null >= abs(a.mean() - b.mean())).sum()) / 200)
    assert np.mean(np.array(ours) < 0.05) <= 0.11
    assert np.mean(np.array(means) < 0.05) > 0.15


# -- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], "[]"),
        ([1.0, math.nan], "[ 1. nan]"),
        ([math.inf, 2.0], "[inf  2.]"),
        ([[1.0, 2.0], [3.0, 4.0]], "[[1. 2.]\n [3. 4.]]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_number_for_each_unit(values, shown):
    message = f"a test needs finite numbers, one for each unit, got {shown}."
    good = [1.0, 2.0]
    for ask in (
        lambda: paired_test(values),
        lambda: exchange_test(values, good),
        lambda: exchange_test(good, values),
    ):
        refused(message, ask)


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0]), ([1.0], [2.0])])
def test_a_group_of_one_unit(first, second):
    refused(
        f"each group needs at least 2 units, got {len(first)} and {len(second)}.",
        lambda: exchange_test(first, second),
    )


# -- levels -------------------------------------------------------------------------------------------------


def levels(draws, means, size=9, spread=0.05):
    return [pd.Series(draws.normal(mean, spread, size)) for mean in means]


def test_levels_are_moved_to_the_mean_of_their_means():
    groups = [pd.Series([1.0, 3.0]), pd.Series([10.0, 10.0, 13.0])]
    found = without_levels(groups)
    assert found.mean() == pytest.approx((2 + 11) / 2)
    assert found.tolist()[:2] == pytest.approx([6.5 - 2**0.5, 6.5 + 2**0.5])
    assert found.var(ddof=0) == pytest.approx((2 * 2 + 3 * 3) / 5)  # of each level what is unbiased
    assert [group.tolist() for group in groups] == [[1.0, 3.0], [10.0, 10.0, 13.0]]


def test_what_is_between_levels_hides_no_difference():
    draws = np.random.default_rng(0)
    one, other = levels(draws, [0.3, 0.6, 0.9]), levels(draws, [0.2, 0.8])
    assert exchange_test(without_levels(one), without_levels(other)).value == pytest.approx(
        np.mean([group.mean() for group in one]) - np.mean([group.mean() for group in other])
    )
    assert exchange_test(without_levels(one), without_levels(other)).p_value < 0.01
    assert exchange_test(pd.concat(one), pd.concat(other)).p_value > 0.2


@pytest.mark.slow
def test_without_levels_chance_is_chance():
    """At 5 % in 200 simulations, with few units at each level."""
    draws, rejected = np.random.default_rng(1), 0
    for _ in range(200):
        one, other = levels(draws, [0.3, 0.9], size=4), levels(draws, [0.4, 0.6, 0.8], size=3)
        rejected += exchange_test(without_levels(one), without_levels(other)).p_value <= 0.05
    assert rejected <= 20


@pytest.mark.parametrize(("groups", "sizes"), [([], "[]"), ([[1.0, 2.0], [3.0]], "[2, 1]")])
def test_a_level_of_one_unit(groups, sizes):
    refused(
        f"each level needs at least 2 units, got {sizes}.",
        lambda: without_levels([pd.Series(group) for group in groups]),
    )


def test_a_model_is_no_pair_with_itself():
    values = all_pairs(4, lambda i, j: float(i + j))
    alone = {("m0", "m0"): 1.0, ("m3", "m3"): math.nan}
    pd.testing.assert_series_equal(of_models(table_of({**alone, **values})), of_models(table_of(values)))
    refused("there is no pair of models in the table.", lambda: of_models(table_of({("a", "a"): 0.5})))
