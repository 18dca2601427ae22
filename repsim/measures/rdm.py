"""Distances between inputs: representational similarity analysis and distance correlation.

An RDM (representational dissimilarity matrix) holds the dissimilarity of every pair of inputs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import kendalltau
from torch import Tensor

from repsim.measures.hsic import cosine_without_each, recenter_, u_centered_product, unless_rounding
from repsim.measures.measure import measure, number_option, one_of
from repsim.measures.representation import ROUNDINGS, Representation, centered, kept, pairs

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
    """Of all pairs of inputs; the mean of the middle two, if they are even."""
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
    if compare in ("spearman", "kendall"):
        a, b = rdm_ranks(x, rdm, width), rdm_ranks(y, rdm, width)
        if compare == "spearman":
            return _correlation(a, b)
        return float(kendalltau(a.cpu().numpy(), b.cpu().numpy()).statistic)
    if compare == "whitened_cosine":
        return _cosine(_double_centered_rdm(x, rdm, width), _double_centered_rdm(y, rdm, width))
    a, b = pairs(dissimilarities(x, rdm, width)), pairs(dissimilarities(y, rdm, width))
    return _correlation(a, b) if compare == "pearson" else _cosine(a, b)


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
    level = mean.abs() * ROUNDINGS * torch.finfo(values.dtype).eps
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
    return average_ranks(_rounded(pairs(matrix)))


def _rounded(values: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """To three quarters of their digits, counted from the largest; small whole numbers stay what they are."""
    digits = math.floor(-0.75 * math.log2(torch.finfo(values.dtype).eps))
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
    return recenter_(dissimilarities(x, rdm, width).clone(), "biased")


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a.flatten() @ b.flatten()) / a.norm() / b.norm()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    return _cosine(a - a.mean(), b - b.mean())


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
    return _cosine(_double_centered_distances(x), _double_centered_distances(y)).clamp(min=0).sqrt()


@kept("n n")
def _double_centered_distances(x: Representation) -> Float[Tensor, "n n"]:
    """Of distances in units of their mean."""
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
    a, b = _double_centered_distances(x), _double_centered_distances(y)
    own_a, own_b = (unless_rounding(_u_product(one, one), one.square().sum()) for one in (a, b))
    return _u_product(a, b) / (own_a.sqrt() * own_b.sqrt())


def _u_product(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    return u_centered_product(a.flatten() @ b.flatten(), a.diagonal(), b.diagonal())
