"""Small sagas, and what a test says about how one ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypedDict, Unpack

from examples.services import DECLINED_CARD, world
from saga_core.calls import StepCall
from saga_core.definition import Handler, OnCompensationFailure, SagaDefinition, StepDefinition
from saga_core.instance import SagaInstance, SagaState
from saga_core.retry import RetryPolicy
from tests.fakes.clock import T0
from tests.fakes.faults import Killed
from tests.handlers.stage import FED, SECOND, Boundary, Stage

TEA: dict[str, object] = {"sku": "tea", "quantity": 2}
DECLINED: dict[str, object] = {**TEA, "card": DECLINED_CARD}
FORWARD = ["orders.create", "stock.reserve", "payments.charge", "shipping.ship"]
DAY = timedelta(days=1)
VISIBILITY = 180 * SECOND  # template.yaml's; a worker that died is noticed after it


class SagaOptions(TypedDict, total=False):
    """What a test may say about a saga."""

    name: str
    version: str
    timeout: timedelta
    on_compensation_failure: OnCompensationFailure


class StepOptions(TypedDict, total=False):
    """What a test may say about a step."""

    retry: RetryPolicy
    compensation_retry: RetryPolicy
    pivot: bool
    group: str
    when: Handler
    delay: timedelta


def step(name: str, **options: Unpack[StepOptions]) -> StepDefinition:
    """A step that does ``name`` in the world, and undoes it by ``undo name``."""

    def execute(_: object, call: StepCall) -> None:
        world.happen(name, call.saga_id, call.idempotency_key, lambda: None)

    def compensate(_: object, call: StepCall) -> None:
        world.undo(f"undo {name}", call.execute_key, lambda: None)

    return StepDefinition(
        name=name, execute=Handler.of(execute), compensate=Handler.of(compensate), **options
    )


def returning(name: str, value: Callable[[], object]) -> StepDefinition:
    """A step that does ``name`` and then comes up with a context."""

    def execute(_: object, call: StepCall) -> object:
        world.happen(name, call.saga_id, call.idempotency_key, lambda: None)
        return value()

    plain = step(name)
    return StepDefinition(name=name, execute=Handler.of(execute), compensate=plain.compensate)


def chain(*steps: str | StepDefinition, **options: Unpack[SagaOptions]) -> SagaDefinition:
    """A saga of these steps, called ``chain``, with time for every kind of trouble."""
    built = tuple(step(s) if isinstance(s, str) else s for s in steps)
    return replace(SagaDefinition(name="chain", timeout=DAY, steps=built), **options)


def die_at(moment: str, nth: int = 1) -> Boundary:
    """A kill at the nth time that this moment comes."""
    return at(moment, _die, nth)


def at(moment: str, action: Callable[[], object], nth: int = 1) -> Boundary:
    """Something that happens at the nth time that this moment comes, once."""
    seen = Counter[str]()

    def boundary(now: str) -> None:
        seen[now] += 1
        if now == moment and seen[now] == nth:
            action()

    return boundary


def _die() -> None:
    raise Killed


# -- how it ended --------------------------------------------------------------------------


def ended(stage: Stage, saga_id: str, state: SagaState) -> SagaInstance:
    """The saga, which is in this state, with nothing left that could move it."""
    saga = stage.saga(saga_id)
    assert saga.state is state, saga
    assert saga.lane.lease is None
    for queue in (*FED, "ParkingQueue", "StartDeadLetterQueue"):
        assert stage.bodies(queue) == [], queue
    return saga


def completed_once(stage: Stage, saga_id: str) -> SagaInstance:
    """An order for two teas: every effect happened once and stands."""
    saga = ended(stage, saga_id, SagaState.COMPLETED)
    assert world.standing() == FORWARD
    assert [world.effects(operation) for operation in FORWARD] == [1, 1, 1, 1]
    assert not world.undone
    assert world.shelf["tea"] == 98
    same_keys(stage)
    return saga


def compensated_once(stage: Stage, saga_id: str) -> SagaInstance:
    """An order whose card was declined: what had happened was undone once, newest first."""
    saga = ended(stage, saga_id, SagaState.COMPENSATED)
    assert world.standing() == []
    assert [world.effects(operation) for operation in FORWARD] == [1, 1, 0, 0]
    undone = [call.operation for call in world.calls if call.outcome == "done"]
    assert undone == [*FORWARD[:2], "stock.release", "orders.cancel"]
    assert world.shelf["tea"] == 100
    same_keys(stage)
    return saga


def same_keys(stage: Stage) -> None:
    """Every attempt of a step and direction had one key; attempts and fences only grow."""
    keys: dict[tuple[str, str], set[str]] = {}
    for call in stage.attempts:
        keys.setdefault((call.step, call.direction), set()).add(call.idempotency_key)
    assert all(len(found) == 1 for found in keys.values()), keys
    fences = [call.fence for call in stage.attempts]
    assert fences == sorted(set(fences)), "a later attempt has a greater fence"


def tries(stage: Stage) -> set[int]:
    """The attempt numbers that handlers saw: {1} when none was burnt."""
    return {call.attempt for call in stage.attempts}


def waited(stage: Stage) -> int:
    """Virtual milliseconds since the beginning."""
    return stage.clock.now - T0
