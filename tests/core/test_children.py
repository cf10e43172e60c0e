"""A step that starts another saga: the two end together, whatever happens in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from saga_core import DefinitionError, Fatal, InMemorySagaStore, Saga, SagaDefinition, StepCall
from saga_core.actions import Compensate, Execute, Inquire
from saga_core.calls import Direction
from saga_core.definition import MAX_DEPTH, Handler, StepDefinition
from saga_core.definition import SagaDefinition as Definition
from saga_core.effects import Effect, Record
from saga_core.errors import StoreError
from saga_core.events import (
    CancelRequested,
    ChildRests,
    ChildStopped,
    ChildWaits,
    Claimed,
    HeartbeatReceived,
    ParentEnded,
    ResumeRequested,
    SkipRequested,
    UndoRequested,
)
from saga_core.identity import child_secret
from saga_core.instance import Cause, CauseKind, SagaInstance, SagaState, StepCode, StepStatus, Why
from saga_core.outcome import StepError
from saga_core.transition import Ignored, Moved, Reason, apply, next_action
from saga_core.turn import CHILD_POLL_MS, Answer, Delivery, WorkMessage, revive
from tests.core.memory import SAGA_ID, Memory

DAY_MS = 86_400_000


def error_of(saga: SagaInstance, step: int) -> StepError:
    """Why that step failed."""
    error = saga.step_results[step].error
    assert error is not None
    return error


def failure(saga: SagaInstance) -> StepError:
    """Why the saga stopped."""
    assert saga.failure is not None
    return saga.failure


def cause(saga: SagaInstance) -> Cause:
    """Why it turned round."""
    assert saga.cause is not None
    return saga.cause


def context(saga: SagaInstance) -> dict[str, object]:
    """As the steps see it."""
    found = saga.context
    assert isinstance(found, dict)
    return found


class World:
    """What the steps of parent and child did, each effect once for each key."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.undone: set[str] = set()
        self.standing: Counter[str] = Counter()
        self.order: list[str] = []
        self.refuses: set[str] = set()

    def act(self, name: str, call: StepCall) -> None:
        if name in self.refuses or call.idempotency_key in self.undone:
            raise Fatal(f"no {name}")
        if call.idempotency_key not in self.keys:
            self.keys.add(call.idempotency_key)
            self.standing[name] += 1
            self.order.append(name)

    def undo(self, name: str, call: StepCall) -> None:
        if f"un-{name}" in self.refuses:
            raise Fatal(f"no un-{name}")
        self.undone.add(call.execute_key)
        if call.execute_key in self.keys and call.idempotency_key not in self.keys:
            self.keys.add(call.idempotency_key)
            self.standing[name] -= 1
            self.order.append(f"un-{name}")

    @property
    def left(self) -> set[str]:
        """What stands."""
        return {name for name, count in self.standing.items() if count}


def step(saga: Saga, world: World, name: str) -> None:
    """A step that the world keeps."""

    def execute(ctx: dict[str, object], call: StepCall) -> None:
        world.act(name, call)
        ctx[name] = True

    def undo(ctx: object, call: StepCall) -> None:
        world.undo(name, call)

    saga.step(name=name)(execute).compensate(undo)


def family(world: World, *, after: bool = True, into: str | None = "payment") -> SagaDefinition:
    """An order that pays through a saga of its own: reserve, (authorise, capture), ship."""
    pay = Saga("pay")
    step(pay, world, "authorise")
    step(pay, world, "capture")
    order = Saga("order", timeout=timedelta(days=1))
    step(order, world, "reserve")

    @order.child(pay, into=into)
    def settle(ctx: dict[str, object]) -> dict[str, object]:
        return {"of": "order"}

    if after:
        step(order, world, "ship")
    return order.build()


@pytest.fixture
def world() -> World:
    return World()


def begun(definition: SagaDefinition) -> Memory:
    memory = Memory(definition)
    memory.begin()
    return memory


def until_the_child_runs(memory: Memory, name: str = "pay") -> SagaInstance:
    while name not in {i.definition_name for i in memory.sagas()}:
        memory.deliver()
    return memory.saga(name)


# -- forward -------------------------------------------------------------------------


def test_the_step_is_done_when_its_saga_is_and_has_its_context(world):
    memory = begun(family(world))
    saga = memory.quiet()
    assert saga.state is SagaState.COMPLETED
    assert context(saga)["payment"] == {"of": "order", "authorise": True, "capture": True}
    assert world.order == ["reserve", "authorise", "capture", "ship"]
    assert saga.step_results[1].child == memory.saga("pay").id


