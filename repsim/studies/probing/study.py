"""Everything that notebook 06 needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from repsim.attacks import Attack, parse_epsilon
from repsim.studies.probing.options import ProbeOptions
from repsim.training.model_store import TrainedModel
from repsim.training.study import Study
from repsim.training.zoo import NetworkSet


@dataclass(kw_only=True, eq=False)
class ProbingStudy(Study):
    """Networks of one data set, and the probes that are fitted to them.

    Attributes
    ----------
    architectures, epsilons, seeds
        Networks, what they are trained at, and how many of each; empty: those of the committed zoo.
    kinds
        Of probes.
    probes
        Other fields of `ProbeOptions`.
    probe_seeds
        Probes by Adam of each network; the others have one minimum.
    epsilon, attack_steps
        Of the attack; empty: the greatest ε that networks are trained at.
    """

    architectures: Sequence[str]
    epsilons: Sequence[str]
    seeds: int
    kinds: Sequence[str]
    probes: Mapping[str, object] = field(default_factory=dict)
    probe_seeds: int = 1
    epsilon: str = ""
    attack_steps: int = 10

    def networks(self) -> dict[str, NetworkSet]:
        """The networks of each architecture and ε."""
        seeds = range(self.seeds)
        return {self.dataset: self.network_set(self.architectures, self.epsilons, seeds, own=True)}

    @property
    def probe_options(self) -> list[ProbeOptions]:
        """Options of all probes, kind by kind.

        Raises
        ------
        ValueError
            `probes` sets what `kinds` and `probe_seeds` set.
        """
        chosen = ProbeOptions.read(self.probes)
        if named := {"kind", "seed"} & set(chosen):
            raise ValueError(
                f"probes names {' and '.join(sorted(named))}: set kinds and probe_seeds instead."
            )
        return [
            ProbeOptions(**{"kind": kind, **chosen, "seed": seed})
            for kind in self.kinds
            for seed in range(self.probe_seeds if kind == "adam" else 1)
        ]

    def attack(self, models: Sequence[TrainedModel]) -> Attack:
        """The attack on the networks."""
        greatest = max(model.recipe.epsilon for model in models)
        epsilon = parse_epsilon(self.epsilon) if self.epsilon else greatest
        return Attack(epsilon, self.norm, self.attack_steps)
