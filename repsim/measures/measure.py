"""A measure: a function of two representations, with what is known of it declared beside it."""

from __future__ import annotations

import functools
import inspect
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral, Real
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from repsim.measures.representation import SMALLEST, Memory, Representation, count_copies, represent
from repsim.support.arrays import Values
from repsim.support.messages import unknown

TRANSFORMATIONS = ("orthogonal", "permutation", "scale", "translation", "linear")
IMPLIED = {"linear": {"orthogonal", "permutation", "scale"}, "orthogonal": {"permutation"}}

Orientation = Literal["similarity", "distance"]
# What leaves a value unchanged: words of TRANSFORMATIONS, or a pair of such texts for the two arguments.
Invariances = str | tuple[str, str]
Least = Callable[..., int]  # of the two widths and the options


@dataclass(frozen=True)
class Measure:
    """A similarity measure: call it with two matrices of the same inputs.

    Attributes
    ----------
    orientation
        `similarity` (larger is more alike) or `distance`.
    range
        Least and greatest value.
    invariances
        For each argument, `x` and `y`, the transformations of its units that leave the value unchanged.
    symmetric
        Whether the two arguments may be exchanged.
    metric
        Whether the triangle inequality holds.
    growth
        With the number of inputs n, the value grows as n to this power (norms over all inputs do).
    half_precision
        How far the value may be off where features are rounded to float16 or bfloat16, of values above 1 as a
        share; ∞: not to be trusted with them, where networks share fine structure, or not known to be.
    reference
        The paper that defines it.
    elsewhere
        Which of ReSi, netrep, rsatoolbox and torch-cka have it; † where theirs is faulty or another.
    options
        With their defaults, or what `using` set.
    examples
        Settings of the options that between them show all that is declared.
    """

    function: Callable[..., float | Tensor]
    orientation: Orientation
    reference: str
    symmetric: bool
    metric: bool
    growth: float
    half_precision: float
    elsewhere: str
    options: Mapping[str, object]
    examples: tuple[Mapping[str, object], ...]
    # the rest is declared for all options, or as a function of them
    declared_range: tuple[float, float] | Callable[..., tuple[float, float]] = field(repr=False)
    declared_invariances: Invariances | Callable[..., Invariances] = field(repr=False)
    declared_least: Least = field(repr=False)
    leave_one_out: Callable[..., Tensor] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The name in `MEASURES`."""
        return self.function.__name__

    @cached_property
    def written_options(self) -> str:
        """The options as JSON, which tells 1, 1.0 and True apart."""
        return json.dumps(dict(self.options), sort_keys=True)

    @property
    def label(self) -> str:
        """The name with the options that differ from the defaults, such as `jaccard(k=20)`."""
        return label_of(self)

    @property
    def family(self) -> str:
        """The module it is defined in: measures of one family share much of their work."""
        return self.function.__module__.rpartition(".")[2]

    @property
    def range(self) -> tuple[float, float]:
        declared = self.declared_range
        return declared(**self.options) if callable(declared) else declared

    @property
    def invariances(self) -> dict[str, frozenset[str]]:
        declared = self.declared_invariances
        declared = declared(**self.options) if callable(declared) else declared
        x, y = declared if isinstance(declared, tuple) else (declared, declared)
        return {"x": _closure(x), "y": _closure(y)}

    @property
    def description(self) -> str:
        """Its definition, when to use it, and its traps."""
        return inspect.cleandoc(self.function.__doc__)

    def least_inputs(self, width_x: int, width_y: int) -> int:
        """The fewest inputs at which it speaks of representations of these widths.

        With fewer it is not defined, or says the same of any two: of more units than inputs each is a linear
        map of the other, and among few inputs everything is a neighbour.
        """
        return self.declared_least(width_x, width_y, **self.options)

    def using(self, **options: object) -> Measure:
        """The same measure with other options.

        Raises
        ------
        ValueError
            It has no such option.
        """
        return replace(self, options=changed_options(self, options))

    def __call__(
        self,
        x: Values,
        y: Values,
        *,
        pool: bool = False,
        dtype: torch.dtype = torch.float64,
        **options: object,
    ) -> float:
        """The value for two representations of the same inputs.

        Parameters
        ----------
        x, y
            One row per input: (n, d), of any widths. Feature maps (n, c, h, w) and tokens (n, t, d) are
            flattened. Torch tensors on any device (all is computed on that of `x`), or NumPy arrays.
        pool
            Average feature maps over positions, and tokens over the sequence, rather than flatten them.
            Channels are taken to come first: values (n, h, w, c) are to be averaged beforehand.
        dtype
            Precision to compute in.
        options
            Of this measure; see `repsim measures --explain NAME`.

        Raises
        ------
        TypeError
            An argument is no array of real numbers.
        ValueError
            Different numbers of inputs, fewer than 4, values that are not finite, a representation that
            does not vary, or an option that the measure does not have or that is out of range.
        """
        measure = self.using(**options)
        pair = represent_pair(x, y, pool=pool, dtype=dtype)
        for caveat in measure.caveats(*pair):
            warnings.warn(caveat, stacklevel=2)
        return measure.evaluate(*pair)

    def caveats(self, x: Representation, y: Representation) -> list[str]:
        """Doubts about a value for these two, whatever the measure: said once, not at every value."""
        found = []
        if self.half_precision == math.inf and (x.half or y.half):
            found.append(
                f"{self.label} is not to be trusted here: features are of half precision, whose rounding can "
                "hide what it measures; compute them in float32."
            )
        if copies := count_copies(x, y):
            found.append(
                f"{copies} of the {x.n} inputs have the rows of others, in both representations, as where a "
                "loader pads with copies: these count twice, and are each other's nearest; leave them out."
            )
        return found

    def evaluate(self, x: Representation, y: Representation) -> float:
        """The value for two prepared representations, whose shared parts may already be known."""
        value = float(self.function(x, y, **self.options))
        if not math.isfinite(value):
            raise ValueError(
                f"{self.label} is undefined here: it comes to 0 / 0, or beyond {x.values.dtype}. "
                f"The {x.n} inputs are too few, too much alike, or too large or small in value."
            )
        low, high = self.range
        rounding = math.sqrt(torch.finfo(x.values.dtype).eps)  # what arithmetic may leave outside the range
        if low - rounding < value < high + rounding:
            return float(min(max(value, low), high))
        return value


def represent_pair(
    x: Values, y: Values, *, pool: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[Representation, Representation]:
    """Both arguments, checked one by one and against each other."""
    memory = Memory()
    first = represent(x, "x", pool=pool, dtype=dtype, device=None, memory=memory)
    second = represent(y, "y", pool=pool, dtype=dtype, device=first.values.device, memory=memory)
    check_rows(first, second, "x", "y")
    return first, second


def check_rows(x: Representation, y: Representation, name_x: str, name_y: str) -> None:
    """Both have one row for each of the same inputs."""
    if x.n != y.n:
        raise ValueError(
            f"{name_x} and {name_y} must have one row for each of the same inputs; got {x.n} and {y.n} rows."
        )


def measure(
    *,
    orientation: Orientation,
    range: tuple[float, float] | Callable[..., tuple[float, float]],
    invariances: Invariances | Callable[..., Invariances],
    reference: str,
    symmetric: bool = True,
    metric: bool = False,
    growth: float = 0,
    half_precision: float = math.inf,
    elsewhere: str = "",
    examples: tuple[Mapping[str, object], ...] = ({},),
    least: Least = lambda width_x, width_y, **_: SMALLEST,
    leave_one_out: Callable[..., Tensor] | None = None,
) -> Callable[[Callable], Measure]:
    """Make a measure of a function `(x, y, *, options) -> value` of two representations; see `Measure`.

    `range` and `invariances` may be functions of the options; `least` is one of the two widths and the
    options (see `Measure.least_inputs`). `leave_one_out` gives the values without each input in turn, where
    there is a formula for all of them at once.
    """

    def declare(function: Callable) -> Measure:
        return Measure(
            function=function,
            orientation=orientation,
            reference=reference,
            symmetric=symmetric,
            metric=metric,
            growth=growth,
            half_precision=half_precision,
            elsewhere=elsewhere,
            options=dict(default_options(function)),
            examples=examples,
            declared_range=range,
            declared_invariances=invariances,
            declared_least=least,
            leave_one_out=leave_one_out,
        )

    return declare


@functools.cache
def default_options(function: Callable) -> Mapping[str, object]:
    """The options of a measure, which are given by keyword alone, with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    options = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return MappingProxyType(options)  # one for all who ask


