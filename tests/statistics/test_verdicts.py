"""Effects, their intervals over models, and what is said of a claim."""

import itertools
import math
import re

import numpy as np
import pytest
from scipy import stats

from repsim.statistics.verdicts import (
    Claim,
    Verdict,
    both,
    contrast,
    difference,
    jackknife,
    mean,
    slope,
    slope_of_means,
    verdict_table,
)

CLAIM = Claim("larger is larger", "[C]", "mean of one − mean of the other", "WRN-28-10, CIFAR-10")
NEEDED = "at least 2 networks of each kind are needed"


def numbers(count, mean=0.0, spread=1.0, seed=0):
    return np.random.default_rng(seed).normal(mean, spread, count)


# groups


@pytest.mark.parametrize(("many", "few", "spread"), [(5, 5, 1.0), (5, 3, 4.0), (2, 2, 1.0), (20, 2, 0.1)])
def test_the_interval_is_welchs(many, few, spread):
    larger, smaller = numbers(many, 1.0), numbers(few, 0.5, spread, seed=1)
    verdict = difference(CLAIM, larger, smaller)
    interval = stats.ttest_ind(larger, smaller, equal_var=False).confidence_interval(0.95)
    assert verdict.value == pytest.approx(larger.mean() - smaller.mean())
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))
    assert verdict.models == f"{many} + {few}"
    assert verdict.claim is CLAIM


@pytest.mark.parametrize(
    ("shift", "word"), [(5.0, "holds"), (-5.0, "does not hold"), (0.1, "inconclusive"), (0.0, "inconclusive")]
)
def test_what_is_said(shift, word):
    values = np.array([0.1, 0.2, 0.3, 0.4])
    assert difference(CLAIM, values + shift, values).verdict == word


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "holds"),
        (0.0, 0.2, "inconclusive"),
        (-0.1, 0.1, "inconclusive"),
        (-0.2, 0.0, "inconclusive"),
        (-0.2, -0.01, "does not hold"),
        (math.nan, math.nan, NEEDED),
    ],
)
def test_an_interval_that_touches_zero_decides_nothing(low, high, word):
    assert Verdict(CLAIM, (low + high) / 2, low, high, "5 + 5", NEEDED).verdict == word


@pytest.mark.parametrize(
    ("larger", "smaller"), [([3.0], [1.0, 1.1, 0.9]), ([3.0, 3.1], [1.0]), ([3.0], [1.0])]
)
def test_one_model_of_a_kind_decides_nothing(larger, smaller):
    verdict = difference(CLAIM, larger, smaller)
    assert verdict.value == pytest.approx(np.mean(larger) - np.mean(smaller))
    assert math.isnan(verdict.low)
    assert math.isnan(verdict.high)
    assert verdict.verdict == NEEDED


@pytest.mark.parametrize(("larger", "word"), [(1.0, "holds"), (0.5, "inconclusive"), (0.25, "does not hold")])
def test_models_that_do_not_differ_have_an_interval_of_no_length(larger, word):
    verdict = difference(CLAIM, [larger] * 3, [0.5] * 3)
    assert verdict.low == verdict.value == verdict.high == larger - 0.5
    assert verdict.verdict == word


def test_one_group_that_does_not_differ_leaves_the_others_freedom():
    larger = numbers(4, 2.0)
    verdict = difference(CLAIM, larger, [0.0] * 9)
    interval = stats.ttest_1samp(larger, 0.0).confidence_interval(0.95)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))


def test_intervals_cover_the_true_difference():
    """Of groups of other sizes and spreads: 95 % of the intervals, to within what 2,000 draws can tell."""
    draws = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        verdict = difference(CLAIM, draws.normal(1.0, 0.5, 5), draws.normal(0.3, 2.0, 5))
        covered += verdict.low <= 0.7 <= verdict.high
    assert 0.93 <= covered / 2000 <= 0.975


# slopes


@pytest.mark.parametrize("count", [3, 8, 20])
def test_a_slope_is_linregress_with_a_t_interval(count):
    x = np.linspace(0, 0.2, count)
    y = 3 * x + numbers(count, spread=0.1)
    verdict = slope(CLAIM, x, y)
    line = stats.linregress(x, y)
    reach = stats.t.ppf(0.975, count - 2) * line.stderr
    assert verdict.value == pytest.approx(line.slope)
    assert (verdict.low, verdict.high) == pytest.approx((line.slope - reach, line.slope + reach))
    assert verdict.models == str(count)


