"""What the benchmarks share: timing side by side, and a table of what was measured beside its target."""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

THREADS = 2
COLUMNS = ("title", "quantity", "amount", "ratio", "target", "met", "notes", "machine")


@dataclass(frozen=True)
class Row:
    """One measured quantity, and where there is a target, the ratio that it bounds from above or below."""

    quantity: str
    amount: str
    ratio: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    def cells(self) -> list[str]:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        target, met = "", ""
        if self.at_most is not None:
            target, met = f"≤ {self.at_most:g}", "met" if self.ratio <= self.at_most else "MISSED"
        if self.at_least is not None:
            target, met = f"≥ {self.at_least:g}", "met" if self.ratio >= self.at_least else "MISSED"
        return [self.quantity, self.amount, ratio, target, met]


def show(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """Print a table, the machine it was measured on, and what a reader should know of it."""
    cells = [["quantity", "amount", "ratio", "target", ""], *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"{title}\n{machine()}\n")
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print("".join(f"\n{note}" for note in notes))
    if table := os.environ.get("REPSIM_SPEED"):
        record(Path(table), title, rows, notes)


def record(table: Path, title: str, rows: Sequence[Row], notes: Sequence[str]) -> None:
    """Put what was measured into a CSV table, in place of what it has under this title."""
    kept: list[dict[str, str]] = []
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["title"] != title]
    own = [dict(zip(COLUMNS, [title, *row.cells(), " ".join(notes), machine()], strict=True)) for row in rows]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept + own, key=lambda row: row["title"]))


def machine() -> str:
    """The processor, the threads in use, and how busy the machine is with other work."""
    information = Path("/proc/cpuinfo")
    names = [platform.processor() or platform.machine()]
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")] or names
    load = f" (load {os.getloadavg()[0]:.1f})" if hasattr(os, "getloadavg") else ""
    threads = torch.get_num_threads()
    versions = f"torch {torch.__version__} with {threads} threads, Python {platform.python_version()}"
    return f"{names[0]}, {os.cpu_count()} cores{load}; {versions}"


def best_times(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least seconds that each function takes: run in turn, so that a busy spell slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat:  # the first is to warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in seconds.items()}
