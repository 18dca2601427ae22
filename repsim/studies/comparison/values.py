"""One value at a time: a measure of two models, on images that both have looked at."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from repsim.activations import Observation
from repsim.measures import (
    MEASURES,
    PREDICTION_MEASURES,
    Measure,
    PredictionMeasure,
    agreement_bounds,
    interval,
    permutation_test,
)
from repsim.measures.comparing import Measures, choose, row_of
from repsim.measures.predictions import as_probabilities
from repsim.measures.registry import find_any
from repsim.measures.representation import Memory, Representation, represent
from repsim.studies.comparison.input_sets import InputSet
from repsim.studies.comparison.observing import Observers
from repsim.support.labels import check_one_class
from repsim.training.model_store import TrainedModel

AnyMeasure = Measure | PredictionMeasure
EVERY: dict[str, AnyMeasure] = {**MEASURES, **PREDICTION_MEASURES}
OUTPUT = "output"  # the layer that predictions are of
# What models have made of images in this process, and images that were made for them: one comparison after
# the other looks at the same.
ACTIVATION_CACHE = Memory(limit=2**30)
NULL = ("null_mean", "null_sd", "p_value")  # of a permutation test


@dataclass(frozen=True)
class Query:
    """The wish for each value of a comparison.

    Attributes
    ----------
    permutations, intervals
        What to put beside a value; see `compare_models`.
    """

    measures: list[AnyMeasure]
    permutations: int = 0
    intervals: bool = False

    @classmethod
    def of(cls, measures: Measures, permutations: int = 0, intervals: bool = False) -> Query:
        """Measures by name, of representations and of predictions."""
        return cls(choose(measures, find_any, EVERY), permutations, intervals)

    @property
    def predictions(self) -> bool:
        """Whether a measure of predictions is among them."""
        return any(isinstance(measure, PredictionMeasure) for measure in self.measures)


@dataclass(frozen=True, eq=False)
class Value:
    """A value's place: of which layer (of each model), models and measure."""

    layer: str
    model_a: str
    model_b: str
    measure: AnyMeasure

    @property
    def columns(self) -> dict[str, str]:
        """The columns of a table for it."""
        pair = {"layer": self.layer, "model_a": self.model_a, "model_b": self.model_b}
        return {**pair, "measure": self.measure.label, "orientation": self.measure.orientation}

    def key(self, models: Mapping[str, TrainedModel], query: Query) -> str | None:
        """The key under which it is kept; None for a measure of the caller's own, which may have changed."""
        own = EVERY.get(self.measure.name)
        if own is None or own.function is not self.measure.function:
            return None
        parts = [models[name].weights for name in (self.model_a, self.model_b)]
        beside = f"permutations={query.permutations} intervals={query.intervals}"
        return " ".join([*parts, self.layer, self.measure.name, self.measure.written_options, beside])


