"""Names of weights without what is around a network: wrappers, counters, losses, normalisers, attackers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from repsim.models.checkpoints import normalizers
from repsim.models.checkpoints.modules import Layers
from repsim.models.checkpoints.normalizers import Values

# Names that DataParallel, torch.compile, FSDP and activation checkpointing put around modules, at any depth.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Counters that tools add: of SWA's and EMA's averages, and of thop's operations.
COUNTERS = re.compile(r"^(?:n_averaged|num_updates|initted|step|global_step)$|(?:^|\.)total_(?:ops|params)$")
# Parts of a training module beside its network that only losses and records of it consist of.
LOSSES = re.compile(
    r"criterion|loss|.*_loss|loss_.*|criteria|(?:train|val|valid|test)?_?(?:acc|accuracy|metrics?|acc\d)"
    r"|(?:train|val|valid|test)_.*(?:acc|accuracy|metrics?|f1|auroc|confmat)"
)
BACKBONES = ("backbone", "encoder", "features_extractor", "feature_extractor", "base", "trunk")
HEADS = ("head", "fc", "linear", "classifier", "cls_head")
LISTED = 3  # names of what was left out that a note gives


@dataclass(frozen=True)
class Unwrapped:
    """One way to read the names of weights.

    Attributes
    ----------
    weights
        By the names that are left; in the order of the file.
    layers
        Of a whole pickled network, by the same names; None of named tensors.
    normalizer
        Mean and deviation per channel, or one for all, of what normalises before the network; None where
        there is none.
    format
        What the names say that the file is; "" where they say nothing.
    inside
        Whether a normaliser was left among the weights, so that the network itself uses it.
    """

    weights: dict[str, Tensor]
    layers: Layers | None = None
    normalizer: tuple[Values, Values] | None = None
    notes: tuple[str, ...] = ()
    format: str = ""
    inside: bool = False

    def renamed(self, rename: Callable[[str], str]) -> Unwrapped:
        """The same with other names; a name that becomes "" is left out."""
        weights = {new: value for key, value in self.weights.items() if (new := rename(key))}
        layers = self.layers and {
            new: each for name, each in self.layers.items() if (new := rename(f"{name}.").rstrip("."))
        }
        return replace(self, weights=weights, layers=layers)

    def noted(self, *notes: str) -> Unwrapped:
        return replace(self, notes=(*self.notes, *notes))


def unwrapped(weights: dict[str, Tensor], layers: Layers | None = None) -> Iterator[Unwrapped]:
    """Ways to read names, the most plausible first: what wraps all of the network is left out.

    An architecture fits names as a whole, so that at most one way is right; the others are for networks
    whose own names look like those of a wrapper.
    """
    given = Unwrapped(weights, layers)
    found = list(_unwrapped(given))
    inner = _joined(found[-1])
    yield inner
    yield from _without_dropout(inner)
    yield from (each for each in reversed(found) if each is not inner)
    if found[0].weights.keys() != weights.keys():
        yield replace(given, inside=normalizers.find(weights) is not None)


def _unwrapped(given: Unwrapped) -> Iterator[Unwrapped]:
    """Steps from the outside in, each with what is left."""
    reading = _without_wrappers(_without_counters(given))
    while True:
        reading = _without_losses(_without_attacker(_without_counters(reading)))
        if normalizers.find(reading.weights):
            yield replace(reading, inside=True)
        reading = _without_normalizer(reading)
        yield reading
        first = {key.partition(".")[0] for key in reading.weights}
        if len(first) != 1 or not all("." in key for key in reading.weights):
            return
        prefix = f"{first.pop()}."
        note = f"All keys of the network begin with {prefix}, which was left out."
        if re.fullmatch(r"[1-9]\d*\.", prefix) and reading.normalizer is None:
            note += " What stands before it has no weights: if it normalises, normalization=… says how."
        reading = reading.renamed(lambda key, prefix=prefix: key.removeprefix(prefix)).noted(note)


def _without_wrappers(reading: Unwrapped) -> Unwrapped:
    """Names without what wrappers of torch put into them."""
    common, rest = "", list(reading.weights)
    while match := WRAPPERS.match(rest[0]):
        if not all(key.startswith(match[0]) for key in rest):
            break
        common += match[0]
        rest = [key.removeprefix(match[0]) for key in rest]
    inside = sorted({match[0].rstrip(".") for key in rest for match in WRAPPERS.finditer(key)})
    if len({WRAPPERS.sub("", key) for key in rest}) != len(rest):  # names that differ by nothing else
        return reading
    notes = [f"All keys begin with {common}, which was left out."] if common else []
    if inside:
        notes.append(f"{' and '.join(inside)} inside of names, which wrappers put there, was left out.")
    return reading.renamed(lambda key: WRAPPERS.sub("", key)).noted(*notes)


def _without_counters(reading: Unwrapped) -> Unwrapped:
    counters = [key for key, value in reading.weights.items() if COUNTERS.search(key) and value.numel() == 1]
    return _left_out(reading, counters, "counters")


def _without_losses(reading: Unwrapped) -> Unwrapped:
    """Names without those of losses and metrics that stand beside a network of one name."""
    first = dict.fromkeys(key.partition(".")[0] for key in reading.weights)
    losses = [name for name in first if LOSSES.fullmatch(name)]
    if not losses or len(first) == len(losses):
        return reading
    keys = [key for key in reading.weights if key.partition(".")[0] in losses]
    return _left_out(reading, keys, "parts of losses and metrics")


def _left_out(reading: Unwrapped, keys: list[str], what: str) -> Unwrapped:
    if not keys or len(keys) == len(reading.weights):
        return reading
    named = ", ".join(keys[:LISTED]) + (f", … ({len(keys)} in all)" if len(keys) > LISTED else "")
    dropped = set(keys)
    weights = {key: value for key, value in reading.weights.items() if key not in dropped}
    return replace(reading, weights=weights).noted(f"Left out as {what}: {named}.")


def _without_attacker(reading: Unwrapped) -> Unwrapped:
    """Names without an attacker's, which in an `AttackerModel` of robustness holds the same weights."""
    first = {key.partition(".")[0] for key in reading.weights}
    if not (first & {"attacker", "normalizer"} and first <= {"attacker", "normalizer", "model"}):
        return reading
    weights = {key: value for key, value in reading.weights.items() if not key.startswith("attacker.")}
    if not any(key.startswith("normalizer.new_") for key in weights):
        return replace(reading, weights=weights)
    wrapped = re.search(r"begin with (\S+), which was left out", reading.notes[0]) if reading.notes else None
    note = (
        f"Keys begin with {wrapped[1] if wrapped else ''}model.: a robustness checkpoint. Its normaliser "
        "comes first in the network; its attacker, which holds the same weights, was left out."
    )
    kept = Unwrapped(weights, reading.layers, reading.normalizer, (note,), "robustness checkpoint")
    taken = _without_normalizer(kept).renamed(lambda key: key.removeprefix("model."))
    return replace(taken, notes=kept.notes)


