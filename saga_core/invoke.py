"""Calling a user's handler: its copy of the context in, an outcome out."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

from saga_core.calls import Direction
from saga_core.contexts import ContextCodec
from saga_core.definition import Handler, SagaDefinition, StepDefinition
from saga_core.effects import Call, Decide
from saga_core.errors import IllegalEventError
from saga_core.outcome import (
    AwaitAnswer,
    Done,
    Failed,
    InDoubt,
    Outcome,
    StepError,
    Waits,
    classify,
)
from saga_core.ports import INPUT_LIMIT


def invoke(
    definition: SagaDefinition,
    effect: Call,
    codec: ContextCodec,
    wait: Callable[[Awaitable[object], float | None], object],
) -> Outcome:
    """Run the handler; ``wait`` finishes what an async one returned, in so many seconds.

    When they are over it cancels the handler and raises TimeoutError.

    Only an ``Exception`` is an outcome. A kill or a cancelled task goes through
    unrecorded: nobody knows what the handler had done by then.
    """
    step = definition.step(effect.step)
    handler = _handler(step, effect)
    try:
        context = codec.decode(effect.context, definition.context_type)
    except Exception as exc:  # noqa: BLE001 - the user's type may raise anything
        return _unreadable(exc)
    try:
        result = handler(context, effect.call)
        if inspect.isawaitable(result):
            result = wait(result, _seconds(effect))
    except Exception as exc:  # noqa: BLE001 - raising is how a step fails
        return classify(exc, fatal_on=step.fatal_on, in_doubt_on=step.in_doubt_on)
    return _done(definition, effect, codec, context, result)


async def invoke_async(
    definition: SagaDefinition,
    effect: Call,
    codec: ContextCodec,
    wait: Callable[[Awaitable[object], float | None], Awaitable[object]],
) -> Outcome:
    """The same on an event loop. A handler that is not async blocks the loop."""
    step = definition.step(effect.step)
    handler = _handler(step, effect)
    try:
        context = codec.decode(effect.context, definition.context_type)
    except Exception as exc:  # noqa: BLE001 - the user's type may raise anything
        return _unreadable(exc)
    try:
        result = handler(context, effect.call)
        if inspect.isawaitable(result):
            result = await wait(result, _seconds(effect))
    except Exception as exc:  # noqa: BLE001 - raising is how a step fails
        return classify(exc, fatal_on=step.fatal_on, in_doubt_on=step.in_doubt_on)
    return _done(definition, effect, codec, context, result)


def decide(effect: Decide, codec: ContextCodec) -> dict[str, bool | StepError]:
    """Ask the conditions; each gets a copy of the context of its own."""
    return {name: _choice(effect, name, codec) for name in effect.steps}


def _choice(effect: Decide, name: str, codec: ContextCodec) -> bool | StepError:
    condition = effect.definition.step(name).when
    if condition is None:
        raise IllegalEventError(f"step {name} has no condition")
    try:
        return bool(
            condition.function(codec.decode(effect.context, effect.definition.context_type))
        )
    except Exception as exc:  # noqa: BLE001 - raising is how a condition fails, too
        return StepError.of(exc)


def _seconds(effect: Call) -> float | None:
    return effect.timeout_ms / 1000 if effect.timeout_ms is not None else None


def _handler(step: StepDefinition, effect: Call) -> Handler:
    if effect.direction is Direction.FORWARD:
        return step.execute
    if step.compensate is None:
        raise IllegalEventError(f"step {step.name} has no compensation")
    return step.compensate


def _unreadable(error: Exception) -> Failed:
    """The handler was not called at all, so nothing happened."""
    return Failed(StepError("ContextUnreadable", type(error).__name__), fatal=True)


def _done(
    definition: SagaDefinition,
    effect: Call,
    codec: ContextCodec,
    context: object,
    result: object,
) -> Outcome:
    """The new context: the copy that the handler changed, or what it returned."""
    child = definition.step(effect.step).child
    if child is not None:
        return _input(child, codec, result)
    wait = result if isinstance(result, AwaitAnswer) else None
    if wait is not None and not effect.call.token:
        return InDoubt(StepError("AwaitAnswer", "nobody can answer: there is no token"), final=True)
    try:
        result = wait.context if wait is not None else result
        if result is not None:
            _check_type(definition, context, result)
            context = result
        text = codec.encode(context)
        text.encode()  # a lone surrogate is JSON to Python and to nobody else
    except Exception as exc:  # noqa: BLE001 - whatever a user's value does when it is written
        if effect.direction is Direction.COMPENSATION:
            return Done(effect.context)  # undone all the same
        error = StepError("ContextNotSerialisable", StepError.of(exc).message)
        return InDoubt(error, final=True)
    if wait is not None:
        return Waits(text, int(wait.timeout.total_seconds() * 1000))
    return Done(text)


def _input(child: SagaDefinition, codec: ContextCodec, value: object) -> Outcome:
    """The input of the saga that the step starts. Nothing has happened yet, whatever it is."""
    try:
        text = codec.encode(value)
        size = len(text.encode())
        if child.context_type is not None:
            codec.decode(text, child.context_type)
    except Exception as exc:  # noqa: BLE001 - whatever a user's value does when it is written
        error = StepError.named("ChildInputInvalid", StepError.of(exc).message)
        return Failed(error, fatal=True)
    if size > INPUT_LIMIT:
        error = StepError("ChildInputInvalid", f"{size} bytes; an input has {INPUT_LIMIT} at most")
        return Failed(error, fatal=True)
    return Done(text)


def _check_type(definition: SagaDefinition, context: object, result: object) -> None:
    expected = definition.context_type or type(context)
    if not isinstance(result, expected):
        name = type(result).__name__
        raise TypeError(f"a handler returns None or a {expected.__name__}, not {name}")
