"""Sagas for the stores to hold, brought where a test wants them by the core itself."""

from __future__ import annotations

import random
import string
from dataclasses import replace

from saga_core.definition import Handler, SagaDefinition, StepDefinition
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    Claimed,
    CompensationFailed,
    CompensationSucceeded,
    Event,
    StepFailed,
    StepSucceeded,
)
from saga_core.instance import SagaInstance, SagaState
from saga_core.outcome import StepError
from saga_core.ports import ITEM_BUDGET
from saga_core.retry import RetryPolicy
from saga_core.transition import Moved, apply, create
from tests.fakes.clock import T0

BOOM = StepError("Boom", "it broke")
LEASE_MS = 35_000
TWICE = RetryPolicy(max_attempts=2)


def nothing(ctx: object) -> None:
    """A handler that is content."""


def definition(name: str = "order", *, steps: int = 3) -> SagaDefinition:
    """A saga of so many steps, all of which can be undone."""
    handler = Handler.of(nothing)
    return SagaDefinition(
        name=name,
        steps=tuple(
            StepDefinition(name=f"step{n}", execute=handler, compensate=handler)
            for n in range(steps)
        ),
    )


ORDER = definition()


def grouped(size: int = 2, *, name: str = "grouped") -> SagaDefinition:
    """A saga that begins with a group of so many steps, and has one more step after it."""
    handler = Handler.of(nothing)
    return SagaDefinition(
        name=name,
        steps=(
            *(
                StepDefinition(
                    name=f"branch{n}",
                    execute=handler,
                    compensate=handler,
                    group="both",
                    retry=TWICE,
                )
                for n in range(size)
            ),
            StepDefinition(name="last", execute=handler, compensate=handler),
        ),
    )


GROUPED = grouped()


def new(
    saga_id: str = "s1",
    *,
    tenant: str = "default",
    context: str = '{"a":1}',
    at: int = T0,
    saga: SagaDefinition = ORDER,
    incarnation: str = "0badcafe",
) -> SagaInstance:
    """A saga that is not stored yet."""
    return create(
        saga,
        saga_id=saga_id,
        tenant=tenant,
        incarnation=incarnation,
        input_fingerprint="f" * 64,
        context=context,
        at=at,
    )


def after(instance: SagaInstance, *events: Event, saga: SagaDefinition = ORDER) -> SagaInstance:
    """The saga after these events, at the version of the one given."""
    for event in events:
        outcome = apply(saga, instance, event)
        assert isinstance(outcome, Moved), outcome
        instance = outcome.instance
    return instance


def claimed(
    instance: SagaInstance,
    claim_id: str = "c1",
    *,
    at: int = T0,
    until: int | None = None,
    branch: int | None = None,
) -> SagaInstance:
    """The saga with an attempt in flight."""
    lane = instance.open_lane(branch)
    assert lane is not None
    event = Claimed(
        claim_id=claim_id,
        epoch=lane.epoch,
        definition=instance.definition,
        until=at + LEASE_MS if until is None else until,
        at=at,
        branch=branch,
    )
    return after(instance, event)


def succeeded(
    instance: SagaInstance,
    claim_id: str = "c1",
    *,
    context: str = '{"a":1}',
    at: int = T0,
    saga: SagaDefinition = ORDER,
) -> SagaInstance:
    """The saga after its attempt in flight has succeeded."""
    event = StepSucceeded(claim_id=claim_id, context=context, at=at)
    return after(instance, event, saga=saga)


def failed(
    instance: SagaInstance,
    claim_id: str = "c1",
    *,
    at: int = T0,
    fatal: bool = True,
    saga: SagaDefinition = ORDER,
) -> SagaInstance:
    """The saga after its attempt in flight has failed, for good unless it is said otherwise."""
    event = StepFailed(claim_id=claim_id, error=BOOM, fatal=fatal, jitter=0.0, at=at)
    return after(instance, event, saga=saga)


def cancelled(
    instance: SagaInstance, *, at: int = T0, saga: SagaDefinition = ORDER
) -> SagaInstance:
    """The saga after somebody has asked for its roll-back."""
    return after(instance, CancelRequested(by="someone", at=at), saga=saga)


def answered(
    instance: SagaInstance, step: str, fields: str = "{}", *, saga: SagaDefinition = GROUPED
) -> SagaInstance:
    """The saga after somebody outside has said that the step is done."""
    event = AnswerGiven(step=step, ok=True, by="ann", fields=fields, at=T0)
    return after(instance, event, saga=saga)


def completed(instance: SagaInstance, *, at: int = T0) -> SagaInstance:
    """The saga after all its steps."""
    while instance.live:
        instance = succeeded(claimed(instance, at=at), at=at)
    return instance


def compensated(instance: SagaInstance, *, at: int = T0) -> SagaInstance:
    """The saga after its first step has failed, with nothing to undo."""
    return failed(claimed(instance, at=at), at=at)


def at_version(instance: SagaInstance, version: int) -> SagaInstance:
    """The same saga, as if it had been written so many times."""
    return replace(instance, version=version)


def undone(claim_id: str, *, at: int = T0) -> CompensationSucceeded:
    """The undo in flight has succeeded."""
    return CompensationSucceeded(claim_id=claim_id, context='{"a":0}', at=at)


def undo_failed(claim_id: str, *, at: int = T0) -> CompensationFailed:
    """The undo in flight has failed for good."""
    return CompensationFailed(claim_id=claim_id, error=BOOM, fatal=True, jitter=0.0, at=at)


def compensating(instance: SagaInstance | None = None) -> SagaInstance:
    """A saga whose third step has failed, so that two are to be undone."""
    i = succeeded(claimed(instance or new()))
    i = succeeded(claimed(i))
    return failed(claimed(i))


def parked(instance: SagaInstance | None = None) -> SagaInstance:
    """A saga that is FAILED because a compensation is spent."""
    i = after(claimed(compensating(instance), "u0"), undo_failed("u0"))
    assert i.status is SagaState.FAILED
    return at_version(i, 7)


def incompressible(size: int) -> str:
    """A context of that many characters that compresses by a quarter at most."""
    letters = string.ascii_letters + string.digits
    return f'"{"".join(random.Random(1).choices(letters, k=size - 2))}"'


def over_budget() -> str:
    """A context that does not fit, compressed or not."""
    return incompressible(ITEM_BUDGET * 4 // 3 + 10_000)
