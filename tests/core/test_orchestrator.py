from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from saga_core.authoring import Saga
from saga_core.calls import Direction, StepCall
from saga_core.contexts import StandardContextCodec
from saga_core.definition import DEFAULT_TIMEOUT, Function
from saga_core.effects import MarkSwept
from saga_core.errors import (
    AlreadyCompletedError,
    CompensationFailedError,
    DefinitionError,
    DefinitionMismatchError,
    DuplicateSagaError,
    IllegalEventError,
    ItemTooLargeError,
    NotAllowedError,
    SagaNotFoundError,
    SagaStalledError,
    StaleInstanceError,
    StoreError,
)
from saga_core.events import Claimed, DeliveryExhausted, TakenOver
from saga_core.identity import input_fingerprint, saga_id_for
from saga_core.instance import (
    CauseKind,
    SagaInstance,
    SagaState,
    StepStatus,
    Why,
)
from saga_core.memory import InMemorySagaStore
from saga_core.orchestrator import (
    ATTEMPT_MS,
    Environment,
    OrchestratorBuilder,
    SagaOrchestrator,
    _AsyncDriver,
)
from saga_core.outcome import Fatal, OutcomeUnknown, StepError
from saga_core.retry import COMPENSATION_DEFAULT, FORWARD_DEFAULT, RetryPolicy
from saga_core.transition import Moved, apply, claim
from saga_core.turn import LEASE_MARGIN_MS
from tests.core.inprocess import Context, HandClock, Journal, Killed, RecordingStore
from tests.core.sagas import MINUTE, SECOND, T0, new, nothing

AT_ONCE = RetryPolicy(max_attempts=3, base=timedelta(0))
TWICE = RetryPolicy(max_attempts=2, base=timedelta(seconds=10))


def named(*names: str, clock: HandClock | None = None, store: RecordingStore | None = None):
    """A builder for a saga of steps that work."""
    builder = SagaOrchestrator.builder("order").store(store or RecordingStore())
    builder.environment((clock or HandClock()).environment())
    for name in names:
        builder.step(name, nothing, nothing)
    return builder


def last(saga: SagaOrchestrator) -> SagaInstance:
    assert isinstance(saga.store, RecordingStore)
    return saga.store.history[-1]


def only_id(saga: SagaOrchestrator) -> str:
    return last(saga).id


# -- start ---------------------------------------------------------------------------


def test_start_runs_the_saga_and_gives_its_id():
    saga = named("a").build()
    saga_id = asyncio.run(saga.start({"x": 1}))
    assert saga_id == only_id(saga)
    assert last(saga).state is SagaState.COMPLETED
    assert last(saga).tenant == "default"


def test_a_started_saga_is_stored_as_the_environment_says():
    clock = HandClock()
    saga = named("a", clock=clock).build()
    asyncio.run(saga.start({"x": 1}))
    assert isinstance(saga.store, RecordingStore)
    first = saga.store.history[0]
    assert first.id == saga_id_for("default", f"{1:032x}")
    assert first.incarnation == "00000000"
    assert first.created_at == T0
    assert first.context_text == '{"x":1}'
    assert first.input_fingerprint == input_fingerprint("order", '{"x":1}')
    lease = saga.store.history[1].lane.lease
    assert lease is not None
    assert lease.id == f"{3:032x}"
    assert lease.until == T0 + ATTEMPT_MS + LEASE_MARGIN_MS


def test_the_id_of_a_saga_is_derived_from_tenant_and_key():
    saga = replace_tenant(named("a").build(), "acme")
    saga_id = asyncio.run(saga.start({}, idempotency_key="k1"))
    assert saga_id == saga_id_for("acme", "k1")
    assert saga_id != saga_id_for("default", "k1")


def replace_tenant(saga: SagaOrchestrator, tenant: str) -> SagaOrchestrator:
    return SagaOrchestrator(
        saga.definition,
        InMemorySagaStore(tenant=tenant),
        saga.codec,
        saga.environment,
        tenant,
    )


def test_the_same_key_and_input_find_the_saga_that_exists():
    journal = Journal()
    saga = named().step("a", journal.does("a"), journal.undoes("a")).build()
    first = asyncio.run(saga.start({"x": 1, "y": 2}, idempotency_key="k"))
    again = asyncio.run(saga.start({"y": 2, "x": 1}, idempotency_key="k"))
    assert first == again
    assert journal.lines == ["do a"]


def test_the_same_key_with_another_input_is_refused():
    saga = named("a").build()
    first = asyncio.run(saga.start({"x": 1}, idempotency_key="k"))
    with pytest.raises(DuplicateSagaError) as caught:
        asyncio.run(saga.start({"x": 2}, idempotency_key="k"))
    assert caught.value.saga_id == first


def test_a_context_that_does_not_fit_begins_nothing():
    @dataclass
    class Named:
        name: str

    saga = Saga("typed", context=Named)
    saga.step(name="a", compensatable=False)(nothing)
    store = RecordingStore()
    orchestrator = SagaOrchestrator(saga.build(), store=store)
    with pytest.raises(TypeError, match="nmae"):
        asyncio.run(orchestrator.start({"nmae": "x"}))
    assert store.history == []


