"""Direct matching: the affine map that best takes one layer's values to another's, from streamed moments.

What least squares and Procrustes need of n·h·w rows are their means and second moments. These are summed
batch by batch, so that the rows are never held together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.support import messages

Match = Literal["least_squares", "pseudo_inverse", "orthogonal"]
MATCHES = ("least_squares", "pseudo_inverse", "orthogonal")

# A direction that varies less than 1e-5 as much as the one that varies most is float32's rounding.
SMALLEST_EIGENVALUE = 1e-10


@dataclass(frozen=True)
class Moments:
    """Means and covariances of rows x (n, d₁) and y (n, d₂), in float64.

    Attributes
    ----------
    rows
        How many there were.
    mean_x, mean_y
        (d₁,), (d₂,)
    xx, xy
        Covariances (d₁, d₁) and (d₁, d₂), divided by the number of rows.
    variance_y
        (d₂,)
    """

    rows: int
    mean_x: Float[Tensor, " d1"]
    mean_y: Float[Tensor, " d2"]
    xx: Float[Tensor, "d1 d1"]
    xy: Float[Tensor, "d1 d2"]
    variance_y: Float[Tensor, " d2"]

    @classmethod
    def of(cls, batches: Iterable[tuple[Float[Tensor, "m d1"], Float[Tensor, "m d2"]]]) -> Moments:
        """The moments of rows that come in batches.

        Raises
        ------
        ValueError
            There are no rows, or values that are not finite.
        """
        rows = 0
        for x, y in batches:
            x, y = x.double(), y.double()
            if not rows:
                # Sums of squares about the first batch's means: about zero they would lose the digits that
                # a variance much smaller than the mean is made of.
                origin_x, origin_y = x.mean(0), y.mean(0)
                sum_x, sum_y, xx, xy, yy = 0.0, 0.0, 0.0, 0.0, 0.0
            x, y = x - origin_x, y - origin_y
            rows += len(x)
            sum_x, sum_y = sum_x + x.sum(0), sum_y + y.sum(0)
            xx, xy, yy = xx + x.T @ x, xy + x.T @ y, yy + y.square().sum(0)
        if not rows:
            raise ValueError("a match needs at least one image.")
        if not (xx.isfinite().all() and yy.isfinite().all()):
            raise ValueError(
                "a match needs finite values, and one of the layers puts out NaN or infinity: its weights or "
                "inputs are damaged."
            )
        shift_x, shift_y = sum_x / rows, sum_y / rows
        return cls(
            rows=rows,
            mean_x=origin_x + shift_x,
            mean_y=origin_y + shift_y,
            xx=xx / rows - torch.outer(shift_x, shift_x),
            xy=xy / rows - torch.outer(shift_x, shift_y),
            variance_y=(yy / rows - shift_y.square()).clamp(min=0),
        )

    def solve(
        self, method: Match = "pseudo_inverse", *, ridge: float = 0.0, rank: int = 0
    ) -> tuple[Float[Tensor, "d2 d1"], Float[Tensor, " d2"]]:
        """The weight W and bias b for which W x + b is nearest to y.

        Parameters
        ----------
        method
            `least_squares`, of the squared error, which must have one solution; `pseudo_inverse`, of its
            solutions that of least norm; `orthogonal`, among rotations and reflections (Procrustes).
        ridge
            Of least squares: penalty on the squared weights, in units of the mean variance of x.
        rank
            Of the weight (reduced-rank regression); 0 for any.

        Raises
        ------
        ValueError
            The method is unknown, an option is none of its, or least squares has no single solution.
        """
        if method not in MATCHES:
            raise ValueError(messages.unknown("match", method, MATCHES))
        if ridge < 0 or (ridge and method != "least_squares"):
            raise ValueError(
                f"ridge is a number ≥ 0, for method='least_squares' only; not {ridge} for {method!r}."
            )
        if rank < 0:
            raise ValueError(f"rank must be at least 1, or 0 for any; it is {rank}.")
        if rank and method == "orthogonal":
            raise ValueError("an orthogonal match has full rank: rank is for the other methods.")
        if method == "orthogonal":
            u, _, v = torch.linalg.svd(self.xy, full_matrices=False)
            weight = (u @ v).T
        else:
            weight = self._regression(method, ridge).T
            if rank:
                # The best fit of a rank is the fit, projected on the directions in which it varies most.
                penalized = self.xx + self._penalty(ridge) * torch.eye(len(self.xx)).to(self.xx)
                _, directions = torch.linalg.eigh(weight @ penalized @ weight.T)
                kept = directions[:, -rank:]
                weight = kept @ (kept.T @ weight)
        return weight, self.mean_y - weight @ self.mean_x

    def _regression(self, method: str, ridge: float) -> Float[Tensor, "d1 d2"]:
        values, directions = torch.linalg.eigh(self.xx)
        values = values.clamp(min=0) + self._penalty(ridge)
        present = values > SMALLEST_EIGENVALUE * values[-1]
        if method == "least_squares" and not present.all():
            raise ValueError(
                f"least squares is singular: of the front layer's {len(values)} channels "
                f"{int((~present).sum())} are constant or made of the others. Take method='pseudo_inverse' "
                "(the solution of least norm) or a ridge such as 1e-3."
            )
        inverse = torch.where(present, 1 / values, 0.0)
        return directions @ (inverse[:, None] * (directions.T @ self.xy))

    def _penalty(self, ridge: float) -> Float[Tensor, ""]:
        return ridge * self.xx.diagonal().mean()

    def correlation(self) -> Float[Tensor, "d2 d1"]:
        """The correlation of each y with each x; 0 where one of them is constant."""
        variance_x = self.xx.diagonal().clamp(min=0)
        scale = torch.outer(self.variance_y, variance_x).sqrt()
        return torch.where(scale > 0, self.xy.T / scale, 0.0)
