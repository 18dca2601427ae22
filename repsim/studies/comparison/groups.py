"""Similarity on parts of the images: where two models agree or not, by who is right, by class or margin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.attacks import Attack
from repsim.data import Dataset, ImageSource, Split
from repsim.measures import Measure
from repsim.measures.comparing import Measures
from repsim.studies.comparison.comparing import (
    check_classes,
    check_input_sets,
    finished,
    pairs_within,
    work_of,
)
from repsim.studies.comparison.input_sets import Inputs, InputSet, as_data, make_input_sets
from repsim.studies.comparison.observing import Observers, by_its_name
from repsim.studies.comparison.result_cache import ResultCache
from repsim.studies.comparison.values import Activations, Query, Value
from repsim.studies.inversion import InvertedSet, Pairs
from repsim.support import messages
from repsim.support.labels import check_one_class
from repsim.support.progress import progress_bar
from repsim.training.model_store import TrainedModel, only_stored

Probabilities = Float[Tensor, "n classes"]
Members = dict[str, Int[Tensor, "_"]]  # rows of images, by group


@dataclass(frozen=True)
class Grouping:
    """A way to part images by what two models make of them.

    Attributes
    ----------
    names
        Of the groups, from the names of the classes and the number of quantiles.
    assign
        For each image the place of its group among the names; from the probabilities of both models, labels
        and the number of quantiles.
    """

    names: Callable[[Sequence[str], int], list[str]]
    assign: Callable[[Probabilities, Probabilities, Tensor | None, int], Int[Tensor, " n"]]
    needs_labels: bool


def _by_agreement(a: Probabilities, b: Probabilities, labels: Tensor | None, quantiles: int) -> Tensor:
    return (a.argmax(1) != b.argmax(1)).long()


def _by_correctness(a: Probabilities, b: Probabilities, labels: Tensor | None, quantiles: int) -> Tensor:
    return (a.argmax(1) != labels).long() + (b.argmax(1) != labels).long()


def _by_class(a: Probabilities, b: Probabilities, labels: Tensor | None, quantiles: int) -> Tensor:
    return labels


def _by_margin(a: Probabilities, b: Probabilities, labels: Tensor | None, quantiles: int) -> Tensor:
    """Rank images by the mean over both models of an image's rank: their margins are not on one scale."""
    ranks = sum(_ranks(_margin(table)) for table in (a, b))
    return _ranks(ranks) * quantiles // len(a)


def _margin(table: Probabilities) -> Float[Tensor, " n"]:
    """The distance of the greatest log-probability from the next: the difference of the two logits."""
    first, second = table.clamp_min(torch.finfo(table.dtype).tiny).log().topk(2, dim=1).values.T
    return first - second


def _ranks(values: Tensor) -> Int[Tensor, " n"]:
    return values.argsort(stable=True).argsort()


def _shares(classes: Sequence[str], quantiles: int) -> list[str]:
    ends = [round(100 * place / quantiles) for place in range(quantiles + 1)]
    return [f"{low}–{high} %" for low, high in itertools.pairwise(ends)]


GROUPINGS: dict[str, Grouping] = {
    "agreement": Grouping(lambda classes, quantiles: ["agree", "disagree"], _by_agreement, False),
    "correctness": Grouping(
        lambda classes, quantiles: ["both right", "one right", "both wrong"], _by_correctness, True
    ),
    "class": Grouping(lambda classes, quantiles: list(classes), _by_class, True),
    "margin": Grouping(_shares, _by_margin, False),
}


