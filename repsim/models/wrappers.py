"""Networks as their users have them: wrappers are taken off, and logits found in what is put out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repsim.support.devices import device_of, evaluating

INSIDE = ("_orig_mod", "module")  # where torch.compile keeps the network; where all the others do
# by the names of their classes: not all builds of torch have them
WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel", "AveragedModel")
NAMED = 5  # layers that a warning names before it only counts them
EXPORTED = "was compiled for running: hand over the network that it was made of"


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


def bare(network: nn.Module) -> nn.Module:
    """The network inside wrappers that compute the same: DataParallel, DDP, torch.compile, AveragedModel.

    Of an `AttackerModel` of the `robustness` package, its classifier of images in [0, 1].

    Raises
    ------
    ValueError
        It is no network that can be looked into: no `nn.Module`, a TorchScript or a `torch.export` program.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise ValueError(f"a TorchScript module {EXPORTED}.")
    if type(network).__name__ == "ExportedProgram" or "eval" in getattr(network, "__dict__", {}):
        raise ValueError(f"a torch.export program {EXPORTED}.")
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"expected a network, a torch.nn.Module, not {type(network).__name__}: hand over the network "
            "itself, not what attacks, wraps or loads it."
        )
    # hooks and forwards of its own, which what is inside does not have
    own = network._forward_pre_hooks or network._forward_hooks
    own = own or ("forward" in vars(network) and "_orig_mod" not in network._modules)
    if not own and type(network).__name__ in WRAPPERS:
        return bare(next(getattr(network, name) for name in INSIDE if name in network._modules))
    return unwrapped(network)


def logits_key(output: object) -> str | int | None:
    """The place of the logits in what a network puts out: None for the output itself, else a key or a place.

    Raises
    ------
    ValueError
        There are none.
    """
    if isinstance(output, Tensor):
        if output.dim() == 2:
            return None
    elif isinstance(output, Mapping):  # such as a ModelOutput of Hugging Face
        if is_rows(output.get("logits")):
            return "logits"
    elif isinstance(output, Sequence) and len(output) and is_rows(output[0]):
        return 0
    raise ValueError(
        "the network puts out no logits, (images, classes): neither as a tensor, nor first in a tuple, nor "
        f"as 'logits' in a mapping. It puts out {_described(output)}."
    )


def is_rows(value: object) -> bool:
    """Whether a value is a tensor of one row for each image."""
    return isinstance(value, Tensor) and value.dim() == 2


def logits_of(output: object) -> Float[Tensor, "n classes"]:
    """Logits out of what a network puts out.

    Raises
    ------
    ValueError
        There are none.
    """
    key = logits_key(output)
    return output if key is None else output[key]


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {', '.join(map(str, output))}"
    return f"{type(output).__name__}"


def batch_statistics(network: nn.Module) -> list[str]:
    """Layers whose values for an image hang on the others in its batch, in the mode that a network is in.

    They are BatchNorms in training mode, and, in any mode, those that keep no running statistics.
    """
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    ]


def warn_of_batch_statistics(network: Classifier) -> None:
    """Say so where results of a network in evaluation mode hang on which images share a batch."""
    names = batch_statistics(network.network)
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        warnings.warn(
            f"BatchNorm without running statistics ({', '.join(names[:NAMED])}{more}) takes those of the "
            "batch: what the network makes of an image hangs on the images beside it, and on batch_size.",
            stacklevel=3,
        )


def image_dtype(network: nn.Module, image_shape: Sequence[int]) -> torch.dtype:
    """The precision in which a network takes images: float32, where it can, else that of its weights.

    One that holds several precisions may change them itself: it is tried out.
    """
    held = (*network.parameters(), *network.buffers())
    dtypes = [tensor.dtype for tensor in held if tensor.is_floating_point()]
    if not set(dtypes) - {torch.float32}:
        return torch.float32
    for dtype in dict.fromkeys([torch.float32, *dtypes]):
        images = torch.full((2, *image_shape), 0.5, device=device_of(network), dtype=dtype)
        try:
            with evaluating(network), torch.no_grad():
                network(images)
        except Exception:  # whatever operation does not take it
            continue
        return dtype
    return dtypes[0]


class Classifier(nn.Module):
    """Images in [0, 1] → logits, by any network: unwrapped, in its own dtype, whatever else it puts out.

    The images are left as they are, also by a network that works in place. Logits of half precision are given
    in float32: what is computed of them needs no more rounding than they have.

    Raises
    ------
    ValueError
        It is no network that can be looked into (see `bare`), or puts out no logits.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = bare(network)
        self.training = self.network.training  # of the parts, each keeps its own
        self._dtype: torch.dtype | None = None

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        if self._dtype is None:
            self._dtype = image_dtype(self.network, images.shape[1:])
        logits = logits_of(self.network(images.to(self._dtype, copy=True)))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
