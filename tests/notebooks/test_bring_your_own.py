"""Every notebook runs on networks and images that somebody brings, by two parameters."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from repsim.cli.main import main
from repsim.cli.parameters import Notebook
from repsim.models import build_model
from repsim.support import paths

FILES = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
# A standard and a robust network; two of each where networks of one ε are compared.
CASES = [(path, 2) for path in FILES]
CASES += [(path, 4) for path in FILES if path.stem[:2] in ("04", "05", "06")]
SHAPE, CLASSES = (3, 16, 16), ("cat", "dog", "emu")
# What only shortens a run, where a notebook has it.
SHORT = {
    "pairs": 24,
    "iterations": 2,
    "ground_truth": False,
    "measures": ["cka", "jaccard"],
    "permutations": 0,
    "neighbors": [1, 2],
    "size": 10,
    "sizes": [10, 20],
    "quantiles": 2,
    "demonstrate": 0,
    "pgd_steps": 1,
    "attack_steps": 1,
    "images": 20,
    "layers": ["blocks"],
    "alphas": [0.0, 1.0],
    "ranks": [1],
    "attacked": ["stitched"],
    "fitting": {"epochs": 1, "attack_steps": 1},
    "shown": 2,
    "kinds": ["ridge"],
    "stir_seeds": 1,
}
SHORT_06 = {"attacked": 20, "attack_steps": 1}  # there, a number of images


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """A folder of images, and a standard and a robust network of two seeds, none of which can do much."""
    folder = tmp_path_factory.mktemp("brought")
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for name in CLASSES:
            (folder / "photos" / part / name).mkdir(parents=True)
            for i in range(20):
                pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / "photos" / part / name / f"{i}.png")
    networks = {}
    for seed, epsilon in enumerate(("0", "0", "8/255", "8/255")):
        network = build_model("resnet_tiny", SHAPE, len(CLASSES), [0.5] * 3, [0.25] * 3, seed)
        with torch.no_grad():
            network.fc.weight.mul_(20)  # so that answers differ between images
        torch.save(network.state_dict(), folder / f"{seed}.pt")
        networks[str(folder / f"{seed}.pt")] = {"epsilon": epsilon}
    return folder / "photos", networks


def run(path, brought, count, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(path, tmp_path / "notebooks")
    photos, networks = brought
    few = dict([*networks.items()][:: 4 // count])
    short = {**SHORT, **(SHORT_06 if path.stem.startswith("06") else {})}
    options = [
        text
        for name in Notebook.read(path).parameters
        if name in short
        for text in ("-p", name, json.dumps(short[name]))
    ]
    chosen = ["-p", "dataset", f"folder:{photos}", "-p", "checkpoints", json.dumps(few)]
    return main(["run", path.stem, *chosen, *options])


@pytest.mark.slow
@pytest.mark.parametrize(("path", "count"), CASES, ids=[f"{path.stem}-{count}" for path, count in CASES])
def test_it_runs_on_what_somebody_brings(path, count, brought, monkeypatch, tmp_path, capsys):
    code = run(path, brought, count, monkeypatch, tmp_path)
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    assert {".png", ".csv"} <= {file.suffix for file in paths.figures("photos").iterdir()}
    assert len(list((tmp_path / "data" / "models" / "photos").glob("*.json"))) == count
