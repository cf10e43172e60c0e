"""A purchase: hold money and goods at once, ask a manager, pay, and from there only go on.

Every construct for a flow: a group of steps that run side by side, a condition, an
approval that is waited for without a function running, and a pivot.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from examples.services import (
    Approvals,
    Budgets,
    CardDeclinedError,
    Payments,
    Shipping,
    SoldOutError,
    Stock,
)
from saga_core import AwaitAnswer, RetryPolicy, Saga, StepCall

budgets, stock, approvals = Budgets(), Stock(), Approvals()
payments, shipping = Payments(), Shipping()

FREE_HAND = 100  # what may be spent without asking anybody


class Purchase(BaseModel):
    """What an employee wants to buy, and what the steps found out on the way."""

    sku: str = Field(min_length=1, max_length=40)
    amount: int = Field(ge=1, le=100_000)
    card: str = Field(default="4242424242424242", pattern="^[0-9]{16}$")
    held: str | None = None
    reservation: str | None = None
    approved_by: str | None = None
    payment: str | None = None
    tracking: str | None = None


def is_dear(ctx: Purchase) -> bool:
    """Somebody has to be asked."""
    return ctx.amount > FREE_HAND


patient = RetryPolicy(max_attempts=3)
purchase = Saga("purchase", context=Purchase, timeout=timedelta(days=7))


@purchase.step(group="hold", retry=patient)
def hold_budget(ctx: Purchase, call: StepCall) -> None:
    """Set the money aside."""
    ctx.held = budgets.hold(ctx.amount, key=call.idempotency_key)


@hold_budget.compensate
def release_budget(_: Purchase, call: StepCall) -> None:
    """Let go of it."""
    budgets.release(key=call.execute_key)


@purchase.step(group="hold", retry=patient, fatal_on=(SoldOutError,))
def hold_goods(ctx: Purchase, call: StepCall) -> None:
    """Take the thing off the shelf, at the same time."""
    ctx.reservation = stock.reserve(ctx.sku, 1, key=call.idempotency_key)


@hold_goods.compensate
def release_goods(ctx: Purchase, call: StepCall) -> None:
    """Put it back."""
    stock.release(ctx.sku, 1, key=call.execute_key)


@purchase.step(when=is_dear)
def approve(ctx: Purchase, call: StepCall) -> AwaitAnswer:
    """Ask the manager. Whoever has the token answers, within three days."""
    approvals.ask(f"{ctx.sku} for {ctx.amount}", token=call.token, key=call.idempotency_key)
    return AwaitAnswer(timeout=timedelta(days=3))


@approve.compensate
def withdraw(_: Purchase, call: StepCall) -> None:
    """The question is moot."""
    approvals.withdraw(key=call.execute_key)


@purchase.step(pivot=True, compensatable=False, retry=patient, fatal_on=(CardDeclinedError,))
def pay(ctx: Purchase, call: StepCall) -> None:
    """The point of no return: our bank takes no payment back."""
    ctx.payment = payments.charge(ctx.card, key=call.idempotency_key)


@purchase.step(compensatable=False)
def ship(ctx: Purchase, call: StepCall) -> None:
    """After the pivot: tried until it succeeds."""
    ctx.tracking = shipping.ship(ctx.payment or "", key=call.idempotency_key)
