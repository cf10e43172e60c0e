"""An order: create it, reserve the stock, charge the card, ship. In decorator style."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from examples.services import CardDeclinedError, Orders, Payments, Shipping, SoldOutError, Stock
from saga_core import RetryPolicy, Saga, StepCall

orders, stock, payments, shipping = Orders(), Stock(), Payments(), Shipping()


class Order(BaseModel):
    """What a customer asks for, and what the steps found out on the way."""

    sku: str = Field(min_length=1, max_length=40)
    quantity: int = Field(default=1, ge=1, le=100)
    card: str = Field(default="4242424242424242", pattern="^[0-9]{16}$")
    order_id: str | None = None
    reservation: str | None = None
    payment: str | None = None
    tracking: str | None = None


patient = RetryPolicy(max_attempts=3)
order = Saga("order", context=Order, timeout=timedelta(hours=2))


@order.step
def create_order(ctx: Order, call: StepCall) -> None:
    """Open the order."""
    ctx.order_id = orders.create(ctx.sku, ctx.quantity, key=call.idempotency_key)


@create_order.compensate
def cancel_order(_: Order, call: StepCall) -> None:
    """Close it. The forward call's key finds it, even if its answer never reached us."""
    orders.cancel(key=call.execute_key)


@order.step(retry=patient, fatal_on=(SoldOutError,))
def reserve_stock(ctx: Order, call: StepCall) -> None:
    """Take the goods off the shelf. Asking again is no use when there are none."""
    ctx.reservation = stock.reserve(ctx.sku, ctx.quantity, key=call.idempotency_key)


@reserve_stock.compensate
def release_stock(ctx: Order, call: StepCall) -> None:
    """Put them back."""
    stock.release(ctx.sku, ctx.quantity, key=call.execute_key)


@order.step(retry=patient, fatal_on=(CardDeclinedError,))
def charge_card(ctx: Order, call: StepCall) -> None:
    """Take the money, once, however often this runs."""
    ctx.payment = payments.charge(ctx.card, key=call.idempotency_key)


@charge_card.compensate
def refund_card(_: Order, call: StepCall) -> None:
    """Give it back; nothing to give back is fine too."""
    payments.refund(key=call.execute_key)


@order.step
def ship(ctx: Order, call: StepCall) -> None:
    """Hand the parcel over."""
    ctx.tracking = shipping.ship(ctx.order_id or "", key=call.idempotency_key)


@ship.compensate
def recall_parcel(_: Order, call: StepCall) -> None:
    """Needed when it is not known whether the parcel left."""
    shipping.recall(key=call.execute_key)
