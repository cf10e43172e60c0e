"""Moves one saga by one attempt for each message of the work queue."""

from __future__ import annotations

from handlers._application import Application
from handlers._bootstrap import entry_point
from handlers._driver import Driver
from handlers._records import BatchResponse, Fate, LambdaContext, Record, SqsEvent, each
from saga_core.errors import SagaError
from saga_core.turn import Delivery, Verdict, work


def handle(app: Application, event: SqsEvent, context: LambdaContext) -> BatchResponse:
    """Claim, call, commit and announce, for each record."""

    def move(record: Record) -> Fate:
        try:
            message = app.parse(record.body)
        except SagaError as exc:
            app.telemetry.refused("worker", str(exc), message_id=record.id)
            return Fate.KEEP  # it ends in the parking queue, where a person finds it
        now = app.clock.now_ms()
        delivery = Delivery(
            id=app.clock.new_id(),
            at=now,
            ends_at=now + context.get_remaining_time_in_millis(),
            step_ms=app.step_ms,
            jitter=app.clock.jitter(),
        )
        definition = app.definitions.by_ref(message.definition)
        driver = Driver(app, message.correlation_id, definition, record.receipt_handle)
        decision = driver.run(work(message, delivery, app.definitions.by_ref))
        app.telemetry.decided(
            "worker",
            decision,
            key=message.key,
            definition=message.definition,
            correlation_id=message.correlation_id,
            now=app.clock.now_ms(),
            hop_max=definition.hop_max if definition is not None else None,
        )
        if decision.verdict is Verdict.STORE_UNAVAILABLE:
            return Fate.OUTAGE
        return Fate.DELETE if decision.acknowledge else Fate.KEEP

    return each("worker", event, app.telemetry, move)


handler = entry_point("worker", handle)
