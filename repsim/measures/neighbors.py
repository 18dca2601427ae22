"""Neighbours: are the inputs nearest to each input the same ones in both representations?

See `repsim.measures.neighbor_search` for what neighbours are, and how ties are broken.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.measures.measure import measure
from repsim.measures.neighbor_search import (
    BLOCK,
    inner_products,
    metric_rows,
    neighbors,
    ranks_of_shared,
    warn_of_ties,
)
from repsim.measures.rdm import unit_rows
from repsim.measures.representation import (
    ROUNDINGS,
    SMALLEST,
    Representation,
    kept,
)


def _shared(x: Representation, y: Representation, k: int, metric: str, center: bool) -> Int[Tensor, "n k"]:
    """The result of `ranks_of_shared`, and a warning of ties."""
    warn_of_ties(k, metric, center, x, y)
    return ranks_of_shared(x, y, k, metric, center)


def _invariances(metric: str = "cosine", center: bool = False, **_: object) -> str:
    return "orthogonal scale" if metric == "cosine" and not center else "orthogonal scale translation"


def few_neighbors(width_x: int, width_y: int, k: int | None = 10, **_: object) -> int:
    """The number of inputs of which k are at most half of the others; in two larger sets, most is shared."""
    return SMALLEST if k is None else max(SMALLEST, 2 * k + 1)


EXAMPLES = ({}, {"center": True}, {"metric": "euclidean"}, {"k": 3})


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances=_invariances,
    reference="Schumacher et al. 2021; Wang et al. 2020",
    elsewhere="ReSi",
    examples=EXAMPLES,
    least=few_neighbors,
    half_precision=4e-3,
)
def jaccard(
    x: Representation, y: Representation, *, k: int = 10, metric: str = "cosine", center: bool = False
) -> Tensor:
    """Mean Jaccard overlap |A ∩ B| / |A ∪ B| of the k nearest neighbours of each input in X and in Y.

    Use it for local structure, which `cka` and Procrustes hardly see.

    Traps: it depends on k and on the number of inputs: for independent representations it is about k / 2n.
    Ties are broken at random (see `repsim.measures.neighbor_search`), so that many of them bring it down to
    that. With raw cosine, a large common mean makes all rows alike: use `center=True` or
    `metric="euclidean"`.
    """
    return _jaccard_rows(_shared(x, y, k, metric, center)).mean()


def _jaccard_rows(ranks: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    shared = (ranks > 0).sum(1).double()
    return shared / (2 * ranks.shape[1] - shared)


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances=_invariances,
    reference="Wang et al. 2020",
    elsewhere="ReSi",
    examples=EXAMPLES,
    least=few_neighbors,
    half_precision=4e-3,
)
def rank(
    x: Representation, y: Representation, *, k: int = 10, metric: str = "cosine", center: bool = False
) -> Tensor:
    """Agreement of the ranks of shared neighbours, near ones weighing most; 0 where none is shared.

    For each input Σ 2 / ((1 + |r − s|)(r + s)) over the shared neighbours of rank r in X and s in Y,
    divided by Σ 1/i for as many.

    Use it beside `jaccard`, for whether what is shared is also in the same order.

    Traps: it says nothing of how many neighbours are shared; `rank_jaccard` joins both.
    """
    return _rank_rows(_shared(x, y, k, metric, center)).mean()


def _rank_rows(ranks: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    k = ranks.shape[1]
    own = torch.arange(1, k + 1, device=ranks.device).double()
    shared = ranks > 0
    scores = torch.where(shared, 2 / ((1 + (own - ranks).abs()) * (own + ranks)), 0).sum(1)
    harmonic = torch.cat([own.new_ones(1), (1 / own).cumsum(0)])  # where none is shared the score is 0
    return scores / harmonic[shared.sum(1)]


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances=_invariances,
    reference="Wang et al. 2020",
    elsewhere="ReSi",
    examples=EXAMPLES,
    least=few_neighbors,
    half_precision=4e-3,
)
def rank_jaccard(
    x: Representation, y: Representation, *, k: int = 10, metric: str = "cosine", center: bool = False
) -> Tensor:
    """Mean over the inputs of `jaccard` × `rank`.

    Use it for one number that wants the same neighbours in the same order.

    Traps: those of both.
    """
    ranks = _shared(x, y, k, metric, center)
    return (_jaccard_rows(ranks) * _rank_rows(ranks)).mean()


@measure(
    orientation="similarity",
    range=(0, 1),
    invariances=_invariances,
    reference="Huh et al. 2024",
    examples=EXAMPLES,
    least=few_neighbors,
    half_precision=4e-3,
)
def mutual_knn(
    x: Representation, y: Representation, *, k: int = 10, metric: str = "cosine", center: bool = False
) -> Tensor:
    """Mean share |A ∩ B| / k of the k nearest neighbours that X and Y have in common.

    Use it to compare with the literature on convergence of representations; it rises and falls with
    `jaccard`.

    Traps: those of `jaccard`; about k / n for independent representations.
    """
    return (_shared(x, y, k, metric, center) > 0).double().mean()


def _cosine_invariances(center: bool = False, **_: object) -> str:
    return "orthogonal scale translation" if center else "orthogonal scale"


@measure(
    orientation="similarity",
    range=(-math.inf, math.inf),
    invariances=_cosine_invariances,
    symmetric=False,
    reference="Huh et al. 2024",
    examples=({}, {"center": True}, {"k": 20}),
    least=few_neighbors,
    half_precision=4e-3,
)
def cknna(x: Representation, y: Representation, *, k: int = 10, center: bool = False) -> Tensor:
    """Debiased CKA of the cosine kernels, where only mutual neighbours count (both in X and in Y).

    HSIC(αK, αL) / √(HSIC(α_K K, α_K K) HSIC(α_L L, α_L L)), unbiased, where α marks the k nearest
    neighbours that X and Y share, α_K and α_L those of each.

    Use it between `mutual_knn` and `cka_debiased`: with k = n − 1 it is the latter, of rows of length 1.

    Traps: it is not symmetric, as neighbourhoods are not; it can be slightly negative, and with few inputs
    exceed 1.
    """
    shared = _shared(x, y, k, "cosine", center) > 0
    own = neighbors(x, k, "cosine", center)
    both = _masked_hsic(own, *(_cosines_to(side, own, center) * shared for side in (x, y)))
    return both / (_own_hsic(x, k, center) * _own_hsic(y, k, center)).sqrt()


@kept("")
def _own_hsic(x: Representation, k: int, center: bool) -> Float[Tensor, ""]:
    own = neighbors(x, k, "cosine", center)
    cosines = _cosines_to(x, own, center)
    return _masked_hsic(own, cosines, cosines)


def _cosines_to(x: Representation, others: Int[Tensor, "n k"], center: bool) -> Float[Tensor, "n k"]:
    rows = metric_rows(x, "cosine", center)
    return inner_products(rows, torch.arange(x.n, device=rows.device), others)


def _masked_hsic(
    nearest: Int[Tensor, "n k"], first: Float[Tensor, "n k"], second: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """n (n − 3) times the unbiased HSIC of two kernels that are given at `nearest`, and 0 elsewhere."""
    n = len(nearest)
    row = torch.arange(n, device=nearest.device)[:, None]
    # tr(KL) wants each entry of K with the mirror image of it in L, if that is given
    forward, backward = (row * n + nearest).flatten(), (nearest * n + row).flatten()
    ordered, order = forward.sort()
    position = torch.searchsorted(ordered, backward).clamp(max=len(ordered) - 1)
    mirrored = torch.where(ordered[position] == backward, second.flatten()[order][position], 0)
    columns_first = first.new_zeros(n).index_add(0, nearest.flatten(), first.flatten())
    return (
        first.flatten() @ mirrored
        + first.sum() * second.sum() / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (columns_first @ second.sum(1))
    )


@measure(
    orientation="similarity",
    range=lambda k=10, **_: (-1, 1) if k is None else (0, 1),
    invariances=_cosine_invariances,
    reference="Hamilton et al. 2016",
    elsewhere="ReSi",
    examples=({}, {"center": True}, {"k": None}),
    least=few_neighbors,
    half_precision=1e-3,
)
def second_order_cosine(
    x: Representation, y: Representation, *, k: int | None = 10, center: bool = False
) -> Tensor:
    """Mean cosine of the profiles of each input in X and in Y: its cosine distances to others.

    The profile goes over the union of the k nearest neighbours in X and in Y; with `k=None` it is the row of
    cosine similarities to all other inputs, which is about 0 for independent, centred representations.

    Use it for whether neighbours keep their distances, where `jaccard` counts them only.

    Traps: distances are positive, so that with a k it is far above 0 for independent representations: use
    `permutation_test`.
    """
    if k is not None:
        warn_of_ties(k, "cosine", center, x, y)
    rows = [metric_rows(side, "cosine", center) for side in (x, y)]
    blocks = torch.arange(x.n, device=x.values.device).split(BLOCK)
    if k is None:
        profiles = ([_to_others(side, block) for side in rows] for block in blocks)
    else:
        profiles = _distance_profiles(rows, [neighbors(side, k, "cosine", center) for side in (x, y)], blocks)
    return torch.cat([_cosines(a, b) for a, b in profiles]).mean()


def _to_others(rows: Float[Tensor, "n d"], block: Int[Tensor, " b"]) -> Float[Tensor, "b n"]:
    """Cosines with all inputs; 0 with itself, whose 1 in both would be agreement."""
    cosines = rows[block] @ rows.T
    cosines[torch.arange(len(block), device=rows.device), block] = 0
    return cosines


def _cosines(a: Float[Tensor, "b m"], b: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
    """Row by row; 1 where both rows are 0, as of an input whose neighbours are all copies of it."""
    both_zero = ~(a.any(1) | b.any(1))
    return torch.where(both_zero, 1, (unit_rows(a) * unit_rows(b)).sum(1))


def _distance_profiles(rows: list[Tensor], nearest: list[Tensor], blocks: tuple[Tensor, ...]):
    """The cosine distances of each block of inputs in X and in Y to all neighbours, each counted once."""
    for block in blocks:
        union = torch.cat([side[block] for side in nearest], dim=1).sort(dim=1).values
        once = torch.ones_like(union, dtype=torch.bool)
        once[:, 1:] = union[:, 1:] != union[:, :-1]
        yield [_zero_if_rounding(1 - inner_products(side, block, union)) * once for side in rows]


def _zero_if_rounding(distance: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Copies of an input are at distance 0 from it: what arithmetic leaves would be a profile of noise."""
    return torch.where(distance > ROUNDINGS * torch.finfo(distance.dtype).eps, distance, 0)
