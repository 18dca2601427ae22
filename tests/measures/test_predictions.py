"""Prediction similarity by hand, against other implementations, and by simulation."""

import inspect
import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score

from repsim.measures import (
    PREDICTION_MEASURES,
    agreement_bounds,
    agreement_reference,
    ambiguity,
    discrepancy,
    error_overlap,
)

NAMES = [
    "agreement",
    "disagreement",
    "normalized_disagreement",
    "cohen_kappa",
    "jensen_shannon",
    "jensen_shannon_similarity",
    "surrogate_churn",
    "accuracy_difference",
]
LABELLED = ["normalized_disagreement", "accuracy_difference"]
SOFT = ["jensen_shannon", "jensen_shannon_similarity", "surrogate_churn"]
every = pytest.mark.parametrize("name", NAMES)


def logits(n=50, classes=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, classes))


def two(n=50, classes=4, seed=0, noise=1.0):
    """Logits of two models that agree on something, and labels."""
    a = logits(n, classes, seed)
    b = a + noise * logits(n, classes, seed + 1)
    labels = (a + 0.5 * logits(n, classes, seed + 2)).argmax(1)
    return a, b, labels


def one_hot(predicted, classes):
    return np.eye(classes)[np.asarray(predicted)]


def value(name, a, b, labels=None, **options):
    return PREDICTION_MEASURES[name](a, b, labels, **options)


# -- what is declared ---------------------------------------------------------------------------------------


@every
def test_declared(name):
    measure = PREDICTION_MEASURES[name]
    similarity = name in ("agreement", "cohen_kappa", "jensen_shannon_similarity")
    assert measure.orientation == ("similarity" if similarity else "distance")
    assert measure.needs_labels == (name in LABELLED)
    assert dict(measure.options) == ({"alpha": 1.0} if name == "surrogate_churn" else {})
    assert measure.range[0] == (-1 if name == "cohen_kappa" else 0)
    assert measure.range[1] == {"jensen_shannon": math.log(2), "surrogate_churn": math.inf}.get(name, 1)
    assert measure.reference
    assert measure.description == inspect.cleandoc(measure.function.__doc__)


@pytest.mark.parametrize(
    ("alpha", "label"),
    [
        (1.0, "surrogate_churn"),
        (1, "surrogate_churn"),
        (2, "surrogate_churn(alpha=2)"),
        (0.5, "surrogate_churn(alpha=0.5)"),
    ],
)
def test_a_label_names_the_options_that_differ(alpha, label):
    assert PREDICTION_MEASURES["surrogate_churn"].using(alpha=alpha).label == label


predictions = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(*[st.integers(0, classes - 1)] * 3), min_size=1, max_size=30),
    )
)


@every
@settings(max_examples=30)
@given(drawn=predictions)
def test_within_its_range_and_symmetric(name, drawn):
    classes, rows = drawn
    a, b, labels = np.array(rows).T
    for sharpness in (1, 2, 50):  # of 1: probabilities; else logits
        tables = [sharpness * one_hot(side, classes) for side in (a, b)]
        found = value(name, *tables, labels)
        low, high = PREDICTION_MEASURES[name].range
        assert isinstance(found, float)
        assert low <= found <= high
        assert found == pytest.approx(value(name, *tables[::-1], labels), abs=1e-15)


@every
def test_of_a_model_with_itself(name):
    a, _, labels = two()
    expected = 1 if PREDICTION_MEASURES[name].orientation == "similarity" else 0
    assert value(name, a, a, labels) == pytest.approx(expected, abs=1e-12)


# -- by hand ------------------------------------------------------------------------------------------------

A, B, RIGHT = [0, 1, 2, 0], [0, 2, 2, 1], [0, 1, 2, 2]  # errors 1/4 and 2/4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("agreement", 0.5),
        ("disagreement", 0.5),
        ("normalized_disagreement", (0.5 - 0.25) / (0.75 - 0.25)),
        ("cohen_kappa", (0.5 - 0.3125) / (1 - 0.3125)),  # 2/4·1/4 + 1/4·1/4 + 1/4·2/4 by chance
        ("jensen_shannon", 0.5 * math.log(2)),
        ("jensen_shannon_similarity", 0.5),
        ("surrogate_churn", 0.5),
        ("accuracy_difference", 0.25),
    ],
)
def test_of_sure_predictions_by_hand(name, expected):
    found = value(name, one_hot(A, 3), one_hot(B, 3), np.array(RIGHT))
    assert found == pytest.approx(expected, rel=1e-12)


