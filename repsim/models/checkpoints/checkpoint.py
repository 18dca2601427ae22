"""A checkpoint of any known format as one kind of thing: weights, architecture, and what the file says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from repsim.models.checkpoints import contents, sources
from repsim.models.checkpoints.files import read_file
from repsim.models.checkpoints.recognizing import recognize
from repsim.support import artifacts

KIND = "repsim checkpoint"  # what the header of a converted file says that it is


@dataclass(frozen=True)
class Checkpoint:
    """Weights that others trained, and what is known of them.

    Attributes
    ----------
    source
        The path or name as it was given.
    format
        What the file is, in words.
    checksum
        SHA-256 of the file's bytes, as hex digits.
    architecture
        A name that `build_model` takes.
    weights
        Of the network that `build_model` makes of `architecture`, `image_shape` and `num_classes`, complete,
        but for `normalize.mean` and `normalize.std` where the file holds no normaliser.
    image_shape
        Channels, height and width; where height and width do not follow from the weights, the usual ones.
    mean, std
        Per channel; None where the file says nothing of normalisation.
    epsilon, norm
        What it was trained at, in pixel units; 0 for a standard one, None where the file does not say.
    accuracy
        On clean test images, between 0 and 1, as the file records it.
    notes
        What was found, in sentences.
    alternatives
        Names of architectures that the same weights fit as well, and that compute something else: what the
        keys leave open.
    settled_by
        What tells the architecture from those: `""`, the keys alone, which cannot; `"file"`, where the file
        names architecture or layers; or `"name"`, where the caller does.
    """

    source: str
    format: str
    checksum: str
    architecture: str
    weights: dict[str, Tensor]
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    epsilon: float | None = None
    norm: str | None = None
    accuracy: float | None = None
    epoch: int | None = None
    notes: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    settled_by: str = ""


def read_checkpoint(
    source: str | Path,
    *,
    architecture: str = "",
    image_shape: tuple[int, int, int] | None = None,
    trust_pickle: bool = False,
) -> Checkpoint:
    """Read a network that others trained.

    Parameters
    ----------
    source
        A file: of the `robustness` package, a state dict of ours or in the names of well-known code, alone or
        inside a mapping, as a pickle of tensors or safetensors. Or a name: `torchvision:resnet50`,
        `timm:NAME`, `robustbench:NAME`, `hf:OWNER/REPOSITORY/FILE` (`@REVISION` behind it), which are
        downloaded by these packages and kept where they keep files.
    architecture
        As `build_model` takes it; recognised from names and shapes of the weights unless given.
    image_shape
        Of the images that the network is for; of use where it does not follow from the weights. How many
        channels there are always follows from them.
    trust_pickle
        Load the file even if that runs code of its author.

    Raises
    ------
    ValueError
        There is no such file or name; it is no checkpoint, or one of no known architecture; or loading it
        would run code.
    DamagedArtifact
        The file is empty, cut off, or not the one that its name says by its checksum.
    RuntimeError
        A package that the name needs is not installed.
    """
    given, size = str(source), tuple(image_shape[1:]) if image_shape else None
    if reader := sources.named(given):
        if architecture:
            raise ValueError(f"{given} names its architecture: leave architecture out.")
        return Checkpoint(source=given, settled_by="name", **reader(size))
    path, notes = sources.located(given)
    checksum = artifacts.checksum(path) if path.is_file() else ""
    content, header = read_file(path, trust_pickle)
    sources.check_name(path, checksum)
    found = contents.unpack(content, given)
    facts = contents.from_name(path.name) | found.facts
    if "norm" in facts or "epsilon" in facts:
        notes += _said_by_name(path.name, found.facts)
    if header.get("format") == KIND:
        converted = json.loads(header["checkpoint"])
        architecture = architecture or converted.pop("architecture")
        size = size or tuple(converted.pop("image_shape"))[1:]
        found.format = f"{converted.pop('converted_from')}, converted by repsim"
        facts = {name: converted[name] for name in ("epsilon", "norm", "accuracy", "epoch")}
        notes = list(converted["notes"])
    match = recognize(found.weights, given, architecture, size)
    weights = dict(match.weights)
    if found.mean is not None and found.std is not None:
        weights |= contents.normalization(found.mean, found.std)
    notes = [*notes, *found.notes, *match.notes, *_recognized(match, bool(architecture), size)]
    return Checkpoint(
        source=given,
        format=found.format,
        checksum=checksum,
        architecture=match.architecture,
        weights=weights,
        num_classes=match.num_classes,
        image_shape=match.image_shape,
        mean=found.mean,
        std=found.std,
        notes=tuple(dict.fromkeys(notes)),
        alternatives=match.alternatives,
        settled_by=match.settled_by,
        **facts,
    )


def _said_by_name(name: str, said: Mapping) -> list[str]:
    named = contents.from_name(name)
    if not named or "epsilon" in said:
        return []
    return [f"ε = {contents.epsilon_words(named['epsilon'])} and {named['norm']} are from its name."]


def _recognized(match, named: bool, size: tuple[int, int] | None) -> list[str]:
    notes = []
    if not named and not match.alternatives:
        notes.append(f"Its architecture is {match.architecture}, by names and shapes of its weights.")
    if not match.side_matters and size is None:
        _, height, width = match.image_shape
        notes.append(f"The size of its images is not in the file; {height} × {width} is usual.")
    return notes