def test_an_input_of_64_kb_is_the_largest_one():
    saga = named("a").build()
    asyncio.run(saga.start("x" * (64 * 1024 - 2)))
    with pytest.raises(ItemTooLargeError) as caught:
        asyncio.run(saga.start("é" * (32 * 1024), idempotency_key="big"))
    assert caught.value.saga_id == saga_id_for("default", "big")
    assert (caught.value.size, caught.value.limit) == (64 * 1024 + 2, 64 * 1024)
    assert isinstance(saga.store, RecordingStore)
    assert len({i.id for i in saga.store.history}) == 1


@pytest.mark.parametrize("bad", [{1, 2}, float("nan"), object()])
def test_an_input_that_cannot_be_written_as_json_starts_nothing(bad):
    saga = named("a").build()
    with pytest.raises((TypeError, ValueError)):
        asyncio.run(saga.start(bad))
    assert isinstance(saga.store, RecordingStore)
    assert saga.store.history == []


# -- handlers and their context ------------------------------------------------------


def test_handlers_may_be_sync_or_async_and_take_one_argument_or_two():
    seen: list[str] = []

    def sync_one(ctx: Context) -> None:
        seen.append("sync one")

    def sync_two(ctx: Context, call: StepCall) -> None:
        seen.append(f"sync two {call.step}")

    async def async_one(ctx: Context) -> None:
        await asyncio.sleep(0)
        seen.append("async one")

    async def async_two(ctx: Context, call: StepCall) -> None:
        await asyncio.sleep(0)
        seen.append(f"async two {call.direction}")

    saga = (
        named()
        .step("a", sync_one, async_two)
        .step("b", sync_two, async_one)
        .step("c", async_one, nothing)
        .step("d", async_two, nothing)
        .step("e", Journal().fails("e", ValueError("no")), nothing)
        .build()
    )
    asyncio.run(saga.start({}))
    assert seen == [
        "sync one",
        "sync two b",
        "async one",
        "async two F",
        "async one",
        "async two C",
    ]


def test_a_handler_may_change_its_context_or_return_another():
    def change(ctx: Context) -> None:
        ctx["changed"] = True

    def give(ctx: Context) -> Context:
        return {**ctx, "given": True}

    saga = named().step("a", change, nothing).step("b", give, nothing).build()
    asyncio.run(saga.start({}))
    assert last(saga).context == {"changed": True, "given": True}


def test_an_attempt_that_failed_leaves_no_trace_in_the_context():
    journal = Journal()
    execute = journal.fails("a", ValueError("no"))
    saga = named().step("a", execute, nothing, retry=AT_ONCE).build()
    seen: list[object] = []
    asyncio.run(saga.start({}))
    assert isinstance(saga.store, RecordingStore)
    seen = [i.context for i in saga.store.history]
    assert seen == [{}, {}, {}, {}, {"a": "done"}]


@dataclass
class Order:
    sku: str
    quantity: int = 1


def test_the_type_of_a_context_that_is_not_declared_is_that_of_starts_argument():
    seen: list[object] = []
    saga = named().step("a", seen.append, nothing).build()
    saga_id = asyncio.run(saga.start(Order("tea", 2)))
    assert seen == [Order("tea", 2)]
    state = asyncio.run(saga.get_state(saga_id))
    assert state is not None
    assert state.context == Order("tea", 2)


def test_a_declared_context_type_is_what_handlers_get():
    seen: list[object] = []
    saga = named().step("a", seen.append, nothing).context(Order).build()
    saga_id = asyncio.run(saga.start({"sku": "tea"}))
    assert seen == [Order("tea", 1)]
    state = asyncio.run(saga.get_state(saga_id))
    assert state is not None
    assert state.context == Order("tea", 1)


def test_every_handler_gets_a_copy_of_its_own():
    seen: list[Order] = []
    saga = named().step("a", seen.append, nothing).step("b", seen.append, nothing).build()
    order = Order("tea")
    asyncio.run(saga.start(order))
    assert seen == [order, order]
    assert len({id(o) for o in (*seen, order)}) == 3


@pytest.mark.parametrize(
    "bad", [lambda ctx: ctx.update(x={1}), lambda ctx: ctx.update(x="\ud800")], ids=["set", "half"]
)
def test_a_context_that_cannot_be_written_puts_the_step_in_doubt_and_rolls_back(bad):
    journal = Journal()
    saga = (
        named()
        .step("a", journal.does("a"), journal.undoes("a"))
        .step("b", bad, journal.undoes("b"), retry=AT_ONCE)
        .build()
    )
    asyncio.run(saga.start({}))
    assert journal.lines == ["do a", "undo b", "undo a"]
    b = last(saga).step_results[1]
    assert b.error is not None
    assert b.error.kind == "ContextNotSerialisable"
    assert b.attempts == 1
    assert last(saga).context == {"a": "undone", "b": "undone"}


def test_a_context_that_grows_too_large_puts_the_step_in_doubt_and_rolls_back():
    journal = Journal()
    saga = (
        named()
        .step("a", journal.does("a"), journal.undoes("a"))
        .step("b", lambda ctx: "x" * 400_000, journal.undoes("b"))
        .context(object)
        .build()
    )
    asyncio.run(saga.start({}))
    assert journal.lines == ["do a", "undo b", "undo a"]
    b = last(saga).step_results[1]
    assert b.error is not None
    assert b.error.kind == "ItemTooLargeError"
    assert last(saga).state is SagaState.COMPENSATED


