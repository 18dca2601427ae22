"""Images in rows."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from repsim.figures import style  # noqa: F401 (sets the look)

COLUMN = 12  # characters that fit above an image of a grid


def image_grid(
    rows: Mapping[str, Float[Tensor, "n c h w"]], *, columns: Sequence[str] | None = None, limits=(0.0, 1.0)
) -> Figure:
    """Images in rows with a name each, and columns that may have one."""
    count = min(len(images) for images in rows.values())
    figure, axes = plt.subplots(
        len(rows), count, figsize=(0.95 * count + 1.4, 0.98 * len(rows) + 0.3), squeeze=False
    )
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=False):
            pixels = image.permute(1, 2, 0).numpy()
            axis.imshow(pixels, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            sns.despine(ax=axis, left=True, bottom=True)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
    if columns is not None:
        for axis, name in zip(axes[0], columns, strict=False):
            axis.set_title(textwrap.fill(name, COLUMN), fontsize="x-small")
    return figure
