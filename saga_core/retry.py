"""How often a step may be tried, and how long to wait between attempts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from saga_core.errors import DefinitionError

_MAX_DOUBLINGS = 63  # beyond it every cap is reached, and a float could overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with a cap and full jitter.

    Full jitter spreads the retries of many sagas that failed together
    (AWS Architecture Blog, "Exponential Backoff And Jitter").

    Args:
        max_attempts: Attempts that may *report* a failure, the first included.
            None: without end, as a step after the pivot must be.
        max_lost: Attempts that may vanish without a report (a crash, a kill).
            Counted apart: losing a worker says nothing about the step.
        base: Upper bound of the first pause.
        cap: Upper bound of every pause.
        multiplier: Growth of the bound from one pause to the next.

    Raises:
        DefinitionError: A bound is out of range (SAGA008).
    """

    max_attempts: int | None = 1
    max_lost: int = 3
    base: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(minutes=5)
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        if self.max_attempts is not None and self.max_attempts < 1:
            raise DefinitionError(f"SAGA008 max_attempts is {self.max_attempts}; at least 1")
        if self.max_lost < 1:
            raise DefinitionError(f"SAGA008 max_lost is {self.max_lost}; at least 1")
        if self.base < timedelta(0) or self.cap < self.base:
            raise DefinitionError(f"SAGA008 base {self.base} and cap {self.cap}: 0 <= base <= cap")
        if self.multiplier < 1:
            raise DefinitionError(f"SAGA008 multiplier is {self.multiplier}; at least 1")

    def spent(self, reported: int) -> bool:
        """So many reported failures are all that it allows."""
        return self.max_attempts is not None and reported >= self.max_attempts

    def delay_ms(self, failures: int, fraction: float) -> int:
        """Milliseconds to wait after the given number of failures (1 or more).

        ``fraction`` in [0, 1) is the jitter; it is passed in, so that a run
        can be replayed.
        """
        growth = self.multiplier ** min(failures - 1, _MAX_DOUBLINGS)
        bound = min(self.cap.total_seconds(), self.base.total_seconds() * growth)
        return int(bound * 1000 * fraction)


FORWARD_DEFAULT = RetryPolicy()
# A step after the pivot can only go on: it is tried until it succeeds, at a bearable pace.
RETRIABLE_DEFAULT = RetryPolicy(max_attempts=None)
# An undo is worth more patience than a step: giving up leaves an effect standing.
COMPENSATION_DEFAULT = RetryPolicy(max_attempts=3, cap=timedelta(seconds=10))
