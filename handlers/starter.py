"""Starts sagas from messages of the start queue.

    {"saga": "order", "context": {...}, "idempotency_key": "optional"}

Without a key the message's id is the key, so a redelivery starts nothing twice.
A message that can never start anything stays, and ends in the start queue's
dead letters with its reason in the log: nothing is lost silently.
"""

from __future__ import annotations

import json

from handlers._application import Application
from handlers._bootstrap import entry_point
from handlers._records import BatchResponse, Fate, LambdaContext, Record, SqsEvent, each
from handlers._starting import StartRefusedError, StartRequest, begin
from saga_core.strict_json import strict_json

_KNOWN = frozenset({"saga", "context", "idempotency_key"})
TENANT = "default"  # whoever may write to the start queue is one tenant


def handle(app: Application, event: SqsEvent, context: LambdaContext) -> BatchResponse:
    """Start one saga for each record; acknowledge once it is stored."""

    def start(record: Record) -> Fate:
        ends_at = app.clock.now_ms() + context.get_remaining_time_in_millis()
        try:
            begin(app, _request(record), ends_at=ends_at, correlation_id=record.id)
        except StartRefusedError as exc:
            places = [place for place, _ in exc.fields]
            app.telemetry.refused("starter", exc.problem, message_id=record.id, fields=places)
            return Fate.OUTAGE if exc.problem == "unavailable" else Fate.KEEP
        return Fate.DELETE

    return each("starter", event, app.telemetry, start)


def _request(record: Record) -> StartRequest:
    try:
        body = strict_json(record.body)
    except ValueError as exc:
        raise StartRefusedError("not-json", "The message is not JSON.") from exc
    if (
        not isinstance(body, dict)
        or not body.keys() <= _KNOWN
        or not {"saga", "context"} <= body.keys()
    ):
        raise StartRefusedError(
            "invalid-message", "A start message has saga, context and, if wanted, idempotency_key."
        )
    saga, key = body["saga"], body.get("idempotency_key", record.id)
    if not isinstance(saga, str) or not isinstance(key, str):
        raise StartRefusedError("invalid-message", "saga and idempotency_key are strings.")
    context = json.dumps(body["context"], ensure_ascii=False, separators=(",", ":"))
    return StartRequest(TENANT, saga, context, key)


handler = entry_point("starter", handle)
