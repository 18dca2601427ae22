"""APGD and AutoAttack (Croce & Hein, 2020), by their authors' package `pyautoattack`."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from repsim.attacks.running import AnyAttack, Loss, Norm, check_gradient, run_attack
from repsim.data import ImageSource
from repsim.support import messages
from repsim.support.devices import device_of, seeded
from repsim.support.epsilons import epsilon_text
from repsim.support.extras import extra
from repsim.support.labels import LabelSource, label_loss

NORM_NAMES = {"linf": "Linf", "l2": "L2"}
TARGETS = 9  # wrong classes that targeted attacks aim at, the likeliest first
NEEDED = {"ce": 2, "dlr": 3, "t": 4}  # classes, by loss


@dataclass(frozen=True)
class Published(AnyAttack):
    """An attack of the package. Its loss is its own; an image that it cannot fool is returned as it is."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """The number of classes that a model needs."""

    @abstractmethod
    def find(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        targets: int,
        batch_size: int,
        seed: int,
    ) -> Float[Tensor, "n c h w"]:
        """Let the package find adversarial images, aiming at so many wrong classes, on the model's device."""

    def run(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Shaped[Tensor, "n ..."],
        *,
        batch_size: int,
        seed: int,
        loss: Loss,
    ) -> Float[Tensor, "n c h w"]:
        if loss is not label_loss:
            raise ValueError(f"{self.name} climbs a loss of its own: give it none.")
        if labels.ndim != 1:
            raise ValueError(
                f"{self.name} needs one class for each image, not labels of shape {tuple(labels.shape)}."
            )
        if self.epsilon == 0:
            return images.clone()
        device = device_of(model)
        logits = model(images[:1].to(device, copy=True).requires_grad_())
        check_gradient(logits)
        classes = logits.shape[1]
        if classes < self.classes:
            raise ValueError(
                f"{self.name} needs a model of at least {self.classes} classes, not {classes}: its loss "
                f"compares the {self.classes} largest logits. apgd_ce does with two."
            )
        with _quiet(), _own_random_numbers(seed, device):
            targets = min(TARGETS, classes - 1)
            found = self.find(model, images.to(device), labels.to(device), targets, batch_size, seed)
        return found.detach().to(images)


@dataclass(frozen=True)
class APGD(Published):
    """Projected gradient descent that sets its own step size, from one random start.

    Attributes
    ----------
    loss
        `ce`, cross-entropy; `dlr`, the difference of logits ratio, which confidence does not flatten; or `t`,
        the same aimed at each of the nine likeliest wrong classes in turn, with so many steps each.
    """

    steps: int = 100
    loss: Literal["ce", "dlr", "t"] = "ce"

    def __post_init__(self):
        if self.loss not in NEEDED:
            raise ValueError(messages.unknown("loss of APGD", self.loss, NEEDED))
        super().__post_init__()

    @property
    def name(self) -> str:
        return f"apgd_{self.loss}"

    @property
    def title(self) -> str:
        return f"APGD-{self.loss.upper()}-{self.steps} {self.norm} {epsilon_text(self.epsilon)}"

    @property
    def classes(self) -> int:
        return NEEDED[self.loss]

    def find(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        targets: int,
        batch_size: int,
        seed: int,
    ) -> Float[Tensor, "n c h w"]:
        with extra("autoattack", "APGD needs"):
            from pyautoattack import autopgd_base as package
        options = {"n_iter": self.steps, "norm": NORM_NAMES[self.norm], "eps": self.epsilon, "seed": seed}
        options |= {"device": images.device, "logger": _logger()}
        if self.loss == "t":
            attack = package.APGDAttack_targeted(model, n_target_classes=targets, **options)
        else:
            attack = package.APGDAttack(model, loss=self.loss, **options)
        batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return torch.cat([attack.perturb(x, y) for x, y in batches])


@dataclass(frozen=True)
class AutoAttack(Published):
    """The standard version: APGD with cross-entropy, targeted APGD, targeted FAB, and Square.

    Takes minutes where PGD takes seconds, and fools at least about as many.
    """

    name: ClassVar[str] = "autoattack"
    steps: ClassVar[int] = 100  # of each of its gradient attacks
    classes: ClassVar[int] = NEEDED["t"]

    @property
    def title(self) -> str:
        return f"AutoAttack {self.norm} {epsilon_text(self.epsilon)}"

    def find(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        targets: int,
        batch_size: int,
        seed: int,
    ) -> Float[Tensor, "n c h w"]:
        with extra("autoattack", "AutoAttack needs"):
            import pyautoattack as package
        pixels = images.float()  # it knows no other dtype
        attack = package.AutoAttack(
            lambda x: model(x).float(),
            eps=self.epsilon,
            norm=NORM_NAMES[self.norm],
            seed=seed,
            device=images.device,
        )
        if targets < TARGETS:  # it would look for more classes than there are
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        found = attack.run_standard_evaluation(pixels, labels, batch_size=batch_size)[0]
        return torch.where(found == pixels, images, found.to(images))


def autoattack(
    model: nn.Module,
    images: ImageSource,
    labels: LabelSource | None,
    epsilon: float,
    norm: Norm = "linf",
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> Float[Tensor, "n c h w"]:
    """Adversarial images by AutoAttack's standard version (Croce & Hein, 2020), through `pyautoattack`.

    Raises
    ------
    RuntimeError
        `pyautoattack` is not installed.
    ValueError
        Images outside [0, 1], or a model of fewer than four classes.
    """
    return run_attack(model, images, labels, AutoAttack(epsilon, norm), batch_size=batch_size, seed=seed)


def _logger() -> logging.Logger:
    return logging.getLogger("auto-attack")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the package prints and logs; it also takes a debugger's trace function away."""
    logger, trace = _logger(), sys.gettrace()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        sys.settrace(trace)


@contextlib.contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed as `seeded` does, and the current CUDA device as well, which the package seeds also on the CPU."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with seeded(seed, device), torch.random.fork_rng(cuda):
        yield
