"""Every reachable state of the pure core, for small definitions, with the world beside it.

Breadth first over what can happen: an attempt that does or does not take effect
and then reports success, a known failure, a doubt, a wait, or nothing at all (a
crash); one that reports while the rest of the world goes on, in any order; a
request that lands later; whoever was asked says yes, no, or the same again;
conditions that say yes, no, or break; cancel, deadline, dead letters, take-over,
resume and skip. Times and ids are left out of a state's identity, so that there
are finitely many. The participants are the ones of the contract: idempotent,
with tombstones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from typing import Any, TypeAlias

from saga_core import RetryPolicy, SagaDefinition, StepDefinition
from saga_core.actions import Compensate, Execute, Inquire, Rest, Settle
from saga_core.calls import Direction
from saga_core.definition import Handler, OnCompensationFailure
from saga_core.errors import IllegalEventError
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    Claimed,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    HeartbeatReceived,
    ResumeRequested,
    SkipRequested,
    StepAwaits,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    TakenOver,
    Withheld,
    Withhold,
)
from saga_core.instance import CLOSED, Lane, SagaInstance, SagaState, StepCode, StepRecord
from saga_core.outcome import StepError
from saga_core.transition import (
    MAX_STALLS,
    Ignored,
    Moved,
    apply,
    choose,
    create,
    due_action,
    next_actions,
    undecided,
)

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


def flows() -> Iterator[SagaDefinition]:
    """The constructs, each in the smallest sagas in which it has something to meet."""
    one = RetryPolicy(max_attempts=1, max_lost=1, base=timedelta(0), cap=timedelta(0))
    two = replace(one, max_attempts=2)
    endless = replace(one, max_attempts=None)
    undoable = {"compensate": Handler.of(nothing)}
    final = {"compensatable": False}
    when = {"when": Handler.of(nothing)}
    pivot = {"pivot": True}
    group = {"group": "g"}

    def saga(
        name: str, *steps: dict[str, Any], on_failure: OnCompensationFailure = "halt"
    ) -> SagaDefinition:
        return SagaDefinition(
            name=name,
            on_compensation_failure=on_failure,
            steps=tuple(
                StepDefinition(
                    name=f"{'ask' if options.get('asks') else 's'}{n}",
                    execute=Handler.of(nothing),
                    **{
                        "retry": one,
                        "compensation_retry": one,
                        **{k: v for k, v in options.items() if k != "asks"},
                    },
                )
                for n, options in enumerate(steps)
            ),
        )

    after = {**final, "retry": endless}
    asks = {"asks": True}
    yield saga("group", {**group, **undoable}, {**group, **undoable})
    yield saga("group-of-unequals", {**group, **undoable, "retry": two}, {**group, **final})
    yield saga(
        "group-that-continues", {**group, **undoable}, {**group, **undoable}, on_failure="continue"
    )
    yield saga("group-with-condition", {**group, **undoable}, {**group, **undoable, **when})
    yield saga("group-with-wait", {**group, **undoable}, {**group, **undoable, **asks})
    yield saga("pivot-first", {**pivot, **final}, after)
    yield saga("pivot-with-undo-first", {**pivot, **undoable, "retry": two}, after)
    yield saga("pivot", undoable, {**pivot, **final})
    yield saga("pivot-with-undo", undoable, {**pivot, **undoable})
    yield saga("pivot-that-waits", {**pivot, **final, **asks}, after)
    yield saga("conditions", {**undoable, **when}, {**final, **when})
    yield saga("condition", undoable, {**undoable, **when})
    yield saga("wait", {**undoable, **asks, "retry": two})
    yield saga("wait-then-step", {**undoable, **asks}, undoable)
    yield saga("wait-without-undo", {**final, **asks, "retry": two})


@dataclass(frozen=True, slots=True)
class Node:
    """A saga, and what is true outside. The tuples have one mark for each step.

    Attributes:
        acted: The effect happened; ``undone``: it was taken back.
        stone: A tombstone stands: no effect any more.
        pending: A request is still under way.
        called: A start of the step is on record.
        vouched: A person took care of the step.
        yes: Whoever was asked agreed; ``no``: refused, at least once. Either may be
            heard at any time from then on, however often.
        starts: The steps in the order of their first claims.
        plans: Why each lane's holder will make no call; what has changed since, it does not know.
        late: The deadline has passed.
    """

    saga: SagaInstance
    acted: Marks
    undone: Marks
    stone: Marks
    pending: Marks
    called: Marks
    vouched: Marks
    yes: Marks
    no: Marks
    starts: tuple[int, ...] = ()
    plans: tuple[tuple[int, Withhold], ...] = ()
    late: bool = False

    @property
    def now(self) -> int:
        return DEADLINE if self.late else T0

    def key(self, most: int = MAX_LOST) -> object:
        """The node without times, ids and counts that nothing depends on.

        ``most`` attempts may be lost.
        """
        s = self.saga
        return (
            s.status,
            s.phase,
            s.why,
            tuple(_lane(lane, most) for lane in (s.lane, *s.branches)),
            s.cancel is not None,
            s.stalls > 0,
            tuple(_record(r) for r in s.steps),
            self.acted,
            self.undone,
            self.stone,
            self.pending,
            self.called,
            self.vouched,
            self.yes,
            self.no,
            self.starts,
            self.plans,
            self.late,
        )


def _lane(lane: Lane, most: int) -> object:
    return (
        lane.index,
        min(lane.attempts - lane.reported, most + 1),  # beyond it nothing is called
        min(lane.reported, 2),
        min(lane.tries - lane.clean, 2),
        min(lane.clean, 1),
        lane.lease is not None and lane.lease.id,
        lane.order,
        lane.wait_ms is not None,
    )


def _record(r: StepRecord) -> object:
    said = r.answer and (r.answer.ok, r.answer.fields is not None, r.answer.late)
    return (r.code, r.order, r.doubt, r.chosen, said, r.result is not None)


def root(d: SagaDefinition) -> Iterator[Node]:
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
    return _decided(d, Node(saga, no, no, no, no, no, no, no, no))


class ContradictionError(AssertionError):
    """A reachable state that must not be."""


def explore(d: SagaDefinition) -> tuple[int, int]:
    """Visit everything; the numbers of states and of transitions."""
    todo = deque(root(d))
    most = d.steps[0].retry.max_lost
    seen = {node.key(most) for node in todo}
    moves = 0
    while todo:
        node = todo.popleft()
        check(d, node)
        for following in successors(d, node):
            moves += 1
            key = following.key(most)
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
        if _asks(d, step):
            yield from _outside(d, n, step)
    if n.saga.status is SagaState.FAILED:
        for following in _moved(d, n, ResumeRequested(by="x", at=at)):
            yield replace(following, late=False)
        yield from _skipped(d, n, at)
    if n.saga.live:
        yield from _moved(d, n, TakenOver(at=at))
        for lane in n.saga.open_lanes:
            yield from _dead_letter(d, n, lane)
            yield from _claimed(d, n, lane)
            if lane.lease is not None and lane.lease.id == _holder(lane):
                yield from _settled(d, n, lane)


def _outside(d: SagaDefinition, n: Node, step: int) -> Iterator[Node]:
    """Whoever was asked makes up their mind, or is heard, for the first time or again."""
    open_ = n.acted[step] and not n.undone[step]
    if open_ and not n.yes[step]:
        yield replace(n, yes=_set(n.yes, step))
        yield replace(n, no=_set(n.no, step), acted=_set(n.acted, step, value=False))
    name = d.steps[step].name
    for ok, said in ((True, n.yes), (False, n.no)):
        if said[step]:
            yield from _moved(d, n, AnswerGiven(step=name, ok=ok, by="x", at=n.now, error=ERROR))
    yield from _moved(d, n, HeartbeatReceived(step=name, by="x", at=n.now))


def _dead_letter(d: SagaDefinition, n: Node, lane: Lane) -> Iterator[Node]:
    exhausted = DeliveryExhausted(
        epoch=lane.epoch,
        definition=d.ref,
        nudge_id="n",
        error=ERROR,
        at=n.now + 10**9,
        branch=lane.number,
    )
    # The visits between the first and the last differ by a count only: left out.
    stalls = MAX_STALLS - 1 if n.saga.stalls else 0
    yield from _moved(d, replace(n, saga=replace(n.saga, stalls=stalls)), exhausted)


def _claimed(d: SagaDefinition, n: Node, lane: Lane) -> Iterator[Node]:
    """A claim. Its lease runs out at once, so that another may follow: it crashed, or is slow."""
    before = n.saga
    if lane.lease is not None:  # the one before is dead; its id must not pass for ours
        before = _with_lease(before, lane, "dead")
    claim = Claimed(
        claim_id=_holder(lane),
        epoch=lane.epoch,
        definition=d.ref,
        until=n.now - 1,
        at=n.now,
        branch=lane.number,
    )
    (claimed,) = _moved(d, replace(n, saga=before), claim)
    if before.direction(lane) is Direction.FORWARD:
        claimed = replace(claimed, called=_set(claimed.called, lane.index))
        if lane.index not in claimed.starts:
            claimed = replace(claimed, starts=(*claimed.starts, lane.index))
    plans = dict(n.plans)
    plans.pop(lane.index, None)
    held = next(x for x in claimed.saga.open_lanes if x.index == lane.index)
    match due_action(d, claimed.saga, held, n.now):
        case Settle(reason):
            plans[lane.index] = reason
        case Execute() | Compensate() | Inquire():
            pass
    yield replace(claimed, plans=tuple(sorted(plans.items())))


def _settled(d: SagaDefinition, n: Node, lane: Lane) -> Iterator[Node]:
    """All that can become of a claim whose holder lives."""
    step, by = lane.index, _holder(lane)
    reason = dict(n.plans).get(step)
    if reason is not None:
        yield from _moved(d, n, Withheld(claim_id=by, reason=reason, at=n.now))
    elif n.saga.direction(lane) is Direction.FORWARD:
        yield from _executions(d, n, lane, by)
    else:
        yield from _undos(d, n, lane, by)


def _executions(d: SagaDefinition, n: Node, lane: Lane, by: str) -> Iterator[Node]:
    step, at = lane.index, n.now
    effective = n if n.stone[step] else replace(n, acted=_set(n.acted, step))
    under_way = replace(n, pending=_set(n.pending, step))
    if not n.stone[step]:  # the participant refuses what it has a tombstone for
        if _asks(d, step):
            asks = StepAwaits(claim_id=by, context="{}", timeout_ms=1, at=at)
            yield from _moved(d, effective, asks)
        else:
            yield from _moved(d, effective, StepSucceeded(claim_id=by, context="{}", at=at))
    for fatal in (False, True):
        failed = StepFailed(claim_id=by, error=ERROR, fatal=fatal, jitter=0.0, at=at)
        yield from _moved(d, n, failed)
        doubt = StepInDoubt(claim_id=by, error=ERROR, final=fatal, jitter=0.0, at=at)
        for world in (n, effective, under_way):
            yield from _moved(d, world, doubt)
    for world in (effective, under_way):  # it crashed, and will say no more
        yield replace(world, saga=_with_lease(world.saga, lane, "dead"))


def _undos(d: SagaDefinition, n: Node, lane: Lane, by: str) -> Iterator[Node]:
    step, at = lane.index, n.now
    if not n.called[step]:
        raise ContradictionError(f"s{step} is undone and was never started")
    if n.saga.branches:
        raise ContradictionError(f"s{step} is undone while a branch is in flight")
    newer = n.starts[n.starts.index(step) + 1 :]
    passed_over = {StepCode.COMPENSATION_FAILED, StepCode.SKIPPED}
    for m in newer:
        stands = n.acted[m] and not n.undone[m]
        if stands and d.steps[m].compensatable and n.saga.steps[m].code not in passed_over:
            raise ContradictionError(f"s{step} is undone before s{m}")
    undone = replace(n, stone=_set(n.stone, step))
    if n.acted[step]:
        undone = replace(undone, undone=_set(n.undone, step))
    yield from _moved(d, undone, CompensationSucceeded(claim_id=by, context=None, at=at))
    for fatal in (False, True):
        failed = CompensationFailed(claim_id=by, error=ERROR, fatal=fatal, jitter=0.0, at=at)
        for world in (n, undone):
            yield from _moved(d, world, failed)
    yield replace(undone, saga=_with_lease(undone.saga, lane, "dead"))  # crashed after the undo


def _skipped(d: SagaDefinition, n: Node, at: int) -> Iterator[Node]:
    for step, definition in enumerate(d.steps):
        skip = SkipRequested(step=definition.name, by="x", at=at)
        for following in _moved(d, n, skip):
            yield replace(following, vouched=_set(n.vouched, step), late=False)


def _moved(d: SagaDefinition, n: Node, event: Event) -> Iterator[Node]:
    outcome = apply(d, n.saga, event)
    if not isinstance(outcome, Moved):
        return
    after = outcome.instance
    if n.saga.status in CLOSED and after != replace(n.saga, steps=after.steps, updated_at=n.now):
        raise ContradictionError(f"{n.saga.status} changed by {type(event).__name__}")
    for lane in (n.saga.lane, *n.saga.branches):
        now = next((x for x in (after.lane, *after.branches) if x.number == lane.number), None)
        if now is not None and now.epoch - lane.epoch not in (0, 1):
            raise ContradictionError("the epoch leapt")
    pivot = d.pivot
    turned = after.phase is not n.saga.phase
    if turned and pivot is not None and n.saga.steps[pivot].code is StepCode.DONE:
        raise ContradictionError("it turned round past its pivot")
    yield from _decided(d, replace(n, saga=after))


def _decided(d: SagaDefinition, n: Node) -> Iterator[Node]:
    """The states that can be stored: every condition at hand says yes, no, or breaks."""
    names = undecided(d, n.saga)
    if not names:
        live = {lane.index for lane in n.saga.open_lanes if lane.lease is not None}
        plans = tuple(plan for plan in n.plans if plan[0] in live)
        yield replace(n, saga=_timeless(n.saga), plans=plans)
        return
    says: tuple[bool | StepError, ...] = (True, False, ERROR)
    for said in product(says, repeat=len(names)):
        choices = dict(zip(names, said, strict=True))
        yield from _decided(d, replace(n, saga=choose(d, n.saga, choices, n.now, soon=False)))


def _timeless(saga: SagaInstance) -> SagaInstance:
    """The saga with its times set back: what is due stays due, what ran out stays run out.

    Starts are ranked by versions: of these the order is kept.
    """
    lanes = (saga.lane, *saga.branches)
    orders = {lane.order for lane in lanes} | {step.order for step in saga.steps}
    known = sorted(order for order in orders if order is not None)
    ranks: dict[int | None, int] = {order: n for n, order in enumerate(known, 1)}

    def back(lane: Lane) -> Lane:
        lease = lane.lease and replace(lane.lease, until=T0 - 1)
        return replace(lane, due_at=T0, lease=lease, nudge=None, order=ranks.get(lane.order))

    return replace(
        saga,
        lane=back(saga.lane),
        branches=tuple(map(back, saga.branches)),
        steps=tuple(replace(s, order=ranks.get(s.order)) for s in saga.steps),
        version=len(ranks) + 1,
        deadline_at=DEADLINE,
        hops=0,
    )


def _with_lease(saga: SagaInstance, lane: Lane, by: str) -> SagaInstance:
    def held(x: Lane) -> Lane:
        if x.number != lane.number or x.lease is None:
            return x
        return replace(x, lease=replace(x.lease, id=by))

    return replace(saga, lane=held(saga.lane), branches=tuple(map(held, saga.branches)))


def _holder(lane: Lane) -> str:
    return f"c{lane.index}"


def _asks(d: SagaDefinition, step: int) -> bool:
    return d.steps[step].name.startswith("ask")


def _lands(n: Node, step: int) -> Node:
    n = replace(n, pending=_set(n.pending, step, value=False))
    return n if n.stone[step] else replace(n, acted=_set(n.acted, step))


def check(d: SagaDefinition, n: Node) -> None:
    """What must be true in every reachable state."""
    saga = n.saga
    _late_answers_are_ignored(d, saga, n.now)
    mine = [m for m in range(len(d.steps)) if not n.vouched[m]]
    for m in mine:
        unwanted = saga.steps[m].code is StepCode.SKIPPED
        if unwanted and (n.acted[m] or n.called[m]):
            raise ContradictionError(f"s{m} was not wanted and was started: {n}")
        if saga.status is SagaState.COMPLETED and not unwanted and (n.undone[m] or not n.acted[m]):
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
    asked = {x.index for x in saga.open_lanes if saga.direction(x) is Direction.FORWARD}
    for m, record in enumerate(saga.steps):
        unused = record.answer is not None and record.answer.fields is not None
        if saga.live and unused and m not in asked:
            raise ContradictionError(f"the answer to s{m} was accepted and is ignored: {n}")
    rests = any(isinstance(a, Rest) for a in next_actions(d, saga, n.now + 10**9))
    if saga.live == rests:
        raise ContradictionError(f"{saga.status} and it rests: {rests}")
    if (saga.sweep_at is None) != (saga.status in CLOSED):
        raise ContradictionError(f"{saga.status} with sweep_at {saga.sweep_at}")


def _late_answers_are_ignored(d: SagaDefinition, saga: SagaInstance, at: int) -> None:
    late: tuple[Event, ...] = (
        StepSucceeded(claim_id="zombie", context="{}", at=at),
        StepAwaits(claim_id="zombie", context="{}", timeout_ms=1, at=at),
        CompensationSucceeded(claim_id="zombie", context=None, at=at),
        StepFailed(claim_id="zombie", error=ERROR, fatal=True, jitter=0.0, at=at),
    )
    for event in late:
        if not isinstance(apply(d, saga, event), Ignored):
            raise ContradictionError("a late answer was taken")
    for lane in saga.open_lanes:
        if lane.lease is None:
            continue
        wrong_way: Event = CompensationSucceeded(claim_id=lane.lease.id, context=None, at=at)
        if saga.direction(lane) is Direction.COMPENSATION:
            wrong_way = StepSucceeded(claim_id=lane.lease.id, context="{}", at=at)
        try:
            apply(d, saga, wrong_way)
        except IllegalEventError:
            continue
        raise ContradictionError("an answer of the other direction was taken")


def _set(marks: Marks, place: int, *, value: bool = True) -> Marks:
    return (*marks[:place], value, *marks[place + 1 :])
