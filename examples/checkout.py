"""A checkout: reserve the stock of every line, take the payment, confirm the order.

The steps are those of a published AWS sample; docs/faults.md shows what faults do to
such a saga when it is written by hand, and what they do to this one.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from examples.services import CardDeclinedError, Payments, SoldOutError, Stock, world
from saga_core import RetryPolicy, Saga, StepCall


class OrderBook:
    """Says which orders are confirmed; well-behaved like the other services."""

    def confirm(self, payment: str, *, key: str) -> str:
        """Enter an order that has been paid, and answer with its number."""
        return world.happen("orders.confirm", f"payment {payment}", key, lambda: None)

    def withdraw(self, *, key: str) -> None:
        """Strike out the order that was entered under this key."""
        world.undo("orders.withdraw", key, lambda: None)


stock, payments, orders = Stock(), Payments(), OrderBook()


class Line(BaseModel):
    """So many of one thing."""

    sku: str = Field(min_length=1, max_length=40)
    quantity: int = Field(default=1, ge=1, le=100)


class Checkout(BaseModel):
    """What is bought, how it is paid, and what the steps found out on the way."""

    lines: list[Line] = Field(min_length=1, max_length=20)
    card: str = Field(default="4242424242424242", pattern="^[0-9]{16}$")
    payment: str | None = None
    number: str | None = None


patient = RetryPolicy(max_attempts=6)
checkout = Saga(
    "checkout",
    context=Checkout,
    timeout=timedelta(hours=2),
    on_compensation_failure="continue",  # a refund that fails keeps no goods off the shelf
)


# One call for each line: whatever goes wrong at the second, the first is reserved. So no
# exception of this step says that nothing happened.
@checkout.step(retry=patient, fatal_on=(SoldOutError,), in_doubt_on=(Exception,))
def reserve_inventory(ctx: Checkout, call: StepCall) -> None:
    """Take every line off the shelf, each under a key of its own."""
    for number, line in enumerate(ctx.lines):
        stock.reserve(line.sku, line.quantity, key=f"{call.idempotency_key}:{number}")


@reserve_inventory.compensate
def release_inventory(ctx: Checkout, call: StepCall) -> None:
    """Put back what was taken; a line that never was is fine."""
    for number, line in enumerate(ctx.lines):
        stock.release(line.sku, line.quantity, key=f"{call.execute_key}:{number}")


@checkout.step(retry=patient, fatal_on=(CardDeclinedError,))
def take_payment(ctx: Checkout, call: StepCall) -> None:
    """Take the money, once, however often this runs."""
    ctx.payment = payments.charge(ctx.card, key=call.idempotency_key)


@take_payment.compensate
def refund_payment(_: Checkout, call: StepCall) -> None:
    """Give it back, also when its answer never reached us."""
    payments.refund(key=call.execute_key)


@checkout.step(retry=patient)
def confirm_order(ctx: Checkout, call: StepCall) -> None:
    """Say that it is sold."""
    ctx.number = orders.confirm(ctx.payment or "", key=call.idempotency_key)


@confirm_order.compensate
def withdraw_order(_: Checkout, call: StepCall) -> None:
    """Needed when it is not known whether the order was confirmed."""
    orders.withdraw(key=call.execute_key)
