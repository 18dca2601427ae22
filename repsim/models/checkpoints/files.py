"""A file → what was saved in it, executing nothing unless it is trusted."""

from __future__ import annotations

import difflib
import pickle
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from shlex import quote
from types import SimpleNamespace

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from repsim.models.checkpoints.harmless import HARMLESS
from repsim.support.artifacts import DamagedArtifact

DAMAGED = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
)  # what unpickling bytes at random raises

# What files begin with that hold others.
ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")
OTHERS = {".onnx": "ONNX", ".keras": "Keras", ".msgpack": "Flax", ".tflite": "TensorFlow"}  # by its suffix


def read_file(path: Path, trust_pickle: bool = False) -> tuple[object, dict[str, str]]:
    """The contents of a checkpoint file, on the CPU, and the texts in a safetensors file's header.

    Raises
    ------
    ValueError
        There is no such file; it is a web page, a pointer to a file, an archive, a program or a part of a
        checkpoint; or loading it would run code.
    DamagedArtifact
        It is empty, cut off or of no format that is known.
    """
    if not path.is_file():
        raise ValueError(_missing(path))
    with path.open("rb") as file:
        beginning = file.read(512)
    _check_beginning(path, beginning)
    if path.suffix == ".safetensors" or beginning[8:10] == b'{"':
        return _read_safetensors(path)
    members = _members(path)
    if members and all(member.endswith(".npy") for member in members):
        return _read_numpy(path), {}
    is_script = any(member.endswith("constants.pkl") for member in members)
    if is_script and trust_pickle:
        return torch.jit.load(path, map_location="cpu"), {}
    if why := _other_kind(path, beginning, members, is_script):
        raise ValueError(f"{path} is {why}")
    if trust_pickle:
        return unpickle(path), {}
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # of what pickle alone wrote
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except pickle.UnpicklingError as error:
        if needed := _needed(path, str(error)):
            raise ValueError(_refusal(path, needed)) from None
        raise DamagedArtifact(_unreadable(path)) from error
    except DAMAGED as error:
        raise DamagedArtifact(_unreadable(path)) from error


def unpickle(path: Path) -> object:
    """The contents of a file, running whatever code it says; stand-ins for classes that are not installed."""
    import dill

    class Lenient(dill.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            try:
                return super().find_class(module, name)
            except (ImportError, AttributeError):
                return type(name, (StandIn,), {"__module__": module})

    def load(file, **options):
        return Lenient(file, **options).load()

    tools = SimpleNamespace(__name__=__name__, Unpickler=Lenient, load=load)
    failures = (*DAMAGED, pickle.UnpicklingError)
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=tools)
    except failures as error:
        with path.open("rb") as file, suppress(*failures):
            return load(file)  # what pickle.dump wrote, rather than torch.save
        raise DamagedArtifact(_unreadable(path)) from error


class StandIn:
    """A stand-in for a class that is not installed: keeps what was saved of its object, and does nothing."""

    def __init__(self, *arguments, **options):
        pass

    def __setstate__(self, state: object) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__.update(part)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedArtifact(f"{path} is no whole safetensors file ({error}): fetch it again.") from error


