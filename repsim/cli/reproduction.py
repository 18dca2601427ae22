"""The reproduction report of `repsim run`: how far its tables are from the committed ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from repsim.support import paths
from repsim.support.artifacts import atomic

COLUMNS = ["table", "status", "rows", "absolute", "absolute_in", "relative", "relative_in", "note"]
SAME, NUMBERS, LABELS, SHAPE, VERDICT = (
    "the same",
    "numbers differ",
    "labels differ",
    "shape differs",
    "verdict changed",
)
NOT_COMMITTED, NOT_MADE = "not committed", "not made"


def report(ran: Iterable[tuple[str, str]], since: float) -> None:
    """Compare the tables that notebooks have written with the committed ones; print and save what was found.

    For each data set that has committed tables, `report.csv` and `report.txt` go beside the tables that were
    made.

    Parameters
    ----------
    ran
        Data set (its slug) and name of each notebook that ran.
    since
        When they began (seconds since the epoch): what is older was made by another run.
    """
    numbers: dict[str, list[str]] = {}
    for dataset, name in ran:
        numbers.setdefault(dataset, []).append(name.split("_")[0])
    for dataset, of_notebooks in numbers.items():
        found = compare_folders(
            paths.figures(dataset), paths.committed_figures(dataset), of_notebooks, since=since
        )
        if found["status"].isin([NOT_COMMITTED]).all():  # also where there is no table at all
            continue
        text, folder = describe(found, dataset), paths.figures(dataset)
        with atomic(folder / "report.csv") as temporary:
            found.to_csv(temporary, index=False, float_format="%.3g")
        with atomic(folder / "report.txt") as temporary:
            shown = found.fillna("").to_string(index=False, float_format="{:.3g}".format)
            temporary.write_text(f"{text}\n\n{shown}\n", encoding="utf-8")
        print(f"\n{text}\nTable by table: {folder / 'report.txt'}")


def compare_folders(
    made: Path, committed: Path, notebooks: Iterable[str], since: float = 0.0
) -> pd.DataFrame:
    """Compare two folders of tables, as they are called in either.

    Parameters
    ----------
    notebooks
        Numbers of the notebooks whose tables are compared: `00` for `00_….csv`.
    since
        Tables that were made before (seconds since the epoch) are left out.

    Returns
    -------
    DataFrame
        One row per table, see `compare_tables`: `table` (file name), `status` (may be `not made` or `not
        committed`), `rows`, `absolute` and `relative` (greatest differences of numbers), `absolute_in` and
        `relative_in` (their columns), `note`.
    """
    rows = []
    prefixes = tuple(f"{number}_" for number in notebooks)
    new = {path.name: path for path in made.glob("*.csv") if path.stat().st_mtime >= since}
    old = {path.name: path for path in committed.glob("*.csv")}
    for name in sorted(name for name in {*new, *old} if name.startswith(prefixes)):
        if name not in new:
            rows.append({"table": name, "status": NOT_MADE})
        elif name not in old:
            rows.append({"table": name, "status": NOT_COMMITTED})
        else:
            rows.append({"table": name, **compare_tables(_read(new[name]), _read(old[name]))})
    return pd.DataFrame(rows, columns=COLUMNS)


def compare_tables(made: pd.DataFrame, committed: pd.DataFrame) -> dict[str, object]:
    """Compare two tables cell by cell, and by claim where they hold verdicts.

    Returns
    -------
    dict
        `status`: the worst that was found, from `the same` over `numbers`, `labels` and `shape` to `verdict
        changed`; `rows`, those that were made; the greatest absolute and relative difference of two numbers
        (relative to the larger) with their columns; `note`, what else differs.
    """
    status, notes = SAME, []
    row: dict[str, object] = {"rows": len(made), "absolute": 0.0, "relative": 0.0}
    shared = [name for name in made if name in committed]
    if len(made) == len(committed):
        labels = 0
        for name in shared:
            new, old = made[name], committed[name]
            if not all(is_numeric_dtype(each) and not is_bool_dtype(each) for each in (new, old)):
                labels += int((new.fillna("").astype(str) != old.fillna("").astype(str)).sum())
                continue
            new, old = new.to_numpy(float), old.to_numpy(float)
            labels += int((np.isfinite(new) != np.isfinite(old)).sum())
            for kind, difference in _differences(new, old).items():
                if difference > row[kind]:
                    row |= {kind: difference, f"{kind}_in": name}
        if row["absolute"]:
            status = NUMBERS
        if labels:
            status = LABELS
            notes.append(f"{labels} labels")
    else:
        status = SHAPE
        notes.append(f"{len(made)} rows, committed {len(committed)}")
    if set(made) != set(committed):
        status = SHAPE
        here, there = (
            [name for name in a if name not in b] for a, b in ((made, committed), (committed, made))
        )
        notes.append(
            f"columns only here: {', '.join(here) or '–'}; only committed: {', '.join(there) or '–'}"
        )
    if changed := _changed_verdicts(made, committed):
        status = VERDICT
        notes = changed
    return {"status": status, **row, "note": "; ".join(notes)}


def _differences(new: np.ndarray, old: np.ndarray) -> dict[str, float]:
    """Greatest differences of numbers, of those that both have."""
    both = np.isfinite(new) & np.isfinite(old)
    absolute = np.abs(new[both] - old[both])
    larger = np.maximum(np.abs(new[both]), np.abs(old[both]))
    relative = np.divide(absolute, larger, out=np.zeros_like(absolute), where=larger > 0)
    return {"absolute": float(absolute.max(initial=0.0)), "relative": float(relative.max(initial=0.0))}


def _changed_verdicts(made: pd.DataFrame, committed: pd.DataFrame) -> list[str]:
    """Claims whose verdict is another, or that only one of the tables has."""
    if not all({"claim", "verdict"} <= set(table) for table in (made, committed)):
        return []
    new, old = (dict(zip(table["claim"], table["verdict"], strict=True)) for table in (made, committed))
    return [
        f"{claim}: {old.get(claim, 'no verdict')} → {new.get(claim, 'no verdict')}"
        for claim in dict.fromkeys([*old, *new])
        if old.get(claim) != new.get(claim)
    ]


def describe(found: pd.DataFrame, dataset: str) -> str:
    """Put a report in a few lines: how many tables differ, how far, and which verdicts."""
    counts = ", ".join(
        f"{count} {status}" for status, count in found["status"].value_counts(sort=False).items()
    )
    lines = [f"Beside the committed tables of {dataset}: {counts}."]
    differing = found[found["absolute"] > 0]
    if len(differing):
        worst = {
            kind: differing.loc[differing[kind].astype(float).idxmax()] for kind in ("absolute", "relative")
        }
        told = [
            f"{kind} {row[kind]:.2g} ({row[f'{kind}_in']} in {row['table']})" for kind, row in worst.items()
        ]
        lines.append(f"Numbers differ by at most: {', '.join(told)}.")
    for row in found[found["status"].isin([LABELS, SHAPE])].itertuples():
        lines.append(f"{row.table}: {row.status}: {row.note}")
    changed = found[found["status"] == VERDICT]
    lines += [f"{row.table}: {row.status}: {row.note}" for row in changed.itertuples()]
    verdicts = found[found["table"].str.endswith("_verdicts.csv")]
    if len(verdicts) and not len(changed) and verdicts["status"].isin([SAME, NUMBERS, LABELS]).all():
        lines.append("No verdict changed.")
    return "\n".join(lines)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:  # a table without columns
        return pd.DataFrame()
