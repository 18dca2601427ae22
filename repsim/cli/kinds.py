"""Types that a parameter cell may declare beside Python's own: what each allows, told without torch.

A notebook writes `epsilon: Epsilon = "0.1"` below `from __future__ import annotations`, so that no name needs
to be imported there. `CHECKS` of `repsim.cli.checking` has what takes torch: whether there is such a network,
measure or layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import GenericAlias

from repsim.support import messages
from repsim.support.epsilons import parse_epsilon

NETWORKS = 1000  # of one kind, at most: each is a file of its own


@dataclass(frozen=True)
class Kind:
    """A type of parameters.

    Attributes
    ----------
    base
        The type of its values.
    check
        Raises a ValueError for a value that cannot be.
    optional
        Whether an empty value is one, too.
    """

    name: str
    base: object
    check: Callable[[object], None] = lambda value: None
    optional: bool = False

    def __call__(self, value: object) -> None:
        """Refuse a value that cannot be.

        Raises
        ------
        ValueError
            With what was expected.
        """
        if value or not self.optional:
            self.check(value)

    def or_empty(self) -> Kind:
        """The same, or nothing."""
        return replace(self, optional=True)


def at_least_one(item: Kind) -> Kind:
    """A list that is not empty."""
    return Kind("NonEmptyList", GenericAlias(list, (item,)), _some)


def whole(name: str, least: int, most: int | None = None) -> Kind:
    """A whole number within limits."""

    def check(value: int) -> None:
        if value < least:
            raise ValueError(f"must be at least {least}, not {value}.")
        if most is not None and value > most:
            raise ValueError(f"must be at most {most}, not {value}.")

    return Kind(name, int, check)


def one_of(name: str, noun: str, known: Sequence[str]) -> Kind:
    """One of some names."""

    def check(value: str) -> None:
        if value not in known:
            raise ValueError(messages.unknown(noun, value, known))

    return Kind(name, str, check)


def _share(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"must be a share in [0, 1], not {value}.")


def _named(value: str) -> None:
    if not value.strip():
        raise ValueError("must be a name, not an empty text.")


def _fraction(value: str) -> None:
    _named(value)
    try:
        number = float(value)
    except ValueError:
        return  # a name
    if not number > 0 or number == float("inf"):
        raise ValueError(f"must be layers, or a fraction of them in (0, 1], not {value!r}.")


def _layers(value: list[str]) -> None:
    _some(value)
    for each in value:
        _fraction(each)


def _some(value: list) -> None:
    if not value:
        raise ValueError("must not be an empty list.")


def _path(value: str) -> None:
    if not Path(value).expanduser().exists():
        raise ValueError(f"there is no {value}.")


KINDS = {
    kind.name: kind
    for kind in (
        whole("Count", 1),
        whole("CountOrZero", 0),
        whole("Seeds", 1, NETWORKS),
        whole("SeedsOrZero", 0, NETWORKS),
        Kind("Share", float, _share),
        Kind("Epsilon", str, lambda value: parse_epsilon(value) and None),
        Kind("Device", str, _named),
        Kind("DataSet", str, _named),
        Kind("Architecture", str, _named),
        Kind("Measure", str, _named),
        Kind("Similarity", str, _named),
        Kind("JudgedMeasures", list[str], _some),
        Kind("Layer", str, _fraction),
        Kind("Layers", list[str], _layers),
        Kind("LayerChoices", list[str], _layers),
        Kind("Attack", str, _named),
        Kind("AttackKind", str | dict),
        Kind("TrainingOptions", dict),
        Kind("FittingOptions", dict),
        Kind("InvertingOptions", dict),
        Kind("ProbingOptions", dict),
        Kind("Checkpoints", dict),
        Kind("File", str, _path),
        Kind("Folder", str, _path),
        one_of("Norm", "norm", ("linf", "l2")),
        one_of("Method", "method", ("pgd", "trades")),
        one_of("Estimator", "estimator", ("unbiased", "biased")),
        one_of("DirectMethod", "direct method", ("least_squares", "pseudo_inverse", "orthogonal")),
        one_of("Attacked", "attacked", ("stitched", "front", "end", "both")),
        one_of("ProbeKind", "kind", ("ridge", "logistic", "adam")),
        one_of("ExplorerAttack", "attack", ("pgd", "fgsm")),
        one_of("Inputs", "inputs", ("natural", "adversarial", "inverted")),
    )
}
# Those of which `repsim.cli.checking` knows more.
TAKE_TORCH = {
    *("Architecture", "Attack", "AttackKind", "Checkpoints", "DataSet", "Device", "InvertingOptions"),
    *(
        "JudgedMeasures",
        "Layer",
        "LayerChoices",
        "Layers",
        "Measure",
        "ProbingOptions",
        "Similarity",
        "FittingOptions",
    ),
    "TrainingOptions",
}
