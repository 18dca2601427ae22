"""A checkpoint of any known format as one kind of thing: weights, architecture, and what the file says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from repsim.models.checkpoints import normalizers, sources
from repsim.models.checkpoints.contents import read_contents
from repsim.models.checkpoints.recognizing import Match, recognize
from repsim.models.checkpoints.unwrapping import Unwrapped, parts
from repsim.models.own import find_own
from repsim.models.variants import said_of, split_variants

LISTED = 4  # alternatives that a sentence names


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
        SHA-256 of the file's bytes, as hex digits; of several files, that of their names and checksums.
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
        Architectures that the same weights fit as well, and that compute something else: what names and
        shapes leave open.
    settled_by
        What decided the architecture: `""` names and shapes alone, `"file"` where the file itself names it or
        has its layers, `"name"` where the caller named it or a published network was asked for.
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

    @property
    def left_open(self) -> str:
        """A sentence on what names and shapes of the weights leave open; empty where that is nothing."""
        if not self.alternatives or self.settled_by:
            return ""
        some = ", ".join(f"{said_of(each)} ({each})" for each in self.alternatives[:LISTED])
        count = len(self.alternatives) - LISTED
        more = f" and {count} more" if count > 0 else ""
        fit = f"Names and shapes of its weights fit {self.architecture}"
        return f"{fit}, and leave open, among other things: {some}{more}."


def read_checkpoint(
    source: str | Path,
    *,
    architecture: str = "",
    image_shape: tuple[int, int, int] | None = None,
    weights: str = "",
    trust_pickle: bool = False,
) -> Checkpoint:
    """Read a network that others trained.

    Parameters
    ----------
    source
        A file: of the `robustness` package, a state dict of ours or in the names of well-known code, alone or
        inside a mapping, as a pickle of tensors, safetensors or NumPy's `.npz`. Or a folder of the Hugging
        Face hub, of timm or of `torch.distributed.checkpoint`. Or a name: `torchvision:resnet50`,
        `timm:NAME`, `robustbench:NAME`, `hf:OWNER/REPOSITORY/FILE` (`@REVISION` behind it), which are
        downloaded by these packages and kept where they keep files.
    architecture
        As `build_model` takes it; recognised from names and shapes of the weights unless given.
    image_shape
        Of the images that the network is for; of use where it does not follow from the weights. How many
        channels there are always follows from them.
    weights
        Which weights of a file that holds several: a key of it (`best_model`), dotted where it is inside of
        others (`model.state_dict`), or `ema` for averaged ones under any name; those that were trained unless
        given.
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
        if weights:
            raise ValueError(f"{given} names its weights: leave weights out.")
        return Checkpoint(source=given, **reader(size))
    path, notes = sources.located(given)
    found = read_contents(path, given, weights, trust_pickle)
    notes += sources.check_name(found.file, found.checksum)
    facts, converted, named = found.facts, found.converted, bool(architecture)
    if converted:
        architecture = architecture or _named(converted["architecture"], given)
        size = size or tuple(converted["image_shape"][1:])
        facts = {name: converted[name] for name in ("epsilon", "norm", "accuracy", "epoch")}
    reading, match = _recognized(found.readings, given, architecture, size, found.said, weights)
    notes = [*notes, *found.notes, *reading.notes, *match.notes, *_said(match, bool(architecture), size)]
    alternatives, settled_by = match.alternatives, match.settled_by
    if converted and not named:
        alternatives, settled_by = tuple(converted["alternatives"]), converted["settled_by"]
    normalizer = _normalizer(reading, found.normalizer, match, given)
    if reading.inside:
        notes.append("It normalises inside, by a mean and deviation of its own.")
    elif found.normalizer and not reading.normalizer:
        notes.append(f"Its mean and deviation are from {found.normalized_by}.")
    height, width = (
        found.side if found.side and size is None and not match.side_matters else match.image_shape[1:]
    )
    return Checkpoint(
        source=given,
        format=reading.format or found.format,
        checksum=found.checksum,
        architecture=match.architecture,
        weights=dict(match.weights) | (normalizers.normalization(*normalizer) if normalizer else {}),
        num_classes=match.num_classes,
        image_shape=(match.image_shape[0], height, width),
        mean=normalizer[0] if normalizer else None,
        std=normalizer[1] if normalizer else None,
        notes=tuple(converted["notes"] if converted else dict.fromkeys(notes)),
        alternatives=alternatives,
        settled_by=settled_by,
        **facts,
    )


