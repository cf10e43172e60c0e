from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from saga_core.calls import Direction, StepCall
from saga_core.contexts import StandardContextCodec
from saga_core.definition import Function, Handler, SagaDefinition, StepDefinition
from saga_core.effects import Call, Decide
from saga_core.errors import IllegalEventError
from saga_core.invoke import decide, invoke, invoke_async
from saga_core.outcome import Done, Failed, Fatal, InDoubt, Outcome, StepError
from tests.core.inprocess import Killed
from tests.core.sagas import nothing, saga, step

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


async def within(awaitable: Awaitable[object], seconds: float | None) -> object:
    async with asyncio.timeout(seconds):
        return await awaitable


def wait(awaitable: Awaitable[object], seconds: float | None) -> object:
    return asyncio.run(within(awaitable, seconds))


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
    other = asyncio.run(invoke_async(definition, effect, CODEC, within))
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
    coroutine = invoke_async(definition, call(), CODEC, within)
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


def test_a_condition_is_asked_with_the_context_in_its_type_and_what_it_gives_is_its_truth():
    asked = step("a", when=Handler.of(lambda ctx: ctx.sku))
    definition = SagaDefinition(name="order", steps=(asked,), context_type=Order)
    for context, chosen in (('{"sku":"tea"}', True), ('{"sku":""}', False)):
        assert decide(Decide(definition, ("a",), context), CODEC) == {"a": chosen}


def test_a_condition_that_raises_says_what():
    definition = saga(step("a", when=Handler.of(lambda ctx: ctx["absent"])))
    found = decide(Decide(definition, ("a",), "{}"), CODEC)
    assert found == {"a": StepError("KeyError", "'absent'")}


def test_a_step_without_a_condition_is_never_asked_for_one():
    with pytest.raises(IllegalEventError, match=r"^step a has no condition$"):
        decide(Decide(saga("a"), ("a",), "{}"), CODEC)


def test_the_input_of_a_child_that_its_type_refuses_is_a_failure_and_nothing_was_begun():
    typed = SagaDefinition(name="inner", steps=(step("x"),), context_type=Order)

    def outcome(value: object) -> Outcome:
        a = StepDefinition(
            name="a", execute=Handler.of(lambda ctx: value), child=typed, compensatable=False
        )
        return invoke(SagaDefinition(name="order", steps=(a,)), call(), CODEC, wait)

    assert outcome(Order("tea")) == Done('{"sku":"tea"}')
    refused = outcome({"other": 1})
    assert isinstance(refused, Failed)
    assert refused.fatal
    assert refused.error.kind == "ChildInputInvalid"


@pytest.mark.parametrize(("ms", "seconds"), [(1_500, 1.5), (None, None)])
def test_a_handler_that_is_async_has_as_many_seconds_as_its_call_says(ms, seconds):
    told: list[float | None] = []

    async def handler(ctx: object) -> None:
        """Nothing takes long here."""

    async def within_them(awaitable: Awaitable[object], given: float | None) -> object:
        told.append(given)
        return await awaitable

    def wait_for_them(awaitable: Awaitable[object], given: float | None) -> object:
        return asyncio.run(within_them(awaitable, given))

    definition = saga(StepDefinition(name="a", execute=Handler.of(handler), compensatable=False))
    effect = replace(call(), timeout_ms=ms)
    assert invoke(definition, effect, CODEC, wait_for_them) == Done("{}")
    assert asyncio.run(invoke_async(definition, effect, CODEC, within_them)) == Done("{}")
    assert told == [seconds, seconds]
