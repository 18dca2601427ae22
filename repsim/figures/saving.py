"""Pictures and the tables they were drawn from, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from repsim.support import artifacts, paths

UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}


def save(
    figure: Figure, table: pd.DataFrame, dataset: str, name: str, formats: Sequence[str] = ("png",)
) -> Path:
    """Write a picture and the table it was drawn from, as `<name>.png` and `.csv`.

    They go to `repsim.support.paths.figures`.

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
    """Write a table as `<name>.csv` beside the pictures, and hand it on to be shown."""
    with artifacts.atomic(paths.figures(dataset) / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table
