"""Centred kernel alignment (CKA): are pairs of inputs that are alike in X alike in Y?

Kornblith et al. (2019). Each value is a cosine of two Gram matrices. Of linear kernels it needs no Gram,
unless there are more units than inputs: with K = XXᵀ and L = YYᵀ, ⟨K, L⟩ = ‖XᵀY‖².
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from repsim.measures.angles import angle
from repsim.measures.hsic import (
    centered_gram,
    cosine_without_each,
    recenter_,
    u_centered_product,
    unless_rounding,
)
from repsim.measures.measure import measure, number_option
from repsim.measures.rdm import median_distance, squared_distances
from repsim.measures.representation import Representation, centered, cross, kept, norm, product_of

STEPS = 32  # products of numbers that take as long as it takes to fetch one out of order
MOST = 8192  # inputs of which Grams are made for that: half a gigabyte each


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances="orthogonal scale translation",
    reference="Kornblith et al. 2019",
    elsewhere="ReSi, rsatoolbox",
    half_precision=1e-3,
)
def cka(x: Representation, y: Representation) -> Tensor:
    """Linear CKA: ‖YᵀX‖² / (‖XᵀX‖·‖YᵀY‖), of centred X and Y.

    Use it for layers whose width is small beside the number of inputs.

    Traps: it is biased upwards. With more units than inputs it is far from 0 even for independent
    representations (0.9 is nothing unusual): use `cka_debiased` then. A few directions of large variance
    decide it alone.
    """
    return inner_product(x, y) / (own_product(x).sqrt() * own_product(y).sqrt())


def inner_product(x: Representation, y: Representation) -> Tensor:
    """⟨XXᵀ, YYᵀ⟩ of both scaled to ‖X‖ = 1.

    From Grams if there are more units than inputs; or, of rows in another order, if putting a Gram in order
    costs less than the product of the units.
    """
    in_order = y.order is not None and x.n * STEPS < x.width * y.width and x.n <= MOST
    return by_grams(x, y) if max(x.width, y.width) > x.n or in_order else by_features(x, y)


@kept("")
def own_product(x: Representation) -> Tensor:
    """⟨XXᵀ, XXᵀ⟩ at ‖X‖ = 1."""
    return inner_product(x, x)


def by_features(x: Representation, y: Representation) -> Tensor:
    """The value as ‖XᵀY‖²."""
    return (cross(x, y) / norm(x) / norm(y)).square().sum()


def by_grams(x: Representation, y: Representation) -> Tensor:
    """The value as the inner product of the Gram matrices themselves."""
    return product_of(gram, x, y)


@kept("n n")
def gram(x: Representation) -> Float[Tensor, "n n"]:
    """XXᵀ, centred and scaled to ‖X‖ = 1."""
    return centered_gram(centered(x) / norm(x))


@kept("n")
def squared_norms(x: Representation) -> Float[Tensor, " n"]:
    """The diagonal of `gram`."""
    return (centered(x) / norm(x)).square().sum(1)


def _debiased_without_each(x: Representation, y: Representation) -> Float[Tensor, " n"]:
    return cosine_without_each(gram(x), gram(y))


@measure(
    orientation="similarity",
    range=(-1, 1),
    invariances="orthogonal scale translation",
    reference="Song et al. 2012; Nguyen et al. 2021",
    elsewhere="torch-cka†",
    leave_one_out=_debiased_without_each,
    half_precision=1e-3,
)
def cka_debiased(x: Representation, y: Representation) -> Tensor:
    """Linear CKA from unbiased estimates: ⟨K̃, L̃⟩ / √(⟨K̃, K̃⟩⟨L̃, L̃⟩) of U-centred Grams with zero diagonals.

    Use it whenever widths and numbers of inputs differ between the values to compare: on independent
    representations it is 0 on average, whatever their widths.

    Traps: it may be slightly negative; the ratio of unbiased estimates is not itself unbiased.
    """
    own_x, own_y = (unless_rounding(_own_unbiased(one), own_product(one)) for one in (x, y))
    return unbiased(x, y) / (own_x.sqrt() * own_y.sqrt())


@kept("")
def _own_unbiased(x: Representation) -> Tensor:
    return unbiased(x, x)


def unbiased(x: Representation, y: Representation) -> Tensor:
    """⟨K̃, L̃⟩: n (n − 3) times the unbiased HSIC."""
    return u_centered_product(inner_product(x, y), squared_norms(x), squared_norms(y))


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances="orthogonal scale translation",
    reference="Kornblith et al. 2019",
    examples=({}, {"threshold": 0.5}),
    half_precision=1e-3,
)
def cka_rbf(x: Representation, y: Representation, *, threshold: float = 1.0) -> Tensor:
    """CKA of Gaussian kernels exp(−‖a − b‖² / 2σ²), with σ = `threshold` × the median distance.

    Use it to see whether small distances agree where large ones need not: the smaller `threshold`, the
    more local it is.

    Traps: it is biased, as `cka` is; with a small `threshold` the kernel nears the identity, and the value
    nears 1 for anything.
    """
    threshold = number_option("threshold", threshold, lambda value: value > 0, "a number above 0")
    return product_of(gaussian_gram, x, y, threshold) / (
        _gaussian_norm(x, threshold) * _gaussian_norm(y, threshold)
    )


@kept("")
def _gaussian_norm(x: Representation, threshold: float) -> Float[Tensor, ""]:
    return gaussian_gram(x, threshold).norm()


@kept("n n")
def gaussian_gram(x: Representation, threshold: float) -> Float[Tensor, "n n"]:
    """Centred Gaussian kernel matrix."""
    squared = squared_distances(x)
    width = threshold * median_distance(x)
    return recenter_((squared / (-2 * width**2)).exp_(), "biased")


@measure(
    orientation="distance",
    range=(0, math.pi / 2),
    invariances="orthogonal scale translation",
    metric=True,
    reference="Williams et al. 2021",
    elsewhere="netrep",
    half_precision=1e-3,
)
def cka_angular(x: Representation, y: Representation) -> Tensor:
    """The angle between the centred Gram matrices: arccos of `cka`, but exact near 0.

    Use it where a metric is needed: to cluster models, or to embed them.

    Traps: those of `cka`.
    """
    return angle(cka.function(x, y), lambda: gram(x) / gram(x).norm() - gram(y) / gram(y).norm())
