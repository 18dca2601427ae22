"""Contents of a file or folder → weights, ways to read their names, and what is said of the network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from repsim.models.checkpoints import containers, settings
from repsim.models.checkpoints.folders import read_beside, read_path
from repsim.models.checkpoints.normalizers import Values, in_pixels
from repsim.models.checkpoints.pickled import layers_of
from repsim.models.checkpoints.unwrapping import Unwrapped, unwrapped

KIND = "repsim checkpoint"  # what the header of a converted file says that it is


@dataclass
class Contents:
    """Contents of a file.

    Attributes
    ----------
    file
        What was read: of a folder, the file in it.
    readings
        Ways to read the names of its weights, the most plausible first.
    said
        Names of its architecture, as the file, its settings and what stands beside it have them.
    facts
        `epsilon`, `norm`, `accuracy` and `epoch`, as far as they are known.
    normalizer, normalized_by
        Mean and deviation that stand beside the weights, and where they do; None where nothing does.
    side
        Height and width of its images, where something says them.
    notes
        What was found, in sentences.
    converted
        What `convert` wrote of it; empty for files of others.
    """

    file: Path
    format: str
    checksum: str
    readings: Iterator[Unwrapped]
    said: tuple[str, ...] = ()
    facts: dict = field(default_factory=dict)
    normalizer: tuple[Values, Values] | None = None
    normalized_by: str = ""
    side: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)
    converted: dict = field(default_factory=dict)


def read_contents(path: Path, source: str, weights: str = "", trust_pickle: bool = False) -> Contents:
    """Read a file or folder, and find the weights in it.

    Parameters
    ----------
    source
        How it is called in messages.
    weights
        Which of several, as `containers.choose` takes it.

    Raises
    ------
    ValueError
        There are no weights in it, or it does not say which are meant; see `read_path`.
    """
    content, header, file, checksum = read_path(path, trust_pickle)
    place, notes = containers.choose(content, weights, source)
    kind = f"checkpoint with its weights as {place.name!r}" if place.path else "state dict"
    network = place.network
    layers = layers_of(network) if network is not None else None
    if network is not None:
        kind = f"{kind}, a whole network" if place.path else "whole network"
    if header.get("format") == KIND:
        converted = json.loads(header["checkpoint"])
        kind = f"{converted.pop('converted_from')}, converted by repsim"
        return Contents(file, kind, checksum, unwrapped(place.weights()), converted=converted)
    facts, how = settings.read_facts(content, file.name)
    beside = read_beside(file)
    normalizer, where = (
        settings.normalization(content) if place.path else None,
        "the file, beside its weights",
    )
    if normalizer is None and beside.mean is not None and beside.std is not None:
        normalizer, where = (beside.mean, beside.std), f"{beside.normalized_by} beside it"
    return Contents(
        file,
        kind,
        checksum,
        unwrapped(place.weights(), layers),
        tuple(dict.fromkeys([*settings.architectures(content), *beside.said])),
        facts,
        in_pixels(*normalizer) if normalizer else None,
        where,
        beside.side,
        [*notes, *how, *beside.notes],
    )
