"""The deployed functions under random faults, over the models; each run judged by its world."""

from __future__ import annotations

import secrets
import threading

import pytest

from tests.simulation.runs import EVERY_PROFILE, run, shrunk, told, totals

FIXED = 40  # seeds of each profile that always run
FRESH = 5  # and such as nobody has run before

# A set of runs is only good if these were reached: states that a mistake would hide in.
EVERYWHERE = {"worker committed", "ended COMPLETED", "ended COMPENSATED", "start 202", "listed"}
PEOPLE = {"cancel 202", "cancel 409", "resume 202", "start 200", "start 422", "start 404"}
ZOMBIES = {"went on after its end", "taken over", "worker fenced", "late act refused"}
MESSAGES = {"worker redispatched", "worker stale", "worker closed", "worker early"}
RARE = {
    "safety": PEOPLE
    | ZOMBIES
    | MESSAGES
    | {
        "own write recognised",
        "worker suppressed",
        "nothing to undo",
        "key seen before",
        "sweeper sent",
        "sweeper not_due",
        "sweeper send_failed",
        "start 404",
    },
    "hard": PEOPLE
    | ZOMBIES
    | MESSAGES
    | {
        "worker lease_conflict",
        "worker suppressed",
        "worker send_failed",
        "worker definition_missing",
        "delivered again",
        "dead_letters closed",
        "dead_letters redispatched",
        "dead_letters revived",
        "start 502",
        "start 503",
        "cancel 502",
        "cancel 503",
        "starter existed",
    },
    "no sweeper": PEOPLE
    | ZOMBIES
    | MESSAGES
    | {"worker lease_conflict", "dead_letters revived", "worker store_unavailable"},
    "no messages": PEOPLE
    | {"dead_letters stalled", "sweeper sent", "sweeper not_due", "starter refused"},
    "outage": {
        "worker store_unavailable",
        "worker send_failed",
        "dead_letters store_unavailable",
        "dead_letters redispatched",
        "redriven",
        "decided again",
    },
    "storm": {"delivered again", "worker suppressed", "worker lease_conflict", "worker closed"},
    "ambiguous": {"own write recognised", "worker lease_conflict", "worker redispatched"},
    "one crash": {"taken over", "worker redispatched", "nothing to undo", "key seen before"},
    "fault-free": set(),
    "flow safety": PEOPLE - {"start 404"} | {"answer 202", "answer 409", "withdrawn", "long timer"},
    "flow hard": ZOMBIES | {"answer 202", "answer 409", "answer 503", "withdrawn"},
    "flow no sweeper": {"answer 202", "dead_letters revived"},
    "flow no messages": {"answer 202", "sweeper sent", "long timer"},
    "flow storm": {"answer 202", "delivered again", "worker suppressed", "worker stale"},
    "flow ambiguous": {"answer 202", "own write recognised"},
    "flow fault-free": {"answer 202", "answer 409"},
}


@pytest.mark.parametrize("profile", EVERY_PROFILE)
def test_no_schedule_breaks_an_invariant_and_the_rare_states_are_reached(profile: str) -> None:
    outcomes = [run(seed, profile) for seed in range(FIXED)]
    fresh = secrets.randbelow(1 << 40)
    more = [run(seed, profile) for seed in range(fresh, fresh + FRESH)]
    broken = [o for o in (*outcomes, *more) if o.broken is not None]
    assert not broken, told(broken[0])
    reached = {name for name, times in totals(outcomes).items() if times}
    assert reached >= EVERYWHERE | RARE[profile]


def test_a_seed_makes_the_same_run_again() -> None:
    first, second = run(11, "hard"), run(11, "hard")
    assert first.trace == second.trace
    assert first.drawn == second.drawn


def test_a_run_can_be_repeated_without_some_of_its_faults() -> None:
    whole = run(11, "hard")
    fewer = run(11, "hard", frozenset({whole.drawn[0][0]}))
    assert len(whole.drawn) > 1
    assert [what for _, what in fewer.drawn] == [whole.drawn[0][1]]


def test_a_run_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    for seed in range(5):
        run(seed, "hard")
    for thread in threading.enumerate()[before:]:
        thread.join(1)
    assert threading.active_count() <= before


def test_a_run_that_breaks_nothing_is_not_shrunk() -> None:
    outcome = run(0, "fault-free")
    assert shrunk(outcome) is outcome
