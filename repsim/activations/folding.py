"""Frozen parts of networks made faster: BatchNorm folded into convolutions, channels side by side."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from repsim.activations.rows import alike
from repsim.activations.trial import tensors_in
from repsim.support.devices import lay_out

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PRECISE = (torch.float32, torch.float64)  # in others folding would round the weights once more
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold_batchnorm(part: nn.Module, *inputs: Tensor) -> nn.Module:
    """A copy of a part of a traced network that computes the same, but for rounding, with fewer operations.

    Each BatchNorm layer that is all that takes a convolution's output is folded into the convolution's
    weights, where both are torch's own and nothing else: no subclass, parametrisation, pruning or hook. The
    copy is compared with the part on `inputs`, and given up, with a warning, where it differs. Parts of
    networks that could not be traced are returned as they are.
    """
    if not isinstance(part, fx.GraphModule):
        return part
    folded = _folded(part)
    with torch.no_grad():
        ours, theirs = (tensors_in(run(*inputs)) for run in (folded, part))
    if not all(alike(a, b) for a, b in zip(ours, theirs, strict=True)):
        warnings.warn(
            "BatchNorm could not be folded into convolutions without changing what the network computes, so "
            "that it runs unfolded, and slower.",
            stacklevel=2,
        )
        return part
    return folded


def channels_side_by_side(part: nn.Module, *inputs: Tensor) -> nn.Module:
    """A copy of a part of a traced network, without gradients of weights, whose weights have channels last.

    On a CPU convolutions of such weights take down to half the time. The copy is given up where it differs
    from the part on `inputs`, or does not run, as where a network views its values in another memory format.
    """
    if not isinstance(part, fx.GraphModule) or inputs[0].device.type != "cpu":
        return part
    copied = lay_out(copy.deepcopy(part), torch.channels_last)
    with torch.no_grad():
        try:
            ours = tensors_in(copied(*inputs))
        except RuntimeError:
            return part
        theirs = tensors_in(part(*inputs))
    return copied if all(alike(a, b) for a, b in zip(ours, theirs, strict=True)) else part


def folded_pairs(part: fx.GraphModule) -> dict[str, str]:
    """The convolutions of a part into which a BatchNorm is folded, and that BatchNorm, by their paths."""
    return {str(before.target): str(node.target) for before, node in _foldable(part)}


def _foldable(part: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    calls = Counter(node.target for node in part.graph.nodes if node.op == "call_module")
    for node in part.graph.nodes:
        if node.op != "call_module":
            continue
        normalization = part.get_submodule(node.target)
        if not _is_plain(normalization, NORMALIZATIONS) or normalization.running_mean is None:
            continue
        before = node.all_input_nodes[0]
        if before.op != "call_module" or len(before.users) > 1:
            continue
        convolution = part.get_submodule(before.target)
        if _is_plain(convolution, CONVOLUTIONS) and calls[before.target] == calls[node.target] == 1:
            yield before, node


def _folded(part: fx.GraphModule) -> fx.GraphModule:
    folded = copy.deepcopy(part)
    for before, node in list(_foldable(folded)):
        convolution, normalization = (folded.get_submodule(each.target) for each in (before, node))
        fused = fuse_conv_bn_eval(convolution, normalization)
        folded.set_submodule(before.target, fused.requires_grad_(False))
        node.replace_all_uses_with(before)
        folded.graph.erase_node(node)
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def _is_plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is one of torch's own and does only what its class does."""
    held = [*module.parameters(), *module.buffers()]
    return (
        type(module) in kinds
        and not any(getattr(module, hooks) for hooks in HOOKS)
        and "forward" not in vars(module)
        and all(tensor.dtype in PRECISE for tensor in held if tensor.is_floating_point())
    )
