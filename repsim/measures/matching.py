"""Matching single units: do the same units come back, up to their order?"""

from __future__ import annotations

import math
import warnings

import scipy
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from repsim.measures import angles
from repsim.measures.measure import measure
from repsim.measures.representation import ROUNDINGS, Representation, centered, kept, kept_pair, norm


def _assign(gains: Float[Tensor, "d e"]) -> tuple[Tensor, Tensor]:
    """The pairs of units, each used once, whose gains sum to the most."""
    rows, columns = scipy.optimize.linear_sum_assignment(gains.cpu().numpy(), maximize=True)
    return tuple(torch.as_tensor(index, device=gains.device) for index in (rows, columns))


@measure(
    orientation="distance",
    range=(0, math.pi),
    invariances="permutation scale translation",
    metric=True,
    reference="Williams et al. 2021",
    elsewhere="netrep",
    half_precision=1e-3,
)
def permutation_angular(x: Representation, y: Representation) -> Tensor:
    """The angle between centred X and Y after the best one-to-one assignment of units; equal widths only.

    Use it to ask whether units themselves correspond, not only the spaces they span.

    Traps: independently trained networks score badly even where everything else agrees.
    """
    if x.width != y.width:
        raise ValueError(
            "permutation_angular matches units one to one and needs equal widths, got "
            f"{x.width} and {y.width}; use correlation_match_hard or permutation_procrustes."
        )
    a, b = centered(x) / norm(x), centered(y) / norm(y)
    rows, columns = _assign(a.T @ b)
    a, b = a[:, rows], b[:, columns]
    return angles.angle((a * b).sum(), lambda: a - b)


@measure(
    orientation="distance",
    range=(0, math.inf),
    invariances="permutation",
    metric=True,
    growth=0.5,
    reference="Williams et al. 2021",
    elsewhere="ReSi",
    half_precision=1e-3,
)
def permutation_procrustes(x: Representation, y: Representation) -> Tensor:
    """min over orders P of the units of ‖X − YP‖, as they are, the narrower padded with zeros.

    Use it for networks that should be equal but for the order of their units.

    Traps: scale and mean count; across architectures it hardly means anything.
    """
    width = max(x.width, y.width)
    a, b = (pad(side.values, (0, width - side.width)) for side in (x, y))
    rows, columns = _assign(a.T @ b)
    return (a[:, rows] - b[:, columns]).norm()


@kept("n u")
def _standard_units(x: Representation) -> Float[Tensor, "n u"]:
    """Centred units of length 1; constant ones are dropped."""
    values = centered(x)
    length = values.norm(dim=0)
    level = x.values.mean(0).abs() * math.sqrt(x.n)
    varies = length > level * ROUNDINGS * x.precision
    return values[:, varies] / length[varies]


def _warn_of_constant_units(x: Representation, y: Representation) -> None:
    for side in (x, y):
        constant = side.width - _standard_units(side).shape[1]
        if constant:
            warnings.warn(
                f"{constant} of {side.width} units of {side.name} are constant, have no correlation, and are "
                "left out.",
                stacklevel=3,
            )


@kept_pair
def unit_correlations(x: Representation, y: Representation) -> Float[Tensor, "d e"]:
    """Pearson correlation of every unit of X with every unit of Y."""
    return _standard_units(x).T @ _standard_units(y)


@measure(
    orientation="similarity",
    range=(-1, 1),
    invariances="permutation scale translation",
    reference="Li et al. 2015",
    elsewhere="ReSi",
    half_precision=1e-3,
)
def correlation_match_hard(x: Representation, y: Representation) -> Tensor:
    """Mean correlation of units matched one to one, as many as the narrower has.

    Use it for whether single units, whatever their scales, have counterparts.

    Traps: with few inputs the best of many correlations is high by chance. Constant units are left out, with
    a warning.
    """
    _warn_of_constant_units(x, y)
    correlations = unit_correlations(x, y)
    return correlations[_assign(correlations)].mean()


@measure(
    orientation="similarity",
    range=(-1, 1),
    invariances="permutation scale translation",
    reference="Li et al. 2015",
    elsewhere="ReSi",
    half_precision=1e-3,
)
def correlation_match_soft(x: Representation, y: Representation) -> Tensor:
    """Mean correlation of every unit with its best match, averaged over both directions.

    Use it where one unit may stand for several.

    Traps: those of `correlation_match_hard`; several units may share one match.
    """
    _warn_of_constant_units(x, y)
    correlations = unit_correlations(x, y)
    return (correlations.amax(0).mean() + correlations.amax(1).mean()) / 2
