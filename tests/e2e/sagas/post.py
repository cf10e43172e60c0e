"""A parcel of three steps, and a letter of one, in the decorator style of examples/order.py."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from saga_core import RetryPolicy, Saga, StepCall

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