def test_without_a_field_the_context_stays_as_it_was(world):
    saga = begun(family(world, into=None)).quiet()
    assert "payment" not in context(saga)
    assert saga.state is SagaState.COMPLETED


def test_while_the_child_runs_the_parent_waits_and_holds_no_lease(world):
    memory = begun(family(world))
    child = until_the_child_runs(memory)
    saga = memory.saga()
    assert saga.step_results[1].status is StepStatus.WAITING
    assert saga.lane.lease is None
    assert child.parent is not None
    assert (child.parent.saga_id, child.parent.step) == (saga.id, 1)


def test_the_parent_goes_on_as_soon_as_the_child_ends(world):
    memory = begun(family(world))
    began = memory.now
    memory.quiet()
    assert memory.saga().updated_at - began < CHILD_POLL_MS / 60


def test_a_child_that_was_rolled_back_is_a_step_that_failed(world):
    world.refuses.add("capture")
    saga = begun(family(world)).quiet()
    assert saga.state is SagaState.COMPENSATED
    assert not world.left
    assert saga.step_results[1].status is StepStatus.FAILED
    assert error_of(saga, 1).kind == "ChildCompensated"
    assert "no capture" in error_of(saga, 1).message
    assert world.order == ["reserve", "authorise", "un-authorise", "un-reserve"]


def test_an_input_that_is_none_of_the_childs_starts_nothing(world):
    order = Saga("order")
    step(order, world, "reserve")
    pay = Saga("pay")
    step(pay, world, "authorise")

    @order.child(pay)
    def settle(ctx: dict[str, object]) -> object:
        return {1, 2}

    memory = begun(order.build())
    saga = memory.quiet()
    assert saga.state is SagaState.COMPENSATED
    assert error_of(saga, 1).kind == "ChildInputInvalid"
    assert len(memory.sagas()) == 1


def test_an_input_that_is_too_long_starts_nothing(world):
    order = Saga("order")
    pay = Saga("pay")
    step(pay, world, "authorise")
    order.child(pay, name="settle")(lambda ctx: "x" * 70_000)
    memory = begun(order.build())
    saga = memory.quiet()
    assert error_of(saga, 0).kind == "ChildInputInvalid"
    assert "65536 at most" in error_of(saga, 0).message


def test_however_often_the_child_is_looked_at_it_is_one_attempt(world):
    memory = begun(family(world))
    until_the_child_runs(memory)
    memory.queue = [m for m in memory.queue if m[2].key.saga_id == SAGA_ID]  # the child is stuck
    for _ in range(200):
        memory.sweep()
        while memory.queue and memory.queue[0][2].key.saga_id == SAGA_ID:
            memory.deliver()
        memory.queue.clear()
    saga = memory.saga()
    assert saga.step_results[1].attempts == 1
    assert saga.hops <= 2
    assert saga.step_results[1].status in (StepStatus.WAITING, StepStatus.RUNNING)


# -- back ----------------------------------------------------------------------------


def test_a_child_that_is_complete_is_undone_with_its_parent(world):
    world.refuses.add("ship")
    memory = begun(family(world))
    saga = memory.quiet()
    assert saga.state is SagaState.COMPENSATED
    child = memory.saga("pay")
    assert child.state is SagaState.COMPENSATED
    assert cause(child).kind is CauseKind.PARENT
    assert cause(child).by == f"saga {saga.id}"
    assert not world.left
    assert world.order[-3:] == ["un-capture", "un-authorise", "un-reserve"]


def test_a_child_that_runs_is_cancelled_with_its_parent(world):
    memory = begun(family(world))
    until_the_child_runs(memory)
    memory.ask(CancelRequested(by="me", at=memory.now))
    saga = memory.quiet()
    assert saga.state is SagaState.COMPENSATED
    assert memory.saga("pay").state is SagaState.COMPENSATED
    assert not world.left


def test_a_step_that_needs_no_undo_leaves_its_saga_alone(world):
    pay = Saga("pay")
    step(pay, world, "authorise")
    order = Saga("order")
    order.child(pay, compensatable=False, name="settle")(lambda ctx: {})
    step(order, world, "ship")
    world.refuses.add("ship")
    memory = begun(order.build())
    assert memory.quiet().state is SagaState.COMPENSATED
    assert memory.saga("pay").state is SagaState.COMPLETED
    assert world.left == {"authorise"}


