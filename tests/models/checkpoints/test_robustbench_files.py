"""RobustBench's networks with random weights, saved, read back and compared, in a process of its own.

`make test-peers` installs RobustBench where this finds it; the script itself takes its other leaderboards.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers

SCRIPT = Path(__file__).with_name("reading_robustbench.py")
FOLDER = Path(__file__).parents[3] / ".peers" / "robustbench"


def test_nine_of_ten_load_right_and_none_wrong(capsys):
    if not FOLDER.is_dir() and importlib.util.find_spec("robustbench") is None:
        pytest.skip("there is no RobustBench here: make test-peers installs it")
    paths = [str(SCRIPT.parents[3]), str(FOLDER), os.environ.get("PYTHONPATH", "")]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "cifar10/Linf"]
    answer = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    with capsys.disabled():
        print(f"\n{answer.stdout}")
    right, total = map(int, re.search(r"(\d+) of (\d+) load right$", answer.stdout.strip()).groups())
    assert right >= 0.9 * total
    assert ": wrong" not in answer.stdout