@dataclass(frozen=True, eq=False)
class Activations:
    """The activations of models for the same images, once each, ready to be compared.

    Attributes
    ----------
    observations
        By the names of the models.
    labels
        The right class of each image, where it is known.
    """

    observations: Mapping[str, Observation]
    labels: Tensor | None

    @classmethod
    def of(cls, input_set: InputSet, observers: Observers, names: Iterable[str]) -> Activations:
        """The activations for the images of an input set, of the models of these names."""
        identity = json.dumps(input_set.identity, sort_keys=True)
        images, labels = ACTIVATION_CACHE.recall((identity,), input_set.load)
        observations = {}
        for name in dict.fromkeys(names):
            key = (identity, observers.models[name].weights, *observers.layers)
            logits, *values = ACTIVATION_CACHE.recall(
                key, lambda name=name: _parts(observers.observe(name, images))
            )
            observations[name] = Observation(dict(zip(observers.layers, values, strict=True)), logits)
        return cls(observations, labels)

    def part(self, names: Iterable[str], rows: Int[Tensor, " m"]) -> Activations:
        """The activations for some of the images, of some of the models."""
        labels = None if self.labels is None else self.labels[rows]
        return Activations({name: self.observations[name].part(rows) for name in names}, labels)

    def check_labels(self, query: Query) -> None:
        """Refuse images without labels, where a measure needs some.

        Raises
        ------
        ValueError
            There are none; or they are attributes, and predictions are to be compared.
        """
        for measure in query.measures:
            if isinstance(measure, PredictionMeasure):
                if measure.needs_labels and self.labels is None:
                    raise ValueError(
                        f"{measure.label} needs labels, the right class of every image: give a data set or a "
                        "split."
                    )
                if self.labels is not None:
                    check_one_class(self.labels, f"{measure.label} needs")

    @property
    def count(self) -> int:
        """The number of images."""
        return len(next(iter(self.observations.values())).logits)

    @cached_property
    def _prepared(self) -> dict[str, tuple[Memory, dict[str, Representation]]]:
        return {}

    def representation(self, layer: str, name: str) -> Representation:
        """The values of the model of that name for the images; those of one layer share what they derive.

        Raises
        ------
        ValueError
            No measure is defined on it: it does not vary, or there are fewer than 4 images.
        """
        memory, known = self._prepared.setdefault(layer, (Memory(), {}))
        if name not in known:
            values = self.observations[name].values[layer]
            known[name] = represent(values, name, pool=False, dtype=torch.float64, device=None, memory=memory)
        return known[name]

    @cached_property
    def probabilities(self) -> dict[str, Tensor]:
        """Probabilities by the names of the models; what they give are logits, whatever it looks like."""
        return {
            name: as_probabilities(each.logits.double().softmax(1), name)
            for name, each in self.observations.items()
        }

    def accuracy(self, name: str) -> float:
        """Share of the images that a model takes for what they are; NaN without labels."""
        if self.labels is None:
            return math.nan
        return float((self.probabilities[name].argmax(1) == self.labels).double().mean())

    def row(self, value: Value, query: Query) -> dict[str, object]:
        """The value, and what is wanted beside it; NaN, and a note why, where the measure is not defined."""
        if isinstance(value.measure, PredictionMeasure):
            return self._of_predictions(value, query)
        try:
            x, y = (self.representation(value.layer, name) for name in (value.model_a, value.model_b))
        except ValueError as error:
            return {"value": math.nan, "note": str(error), "n": self.count, **_nothing_beside(query)}
        found = row_of(value.measure, x, y, undefined_is_a_note=True)
        row = {"value": found["value"], "note": found["note"], "n": self.count}
        if math.isnan(row["value"]):
            return {**row, **_nothing_beside(query)}
        return _joined(row, _beside(value.measure, x.values, y.values, None, query))

    def _of_predictions(self, value: Value, query: Query) -> dict[str, object]:
        measure: Any = value.measure  # of predictions
        a, b = (self.probabilities[name] for name in (value.model_a, value.model_b))
        row: dict[str, object] = {"value": measure.evaluate(a, b, self.labels), "note": "", "n": len(a)}
        accuracies = [self.accuracy(name) for name in (value.model_a, value.model_b)]
        row["accuracy_a"], row["accuracy_b"] = accuracies
        if self.labels is not None and measure.name in ("agreement", "disagreement"):
            bounds = agreement_bounds(accuracies[0], accuracies[1], a.shape[1])
            bounds = bounds if measure.name == "agreement" else (1 - bounds[1], 1 - bounds[0])
            row["lowest"], row["highest"] = bounds
        return _joined(row, _beside(measure, a, b, self.labels, query))


def _parts(seen: Observation) -> tuple[Tensor, ...]:
    """The parts as a memory that counts bytes can hold them."""
    return seen.logits, *seen.values.values()


def _beside(
    measure: AnyMeasure, x: Tensor, y: Tensor, labels: Tensor | None, query: Query
) -> dict[str, object]:
    """A value's interval and its null, as far as they are asked for."""
    found: dict[str, object] = _nothing_beside(query)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if query.intervals:
            try:
                ends = interval(measure, x, y, labels, progress=False)
                found |= {"low": ends.low, "high": ends.high}
            except ValueError as error:
                warnings.warn(f"no interval: {error}", stacklevel=1)
        if query.permutations:
            test = permutation_test(measure, x, y, labels, permutations=query.permutations, progress=False)
            found |= {name: getattr(test, name) for name in NULL}
    return {**found, "notes": dict.fromkeys(str(warning.message) for warning in caught)}


def _joined(row: dict[str, object], beside: dict[str, object]) -> dict[str, object]:
    """A row and what is beside it, with the notes of both; what is said of the value is said once."""
    beside = dict(beside)
    notes = [note for note in beside.pop("notes", ()) if note not in row["note"]]
    return {**row, **beside, "note": "; ".join([*filter(None, [row["note"]]), *notes])}


def _nothing_beside(query: Query) -> dict[str, float]:
    names = (("low", "high") if query.intervals else ()) + (NULL if query.permutations else ())
    return dict.fromkeys(names, math.nan)
