"""A clock that stands still until it is told to move."""

from __future__ import annotations

import hashlib

from infra.clock import Clock

# A fixed beginning and derived ids: two runs print the same.
BEGINNING_MS = 1_800_000_000_000  # 15 January 2027


class VirtualClock(Clock):
    """Time that passes only by ``advance`` and ``sleep_ms``; ids and chance that repeat.

    Args:
        seed: Another seed gives other ids and other jitter.
        now_ms: Where it begins.
    """

    def __init__(self, seed: str = "local", now_ms: int = BEGINNING_MS) -> None:
        self._seed = seed
        self._now_ms = now_ms
        self._drawn = 0

    def now_ms(self) -> int:
        """See Clock."""
        return self._now_ms

    def advance(self, ms: int) -> None:
        """Let so much time pass."""
        self._now_ms += max(0, ms)

    def sleep_ms(self, delay_ms: int) -> None:
        """See Clock. Nobody waits."""
        self.advance(delay_ms)

    def new_id(self) -> str:
        """See Clock."""
        return self._draw()[:32]

    def new_incarnation(self) -> str:
        """See Clock."""
        return self._draw()[:8]

    def new_secret(self) -> str:
        """See Clock."""
        return self._draw()[:32]

    def jitter(self) -> float:
        """See Clock."""
        return int(self._draw()[:8], 16) / (1 << 32)

    def _draw(self) -> str:
        self._drawn += 1
        return hashlib.sha256(f"{self._seed}:{self._drawn}".encode()).hexdigest()