def test_a_child_that_was_never_started_is_buried_so_that_it_never_starts(world):
    definition = family(world)
    memory = begun(definition)
    memory.deliver()  # reserve
    memory.dies_at = memory.effects + 3  # claim, call, and dead before the child is stored
    memory.deliver()
    assert "pay" not in {i.definition_name for i in memory.sagas()}
    memory.ask(CancelRequested(by="me", at=memory.now))
    saga = memory.quiet()
    assert saga.state is SagaState.COMPENSATED
    child = memory.saga("pay")
    assert child.state is SagaState.COMPENSATED
    assert child.version == 2  # stored closed, and let go
    assert cause(child) == Cause(CauseKind.PARENT, saga.updated_at)
    assert saga.steps[1].undo_attempts == 1
    assert world.order == ["reserve", "un-reserve"]


def test_a_child_that_is_gone_and_was_there_is_no_undo_that_succeeded(world):
    world.refuses.add("ship")
    memory = begun(family(world))
    while memory.saga().lane.index < 2:
        memory.deliver()
    gone = memory.saga("pay").key
    del memory.store._sagas[gone]
    saga = memory.quiet()
    assert saga.state is SagaState.FAILED
    assert saga.why is Why.COMPENSATION_FAILED
    assert failure(saga) == StepError("ChildGone", f"there is no saga {gone.saga_id} any more")
    assert saga.steps[1].undo_attempts == 1  # for good
    assert "settle" in saga.standing


def test_a_child_whose_code_is_not_deployed_cannot_be_undone_and_says_so(world):
    world.refuses.add("ship")
    memory = begun(family(world))
    while memory.saga().lane.index < 2:
        memory.deliver()
    code = memory.known.pop(memory.saga("pay").definition)
    stopped = memory.quiet()
    assert stopped.why is Why.COMPENSATION_FAILED
    assert failure(stopped) == StepError("DefinitionMissing", f"{code.ref} is not deployed")
    assert stopped.steps[1].undo_attempts > 1  # it may be deployed yet
    memory.known[code.ref] = code
    memory.ask(ResumeRequested(by="me", at=memory.now))
    assert memory.quiet().state is SagaState.COMPENSATED
    assert not world.left


def test_a_child_past_its_pivot_stops_the_roll_back_visibly(world):
    """Lint refuses such a pair; an older child that is still about may be one all the same."""
    world.refuses.add("ship")
    memory = begun(family(world))
    while memory.saga().lane.index < 2:
        memory.deliver()
    child = memory.known[memory.saga("pay").definition]
    last = replace(child.steps[1], pivot=True)
    memory.known[child.ref] = replace(child, steps=(child.steps[0], last))
    stopped = memory.quiet()
    assert stopped.why is Why.COMPENSATION_FAILED
    text = f"saga {memory.saga('pay').id} is past its pivot"
    assert failure(stopped) == StepError("ChildPastPivot", text)
    assert "settle" in stopped.standing


# -- FAILED --------------------------------------------------------------------------


@pytest.fixture
def stuck(world) -> Memory:
    """A child whose roll-back stopped."""
    world.refuses |= {"capture", "un-authorise"}
    memory = begun(family(world))
    memory.quiet()
    return memory


def test_a_child_that_failed_stops_its_parent_which_names_it(stuck):
    saga, child = stuck.saga(), stuck.saga("pay")
    assert child.state is SagaState.FAILED
    assert (saga.state, saga.why) == (SagaState.FAILED, Why.CHILD_FAILED)
    assert child.id in failure(saga).message
    assert set(saga.standing) == {"reserve", "settle"}


def test_once_the_child_is_repaired_the_parent_goes_on_by_itself(stuck, world):
    world.refuses.discard("un-authorise")
    stuck.ask(ResumeRequested(by="me", at=stuck.now), stuck.saga("pay").id)
    assert stuck.quiet().state is SagaState.COMPENSATED
    assert not world.left


def test_a_parent_resumed_before_its_child_is_repaired_stops_again(stuck):
    answered = stuck.ask(ResumeRequested(by="me", at=stuck.now))
    assert answered.answer is Answer.ACCEPTED
    saga = stuck.quiet()
    assert saga.why is Why.CHILD_FAILED
    assert saga.step_results[1].attempts == 1


