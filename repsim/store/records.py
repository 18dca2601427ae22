"""Records: JSON files with a checksum of their own; and the words for what is missing or damaged."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from repsim.support import artifacts
from repsim.support.artifacts import DamagedArtifact

CHECKSUM = "record_checksum"
READABLE = 2**17  # characters up to which a record is written line by line, which takes ten times as long
KIND = "sha256:"  # its values begin so, and nothing else in a record does


def missing(file: Path, record: Path) -> DamagedArtifact:
    """The error for a file that a record tells of and that is not there."""
    return DamagedArtifact(f"{file} is missing: remove {record.name} to make it again.")


def damaged(file: Path, reason: object, record: Path) -> DamagedArtifact:
    """The error for a file that is not as it was written."""
    return DamagedArtifact(
        f"{file} is damaged or was altered ({reason}): remove {record.name} to make it again."
    )


def _checksum(content: Mapping) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return KIND + hashlib.sha256(canonical.encode()).hexdigest()


def write_record(path: Path, content: Mapping) -> None:
    """Write a mapping and its checksum as JSON, readable unless it is long, atomically."""
    written = json.dumps(content, allow_nan=False)
    plain = json.loads(written)  # as it will be read
    indent = 1 if len(written) <= READABLE else None
    text = json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=indent, sort_keys=True) + "\n"
    with artifacts.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_record(path: Path) -> dict | None:
    """Read a mapping, packed by gzip or not, without its checksum; None where there is no such file.

    Records that were written before they had a checksum are read without one.

    Raises
    ------
    DamagedArtifact
        The file is no JSON mapping, or has another checksum.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        record = json.loads(text)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise damaged(path, f"not valid JSON: {error}", path) from error
    if not isinstance(record, dict):
        raise damaged(path, "no JSON mapping", path)
    if CHECKSUM in record or f'"{KIND}' in text:  # one of them alone, where the other is damaged
        expected = record.pop(CHECKSUM, None)
        if expected != _checksum(record):
            raise damaged(path, "its content is not that of its checksum", path)
    return record


def write_beside(path: Path) -> None:
    """Write the checksum of a table beside it, as `sha256sum` has it."""
    with artifacts.atomic(path.with_suffix(".sha256")) as temporary:
        temporary.write_text(f"{artifacts.checksum(path)}  {path.name}\n")


def check_beside(path: Path) -> None:
    """Compare a table with the checksum beside it; older tables have none.

    Raises
    ------
    DamagedArtifact
        They do not fit.
    """
    expected = path.with_suffix(".sha256")
    if expected.exists() and expected.read_bytes() != f"{artifacts.checksum(path)}  {path.name}\n".encode():
        raise damaged(path, f"its SHA-256 is not that of {expected.name}", path)