# -- against others -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_cohen_kappa_is_that_of_scikit_learn(classes, seed):
    a, b, _ = two(61, classes, seed)
    expected = cohen_kappa_score(a.argmax(1), b.argmax(1))
    assert value("cohen_kappa", a, b) == pytest.approx(expected, rel=1e-12)


def test_cohen_kappa_of_models_that_know_one_class():
    same, other = one_hot([1] * 7, 3), one_hot([2] * 7, 3)
    assert value("cohen_kappa", same, same) == 1
    assert value("cohen_kappa", same, other) == 0
    assert value("cohen_kappa", one_hot([0, 1], 2), one_hot([1, 0], 2)) == -1


@pytest.mark.parametrize("sharpness", [0.01, 1, 30])
def test_jensen_shannon_is_that_of_scipy(sharpness):
    a, b, _ = two()
    p, q = softmax(sharpness * a, 1), softmax(sharpness * b, 1)
    expected = np.mean(jensenshannon(p, q, axis=1) ** 2)
    assert value("jensen_shannon", p, q) == pytest.approx(expected, rel=1e-9)
    assert value("jensen_shannon_similarity", p, q) == pytest.approx(1 - expected / math.log(2), rel=1e-9)


@pytest.mark.parametrize("alpha", [0.3, 1, 7])
def test_surrogate_churn_is_its_definition(alpha):
    p, q = (softmax(side, 1) for side in two()[:2])
    p, q = ((side / side.max(1, keepdims=True)) ** alpha for side in (p, q))
    a, b, _ = two()
    expected = np.mean(np.abs(p - q).sum(1) / 2)
    assert value("surrogate_churn", a, b, alpha=alpha) == pytest.approx(expected, rel=1e-12)


def test_surrogate_churn_becomes_disagreement():
    a, b, _ = two(200)
    disagreement = value("disagreement", a, b)
    gaps = [abs(value("surrogate_churn", a, b, alpha=alpha) - disagreement) for alpha in (1, 10, 100, 1e5)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6


@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, "1", True])
@pytest.mark.usefixtures("unchecked")
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match=r"^alpha must be a number above 0, not "):
        value("surrogate_churn", *two()[:2], alpha=alpha)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_counts_are_those_of_a_loop(classes):
    a, b, labels = two(60, classes)
    rows = list(zip(a.argmax(1), b.argmax(1), labels, strict=True))
    different = sum(p != q for p, q, _ in rows) / 60
    errors = [sum(p != right for p, _, right in rows) / 60, sum(q != right for _, q, right in rows) / 60]
    assert value("agreement", a, b) == pytest.approx(1 - different)
    assert value("disagreement", a, b) == pytest.approx(different)
    assert value("accuracy_difference", a, b, labels) == pytest.approx(abs(errors[0] - errors[1]))
    most = min(sum(errors), 2 - sum(errors) if classes == 2 else 1)
    least = abs(errors[0] - errors[1])
    expected = (different - least) / (most - least)
    assert value("normalized_disagreement", a, b, labels) == pytest.approx(expected)


# -- normalised disagreement --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_bounds_are_reached(classes):
    """Of all predictions of 4 inputs, at every pair of error rates, the least is 0 and the greatest 1."""
    labels = np.zeros(4, dtype=int)
    tables = np.stack(np.meshgrid(*[range(classes)] * 4), -1).reshape(-1, 4)
    found = {}
    for a in np.unique(np.sort(tables, axis=1), axis=0):  # up to the order of inputs
        for b in tables:
            key = ((a != 0).sum(), (b != 0).sum())
            sides = (one_hot(side, classes) for side in (a, b))
            found.setdefault(key, []).append(value("normalized_disagreement", *sides, labels))
    for (wrong_a, wrong_b), values in found.items():
        most = min(wrong_a + wrong_b, 8 - wrong_a - wrong_b if classes == 2 else 4)
        assert min(values) == 0
        assert max(values) == (1 if most > abs(wrong_a - wrong_b) else 0)


# -- what two accuracies allow ------------------------------------------------------------------------------


