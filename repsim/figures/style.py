"""The look of all pictures: colours, names of categories, legends."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from repsim.attacks import epsilon_text

# perceptually even, legible in grey and to the colour-blind
HEAT = "magma"  # of maps
ORDERED = "viridis_r"  # of what has an order (ε, epoch), from light to dark
DISTINCT = "colorblind"  # of what has none


sns.set_theme(
    context="notebook",
    style="ticks",
    palette=DISTINCT,
    rc={
        "figure.dpi": 80,
        "savefig.dpi": 160,
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
    },
)


def with_names(table: pd.DataFrame, column: str) -> pd.DataFrame:
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


def legend(figure: Figure, title: str, shown: Mapping[str, Artist]) -> None:
    """One legend for all axes, to the right of them."""
    style = {"frameon": False, "title": title, "fontsize": "small", "title_fontsize": "small"}
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", **style)
