"""Names and shapes of weights → the architecture, by building candidates without numbers in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from repsim.models import ARCHITECTURES, build_model, is_architecture
from repsim.models.checkpoints import index, modules
from repsim.models.checkpoints.layouts import Reading, readings
from repsim.models.checkpoints.modules import Layers
from repsim.models.checkpoints.numbered import numbered
from repsim.models.libraries import (
    is_installed,
    robustbench_classes,
    split_library,
    timm_side,
    torchvision_names,
)
from repsim.models.own import find_own, images_of
from repsim.models.variants import VARIANTS, alternatives, said_of, split_variants

Shapes = dict[str, tuple[int, ...]]
ImageShape = tuple[int, int, int]
SIDES = (32, 224, 28, 16, 64, 8, 96, 48, 128, 256, 384, 512, 518)  # of images, where weights depend on them
# Inside RobustBench's own classes, and what they do nothing as; ours comes before them.
NORMALIZERS = {"mu": 0.0, "sigma": 1.0, "inside.normalize.mean": 0.0, "inside.normalize.std": 1.0}
ENCLOSED = "inside.model."  # before the weights of those of its networks that begin with a normaliser
LISTED = 5  # entries of each kind that a message spells out
NEAREST = 6  # architectures that a message compares with
ALIKE = 0.3  # share of entries that must be there for a network to be called the nearest


@dataclass(frozen=True)
class Match:
    """An architecture that some weights fit.

    Attributes
    ----------
    weights
        By the architecture's own names, complete.
    side_matters
        Whether the images' height and width follow from the weights.
    alternatives
        Architectures that fit as well, and compute something else: what is left open.
    settled_by
        What says that it is this one and none of those: `file`, `name` (the caller's), or nothing.
    """

    architecture: str
    weights: dict[str, Tensor]
    num_classes: int
    image_shape: ImageShape
    side_matters: bool
    notes: tuple[str, ...]
    alternatives: tuple[str, ...] = ()
    settled_by: str = ""


def recognize(
    weights: Mapping[str, Tensor],
    source: str,
    architecture: str = "",
    size: tuple[int, int] | None = None,
    said: tuple[str, ...] = (),
    layers: Layers | None = None,
) -> Match:
    """Find the architecture of some weights, or check that they are of the one that is named.

    Parameters
    ----------
    architecture
        As the caller names it.
    size
        Height and width of the images; where they follow from the weights they must be the same.
    said
        Architectures as the file's settings name them, which need not be our names.
    layers
        Of a whole pickled network, the class and settings of each module, by its name.

    Raises
    ------
    ValueError
        They fit none, listing what is missing, unexpected and of another shape than in the nearest; or they
        are for images of another size.
    """
    found = list(readings(weights))
    named = [] if architecture else _named(said)
    other_size, not_installed = None, ""
    for reading in found:
        names = [architecture] if architecture else [*named, *candidates(_shapes(reading.weights))]
        for name in dict.fromkeys(names):
            try:
                match = _match(name, reading, size)
            except RuntimeError as error:  # of a library that is not installed
                if architecture:
                    raise
                not_installed = not_installed or f"{source} may be {name}: {error}"
                continue
            if match is None:
                continue
            if size is not None and match.side_matters and match.image_shape[1:] != tuple(size):
                other_size = other_size or match
                continue
            if architecture:
                return replace(match, settled_by="name")
            library = name if name in named and _is_of_library(name) else ""
            return _settled(match, reading, library, layers, source)
    if other_size is not None:
        own, given = (" × ".join(map(str, s)) for s in (other_size.image_shape[1:], size))
        raise ValueError(
            f"{source} ({other_size.architecture}) takes images of {own} pixels, not of {given}."
        )
    raise ValueError(not_installed or _no_match(found, source, architecture, size))


# which architectures there are


def candidates(shapes: Shapes) -> Iterator[str]:
    """Architectures that may have such weights."""
    yield from numbered(shapes)
    yield from index.lookup(shapes)


def _named(said: tuple[str, ...]) -> list[str]:
    """The architectures that a file's settings may mean: `WideResNet-28-10` is `wrn_28_10`."""
    found = []
    for text in said:
        plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
        wide = re.search(r"(?:wrn|wide_?resnet)_?(\d+)_?x?(\d+)", plain)
        names = [text, plain, plain.replace("_", ""), f"wrn_{wide[1]}_{wide[2]}" if wide else ""]
        names += [f"torchvision:{text}", f"timm:{text.partition('.')[0]}"]
        found += [name for name in names if is_architecture(name)]
    return list(dict.fromkeys(found))


def _is_of_library(name: str) -> bool:
    """Whether a library's own definition is meant; names of ours leave its variants open."""
    return split_library(name) is not None or (name in torchvision_names() and name not in ARCHITECTURES)


def usual_shape(name: str) -> ImageShape:
    """Channels, height and width of the images that an architecture is usually for."""
    name, _ = split_variants(name)
    if name.startswith("timm:"):
        return 3, *((timm_side(name.removeprefix("timm:")),) * 2)
    large = name.startswith(("torchvision:", "robustness:imagenet", "robustbench:imagenet"))
    side = 224 if large or (name in torchvision_names() and name not in ARCHITECTURES) else 32
    return 3, side, side


# what is left open


def _settled(match: Match, reading: Reading, library: str, layers: Layers | None, source: str) -> Match:
    """Choose among the networks that have these keys, and say what is left open.

    Raises
    ------
    ValueError
        The layers of a whole pickled network are those of none of them.
    """
    if library:
        others = tuple(alternatives(match.architecture))
        note = f"The file says that it is {library}"
        if others:
            note += (
                f"; where its authors changed what leaves no trace in the keys, such as {said_of(others[0])} "
                f"({others[0]}), 'repsim check {source} --dataset …' finds it"
            )
        # by one name, torchvision's constructors set it for published weights, and leave it out for others
        settled_by = "" if any(each.endswith("+transform_input") for each in others) else "file"
        notes = (*match.notes, f"{note}.")
        return replace(match, notes=notes, alternatives=others, settled_by=settled_by)
    usual = [match.architecture + (f"+{each}" if each else "") for each in reading.variants]
    known = index.lookup(_shapes(match.weights))
    twins = (name for name in known if name != match.architecture and _takes(name, match))
    fitting = list(dict.fromkeys([*usual, *alternatives(usual[0]), *twins]))
    if layers is not None:
        fitting = [each for each in fitting if modules.agree(layers, layers_of(each, match.image_shape))]
        if not fitting:  # what nobody is known to train alone
            others = (f"{usual[0]}+{each}" for each in VARIANTS)
            fitting = [each for each in others if _has_layers(each, layers, match)]
        if not fitting:
            raise ValueError(
                f"{source} has the weights of {match.architecture}, but other layers "
                f"({modules.told(layers)}), which no variant that repsim knows has: name its class "
                "(architecture=mymodule:Net)."
            )
    chosen, *others = fitting
    notes = list(match.notes)
    if layers is not None:
        notes.append(f"Its layers are those of {chosen}.")
    settled_by = "file" if layers is not None and not others else ""
    return replace(
        match, architecture=chosen, notes=tuple(notes), alternatives=tuple(others), settled_by=settled_by
    )


def _has_layers(name: str, layers: Layers, match: Match) -> bool:
    """Whether an architecture, if there is one of that name, has the layers of a whole pickled network."""
    try:
        return modules.agree(layers, layers_of(name, match.image_shape))
    except ValueError:  # it has nothing that the variant could change
        return False


def _takes(name: str, match: Match) -> bool:
    """Whether an architecture takes the weights of another; one that cannot be built here may."""
    if split_library(name) and not is_installed(name):
        return True
    return outline_or_none(name, match.image_shape, match.num_classes) == _shapes(match.weights)


# what they look like


class _Unallocated(TorchFunctionMode):
    """Networks are built with weights of shapes only, so that the largest cost milliseconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        filled = args[0] if args else kwargs.get("tensor")
        in_place = re.fullmatch(r"[a-z]\w*[a-z]_", func.__name__)
        if in_place and isinstance(filled, Tensor) and filled.is_meta:
            return filled  # there is nothing to fill, and saying so takes torch longer than all the rest
        return func(*args, **kwargs)


@cache
def outline(name: str, image_shape: ImageShape, num_classes: int) -> Shapes:
    """Names and shapes of an architecture's weights, in their order, without the normalisation."""
    neutral = [0.0] * image_shape[0], [1.0] * image_shape[0]
    with _Unallocated():
        network = build_model(name, image_shape, num_classes, *neutral)
    return {key: shape for key, shape in _shapes(network.state_dict()).items() if key[:10] != "normalize."}


def layers_of(name: str, image_shape: ImageShape) -> Layers:
    """The modules of an architecture."""
    neutral = [0.0] * image_shape[0], [1.0] * image_shape[0]
    with _Unallocated():
        return modules.layers_of(build_model(name, image_shape, 10, *neutral))


def _shapes(weights: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in weights.items()}


# whether they fit


def _match(name: str, reading: Reading, size: tuple[int, int] | None) -> Match | None:
    """The match of an architecture with some weights; None where it does not fit."""
    usual = usual_shape(name)
    expected = outline_or_none(name, usual, 10)
    if expected is not None and "inside.normalize.mean" in expected:
        reading = replace(reading, weights={ENCLOSED + key: value for key, value in reading.weights.items()})
    shapes = _shapes(reading.weights)
    if expected is None or not _same_keys(expected, shapes):
        return None
    classes = _classes(name, usual, shapes)
    channels = _channels(expected, shapes)
    sizes = [size] if size is not None else []
    sizes += [usual[1:], *((side, side) for side in SIDES)]
    if find_own(split_variants(name)[0]):
        return _match_own(name, reading, classes, channels, sizes)
    for image_size in dict.fromkeys(tuple(each) for each in sizes):
        for count in channels:
            shape = (count, *image_size)
            found = outline_or_none(name, shape, classes)
            if found is not None and _filled(found, shapes) == found:
                other = outline_or_none(name, (count, 2 * image_size[0], 2 * image_size[1]), classes)
                complete = _completed(reading.weights, found)
                matters = other is not None and other != found
                notes = (*reading.notes, *_counters(found, shapes))
                return Match(name, complete, classes, shape, matters, notes)
    return None


def _match_own(
    name: str,
    reading: Reading,
    classes: int,
    channels: tuple[int, ...],
    sizes: list[tuple[int, int]],
) -> Match | None:
    """The match of somebody's own class, which says nothing of its images: what it takes is tried."""
    shapes, usual = _shapes(reading.weights), usual_shape(name)
    found = outline(name, usual, classes)
    if _filled(found, shapes) != found:
        return None
    network = build_model(name, usual, classes, [0.0] * usual[0], [1.0] * usual[0])
    network.normalize = torch.nn.Identity()  # of other channels than those that are tried
    known = images_of(network, dict.fromkeys((*channels, 3, 1)), dict.fromkeys(sizes))
    if known is None:
        raise ValueError(f"{name} gives no logits for images of {channels[0]} channels and any usual size.")
    shape, answers, side_matters = known
    complete = _completed(reading.weights, found)
    notes = (*reading.notes, *_counters(found, shapes))
    return Match(name, complete, answers, shape, side_matters, notes)


def outline_or_none(name: str, image_shape: ImageShape, num_classes: int) -> Shapes | None:
    """Names and shapes of weights; None where there is no such network for such images."""
    try:
        return outline(name, image_shape, num_classes)
    except ValueError:  # images that it does not take
        return None


def _same_keys(expected: Shapes, shapes: Shapes) -> bool:
    return set(_filled(expected, shapes)) == set(expected)


def _filled(expected: Shapes, shapes: Shapes) -> Shapes:
    """`shapes`, with what files may lack: BatchNorm's batch counters; a normaliser, as it is read apart."""
    lacking = (key for key in expected if key not in shapes and (_is_counter(key) or key in NORMALIZERS))
    return {**shapes, **{key: expected[key] for key in lacking}}


def _completed(weights: Mapping[str, Tensor], expected: Shapes) -> dict[str, Tensor]:
    """The weights, and those that files may lack: counters of 0, normalisers that do nothing."""
    return {
        key: weights[key] if key in weights else torch.full(shape, NORMALIZERS.get(key, 0))
        for key, shape in expected.items()
    }


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _counters(expected: Shapes, shapes: Shapes) -> list[str]:
    missing = sum(_is_counter(key) and key not in shapes for key in expected)
    return (
        [f"{missing} batch counters of BatchNorm are not in the file, and were set to 0."] if missing else []
    )


def _classes(name: str, image_shape: ImageShape, shapes: Shapes) -> int:
    """The number of classes that weights tell apart: the length of what depends on it in an architecture."""
    ten, eleven = (outline(name, image_shape, count) for count in (10, 11))
    key = next((key for key in ten if ten[key] != eleven[key]), None)
    if name.startswith("robustbench:"):
        return robustbench_classes(name)
    if key is None:  # a class of somebody's own, which has its number
        return 10
    return shapes[key][0] if shapes[key] else 0


def _channels(expected: Shapes, shapes: Shapes) -> tuple[int, ...]:
    """The number of channels images may have: the input of the first convolution, where there is one."""
    stem = next((key for key, shape in expected.items() if len(shape) == 4), None)
    if stem is None:
        return (3, 1)
    return (shapes[stem][1],) if len(shapes.get(stem, ())) == 4 else (3,)


# what is said where they do not


def _no_match(found: list[Reading], source: str, architecture: str, size: tuple[int, int] | None) -> str:
    nearest, best = None, 0.0
    for reading in found:
        shapes = _shapes(reading.weights)
        for name in [architecture] if architecture else [*numbered(shapes), *index.nearest(shapes, NEAREST)]:
            if not architecture and split_library(name) and not is_installed(name):
                continue
            # what is wrong with a name that the caller gave is theirs to read
            read = outline if architecture else outline_or_none
            height, width = size or usual_shape(name)[1:]
            if (usual := read(name, (3, height, width), 10)) is None:
                continue
            for channels in _channels(usual, shapes):
                expected = _adapted(name, (channels, height, width), usual, shapes)
                score = sum(shapes.get(key) == shape for key, shape in expected.items()) / len(
                    expected | shapes
                )
                if nearest is None or score > best:
                    nearest, best = (name, expected, shapes), score
    own = "'mymodule:Net' for a class of your own, 'timm:NAME' or 'torchvision:NAME' for one of theirs"
    if nearest is None or (best < ALIKE and not architecture):
        some = ", ".join(list(found[0].weights)[:LISTED])
        return (
            f"{source} is of no architecture that repsim knows: its weights are called {some}, … "
            f"Name its class: architecture={own}."
        )
    name, expected, shapes = nearest
    agree = sum(shapes.get(key) == shape for key, shape in expected.items())
    said = (
        f"is no {name}" if architecture else f"is of no architecture that repsim knows; the nearest is {name}"
    )
    lines = [f"{source} {said} ({agree} of its {len(expected)} entries are there)."]
    lines += _differences(expected, shapes)
    if not architecture:
        lines.append(f"Name its class: architecture={own}.")
    return "\n".join(lines)


def _adapted(name: str, image_shape: ImageShape, usual: Shapes, shapes: Shapes) -> Shapes:
    """The outline for such images, with the file's number of classes, where it has what depends on it."""
    ten, eleven = (outline_or_none(name, image_shape, count) for count in (10, 11))
    if ten is None or eleven is None:
        return usual
    key = next((key for key in ten if ten[key] != eleven[key]), None)
    return outline(name, image_shape, shapes[key][0]) if shapes.get(key) else ten


def _differences(expected: Shapes, shapes: Shapes) -> list[str]:
    missing = [key for key in expected if key not in shapes and not _is_counter(key)]
    unexpected = [key for key in shapes if key not in expected]
    wrong = [key for key in expected if key in shapes and shapes[key] != expected[key]]
    lines = []
    if missing:
        lines.append(_listing("missing", missing, lambda key: _nearest(key, unexpected)))
    if unexpected:
        lines.append(_listing("unexpected", unexpected, lambda key: _nearest(key, missing)))
    if wrong:
        told = lambda key: f" is {shapes[key]}, should be {expected[key]}"  # noqa: E731
        lines.append(_listing("wrong shape", wrong, told))
    return lines


def _listing(kind: str, keys: list[str], told: Callable[[str], str]) -> str:
    more = f", … ({len(keys)} in all)" if len(keys) > LISTED else ""
    return f"  {kind}: " + ", ".join(key + told(key) for key in keys[:LISTED]) + more


def _nearest(key: str, others: list[str]) -> str:
    close = difflib.get_close_matches(key, others, n=1, cutoff=0.6)
    return f" (nearest: {close[0]})" if close else ""
