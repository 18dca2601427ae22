"""The table of all architectures' weights, made by building each without numbers in it.

`python -m repsim.models.checkpoints.indexing`, after an architecture was added or a library renewed; minutes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from repsim.models import ARCHITECTURES, build_model
from repsim.models.checkpoints import index, modules
from repsim.models.checkpoints.recognizing import (
    ENCLOSED,
    NORMALIZERS,
    Shapes,
    layers_of,
    outline,
    outline_or_none,
    recognize,
    usual_shape,
)
from repsim.models.libraries import (
    import_timm,
    robustbench_entries,
    robustness_builders,
    torchvision_names,
)
from repsim.models.variants import alternatives
from repsim.support.progress import progress_bar


def names() -> Iterator[str]:
    """All architectures without numbers in their names: ours, torchvision's, robustness' own, timm's."""
    yield from (name for name, known in ARCHITECTURES.items() if re.fullmatch(known.pattern, name))
    known = torchvision_names()
    yield from (name if name not in ARCHITECTURES else f"torchvision:{name}" for name in known)
    for name in robustness_builders():
        copied = name.rpartition("/")[2].removeprefix(
            "leaky_"
        )  # of torchvision; leaky ones are `+leaky_relu`
        if not (name.startswith("imagenet/") and copied in known):
            yield f"robustness:{name}"
    yield from (f"timm:{name}" for name in import_timm().list_models())


def robustbench_names() -> Iterator[str]:
    """Those of RobustBench's networks for CIFAR that no other architecture can take the weights of."""
    for data, threat, name in robustbench_entries():
        full = f"robustbench:{data}/{threat}/{name}"
        if data == "imagenet":
            continue
        try:
            shapes = outline(full, (3, 32, 32), 10)
        except Exception as error:  # some ask for a GPU, or for numbers that are not there yet
            print(f"{full} cannot be built here: {error}")
            continue
        weights = {key: torch.empty(shape, device="meta") for key, shape in _bare(shapes).items()}
        try:
            fitting = recognize(weights, full).architecture
        except ValueError:
            fitting = full
        if fitting.startswith("robustbench:"):
            yield full


def row(name: str) -> index.Row | None:
    """The row of an architecture; None where its usual images do not fit it."""
    channels, height, width = usual_shape(name)
    shapes = outline_or_none(name, (channels, height, width), 10)
    if shapes is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # timm's of images that a network was not made for
        others = [
            outline_or_none(name, (channels, height, width), 11),
            outline_or_none(name, (1, height, width), 10),
            outline_or_none(name, (channels, 2 * height, 2 * width), 10),
        ]
    return index.Row.of(name, _bare(shapes), [other for other in others if other is not None])


def _bare(shapes: Shapes) -> Shapes:
    """Weights as they are recognised: normalisers are taken out before."""
    return {key.removeprefix(ENCLOSED): shape for key, shape in shapes.items() if key not in NORMALIZERS}


def rows() -> list[index.Row]:
    """The whole table; of networks with the same weights and the same modules, the first that is named.

    Rows of RobustBench's stay as they are where it is not installed.
    """
    found: list[index.Row] = []
    for name in progress_bar([*names()], "architectures", "network"):
        _add(found, name)
    try:
        theirs = [*robustbench_names()]
    except RuntimeError:
        return found + [each for each in index.rows() if each.name.startswith("robustbench:")]
    for name in theirs:
        _add(found, name)
    return found


def _add(found: list[index.Row], name: str) -> None:
    new = row(name)
    if new and not any(_same(new, known) for known in found):
        found.append(new)


def _same(one: index.Row, other: index.Row) -> bool:
    """Whether two networks of the same weights compute the same: by their modules, or else their logits.

    A variant of the other is the same as well.
    """
    if one.keys != other.keys:
        return False
    shape = usual_shape(other.name)  # networks for images of several sizes have several names in timm
    if outline_or_none(one.name, shape, 10) != outline_or_none(other.name, shape, 10):
        return False
    if modules.alike(*(layers_of(each.name, shape) for each in (one, other))):
        return True
    if not one.name.startswith("timm:") or other.name.startswith("timm:"):
        return False
    expected = _logits(one.name, other.name)
    variants = (other.name, *alternatives(other.name))
    return any(torch.allclose(_logits(each, other.name), expected, rtol=1e-4, atol=1e-5) for each in variants)


@torch.no_grad()
def _logits(name: str, weights_of: str) -> Tensor:
    """The logits of random images by an architecture that has another's random weights and statistics."""
    shape = usual_shape(weights_of)
    neutral = [0.0] * shape[0], [1.0] * shape[0]
    weights = build_model(weights_of, shape, 10, *neutral).state_dict()
    generator = torch.Generator().manual_seed(0)
    for key, value in weights.items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
    network = build_model(name, shape, 10, *neutral)
    network.load_state_dict(weights)
    return network.eval()(torch.rand(2, *shape, generator=generator))


if __name__ == "__main__":
    index.write(rows())