def test_a_handler_that_returns_another_type_puts_its_step_in_doubt():
    saga = named().step("a", lambda ctx: 7, nothing).build()
    asyncio.run(saga.start({}))
    a = last(saga).step_results[0]
    assert a.error == StepError(
        "ContextNotSerialisable", "a handler returns None or a dict, not int"
    )
    assert last(saga).state is SagaState.COMPENSATED
    assert a.undo_attempts == 1


def test_a_call_of_this_process_has_a_deadline():
    seen: list[StepCall] = []
    saga = named().step("a", lambda ctx, call: seen.append(call), nothing).build()
    asyncio.run(saga.start({}))
    (call,) = seen
    assert call.deadline.timestamp() * 1000 == T0 + ATTEMPT_MS - 5 * SECOND
    assert call.idempotency_key == f"{only_id(saga)}.00000000:a:F"
    assert (call.attempt, call.fence) == (1, 2)


# -- known failed, or in doubt -------------------------------------------------------


class PaymentError(Exception):
    """A user's own error."""


class DeclinedError(PaymentError):
    """Another."""


def raising(make: Callable[[], Exception], *cause: Exception | None) -> Function:
    """A handler that fails, from a cause if one is given."""

    def execute(ctx: Context) -> None:
        for given in cause:
            raise make() from given
        raise make()

    return execute


def one_step(execute, **options) -> tuple[SagaOrchestrator, list[str]]:
    journal = Journal()
    saga = named().step("a", execute, journal.undoes("a"), **options).build()
    asyncio.run(saga.start({}))
    return saga, journal.lines


@pytest.mark.parametrize(
    "execute",
    [
        raising(TimeoutError),
        raising(ConnectionResetError),
        raising(OutcomeUnknown),
        raising(PaymentError, TimeoutError("read")),
        raising(PaymentError, OutcomeUnknown("?")),
        raising(lambda: ExceptionGroup("both", [ValueError("no"), TimeoutError("read")])),
        raising(PaymentError, ExceptionGroup("inner", [ConnectionError("reset")])),
    ],
    ids=["timeout", "reset", "said so", "wrapped", "wrapped doubt", "group", "wrapped group"],
)
def test_a_lost_reply_is_in_doubt_and_is_undone(execute):
    saga, undone = one_step(execute)
    assert undone == ["undo a"]
    assert last(saga).step_results[0].status is StepStatus.COMPENSATED


@pytest.mark.parametrize(
    "execute",
    [
        raising(PaymentError),
        raising(PaymentError, None),
        raising(Fatal, TimeoutError("read")),
        raising(lambda: ExceptionGroup("both", [ValueError("no"), KeyError("x")])),
    ],
    ids=["plain", "from none", "fatal", "group"],
)
def test_a_plain_exception_is_known_failed_and_is_not_undone(execute):
    saga, undone = one_step(execute)
    assert undone == []
    assert last(saga).step_results[0].status is StepStatus.FAILED


def lose_the_reply() -> None:
    raise TimeoutError


def test_a_lost_reply_that_was_handled_with_from_none_is_not_in_doubt():
    def execute(ctx: Context) -> None:
        try:
            lose_the_reply()
        except TimeoutError:
            raise PaymentError from None

    _, undone = one_step(execute)
    assert undone == []


def test_a_lost_reply_behind_another_error_is_in_doubt():
    def execute(ctx: Context) -> None:
        try:
            lose_the_reply()
        except TimeoutError:
            raise PaymentError  # noqa: B904 - as a user forgets it

    _, undone = one_step(execute)
    assert undone == ["undo a"]


def test_in_doubt_on_widens_what_is_in_doubt():
    _, undone = one_step(raising(DeclinedError), in_doubt_on=(PaymentError,))
    assert undone == ["undo a"]
    _, undone = one_step(raising(DeclinedError), in_doubt_on=(KeyError,))
    assert undone == []


def test_fatal_on_and_fatal_are_not_tried_again():
    journal = Journal()
    for error, options in ((Fatal("no"), {}), (DeclinedError("no"), {"fatal_on": (PaymentError,)})):
        one_step(journal.fails("do a", error, error), retry=AT_ONCE, **options)
    assert journal.lines == ["do a", "do a"]


def test_a_failure_is_tried_again_as_often_as_the_policy_says():
    journal = Journal()
    no = ValueError("no")
    saga, _ = one_step(journal.fails("do a", no, no), retry=AT_ONCE)
    assert last(saga).state is SagaState.COMPLETED
    saga, _ = one_step(journal.fails("do a", no, no, no), retry=AT_ONCE)
    assert last(saga).state is SagaState.COMPENSATED
    assert journal.lines == ["do a"] * 6


def test_attempts_of_one_step_share_one_key():
    calls: list[StepCall] = []

    def execute(ctx: Context, call: StepCall) -> None:
        calls.append(call)
        if len(calls) < 3:
            raise TimeoutError

    one_step(execute, retry=AT_ONCE)
    assert [c.attempt for c in calls] == [1, 2, 3]
    assert len({c.idempotency_key for c in calls}) == 1
    assert [c.fence for c in calls] == sorted({c.fence for c in calls})


