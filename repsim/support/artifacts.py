"""Keep what is expensive: atomic, addressed by content, checksummed, locked while it is being made.

Every file is written to a temporary name beside its own, synced and renamed, so that a full disk or a kill
leaves the old file as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

if TYPE_CHECKING:  # torch takes seconds to import, and most of this file does without it
    from torch import Tensor

ADDRESS_LENGTH = 12  # hex digits: 48 bits tell any number of recipes apart that a person will ever make


class DamagedArtifact(RuntimeError):
    """A stored file is not what was written: truncated, altered or of another kind."""


def address(recipe: Mapping) -> str:
    """The address of what `recipe` (plain JSON values) makes: equal recipes, equal addresses."""
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:ADDRESS_LENGTH]


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*tensors: Tensor) -> str:
    """A hash of the values of tensors on the CPU, in this order: 12 hex digits."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()[:ADDRESS_LENGTH]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` once the block has ended well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, so that two processes never make the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        yield


def owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, contiguous, none sharing memory as tied weights do."""
    import torch

    return {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> str:
    """Write named tensors, and texts in a header, as safetensors, atomically; returns the file's checksum."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file(owned(tensors), temporary, metadata=dict(header) if header else None)
        return checksum(temporary)