def test_two_models_have_a_slope_without_an_interval():
    verdict = slope(CLAIM, [0.0, 0.5], [0.2, 0.7])
    assert verdict.value == pytest.approx(1.0)
    assert math.isnan(verdict.low)
    assert verdict.verdict == "at least 3 networks are needed"
    assert not math.isnan(slope(CLAIM, [0.0, 0.5, 0.6], [0.2, 0.7, 0.9]).low)


# contrasts


def welch_by_hand(groups, weights):
    """The ends of Welch's interval of a weighted sum of means, with Satterthwaite's degrees of freedom."""
    errors = [w**2 * np.var(group, ddof=1) / len(group) for w, group in zip(weights, groups, strict=True)]
    freedom = sum(errors) ** 2 / sum(
        e**2 / (len(group) - 1) for e, group in zip(errors, groups, strict=True) if e
    )
    value = sum(w * np.mean(group) for w, group in zip(weights, groups, strict=True))
    return stats.t.interval(0.95, freedom, loc=value, scale=math.sqrt(sum(errors)))


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [
        ((5, 3), (1, -1)),
        ((4,), (2.5,)),
        ((3, 5, 4), (0.5, 0.5, -1)),
        ((3, 3, 3, 3), (1, -1, -1, 1)),
        ((2, 6), (-0.2, 3)),
        ((3, 4, 5), (1, 0, -1)),
    ],
)
def test_a_contrast_is_a_weighted_sum_with_welchs_interval(sizes, weights):
    groups = [numbers(size, mean=size, spread=size, seed=i) for i, size in enumerate(sizes)]
    verdict = contrast(CLAIM, groups, weights)
    assert verdict.value == pytest.approx(
        sum(weight * group.mean() for weight, group in zip(weights, groups, strict=True))
    )
    assert (verdict.low, verdict.high) == pytest.approx(welch_by_hand(groups, weights))
    assert verdict.models == " + ".join(map(str, sizes))
    assert verdict.claim is CLAIM


@pytest.mark.parametrize("count", [1, 3])
def test_a_weight_for_each_group(count):
    with pytest.raises(
        ValueError, match=rf"^each group needs one weight, got 2 groups and {count} weights\.$"
    ):
        contrast(CLAIM, [[1.0, 2.0], [3.0, 4.0]], [1.0] * count)


# slopes of means


@pytest.mark.parametrize("sizes", [(3, 3, 3), (4, 4), (2, 5, 3, 4)])
def test_a_slope_of_means_is_that_of_a_line_through_them(sizes):
    x = [0.0, 0.05, 0.1, 0.2][: len(sizes)]
    groups = [numbers(size, 3 * at, 0.2, seed=i) for i, (at, size) in enumerate(zip(x, sizes, strict=True))]
    verdict = slope_of_means(CLAIM, x, groups)
    assert verdict.value == pytest.approx(np.polyfit(x, [group.mean() for group in groups], 1)[0])
    if len(set(sizes)) == 1:
        every = np.repeat(x, sizes[0])
        assert verdict.value == pytest.approx(stats.linregress(every, np.concatenate(groups)).slope)
    offsets = np.array(x) - np.mean(x)
    assert (verdict.low, verdict.high) == pytest.approx(welch_by_hand(groups, offsets / (offsets @ offsets)))
    assert verdict.models == " + ".join(map(str, sizes))


@pytest.mark.parametrize("x", [[0.1, 0.1], [0.1, 0.1, 0.1], [0.3, 0.3, 0.3, 0.3]])
def test_a_slope_of_means_needs_values_of_x_that_differ(x):
    with pytest.raises(ValueError, match=r"^a slope needs at least two different values of x\.$"):
        slope_of_means(CLAIM, x, [[0.0, 1.0]] * len(x))


# claims of a difference either way

EITHER = Claim(
    "they differ", "[K]", "mean of one − mean of the other", "ResNet-18, CIFAR-10", either_way=True
)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "holds"),
        (-0.2, -0.01, "holds"),
        (-0.1, 0.1, "inconclusive"),
        (0.0, 0.2, "inconclusive"),
        (-0.2, 0.0, "inconclusive"),
        (math.nan, math.nan, NEEDED),
    ],
)
def test_a_difference_either_way_holds_whichever_it_is(low, high, word):
    assert Verdict(EITHER, (low + high) / 2, low, high, "5 + 5", NEEDED).verdict == word


