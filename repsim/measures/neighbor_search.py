"""The inputs nearest to each input, and the ranks of those that two representations share.

An input is never its own neighbour. With `metric="cosine"` and without `center`, neighbours are those of
the raw rows.

Of neighbours that are equally near, as copies are, or all inputs to a row of zeros, it is drawn at random
which count. Breaking such ties by row number would do it alike in both representations, and look like
agreement. What is drawn hangs on the values themselves: it is the same at every call, the same for equal
representations, and independent for others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from repsim.measures.measure import count_option, one_of
from repsim.measures.products import products
from repsim.measures.rdm import unit_raw, unit_rows
from repsim.measures.representation import (
    ROUNDINGS,
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
    rows = metric_rows(x, one_of("metric", metric, METRICS), center)
    rows = rows / rows.norm(dim=1).max()  # so that no square overflows in float32
    return rows, rows.square().sum(1) / 2 if metric == "euclidean" else rows.new_zeros(len(rows))


def metric_rows(x: Representation, metric: str, center: bool) -> Float[Tensor, "n d"]:
    """The rows that a metric compares: of length 1 for `cosine`, centred if that is wanted."""
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
    scores = inner_products(search.rows, block, candidates) - search.penalty[candidates]
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


def inner_products(
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
