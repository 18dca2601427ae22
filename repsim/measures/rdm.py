"""Distances between inputs: representational similarity analysis and distance correlation.

An RDM (representational dissimilarity matrix) holds the dissimilarity of every pair of inputs.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from repsim.measures.hsic import cosine_without_each, recenter_, u_centered_product, unless_rounding
from repsim.measures.measure import measure, number_option, one_of
from repsim.measures.representation import (
    ROUNDINGS,
    Representation,
    centered,
    kept,
    pairs,
    product_of,
    square,
)

RDMS = ("correlation", "euclidean", "cosine", "gaussian")
COMPARISONS = ("pearson", "spearman", "kendall", "cosine", "whitened_cosine")


@kept("n n")
def squared_distances(x: Representation) -> Float[Tensor, "n n"]:
    """Squared Euclidean distances of the rows, with a diagonal of exactly 0."""
    rows = centered(x)  # the smaller the values, the less the difference below cancels
    square = rows.square().sum(1)
    return (square[:, None] + square - 2 * rows @ rows.T).clamp_(min=0).fill_diagonal_(0)


@kept("n n")
def distances(x: Representation) -> Float[Tensor, "n n"]:
    """Euclidean distances of the rows."""
    return squared_distances(x).sqrt()


@kept("")
def median_distance(x: Representation) -> float:
    """The median of the distances of all pairs of inputs; the mean of the middle two, if they are even."""
    lengths = pairs(squared_distances(x)).sqrt_()
    return float(np.median(lengths.cpu().numpy(), overwrite_input=True))


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Every row divided by its length; rows of zeros stay, and so have cosine 0 with any other."""
    length = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(length > 0, length, 1)


@kept("n d")
def unit_raw(x: Representation) -> Float[Tensor, "n d"]:
    """The rows as they are, each divided by its length."""
    return unit_rows(x.values)


def _rsa_invariances(rdm: str, compare: str, width: float) -> str:
    if rdm == "gaussian" and width and compare not in ("spearman", "kendall"):
        return "orthogonal translation"
    return {
        "correlation": "permutation scale",
        "cosine": "orthogonal scale",
        "euclidean": "orthogonal scale translation",
        "gaussian": "orthogonal scale translation",
    }[rdm]


@measure(
    orientation="similarity",
    range=(-1, 1),
    invariances=_rsa_invariances,
    reference="Kriegeskorte et al. 2008",
    elsewhere="ReSi, rsatoolbox",
    examples=(
        *({"rdm": rdm, "compare": compare} for rdm in RDMS for compare in COMPARISONS),
        *({"rdm": "gaussian", "compare": compare, "width": 2.0} for compare in ("pearson", "kendall")),
    ),
    half_precision=1e-3,
)
def rsa(
    x: Representation,
    y: Representation,
    *,
    rdm: str = "correlation",
    compare: str = "spearman",
    width: float = 0.0,
) -> float | Tensor:
    """Representational similarity analysis: how alike the two RDMs are, over all pairs of inputs.

    `rdm`: `correlation` (1 − Pearson correlation of two rows), `euclidean` (squared), `cosine` (1 − cosine
    of the raw rows), or `gaussian` (1 − exp(−‖a − b‖² / 2 `width`²); a `width` of 0 is the median distance).
    `compare`: `pearson`, `spearman` and `kendall` (τ-b) correlation, `cosine`, or `whitened_cosine`
    (Diedrichsen et al. 2021), which allows for the dependence of distances that share an input; with
    `euclidean` it is `cka`.

    Use it to compare with a model of what should be alike, such as labels; with ranks (`spearman`, `kendall`)
    where only the order of distances is to be trusted. What differs by rounding alone is a tie.

    Traps: distances are no independent samples, so that a p-value of this correlation means nothing: use
    `permutation_test`. `cosine` is near 1 for anything, as distances are positive. `kendall` takes seconds at
    2,000 inputs. A row that is constant over the units correlates 0 with all others.
    """
    one_of("rdm", rdm, RDMS)
    one_of("compare", compare, COMPARISONS)
    number_option("width", width, lambda value: value >= 0, "a number of at least 0")
    if compare == "kendall":
        a, b = (rdm_ranks(side, rdm, width).cpu().numpy() for side in (x, y))
        return float(scipy.stats.kendalltau(a, b).statistic)
    if compare == "whitened_cosine":
        return product_of(_double_centered_rdm, x, y, rdm, width)
    if y.order is not None:
        return product_of(_square_of_comparable, x, y, rdm, compare, width) / 2
    return _comparable(x, rdm, compare, width) @ _comparable(y, rdm, compare, width)


@kept("pairs")
def _comparable(x: Representation, rdm: str, compare: str, width: float) -> Float[Tensor, " pairs"]:
    """Dissimilarities or ranks, of length 1 and but for `cosine` centred: their product is the value."""
    values = rdm_ranks(x, rdm, width) if compare == "spearman" else pairs(dissimilarities(x, rdm, width))
    if compare != "cosine":
        values = values - values.mean()
    return values / values.norm()


@kept("n n")
def _square_of_comparable(x: Representation, rdm: str, compare: str, width: float) -> Float[Tensor, "n n"]:
    return square(_comparable(x, rdm, compare, width), x.n)


@kept("n n")
def dissimilarities(x: Representation, rdm: str, width: float) -> Float[Tensor, "n n"]:
    """The RDM, with a diagonal of 0."""
    if rdm == "euclidean":
        return squared_distances(x)
    if rdm == "gaussian":
        squared = squared_distances(x)
        scale = width or median_distance(x)
        return -torch.expm1(squared / (-2 * scale**2))
    rows = unit_raw(x) if rdm == "cosine" else unit_rows(_centered_rows(x))
    return (1 - rows @ rows.T).fill_diagonal_(0)


