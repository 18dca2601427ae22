"""Losses that training minimises (of clean images, attacked ones, or both), and the steps that do it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repsim.attacks import Attack, perturb
from repsim.attacks.gradient import STEPS
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
    *,
    attacked: Callable[[Tensor], Tensor] | None = None,
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
    attacked
        Gives the logits that the attack is made for: a faster copy of the model; by default the model itself,
        in evaluation mode.
    """
    if attack is None:
        logits = _logits(model, x)
        return task(logits, targets), logits
    if settings.method == "trades":
        return _trades(settings.beta, attack, model, attacked or model, x, targets, task)
    count = round(settings.attack_ratio * len(x))
    if count:
        with evaluating(model):
            adversarial = perturb(
                lambda p: task(_logits(attacked or model, p), targets[:count], reduction="sum"),
                x[:count],
                attack,
            )
        x = torch.cat([adversarial, x[count:]])
    logits = _logits(model, x)
    return task(logits, targets), logits


def free_objectives(
    model: Callable[[Tensor], Tensor],
    attack: Attack,
    x: Tensor,
    targets: Tensor,
    moves: list[Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    """The loss and logits of a batch before each of several updates, whose gradient moves the images, too.

    "Free" adversarial training (Shafahi et al., 2019): one backward pass, by the caller, between two of what
    is given serves the weights and the images.

    Parameters
    ----------
    model
        In training mode.
    attack
        Its steps are the updates.
    moves
        What the images of the batch before were moved by, where these begin; empty at first, and changed.
    """
    x = x.contiguous()  # robustness' L2 steps view images and gradients as (n, pixels)
    steps = STEPS[attack.norm](x, attack.epsilon, attack.step_size)
    if not moves or len(moves[0]) < len(x):
        moves[:] = [torch.zeros_like(x)]
    images = steps.project(x + moves[0][: len(x)])
    for _ in range(attack.steps):
        images = images.detach().requires_grad_()
        logits = _logits(model, images)
        yield label_loss(logits, targets), logits
        with torch.no_grad():
            images = steps.project(steps.step(images, images.grad.contiguous()))
    moves[0][: len(x)] = images - x


def _logits(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Logits, those of half precision in float32: losses are not computed in less."""
    logits = model(images)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _trades(
    beta: float,
    attack: Attack,
    model: nn.Module,
    attacked: Callable[[Tensor], Tensor],
    x: Tensor,
    targets: Tensor,
    task: Task,
) -> tuple[Tensor, Tensor]:
    """Loss of clean inputs + β · KL(clean ‖ adversarial); the attack climbs the KL term."""
    with evaluating(model):
        with torch.no_grad():
            clean = F.softmax(_logits(attacked, x), dim=1)
        # At the image itself the divergence has gradient zero: begin beside it, as the authors do.
        start = (x + 0.001 * torch.randn_like(x)).clamp(0, 1)
        adversarial = perturb(
            lambda p: F.kl_div(F.log_softmax(_logits(attacked, p), dim=1), clean, reduction="sum"),
            x,
            attack,
            start=start,
        )
    logits, adversarial_logits = _logits(model, x), _logits(model, adversarial)
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
