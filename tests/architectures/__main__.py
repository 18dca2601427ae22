"""Run the package on the field's architectures: is it right on each of them, or does it say why not?

    python tests/architectures                      # all of them; a run that was cut off goes on
    python tests/architectures --anew               # from the start
    python tests/architectures --library timm vit   # only timm's with `vit` in their name
    python tests/architectures -j 4 --every 10      # four processes; every tenth network

Each network has a process of its own, of one thread: one that crashes or hangs is one row. `results.csv`
has a row for each, `results.md` sums them up. A run of a part replaces the rows of that part. The exit status
is 1 where something is wrong or crashes, or, over all networks, where too few are traced or too many refused.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import multiprocessing
import os
import sys
import time
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
from checks import COLUMNS, Row, check, described
from networks import LIBRARIES, names_of
from summary import missed, summarize

import repsim

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results.csv", HERE / "results.md"
PARTIAL = HERE / "results.partial.csv"
Key = tuple[str, str]


def run_one(library: str, name: str, send: Connection) -> None:
    """In a process of its own: send the row of one network."""
    torch.set_num_threads(1)
    try:
        row = check(library, name)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        crash = f"{described(error)} ({Path(where.filename).name}, line {where.lineno})"
        row = vars(Row(library, name, verdict="crash", crash=crash))
    send.send(row)


class Running:
    """One network's process, and how long it may take."""

    def __init__(self, key: Key, limit: float):
        self.key, self.limit, self.start = key, limit, time.perf_counter()
        # a fork shares the libraries that are imported here already
        forked = multiprocessing.get_context("fork")
        self.receive, send = forked.Pipe(duplex=False)
        self.process = forked.Process(target=run_one, args=(*key, send))
        self.process.start()
        send.close()  # so that the end of the process ends the pipe

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def row(self) -> dict | None:
        """Its row once there is one; None while it is still running."""
        if self.receive.poll():
            try:
                row = self.receive.recv()
            except EOFError:  # it died without a word
                self.process.join()
                crash = f"the process ended with {self.process.exitcode}"
                row = vars(Row(*self.key, verdict="crash", crash=crash))
        elif self.seconds > self.limit:
            self.process.kill()
            row = vars(Row(*self.key, verdict="timeout", crash=f"not done after {self.limit:g} s"))
        else:
            return None
        self.process.join()
        return {**row, "seconds": round(self.seconds, 1)}


def run_all(keys: list[Key], jobs: int, limit: float):
    """Yield the row of each network as it is done."""
    pending, running = list(reversed(keys)), []
    while pending or running:
        while pending and len(running) < jobs:
            running.append(Running(pending.pop(), limit))
        wait([one.receive for one in running], timeout=1)
        for one in list(running):
            if (row := one.row()) is not None:
                running.remove(one)
                yield row


def read(path: Path) -> dict[Key, dict]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["library"], row["name"]): row for row in csv.DictReader(file)}


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def rounded(row: dict) -> dict:
    """Errors to two digits, texts in one line of bearable length."""
    shown = {}
    for column, value in row.items():
        value = f"{value:.2g}" if isinstance(value, float) and column != "seconds" else value
        shown[column] = " ".join(value.split())[:600] if isinstance(value, str) else value
    return shown


def code() -> str:
    """A digest of the package and of this sweep: what was found by other code is not kept."""
    digest = hashlib.sha256()
    for folder in (Path(repsim.__file__).parent, HERE):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def unfinished(anew: bool) -> dict[Key, dict]:
    """The rows of a run of the same code that was cut off."""
    mark = PARTIAL.with_suffix(".code")
    if anew or not mark.exists() or mark.read_text() != code():
        PARTIAL.unlink(missing_ok=True)
        mark.write_text(code())
    return read(PARTIAL)


def finish(rows: list[dict]) -> None:
    write(RESULTS, rows)
    TABLE.write_text(summarize(rows), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only networks with one of these in their name")
    parser.add_argument(
        "--library", choices=LIBRARIES, action="append", help="only this library; may be given again"
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only every Nth network of each library"
    )
    parser.add_argument(
        "-j", "--jobs", type=int, default=os.cpu_count() or 1, help="processes of one thread each"
    )
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="for one network")
    parser.add_argument("--anew", action="store_true", help="keep nothing of a run that was cut off")
    chosen = parser.parse_args()

    everything = [(library, name) for library in LIBRARIES for name in names_of(library)]
    keys = [
        (library, name)
        for library in chosen.library or LIBRARIES
        for name in names_of(library)[:: chosen.every]
        if not chosen.words or any(word in name for word in chosen.words)
    ]
    if not keys:
        parser.error(f"no network has {' or '.join(chosen.words)} in its name.")
    whole = keys == everything
    rows = {key: row for key, row in unfinished(chosen.anew).items() if key in set(keys)} if whole else {}
    import_libraries({library for library, _ in keys})
    left = [key for key in keys if key not in rows]
    for row in run_all(left, chosen.jobs, chosen.limit):
        row = rounded(row)
        rows[row["library"], row["name"]] = row
        if whole:
            write(PARTIAL, list(rows.values()))
        found = [row["verdict"], row["how"] or "-", f"{row['layers']} layers", f"{row['seconds']} s"]
        say = row["wrong"] or row["crash"] or row["refusals"]
        words = ", ".join(found) + (f"; {say[:300]}" if say else "")
        print(f"[{len(rows)}/{len(keys)}] {row['library']} {row['name']}: {words}", flush=True)
    done = [rows[key] for key in keys]
    before = {} if whole else read(RESULTS)
    merged = {**before, **rows}
    finish([merged[key] for key in everything if key in merged])
    if whole:
        PARTIAL.unlink()
        PARTIAL.with_suffix(".code").unlink()
    print("\n" + summarize(done))
    faults = missed(done, shares=whole)
    print("\n".join(faults) or "All targets are met.")
    return 1 if faults else 0


def import_libraries(libraries: set[str]) -> None:
    """Once, before any process is forked; nothing is downloaded, and transformers keeps its advice back."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "timm" in libraries:
        import timm  # noqa: F401
    if "transformers" in libraries:
        import transformers

        transformers.logging.set_verbosity_error()


if __name__ == "__main__":
    sys.exit(main())
