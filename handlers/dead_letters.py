"""Brings sagas back whose message ran out of deliveries; in the end asks a person."""

from __future__ import annotations

from handlers._application import Application
from handlers._bootstrap import entry_point
from handlers._driver import Driver
from handlers._records import BatchResponse, Fate, LambdaContext, Record, SqsEvent, each
from saga_core.errors import SagaError
from saga_core.turn import Delivery, Verdict, revive


def handle(app: Application, event: SqsEvent, context: LambdaContext) -> BatchResponse:
    """Decide on each dead letter; what cannot be decided now stays and comes back."""

    def decide(record: Record) -> Fate:
        try:
            message = app.parse(record.body)
        except SagaError as exc:
            app.telemetry.refused("dead_letters", str(exc), message_id=record.id)
            return Fate.KEEP
        now = app.clock.now_ms()
        delivery = Delivery(
            id=app.clock.new_id(),
            at=now,
            ends_at=now + context.get_remaining_time_in_millis(),
            step_ms=0,
            jitter=app.clock.jitter(),
        )
        # No receipt handle: the dead letters' own visibility time-out is the pause.
        driver = Driver(app, message.correlation_id)
        decision = driver.run(revive(message, delivery, app.definitions.by_ref))
        app.telemetry.decided(
            "dead_letters",
            decision,
            key=message.key,
            definition=message.definition,
            correlation_id=message.correlation_id,
            now=now,
            hop_max=None,
        )
        app.telemetry.sink.count(None, {"DlqHandled": 1})
        if decision.verdict is Verdict.STORE_UNAVAILABLE:
            return Fate.OUTAGE
        return Fate.DELETE if decision.acknowledge else Fate.KEEP

    return each("dead_letters", event, app.telemetry, decide)


handler = entry_point("dead_letters", handle)
