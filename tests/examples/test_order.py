import asyncio

import pytest

from examples.order import Order, order
from examples.services import DECLINED_CARD, ServiceError, WorkerKilledError
from saga_core import (
    CompensationFailedError,
    SagaOrchestrator,
    SagaState,
    lint,
)

definition = order.build()
ALL = ["orders.create", "stock.reserve", "payments.charge", "shipping.ship"]


def test_the_example_is_free_of_findings():
    assert lint(definition) == ()


def test_an_order_is_created_reserved_charged_and_shipped(run, the_world):
    saga = run(definition, Order(sku="tea", quantity=2))

    assert saga.state is SagaState.COMPLETED
    assert the_world.standing() == ALL
    assert the_world.shelf["tea"] == 98
    assert saga.context.tracking


def test_a_declined_card_undoes_the_order_and_the_reservation(run, the_world):
    saga = run(definition, Order(sku="tea", card=DECLINED_CARD))

    assert saga.state is SagaState.COMPENSATED
    assert the_world.standing() == []
    assert the_world.shelf["tea"] == 100
    assert [c.operation for c in the_world.calls][-2:] == ["stock.release", "orders.cancel"]


def test_what_is_sold_out_is_asked_for_once(run, the_world):
    saga = run(definition, Order(sku="unobtainium"))

    assert saga.state is SagaState.COMPENSATED
    assert [c.operation for c in the_world.calls].count("stock.reserve") == 1


def test_a_charge_whose_answer_was_lost_is_asked_again_and_made_once(run, the_world):
    the_world.lose_reply("payments.charge", TimeoutError("no answer"))

    saga = run(definition, Order(sku="tea"))

    assert saga.state is SagaState.COMPLETED
    assert the_world.effects("payments.charge") == 1
    assert saga.step_results[2].attempts == 2


def test_a_parcel_that_may_have_left_is_recalled(run, the_world):
    the_world.lose_reply("shipping.ship", TimeoutError("no answer"))

    saga = run(definition, Order(sku="tea"))

    assert saga.state is SagaState.COMPENSATED
    assert the_world.effects("shipping.ship") == 1
    assert the_world.standing() == []


def test_a_refund_that_fails_leaves_the_saga_failed_until_it_is_repaired(the_world, minutes):
    the_world.refuse("shipping.ship", ServiceError("no carrier"))
    the_world.break_down("payments.refund", ServiceError("closed"))
    shop = SagaOrchestrator(definition, environment=minutes)

    with pytest.raises(CompensationFailedError) as failed:
        asyncio.run(shop.start(Order(sku="tea")))
    assert failed.value.standing == ("charge_card", "reserve_stock", "create_order")
    assert the_world.standing() == ALL[:3]

    the_world.repair("payments.refund")
    assert asyncio.run(shop.resume(failed.value.saga_id)) is SagaState.COMPENSATED
    assert the_world.standing() == []


def test_a_killed_process_goes_on_where_it_was_under_the_same_key(the_world):
    the_world.lose_reply("stock.reserve", WorkerKilledError())
    shop = SagaOrchestrator(definition)

    with pytest.raises(WorkerKilledError):
        asyncio.run(shop.start(Order(sku="tea"), idempotency_key="k"))
    (saga_id,) = asyncio.run(shop.store.list_incomplete())
    assert asyncio.run(shop.resume(saga_id)) is SagaState.COMPLETED

    first, again = (c for c in the_world.calls if c.operation == "stock.reserve")
    assert first.key == again.key
    assert again.outcome == "repeated"
    assert the_world.shelf["tea"] == 99
