"""Attacks that climb in the parameters of a distortion, instead of in pixels.

Kang et al., *Testing Robustness Against Unforeseen Adversaries* (2019); Cianfarani et al. (2022) use three of
them: JPEG, Gabor and snow. A distortion is a differentiable function of its parameters, which ε bounds; all
else about it (where flakes may fall, how stripes run) is drawn at random for each image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from repsim.attacks.running import GradientAttack

Images = Float[Tensor, "n c h w"]
Parameters = Float[Tensor, "n ..."]


@dataclass(frozen=True)
class Distortion(GradientAttack):
    """Projected gradient descent on the parameters of a distortion.

    Attributes
    ----------
    epsilon, norm
        The bound on the parameters; each distortion says in which unit.
    steps
        Gradient steps, each one forward and one backward pass.
    step_size
        Length of a step in the unit of ε; 2.5 ε / steps unless given.
    """

    steps: int = 20
    step_size: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.step_size is None:
            object.__setattr__(self, "step_size", 2.5 * self.epsilon / self.steps)

    @abstractmethod
    def draws(self, shape: tuple[int, int, int]) -> int:
        """The count of random numbers that an image of this shape (c, h, w) takes."""

    @abstractmethod
    def prepare(
        self, images: Images, numbers: Float[Tensor, "n draws"]
    ) -> tuple[Callable[[Parameters], Images], Parameters]:
        """The distortion of these images, a function of its parameters, and where the climb begins.

        Parameters
        ----------
        numbers
            Uniform in [0, 1).
        """

    def project(self, parameters: Parameters) -> Parameters:
        """The nearest parameters that ε allows."""
        if self.norm == "linf":
            return parameters.clamp(-self.epsilon, self.epsilon)
        return parameters.renorm(2, 0, self.epsilon)

    def climb(self, loss: Callable[[Tensor], Tensor], images: Images) -> Images:
        # Drawn on the CPU, image by image: the same on any device and for any batch size.
        numbers = torch.rand(len(images), self.draws(tuple(images.shape[1:]))).to(images)
        distorted, parameters = self.prepare(images, numbers)
        parameters = self.project(parameters)
        for _ in range(self.steps if self.epsilon else 0):
            parameters = parameters.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(distorted(parameters)), parameters)
            with torch.no_grad():
                parameters = self.project(parameters + self.step_size * self._direction(gradient))
        with torch.no_grad():
            return distorted(parameters)

    def _direction(self, gradient: Parameters) -> Parameters:
        if self.norm == "linf":
            return gradient.sign()
        return F.normalize(gradient.flatten(1)).view_as(gradient)  # a gradient of 0 stays 0


def check_grey_or_colour(images: Images, attack: str) -> None:
    """Refuse images of other than 1 or 3 channels.

    Raises
    ------
    ValueError
        They have another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{attack} takes grey or colour images, of 1 or 3 channels, not {images.shape[1]}.")


def convolve(layers: Float[Tensor, "... h w"], kernels: Float[Tensor, "... k k"]) -> Float[Tensor, "... h w"]:
    """Each layer with the kernel of its own (of odd size), zero outside, in the layer's size."""
    (height, width), size = layers.shape[-2:], kernels.shape[-1]
    padded = (height + size - 1, width + size - 1)
    product = torch.fft.rfft2(layers, padded) * torch.fft.rfft2(kernels, padded)
    margin = size // 2
    whole = torch.fft.irfft2(product, padded)
    return whole[..., margin : margin + height, margin : margin + width]


def grid(size: int, like: Tensor) -> tuple[Float[Tensor, "size size"], Float[Tensor, "size size"]]:
    """Rows and columns of a square of pixels, counted from its middle."""
    line = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return rows, columns
