"""An attack's norm, ε and steps → adversarial inputs, on any device, one forward pass per step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from repsim import messages
from repsim._compat import import_robustness
from repsim.data import check_pixels

Norm = Literal["linf", "l2"]
_attack_steps = import_robustness("attack_steps")
STEPS = {"linf": _attack_steps.LinfStep, "l2": _attack_steps.L2Step}


def parse_epsilon(value: str | float, name: str = "epsilon") -> float:
    """ε, or another length in pixel units of images in [0, 1], from a number or text such as `8/255`.

    Raises
    ------
    ValueError
        It is neither, or negative.
    """
    try:
        epsilon = float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{name} must be a number or a fraction such as '8/255', not {value!r}.") from error
    if not 0 <= epsilon < float("inf"):
        raise ValueError(f"{name} must be a finite number ≥ 0 in pixel units, not {value!r}.")
    return epsilon


def epsilon_text(epsilon: float) -> str:
    """ε as a person writes it: `0.1`, or `8/255` where a decimal would be long."""
    decimal, levels = f"{epsilon:g}", epsilon * 255
    is_levels = len(decimal) > 5 and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if is_levels else decimal


@dataclass(frozen=True)
class Attack:
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

    epsilon: float
    norm: Norm = "linf"
    steps: int = 20
    step_size: float | None = None
    random_start: bool = True

    def __post_init__(self):
        if self.norm not in STEPS:
            raise ValueError(messages.unknown("norm", self.norm, STEPS))
        object.__setattr__(self, "epsilon", parse_epsilon(self.epsilon))
        if self.steps < 1:
            raise ValueError(f"an attack takes at least one step, not {self.steps}.")
        if self.step_size is None:
            object.__setattr__(self, "step_size", 2.5 * self.epsilon / self.steps)


def fgsm(epsilon: float | str, norm: Norm = "linf") -> Attack:
    """The fast gradient (sign) method: one step of length ε from the image (Goodfellow et al., 2015)."""
    length = parse_epsilon(epsilon)
    return Attack(length, norm, steps=1, step_size=length, random_start=False)


ATTACKS: dict[str, Callable[..., Attack]] = {"pgd": Attack, "fgsm": fgsm}


def make_attack(name: str, epsilon: float | str, norm: Norm = "linf") -> Attack:
    """An attack by its name, at its usual settings.

    Raises
    ------
    ValueError
        No attack or norm is called so.
    """
    if name not in ATTACKS:
        raise ValueError(messages.unknown("attack", name, ATTACKS))
    return ATTACKS[name](parse_epsilon(epsilon), norm)


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


def perturb(
    loss: Callable[[Tensor], Tensor],
    images: Float[Tensor, "n c h w"],
    attack: Attack,
    start: Float[Tensor, "n c h w"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Climb any loss of the images inside the attack's ball; the loop under every gradient attack here.

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


def run_attack(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Shaped[Tensor, "n ..."],
    attack: Attack,
    *,
    batch_size: int = 500,
    seed: int = 0,
    loss: Callable[..., Tensor] = F.cross_entropy,
) -> Float[Tensor, "n c h w"]:
    """Adversarial images: within ε of `images` and in [0, 1], climbing the loss of the model's answers.

    Parameters
    ----------
    model
        Takes images in [0, 1]; it is attacked in evaluation mode, on its own device, and left as it was.
    seed
        Of the random start. The caller's random state is left alone.
    loss
        Of logits and labels, with `reduction="sum"`.

    Returns
    -------
    Tensor
        On the device of `images`.

    Raises
    ------
    ValueError
        Images outside [0, 1].
    """
    check_pixels(images)
    device = device_of(model)
    batches = []
    with evaluating(model), seeded(seed, device):
        for start in range(0, len(images), batch_size):
            x = images[start : start + batch_size].to(device)
            y = labels[start : start + batch_size].to(device)
            batches.append(perturb(lambda p, y=y: loss(model(p), y, reduction="sum"), x, attack))
    return torch.cat(batches).to(images.device)


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's weights."""
    return next(model.parameters()).device


def autoattack(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    epsilon: float,
    norm: Norm = "linf",
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> Float[Tensor, "n c h w"]:
    """Adversarial images by AutoAttack's standard version (Croce & Hein, 2020), through `pyautoattack`.

    Takes minutes where PGD takes seconds, and fools at least about as many.

    Raises
    ------
    RuntimeError
        `pyautoattack` is not installed.
    ValueError
        Images outside [0, 1].
    """
    check_pixels(images)
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise RuntimeError("AutoAttack needs the package pyautoattack: pip install pyautoattack") from error
    device = device_of(model)
    names = {"linf": "Linf", "l2": "L2"}
    with evaluating(model), seeded(seed, device):
        attack = AutoAttack(model, eps=epsilon, norm=names[norm], seed=seed, device=device)
        adversarial, _ = attack.run_standard_evaluation(
            images.to(device), labels.to(device), batch_size=batch_size
        )
    return adversarial.detach().to(images.device)
