"""Which images of a group are drawn, and how quantiles of margins come about: whatever the groups are."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from repsim.studies.comparison.groups import GROUPINGS, Sampling, _shared_out

# -- margins ------------------------------------------------------------------------------------------------


def by_margin(a, b, quantiles):
    a, b = (torch.as_tensor(each, dtype=torch.float64) for each in (a, b))
    return GROUPINGS["margin"].assign(a.softmax(1), b.softmax(1), None, quantiles).numpy()


LOGITS = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        *[st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=n, max_size=n)] * 2
    )
)


@pytest.mark.slow
@settings(max_examples=100)
@given(LOGITS, st.integers(2, 7))
def test_groups_by_margin_are_as_large_as_one_another(logits, quantiles):
    """To within one, ties or not; and of ranks that are above another's in both models, none comes before."""
    places = by_margin(*logits, quantiles)
    sizes = np.bincount(places, minlength=quantiles)
    assert len(sizes) == quantiles
    assert sizes.max() - sizes.min() <= 1
    margins = [np.diff(np.sort(np.array(each), axis=1)[:, -2:], axis=1)[:, 0] for each in logits]
    for i, j in itertools.combinations(range(len(places)), 2):
        if all(margin[i] < margin[j] for margin in margins):
            assert places[i] <= places[j]
        if all(margin[i] > margin[j] for margin in margins):
            assert places[i] >= places[j]


def test_ties_of_margins_go_by_the_order_of_the_images():
    assert by_margin([[1, 0, 0]] * 8, [[5, 2, 1]] * 8, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_margins_of_both_models_count_alike_whatever_their_scale():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 60, 5))
    usual = by_margin(a, b, 4)
    assert by_margin(b, a, 4).tolist() == usual.tolist()
    assert by_margin(30 * a, b, 4).tolist() == usual.tolist()
    assert by_margin(a, b + 7, 4).tolist() == usual.tolist()
    assert by_margin(a, a, 4).tolist() != usual.tolist()


def test_margins_of_models_that_are_sure_beyond_rounding_are_still_told_apart():
    """Of probabilities that are 1 to the last digit, the logarithm of the next is not."""
    a = np.array([[gap, 0.0, -5.0] for gap in (50, 400, 100, 300, 200, 60)])
    assert by_margin(a, a, 3).tolist() == [0, 2, 1, 2, 1, 0]


# -- drawing ------------------------------------------------------------------------------------------------


COUNTS = st.lists(st.integers(0, 12), min_size=2, max_size=8)


@given(COUNTS.filter(lambda there: sum(there) > 1), st.data())
def test_shares_are_in_proportion(there, data):
    size = data.draw(st.integers(1, sum(there) - 1))
    found = _shared_out(torch.tensor(there), size)
    assert int(found.sum()) == size
    exact = [Fraction(count * size, sum(there)) for count in there]
    for share, count, wanted in zip(found.tolist(), there, exact, strict=True):
        assert 0 <= share <= count
        assert math.floor(wanted) <= share <= math.ceil(wanted)
    up = [wanted % 1 for share, wanted in zip(found.tolist(), exact, strict=True) if share > wanted]
    down = [wanted % 1 for share, wanted in zip(found.tolist(), exact, strict=True) if share < wanted]
    assert max(down, default=Fraction(0)) <= min(up, default=Fraction(1))  # largest remainders go up


@st.composite
def memberships(draw, classes=4):
    """Groups of images, some of them in none, and a label of each."""
    count = draw(st.integers(1, 40))
    places = draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    places = torch.tensor(places)
    members = {name: (places == place).nonzero().flatten() for place, name in enumerate("abc")}
    return members, torch.tensor(labels)


SIZES = st.one_of(st.none(), st.integers(1, 12))


@pytest.mark.slow
@given(memberships(), SIZES, st.integers(0, 5))
def test_a_draw_is_of_the_group_and_no_larger_than_it(content, size, seed):
    members, labels = content
    sampling = Sampling("agreement", size, False, 2, seed)
    found = sampling.draw(members, labels)
    assert list(found) == list(members)
    for name, rows in found.items():
        there = members[name].tolist()
        assert len(rows) == min(len(there), size or len(there))
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= set(there)
        assert rows.tolist() == sorted(rows.tolist())
    for name, rows in sampling.draw(members, None).items():  # the same again, and labels have no part in it
        assert torch.equal(rows, found[name])


@pytest.mark.slow
@given(memberships(), memberships(), SIZES)
def test_a_draw_from_one_group_is_not_a_matter_of_the_others(content, other, size):
    sampling = Sampling("agreement", size, False, 2, 0)
    (members, labels), (others, _) = content, other
    mixed = {"a": others["a"], "b": members["b"], "c": others["c"]}
    assert torch.equal(sampling.draw(members, labels)["b"], sampling.draw(mixed, labels)["b"])


@given(memberships(), SIZES, st.integers(0, 5))
def test_a_matched_draw_has_as_many_of_each_class(content, size, seed):
    members, labels = content
    found = Sampling("agreement", size, True, 2, seed).draw(members, labels)
    counts = [np.bincount(labels[rows], minlength=4) for rows in members.values()]
    there = np.min(counts, axis=0)
    histograms = [np.bincount(labels[rows], minlength=4) for rows in found.values()]
    for name, histogram in zip(found, histograms, strict=True):
        assert (histogram == histograms[0]).all()
        assert histogram.sum() == min(there.sum(), size or there.sum())
        assert (histogram <= there).all()
        rows = found[name].tolist()
        assert set(rows) <= set(members[name].tolist())
        assert rows == sorted(set(rows))


@pytest.mark.parametrize("match_classes", [False, True])
def test_every_image_is_drawn_as_often_as_every_other(match_classes):
    """Over 400 seeds, to within five standard deviations; and not in step between groups."""
    members = {"a": torch.arange(0, 20), "b": torch.arange(20, 40)}
    labels = torch.arange(40) % 2
    drawn = np.zeros((400, 40))
    for seed in range(400):
        for rows in Sampling("agreement", 6, match_classes, 2, seed).draw(members, labels).values():
            drawn[seed, rows] = 1
    assert np.abs(drawn.mean(0) - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 400)
    together = np.corrcoef(drawn.T)[:20, 20:].diagonal()
    assert np.abs(together).max() < 5 / math.sqrt(400)


@pytest.mark.slow
@given(memberships(), st.integers(1, 12))
def test_a_larger_draw_holds_a_smaller_one(content, size):
    members, labels = content
    one, more = (Sampling("agreement", each, False, 2, 0).draw(members, labels) for each in (size, size + 1))
    for name in members:
        assert set(one[name].tolist()) <= set(more[name].tolist())


@pytest.mark.slow
@given(memberships())
def test_what_is_drawn_is_said_by_its_key(content):
    members, _ = content
    assume(all(len(rows) > 3 for rows in members.values()))
    base = {"by": "agreement", "size": 3, "match_classes": False, "quantiles": 2, "seed": 0}
    assert Sampling(**base).key == Sampling(**base).key
    changes = {"by": "margin", "size": None, "match_classes": True, "quantiles": 3, "seed": 1}
    keys = {Sampling(**{**base, name: value}).key for name, value in changes.items()}
    assert len(keys | {Sampling(**base).key}) == 6
