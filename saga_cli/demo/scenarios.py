"""The five stories. Each is checked against the services' world, not only the saga's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from examples.services import DECLINED_CARD, ServiceError, WorkerKilledError, world
from saga_cli.demo.stage import Stage
from saga_core.instance import SagaState

ORDER = ("orders.create", "stock.reserve", "payments.charge", "shipping.ship")
TRIP = ("hotel.book", "flight.book", "car.book")
YESTERDAY = "examples.order:order"
TODAY = f"{YESTERDAY},examples.travel:travel"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story, and the state that its saga must end in."""

    name: str
    title: str
    ends_as: SagaState
    play: Callable[[Stage], str]


def completes(stage: Stage) -> str:
    """Order, stock, payment, parcel."""
    saga_id = stage.start("order", {"sku": "tea", "quantity": 2})
    stage.run()
    stage.check("order, stock, payment and parcel: each happened once", _once(ORDER))
    stage.check("98 of 100 teas are on the shelf", world.shelf["tea"] == 98)  # noqa: PLR2004 - 2 were sold
    return saga_id


def declined(stage: Stage) -> str:
    """The bank says no; what was done before is undone, newest first."""
    context = {"sku": "tea", "quantity": 2, "card": DECLINED_CARD}
    saga_id = stage.start_by_queue("order", context)
    stage.run()
    stage.check("no charge, no parcel", not world.effects(ORDER[2]) and not world.effects(ORDER[3]))
    stage.check("the stock was released, then the order cancelled", _undone_newest_first())
    stage.check("nothing stands, 100 teas are on the shelf", _nothing_stands())
    return saga_id


def killed(stage: Stage) -> str:
    """The process dies after the stock was taken, before anybody wrote that down."""
    world.lose_reply("stock.reserve", WorkerKilledError())
    saga_id = stage.start("order", {"sku": "tea"})
    stage.run()
    first, again = (call for call in world.calls if call.operation == "stock.reserve")
    stage.say("both calls carried one key", detail=again.key)
    stage.check("the second attempt carried the key of the first", first.key == again.key)
    stage.check("the stock was taken once, 99 teas are on the shelf", world.shelf["tea"] == 99)  # noqa: PLR2004 - 1 was sold
    stage.check("order, stock, payment and parcel: each happened once", _once(ORDER))
    return saga_id


def dead_letter(stage: Stage) -> str:
    """The worker still runs yesterday's code, which does not know the saga."""
    saga_id = stage.start("travel", {"hotel": "Astoria", "flight": "LH 1", "car": "compact"})
    stage.deploy(YESTERDAY, "the worker runs yesterday's code, without travel")
    stage.run_until(lambda: "DeadLettersFunction" in stage.invoked)
    stage.deploy(TODAY, "today's code is deployed")
    stage.run()
    steps = stage.saga(saga_id).step_results
    stage.check("hotel, flight and car: each booked once", _once(TRIP))
    stage.check("the refused deliveries cost no attempt", {s.attempts for s in steps} == {1})
    left = [*stage.stack.messages("DeadLetterQueue"), *stage.stack.messages("ParkingQueue")]
    stage.check("no message is left among the dead letters", not left)
    return saga_id


def needs_a_person(stage: Stage) -> str:
    """No carrier, and the refund does not work either: three effects stand."""
    world.refuse("shipping.ship", ServiceError("no carrier"))
    world.break_down("payments.refund", ServiceError("refunds are down"))
    saga_id = stage.start("order", {"sku": "tea"})
    stage.run()
    failure = stage.get(saga_id)["failure"]
    stage.check(
        "the saga is FAILED, not COMPENSATED", stage.saga(saga_id).state is SagaState.FAILED
    )
    stage.check("it names what stands", _names_what_stands(failure))
    world.repair("payments.refund")
    stage.say("refunds work again")
    answer = stage.request("POST", f"/sagas/{saga_id}/resume")
    stage.check("the request to resume is accepted", answer.status == 202)  # noqa: PLR2004 - an HTTP status
    stage.run()
    stage.check("nothing stands, 100 teas are on the shelf", _nothing_stands())
    return saga_id


SCENARIOS = (
    Scenario("completes", "An order completes", SagaState.COMPLETED, completes),
    Scenario("declined", "The payment is declined", SagaState.COMPENSATED, declined),
    Scenario("killed", "The worker is killed in the middle", SagaState.COMPLETED, killed),
    Scenario("dead_letter", "A message runs out of deliveries", SagaState.COMPLETED, dead_letter),
    Scenario(
        "needs_a_person",
        "A compensation fails, a person helps",
        SagaState.COMPENSATED,
        needs_a_person,
    ),
)


def _once(operations: tuple[str, ...]) -> bool:
    return tuple(world.standing()) == operations and all(world.effects(o) == 1 for o in operations)


def _nothing_stands() -> bool:
    return not world.standing() and world.shelf["tea"] == 100  # noqa: PLR2004 - as before


def _undone_newest_first() -> bool:
    undone = [call.operation for call in world.calls if call.outcome == "done"][-2:]
    return undone == ["stock.release", "orders.cancel"]


def _names_what_stands(failure: object) -> bool:
    wanted = ["charge_card", "reserve_stock", "create_order"]
    return isinstance(failure, dict) and failure.get("standing") == wanted
