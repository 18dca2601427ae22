"""Names and shapes of weights → the architecture, by building candidates without numbers in them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from repsim.models import ARCHITECTURES, build_model
from repsim.models.checkpoints.layouts import Reading, readings
from repsim.models.libraries import robustness_builders, torchvision_names
from repsim.models.variants import alternatives
from repsim.support.compat import torchvision

Shapes = dict[str, tuple[int, ...]]
ImageShape = tuple[int, int, int]
SIDES = (32, 224, 28, 16, 64, 8, 96, 48, 128, 256, 384, 512, 518)  # of images, where weights depend on them
BUFFERS = (  # what torchvision's networks hold besides parameters
    *("running_mean", "running_var", "num_batches_tracked"),
    *("relative_position_index", "relative_coords_table"),
)
THIRD_STAGE = {
    "18": 2,
    "34": 6,
    "50": 6,
    "101": 23,
    "152": 36,
}  # blocks of a ResNet (He et al., 2015, table 1)
LISTED = 5  # entries of each kind that a message spells out


@dataclass(frozen=True)
class Match:
    """An architecture that some weights fit.

    Attributes
    ----------
    weights
        By the architecture's own names, complete.
    side_matters
        Whether the images' height and width follow from the weights.
    also
        Other architectures that fit as well, and compute the same.
    alternatives
        Architectures that fit as well, and compute something else: what the keys leave open.
    """

    architecture: str
    weights: dict[str, Tensor]
    num_classes: int
    image_shape: ImageShape
    side_matters: bool
    notes: tuple[str, ...]
    also: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()


def recognize(
    weights: Mapping[str, Tensor],
    source: str,
    architecture: str = "",
    size: tuple[int, int] | None = None,
) -> Match:
    """Find the architecture of some weights, or check that they are of the one that is named.

    Parameters
    ----------
    size
        Height and width of the images; where they follow from the weights they must be the same.

    Raises
    ------
    ValueError
        They fit none, listing what is missing, unexpected and of another shape than in the nearest; or they
        are for images of another size.
    """
    found = list(readings(weights))
    for reading in found:
        names = [architecture] if architecture else candidates(_shapes(reading.weights))
        fitting = (match for name in names if (match := _match(name, reading, size)))
        if first := next(fitting, None):
            break
    else:
        raise ValueError(_no_match(found, source, architecture, size))
    others = [] if architecture else _alike(first.architecture)
    also = tuple(name for name in others if _match(name, reading, size))
    if size is not None and first.side_matters and first.image_shape[1:] != tuple(size):
        own, given = (" × ".join(map(str, s)) for s in (first.image_shape[1:], size))
        raise ValueError(f"{source} ({first.architecture}) takes images of {own} pixels, not of {given}.")
    chosen = first.architecture
    if not architecture and reading.variants[0]:
        chosen += f"+{reading.variants[0]}"
    left_open = () if architecture else tuple(alternatives(chosen))
    return Match(**{**vars(first), "architecture": chosen, "also": also, "alternatives": left_open})


# which architectures there are


def candidates(shapes: Shapes) -> Iterator[str]:
    """Architectures that may have such weights, those that are cheap to rule out first."""
    outermost = _outermost(shapes)
    fixed = [name for name, known in ARCHITECTURES.items() if re.fullmatch(known.pattern, name)]
    theirs = [name if name not in ARCHITECTURES else f"torchvision:{name}" for name in torchvision_names()]
    yield from _numbered(shapes)
    yield from (name for name in theirs if _has_size(name.removeprefix("torchvision:"), shapes))
    yield from (name for name in fixed if _has_depth(name, shapes) and _family_outermost(name) == outermost)
    for name in (f"robustness:{name}" for name in robustness_builders()):
        as_torchvision = ":imagenet/" in name and name.rpartition("/")[2] in torchvision_names()
        if not as_torchvision and _has_depth(name, shapes) and _family_outermost(name) == outermost:
            yield name


def _has_size(name: str, shapes: Shapes) -> bool:
    """Whether the weights are as many as a network of torchvision has, after all but a number of classes."""
    if name.startswith(("vit_", "inception")):  # these depend on the images, or are published with more
        return _family_outermost(name) == _outermost(shapes)
    kinds = torchvision.models.get_model_weights(name)
    published = {kind.meta["num_params"] for kind in kinds}  # with ImageNet's 1,000 classes
    count = sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(BUFFERS))
    heads = {shape[:2] for shape in shapes.values() if len(shape) == 2 or shape[2:] == (1, 1)}
    return any(count + (1000 - classes) * (width + 1) in published for classes, width in heads)


def _has_depth(name: str, shapes: Shapes) -> bool:
    """Whether the weights have as many blocks as a ResNet of that name; true of whatever is no ResNet."""
    depth = re.search(r"(?<!preact)(?:resnet|resnext)(18|34|50|101|152)(?!\d)", name)
    blocks = {key.split(".")[1] for key in shapes if key.startswith("layer3.")}
    return depth is None or len(blocks) == THIRD_STAGE[depth[1]]


def _alike(name: str) -> list[str]:
    """Names of the same architecture in other packages."""
    bare = re.split("[:/]", name)[-1]
    found = [f"robustness:{data}/{bare}" for data in ("imagenet", "cifar")]
    return [
        each for each in found if each.removeprefix("robustness:") in robustness_builders() and each != name
    ]


def _numbered(shapes: Shapes) -> Iterator[str]:
    """Names of ours that hold numbers, as the weights would have them."""
    stem, first = shapes.get("conv1.weight"), shapes.get("layer1.0.conv1.weight")
    if stem is None or first is None or "layer4.0.conv1.weight" in shapes:
        return
    blocks = len({key.split(".")[1] for key in shapes if key.startswith("layer1.")})
    if "bn2.weight" in shapes:  # pre-activation
        yield f"wrn_{6 * blocks + 4}_{max(1, first[0] // 16)}"
    else:
        if blocks == 3 and stem[0] % 16 == 0:
            yield f"resnet20_w{stem[0] // 16}"
        yield from (name for name in ("resnet_tiny", "resnet_tiny_deep") if stem[0] == 8)
        yield f"resnet_tiny_d{6 * blocks + 2}_w{stem[0]}"


def _family_outermost(name: str) -> frozenset[str]:
    """The outermost names of an architecture's weights, from the first of its family that was asked for."""
    if name.startswith("robustness:"):
        family = robustness_builders()[name.removeprefix("robustness:")].__module__
    else:
        family = re.match("[a-z_]+", name)[0]
    if family not in _families:
        _families[family] = _outermost(outline(name, _usual_shape(name), 10))
    return _families[family]


