"""A representation as the measures see it: a checked matrix, and what has been derived from it so far.

Everything that measures share (centring, Grams, decompositions, distances, neighbours) is computed once per
representation, or once per pair, and kept in a bounded memory.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from repsim.measures.products import product_in_order
from repsim.support.arrays import Values, tensor_of

SMALLEST = 4  # inputs: the unbiased HSIC divides by n (n − 3)
HALF = (torch.bfloat16, torch.float16)
FLOATS = (*HALF, torch.float32)
# Beside one rounding of the values as they came, times the greatest lengths of a row and of a unit: the
# activations of 15 networks in float32 were at most 3.8 of these from the same in float64 (spectral norm).
NOISE = 8
FEW_ROWS = 16
ROUNDINGS = 16  # what varies by less than this many roundings of its mean is constant
ROWS = 1024  # marked at once
MEMORY = 4 * 2**30  # bytes of results kept at a time
# Results are kept under numbers: a memory that held representations, which hold it, would outlive its use.
NUMBERS = itertools.count()

Result = TypeVar("Result")


class Memory:
    """Results by what they were computed from; the least recently used are given up beyond `limit` bytes."""

    def __init__(self, limit: int = MEMORY):
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[tuple, Any] = OrderedDict()

    def recall(self, key: tuple, compute: Callable[[], Result]) -> Result:
        """The value that was kept under `key`, or else is computed now."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        result = self._kept[key] = compute()
        self.size += _bytes(result)
        while self.size > self.limit and len(self._kept) > 1:
            self.size -= _bytes(self._kept.popitem(last=False)[1])
        return result


class Representation:
    """A matrix of n inputs by d units, checked and in the precision to compute in.

    Parameters
    ----------
    values
        The matrix, as `represent` makes it.
    memory
        Where results are kept: one for all representations that are compared with one another.
    name
        What messages call it.
    precision
        The relative rounding of the values as they came (`torch.finfo(…).eps` of float32, say), which may be
        coarser than that of the arithmetic.
    origin, order
        If these are the rows of another representation in another order: that one, and the order.
    """

    def __init__(
        self,
        values: Float[Tensor, "n d"],
        memory: Memory,
        name: str = "x",
        precision: float | None = None,
        origin: Representation | None = None,
        order: Int[Tensor, " n"] | None = None,
    ):
        self.number = next(NUMBERS)
        self.memory = memory
        self.name = name
        self.precision = torch.finfo(values.dtype).eps if precision is None else precision
        self.origin = origin
        self.order = order
        self.n, self.width = values.shape
        self._values = values

    @property
    def values(self) -> Float[Tensor, "n d"]:
        if self.order is None:
            return self._values
        return self._values[self.order]  # made where they are asked for: most measures do not

    def permuted(self, order: Int[Tensor, " n"]) -> Representation:
        """The rows in another order; what is known of them is reordered rather than computed again."""
        memory = Memory(self.memory.limit)
        return Representation(self.values, memory, self.name, self.precision, self, order)

    def subset(self, rows: Int[Tensor, " m"], memory: Memory) -> Representation:
        """Some of the inputs, of which nothing is known yet."""
        return Representation(self.values[rows], memory, self.name, self.precision)

    @property
    def half(self) -> bool:
        """Whether the values are of half precision, float16 or bfloat16, or were once."""
        return self.precision >= torch.finfo(torch.float16).eps


