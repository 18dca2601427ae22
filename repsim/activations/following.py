"""A copy of a network that is being trained, for gradients of images: it follows the network's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from repsim.activations.folding import fold_batchnorm, folded_pairs
from repsim.activations.rows import alike
from repsim.activations.tracing import trace
from repsim.activations.trial import FEW
from repsim.models.wrappers import logits_of
from repsim.support.devices import evaluating, lay_out


class FollowingCopy:
    """A network in evaluation mode, as a copy with BatchNorm folded whose weights need no gradient.

    What is computed differs from the network's own values by rounding. The copy has the weights that the
    network had when `follow` was last called.

    Raises
    ------
    ValueError
        The network cannot be copied so: it is not traced, or its weights have other names in the copy.
    """

    def __init__(self, network: nn.Module, image_shape: Sequence[int]):
        graph = trace(network, image_shape)
        part = graph.with_activations([])
        if not isinstance(part, fx.GraphModule):
            raise ValueError(f"the network cannot be copied: {graph.reason}.")
        images = graph.trial_images(FEW)
        self._copy = fold_batchnorm(part, images)
        # traced once: modules are the network's own, under the names that they have there
        pairs = folded_pairs(part) if self._copy is not part else {}
        self._folded = [
            (network.get_submodule(a), network.get_submodule(b), self._copy.get_submodule(a))
            for a, b in pairs.items()
        ]
        theirs = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        own = {**dict(self._copy.named_parameters()), **dict(self._copy.named_buffers())}
        made = {f"{name}.{kind}" for name in pairs for kind in ("weight", "bias")}
        self._same = [(theirs.get(name), tensor) for name, tensor in own.items() if name not in made]
        if any(tensor is None or tensor.shape != mine.shape for tensor, mine in self._same):
            raise ValueError("the network cannot be copied: its weights have other names in the copy.")
        self.follow(torch.contiguous_format)
        with evaluating(network), torch.no_grad():
            if not alike(self(images), logits_of(network(images))):
                raise ValueError("the network cannot be copied: the copy computes something else.")

    def follow(self, memory_format: torch.memory_format) -> None:
        """Take over the network's weights as they are now, laid out in a memory format."""
        with torch.no_grad():
            for convolution, normalization, copied in self._folded:
                weight, bias = fuse_conv_bn_weights(
                    convolution.weight,
                    convolution.bias,
                    normalization.running_mean,
                    normalization.running_var,
                    normalization.eps,
                    normalization.weight,
                    normalization.bias,
                )
                copied.weight.copy_(weight)
                copied.bias.copy_(bias)
            for theirs, own in self._same:
                own.copy_(theirs)
        lay_out(self._copy, memory_format)

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of images in [0, 1]."""
        return logits_of(self._copy(images)[0])