def test_a_claim_has_a_direction_unless_it_says_so():
    assert not CLAIM.either_way
    larger, smaller = numbers(5, 5.0), numbers(5, seed=1)
    assert difference(CLAIM, smaller, larger).verdict == "does not hold"
    assert difference(EITHER, smaller, larger).verdict == "holds"
    assert difference(EITHER, larger, smaller).verdict == "holds"
    assert slope(EITHER, [0.0, 1.0, 2.0, 3.0], [3.0, 2.1, 0.9, 0.0]).verdict == "holds"


# what cannot be decided


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "a verdict needs one value per model, got an array of shape (0,)."),
        ([[1.0, 2.0], [3.0, 4.0]], "a verdict needs one value per model, got an array of shape (2, 2)."),
        ([1.0, math.nan], "a verdict needs finite values, got [ 1. nan]."),
        ([math.inf, 1.0], "a verdict needs finite values, got [inf  1.]."),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_values_that_decide_nothing(values, message):
    good = [1.0, 2.0]
    for decide in (
        lambda: difference(CLAIM, values, good),
        lambda: difference(CLAIM, good, values),
        lambda: slope(CLAIM, good, values),
        lambda: contrast(CLAIM, [good, good, values], [1, 1, -1]),
        lambda: slope_of_means(CLAIM, [0.0, 0.1, 0.2], [good, values, good]),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            decide()


def test_a_slope_needs_pairs_that_differ():
    with pytest.raises(ValueError, match=r"^a slope needs one y per x, got 3 and 2\.$"):
        slope(CLAIM, [0.0, 1.0, 2.0], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^a slope needs at least two different values of x\.$"):
        slope(CLAIM, [0.1, 0.1, 0.1], [0.0, 1.0, 2.0])


# above zero


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.3])
def test_a_mean_has_its_t_interval(shift):
    values = np.random.default_rng(3).normal(shift, 0.2, 7)
    verdict = mean(CLAIM, values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (verdict.low, verdict.high) == pytest.approx((expected.low, expected.high))
    assert verdict.value == pytest.approx(values.mean())
    assert verdict.models == "7"
    assert mean(CLAIM, -values).value == -verdict.value


def test_one_value_decides_nothing():
    verdict = mean(CLAIM, [5.0])
    assert (verdict.value, verdict.verdict) == (5.0, "at least 2 networks are needed")
    assert mean(CLAIM, [5.0], "pairs").verdict == "at least 2 pairs are needed"
    assert math.isnan(verdict.low)


# the table


def test_a_table_of_no_verdicts_has_its_columns():
    table = verdict_table([])
    assert len(table) == 0
    assert table.columns.tolist() == verdict_table([mean(CLAIM, [1.0, 2.0])]).columns.tolist()


def test_verdict_table():
    values = [0.1, 0.2, 0.3]
    verdicts = [difference(CLAIM, [5.0, 5.1], values), slope(CLAIM, [0.0, 1.0, 2.0], values)]
    table = verdict_table(iter(verdicts))
    assert list(table.columns) == [
        "claim",
        "paper",
        "effect",
        "value",
        "low",
        "high",
        "models",
        "verdict",
        "paper_used",
    ]
    first = table.iloc[0]
    assert (first["claim"], first["paper"]) == ("larger is larger", "[C]")
    assert (first["effect"], first["paper_used"]) == (CLAIM.effect, CLAIM.paper_used)
    assert (first["value"], first["low"], first["high"]) == (
        verdicts[0].value,
        verdicts[0].low,
        verdicts[0].high,
    )
    assert table["models"].tolist() == ["2 + 3", "3"]
    assert table["verdict"].tolist() == ["holds", "holds"]


# pairs of models, left out one model at a time


def pair_mean(units):
    """Of models that each add to the value of a pair: the mean over pairs."""
    return float(np.mean([one + other for one, other in itertools.combinations(units, 2)]))


@pytest.mark.parametrize("count", [3, 5, 12])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.5])
def test_the_jackknife_of_a_mean_is_its_t_interval(count, shift):
    values = numbers(count, shift).tolist()
    found, expected = (
        jackknife(CLAIM, lambda kept: float(np.mean(kept)), values, "models"),
        mean(CLAIM, values),
    )
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert found.verdict == expected.verdict
    assert found.claim is CLAIM
    assert found.models == f"{count} models"


