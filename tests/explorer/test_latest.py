"""The newest request is the one that is answered; older ones are dropped, and what is begun is given up."""

import subprocess
import sys
import threading
import time

import pytest

from repsim.explorer.latest import Latest, Superseded

TIMEOUT = 30  # seconds, for what takes none


class Held:
    """Work that stays where it is at its first request until it may go on; then it takes a step."""

    def __init__(self):
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.seen, self.given_up, self.finished = [], [], []

    def __call__(self, request, step):
        self.seen.append(request)
        step()
        self.begun.set()
        assert self.may_go_on.wait(TIMEOUT)
        try:
            step()
        except Superseded:
            self.given_up.append(request)
            raise
        self.finished.append(request)


class Stepping:
    """Work that never ends by itself, and calls its step now and then."""

    def __init__(self):
        self.begun, self.given_up = threading.Event(), threading.Event()
        self.seen = []

    def __call__(self, request, step):
        self.seen.append(request)
        self.begun.set()
        end = time.monotonic() + TIMEOUT
        try:
            while time.monotonic() < end:
                step()
                time.sleep(0.001)
        except Superseded:
            self.given_up.set()
            raise


class Noting:
    """Work that is done at once."""

    def __init__(self, error=None):
        self.seen, self.threads, self.error = [], [], error
        self.done = threading.Event()

    def __call__(self, request, step=None):
        self.seen.append(request)
        self.threads.append(threading.current_thread())
        self.done.set()
        if self.error is not None and len(self.seen) == 1:
            raise self.error


@pytest.fixture
def latest():
    """Makes them, and ends them after the test."""
    made = []

    def make(*given, **named):
        made.append(Latest(*given, **named))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def held():
    """Goes on in any case when the test is over."""
    work = Held()
    yield work
    work.may_go_on.set()


# -- requests -----------------------------------------------------------------------------------------------


def test_requests_are_answered_one_after_the_other(latest):
    answer = Noting()
    one = latest(answer)
    for request in ("first", "second", "third"):
        one.ask(request)
        assert one.wait(TIMEOUT)
    assert answer.seen == ["first", "second", "third"]


def test_of_requests_that_wait_only_the_newest_is_answered(latest, held):
    one = latest(held)
    one.ask(1)
    assert held.begun.wait(TIMEOUT)
    for request in (2, 3, 4):
        one.ask(request)
    held.may_go_on.set()
    assert one.wait(TIMEOUT)
    assert held.seen == [1, 4]
    assert held.finished == [4]


def test_a_newer_request_supersedes_what_is_worked_on(latest, held):
    failed = Noting()
    one = latest(held, failed=failed)
    one.ask("old")
    assert held.begun.wait(TIMEOUT)
    one.ask("new")
    held.may_go_on.set()
    assert one.wait(TIMEOUT)
    assert held.given_up == ["old"]
    assert held.finished == ["new"]
    assert failed.seen == []


def test_a_step_of_the_newest_request_goes_through(latest, held):
    one = latest(held)
    one.ask("only")
    held.may_go_on.set()
    assert one.wait(TIMEOUT)
    assert held.finished == ["only"]
    assert held.given_up == []


