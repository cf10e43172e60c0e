"""Performs the effects of a turn against the table, the queue and the user's handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from handlers._application import Application
from saga_core.contexts import InvalidContextError
from saga_core.definition import SagaDefinition
from saga_core.effects import (
    Call,
    CheckContext,
    Claim,
    Commit,
    Create,
    Decide,
    Effect,
    Ended,
    Find,
    MarkSwept,
    Pause,
    Postpone,
    Record,
    Redispatch,
    Send,
    TooLarge,
    Turn,
    Unavailable,
)
from saga_core.errors import IllegalEventError, ItemTooLargeError, SagaError, StoreError
from saga_core.invoke import decide, invoke

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Driver:
    """Runs one turn to its end.

    Whatever is not a StoreError goes through: the invocation fails, its message
    comes back, and what was claimed is found by the next delivery.

    Args:
        app: The parts.
        correlation_id: Travels with every message that the turn sends.
        definition: Whose handlers a Call means.
        receipt_handle: Of the message in hand, for Postpone.
    """

    app: Application
    correlation_id: str
    definition: SagaDefinition | None = None
    receipt_handle: str | None = None

    def run(self, turn: Turn[T]) -> T:
        """Perform what the turn yields until it returns."""
        reply: object = None
        while True:
            try:
                effect = turn.send(reply)
            except StopIteration as stop:
                return cast("T", stop.value)
            reply = self._perform(effect)

    def _perform(self, effect: Effect[object]) -> object:
        store, clock = self.app.store, self.app.clock
        match effect:
            case Claim(key, epoch, definition, claim_id, at, until, branch):
                return self._stored(
                    lambda: store.claim(
                        key,
                        epoch=epoch,
                        definition=definition,
                        claim_id=claim_id,
                        now=at,
                        until=until,
                        branch=branch,
                    )
                )
            case Call():
                return self._call(effect)
            case Decide():
                return decide(effect, self.app.codec)
            case CheckContext():
                return self._faults_of(effect.definition, effect.context)
            case Commit(before, after, claim_id):
                return self._stored(lambda: store.commit(before, after, claim_id=claim_id))
            case Send():
                return self._send(effect)
            case Create(instance):
                return self._stored(lambda: store.create(instance))
            case Find(key, at):
                return self._stored(lambda: store.find(key, at))
            case Redispatch(instance, nudge_id, at, branch):
                return self._stored(
                    lambda: store.redispatch(instance, nudge_id=nudge_id, now=at, branch=branch)
                )
            case Record(before, after):
                return self._stored(lambda: store.record(before, after))
            case MarkSwept(before, after):
                return self._stored(lambda: store.mark_swept(before, after))
            case Postpone(delay_ms):
                if self.receipt_handle is not None:
                    self.app.queue.postpone(self.receipt_handle, delay_ms)
                return None
            case Pause(delay_ms):
                clock.sleep_ms(delay_ms)
                return clock.now_ms()
            case _:
                raise IllegalEventError(f"unknown effect {type(effect).__name__}")

    def _stored(self, write: Callable[[], object]) -> object:
        try:
            return write()
        except ItemTooLargeError as exc:
            return TooLarge(exc, self.app.clock.now_ms())
        except StoreError as exc:
            return Unavailable(exc, self.app.clock.now_ms())

    def _send(self, effect: Send) -> bool:
        try:
            self.app.queue.send(
                effect.instance,
                effect.delay_ms,
                effect.reason,
                self.correlation_id,
                effect.branch,
            )
        except SagaError:
            return False
        return True

    def _call(self, effect: Call) -> Ended:
        if self.definition is None:
            raise IllegalEventError(f"no definition to call {effect.step} of")
        outcome = invoke(self.definition, effect, self.app.codec, _wait)
        return Ended(outcome, self.app.clock.now_ms(), self.app.clock.jitter())

    def _faults_of(self, definition: SagaDefinition, context: str) -> tuple[tuple[str, str], ...]:
        try:
            self.app.codec.accept(context, definition.context_type)
        except InvalidContextError as exc:
            return exc.fields
        return ()


def _wait(awaitable: Awaitable[object], seconds: float | None) -> object:
    async def finish() -> object:
        async with asyncio.timeout(seconds):
            return await awaitable

    return asyncio.run(finish())