def test_a_child_that_fails_to_be_undone_stops_its_parent_and_both_go_on(world):
    world.refuses |= {"ship", "un-capture"}
    memory = begun(family(world))
    saga = memory.quiet()
    assert saga.why is Why.CHILD_FAILED
    assert saga.phase is Direction.COMPENSATION
    world.refuses.discard("un-capture")
    memory.ask(ResumeRequested(by="me", at=memory.now), memory.saga("pay").id)
    assert memory.quiet().state is SagaState.COMPENSATED
    assert not world.left


def test_a_parent_stopped_for_another_reason_is_not_woken_by_its_child(world):
    memory = begun(family(world))
    until_the_child_runs(memory)
    definition, saga = memory.definition, memory.saga()
    parked = replace(saga, status=SagaState.FAILED, why=Why.STALLED)
    event = ChildRests(step=1, at=memory.now)
    assert apply(definition, parked, event) == Ignored(Reason.PARKED)


def test_a_child_whose_roll_back_stopped_may_be_cancelled_no_more_and_stops_the_parent(world):
    world.refuses |= {"capture", "un-authorise"}
    memory = begun(family(world))
    memory.quiet()
    memory.ask(CancelRequested(by="me", at=memory.now))
    saga = memory.quiet()
    assert saga.why is Why.CHILD_FAILED
    world.refuses.clear()
    memory.ask(ResumeRequested(by="me", at=memory.now), memory.saga("pay").id)
    assert memory.quiet().state is SagaState.COMPENSATED
    assert not world.left


# -- what may be lost ------------------------------------------------------------------


def test_a_wake_up_that_is_lost_costs_an_hour_at_most(world):
    memory = begun(family(world))
    child = until_the_child_runs(memory)
    definition = memory.known.pop(memory.saga().definition)  # nobody can be told
    while memory.saga("pay").live:
        memory.deliver()
    memory.known[definition.ref] = definition
    memory.queue.clear()
    ended = memory.now
    saga = memory.quiet()
    assert saga.state is SagaState.COMPLETED
    assert child.id == memory.saga("pay").id
    assert saga.updated_at - ended <= CHILD_POLL_MS + 5 * 60_000


def test_a_child_that_ends_while_its_parent_is_at_it_is_not_waited_for(world):
    memory = begun(family(world))
    until_the_child_runs(memory)
    saga, definition = memory.saga(), memory.definition
    held = replace(saga, lane=replace(saga.lane, lease=None))
    event = ChildRests(step=1, at=memory.now)
    moved = apply(definition, held, event)
    assert isinstance(moved, Moved)
    assert moved.instance.lane.due_at == memory.now


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "refused", [(), ("ship",), ("capture",)], ids=["done", "undone", "child undone"]
)
def test_a_death_at_any_effect_changes_nothing_of_the_end(refused, after):
    plain = World()
    plain.refuses |= set(refused)
    whole = begun(family(plain))
    whole.quiet()
    for n in range(1, whole.effects + 1):
        world = World()
        world.refuses |= set(refused)
        memory = Memory(family(world), dies_at=n, after=after)
        memory.begin()
        saga = memory.quiet()
        wanted = SagaState.COMPENSATED if refused else SagaState.COMPLETED
        told = f"death {'after' if after else 'before'} effect {n}"
        assert saga.state is wanted, told
        everything = {"reserve", "authorise", "capture", "ship"}
        assert world.left == (set() if refused else everything), told
        assert all(not i.live for i in memory.sagas()), told
        assert sum(i.definition_name == "pay" for i in memory.sagas()) == 1, told
        assert all(i.expires_at is not None for i in memory.sagas()), told


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_death_at_any_effect_of_a_cancelled_family_leaves_nothing(after):
    for n in range(1, 60):
        world = World()
        memory = Memory(family(world), after=after)
        memory.begin()
        until_the_child_runs(memory)
        memory.dies_at = memory.effects + n
        memory.ask(CancelRequested(by="me", at=memory.now))
        assert memory.quiet().state is SagaState.COMPENSATED, n
        assert memory.saga("pay").state is SagaState.COMPENSATED, n
        assert not world.left, n


# -- retention -------------------------------------------------------------------------


def test_a_child_is_kept_until_its_parent_has_ended(world):
    memory = begun(family(world))
    while memory.saga().lane.index < 2:
        memory.deliver()
    assert memory.saga("pay").state is SagaState.COMPLETED
    assert memory.saga("pay").expires_at is None
    memory.quiet()
    assert (memory.saga("pay").expires_at or 0) >= memory.now + 29 * DAY_MS


