"""What a test of the orchestrator takes from outside: time, a journal, a store that remembers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from saga_core.definition import Function
from saga_core.instance import SagaInstance
from saga_core.memory import InMemorySagaStore
from saga_core.orchestrator import Environment
from tests.core.sagas import T0

Context = dict[str, object]


class Killed(BaseException):
    """The process dies here. No Exception, so nobody may take it for an outcome."""


@dataclass
class HandClock:
    """Time that passes only when somebody sleeps."""

    now: int = T0
    slept: list[float] = field(default_factory=list)
    meanwhile: Callable[[], object] | None = None  # what happens during the next sleep

    def read(self) -> int:
        """The time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Pass the time at once."""
        self.slept.append(seconds)
        self.now += int(seconds * 1000)
        happening, self.meanwhile = self.meanwhile, None
        if happening is not None:
            happening()

    def environment(self, *, jitter: float = 0.5) -> Environment:
        """An environment on this clock, its ids counted."""
        ids = count(1)
        return Environment(
            now_ms=self.read,
            sleep=self.sleep,
            new_id=lambda: f"{next(ids):032x}",
            jitter=lambda: jitter,
        )


class RecordingStore(InMemorySagaStore):
    """A store in memory that keeps every version it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[SagaInstance] = []

    async def save(self, instance: SagaInstance) -> SagaInstance:
        stored = await super().save(instance)
        self.history.append(stored)
        return stored


@dataclass
class Journal:
    """What handlers did, in the order in which they did it."""

    lines: list[str] = field(default_factory=list)

    def does(self, name: str) -> Callable[[Context], None]:
        """A step that works."""

        def execute(ctx: Context) -> None:
            self.lines.append(f"do {name}")
            ctx[name] = "done"

        return execute

    def undoes(self, name: str) -> Callable[[Context], None]:
        """A compensation that works."""

        def compensate(ctx: Context) -> None:
            self.lines.append(f"undo {name}")
            ctx[name] = "undone"

        return compensate

    def fails(self, line: str, *errors: BaseException) -> Function:
        """A handler that writes its line, then raises these one after the other, then works."""
        left = list(errors)

        def handler(ctx: Context) -> None:
            self.lines.append(line)
            ctx[line] = "leaves a trace"
            if left:
                raise left.pop(0)
            ctx[line] = "done"

        return handler
