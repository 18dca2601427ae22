"""Gram matrices and the Hilbert–Schmidt independence criterion (HSIC) on them, which CKA is made of.

Sources: Kornblith et al. (2019) for CKA; Song et al. (2012) for U-centring and the unbiased HSIC; Nguyen et
al. (2021) for averaging it over minibatches.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Estimator = Literal["unbiased", "biased"]

# A Gram matrix is symmetric: of each strip of its rows, only what begins at the diagonal is computed. The
# columns go by in pieces that stay in the processor's cache between being centred and being multiplied.
STRIP = 64
COLUMNS = 4096
# Features that vary by less than this many roundings of their mean are constant.
ROUNDINGS = 16
# oneDNN multiplies float32 matrices on AMD processors in less than half the time that MKL takes, which is
# what torch's own product calls.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def centered_gram(features: Float[Tensor, "n ..."]) -> Float[Tensor, "n n"]:
    """X Xᵀ of the column-centred features (flattened to one row per input), in their own precision.

    Columns are centred before they are multiplied: centring the product instead cancels
    catastrophically in float32 once a mean is large beside its standard deviation. Features that are
    constant give exactly 0.
    """
    x = features.flatten(1)
    n, width = x.shape
    gram = x.new_zeros(n, n)
    level = x.new_zeros(())  # of the features: the sum of their squared means
    buffer = x.new_empty(n * min(COLUMNS, width))
    for columns in x.split(COLUMNS, dim=1):
        mean = columns.mean(0)
        level += mean.square().sum()
        piece = torch.sub(columns, mean, out=buffer[: columns.numel()].view(columns.shape))
        for top in range(0, n, STRIP):
            _add_product(gram[top : top + STRIP, top:], piece[top : top + STRIP], piece[top:])
    if gram.trace() < n * level * (ROUNDINGS * torch.finfo(x.dtype).eps) ** 2:
        return gram.zero_()
    upper = gram.triu_()
    return upper + upper.triu(1).T


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left rightᵀ to `total`."""
    if HAS_ONEDNN and left.device.type == "cpu" and left.dtype == torch.float32:
        total += torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    else:
        total.addmm_(left, right.T)


def recenter_(gram: Float[Tensor, "n n"], estimator: Estimator) -> Float[Tensor, "n n"]:
    """Make a Gram matrix ready, in place, for its inner products with others to be HSICs.

    `biased`: rows and columns centred (which they are up to rounding, if the features were). `unbiased`:
    U-centred, that is with a zero diagonal and rows and columns that sum to 0.
    """
    n = len(gram)
    if estimator == "biased":
        rows = gram.mean(1)
        return gram.sub_(rows[:, None]).sub_(rows).add_(rows.mean())
    rows = gram.fill_diagonal_(0).sum(1) / (n - 2)
    return gram.sub_(rows[:, None]).sub_(rows).add_(rows.sum() / (n - 1)).fill_diagonal_(0)


def hsic_scale(n: int, estimator: Estimator) -> float:
    """What an inner product of two recentred n × n Grams is multiplied by to be an HSIC."""
    return 1 / (n * (n - 3)) if estimator == "unbiased" else 1 / (n - 1) ** 2
