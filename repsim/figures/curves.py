"""Curves over a quantity, one by one, in rows and in grids."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repsim.figures.style import DISTINCT, ORDERED, with_names


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
        shown = with_names(shown, column)
    levels = palette = None
    if hue:
        levels = list(shown[hue].cat.categories)
        palette = sns.color_palette(ORDERED if ordered else DISTINCT, len(levels))
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
    groups = dict(list(with_names(table, hue).groupby(column, sort=False)))  # one colour for all panels
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
