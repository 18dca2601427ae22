"""The measures: neighbours, wide Procrustes, many measures of a pair, and few measures of many pairs.

Beside each stands what it would cost by plain means, in float64 throughout, taken in turn in one run.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from measuring import THREADS, Row, best_times, show
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from repsim.measures import MEASURES, compare, compare_many

K = 10
BLOCK = 512
TOPOLOGICAL = ("rtd", "imd")
FEW = ["cka", "procrustes", "jaccard"]


def related(n: int, widths: list[int]) -> list[Tensor]:
    """Representations that share a third of their variance."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    latent = normal(n, 32)
    return [latent @ normal(32, width) / 8 + normal(n, width) for width in widths]


def bare_neighbors(x: Tensor) -> list[Tensor]:
    """All cosines in blocks, and the k + 1 largest of each row: the least there is to do in float64."""
    rows = x / x.norm(dim=1, keepdim=True)
    return [(block @ rows.T).topk(K + 1, dim=1).indices for block in rows.split(BLOCK)]


def jaccard_by_rows(x: Tensor, y: Tensor) -> float:
    """A loop over the rows."""
    sides = [(side / side.norm(dim=1, keepdim=True)).numpy() for side in (x, y)]
    overlaps = []
    for i in range(len(x)):
        nearest = []
        for rows in sides:
            cosines = rows @ rows[i]
            cosines[i] = -np.inf
            nearest.append(set(np.argpartition(-cosines, K)[:K].tolist()))
        overlaps.append(len(nearest[0] & nearest[1]) / len(nearest[0] | nearest[1]))
    return float(np.mean(overlaps))


def sklearn_neighbors(x: Tensor) -> np.ndarray:
    search = NearestNeighbors(n_neighbors=K + 1, metric="cosine", algorithm="brute", n_jobs=THREADS)
    return search.fit(x.numpy()).kneighbors(x.numpy(), return_distance=False)


def neighbors_rows() -> list[Row]:
    x, y = related(10_000, [512, 512])
    seconds = best_times(
        {
            "ours": lambda: MEASURES["jaccard"](x, y, k=K),
            "bare": lambda: [bare_neighbors(side) for side in (x, y)],
            "sklearn": lambda: [sklearn_neighbors(side) for side in (x, y)],
            "loop": lambda: jaccard_by_rows(x, y),
        },
        2,
    )
    ours = seconds["ours"]
    return [
        Row("Jaccard, 10,000 × 512", f"{ours:.2f} s"),
        Row("… ÷ bare distances and topk", f"{seconds['bare']:.2f} s", ours / seconds["bare"], at_most=1.2),
        Row("row loop ÷ it", f"{seconds['loop']:.2f} s", seconds["loop"] / ours, at_least=4),
        Row(
            "scikit-learn's neighbours ÷ it",
            f"{seconds['sklearn']:.2f} s",
            seconds["sklearn"] / ours,
            at_least=2,
        ),
    ]


def procrustes_rows() -> list[Row]:
    x, y = related(2_000, [8_192, 8_192])
    ours = best_times({"ours": lambda: MEASURES["procrustes"](x, y)}, 2)["ours"]
    start = time.perf_counter()
    torch.linalg.svdvals((x - x.mean(0)).T @ (y - y.mean(0)))
    wide = time.perf_counter() - start
    return [
        Row("Procrustes, 2,000 × 8,192", f"{ours:.2f} s"),
        Row("singular values of the wide product ÷ it", f"{wide:.1f} s", wide / ours, at_least=15),
    ]


def compare_rows() -> list[Row]:
    x, y = related(2_000, [512, 512])
    chosen = [name for name in MEASURES if name not in TOPOLOGICAL]
    single = {f"single {name}": lambda name=name: MEASURES[name](x, y) for name in chosen}
    seconds = best_times({"together": lambda: compare(x, y, chosen), **single}, 4)
    together = seconds.pop("together")
    one_by_one = sum(seconds.values())
    return [
        Row(f"{len(chosen)} measures one by one, 2,000 × 512", f"{one_by_one:.2f} s"),
        Row("compare ÷ that", f"{together:.2f} s", together / one_by_one, at_most=0.4),
    ]


def many_rows() -> list[Row]:
    representations = dict(enumerate(related(5_000, [512] * 9)))
    names = {f"model {i}": values for i, values in representations.items()}

    def one_by_one() -> None:
        for i in range(9):
            for j in range(i):
                for name in FEW:
                    MEASURES[name](representations[i], representations[j])

    seconds = best_times(
        {"many": lambda: compare_many(names, FEW, progress=False), "one by one": one_by_one}, 1
    )
    many, single = seconds["many"], seconds["one by one"]
    return [
        Row("compare_many, 9 × 5,000 × 512, 3 measures", f"{many:.2f} s"),
        Row("pairs one by one ÷ it", f"{single:.2f} s", single / many, at_least=5),
    ]


def main() -> None:
    rows = [*neighbors_rows(), *compare_rows(), *many_rows(), *procrustes_rows()]
    notes = [
        "The row loop and the sums over pairs include what the measures do with the neighbours; the bare",
        "distances and scikit-learn's neighbours do not. Left out of the measures: rtd and imd.",
        "The wide singular values are timed once.",
    ]
    show("Similarity measures", rows, notes)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    main()
