"""Everything that notebook 03 needs, and what notebook 04 needs of inverted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from repsim.data import Dataset, load_data
from repsim.studies.inversion.experiments import SetBatch
from repsim.studies.inversion.inverting import BATCH
from repsim.studies.inversion.options import InversionOptions
from repsim.studies.inversion.pairs import Pairs
from repsim.studies.inversion.store import InvertedSet
from repsim.training import zoo
from repsim.training.model_store import TrainedModel
from repsim.training.study import Study


@dataclass(kw_only=True, eq=False)
class InvertingStudy(Study):
    """Networks, pairs of seed and target images, and images inverted through the networks.

    Attributes
    ----------
    architectures, epsilons, seeds
        Networks, what they are trained at, and how many of each; empty: those of the committed zoo.
    layer
        Whose value is the representation.
    pairs
        How many pairs are drawn.
    pairs_files
        Instead: files that hold pairs of the first data set; see `Pairs.read_files`.
    inverted_folder
        Images of the first data set that others have inverted.
    iterations, inversion
        How images are inverted: fields of `InversionOptions`.
    recompute, batch_size, compiled, jobs
        How that is run; see `obtain_sets`.
    """

    architectures: Sequence[str]
    epsilons: Sequence[str]
    seeds: int
    layer: str = "penultimate"
    pairs: int = 250
    pairs_files: Sequence[str] = ()
    inverted_folder: str = ""
    iterations: int = 300
    inversion: Mapping[str, object] = field(default_factory=dict)
    recompute: bool = False
    batch_size: int = BATCH
    compiled: bool = False
    jobs: int = 1
    _pairs: dict[str, Pairs] = field(default_factory=dict, init=False, repr=False)

    def networks(self) -> dict[str, zoo.NetworkSet]:
        """The networks of each architecture and ε."""
        seeds = range(self.seeds)
        return {self.dataset: self.network_set(self.architectures, self.epsilons, seeds, own=True)}

    @cached_property
    def options(self) -> InversionOptions:
        """Options of inversion."""
        return InversionOptions(**{"iterations": self.iterations, **InversionOptions.read(self.inversion)})

    def pairs_of(self, dataset: Dataset) -> Pairs:
        """Pairs of a data set: drawn, or of the first one read where there are files.

        Raises
        ------
        ValueError
            See `Pairs.draw` and `Pairs.read_files`.
        """
        if dataset.slug not in self._pairs:
            read = self.pairs_files and dataset is self.data
            self._pairs[dataset.slug] = (
                Pairs.read_files(self.pairs_files, dataset)
                if read
                else Pairs.draw(dataset, self.pairs, keep=not self.dry)
            )
        return self._pairs[dataset.slug]

    def inverted_sets(
        self, models: Mapping[str, Sequence[TrainedModel]], beside: Mapping[str, Sequence[TrainedModel]]
    ) -> dict[str, SetBatch]:
        """All inverted sets, by the names of the data sets.

        Parameters
        ----------
        models, beside
            The networks of `networks` and of `networks_beside`.
        """
        return {name: self._batch(self.load(name), of_data) for name, of_data in models.items()}

    def _batch(self, dataset: Dataset, models: Sequence[TrainedModel]) -> SetBatch:
        published = self.inverted_folder if dataset is self.data else ""
        pairs = self.pairs_of(dataset)
        return SetBatch(models, dataset, pairs, self.options, self.layer, published=published)

    def obtain_sets(self, batch: SetBatch) -> dict[str, InvertedSet]:
        """Obtain inverted sets as this study runs: from the store, or made."""
        running = {"batch_size": self.batch_size, "compiled": self.compiled}
        return batch.obtain(**running, recompute=self.recompute, jobs=self.jobs)


@dataclass(kw_only=True, eq=False)
class InversionStudy(InvertingStudy):
    """Images inverted through networks of one data set, from seeds and from noise; and the ground truth.

    Attributes
    ----------
    stir_seeds
        Of the seeds, how many networks are inverted through from noise, too.
    ground_truth
        Whether the networks of which it is known what they can have used are looked at, too.
    """

    stir_seeds: int = 0
    ground_truth: bool = False

    @property
    def datasets(self) -> list[str]:
        """The first, and those of the ground truth."""
        return [self.dataset, *(zoo.TWO_FEATURES.values() if self.ground_truth else ())]

    def _load(self, name: str) -> Dataset:
        return load_data(name) if name in zoo.TWO_FEATURES.values() else super()._load(name)

    def networks_beside(self, models: Sequence[TrainedModel]) -> dict[str, zoo.NetworkSet]:
        """Networks of the ground truth, by what tells the classes: `outline`, `texture`, `both`."""
        if not self.ground_truth:
            return {}
        loaded = {feature: self.load(name) for feature, name in zoo.TWO_FEATURES.items()}
        return {
            feature: zoo.NetworkSet(data, zoo.two_features_recipes(data)["main"])
            for feature, data in loaded.items()
        }

    def inverted_sets(
        self, models: Mapping[str, Sequence[TrainedModel]], beside: Mapping[str, Sequence[TrainedModel]]
    ) -> dict[str, SetBatch]:
        """`seed`: of all networks; `noise`: of some of them; `ground_truth`: of all networks beside."""
        (of_data,) = models.values()
        found = {"seed": self._batch(self.data, of_data)}
        some = [model for model in of_data if model.recipe.seed < self.stir_seeds]
        if some:
            pairs = self.pairs_of(self.data)
            found["noise"] = SetBatch(some, self.data, pairs, self.options, self.layer, start="noise")
        if beside:
            features = self.load("two_features")
            drawn = Pairs.draw(features, min(self.pairs, len(features.test)), keep=not self.dry)
            networks = [model for kind in beside.values() for model in kind]
            found["ground_truth"] = SetBatch(networks, features, drawn, self.options)
        return found
