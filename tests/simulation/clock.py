"""Time, ids and chance, all by hand: what ran once runs again the same.

There is one true time, the world's, by which queues and tables go. Every sandbox
(one environment of one function) reads it through a clock of its own, which may
be wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from infra.clock import Clock

BEGINNING_MS = 1_800_000_000_000  # 15 January 2027


class WorldTime:
    """The true time. It only moves forward, and only by hand."""

    __slots__ = ("_now_ms",)

    def __init__(self, now_ms: int = BEGINNING_MS) -> None:
        self._now_ms = now_ms

    def __call__(self) -> int:
        """Now."""
        return self._now_ms

    def advance(self, ms: int) -> None:
        """Let so many milliseconds pass; none when negative."""
        self._now_ms += max(0, ms)

    def advance_to(self, at: int) -> None:
        """Let time pass until then, if then is not past."""
        self._now_ms = max(self._now_ms, at)


class SandboxClock(Clock):
    """A sandbox's own clock, and its source of ids and chance.

    Args:
        world: The true time.
        seed: Another seed draws other ids and other chances.
        skew_ms: How far this clock is ahead of the true time. It may be
            changed at any moment: clocks are set while programs run.
        sleep: Called to wait; without it the world waits.
    """

    def __init__(
        self,
        world: WorldTime,
        seed: str,
        *,
        skew_ms: int = 0,
        sleep: Callable[[int], None] | None = None,
    ) -> None:
        self.skew_ms = skew_ms
        self._world = world
        self._sleep = sleep if sleep is not None else world.advance
        # Two streams: an id more does not change the chances that are drawn later.
        self._ids = Random(f"{seed}/ids")
        self._chance = Random(f"{seed}/chance")

    def now_ms(self) -> int:
        """See Clock."""
        return self._world() + self.skew_ms

    def sleep_ms(self, delay_ms: int) -> None:
        """See Clock."""
        self._sleep(max(0, delay_ms))

    def new_id(self) -> str:
        """See Clock."""
        return f"{self._ids.getrandbits(128):032x}"

    def new_incarnation(self) -> str:
        """See Clock."""
        return f"{self._ids.getrandbits(32):08x}"

    def new_secret(self) -> str:
        """See Clock."""
        return f"{self._ids.getrandbits(128):032x}"

    def jitter(self) -> float:
        """See Clock."""
        return self._chance.random()
