"""Everything that notebook 00 needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repsim.training.study import Study
from repsim.training.zoo import NetworkSet


@dataclass(kw_only=True, eq=False)
class ModelStudy(Study):
    """Networks of one architecture, trained at several ε.

    Attributes
    ----------
    model
        Their architecture.
    epsilons
        What they are trained at.
    seeds
        How many of each.
    """

    model: str
    epsilons: Sequence[str]
    seeds: int

    def networks(self) -> dict[str, NetworkSet]:
        """The networks of all ε."""
        return {self.dataset: self.network_set([self.model], self.epsilons, range(self.seeds), own=True)}