def _members(path: Path) -> list[str]:
    """The names of what a zip file holds, as torch and NumPy write it; none where it is no whole zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return []


def _read_numpy(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError as error:  # arrays of Python objects
        raise ValueError(
            f"{path} holds NumPy arrays of Python objects, which would need code: save its weights "
            "as arrays of numbers, numpy.savez('weights.npz', **{name: array, …})."
        ) from error
    except (OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedArtifact(f"{path} is no whole NumPy file ({error}): write it again.") from error


def _other_kind(path: Path, beginning: bytes, members: list[str], is_script: bool) -> str:
    """Kind of a file that weights are not read from, and what to do; nothing of others."""
    target = path.with_name(path.name.split(".")[0])
    if is_script:
        return (
            "TorchScript, a network as a program. If you trust its author, convert it once:\n"
            f"    {_command(path)}\n"
            f"or save its weights: torch.save(torch.jit.load('{path}').state_dict(), '{target}_weights.pt')."
        )
    if path.suffix == ".pt2" or any(
        member.endswith(("archive_format", "/models/model.json")) for member in members
    ):
        return (
            "a program of torch.export. Save its weights instead: torch.save(torch.export.load("
            f"'{path}').state_dict, '{target}_weights.pt')."
        )
    if beginning.startswith(b"\x93NUMPY"):
        return (
            f"one array of NumPy: save names and arrays by numpy.savez('{target}.npz', **{{name: array, …}})."
        )
    if path.suffix == ".distcp":
        return f"one part of a distributed checkpoint: give its folder, {path.parent}."
    if (other := _of_other_libraries(path, beginning)) is not None:
        return (
            f"a file of {other}, which holds no network of PyTorch: load its weights into one, and save that "
            "one's state_dict() by torch.save."
        )
    is_torchs = any(member.endswith("data.pkl") for member in members)
    is_archive = beginning.startswith(ARCHIVES) or beginning[257:262] == b"ustar"
    if (members and not is_torchs) or is_archive:
        return "an archive of files: unpack it, and give the checkpoint that is in it."
    return ""


def _of_other_libraries(path: Path, beginning: bytes) -> str | None:
    """The library whose file this is, of those that train networks in other formats."""
    if beginning.startswith(b"\x89HDF"):
        return "Keras (HDF5)"
    return OTHERS.get(path.suffix)


def _check_beginning(path: Path, beginning: bytes) -> None:
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not beginning:
        raise DamagedArtifact(f"{path} is empty (0 bytes): fetch it again.")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        title = re.search(rb"<title>([^<]*)", beginning, re.IGNORECASE)
        said = f" ({title[1].decode(errors='replace').strip()!r})" if title else ""
        raise ValueError(
            f"{path} is a web page{said}, not a checkpoint: the server answered with a page instead of the "
            "file. Open the address in a browser, and save the file itself."
        )
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, which stands for a file that was not fetched: run 'git lfs pull' "
            "in its repository."
        )


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no file {path}: its folder does not exist."
    there = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    close = difflib.get_close_matches(path.name, there, n=3, cutoff=0.5)
    return f"there is no file {path}" + (f"; did you mean {' or '.join(close)}?" if close else ".")


def _needed(path: Path, message: str) -> list[str]:
    """The names that the safe loader refuses in a file that it does not load; none where it is no pickle."""
    found = re.findall(r"GLOBAL ([\w.]+) was not an allowed global", message)
    found += re.findall(
        r"(?:instantiate|unrecognized function|BUILD on|class) [`<]*(?:class ')?([A-Za-z_][\w.]+)", message
    )
    with path.open("rb") as file:
        is_pickle = file.read(1) == b"\x80" or zipfile.is_zipfile(path)
    return list(dict.fromkeys(found)) or (["what torch's safe loader does not know"] if is_pickle else [])


def _refusal(path: Path, needed: list[str]) -> str:
    return (
        f"{path} holds more than tensors and plain values ({', '.join(needed)}), and loading it could run "
        "any code that its author put in. If you trust its author, convert it once:\n"
        f"    {_command(path)}"
    )


def _command(path: Path) -> str:
    """The command that converts a file once."""
    target = path.with_name(path.name.split(".")[0] + ".safetensors")
    return f"repsim convert {quote(str(path))} {quote(str(target))} --trust-pickle"


def _unreadable(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        cut = file.read(2) == b"PK" and not zipfile.is_zipfile(path)
    if cut:
        return f"{path} ({size:,} bytes) ends too early: fetch it again, or save it again."
    return (
        f"{path} ({size:,} bytes) is in no format of PyTorch, NumPy or safetensors: save state_dict() by "
        "torch.save, or fetch the file again if it was downloaded."
    )
