import asyncio
from dataclasses import dataclass, field

import pytest

from examples.purchase import Purchase, purchase
from examples.services import DECLINED_CARD, ServiceError, WorkerKilledError, World
from saga_core import (
    Environment,
    InMemorySagaStore,
    NotAllowedError,
    SagaInstance,
    SagaOrchestrator,
    SagaStalledError,
    SagaState,
    StepStatus,
    Why,
    lint,
)
from tests.examples.conftest import Minutes

CHEAP, DEAR = Purchase(sku="tea", amount=20), Purchase(sku="teapot", amount=900)
HOLD = ["budgets.hold", "stock.reserve"]


@dataclass
class Desk:
    """The saga in this process, and the manager who reads the mail."""

    environment: Environment
    world: World
    store: InMemorySagaStore = field(default_factory=InMemorySagaStore)

    def buy(self, what: Purchase, *, approve: bool | None = True) -> SagaInstance:
        orchestrator = SagaOrchestrator(
            purchase.build(),
            self.store,
            environment=self.environment,
        )

        async def manager() -> None:
            while not self.world.mail:  # noqa: ASYNC110 - the mail is a dictionary
                await asyncio.sleep(0)
            token = next(iter(self.world.mail.values()))
            if approve:
                await orchestrator.answer(token, fields={"approved_by": "ann"})
            else:
                await orchestrator.answer(token, error="too dear")

        async def run() -> str:
            asks = asyncio.create_task(manager()) if approve is not None else None
            saga_id = await orchestrator.start(what, idempotency_key="k")
            if asks is not None and not asks.done():
                asks.cancel()
            return saga_id

        async def both() -> SagaInstance | None:
            return await orchestrator.get_state(await run())

        found = asyncio.run(both())
        assert found is not None
        return found


@pytest.fixture
def desk(minutes, the_world) -> Desk:
    return Desk(minutes, the_world)


def test_the_example_is_free_of_findings():
    assert lint(purchase.build()) == ()


def test_what_is_cheap_is_bought_without_asking(desk, the_world):
    saga = desk.buy(CHEAP, approve=None)
    assert saga.state is SagaState.COMPLETED
    assert the_world.standing() == [*HOLD, "payments.charge", "shipping.ship"]
    assert saga.step_results[2].status is StepStatus.SKIPPED
    assert saga.context.held
    assert saga.context.reservation


def test_what_is_dear_is_bought_once_the_manager_says_yes(desk, the_world):
    saga = desk.buy(DEAR)
    assert saga.state is SagaState.COMPLETED
    assert saga.context.approved_by == "ann"
    assert the_world.effects("payments.charge") == 1


def test_a_no_gives_everything_back(desk, the_world):
    saga = desk.buy(DEAR, approve=False)
    assert saga.state is SagaState.COMPENSATED
    assert the_world.effects("payments.charge") == 0
    assert the_world.shelf["teapot"] == 3
    assert not {*HOLD} & {*the_world.standing()}


def test_a_manager_who_never_answers_is_a_no_and_the_question_is_withdrawn(desk, the_world):
    desk.environment = Minutes(faster=3_600).environment()
    saga = desk.buy(DEAR, approve=None)
    assert saga.state is SagaState.COMPENSATED
    assert saga.step_results[2].error.kind == "AnswerOverdue"
    assert the_world.standing() == []


def test_a_thing_that_is_sold_out_frees_the_money(desk, the_world):
    saga = desk.buy(Purchase(sku="unobtainium", amount=20), approve=None)
    assert saga.state is SagaState.COMPENSATED
    assert the_world.standing() == []


def test_a_card_that_is_declined_is_before_the_point_of_no_return(desk, the_world):
    card = Purchase(sku="tea", amount=20, card=DECLINED_CARD)
    saga = desk.buy(card, approve=None)
    assert saga.state is SagaState.COMPENSATED
    assert the_world.standing() == []


def test_after_the_payment_it_only_goes_on(desk, the_world):
    for _ in range(20):
        the_world.refuse("shipping.ship", ServiceError("no carrier"))
    saga = desk.buy(CHEAP, approve=None)
    assert saga.state is SagaState.COMPLETED
    assert saga.step_results[4].attempts == 21
    assert the_world.undone == set()


def test_a_payment_in_doubt_is_never_gone_behind(desk, the_world, minutes):
    for _ in range(3):
        the_world.lose_reply("payments.charge", TimeoutError("no answer"))
    with pytest.raises(SagaStalledError):
        desk.buy(CHEAP, approve=None)
    (stopped,) = desk.store._sagas.values()
    assert stopped.why is Why.FORWARD_FAILED
    assert set(stopped.standing) == {"hold_budget", "hold_goods", "pay"}
    orchestrator = SagaOrchestrator(purchase.build(), desk.store, environment=minutes)
    with pytest.raises(NotAllowedError, match="past_pivot"):
        asyncio.run(orchestrator.cancel(stopped.id))
    assert asyncio.run(orchestrator.resume(stopped.id)) is SagaState.COMPLETED
    assert the_world.effects("payments.charge") == 1


def test_a_worker_that_dies_in_the_group_changes_nothing(desk, the_world, minutes):
    the_world.lose_reply("stock.reserve", WorkerKilledError())
    with pytest.raises(WorkerKilledError):
        desk.buy(CHEAP, approve=None)
    (left,) = desk.store._sagas.values()
    orchestrator = SagaOrchestrator(purchase.build(), desk.store, environment=minutes)
    assert asyncio.run(orchestrator.resume(left.id)) is SagaState.COMPLETED
    assert the_world.shelf["tea"] == 99
