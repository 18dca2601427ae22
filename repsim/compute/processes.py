"""One function of many things, in several processes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import torch

from repsim.support.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    what: str,
    unit: str,
    progress: bool = True,
) -> list[Result]:
    """`function` of each item, in order, by `jobs` processes of one thread each.

    Parameters
    ----------
    function
        Sent to each process once, with what it holds (`functools.partial`).
    what, unit
        For the progress bar.
    """
    context = get_context("spawn")  # a forked process would inherit the locks of torch's threads
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(function,)) as pool:
        return list(progress_bar(pool.map(_call, items), what, unit, progress, total=len(items)))


_of_this_process: list[Callable] = []


def _begin(function: Callable) -> None:
    torch.set_num_threads(1)
    _of_this_process.append(function)


def _call(item: object) -> object:
    return _of_this_process[0](item)
