"""Everything that notebook 02 needs: donors, and all stitches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from repsim.activations import Layers
from repsim.attacks import Attack, parse_epsilon
from repsim.data import Dataset
from repsim.studies.stitching import experiments
from repsim.studies.stitching.evaluation import Evaluation
from repsim.studies.stitching.options import StitchOptions
from repsim.studies.stitching.recipe import StitchRecipe
from repsim.training.model_store import TrainedModel
from repsim.training.study import Study
from repsim.training.zoo import NetworkSet

Pair = tuple[TrainedModel, TrainedModel]


@dataclass(frozen=True, eq=False)
class Batch:
    """Stitches that are measured alike: on what, and as which ranks truncated copies of them."""

    recipes: Sequence[StitchRecipe]
    evaluation: Evaluation
    truncations: Sequence[int] = ()


@dataclass(kw_only=True, eq=False)
class StitchingStudy(Study):
    """Standard and robust networks, stitched in every way that the notebook shows.

    Attributes
    ----------
    model, seeds
        Architecture of the donors, and how many there are of each kind.
    epsilon
        What robust donors are trained at, and all are attacked at.
    sweep_seeds
        Pairs of donors in all but `same_layer`.
    layers
        Where to stitch.
    alphas, direct
        How maps are found: shares of attacked images in training, and direct matches.
    cross_model, cross_layers
        Another architecture, and which layers of it are stitched with one another; empty: none.
    cross_dataset, cross_epsilon
        Another task, and what its robust networks are trained at; empty: none.
    attacked
        Whose adversarial images maps are trained on.
    ranks
        Of low-rank maps.
    fitting
        Fields of `StitchOptions`.
    pgd_steps, autoattack
        Of the attacks under which stitches are measured.
    recompute, jobs
        Make again what is stored; how many stitches are made at once.
    """

    model: str
    epsilon: str
    seeds: int
    sweep_seeds: int
    layers: Layers
    alphas: Sequence[float]
    direct: Sequence[str]
    cross_model: str = ""
    cross_layers: Layers = "blocks"
    cross_dataset: str = ""
    cross_epsilon: str = "0"
    attacked: Sequence[str] = ()
    ranks: Sequence[int] = ()
    fitting: Mapping[str, object] = field(default_factory=dict)
    pgd_steps: int = 20
    autoattack: bool = False
    recompute: bool = False
    jobs: int = 1
    _evaluations: dict[tuple, Evaluation] = field(default_factory=dict, init=False, repr=False)

    @property
    def datasets(self) -> list[str]:
        """The donors' own, and the other task."""
        return [self.dataset, *([self.cross_dataset] if self.cross_dataset else [])]

    # -- networks -------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, NetworkSet]:
        """Donors."""
        return {self.dataset: self.network_set([self.model], [0, self.epsilon], range(self.seeds), own=True)}

    def donors(self, models: Sequence[TrainedModel]) -> tuple[list[TrainedModel], list[TrainedModel]]:
        """Standard and robust donors; see `donors_among`."""
        return experiments.donors_among(models, parse_epsilon(self.epsilon))

    def level(self, models: Sequence[TrainedModel]) -> float:
        """The ε of robust donors, and of attacks."""
        return self.donors(models)[1][0].recipe.epsilon

    def networks_beside(self, models: Sequence[TrainedModel]) -> dict[str, NetworkSet]:
        """Networks of another architecture and of another task; none beside checkpoints."""
        found = {}
        if self.cross_model and not self.checkpoints:
            levels = [0, self.level(models)]
            found["cross_model"] = self.network_set([self.cross_model], levels, range(1))
        if self.cross_dataset and not self.checkpoints:
            levels, few = [0, self.cross_epsilon], range(min(self.sweep_seeds, self.seeds))
            there = {"dataset": self.cross_dataset}
            found["cross_task"] = self.network_set([self.model], levels, few, **there)
        return found

    # -- stitches -------------------------------------------------------------------------------------------

    def evaluation(self, dataset: Dataset, epsilon: float, *, autoattack: bool = False) -> Evaluation:
        """Circumstances of measuring stitches: one object for equal ones, which keeps what donors do."""
        key = (dataset.slug, epsilon, autoattack)
        if key not in self._evaluations:
            self._evaluations[key] = Evaluation(
                dataset,
                Attack(epsilon, self.norm, self.pgd_steps),
                with_autoattack=autoattack,
                device="cpu" if self.dry else self.device,  # looking for what there is takes no other
            )
        return self._evaluations[key]

    def settings(self, dataset: Dataset) -> dict[str, object]:
        """Fields of `StitchOptions` for maps that are fitted on a data set."""
        return experiments.settings_for(dataset, **StitchOptions.read(self.fitting))

    @cached_property
    def plain(self) -> StitchOptions:
        """Task loss on clean images."""
        return experiments.plain_method(self.settings(self.data))

    def attacked_methods(self, models: Sequence[TrainedModel]) -> dict[str, StitchOptions]:
        """Task loss on attacked images only: whose adversarial images → options."""
        attack = {"method": "pgd", "norm": self.norm, "epsilon": self.level(models)}
        settings = self.settings(self.data)
        return {
            whose: experiments.attacked_method({**settings, "attacked": whose}, 1.0, **attack)
            for whose in self.attacked
        }

    def methods(self, models: Sequence[TrainedModel]) -> list[StitchOptions]:
        """All that `same_layer` compares: task loss with each share of attacked images, direct matches."""
        attack = {"method": self.method, "norm": self.norm, "epsilon": self.level(models)}
        return experiments.fitting_methods(self.settings(self.data), self.alphas, self.direct, **attack)

    def judged(self, models: Sequence[TrainedModel]) -> dict[str, StitchOptions]:
        """Options of the maps by which claims are judged: arguments of `stitching_claims`."""
        attack = {"method": self.method, "norm": self.norm, "epsilon": self.level(models)}
        settings = self.settings(self.data)
        return {
            "plain": self.plain,
            "attacked": experiments.attacked_method(settings, 1.0, **attack),
            "matched": experiments.direct_method(settings, "pseudo_inverse"),
        }

    def mixed_pairs(self, models: Sequence[TrainedModel]) -> list[Pair]:
        """The first few pairs of a standard and a robust donor, in both directions."""
        standard, robust = self.donors(models)
        pairs = [*zip(standard, robust, strict=True), *zip(robust, standard, strict=True)]
        return [pair for pair in pairs if pair[0].recipe.seed < min(self.sweep_seeds, len(robust))]

    def stitches(self, models: Sequence[TrainedModel]) -> dict[str, Batch]:
        """All stitches of donors with one another, by the section of the notebook that shows them.

        Returns
        -------
        dict
            `same_layer`: all pairs and methods. `attacked`: mixed pairs, by whose adversarial images maps are
            trained on. `truncated`, `low_rank`: maps that are truncated to each rank, or trained so.
            `batchnorm`: from random maps, with donors' statistics frozen or not, at two learning rates.
        """
        data, plain, few = self.data, self.plain, self.mixed_pairs(models)
        evaluation = self.evaluation(data, self.level(models), autoattack=self.autoattack)
        first, *_ = models[0].graph.select(self.layers)
        random = [
            plain.but(initial="random", update_batchnorm=update, learning_rate=rate)
            for update in (False, True)
            for rate in (0.001, plain.learning_rate)
        ]

        def batch(pairs, methods, layers=self.layers, ranks=()):
            return Batch(experiments.same_layer(pairs, layers, data, methods), evaluation, ranks)

        return {
            "same_layer": batch(experiments.donor_pairs(*self.donors(models)), self.methods(models)),
            "attacked": batch(few, self.attacked_methods(models).values()),
            "truncated": batch(few, [plain], ranks=self.ranks),
            "low_rank": batch(few, [plain.but(rank=rank) for rank in self.ranks]),
            "batchnorm": batch(few, random, [first]),
        }

    def stitches_beside(
        self, models: Sequence[TrainedModel], beside: Mapping[str, Sequence[TrainedModel]]
    ) -> dict[str, Batch]:
        """Stitches with the networks of `networks_beside`.

        Returns
        -------
        dict
            `cross_layer`: every layer with every layer of another architecture. `cross_task`: donors of two
            tasks, maps fitted on the data of the one; `cross_task_other`: of the other.
        """
        found = {}
        if "cross_model" in beside:
            one, other = beside["cross_model"]
            evaluation = self.evaluation(self.data, self.level(models), autoattack=self.autoattack)
            recipes = [
                recipe
                for pair in ((one, other), (other, one))
                for recipe in experiments.cross_layer(*pair, self.cross_layers, self.data, self.plain)
            ]
            found["cross_layer"] = Batch(recipes, evaluation)
        if "cross_task" in beside:
            there = self.donors_of_task(beside["cross_task"])
            here = [kind[: len(there[0])] for kind in self.donors(models)]
            both = [pair for kinds in zip(here, there, strict=True) for pair in zip(*kinds, strict=True)]
            pairs = [*both, *((end, front) for front, end in both)]
            other = self.load(self.cross_dataset)
            levels = {"cross_task": self.level(models), "cross_task_other": parse_epsilon(self.cross_epsilon)}
            for (name, level), data in zip(levels.items(), (self.data, other), strict=True):
                plain = experiments.plain_method(self.settings(data))
                recipes = experiments.same_layer(pairs, self.layers, data, [plain], cross_task=True)
                found[name] = Batch(recipes, self.evaluation(data, level))
        return found

    def donors_of_task(self, models: Sequence[TrainedModel]) -> tuple[list[TrainedModel], list[TrainedModel]]:
        """Standard and robust donors of the other task."""
        return experiments.donors_among(models, parse_epsilon(self.cross_epsilon))

    def run(self, batch: Batch) -> pd.DataFrame:
        """Obtain the stitches of a batch and measure them; see `experiments.run`."""
        return experiments.run(
            batch.recipes,
            batch.evaluation,
            truncations=batch.truncations,
            recompute=self.recompute,
            jobs=self.jobs,
        )
