# ruff: noqa: E501 - lines of the code under test, as they stand there
"""Rules of the protocol, broken one at a time, to see that an invariant says so.

Each is a line of the real code with another in its place. The patched package is
written to a folder of its own and run there, in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Bug:
    """One line changed, and the invariants that may find it."""

    name: str
    module: str
    right: str
    wrong: str
    found_by: tuple[str, ...]
    profile: str
    seeds: int = 600


BUGS = (
    Bug(
        "a participant without tombstones",
        "testing/world.py",
        "if self.tombstones and spot in self._undone:",
        "if False:",
        ("S15", "S3"),
        "safety",
        3_000,
    ),
    Bug(
        "a commit that ignores the version",
        "memory.py",
        " or found.version != before.version\n        ):\n            return Refused(found)\n        self._check_size",
        "\n        ):\n            return Refused(found)\n        self._check_size",
        ("S6", "S9", "S5"),
        "safety",
        2_000,
    ),
    Bug(
        "a commit that asks for nothing",
        "memory.py",
        "or lease is None\n            or lease.id != claim_id\n            or found.version != before.version",
        "",
        ("S6", "S7", "S4"),
        "safety",
        2_000,
    ),
    Bug(
        "a cancel that the claim does not look at",
        "transition.py",
        "if i.phase is Direction.FORWARD and i.cancel is not None:\n        return Withhold.CANCELLED",
        "",
        ("S9",),
        "fault-free",
    ),
    Bug(
        "an own claim that is not recognised",
        "transition.py",
        "if lane.lease is not None and lane.lease.id == claim_id:\n        return Reason.OWN_CLAIM",
        "",
        ("E2",),
        "ambiguous",
    ),
    Bug(
        "an own commit that is not recognised",
        "turn.py",
        "if found is not None and found.lane.last_id == delivery.id:",
        "if found is None:",
        ("E2",),
        "ambiguous",
    ),
    Bug(
        "a lease conflict that is acknowledged",
        "turn.py",
        "return _keep(Verdict.LEASE_CONFLICT, found)",
        "return _done(Verdict.LEASE_CONFLICT, found)",
        ("L1",),
        "no sweeper",
    ),
    Bug(
        "an early message that is dropped",
        "turn.py",
        "return _keep(Verdict.EARLY, found)",
        "return _done(Verdict.EARLY, found)",
        ("L1",),
        "no sweeper",
    ),
    Bug(
        "a stale message that is only acknowledged",
        "turn.py",
        "case Reason.STALE_UNCLAIMED:\n            return (yield from _redispatch(found, delivery.id, delivery.at, spread))",
        "case Reason.STALE_UNCLAIMED:\n            return _done(Verdict.STALE, found)",
        ("L1",),
        "no sweeper",
    ),
    Bug(
        "a fenced worker that always acknowledges",
        "turn.py",
        "or (found.lane.epoch != epoch and found.lane.lease is not None)",
        "or found.lane.epoch != epoch",
        ("L1",),
        "no sweeper",
        3_000,
    ),
    Bug(
        "a loser of the guard that acknowledges",
        "turn.py",
        "yield from Postpone(SUPPRESSED_MS + spread)\n        return _keep(Verdict.SUPPRESSED, found)",
        "return _done(Verdict.SUPPRESSED, found)",
        ("L1",),
        "no sweeper",
        6_000,
    ),
    Bug(
        "a surplus message without a guard",
        "transition.py",
        "return i.lane.nudge is not None and i.lane.nudge.at > now - NUDGE_MS",
        "return False",
        ("S11",),
        "storm",
        2_000,
    ),
    Bug(
        "dead letters that are sent again blindly",
        "turn.py",
        "case Reason.CLOSED | Reason.PARKED:\n            return _done(Verdict.CLOSED, found)\n        case Reason.STALE_CLAIMED:\n            return _done(Verdict.STALE, found)\n        case Reason.STALE_UNCLAIMED | Reason.EARLY:",
        "case _ if (yield from Send(found, 0, 'blind')):\n            return _done(Verdict.REVIVED, found)\n        case Reason.STALE_UNCLAIMED | Reason.EARLY:",
        ("L6", "S11"),
        "outage",
        2_000,
    ),
    Bug(
        "a resume that forgets that a step may have started",
        "transition.py",
        "        attempts=0,\n        reported=0,\n        due_at=at,\n        lease=None,",
        "        attempts=0,\n        reported=0,\n        tries=0,\n        clean=0,\n        due_at=at,\n        lease=None,",
        ("S3",),
        "outage",
        6_000,
    ),
    Bug(
        "a step in doubt that is not undone",
        "transition.py",
        "if s.code in (StepCode.DONE, StepCode.UNKNOWN) and d.step(s.name).compensatable",
        "if s.code is StepCode.DONE and d.step(s.name).compensatable",
        ("S3", "S8"),
        "safety",
    ),
    Bug(
        "doubt that a clean failure clears",
        "transition.py",
        "    doubt = lane.tries > lane.clean\n    spent = e.fatal",
        "    doubt = False\n    spent = e.fatal",
        ("S3",),
        "safety",
        3_000,
    ),
    Bug(
        "a send before the commit",
        "turn.py",
        "        reply = yield from _write(Commit(before, outcome.instance, delivery.id), delivery.ends_at)",
        "        yield from Send(outcome.instance, 0, 'step')\n        reply = yield from _write(Commit(before, outcome.instance, delivery.id), delivery.ends_at)",
        ("S11", "E1"),
        "fault-free",
    ),
    Bug(
        "undos from the oldest step on",
        "transition.py",
        "key=lambda n: i.steps[n].order or 0,",
        "key=lambda n: -(i.steps[n].order or 0),",
        ("S8",),
        "fault-free",
    ),
    Bug(
        "a retention that ends while the saga is open",
        "transition.py",
        "    return _scheduled(replace(i, lane=lane, stalls=0, sweeps=0, updated_at=at), at)",
        "    return _scheduled(replace(i, lane=lane, expires_at=at, stalls=0, sweeps=0, updated_at=at), at)",
        ("S12", "S4", "L6"),
        "fault-free",
    ),
    Bug(
        "an attempt that is settled without being counted",
        "transition.py",
        "        tries=i.lane.tries + 1,\n",
        "        tries=i.lane.tries,\n",
        ("S3", "S1", "E1", "L1", "S2"),
        "safety",
        3_000,
    ),
    Bug(
        "a key that is made anew for each attempt",
        "turn.py",
        "        idempotency_key=derive_key(i.id, i.incarnation, action.step, i.phase),",
        "        idempotency_key=derive_key(i.id, f'{i.incarnation}{action.attempt}', action.step, i.phase),",
        ("S1", "S3"),
        "safety",
    ),
    Bug(
        "a commit that nobody announces",
        "turn.py",
        'if delay is not None and not (yield from Send(after, delay, "step")):',
        "if delay is not None and delay < 0:",
        ("L1",),
        "no sweeper",
    ),
    Bug(
        "a send that failed and is acknowledged",
        "turn.py",
        "return replace(result, verdict=Verdict.SEND_FAILED, acknowledge=False)",
        "return result",
        ("L1",),
        "no sweeper",
    ),
    Bug(
        "a dead letter acknowledged before anything came of it",
        "turn.py",
        "    if isinstance(found, Unavailable):\n        return _keep(Verdict.STORE_UNAVAILABLE)\n    if found is None:\n        return _done(Verdict.ORPHAN)\n    error",
        "    if isinstance(found, Unavailable) or found is None:\n        return _done(Verdict.ORPHAN)\n    error",
        ("L1",),
        "outage",
    ),
    Bug(
        "no time to look again between two steps",
        "transition.py",
        "return replace(i, sweep_at=_bucket(due + GRACE_MS))",
        "return replace(i, sweep_at=None)",
        ("S12",),
        "fault-free",
    ),
    Bug(
        "a claim that takes a held lease",
        "transition.py",
        "    if lane.lease is not None and lane.lease.until >= now:\n        return Reason.LEASED\n",
        "",
        ("S7", "S1", "S6"),
        "safety",
        2_000,
    ),
    Bug(
        "a claim of any work item",
        "transition.py",
        "    if epoch != lane.epoch or definition != i.definition:\n        return Reason.STALE_UNCLAIMED if lane.lease is None else Reason.STALE_CLAIMED\n    if lane.lease is not None and",
        "    if lane.lease is not None and",
        ("S11", "E1", "E2", "L1", "L6", "S13"),
        "no sweeper",
        6_000,
    ),
    Bug(
        "an end that a cancel can undo",
        "transition.py",
        "    if i.status in CLOSED:\n        return Ignored(Reason.CLOSED)\n    if i.phase is Direction.COMPENSATION:\n        return Ignored(Reason.ROLLING_BACK if",
        "    if i.phase is Direction.COMPENSATION:\n        return Ignored(Reason.ROLLING_BACK if",
        ("S4",),
        "fault-free",
    ),
    Bug(
        "a resume that goes forward whatever was undone",
        "transition.py",
        "    i = _unparked(i, at)\n    if i.phase is Direction.FORWARD:\n        i = replace(i, deadline_at",
        "    i = replace(_unparked(i, at), phase=Direction.FORWARD)\n    if i.phase is Direction.FORWARD:\n        i = replace(i, deadline_at",
        ("S3",),
        "fault-free",
    ),
    Bug(
        "a spent undo that nobody hears of",
        "transition.py",
        "    if spent:\n        return _park(i, Why.COMPENSATION_FAILED, spent[-1].error)\n",
        "",
        ("S3",),
        "fault-free",
    ),
    Bug(
        "attempts that vanish without end",
        "transition.py",
        "    if i.lane.attempts - in_hand - i.lane.reported >= _policy(d, i).max_lost:\n        return Withhold.LOST\n",
        "",
        ("S13",),
        "hard",
    ),
    Bug(
        "a start that overwrites",
        "memory.py",
        "        if found is not None:\n            return Refused(found)\n        self._check_size(None",
        "        self._check_size(None",
        ("S10",),
        "neighbours",
    ),
    Bug(
        "a key that stands for any input",
        "turn.py",
        "if found.input_fingerprint != new.input_fingerprint:",
        "if False:",
        ("S10",),
        "neighbours",
    ),
    Bug(
        "a cancel that forgets the attempt before it",
        "transition.py",
        "    doubt = i.lane.tries > i.lane.clean\n    if doubt:\n        return _recorded(i, StepCode.UNKNOWN, at, doubt=True, error=_current(i).error)\n",
        "",
        ("S3",),
        "safety",
        6_000,
    ),
    Bug(
        "an undo of what never started",
        "transition.py",
        "if s.code in (StepCode.DONE, StepCode.UNKNOWN) and d.step(s.name).compensatable",
        "if s.code not in (StepCode.COMPENSATED, StepCode.COMPENSATION_FAILED, StepCode.SKIPPED) and d.step(s.name).compensatable",
        ("S8",),
        "fault-free",
    ),
    Bug(
        "a roll-back that is recorded too late",
        "transition.py",
        "    i = replace(i, status=SagaState.COMPENSATING)\n    target",
        "    target",
        ("S3",),
        "fault-free",
    ),
    Bug(
        "an answer that is matched without its direction",
        "transition.py",
        "    if direction is not i.phase:\n        raise IllegalEventError(",
        "    if direction is None:\n        raise IllegalEventError(",
        ("core",),
        "every-state",
    ),
)


def patched(bug: Bug, folder: Path) -> None:
    """The package with the bug in it.

    Raises:
        LookupError: The line is not there any more: the bug must be planted anew.
    """
    shutil.copytree(ROOT / "saga_core", folder / "saga_core")
    shutil.copytree(Path(__file__).parent, folder / "tests" / "schedules")
    module = folder / "saga_core" / bug.module
    text = module.read_text()
    if text.count(bug.right) != 1:
        raise LookupError(f"{bug.name}: {text.count(bug.right)} places in {bug.module}")
    module.write_text(text.replace(bug.right, bug.wrong))


def hunt(bug: Bug, folder: Path) -> str:
    """Run schedules until an invariant breaks; its line, or what was run in vain."""
    patched(bug, folder)
    done = subprocess.run(
        [sys.executable, "-m", "tests.schedules.hunt", bug.profile, str(bug.seeds)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr[-2000:]).strip()