def _named(architecture: str, source: str) -> str:
    """The architecture that a converted file names, unless that would have a module imported.

    Raises
    ------
    ValueError
        It is a class of somebody's own: importing its module runs it, and files come from anybody.
    """
    if find_own(split_variants(architecture)[0]):
        raise ValueError(
            f"{source} holds a network of somebody's own class, and is not believed: its module would be "
            f'imported, which runs it. If it is yours, say so: architecture="{architecture}".'
        )
    return architecture


def _recognized(
    readings: Iterator[Unwrapped],
    source: str,
    architecture: str,
    size: tuple[int, int] | None,
    said: tuple[str, ...],
    chosen: str,
) -> tuple[Unwrapped, Match]:
    """The first reading of a file's names that fits an architecture, and how it fits.

    Raises
    ------
    ValueError
        None does: what is wrong with the most plausible one.
    """

    def fit(reading: Unwrapped) -> Match:
        # layers say more than a name does
        names = said if reading.layers is None else ()
        return recognize(reading.weights, source, architecture, size, names, reading.layers)

    plausible = next(readings)
    try:
        return plausible, fit(plausible)
    except ValueError as error:
        refusal = error
    for reading in readings:
        with suppress(ValueError):
            return reading, fit(reading)
    fitting = []
    for name, part in parts(plausible):
        with suppress(ValueError):
            fitting.append((name, fit(part).architecture))
    if not fitting and said and not architecture:
        raise ValueError(f"{refusal}\nWhat the file says that it is: {', '.join(said)}.") from refusal
    if not fitting:
        raise refusal
    named = " and ".join(f"{name}. (of {kind})" for name, kind in fitting)
    others = [key for key in plausible.weights if key.partition(".")[0] not in dict(fitting)]
    within = f"{chosen}." if chosen else ""
    beside = f", beside {', '.join(others[:3])}{', …' if len(others) > 3 else ''}" if others else ""
    raise ValueError(
        f"{source} holds the weights of a network as {named}{beside}: weights={within}{fitting[0][0]} takes "
        f"{'the first' if len(fitting) > 1 else 'that network'} alone."
    ) from refusal


def _normalizer(
    reading: Unwrapped,
    beside: tuple[normalizers.Values, normalizers.Values] | None,
    match: Match,
    source: str,
) -> tuple[normalizers.Values, normalizers.Values] | None:
    """Mean and deviation of the file, per channel: by its weights, else by what stands beside them."""
    channels = match.image_shape[0]
    if reading.inside:
        return (0.0,) * channels, (1.0,) * channels
    normalizer = reading.normalizer or beside
    if normalizer is None:
        return None
    mean, std = (normalizers.widened(each, channels) for each in normalizer)
    if len(mean) != channels:
        raise ValueError(
            f"{source} normalises {len(mean)} channels, and its network takes images of {channels}: leave "
            "the normaliser out of what is saved."
        )
    if normalizers.is_blue_first(mean):
        raise ValueError(
            f"{source} normalises with ImageNet's mean in the order blue, green, red: its network takes such "
            "images. Save it with the inputs of its first convolution turned, weight.flip(1), and its mean "
            "and std, flip(0)."
        )
    return mean, std


def _said(match: Match, named: bool, size: tuple[int, int] | None) -> list[str]:
    notes = []
    if not named and not match.alternatives and not match.settled_by:
        notes.append(
            f"Its architecture is {match.architecture}, by names and shapes of its weights; activations, "
            "strides and poolings, which these do not say, are taken to be as usual there."
        )
    if not match.side_matters and size is None:
        _, height, width = match.image_shape
        notes.append(f"The size of its images is not in the file; {height} × {width} is usual.")
    if broken := [
        key for key, value in match.weights.items() if not value.sum(dtype=torch.float32).isfinite()
    ]:
        named = ", ".join(broken[:3]) + (f", … ({len(broken)} in all)" if len(broken) > 3 else "")
        notes.append(f"Not all of its weights are finite ({named}): its training diverged.")
    return notes
