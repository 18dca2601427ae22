"""The shape of the cloud of inputs: loops that appear and vanish with scale, and how heat spreads on it."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.measures.measure import count_option, measure
from repsim.measures.neighbor_search import neighbors, warn_of_ties
from repsim.measures.neighbors import few_neighbors
from repsim.measures.rdm import distances
from repsim.measures.representation import ROUNDINGS, Representation, kept

QUANTILE = 0.9  # of the distances of a representation, which become 1
TIMES = torch.logspace(-1, 1, 256, dtype=torch.float64)
STEPS = 20  # of the Lanczos iteration


@measure(
    orientation="distance",
    range=(0, math.inf),
    invariances="orthogonal scale translation",
    reference="Barannikov et al. 2022",
    elsewhere="ReSi",
    examples=({"trials": 2, "points": 20},),
    half_precision=1e-3,
)
def rtd(x: Representation, y: Representation, *, trials: int = 10, points: int = 500, seed: int = 0) -> float:
    """Representation Topology Divergence: the total length of the H₁ bars that only one of the clouds has.

    Distances are divided by their 0.9-quantile. The bars are those of the graph with points doubled:
    distances 0 among the copies, those of X between copies and originals, and the smaller of both among the
    originals. The mean over both directions and over `trials` draws of `points` inputs (one, if that is all
    of them).

    Use it for multi-scale structure with correspondence of points: clusters and loops that one of them lacks.

    Traps: it takes seconds per trial at 500 points, and grows with `points`: compare at equal `points` only.
    """
    count_option("trials", trials, 1)
    count_option("points", points, 4)
    count_option("seed", seed, 0)
    generator = torch.Generator().manual_seed(seed)
    if points >= x.n:
        return _divergence(x, y, torch.arange(x.n))
    draws = (torch.randperm(x.n, generator=generator)[:points] for _ in range(trials))
    return float(np.mean([_divergence(x, y, draw) for draw in draws]))


def _divergence(x: Representation, y: Representation, draw: Int[Tensor, " m"]) -> float:
    a, b = _scaled_distances(x, draw), _scaled_distances(y, draw)
    return (_cross_bars(a, b) + _cross_bars(b, a)) / 2


def _scaled_distances(x: Representation, draw: Int[Tensor, " m"]) -> Float[np.ndarray, "m m"]:
    """Distances of the inputs drawn, in units of their quantile, if that is more than a rounding's root."""
    draw = draw.to(x.values.device)
    values = distances(x)[draw][:, draw].double().cpu().numpy()
    unit = np.quantile(values, QUANTILE)
    if unit <= ROUNDINGS * math.sqrt(torch.finfo(x.values.dtype).eps) * values.max():
        raise ValueError(
            f"rtd is undefined here: {QUANTILE:.0%} of the distances of {x.name} are 0, or next to 0 beside "
            "the greatest, so that there is no scale to divide by. Leave out copies and outliers."
        )
    return values / unit


def _cross_bars(a: Float[np.ndarray, "m m"], b: Float[np.ndarray, "m m"]) -> float:
    """Total length of the H₁ bars of the doubled graph: what joins in b before it does in a."""
    doubled = np.block([[np.zeros_like(a), a], [a, np.minimum(a, b)]])
    from ripser import ripser  # which takes a second to import, and no other measure needs

    bars = ripser(doubled, maxdim=1, distance_matrix=True)["dgms"][1]
    return float((bars[:, 1] - bars[:, 0]).sum())


