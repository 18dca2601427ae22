"""The interface of every attack, and running one on a model that is left as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from repsim.data import ImageSource, images_and_labels
from repsim.models.wrappers import Classifier, warn_of_batch_statistics
from repsim.support import messages
from repsim.support.devices import device_of, evaluating, seeded
from repsim.support.epsilons import epsilon_text, parse_epsilon
from repsim.support.labels import LabelSource, as_labels, label_loss

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
        """The name by which `make_attack` makes it."""

    @property
    def title(self) -> str:
        """The name in figures, such as `PGD-20 linf 0.1`."""
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
        """Do the work of `run_attack`, with checked images and the model in evaluation mode."""


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

                def summed(pixels: Tensor, y: Tensor = y) -> Tensor:
                    logits = model(pixels)
                    check_gradient(logits)
                    return loss(logits, y, reduction="sum")

                batches.append(self.climb(summed, x))
        return torch.cat(batches)


def check_gradient(logits: Tensor) -> None:
    """Refuse logits from which no gradient leads back to the images.

    Raises
    ------
    ValueError
        They have none, as of a network whose forward runs under `torch.no_grad`.
    """
    if not logits.requires_grad:
        raise ValueError(
            "the network's logits have no gradient for an attack to climb: its forward runs under "
            "torch.no_grad or torch.inference_mode, or detaches what it computes."
        )


def run_attack(
    model: nn.Module,
    images: ImageSource,
    labels: LabelSource | None,
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
        Takes images in [0, 1] and gives logits, alone, first in a tuple or as `logits` in a mapping; or is an
        `AttackerModel` of the robustness package. It is attacked in evaluation mode, on its own device and in
        its own dtype, without what wraps it (DataParallel, torch.compile), and left as it was.
    images
        As `as_images` takes them: a tensor, an array, or a loader. Attacks move them in float32 at least.
    labels
        As `as_labels` takes them; None: those of the batches that images come in. Labels for a `loss` of the
        caller's are given to it as they are.
    seed
        Of the random start, and of whatever else the attack draws. The caller's random state is left alone.
    loss
        Of logits and labels, with `reduction="sum"`; by default that which suits the labels.

    Returns
    -------
    Tensor
        On the device of `images`, in their dtype.

    Raises
    ------
    ValueError
        Images outside [0, 1], or of a kind that the attack does not take; labels that do not fit; or what is
        no network that gives logits, and a gradient to its images.
    """
    images, labels = images_and_labels(images, labels)
    if loss is label_loss:
        labels = as_labels(labels)
    model = Classifier(model)
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        _check_weights(model)
        warn_of_batch_statistics(model)
        moved = images.to(torch.promote_types(images.dtype, torch.float32))
        moved, labels = (each.clone() if each.is_inference() else each for each in (moved, labels))
        found = attack.run(model, moved, labels, batch_size=batch_size, seed=seed, loss=loss)
        return found.to(images)


def _check_weights(model: nn.Module) -> None:
    if any(weight.is_inference() for weight in model.parameters()):
        raise ValueError(
            "the network's weights were made under torch.inference_mode, where no gradient goes through "
            "them: build or load the network outside of it."
        )
