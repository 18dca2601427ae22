"""Run the benchmarks: `python tests/benchmarks`, or only those with a word in their name, given behind it.

Each runs in a process of its own, so that its peak memory is its own. A missed target is printed, and is no
failure: machines are noisy. What was measured replaces the same tables of docs/speed.csv, of which
docs/generate.py makes the page on speed.
"""

import os
import subprocess
import sys
from pathlib import Path

words = sys.argv[1:]
found = sorted(Path(__file__).parent.glob("bench_*.py"))
chosen = [path for path in found if not words or any(word in path.stem for word in words)]
if not chosen:
    sys.exit(
        f"no benchmark is called like {' or '.join(words)}; there are {', '.join(p.stem for p in found)}."
    )
recording = {**os.environ, "REPSIM_SPEED": str(Path(__file__).parents[2] / "docs" / "speed.csv")}
failed = [
    path.stem
    for path in chosen
    if subprocess.run([sys.executable, str(path)], env=recording, check=False).returncode
]
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
