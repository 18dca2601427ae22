"""A path → what was saved there: a file, a folder, an index of parts; and what stands beside the weights."""

from __future__ import annotations

import hashlib
import json
import pathlib
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import NoReturn

import torch

from repsim.models.checkpoints.files import read_file
from repsim.support import artifacts
from repsim.support.artifacts import DamagedArtifact

INDEX = ".index.json"  # how the names of files end that say where each weight is
BESIDE = ("config.json", "preprocessor_config.json")  # what says more of weights, where it stands beside them
# Names that the Hugging Face hub, timm and transformers give to weights; the first that is there.
USUAL = tuple(
    f"{name}{index}" for name in ("model.safetensors", "pytorch_model.bin") for index in ("", INDEX)
)
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".th", ".npz", ".best")
DISTRIBUTED = ".metadata"  # the file by which a folder of torch.distributed.checkpoint is known
LISTED = 6  # files of a folder that a message names
# What the index of torch.distributed.checkpoint consists of: descriptions of tensors, and where they lie.
DESCRIPTIONS = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", "device"),
    "collections": ("OrderedDict",),
}


@dataclass(frozen=True)
class Beside:
    """Statements of the files beside weights on their network.

    Attributes
    ----------
    said
        Names of its architecture, as they are written there.
    mean, std
        Per channel, in units of 1; None where they say nothing of it.
    normalized_by
        The file that says mean and std.
    side
        Height and width of its images.
    """

    said: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalized_by: str = ""
    side: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def read_path(path: Path, trust_pickle: bool = False) -> tuple[object, dict[str, str], Path, str]:
    """The contents of a file or folder; the texts in its header; the file that was taken; its checksum.

    The checksum is SHA-256 of the file's bytes; of several files, that of their names and checksums.

    Raises
    ------
    ValueError, DamagedArtifact
        As `read_file`; or the folder does not tell which of its files is meant.
    """
    if path.is_dir():
        if (path / DISTRIBUTED).is_file():
            files = sorted(each for each in path.iterdir() if each.is_file())
            return _read_distributed(path), {}, path, _checksum(files)
        path = _file_in(path)
    if path.name.endswith(INDEX) and path.is_file():
        parts = _parts(path)
        content: dict[object, object] = {}
        for part in parts:
            read, _ = read_file(part, trust_pickle)
            if not isinstance(read, Mapping):
                raise ValueError(f"{part} holds no named tensors, as {path.name} says that it does.")
            content |= read
        return content, {}, path, _checksum([path, *parts])
    if number := re.search(r"-\d{5}-of-(\d{5})\.", path.name):
        raise ValueError(
            f"{path} is one of {int(number[1])} parts of a checkpoint: give the folder {path.parent}."
        )
    content, header = read_file(path, trust_pickle)
    return content, header, path, artifacts.checksum(path)


def _file_in(folder: Path) -> Path:
    """The file with the weights in a folder."""
    if usual := next((folder / name for name in USUAL if (folder / name).is_file()), None):
        return usual
    files = sorted(each for each in folder.iterdir() if each.is_file())
    found = _checkpoints_in(folder)
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in (found or files)[:LISTED])
    more = ", …" if len(found or files) > LISTED else ""
    if found:
        raise ValueError(f"{folder} is a folder with several checkpoints: give one of them ({names}{more}).")
    below = [each for each in sorted(folder.iterdir()) if each.is_dir()]
    inside = [each for each_folder in below for each in _checkpoints_in(each_folder)]
    if inside:
        names = ", ".join(each.relative_to(folder).as_posix() for each in inside[:LISTED])
        more = ", …" if len(inside) > LISTED else ""
        raise ValueError(
            f"{folder} is a folder whose checkpoints are in folders of it: give one of them ({names}{more})."
        )
    holds = f"it holds {names}{more}" if files else "it holds no file"
    raise ValueError(f"{folder} is a folder without a checkpoint ({holds}): give the file with the weights.")


def _checkpoints_in(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_file() and each.name.endswith(SUFFIXES))


def parts_named(index: Path) -> list[str]:
    """The names of the files that an index of parts has; none where a file is no such index."""
    placed = _json(index).get("weight_map") if index.name.endswith(INDEX) else None
    return sorted({str(name) for name in placed.values()}) if isinstance(placed, Mapping) else []


def _parts(index: Path) -> list[Path]:
    """The files that an index of parts names."""
    names = parts_named(index)
    if not names:
        raise ValueError(f"{index} is no index of a checkpoint's parts: it has no weight_map.")
    missing = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{index} names {len(names)} files, and {len(missing)} of them are not beside it "
            f"({', '.join(missing[:LISTED])}): fetch them into {index.parent}."
        )
    return [index.parent / name for name in names]


