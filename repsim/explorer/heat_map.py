"""A map of layers by layers in which one pair is chosen: by a click, or by the arrow keys."""

from __future__ import annotations

from pathlib import Path

import anywidget
import matplotlib as mpl
import numpy as np
import pandas as pd
import traitlets
from matplotlib.colors import to_hex

from repsim.figures.style import HEAT

UNKNOWN = "#ffffff"


class HeatMap(anywidget.AnyWidget):
    """A map of similarities.

    Attributes
    ----------
    rows, columns
        Names of the layers, down and across.
    colors, texts
        Of the cells.
    chosen
        Row and column of the chosen cell.
    caption
        Above the map.
    """

    _esm = Path(__file__).with_name("heat_map.js")
    _css = Path(__file__).with_name("heat_map.css")
    rows = traitlets.List(traitlets.Unicode()).tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    colors = traitlets.List().tag(sync=True)
    texts = traitlets.List().tag(sync=True)
    chosen = traitlets.List([0, 0]).tag(sync=True)
    caption = traitlets.Unicode().tag(sync=True)

    def show(self, values: pd.DataFrame, caption: str) -> None:
        """Show other similarities: colours are of 0 to 1."""
        shades = mpl.colormaps[HEAT](values.to_numpy(float))
        with self.hold_sync():
            self.rows, self.columns = list(values.index), list(values.columns)
            self.texts = [[f"{value:.3f}" for value in line] for line in values.to_numpy()]
            self.colors = [
                [to_hex(shade) if np.isfinite(value) else UNKNOWN for shade, value in zip(*line, strict=True)]
                for line in zip(shades, values.to_numpy(), strict=True)
            ]
            self.caption = caption
