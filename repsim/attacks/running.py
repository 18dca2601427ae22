"""What every attack is, and running one on a model that is left as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from repsim import messages
from repsim.attacks.epsilons import epsilon_text, parse_epsilon
from repsim.data import check_pixels
from repsim.labels import label_loss
from repsim.models.attacker_model import unwrapped

Norm = Literal["linf", "l2"]
NORMS = ("linf", "l2")
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class AnyAttack(ABC):
    """An attack, by its settings.

    Attributes
    ----------
    epsilon
        How far it may go. In pixel units of images in [0, 1], unless the attack says otherwise.
    norm
        In which ε is measured.
    steps
        Gradient steps, each one forward and one backward pass.
    """

    epsilon: float
    norm: Norm = "linf"

    norms: ClassVar[tuple[str, ...]] = NORMS  # those that the attack is defined for
    steps: ClassVar[int]

    def __post_init__(self):
        if self.norm not in NORMS:
            raise ValueError(messages.unknown("norm", self.norm, NORMS))
        if self.norm not in self.norms:
            raise ValueError(f"the attack {self.name} has the norm {', '.join(self.norms)} only.")
        object.__setattr__(self, "epsilon", parse_epsilon(self.epsilon))
        if self.steps < 1:
            raise ValueError(f"an attack takes at least one step, not {self.steps}.")

    @property
    @abstractmethod
    def name(self) -> str:
        """By which `make_attack` makes it."""

    @property
    def title(self) -> str:
        """What figures call it, such as `PGD-20 linf 0.1`."""
        return f"{self.name.upper()}-{self.steps} {self.norm} {epsilon_text(self.epsilon)}"

    @abstractmethod
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
        """What `run_attack` does, once it has checked the images and put the model into evaluation mode."""


class GradientAttack(AnyAttack):
    """An attack that climbs any loss, batch by batch."""

    @abstractmethod
    def climb(
        self, loss: Callable[[Tensor], Tensor], images: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial versions of one batch.

        Parameters
        ----------
        loss
            From images to one number, the sum over images: what one image gains must not depend on how
            many others are in its batch.
        """

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
        device = device_of(model)
        batches = []
        with seeded(seed, device):
            for start in range(0, len(images), batch_size):
                x = images[start : start + batch_size].to(device)
                y = labels[start : start + batch_size].to(device)
                batches.append(self.climb(lambda p, y=y: loss(model(p), y, reduction="sum"), x))
        return torch.cat(batches)


def run_attack(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Shaped[Tensor, "n ..."],
    attack: AnyAttack,
    *,
    batch_size: int = 500,
    seed: int = 0,
    loss: Loss = label_loss,
) -> Float[Tensor, "n c h w"]:
    """Adversarial images: as far from `images` as the attack may go and in [0, 1], climbing a loss.

    Parameters
    ----------
    model
        Takes images in [0, 1] and gives logits, or is an `AttackerModel` of the robustness package; it is
        attacked in evaluation mode, on its own device, and left as it was.
    seed
        Of the random start, and of whatever else the attack draws. The caller's random state is left alone.
    loss
        Of logits and labels, with `reduction="sum"`; by default that which suits the labels.

    Returns
    -------
    Tensor
        On the device of `images`.

    Raises
    ------
    ValueError
        Images outside [0, 1], or of a kind that the attack does not take.
    """
    check_pixels(images)
    model = unwrapped(model)
    with evaluating(model):
        found = attack.run(model, images, labels, batch_size=batch_size, seed=seed, loss=loss)
    return found.to(images.device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model into evaluation mode inside the block, and each of its modules back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers from `seed` inside the block; the caller's random state is as before after it."""
    accelerators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(accelerators):
        torch.manual_seed(seed)
        yield


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's weights."""
    return next(model.parameters()).device
