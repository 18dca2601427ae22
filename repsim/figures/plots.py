"""A tidy table in, a matplotlib figure out; and saving both side by side. Nothing is computed here."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from repsim.attacks import epsilon_text
from repsim.support import artifacts, paths

HEAT = "magma"  # perceptually even, legible in grey and to the colour-blind
TICKS = 14  # layer names that fit beside a heat map
COLUMN = 12  # characters that fit above an image of a grid

sns.set_theme(
    context="notebook",
    style="ticks",
    palette="colorblind",
    rc={
        "figure.dpi": 80,
        "savefig.dpi": 160,
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
    },
)


UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}


def save(
    figure: Figure, table: pd.DataFrame, dataset: str, name: str, formats: Sequence[str] = ("png",)
) -> Path:
    """Write a picture and the table it was drawn from, as `figures/<dataset>/<name>.png` and `.csv`.

    All are byte-stable: the same table gives the same files.

    Parameters
    ----------
    formats
        Of the picture: `png`, `pdf`.

    Returns
    -------
    Path
        Of the picture in the first of them.
    """
    save_table(table, dataset, name)
    written = [paths.figures(dataset) / f"{name}.{kind}" for kind in formats]
    for path, kind in zip(written, formats, strict=True):
        with artifacts.atomic(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=UNDATED[kind])
    figure.set_layout_engine("none")  # it is laid out now: showing it takes half the time
    return written[0]


def save_table(table: pd.DataFrame, dataset: str, name: str) -> pd.DataFrame:
    """Write a table as `figures/<dataset>/<name>.csv`, and hand it on to be shown."""
    with artifacts.atomic(paths.figures(dataset) / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


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
    """Where each block, or run of layers in no block, begins."""
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


def curves(
    table: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    style: str | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    axis: Axes | None = None,
    ordered: bool = True,
    marker: str | None = "o",
) -> Axes:
    """Means over whatever else varies in the table (seeds), with the range over it as a band.

    Parameters
    ----------
    labels
        Column name → what the axis or legend calls it.
    ordered
        Whether `hue` is a quantity (ε, epoch): its colours then go from light to dark.
    """
    if axis is None:
        _, axis = plt.subplots(figsize=(6.4, 4.0))
    labels = dict(labels or {})
    # Only what is drawn: a label may be another column's name. And seaborn fails on an index with repeats.
    drawn = list(dict.fromkeys(filter(None, (x, y, hue, style))))
    shown = table[drawn].rename(columns=labels).reset_index(drop=True)
    x, y = labels.get(x, x), labels.get(y, y)
    hue, style = (labels.get(name, name) if name else None for name in (hue, style))
    for column in filter(None, (style, hue)):
        shown = _with_names(shown, column)
    levels = palette = None
    if hue:
        levels = list(shown[hue].cat.categories)
        palette = sns.color_palette("viridis_r" if ordered else "colorblind", len(levels))
    sns.lineplot(
        shown,
        x=x,
        y=y,
        hue=hue,
        hue_order=levels,
        style=style,
        palette=palette,
        marker=marker if style is None else None,
        markers=bool(style and marker),
        errorbar=("pi", 100),
        ax=axis,
    )
    if axis.get_legend() is not None:
        sns.move_legend(axis, "upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    sns.despine(ax=axis)
    return axis


def panels(
    table: pd.DataFrame,
    x: str,
    ys: Mapping[str, str],
    hue: str | None = None,
    *,
    labels: Mapping[str, str],
    **options,
) -> Figure:
    """`curves` of several columns side by side, with one legend.

    Parameters
    ----------
    ys
        Column → what its axis is called.
    """
    figure, axes = plt.subplots(1, len(ys), figsize=(4.6 * len(ys) + 1.2, 3.8), squeeze=False)
    for axis, (column, name) in zip(axes[0], ys.items(), strict=True):
        curves(table, x, column, hue, labels={**labels, column: name}, axis=axis, **options)
        if hue and axis is not axes[0, -1]:
            axis.get_legend().remove()
    return figure


def facets(
    table: pd.DataFrame,
    x: str,
    ys: Mapping[str, str],
    column: str,
    hue: str,
    *,
    labels: Mapping[str, str],
    **options,
) -> Figure:
    """`curves` in a grid: a row per column of `ys` (on one scale each), a column per value of `column`.

    Parameters
    ----------
    ys
        Column → what its axis is called.
    """
    groups = dict(list(_with_names(table, hue).groupby(column, sort=False)))  # one colour for all panels
    shape = (len(ys), len(groups))
    figure, axes = plt.subplots(
        *shape, figsize=(2.5 * shape[1] + 2.4, 2.5 * shape[0] + 0.4), squeeze=False, sharex=True, sharey="row"
    )
    for line, (y, name) in zip(axes, ys.items(), strict=True):
        for axis, part in zip(line, groups.values(), strict=True):
            curves(part, x, y, hue, labels={**labels, y: name}, axis=axis, **options)
            if axis is not axes[0, -1]:
                axis.get_legend().remove()
    for axis, title in zip(axes[0], groups, strict=True):
        axis.set_title(title)
    return figure


def bars(table: pd.DataFrame, x: str, y: str, hue: str, *, labels: Mapping[str, str] | None = None) -> Figure:
    """Means of a share as bars from 0 to 1, with each value (each network's) as a dot.

    Parameters
    ----------
    labels
        Column name → what the axis or legend calls it.
    """
    groups, kinds = table[x].nunique(), table[hue].nunique()
    figure, axis = plt.subplots(figsize=(1.2 + 0.3 * groups * (kinds + 1), 3.8))
    drawn = {"data": table, "x": x, "y": y, "hue": hue, "ax": axis, "palette": "colorblind"}
    sns.barplot(**drawn, errorbar=None, alpha=0.7)
    sns.stripplot(**drawn, dodge=True, jitter=False, size=3, linewidth=0.5, legend=False)
    labels = dict(labels or {})
    axis.set(ylim=(0, 1.02), xlabel=labels.get(x, x), ylabel=labels.get(y, y))
    sns.move_legend(axis, "upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, title=labels.get(hue, hue))
    sns.despine(ax=axis)
    return figure


def boxes(
    table: pd.DataFrame,
    x: str,
    y: str,
    panel: str,
    hue: str,
    *,
    labels: Mapping[str, str] | None = None,
    marks: pd.DataFrame | None = None,
    marked: str = "",
    across: int = 5,
    ordered: bool = True,
) -> Figure:
    """Box plots in panels, one for each value of `panel`, each on a scale of its own; whiskers: the range.

    Parameters
    ----------
    labels
        Column name → what the axis or legend calls it.
    marks
        A table with the columns of `table`, drawn as a black line across each place: what chance gives, say.
    marked
        What the legend calls the marks.
    across
        Panels in a row.
    ordered
        Whether `hue` is a quantity (ε): its colours then go from light to dark.
    """
    labels = dict(labels or {})
    names = list(table[panel].unique())
    table = _with_names(table, hue)
    levels = list(table[hue].cat.categories)
    palette = sns.color_palette("viridis_r" if ordered else "colorblind", len(levels))
    places = list(table[x].unique())
    step, line = 0.8 / len(levels), {"linewidth": 0.7}
    rows = -(-len(names) // across)
    columns = min(across, len(names))
    width = max(2.1, 0.35 + 0.17 * len(places) * len(levels))
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns + 1.3, 2.3 * rows + 0.3), squeeze=False, sharex=True
    )
    for axis, name in zip(axes.flat, names, strict=False):
        values = {
            key: own.dropna() for key, own in table[table[panel] == name].groupby([hue, x], observed=True)[y]
        }
        for number, (level, color) in enumerate(zip(levels, palette, strict=True)):
            kept = [place for place in places if len(values.get((level, place), ()))]
            if not kept:
                continue
            axis.boxplot(  # seaborn's own takes five times as long, and there may be thirty panels
                [values[level, place] for place in kept],
                positions=[places.index(place) + step * (number - (len(levels) - 1) / 2) for place in kept],
                widths=0.95 * step,
                whis=(0, 100),
                patch_artist=True,
                boxprops={"facecolor": color, **line},
                medianprops={"color": "black", **line},
                whiskerprops=line,
                capprops=line,
            )
        if marks is not None:
            own = marks[marks[panel] == name].groupby(x, sort=False)[y].mean()
            for place, value in own.items():
                middle = places.index(place)
                axis.plot([middle - 0.45, middle + 0.45], [value] * 2, color="black", lw=1.2)
        axis.set_title(name, fontsize="small")
        axis.set_xticks(range(len(places)), labels=places)
        axis.tick_params(labelsize="x-small")
        sns.despine(ax=axis)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for place, axis in enumerate(axes.flat[: len(names)]):
        if place + columns >= len(names):  # nothing is below it
            axis.tick_params(axis="x", labelbottom=True)
        if place % columns == 0:
            axis.set_ylabel(labels.get(y, y), fontsize="small")
    shown: dict[str, Artist] = {
        level: Patch(facecolor=color, edgecolor="black", linewidth=0.7)
        for level, color in zip(levels, palette, strict=True)
    }
    if marks is not None:
        shown[marked] = Line2D([], [], color="black", lw=1.2)
    _legend(figure, labels.get(hue, hue), shown)
    return figure


def _with_names(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Values as categories, ε by name and in order: a quantity's legend would show other numbers."""
    values = table[column]
    if isinstance(values.dtype, pd.CategoricalDtype):
        return table
    levels = list(values.unique())
    if pd.api.types.is_float_dtype(values):
        levels, values = [epsilon_text(value) for value in sorted(levels)], values.map(epsilon_text)
    elif pd.api.types.is_numeric_dtype(values):
        levels = sorted(levels)
    return table.assign(**{column: pd.Categorical(values, levels)})


def points(
    table: pd.DataFrame,
    x: str,
    y: str,
    panel: str,
    hue: str,
    *,
    references: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """One point for each row, in a panel for each value of `panel`.

    Parameters
    ----------
    references
        Columns that are drawn in grey, to compare `y` with: column → marker.
    labels
        Column name → what the axis or legend calls it.
    """
    labels = dict(labels or {})
    table = _with_names(table, hue)
    levels = list(table[hue].cat.categories)
    palette = dict(zip(levels, sns.color_palette("viridis_r", len(levels)), strict=True))
    groups = dict(list(table.groupby(panel, sort=False)))
    figure, axes = plt.subplots(1, len(groups), figsize=(3.9 * len(groups) + 1.6, 3.7), squeeze=False)
    for axis, (name, part) in zip(axes[0], groups.items(), strict=True):
        for column, marker in (references or {}).items():
            axis.scatter(part[x], part[column], s=18, marker=marker, color="0.6", lw=0.8, label=column)
        for level, own in part.groupby(hue, observed=True):
            axis.scatter(own[x], own[y], s=20, color=palette[level], edgecolor="white", lw=0.3, label=level)
        axis.set(title=name, xlabel=labels.get(x, x))
        sns.despine(ax=axis)
    axes[0, 0].set_ylabel(labels.get(y, y))
    shown: dict[str, Artist] = {}
    for axis in axes[0]:
        handles, texts = axis.get_legend_handles_labels()
        shown = dict(zip(texts, handles, strict=True)) | shown
    order = [*levels, *(references or {})]  # the legend is titled by what the levels are of
    _legend(figure, labels.get(hue, hue), {text: shown[text] for text in order if text in shown})
    return figure


def _legend(figure: Figure, title: str, shown: Mapping[str, Artist]) -> None:
    """One legend for all axes, to the right of them."""
    style = {"frameon": False, "title": title, "fontsize": "small", "title_fontsize": "small"}
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", **style)


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
