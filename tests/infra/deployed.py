"""What SAGA_DEFINITIONS may name, for tests of the registry."""

from __future__ import annotations

from dataclasses import replace

from saga_core.authoring import Saga
from saga_core.calls import StepCall
from tests.contracts.sagas import definition

ORDER = definition("order")
ORDER_2 = replace(ORDER, version="2")
TRAVEL = definition("travel")
BOTH = [ORDER, TRAVEL]
VERSIONS = (ORDER, ORDER_2)
NOTHING: tuple[()] = ()
NOT_A_SAGA = 42
HOLDS_NONE = [ORDER, "order"]

decorated = Saga("decorated")


@decorated.step(compensatable=False)
def only(ctx: object, call: StepCall) -> None:
    """The only step."""


class Namespace:
    """Somewhere deeper."""

    saga = TRAVEL


wrong = Saga("wrong")


@wrong.step
def no_undo(ctx: object) -> None:
    """Neither a compensation nor a statement that it needs none."""