def test_grandchildren_are_kept_until_the_eldest_has_ended(world):
    audit = Saga("audit")
    step(audit, world, "note")
    pay = Saga("pay")
    pay.child(audit, name="audit")(lambda ctx: {})
    order = Saga("order")
    order.child(pay, name="settle")(lambda ctx: {})
    step(order, world, "ship")
    memory = begun(order.build())
    while memory.saga().lane.index < 1:
        memory.deliver()
    assert memory.saga("pay").state is SagaState.COMPLETED
    assert memory.saga("audit").expires_at is None
    memory.quiet()
    assert all(i.expires_at is not None for i in memory.sagas())


def test_a_saga_is_let_go_once(world):
    memory = begun(family(world))
    memory.quiet()
    child = memory.saga("pay")
    definition = memory.known[child.definition]
    event = ParentEnded(at=memory.now + DAY_MS)
    assert apply(definition, child, event) == Ignored(Reason.CLOSED)
    running = replace(child, status=SagaState.RUNNING, expires_at=None)
    assert apply(definition, running, event) == Ignored(Reason.LIVE)


def test_a_child_that_ends_after_its_parent_is_let_go_at_once(world):
    pay = Saga("pay")
    step(pay, world, "authorise")
    order = Saga("order")
    order.child(pay, compensatable=False, name="settle")(lambda ctx: {})
    memory = begun(order.build())
    until_the_child_runs(memory)
    kept = [m for m in memory.queue if m[2].key.saga_id != SAGA_ID]
    memory.ask(CancelRequested(by="me", at=memory.now))
    memory.queue = [m for m in memory.queue if m[2].key.saga_id == SAGA_ID]
    while memory.saga().live:
        memory.deliver()
    assert memory.saga("pay").live
    memory.queue = kept
    memory.quiet()
    assert memory.saga("pay").state is SagaState.COMPLETED
    assert memory.saga("pay").expires_at is not None


# -- the rules -------------------------------------------------------------------------


def test_nobody_undoes_a_saga_that_is_nobodys_child(world):
    memory = begun(family(world))
    saga = memory.quiet()
    event = UndoRequested(by="me", at=memory.now)
    assert apply(memory.definition, saga, event) == Ignored(Reason.CLOSED)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (SagaState.RUNNING, Reason.LIVE),
        (SagaState.FAILED, Reason.PARKED),
        (SagaState.COMPENSATED, Reason.CLOSED),
    ],
)
def test_only_what_is_complete_is_undone(world, status, reason):
    memory = begun(family(world))
    memory.quiet()
    child = replace(memory.saga("pay"), status=status)
    definition = memory.known[child.definition]
    outcome = apply(definition, child, UndoRequested(by="me", at=memory.now))
    assert outcome == Ignored(reason)


def test_a_child_that_needs_no_undo_is_undone_at_once(world):
    pay = Saga("pay")
    pay.step(name="look", compensatable=False)(lambda ctx: None)
    order = Saga("order")
    order.child(pay, name="settle")(lambda ctx: {})
    step(order, world, "ship")
    world.refuses.add("ship")
    memory = begun(order.build())
    assert memory.quiet().state is SagaState.COMPENSATED
    assert memory.saga("pay").state is SagaState.COMPENSATED


def test_a_rest_of_what_was_never_asked_for_wakes_nobody(world):
    memory = begun(family(world))
    event = ChildRests(step=1, at=memory.now)
    assert apply(memory.definition, memory.saga(), event) == Ignored(Reason.OTHER_STEP)
    ended = memory.quiet()
    assert apply(memory.definition, ended, event) == Ignored(Reason.CLOSED)


def test_what_comes_next_for_a_step_with_a_child(world):
    memory = begun(family(world))
    d = memory.definition
    memory.deliver()
    saga = memory.saga()
    assert next_action(d, saga, saga.lane, memory.now) == Execute("settle", 1)
    until_the_child_runs(memory)
    saga = memory.saga()
    assert next_action(d, saga, saga.lane, saga.lane.due_at) == Inquire("settle", 2)
    back = replace(saga, phase=Direction.COMPENSATION, status=SagaState.COMPENSATING)
    assert next_action(d, back, saga.lane, saga.lane.due_at) == Compensate(
        "settle", 2, in_doubt=False
    )


def test_the_fingerprint_tells_a_step_that_starts_a_saga_from_one_that_does_not(world):
    child = family(world)
    other = replace(
        child,
        steps=tuple(
            replace(s, child=None, into=None, compensatable=False) if s.child is not None else s
            for s in child.steps
        ),
    )
    assert child.fingerprint != other.fingerprint


