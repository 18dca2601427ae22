"""What labels say of images: one class each, or a 0 or 1 for each of several attributes (multi-label)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TRADES_NEEDS_CLASSES = "TRADES compares the probabilities of classes that exclude each other: use pgd."
Labels = Int[Tensor, " n"] | Float[Tensor, "n attributes"]


def is_multilabel(labels: Labels) -> bool:
    """Whether each image has a 0 or 1 for each attribute, rather than one class."""
    return labels.dim() == 2


def label_loss(logits: Float[Tensor, "n k"], labels: Labels, *, reduction: str = "mean") -> Float[Tensor, ""]:
    """Cross-entropy with the class of each image; with attributes the mean of their binary cross-entropies.

    Parameters
    ----------
    reduction
        Over images: `mean` or `sum`.
    """
    if not is_multilabel(labels):
        return F.cross_entropy(logits, labels, reduction=reduction)
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
    return losses.mean() if reduction == "mean" else losses.sum()


def right(logits: Float[Tensor, "n k"], labels: Labels) -> Float[Tensor, " n"]:
    """1 where an image's largest logit is its class's, else 0; with attributes the share that is right."""
    if not is_multilabel(labels):
        return (logits.argmax(1) == labels).float()
    return ((logits > 0) == (labels > 0.5)).float().mean(1)


def check_one_class(labels: Labels, what: str) -> None:
    """Refuse labels that are attributes, where an analysis needs one class for each image.

    Parameters
    ----------
    what
        The analysis, for the message.

    Raises
    ------
    ValueError
        The labels are attributes.
    """
    if is_multilabel(labels):
        raise ValueError(
            f"{what} one class for each image; these images have {labels.shape[1]} attributes each "
            "(multi-label data)."
        )