def test_a_pause_between_attempts_is_slept_in_looks_of_a_second():
    clock = HandClock()
    journal = Journal()
    retry = RetryPolicy(max_attempts=2, base=timedelta(seconds=5))
    builder = named(clock=clock).step(
        "a", journal.fails("do a", ValueError("no")), nothing, retry=retry
    )
    asyncio.run(builder.build().start({}))
    assert clock.slept == [1.0, 1.0, 0.5]
    assert clock.now == T0 + 2500


def test_a_pause_that_is_over_by_the_time_one_looks_is_not_slept():
    clock = HandClock()
    builder = named(clock=clock).step(
        "a", Journal().fails("do a", ValueError("no")), nothing, retry=TWICE
    )
    saga = builder.build()

    def passing() -> int:
        clock.now += 3 * SECOND
        return clock.now

    saga.environment = replace(saga.environment, now_ms=passing)
    asyncio.run(saga.start({}))
    assert clock.slept == [0.0]


# -- the process dies ----------------------------------------------------------------


def dying(journal: Journal, store: RecordingStore, *errors: BaseException, **options):
    builder = named(store=store)
    builder.step("a", journal.does("a"), journal.undoes("a"))
    builder.step("b", journal.fails("do b", *errors), journal.undoes("b"), **options)
    return builder.build()


def test_a_kill_is_never_recorded_as_an_outcome():
    journal, store = Journal(), RecordingStore()
    saga = dying(journal, store, Killed(), in_doubt_on=(Exception,))
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    assert last(saga).lane.lease is not None
    assert last(saga).step_results[1].status is StepStatus.RUNNING
    assert last(saga).step_results[1].error is None
    assert asyncio.run(store.list_incomplete()) == [only_id(saga)]


def test_a_task_that_is_cancelled_is_never_recorded_as_an_outcome():
    store = RecordingStore()

    async def forever(ctx: Context) -> None:
        await asyncio.Event().wait()

    saga = named(store=store).step("a", forever, nothing, in_doubt_on=(Exception,)).build()

    async def main() -> None:
        task = asyncio.create_task(saga.start({}))
        for _ in range(20):
            await asyncio.sleep(0)  # let it begin
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert last(saga).step_results[0].status is StepStatus.RUNNING


def test_resume_takes_over_at_once_and_runs_the_attempt_again_under_its_key():
    calls: list[StepCall] = []
    store, clock = RecordingStore(), HandClock()

    def execute(ctx: Context, call: StepCall) -> None:
        calls.append(call)
        if len(calls) == 1:
            raise Killed

    saga = named(store=store, clock=clock).step("a", execute, nothing).build()
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPLETED
    assert clock.slept == []
    assert [i.updated_at for i in store.history] == [T0] * 5
    assert [c.attempt for c in calls] == [1, 2]
    assert calls[0].idempotency_key == calls[1].idempotency_key
    taken_over = next(i for i in store.history[2:])
    assert taken_over.step_results[0].status is StepStatus.IN_DOUBT


def test_a_step_that_was_taken_over_stays_in_doubt_through_a_clean_failure():
    journal, store = Journal(), RecordingStore()
    saga = dying(journal, store, Killed(), ValueError("no"))
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPENSATED
    assert journal.lines == ["do a", "do b", "do b", "undo b", "undo a"]


def test_a_step_whose_process_dies_again_and_again_is_given_up():
    journal, store = Journal(), RecordingStore()
    saga = dying(journal, store, *[Killed()] * 3)
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    for _ in range(2):
        with pytest.raises(Killed):
            asyncio.run(saga.resume(only_id(saga)))
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPENSATED
    assert journal.lines == ["do a", "do b", "do b", "do b", "undo b", "undo a"]


def test_a_compensation_that_was_interrupted_is_made_again():
    journal, store = Journal(), RecordingStore()
    saga = (
        named(store=store)
        .step("a", journal.does("a"), journal.fails("undo a", Killed()))
        .step("b", journal.fails("do b", ValueError("no")), nothing)
        .build()
    )
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    assert last(saga).state is SagaState.COMPENSATING
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPENSATED
    assert journal.lines == ["do a", "do b", "undo a", "undo a"]


# -- resume --------------------------------------------------------------------------


def test_resume_of_an_unknown_saga_says_so():
    with pytest.raises(SagaNotFoundError) as caught:
        asyncio.run(named("a").build().resume("nobody"))
    assert caught.value.saga_id == "nobody"


@pytest.mark.parametrize("rolled_back", [False, True])
def test_resume_of_a_saga_that_has_ended_says_so(rolled_back):
    execute = Journal().fails("do a", *([ValueError("no")] if rolled_back else []))
    saga = named().step("a", execute, nothing).build()
    saga_id = asyncio.run(saga.start({}))
    with pytest.raises(AlreadyCompletedError) as caught:
        asyncio.run(saga.resume(saga_id))
    assert caught.value.saga_id == saga_id
    assert caught.value.state == ("COMPENSATED" if rolled_back else "COMPLETED")


def test_resume_goes_on_with_a_saga_that_was_stored_and_never_begun():
    store = RecordingStore()
    saga = named("a", store=store).build()
    stored = asyncio.run(store.save(new(saga.definition)))
    assert asyncio.run(saga.resume(stored.id)) is SagaState.COMPLETED
    assert [i.version for i in store.history] == [1, 2, 3]


