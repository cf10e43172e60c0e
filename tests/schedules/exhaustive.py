"""Every reachable state of the pure core, for small definitions, with the world beside it.

Breadth first over what can happen: an attempt that does or does not take effect
and then reports success, a known failure, a doubt, or nothing at all (a crash);
a request that lands later; cancel, deadline, dead letters, take-over, resume
and skip. Times and ids are left out of a state's identity, so that there are
finitely many. The participants are the ones of the contract: idempotent, with
tombstones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from typing import TypeAlias

from saga_core import RetryPolicy, SagaDefinition, StepDefinition
from saga_core.actions import Compensate, Execute, Rest, Settle
from saga_core.calls import Direction
from saga_core.definition import Handler, OnCompensationFailure
from saga_core.errors import IllegalEventError
from saga_core.events import (
    CancelRequested,
    Claimed,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    ResumeRequested,
    SkipRequested,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    TakenOver,
    Withheld,
)
from saga_core.instance import CLOSED, SagaInstance, SagaState, StepCode
from saga_core.outcome import StepError
from saga_core.transition import MAX_STALLS, Ignored, Moved, apply, create, next_actions

T0 = 1_000_000
MAX_LOST = 2
DEADLINE = T0 + 300_000
ERROR = StepError("E", "")
Marks: TypeAlias = tuple[bool, ...]


def nothing(_ctx: object) -> None:
    """A handler; the exploration plays the participants itself."""


def definitions(most_steps: int) -> Iterator[SagaDefinition]:
    """Every definition up to so many steps: what can be undone, and what a spent undo means."""
    policy = RetryPolicy(max_attempts=2, max_lost=MAX_LOST, base=timedelta(0), cap=timedelta(0))
    policies: tuple[OnCompensationFailure, ...] = ("halt", "continue")
    for count in range(1, most_steps + 1):
        for undoable in product((True, False), repeat=count):
            for on_failure in policies:
                yield SagaDefinition(
                    name="explored",
                    on_compensation_failure=on_failure,
                    steps=tuple(
                        StepDefinition(
                            name=f"s{n}",
                            execute=Handler.of(nothing),
                            compensate=Handler.of(nothing) if can else None,
                            compensatable=can,
                            retry=policy,
                            compensation_retry=policy,
                        )
                        for n, can in enumerate(undoable)
                    ),
                )


@dataclass(frozen=True, slots=True)
class Node:
    """A saga, and what is true outside. The tuples have one mark for each step.

    Attributes:
        acted: The effect happened; ``undone``: it was taken back.
        stone: A tombstone stands: no effect any more.
        pending: A request is still under way.
        called: A start of the step is on record.
        vouched: A person took care of the step.
        late: The deadline has passed.
    """

    saga: SagaInstance
    acted: Marks
    undone: Marks
    stone: Marks
    pending: Marks
    called: Marks
    vouched: Marks
    late: bool = False

    @property
    def now(self) -> int:
        return DEADLINE if self.late else T0

    def key(self) -> object:
        """The node without times, ids and counts that nothing depends on."""
        s, lane = self.saga, self.saga.lane
        return (
            s.status,
            s.phase,
            s.why,
            lane.index,
            min(lane.attempts, lane.reported + MAX_LOST + 2),  # beyond it nothing is called
            lane.reported,
            min(lane.tries - lane.clean, 2),
            min(lane.clean, 2),
            lane.lease is not None,
            s.cancel is not None,
            s.stalls > 0,
            tuple((r.code, r.order, r.doubt) for r in s.steps),
            self.acted,
            self.undone,
            self.stone,
            self.pending,
            self.called,
            self.vouched,
            self.late,
        )


def root(d: SagaDefinition) -> Node:
    saga = create(
        d,
        saga_id="s",
        tenant="t",
        incarnation="0",
        input_fingerprint="f",
        context="{}",
        at=T0,
    )
    no = (False,) * len(d.steps)
    return Node(saga, no, no, no, no, no, no)


class ContradictionError(AssertionError):
    """A reachable state that must not be."""


def explore(d: SagaDefinition) -> tuple[int, int]:
    """Visit everything; the numbers of states and of transitions."""
    first = root(d)
    seen = {first.key()}
    todo = deque([first])
    moves = 0
    while todo:
        node = todo.popleft()
        check(d, node)
        for following in successors(d, node):
            moves += 1
            key = following.key()
            if key not in seen:
                seen.add(key)
                todo.append(following)
    return len(seen), moves


def successors(d: SagaDefinition, n: Node) -> Iterator[Node]:
    at = n.now
    yield from _moved(d, n, CancelRequested(by="x", at=at))
    if not n.late and n.saga.live:
        yield replace(n, late=True)
    for step in range(len(d.steps)):
        if n.pending[step]:
            yield _lands(n, step)
    if n.saga.status is SagaState.FAILED:
        for following in _moved(d, n, ResumeRequested(by="x", at=at)):
            yield replace(following, late=False)
        yield from _skipped(d, n, at)
    if n.saga.live:
        exhausted = DeliveryExhausted(
            epoch=n.saga.lane.epoch, definition=d.ref, nudge_id="n", error=ERROR, at=at + 10**9
        )
        # The visits between the first and the last differ by a count only: left out.
        stalls = MAX_STALLS - 1 if n.saga.stalls else 0
        nearly = replace(n, saga=replace(n.saga, stalls=stalls))
        for following in _moved(d, nearly, exhausted):
            lane = replace(following.saga.lane, nudge=None)
            yield replace(following, saga=replace(following.saga, lane=lane))
        yield from _moved(d, n, TakenOver(at=at))
        yield from _attempts(d, n)


def _attempts(d: SagaDefinition, n: Node) -> Iterator[Node]:
    """One claim and everything that can become of it. Leases run out at once."""
    claim = Claimed(
        claim_id="c", epoch=n.saga.lane.epoch, definition=d.ref, until=n.now - 1, at=n.now
    )
    before = n.saga
    if before.lane.lease is not None:  # the one before is dead; its id must not pass for ours
        lease = replace(before.lane.lease, id="dead", until=n.now - 1)
        before = replace(before, lane=replace(before.lane, lease=lease))
    (claimed,) = _moved(d, replace(n, saga=before), claim)
    # It crashed before it did anything. What is recorded is a start, and nobody can tell.
    forward = n.saga.phase is Direction.FORWARD
    here = n.saga.lane.index
    yield replace(claimed, called=_set(claimed.called, here)) if forward else claimed
    (action,) = next_actions(d, claimed.saga, n.now)
    match action:
        case Settle(reason):
            yield from _moved(d, claimed, Withheld(claim_id="c", reason=reason, at=n.now))
        case Execute(step):
            yield from _executions(d, claimed, _place(d, step))
        case Compensate(step):
            yield from _undos(d, claimed, _place(d, step))
        case _:
            raise ContradictionError(f"a claimed saga has nothing to do: {action}")


def _executions(d: SagaDefinition, n: Node, step: int) -> Iterator[Node]:
    if n.saga.phase is not Direction.FORWARD:
        raise ContradictionError("a forward step after compensation began")
    n = replace(n, called=_set(n.called, step))
    at = n.now
    effective = n if n.stone[step] else replace(n, acted=_set(n.acted, step))
    if not n.stone[step]:  # the participant refuses what it has a tombstone for
        yield from _moved(d, effective, StepSucceeded(claim_id="c", context="{}", at=at))
    for fatal in (False, True):
        failed = StepFailed(claim_id="c", error=ERROR, fatal=fatal, jitter=0.0, at=at)
        yield from _moved(d, n, failed)
        doubt = StepInDoubt(claim_id="c", error=ERROR, final=fatal, jitter=0.0, at=at)
        for world in (n, effective, replace(n, pending=_set(n.pending, step))):
            yield from _moved(d, world, doubt)
    yield effective  # it crashed after the effect


def _undos(d: SagaDefinition, n: Node, step: int) -> Iterator[Node]:
    if not n.called[step]:
        raise ContradictionError(f"s{step} is undone and was never started")
    newer = [m for m in range(step + 1, len(d.steps)) if n.acted[m] and not n.undone[m]]
    passed_over = {StepCode.COMPENSATION_FAILED, StepCode.SKIPPED}
    for m in newer:
        if d.steps[m].compensatable and n.saga.steps[m].code not in passed_over:
            raise ContradictionError(f"s{step} is undone before s{m}")
    at = n.now
    undone = replace(n, stone=_set(n.stone, step))
    if n.acted[step]:
        undone = replace(undone, undone=_set(n.undone, step))
    yield from _moved(d, undone, CompensationSucceeded(claim_id="c", context=None, at=at))
    for fatal in (False, True):
        failed = CompensationFailed(claim_id="c", error=ERROR, fatal=fatal, jitter=0.0, at=at)
        for world in (n, undone):
            yield from _moved(d, world, failed)
    yield undone  # it crashed after the undo


def _skipped(d: SagaDefinition, n: Node, at: int) -> Iterator[Node]:
    for step, definition in enumerate(d.steps):
        skip = SkipRequested(step=definition.name, by="x", at=at)
        for following in _moved(d, n, skip):
            yield replace(following, vouched=_set(n.vouched, step), late=False)


def _moved(d: SagaDefinition, n: Node, event: Event) -> Iterator[Node]:
    outcome = apply(d, n.saga, event)
    if isinstance(outcome, Moved):
        after = outcome.instance
        if n.saga.status in CLOSED:
            raise ContradictionError(f"{n.saga.status} changed by {type(event).__name__}")
        if after.lane.epoch - n.saga.lane.epoch not in (0, 1):
            raise ContradictionError("the epoch leapt")
        yield replace(n, saga=_timeless(after))


def _timeless(saga: SagaInstance) -> SagaInstance:
    """The saga with its times set back: what is due stays due, what ran out stays run out."""
    lane = replace(saga.lane, due_at=T0)
    if lane.lease is not None:
        lane = replace(lane, lease=replace(lane.lease, until=T0 - 1))
    return replace(saga, lane=lane, deadline_at=DEADLINE)


def _lands(n: Node, step: int) -> Node:
    n = replace(n, pending=_set(n.pending, step, value=False))
    return n if n.stone[step] else replace(n, acted=_set(n.acted, step))


def check(d: SagaDefinition, n: Node) -> None:
    """What must be true in every reachable state."""
    saga = n.saga
    _late_answers_are_ignored(d, saga, n.now)
    mine = [m for m in range(len(d.steps)) if not n.vouched[m]]
    if saga.status is SagaState.COMPLETED and not all(n.acted[m] and not n.undone[m] for m in mine):
        raise ContradictionError(f"COMPLETED with {n}")
    if saga.status is SagaState.COMPENSATED:
        for m in mine:
            if d.steps[m].compensatable and n.acted[m] != n.undone[m]:
                raise ContradictionError(f"COMPENSATED and s{m} stands: {n}")
            if d.steps[m].compensatable and n.pending[m] and not (n.stone[m] or n.acted[m]):
                raise ContradictionError(f"COMPENSATED and s{m} may still land: {n}")
    if saga.status is SagaState.FAILED:
        for m in mine:
            if n.acted[m] and not n.undone[m] and d.steps[m].name not in saga.standing:
                raise ContradictionError(f"FAILED and does not say that s{m} stands: {n}")
    (action,) = next_actions(d, saga, n.now + 10**9)
    if saga.live == isinstance(action, Rest):
        raise ContradictionError(f"{saga.status} and next is {action}")
    if (saga.sweep_at is None) != (saga.status in CLOSED):
        raise ContradictionError(f"{saga.status} with sweep_at {saga.sweep_at}")


def _late_answers_are_ignored(d: SagaDefinition, saga: SagaInstance, at: int) -> None:
    late: tuple[Event, ...] = (
        StepSucceeded(claim_id="zombie", context="{}", at=at),
        CompensationSucceeded(claim_id="zombie", context=None, at=at),
        StepFailed(claim_id="zombie", error=ERROR, fatal=True, jitter=0.0, at=at),
    )
    for event in late:
        if not isinstance(apply(d, saga, event), Ignored):
            raise ContradictionError("a late answer was taken")
    if saga.lane.lease is not None:
        wrong_way: Event = CompensationSucceeded(claim_id=saga.lane.lease.id, context=None, at=at)
        if saga.phase is Direction.COMPENSATION:
            wrong_way = StepSucceeded(claim_id=saga.lane.lease.id, context="{}", at=at)
        try:
            apply(d, saga, wrong_way)
        except IllegalEventError:
            return
        raise ContradictionError("an answer of the other direction was taken")


def _place(d: SagaDefinition, name: str) -> int:
    return [s.name for s in d.steps].index(name)


def _set(marks: Marks, place: int, *, value: bool = True) -> Marks:
    return (*marks[:place], value, *marks[place + 1 :])
