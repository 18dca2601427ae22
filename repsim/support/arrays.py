"""Arrays of real numbers, of torch or of NumPy, as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Num
from torch import Tensor, as_tensor, strided

Values = Num[Tensor, "..."] | Bool[Tensor, "..."] | Num[np.ndarray, "..."] | Bool[np.ndarray, "..."]

WHOLE = 2**53  # all whole numbers below are floats of 64 bits


def tensor_of(values: Values, name: str) -> Tensor:
    """An array of real numbers as a tensor without gradient; the array itself where that can be.

    What is no array is not made one: rows are matched by their order here, and those of a data frame by its
    index elsewhere. Floats of 8 bits, which torch hardly computes with, become the same numbers in bfloat16.

    Parameters
    ----------
    name
        What messages call it.

    Raises
    ------
    TypeError
        It is no array of real numbers, has none (on the meta device), or some of its values are masked.
    ValueError
        It has whole numbers so large that floats of 64 bits do not tell them apart.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must not be a NumPy masked array, whose mask would be lost: leave out the rows with "
            "masked values, and give the data of the others, as in values[~values.mask.any(1)].data."
        )
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        # torch takes no foreign byte order, no negative strides, and warns of what is read-only
        native = values.dtype.newbyteorder("=") if values.dtype.itemsize <= 8 else np.dtype(float)
        return _told_apart(as_tensor(np.require(values, native, ["C", "W"])), name)
    advice = _advice_on_tensor(values, name) if isinstance(values, Tensor) else _advice(values, name)
    if isinstance(values, Tensor) and not advice:
        values = values.detach()
        return values.bfloat16() if "float8" in str(values.dtype) else _told_apart(values, name)
    kind = f"{type(values).__name__}{f' of {values.dtype}' if hasattr(values, 'dtype') else ''}"
    raise TypeError(f"{name} must be a torch tensor or a NumPy array of real numbers, not {kind}{advice}.")


def _told_apart(values: Tensor, name: str) -> Tensor:
    is_long = values.dtype in (torch.int64, torch.uint64)
    if is_long and values.numel() and values.double().abs().max() >= WHOLE:
        raise ValueError(
            f"{name} must not have whole numbers of 2⁵³ and more, which floats of 64 bits do not tell apart: "
            "subtract the least one of each unit before."
        )
    return values


def _advice_on_tensor(values: Tensor, name: str) -> str:
    """Advice on a tensor that does not hold its real numbers one by one; empty where it does."""
    if hasattr(values, "get_mask"):
        return f": leave out the rows with masked values, and give {name}.get_data() of the others"
    if values.is_nested:
        return ": give rows of one length"
    if values.is_quantized:
        return f": give {name}.dequantize()"
    if values.layout != strided:
        return f" that is {str(values.layout).removeprefix('torch.')}: give {name}.to_dense()"
    if values.is_meta:
        return " on the meta device, which holds no values: give one on another device"
    if values.is_complex():
        return f": give {name}.real, {name}.imag or abs({name})"
    return ""


def _advice(values: object, name: str) -> str:
    """Advice on making an array of real numbers of something else; empty where nothing is known to."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "c":
            return f": give {name}.real, {name}.imag or abs({name})"
        return "" if values.dtype.names else f": give {name}.astype(float)"
    if hasattr(values, "toarray"):
        return f": give {name}.toarray()"
    if hasattr(values, "to_numpy"):
        return f": give {name}.to_numpy(), whose rows are matched by their order"
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    return f": give np.asarray({name})" if is_sequence or hasattr(values, "__array__") else ""