def test_resume_needs_the_definition_that_the_saga_was_started_with():
    store = RecordingStore()
    saga = dying(Journal(), store, Killed())
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    other = named("a", store=store).build()
    for attempt in (other.resume, other.cancel):
        with pytest.raises(DefinitionMismatchError) as caught:
            asyncio.run(attempt(only_id(saga)))
    assert caught.value.saga_id == only_id(saga)
    assert caught.value.wanted == saga.definition.ref
    assert caught.value.deployed == (other.definition.ref,)
    assert len(store.history) == 4


def test_resume_of_a_failed_saga_raises_again_while_its_compensation_fails():
    journal = Journal()
    stuck = Fatal("stuck")
    saga = (
        named()
        .step("a", journal.does("a"), journal.fails("undo a", stuck, stuck))
        .step("b", journal.fails("do b", ValueError("no")), nothing)
        .build()
    )
    with pytest.raises(CompensationFailedError) as caught:
        asyncio.run(saga.start({}))
    for attempts in (1, 2):
        assert caught.value.attempts == attempts
        assert caught.value.__notes__ == ["Fatal: stuck"]
        if attempts == 1:
            with pytest.raises(CompensationFailedError) as caught:
                asyncio.run(saga.resume(only_id(saga)))
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPENSATED


def test_with_continue_the_rest_is_undone_and_the_saga_is_failed_all_the_same():
    journal = Journal()
    saga = (
        named()
        .step("a", journal.does("a"), journal.undoes("a"))
        .step("b", journal.does("b"), journal.fails("undo b", Fatal("stuck")))
        .step("c", journal.fails("do c", ValueError("no")), nothing)
        .on_compensation_failure("continue")
        .build()
    )
    with pytest.raises(CompensationFailedError) as caught:
        asyncio.run(saga.start({}))
    assert (caught.value.step, caught.value.standing) == ("b", ("b",))
    assert journal.lines[-2:] == ["undo b", "undo a"]
    assert last(saga).state is SagaState.FAILED
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPENSATED


def stalled_in_b(journal: Journal) -> SagaOrchestrator:
    """A saga that stopped while its second step was in doubt."""
    store = RecordingStore()
    saga: SagaOrchestrator = dying(journal, store, Killed())
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    stalled = last(saga)
    while stalled.live:
        at = max(stalled.lane.due_at, T0 + 2 * ATTEMPT_MS) + MINUTE
        event = DeliveryExhausted(
            epoch=stalled.lane.epoch,
            definition=stalled.definition,
            nudge_id="n",
            error=StepError("x", "y"),
            at=at,
        )
        outcome = apply(saga.definition, stalled, event)
        assert isinstance(outcome, Moved)
        stalled = asyncio.run(store.save(outcome.instance))
    assert stalled.why is Why.STALLED
    return saga


def test_a_saga_that_stalls_here_is_raised():
    """The guard against loops; what it stopped at can be resumed."""
    store = RecordingStore()
    saga: SagaOrchestrator = dying(Journal(), store, Killed())
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    asyncio.run(store.save(replace(last(saga), hops=10_000)))
    with pytest.raises(SagaStalledError, match="HopLimit"):
        asyncio.run(saga.resume(only_id(saga)))
    assert last(saga).why is Why.STALLED
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPLETED


def test_a_saga_that_stalled_is_resumed():
    saga = stalled_in_b(Journal())
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPLETED


def test_a_saga_that_stalled_is_rolled_back_by_a_cancel_and_a_resume():
    journal = Journal()
    saga = stalled_in_b(journal)
    assert asyncio.run(saga.cancel(only_id(saga))) is SagaState.COMPENSATING
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPENSATED
    assert journal.lines == ["do a", "do b", "undo b", "undo a"]


# -- cancel --------------------------------------------------------------------------


def test_a_cancel_while_a_step_is_in_flight_undoes_that_step_too():
    journal = Journal()
    store, clock = RecordingStore(), HandClock()
    answers: list[SagaState] = []

    async def execute(ctx: Context) -> None:
        journal.lines.append("do b")
        answers.append(await saga.cancel(store.history[-1].id, by="ops"))
        answers.append(await saga.cancel(store.history[-1].id, by="somebody else"))

    saga = (
        named(store=store, clock=clock)
        .step("a", journal.does("a"), journal.undoes("a"))
        .step("b", execute, journal.undoes("b"))
        .step("c", journal.does("c"), journal.undoes("c"))
        .build()
    )
    asyncio.run(saga.start({}))
    assert answers == [SagaState.RUNNING, SagaState.RUNNING]
    assert clock.slept == [0.05]  # between the commit that lost and the one that won
    assert journal.lines == ["do a", "do b", "undo b", "undo a"]
    assert last(saga).state is SagaState.COMPENSATED
    cause = last(saga).cause
    assert cause is not None
    assert (cause.kind, cause.by) == (CauseKind.CANCELLED, "ops")


def test_a_cancel_has_a_name_by_default():
    store = RecordingStore()

    async def execute(ctx: Context) -> None:
        await saga.cancel(store.history[-1].id)

    saga = named(store=store).step("a", execute, nothing).build()
    asyncio.run(saga.start({}))
    cause = last(saga).cause
    assert cause is not None
    assert cause.by == "cancel"


