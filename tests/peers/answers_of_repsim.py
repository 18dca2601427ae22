"""Answers of PyPI's repsim; in its process, `import repsim` is theirs."""

from importlib.metadata import version

from answering import answer

import repsim


def origin():
    return [version("repsim"), repsim.__file__]


def table(*matrices, measure, **options):
    """Every matrix with every other."""
    return getattr(repsim, measure)(list(matrices), **options).tolist()


answer(origin, table)