def _checksum(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.name} {artifacts.checksum(file)}\n".encode())
    return found.hexdigest()


def _json(path: Path) -> dict:
    """A mapping that a file holds as JSON; an empty one where it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# folders of torch.distributed.checkpoint


def _read_distributed(folder: Path) -> dict[str, object]:
    """The tensors of a folder of `torch.distributed.checkpoint`, but for an optimizer's, by torch's reader.

    Its index is a pickle, and is unpickled with nothing but classes that describe tensors; what is no tensor
    is not read, since torch would unpickle it.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    class Reader(checkpoint.FileSystemReader):
        def read_metadata(self, *arguments, **options):
            return index

    try:
        index = _index(folder / DISTRIBUTED)
        described = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in index.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
            and not re.match(r"(?:opt|optim|optimizers?)[._]", name)
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled")
            checkpoint.load(described, storage_reader=Reader(folder), no_dist=True)
    except (
        AttributeError,
        TypeError,
        OSError,
        KeyError,
        RuntimeError,
        checkpoint.CheckpointException,
    ) as error:
        raise DamagedArtifact(
            f"{folder} is no whole folder of torch.distributed.checkpoint ({error!s:.200}): copy it again, "
            f"or make a file of it where it was saved:\n    {_to_file(folder)}"
        ) from error
    places = index.planner_data or {}
    content: dict[str, object] = {}
    for name, tensor in described.items():
        *outer, last = [str(part) for part in places.get(name, (name,))]
        inner = content
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = tensor
    return content


def _index(path: Path):
    class Descriptions(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            if name in DESCRIPTIONS.get(module, ()) or (
                module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout)
            ):
                return super().find_class(module, name)
            if module in ("pathlib", "pathlib._local"):
                return pathlib.PurePath
            _refuse(path.parent, f"{module}.{name}")

    try:
        with path.open("rb") as file:
            return Descriptions(file).load()
    except (pickle.UnpicklingError, EOFError, IndexError) as error:
        raise DamagedArtifact(f"{path} is cut off or altered ({error}): copy the folder again.") from error


def _refuse(folder: Path, needed: str) -> NoReturn:
    raise ValueError(
        f"{folder} has an index that holds more than descriptions of tensors ({needed}), and loading it "
        f"could run any code that its author put in. If you trust its author, make a file of it:\n"
        f"    {_to_file(folder)}"
    )


def _to_file(folder: Path) -> str:
    """The command of torch that makes a file of a folder of `torch.distributed.checkpoint`."""
    module = "torch.distributed.checkpoint.format_utils"
    return f"python -m {module} dcp_to_torch {quote(str(folder))} {quote(str(folder))}.pt"


# what stands beside weights


def read_beside(path: Path) -> Beside:
    """Read what `config.json` and `preprocessor_config.json` beside a file or in a folder say of its network.

    timm's layout (`architecture`, `pretrained_cfg`) and Hugging Face's (`architectures`, `model_type`) are
    known. Beside several checkpoints they are of the one that is named as theirs are.
    """
    folder = path if path.is_dir() else path.parent
    config, processor = (_json(folder / name) for name in BESIDE)
    named = [config.get("architecture"), *_texts(config.get("architectures")), config.get("model_type")]
    said = tuple(dict.fromkeys(name for name in named if isinstance(name, str)))
    if not said:
        return Beside()
    if path.is_file() and path.name not in USUAL and len(_checkpoints_in(folder)) > 1:
        return Beside(
            notes=(
                f"{BESIDE[0]} beside it says {', '.join(said)}: it may be of another file there, and was not "
                "heeded.",
            )
        )
    of_timm = config.get("pretrained_cfg")
    of_timm = of_timm if isinstance(of_timm, Mapping) else config
    mean, std = _numbers(of_timm.get("mean")), _numbers(of_timm.get("std"))
    sizes = _numbers(of_timm.get("input_size"))
    side = (int(sizes[1]), int(sizes[2])) if sizes and len(sizes) == 3 else None
    file, _ = BESIDE
    if mean is None and processor:
        _, file = BESIDE
        mean, std = _numbers(processor.get("image_mean")), _numbers(processor.get("image_std"))
        if processor.get("do_normalize") is False:
            mean, std = (0.0,), (1.0,)
    notes = [f"config.json beside it says {', '.join(said)}."]
    if mean is None or std is None or len(mean) != len(std):
        return Beside(said, side=side, notes=tuple(notes))
    return Beside(said, mean, std, file, side, tuple(notes))


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _numbers(value: object) -> tuple[float, ...] | None:
    is_list = isinstance(value, list) and value and all(type(each) in (int, float) for each in value)
    return tuple(float(each) for each in value) if is_list else None
