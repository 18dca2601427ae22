"""Faults of the published code, made on purpose: what they give, and how far it is from what is right."""

import itertools
import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from repsim.activations import capture
from repsim.data import Split, load_data
from repsim.measures import MEASURES
from repsim.studies.comparison import compare_groups
from repsim.studies.comparison.faults import agreement_with_faults, carried_over_cka, self_counting_jaccard
from repsim.training import predict, zoo
from repsim.training.model_store import find


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def three():
    return [trained(0.2), trained(0.2, 1), trained()]


@pytest.fixture(scope="module")
def noisy():
    """300 images that models take for this and that."""
    clean = load_data("digits").test.subset(300)
    noise = torch.rand(clean.images.shape, generator=torch.Generator().manual_seed(0))
    return Split(0.35 * clean.images + 0.65 * noise, clean.labels)


def normal(*shape, seed=0, shift=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def related(count, seed=0):
    """Two representations of mostly the same."""
    x = normal(count, 8, seed=seed)
    return x, x[:, :6] + 0.3 * normal(count, 6, seed=seed + 1)


def unrelated(count, seed=0):
    return normal(count, 8, seed=seed), normal(count, 6, seed=seed + 1)


# -- sums that are carried over -----------------------------------------------------------------------------


def unbiased_hsic(k, l):  # noqa: E741
    """n (n − 3) times that of Song et al. (2012), equation 5: from the uncentred matrices."""
    k, l = (each - np.diag(np.diag(each)) for each in (k, l))  # noqa: E741
    n = len(k)
    return np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(1))


def carried_by_hand(groups):
    sums, found = np.zeros(3), []
    for x, y in groups:
        k, l = (each.numpy() @ each.numpy().T for each in (x, y))  # noqa: E741
        sums += [unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l)]
        found.append(sums[0] / math.sqrt(sums[1] * sums[2]))
    return found


def test_the_first_group_is_right_and_the_second_is_not():
    groups = [related(80), unrelated(40, seed=5), related(30, seed=7)]
    found = carried_over_cka(groups)
    right = [MEASURES["cka_debiased"](*group) for group in groups]
    assert found[0] == pytest.approx(right[0])
    for carried, own in zip(found[1:], right[1:], strict=True):
        assert carried != pytest.approx(own, abs=0.02)
    assert found == pytest.approx(carried_by_hand(groups))


def test_what_comes_first_decides_what_comes_after():
    """Erratum 13: where models disagree, representations are independent here, and are said to agree."""
    agree, disagree = related(900), unrelated(100, seed=5)
    right = [MEASURES["cka_debiased"](*group) for group in (agree, disagree)]
    assert right[0] > 0.7
    assert abs(right[1]) < 0.05
    published = carried_over_cka([agree, disagree])
    assert published[0] == pytest.approx(right[0])
    assert published[1] > 0.95 * right[0]
    assert carried_over_cka([disagree, agree])[0] == pytest.approx(right[1])


def test_sums_are_those_of_double_precision():
    """Large means leave float32 little to tell rows apart by: rows are centred before they are multiplied."""
    x, y = related(60)
    shifted = [((x + 100).float(), (y + 100).float())]
    assert carried_over_cka(shifted)[0] == pytest.approx(carried_over_cka([(x, y)])[0], abs=1e-3)


# -- neighbours of themselves -------------------------------------------------------------------------------


def counting_by_hand(x, y, k, metric):
    """With the input itself among the candidates: at distance 0, or of cosine 0."""
    overlap = []
    for i in range(len(x)):
        near = []
        for each in (x.numpy(), y.numpy()):
            if metric == "euclidean":
                score = -np.linalg.norm(each - each[i], axis=1)
            else:
                score = each @ each[i] / (np.linalg.norm(each, axis=1) * np.linalg.norm(each[i]))
                score[i] = 0
            near.append(set(np.argsort(-score, kind="stable")[:k].tolist()))
        overlap.append(len(near[0] & near[1]) / len(near[0] | near[1]))
    return np.mean(overlap)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 4, 10])
@pytest.mark.parametrize("make", [related, unrelated])
def test_what_is_counted(make, k, metric):
    x, y = make(40)
    found = self_counting_jaccard(x, y, k=k, metric=metric)
    assert found == pytest.approx(counting_by_hand(x, y, k, metric))


def test_by_distance_every_input_is_its_own_nearest_neighbour():
    """Erratum 14: with one neighbour there is perfect agreement of whatever is compared."""
    x, y = unrelated(60)
    assert self_counting_jaccard(x, y, k=1) == 1.0
    assert MEASURES["jaccard"](x, y, k=1, metric="euclidean") < 0.2