def test_a_cancel_during_a_pause_ends_the_pause():
    clock = HandClock()
    store = RecordingStore()
    journal = Journal()
    retry = RetryPolicy(max_attempts=2, base=timedelta(minutes=10), cap=timedelta(minutes=10))
    saga = (
        named(clock=clock, store=store)
        .step("a", journal.does("a"), journal.undoes("a"))
        .step("b", journal.fails("do b", ValueError("no")), nothing, retry=retry)
        .build()
    )

    def cancel() -> None:
        asyncio.run_coroutine_threadsafe(saga.cancel(only_id(saga)), asyncio.get_running_loop())

    async def main() -> None:
        clock.meanwhile = cancel
        await saga.start({})

    sleep = clock.sleep

    async def sleeping(seconds: float) -> None:
        await sleep(seconds)
        for _ in range(3):
            await asyncio.sleep(0)

    saga.environment = replace(saga.environment, sleep=sleeping)
    asyncio.run(main())
    assert last(saga).state is SagaState.COMPENSATED
    assert journal.lines == ["do a", "do b", "undo a"]
    assert clock.now == T0 + SECOND


def test_a_cancel_between_two_steps_does_not_disturb_who_runs_the_saga():
    journal = Journal()
    store = RacingStore()
    saga = (
        named(store=store)
        .step("a", journal.does("a"), journal.undoes("a"))
        .step("b", journal.does("b"), journal.undoes("b"))
        .build()
    )
    store.before_save[4] = lambda: saga.cancel(only_id(saga))
    asyncio.run(saga.start({}))
    assert last(saga).state is SagaState.COMPENSATED
    assert journal.lines == ["do a", "undo a"]


class RacingStore(RecordingStore):
    """A store at which somebody else is quicker, just before the nth save."""

    def __init__(self) -> None:
        super().__init__()
        self.before_save: dict[int, Callable[[], object]] = {}
        self.saves = 0

    async def save(self, instance: SagaInstance) -> SagaInstance:
        self.saves += 1
        quicker = self.before_save.pop(self.saves, None)
        if quicker is not None:
            happening = quicker()
            if asyncio.iscoroutine(happening):
                await happening
        return await super().save(instance)


def test_a_cancel_that_loses_a_race_looks_again():
    store = RacingStore()
    saga = dying(Journal(), store, Killed())
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))

    def taken_over() -> object:
        outcome = apply(saga.definition, last(saga), TakenOver(at=T0))
        assert isinstance(outcome, Moved)
        return RecordingStore.save(store, outcome.instance)

    store.before_save[store.saves + 1] = taken_over
    assert asyncio.run(saga.cancel(only_id(saga))) is SagaState.RUNNING
    assert last(saga).cancel is not None


def test_a_cancel_that_loses_every_race_gives_up():
    store = RacingStore()
    saga = dying(Journal(), store, Killed())
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    first = store.saves

    def touched() -> object:
        return RecordingStore.save(store, last(saga))

    for n in range(1, 30):
        store.before_save[first + n] = touched
    with pytest.raises(StaleInstanceError) as caught:
        asyncio.run(saga.cancel(only_id(saga)))
    assert (caught.value.saga_id, caught.value.version) == (only_id(saga), 13)
    assert store.saves == first + 10


def test_a_cancel_of_a_saga_that_nobody_runs_is_obeyed_by_resume():
    journal, store = Journal(), RecordingStore()
    saga = dying(journal, store, Killed())
    with pytest.raises(Killed):
        asyncio.run(saga.start({}))
    assert asyncio.run(saga.cancel(only_id(saga))) is SagaState.RUNNING
    assert asyncio.run(saga.resume(only_id(saga))) is SagaState.COMPENSATED
    assert journal.lines == ["do a", "do b", "undo b", "undo a"]


def test_a_cancel_of_a_saga_that_rolls_back_is_accepted():
    store = RecordingStore()
    answers: list[SagaState] = []

    async def undo(ctx: Context) -> None:
        answers.append(await saga.cancel(store.history[-1].id))

    saga = (
        named(store=store)
        .step("a", nothing, undo)
        .step("b", Journal().fails("do b", ValueError("no")), nothing)
        .build()
    )
    asyncio.run(saga.start({}))
    assert answers == [SagaState.COMPENSATING]


def test_a_cancel_of_a_saga_that_has_ended_or_stopped_is_not_allowed():
    saga = named("a").build()
    saga_id = asyncio.run(saga.start({}))
    with pytest.raises(NotAllowedError) as caught:
        asyncio.run(saga.cancel(saga_id))
    assert caught.value.saga_id == saga_id
    assert (caught.value.state, caught.value.reason) == ("COMPLETED", "closed")
    with pytest.raises(SagaNotFoundError):
        asyncio.run(saga.cancel("nobody"))


# -- deadline ------------------------------------------------------------------------


def test_the_default_deadline_is_five_minutes():
    assert timedelta(seconds=300) == DEFAULT_TIMEOUT
    saga = named("a").build()
    asyncio.run(saga.start({}))
    assert last(saga).deadline_at == T0 + 5 * MINUTE


