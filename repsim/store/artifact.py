"""Artifacts: a record and files of tensors, as they are stored and while they are made."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim.store.records import damaged, missing
from repsim.support import artifacts

if TYPE_CHECKING:  # torch takes seconds to import, and looking for artifacts does without it
    from torch import Tensor


def tensor_file(record: Path, suffix: str = "") -> Path:
    """The file of tensors that belongs to a record."""
    stem = record.name.removesuffix(".gz").removesuffix(".json")
    return record.with_name(f"{stem}{suffix}.safetensors")


@dataclass(frozen=True)
class Artifact:
    """Something stored: its recipe, and its record.

    Attributes
    ----------
    recipe
        A `StoredRecipe`.
    path
        Of its record, or of the pack's that it is in.
    prefix
        Of its tensors' names in a pack.
    """

    recipe: Any
    path: Path
    record: dict
    prefix: str = ""

    @classmethod
    def upgraded(cls, record: dict) -> dict:
        """A record as it is written now, from one as it may have been written once."""
        return record

    @property
    def checksums(self) -> dict[str, str]:
        """The suffix of each file of tensors → its SHA-256."""
        return {"": self.record["checksum"]}

    @property
    def file(self) -> Path:
        """The file of its tensors."""
        return tensor_file(self.path)

    def tensors(self, suffix: str = "") -> dict[str, Tensor]:
        """The tensors of one of its files, after a comparison of the file's checksum.

        Raises
        ------
        DamagedArtifact
            The file is missing, or its bytes are not those that were written.
        """
        from safetensors import safe_open

        file, expected = tensor_file(self.path, suffix), self.checksums[suffix]
        try:
            found = (
                _checksum_of_pack(file, file.stat().st_mtime_ns) if self.prefix else artifacts.checksum(file)
            )
        except FileNotFoundError:
            raise missing(file, self.path) from None
        if found != expected:
            reason = f"its SHA-256 is {found[:12]}…, its record says {expected[:12]}…"
            raise damaged(file, reason, self.path)
        with safe_open(file, "pt") as content:
            names = [name for name in content.keys() if name.startswith(self.prefix)]  # noqa: SIM118
            return {name.removeprefix(self.prefix): content.get_tensor(name) for name in names}


@functools.lru_cache(maxsize=8)
def _checksum_of_pack(file: Path, changed: int) -> str:
    """The checksum of a shared file; `changed` is when it was, so that a new one is read again."""
    return artifacts.checksum(file)


@dataclass(frozen=True)
class Draft:
    """An artifact that is being made, under its lock.

    Attributes
    ----------
    path
        Of the record that it will have.
    """

    path: Path

    @property
    def parts(self) -> Path:
        """The folder of what an interrupted run goes on from."""
        return self.path.with_suffix(".parts")

    def file(self, suffix: str = "") -> Path:
        """A file of its tensors."""
        return tensor_file(self.path, suffix)

    def write(self, tensors: Mapping[str, Tensor], suffix: str = "") -> str:
        """Write a file of tensors; returns its checksum, for the record."""
        self.path.unlink(missing_ok=True)  # of an earlier making, whose tensors are now replaced
        return artifacts.write_tensors(self.file(suffix), tensors)

    def forget_parts(self) -> None:
        """Remove what an interrupted run would go on from."""
        shutil.rmtree(self.parts, ignore_errors=True)