@given(drawn=predictions)
def test_any_agreement_is_within_its_bounds(drawn):
    classes, rows = drawn
    a, b, labels = np.array(rows).T
    low, high = agreement_bounds(float((a == labels).mean()), float((b == labels).mean()), classes)
    assert -1e-12 <= low <= high + 1e-12 <= 1 + 2e-12
    assert low - 1e-12 <= (a == b).mean() <= high + 1e-12


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 5, 8])
def test_bounds_of_agreement_are_those_of_normalized_disagreement(classes, n):
    """Two models that are right as often as they are asked to be, alike as often or seldom as can be."""
    labels = np.arange(n) % classes
    wrong, another = (labels + 1) % classes, (labels + 2) % classes  # of two classes, that is the right one
    for right_a, right_b in np.ndindex(n + 1, n + 1):
        a = np.where(np.arange(n) < right_a, labels, wrong)
        alike = np.where(np.arange(n) < right_b, labels, wrong)
        # right where the other is wrong, as far as that goes, and elsewhere wrong in another way
        unlike = np.where(np.arange(n) >= n - right_b, labels, wrong if classes == 2 else another)
        low, high = agreement_bounds(right_a / n, right_b / n, classes)
        for b, end, share in ((alike, high, 0), (unlike, low, 1)):
            assert (b == labels).mean() == right_b / n
            assert (a == b).mean() == pytest.approx(end)
            found = value("normalized_disagreement", one_hot(a, classes), one_hot(b, classes), labels)
            assert found == (share if high - low > 1e-9 else 0)


# -- what is taken for predictions --------------------------------------------------------------------------