@pytest.mark.parametrize("timeout", [timedelta(seconds=10), 10, 10.0])
def test_a_deadline_that_passes_between_two_steps_rolls_back(timeout):
    clock = HandClock()
    journal = Journal()

    def slow(ctx: Context) -> None:
        journal.lines.append("do a")
        clock.now += 10 * SECOND

    saga = (
        named(clock=clock)
        .step("a", slow, journal.undoes("a"))
        .step("b", journal.does("b"), journal.undoes("b"))
        .timeout(timeout)
        .build()
    )
    asyncio.run(saga.start({}))
    assert journal.lines == ["do a", "undo a"]
    assert last(saga).state is SagaState.COMPENSATED
    cause = last(saga).cause
    assert cause is not None
    assert cause.kind is CauseKind.DEADLINE


def test_a_deadline_that_passes_during_the_last_step_does_not_undo_it():
    clock = HandClock()

    def slow(ctx: Context) -> None:
        clock.now += 10 * SECOND

    saga = named(clock=clock).step("a", slow, nothing).timeout(1).build()
    asyncio.run(saga.start({}))
    assert last(saga).state is SagaState.COMPLETED


# -- what it can be asked ------------------------------------------------------------


def test_get_state_of_an_unknown_saga_is_none():
    assert asyncio.run(named("a").build().get_state("nobody")) is None


def test_list_incomplete_is_every_saga_that_moves():
    store = RecordingStore()
    asyncio.run(named("a", store=store).build().start({}))
    saga = dying(Journal(), store, Killed())
    with pytest.raises(Killed):
        asyncio.run(saga.start({}, idempotency_key="b"))
    assert asyncio.run(store.list_incomplete()) == [saga_id_for("default", "b")]


def test_an_orchestrator_has_a_store_a_codec_and_an_environment_of_its_own():
    saga = SagaOrchestrator(named("a").build().definition)
    assert isinstance(saga.store, InMemorySagaStore)
    assert isinstance(saga.codec, StandardContextCodec)
    assert isinstance(saga.environment, Environment)
    other = SagaOrchestrator(saga.definition)
    assert other.store is not saga.store
    assert saga.tenant == "default"


def test_the_environments_defaults_are_the_standard_librarys():
    environment = Environment()
    assert environment.sleep is asyncio.sleep
    one, two = environment.new_id(), environment.new_id()
    assert one != two
    assert len(one) == 32
    assert int(one, 16) >= 0
    assert 0 <= environment.jitter() < 1
    before = environment.now_ms()
    assert 1_700_000_000_000 < before <= environment.now_ms() < 10_000_000_000_000


# -- another process -----------------------------------------------------------------


def claimed_elsewhere(store: RecordingStore) -> None:
    """Another process makes the next claim."""
    found = store.history[-1]
    event = Claimed(
        claim_id="theirs",
        epoch=found.lane.epoch,
        definition=found.definition,
        until=T0 + ATTEMPT_MS,
        at=found.lane.due_at,
    )
    outcome = claim(found, event)
    assert isinstance(outcome, Moved)
    asyncio.run_coroutine_threadsafe(store.save(outcome.instance), asyncio.get_running_loop())


def test_who_finds_another_process_at_the_saga_stops_and_says_so():
    clock, store, journal = HandClock(), RecordingStore(), Journal()
    saga = (
        named(clock=clock, store=store)
        .step("a", journal.fails("do a", ValueError("no")), nothing, retry=TWICE)
        .build()
    )
    sleep = clock.sleep

    async def sleeping(seconds: float) -> None:
        await sleep(seconds)
        await asyncio.sleep(0)

    saga.environment = replace(saga.environment, sleep=sleeping)

    async def main() -> None:
        clock.meanwhile = lambda: claimed_elsewhere(store)
        await saga.start({})

    with pytest.raises(StaleInstanceError) as caught:
        asyncio.run(main())
    assert caught.value.saga_id == only_id(saga)
    assert journal.lines == ["do a"]


@pytest.mark.parametrize("far", ["gone", "moved on"])
def test_who_loses_the_saga_between_two_steps_stops_and_says_so(far):
    store, journal = RacingStore(), Journal()
    saga = (
        named(store=store)
        .step("a", journal.does("a"), nothing)
        .step("b", journal.does("b"), nothing)
        .build()
    )

    def theirs() -> object:
        found = last(saga)
        if far == "gone":
            store._sagas.clear()
            return None
        lane = replace(found.lane, epoch=found.lane.epoch + 1)
        return RecordingStore.save(store, replace(found, lane=lane))

    store.before_save[4] = theirs
    with pytest.raises(StaleInstanceError) as caught:
        asyncio.run(saga.start({}))
    assert (caught.value.saga_id, caught.value.version) == (only_id(saga), 3)
    assert journal.lines == ["do a"]


def test_who_is_taken_over_in_the_middle_of_a_step_stops_and_says_so():
    store = RecordingStore()

    async def execute(ctx: Context) -> None:
        outcome = apply(saga.definition, last(saga), TakenOver(at=T0))
        assert isinstance(outcome, Moved)
        await store.save(outcome.instance)

    saga = named(store=store).step("a", execute, nothing).build()
    with pytest.raises(StaleInstanceError):
        asyncio.run(saga.start({}))
    assert last(saga).state is SagaState.RUNNING
    assert last(saga).step_results[0].status is StepStatus.IN_DOUBT


