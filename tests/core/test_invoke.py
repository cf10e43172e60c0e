from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from saga_core.calls import Direction, StepCall
from saga_core.contexts import StandardContextCodec
from saga_core.definition import Function, Handler, SagaDefinition, StepDefinition
from saga_core.effects import Call
from saga_core.errors import IllegalEventError
from saga_core.invoke import invoke, invoke_async
from saga_core.outcome import Done, Failed, Fatal, InDoubt, Outcome, StepError
from tests.core.inprocess import Killed
from tests.core.sagas import nothing

CODEC = StandardContextCodec()
FORWARD, BACK = Direction.FORWARD, Direction.COMPENSATION


def call(direction: Direction = FORWARD, context: str = "{}") -> Call:
    return Call(
        "a",
        direction,
        StepCall(
            saga_id="s1",
            step="a",
            direction=direction,
            attempt=1,
            idempotency_key="k",
            execute_key="k",
            fence=1,
            deadline=datetime(2026, 1, 1, tzinfo=UTC),
        ),
        context,
    )


def wait(awaitable: Awaitable[object]) -> object:
    async def finish() -> object:
        return await awaitable

    return asyncio.run(finish())


def both(
    execute: Function,
    *,
    direction: Direction = FORWARD,
    context: str = "{}",
    context_type: type | None = None,
    **options: tuple[type[Exception], ...],
) -> Outcome:
    """The outcome of a handler, the same with and without an event loop."""
    a = StepDefinition(
        name="a",
        execute=Handler.of(execute),
        compensate=Handler.of(execute),
        **options,  # type: ignore[arg-type]  # fatal_on and in_doubt_on
    )
    definition = SagaDefinition(name="order", steps=(a,), context_type=context_type)
    effect = call(direction, context)
    one = invoke(definition, effect, CODEC, wait)
    other = asyncio.run(invoke_async(definition, effect, CODEC))
    assert one == other
    return one


@dataclass
class Order:
    sku: str


def test_a_handler_gets_a_copy_that_it_may_change():
    def execute(ctx):
        ctx["x"] = 1

    assert both(execute) == Done('{"x":1}')


def test_a_handler_may_return_another_context():
    assert both(lambda ctx: {"y": 2}) == Done('{"y":2}')


def test_an_async_handler_is_waited_for():
    async def execute(ctx, call):
        await asyncio.sleep(0)
        ctx["step"] = call.step

    assert both(execute) == Done('{"step":"a"}')


def test_a_context_has_the_declared_type():
    def execute(ctx):
        assert isinstance(ctx, Order)
        ctx.sku = "coffee"

    assert both(execute, context='{"sku":"tea"}', context_type=Order) == Done('{"sku":"coffee"}')


def test_the_direction_decides_which_handler_is_called():
    seen = []
    a = StepDefinition(
        name="a",
        execute=Handler.of(lambda ctx: seen.append("execute")),
        compensate=Handler.of(lambda ctx: seen.append("compensate")),
    )
    definition = SagaDefinition(name="order", steps=(a,))
    invoke(definition, call(FORWARD), CODEC, wait)
    invoke(definition, call(BACK), CODEC, wait)
    assert seen == ["execute", "compensate"]


def test_raising_is_how_a_step_fails():
    def execute(ctx):
        ctx["trace"] = 1
        raise KeyError("x")

    assert both(execute) == Failed(StepError("KeyError", "'x'"))
    assert both(execute, fatal_on=(KeyError,)) == Failed(StepError("KeyError", "'x'"), fatal=True)
    assert both(execute, in_doubt_on=(KeyError,)) == InDoubt(StepError("KeyError", "'x'"))


def test_an_async_handler_fails_by_raising_too():
    async def execute(ctx):
        await asyncio.sleep(0)
        raise Fatal("no")

    assert both(execute) == Failed(StepError("Fatal", "no"), fatal=True)


@pytest.mark.parametrize("kill", [Killed, KeyboardInterrupt, SystemExit])
def test_a_kill_is_no_outcome(kill):
    def execute(ctx):
        raise kill

    a = StepDefinition(name="a", execute=Handler.of(execute), compensatable=False)
    definition = SagaDefinition(name="order", steps=(a,))
    with pytest.raises(kill):
        invoke(definition, call(), CODEC, wait)
    coroutine = invoke_async(definition, call(), CODEC)
    with pytest.raises(kill):
        coroutine.send(None)


@pytest.mark.parametrize("direction", list(Direction))
def test_a_context_that_cannot_be_read_fails_for_good_because_nothing_was_called(direction):
    outcome = both(nothing, direction=direction, context='{"secret":1}', context_type=Order)
    assert outcome == Failed(StepError("ContextUnreadable", "TypeError"), fatal=True)


@pytest.mark.parametrize(
    ("execute", "message"),
    [
        (lambda ctx: ctx.update(x={1}), "Object of type set is not JSON serializable"),
        (lambda ctx: 7, "a handler returns None or a dict, not int"),
    ],
    ids=["set", "wrong type"],
)
def test_a_context_that_cannot_be_written_leaves_the_step_in_doubt(execute, message):
    assert both(execute) == InDoubt(StepError("ContextNotSerialisable", message), final=True)


def test_half_a_character_is_json_to_python_and_to_nobody_else():
    outcome = both(lambda ctx: ctx.update(x="\ud800"))
    assert isinstance(outcome, InDoubt)
    assert outcome.error.kind == "ContextNotSerialisable"
    assert outcome.final


def test_a_long_complaint_about_a_context_is_cut():
    class Talkative:
        def model_dump_json(self):
            raise ValueError("x" * 1000)

    outcome = both(lambda ctx: Talkative(), context_type=object)
    assert outcome == InDoubt(StepError("ContextNotSerialisable", "x" * 200), final=True)


def test_a_returned_context_has_the_declared_type_or_that_of_the_old_one():
    message = "a handler returns None or a Order, not dict"
    outcome = both(lambda ctx: {"sku": "x"}, context='{"sku":"tea"}', context_type=Order)
    assert outcome == InDoubt(StepError("ContextNotSerialisable", message), final=True)
    assert both(lambda ctx: Order("x"), context='{"sku":"tea"}', context_type=Order) == Done(
        '{"sku":"x"}'
    )


@pytest.mark.parametrize(
    "execute", [lambda ctx: ctx.update(x={1}), lambda ctx: 7], ids=["set", "wrong type"]
)
def test_a_compensation_whose_context_cannot_be_written_has_happened_all_the_same(execute):
    assert both(execute, direction=BACK, context='{"old":1}') == Done('{"old":1}')


def test_a_step_without_compensation_is_never_asked_to_undo():
    a = StepDefinition(name="a", execute=Handler.of(nothing), compensatable=False)
    definition = SagaDefinition(name="order", steps=(a,))
    with pytest.raises(IllegalEventError, match=r"^step a has no compensation$"):
        invoke(definition, call(BACK), CODEC, wait)
