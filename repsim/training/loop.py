"""Train a network by a recipe (standard, adversarial or TRADES), and resume it after a kill."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim.activations.following import FollowingCopy
from repsim.data import Augmentation, Dataset
from repsim.models import build_model
from repsim.store import read_unfinished, write_unfinished
from repsim.support.devices import (
    check_precision,
    evaluating,
    laid_out,
    lay_out,
    resolve_device,
    rounding_to,
    seeded,
    training_format,
)
from repsim.support.labels import TRADES_NEEDS_CLASSES, Labels, is_multilabel, right_in_batch
from repsim.support.progress import progress_bar
from repsim.training.augmentation import augmented
from repsim.training.optimization import (
    batches_of,
    check_finite,
    free_objectives,
    make_optimizer,
    make_schedule,
    objective,
)
from repsim.training.overfitting import Guard
from repsim.training.recipe import Recipe


@torch.inference_mode(False)  # gradients, also where the caller has switched them off
def train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    device: str = "auto",
    progress: bool = True,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train a network by `recipe`.

    Each epoch draws from random numbers of its own, seeded by (`data_seed`, epoch), and the checkpoint
    holds everything else, so that N epochs, a kill and M more equal N + M epochs, on one CPU and with one
    number of threads bit for bit. Other threads may train at the same time, but take turns by epochs.

    Where the attack is a cheap one, accuracy under PGD-20 on held-out images is followed. If it falls, as in
    catastrophic overfitting, training goes back to the last good epoch, warns, and goes on with PGD.

    Parameters
    ----------
    checkpoint
        Written after each epoch but the last; where it exists and is whole, training goes on from it. The
        caller removes it, once the result is safe.
    on_epoch
        Called with the number of epochs done and the network, before the checkpoint is written.

    Returns
    -------
    tuple
        The network in evaluation mode, and a table with one row per epoch: `epoch`, `learning_rate` (at the
        epoch's end), `loss`, `accuracy` (on the training images as they were seen: augmented and attacked);
        where a cheap attack is followed also `robust`, the accuracy under PGD-20 on held-out images, and
        `pgd_steps`, those of the attack that took the cheap one's place (0: none had to).

    Raises
    ------
    Diverged
        The loss became NaN or infinite; or robust accuracy fell again and again.
    ValueError
        The recipe is of an imported network; the data are multi-label, and the method is TRADES; or the
        device lacks the recipe's precision.
    """
    if recipe.method == "imported":
        raise ValueError(f"{recipe.name} was trained elsewhere: its recipe cannot be followed here.")
    if recipe.method == "trades" and is_multilabel(dataset.train.labels):
        raise ValueError(TRADES_NEEDS_CLASSES)
    target = resolve_device(device)
    check_precision(recipe.precision, target)
    training = _Training(recipe, dataset, target)
    if checkpoint is not None and (written := read_unfinished(checkpoint)) is not None:
        training.restore(_loaded(written, checkpoint, recipe, target))

    with progress_bar(None, recipe.architecture, "epoch", progress, total=recipe.epochs) as bar:
        bar.update(len(training.history))
        while (done := len(training.history)) < recipe.epochs:
            row = training.epoch()
            if row is None:  # it went back
                continue
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.3f}")
            if on_epoch is not None:
                on_epoch(done + 1, training.model)
            if checkpoint is not None and done + 1 < recipe.epochs:
                content = io.BytesIO()
                torch.save({"address": recipe.address, **training.state()}, content)
                write_unfinished(checkpoint, content.getvalue())
    return lay_out(training.model.eval(), torch.contiguous_format), pd.DataFrame(training.history)


