"""The value of which a network's answer is an affine map: found by exchanging and averaging it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from repsim.activations.rows import scale_of

ROUNDINGS = 16  # in units of a dtype's last place, of what is computed in two ways


def is_affine_of_alone(rest: Callable[..., Tensor], value: Tensor, context: Sequence[Tensor]) -> bool:
    """Whether logits are an affine map of a layer's value, and of nothing else.

    They go with the value when two images exchange it, whatever their context, and half-way between two
    values they are half-way between their logits. Logits may come as probabilities, or as logarithms of them.

    Parameters
    ----------
    rest
        The network from the layer on: value and context → logits.
    value, context
        Of two images.
    """
    own, exchanged, middle = (
        rest(each, *context) for each in (value, value.flip(0), (value + value.flip(0)) / 2)
    )
    forms = [lambda logits: logits]
    if own.shape[1] > 1:
        usual = scale_of(_logarithms(own).double()).sort().indices[(own.shape[1] - 1) // 2].item()
        forms.append(lambda logits: _relative(logits, usual))
    for form in forms:
        expected = form(own)
        pairs = [(exchanged, expected.flip(0)), (middle, (expected + expected.flip(0)) / 2)]
        if all(_near(form(found), each, expected) for found, each in pairs):
            return True
    return False


def _relative(logits: Tensor, column: int) -> Tensor:
    """Logits beside those of one class, as what is added to all classes says nothing."""
    logits = _logarithms(logits)
    return logits - logits[:, column : column + 1]


def _logarithms(logits: Tensor) -> Tensor:
    """Logits, also where they come as probabilities."""
    sums = logits.sum(1)
    is_share = (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    return logits.log() if is_share else logits


def _near(found: Tensor, expected: Tensor, own: Tensor) -> bool:
    """Whether logits are as expected, by what two images differ in, or as far as rounding lets them."""
    rounding = ROUNDINGS * torch.finfo(own.dtype).eps * scale_of(own.double())
    between = scale_of(own.double() - own.double().flip(0))
    is_precise = own.dtype in (torch.float32, torch.float64)
    if is_precise and bool((between <= rounding).all()) and bool(between.any()):
        return False  # the images are hardly told apart, so that nothing can be seen
    tolerance = (1e-3 * between).maximum(rounding)
    off = (found.double() - expected.double()).abs()
    off[found.isnan() & expected.isnan() | (found == expected)] = 0
    return bool((off <= tolerance).all())
