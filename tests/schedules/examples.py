"""The shipped examples, as the checker wants them."""

from __future__ import annotations

from examples.checkout import Checkout, Line, checkout
from examples.order import Order, order
from examples.purchase import Purchase, purchase
from examples.services import world
from examples.travel import Trip, travel
from saga_core import Saga, SagaDefinition
from saga_core.testing.explore import Answers


class Services:
    """The examples' services, seen from outside."""

    def reset(self) -> None:
        world.reset()

    def snapshot(self) -> object:
        return sorted(world.standing()), sorted(world.shelf.items())


EXAMPLES: dict[str, tuple[Saga | SagaDefinition, object]] = {
    "order": (order, Order(sku="tea", quantity=2)),
    "checkout": (checkout, Checkout(lines=[Line(sku="tea"), Line(sku="teapot")])),
    "travel": (travel, Trip(hotel="inn", flight="dawn", car="compact")),
    "purchase": (purchase, Purchase(sku="tea", amount=700)),
}
ANSWERS: dict[str, Answers] = {"purchase": {"approve": {"approved_by": "ann"}}}