_families: dict[str, frozenset[str]] = {}


def _outermost(shapes: Mapping) -> frozenset[str]:
    return frozenset(key.partition(".")[0] for key in shapes)


def _usual_shape(name: str) -> ImageShape:
    large = name.startswith(("torchvision:", "robustness:imagenet", "timm:", "robustbench:"))
    side = 224 if large or (name in torchvision_names() and name not in ARCHITECTURES) else 32
    return 3, side, side


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


def _shapes(weights: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in weights.items()}


# whether they fit


def _match(name: str, reading: Reading, size: tuple[int, int] | None) -> Match | None:
    """The match of an architecture with some weights; None where it does not fit."""
    shapes = _shapes(reading.weights)
    usual = _usual_shape(name)
    expected = _outline_or_none(name, usual, 10)
    if expected is None or not _same_keys(expected, shapes):
        return None
    classes = _classes(name, usual, shapes)
    channels = _channels(expected, shapes)
    sizes = [size] if size is not None else []
    sizes += [usual[1:], *((side, side) for side in SIDES)]
    for image_size in dict.fromkeys(tuple(each) for each in sizes):
        for count in channels:
            shape = (count, *image_size)
            found = _outline_or_none(name, shape, classes)
            if found is not None and _filled(found, shapes) == found:
                other = _outline_or_none(name, (count, 2 * image_size[0], 2 * image_size[1]), classes)
                complete = {key: reading.weights.get(key, torch.tensor(0)) for key in found}
                matters = other is not None and other != found
                notes = (*reading.notes, *_counters(found, shapes))
                return Match(name, complete, classes, shape, matters, notes)
    return None


