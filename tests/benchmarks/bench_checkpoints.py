"""How soon a checkpoint of 350 MB is a network, and how soon its architecture is known.

The bound of reading is what nobody can leave out: loading the file, its SHA-256, and giving the tensors to an
empty network. Recognition is timed where nothing is kept from before, in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measuring import THREADS, Row, best_times, show

from repsim.models import build_model
from repsim.models.checkpoints import read_checkpoint
from repsim.models.checkpoints.recognizing import recognize
from repsim.support.compat import torchvision

LARGE = "vit_b_16"
NAMES = ("wrn_28_10", "preactresnet18", "resnet18", "torchvision:resnet50", "densenet121", LARGE)
REPEATS, PROCESSES = 5, 3
SIDES = {LARGE: 224, "torchvision:resnet50": 224}


def weights(name: str) -> dict[str, torch.Tensor]:
    """Untrained, as other code would save them."""
    shape = (3, SIDES.get(name, 32), SIDES.get(name, 32))
    state = build_model(name, shape, 10, [0.0] * 3, [1.0] * 3).state_dict()
    return {key: value for key, value in state.items() if not key.startswith("normalize.")}


def empty() -> torch.nn.Module:
    """The network without numbers in it."""
    with torch.device("meta"):
        return torchvision.models.get_model(LARGE, weights=None, num_classes=10)


def plainly(path: Path) -> torch.nn.Module:
    """Load, hash, assign."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
    network = empty()
    network.load_state_dict(content["state_dict"], assign=True)
    return network


def ours(path: Path) -> torch.nn.Module:
    """Read the file not knowing what it holds."""
    network = empty()
    network.load_state_dict(read_checkpoint(path).weights, assign=True)
    return network


def alone(what: str, given: str) -> float:
    """What one measurement of this file gives in a process of its own."""
    command = [sys.executable, __file__, what, given]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(path: str) -> float:
    """The most memory that reading takes, in bytes, beyond what was in use before."""
    empty()
    before = status("VmRSS")
    kept = ours(Path(path))
    assert kept is not None
    return status("VmHWM") - before


def status(name: str) -> int:
    """A quantity of this process in bytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def recognition(name: str) -> float:
    """Seconds until the architecture of some weights is known for the first time."""
    state = weights(name)
    start = time.perf_counter()
    found = recognize(state, "weights")
    seconds = time.perf_counter() - start
    assert found.architecture == name, found.architecture
    return seconds


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        torch.save({"state_dict": weights(LARGE), "epoch": 1}, path)
        size = path.stat().st_size
        seconds = best_times({"plainly": lambda: plainly(path), "ours": lambda: ours(path)}, REPEATS)
        held = alone("memory", str(path))
    plain = seconds["plainly"]
    rows += [
        Row(f"torch.load, SHA-256 and load_state_dict, {size / 1e6:.0f} MB", f"{plain:.2f} s"),
        Row(
            "read_checkpoint and load_state_dict ÷ that",
            f"{seconds['ours']:.2f} s",
            seconds["ours"] / plain,
            1.5,
        ),
        Row("its memory ÷ the file's size", f"{held / 1e6:.0f} MB", held / size, at_most=1.2),
    ]
    for name in NAMES:
        first = min(alone("recognition", name) for _ in range(PROCESSES))
        rows.append(Row(f"recognising {name} ÷ 0.3 s", f"{first:.2f} s", first / 0.3, at_most=1.0))
    notes = [
        f"Best of {REPEATS}, taken in turn; recognition: the first call in each of {PROCESSES} processes."
    ]
    show("Checkpoints of others", rows, notes)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    if sys.argv[1:]:
        print(json.dumps({"memory": memory, "recognition": recognition}[sys.argv[1]](sys.argv[2])))
    else:
        main()
