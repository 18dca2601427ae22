"""Weights as NumPy arrays, and types that cannot do anything, are read without running code."""

import argparse
import pathlib
import re
import sys
from collections import defaultdict
from types import ModuleType

import numpy as np
import pytest
import torch

from repsim.models.checkpoints import read_checkpoint
from repsim.models.checkpoints.files import read_file
from repsim.support.artifacts import DamagedArtifact


@pytest.fixture
def fastcore(monkeypatch):
    """fastcore's list, as fastai's optimizers have it: pickling needs it, reading must not."""
    kind = type("L", (argparse.Namespace,), {"__module__": "fastcore.foundation"})
    module = ModuleType("fastcore.foundation")
    module.L = kind
    monkeypatch.setitem(sys.modules, "fastcore", ModuleType("fastcore"))
    monkeypatch.setitem(sys.modules, "fastcore.foundation", module)
    return kind


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_harmless_values_are_read(tmp_path, monkeypatch, fastcore, zipped):
    histories = defaultdict(list)
    histories["loss"].append(0.5)
    content = {
        "arrays": [
            np.arange(6).reshape(2, 3).astype(kind) for kind in ("f2", "f4", "f8", "i1", "u1", "?", ">f4")
        ],
        "scalars": (np.float32(0.5), np.int64(3), np.bool_(True)),
        "text": np.array(["a"]),
        "histories": histories,
        "path": pathlib.Path("runs/a"),
        "opt": {"hypers": fastcore(items=[{"lr": 0.1}])},
    }
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    monkeypatch.setitem(sys.modules, "fastcore.foundation", None)
    read, _ = read_file(tmp_path / "x.pt")
    for before, after in zip(content["arrays"], read["arrays"], strict=True):
        np.testing.assert_array_equal(before, after)
    assert read["scalars"] == content["scalars"]
    assert read["text"].tolist() == ["a"]
    assert read["histories"] == {"loss": [0.5]}
    assert read["path"].parts == ("runs", "a")
    assert read["opt"]["hypers"] == argparse.Namespace(items=[{"lr": 0.1}])


def same(path, network, rebuilt, images):
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read_checkpoint(path))(images), network(images))


@pytest.mark.parametrize("order", ["=", ">"])
def test_weights_as_arrays(tmp_path, small, rebuilt, pixels, order):
    network = small()
    arrays = {key: value.numpy() for key, value in network.state_dict().items()}
    arrays = {key: value.astype(value.dtype.newbyteorder(order)) for key, value in arrays.items()}
    torch.save({"net": arrays}, tmp_path / "arrays.pth")
    np.savez(tmp_path / "arrays.npz", **arrays)
    same(tmp_path / "arrays.pth", network, rebuilt, pixels())
    same(tmp_path / "arrays.npz", network, rebuilt, pixels())


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation", "ignore:TypedStorage")  # torch's own
def test_sparse_and_quantised_weights_become_dense(tmp_path, small):
    weights = small().state_dict()
    weights["fc.weight"] = torch.quantize_per_tensor(weights["fc.weight"], 0.01, 0, torch.qint8)
    expected = {**weights, "fc.weight": weights["fc.weight"].dequantize()}
    weights["conv1.weight"] = weights["conv1.weight"].to_sparse()
    torch.save(weights, tmp_path / "weights.pt")
    read = read_checkpoint(tmp_path / "weights.pt")
    for name in ("fc.weight", "conv1.weight"):
        assert torch.equal(read.weights[name], expected[name])


def test_arrays_of_python_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    message = (
        f"{tmp_path}/x.npz holds NumPy arrays of Python objects, which would need code: save its weights as "
        "arrays of numbers, numpy.savez('weights.npz', **{name: array, …})."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_checkpoint(tmp_path / "x.npz")


def test_one_array_alone(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    message = (
        f"{tmp_path}/x.npy is one array of NumPy: save names and arrays by numpy.savez('{tmp_path}/x.npz', "
        "**{name: array, …})."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_checkpoint(tmp_path / "x.npy")


class Made:
    """Something that a file makes by a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


RECONSTRUCT = np.zeros(0).__reduce__()[0]


@pytest.mark.parametrize(
    "made",
    [
        Made(np.ndarray, ((1,), np.dtype("O"), b"\1" * 8)),  # bytes as the address of an object
        Made(np.ndarray, ((1,), np.dtype([("a", "O")]), b"\1" * 8)),
        Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, b"\1" * 8)),
        Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (9,), np.dtype("f4"), False, b"\1" * 8)),
        Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1, -2), np.dtype("f4"), False, b"\1" * 8)),
        Made(np.dtype, ("V8",), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)),
        Made(np.ndarray, ((1,), np.dtype("f4"), b"\1" * 8, -100)),
    ],
    ids=["object", "record", "objects as bytes", "too long", "negative", "false flags", "outside"],
)
def test_no_memory_is_reached_by_what_a_file_makes(tmp_path, made):
    torch.save({"w": made, "v": np.ones((2, 2))}, tmp_path / "x.pt")
    try:
        read, _ = read_file(tmp_path / "x.pt")
    except (ValueError, DamagedArtifact):
        return
    assert getattr(read["w"], "size", 0) == 0  # nothing was made of it
