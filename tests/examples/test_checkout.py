"""The five cases of docs/faults.md, and every single fault, on examples/checkout.py.

The five run twice: in process, and through the deployed functions over emulated AWS services.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from examples.checkout import Checkout, Line, checkout, payments, stock
from examples.services import DECLINED_CARD, Payments, ServiceError, Stock, World, world
from saga_cli.local.stack import LocalStack
from saga_core import (
    CompensationFailedError,
    Environment,
    SagaInstance,
    SagaOrchestrator,
    SagaState,
    StepStatus,
    Why,
    lint,
)
from saga_core.testing import Fault, explore, prove_rollback
from tests.schedules.scenarios import PROFILES

definition = checkout.build()
IN_STOCK = [Line(sku="tea", quantity=2), Line(sku="teapot")]
SHORT = [Line(sku="tea", quantity=2), Line(sku="unobtainium")]
CARTS = pytest.mark.parametrize("lines", [IN_STOCK, SHORT], ids=["in stock", "second is sold out"])
ATTEMPTS = 6  # of every step


class Till(Protocol):
    """Whatever runs a checkout to its rest."""

    def buy(self, order: Checkout) -> SagaInstance: ...

    def resume(self, saga_id: str) -> SagaInstance: ...


class InProcess:
    """The orchestrator of this process."""

    def __init__(self, environment: Environment) -> None:
        self.orchestrator = SagaOrchestrator(definition, environment=environment)

    def buy(self, order: Checkout) -> SagaInstance:
        try:
            return self._saga(asyncio.run(self.orchestrator.start(order)))
        except CompensationFailedError as stopped:
            return self._saga(stopped.saga_id)

    def resume(self, saga_id: str) -> SagaInstance:
        asyncio.run(self.orchestrator.resume(saga_id))
        return self._saga(saga_id)

    def _saga(self, saga_id: str) -> SagaInstance:
        saga = asyncio.run(self.orchestrator.get_state(saga_id))
        assert saga is not None
        return saga


class Deployed:
    """The functions, their table and their queues."""

    def __init__(self, stack: LocalStack, key: str) -> None:
        self.stack = stack
        self.key = key

    def buy(self, order: Checkout) -> SagaInstance:
        answer = self.stack.http("POST", "/sagas/checkout", order.model_dump(), key=self.key)
        assert answer.status == 202
        return self._at_rest(answer.body["id"])

    def resume(self, saga_id: str) -> SagaInstance:
        assert self.stack.http("POST", f"/sagas/{saga_id}/resume").status == 202
        return self._at_rest(saga_id)

    def _at_rest(self, saga_id: str) -> SagaInstance:
        self.stack.run_until_quiet()
        return self.stack.saga(saga_id)


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack("examples.checkout:checkout") as running:
        yield running


@pytest.fixture(params=["in process", "deployed"])
def till(request: pytest.FixtureRequest, minutes: Environment) -> Till:
    if request.param == "in process":
        return InProcess(minutes)
    return Deployed(request.getfixturevalue("stack"), re.sub(r"\W", "-", request.node.name))


def lose_replies(operation: str, count: int) -> None:
    for _ in range(count):
        world.lose_reply(operation, TimeoutError("no answer"))


def shelf_is_full() -> bool:
    return world.shelf == World().shelf


# -- without any fault ------------------------------------------------------------------


def test_the_example_is_free_of_findings():
    assert lint(definition) == ()


def test_an_order_is_reserved_paid_and_confirmed(till: Till, the_world: World):
    saga = till.buy(Checkout(lines=IN_STOCK))

    assert saga.state is SagaState.COMPLETED
    assert the_world.standing() == [
        "stock.reserve",
        "stock.reserve",
        "payments.charge",
        "orders.confirm",
    ]
    assert (the_world.shelf["tea"], the_world.shelf["teapot"]) == (98, 2)


# -- the five cases ---------------------------------------------------------------------


def test_case_1_a_rejected_order_loses_no_stock(till: Till, the_world: World):
    saga = till.buy(Checkout(lines=SHORT))

    assert saga.state is SagaState.COMPENSATED
    assert saga.cause is not None
    assert saga.cause.step == "reserve_inventory"
    assert the_world.effects("stock.reserve") == 1  # the tea was taken, and only once
    assert the_world.standing() == []
    assert shelf_is_full()


@pytest.mark.parametrize("lost", [1, ATTEMPTS - 1])
def test_case_2_a_payment_whose_replies_are_lost_is_taken_once(
    till: Till, the_world: World, lost: int
):
    lose_replies("payments.charge", lost)

    saga = till.buy(Checkout(lines=IN_STOCK))

    assert saga.state is SagaState.COMPLETED
    assert saga.step_results[1].attempts == lost + 1
    assert the_world.effects("payments.charge") == 1


def test_case_2_a_payment_whose_every_reply_is_lost_is_taken_once_and_refunded(
    till: Till, the_world: World
):
    lose_replies("payments.charge", ATTEMPTS)

    saga = till.buy(Checkout(lines=IN_STOCK))

    assert saga.state is SagaState.COMPENSATED
    assert saga.step_results[1].attempts == ATTEMPTS
    assert the_world.effects("payments.charge") == 1
    assert the_world.standing() == []


def test_case_3_stock_is_released_once_though_the_reply_of_its_release_was_lost(
    till: Till, the_world: World
):
    lose_replies("stock.release", 1)

    saga = till.buy(Checkout(lines=IN_STOCK, card=DECLINED_CARD))

    assert saga.state is SagaState.COMPENSATED
    releases = [c.outcome for c in the_world.calls if c.operation == "stock.release"]
    assert releases == ["done", "repeated", "done"]
    assert shelf_is_full()


def test_case_4_a_failed_undo_is_reported_as_failed_until_it_is_done(till: Till, the_world: World):
    the_world.break_down("orders.confirm", ServiceError("no such shop"))
    the_world.break_down("payments.refund", ServiceError("closed"))

    saga = till.buy(Checkout(lines=IN_STOCK))

    assert saga.state is SagaState.FAILED
    assert saga.why is Why.COMPENSATION_FAILED
    assert saga.standing == ("take_payment",)
    assert the_world.standing() == ["payments.charge"]  # it says what is true
    assert shelf_is_full()

    the_world.repair("payments.refund")
    assert till.resume(saga.id).state is SagaState.COMPENSATED
    assert the_world.standing() == []


@pytest.mark.parametrize(
    ("operation", "number"), [("stock.reserve", 0), ("payments.charge", 1), ("orders.confirm", 2)]
)
def test_case_5_a_step_that_happened_but_could_not_say_so_is_undone(
    till: Till, the_world: World, operation: str, number: int
):
    lose_replies(operation, ATTEMPTS)

    saga = till.buy(Checkout(lines=IN_STOCK))

    assert saga.state is SagaState.COMPENSATED
    assert saga.step_results[number].status is StepStatus.COMPENSATED
    assert the_world.effects(operation) >= 1
    assert the_world.standing() == []
    assert shelf_is_full()


# -- every single fault -----------------------------------------------------------------


class Services:
    """The world, as the proofs want to see it."""

    def reset(self) -> None:
        world.reset()

    def snapshot(self) -> object:
        return sorted(world.standing()), sorted(world.shelf.items())


@CARTS
def test_every_single_fault_ends_with_all_effects_or_none(lines: list[Line]):
    report = explore(checkout, Checkout(lines=lines), Services())
    assert report.ok, report


@CARTS
def test_every_roll_back_leaves_nothing(lines: list[Line]):
    report = prove_rollback(checkout, Checkout(lines=lines), Services())
    assert report.ok, report
    assert report.runs == 2 * len(definition.steps)


# -- and mistakes are found -------------------------------------------------------------

Mistake = Callable[[pytest.MonkeyPatch], None]


def a_release_without_a_key(patch: pytest.MonkeyPatch) -> None:
    def release(sku: str, quantity: int, *, key: str) -> None:
        again = key in world.undone
        Stock.release(stock, sku, quantity, key=key)
        if again:
            world.shelf[sku] += quantity

    patch.setattr(stock, "release", release)


def a_payment_without_a_key(patch: pytest.MonkeyPatch) -> None:
    def charge(card: str, *, key: str) -> str:
        return Payments.charge(payments, card, key=f"{key} {len(world.calls)}")

    patch.setattr(payments, "charge", charge)


def a_refund_that_does_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(payments, "refund", lambda *, key: None)


@pytest.mark.parametrize(
    "mistake", [a_release_without_a_key, a_payment_without_a_key, a_refund_that_does_nothing]
)
def test_a_service_that_breaks_the_contract_is_found(
    monkeypatch: pytest.MonkeyPatch, mistake: Mistake
):
    mistake(monkeypatch)
    report = explore(checkout, Checkout(lines=IN_STOCK), Services())
    assert any("left standing" in f.wrong for f in report.findings), report


def test_a_step_of_several_calls_that_says_nothing_happened_is_found():
    first, *rest = definition.steps
    careless = replace(definition, steps=(replace(first, in_doubt_on=()), *rest))
    report = explore(careless, Checkout(lines=SHORT), Services())
    assert report.findings[0].schedule == "without any fault"
    assert "left standing" in report.findings[0].wrong


# -- the document -----------------------------------------------------------------------


def test_the_document_names_every_fault_and_profile_and_only_tests_that_exist():
    document = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    rows = set(re.findall(r"^\| `([^`]+)` \|", document, re.MULTILINE))
    assert rows >= {*Fault, *PROFILES}
    assert set(re.findall(r"`(test_\w+)`", document)) <= globals().keys()
