"""Do the tests find faults? Plant each of `faults.toml` in a copy of the checkout and run its room's tests.

    python tests/planted [--quick] [--out FILE] [name …]

A fault is found where a test fails that passes without it. With --quick, tests marked slow are left out.
The table that is printed, or written as CSV, has for each fault whether it was found, by which test first,
and how long that took.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("repsim", "tests", "notebooks", "docs")  # the rest of the checkout is linked
LEFT_OUT = "not gpu and not peers and not browser"
OK, FAILED = 0, 1  # of pytest; anything else means that tests did not run


def read_faults() -> dict[str, dict]:
    """By name; a text that is to be replaced stands exactly once in its file.

    Raises
    ------
    ValueError
        It does not: the code has changed, and the fault has to be planted elsewhere.
    """
    faults = tomllib.loads(Path(__file__).with_name("faults.toml").read_text(encoding="utf-8"))
    for name, fault in faults.items():
        source = ROOT / fault["file"]
        count = source.read_text(encoding="utf-8").count(fault["text"]) if source.is_file() else 0
        if count != 1:
            raise ValueError(f"{name}: {fault['file']} has {fault['text']!r} {count} times, not once.")
    return faults


def copy_of_checkout(folder: Path) -> None:
    """Make a checkout in which files of the package can be changed."""
    for entry in ROOT.iterdir():
        if entry.name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", "build", "site")
            shutil.copytree(entry, folder / entry.name, ignore=ignored)
        elif entry.name != ".git":
            (folder / entry.name).symlink_to(entry)


def first_failure(folder: Path, tests: list[str], quick: bool) -> str:
    """Which test fails first in a copy of the checkout; empty where none does."""
    chosen = f"{LEFT_OUT} and not slow" if quick else LEFT_OUT
    annotations = {"REPSIM_ANNOTATIONS": "off"} if quick else {}  # as the Makefile has it
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", chosen]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"} | annotations
    done = subprocess.run([*command, *tests], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (OK, FAILED):
        raise RuntimeError(
            f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return failed[1] if failed else ""


def find(folder: Path, fault: dict, quick: bool) -> str:
    """The first test that fails with a fault, in a copy of the checkout; empty where none does.

    Raises
    ------
    RuntimeError
        That test fails without the fault as well.
    """
    file = folder / fault["file"]
    sound = file.read_text(encoding="utf-8")
    file.write_text(sound.replace(fault["text"], fault["instead"]), encoding="utf-8")
    try:
        test = first_failure(folder, fault["tests"], quick)
    finally:
        file.write_text(sound, encoding="utf-8")
    if test and first_failure(folder, [test], quick):
        raise RuntimeError(f"{test} fails without the fault as well.")
    return test


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="which faults; all by default")
    parser.add_argument("--quick", action="store_true", help="leave out tests that are marked slow")
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    arguments = parser.parse_args()
    faults = read_faults()
    if unknown := set(arguments.names) - set(faults):
        parser.error(f"there is no fault {', '.join(sorted(unknown))}; known are {', '.join(faults)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy_of_checkout(Path(folder))
        for name in arguments.names or faults:
            started = time.monotonic()
            test = find(Path(folder), faults[name], arguments.quick)
            seconds = f"{time.monotonic() - started:.0f}"
            rows.append({"fault": name, "room": faults[name]["room"], "found_by": test, "seconds": seconds})
            print(f"{'found ' if test else 'MISSED'} {seconds:>4} s  {name}  {test}", flush=True)
    found = sum(bool(row["found_by"]) for row in rows)
    print(f"{found} of {len(rows)} found")
    if arguments.out:
        with arguments.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 0 if found == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
