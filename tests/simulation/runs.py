"""One schedule from its seed; what it broke, if anything, with as few faults as still break it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from saga_core.testing.simulation import BrokenInvariantError
from tests.simulation.constructs import Constructs
from tests.simulation.troubles import Troubles
from tests.simulation.weather import FLOW, FLOWS, PROFILES

EVERY_PROFILE = (*PROFILES, *(FLOW + profile for profile in FLOWS))


@dataclass(slots=True)
class Outcome:
    """A run, and the invariant that it broke, if any."""

    seed: int
    profile: str
    broken: BrokenInvariantError | None
    seen: Counter[str]
    trace: list[str]
    drawn: list[tuple[int, str]]


def run(seed: int, profile: str, only: frozenset[int] | None = None) -> Outcome:
    """One schedule, to its end; ``only`` keeps these of the faults that the seed draws."""
    troubles = (Constructs if profile.startswith(FLOW) else Troubles)(seed, profile, only)
    broken = None
    try:
        troubles.play()
    except BrokenInvariantError as exc:
        broken = exc
    finally:
        troubles.cloud.close()
    cloud = troubles.cloud
    return Outcome(seed, profile, broken, cloud.seen, cloud.trace, cloud.dice.drawn)


def shrunk(outcome: Outcome) -> Outcome:
    """The same run with as few of its faults as still break the same invariant."""
    if outcome.broken is None:
        return outcome
    best, before = outcome, -1
    while len(best.drawn) != before:  # what one left out may let another be left out
        before = len(best.drawn)
        for number, _ in best.drawn:
            fewer = frozenset(n for n, _ in best.drawn) - {number}
            again = run(outcome.seed, outcome.profile, fewer)
            if again.broken is not None and again.broken.name == outcome.broken.name:
                best = again
    return best


def told(outcome: Outcome) -> str:
    """A broken run for people: what broke, how to see it again, and every call."""
    small = shrunk(outcome)
    faults = [f"  {what}" for _, what in small.drawn]
    only = sorted(n for n, _ in small.drawn)
    head = [
        f"{small.broken}",
        f"seed {outcome.seed}, profile {outcome.profile!r}; again:",
        f"  run({outcome.seed}, {outcome.profile!r}, frozenset({only}))",
        f"the {len(faults)} faults left of {len(outcome.drawn)}:",
    ]
    return "\n".join([*head, *faults, *small.trace])


def totals(outcomes: list[Outcome]) -> Counter[str]:
    """How often each thing was seen."""
    seen: Counter[str] = Counter()
    for outcome in outcomes:
        seen += outcome.seen
    return seen
