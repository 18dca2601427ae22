"""Values of many networks or pairs: bars, boxes, points."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from repsim.figures.style import DISTINCT, ORDERED, legend, with_names


def bars(table: pd.DataFrame, x: str, y: str, hue: str, *, labels: Mapping[str, str] | None = None) -> Figure:
    """Means of a share as bars from 0 to 1, with each value (each network's) as a dot.

    Parameters
    ----------
    labels
        Column name → what the axis or legend calls it.
    """
    groups, kinds = table[x].nunique(), table[hue].nunique()
    figure, axis = plt.subplots(figsize=(1.2 + 0.3 * groups * (kinds + 1), 3.8))
    drawn = {"data": table, "x": x, "y": y, "hue": hue, "ax": axis, "palette": DISTINCT}
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
    table = with_names(table, hue)
    levels = list(table[hue].cat.categories)
    palette = sns.color_palette(ORDERED if ordered else DISTINCT, len(levels))
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
    legend(figure, labels.get(hue, hue), shown)
    return figure


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
    table = with_names(table, hue)
    levels = list(table[hue].cat.categories)
    palette = dict(zip(levels, sns.color_palette(ORDERED, len(levels)), strict=True))
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
    legend(figure, labels.get(hue, hue), {text: shown[text] for text in order if text in shown})
    return figure
