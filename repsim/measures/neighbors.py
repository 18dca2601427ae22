"""Neighbours: are the inputs nearest to each input the same ones in both representations?

An input is never its own neighbour. With `metric="cosine"` and without `center`, neighbours are those of
the raw rows.

Of neighbours that are equally near, as copies are, or all inputs to a row of zeros, it is drawn at random
which count. Breaking such ties by row number would do it alike in both representations, and look like
agreement. What is drawn hangs on the values themselves: it is the same at every call, the same for equal
representations, and independent for others.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from repsim.measures.measure import count_option, measure, one_of
from repsim.measures.products import products
from repsim.measures.rdm import unit_raw, unit_rows
from repsim.measures.representation import (
    ROUNDINGS,
    SMALLEST,
    Representation,
    centered,
    kept,
    kept_pair,
    marks,
)

METRICS = ("cosine", "euclidean")
Draw = Callable[[torch.Size], Tensor]  # numbers from 0 to 1
BLOCK = 512  # rows whose distances to all others are held at a time
GATHERED = 2**18  # numbers
FEW_TIED = 0.01  # of the inputs, of which nothing is said
SPARE = 6  # candidates beyond k that the float32 pass hands to the float64 one


class Nearest(NamedTuple):
    """The nearest inputs, and whether the last of them is as near as one that is left out."""

    inputs: Int[Tensor, "n k"]
    tied: Bool[Tensor, " n"]


def neighbors(x: Representation, k: int, metric: str, center: bool) -> Int[Tensor, "n k"]:
    """The k nearest other inputs of every input, nearest first.

    Raises
    ------
    ValueError
        k is not below the number of inputs, or the metric is unknown.
    """
    return nearest(x, k, metric, center).inputs


@kept("n k", "n", numbers_inputs=True)
def nearest(x: Representation, k: int, metric: str, center: bool) -> Nearest:
    """The result of `neighbors`, with where ties were broken."""
    count_option("k", k, 1, x.n - 1, f" (there are {x.n} inputs)")
    if x.n <= BLOCK:
        order, group = _in_order(x, metric, center)
        tied = (
            group[:, k - 1] == group[:, k] if k < x.n - 1 else torch.zeros_like(group[:, 0], dtype=torch.bool)
        )
        return Nearest(order[:, :k].contiguous(), tied)
    search = _search(x, metric, center)
    blocks = torch.arange(x.n, device=search.rows.device).split(BLOCK)
    if search.rows.device.type == "cpu" and search.rows.dtype == torch.float64:
        rough = search.rows.float(), search.penalty.float()
        found = [_screened(search, rough, block, k) for block in blocks]
    else:
        found = [search.nearest(block, k) for block in blocks]
    return Nearest(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def warn_of_ties(k: int, metric: str, center: bool, *sides: Representation) -> None:
    """Say so when it is drawn at random, for many inputs, which are their neighbours."""
    for side in sides:
        share = float(nearest(side, k, metric, center).tied.double().mean())
        if share > FEW_TIED:
            warnings.warn(
                f"for {share:.0%} of the inputs the {k} nearest of {side.name} are not decided: others are "
                "as near as the last (they are copies, rows of zeros, or of few different values), and which "
                "of them count is drawn at random.",
                stacklevel=3,
            )


class _Draw:
    """Random numbers that hang on a representation: made only once there is a tie to break."""

    def __init__(self, x: Representation):
        self._of = x
        self._generator: torch.Generator | None = None

    def __call__(self, shape: torch.Size) -> Tensor:
        device = self._of.values.device
        if self._generator is None:
            place = 2 * torch.arange(self._of.n, device=device) + 1
            self._generator = torch.Generator(device).manual_seed(int((marks(self._of) * place).sum()))
        return torch.rand(shape, generator=self._generator, device=device, dtype=torch.float64)


class _Search(NamedTuple):
    """Rows whose inner products, less the penalty of the other, fall with distance."""

    rows: Float[Tensor, "n d"]
    penalty: Float[Tensor, " n"]
    lengths: Float[Tensor, " n"]
    draw: Draw

    def scores(self, block: Int[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Scores that fall with distance: cosine, or (‖a‖² − ‖a − b‖²) / 2; −∞ for the input itself."""
        return _scores(self.rows, self.penalty, block)

    def tie(self, block: Int[Tensor, " b"], inputs: Int[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """The difference of the score of each input from an equal one that rounding alone may make."""
        own, other = self.lengths[block, None], self.lengths[inputs]
        return ROUNDINGS * torch.finfo(own.dtype).eps * other * torch.maximum(own, other)

    def shuffled(
        self, block: Int[Tensor, " b"], scores: Float[Tensor, "b m"], inputs: Int[Tensor, "b m"]
    ) -> tuple[Int[Tensor, "b m"], Int[Tensor, "b m"]]:
        """Inputs by falling scores, those of equal score in random order; and the numbers of their ties."""
        steps = scores[:, :-1] - scores[:, 1:] > self.tie(block, inputs)[:, 1:]
        group = pad(steps, (1, 0)).cumsum(1)
        if not steps.all():
            inputs = inputs.gather(1, (group + self.draw(group.shape)).argsort(1))
        return inputs, group

    def nearest(self, block: Int[Tensor, " b"], k: int) -> Nearest:
        """The k inputs of the greatest scores, for each row in the block."""
        scores = self.scores(block)
        ranked, inputs = scores.topk(min(k + 1, len(self.rows) - 1), dim=1)
        tied = torch.zeros_like(block, dtype=torch.bool)
        if ranked.shape[1] > k:
            tied = ranked[:, k - 1] - ranked[:, k] <= self.tie(block, inputs)[:, k]
        tie = self.tie(block, inputs)[tied, k - 1 : k]
        ranked, inputs = ranked[:, :k].clone(), inputs[:, :k].clone()
        if tied.any():
            of_tied, last = scores[tied], ranked[tied, -1:]
            chance = self.draw(of_tied.shape).masked_fill_(of_tied > last + tie, 2)  # these are in
            chosen = chance.masked_fill_(of_tied < last - tie, -1).topk(k, dim=1).indices
            ranked[tied], order = of_tied.gather(1, chosen).sort(dim=1, descending=True)
            inputs[tied] = chosen.gather(1, order)
        return Nearest(self.shuffled(block, ranked, inputs)[0], tied)


def _search(x: Representation, metric: str, center: bool) -> _Search:
    rows, penalty = _rows_and_penalty(x, metric, center)
    lengths = (2 * penalty).sqrt() if metric == "euclidean" else torch.ones_like(penalty)
    return _Search(rows, penalty, lengths, _Draw(x))


@kept("n k", "n k", numbers_inputs=True)
def _in_order(x: Representation, metric: str, center: bool) -> tuple[Int[Tensor, "n k"], Int[Tensor, "n k"]]:
    """All other inputs of each, nearest first, and the numbers of their ties: once for every k."""
    search = _search(x, metric, center)
    every = torch.arange(x.n, device=search.rows.device)
    scores, order = search.scores(every).sort(dim=1, descending=True)
    return search.shuffled(every, scores[:, :-1], order[:, :-1])


def _rows_and_penalty(x: Representation, metric: str, center: bool) -> tuple[Tensor, Tensor]:
    """Rows whose inner products, less the penalty of the other, fall with distance."""
    rows = _rows(x, one_of("metric", metric, METRICS), center)
    rows = rows / rows.norm(dim=1).max()  # so that no square overflows in float32
    return rows, rows.square().sum(1) / 2 if metric == "euclidean" else rows.new_zeros(len(rows))


def _rows(x: Representation, metric: str, center: bool) -> Float[Tensor, "n d"]:
    if not isinstance(center, bool):
        raise ValueError(f"center must be True or False, not {center!r}.")
    if metric == "euclidean":
        return centered(x)  # distances are the same, and lose fewer digits
    return unit_rows(centered(x)) if center else unit_raw(x)


def _scores(rows: Tensor, penalty: Tensor, block: Tensor) -> Float[Tensor, "b n"]:
    scores = products(rows[block], rows) - penalty
    scores[torch.arange(len(block), device=rows.device), block] = -torch.inf
    return scores


def _screened(search: _Search, rough: tuple[Tensor, Tensor], block: Int[Tensor, " b"], k: int) -> Nearest:
    """The neighbours as the search itself finds them, with all but a few candidates ruled out in float32.

    Candidates are ranked by their float64 scores. Where the last of the k is not ahead of every
    non-candidate by more than float32 can err, or is tied, the row is done again in float64 throughout.
    """
    n, width = search.rows.shape
    fewer = min(k + SPARE, n - 1)
    rough_scores, candidates = _scores(*rough, block).topk(fewer, dim=1)
    scores = _inner_products(search.rows, block, candidates) - search.penalty[candidates]
    ranked, order = scores.topk(min(k + 1, fewer), dim=1)
    inputs = candidates.gather(1, order)
    again = torch.zeros_like(block, dtype=torch.bool)
    if fewer < n - 1:
        error = (width + 8) * torch.finfo(torch.float32).eps  # for rows of length at most 1
        again = ranked[:, k - 1] < rough_scores[:, -1].double() + error
    if ranked.shape[1] > k:
        again |= ranked[:, k - 1] - ranked[:, k] <= search.tie(block, inputs)[:, k]
    found, _ = search.shuffled(block, ranked[:, :k], inputs[:, :k])
    tied = torch.zeros_like(again)
    if again.any():
        found[again], tied[again] = search.nearest(block[again], k)
    return Nearest(found, tied)


def _inner_products(
    rows: Float[Tensor, "n d"], block: Int[Tensor, " b"], others: Int[Tensor, "b k"]
) -> Float[Tensor, "b k"]:
    """Inner products of each row in the block with its own k others; a few rows at a time, in the cache."""
    few = max(1, GATHERED // (others.shape[1] * rows.shape[1]))
    parts = zip(block.split(few), others.split(few), strict=True)
    return torch.cat([torch.bmm(rows[j], rows[i, :, None]).squeeze(2) for i, j in parts])


@kept_pair
def ranks_of_shared(
    x: Representation, y: Representation, k: int, metric: str, center: bool
) -> Int[Tensor, "n k"]:
    """The rank, among those in Y, of each neighbour in X, nearest first; 0 where it is none of them."""
    of_x, of_y = neighbors(x, k, metric, center), neighbors(y, k, metric, center)
    ordered, place = of_y.sort(dim=1)
    position = torch.searchsorted(ordered, of_x).clamp(max=k - 1)
    found = ordered.gather(1, position) == of_x
    return torch.where(found, place.gather(1, position) + 1, 0)


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
    Ties are broken at random (see `repsim.measures.neighbors`), so that many of them bring it down to that.
    With raw cosine, a large common mean makes all rows alike: use `center=True` or `metric="euclidean"`.
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
    rows = _rows(x, "cosine", center)
    return _inner_products(rows, torch.arange(x.n, device=rows.device), others)


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
    rows = [_rows(side, "cosine", center) for side in (x, y)]
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
        yield [_zero_if_rounding(1 - _inner_products(side, block, union)) * once for side in rows]


def _zero_if_rounding(distance: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Copies of an input are at distance 0 from it: what arithmetic leaves would be a profile of noise."""
    return torch.where(distance > ROUNDINGS * torch.finfo(distance.dtype).eps, distance, 0)
