"""Invocations of functions that stop in the middle of a call, and go on later, or never.

An invocation runs in a thread of its own, and of all threads only one ever moves:
the scheduler hands on the baton and waits until it comes back. So a run is as
deterministic as one thread, and yet any invocation can be left standing in any
call while others go on, in any order: a worker that was frozen past its lease
comes back while its successor is in the middle of the same step.

Two other ways were weighed. Running others inside a paused call needs no threads,
but what was paused last must end first: no zombie ever meets a successor that is
still at work, and the rules of the fence are about that meeting. Greenlets hand
over faster; here that is a tenth of a run's time, and not worth a dependency.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from aws_lambda_powertools.event_handler.api_gateway import BaseRouter


class Killed(BaseException):
    """The sandbox dies here. No Exception: no code may handle it."""


class Invocation:
    """One invocation of one function.

    Args:
        id: Its number.
        function: What is invoked, by name.
        work: The invocation itself; returns what the function answers.
        ends_at: When it is killed, in true time.

    Attributes:
        wakes_at: It is not to go on before then.
        frozen: It was stopped for so long that nobody expects it back; it is
            past its end and goes on as if nothing had been.
        ended: It answered, failed or died.
        answer: What it answered; None until it does.
        error: What it raised.
    """

    def __init__(self, id_: int, function: str, work: Callable[[], object], ends_at: int) -> None:
        self.id = id_
        self.function = function
        self.ends_at = ends_at
        self.wakes_at = 0
        self.frozen = False
        self.ended = False
        self.dead = False
        self.answer: object = None
        self.error: BaseException | None = None
        self._work = work
        self._go, self._stopped = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._stopped.acquire()
        self._thread: threading.Thread | None = None

    def __str__(self) -> str:
        return f"{self.function} {self.id}"

    def go_on(self) -> None:
        """Let it move until it pauses or ends."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._go.release()
        self._stopped.acquire()

    def pause(self) -> None:
        """Stop here until told to go on. To be called from within.

        Raises:
            Killed: It is not to go on any more.
        """
        # Powertools keeps the request in hand at a class: good for a sandbox, which has one at
        # a time. Ours are in one process.
        mine = {name: vars(BaseRouter).get(name) for name in ("current_event", "lambda_context")}
        self._stopped.release()
        self._go.acquire()
        for name, value in mine.items():
            setattr(BaseRouter, name, value)
        self.die_if_dead()

    def kill(self) -> None:
        """It does nothing more. From outside; it may not have begun."""
        self.dead = True
        if self._thread is None:
            self.ended = True
        elif not self.ended:
            self.go_on()

    def die_if_dead(self) -> None:
        """Whatever a dying invocation still wants to do, it does not."""
        if self.dead:
            raise Killed

    def _run(self) -> None:
        self._go.acquire()
        try:
            self.die_if_dead()
            self.answer = self._work()
        except BaseException as exc:  # noqa: BLE001 - the scheduler judges it
            self.error = exc
        self.ended = True
        self._stopped.release()
