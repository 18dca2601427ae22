"""The measures beside those of an earlier commit: in turn, in processes of their own, time and peak memory.

`python tests/benchmarks against` compares with the commit before ties and precision were mended; the earlier
package is taken out of the repository's history into a temporary folder.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from measuring import THREADS, Row, show

BEFORE = "1e1c75e"
REPEATS = 3
CHILD = """
import resource, sys, time, warnings
import torch
torch.set_num_threads({threads})
warnings.simplefilter("ignore")
from repsim.measures import MEASURES, compare, compare_many, interval, permutation_test
generator = torch.Generator().manual_seed(0)
def normal(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
def related(n, widths):
    latent = normal(n, 32)
    return [latent @ normal(32, width) / 8 + normal(n, width) for width in widths]
{setup}
def run():
    {statement}
for line in sys.stdin:
    start = time.perf_counter()
    run()
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""
PAIR = "x, y = related(2_000, [512, 512])"
PREDICTIONS = "x, y = (normal(2_000, 10) for _ in range(2))"


def permutations(name: str) -> tuple[str, str]:
    return PAIR, f"permutation_test({name!r}, x, y, permutations=199, progress=False)"


def interval_of(name: str, setup: str = PAIR) -> tuple[str, str]:
    return setup, f"interval({name!r}, x, y, resamples=40, progress=False)"


NAMES = "[name for name in MEASURES if name not in ('rtd', 'imd')]"
WORK = {  # quantity: setup, statement, least ratio of the earlier time to ours
    "compare, 34 measures, 2,000 × 512": ((PAIR, f"compare(x, y, {NAMES})"), 1),
    "compare_many, 9 × 5,000 × 512, 3 measures": (
        (
            "many = {str(i): x for i, x in enumerate(related(5_000, [512] * 9))}",
            "compare_many(many, ['cka', 'procrustes', 'jaccard'], progress=False)",
        ),
        1,
    ),
    "interval of cka, 2,000 × 512": (interval_of("cka"), 1),
    "interval of jaccard, 2,000 × 512": (interval_of("jaccard"), 1),
    "interval of agreement, 2,000": (interval_of("agreement", PREDICTIONS), 1),
    **{
        f"permutation_test of {name}, 2,000 × 512": (permutations(name), least)
        for name, least in {
            "cka": 5,
            "cka_debiased": 5,
            "cka_rbf": 5,
            "cka_angular": 5,
            "procrustes": 1.5,
            "rsa": 1.5,
            "jaccard": None,
            "distance_correlation": None,
        }.items()
    },
}


def at_commit(commit: str, folder: Path) -> Path:
    """The package as it was, in a folder."""
    root = Path(__file__).parents[2]
    archive = subprocess.run(
        ["git", "archive", commit, "repsim"], cwd=root, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def in_turn(setup: str, statement: str, places: list[Path]) -> list[tuple[float, float]]:
    """Least seconds, and peak memory in MiB, of each version of the package."""
    code = CHILD.format(threads=THREADS, setup=setup, statement=statement)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=place,  # from where, before all else, it imports the package
            env={**os.environ, "PYTHONPATH": str(place)},
        )
        for place in places
    ]
    found: list[list[tuple[float, float]]] = [[] for _ in places]
    for _ in range(REPEATS + 1):  # the first is to warm up
        for child, own in zip(children, found, strict=True):
            child.stdin.write("\n")
            child.stdin.flush()
            seconds, peak = map(float, child.stdout.readline().split())
            own.append((seconds, peak / 1024))
    for child in children:
        child.communicate()
    return [(min(seconds for seconds, _ in own[1:]), own[-1][1]) for own in found]


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        places = [at_commit(BEFORE, Path(folder)), Path(__file__).parents[2]]
        for quantity, ((setup, statement), least) in WORK.items():
            (before, memory_before), (now, memory) = in_turn(setup, statement, places)
            rows.append(Row(quantity, f"{now:.3f} s", before / now, at_least=least))
            rows.append(Row("… peak memory", f"{memory:.0f} MiB", memory / memory_before, at_most=1.05))
    notes = [
        f"Ratios of time: commit {BEFORE} ÷ now; of memory: now ÷ {BEFORE}. Intervals of 40 samples, tests",
        "of 199 permutations; the least of three runs each.",
    ]
    show("The measures beside an earlier commit", rows, notes)


if __name__ == "__main__":
    main()
