"""Recipes of inverted images: through which network and layer, from which seeds to which targets, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from repsim.store import StoredRecipe
from repsim.studies.inversion.options import InversionOptions
from repsim.studies.inversion.pairs import Pairs
from repsim.support import messages
from repsim.training.model_store import TrainedModel

Start = Literal["seed", "noise"]
STARTS = ("seed", "noise")


@dataclass(frozen=True)
class InversionRecipe(StoredRecipe):
    """All that decides what an inverted set is; equal recipes make equal sets.

    Attributes
    ----------
    dataset, fingerprint, pairs
        Of `Pairs`: whose test images, and which of them (the pairs' address).
    start
        `seed`: from the pairs' seeds; `noise`: from random pixels, for STIR.
    model, weights
        The network's name in the store, and the beginning of its weights' checksum.
    layer
        Whose value represents an image.
    options
        How images are moved.
    source
        Of images that others made, a hash of them; empty: they are made here.
    """

    dataset: str
    fingerprint: str
    pairs: str
    start: Start
    model: str
    weights: str
    layer: str
    options: InversionOptions
    source: str = ""

    def __post_init__(self):
        if self.start not in STARTS:
            raise ValueError(messages.unknown("start", self.start, STARTS))

    @classmethod
    def of(
        cls,
        model: TrainedModel,
        pairs: Pairs,
        layer: str = "penultimate",
        options: InversionOptions | None = None,
        *,
        start: Start = "seed",
        source: str = "",
    ) -> InversionRecipe:
        """A recipe for a stored model and drawn pairs."""
        return cls(
            dataset=pairs.dataset,
            fingerprint=pairs.fingerprint,
            pairs=pairs.address,
            start=start,
            model=model.name,
            weights=model.weights,
            layer=layer,
            options=options or InversionOptions(),
            source=source,
        )

    @property
    def identity(self) -> dict[str, object]:
        made_by = super().identity
        if not self.source:  # sets that are made here have none
            del made_by["source"]
        return made_by
