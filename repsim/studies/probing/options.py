"""All that decides how a linear probe is fitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from repsim.support.options import Count, Positive, options, read_options

Kind = Literal["ridge", "logistic", "adam"]
KINDS = ("ridge", "logistic", "adam")
LOGISTIC_PENALTY = 1e-3
# What a kind of probe has no use for has its default: equal probes, equal addresses.
UNUSED = {
    "ridge": ("epochs", "learning_rate", "batch_size", "seed"),
    "logistic": ("epochs", "learning_rate", "batch_size", "seed"),
    "adam": ("penalty",),
}


@options("probe option")
class ProbeOptions:
    """Options of fitting a linear probe.

    Attributes
    ----------
    kind
        `ridge`: least squares on the classes as 0 and 1, in closed form. `logistic`: multinomial logistic
        regression, to its minimum. `adam`: so many epochs of cross-entropy from random weights, the learning
        rate falling by a cosine to 1e-6 (Klabunde et al., 2025).
    penalty
        Weight of ½‖W‖² beside the mean loss of an input (of `ridge`, half of the squared error), in units of
        the mean variance of a feature: scaling the features makes no difference. None: that of the least
        squared error with each input left out once (`ridge`), or 1e-3 (`logistic`).
    pool
        Average feature maps over positions, and tokens over the sequence, as published; else flatten them.
    epochs, learning_rate, batch_size
        Of `adam`, as published.
    seed
        Of the initial weights and the order of `adam`. The others have one minimum.
    """

    kind: Kind = "ridge"
    penalty: Positive | None = None
    pool: bool = True
    epochs: Count = 10
    learning_rate: Positive = 5e-3
    batch_size: Count = 1024
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        fixed = {name: defaults[name] for name in UNUSED[self.kind]}
        if self.kind == "logistic" and self.penalty is None:
            fixed["penalty"] = LOGISTIC_PENALTY
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, given: Mapping[str, object]) -> dict[str, object]:
        """Check some of the options, such as `{"penalty": 0.01}`; not what tells probes of one set apart."""
        return read_options(cls, given, but=("kind", "seed"))

    @property
    def label(self) -> str:
        """The kind with what differs from its defaults, such as `adam(seed=1)`."""
        usual = type(self)(self.kind)
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(usual, field.name)
        ]
        return f"{self.kind}({', '.join(changed)})" if changed else self.kind