def test_children_are_all_the_sagas_below(world):
    leaf = Saga("leaf")
    step(leaf, world, "x")
    middle = Saga("middle")
    middle.child(leaf, name="a")(lambda ctx: {})
    top = Saga("top")
    top.child(middle, name="b")(lambda ctx: {})
    built = top.build()
    assert [d.name for d in built.children] == ["middle", "leaf"]
    assert built.depth == 3


def test_sagas_within_sagas_are_bounded(world):
    saga = Saga("level1")
    step(saga, world, "x")
    for level in range(2, MAX_DEPTH + 1):
        outer = Saga(f"level{level}")
        outer.child(saga, name="inner")(lambda ctx: {})
        saga = outer
    saga.build()
    outer = Saga("too-deep")
    outer.child(saga, name="inner")(lambda ctx: {})
    with pytest.raises(DefinitionError, match="SAGA020 step inner"):
        outer.build()


def test_a_child_with_a_pivot_has_no_place_before_the_parents_pivot(world):
    pay = Saga("pay")
    pay.step(name="capture", pivot=True, compensatable=False)(lambda ctx: None)
    for pivot, compensatable, fits in (
        (False, True, False),
        (True, True, True),
        (False, False, True),
    ):
        order = Saga("order")
        order.child(pay, name="settle", pivot=pivot, compensatable=compensatable)(lambda ctx: {})
        if fits:
            order.build()
        else:
            with pytest.raises(DefinitionError, match="SAGA021 step settle"):
                order.build()


def test_undoing_the_child_is_the_compensation_and_there_is_no_other(world):
    order, pay = Saga("order"), Saga("pay")
    step(pay, world, "x")
    handle = order.child(pay, name="settle")(lambda ctx: {})
    handle.compensate(lambda ctx: None)
    with pytest.raises(DefinitionError, match="SAGA006"):
        order.build()


def test_into_goes_with_a_child():
    alone = StepDefinition(
        name="a", execute=Handler.of(lambda ctx: None), compensatable=False, into="x"
    )
    with pytest.raises(DefinitionError, match="SAGA005 step a: into= goes with child="):
        Definition(name="order", steps=(alone,))


def test_a_childs_secret_is_the_parents_and_nobody_elses():
    one = child_secret("00" * 16, "key")
    assert len(bytes.fromhex(one)) == 16
    assert one == child_secret("00" * 16, "key")
    assert one != child_secret("01" * 16, "key")
    assert one != child_secret("00" * 16, "other")
    assert child_secret("", "key") == ""


def test_a_parents_deadline_undoes_a_child_that_takes_too_long(world):
    pay = Saga("pay")
    pay.step(name="slow", delay=timedelta(seconds=200))(lambda ctx: None).compensate(
        lambda ctx: None
    )
    order = Saga("order", timeout=timedelta(seconds=60))
    order.child(pay, name="settle")(lambda ctx: {})
    memory = begun(order.build())
    saga = memory.quiet()
    assert saga.state is SagaState.COMPENSATED
    assert cause(saga).kind is CauseKind.DEADLINE
    assert memory.saga("pay").state is SagaState.COMPENSATED
    assert saga.steps[0].code is StepCode.COMPENSATED


# -- a table that does not answer --------------------------------------------------------


def only_at(
    memory: Memory, n: int, error: StoreError
) -> Callable[[Effect[object]], StoreError | None]:
    """This trouble at the nth effect."""
    return lambda _: error if memory.effects == n else None


LOST = StoreError("the answer was lost", ambiguous=True)
REFUSED = StoreError("throttled")


@pytest.mark.parametrize("error", [LOST, REFUSED], ids=["lost", "refused"])
@pytest.mark.parametrize(
    "refused", [(), ("ship",), ("capture",)], ids=["done", "undone", "child undone"]
)
def test_trouble_at_any_effect_changes_nothing_of_the_end(refused, error):
    plain = World()
    plain.refuses |= set(refused)
    whole = begun(family(plain))
    whole.quiet()
    for n in range(1, whole.effects + 1):
        world = World()
        world.refuses |= set(refused)
        memory = Memory(family(world))
        memory.fault = only_at(memory, n, error)
        memory.begin()
        saga = memory.quiet()
        assert saga.state is (SagaState.COMPENSATED if refused else SagaState.COMPLETED), n
        everything = {"reserve", "authorise", "capture", "ship"}
        assert world.left == (set() if refused else everything), n
        assert all(i.expires_at is not None for i in memory.sagas()), n


