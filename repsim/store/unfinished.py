"""Unfinished work: files from which an interrupted run goes on, each with its checksum at its end."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from repsim.support import artifacts

if TYPE_CHECKING:
    from torch import Tensor

LENGTH = hashlib.sha256().digest_size


def write_unfinished(path: Path, content: bytes) -> None:
    """Write a part of what is being made, atomically."""
    with artifacts.atomic(path) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())


def read_unfinished(path: Path) -> bytes | None:
    """Read a part that an interrupted run has written.

    Returns
    -------
    bytes or None
        None where there is none, or (with a note) a damaged one: it is to be made again.
    """
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return None
    content, checksum = written[:-LENGTH], written[-LENGTH:]
    if hashlib.sha256(content).digest() == checksum:
        return content
    warnings.warn(f"{path} is damaged or was altered: it is made again.", stacklevel=2)
    return None


def write_unfinished_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors; see `write_unfinished`."""
    from safetensors.torch import save

    write_unfinished(path, save(artifacts.owned(tensors)))


def read_unfinished_tensors(path: Path) -> dict[str, Tensor] | None:
    """Read named tensors; see `read_unfinished`."""
    from safetensors.torch import load

    content = read_unfinished(path)
    return None if content is None else load(content)
