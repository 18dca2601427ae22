"""The reproduction report: how far tables are from the committed ones, and whether a verdict changed."""

import os

import pandas as pd
import pytest

from repsim.cli import reproduction
from repsim.cli.reproduction import compare_folders, compare_tables
from repsim.support import paths

TABLE = pd.DataFrame(
    {"kind": ["a", "b", None], "value": [1.0, 2.0, -4.0], "other": [0.0, float("nan"), 1e-9]}
)
VERDICTS = pd.DataFrame({"claim": ["one", "two"], "value": [0.1, 0.2], "verdict": ["holds", "inconclusive"]})


def test_a_table_is_the_same_as_itself():
    found = compare_tables(TABLE, TABLE.copy())
    assert found == {"status": "the same", "rows": 3, "absolute": 0.0, "relative": 0.0, "note": ""}


def test_greatest_differences_are_of_their_columns():
    other = TABLE.assign(value=[1.0, 2.0, -4.5], other=[0.0, float("nan"), 3e-9])
    found = compare_tables(other, TABLE)
    assert found["status"] == "numbers differ"
    assert (found["absolute"], found["absolute_in"]) == (0.5, "value")
    assert (found["relative"], found["relative_in"]) == (pytest.approx(2 / 3), "other")
    assert compare_tables(TABLE, other)["relative"] == found["relative"]


@pytest.mark.parametrize(
    ("made", "status", "note"),
    [
        (TABLE.assign(kind=["a", "b", "c"]), "labels differ", "1 labels"),
        (TABLE.assign(other=[0.0, 1.0, 1e-9]), "labels differ", "1 labels"),
        (TABLE.assign(value=[1.0, 2.0, float("inf")]), "labels differ", "1 labels"),
        (TABLE.assign(value=["1", "x", "-4"]), "labels differ", "3 labels"),
        (TABLE.iloc[:2], "shape differs", "2 rows, committed 3"),
        (
            TABLE.rename(columns={"kind": "sort"}),
            "shape differs",
            "columns only here: sort; only committed: kind",
        ),
    ],
)
def test_what_is_more_than_numbers_is_said(made, status, note):
    found = compare_tables(made, TABLE)
    assert (found["status"], found["note"]) == (status, note)


def test_verdicts_are_compared_by_claim():
    turned = VERDICTS.iloc[::-1].reset_index(drop=True)
    assert compare_tables(turned, VERDICTS)["status"] == "labels differ"
    changed = VERDICTS.assign(verdict=["inconclusive", "inconclusive"])
    found = compare_tables(changed, VERDICTS)
    assert (found["status"], found["note"]) == ("verdict changed", "one: holds → inconclusive")
    found = compare_tables(VERDICTS.iloc[1:], VERDICTS)
    assert (found["status"], found["note"]) == ("verdict changed", "one: holds → no verdict")


def test_tables_of_the_notebooks_that_ran_are_found_in_both_folders(tmp_path):
    made, committed = tmp_path / "made", tmp_path / "committed"
    for folder, names in (
        (made, ["00_a", "00_new", "00_old", "01_b"]),
        (committed, ["00_a", "00_gone", "01_b"]),
    ):
        folder.mkdir()
        for name in names:
            TABLE.to_csv(folder / f"{name}.csv", index=False)
    os.utime(made / "00_old.csv", (0, 0))
    (made / "00_empty.csv").write_text("\n")
    (committed / "00_empty.csv").write_text("\n")
    found = compare_folders(made, committed, ["00"], since=10)
    assert dict(zip(found["table"], found["status"], strict=True)) == {
        "00_a.csv": "the same",
        "00_empty.csv": "the same",
        "00_gone.csv": "not made",
        "00_new.csv": "not committed",
    }


@pytest.fixture
def _tables(tmp_path):
    for folder, tables in (
        (paths.figures("digits"), {"00_a": TABLE.assign(value=[1.0, 2.1, -4.0]), "00_verdicts": VERDICTS}),
        (paths.committed_figures("digits"), {"00_a": TABLE, "00_verdicts": VERDICTS}),
        (paths.figures("photos"), {"00_a": TABLE}),
    ):
        folder.mkdir(parents=True)
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)


@pytest.mark.usefixtures("_tables")
def test_the_report_is_printed_and_saved(capsys):
    reproduction.report([("digits", "00_models"), ("photos", "00_models")], since=0.0)
    printed = capsys.readouterr().out.splitlines()
    folder = paths.figures("digits")
    assert printed == [
        "",
        "Beside the committed tables of digits: 1 numbers differ, 1 the same.",
        "Numbers differ by at most: absolute 0.1 (value in 00_a.csv), relative 0.048 (value in 00_a.csv).",
        "No verdict changed.",
        f"Table by table: {folder / 'report.txt'}",
    ]
    saved = pd.read_csv(folder / "report.csv")
    assert list(saved["table"]) == ["00_a.csv", "00_verdicts.csv"]
    assert saved["relative"].tolist() == [0.0476, 0]
    assert "00_verdicts.csv" in (folder / "report.txt").read_text(encoding="utf-8")
    assert not (paths.figures("photos") / "report.csv").exists()  # nothing is committed of these


@pytest.mark.usefixtures("_tables")
def test_a_changed_verdict_stands_out(capsys):
    VERDICTS.assign(verdict="does not hold").to_csv(paths.figures("digits") / "00_verdicts.csv", index=False)
    reproduction.report([("digits", "00_models")], since=0.0)
    printed = capsys.readouterr().out
    assert (
        "00_verdicts.csv: verdict changed: one: holds → does not hold; two: inconclusive → does not"
        in printed
    )
    assert "No verdict changed" not in printed
