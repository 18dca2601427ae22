"""Types besides tensors that files hold, each by a stand-in that can do nothing but keep what was saved.

NumPy's own functions are not called: an array made of a buffer can take bytes for addresses of objects.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re

import numpy as np


class Kind:
    """A type of numbers or texts as NumPy pickles it: letters such as `f4`, and the order of bytes."""

    def __init__(self, letters: object = "", *_):
        self.letters, self.order = letters, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        """NumPy's type.

        Raises
        ------
        UnpicklingError
            It is none of numbers or texts.
        """
        if not (re.fullmatch(r"[biufcSU]\d+", str(self.letters)) and self.order in ("<", ">", "=", "|")):
            raise pickle.UnpicklingError("class numpy.dtype")
        return np.dtype(self.letters).newbyteorder(self.order)


class Array(np.ndarray):
    """An array, which is made empty, whatever a file would make it of, and then takes its numbers."""

    def __new__(cls, *_):
        return np.zeros(0).view(cls)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, is_fortran, values = state
        if not (isinstance(kind, Kind) and isinstance(values, bytes)):
            raise pickle.UnpicklingError("class numpy.ndarray")
        super().__setstate__((1, tuple(shape), kind.dtype(), bool(is_fortran), values))


def number(kind: object = None, values: object = b"") -> object:
    """Make a number of NumPy from its type and bytes."""
    if not (isinstance(kind, Kind) and isinstance(values, bytes) and values):
        raise pickle.UnpicklingError("class numpy.generic")
    return np.frombuffer(values, kind.dtype())[0]


def mapping(*_) -> dict:
    """Make a plain mapping in the place of a `defaultdict`, whose factory is left out."""
    return {}


def path(*parts: str) -> pathlib.PurePath:
    """Make a path that only names a file, whichever system wrote it."""
    return pathlib.PurePath(*parts)


_CORES = ("numpy._core", "numpy.core")  # of NumPy 2, and before
# As `torch.serialization.safe_globals` takes them: what stands for each name.
HARMLESS = [
    argparse.Namespace,
    (argparse.Namespace, "cox.utils.Parameters"),  # robustness' settings; read without the package
    (argparse.Namespace, "fastcore.foundation.L"),  # fastai's lists; read without the package
    (mapping, "collections.defaultdict"),
    *((kind, f"builtins.{kind.__name__}") for kind in (list, dict, tuple, int, float, str, bool)),
    *(
        (path, f"{module}.{kind}{system}Path")
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Pure")
        for system in ("Posix", "Windows", "")
    ),
    (Kind, "numpy.dtype"),
    (Array, "numpy.ndarray"),
    *((Array, f"{core}.multiarray._reconstruct") for core in _CORES),
    *((number, f"{core}.multiarray.scalar") for core in _CORES),
]