def _without_normalizer(reading: Unwrapped) -> Unwrapped:
    """Names without those of a normaliser, which is taken over."""
    if (names := normalizers.find(reading.weights)) is None:
        return reading
    mean, std = (reading.weights[name].flatten().double().tolist() for name in names)
    weights = {key: value for key, value in reading.weights.items() if key not in names}
    unit = ", in levels of 255" if normalizers.in_levels(mean, std) else ""
    kept = replace(
        reading,
        weights=weights,
        normalizer=normalizers.composed(reading.normalizer, normalizers.in_pixels(mean, std)),
    )
    return (
        kept if names == normalizers.OURS else kept.noted(f"Its normaliser is {' and '.join(names)}{unit}.")
    )


def _joined(reading: Unwrapped) -> Unwrapped:
    """Names of a network without its last layer, and of that layer beside it, as those of one network."""
    first = {key.partition(".")[0] for key in reading.weights}
    backbone, head = first & {*BACKBONES}, first & {*HEADS}
    if len(first) != 2 or not backbone or not head:
        return reading
    (body,), (end,) = backbone, head
    if sum(key.startswith(f"{end}.") for key in reading.weights) > 2:  # more than one layer's
        return reading

    def joined(key: str) -> str:
        if key.startswith(f"{body}."):
            return key.removeprefix(f"{body}.")
        inner = key.removeprefix(f"{end}.")
        return inner if inner.partition(".")[0] in HEADS else f"fc.{inner}"

    note = f"Its keys begin with {body}. and {end}., of a body and a last layer, which were left out."
    return reading.renamed(joined).noted(note)


def _without_dropout(reading: Unwrapped) -> Iterator[Unwrapped]:
    """Names whose last layer is one of several in a row, of which the others have no weights."""
    for end in ("fc", "linear", "classifier", "head"):
        inner = [key.removeprefix(f"{end}.") for key in reading.weights if key.startswith(f"{end}.")]
        match = [re.fullmatch(r"(\d+)\.(weight|bias)", key) for key in inner]
        if inner and all(match) and len({each[1] for each in match}) == 1 and _is_alone(reading, end):
            nested = f"{end}.{match[0][1]}."
            note = (
                f"Its last layer is {nested.rstrip('.')}; what else is in {end} has no weights, and was "
                "taken for dropout, which does nothing here."
            )
            yield reading.renamed(
                lambda key, n=nested: re.sub(f"^{re.escape(n)}", f"{n.split('.')[0]}.", key)
            ).noted(note)


def _is_alone(reading: Unwrapped, end: str) -> bool:
    """Whether what else is in the last layer of a whole network computes nothing; true of named tensors."""
    inside = [each for name, each in (reading.layers or {}).items() if name.startswith(f"{end}.")]
    return {each["class"] for each in inside} <= {"Linear", "Dropout", "Identity", "Flatten"}


def parts(reading: Unwrapped) -> Iterator[tuple[str, Unwrapped]]:
    """Networks that names hold beside other things: what their names begin with, and each without it."""
    first = dict.fromkeys(key.partition(".")[0] for key in reading.weights)
    if len(first) == 1:
        return
    for name in first:
        inner = {key: value for key, value in reading.weights.items() if key.startswith(f"{name}.")}
        if any("." in key.removeprefix(f"{name}.") for key in inner):  # else it is a single layer
            *_, part = _unwrapped(Unwrapped(inner))
            yield name, part