@every
@pytest.mark.parametrize("sharpness", [1, 20])
def test_logits_are_as_good_as_their_softmax(name, sharpness):
    a, b, labels = two()
    a, b = sharpness * a, sharpness * b
    expected = value(name, a, b, labels)
    assert value(name, softmax(a, 1), softmax(b, 1), labels) == pytest.approx(expected, rel=1e-9)
    assert value(name, a, softmax(b, 1), labels) == pytest.approx(expected, rel=1e-9)
    assert value(name, a + 1e3, b - 1e3, labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.matrix("4-dtype0", "1000-dtype1")
@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("classes", [4, 1000])
def test_rounded_probabilities_are_probabilities(name, dtype, classes):
    a, b, labels = two(classes=classes)
    p, q = (torch.from_numpy(side).softmax(1).to(dtype) for side in (a, b))
    expected = value(name, p.double() / p.double().sum(1, True), q.double() / q.double().sum(1, True), labels)
    assert value(name, p, q, labels) == pytest.approx(expected, rel=1e-12)
    if name in SOFT:
        as_logits = value(name, p.double().softmax(1), q.double().softmax(1))
        assert abs(expected - as_logits) > 10 * abs(expected - value(name, p, q))


def test_rows_that_do_not_sum_to_one_are_logits():
    a, b, _ = two()
    p, q = 1.1 * softmax(a, 1), 1.1 * softmax(b, 1)
    expected = value("jensen_shannon", softmax(p, 1), softmax(q, 1))
    assert value("jensen_shannon", p, q) == pytest.approx(expected)
    assert abs(expected - value("jensen_shannon", a, b)) > 0.01


def test_one_negative_makes_logits():
    a = np.array([[0.5, 0.5], [1.5, -0.5]])
    b = np.array([[0.5, 0.5], [0.5, 0.5]])
    expected = value("jensen_shannon", softmax(a, 1), b)
    assert value("jensen_shannon", a, b) == pytest.approx(expected)


@pytest.mark.parametrize("size", [1e3, 1e30, 1e300])
def test_huge_logits(size):
    a, b = size * one_hot([0, 1], 3), size * one_hot([0, 2], 3)
    assert value("jensen_shannon", a, b) == pytest.approx(math.log(2) / 2)
    assert value("surrogate_churn", a, b) == pytest.approx(0.5)


@every
def test_arrays_and_tensors_alike_and_unchanged(name):
    given_ = two()
    tensors = [torch.from_numpy(side).clone() for side in given_]
    tensors[0].requires_grad_()
    before = [side.copy() for side in given_]
    expected = value(name, *given_)
    assert value(name, *tensors) == expected
    assert value(name, given_[0], tensors[1], tensors[2]) == expected
    for side, tensor, as_before in zip(given_, tensors, before, strict=True):
        np.testing.assert_array_equal(side, as_before)
        np.testing.assert_array_equal(tensor.detach(), as_before)


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "uint16", "int32", "int64"])
@pytest.mark.parametrize("classes", [100, 256, 1000])
def test_labels_of_few_bits(kind, classes):
    a, b = logits(classes=classes), logits(classes=classes, seed=1)
    labels = np.arange(50) % 100
    assert value("accuracy_difference", a, b, labels.astype(kind)) == value(
        "accuracy_difference", a, b, labels
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "accuracy_difference needs labels, the right class of every input."),
        (np.zeros(5, int), "labels must hold one class per input, (6,); got shape (5,)."),
        (np.zeros((6, 3), int), "labels must hold one class per input, (6,); got shape (6, 3)."),
        (np.full(6, 3), "labels must be whole numbers from 0 to 2, the 3 classes."),
        (np.full(6, -1), "labels must be whole numbers from 0 to 2, the 3 classes."),
        (np.ones(6), "labels must be whole numbers from 0 to 2, the 3 classes."),
        (np.full(6, np.nan), "labels must be whole numbers from 0 to 2, the 3 classes."),
    ],
    ids=["none", "too few", "one-hot", "too large", "negative", "float", "NaN"],
)
def test_labels_that_cannot_be(labels, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        value("accuracy_difference", logits(6, 3), logits(6, 3), labels)
    assert str(caught.value) == message


@every
def test_labels_are_asked_for_where_needed_and_checked_where_not(name):
    a, b, labels = two()
    if name in LABELLED:
        with pytest.raises(ValueError, match=f"^{name} needs labels"):
            value(name, a, b)
    else:
        assert value(name, a, b) == value(name, a, b, labels)
        with pytest.raises(ValueError, match="labels must hold one class per input"):
            value(name, a, b, labels[1:])


DIFFER = "a and b must hold predictions of the same classes for the same inputs"
NOT_FINITE = logits(6, 3)
NOT_FINITE[2, 1] = np.nan


@pytest.mark.parametrize(
    ("b", "message"),
    [
        *(
            (table, f"{DIFFER}; got shapes (6, 3) and {table.shape}.")
            for table in (logits(5, 3), logits(6, 4))
        ),
        (NOT_FINITE, "b has predictions that are not finite (NaN or infinite)."),
        (np.full((6, 3), np.inf), "b has predictions that are not finite (NaN or infinite)."),
        *(
            (
                np.zeros(shape),
                f"b must have one row per input and at least two classes, (n, classes); got shape {shape}.",
            )
            for shape in [(6, 1), (6,), (0, 3), (6, 3, 2)]
        ),
    ],
    ids=["fewer inputs", "more classes", "NaN", "infinite", "one class", "vector", "no inputs", "three axes"],
)
def test_predictions_that_cannot_be(b, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        value("agreement", logits(6, 3), b)
    assert str(caught.value) == message


@pytest.mark.parametrize("wrong", [[[0.5, 0.5]], "abc", np.array([["a", "b"]]), np.ones((3, 2)) * 1j])
@pytest.mark.usefixtures("unchecked")
def test_no_numbers(wrong):
    with pytest.raises(TypeError, match=r"^a must be a torch tensor or a NumPy array of real numbers, not "):
        value("agreement", wrong, logits(3, 2))


# -- sets of models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [2, 3, 5])
def test_over_a_set_of_models(models):
    tables = [logits(40, 3) + 0.3 * logits(40, 3, seed=seed + 1) for seed in range(models)]
    classes = [table.argmax(1) for table in tables]
    pairs = list(combinations(classes, 2))
    anywhere = np.mean([any(p[i] != q[i] for p, q in pairs) for i in range(40)])
    assert 0 < anywhere < 1
    assert ambiguity(tables) == pytest.approx(anywhere)
    assert discrepancy(tables) == pytest.approx(max(np.mean(p != q) for p, q in pairs))
    assert discrepancy(tables) <= ambiguity(tables)
    if models == 2:
        assert ambiguity(tables) == discrepancy(tables) == value("disagreement", *tables)


@pytest.mark.parametrize("over", [ambiguity, discrepancy])
def test_sets_that_cannot_be(over):
    with pytest.raises(ValueError, match=r"^a set of models has at least 2, got 1\.$"):
        over([logits()])
    with pytest.raises(
        ValueError, match=r"predictions\[0\] has shape \(50, 4\) and predictions\[2\] \(49, 4\)"
    ):
        over([logits(), logits(), logits(49)])
    with pytest.raises(ValueError, match=r"^predictions\[1\] has predictions that are not finite"):
        over([logits(6, 3), NOT_FINITE])
    assert over([logits(), torch.from_numpy(softmax(logits(), 1)), logits()]) == 0


# -- tables -------------------------------------------------------------------------------------------------


def test_error_overlap():
    table = error_overlap(one_hot(A, 3), one_hot(B, 3), np.array(RIGHT))
    assert list(table.columns) == ["model_a", "model_b", "count", "share"]
    assert table[["model_a", "model_b", "count"]].to_numpy().tolist() == [
        ["right", "right", 2],
        ["right", "wrong", 1],
        ["wrong", "right", 0],
        ["wrong", "wrong", 1],
    ]
    assert table["share"].tolist() == [0.5, 0.25, 0.0, 0.25]


def of(table):
    assert list(table.columns) == ["reference", "agreement"]
    return dict(zip(table["reference"], table["agreement"], strict=True))


def answers(labels, accuracy, classes, generator):
    """Right with the given frequency; a wrong class drawn uniformly where not."""
    wrong = (labels + generator.integers(1, classes, len(labels))) % classes
    return np.where(generator.random(len(labels)) < accuracy, labels, wrong)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize(("accuracy_a", "accuracy_b"), [(0.9, 0.7), (0.6, 0.95), (0.8, 0.8)])
def test_agreement_reference_is_that_of_simulated_models(classes, accuracy_a, accuracy_b):
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=100_000)
    a, b = (answers(labels, accuracy, classes, generator) for accuracy in (accuracy_a, accuracy_b))
    expected = of(agreement_reference(accuracy_a, accuracy_b, classes))
    assert set(expected) == {"independent", "perturbed"}
    assert (a == b).mean() == pytest.approx(expected["independent"], abs=0.01)

    share = abs(accuracy_a - accuracy_b) / (max(accuracy_a, accuracy_b) - 1 / classes)
    better = a if accuracy_a > accuracy_b else b
    drawn = generator.random(len(labels)) < share
    perturbed = np.where(drawn, generator.integers(classes, size=len(labels)), better)
    assert (perturbed == labels).mean() == pytest.approx(min(accuracy_a, accuracy_b), abs=0.01)
    assert (perturbed == better).mean() == pytest.approx(expected["perturbed"], abs=0.01)


def test_agreement_reference_by_hand():
    assert of(agreement_reference(1, 1, 2)) == {"independent": 1, "perturbed": 1}
    assert of(agreement_reference(1, 0.5, 2)) == {"independent": 0.5, "perturbed": 0.5}
    assert of(agreement_reference(0.5, 1, 2)) == of(agreement_reference(1, 0.5, 2))


@given(classes=st.integers(2, 50), shares=st.tuples(st.floats(0.001, 1), st.floats(0, 1)))
def test_agreement_reference_is_an_agreement(classes, shares):
    """Of any two accuracies from chance on, between the agreement of chance and 1."""
    accuracies = [1 / classes + share * (1 - 1 / classes) for share in shares]
    for agreement in of(agreement_reference(*accuracies, classes)).values():
        assert 1 / classes - 1e-9 <= agreement <= 1 + 1e-9


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_are_numbers():
    expected = of(agreement_reference(0.75, 0.5, 10))
    assert of(agreement_reference(np.float32(0.75), np.float64(0.5), np.int64(10))) == expected
    a, b, _ = two()
    assert value("surrogate_churn", a, b, alpha=np.float32(2)) == value("surrogate_churn", a, b, alpha=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.1, 0.5, 10), "accuracy_a must be a share from 0 to 1, not 1.1."),
        ((0.5, -0.1, 10), "accuracy_b must be a share from 0 to 1, not -0.1."),
        ((0.5, math.nan, 10), "accuracy_b must be a share from 0 to 1, not nan."),
        ((90, 0.5, 10), "accuracy_a must be a share from 0 to 1, not 90."),
        ((0.5, "0.5", 10), "accuracy_b must be a share from 0 to 1, not '0.5'."),
        ((0.5, 0.5, 1), "classes must be a whole number of at least 2, not 1."),
        ((0.5, 0.5, 2.5), "classes must be a whole number of at least 2, not 2.5."),
        *(
            (
                (a, b, classes),
                f"the better accuracy must be above chance, 1/{classes}, and the other not below it, for the "
                f"one to be a perturbation of the other; they are {max(a, b):g} and {min(a, b):g}.",
            )
            for a, b, classes in [(0.05, 0.1, 10), (0.5, 0.5, 2), (0.9, 0.1, 2)]
        ),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_agreement_reference_of_what_cannot_be(arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        agreement_reference(*arguments)
    assert str(caught.value) == message
    if "chance" not in message:
        with pytest.raises(ValueError, match=re.escape(message)):
            agreement_bounds(*arguments)
