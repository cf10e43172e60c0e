"""The judge itself: each invariant refuses a write, or a world, that it exists to refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from saga_core import RetryPolicy, Saga, SagaDefinition, StepCall
from saga_core.calls import Direction
from saga_core.effects import Claim, Commit, Create, Effect, MarkSwept, Record, Redispatch
from saga_core.errors import IllegalEventError
from saga_core.instance import (
    Cancel,
    Lane,
    Lease,
    SagaInstance,
    SagaState,
    StepCode,
    StepRecord,
)
from saga_core.testing import BrokenInvariantError, Chooser, Judge, Profile, Simulation, World
from saga_core.testing.explore import _difference, explore
from saga_core.testing.simulation import Process, Write
from saga_core.transition import MAX_STALLS
from saga_core.turn import Decision, Verdict

AT = 1_000_000


def definition() -> SagaDefinition:
    saga = Saga("judged")
    for name in ("a", "b"):
        saga.step(name=name)(lambda _ctx: None).compensate(lambda _ctx: None)
    return saga.build()


D = definition()
CLAIM = Claim(None, 1, D.ref, "c1", AT, AT + 1)  # type: ignore[arg-type]  # the key is not looked at


def instance(**changes: object) -> SagaInstance:
    fields: dict[str, object] = {
        "id": "s",
        "incarnation": "0",
        "definition_name": "judged",
        "definition": D.ref,
        "input_fingerprint": "f",
        "lane": Lane(),
        "steps": (StepRecord(name="a"), StepRecord(name="b")),
        "context_text": "{}",
        "version": 1,
        "created_at": AT,
        "updated_at": AT,
        "deadline_at": AT,
        "sweep_at": AT,
        **changes,
    }
    return SagaInstance(**fields)  # type: ignore[arg-type]  # as SagaInstance has them


def held(by: str = "c1", until: int = AT + 1, **changes: object) -> SagaInstance:
    return instance(lane=Lane(lease=Lease(by, until)), **changes)


def moved(i: SagaInstance, **changes: object) -> SagaInstance:
    return replace(i, version=i.version + 1, **changes)  # type: ignore[arg-type]  # likewise


def committed(i: SagaInstance, **changes: object) -> SagaInstance:
    return moved(i, **{"lane": replace(i.lane, epoch=i.lane.epoch + 1, lease=None), **changes})


def judge() -> Judge:
    return Judge(World(), {D.ref: D})


done = StepRecord(name="a", code=StepCode.DONE, order=1)
newer = StepRecord(name="b", code=StepCode.DONE, order=2)
closed = instance(status=SagaState.COMPLETED, sweep_at=None, expires_at=AT)

BAD_WRITES: dict[str, tuple[str, Effect[object], SagaInstance, SagaInstance]] = {
    "a closed saga moves": ("S4", Record(closed, closed), closed, moved(closed)),
    "a write without a version": ("S5", CLAIM, instance(), instance()),
    "a version without a write": (
        "S5",
        MarkSwept(instance(), instance()),
        instance(),
        moved(instance()),
    ),
    "an epoch that leaps": (
        "S5",
        Commit(held(), held(), "c1"),
        held(),
        moved(held(), lane=Lane(epoch=3)),
    ),
    "a claim that moves the epoch": (
        "S5",
        CLAIM,
        instance(),
        moved(instance(), lane=Lane(epoch=2)),
    ),
    "a claim under a lease": ("S7", CLAIM, held("c0"), moved(held("c1"))),
    "a commit without the lease": (
        "S6",
        Commit(held(), held(), "c1"),
        held("c0"),
        committed(held()),
    ),
    "a commit over a version unseen": (
        "S6",
        Commit(instance(version=0), held(), "c1"),
        held(),
        committed(held()),
    ),
    "a surplus message under a lease": ("S11", Redispatch(held(), "n", AT), held(), held()),
    "an open saga that nobody looks after": (
        "S12",
        CLAIM,
        instance(),
        moved(held(), sweep_at=None),
    ),
    "an open saga that expires": ("S12", CLAIM, instance(), moved(held(), expires_at=AT)),
    "a roll-back that is not recorded": (
        "S3",
        CLAIM,
        instance(),
        moved(instance(phase=Direction.COMPENSATION)),
    ),
    "more visits to the dead letters than there may be": (
        "S13",
        Record(instance(), instance()),
        instance(),
        moved(instance(), stalls=MAX_STALLS + 1),
    ),
    "a second saga in place of the first": (
        "S10",
        Create(instance(incarnation="1")),
        instance(),
        instance(incarnation="1"),
    ),
    "a saga that is not begun by its start": (
        "S10",
        Record(closed, closed),
        closed,
        instance(incarnation="1"),
    ),
    "forward again": (
        "S3",
        Record(instance(), instance()),
        instance(phase=Direction.COMPENSATION, status=SagaState.COMPENSATING),
        moved(instance()),
    ),
    "a step before an earlier one": (
        "S8",
        CLAIM,
        instance(lane=Lane(index=1)),
        moved(instance(lane=Lane(index=1, lease=Lease("c1", AT)))),
    ),
}


@pytest.mark.parametrize("name", BAD_WRITES)
def test_a_bad_write_is_refused(name: str) -> None:
    invariant, effect, before, after = BAD_WRITES[name]
    with pytest.raises(BrokenInvariantError) as refused:
        judge().on_write(Write(1, effect, before, after))
    assert refused.value.name == invariant


def test_an_undo_while_a_branch_is_in_flight_is_refused() -> None:
    back: dict[str, Any] = {"phase": Direction.COMPENSATION, "status": SagaState.COMPENSATING}
    open_ = (Lane(index=1, branch=True),)
    before = instance(branches=open_, **back)
    after = moved(held(branches=open_, **back))
    with pytest.raises(BrokenInvariantError, match="S8"):
        judge().on_write(Write(1, Record(before, after), before, after))


def test_a_claim_of_a_lane_that_is_not_open_is_refused() -> None:
    claim = replace(CLAIM, branch=1)
    with pytest.raises(BrokenInvariantError, match="S7: c1 claimed a lane that is not open"):
        judge().on_write(Write(1, claim, instance(), moved(instance())))


def test_a_saga_that_turns_round_past_its_pivot_is_refused() -> None:
    first, second = D.steps
    pivoted = replace(
        D,
        steps=(
            replace(first, pivot=True, compensate=None, compensatable=False),
            replace(second, retry=RetryPolicy(max_attempts=None)),
        ),
    )
    strict = Judge(World(), {D.ref: pivoted})
    before = held(steps=(done, StepRecord(name="b")))
    after = committed(before, phase=Direction.COMPENSATION, status=SagaState.COMPENSATING)
    with pytest.raises(BrokenInvariantError, match="S14"):
        strict.on_write(Write(1, Commit(before, before, "c1"), before, after))


def test_a_condition_that_is_decided_twice_is_refused() -> None:
    strict = judge()
    yes = moved(instance(steps=(replace(done, chosen=True), StepRecord(name="b"))))
    strict.on_write(Write(1, Record(instance(), yes), instance(), yes))
    no = moved(instance(steps=(StepRecord(name="a", code=StepCode.SKIPPED), StepRecord(name="b"))))
    with pytest.raises(BrokenInvariantError, match="S17"):
        strict.on_write(Write(1, Record(instance(), no), instance(), no))


def test_a_forward_call_that_was_claimed_after_the_saga_turned_round_is_refused() -> None:
    strict = judge()
    turned = moved(held(phase=Direction.COMPENSATION, status=SagaState.COMPENSATING))
    strict.on_write(Write(1, Record(held(), turned), held(), turned))
    strict.on_call(call("a", "a:F", fence=turned.version))
    assert not strict.violations
    strict.on_call(call("b", "b:F", fence=turned.version + 1))
    with pytest.raises(BrokenInvariantError, match="S9: b was claimed going forward"):
        strict.at_the_end(simulation())


def test_an_undo_of_an_older_step_first_is_refused() -> None:
    strict = judge()
    strict._started["s"] = {"a": 1, "b": 3}
    back: dict[str, Any] = {"phase": Direction.COMPENSATION, "status": SagaState.COMPENSATING}
    before = instance(steps=(done, newer), **back)
    after = moved(held(steps=(done, newer), **back))
    with pytest.raises(BrokenInvariantError, match="S8"):
        strict.on_write(Write(1, CLAIM, before, after))


def test_two_commits_of_one_work_item_are_refused() -> None:
    strict = judge()
    write = Write(1, Commit(held(), held(), "c1"), held(), committed(held()))
    strict.on_write(write)
    with pytest.raises(BrokenInvariantError, match="S7"):
        strict.on_write(write)


def test_a_cancelled_saga_may_not_complete_nor_go_forward() -> None:
    strict = judge()
    cancelled = moved(instance(), cancel=Cancel("x", AT))
    strict.on_write(Write(1, Record(instance(), cancelled), instance(), cancelled))
    strict.on_call(call("a", "a:F", fence=cancelled.version))
    assert not strict.violations
    strict.on_call(call("b", "b:F", fence=cancelled.version + 1))
    with pytest.raises(BrokenInvariantError, match="S9"):
        strict.at_the_end(simulation())
    finished = moved(
        held(), status=SagaState.COMPLETED, sweep_at=None, expires_at=AT, lane=Lane(epoch=2)
    )
    with pytest.raises(BrokenInvariantError, match="S9"):
        strict.on_write(Write(1, Commit(held(), held(), "c1"), held(), finished))


def test_what_begins_anew_when_the_one_before_has_expired_is_no_contradiction() -> None:
    strict, new = judge(), instance(incarnation="1", created_at=AT + 1)
    strict.on_write(Write(1, Create(instance()), None, instance()))
    strict.on_write(Write(2, Create(new), closed, new))


def test_an_invocation_that_writes_two_sagas_is_refused() -> None:
    strict, neighbour = judge(), instance(tenant="neighbour")
    strict.on_write(Write(1, Create(instance()), None, instance()))
    with pytest.raises(BrokenInvariantError, match="S16"):
        strict.on_write(Write(1, Create(neighbour), None, neighbour))


def begun(*, claimed: bool) -> Judge:
    strict = judge()
    strict.on_write(Write(1, Create(instance()), None, instance()))
    if claimed:
        strict.on_write(Write(2, CLAIM, instance(), moved(held())))
    return strict


def test_an_undo_of_what_never_started_is_refused() -> None:
    strict = begun(claimed=True)
    strict.on_call(call("a", "a:C", Direction.COMPENSATION))
    assert not strict.violations
    strict.on_call(call("b", "b:C", Direction.COMPENSATION))
    with pytest.raises(BrokenInvariantError, match="S8"):
        strict.at_the_end(simulation())


def test_a_budget_begins_anew_with_a_resume_only() -> None:
    strict, policy = begun(claimed=False), D.step("a").retry
    budget = (policy.max_attempts or 0) + policy.max_lost
    for _ in range(budget):
        strict.on_call(call("a", "a:F"))
    parked = instance(status=SagaState.FAILED)
    resumed = moved(instance())
    strict.on_write(Write(3, Record(parked, resumed), parked, resumed))
    strict.on_call(call("a", "a:F", fence=resumed.version))
    assert not strict.violations
    strict.on_call(call("a", "a:F"))  # sent before the resume, arrived after it
    with pytest.raises(BrokenInvariantError, match="S13"):
        strict.at_the_end(simulation())


def simulation(*sagas: SagaInstance) -> Simulation:
    sim = Simulation({D.ref: D}, Chooser(0, Profile()))
    for saga in sagas:
        sim.store._sagas[saga.key] = saga
    return sim


def call(
    step: str, key: str, direction: Direction = Direction.FORWARD, *, fence: int = 1
) -> StepCall:
    return StepCall(
        saga_id="s",
        step=step,
        direction=direction,
        attempt=1,
        idempotency_key=key,
        execute_key=f"{step}:F",
        fence=fence,
        deadline=None,  # type: ignore[arg-type]  # nobody looks at it
    )


def nothing(_world: World) -> None:
    pass


def one_of_two(world: World) -> None:
    world.act(call("a", "a:F"))


def both(world: World) -> None:
    world.act(call("a", "a:F"))
    world.act(call("b", "b:F"))


def twice(world: World) -> None:
    world.act(call("a", "one"))
    world.act(call("a", "two"))


def undone_in_order_of_doing(world: World) -> None:
    both(world)
    world.undo(call("a", "a:C", Direction.COMPENSATION))
    world.undo(call("b", "b:C", Direction.COMPENSATION))


def two_keys(world: World) -> None:
    world.undo(call("a", "one", Direction.COMPENSATION))
    world.undo(call("a", "two", Direction.COMPENSATION))


def landed_after_its_undo(world: World) -> None:
    world.tombstones = False
    world.undo(call("a", "a:C", Direction.COMPENSATION))
    world.act(call("a", "a:F"))


compensated = replace(closed, status=SagaState.COMPENSATED)
failed = instance(status=SagaState.FAILED, lane=Lane(index=1))


not_wanted = replace(
    closed, steps=(StepRecord(name="a", code=StepCode.SKIPPED), StepRecord(name="b"))
)


@pytest.mark.parametrize(
    ("invariant", "saga", "happened"),
    [
        ("S1", compensated, twice),
        ("S1", compensated, two_keys),
        ("S2", closed, one_of_two),
        ("S3", compensated, one_of_two),
        ("S3", failed, one_of_two),
        ("S8", compensated, undone_in_order_of_doing),
        ("S15", compensated, landed_after_its_undo),
        ("S17", not_wanted, one_of_two),
        ("L1", instance(), nothing),
    ],
)
def test_an_end_that_the_world_contradicts_is_refused(
    invariant: str, saga: SagaInstance, happened: Callable[[World], None]
) -> None:
    strict = judge()
    happened(strict.world)
    with pytest.raises(BrokenInvariantError) as refused:
        strict.at_the_end(simulation(saga))
    assert refused.value.name == invariant


def test_an_invocation_that_sends_twice_is_refused() -> None:
    sim = simulation()
    process = Process(1, "work", _idle(), AT, 0, None, None, None, 0)
    sim.sends[1] = 2
    with pytest.raises(BrokenInvariantError, match="S11"):
        sim._settle(process, None)


def test_an_invocation_that_is_fenced_off_by_itself_is_refused() -> None:
    sim = simulation()
    fenced = Decision(verdict=Verdict.FENCED, acknowledge=False, before=instance())
    sim._committed[instance().key] = 2
    sim._settle(Process(1, "work", _idle(), AT, 0, None, None, None, 0), fenced)
    with pytest.raises(BrokenInvariantError, match="E2"):
        sim._settle(Process(2, "work", _idle(), AT, 0, None, None, None, 0), fenced)


def test_an_invocation_that_is_out_of_time_dies() -> None:
    sim = simulation()
    sim.processes.append(Process(1, "work", _idle(), sim.now, 0, None, None, None, 0))
    sim._advance(sim.processes[0])
    assert not sim.processes
    assert sim.trace[0].endswith("dies (out of time)")


def test_a_simulation_that_needs_more_steps_says_so() -> None:
    sim = simulation()
    sim.begin(D, {}, "key")
    assert not sim.run(max_steps=2)


def test_what_no_turn_yields_is_refused() -> None:
    sim = simulation()
    process = Process(1, "work", _idle(), AT, 0, None, None, None, 0)
    with pytest.raises(IllegalEventError):
        sim._do(process, Effect())
    with pytest.raises(IllegalEventError):
        sim._definition_of(process)


def _idle():
    yield Effect()


def test_differences_are_told_in_few_words() -> None:
    assert _difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "'b' (2 became 3)"
    assert _difference([1, 2], [2, 3]) == "3, no 1"
    assert _difference(1, 2) == "1 became 2"


def test_a_context_that_outgrows_the_item_is_rolled_back_in_the_exploration() -> None:
    class Shelf:
        def __init__(self) -> None:
            self.taken: set[str] = set()

        def reset(self) -> None:
            self.taken.clear()

        def snapshot(self) -> object:
            return set(self.taken)

    shelf = Shelf()
    saga = Saga("growing")

    @saga.step
    async def take(ctx: dict[str, str], call: StepCall) -> None:
        if call.execute_key + "!" in shelf.taken:
            raise ValueError("undone before")
        shelf.taken.add(call.idempotency_key)
        ctx["more"] = "x" * 400_000

    @take.compensate
    def put_back(_ctx: object, call: StepCall) -> None:
        shelf.taken.discard(call.execute_key)

    report = explore(saga, {}, shelf)
    assert all("left standing" in f.wrong for f in report.findings)
    assert all("late" in f.schedule or "stall" in f.schedule for f in report.findings)
