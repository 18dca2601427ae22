"""Projected gradient descent on pixels, one forward pass per step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.attacks.running import GradientAttack, Norm
from repsim.support.compat import import_robustness
from repsim.support.epsilons import epsilon_text, parse_epsilon

_attack_steps = import_robustness("attack_steps")
STEPS = {"linf": _attack_steps.LinfStep, "l2": _attack_steps.L2Step}


@dataclass(frozen=True)
class Attack(GradientAttack):
    """Projected gradient descent, by its settings.

    Attributes
    ----------
    norm, epsilon
        The ball around each image, in pixel units of images in [0, 1].
    steps
        Gradient steps, each one forward and one backward pass.
    step_size
        Length of a step; 2.5 ε / steps unless given (Madry et al., 2018).
    random_start
        Begin at a random point of the ball rather than at the image.
    """

    steps: int = 20
    step_size: float | None = None
    random_start: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.step_size is None:
            object.__setattr__(self, "step_size", 2.5 * self.epsilon / self.steps)

    @property
    def name(self) -> str:
        """`fgsm` where the settings are those of `fgsm`, else `pgd`."""
        is_fgsm = self.steps == 1 and self.step_size == self.epsilon and not self.random_start
        return "fgsm" if is_fgsm else "pgd"

    @property
    def title(self) -> str:
        return f"FGSM {self.norm} {epsilon_text(self.epsilon)}" if self.name == "fgsm" else super().title

    def climb(
        self, loss: Callable[[Tensor], Tensor], images: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        return perturb(loss, images, self)


def fgsm(epsilon: float | str, norm: Norm = "linf") -> Attack:
    """The fast gradient (sign) method: one step of length ε from the image (Goodfellow et al., 2015)."""
    length = parse_epsilon(epsilon)
    return Attack(length, norm, steps=1, step_size=length, random_start=False)


def perturb(
    loss: Callable[[Tensor], Tensor],
    images: Float[Tensor, "n c h w"],
    attack: Attack,
    start: Float[Tensor, "n c h w"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Climb any loss of the images inside the attack's ball, as training and `run_attack` do.

    Parameters
    ----------
    loss
        From perturbed images to one number, the sum over images: what one image gains must not depend on
        how many others are in its batch.
    start
        Where to begin, instead of at the image or at a random point of the ball.
    """
    if attack.epsilon == 0:
        return images.clone()
    images = images.contiguous()  # robustness' L2 steps view images and gradients as (n, pixels)
    steps = STEPS[attack.norm](images, attack.epsilon, attack.step_size)
    perturbed = images if start is None else start
    if attack.random_start and start is None:
        # Several of these steps leave the ball: L2's start ends on its surface and is then clamped.
        perturbed = steps.project(steps.random_perturb(images))
    for _ in range(attack.steps):
        perturbed = perturbed.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(perturbed), perturbed)
        with torch.no_grad():
            perturbed = steps.project(steps.step(perturbed, gradient.contiguous()))
    return perturbed.detach()
