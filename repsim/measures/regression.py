"""Linear prediction: what can be read from one representation of what the other holds?"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.measures.cca import (
    basis,
    least_singular_value,
    more_than_units,
    overlap,
    warn_if_trivial,
    warn_if_undecided,
)
from repsim.measures.measure import count_option, measure, number_option
from repsim.measures.representation import SMALLEST, Representation, norm, reduced


def _regression_range(folds: int = 0, **_: object) -> tuple[float, float]:
    return (-math.inf, 1) if folds else (0, 1)


def _regression_invariances(ridge: float = 0.0, **_: object) -> tuple[str, str]:
    return "orthogonal scale translation", "orthogonal translation" if ridge else "linear translation"


def _regression_least(width_x: int, width_y: int, ridge: float = 0.0, folds: int = 0, **_: object) -> int:
    return max(SMALLEST, folds) if ridge or folds else more_than_units(0, width_y + 1)


@measure(
    orientation="similarity",
    range=_regression_range,
    invariances=_regression_invariances,
    symmetric=False,
    reference="Kornblith et al. 2019",
    elsewhere="ReSi",
    examples=({}, {"ridge": 10.0}, {"folds": 5}, {"ridge": 10.0, "folds": 5}),
    least=_regression_least,
    half_precision=1e-3,
)
def linear_regression(
    x: Representation, y: Representation, *, ridge: float = 0.0, folds: int = 0, seed: int = 0
) -> Tensor:
    """R² of predicting X from Y by least squares with intercept, over all units of X together.

    `ridge` is added to the diagonal of YᵀY. With `folds` of 2 or more, R² is measured on inputs that the
    prediction has not seen (against their mean in the rest); it may then be negative. `seed` draws the folds.

    Use it when one representation should contain the other.

    Traps: it is asymmetric. In sample (`folds` = 0) it is 1 with as many units in Y as inputs: use `folds`.
    """
    number_option("ridge", ridge, lambda value: value >= 0, "a number of at least 0")
    count_option("folds", folds, 0, x.n, " (the number of inputs)")
    count_option("seed", seed, 0)
    if folds == 1:
        raise ValueError("folds must be 0 (in sample) or at least 2, not 1.")
    if folds:
        return _held_out(x, y, ridge, folds, seed)
    if not ridge and len(basis(y).values) >= y.n - 1:
        warn_if_trivial("linear_regression", x, y, "use folds, or ridge")
    if not ridge:
        warn_if_undecided("linear_regression", (y, basis(y)))
    shrink = basis(y).values.square()
    shrink = shrink / (shrink + ridge)
    explained = (basis(y).vectors.T @ reduced(x)).square().sum(1)
    return ((2 * shrink - shrink**2) * explained).sum() / norm(x) ** 2


def _held_out(x: Representation, y: Representation, ridge: float, folds: int, seed: int) -> Tensor:
    order = torch.randperm(x.n, generator=torch.Generator().manual_seed(seed)).to(x.values.device)
    errors = totals = 0.0
    target, source = reduced(x), reduced(y)
    for fold in order.tensor_split(folds):
        seen = torch.ones(x.n, dtype=torch.bool, device=order.device)
        seen[fold] = False
        mean_target, mean_source = target[seen].mean(0), source[seen].mean(0)
        weights = _fit(y, source[seen] - mean_source, target[seen] - mean_target, ridge)
        rest = target[fold] - mean_target
        errors = errors + (rest - (source[fold] - mean_source) @ weights).square().sum()
        totals = totals + rest.square().sum()
    return 1 - errors / totals


def _fit(
    y: Representation, source: Float[Tensor, "m s"], target: Float[Tensor, "m t"], ridge: float
) -> Float[Tensor, "s t"]:
    """Least squares of least norm, from some of the inputs of Y."""
    left, values, right = torch.linalg.svd(source, full_matrices=False)
    gain = torch.where(values > least_singular_value(y, values), values / (values**2 + ridge), 0)
    return right.T @ (gain[:, None] * (left.T @ target))


def _gulp_invariances(lam: float = 0.0) -> str:
    return "orthogonal scale translation" if lam else "linear translation"


@measure(
    orientation="distance",
    range=(0, math.inf),
    invariances=_gulp_invariances,
    reference="Boix-Adserà et al. 2022",
    elsewhere="ReSi",
    examples=({}, {"lam": 0.1}),
    least=lambda width_x, width_y, lam=0.0: SMALLEST if lam else more_than_units(width_x, width_y),
    half_precision=math.inf,
)
def gulp(x: Representation, y: Representation, *, lam: float = 0.0) -> Tensor:
    """Squared GULP distance: how far ridge predictions from X and from Y differ, over all tasks at once.

    tr[(Σ_X⁻ᵘΣ_X)²] + tr[(Σ_Y⁻ᵘΣ_Y)²] − 2 tr[Σ_X⁻ᵘΣ_XYΣ_Y⁻ᵘΣ_YX], where Σ⁻ᵘ = (Σ + `lam` I)⁻¹ and each
    representation is scaled to ‖X‖ = √n.

    Use it when representations matter for what can be learnt from them by a linear head of that penalty.

    Traps: some libraries report its root. With `lam` = 0 and as many units as inputs it is 0 for anything.
    """
    number_option("lam", lam, lambda value: value >= 0, "a number of at least 0")
    if not lam:
        warn_if_trivial("gulp(lam=0)", x, y, "use lam > 0, such as 0.1")
        warn_if_undecided("gulp(lam=0)", (x, basis(x)), (y, basis(y)))
    own_x, own_y = (_shrinkage(side, lam) for side in (x, y))
    shared = own_x @ overlap(x, y).square() @ own_y
    return own_x @ own_x + own_y @ own_y - 2 * shared


def _shrinkage(x: Representation, lam: float) -> Float[Tensor, " r"]:
    """Eigenvalues of (Σ + λI)⁻¹Σ, where Σ has trace 1."""
    variances = (basis(x).values / norm(x)) ** 2
    return variances / (variances + lam)
