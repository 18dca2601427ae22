"""The names and sizes of all architectures' weights in one table: candidates are looked up, not built.

`indexing.py` makes it; a test compares it with the networks.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("index.csv")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """One architecture.

    Attributes
    ----------
    name
        As `build_model` takes it.
    outermost
        The outermost names of its weights, in alphabetical order, with spaces between.
    keys
        The beginning of a SHA-256 of all their names.
    elements
        How many numbers its weights hold, but for those of `open`.
    open
        Weights whose shapes depend on the number of classes or channels, or on the size of the images, with
        `_` for such lengths: `conv1.weight=64x_x3x3 fc.weight=_x512 fc.bias=_`.
    """

    name: str
    outermost: str
    keys: str
    elements: int
    open: str

    @classmethod
    def of(cls, name: str, shapes: Shapes, others: Iterable[Shapes]) -> Row:
        """Describe the weights of an architecture, of which `others` are for other classes or images."""
        kept = without_counters(shapes)
        others = list(others)
        changing = [key for key in kept if any(other.get(key) != kept[key] for other in others)]
        open_ = " ".join(
            f"{key}={_pattern(kept[key], [other.get(key) for other in others])}" for key in changing
        )
        return cls(name, _outermost(kept), _digest(kept), _elements(kept, changing), open_)

    def fits(self, shapes: Shapes) -> bool:
        """Whether weights of these names, counters left out, have the shapes of this architecture."""
        patterns = dict(each.rsplit("=", 1) for each in self.open.split())
        return _elements(shapes, patterns) == self.elements and all(
            len(lengths := pattern.split("x") if pattern else []) == len(shapes[key])
            and all(length in ("_", str(own)) for length, own in zip(lengths, shapes[key], strict=True))
            for key, pattern in patterns.items()
        )


def without_counters(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The weights without BatchNorm's batch counters, which old files leave out."""
    return {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


def lookup(shapes: Shapes) -> list[str]:
    """The architectures that have weights of such names and shapes, in the order of the table."""
    kept = without_counters(shapes)
    digest = _digest(kept)
    return [row.name for row in rows() if row.keys == digest and row.fits(kept)]


def nearest(shapes: Shapes, count: int) -> list[str]:
    """The architectures whose weights are named most alike, and of these, those nearest in size.

    Only such as share an outermost name that is not everybody's.
    """
    kept = without_counters(shapes)
    own, total = set(_outermost(kept).split()), max(1, _elements(kept, ()))

    def distance(row: Row) -> tuple[float, float]:
        theirs = set(row.outermost.split())
        return -len(own & theirs) / len(own | theirs), abs(math.log(max(1, row.elements) / total))

    sharing = [row for row in rows() if own & set(row.outermost.split())]
    return [row.name for row in sorted(sharing, key=distance)[:count]]


@cache
def rows() -> tuple[Row, ...]:
    """The table as it is in the package."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Row(
                each["name"],
                each["outermost"],
                each["keys"],
                int(each["elements"]),
                each["open"],
            )
            for each in csv.DictReader(file)
        )


def write(found: Iterable[Row], path: Path = TABLE) -> None:
    """Write the table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row.__dataclass_fields__)
        for row in found:
            writer.writerow([row.name, row.outermost, row.keys, row.elements, row.open])


def _outermost(shapes: Iterable[str]) -> str:
    return " ".join(sorted({key.partition(".")[0] for key in shapes}))


def _digest(shapes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(shapes)).encode()).hexdigest()[:12]


def _pattern(shape: tuple[int, ...], others: list[tuple[int, ...] | None]) -> str:
    """The lengths of a shape, with `_` for those that are not the same in all others."""
    same = (
        all(other is not None and len(other) == len(shape) and other[place] == length for other in others)
        for place, length in enumerate(shape)
    )
    return "x".join(str(length) if fixed else "_" for length, fixed in zip(shape, same, strict=True))


def _elements(shapes: Shapes, left_out: Container[str]) -> int:
    return sum(math.prod(shape) for key, shape in shapes.items() if key not in left_out)
