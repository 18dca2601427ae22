"""Catastrophic overfitting to a cheap attack: noticed on held-out images, and undone."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from repsim.attacks import Attack, perturb
from repsim.data import Split, StreamedSplit, stratified
from repsim.support.labels import is_multilabel, label_loss, right_in_batch
from repsim.training.optimization import Diverged
from repsim.training.recipe import Recipe

STEPS = 20  # of the attack on held-out images
LARGEST = 1 / 10  # share of the training images that are held out at most
ERRORS = 4  # standard errors of a difference beyond which a fall is no chance
MOST_STEPS = 8  # of PGD in a cheap attack's place


class CatastrophicOverfitting(UserWarning):
    """A network learned to fool the attack of its training, and was robust no more."""


class Guard:
    """Held-out training images on which a stronger attack than that of training is tried after each epoch.

    An epoch is bad where accuracy under that attack fell to less than half of the best before it (or of what
    one answer for all gets), by more than chance. Training then goes back to the epoch before, and PGD takes
    the cheap attack's place, with twice the steps each time (2, 4, 8).

    Attributes
    ----------
    others
        The rows of the images that are not held out.
    pgd_steps
        Of the attack in the place of the cheap one; 0 where that is good enough.
    """

    def __init__(self, recipe: Recipe, split: Split | StreamedSplit, classes: int):
        count = max(1, min(recipe.held_out, int(LARGEST * len(split))))
        held = torch.from_numpy(stratified(split.labels.cpu().numpy(), count))
        is_held = torch.zeros(len(split), dtype=torch.bool)
        is_held[held] = True
        self.others = (~is_held).nonzero().flatten()
        self._images, self._labels = split.take(held), split.labels[held]
        self._attack = Attack(recipe.epsilon, recipe.norm, STEPS)
        self._chance = 0.0 if is_multilabel(split.labels) else 1 / classes
        self._best, self.pgd_steps = self._chance, 0
        self._good: dict[str, object] = {}

    def accuracy(self, network: Callable[[Tensor], Tensor], batch_size: int) -> float:
        """Accuracy on the held-out images under the attack, of a network in evaluation mode."""
        right = 0.0
        for x, y in zip(self._images.split(batch_size), self._labels.split(batch_size), strict=True):
            moved = perturb(
                lambda p, y=y: label_loss(network(p).float(), y, reduction="sum"), x, self._attack
            )
            with torch.no_grad():
                right += right_in_batch(network(moved), y).sum().item()
        return right / len(self._labels)

    def has_fallen(self, robust: float) -> bool:
        """Whether an epoch that ends with this accuracy is a bad one."""
        variance = 2 * self._best * (1 - self._best) / len(self._labels)
        return robust < self._best / 2 and self._best - robust > ERRORS * math.sqrt(variance)

    def keep(self, state: Mapping[str, object]) -> None:
        """Take a state of training, as it is now or as it is restored, for a good one."""
        rows = state["history"]
        self._best = max([self._chance, *(row["robust"] for row in rows)])
        self.pgd_steps = rows[-1]["pgd_steps"] if rows else 0
        self._good = copy.deepcopy(dict(state))

    def go_back(self, robust: float) -> Mapping[str, object]:
        """The last good state, from which training is to go on with a stronger attack.

        Raises
        ------
        Diverged
            The strongest attack in the place of the cheap one did not help either.
        """
        done = len(self._good["history"])
        fell = (
            f"accuracy under PGD-{STEPS} on {len(self._labels)} held-out images fell to {robust:.3f} in "
            f"epoch {done + 1}, from {self._best:.3f}"
        )
        if self.pgd_steps == MOST_STEPS:
            raise Diverged(f"{fell}, also where PGD-{MOST_STEPS} attacks. Lower learning_rate, or epsilon.")
        self.pgd_steps = 2 * self.pgd_steps or 2
        warnings.warn(
            f"catastrophic overfitting: {fell}. Training goes back to epoch {done}, and on with "
            f"PGD-{self.pgd_steps}.",
            CatastrophicOverfitting,
            stacklevel=4,
        )
        return copy.deepcopy(self._good)
