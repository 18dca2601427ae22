"""Canonical correlation analysis: which directions of X can be told from Y by a linear map?

Hotelling (1936). With orthonormal bases U of the two column spaces, the canonical correlations are the
singular values of U_XᵀU_Y.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.measures.measure import count_option, measure, number_option
from repsim.measures.representation import (
    NOISE,
    ROUNDINGS,
    SMALLEST,
    Representation,
    centered,
    kept,
    kept_pair,
    noise,
    reduced,
    reduced_raw,
)

DECIDED = 10  # times what rounding leaves: directions this far above it move little


class Basis(NamedTuple):
    """Left singular vectors and singular values of a representation, to its numerical rank.

    `doubtful` singular values are so near to what rounding leaves that they may be of directions or not.
    """

    vectors: Float[Tensor, "n r"]
    values: Float[Tensor, " r"]
    doubtful: int


@kept("n r", "r", "")
def basis(x: Representation) -> Basis:
    """The basis of the centred matrix."""
    vectors, values, _ = torch.linalg.svd(reduced(x), full_matrices=False)
    rank = _rank(values, x)
    return Basis(vectors[:, :rank], values[:rank], _count_doubtful(values, x))


def _rank(values: Float[Tensor, " r"], x: Representation) -> int:
    """The number of singular values above what rounding of the data and of the decomposition leaves."""
    return max(1, int((values > least_singular_value(x, values)).sum()))


def _count_doubtful(values: Float[Tensor, " r"], x: Representation) -> int:
    least = max(noise(x) / NOISE, ROUNDINGS * torch.finfo(values.dtype).eps * float(values[0]))
    return int(((values > least) & (values < DECIDED * least_singular_value(x, values))).sum())


def least_singular_value(x: Representation, values: Float[Tensor, " r"]) -> float:
    """The least singular value of a direction that is there."""
    arithmetic = max(x.n, x.width) * torch.finfo(values.dtype).eps
    return max(noise(x), float(values[0]) * arithmetic)


@kept_pair
def overlap(x: Representation, y: Representation) -> Float[Tensor, "r s"]:
    """U_XᵀU_Y."""
    return basis(x).vectors.T @ basis(y).vectors


@kept_pair
def canonical_correlations(x: Representation, y: Representation) -> Float[Tensor, " c"]:
    """Canonical correlations in falling order, as many as the smaller rank."""
    return torch.linalg.svdvals(overlap(x, y)).clamp(max=1)


def warn_if_trivial(name: str, x: Representation, y: Representation, instead: str) -> None:
    """Say so when one representation spans all that n centred inputs can be."""
    if max(len(basis(x).values), len(basis(y).values)) >= x.n - 1:
        warnings.warn(
            f"{name} says nothing here: with {x.n} inputs, {x.width} and {y.width} units, one of the "
            f"representations is a linear map of whatever the other is; {instead}.",
            stacklevel=2,
        )


def warn_if_undecided(name: str, *bases: tuple[Representation, Basis]) -> None:
    """Say so when the rank of a representation, and with it the value, hangs on the precision of the data."""
    doubtful = [
        f"{own.doubtful} directions of {side.name}, beside {len(own.values)}"
        for side, own in bases
        if own.doubtful
        and not side.half  # of half precision, `Measure.caveats` says what is not to be trusted
    ]
    if doubtful:
        digits = round(-math.log10(max(side.precision for side, _ in bases)))
        warnings.warn(
            f"{name} counts all directions alike, and these data, with {digits} digits, do not decide which "
            f"there are: {' and '.join(doubtful)}, are near to what rounding leaves. Compute the features in "
            "higher precision, or use svcca, cka or procrustes.",
            stacklevel=2,
        )


def more_than_units(width_x: int, width_y: int, **_: object) -> int:
    """The number of inputs at which two sets of directions need not meet: with fewer, correlations are 1."""
    return max(SMALLEST, width_x + width_y + 1)


INSTEAD = "take more inputs than units, or use svcca(dims=…) with few dims, cka_debiased or procrustes"


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances="linear translation",
    reference="Hotelling 1936; Raghu et al. 2017",
    least=more_than_units,
    half_precision=math.inf,
)
def cca_mean(x: Representation, y: Representation) -> Tensor:
    """Mean canonical correlation, over as many as the smaller rank.

    Use it when any invertible linear map of the units is to make no difference.

    Traps: it needs many more inputs than units: with as many units as inputs it is 1 for anything. Directions
    of next to no variance count as much as the largest.
    """
    warn_if_trivial("cca_mean", x, y, INSTEAD)
    warn_if_undecided("cca_mean", (x, basis(x)), (y, basis(y)))
    return canonical_correlations(x, y).mean()


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances="linear translation",
    reference="Kornblith et al. 2019",
    least=more_than_units,
    half_precision=math.inf,
)
def cca_mean_squared(x: Representation, y: Representation) -> Tensor:
    """Mean of the squared canonical correlations (Yanai's GCD, where the ranks are equal).

    Use it as `cca_mean`: this is the share of variance explained, direction by direction.

    Traps: those of `cca_mean`.
    """
    warn_if_trivial("cca_mean_squared", x, y, INSTEAD)
    warn_if_undecided("cca_mean_squared", (x, basis(x)), (y, basis(y)))
    return canonical_correlations(x, y).square().mean()


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances="orthogonal scale translation",
    reference="Raghu et al. 2017",
    elsewhere="ReSi†",
    examples=({}, {"dims": 3}),
    least=lambda width_x, width_y, dims=0, **_: more_than_units(
        *(min(w, dims or w) for w in (width_x, width_y))
    ),
    half_precision=1e-3,
)
def svcca(x: Representation, y: Representation, *, variance: float = 0.99, dims: int = 0) -> Tensor:
    """Mean canonical correlation of the leading principal components.

    Of each representation are kept the fewest components that hold `variance` of the sum of squared singular
    values; or `dims` of them, if that is not 0.

    Use it instead of `cca_mean` where many directions are noise.

    Traps: the number of components kept, and so the value, jumps with `variance`; too many of them for the
    number of inputs, and the value nears 1 for anything.
    """
    number_option("variance", variance, lambda value: 0 < value <= 1, "a share above 0 and at most 1")
    count_option("dims", dims, 0)
    kept_x, kept_y = (_leading(basis(side).values, variance, dims) for side in (x, y))
    if max(kept_x, kept_y) >= x.n - 1:
        warn_if_trivial("svcca", x, y, "keep fewer components, by variance or dims")
    return torch.linalg.svdvals(overlap(x, y)[:kept_x, :kept_y]).mean()


def _leading(values: Float[Tensor, " r"], variance: float, dims: int) -> int:
    if dims:
        return min(dims, len(values))
    share = values.square().cumsum(0) / values.square().sum()
    rounding = len(values) * torch.finfo(values.dtype).eps
    return min(int((share < variance - rounding).sum()) + 1, len(values))


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances=("permutation scale translation", "linear translation"),
    symmetric=False,
    reference="Morcos et al. 2018",
    elsewhere="ReSi†",
    least=more_than_units,
    half_precision=math.inf,
)
def pwcca(x: Representation, y: Representation) -> Tensor:
    """Canonical correlations weighted by how much of X they carry: Σⱼ|⟨hᵢ, xⱼ⟩|, with hᵢ the variates of X.

    Use it where `cca_mean` drowns in directions that X hardly uses.

    Traps: it is asymmetric (X weighs). It needs more inputs than units, as `cca_mean` does.
    """
    warn_if_trivial("pwcca", x, y, INSTEAD)
    warn_if_undecided("pwcca", (x, basis(x)), (y, basis(y)))
    left, correlations, _ = torch.linalg.svd(overlap(x, y), full_matrices=False)
    variates = basis(x).vectors @ left
    weights = (variates.T @ centered(x)).abs().sum(1)
    return (weights * correlations).sum() / weights.sum()


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances="linear",
    reference="May et al. 2019",
    elsewhere="ReSi",
    least=lambda width_x, width_y: max(SMALLEST, width_x + width_y),  # it does not centre
    half_precision=math.inf,
)
def eigenspace_overlap(x: Representation, y: Representation) -> Tensor:
    """‖U_XᵀU_Y‖² / max(rank), with orthonormal bases of the column spaces, not centred.

    Use it for whether one representation can be had from the other linearly, in both directions at once.

    Traps: it is 1 for anything with as many units as inputs. (ReSi divides by the larger width instead of the
    larger rank, so that it is the same only at full column rank.)
    """
    a, b = _column_space(x), _column_space(y)
    greater = max(len(a.values), len(b.values))
    if greater >= x.n:
        warnings.warn(
            f"eigenspace_overlap says nothing here: with {x.n} inputs, {x.width} and {y.width} units span "
            "every direction there is; take more inputs than units.",
            stacklevel=2,
        )
    warn_if_undecided("eigenspace_overlap", (x, a), (y, b))
    return (a.vectors.T @ b.vectors).square().sum() / greater


@kept("n r", "r", "")
def _column_space(x: Representation) -> Basis:
    """A basis of what the units span, not centred; of full rank, the vectors are any orthonormal ones."""
    vectors, triangle = torch.linalg.qr(reduced_raw(x))
    values = torch.linalg.svdvals(triangle)
    rank = _rank(values, x)
    if rank < vectors.shape[1]:
        vectors = vectors @ torch.linalg.svd(triangle, full_matrices=False).U[:, :rank]
    return Basis(vectors, values[:rank], _count_doubtful(values, x))
