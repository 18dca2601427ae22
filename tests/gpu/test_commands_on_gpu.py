"""The command line and a notebook where there is a GPU, which both take without being told."""

from pathlib import Path

import nbformat
import pytest
import torch

from repsim.cli.main import main

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def test_accuracies_are_printed(capsys, committed):
    names = [committed(epsilon=epsilon, where="cpu").name for epsilon in (0.0, 0.1)]
    arguments = ["--epsilon", "0,0.1", "--steps", "3", "--test-size", "100", "--transfer"]
    assert main(["evaluate", *names, *arguments]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert "accuracy of targets on images made to fool sources" in printed


def test_layers_are_printed(capsys, committed):
    assert main(["layers", committed(where="cpu").name]) == 0
    assert "layer2.0.relu2" in capsys.readouterr().out


PARAMETERS = 'device: str = "auto"  # auto, cpu, cuda'
WORK = """
from repsim.data import load_data
from repsim.studies.cka_maps.layer_maps import layer_cka
from repsim.training.model_store import stored_model
model = stored_model("{name}", device)
assert model.graph.device.type == device
layer_cka(model.graph, model.graph, load_data("digits").test.images[:50], progress=False)
"""


def test_a_notebook_runs(capsys, tmp_path, device, committed):
    pytest.importorskip("papermill")
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    work = nbformat.v4.new_code_cell(WORK.format(name=committed(where="cpu").name))
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, work]), tmp_path / "own.ipynb")
    given = ["-p", "device", device.type, "--out", str(tmp_path / "out")]
    assert main(["run", str(tmp_path / "own.ipynb"), *given]) == 0, capsys.readouterr().out


def test_a_notebook_refuses_a_device_that_is_not_there(capsys, tmp_path):
    pytest.importorskip("papermill")
    wanted = f"cuda:{torch.cuda.device_count() + 7}"
    assert (
        main(
            [
                "run",
                str(NOTEBOOKS / "01_cka_block_structure.ipynb"),
                "-p",
                "device",
                wanted,
                "--out",
                str(tmp_path),
            ]
        )
        == 1
    )
    assert f"there is no device '{wanted}' here" in capsys.readouterr().out