def represent(
    values: Values, name: str, *, pool: bool, dtype: torch.dtype, device: torch.device | None, memory: Memory
) -> Representation:
    """Check what a caller gave, and make one row per input of it.

    Parameters
    ----------
    values
        (n, d), or feature maps (n, c, h, w), or tokens (n, t, d).
    name
        What messages call it.
    pool
        Average over positions or tokens, rather than flatten them.
    device
        Where to compute; None: where the values are.

    Raises
    ------
    TypeError
        No array of real numbers.
    ValueError
        No matrix, fewer than 4 rows, values that are not finite, or rows that are all the same; or a
        precision in which no measure is exact enough.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, not {dtype}.")
    if not isinstance(pool, bool):
        raise ValueError(f"pool must be True or False, not {pool!r}.")
    given = tensor_of(values, name)
    matrix = given.to(device=device, dtype=dtype)
    if matrix.dim() not in (2, 3, 4):
        raise ValueError(
            f"{name} must have one row per input, (n, d), or be feature maps (n, c, h, w) or tokens "
            f"(n, t, d); got shape {tuple(matrix.shape)}."
        )
    if pool and matrix.dim() > 2:
        matrix = matrix.mean((2, 3)) if matrix.dim() == 4 else matrix.mean(1)
    matrix = matrix.flatten(1)
    if len(matrix) < SMALLEST:
        raise ValueError(f"{name} has {len(matrix)} rows; a measure needs at least {SMALLEST} inputs.")
    if not matrix.shape[1]:
        raise ValueError(f"{name} has no units: its shape is {tuple(np.shape(values))}.")
    if not matrix.isfinite().all():
        bad = int((~matrix.isfinite()).any(1).sum())
        raise ValueError(f"{name} has values that are not finite (NaN or infinite) in {bad} of its rows.")
    precision = precision_of(given.to(matrix.device), dtype)
    greatest = matrix.abs().max()
    if not given.is_floating_point() and greatest * torch.finfo(dtype).eps > 2:
        raise ValueError(
            f"{name} has whole numbers up to {greatest:.0f}, which {dtype} does not hold exactly: compute in "
            "torch.float64, or rescale them."
        )
    least, most = (root**0.5 for root in (torch.finfo(dtype).tiny, torch.finfo(dtype).max))
    if greatest and not least < greatest / len(matrix) < greatest * matrix.shape[1] < most:
        raise ValueError(
            f"{name} has values up to {greatest:.1e}, whose squares do not fit into {dtype}: rescale it."
        )
    mean = matrix.mean(0)
    level = mean.square().sum().sqrt()
    spread = (matrix - mean).square().sum(1).mean().sqrt()
    if spread <= level * ROUNDINGS * precision:
        raise ValueError(f"{name} does not vary: all its rows are the same, and no measure is defined on it.")
    return Representation(matrix, memory, name, precision)


def precision_of(values: Shaped[Tensor, "..."], dtype: torch.dtype) -> float:
    """The relative rounding of values: of the coarsest format that holds all; of `dtype` if they are exact.

    So it is known of values that were widened since, such as float32 activations in a float64 array. Whole
    numbers are exact, as are all others that leave the last digit of the format unused, such as one-hot
    rows.
    """
    own = torch.finfo(dtype).eps
    if not values.is_floating_point():
        return own
    few = values[:FEW_ROWS]  # tells most formats apart
    for format in FLOATS:
        if all(values.dtype == format or _holds(format, part) for part in (few, values)):
            rounding = torch.finfo(format).eps
            return max(own, rounding) if not _are_exact(values, rounding) else own
    return own


def _holds(format: torch.dtype, values: Tensor) -> bool:
    return bool((values.to(format).to(values.dtype) == values).all())


def _are_exact(values: Tensor, rounding: float) -> bool:
    """Whether all are multiples of twice what the format resolves at the largest, or whole numbers."""
    largest = float(values.abs().max())
    step = 2 * rounding * 2.0 ** math.floor(math.log2(largest)) if largest else 1.0
    if values.dtype not in HALF and rounding > torch.finfo(torch.float32).eps:
        step = min(step, 1.0)  # bytes fill what half precision resolves, and are not of it

    def are_multiples(part: Tensor) -> bool:
        steps = part.double() / step
        return bool((steps == steps.round()).all())

    return are_multiples(values[:FEW_ROWS]) and are_multiples(values)


def kept(*axes: str, numbers_inputs: bool = False) -> Callable:
    """Compute a function of a representation (and options) once.

    Parameters
    ----------
    axes
        Of each of its results, as in `"n n"` or `"n d"`: those called n run over the inputs, and one called
        pairs over the pairs of them, so that the result for reordered rows is the reordered result.
    numbers_inputs
        The values themselves (of several results, of the first) are row numbers, as of neighbours.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def recall(x: Representation, *options: object) -> object:
            def compute() -> object:
                if x.origin is None:
                    return function(x, *options)
                return _reorder(recall(x.origin, *options), x.order, axes, numbers_inputs)

            return x.memory.recall((function, x.number, *_exact(options)), compute)

        return recall

    return decorate


def kept_pair(function: Callable) -> Callable:
    """Compute a function of two representations (and options) once."""

    @functools.wraps(function)
    def recall(x: Representation, y: Representation, *options: object) -> object:
        key = (function, x.number, y.number, *_exact(options))
        return y.memory.recall(key, lambda: function(x, y, *options))

    return recall


def product_of(
    matrix: Callable[..., Float[Tensor, "n n"]], x: Representation, y: Representation, *options: object
) -> Float[Tensor, ""]:
    """⟨A, B⟩ of the symmetric matrices that a function makes of two representations.

    Where the rows of Y are those of another representation in another order, its matrix is not made again.
    """
    if y.order is not None and x.order is None:
        return product_in_order(matrix(x, *options), matrix(y.origin, *options), y.order)
    return matrix(x, *options).flatten() @ matrix(y, *options).flatten()


