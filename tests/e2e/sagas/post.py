"""A parcel of three steps, a letter of one, and a crate: a group, an approval, a pivot."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from saga_core import AwaitAnswer, RetryPolicy, Saga, StepCall

from .world import DeclinedError, World  # noqa: TID252 - in the artifact the package has another name


class Order(BaseModel):
    """Who ordered; and what the steps found out on the way."""

    customer: str = Field(min_length=1, max_length=80)
    receipts: dict[str, str] = Field(default_factory=dict)


patient = RetryPolicy(max_attempts=4, base=timedelta(seconds=4))
parcel = Saga("parcel", context=Order, timeout=timedelta(hours=1))
letter = Saga("letter", context=Order, timeout=timedelta(hours=1))


def _do(ctx: Order, call: StepCall) -> None:
    ctx.receipts[call.step] = World.here().happen(
        call.step, ctx.customer, call.idempotency_key, call.attempt
    )


def _undo(ctx: Order, call: StepCall) -> None:
    World.here().undo(call.step, ctx.customer, call.execute_key, call.attempt)


@parcel.step(retry=patient, fatal_on=(DeclinedError,))
def reserve(ctx: Order, call: StepCall) -> None:
    """Take it off the shelf."""
    _do(ctx, call)


@reserve.compensate
def release(ctx: Order, call: StepCall) -> None:
    """Put it back."""
    _undo(ctx, call)


@parcel.step(retry=patient, fatal_on=(DeclinedError,))
def charge(ctx: Order, call: StepCall) -> None:
    """Take the money."""
    _do(ctx, call)


@charge.compensate
def refund(ctx: Order, call: StepCall) -> None:
    """Give it back."""
    _undo(ctx, call)


@parcel.step(retry=patient, fatal_on=(DeclinedError,))
def ship(ctx: Order, call: StepCall) -> None:
    """Hand it to the carrier."""
    _do(ctx, call)


@ship.compensate
def recall(ctx: Order, call: StepCall) -> None:
    """Have it brought back."""
    _undo(ctx, call)


@letter.step(retry=patient)
def send(ctx: Order, call: StepCall) -> None:
    """Put it into the box."""
    _do(ctx, call)


@send.compensate
def intercept(ctx: Order, call: StepCall) -> None:
    """Fish it out."""
    _undo(ctx, call)


class Crate(Order):
    """What has to be asked for before it leaves."""

    patience: int = Field(default=600, ge=1)
    approved_by: str | None = None
    wrapped: str | None = None
    weighed: str | None = None


TIMER = timedelta(seconds=12)
crate = Saga("crate", context=Crate, timeout=timedelta(hours=1))


@crate.step(group="pack", retry=patient)
def wrap(ctx: Crate, call: StepCall) -> None:
    """Nail it shut."""
    world = World.here()
    ctx.wrapped = world.happen(call.step, ctx.customer, call.idempotency_key, call.attempt)


@wrap.compensate
def unwrap(ctx: Crate, call: StepCall) -> None:
    """Open it."""
    _undo(ctx, call)


@crate.step(group="pack", retry=patient)
def weigh(ctx: Crate, call: StepCall) -> None:
    """Put it on the scales, at the same time."""
    world = World.here()
    ctx.weighed = world.happen(call.step, ctx.customer, call.idempotency_key, call.attempt)


@weigh.compensate
def unload(ctx: Crate, call: StepCall) -> None:
    """Take it off the scales."""
    _undo(ctx, call)


@crate.step
def ask(ctx: Crate, call: StepCall) -> AwaitAnswer:
    """Have somebody look at it."""
    World.here().ask(ctx.customer, call.idempotency_key, call.attempt, call.token)
    return AwaitAnswer(timeout=timedelta(seconds=ctx.patience))


@ask.compensate
def withdraw(ctx: Crate, call: StepCall) -> None:
    """The question is moot."""
    _undo(ctx, call)


@crate.step(pivot=True, compensatable=False, retry=patient)
def stamp(ctx: Crate, call: StepCall) -> None:
    """Customs take no stamp back."""
    _do(ctx, call)


@crate.step(compensatable=False, delay=TIMER)
def export(ctx: Crate, call: StepCall) -> None:
    """Past the pivot, a while later: tried until it succeeds."""
    _do(ctx, call)
