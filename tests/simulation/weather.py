"""What can go wrong around the functions, how often, and the dice that decide it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

EVERYBODY = frozenset({"api", "starter", "worker", "dead_letters", "sweeper"})
NEVER = 10**9


class Fault(StrEnum):
    """What becomes of one call, to AWS or to a service."""

    KILL_BEFORE = "killed before it"
    KILL_AFTER = "killed after it"
    LOSE_ANSWER = "done, answer lost"
    REPEAT = "done, answer lost, done again by the SDK"
    DISGUISE = "done, answer lost, and the SDK's repeat was throttled"
    THROTTLE = "throttled"
    NOT_DONE = "500, not done"
    SLOW = "slow"
    FREEZE_BEFORE = "frozen before it, for long"
    FREEZE_AFTER = "frozen after it, for long"
    LATE = "arrives much later"  # of a service's calls only


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How hard the world is.

    Attributes:
        aws: The chance of each fault, for each call to a table or a queue.
        services: Likewise for each call to a service, by a step's handler.
        hit: The functions that faults hit.
        spared: Functions and kinds of calls that do not fail while the function lives on.
        limit: So many faults and no more.
        duplicate: A delivery is repeated, at once or later.
        undelete: A deleted message is delivered once more.
        delay: A message is late.
        lose: A message never arrives, unless the sweeper sent it.
        lag: A read of an index shows what was a while ago.
        skew_ms: Clocks are off by up to this.
        sweeper: It runs; at times two of it.
        people: They cancel, ask twice, and deploy in the middle.
        swarm: Each run draws which of the faults it has, and how often.
        waits: Retries may be hours apart.
    """

    aws: Mapping[Fault, float] = field(default_factory=dict)
    services: Mapping[Fault, float] = field(default_factory=dict)
    hit: frozenset[str] = EVERYBODY
    spared: frozenset[tuple[str, str]] = frozenset()
    limit: int = NEVER
    duplicate: float = 0.0
    undelete: float = 0.0
    delay: float = 0.0
    lose: float = 0.0
    lag: float = 0.0
    skew_ms: int = 0
    sweeper: bool = True
    people: bool = True
    swarm: bool = True
    waits: bool = True


def _all(chance: float, *but: Fault) -> dict[Fault, float]:
    return {fault: chance for fault in Fault if fault not in (*but, Fault.LATE)}


_SERVICES = {**_all(0.03, Fault.REPEAT, Fault.DISGUISE, Fault.NOT_DONE), Fault.LATE: 0.03}
# What a function is told: it lives on, and has to make something of it.
TOLD = frozenset({Fault.LOSE_ANSWER, Fault.REPEAT, Fault.DISGUISE, Fault.THROTTLE, Fault.NOT_DONE})
_CRASHES = {Fault.KILL_BEFORE: 0.03, Fault.KILL_AFTER: 0.03}

PROFILES = {
    "safety": Weather(
        aws=_all(0.015),
        services=_SERVICES,
        duplicate=0.05,
        undelete=0.05,
        delay=0.05,
        lag=0.1,
        skew_ms=3_000,
    ),
    "hard": Weather(
        aws=_all(0.04),
        services={f: 2 * p for f, p in _SERVICES.items()},
        duplicate=0.2,
        undelete=0.2,
        delay=0.2,
        lag=0.3,
        skew_ms=40_000,
    ),
    # Everything else must carry the saga: the sweeper hides mistakes. Left out is what only it
    # covers: a send of the API's or the starter's that comes to nothing while they live on. They
    # answer well all the same, so that nobody asks again. Where they die, the caller does.
    "no sweeper": Weather(
        aws=_all(0.02),
        services=_SERVICES,
        spared=frozenset({("api", "send"), ("starter", "send")}),
        duplicate=0.1,
        undelete=0.1,
        delay=0.05,
        skew_ms=3_000,
        sweeper=False,
        waits=False,
    ),
    "no messages": Weather(aws=_CRASHES, services=_CRASHES, lose=1.0, lag=0.1),
    "outage": Weather(
        aws={Fault.THROTTLE: 0.3, Fault.NOT_DONE: 0.2},
        services={Fault.KILL_AFTER: 0.2},
        hit=frozenset({"worker", "dead_letters"}),
        sweeper=False,
        waits=False,
        swarm=False,
    ),
    "storm": Weather(
        aws={Fault.KILL_AFTER: 0.02, Fault.REPEAT: 0.05}, duplicate=0.4, undelete=0.4, delay=0.2
    ),
    "ambiguous": Weather(
        aws={Fault.LOSE_ANSWER: 0.08, Fault.REPEAT: 0.08}, people=False, swarm=False, waits=False
    ),
    "one crash": Weather(
        aws={Fault.KILL_BEFORE: 0.06, Fault.KILL_AFTER: 0.06},
        services={Fault.KILL_BEFORE: 0.06, Fault.KILL_AFTER: 0.06},
        hit=frozenset({"worker"}),
        limit=1,
        sweeper=False,
        people=False,
        swarm=False,
        waits=False,
    ),
    "fault-free": Weather(people=False, swarm=False, waits=False),
}
FLOW = "flow "  # the same weather, for sagas with groups, pivots and approvals
FLOWS = ("safety", "hard", "no sweeper", "no messages", "storm", "ambiguous", "fault-free")


class Dice:
    """Where a run takes its turns and its faults from: a seed.

    Turns and faults are drawn apart, and every fault that happens has a number:
    a run can be repeated with some of its faults left out.

    Args:
        seed: Of the run.
        only: The numbers of the faults that may happen; None: all.

    Attributes:
        drawn: What happened, with its number.
    """

    def __init__(self, seed: int, only: frozenset[int] | None = None) -> None:
        self._turns = Random(f"turns {seed}")
        self._luck = Random(f"luck {seed}")
        self._only = only
        self._draws = 0
        self.drawn: list[tuple[int, str]] = []

    def pick(self, count: int) -> int:
        """One of so many."""
        return int(self._turns.random() * count)

    def chance(self, chance: float) -> bool:
        """Something that is no fault."""
        return self._turns.random() < chance

    def happens(self, chance: float, what: str) -> bool:
        """Something that is one."""
        self._draws += 1
        hit = self._luck.random() < chance
        if hit and (self._only is None or self._draws in self._only):
            self.drawn.append((self._draws, what))
            return True
        return False
