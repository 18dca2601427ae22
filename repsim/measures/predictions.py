"""Prediction similarity: how alike two models answer the same inputs, by their logits or probabilities."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from repsim.measures.measure import (
    Orientation,
    changed_options,
    count_option,
    default_options,
    label_of,
    number_option,
)
from repsim.support.arrays import Values, tensor_of

SUMS_TO_ONE = 5e-3  # how far a row of bfloat16 probabilities may be off

Labels = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]
PREDICTION_MEASURES: dict[str, PredictionMeasure] = {}


@dataclass(frozen=True)
class PredictionMeasure:
    """A similarity of two models' predictions: call it with two tables of logits or probabilities.

    Attributes
    ----------
    orientation
        `similarity` (larger is more alike) or `distance`.
    range
        Least and greatest value.
    needs_labels
        Whether it asks which predictions are right.
    reference
        The paper that defines it.
    options
        With their defaults, or what `using` set.
    """

    function: Callable[..., Tensor | float]
    orientation: Orientation
    range: tuple[float, float]
    needs_labels: bool
    reference: str
    options: Mapping[str, object]

    @property
    def name(self) -> str:
        """The name in `PREDICTION_MEASURES`."""
        return self.function.__name__

    @cached_property
    def written_options(self) -> str:
        """The options as JSON, which tells 1, 1.0 and True apart."""
        return json.dumps(dict(self.options), sort_keys=True)

    @property
    def label(self) -> str:
        """The name with the options that differ from the defaults, such as `surrogate_churn(alpha=2)`."""
        return label_of(self)

    @property
    def description(self) -> str:
        """Its definition, and when to use it."""
        return inspect.cleandoc(self.function.__doc__)

    def using(self, **options: object) -> PredictionMeasure:
        """The same measure with other options."""
        return replace(self, options=changed_options(self, options))

    def __call__(self, a: Values, b: Values, labels: Labels | None = None, **options: object) -> float:
        """The value for two models.

        Parameters
        ----------
        a, b
            (n, classes): probabilities, where all rows are non-negative and sum to 1; logits otherwise.
        labels
            (n,), the right classes, for the measures that need them.

        Raises
        ------
        ValueError
            Shapes that do not match, values that are not finite, labels missing or out of range.
        """
        measure = self.using(**options)
        return measure.evaluate(*prediction_pair(a, b, labels, self.name if self.needs_labels else ""))

    def evaluate(
        self, a: Float[Tensor, "n c"], b: Float[Tensor, "n c"], labels: Int[Tensor, " n"] | None
    ) -> float:
        """The value for two tables of probabilities."""
        arguments = (a, b, labels) if self.needs_labels else (a, b)
        return float(self.function(*arguments, **self.options))


def prediction_measure(
    *, orientation: Orientation, range: tuple[float, float], reference: str, needs_labels: bool = False
) -> Callable[[Callable], PredictionMeasure]:
    """Make a prediction measure of a function of two tables of probabilities (and labels)."""

    def declare(function: Callable) -> PredictionMeasure:
        options = default_options(function)
        declared = PredictionMeasure(function, orientation, range, needs_labels, reference, options)
        PREDICTION_MEASURES[declared.name] = declared
        return declared

    return declare


def prediction_pair(
    a: Values, b: Values, labels: Labels | None, needed_by: str = "", names: tuple[str, str] = ("a", "b")
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both as checked probabilities on one device, and the labels."""
    first = as_probabilities(a, names[0])
    second = as_probabilities(b, names[1]).to(first.device)
    if first.shape != second.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must hold predictions of the same classes for the same inputs; "
            f"got shapes {tuple(first.shape)} and {tuple(second.shape)}."
        )
    if labels is None:
        if needed_by:
            raise ValueError(f"{needed_by} needs labels, the right class of every input.")
        return first, second, None
    return first, second, _checked_labels(labels, first)


def as_probabilities(predictions: Values, name: str) -> Float[Tensor, "n c"]:
    """Probabilities in float64: as they are, if that is what they are, else the softmax of logits."""
    table = tensor_of(predictions, name).double()
    if table.dim() != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(
            f"{name} must have one row per input and at least two classes, (n, classes); "
            f"got shape {tuple(table.shape)}."
        )
    if not table.isfinite().all():
        raise ValueError(f"{name} has predictions that are not finite (NaN or infinite).")
    sums = table.sum(1, keepdim=True)
    if (table >= 0).all() and ((sums - 1).abs() < SUMS_TO_ONE).all():
        return table / sums
    return table.softmax(1)


