"""One number for each representation, compared: cheap, and blind to all else."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.measures.measure import measure, number_option
from repsim.measures.rdm import squared_distances, unit_raw, unit_rows
from repsim.measures.representation import Representation, kept, pairs

REFERENCE = "Wang et al. 2020"


@measure(
    orientation="distance",
    range=(0, math.inf),
    invariances="orthogonal",
    reference=REFERENCE,
    elsewhere="ReSi",
    half_precision=math.inf,
)
def magnitude_difference(x: Representation, y: Representation) -> Tensor:
    """Difference of the lengths of the mean rows.

    Use it beside others, to see whether scale or mean has changed.

    Traps: it knows nothing of single inputs: unrelated representations can have distance 0.
    """
    return (x.values.mean(0).norm() - y.values.mean(0).norm()).abs()


@measure(
    orientation="distance",
    range=(0, 2),
    invariances="orthogonal scale",
    reference=REFERENCE,
    elsewhere="ReSi",
    half_precision=math.inf,
)
def concentricity_difference(x: Representation, y: Representation) -> Tensor:
    """Difference of the mean cosines of rows with their mean row.

    Use it beside others, to see whether the rows have become more alike in direction.

    Traps: those of `magnitude_difference`. Rows of zeros count as cosine 0; where the mean row is 0, so is
    all.
    """
    return (_concentricity(x) - _concentricity(y)).abs()


@kept("")
def _concentricity(x: Representation) -> Float[Tensor, ""]:
    return (unit_raw(x) @ unit_rows(x.values.mean(0, keepdim=True)).T).mean()


@measure(
    orientation="distance",
    range=(0, math.inf),
    invariances="orthogonal translation",
    reference="Wang & Isola 2020",
    elsewhere="ReSi†",
    examples=({}, {"t": 0.5}),
    half_precision=math.inf,
)
def uniformity_difference(x: Representation, y: Representation, *, t: float = 2.0) -> Tensor:
    """Difference of the logarithms of the mean exp(−`t`‖a − b‖²) over all pairs of different inputs.

    Use it beside others, to see whether inputs have spread out or drawn together.

    Traps: those of `magnitude_difference`. Large distances leave only the nearest pair (the sum is taken in
    logarithms, so that it does not vanish). ReSi counts each input's distance 0 to itself as well, which
    leaves next to nothing of anything else.
    """
    number_option("t", t, lambda value: value > 0, "a number above 0")
    return (_uniformity(x, t) - _uniformity(y, t)).abs()


@kept("")
def _uniformity(x: Representation, t: float) -> Float[Tensor, ""]:
    squared = pairs(squared_distances(x))
    return torch.logsumexp(-t * squared, 0) - math.log(len(squared))
