"""A clock turned by hand, with counted ids and a fixed jitter."""

from __future__ import annotations

from dataclasses import dataclass, field

from infra.clock import Clock

T0 = 1_800_000_000_000  # 2027-01-15T08:00:00Z


@dataclass
class HandClock(Clock):
    """Time passes only when somebody sleeps or turns it."""

    now: int = T0
    fraction: float = 0.5
    slept: list[int] = field(default_factory=list)
    ids: int = 0

    def now_ms(self) -> int:
        """See Clock."""
        return self.now

    def sleep_ms(self, delay_ms: int) -> None:
        """Pass the time at once."""
        self.slept.append(delay_ms)
        self.now += max(0, delay_ms)

    def new_id(self) -> str:
        """See Clock."""
        self.ids += 1
        return f"{self.ids:032x}"

    def new_incarnation(self) -> str:
        """See Clock."""
        self.ids += 1
        return f"{self.ids:08x}"

    def new_secret(self) -> str:
        """See Clock."""
        self.ids += 1
        return f"{self.ids:032x}"

    def jitter(self) -> float:
        """See Clock."""
        return self.fraction