@pytest.mark.parametrize("error", [LOST, REFUSED], ids=["lost", "refused"])
def test_trouble_while_a_child_that_never_was_is_buried(error):
    for n in range(1, 30):
        world = World()
        memory = begun(family(world))
        memory.deliver()
        memory.dies_at = memory.effects + 3
        memory.deliver()
        memory.ask(CancelRequested(by="me", at=memory.now))
        memory.fault = only_at(memory, memory.effects + n, error)
        assert memory.quiet().state is SagaState.COMPENSATED, n
        assert not world.left, n


def test_a_table_that_takes_no_record_of_a_child_for_long_is_tried_again_later(world):
    world.refuses.add("ship")
    memory = begun(family(world))
    while memory.saga().lane.index < 2:
        memory.deliver()
    until = memory.now + 5 * 60_000

    def fault(effect: object) -> StoreError | None:
        return REFUSED if isinstance(effect, Record) and memory.now < until else None

    memory.fault = fault
    saga = memory.quiet()
    assert saga.state is SagaState.COMPENSATED
    assert memory.now >= until
    assert not world.left


def test_a_child_that_is_gone_while_it_is_waited_for_is_a_step_in_doubt(world):
    memory = begun(family(world))
    child = until_the_child_runs(memory)
    del memory.store._sagas[child.key]
    memory.queue = [m for m in memory.queue if m[2].key.saga_id == SAGA_ID]
    saga = memory.quiet()
    assert saga.state is SagaState.FAILED
    assert failure(saga).kind == "ChildGone"
    assert saga.steps[1].doubt


def test_a_child_that_does_not_fit_is_a_step_that_failed(world):
    memory = Memory(family(world))
    memory.store = InMemorySagaStore(
        measure=lambda i: 10**6 if i.definition_name == "pay" and not i.version else 1
    )
    memory.begin()
    saga = memory.quiet()
    assert saga.state is SagaState.COMPENSATED
    assert error_of(saga, 1).kind == "ChildTooLarge"


def test_a_dead_letter_of_a_saga_whose_code_is_gone_lets_go_of_nobody(world):
    memory = begun(family(world))
    memory.quiet()
    saga = memory.saga()
    message = WorkMessage(saga.key, 1, saga.definition, "x", "x")
    delivery = Delivery("d", memory.now, memory.now + 9_000, 0, 0.0)
    decision = memory.run(revive(message, delivery, lambda _: None))
    assert decision.acknowledge


def test_a_grandchild_that_ends_after_its_parent_is_kept_for_the_eldest(world):
    leaf, middle, top = Saga("leaf"), Saga("middle"), Saga("top", timeout=timedelta(days=1))
    step(leaf, world, "x")
    middle.child(leaf, name="leaf", compensatable=False)(lambda ctx: {})
    top.child(middle, name="middle")(lambda ctx: {})
    top.step(name="slow", delay=timedelta(hours=5), compensatable=False)(lambda ctx: None)
    memory = begun(top.build())
    until_the_child_runs(memory, "leaf")
    leaf_messages = [m for m in memory.queue if m[2].definition == memory.saga("leaf").definition]
    memory.queue = [m for m in memory.queue if m not in leaf_messages]
    memory.ask(CancelRequested(by="me", at=memory.now), memory.saga("middle").id)
    while memory.saga("middle").live:
        memory.deliver()
    memory.queue += leaf_messages
    while memory.saga("leaf").live:
        memory.deliver()
    assert memory.saga("leaf").expires_at is None
    memory.quiet()
    assert memory.saga("leaf").expires_at is not None


def test_a_child_whose_parent_always_moves_before_it_can_be_told_is_not_acknowledged(world):
    """The wake-up races with the parent's own moves; after ten it is left to the message."""
    memory = begun(family(world))
    child = until_the_child_runs(memory)
    races: list[int] = []

    def rival(effect: Effect[object]) -> StoreError | None:
        if isinstance(effect, Record) and effect.before.id == SAGA_ID:
            parent = memory.saga()
            races.append(parent.version)
            memory.store._sagas[parent.key] = replace(parent, version=parent.version + 1)
        return None

    memory.fault = rival
    while memory.saga("pay").live:
        memory.deliver()
    assert len(races) == 10
    assert [m[2].key for m in memory.queue] == [child.key]  # it comes back
    memory.fault = lambda _: None
    assert memory.quiet().state is SagaState.COMPLETED
    assert world.left == {"reserve", "authorise", "capture", "ship"}