def _centered_rows(x: Representation) -> Float[Tensor, "n d"]:
    """Every row minus its mean; 0 where a row is constant but for rounding."""
    values = x.values
    mean = values.mean(1, keepdim=True)
    rows = values - mean
    level = mean.abs() * ROUNDINGS * x.precision
    constant = rows.abs().amax(1, keepdim=True) <= level
    if constant.all():
        raise ValueError(
            f"the correlation distance of rows needs units that differ: every row of {x.name} is constant "
            f"over its units (there are {x.width}). Use rdm='euclidean'."
        )
    return rows.masked_fill_(constant, 0)


@kept("pairs")
def rdm_ranks(x: Representation, rdm: str, width: float) -> Float[Tensor, " pairs"]:
    """Ranks of the dissimilarities of all pairs, ties sharing their mean rank.

    What differs by rounding alone is a tie: of one-hot labels there are two dissimilarities, not thousands.
    """
    # a Gaussian only grows with the distance, until it is 1 to rounding
    matrix = squared_distances(x) if rdm == "gaussian" else dissimilarities(x, rdm, width)
    return average_ranks(_rounded(pairs(matrix), x.precision))


def _rounded(values: Float[Tensor, " m"], precision: float) -> Float[Tensor, " m"]:
    """Round to three quarters of their digits, from the largest; small whole numbers stay what they are."""
    # sums over many units of half precision have more digits than these
    digits = math.floor(-0.75 * math.log2(min(precision, torch.finfo(torch.float32).eps)))
    largest = float(values.abs().max())
    step = 2.0 ** (math.frexp(largest)[1] - digits)
    return (values / step).round() if step else values


def average_ranks(values: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Ranks from 1, ties sharing their mean rank."""
    array = values.cpu().numpy()  # NumPy sorts four times as fast as torch
    order = array.argsort()
    ordered = array[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of each group of ties
    counts = np.diff(first, append=len(array))
    ranks = np.empty_like(array)
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    return torch.as_tensor(ranks, device=values.device)


@kept("n n")
def _double_centered_rdm(x: Representation, rdm: str, width: float) -> Float[Tensor, "n n"]:
    matrix = recenter_(dissimilarities(x, rdm, width).clone(), "biased")
    return matrix / matrix.norm()


@measure(
    orientation="distance",
    range=(0, math.inf),
    invariances="orthogonal translation",
    metric=True,
    growth=1,
    reference="Yin & Shen 2018",
    elsewhere="ReSi†",
    half_precision=1e-3,
)
def rsm_norm_difference(x: Representation, y: Representation) -> Tensor:
    """Frobenius norm of the difference of the two matrices of Euclidean distances.

    Use it where absolute distances matter, as between versions of one network.

    Traps: it grows with the scale of the representations and with the number of inputs.
    """
    return (distances(x) - distances(y)).norm()


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances="orthogonal scale translation",
    reference="Székely et al. 2007",
    elsewhere="ReSi",
    half_precision=1e-3,
)
def distance_correlation(x: Representation, y: Representation) -> Tensor:
    """Distance correlation: the root of the cosine of the two double-centred distance matrices.

    Use it to detect any dependence: in the limit it is 0 only for independent representations.

    Traps: it is biased upwards, and near 1 with many units for anything; then use
    `distance_correlation_unbiased`. Some libraries report its square.
    """
    cosine = product_of(_double_centered_distances, x, y) / (_centered_norm(x) * _centered_norm(y))
    return cosine.clamp(min=0).sqrt()


@kept("")
def _centered_norm(x: Representation) -> Float[Tensor, ""]:
    return _double_centered_distances(x).norm()


@kept("n n")
def _double_centered_distances(x: Representation) -> Float[Tensor, "n n"]:
    """Double-centred distances in units of their mean."""
    return recenter_(distances(x) / distances(x).mean(), "biased")


def _correlation_without_each(x: Representation, y: Representation) -> Float[Tensor, " n"]:
    # U-centring takes out what double centring has taken out already
    return cosine_without_each(_double_centered_distances(x), _double_centered_distances(y))


@measure(
    orientation="similarity",
    range=(-1, 1),
    invariances="orthogonal scale translation",
    reference="Székely & Rizzo 2013",
    leave_one_out=_correlation_without_each,
    half_precision=1e-3,
)
def distance_correlation_unbiased(x: Representation, y: Representation) -> Tensor:
    """Bias-corrected distance correlation: the cosine of the U-centred distance matrices, without a root.

    Use it in place of `distance_correlation` when there are many units: it is 0 on average for
    independent representations. It may be negative.

    Traps: compare it with the square of `distance_correlation`, not with that itself.
    """
    own_x, own_y = (unless_rounding(_own_u_product(one), _centered_norm(one).square()) for one in (x, y))
    return _u_product(x, y) / (own_x.sqrt() * own_y.sqrt())


@kept("")
def _own_u_product(x: Representation) -> Float[Tensor, ""]:
    return _u_product(x, x)


def _u_product(x: Representation, y: Representation) -> Float[Tensor, ""]:
    return u_centered_product(product_of(_double_centered_distances, x, y), _diagonal(x), _diagonal(y))


@kept("n")
def _diagonal(x: Representation) -> Float[Tensor, " n"]:
    return _double_centered_distances(x).diagonal().clone()
