"""Values computed before, kept in a file for each input set: a comparison goes on where it stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType

from repsim.support import artifacts, paths

VERSION = 2  # one more whenever a value would come out differently from the same images and weights
SAVE_EVERY = 5.0  # seconds: what a kill can lose


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
        self.identity = {"version": VERSION, **identity}
        self.path = paths.comparisons() / f"{artifacts.address(self.identity)}.json"
        self.recompute = recompute
        self._rows: dict[str, dict] = {} if recompute else self._read()
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

    def _read(self) -> dict[str, dict]:
        if not self.path.exists():
            return {}
        rows = artifacts.read_json(self.path).get("values")
        if not isinstance(rows, dict):
            raise artifacts.DamagedArtifact(f"{self.path} holds no values: remove it to compute them again.")
        return {key: _with_nan(row) for key, row in rows.items()}

    def _others(self) -> dict[str, dict]:
        """The values that are kept now; of a damaged file none, where all was to be computed again."""
        try:
            return self._read()
        except artifacts.DamagedArtifact:
            if not self.recompute:
                raise
            return {}

    def _save(self) -> None:
        if self._new:
            with artifacts.locked(self.path):  # another process may have added some meanwhile
                rows = {**self._others(), **self._new}
                plain = {key: _without_nan(row) for key, row in rows.items()}
                artifacts.write_json(self.path, {"identity": self.identity, "values": plain})
            self._new = {}
        self._saved = time.monotonic()


def _without_nan(row: Mapping[str, object]) -> dict[str, object]:
    """JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()
    }


def _with_nan(row: Mapping[str, object]) -> dict[str, object]:
    return {name: math.nan if value is None else value for name, value in row.items()}
