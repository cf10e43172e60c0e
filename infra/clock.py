"""The one reader of time, of ids and of chance on the AWS side.

Nothing here is seeded at import: under SnapStart many environments start from
one snapshot, and a seed in it would be the same in all of them (AWS Lambda
guide, "Handling uniqueness with Lambda SnapStart").
"""

from __future__ import annotations

import secrets
import time
import uuid
from random import SystemRandom
from typing import Protocol


class Clock(Protocol):
    """What the AWS side asks of time and chance; tests turn one by hand."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""

    def sleep_ms(self, delay_ms: int) -> None:
        """Wait that many milliseconds; no time at all when negative."""

    def new_id(self) -> str:
        """32 hex digits that nobody else gets."""

    def new_incarnation(self) -> str:
        """8 random hex digits: tell apart two sagas that use one id in turn."""

    def new_secret(self) -> str:
        """128 random bits as hex digits, which nobody can guess."""

    def jitter(self) -> float:
        """A random fraction in [0, 1)."""


class SystemClock(Clock):
    """The machine's clock and its source of randomness."""

    def now_ms(self) -> int:
        """See Clock. Wall-clock time: it may jump; the protocol's safety does not need it."""
        return time.time_ns() // 1_000_000

    def sleep_ms(self, delay_ms: int) -> None:
        """See Clock."""
        time.sleep(max(0, delay_ms) / 1000)

    def new_id(self) -> str:
        """See Clock."""
        return uuid.uuid4().hex

    def new_incarnation(self) -> str:
        """See Clock."""
        return secrets.token_hex(4)

    def new_secret(self) -> str:
        """See Clock."""
        return secrets.token_hex(16)

    def jitter(self) -> float:
        """See Clock."""
        return SystemRandom().random()