def test_units_that_are_equal_are_left_out_one_at_a_time():
    values = [0.1, 0.1, 0.4, 0.6]
    found, expected = (
        jackknife(CLAIM, lambda kept: float(np.mean(kept)), values, "models"),
        mean(CLAIM, values),
    )
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_what_is_left_out_is_one_unit_each_time():
    asked = []
    jackknife(CLAIM, lambda kept: asked.append(kept) or float(len(kept)), ("a", "b", "c"), "architectures")
    assert asked == [["a", "b", "c"], ["b", "c"], ["a", "c"], ["a", "b"]]


def test_turned_around_a_jackknife_changes_its_sign():
    values = numbers(6, 0.4).tolist()
    there = jackknife(CLAIM, pair_mean, values, "models")
    back = jackknife(CLAIM, lambda kept: -pair_mean(kept), values, "models")
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_the_jackknife_covers_a_mean_over_pairs_where_counting_pairs_does_not():
    """Pairs that share a model are dependent: taken for independent, their interval is far too short."""
    draws = np.random.default_rng(0)
    covered, naive, rounds = 0, 0, 500
    for _ in range(rounds):
        own, noise = draws.normal(0.5, 1.0, 6), draws.normal(0, 0.5, (6, 6))
        values = {
            (one, other): own[one] + own[other] + noise[one, other]
            for one, other in itertools.combinations(range(6), 2)
        }

        def statistic(kept, values=values):
            return float(np.mean([values[pair] for pair in itertools.combinations(kept, 2)]))

        found = jackknife(CLAIM, statistic, range(6), "models")
        covered += found.low <= 1.0 <= found.high
        pairs = mean(CLAIM, list(values.values()))
        naive += pairs.low <= 1.0 <= pairs.high
    assert 0.92 <= covered / rounds <= 0.985
    assert naive / rounds < 0.85


@pytest.mark.parametrize("units", [[1.0], [1.0, 2.0]])
def test_fewer_than_three_units_have_no_interval(units):
    found = jackknife(CLAIM, lambda kept: float(np.sum(kept)), units, "architectures")
    assert found.value == sum(units)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.verdict == "at least 3 architectures are needed"
    assert found.models == f"{len(units)} architectures"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_jackknife_that_is_not_finite(bad):
    with pytest.raises(ValueError, match=re.escape("a verdict needs finite values, got [")):
        jackknife(CLAIM, lambda kept: bad, [1.0, 2.0], "models")
    with pytest.raises(ValueError, match=re.escape("a verdict needs finite values, got [")):
        jackknife(CLAIM, lambda kept: bad if len(kept) == 3 else 1.0, [1.0, 2.0, 3.0, 4.0], "models")
    with pytest.raises(ValueError, match=re.escape("a verdict needs finite values, got [")):
        jackknife(CLAIM, lambda kept: bad if len(kept) == 4 else 1.0, [1.0, 2.0, 3.0, 4.0], "models")


def test_units_that_do_not_differ_have_an_interval_of_no_length():
    found = jackknife(CLAIM, lambda kept: 0.25, ["a", "b", "c"], "models")
    assert found.low == found.value == found.high == 0.25
    assert found.verdict == "holds"


# two effects at once


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        (1.0, 2.0, "holds"),
        (1.0, 0.0, "inconclusive"),
        (1.0, -1.0, "does not hold"),
        (0.0, -1.0, "does not hold"),
        (-2.0, -1.0, "does not hold"),
    ],
)
def test_a_claim_of_two_effects_takes_both(first, second, word):
    one, other = (mean(CLAIM, [at - 0.1, at, at + 0.1]) for at in (first, second))
    found = both(CLAIM, one, other)
    assert found.verdict == word
    assert found == both(CLAIM, other, one)
    assert (found.value, found.low, found.high) == (
        min(one.value, other.value),
        min(one.low, other.low),
        min(one.high, other.high),
    )
    assert found.models == "3"


def test_a_claim_of_two_effects_one_of_which_is_not_known_decides_nothing():
    known, unknown = mean(CLAIM, [-1.0, -1.1, -0.9]), mean(CLAIM, [2.0])
    found = both(CLAIM, unknown, known)
    assert found.verdict == both(CLAIM, unknown, unknown).verdict == "at least 2 networks are needed"
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.models == "1; 3"
    few = slope(CLAIM, [0.0, 1.0], [0.0, 1.0])
    said = "at least 2 networks are needed; at least 3 networks are needed"
    assert both(CLAIM, unknown, few).verdict == said


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: contrast(CLAIM, [], []), "a verdict needs at least one group of models."),
        (lambda: slope_of_means(CLAIM, [], []), "a slope needs at least two different values of x."),
    ],
)
def test_no_group_at_all(ask, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()
