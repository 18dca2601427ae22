"""The command line and a notebook where there is a GPU, which both take without being told."""

from pathlib import Path

import nbformat
import pytest
import torch

from repsim.__main__ import main

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


def test_a_notebook_runs(capsys, tmp_path, device):
    pytest.importorskip("papermill")
    values = {"device": device.type, "seeds": 2, "test_size": 200, "architectures": "[resnet_tiny]"}
    values |= {"kinds": "[ridge]", "epsilons": "['0', '0.1']", "attack_steps": 2, "attacked": 50}
    given = [word for name, value in values.items() for word in ("-p", name, str(value))]
    done = main(["run", str(NOTEBOOKS / "06_probes.ipynb"), *given, "--out", str(tmp_path)])
    assert done == 0, capsys.readouterr().out
    (path,) = tmp_path.glob("*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if any(o.output_type == "error" for o in cell.get("outputs", []))]


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
