"""Everything that notebooks 04 and 05 need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repsim.data import Dataset
from repsim.measures import MEASURES, find_measure
from repsim.studies.inversion import InvertingStudy
from repsim.training.model_store import TrainedModel
from repsim.training.study import Study
from repsim.training.zoo import NetworkSet

SLOW = ("imd", "rtd")  # measures that take longest


def similarity(measure: str) -> str:
    """The label of a measure by which claims are judged.

    Raises
    ------
    ValueError
        It is a distance, or there is none of that name.
    """
    found = find_measure(measure)
    if found.orientation != "similarity":
        raise ValueError(f"claims are judged by a similarity, but {found.label} is a distance.")
    return found.label


@dataclass(kw_only=True, eq=False)
class UniversalityStudy(InvertingStudy):
    """Networks of several data sets, and images inverted through them.

    Attributes
    ----------
    others
        Data sets beside the first; none where networks are brought.
    measures
        Of representations; empty: all but those that take longest.
    judged
        By which claims are judged.
    rtd
        Measure Representation Topology Divergence, too.
    """

    others: Sequence[str] = ()
    measures: Sequence[str] = ()
    judged: str = "cka"
    rtd: bool = False

    @property
    def datasets(self) -> list[str]:
        """The first, and the others."""
        return [self.dataset, *([] if self.checkpoints else self.others)]

    @property
    def chosen(self) -> list[str]:
        """The measures of representations."""
        usual = [*(name for name in MEASURES if name not in SLOW), "second_order_cosine(k=None)"]
        rtd = ["rtd"] if self.rtd else []
        return list(dict.fromkeys([*(self.measures or usual), *rtd, similarity(self.judged)]))

    def networks(self) -> dict[str, NetworkSet]:
        """Networks of each data set, of the architectures that all have."""
        chosen = self.architectures, self.epsilons, range(self.seeds)
        return {
            name: self.network_set(*chosen, dataset=name, among=self.datasets, own=True)
            for name in self.datasets
        }

    def subjects(self) -> list[tuple[Dataset, list[TrainedModel]]]:
        """Obtain the networks of each data set."""
        return [(self.load(name), self.obtain(networks)) for name, networks in self.networks().items()]


@dataclass(kw_only=True, eq=False)
class SubgroupStudy(Study):
    """Networks of one data set, compared on groups of its images.

    Attributes
    ----------
    architectures, epsilons, seeds
        Networks, what they are trained at, and how many of each; empty: those of the committed zoo.
    measures, judged, rtd
        As of `UniversalityStudy`.
    """

    architectures: Sequence[str]
    epsilons: Sequence[str]
    seeds: int
    measures: Sequence[str] = ()
    judged: str = "cka_debiased"
    rtd: bool = False

    @property
    def chosen(self) -> list[str]:
        """The measures of representations."""
        usual = [name for name in MEASURES if name not in SLOW]
        rtd = ["rtd"] if self.rtd else []
        return list(dict.fromkeys([*(self.measures or usual), similarity(self.judged), *rtd]))

    @property
    def few(self) -> list[str]:
        """The measures that most figures show."""
        return list(dict.fromkeys([similarity(self.judged), "cka", "procrustes_similarity", "jaccard"]))

    def networks(self) -> dict[str, NetworkSet]:
        """The networks of each architecture and ε."""
        seeds = range(self.seeds)
        return {self.dataset: self.network_set(self.architectures, self.epsilons, seeds, own=True)}
