"""Targets that a stitched network is trained to answer: labels, or what its donors answer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from repsim.activations import LayerGraph
from repsim.studies.stitching.options import StitchOptions
from repsim.support.labels import TRADES_NEEDS_CLASSES, Labels, is_multilabel, label_loss
from repsim.training import predict
from repsim.training.optimization import Task


def make_task(options: StitchOptions, multilabel: bool) -> Task:
    """The loss of logits for targets as `make_targets` gives them.

    With several soft targets for each image, (n, targets, classes), it is the mean of the losses for each.
    All logits are divided by the temperature T, and the loss is not multiplied by T²: its gradients fall with
    that.
    Multi-label data have a binary cross-entropy, the mean over classes, in place of the cross-entropy.
    """
    temperature = options.temperature

    def one(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        if multilabel:
            return label_loss(logits, targets, reduction=reduction)
        return F.cross_entropy(logits, targets, reduction=reduction)  # of classes, or of their probabilities

    def task(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        if options.targets == "hard":
            return one(logits, targets, reduction)
        wanted = targets / temperature
        wanted = wanted.sigmoid() if multilabel else wanted.softmax(-1)
        losses = [one(logits / temperature, each, reduction) for each in wanted.unbind(1)]
        return sum(losses) / len(losses)

    return task


def make_targets(
    options: StitchOptions, front: nn.Module, end: nn.Module, images: Float[Tensor, "n c h w"], labels: Labels
) -> Tensor:
    """Targets of images: the labels, or (n, targets, classes) logits of the donors, run only if needed."""
    if options.targets == "hard":
        return labels
    donors = {"soft_1": [front], "soft_2": [end]}.get(options.targets, [front, end])
    logits = [predict(donor, images) for donor in donors]
    if options.targets == "soft_1_plus_2":
        return ((logits[0] + logits[1]) / 2)[:, None]
    return torch.stack(logits, dim=1)


def check_targets(options: StitchOptions, front: LayerGraph, end: LayerGraph, labels: Labels) -> None:
    """Refuse targets that the donors cannot give, or the end cannot answer.

    Raises
    ------
    ValueError
        The front's classes are asked for, and are others than the end's; the labels are of more classes; or
        the data are multi-label, and the method is TRADES.
    """
    classes = end.classes
    asked = {"targets": ("soft_1", "soft_12", "soft_1_plus_2"), "attacked": ("front", "both")}
    for option, values in asked.items():
        value = getattr(options, option)
        if value in values and front.classes != classes:
            raise ValueError(
                f"{option}={value!r} needs a front that tells as many classes apart as the end, not "
                f"{front.classes} and {classes}."
            )
    if options.method == "trades" and is_multilabel(labels):
        raise ValueError(TRADES_NEEDS_CLASSES)
    wanted = labels.shape[1] if is_multilabel(labels) else int(labels.max()) + 1
    if wanted > classes or (is_multilabel(labels) and wanted != classes):
        raise ValueError(f"the data have {wanted} classes or more, the end's answers are {classes}.")