def _exact(options: tuple) -> tuple:
    """Options with their types: 1, 1.0 and True are equal, but not all of them are valid."""
    return tuple((type(option), option) for option in options)


def _reorder(result: object, order: Tensor, axes: Sequence[str], numbers_inputs: bool) -> object:
    if isinstance(result, tuple):
        parts = [
            _reorder(part, order, [own], numbers_inputs and not number)
            for number, (part, own) in enumerate(zip(result, axes, strict=True))
        ]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    if not isinstance(result, Tensor):
        return result
    if axes[0] == "pairs":
        return pairs(square(result, len(order))[order][:, order])
    for axis, name in enumerate(axes[0].split()):
        if name == "n":
            result = result.index_select(axis, order)
    return order.argsort()[result] if numbers_inputs else result


def _bytes(result: object) -> int:
    parts = result if isinstance(result, tuple) else (result,)
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))


# --- what most measures begin with -------------------------------------------------------------------------


@kept("n d")
def centered(x: Representation) -> Float[Tensor, "n d"]:
    """Every unit minus its mean over the inputs."""
    rest = x.values - x.values.mean(0)
    return rest.sub_(rest.mean(0))  # a mean of many times the spread has an error that is one more direction


@kept("n r")
def reduced(x: Representation) -> Float[Tensor, "n r"]:
    """Centred, and turned so that it has at most n columns: the same Gram matrix from fewer numbers.

    By QR, whose error is a rounding; from an eigendecomposition of the Gram it would be the root of one.
    """
    return narrow(centered(x))


@kept("n r")
def reduced_raw(x: Representation) -> Float[Tensor, "n r"]:
    """The matrix as `reduced` has it, not centred."""
    return narrow(x.values)


@kept("n")
def marks(x: Representation) -> Int[Tensor, " n"]:
    """A number for each row, the same for equal rows and, but for a chance of next to nothing, no others."""
    whole = torch.int64 if x.values.dtype == torch.float64 else torch.int32
    drawn = torch.randint(-(2**63), 2**63 - 1, (x.width,), generator=torch.Generator().manual_seed(0))
    odd = (drawn | 1).to(x.values.device)

    def of_rows(rows: Tensor) -> Tensor:
        bits = (rows + 0.0).view(whole).long()  # −0 is 0
        return ((bits ^ (bits >> 32)) * odd).sum(1)  # numbers of few digits end in zeros, which say little

    return torch.cat([of_rows(rows) for rows in x.values.split(ROWS)])


@kept("")
def distinct(x: Representation) -> int:
    """Number of rows that differ from one another."""
    return len(marks(x).unique())


@kept_pair
def count_copies(x: Representation, y: Representation) -> int:
    """Number of inputs with the rows of an earlier one, in both representations."""
    if distinct(x) == x.n or distinct(y) == y.n:
        return 0
    return x.n - len(torch.stack([marks(x), marks(y)], dim=1).unique(dim=0))


def pairs(matrix: Float[Tensor, "n n"]) -> Float[Tensor, " pairs"]:
    """The values of a symmetric matrix above its diagonal, row by row."""
    n = len(matrix)
    row, column = torch.triu_indices(n, n, 1, device=matrix.device)
    return matrix[row, column]


def square(condensed: Float[Tensor, " pairs"], n: int) -> Float[Tensor, "n n"]:
    """The symmetric matrix, with a diagonal of 0, that has these above it."""
    row, column = torch.triu_indices(n, n, 1, device=condensed.device)
    matrix = condensed.new_zeros(n, n)
    matrix[row, column] = condensed
    return matrix + matrix.T


def narrow(matrix: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
    """At most n columns with the same inner products of rows."""
    n, width = matrix.shape
    return matrix if width <= n else torch.linalg.qr(matrix.T, mode="r").R.T


@kept("")
def noise(x: Representation) -> float:
    """A singular value that what rounding, also that of the networks, has left of the values stays below."""
    lengths = x.values.norm(dim=0).max() + x.values.norm(dim=1).max()
    return NOISE * x.precision * float(lengths)


@kept("")
def norm(x: Representation) -> Float[Tensor, ""]:
    """Frobenius norm of the centred matrix."""
    return centered(x).norm()


@kept_pair
def cross(x: Representation, y: Representation) -> Float[Tensor, "r s"]:
    """XᵀY of the reduced matrices."""
    return reduced(x).T @ reduced(y)
