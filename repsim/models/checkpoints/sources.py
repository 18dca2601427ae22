"""Names of networks that others publish → what their packages download and keep."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from repsim.models import libraries
from repsim.models.checkpoints import folders, normalizers, settings
from repsim.support import artifacts, messages, paths
from repsim.support.artifacts import DamagedArtifact
from repsim.support.compat import import_robustbench, torchvision
from repsim.support.extras import extra

Size = tuple[int, int] | None
# ε of RobustBench's leaderboards (Croce et al., 2021, section 3)
THREATS = {
    **{(data, "Linf"): 8 / 255 for data in ("cifar10", "cifar100")},
    **{(data, "L2"): 0.5 for data in ("cifar10", "cifar100")},
    ("imagenet", "Linf"): 4 / 255,
}


def named(name: str) -> Callable[[Size], dict] | None:
    """The reader of a network by a name such as `timm:resnet18`, as fields of `Checkpoint`, or None."""
    library, _, theirs = name.partition(":")
    reader = {"torchvision": _torchvision, "timm": _timm, "robustbench": _robustbench}.get(library)
    return partial(reader, theirs) if reader else None


def located(name: str) -> tuple[Path, list[str]]:
    """The file of a path or of `hf:OWNER/REPOSITORY/FILE@REVISION`, fetched unless it is kept already."""
    return _from_hub(name) if name.startswith("hf:") else (Path(name).expanduser(), [])


def check_name(path: Path, checksum: str) -> list[str]:
    """Compare a file with the beginning of its SHA-256 in its name, as in `resnet18-f37072fd.pth`.

    Returns
    -------
    What is to be said of a file of the user's own: eight digits with a letter among them are meant as a
    checksum, others may be a date.

    Raises
    ------
    DamagedArtifact
        They differ, and torch's hub downloaded the file by that name.
    """
    match = re.search(r"-([0-9a-f]{8})\.(?:pth|pt|safetensors)$", path.name)
    if not match or checksum.startswith(match[1]):
        return []
    if Path(torch.hub.get_dir()).resolve() in path.resolve().parents:
        _refuse(path, checksum, match[1], "its name")
    if match[1].isdecimal():
        return []
    return [
        f"Its name ends in {match[1]} as in a checksum, and its SHA-256 begins with {checksum[:8]}: it is "
        "not the file that was published under that name."
    ]


def _torchvision(name: str, size: Size) -> dict:
    model, _, wanted = name.partition("@")
    libraries.check_torchvision(model)
    kinds = torchvision.models.get_model_weights(model)
    known = {kind.name: kind for kind in kinds}
    if wanted and wanted not in known:
        raise ValueError(messages.unknown(f"weights of {model}", wanted, known))
    chosen = known[wanted] if wanted else kinds.DEFAULT
    state = chosen.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    path = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
    checksum = artifacts.checksum(path)
    check_name(path, checksum)  # torch.hub compares it only as it downloads
    preset = chosen.transforms()
    shape = (3, *(size or (preset.crop_size[0],) * 2))
    mean, std = tuple(preset.mean), tuple(preset.std)
    if model in ("googlenet", "inception_v3"):  # they normalise once more inside: to (x − 0.5) / 0.5 in all
        mean, std = (0.5,) * 3, (0.5,) * 3
        state = {key: value for key, value in state.items() if not key.lower().startswith("aux")}
    accuracy = chosen.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
    return {
        "format": "torchvision weights",
        "checksum": checksum,
        "architecture": f"torchvision:{model}",
        "num_classes": 1000,  # of ImageNet, as all of its classifiers
        "image_shape": shape,
        **_normalized(state, mean, std),
        "epsilon": 0.0,
        "accuracy": accuracy / 100 if accuracy else None,
        "settled_by": "name",
        "notes": (
            f"{chosen.name}, trained without an attack; torchvision's accuracy is at {preset.crop_size[0]} "
            "pixels.",
        ),
    }


def _timm(name: str, size: Size) -> dict:
    timm = libraries.import_timm()
    if name.partition(".")[0] not in timm.list_models():
        raise ValueError(messages.unknown("model of timm", name, timm.list_models()))
    options = {"img_size": size} if size else {}
    try:
        network = timm.create_model(name, pretrained=True, **options)
    except TypeError:  # networks for images of any size have no such option
        network = timm.create_model(name, pretrained=True)
    settings = network.pretrained_cfg
    state = network.state_dict()
    return {
        "format": "timm weights",
        "checksum": _digest(state),
        "architecture": f"timm:{name}",
        "num_classes": network.num_classes,
        "image_shape": (settings["input_size"][0], *(size or settings["input_size"][1:])),
        **_normalized(state, tuple(settings["mean"]), tuple(settings["std"])),
        "settled_by": "name",
        "notes": ("The checksum is of the weights' values, as timm keeps the file.",),
    }


def _robustbench(name: str, size: Size) -> dict:
    entry = libraries.find_robustbench(name)
    data, threat, model = entry
    folder = paths.data() / "downloads" / "robustbench"
    load = import_robustbench("utils").load_model
    network = load(model, model_dir=folder, dataset=data, threat_model=threat)
    state = libraries.without_normalize(network).state_dict()
    file = folder / data / threat / f"{model}.pt"
    classes, side = {"cifar10": (10, 32), "cifar100": (100, 32), "imagenet": (1000, 224)}[data]
    epsilon = THREATS.get((data, threat))
    notes = [f"RobustBench's {model} on {data}. If it normalises, it does so in a layer of its own."]
    if epsilon is not None and not model.startswith("Standard"):
        notes.append(f"ε = {settings.epsilon_words(epsilon)} is that of its leaderboard.")
    return {
        "format": "RobustBench model",
        "checksum": artifacts.checksum(file) if file.is_file() else _digest(state),
        "architecture": f"robustbench:{'/'.join(entry)}",
        "num_classes": classes,
        "image_shape": (3, *(size or (side, side))),
        **_normalized(state, (0.0,) * 3, (1.0,) * 3),
        "norm": {"Linf": "linf", "L2": "l2"}.get(threat),
        "epsilon": 0.0 if model.startswith("Standard") else epsilon,
        "settled_by": "name",
        "notes": tuple(notes),
    }


def _normalized(state: dict, mean: tuple[float, ...], std: tuple[float, ...]) -> dict:
    return {"weights": {**state, **normalizers.normalization(mean, std)}, "mean": mean, "std": std}


def _digest(state: dict) -> str:
    found = hashlib.sha256()
    for key, value in state.items():
        found.update(key.encode())
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def _from_hub(name: str) -> tuple[Path, list[str]]:
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)/([^@]+)(?:@(.+))?", name)
    if not match:
        raise ValueError(
            f"a file of the hub is written hf:OWNER/REPOSITORY/FILE (@REVISION behind), not {name!r}."
        )
    with extra("hub", "files of the Hugging Face hub need"):
        import huggingface_hub
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    repository, file, revision = match.groups()

    def fetched(name: str) -> Path:
        path = Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        _check_kept(path)
        return path

    try:
        path = fetched(file)
        folder = file.removesuffix(path.name)
        for part in folders.parts_named(path):
            fetched(folder + part)
    except LocalEntryNotFoundError as error:
        raise RuntimeError(f"{name} is not kept here, and the hub cannot be reached.") from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise ValueError(f"the hub has no {name}: {str(error).splitlines()[0]}") from error
    commit = path.relative_to(path.parents[file.count("/")].parent).parts[0]
    notes = [f"From the hub's {repository} at {commit[:12]}, its checksum compared."]
    for beside in folders.BESIDE:
        try:
            fetched(folder + beside)
        except LocalEntryNotFoundError:
            notes.append(f"Whether {beside} stands beside it is not known, as the hub cannot be reached.")
        except EntryNotFoundError:  # most files of others have none
            pass
    return path, notes


def _check_kept(path: Path) -> None:
    """Compare a file of the hub's folder with the hash by which the hub names what it points to."""
    kept = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", kept.name):  # large files, by their SHA-256
        if (checksum := artifacts.checksum(kept)) != kept.name:
            _refuse(path, checksum, kept.name, "the hub")
    elif re.fullmatch("[0-9a-f]{40}", kept.name):  # small ones, by the hash that Git has for them
        content = kept.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if found != kept.name:
            _refuse(path, found, kept.name, "the hub", "hash")


def _refuse(path: Path, found: str, expected: str, said_by: str, kind: str = "SHA-256") -> None:
    raise DamagedArtifact(
        f"{path} is not the file that it should be: its {kind} is {found[:12]}…, by {said_by} it begins with "
        f"{expected[:12]}. Remove it, and fetch it again."
    )
