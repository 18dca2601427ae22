"""Alignment by a rotation: how near Y comes to X when its units may be turned and reflected.

Williams et al. (2021) for the metrics. The narrower of the two is padded with zeros. With ‖·‖* the sum of
singular values, the best rotation Q has ⟨X, YQ⟩ = ‖XᵀY‖*. With more units than inputs both are reduced by
QR first.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from repsim.measures import angles
from repsim.measures.cca import basis, more_than_units, overlap, warn_if_trivial, warn_if_undecided
from repsim.measures.measure import measure, number_option
from repsim.measures.representation import (
    SMALLEST,
    Representation,
    cross,
    kept_pair,
    norm,
    reduced,
    reduced_raw,
)

FEW_ROUNDINGS = 4  # of the largest, by which an eigenvalue is off
LOST = 1e-11  # as a share of a sum of singular values


@kept_pair
def _nuclear(x: Representation, y: Representation) -> Float[Tensor, ""]:
    """‖XᵀY‖*: the greatest inner product of X with a rotated Y."""
    return nuclear_norm(cross(x, y))


def nuclear_norm(matrix: Float[Tensor, "r s"]) -> Float[Tensor, ""]:
    """The sum of the singular values.

    As roots of the eigenvalues of MᵀM, which take half of the time; where these have lost digits, of small
    singular values, from M itself.
    """
    if matrix.dtype == torch.float64:
        narrow = matrix if len(matrix) >= len(matrix.T) else matrix.T
        squares = torch.linalg.eigvalsh(narrow.T @ narrow)
        error = FEW_ROUNDINGS * torch.finfo(squares.dtype).eps * squares[-1]
        values = squares.clamp(min=error).sqrt()
        if (error / (2 * values)).sum() < LOST * values.sum():
            return values.sum()
    return torch.linalg.svdvals(matrix).sum()


def _cosine(x: Representation, y: Representation) -> Float[Tensor, ""]:
    return _nuclear(x, y) / (norm(x) * norm(y))


def _difference(a: Float[Tensor, "n r"], b: Float[Tensor, "n s"]) -> Float[Tensor, "n t"]:
    """A − BQ, with Q the best rotation, after the narrower was padded with zeros."""
    width = max(a.shape[1], b.shape[1])
    a, b = (pad(matrix, (0, width - matrix.shape[1])) for matrix in (a, b))
    left, _, right = torch.linalg.svd(b.T @ a)
    return a - b @ (left @ right)


def _unit_difference(x: Representation, y: Representation) -> Float[Tensor, "n t"]:
    return _difference(reduced(x) / norm(x), reduced(y) / norm(y))


@measure(
    orientation="distance",
    range=(0, math.sqrt(2)),
    invariances="orthogonal scale translation",
    metric=True,
    reference="Ding et al. 2021; Williams et al. 2021",
    elsewhere="ReSi",
    half_precision=1e-3,
)
def procrustes(x: Representation, y: Representation) -> Tensor:
    """min over rotations Q of ‖X/‖X‖ − (Y/‖Y‖)Q‖ = √(2 − 2‖XᵀY‖*/(‖X‖‖Y‖)), of centred X and Y.

    Use it as a metric that respects the whole geometry: unlike `cka` it is not decided by the few directions
    of largest variance.

    Traps: some papers report its square. As `cka`, it says little with more units than inputs, where any two
    representations can be turned towards each other.
    """
    return angles.chord(_cosine(x, y), lambda: _unit_difference(x, y))


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances="orthogonal scale translation",
    reference="Harvey et al. 2024",
    elsewhere="rsatoolbox",
    half_precision=1e-3,
)
def procrustes_similarity(x: Representation, y: Representation) -> Tensor:
    """‖XᵀY‖* / (‖X‖‖Y‖): the cosine after the best rotation, also called normalised Bures similarity.

    Use it where a similarity in [0, 1] is wanted beside `cka`.

    Traps: with many units it is far from 0 for independent representations; compare with a permutation null.
    """
    return _cosine(x, y)


@measure(
    orientation="distance",
    range=(0, math.pi / 2),
    invariances="orthogonal scale translation",
    metric=True,
    reference="Williams et al. 2021",
    elsewhere="ReSi, netrep",
    half_precision=1e-3,
)
def procrustes_angular(x: Representation, y: Representation) -> Tensor:
    """The angle between X and the best rotation of Y.

    Use it as `procrustes`; this is the length of the geodesic, not of the chord.

    Traps: those of `procrustes`.
    """
    return angles.angle(_cosine(x, y), lambda: _unit_difference(x, y))


@measure(
    orientation="distance",
    range=(0, math.inf),
    invariances="orthogonal translation",
    metric=True,
    growth=0.5,
    reference="Williams et al. 2021",
    elsewhere="ReSi, netrep",
    half_precision=1e-3,
)
def procrustes_size_shape(x: Representation, y: Representation) -> Tensor:
    """min over rotations Q of ‖X − YQ‖, of centred X and Y: size counts.

    Use it where scale is meaningful, as between checkpoints of one network.

    Traps: it grows with scale and with the number of inputs, so that values of different layers do not
    compare.
    """
    total = norm(x) ** 2 + norm(y) ** 2
    if angles.is_near(2 * _nuclear(x, y) / total):
        return _difference(reduced(x), reduced(y)).norm()
    return (total - 2 * _nuclear(x, y)).sqrt()


def _shape_invariances(alpha: float = 0.5) -> str:
    if alpha == 0:
        return "linear translation"
    return "orthogonal scale translation" if alpha == 1 else "orthogonal translation"


@measure(
    orientation="distance",
    range=(0, math.pi / 2),
    invariances=_shape_invariances,
    metric=True,
    reference="Williams et al. 2021",
    elsewhere="netrep",
    examples=({"alpha": 0.0}, {}, {"alpha": 1.0}),
    least=lambda width_x, width_y, alpha=0.5: SMALLEST if alpha else more_than_units(width_x, width_y),
    half_precision=math.inf,
)
def shape_metric(x: Representation, y: Representation, *, alpha: float = 0.5) -> Tensor:
    """Angular Procrustes distance after partial whitening: singular values s become αs + (1 − α).

    `alpha` = 0 whitens wholly, so that linear maps do not matter (CCA); `alpha` = 1 is `procrustes_angular`.

    Use it to move between the two in steps.

    Traps: strictly between 0 and 1 it depends on the scale of the representations. At 0 it is 0 or trivial
    with as many units as inputs, and noise directions weigh as much as any.
    """
    alpha = number_option("alpha", alpha, lambda value: 0 <= value <= 1, "a number from 0 to 1")
    if alpha == 0:
        warn_if_trivial("shape_metric(alpha=0)", x, y, "use alpha > 0")
    if alpha < 1:
        warn_if_undecided(f"shape_metric(alpha={alpha:g})", (x, basis(x)), (y, basis(y)))
    own_x, own_y = (alpha * basis(side).values + (1 - alpha) for side in (x, y))
    own_x, own_y = own_x / own_x.norm(), own_y / own_y.norm()
    cosine = torch.linalg.svdvals(own_x[:, None] * overlap(x, y) * own_y).sum()
    return angles.angle(cosine, lambda: _difference(basis(x).vectors * own_x, basis(y).vectors * own_y))


@measure(
    orientation="similarity",
    range=(-1, 1),
    invariances="orthogonal scale",
    reference="Hamilton et al. 2016",
    elsewhere="ReSi",
    half_precision=1e-3,
)
def aligned_cosine(x: Representation, y: Representation) -> Tensor:
    """Mean cosine of matching rows, as they are, after the rotation that brings Y nearest to X.

    Use it to see how far single inputs keep their direction.

    Traps: representations that are not centred (after a ReLU) agree in their mean alone. Rows of zeros have
    no direction and are left out.
    """
    a, b = reduced_raw(x), reduced_raw(y)
    left, _, right = torch.linalg.svd(a.T @ b, full_matrices=False)
    inner = ((a @ left) * (b @ right.T)).sum(1)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return (inner / lengths)[lengths > 0].mean()
