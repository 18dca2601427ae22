"""One function of many things: in order, each process on one thread, what it needs sent to each once."""

import functools
import operator
import os
import re

import pytest
import torch

from repsim.compute.processes import in_processes

# What crosses to another process is of the standard library: a test's own module is not importable there.


def test_other_processes_of_one_thread_each(monkeypatch):
    """Whatever the environment says, as it does where tests are run with one thread."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        asked = [torch.get_num_threads, os.getpid] * 6
        found = in_processes(operator.call, asked, 2, "questions", "question", progress=False)
        assert torch.get_num_threads() == 2  # here, nothing has changed
    finally:
        torch.set_num_threads(before)
    assert found[::2] == [1] * 6
    processes = set(found[1::2])
    assert os.getpid() not in processes
    assert len(processes) <= 2


class Adding:
    """Arrives as `functools.partial(operator.add, 100)`; counts how often it is sent."""

    def __init__(self):
        self.sent = []

    def __call__(self, item):
        raise AssertionError("called here instead of in another process")

    def __reduce__(self):
        self.sent.append(1)
        return functools.partial, (operator.add, 100)


@pytest.mark.matrix
@pytest.mark.parametrize("jobs", [2, 1])
def test_the_function_is_sent_to_each_process_once(jobs):
    function = Adding()
    found = in_processes(function, range(9), jobs, "numbers", "number", progress=False)
    assert found == [100 + item for item in range(9)]
    assert len(function.sent) == jobs


@pytest.mark.slow
def test_an_exception_of_one_item_reaches_the_caller():
    with pytest.raises(ValueError, match=re.escape("invalid literal for int() with base 10: 'three'")):
        in_processes(int, ["1", "2", "three", "4"], 2, "numbers", "number", progress=False)


def test_nothing_to_do():
    assert in_processes(int, [], 2, "numbers", "number", progress=False) == []
