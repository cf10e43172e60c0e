"""Sagas as users write them, in all three styles: type-checked by `make types`, never run.

The types are part of the product. What must not be accepted carries a
``type: ignore`` with its code: mypy reports one that is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

from pydantic import BaseModel

from saga_core import (
    AlreadyCompletedError,
    AwaitAnswer,
    Cause,
    CompensationFailedError,
    Direction,
    Environment,
    Fatal,
    InMemorySagaStore,
    NotAllowedError,
    OutcomeUnknown,
    Retention,
    RetryPolicy,
    Saga,
    SagaDefinition,
    SagaInstance,
    SagaOrchestrator,
    SagaState,
    SagaStep,
    SagaStore,
    StepCall,
    StepDefinition,
    StepError,
    StepResult,
    StepStatus,
    Why,
    lint,
    steps,
)


class Order(BaseModel):
    sku: str
    quantity: int
    reservation: str | None = None


# -- decorator style -----------------------------------------------------------------------

order = Saga("order", context=Order, timeout=timedelta(minutes=5))


@order.step(retry=RetryPolicy(max_attempts=3, base=timedelta(milliseconds=200)))
def reserve_stock(ctx: Order, call: StepCall) -> None:
    ctx.reservation = f"{ctx.sku}-{call.idempotency_key}"


@reserve_stock.compensate
def release_stock(ctx: Order, call: StepCall) -> None:
    assert_type(call.execute_key, str)
    assert_type(call.in_doubt, bool)
    assert_type(call.reason, str | None)
    assert_type(call.direction, Direction)


@order.step(fatal_on=(KeyError,), in_doubt_on=(ConnectionError, OSError))
async def charge(ctx: Order) -> Order:
    if ctx.quantity < 1:
        raise Fatal("nothing to charge")
    if ctx.quantity > 100:
        raise OutcomeUnknown
    return ctx.model_copy(update={"quantity": 1})


@charge.compensate(retry=RetryPolicy(max_attempts=5))
async def refund(ctx: Order) -> None: ...


@order.step
def pack(ctx: Order) -> None: ...


@pack.compensate
def unpack(ctx: Order) -> None: ...


@order.step(name="ship", compensatable=False)
def send_parcel(ctx: Order) -> None: ...


ORDER = order.build()
assert_type(ORDER, SagaDefinition)
assert_type(ORDER.steps, tuple[StepDefinition, ...])
assert_type(ORDER.ref, str)
assert_type(reserve_stock.name, str)


# -- the vocabulary of flow ------------------------------------------------------------------


def is_large(ctx: Order) -> bool:
    return ctx.quantity > 10


PURCHASE = Saga(
    "purchase",
    context=Order,
    timeout=timedelta(days=2),
    retention=Retention(completed=timedelta(days=30), compensated=timedelta(days=90)),
)


@PURCHASE.step(group="offers", timeout=timedelta(seconds=5), compensatable=False)
async def ask_one(ctx: Order) -> None: ...


@PURCHASE.step(group="offers", delay=timedelta(minutes=20), compensatable=False)
def ask_other(ctx: Order) -> None: ...


@PURCHASE.step(when=is_large)
def approve(ctx: Order, call: StepCall) -> AwaitAnswer:
    assert_type(call.token, str)
    return AwaitAnswer(timeout=timedelta(hours=8))


@approve.compensate
def withdraw(ctx: Order) -> None: ...


@PURCHASE.child(order, into="order", name="deliver")
def delivery(ctx: Order) -> object:
    return ctx


@PURCHASE.step(pivot=True, compensatable=False)
def commit(ctx: Order) -> None: ...


@PURCHASE.step(retry=RetryPolicy(max_attempts=None, cap=timedelta(hours=1)))
def announce(ctx: Order) -> None: ...


assert_type(delivery.name, str)
assert_type(PURCHASE.build().pivot, int | None)
assert_type(PURCHASE.build().stage(0), range)
assert_type(ORDER.children, tuple[SagaDefinition, ...])


async def tell(saga: SagaOrchestrator, token: str) -> None:
    try:
        assert_type(await saga.answer(token, fields={"by": "ann"}), SagaState)
        assert_type(await saga.answer(token, error="too dear"), SagaState)
        assert_type(await saga.heartbeat(token), SagaState)
    except NotAllowedError as refused:
        assert_type(refused.reason, str)


# -- class style ---------------------------------------------------------------------------


@dataclass
class Booking:
    city: str
    room: str = ""


class BookRoom:
    """Carries what it needs; inherits nothing."""

    name = "book-room"
    retry = RetryPolicy(max_attempts=2)

    def __init__(self, hotel: str) -> None:
        self.hotel = hotel

    async def execute(self, ctx: Booking, call: StepCall) -> None:
        ctx.room = f"{self.hotel}-{call.attempt}"

    async def compensate(self, ctx: Booking, call: StepCall) -> None: ...


class SendMail:
    """Its name is computed."""

    compensatable = False

    @property
    def name(self) -> str:
        return "send-mail"

    def execute(self, ctx: Booking) -> None: ...

    def compensate(self, ctx: Booking) -> None: ...


room: SagaStep = BookRoom("Bern")
mail: SagaStep = SendMail()
TRIP = SagaDefinition(
    name="trip",
    version="2",
    steps=steps(room, SendMail()),
    context_type=Booking,
    on_compensation_failure="continue",
)
for finding in lint(TRIP):
    assert_type(finding.rule, str)
    assert_type(finding.step, str | None)


class NoUndo:
    name = "no-undo"

    def execute(self, ctx: Booking) -> None: ...


half: SagaStep = NoUndo()  # type: ignore[assignment]  # it cannot compensate


# -- builder style, and running ---------------------------------------------------------------


async def run(store: SagaStore) -> None:
    saga = (
        SagaOrchestrator.builder("trip")
        .step(BookRoom("Bern"), retry=RetryPolicy(max_attempts=3))
        .step("note", lambda ctx: None, compensatable=False)
        .step("pay", charge, refund, in_doubt_on=(TimeoutError,))
        .store(store)
        .timeout(30)
        .timeout(timedelta(seconds=30))
        .context(Booking)
        .version("3")
        .on_compensation_failure("halt")
        .environment(Environment(jitter=lambda: 0.0))
        .build()
    )
    assert_type(saga, SagaOrchestrator)
    try:
        saga_id = await saga.start(Booking("Bern"), idempotency_key="trip-7")
    except CompensationFailedError as error:
        assert_type(error.standing, tuple[str, ...])
        saga_id = error.saga_id
    assert_type(saga_id, str)
    try:
        assert_type(await saga.resume(saga_id), SagaState)
    except AlreadyCompletedError as error:
        assert_type(error.state, str)
    assert_type(await saga.cancel(saga_id, by="ops"), SagaState)
    instance = await saga.get_state(saga_id)
    assert_type(instance, SagaInstance | None)
    if instance is not None:
        read(instance)
    assert_type(await store.list_incomplete(), list[str])


def read(instance: SagaInstance) -> None:
    assert_type(instance.id, str)
    assert_type(instance.definition_name, str)
    assert_type(instance.state, SagaState)
    assert_type(instance.current_step, int)
    assert_type(instance.context, object)
    assert_type(instance.created_at, int)
    assert_type(instance.cause, Cause | None)
    assert_type(instance.why, Why | None)
    assert_type(instance.step_results, tuple[StepResult, ...])
    for result in instance.step_results:
        assert_type(result.status, StepStatus)
        assert_type(result.error, StepError | None)
    instance.version = 7  # type: ignore[misc]  # frozen


STORE: SagaStore = InMemorySagaStore(clock=lambda: 0)
DIRECT = SagaOrchestrator(ORDER, STORE)

# -- what is refused -----------------------------------------------------------------------------

Saga("order", on_compensation_failure="ignore")  # type: ignore[arg-type]  # no such behaviour
Saga("order", Order)  # type: ignore[call-arg]  # options are keywords
order.step(retries=3)  # type: ignore[call-overload]  # no such option
order.step(when=True)  # type: ignore[call-overload]  # a function of the context
order.step(delay=20)  # type: ignore[call-overload]  # a timedelta
order.child(ORDER)(delivery, retry=RetryPolicy())  # type: ignore[call-arg]  # an option of child
AwaitAnswer(timeout=60)  # type: ignore[arg-type]  # a timedelta
AwaitAnswer()  # type: ignore[call-arg]  # for ever is no time-out
RetryPolicy(3)  # type: ignore[call-arg]  # the same
SagaOrchestrator.builder("x").timeout("30")  # type: ignore[arg-type]  # a timedelta or seconds
reserve_stock.compensate(release_stock, retry=RetryPolicy())  # type: ignore[call-overload]  # either or