@dataclass(frozen=True)
class Sampling:
    """The images that are a group, and the groups that are compared; see `compare_groups`."""

    by: str
    size: int | None
    match_classes: bool
    quantiles: int
    seed: int

    def __post_init__(self):
        if self.by not in GROUPINGS:
            raise ValueError(messages.unknown("grouping", self.by, GROUPINGS))
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is a number of images, or None for all of a group, not {self.size}.")
        if not 2 <= self.quantiles <= 100:
            raise ValueError(f"quantiles part the images into 2 to 100 groups, not {self.quantiles}.")
        if self.match_classes and self.by == "class":
            raise ValueError("groups by class have no classes in common: leave match_classes out.")

    @property
    def key(self) -> str:
        """Equal where the same images are drawn."""
        return " ".join(f"{name}={value!r}" for name, value in vars(self).items())

    def check_labels(self, labels: Tensor | None) -> None:
        """Refuse images without labels, where groups or the draw from them need some.

        Raises
        ------
        ValueError
            There are none; or they are attributes, of which no prediction is the one class.
        """
        if labels is not None:
            check_one_class(labels, f"by={self.by!r} needs")
        by_labels = GROUPINGS[self.by].needs_labels
        if labels is None and (by_labels or self.match_classes):
            what = f"by={self.by!r}" if by_labels else "match_classes"
            raise ValueError(
                f"{what} needs labels, the right class of every image: give a data set or a split."
            )

    def members(self, names: Sequence[str], captured: Activations, pair: tuple[str, str]) -> Members:
        """The images of each group of a pair of models."""
        first, second = (captured.probabilities[name] for name in pair)
        places = GROUPINGS[self.by].assign(first, second, captured.labels, self.quantiles)
        return {name: (places == place).nonzero().flatten() for place, name in enumerate(names)}

    def draw(self, members: Members, labels: Tensor | None) -> Members:
        """Images of each group, `size` of them or all there are; of the same classes if that is wanted."""
        shuffled = {}
        for place, (name, rows) in enumerate(members.items()):
            generator = torch.Generator().manual_seed(1000 * self.seed + place)
            shuffled[name] = rows[torch.randperm(len(rows), generator=generator)]
        if self.match_classes:
            return _of_same_classes(shuffled, labels, self.size)
        return {name: rows[: self.size].sort().values for name, rows in shuffled.items()}


def _of_same_classes(members: Members, labels: Tensor, size: int | None) -> Members:
    """Draw as many images of each class from every group, in proportion to what the scarcest group has."""
    classes = int(labels.max()) + 1
    there = torch.stack([labels[rows].bincount(minlength=classes) for rows in members.values()]).amin(0)
    wanted = there if size is None or size >= int(there.sum()) else _shared_out(there, size)
    drawn = {}
    for name, rows in members.items():
        parts = [rows[labels[rows] == each][: int(wanted[each])] for each in range(classes)]
        drawn[name] = torch.cat(parts).sort().values
    return drawn


def _shared_out(there: Int[Tensor, " c"], size: int) -> Int[Tensor, " c"]:
    """`size` in proportion to what is there, of which it is less: largest remainders are rounded up."""
    exact = there.double() * size / there.sum()
    whole = exact.floor().long()
    most = (exact - whole).argsort(descending=True, stable=True)[: size - int(whole.sum())]
    whole[most] += 1
    return whole


