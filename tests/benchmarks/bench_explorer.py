"""How soon the explorer shows what a control asks for: from the moved control to the last view, no browser.

Warm: what the sliders will show has been computed ahead. Cold: nothing has, beyond the setting before. And
how long a control is held up by its own movement, while something else is being computed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from measuring import THREADS, Row, show

from repsim.explorer import Backend, Explorer, Setting

WARM, COLD, HELD = 0.2, 1.5, 0.02  # seconds
PATIENCE = 300.0


class Unprepared(Backend):
    """Nothing is computed ahead."""

    def ahead(self, setting, step=lambda: None):
        pass


def moved(explorer: Explorer, name: str, value: object) -> float:
    """Seconds until all is shown."""
    start = time.perf_counter()
    explorer.controls[name].value = value
    if not explorer.wait(PATIENCE):
        raise TimeoutError(f"{name} = {value!r} is not shown after {PATIENCE:g} s")
    return time.perf_counter() - start


def row(name: str, times: list[float], limit: float) -> Row:
    median, most = float(np.median(times)), max(times)
    return Row(name, f"{median:.3f} s (at most {most:.3f} s, {len(times)} moves)", most / limit, at_most=1)


def main() -> None:
    torch.set_num_threads(THREADS)
    start = time.perf_counter()
    cold = Explorer(Setting(), Unprepared())
    cold.wait(PATIENCE)
    first = time.perf_counter() - start
    stops = [value for _, value in cold.controls["epsilon"].options]
    unseen = [value for value in stops if value not in (0.0, cold.setting.epsilon)]
    cold_times = {"ε": [moved(cold, "epsilon", stop) for stop in unseen[:6]]}
    cold_times["ε, adversarial inputs"] = [moved(cold, "inputs", "adversarial")]
    cold_times["ε, adversarial inputs"] += [moved(cold, "epsilon", stop) for stop in unseen[6:]]
    cold_times["measure"] = [
        moved(cold, "measure", name) for name in ("rsa", "jaccard", "procrustes_similarity")
    ]
    cold_times["seed"] = [moved(cold, "seed", seed) for seed in (1, 2)]

    held = []
    for stop in stops * 5:  # faster than anything can be shown
        start = time.perf_counter()
        cold.controls["epsilon"].value = stop
        held.append(time.perf_counter() - start)
        time.sleep(0.02)
    cold.wait(PATIENCE)
    cold.close()

    warm = Explorer(Setting(inputs="adversarial"), Backend())
    warm.wait(PATIENCE)
    warm.backend.ahead(warm.setting)
    warm_times = {"ε": [moved(warm, "epsilon", stop) for stop in stops]}
    warm_times["image"] = [moved(warm, "image", image) for image in range(1, 9)]
    layers = warm.controls["layer_a"].options
    warm_times["layer"] = [moved(warm, "layer_a", layer) for layer in layers]
    warm.close()

    show(
        "The explorer: from a moved control to the last view, digits",
        [
            Row("first view, networks and images loaded", f"{first:.3f} s"),
            *(row(f"warm, {name} ÷ {WARM} s", times, WARM) for name, times in warm_times.items()),
            *(row(f"cold, {name} ÷ {COLD} s", times, COLD) for name, times in cold_times.items()),
            row(f"a control held up ÷ {HELD} s", held, HELD),
        ],
        ["Two 8-layer ResNets, 128 images, 11 layers of each, PGD-10. Ratios are of the longest move."],
    )


if __name__ == "__main__":
    main()
