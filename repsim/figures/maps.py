"""Layer-by-layer and model-by-model maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from repsim.figures.style import HEAT

TICKS = 14  # layer names that fit beside a heat map


def heat_maps(
    matrices: Mapping[str, pd.DataFrame],
    *,
    label: str = "CKA",
    low: float = 0.0,
    axes_labels: tuple[str, str] = ("", ""),
) -> Figure:
    """Layer-by-layer maps side by side, on one colour scale.

    Parameters
    ----------
    matrices
        Title → a map as `as_matrix` gives it: first model's layers down, second's across.
    low
        Lowest value of the colour scale; its highest is 1.
    axes_labels
        What the layers down and across are.
    """
    count = len(matrices)
    figure, axes = plt.subplots(1, count, figsize=(4.1 * count + 0.9, 4.6), squeeze=False)
    for axis, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
        # from the input (bottom left) to the output (top right)
        image = axis.imshow(matrix.to_numpy(), cmap=HEAT, vmin=low, vmax=1, origin="lower")
        axis.set(title=title, ylabel=axes_labels[0], xlabel=axes_labels[1])
        rows, columns = list(matrix.index), list(matrix.columns)
        _layer_ticks(axis.yaxis, rows)
        _layer_ticks(axis.xaxis, columns)
        axis.tick_params(axis="x", rotation=90)
        axis.tick_params(labelsize="x-small", length=2)
        for start in _block_starts(rows)[1:]:
            axis.axhline(start - 0.5, color="white", linewidth=0.4)
        for start in _block_starts(columns)[1:]:
            axis.axvline(start - 0.5, color="white", linewidth=0.4)
    figure.colorbar(image, ax=axes[0], label=label, shrink=0.8, pad=0.02)
    return figure


def model_maps(matrices: Mapping[str, pd.DataFrame], *, label: str, axes_labels: tuple[str, str]) -> Figure:
    """Model-by-model maps side by side, every model named, on one colour scale: 0 to 1, or wider if need be.

    Parameters
    ----------
    matrices
        Title → a map as `similarity_matrix` gives it; lines part groups whose names begin differently (up to
        the first comma).
    axes_labels
        What the models down and across are.
    """
    count = len(matrices)
    values = pd.concat([matrix.stack() for matrix in matrices.values()])
    low, high = min(0, values.min()), max(1, values.max())
    side = 1.6 + 0.22 * max(len(matrix) for matrix in matrices.values())
    figure, axes = plt.subplots(
        1, count, figsize=(side * count + 2.2, side + 1.0), squeeze=False, sharey=True
    )
    for axis, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
        image = axis.imshow(matrix.to_numpy(), cmap=HEAT, vmin=low, vmax=high)
        names = list(matrix.index)
        axis.set(title=title, xlabel=axes_labels[1])
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_ticks(range(len(names)), labels=names)
        axis.tick_params(axis="x", rotation=90)
        axis.tick_params(labelsize="x-small", length=2)
        groups = [name.partition(",")[0] for name in names]
        for place in [i for i in range(1, len(names)) if groups[i] != groups[i - 1]]:
            axis.axhline(place - 0.5, color="white", linewidth=0.8)
            axis.axvline(place - 0.5, color="white", linewidth=0.8)
    axes[0, 0].set_ylabel(axes_labels[0])
    figure.colorbar(image, ax=axes[0], label=label, shrink=0.8, pad=0.02)
    return figure


def _block(layer: str) -> str:
    """The block a layer is in: `layer2.0` for `layer2.0.conv1`, `features` for `features.6`, else nothing.

    Further inside, what is numbered: `encoder_layer_0` for `encoder.layers.encoder_layer_0.mlp.1`.
    """
    first, *rest = layer.split(".")
    if len(rest) > 1 and rest[0].isdigit():
        return f"{first}.{rest[0]}"
    numbered = [part for part in rest[:-1] if part[-1].isdigit()]
    return numbered[0] if numbered else first if rest else ""


def _block_starts(layers: Sequence[str]) -> list[int]:
    """The places where blocks, or runs of layers in no block, begin."""
    blocks = [_block(layer) for layer in layers]
    return [i for i in range(len(blocks)) if i == 0 or blocks[i] != blocks[i - 1]]


def _layer_ticks(axis: Axis, layers: Sequence[str]) -> None:
    """A name at the first layer of each block, or at each layer without blocks, as far as they fit."""
    starts = _block_starts(layers)
    if len(starts) < 4:
        starts = list(range(len(layers)))
        names = list(layers)
    else:
        names = [_block(layers[i]) or layers[i] for i in starts]
    step = -(-len(starts) // TICKS)
    kept: dict[int, str] = {}
    for start, name in zip(starts[::step], names[::step], strict=True):
        if not kept or start - max(kept) >= len(layers) / (1.5 * TICKS):
            kept[start] = name
    axis.set_ticks(list(kept), labels=list(kept.values()))
