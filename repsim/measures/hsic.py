"""Gram matrices and the Hilbert–Schmidt independence criterion (HSIC) on them, which CKA is made of.

Sources: Kornblith et al. (2019) for CKA; Song et al. (2012) for U-centring and the unbiased HSIC; Nguyen et
al. (2021) for averaging it over minibatches.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.measures.products import products
from repsim.measures.representation import ROUNDINGS

Estimator = Literal["unbiased", "biased"]

# A Gram matrix is symmetric: of each strip of its rows, only what begins at the diagonal is computed. The
# columns go by in pieces that stay in the processor's cache between being centred and being multiplied.
STRIP = 64
COLUMNS = 4096


def centered_gram(features: Float[Tensor, "n ..."]) -> Float[Tensor, "n n"]:
    """X Xᵀ of the column-centred features (flattened to one row per input), in their own precision.

    Columns are centred before they are multiplied: centring the product instead cancels
    catastrophically in float32 once a mean is large beside its standard deviation. Features that are
    constant give exactly 0.
    """
    x = features.flatten(1)
    n, width = x.shape
    gram = x.new_zeros(n, n)
    strip = STRIP if x.device.type == "cpu" else n  # where half of the products saves less than calls cost
    level = x.new_zeros(())  # of the features: the sum of their squared means
    buffer = x.new_empty(n * min(COLUMNS, width))
    for columns in x.split(COLUMNS, dim=1):
        mean = columns.mean(0)
        level += mean.square().sum()
        piece = torch.sub(columns, mean, out=buffer[: columns.numel()].view(columns.shape))
        for top in range(0, n, strip):
            gram[top : top + strip, top:] += products(piece[top : top + strip], piece[top:])
    if gram.trace() < n * level * (ROUNDINGS * torch.finfo(x.dtype).eps) ** 2:
        return gram.zero_()
    upper = gram.triu_()
    return upper + upper.triu(1).T


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
    """The factor from an inner product of two recentred n × n Grams to an HSIC."""
    return 1 / (n * (n - 3)) if estimator == "unbiased" else 1 / (n - 1) ** 2


def u_centered_product(
    product: Float[Tensor, ""],
    k: Float[Tensor, " n"],
    l: Float[Tensor, " n"],  # noqa: E741
) -> Float[Tensor, ""]:
    """⟨K̃, L̃⟩ of the U-centred matrices, from the product ⟨K, L⟩ of the centred ones and their diagonals.

    Song et al. (2012), equation 5: without its diagonal k, a centred matrix has rows that sum to −k.
    """
    n = len(k)
    return product - (k @ l) * (n / (n - 2)) + k.sum() * l.sum() / ((n - 1) * (n - 2))


def cosine_without_each(k: Float[Tensor, "n n"], l: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:  # noqa: E741
    """⟨K̃, L̃⟩ / √(⟨K̃, K̃⟩⟨L̃, L̃⟩) of the U-centred matrices without each input in turn: all n in n² steps."""
    k, l = (matrix - matrix.diagonal().diag() for matrix in (k, l))  # noqa: E741
    own_k, own_l = (unless_rounding(_inner_without_each(one, one), one.square().sum()) for one in (k, l))
    return _inner_without_each(k, l) / (own_k.sqrt() * own_l.sqrt())


def unless_rounding(own: Float[Tensor, "*n"], whole: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    """⟨K̃, K̃⟩; NaN where it is 0 but for what rounding leaves of the `whole` that it is the rest of."""
    return torch.where(own > ROUNDINGS * torch.finfo(own.dtype).eps * whole, own, torch.nan)


def _inner_without_each(k: Tensor, l: Tensor) -> Float[Tensor, " n"]:  # noqa: E741
    """⟨K̃, L̃⟩ without input r: from the sums over all, what row and column r added is taken away."""
    n = len(k) - 1
    rows_k, rows_l = k.sum(1), l.sum(1)
    own = (k * l).sum(1)
    product = (k * l).sum() - 2 * own
    of_rows = rows_k @ rows_l - rows_k * rows_l - l @ rows_k - k @ rows_l + own
    sums = (rows_k.sum() - 2 * rows_k) * (rows_l.sum() - 2 * rows_l)
    return product + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * of_rows