def label_of(measure: object) -> str:
    """A measure's name with the options that differ from its function's defaults."""
    defaults = default_options(measure.function)
    changed = [f"{key}={value!r}" for key, value in measure.options.items() if value != defaults[key]]
    return f"{measure.name}({', '.join(changed)})" if changed else measure.name


def changed_options(measure: object, changes: Mapping[str, object]) -> dict[str, object]:
    """The options of a measure with some of them changed, or an error that names what it does not have."""
    plain = {}
    for option, value in changes.items():
        if option not in measure.options:
            raise ValueError(unknown(f"option of {measure.name}", option, measure.options))
        plain[option] = value.item() if isinstance(value, np.generic) else value
        if not isinstance(plain[option], int | float | str | None):
            raise ValueError(f"{option} must be a number, a word or a flag, not {value!r}.")
    return {**measure.options, **plain}


def _closure(text: str) -> frozenset[str]:
    words = set(text.split())
    for word in TRANSFORMATIONS:
        if word in words:
            words |= IMPLIED.get(word, set())
    return frozenset(words)


def count_option(name: str, value: object, least: int, most: float = math.inf, of: str = "") -> int:
    """A whole number within its limits, or an error that says them."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        upper = f" and at most {most}{of}" if most < math.inf else ""
        raise ValueError(f"{name} must be a whole number of at least {least}{upper}, not {value!r}.")
    return int(value)


def number_option(name: str, value: object, condition: Callable[[float], bool], expected: str) -> float:
    """A number that fulfils a condition, or an error that says it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not condition(value):
        raise ValueError(f"{name} must be {expected}, not {value!r}.")
    return float(value)


def one_of(name: str, value: object, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """A word of a list, or an error that names the nearest."""
    if value not in known:
        raise ValueError(unknown(name, value, known))
    return value
