"""Labels of images: one class each, or a 0 or 1 for each of several attributes (multi-label)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from repsim.support.arrays import tensor_of

TRADES_NEEDS_CLASSES = "TRADES compares the probabilities of classes that exclude each other: use pgd."
Labels = Int[Tensor, " n"] | Float[Tensor, "n attributes"]
LabelSource = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | Sequence  # what becomes `Labels`


def as_labels(labels: LabelSource) -> Labels:
    """Labels as users have them: the index of each one's class, or a 0 or 1 for each of its attributes.

    All labels have to be given at once. Rows with a single 1 each, of two columns or more, are one-hot and
    become classes; of a few rows alone it could not be told whether they are attributes.

    Parameters
    ----------
    labels
        A tensor, a NumPy array or a list: whole numbers, (n,) or (n, 1); or zeros and ones, (n, k).

    Raises
    ------
    ValueError
        They are of another shape, or neither classes nor zeros and ones.
    TypeError
        They are no array of real numbers, or some are masked.
    """
    labels = label_tensor(labels)
    whole = not labels.is_floating_point()
    if whole and (labels.dim() == 1 or (labels.dim() == 2 and labels.shape[1] == 1)):
        classes = labels.flatten().long()
        if len(classes) and (least := int(classes.min())) < 0:
            raise ValueError(f"labels must be classes, counted from 0; found {least}.")
        return classes
    if labels.dim() == 1:
        raise ValueError(
            f"labels, one class each, must be whole numbers, not {str(labels.dtype).removeprefix('torch.')}: "
            "give labels.long(), or of an array labels.astype(int). Labels of one attribute each are (n, 1)."
        )
    if labels.dim() != 2 or not labels.shape[1]:
        raise ValueError(
            "labels must be one class for each image, (n,), or a 0 or 1 for each of its attributes, (n, k); "
            f"found shape {tuple(labels.shape)}."
        )
    odd = labels[(labels != 0) & (labels != 1)]
    if len(odd):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} must be zeros and ones, found {odd[0].item():g}: soft "
            "labels are not taken, and classes are (n,)."
        )
    if len(labels) and labels.shape[1] > 1 and (labels.sum(1) == 1).all():
        return labels.long().argmax(1)
    return labels.float() if whole else labels


def label_tensor(labels: LabelSource) -> Tensor:
    """Labels as a tensor, whatever they say.

    Raises
    ------
    TypeError
        They are no array of real numbers, or some are masked.
    """
    if isinstance(labels, list | tuple):
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"labels must be numbers, each image's of one length: {error}.") from error
    return tensor_of(labels, "labels")


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


def right(logits: Float[Tensor, "n k"], labels: LabelSource) -> Float[Tensor, " n"]:
    """1 where an image's largest logit is its class's, else 0; with attributes the share that is right.

    Parameters
    ----------
    labels
        All of them, as `as_labels` takes them.
    """
    return right_in_batch(logits, as_labels(labels).to(logits.device))


def right_in_batch(logits: Float[Tensor, "n k"], labels: Labels) -> Float[Tensor, " n"]:
    """The answers of `right` for some of the labels that `as_labels` has given, taken as they are."""
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
