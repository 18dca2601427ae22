"""Losses that training minimises (of clean images, attacked ones, or both), and the steps that do it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.attacks import Attack, perturb
from repsim.support.devices import evaluating
from repsim.support.labels import label_loss


class Diverged(RuntimeError):
    """Training stopped because the loss was no longer a number."""


@runtime_checkable
class Task(Protocol):
    """The loss of logits for what they should be, as `torch.nn.functional.cross_entropy` is one."""

    def __call__(self, logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor: ...


@runtime_checkable
class Settings(Protocol):
    """The fields of a recipe that are read here."""

    method: str
    attack_ratio: float
    beta: float
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    optimizer: str
    weight_decay: float


def objective(
    settings: Settings,
    attack: Attack | None,
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    task: Task = label_loss,
) -> tuple[Tensor, Tensor]:
    """The loss of one batch, and the logits of the images as the model saw them.

    Parameters
    ----------
    settings
        `method="trades"` is TRADES, any other adversarial training on a share `attack_ratio` of the batch.
    attack
        None: clean images only.
    targets
        One for each image, in whatever form `task` takes them: by default a class, or a 0 or 1 for each
        attribute.
    """
    if attack is None:
        logits = model(x)
        return task(logits, targets), logits
    if settings.method == "trades":
        return _trades(settings.beta, attack, model, x, targets, task)
    attacked = round(settings.attack_ratio * len(x))
    if attacked:
        with evaluating(model):
            adversarial = perturb(
                lambda p: task(model(p), targets[:attacked], reduction="sum"), x[:attacked], attack
            )
        x = torch.cat([adversarial, x[attacked:]])
    logits = model(x)
    return task(logits, targets), logits


def _trades(
    beta: float, attack: Attack, model: nn.Module, x: Tensor, targets: Tensor, task: Task
) -> tuple[Tensor, Tensor]:
    """Loss of clean inputs + β · KL(clean ‖ adversarial); the attack climbs the KL term."""
    with evaluating(model):
        with torch.no_grad():
            clean = F.softmax(model(x), dim=1)
        # At the image itself the divergence has gradient zero: begin beside it, as the authors do.
        start = (x + 0.001 * torch.randn_like(x)).clamp(0, 1)
        adversarial = perturb(
            lambda p: F.kl_div(F.log_softmax(model(p), dim=1), clean, reduction="sum"),
            x,
            attack,
            start=start,
        )
    logits, adversarial_logits = model(x), model(adversarial)
    divergence = F.kl_div(
        F.log_softmax(adversarial_logits, dim=1), F.softmax(logits, dim=1), reduction="batchmean"
    )
    return task(logits, targets) + beta * divergence, adversarial_logits


def make_optimizer(settings: Settings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam, or SGD with Nesterov momentum 0.9."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay)
    return torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=decay)


def make_schedule(
    settings: Settings, optimizer: torch.optim.Optimizer, batches: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over all steps, of which an epoch has `batches`.

    `thirds` divides it by 10 before the first epoch of which 1/3 or more of all come earlier, and again where
    it is 2/3: of 4 epochs, before the third and the fourth (after Balogh & Jelasity, 2023).
    """
    total = settings.epochs * batches
    schedules = torch.optim.lr_scheduler
    if settings.schedule == "onecycle":
        return schedules.OneCycleLR(optimizer, settings.learning_rate, total_steps=total + 1)
    parts = (1, 2) if settings.schedule == "thirds" else ()
    drops = [batches * math.ceil(part * settings.epochs / 3) for part in parts]
    return schedules.MultiStepLR(optimizer, [step for step in drops if step < total], gamma=0.1)


def batches_of(settings: Settings, count: int) -> int:
    """The number of batches that `count` images make."""
    batches = math.ceil(count / settings.batch_size)
    if count % settings.batch_size == 1 and batches > 1:
        batches -= 1  # BatchNorm cannot learn from the one image that would be left over
    return batches


def check_finite(loss: float, epoch: int, rate: float, settings: Settings) -> None:
    """Stop training whose loss is no number any more.

    Raises
    ------
    Diverged
        It is not finite.
    """
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss became {loss} in epoch {epoch}, at learning rate {rate:.3g}. Lower learning_rate (now "
            f"{settings.learning_rate:g}), or look for NaN in the images."
        )