def test_requests_from_many_threads_end_with_an_answer(latest):
    answer = Noting()
    one = latest(answer)
    threads = [threading.Thread(target=one.ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert one.wait(TIMEOUT)
    one.ask("last")
    assert one.wait(TIMEOUT)
    assert answer.seen[-1] == "last"
    assert len(set(answer.seen)) == len(answer.seen) <= 21


# -- waiting ------------------------------------------------------------------------------------------------


def test_waiting_says_whether_it_was_in_time(latest, held):
    one = latest(held)
    one.ask("slow")
    assert held.begun.wait(TIMEOUT)
    assert one.wait(0.01) is False
    held.may_go_on.set()
    assert one.wait(TIMEOUT) is True
    assert held.finished == ["slow"]


def test_without_a_request_there_is_nothing_to_wait_for(latest):
    assert latest(Noting()).wait(0) is True


def test_waiting_is_not_for_what_is_done_ahead(latest, held):
    answer = Noting()
    one = latest(answer, held)
    one.ask("quick")
    assert one.wait(TIMEOUT)
    assert answer.seen == ["quick"]
    assert held.begun.wait(TIMEOUT)
    assert one.wait(0) is True
    assert held.finished == []


def test_waiting_after_the_end_is_for_what_was_asked_before(latest):
    one = latest(Noting())
    one.ask("only")
    assert one.wait(TIMEOUT)
    one.close()
    assert one.wait(0) is True


# -- ahead --------------------------------------------------------------------------------------------------


def test_what_is_done_ahead_is_of_the_request_that_was_answered(latest):
    order, done = [], threading.Event()

    def ahead(request, step):
        order.append(("ahead", request))
        done.set()

    one = latest(lambda request, step: order.append(("answer", request)), ahead)
    one.ask("only")
    assert done.wait(TIMEOUT)
    assert order == [("answer", "only"), ("ahead", "only")]


def test_a_new_request_interrupts_what_is_done_ahead(latest):
    answer, ahead, failed = Noting(), Stepping(), Noting()
    one = latest(answer, ahead, failed)
    one.ask("old")
    assert ahead.begun.wait(TIMEOUT)
    one.ask("new")
    assert one.wait(TIMEOUT)
    assert ahead.given_up.is_set()
    assert answer.seen == ["old", "new"]
    assert failed.seen == []


def test_nothing_is_done_ahead_of_a_request_that_failed(latest):
    ahead = Noting()
    one = latest(Noting(error=ValueError("no")), ahead)
    one.ask("fails")
    assert one.wait(TIMEOUT)
    one.ask("works")
    assert ahead.done.wait(TIMEOUT)
    one.close()
    assert ahead.seen == ["works"]


def test_nothing_is_done_ahead_of_a_request_that_was_stopped(latest, held):
    ahead = Noting()
    one = latest(held, ahead)
    one.ask("stopped")
    assert held.begun.wait(TIMEOUT)
    one.stop()
    held.may_go_on.set()
    assert one.wait(TIMEOUT)
    one.close()
    assert ahead.seen == []


# -- failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("of a value"), RuntimeError("of anything"), KeyError("key")])
def test_what_an_answer_raises_is_told_and_the_next_request_is_answered(latest, error):
    answer, failed = Noting(error), Noting()
    one = latest(answer, failed=failed)
    one.ask("fails")
    assert one.wait(TIMEOUT)
    one.ask("works")
    assert one.wait(TIMEOUT)
    assert failed.seen == [error]
    assert answer.seen == ["fails", "works"]
    assert one.thread.is_alive()


def test_what_is_raised_ahead_is_told_and_the_next_request_is_answered(latest):
    error = RuntimeError("ahead")
    answer, failed = Noting(), Noting()
    one = latest(answer, Noting(error), failed)
    one.ask("first")
    assert failed.done.wait(TIMEOUT)
    one.ask("second")
    assert one.wait(TIMEOUT)
    assert failed.seen == [error]
    assert answer.seen == ["first", "second"]
    assert one.thread.is_alive()


# -- stopping -----------------------------------------------------------------------------------------------


def test_stopping_gives_up_and_answers_nothing_else(latest, held):
    failed = Noting()
    one = latest(held, failed=failed)
    one.ask("begun")
    assert held.begun.wait(TIMEOUT)
    one.ask("waiting")
    one.stop()
    held.may_go_on.set()
    assert one.wait(TIMEOUT)
    assert held.seen == held.given_up == ["begun"]
    assert held.finished == failed.seen == []


def test_stopping_ends_what_is_done_ahead(latest):
    ahead = Stepping()
    one = latest(Noting(), ahead)
    one.ask("answered")
    assert ahead.begun.wait(TIMEOUT)
    one.stop()
    assert ahead.given_up.wait(TIMEOUT)
    assert one.wait(TIMEOUT)
    assert ahead.seen == ["answered"]


def test_after_stopping_requests_are_answered_again(latest):
    answer = Noting()
    one = latest(answer)
    one.stop()
    assert one.wait(TIMEOUT)
    assert answer.seen == []
    one.ask("next")
    assert one.wait(TIMEOUT)
    assert answer.seen == ["next"]


# -- the thread ---------------------------------------------------------------------------------------------


def test_all_is_called_in_its_thread(latest):
    answer, ahead, failed = Noting(), Noting(RuntimeError("ahead")), Noting()
    one = latest(answer, ahead, failed)
    one.ask("only")
    assert failed.done.wait(TIMEOUT)
    assert [*answer.threads, *ahead.threads, *failed.threads] == [one.thread] * 3
    assert one.thread is not threading.current_thread()


def test_closing_ends_the_thread(latest):
    one = latest(Noting())
    one.ask("only")
    assert one.wait(TIMEOUT)
    assert one.thread.is_alive()
    one.close()
    assert not one.thread.is_alive()


@pytest.mark.parametrize("busy", ["answer", "ahead"])
def test_closing_ends_the_thread_at_work(latest, busy):
    work, failed = Stepping(), Noting()
    one = latest(**{"answer": Noting(), busy: work}, failed=failed)
    one.ask("endless")
    assert work.begun.wait(TIMEOUT)
    one.close()
    assert work.given_up.is_set()
    assert not one.thread.is_alive()
    assert failed.seen == []


def test_what_is_asked_after_the_end_is_not_answered(latest):
    answer = Noting()
    one = latest(answer)
    one.close()
    one.ask("late")
    assert one.wait(0) is False
    assert answer.seen == []


@pytest.mark.slow
def test_a_process_ends_while_work_is_done():
    program = """
import threading, time
from repsim.explorer.latest import Latest, Superseded

begun = threading.Event()

def answer(request, step):
    begun.set()
    try:
        while True:
            step()
            time.sleep(0.001)
    except Superseded:
        print("given up", flush=True)
        raise

Latest(answer).ask("endless")
begun.wait()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "given up\n", "")
