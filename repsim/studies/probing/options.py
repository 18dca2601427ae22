"""All that decides how a linear probe is fitted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from repsim.support import messages
from repsim.support.options import check_known, read_options

Kind = Literal["ridge", "logistic", "adam"]
KINDS = ("ridge", "logistic", "adam")
TYPES = {"int": int, "float": (int, float), "bool": bool, "float | None": (int, float, type(None))}
LOGISTIC_PENALTY = 1e-3
# What a kind of probe has no use for has its default: equal probes, equal addresses.
UNUSED = {
    "ridge": ("epochs", "learning_rate", "batch_size", "seed"),
    "logistic": ("epochs", "learning_rate", "batch_size", "seed"),
    "adam": ("penalty",),
}


@dataclass(frozen=True)
class ProbeOptions:
    """How a linear probe is fitted.

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
    penalty: float | None = None
    pool: bool = True
    epochs: int = 10
    learning_rate: float = 5e-3
    batch_size: int = 1024
    seed: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(messages.unknown("kind of probe", self.kind, KINDS))
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), TYPES.get(field.type)
            if kind and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
                raise ValueError(f"{field.name} takes {field.type}, not {value!r}.")
        if self.penalty is not None and not 0 < self.penalty < math.inf:
            raise ValueError(f"penalty must be a finite number above 0, not {self.penalty}.")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a finite number above 0, not {self.learning_rate}.")
        if self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, not {self.seed}.")
        defaults = type(self).__dataclass_fields__
        fixed: dict[str, object] = {"learning_rate": float(self.learning_rate)}  # 1 is 1.0
        if self.penalty is not None:
            fixed["penalty"] = float(self.penalty)
        fixed |= {name: defaults[name].default for name in UNUSED[self.kind]}
        if self.kind == "logistic" and self.penalty is None:
            fixed["penalty"] = LOGISTIC_PENALTY
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, **options) -> ProbeOptions:
        """Options by name, an unknown one refused with the nearest known."""
        check_known(cls, options, "probe option")
        return cls(**options)

    @classmethod
    def read(cls, texts: Iterable[str]) -> dict[str, object]:
        """Options from texts such as `penalty=0.01`."""
        readers = {"float | None": float}
        return read_options(cls, texts, "probe option", example="penalty=0.01", readers=readers)

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
