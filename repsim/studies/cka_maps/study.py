"""Everything that notebook 01 needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repsim.activations import Layers
from repsim.attacks import Attack, epsilon_text
from repsim.training import zoo
from repsim.training.model_store import TrainedModel
from repsim.training.study import Study


@dataclass(kw_only=True, eq=False)
class CkaMapStudy(Study):
    """Networks of one architecture, trained at several ε, and those of sweeps over width and depth.

    Attributes
    ----------
    model, epsilons, seeds
        Architecture, what it is trained at, and how many of each.
    epsilon
        Of the robust networks of sweeps, and of attacks.
    sweep_seeds
        How many networks of each kind there are in sweeps.
    widths, depths
        Architectures of the sweeps; empty: those of the committed zoo.
    layers, estimator, batch_size, passes, pool
        How maps are made; see `layer_cka`.
    pgd_steps
        Of the attack.
    """

    model: str
    epsilons: Sequence[str]
    epsilon: str
    seeds: int
    sweep_seeds: int
    widths: Sequence[str] = ()
    depths: Sequence[str] = ()
    layers: Layers = "all"
    estimator: str = "unbiased"
    batch_size: int = 128
    passes: int = 1
    pool: bool = False
    pgd_steps: int = 10

    @property
    def map_options(self) -> dict[str, object]:
        """Arguments of `layer_cka` and of what is made of it."""
        return {
            "layers": self.layers,
            "estimator": self.estimator,
            "batch_size": self.batch_size or None,
            "passes": self.passes,
            "pool": self.pool,
        }

    def networks(self) -> dict[str, zoo.NetworkSet]:
        """The networks of all ε."""
        return {self.dataset: self.network_set([self.model], self.epsilons, range(self.seeds), own=True)}

    def level(self, models: Sequence[TrainedModel]) -> float:
        """The ε of the robust networks that are looked at, and of attacks; see `zoo.robust_epsilon`."""
        return zoo.robust_epsilon(models, self.epsilon)

    def kinds(self, models: Sequence[TrainedModel]) -> tuple[list[TrainedModel], list[TrainedModel]]:
        """The standard networks, and the robust ones that are looked at."""
        level = self.level(models)
        standard, robust = ([m for m in models if m.recipe.epsilon == kind] for kind in (0.0, level))
        return standard, robust

    def pairs(self, models: Sequence[TrainedModel]) -> dict[str, tuple[TrainedModel, TrainedModel]]:
        """The first network of each kind with itself, and the two with one another, by their titles."""
        titles = ("standard", f"robust (ε = {epsilon_text(self.level(models))})")
        firsts = {title: kind[0] for title, kind in zip(titles, self.kinds(models), strict=True) if kind}
        found = {title: (model, model) for title, model in firsts.items()}
        if len(firsts) > 1:
            standard, robust = firsts.values()
            found["standard (down) with robust (across)"] = (standard, robust)
        return found

    def attack(self, models: Sequence[TrainedModel]) -> Attack:
        """The attack whose images are compared."""
        return Attack(self.level(models), self.norm, self.pgd_steps)

    def networks_beside(self, models: Sequence[TrainedModel]) -> dict[str, zoo.NetworkSet]:
        """Networks of the sweeps, `width` and `depth`, standard and robust; a sweep of one is none."""
        found = {}
        for sweep, given in (("width", self.widths), ("depth", self.depths)):
            family = given or ([] if self.checkpoints else zoo.family(self.data, self.model, sweep))
            if len(family) > 1:
                found[sweep] = self.network_set(family, [0.0, self.level(models)], range(self.sweep_seeds))
        return found