@measure(
    orientation="distance",
    range=(0, math.inf),
    invariances="orthogonal scale translation",
    reference="Tsitsulin et al. 2020",
    elsewhere="ReSi",
    least=lambda width_x, width_y, k=5, **_: few_neighbors(width_x, width_y, k),
    half_precision=math.inf,
)
def imd(x: Representation, y: Representation, *, k: int = 5, probes: int = 100, seed: int = 0) -> Tensor:
    """Multi-scale intrinsic distance: max over t of e^(−2(t + 1/t)) |h_X(t) − h_Y(t)|.

    h(t) = tr e^(−tL) / n is the trace of the heat kernel, with L the normalised Laplacian of the
    symmetrised graph of the k nearest (Euclidean) neighbours, for t from 0.1 to 10. It is estimated by
    Lanczos quadrature from `probes` random vectors, the same for X and Y; with as many probes as inputs
    it is exact.

    Use it to compare clouds by shape alone: it does not use which input is which.

    Traps: the weight is at most e⁻⁴, so that values are small (the authors' code multiplies by 10⁶). As it
    ignores correspondence, unrelated representations of alike shape are near. With fewer probes than inputs
    the estimate is rough (100 probes at 150 inputs: about a tenth off): compare at equal `probes` and `seed`.
    """
    count_option("probes", probes, 1)
    count_option("seed", seed, 0)
    warn_of_ties(k, "euclidean", False, x, y)
    weight = torch.exp(-2 * (TIMES + 1 / TIMES)).to(x.values)
    return (weight * (_heat_trace(x, k, probes, seed) - _heat_trace(y, k, probes, seed)).abs()).max()


@kept("t")
def _heat_trace(x: Representation, k: int, probes: int, seed: int) -> Float[Tensor, " t"]:
    n = x.n
    nearest = neighbors(x, k, "euclidean", False)
    row = torch.arange(n, device=x.values.device).repeat_interleave(k)
    column = nearest.flatten()
    edges = torch.cat([row * n + column, column * n + row]).unique()
    row, column = edges // n, edges % n
    degree = torch.bincount(row, minlength=n).to(x.values.dtype)
    weights = -1 / (degree[row] * degree[column]).sqrt()
    everyone = torch.arange(n, device=row.device)
    places = torch.stack([torch.cat([row, everyone]), torch.cat([column, everyone])])
    values = torch.cat([weights, torch.ones_like(degree)])
    with torch.sparse.check_sparse_tensor_invariants(False):  # else torch warns, 2.11 whatever the call says
        laplacian = torch.sparse_coo_tensor(places, values, (n, n))
    if probes >= n:
        start = torch.eye(n, dtype=degree.dtype, device=row.device)
    else:
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(2, (n, probes), generator=generator, dtype=torch.float64) * 2 - 1
        start = (signs / math.sqrt(n)).to(degree)
    nodes, weights = _lanczos(laplacian, start)
    return (weights * torch.exp(-TIMES.to(nodes)[:, None, None] * nodes)).sum(2).mean(1)


def _lanczos(
    matrix: Tensor, start: Float[Tensor, "n p"]
) -> tuple[Float[Tensor, "p s"], Float[Tensor, "p s"]]:
    """Gauss quadrature of vᵀf(A)v for each column v of unit length: nodes and weights."""
    steps = min(STEPS, len(start))
    n, probes = start.shape
    basis = start.new_zeros(probes, steps, n)
    basis[:, 0] = start.T
    tridiagonal = start.new_zeros(probes, steps, steps)
    for step in range(steps):
        vector = (matrix @ basis[:, step].T).T
        tridiagonal[:, step, step] = (vector * basis[:, step]).sum(1)
        if step + 1 == steps:
            break
        earlier = basis[:, : step + 1]
        for _ in range(2):  # once is not enough to stay orthogonal
            shares = torch.bmm(earlier, vector[:, :, None])
            vector = vector - torch.bmm(shares.mT, earlier)[:, 0]
        length = vector.norm(dim=1)
        # else the space is exhausted, and what follows weighs nothing
        goes_on = length > torch.finfo(length.dtype).eps ** 0.6
        length = torch.where(goes_on, length, 0)
        basis[:, step + 1] = torch.where(goes_on, 1 / length, 0)[:, None] * vector
        tridiagonal[:, step, step + 1] = tridiagonal[:, step + 1, step] = length
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes, vectors[:, 0].square()
