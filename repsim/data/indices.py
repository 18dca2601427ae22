"""Rows of a split to keep, from a file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from repsim.data.splits import Rows


def read_rows(path: str | Path, argument: str, count: int) -> Rows:
    """Row indices, counted from 0, in the order of the file.

    Parameters
    ----------
    path
        A text file with one index a line, a CSV with one column or a column `index`, or a `.npy` of integers.
    argument
        What messages call it.
    count
        How many images there are.

    Raises
    ------
    ValueError
        There is no such file, it holds no indices, one is out of range or there twice.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{argument}: {path} is no file.")
    try:
        values = _from_npy(path) if path.suffix == ".npy" else _from_text(path)
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{argument}: {path} is no list of row indices, whole numbers from 0 on ({error})."
        ) from error
    if not len(values):
        raise ValueError(f"{argument}: {path} holds no index.")
    outside = (values < 0) | (values >= count)
    if outside.any():
        raise ValueError(
            f"{argument}: {path} has {values[outside][0]}, where rows go from 0 to {count - 1} "
            f"({int(outside.sum())} of {len(values)} indices are out of range)."
        )
    found, times = np.unique(values, return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"{argument}: {path} has {found[times > 1][0]} {times.max()} times; each row may be there once "
            f"({int((times > 1).sum())} are there more often)."
        )
    return torch.from_numpy(values)


def _from_npy(path: Path) -> np.ndarray:
    values = np.load(path, allow_pickle=False)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"it holds {values.dtype} of shape {values.shape}")
    return values.astype(np.int64)


def _from_text(path: Path) -> np.ndarray:
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    column = 0
    if lines and not lines[0][0].strip().lstrip("-").isdecimal():
        header = [cell.strip() for cell in lines.pop(0)]
        if len(header) > 1 and "index" not in header:
            raise ValueError(f"none of its columns {', '.join(header)} is called index")
        column = header.index("index") if len(header) > 1 else 0
    elif lines and len(lines[0]) > 1:
        raise ValueError("it has several columns and no header that says which is the index")
    return np.array([int(line[column]) for line in lines], dtype=np.int64)