class _Training:
    """A network on its way: all that a checkpoint holds, and what it is trained on."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device):
        self.recipe, self.device = recipe, device
        classes, shape = len(dataset.classes), dataset.image_shape
        model = build_model(recipe.architecture, shape, classes, dataset.mean, dataset.std, seed=recipe.seed)
        self.model = model.to(device)
        self.optimizer = make_optimizer(recipe, self.model.parameters())
        self.split = dataset.train.to(device)
        self.guard = Guard(recipe, self.split, classes) if recipe.is_cheap else None
        self.rows = torch.arange(len(self.split)) if self.guard is None else self.guard.others
        self.batches = batches_of(recipe, len(self.rows))
        self.scheduler = make_schedule(recipe, self.optimizer, self.batches)
        self.augmentation = dataset.augmentation if recipe.augment else Augmentation()
        self.history: list[dict[str, float]] = []
        self._copy = _copied(self.model, shape) if recipe.precision == "bfloat16" and recipe.epsilon else None
        if self.guard is not None:
            self.guard.keep(self.state())

    def state(self) -> dict[str, object]:
        """All that changes from epoch to epoch."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {**{name: part.state_dict() for name, part in parts.items()}, "history": self.history}

    def restore(self, state: Mapping) -> None:
        """Go on from such a state."""
        self._set(state)
        if self.guard is not None:
            self.guard.keep(self.state())

    def _set(self, state: Mapping) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history = list(state["history"])

    def epoch(self) -> dict[str, float] | None:
        """Train for one epoch: the row of what was done; or None where it was a bad one, and is undone."""
        done = len(self.history)
        with seeded(self.recipe.data_seed * 100_003 + done, self.device):
            loss, accuracy = self._epoch()
            rate = self.scheduler.get_last_lr()[0]
            row = {"epoch": done + 1, "learning_rate": rate, "loss": loss, "accuracy": accuracy}
            if self.guard is not None:
                row |= {"robust": self._robust_accuracy(self.guard), "pgd_steps": self.guard.pgd_steps}
        if (
            self.guard is not None
            and self.recipe.attack(self._done).epsilon == self.recipe.epsilon
            and self.guard.has_fallen(row["robust"])
        ):
            self._set(self.guard.go_back(row["robust"]))
            return None
        self.history.append(row)
        if self.guard is not None:
            self.guard.keep(self.state())
        return row

    @property
    def _done(self) -> float:
        """The share of all epochs that is done."""
        return self.scheduler.last_epoch / (self.batches * self.recipe.epochs)

    def _epoch(self) -> tuple[float, float]:
        self.model.train()
        # the number of threads may have changed since the last epoch
        memory_format = training_format(self.device)
        lay_out(self.model, memory_format)
        order = self.rows[torch.randperm(len(self.rows))]
        batches = order.to(self.device).split(self.recipe.batch_size)[: self.batches]
        moves: list[Tensor] = []
        total_loss = correct = seen = 0.0
        for batch, images in zip(batches, self.split.in_batches(batches), strict=True):
            x, y = laid_out(augmented(images, self.augmentation), memory_format), self.split.labels[batch]
            for loss, logits in self._losses(x, y, moves):
                value = loss.item()
                rate = self.scheduler.get_last_lr()[0]
                check_finite(value, len(self.history) + 1, rate, self.recipe)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                total_loss += value * len(y)
                correct += right_in_batch(logits, y).sum().item()
                seen += len(y)
            self.scheduler.step()
        return total_loss / seen, correct / seen

    def _losses(self, x: Tensor, y: Labels, moves: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The loss and the logits of a batch, anew for each update where it is shown several times."""
        pgd_steps = 0 if self.guard is None else self.guard.pgd_steps
        attack = self.recipe.attack(self._done, pgd_steps)
        if self.recipe.training_attack == "free" and attack and not pgd_steps:
            yield from free_objectives(self._rounded, attack, x, y, moves)
            return
        if self._copy is not None:
            self._copy.follow(training_format(self.device))
        with self._rounding():
            found = objective(self.recipe, attack, self.model, x, y, attacked=self._copy)
        yield found

    def _rounded(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        with self._rounding():
            return self.model(images)

    def _rounding(self) -> torch.autocast:
        return rounding_to(self.recipe.precision, self.device)

    def _robust_accuracy(self, guard: Guard) -> float:
        """Accuracy of held-out images under the guard's attack."""
        if self._copy is not None:
            self._copy.follow(training_format(self.device))
        with evaluating(self.model), self._rounding():
            return guard.accuracy(self._copy or self.model, self.recipe.batch_size)


def _copied(model: nn.Module, image_shape: Sequence[int]) -> FollowingCopy | None:
    """The copy against which images are moved; None where there can be none, and it is the network itself."""
    try:
        return FollowingCopy(model, image_shape)
    except ValueError:
        return None


def _loaded(written: bytes, checkpoint: Path, recipe: Recipe, device: torch.device) -> dict:
    state = torch.load(io.BytesIO(written), map_location=device, weights_only=True)
    if state["address"] != recipe.address:
        raise ValueError(
            f"{checkpoint} belongs to recipe {state['address']}, not to {recipe.address}: give each recipe a "
            "checkpoint of its own."
        )
    return state
