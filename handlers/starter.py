"""Starts sagas, and takes answers for steps that wait, from messages of the start queue.

    {"saga": "order", "context": {...}, "idempotency_key": "optional"}
    {"answer": "<token>", "outcome": "completed", "context": {...}}
    {"answer": "<token>", "outcome": "failed", "error": "..."}
    {"answer": "<token>", "outcome": "heartbeat"}

Without a key the message's id is the key, so a redelivery starts nothing twice.
A message that can never do anything stays, and ends in the start queue's dead
letters with its reason in the log: nothing is lost silently. An answer that came
too late, or second, has done all it could: it is logged, and gone.
"""

from __future__ import annotations

import json

from handlers._answering import AnswerRefusedError, AnswerRequest, take
from handlers._application import Application
from handlers._bootstrap import entry_point
from handlers._records import BatchResponse, Fate, LambdaContext, Record, SqsEvent, each
from handlers._starting import StartRefusedError, StartRequest, begin
from saga_core.strict_json import strict_json
from saga_core.transition import Reason

_KNOWN = frozenset({"saga", "context", "idempotency_key"})
# Answers that no later delivery could make good.
_SPENT = frozenset({Reason.LATE.value, Reason.ANSWERED.value, Reason.CLOSED.value})
TENANT = "default"  # whoever may write to the start queue is one tenant


def handle(app: Application, event: SqsEvent, context: LambdaContext) -> BatchResponse:
    """Start one saga, or take one answer, for each record; acknowledge once it is stored."""

    def start(record: Record) -> Fate:
        ends_at = app.clock.now_ms() + context.get_remaining_time_in_millis()
        try:
            body = _body(record)
            if "answer" in body:
                return _take_answer(app, record, body, ends_at)
            begin(app, _request(record, body), ends_at=ends_at, correlation_id=record.id)
        except StartRefusedError as exc:
            places = [place for place, _ in exc.fields]
            app.telemetry.refused("starter", exc.problem, message_id=record.id, fields=places)
            return Fate.OUTAGE if exc.problem == "unavailable" else Fate.KEEP
        return Fate.DELETE

    return each("starter", event, app.telemetry, start)


def _take_answer(
    app: Application, record: Record, body: dict[object, object], ends_at: int
) -> Fate:
    told = {name: value for name, value in body.items() if name != "answer"}
    asked = AnswerRequest(TENANT, str(body["answer"]), told, "sqs")
    try:
        take(app, asked, ends_at=ends_at, correlation_id=record.id)
    except AnswerRefusedError as exc:
        reason = exc.reason or exc.problem
        places = [place for place, _ in exc.fields]
        app.telemetry.refused("starter", reason, message_id=record.id, fields=places)
        if exc.problem == "unavailable":
            return Fate.OUTAGE
        return Fate.DELETE if exc.reason in _SPENT else Fate.KEEP
    return Fate.DELETE


def _body(record: Record) -> dict[object, object]:
    try:
        body = strict_json(record.body)
    except ValueError as exc:
        raise StartRefusedError("not-json", "The message is not JSON.") from exc
    if not isinstance(body, dict):
        raise StartRefusedError("invalid-message", "A message is a JSON object.")
    return body


def _request(record: Record, body: dict[object, object]) -> StartRequest:
    if not body.keys() <= _KNOWN or not {"saga", "context"} <= body.keys():
        raise StartRefusedError(
            "invalid-message", "A start message has saga, context and, if wanted, idempotency_key."
        )
    saga, key = body["saga"], body.get("idempotency_key", record.id)
    if not isinstance(saga, str) or not isinstance(key, str):
        raise StartRefusedError("invalid-message", "saga and idempotency_key are strings.")
    context = json.dumps(body["context"], ensure_ascii=False, separators=(",", ":"))
    return StartRequest(TENANT, saga, context, key)


handler = entry_point("starter", handle)
