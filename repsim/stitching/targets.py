"""What a stitched network is trained to answer: labels, or what its donors answer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim.optimization import Task
from repsim.stitching.options import StitchOptions

Labels = Int[Tensor, " n"] | Float[Tensor, "n classes"]


def is_multilabel(labels: Labels) -> bool:
    """Whether each image has a 0 or 1 for each class, rather than one class."""
    return labels.dim() == 2


def make_task(options: StitchOptions, multilabel: bool) -> Task:
    """The loss of logits for targets as `make_targets` gives them.

    With several soft targets for each image, (n, targets, classes), it is the mean of the losses for each.
    Multi-label data have a binary cross-entropy, the mean over classes, in place of the cross-entropy.
    """
    temperature = options.temperature

    def one(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        if not multilabel:
            return F.cross_entropy(logits, targets, reduction=reduction)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        return losses.mean() if reduction == "mean" else losses.sum()

    def task(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        if options.targets == "hard":
            return one(logits, targets, reduction)
        wanted = targets / temperature
        wanted = wanted.sigmoid() if multilabel else wanted.softmax(-1)
        losses = [one(logits / temperature, each, reduction) for each in wanted.unbind(1)]
        return temperature**2 * sum(losses) / len(losses)

    return task


def make_targets(
    options: StitchOptions, front: nn.Module, end: nn.Module, images: Float[Tensor, "n c h w"], labels: Labels
) -> Tensor:
    """Targets of images: the labels, or (n, targets, classes) logits of the donors, run only if needed."""
    if options.targets == "hard":
        return labels
    donors = {"soft_1": [front], "soft_2": [end]}.get(options.targets, [front, end])
    with torch.no_grad():
        logits = [donor(images) for donor in donors]
    if options.targets == "soft_1_plus_2":
        return ((logits[0] + logits[1]) / 2)[:, None]
    return torch.stack(logits, dim=1)
