"""Several invocations at once, one call at a time, in an order that a script decides.

Each runs in a thread of its own, and only one of them ever moves: at every
boundary it stops until it is chosen again. ``every_order`` plays a scene again
and again until each order of the choices has been tried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


class Script:
    """Says who goes next; remembers between how many it chose."""

    def __init__(self, choices: Sequence[int]) -> None:
        self._choices = choices
        self.taken: list[tuple[int, int]] = []  # the choice, and among how many

    def choose(self, among: int) -> int:
        """One of so many; the first where the script is silent."""
        n = len(self.taken)
        choice = self._choices[n] if n < len(self._choices) else 0
        self.taken.append((choice, among))
        return choice


def every_order(play: Callable[[Script], object]) -> int:
    """Play with every script there is, and say how many that were."""
    choices: list[int] = []
    played = 0
    while True:
        script = Script(choices)
        play(script)
        played += 1
        taken = script.taken
        while taken and taken[-1][0] == taken[-1][1] - 1:
            taken.pop()
        if not taken:
            return played
        choices = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]


class Interleaving:
    """Runs actions together: a thread each, one of them at a time."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._actors: dict[int, _Actor] = {}

    def run(self, *actions: Callable[[], object]) -> None:
        """Until all have ended. What one of them raises is raised here."""
        actors = [_Actor(action) for action in actions]
        for actor in actors:
            actor.thread.start()
            assert actor.thread.ident is not None
            self._actors[actor.thread.ident] = actor
            actor.go_on()  # to its first boundary: nothing has happened by then
        while alive := [actor for actor in actors if actor.thread.is_alive()]:
            alive[self._script.choose(len(alive)) if len(alive) > 1 else 0].go_on()
        for actor in actors:
            if actor.error is not None:
                raise actor.error

    def boundary(self, moment: str) -> None:
        """Stop before each call until chosen; elsewhere nobody would see a difference."""
        actor = self._actors.get(threading.get_ident())
        if actor is not None and moment.startswith("before ") and not moment.endswith(".handler"):
            actor.stop()


class _Actor:
    def __init__(self, action: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(action,), daemon=True)
        self._turn, self._rest = threading.Semaphore(0), threading.Semaphore(0)
        self._ended = False

    def go_on(self) -> None:
        """Let it run to its next boundary, or to its end."""
        self._turn.release()
        self._rest.acquire()
        if self._ended:
            self.thread.join()

    def stop(self) -> None:
        """Called by the thread itself."""
        self._rest.release()
        self._turn.acquire()

    def _run(self, action: Callable[[], object]) -> None:
        self._turn.acquire()
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - raised again by run
            self.error = error
        finally:
            self._ended = True
            self._rest.release()
