"""Work on the newest request only, in a thread: who drags a slider asks for more than can be answered."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Request = TypeVar("Request")
PATIENCE = 10.0  # seconds, for a thread that is to end


class Superseded(Exception):
    """There is a newer request, or none is wanted any more."""


class Latest(Generic[Request]):
    """A thread that answers requests, and gives up what it is at when a newer one comes.

    Parameters
    ----------
    answer
        Given a request and a function to be called now and then, which raises `Superseded` where the request
        is no longer the newest; it must let that pass.
    ahead
        Likewise: what to do about a request that has been answered, until there is a newer one.
    failed
        Is told what else was raised.

    Attributes
    ----------
    thread
        In which all of these are called.
    """

    def __init__(
        self,
        answer: Callable[[Request, Callable[[], None]], None],
        ahead: Callable[[Request, Callable[[], None]], None] = lambda request, step: None,
        failed: Callable[[Exception], None] = lambda error: None,
    ):
        self._answer, self._ahead, self._failed = answer, ahead, failed
        self._changed = threading.Condition()
        self._newest: Request | None = None
        self._number = 0  # of the newest request
        self._answered = 0  # up to which requests are answered or given up
        self._closed = False
        self.thread = threading.Thread(target=self._run, name="repsim-latest", daemon=True)
        self.thread.start()
        atexit.register(self.close)  # a thread that still computes would bring an ending process down

    def ask(self, request: Request) -> None:
        """Returns at once."""
        with self._changed:
            self._newest = request
            self._number += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Give up what is being worked on, without another request."""
        with self._changed:
            self._newest = None
            self._number += 1
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the newest request is answered, not what is done ahead; whether that was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._answered == self._number, timeout)

    def close(self) -> None:
        """End the thread, and wait until it has noticed."""
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            self._number += 1
            self._changed.notify_all()
        self.thread.join(PATIENCE)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._answered < self._number)
                if self._closed:
                    self._answered = self._number
                    self._changed.notify_all()
                    return
                request, number = self._newest, self._number

            def step(number: int = number) -> None:
                if self._number != number:
                    raise Superseded

            done = self._do(self._answer, request, step)
            with self._changed:
                self._answered = number
                self._changed.notify_all()
            if done:
                self._do(self._ahead, request, step)

    def _do(self, work: Callable, request: Request | None, step: Callable[[], None]) -> bool:
        """Whether it was done, to its end."""
        if request is None:
            return False
        try:
            work(request, step)
            step()
            return True
        except Superseded:
            pass
        except Exception as error:  # whatever it is: the thread lives on, for the next request
            self._failed(error)
        return False
