"""Packages that an extra of this package brings along: who lacks one is told which to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, users: str) -> Iterator[None]:
    """Import packages inside the block that come with the extra `name`.

    Parameters
    ----------
    users
        What cannot do without them, as a message begins: "models of timm need".

    Raises
    ------
    RuntimeError
        One of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"{users} the package {error.name}: pip install 'robust-repsim[{name}]'"
        ) from error