def compare_groups(
    models: Iterable[TrainedModel],
    data: Dataset | Split | ImageSource,
    measures: Measures = "cka",
    by: str = "agreement",
    *,
    size: int | None = 100,
    match_classes: bool = False,
    quantiles: int = 4,
    seed: int = 0,
    inputs: Inputs = "natural",
    layer: str = "penultimate",
    pairs: Pairs | None = None,
    sets: Mapping[str, InvertedSet] | None = None,
    attack: Attack | None = None,
    within: Sequence[str] = (),
    recompute: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Measures of all pairs of models, on each of the groups into which the two part the images.

    Many measures depend on how many images there are, so that groups of one size are compared: an equal draw
    from each. A group that is too small for that, or a size that is too small for a measure (see
    `Measure.least_inputs`), gives a row without a value whose note says so. Values are kept, as those of
    `compare_models`.

    Parameters
    ----------
    by
        `agreement`: whether both models give an image the same class; `correctness`: how many of the two are
        right; `class`: of the label; `margin`: how sure both are, in quantiles of the mean rank of the
        difference of the two greatest logits, the least sure first.
    size
        Images drawn from each group; None: all of it, whatever the others have.
    match_classes
        Draw as many images of each class from every group: what is left is not a matter of which classes two
        models disagree on.
    quantiles
        Groups by margin.
    seed
        Of what is drawn.
    data, measures, inputs, layer, pairs, sets, attack, within, recompute
        As for `compare_models`.

    Returns
    -------
    DataFrame
        The columns of `compare_models`, with `by`, `group` and `group_size`, the number of images in the
        group, before `n`, the number that was compared. `accuracy_a` and `accuracy_b` are those on them.

    Raises
    ------
    ValueError
        As `compare_models`; an unknown grouping; labels are missing.
    """
    models, layer = {model.name: model for model in only_stored(models)}, by_its_name(layer)
    data = as_data(data)
    sampling = Sampling(by, size, match_classes, quantiles, seed)
    observers = Observers(models, layer)
    if len(observers.layers) > 1:
        raise ValueError(f"groups are compared at one layer; {layer!r} are {len(observers.layers)}.")
    query = Query.of(measures)
    check_classes(models, data)
    chosen = pairs_within(models, within)
    input_sets = make_input_sets(models, data, inputs, layer, pairs=pairs, sets=sets, attack=attack)
    check_input_sets(input_sets, chosen)
    rows = []
    for input_set in progress_bar(input_sets, f"{inputs} images", "model", progress and len(input_sets) > 1):
        by_pair: dict[tuple[str, str], list[Value]] = {}
        for value in work_of(input_set, chosen, observers.layers, query.measures):
            by_pair.setdefault((value.model_a, value.model_b), []).append(value)
        with ResultCache(input_set.identity, recompute) as known:
            groups = Groups(input_set, observers, sampling, query, known)
            bar = progress_bar(by_pair.values(), f"groups by {by}", "pair", progress and len(input_sets) == 1)
            for values in bar:
                rows += groups.rows(values)
    return finished(rows, data, inputs, models)


class Groups:
    """The groups into which pairs of models part the images of an input set, and what is found in each."""

    def __init__(
        self, input_set: InputSet, observers: Observers, sampling: Sampling, query: Query, known: ResultCache
    ):
        self.input_set = input_set
        self.observers = observers
        self.sampling = sampling
        self.query = query
        self.known = known
        model = next(iter(observers.models.values()))
        self.names = GROUPINGS[sampling.by].names(model.record["classes"], sampling.quantiles)

    @cached_property
    def captured(self) -> Activations:
        """The activations of all models for the images; not computed where all is known."""
        captured = Activations.of(self.input_set, self.observers, self.observers.models)
        self.sampling.check_labels(captured.labels)
        captured.check_labels(self.query)
        return captured

    def rows(self, values: Sequence[Value]) -> list[dict[str, object]]:
        """One row for each value, all of one pair, and each group."""
        found: dict[tuple[Value, str], dict[str, object]] = {}
        missing: dict[str, list[Value]] = {}
        for value, group in itertools.product(values, self.names):
            if (key := self._key(value, group)) in self.known:
                found[value, group] = self.known[key]
            else:
                missing.setdefault(group, []).append(value)
        if missing:
            pair = values[0].model_a, values[0].model_b
            members = self.sampling.members(self.names, self.captured, pair)
            drawn = self.sampling.draw(members, self.captured.labels)
            for group, wanted in missing.items():
                part = self.captured.part(pair, drawn[group])
                for value in wanted:
                    row = {"group_size": len(members[group]), **self._row(part, value)}
                    found[value, group] = row
                    self.known.put(self._key(value, group), row)
        by = self.sampling.by
        return [
            {**value.columns, "by": by, "group": group, **found[value, group]}
            for value, group in itertools.product(values, self.names)
        ]

    def _key(self, value: Value, group: str) -> str | None:
        own = value.key(self.observers.models, self.query)
        return None if own is None else f"{own} {self.sampling.key} group={group!r}"

    def _row(self, part: Activations, value: Value) -> dict[str, object]:
        """The result for a part of the images, or why there is none."""
        count, wanted = part.count, self.sampling.size or 1
        if count < wanted:
            kind = " of classes that all groups have" if self.sampling.match_classes else ""
            return _dropped(f"{count} images{kind}, where {wanted} are wanted", count)
        if isinstance(value.measure, Measure):
            own, other = (
                part.observations[name].values[value.layer].shape[1]
                for name in (value.model_a, value.model_b)
            )
            if count < (least := value.measure.least_inputs(own, other)):
                needs = f"{value.measure.label} needs {least} to say something of {own} and {other} units"
                return _dropped(f"{count} images, where {needs}", count)
        row = part.row(value, self.query)
        return _dropped(row["note"], count) if math.isnan(row["value"]) else row


def _dropped(why: str, count: int) -> dict[str, object]:
    return {"value": math.nan, "note": f"dropped: {why}", "n": count}