def _checked_labels(labels: Labels, table: Tensor) -> Int[Tensor, " n"]:
    labels = tensor_of(labels, "labels").to(table.device)
    n, classes = table.shape
    if labels.shape != (n,):
        raise ValueError(f"labels must hold one class per input, ({n},); got shape {tuple(labels.shape)}.")
    whole = labels.long()  # of 8 bits they could not be compared with as many classes
    if labels.is_floating_point() or whole.min() < 0 or whole.max() >= classes:
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, the {classes} classes.")
    return whole


def _disagree(a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    return (a.argmax(1) != b.argmax(1)).double().mean()


def _error(a: Tensor, labels: Tensor) -> Float[Tensor, ""]:
    return (a.argmax(1) != labels).double().mean()


@prediction_measure(orientation="similarity", range=(0, 1), reference="Madani et al. 2004")
def agreement(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"]) -> Tensor:
    """Share of inputs to which both models give the same class.

    Traps: two accurate models must agree often; see `normalized_disagreement` and `agreement_reference`.
    """
    return 1 - _disagree(a, b)


@prediction_measure(orientation="distance", range=(0, 1), reference="Madani et al. 2004")
def disagreement(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"]) -> Tensor:
    """Share of inputs to which the models give different classes (churn)."""
    return _disagree(a, b)


@prediction_measure(orientation="distance", range=(0, 1), needs_labels=True, reference="Klabunde et al. 2023")
def normalized_disagreement(
    a: Float[Tensor, "n c"], b: Float[Tensor, "n c"], labels: Int[Tensor, " n"]
) -> float:
    """Disagreement, from the least to the most that the error rates allow: (d − d_min) / (d_max − d_min).

    d_min = |e₁ − e₂|; d_max = min(e₁ + e₂, 1), and with two classes min(e₁ + e₂, 2 − e₁ − e₂). 0 where they
    coincide.
    """
    n, classes = a.shape  # counted rather than averaged: no rounding leaves the range
    wrong_a, wrong_b = (int((table.argmax(1) != labels).sum()) for table in (a, b))
    least, most = _disagreement_bounds(wrong_a, wrong_b, n, classes)
    different = int((a.argmax(1) != b.argmax(1)).sum())
    return (different - least) / (most - least) if most > least else 0.0


def _disagreement_bounds(wrong_a: float, wrong_b: float, n: float, classes: int) -> tuple[float, float]:
    """The least and greatest number of n inputs on which two models that are wrong this often differ."""
    return abs(wrong_a - wrong_b), min(wrong_a + wrong_b, 2 * n - wrong_a - wrong_b if classes == 2 else n)


@prediction_measure(orientation="similarity", range=(-1, 1), reference="Cohen 1960")
def cohen_kappa(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"]) -> Tensor | float:
    """Agreement beyond what the frequencies of the predicted classes give by chance, as a share of the rest.

    1 where both give one and the same class to every input.
    """
    own, other = (table.argmax(1).bincount(minlength=table.shape[1]).double() for table in (a, b))
    chance = own @ other / len(a) ** 2
    return (1 - _disagree(a, b) - chance) / (1 - chance) if chance < 1 else 1.0


def _jensen_shannon(a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    middle = (a + b) / 2
    entropies = [-torch.special.xlogy(table, table).sum(1) for table in (middle, a, b)]
    return (entropies[0] - (entropies[1] + entropies[2]) / 2).mean().clamp(0, math.log(2))


@prediction_measure(orientation="distance", range=(0, math.log(2)), reference="Lin 1991")
def jensen_shannon(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"]) -> Tensor:
    """Mean Jensen–Shannon divergence of the probabilities, in nats (the squared Jensen–Shannon distance).

    Traps: it depends on calibration: the same classes with other confidence differ.
    """
    return _jensen_shannon(a, b)


@prediction_measure(orientation="similarity", range=(0, 1), reference="Lin 1991")
def jensen_shannon_similarity(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"]) -> Tensor:
    """1 − `jensen_shannon` / ln 2 (that is, 1 minus the divergence in bits)."""
    return 1 - _jensen_shannon(a, b) / math.log(2)


@prediction_measure(orientation="distance", range=(0, math.inf), reference="Bhojanapalli et al. 2021")
def surrogate_churn(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"], *, alpha: float = 1.0) -> Tensor:
    """Mean of ½ Σ |(p / max p)^`alpha` − (q / max q)^`alpha`|: continuous; disagreement in the limit of ∞."""
    number_option("alpha", alpha, lambda value: value > 0, "a number above 0")
    first, second = ((table / table.amax(1, keepdim=True)) ** alpha for table in (a, b))
    return (first - second).abs().sum(1).mean() / 2


@prediction_measure(orientation="distance", range=(0, 1), needs_labels=True, reference="Klabunde et al. 2023")
def accuracy_difference(
    a: Float[Tensor, "n c"], b: Float[Tensor, "n c"], labels: Int[Tensor, " n"]
) -> Tensor:
    """Absolute difference of the accuracies."""
    return (_error(a, labels) - _error(b, labels)).abs()


# --- over a set of models, and as tables ------------------------------------------------------------------


def ambiguity(predictions: Sequence[Values]) -> float:
    """Share of inputs on which some two models of a set disagree (after Marx et al., 2020)."""
    classes = _classes_of_all(predictions)
    return float((classes != classes[0]).any(0).double().mean())


def discrepancy(predictions: Sequence[Values]) -> float:
    """The greatest disagreement of any two models of a set (after Marx et al., 2020)."""
    classes = _classes_of_all(predictions)
    return max(float((one != other).double().mean()) for one, other in combinations(classes, 2))


def _classes_of_all(predictions: Sequence[Values]) -> Int[Tensor, "models n"]:
    if len(predictions) < 2:
        raise ValueError(f"a set of models has at least 2, got {len(predictions)}.")
    tables = [as_probabilities(table, f"predictions[{i}]") for i, table in enumerate(predictions)]
    for i, table in enumerate(tables):
        if table.shape != tables[0].shape:
            raise ValueError(
                "all models must predict the same classes for the same inputs; predictions[0] has shape "
                f"{tuple(tables[0].shape)} and predictions[{i}] {tuple(table.shape)}."
            )
    return torch.stack([table.argmax(1).to(tables[0].device) for table in tables])


def error_overlap(a: Values, b: Values, labels: Labels) -> pd.DataFrame:
    """Counts of inputs on which both, one or none of two models are right.

    Returns
    -------
    DataFrame
        Four rows: `model_a` and `model_b` (each `right` or `wrong`), `count`, `share`.
    """
    first, second, right = prediction_pair(a, b, labels, "error_overlap")
    correct = {True: "right", False: "wrong"}
    right_a, right_b = first.argmax(1) == right, second.argmax(1) == right
    rows = []
    for is_a in (True, False):
        for is_b in (True, False):
            count = int(((right_a == is_a) & (right_b == is_b)).sum())
            rows.append(
                {
                    "model_a": correct[is_a],
                    "model_b": correct[is_b],
                    "count": count,
                    "share": count / len(right),
                }
            )
    return pd.DataFrame(rows)


def agreement_bounds(accuracy_a: float, accuracy_b: float, classes: int) -> tuple[float, float]:
    """The least and the greatest agreement that two accuracies allow.

    Raises
    ------
    ValueError
        Accuracies outside [0, 1], or fewer than 2 classes.
    """
    _check_accuracies(accuracy_a, accuracy_b, classes)
    least, most = _disagreement_bounds(1 - accuracy_a, 1 - accuracy_b, 1.0, classes)
    return 1 - most, 1 - least


def _check_accuracies(accuracy_a: float, accuracy_b: float, classes: int) -> None:
    for name, value in (("accuracy_a", accuracy_a), ("accuracy_b", accuracy_b)):
        number_option(name, value, lambda share: 0 <= share <= 1, "a share from 0 to 1")
    count_option("classes", classes, 2)


def agreement_reference(accuracy_a: float, accuracy_b: float, classes: int) -> pd.DataFrame:
    """The agreement of two accuracies under two simple assumptions (Fort et al., 2019); no bounds.

    Returns
    -------
    DataFrame
        Two rows, `reference` and `agreement`: `independent` (errors are independent, and uniform over the
        wrong classes), and `perturbed` (the less accurate model is the other one with a share of its
        answers replaced by classes drawn uniformly).

    Raises
    ------
    ValueError
        Accuracies outside [0, 1] or fewer than 2 classes; or accuracies that no perturbation links: below
        chance, or none above.
    """
    _check_accuracies(accuracy_a, accuracy_b, classes)
    worse, better = sorted((accuracy_a, accuracy_b))
    if better <= 1 / classes or worse < 1 / classes:
        raise ValueError(
            f"the better accuracy must be above chance, 1/{classes}, and the other not below it, for the one "
            f"to be a perturbation of the other; they are {better:g} and {worse:g}."
        )
    independent = worse * better + (1 - worse) * (1 - better) / (classes - 1)
    perturbed = 1 - (classes - 1) * (better - worse) / (classes * better - 1)
    return pd.DataFrame({"reference": ["independent", "perturbed"], "agreement": [independent, perturbed]})
