"""Models of the `robustness` package, which wrap a network in an attacker and answer with a tuple."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Unwrapped(nn.Module):
    """The classifier inside an `AttackerModel`: its normalisation, then its network, sharing the weights."""

    def __init__(self, wrapper: nn.Module):
        super().__init__()
        self.normalizer, self.model = wrapper.normalizer, wrapper.model
        self.training = wrapper.training  # of the parts, each keeps its own

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.model(self.normalizer(images))


def unwrapped(network: nn.Module) -> nn.Module:
    """A classifier from images in [0, 1] to logits: an `AttackerModel`'s own, else the network itself."""
    # by its parts, so that the package need not be imported to see that a network is none of its
    is_wrapper = {"normalizer", "model", "attacker"} <= {name for name, _ in network.named_children()}
    return Unwrapped(network) if is_wrapper else network
