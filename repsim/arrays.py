"""Arrays of real numbers, of torch or of NumPy, as tensors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Num
from torch import Tensor, as_tensor, strided

Values = Num[Tensor, "..."] | Bool[Tensor, "..."] | Num[np.ndarray, "..."] | Bool[np.ndarray, "..."]


def tensor_of(values: Values, name: str) -> Tensor:
    """An array of real numbers as a tensor without gradient; the array itself where that can be.

    Parameters
    ----------
    name
        What messages call it.

    Raises
    ------
    TypeError
        It is no array of real numbers, or some of its values are masked.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must not be a NumPy masked array, whose mask would be lost: leave out the rows with "
            "masked values, and give the data of the others, as in values[~values.mask.any(1)].data."
        )
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        # torch takes no foreign byte order, no negative strides, and warns of what is read-only
        native = values.dtype.newbyteorder("=") if values.dtype.itemsize <= 8 else np.dtype(float)
        return as_tensor(np.require(values, native, ["C", "W"]))
    if isinstance(values, Tensor) and not values.is_complex() and values.layout == strided:
        return values.detach()
    kind = f"{type(values).__name__}{f' of {values.dtype}' if hasattr(values, 'dtype') else ''}"
    raise TypeError(f"{name} must be a torch tensor or a NumPy array of real numbers, not {kind}.")