def _outline_or_none(name: str, image_shape: ImageShape, num_classes: int) -> Shapes | None:
    try:
        return outline(name, image_shape, num_classes)
    except ValueError:  # images that it does not take
        return None


def _same_keys(expected: Shapes, shapes: Shapes) -> bool:
    return set(_filled(expected, shapes)) == set(expected)


def _filled(expected: Shapes, shapes: Shapes) -> Shapes:
    """`shapes`, with BatchNorm's batch counters, which old files leave out and nothing depends on."""
    return {**shapes, **{key: () for key in expected if _is_counter(key) and key not in shapes}}


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
    key = next(key for key in ten if ten[key] != eleven[key])
    return shapes[key][0] if shapes[key] else 0


def _channels(expected: Shapes, shapes: Shapes) -> tuple[int, ...]:
    """The number of channels images may have: the input of the first convolution, where there is one."""
    stem = next((key for key, shape in expected.items() if len(shape) == 4), None)
    if stem is None:
        return (3, 1)
    return (shapes[stem][1],) if len(shapes.get(stem, ())) == 4 else (3,)


# what is said where they do not


def _no_match(
    found: list[Reading],
    source: str,
    architecture: str,
    size: tuple[int, int] | None,
) -> str:
    nearest, best = None, 0.0
    for reading in found:
        shapes = _shapes(reading.weights)
        for name in [architecture] if architecture else _near(shapes):
            # what is wrong with a name that the caller gave is theirs to read
            read = outline if architecture else _outline_or_none
            height, width = size or _usual_shape(name)[1:]
            if (usual := read(name, (3, height, width), 10)) is None:
                continue
            for channels in _channels(usual, shapes):
                expected = _adapted(name, (channels, height, width), usual, shapes)
                there = sum((key in shapes) + (shapes.get(key) == shape) for key, shape in expected.items())
                score = there / len(expected | shapes)
                if nearest is None or score > best:
                    nearest, best = (name, expected, shapes), score
    if nearest is None or (best == 0 and not architecture):
        some = ", ".join(list(found[0].weights)[:LISTED])
        return f"{source} is of no architecture that repsim knows: its weights are called {some}, …"
    name, expected, shapes = nearest
    agree = sum(shapes.get(key) == shape for key, shape in expected.items())
    said = (
        f"is no {name}" if architecture else f"is of no architecture that repsim knows; the nearest is {name}"
    )
    lines = [f"{source} {said} ({agree} of its {len(expected)} entries are there)."]
    lines += _differences(expected, shapes)
    if not architecture:
        lines.append("Say which it is if you know (architecture=…).")
    return "\n".join(lines)


def _near(shapes: Shapes) -> list[str]:
    """Architectures to compare with in a message: those of the same outermost names, else the usual ones."""
    named = list(candidates(shapes))
    return named or [name for name, known in ARCHITECTURES.items() if re.fullmatch(known.pattern, name)]


def _adapted(name: str, image_shape: ImageShape, usual: Shapes, shapes: Shapes) -> Shapes:
    """The outline for such images, with the file's number of classes, where it has what depends on it."""
    ten, eleven = (_outline_or_none(name, image_shape, count) for count in (10, 11))
    if ten is None or eleven is None:
        return usual
    key = next(key for key in ten if ten[key] != eleven[key])
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
