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
        " or found.version != before.version:\n            return Refused(found)\n        self._check_size",
        ":\n            return Refused(found)\n        self._check_size",
        ("S6", "S9", "S5"),
        "safety",
        2_000,
    ),
    Bug(
        "a commit that asks for nothing",
        "memory.py",
        " or held_by(found, claim_id) is None or found.version != before.version:",
        ":",
        ("S6", "S7", "S4"),
        "safety",
        2_000,
    ),
    Bug(
        "a cancel that the claim does not look at",
        "transition.py",
        "    if forward and i.cancel is not None:\n        return Withhold.CANCELLED\n",
        "",
        ("S9",),
        "fault-free",
    ),
    Bug(
        "an own claim that is not recognised",
        "transition.py",
        "    if lane is not None and lane.lease is not None and lane.lease.id == claim_id:\n        return Reason.OWN_CLAIM\n",
        "",
        ("E2",),
        "ambiguous",
    ),
    Bug(
        "an own commit that is not recognised",
        "turn.py",
        "if found is not None and settled_by(found, delivery.id):",
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
        "case Reason.STALE_UNCLAIMED:\n            return (yield from _redispatch(found, branch, delivery.id, delivery.at, spread))",
        "case Reason.STALE_UNCLAIMED:\n            return _done(Verdict.STALE, found)",
        ("L1",),
        "no sweeper",
    ),
    Bug(
        "a fenced worker that always acknowledges",
        "transition.py",
        "    return moved and _stale(i, lane.number) is Reason.STALE_CLAIMED",
        "    return moved",
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
        "    return lane.nudge is not None and lane.nudge.at > now - NUDGE_MS",
        "    return False",
        ("S11",),
        "storm",
        2_000,
    ),
    Bug(
        "dead letters that are sent again blindly",
        "turn.py",
        "        case Reason.CLOSED | Reason.PARKED:\n            closed = _done(Verdict.CLOSED, found)\n            return (yield from _family_told(closed, found, delivery, definition_of))\n        case Reason.STALE_CLAIMED:\n            return _done(Verdict.STALE, found)\n        case Reason.STALE_UNCLAIMED | Reason.EARLY:",
        "        case _ if (yield from Send(found, 0, 'blind', found.open_lanes[0].number)):\n            return _done(Verdict.REVIVED, found)\n        case Reason.STALE_UNCLAIMED | Reason.EARLY:",
        ("L6", "S11"),
        "outage",
        2_000,
    ),
    Bug(
        "a resume that forgets that a step may have started",
        "transition.py",
        "                attempts=0,\n                reported=0,\n                due_at=at,\n                lease=None,",
        "                attempts=0,\n                reported=0,\n                tries=0,\n                clean=0,\n                due_at=at,\n                lease=None,",
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
        "    return _not_done(d, i, lane, e, doubt=lane.tries > lane.clean, final=e.fatal)",
        "    return _not_done(d, i, lane, e, doubt=False, final=e.fatal)",
        ("S3",),
        "safety",
        3_000,
    ),
    Bug(
        "a send before the commit",
        "turn.py",
        "        reply = yield from _write(Commit(before, moved, delivery.id), delivery.ends_at)",
        "        yield from Send(moved, 0, 'step', moved.open_lanes[0].number)\n        reply = yield from _write(Commit(before, moved, delivery.id), delivery.ends_at)",
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
        "    return _scheduled(replace(i, stalls=0, sweeps=0, updated_at=at), at)",
        "    return _scheduled(replace(i, expires_at=at, stalls=0, sweeps=0, updated_at=at), at)",
        ("S12", "S4", "L6"),
        "fault-free",
    ),
    Bug(
        "an attempt that is settled without being counted",
        "transition.py",
        "        tries=lane.tries + 1,\n",
        "        tries=lane.tries,\n",
        ("S3", "S1", "E1", "L1", "S2"),
        "safety",
        3_000,
    ),
    Bug(
        "a key that is made anew for each attempt",
        "turn.py",
        "        idempotency_key=derive_key(i.id, i.incarnation, action.step, direction),",
        "        idempotency_key=derive_key(i.id, f'{i.incarnation}{action.attempt}', action.step, direction),",
        ("S1", "S3"),
        "safety",
    ),
    Bug(
        "a commit that nobody announces",
        "turn.py",
        '    if not (yield from _send(after, to_announce(before, after), event.at, "step")):\n',
        "    if False:\n",
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
        "    return replace(i, sweep_at=min(_sweep_of(lane, at) for lane in i.open_lanes))",
        "    return replace(i, sweep_at=None)",
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
        "    if lane is None or epoch != lane.epoch or definition != i.definition:\n        return _stale(i, branch)\n",
        "    if lane is None:\n        return _stale(i, branch)\n",
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
        "    i = _unparked(i, at)\n    if i.phase is Direction.FORWARD:\n        for lane",
        "    i = replace(_unparked(i, at), phase=Direction.FORWARD)\n    if i.phase is Direction.FORWARD:\n        for lane",
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
        "    if lane.attempts - in_hand - lane.reported >= _policy(d, i, lane).max_lost:\n        return Withhold.LOST\n",
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
        "    if lane.tries > lane.clean:\n        error = i.steps[lane.index].error\n        return _recorded(i, lane, StepCode.UNKNOWN, at, doubt=True, error=error)\n",
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
        "    if direction not in (i.direction(lane), None):\n        raise IllegalEventError(",
        "    if direction is Withhold:\n        raise IllegalEventError(",
        ("core",),
        "every-state",
    ),
    # -- pivots, groups, conditions, answers ----------------------------------------
    Bug(
        "a cancel that looks at no pivot",
        "transition.py",
        "    if any(_no_return(d, i, n, 0) for n in i.open_lanes):\n        return Ignored(Reason.PAST_PIVOT)\n",
        "",
        ("S14",),
        "flow fault-free",
        2_000,
    ),
    Bug(
        "a deadline that looks at no pivot",
        "transition.py",
        "    if forward and now >= i.deadline_at and not _no_return(d, i, lane, in_hand):",
        "    if forward and now >= i.deadline_at:",
        ("S14",),
        "flow no messages",
        6_000,
    ),
    Bug(
        "a step past the pivot that rolls back",
        "transition.py",
        "    if _past_pivot(d, i) or (at_pivot and not d.steps[lane.index].compensatable):\n        return _park(i, why, error)\n",
        "",
        ("S14",),
        "flow hard",
        6_000,
    ),
    Bug(
        "undos in the order in which the steps were settled",
        "transition.py",
        "        order = lane.order if lane.branch else _next_order(i)\n",
        "        order = _next_order(i)\n",
        ("S8",),
        "flow safety",
        3_000,
    ),
    Bug(
        "a branch that is tried again when its group has failed",
        "transition.py",
        "    if forward and i.phase is Direction.COMPENSATION:\n        return Withhold.ROLLING_BACK\n",
        "",
        ("S9",),
        "flow safety",
        6_000,
    ),
    Bug(
        "a roll-back that does not wait for the branches in flight",
        "transition.py",
        "    if i.branches:\n        return i\n    return _go_back(d, _joined(d, i) if in_a_group else i, at)",
        "    return _go_back(d, replace(_joined(d, i), branches=()) if in_a_group else i, at)",
        ("S3", "S15", "S8"),
        "flow safety",
        6_000,
    ),
    Bug(
        "a re-dispatch that announces one branch of a group",
        "turn.py",
        "    unclaimed = tuple(n for n in lanes if n.lease is None)\n",
        "    unclaimed = tuple(n for n in lanes if n.lease is None)[:1]\n",
        ("L1",),
        "flow no sweeper",
        6_000,
    ),
    Bug(
        "a group that is opened and announced in part",
        "transition.py",
        "    return tuple(n for n in after.open_lanes if _is_news(before, n))",
        "    return tuple(n for n in after.open_lanes if _is_news(before, n))[:1]",
        ("L1",),
        "flow no sweeper",
    ),
    Bug(
        "a message of the last branch that is acknowledged as one of the others'",
        "transition.py",
        "    elif branch is not None and i.branches and branch >= i.lane.index:\n        claimed = True\n",
        "    elif branch is not None:\n        claimed = True\n",
        ("L1",),
        "flow no sweeper",
        6_000,
    ),
    Bug(
        "a message of the group before that is taken for one of this group",
        "transition.py",
        "    elif branch is not None and i.branches and branch >= i.lane.index:\n        claimed = True\n",
        "    elif branch is not None and i.branches:\n        claimed = True\n",
        ("L1",),
        "flow no sweeper",
        6_000,
    ),
    Bug(
        "a join that loses the results",
        "transition.py",
        "            text = Delta.from_text(result).applied(text)\n",
        "            pass\n",
        ("S19",),
        "flow fault-free",
    ),
    Bug(
        "two writers of one field that nobody notices",
        "transition.py",
        "        if both:\n",
        "        if both is None:\n",
        ("S19",),
        "flow fault-free",
        3_000,
    ),
    Bug(
        "a silence that is taken for a no",
        "transition.py",
        "    doubt = StepInDoubt(claim_id=e.claim_id, error=error, final=False, jitter=_FULL, at=e.at)\n    return _step_in_doubt(d, _put(i, lane), lane, doubt)",
        "    doubt = StepFailed(claim_id=e.claim_id, error=error, fatal=False, jitter=_FULL, at=e.at)\n    return _step_failed(d, _put(i, lane), lane, doubt)",
        ("S3",),
        "flow safety",
        6_000,
    ),
    Bug(
        "a refusal that is certain although it may be an earlier one again",
        "transition.py",
        "    if lane.clean:  # it may be the refusal",
        "    if lane.clean < 0:  # it may be the refusal",
        ("S3", "S15"),
        "flow storm",
        12_000,
    ),
    Bug(
        "a late answer that completes its step",
        "transition.py",
        "        return Moved(replace(_with_step(i, index, answer=late), updated_at=e.at))",
        "        return Moved(replace(_with_step(i, index, answer=late, code=StepCode.DONE), updated_at=e.at))",
        ("S3", "S8", "S4", "S1"),
        "flow safety",
        6_000,
    ),
    Bug(
        "an undo of a step that was not wanted",
        "transition.py",
        "            if s.code in (StepCode.DONE, StepCode.UNKNOWN) and d.step(s.name).compensatable",
        "            if s.code in (StepCode.DONE, StepCode.UNKNOWN, StepCode.SKIPPED) and d.step(s.name).compensatable",
        ("S8", "S17"),
        "flow fault-free",
    ),
    Bug(
        "a wait that ends the attempt as if it were lost",
        "transition.py",
        "    lane = replace(_uncounted(lane), wait_ms=e.timeout_ms)\n",
        "    lane = replace(lane, wait_ms=e.timeout_ms)\n",
        ("L1", "E2", "S13", "L4"),
        "flow fault-free",
        3_000,
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