def test_who_waits_for_a_saga_that_vanishes_says_so():
    clock, store = HandClock(), RecordingStore()
    saga = (
        named(clock=clock, store=store)
        .step("a", Journal().fails("do a", ValueError("no")), nothing, retry=TWICE)
        .build()
    )
    clock.meanwhile = store._sagas.clear
    with pytest.raises(SagaNotFoundError):
        asyncio.run(saga.start({}))


def test_a_store_that_does_not_answer_is_heard_of_at_once():
    class DownStore(RecordingStore):
        async def save(self, instance: SagaInstance) -> SagaInstance:
            if len(self.history) == 2:
                raise StoreError("down", ambiguous=True)
            return await super().save(instance)

    saga = named("a", store=DownStore()).build()
    with pytest.raises(StoreError, match="down"):
        asyncio.run(saga.start({}))
    assert last(saga).lane.lease is not None


def test_the_driver_refuses_the_turns_of_the_lambda_functions():
    saga = named("a").build()
    asyncio.run(saga.start({}))
    mark = MarkSwept(last(saga), last(saga))
    with pytest.raises(IllegalEventError, match="no turn of this driver yields MarkSwept"):
        asyncio.run(_AsyncDriver(saga, last(saga))._perform(mark))


# -- the builder ---------------------------------------------------------------------


class Reserve:
    """A step in class style."""

    name = "reserve"
    retry = TWICE

    def execute(self, ctx: Context) -> None:
        ctx["reserved"] = True

    async def compensate(self, ctx: Context, call: StepCall) -> None:
        ctx["reserved"] = call.direction is Direction.FORWARD


def test_the_builder_takes_names_with_functions_and_objects():
    saga = named("a").step(Reserve()).build()
    asyncio.run(saga.start({}))
    assert last(saga).context == {"reserved": True}
    assert [s.name for s in saga.definition.steps] == ["a", "reserve"]
    assert saga.definition.step("reserve").retry is TWICE


def test_what_the_builder_is_not_told_has_its_default():
    saga = SagaOrchestrator.builder("order").step("a", nothing, nothing).build()
    definition = saga.definition
    assert (definition.name, definition.version) == ("order", "1")
    assert definition.timeout == DEFAULT_TIMEOUT
    assert definition.context_type is None
    assert definition.on_compensation_failure == "halt"
    a = definition.step("a")
    assert a.compensatable is True
    assert a.retry == FORWARD_DEFAULT
    assert a.compensation_retry == COMPENSATION_DEFAULT
    assert (a.fatal_on, a.in_doubt_on) == ((), ())
    assert isinstance(saga.store, InMemorySagaStore)


def test_what_the_builder_is_told_ends_up_in_the_saga():
    codec = StandardContextCodec()
    environment = HandClock().environment()
    store = RecordingStore()
    builder = SagaOrchestrator.builder("order")
    assert isinstance(builder, OrchestratorBuilder)
    saga = (
        builder.step(
            "a",
            nothing,
            nothing,
            compensatable=True,
            retry=TWICE,
            compensation_retry=AT_ONCE,
            fatal_on=(KeyError,),
            in_doubt_on=(ValueError,),
        )
        .step("b", nothing, compensatable=False)
        .store(store)
        .timeout(timedelta(seconds=7))
        .version("2")
        .context(dict)
        .on_compensation_failure("continue")
        .codec(codec)
        .environment(environment)
        .build()
    )
    definition = saga.definition
    assert (definition.version, definition.timeout) == ("2", timedelta(seconds=7))
    assert definition.context_type is dict
    assert definition.on_compensation_failure == "continue"
    a = definition.step("a")
    assert (a.retry, a.compensation_retry) == (TWICE, AT_ONCE)
    assert (a.fatal_on, a.in_doubt_on) == ((KeyError,), (ValueError,))
    b = definition.step("b")
    assert (b.compensatable, b.compensate) == (False, None)
    assert (saga.store, saga.codec, saga.environment) == (store, codec, environment)


def test_the_builder_overrides_what_an_object_says_of_itself():
    saga = (
        named()
        .step(
            Reserve(),
            compensatable=False,
            retry=AT_ONCE,
            compensation_retry=TWICE,
            fatal_on=(KeyError,),
            in_doubt_on=(ValueError,),
        )
        .build()
    )
    step = saga.definition.step("reserve")
    assert (step.compensatable, step.compensate) == (False, None)
    assert (step.retry, step.compensation_retry) == (AT_ONCE, TWICE)
    assert (step.fatal_on, step.in_doubt_on) == ((KeyError,), (ValueError,))


def test_the_builder_refuses_a_step_without_execute_and_a_saga_without_steps():
    with pytest.raises(DefinitionError, match="SAGA005 step a has no execute"):
        SagaOrchestrator.builder("order").step("a")
    alone = r"^SAGA005 functions go with a name; an object brings its own$"
    with pytest.raises(DefinitionError, match=alone):
        SagaOrchestrator.builder("order").step(Reserve(), execute=nothing)
    with pytest.raises(DefinitionError, match=alone):
        SagaOrchestrator.builder("order").step(Reserve(), compensate=nothing)
    with pytest.raises(DefinitionError, match="SAGA001"):
        SagaOrchestrator.builder("order").build()


def test_an_orchestrator_is_a_value_with_slots():
    saga = named("a").build()
    assert dataclasses.is_dataclass(saga)
    assert not hasattr(saga, "__dict__")
