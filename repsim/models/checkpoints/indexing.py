"""The table of all architectures' weights, made by building each without numbers in it.

`python -m repsim.models.checkpoints.indexing`, after an architecture was added or a library renewed; minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from repsim.models import ARCHITECTURES
from repsim.models.checkpoints import index, modules
from repsim.models.checkpoints.recognizing import layers_of, outline_or_none, usual_shape
from repsim.models.libraries import import_timm, robustness_builders, torchvision_names
from repsim.support.progress import progress_bar


def names() -> Iterator[str]:
    """All architectures without numbers in their names: ours, torchvision's, robustness' own, timm's."""
    yield from (name for name, known in ARCHITECTURES.items() if re.fullmatch(known.pattern, name))
    known = torchvision_names()
    yield from (name if name not in ARCHITECTURES else f"torchvision:{name}" for name in known)
    for name in robustness_builders():
        if not (name.startswith("imagenet/") and name.rpartition("/")[2] in known):  # copies of torchvision's
            yield f"robustness:{name}"
    yield from (f"timm:{name}" for name in import_timm().list_models())


def row(name: str) -> index.Row | None:
    """The row of an architecture; None where its usual images do not fit it."""
    channels, height, width = usual_shape(name)
    shapes = outline_or_none(name, (channels, height, width), 10)
    if shapes is None:
        return None
    others = [
        outline_or_none(name, (channels, height, width), 11),
        outline_or_none(name, (1, height, width), 10),
        outline_or_none(name, (channels, 2 * height, 2 * width), 10),
    ]
    return index.Row.of(name, shapes, [other for other in others if other is not None])


def rows() -> list[index.Row]:
    """The whole table; of networks with the same weights and the same modules, the first that is named."""
    found: list[index.Row] = []
    for name in progress_bar([*names()], "architectures", "network"):
        new = row(name)
        if new and not any(_same(new, known) for known in found):
            found.append(new)
    return found


def _same(one: index.Row, other: index.Row) -> bool:
    if (one.keys, one.elements, one.open) != (other.keys, other.elements, other.open):
        return False
    first, second = (modules.kinds(layers_of(each.name, usual_shape(each.name))) for each in (one, other))
    return first == second


if __name__ == "__main__":
    index.write(rows())
