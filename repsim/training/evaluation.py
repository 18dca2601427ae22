"""Logits, accuracy and robust accuracy of any network."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim.attacks import AnyAttack, run_attack
from repsim.data import (
    ImageSource,
    Split,
    as_split,
    batches_of_images,
    images_and_labels,
)
from repsim.models import Classifier, warn_of_batch_statistics
from repsim.support.devices import (
    device_of,
    evaluating,
)
from repsim.support.labels import LabelSource, as_labels, right_in_batch


def predict(model: nn.Module, images: ImageSource, *, batch_size: int = 500) -> Float[Tensor, "n classes"]:
    """Logits of images in [0, 1], in evaluation mode, on the device of `images`.

    Parameters
    ----------
    model
        As `run_attack` takes it.
    images
        As `as_images` takes them. A loader is gone through once, and never in memory as a whole.
    """
    model = Classifier(model)
    device = device_of(model)
    with evaluating(model), torch.no_grad():
        warn_of_batch_statistics(model)
        return torch.cat(
            [
                model(x.to(device)).to(batch.device)
                for batch in batches_of_images(images)
                for x in batch.split(batch_size)
            ]
        )


def accuracy(
    model: nn.Module, images: ImageSource, labels: LabelSource | None = None, *, batch_size: int = 500
) -> float:
    """Share of images whose largest logit is their label's; of multi-label data the share of attributes.

    Parameters
    ----------
    images, labels
        As `run_attack` takes them.
    """
    images, labels = images_and_labels(images, labels)
    labels = as_labels(labels).to(images.device)
    return right_in_batch(predict(model, images, batch_size=batch_size), labels).mean().item()


def robust_accuracy(
    model: nn.Module,
    split: Split | ImageSource,
    attacks: Iterable[AnyAttack],
    *,
    source: nn.Module | None = None,
) -> pd.DataFrame:
    """Accuracy on adversarial images of each attack.

    Parameters
    ----------
    split
        Or batches of images and labels, such as a loader (see `as_images`).
    attacks
        ε = 0 gives clean accuracy (of `jpeg` and `snow`: see there).
    source
        The model that the images are made to fool, when it is another one (transfer robustness).

    Returns
    -------
    DataFrame
        One row per attack: `attack` (its name), `norm`, `epsilon`, `steps`, `accuracy`.
    """
    split = as_split(split, "split")
    rows = []
    for attack in attacks:
        images = run_attack(source or model, split.images, split.labels, attack)
        rows.append(
            {
                "attack": attack.name,
                "norm": attack.norm,
                "epsilon": attack.epsilon,
                "steps": attack.steps,
                "accuracy": accuracy(model, images, split.labels),
            }
        )
    return pd.DataFrame(rows)
