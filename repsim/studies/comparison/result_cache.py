"""Values computed before, kept in a file for each input set: a comparison goes on where it stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from repsim.store import Artifact, Store, StoredRecipe
from repsim.support import paths
from repsim.support.artifacts import DamagedArtifact

VERSION = 2  # one more whenever a value would come out differently from the same images and weights
SAVE_EVERY = 5.0  # seconds: what a kill can lose


@dataclass(frozen=True)
class InputIdentity(StoredRecipe):
    """Images and labels by plain values that decide them."""

    values: Mapping[str, object]

    group = "."  # whatever the data set: the same images have the same values

    @property
    def version(self) -> int:
        return VERSION

    @property
    def identity(self) -> dict[str, object]:
        return {**self.values, "version": self.version}

    def recorded(self) -> dict[str, object]:
        return {"identity": self.identity}

    @classmethod
    def restored(cls, record: Mapping) -> InputIdentity:
        return cls({key: value for key, value in record["identity"].items() if key != "version"})


@dataclass(frozen=True)
class KeptValues(Artifact):
    """Rows of an input set in the store, all of them in the record."""

    recipe: InputIdentity

    @classmethod
    def upgraded(cls, record: dict) -> dict:
        if not all(isinstance(row, dict) for row in dict(record["values"]).values()):
            raise TypeError("its values are no rows")
        return record

    @property
    def checksums(self) -> dict[str, str]:
        return {}

    @property
    def rows(self) -> dict[str, dict]:
        return {key: _with_nan(row) for key, row in self.record["values"].items()}


VALUES = Store(
    "values of comparisons", lambda: [paths.comparisons()], InputIdentity, KeptValues, ("identity", "values")
)


class ResultCache:
    """Rows of a table, by what they are of; saved every few seconds, and when the block ends or fails.

    Parameters
    ----------
    identity
        What decides the images: the file is addressed by it.
    recompute
        Forget what an earlier run has kept.
    """

    def __init__(self, identity: Mapping[str, object], recompute: bool = False):
        self.recipe = InputIdentity(identity)
        self._rows: dict[str, dict] = {}
        try:
            if (stored := VALUES.find(self.recipe)) and not recompute:
                self._rows = stored.rows
        except DamagedArtifact:
            if not recompute:
                raise
            VALUES.path(self.recipe).unlink(missing_ok=True)  # nothing of it is wanted
        self._new: dict[str, dict] = {}
        self._saved = time.monotonic()

    def __enter__(self) -> ResultCache:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._save()

    def __contains__(self, key: str | None) -> bool:
        return key is not None and key in self._rows

    def __getitem__(self, key: str) -> dict:
        return self._rows[key]

    def put(self, key: str | None, row: Mapping[str, object]) -> None:
        """Keep a row of numbers and texts; without a key it is not to be kept."""
        if key is None:
            return
        self._rows[key] = self._new[key] = dict(row)
        if time.monotonic() - self._saved > SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        if self._new:
            VALUES.add(self.recipe, self._with_new)
            self._new = {}
        self._saved = time.monotonic()

    def _with_new(self, stored: KeptValues | None) -> dict[str, object]:
        """The record with the new rows: another process may have added some meanwhile."""
        rows = {**(stored.rows if stored else {}), **self._new}
        return {"values": {key: _without_nan(row) for key, row in rows.items()}}


def _without_nan(row: Mapping[str, object]) -> dict[str, object]:
    """JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()
    }


def _with_nan(row: Mapping[str, object]) -> dict[str, object]:
    return {name: math.nan if value is None else value for name, value in row.items()}
