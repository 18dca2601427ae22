"""Notebook 04: every measure between networks of one ε, on several data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from repsim.data import Dataset
from repsim.measures import PREDICTION_MEASURES, find_measure
from repsim.studies.comparison.comparing import comparable, compare_models
from repsim.studies.comparison.study import UniversalityStudy
from repsim.studies.comparison.tables import with_references
from repsim.training.model_store import TrainedModel

Subjects = Sequence[tuple[Dataset, list[TrainedModel]]]
PUBLISHED = (  # measures of representations in the paper's figures
    *("cka", "procrustes", "second_order_cosine(k=None)", "jaccard", "rank", "rank_jaccard", "gulp"),
    *("magnitude_difference", "concentricity_difference", "rtd"),
)


@dataclass(frozen=True)
class Universality:
    """Values of measures, a row for each; `where` names data set and inputs in figures.

    Attributes
    ----------
    representations, predictions
        Values of measures, on natural and on inverted images; predictions on all test images.
    overlap
        Jaccard overlaps of k nearest neighbours, for each `k`.
    chance
        What the measures of representations give by chance; empty where it was not measured.
    """

    representations: pd.DataFrame
    predictions: pd.DataFrame
    overlap: pd.DataFrame
    chance: pd.DataFrame

    @property
    def published(self) -> list[str]:
        """The measures of the paper's figures that there are."""
        there = set(self.representations["measure"])
        return [name for name in PUBLISHED if name in there]

    @property
    def others(self) -> list[str]:
        """The other measures of representations."""
        return [name for name in self.representations["measure"].unique() if name not in PUBLISHED]

    def of(self, measures: Iterable[str]) -> pd.DataFrame:
        """Rows of some measures of representations."""
        return self.representations[self.representations["measure"].isin(measures)]

    def marks(self, measures: Iterable[str]) -> dict[str, object]:
        """Arguments of `plots.boxes` that mark what chance gives of some measures, if it was measured."""
        if self.chance.empty:
            return {}
        own = self.chance[self.chance["measure"].isin(measures)]
        own = own.assign(value=own["null_mean"])
        both = [own.assign(where=own["dataset"] + "\n" + kind) for kind in ("natural", "inverted")]
        return {"marks": pd.concat(both), "marked": "by chance"}


def compare_datasets(
    study: UniversalityStudy, subjects: Subjects, neighbors: Iterable[int] = (), permutations: int = 0
) -> Universality:
    """Compare the networks of each data set by all measures, on natural and on inverted images.

    Parameters
    ----------
    subjects
        Data sets with their networks; see `UniversalityStudy.subjects`.
    neighbors
        k of Jaccard overlaps.
    permutations
        Of rows, for what chance gives; 0: none.
    """
    answers, chosen = list(PREDICTION_MEASURES), study.chosen
    count = len(study.pairs_of(study.data))
    overlaps = {find_measure(f"jaccard(k={k})").label: k for k in neighbors if k < count}
    wanted = list(dict.fromkeys([*chosen, *overlaps, *answers]))  # in one go: networks look at images once
    batches = study.inverted_sets({data.name: models for data, models in subjects}, {})
    tables, chance, predictions = [], [], []
    for (data, models), batch in zip(subjects, batches.values(), strict=True):
        within = comparable(models)
        where = {"layers": study.layer, "pairs": batch.pairs, "within": within}
        natural = compare_models(models, data, wanted, "natural", **where)
        inverted = compare_models(models, data, wanted, "inverted", sets=study.obtain_sets(batch), **where)
        tables += [natural, inverted]
        predictions.append(compare_models(models, data, answers, within=within))
        predictions.append(inverted[inverted["measure"].isin(answers)])
        if permutations and study.seeds > 1:
            alike = [each for each in models if each.recipe.architecture == models[0].recipe.architecture]
            chance.append(compare_models(alike, data, chosen, **where, permutations=permutations))
    found = _with_where(pd.concat(tables, ignore_index=True))
    overlap = found[found["measure"].isin(overlaps)]
    return Universality(
        found[found["measure"].isin([find_measure(name).label for name in chosen])],
        _with_where(pd.concat(predictions, ignore_index=True)),
        overlap.assign(
            k=overlap["measure"].map(overlaps), where=overlap["dataset"] + ", " + overlap["inputs"]
        ),
        pd.concat(chance, ignore_index=True).dropna(subset="null_mean") if chance else pd.DataFrame(),
    )


def _with_where(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(where=table["dataset"] + "\n" + table["inputs"])


def agreement_with_references(predictions: pd.DataFrame, subjects: Subjects) -> pd.DataFrame:
    """Agreement on all test images beside what accuracies would give; see `with_references`."""
    rows = predictions[(predictions["measure"] == "agreement") & (predictions["inputs"] == "natural")]
    parts = [(rows[rows["dataset"] == data.slug], len(data.classes)) for data, _ in subjects]
    return pd.concat([with_references(own, classes) for own, classes in parts])