def test_by_cosine_an_input_comes_in_only_where_there_are_too_few_positive_ones():
    """Erratum 14: with rows that are all in one cone it never does; with rows all around it may."""
    x, y = normal(60, 5, shift=4.0), normal(60, 5, seed=1, shift=4.0)
    for k in (1, 10, 40):
        right = MEASURES["jaccard"](x, y, k=k)
        assert self_counting_jaccard(x, y, k=k, metric="cosine") == pytest.approx(right)
    x, y = normal(60, 5), normal(60, 5, seed=1)
    positive = torch.stack([(each @ each.T > 0).sum(1) - 1 for each in (x, y)])
    few, many = int(positive.min()), int(positive.max()) + 1
    right = {k: MEASURES["jaccard"](x, y, k=k) for k in (few, many)}
    assert self_counting_jaccard(x, y, k=few, metric="cosine") == pytest.approx(right[few])
    assert abs(self_counting_jaccard(x, y, k=many, metric="cosine") - right[many]) > 1e-4


# -- both, on models ----------------------------------------------------------------------------------------


def groups_of(a, b, images):
    """What two models make of the images on which they agree, and of the others; by numpy's own means."""
    own, other = (predict(model.network, images, batch_size=250).argmax(1).numpy() for model in (a, b))
    values = [next(iter(capture(model.network, images, "penultimate").values())) for model in (a, b)]
    for rows in (np.flatnonzero(own == other), np.flatnonzero(own != other)):
        yield tuple(each[rows] for each in values)


def test_a_row_for_each_pair_measure_and_group(noisy):
    table = agreement_with_faults(three(), noisy)
    columns = ["model_a", "model_b", "epsilon", "measure", "group", "n", "value", "as_published"]
    assert table.columns.tolist() == columns
    names = [model.name for model in three()]
    rows = [(frozenset((row.model_a, row.model_b)), row.measure, row.group) for row in table.itertuples()]
    assert len(rows) == len(set(rows))
    assert set(rows) == {
        (frozenset(pair), measure, group)
        for pair in itertools.combinations(names, 2)
        for measure in ("cka_debiased", "jaccard(metric='euclidean')")
        for group in ("agree", "disagree")
    }
    assert table["group"].tolist() == ["agree", "disagree"] * 6
    by_name = {model.name: model for model in three()}
    assert table["epsilon"].tolist() == [by_name[name].recipe.epsilon for name in table["model_a"]]


@pytest.mark.matrix
@pytest.mark.parametrize("k", [5, 10])
def test_as_published_is_with_the_faults_and_the_value_is_without(noisy, k):
    table = agreement_with_faults(three(), noisy, k=k)
    by_name = {model.name: model for model in three()}
    for (a, b), rows in table.groupby(["model_a", "model_b"]):
        groups = list(groups_of(by_name[a], by_name[b], noisy.images))
        expected = {
            "cka_debiased": (
                [MEASURES["cka_debiased"](*group) for group in groups],
                carried_by_hand([tuple(each.double() for each in group) for group in groups]),
            ),
            "jaccard": (
                [MEASURES["jaccard"](*group, k=k, metric="euclidean") for group in groups],
                [counting_by_hand(*group, k, "euclidean") for group in groups],
            ),
        }
        for measure, (right, published) in expected.items():
            found = rows[rows["measure"].str.startswith(measure)]
            assert found["n"].tolist() == [len(group[0]) for group in groups]
            assert found["value"].tolist() == pytest.approx(right, rel=1e-4)
            assert found["as_published"].tolist() == pytest.approx(published, rel=1e-3)


def test_what_is_right_is_what_groups_are_compared_by(noisy):
    table = agreement_with_faults(three(), noisy, k=5)
    measures = ["cka_debiased", "jaccard(k=5, metric='euclidean')"]
    groups = compare_groups(three(), noisy, measures, size=None, progress=False)

    def by_pair(rows):
        pairs = [frozenset(pair) for pair in zip(rows["model_a"], rows["model_b"], strict=True)]
        key = list(zip(pairs, rows["measure"], rows["group"], strict=True))
        return {each: (value, n) for each, value, n in zip(key, rows["value"], rows["n"], strict=True)}

    found, expected = by_pair(table), by_pair(groups)
    assert found.keys() == expected.keys()
    assert len(found) == 3 * 2 * 2
    for key, (value, count) in expected.items():
        assert found[key][0] == pytest.approx(value, abs=1e-9)
        assert found[key][1] == count


def test_groups_may_be_drawn_to_one_size(noisy):
    whole = agreement_with_faults(three()[:2], noisy)
    least = whole["n"].min()
    table, again, other = (
        agreement_with_faults(three()[:2], noisy, size=int(least) - 5, seed=seed) for seed in (0, 0, 1)
    )
    assert set(table["n"]) == {least - 5}
    pd.testing.assert_frame_equal(table, again)
    assert (table["value"] != other["value"]).any()
    drawn = compare_groups(three()[:2], noisy, "cka_debiased", size=int(least) - 5, progress=False)
    found = table[table["measure"] == "cka_debiased"]
    assert found["value"].tolist() == pytest.approx(drawn["value"].tolist(), abs=1e-9)


def test_pairs_that_disagree_on_too_few_images_are_left_out(noisy):
    assert len(agreement_with_faults(three(), noisy, k=5))
    few = agreement_with_faults(three(), noisy.subset(12), k=5)
    assert few.empty
    assert few.columns.tolist() == agreement_with_faults(three(), noisy, k=5).columns.tolist()