def of_a_child(world: World) -> tuple[Definition, SagaInstance]:
    """A saga of one step, which is claimed and stands for another saga."""
    inner, outer = Saga("inner"), Saga("outer", timeout=timedelta(days=1))
    step(inner, world, "x")
    outer.child(inner, name="pay")(lambda ctx: {})
    definition = outer.build()
    memory = Memory(definition)
    memory.begin()
    i = memory.saga()
    claim = Claimed(
        claim_id="c1", epoch=1, definition=i.definition, until=memory.now + 1, at=memory.now
    )
    outcome = apply(definition, i, claim)
    assert isinstance(outcome, Moved)
    return definition, outcome.instance


def test_a_child_that_is_found_stopped_is_named_by_the_step_and_by_the_saga(world):
    definition, i = of_a_child(world)
    outcome = apply(definition, i, ChildStopped(claim_id="c1", child="child1", at=i.updated_at))
    assert isinstance(outcome, Moved)
    stopped = outcome.instance
    assert (stopped.state, stopped.why) == (SagaState.FAILED, Why.CHILD_FAILED)
    assert failure(stopped).kind == "ChildFailed"
    assert "child1 is FAILED" in failure(stopped).message
    assert stopped.steps[0].child == "child1"


def test_a_heartbeat_is_nothing_that_a_child_gives(world):
    definition, i = of_a_child(world)
    waits = ChildWaits(claim_id="c1", child="child1", wait_ms=5_000, at=i.updated_at)
    outcome = apply(definition, i, waits)
    assert isinstance(outcome, Moved)
    beat = HeartbeatReceived(step="pay", by="ann", at=i.updated_at)
    assert apply(definition, outcome.instance, beat) == Ignored(Reason.NOT_ASKED)


def test_a_child_whose_messages_die_stops_and_its_parent_hears_of_it(world):
    memory = begun(family(world))
    child = until_the_child_runs(memory)
    while memory.saga().lane.lease is not None:
        memory.deliver()
    memory.queue = []
    while memory.saga("pay").live:
        lane = memory.saga("pay").lane
        memory.now = max(memory.now + 60_000, lane.due_at)
        message = WorkMessage(child.key, lane.epoch, child.definition, "x", "x")
        delivery = Delivery(f"d{memory.new_id()}", memory.now, memory.now + 9_000, 0, 0.0)
        assert memory.run(revive(message, delivery, memory.known.get)).acknowledge
    assert memory.saga("pay").why is Why.STALLED
    assert [m[2].key for m in memory.queue if m[2].reason == "child"] == [memory.saga().key]
    assert memory.saga().lane.due_at <= memory.now
    while memory.saga().live:
        memory.deliver()
    assert memory.saga().why is Why.CHILD_FAILED


def test_a_child_that_a_person_ends_tells_its_parent_at_once(world):
    memory = begun(family(world))
    child = until_the_child_runs(memory)
    memory.queue = []
    memory.now += 5_000
    memory.ask(CancelRequested(by="me", at=memory.now), child.id)
    lane = memory.saga("pay").lane
    assert lane.tries == 0
    assert not memory.saga().steps[1].doubt
    message = WorkMessage(child.key, lane.epoch, child.definition, "x", "x")
    memory.queue = [(memory.now, 0, message)]
    memory.deliver()  # the claim that turns it round, with nothing to undo
    assert memory.saga("pay").state is SagaState.COMPENSATED
    assert [m[2].key.saga_id for m in memory.queue] == [SAGA_ID]


def test_a_child_that_a_person_skips_to_its_end_tells_its_parent_at_once(world):
    inner, outer = Saga("inner"), Saga("outer", timeout=timedelta(days=1))
    step(inner, world, "x")
    outer.child(inner, name="pay", compensatable=False)(lambda ctx: {})
    memory = Memory(outer.build())
    memory.begin()
    child = until_the_child_runs(memory, "inner")
    stalled = replace(child, status=SagaState.FAILED, why=Why.STALLED, failure=StepError("x", "y"))
    memory.store._sagas[child.key] = stalled
    memory.queue = []
    memory.now += 5_000
    memory.ask(SkipRequested(step="x", by="me", at=memory.now), child.id)
    assert memory.saga("inner").state is SagaState.COMPLETED
    assert [(m[0], m[2].key.saga_id) for m in memory.queue] == [(memory.now, SAGA_ID)]
    assert memory.saga().lane.due_at == memory.now
