"""Everything that an analysis needs: its notebook obtains it, a dry run looks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeVar

from repsim.attacks import Norm, parse_epsilon
from repsim.data import Dataset, load_data
from repsim.training import zoo
from repsim.training.loading import Checkpoints
from repsim.training.model_store import TrainedModel
from repsim.training.recipe import Recipe

AnyStudy = TypeVar("AnyStudy", bound="Study")


@dataclass(kw_only=True, eq=False)
class Study:
    """Data and networks of an analysis; its fields are called as the parameters of its notebook.

    Each study adds what it makes of the networks: inverted sets, stitches. Nothing is loaded, trained or made
    before it is asked for.

    Attributes
    ----------
    dataset, data_root, train_size, test_size, image_size, title
        As `load_data` takes them.
    checkpoints
        Networks that somebody brings, instead of those of recipes.
    method, norm, training
        How networks are trained: fields of `Recipe`.
    device
        Where networks run.
    dry
        Download and write nothing.
    """

    trains: ClassVar[bool] = True  # else networks have to be there

    dataset: str
    data_root: str = ""
    train_size: int = 0
    test_size: int = 0
    image_size: int = 0
    title: str = ""
    checkpoints: Checkpoints = field(default_factory=dict)
    method: str = "pgd"
    norm: Norm = "linf"
    training: Mapping[str, object] = field(default_factory=dict)
    retrain: bool = False
    device: str = "auto"
    dry: bool = False
    _loaded: dict[str, Dataset] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls: type[AnyStudy], parameters: Mapping[str, object]) -> AnyStudy:
        """Take those parameters that are called as fields: of a notebook, `globals()`."""
        names = {each.name for each in dataclasses.fields(cls) if each.init}
        return cls(**{name: value for name, value in parameters.items() if name in names})

    @property
    def datasets(self) -> list[str]:
        """The names of all data sets that are needed, the first one first."""
        return [self.dataset]

    def load(self, name: str) -> Dataset:
        """Load one of `datasets`, once.

        Raises
        ------
        ValueError, RuntimeError, OSError
            See `load_data`.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> Dataset:
        sizes = {"train_size": self.train_size, "test_size": self.test_size, "image_size": self.image_size}
        title = self.title if name == self.dataset else ""
        return load_data(name, root=self.data_root, title=title, download=not self.dry, **sizes)

    @property
    def data(self) -> Dataset:
        """The data set that the analysis is about."""
        return self.load(self.dataset)

    @cached_property
    def training_options(self) -> dict[str, object]:
        """Options that missing networks are trained with."""
        return {"method": self.method, "norm": self.norm, **Recipe.options(self.training)}

    def network_set(
        self,
        architectures: Sequence[str],
        epsilons: Iterable[str | float],
        seeds: Iterable[int],
        *,
        dataset: str = "",
        among: Sequence[str] = (),
        own: bool = False,
    ) -> zoo.NetworkSet:
        """Networks of one of the data sets; see `zoo.network_set`.

        Parameters
        ----------
        own
            Checkpoints take the place of these networks.
        """
        levels = [parse_epsilon(each) for each in epsilons]
        checkpoints = self.checkpoints if own else None
        return zoo.network_set(
            self.load(dataset or self.dataset),
            architectures,
            levels,
            seeds,
            checkpoints=checkpoints,
            among=among,
            **self.training_options,
        )

    def networks(self) -> dict[str, zoo.NetworkSet]:
        """The networks that the analysis is about: name of the data set → networks."""
        raise NotImplementedError

    def networks_beside(self, models: Sequence[TrainedModel]) -> dict[str, zoo.NetworkSet]:
        """Networks that are needed beside those of the first data set: what for → networks."""
        return {}

    def inverted_sets(
        self, models: Mapping[str, Sequence[TrainedModel]], beside: Mapping[str, Sequence[TrainedModel]]
    ) -> Mapping[str, object]:
        """Inverted sets (`SetBatch`) of the networks of `networks` and of `networks_beside`."""
        return {}

    def stitches(self, models: Sequence[TrainedModel]) -> Mapping[str, object]:
        """Stitches (`Batch`) of networks of the first data set with one another."""
        return {}

    def stitches_beside(
        self, models: Sequence[TrainedModel], beside: Mapping[str, Sequence[TrainedModel]]
    ) -> Mapping[str, object]:
        """Stitches (`Batch`) of these networks with those of `networks_beside`."""
        return {}

    def models(self) -> list[TrainedModel]:
        """Obtain the networks of the first data set."""
        return self.obtain(self.networks()[self.dataset])

    def obtain(self, networks: zoo.NetworkSet) -> list[TrainedModel]:
        """Obtain networks where this study runs: from the store, else trained; or from their files."""
        return networks.obtain(retrain=self.retrain, device=self.device)

    def describe(self, models: Sequence[TrainedModel]) -> str:
        """Count networks and images in one line."""
        data = self.data
        images = f"{len(data.train)} training and {len(data.test)} test images of shape {data.image_shape}"
        return f"{data.title}: {len(models)} networks; {images}"
