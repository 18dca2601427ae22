"""How fast networks are trained on this machine's CPU, beside the commit before bfloat16 and cheap attacks.

`python tests/benchmarks training` trains on random images of 3 × 32 × 32, each way in turn: as many processes
of one thread as there are cores, as `repsim zoo` has it, or one process with all threads. What is compared is
images a second of all processes together, in their second epoch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench_against import at_commit
from measuring import Row, show

BEFORE = "1e1c75e"
REPEATS = 2
CORES = os.cpu_count() or 1
PGD = {"method": "pgd", "epsilon": 8 / 255, "attack_steps": 3}
CHILD = """
import sys, time, torch
torch.set_num_threads({threads})
from repsim.data import Augmentation, Dataset, Split
from repsim.training import Recipe, train
generator = torch.Generator().manual_seed(0)
split = Split(torch.rand({images}, 3, 32, 32, generator=generator), torch.arange({images}) % 10)
data = Dataset(
    "random", "random", tuple("0123456789"), split, split, Augmentation(crop=4, flip=True), (0.5,) * 3,
    (0.2,) * 3, "",
)
recipe = Recipe.on(data, {architecture!r}, epochs=2, **{options})
for line in sys.stdin:
    ends = []
    train(recipe, data, device="cpu", progress=False, on_epoch=lambda *_: ends.append(time.perf_counter()))
    print({images} / (ends[1] - ends[0]), flush=True)
"""
LONGER = 4  # times as many where robustness is followed: on few images, passes of a few would count too much
IMAGES = {"resnet20_w1": 512, "wrn_28_1": 512, "resnet18": 128}
TARGETS = {"resnet20_w1": 2.2, "wrn_28_1": 2, "resnet18": 1.8}
CHEAPER, ALONE = 3.5, 1.6
HELD = 256  # images of 50,000 that robustness is followed on, as by default; here as many of so many fewer


@dataclass(frozen=True)
class Way:
    """A way to train: by which package, how many processes of how many threads, with which options."""

    place: Path
    processes: int
    threads: int
    options: dict
    longer: int = 1


def images_a_second(architecture: str, ways: dict[str, Way]) -> dict[str, float]:
    """The most images a second of each way, taken in turn."""
    running = {name: [_child(architecture, way) for _ in range(way.processes)] for name, way in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, children in running.items():
            for child in children:  # all at once
                child.stdin.write("\n")
                child.stdin.flush()
            found[name].append(sum(float(child.stdout.readline()) for child in children))
    for children in running.values():
        for child in children:
            child.communicate()
    return {name: max(speeds) for name, speeds in found.items()}


def _child(architecture: str, way: Way) -> subprocess.Popen:
    images = way.longer * IMAGES[architecture]
    code = CHILD.format(threads=way.threads, images=images, architecture=architecture, options=way.options)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=way.place,  # from where, before all else, it imports the package
        env={**os.environ, "PYTHONPATH": str(way.place)},
    )


def main() -> None:
    coarse = {**PGD, "precision": "bfloat16"}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        then, now = at_commit(BEFORE, Path(folder)), Path(__file__).parents[2]
        for architecture, least in TARGETS.items():
            held = max(1, round(HELD * LONGER * IMAGES[architecture] / 50_000))
            cheap = {**coarse, "training_attack": "fgsm", "held_out": held}
            ways = {
                "before": Way(then, CORES, 1, PGD),
                "float32": Way(now, CORES, 1, PGD),
                "bfloat16": Way(now, CORES, 1, coarse),
                "FGSM": Way(now, CORES, 1, cheap, LONGER),
                "alone before": Way(then, 1, CORES, PGD),
                "alone": Way(now, 1, CORES, coarse),
            }
            speeds = images_a_second(architecture, ways)

            def row(title: str, way: str, beside: str, least: float | None, speeds: dict = speeds) -> Row:
                ratio = speeds[way] / speeds[beside]
                return Row(title, f"{speeds[way]:.0f} images/s", ratio, at_least=least)

            each = f"{CORES} processes of a thread"
            rows += [
                Row(f"{architecture}: commit {BEFORE}, PGD-3, {each}", f"{speeds['before']:.0f} images/s"),
                row("… float32", "float32", "before", None),
                row("… bfloat16", "bfloat16", "before", least),
                row("… bfloat16, FGSM from a random start", "FGSM", "before", CHEAPER),
                row(f"… one process of {CORES} threads, bfloat16, PGD-3", "alone", "alone before", ALONE),
            ]
    notes = [
        f"Ratios: images a second now ÷ those of commit {BEFORE}; the most of {REPEATS} epochs each,",
        "taken in turn. Random images of 3 × 32 × 32, batches of 128.",
    ]
    show("Training on small images", rows, notes)


if __name__ == "__main__":
    main()
