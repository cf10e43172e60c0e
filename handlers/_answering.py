"""An answer for a step that waits, from whichever side it comes."""

from __future__ import annotations

import json
from dataclasses import dataclass

from handlers._application import Application
from handlers._driver import Driver
from handlers._view import WHY_NOT
from saga_core.events import AnswerGiven, HeartbeatReceived
from saga_core.identity import parse_token
from saga_core.instance import Key, SagaInstance
from saga_core.outcome import StepError
from saga_core.turn import Answer, Answered, answer

_MAX_ERROR = 1_000  # characters that may come in; 200 bytes are kept
_FORM = (
    'Send {"outcome": "completed", "context": {...}}, {"outcome": "failed", "error": "..."} '
    'or {"outcome": "heartbeat"}.'
)


class AnswerRefusedError(Exception):
    """The answer was not taken. ``problem`` says why, in a word; ``reason`` by which rule."""

    def __init__(
        self,
        problem: str,
        detail: str,
        *,
        fields: tuple[tuple[str, str], ...] = (),
        saga: SagaInstance | None = None,
        reason: str | None = None,
    ) -> None:
        self.problem = problem
        self.detail = detail
        self.fields = fields
        self.saga = saga
        self.reason = reason
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """Who says what for which step. ``told`` is the message as it came, parsed."""

    tenant: str
    token: str
    told: object
    by: str


def take(
    app: Application, request: AnswerRequest, *, ends_at: int, correlation_id: str
) -> SagaInstance:
    """Record the answer, and wake the saga.

    Raises:
        AnswerRefusedError: With the problem and, where the saga's state is what
            stood in the way, with the saga.
    """
    event = _event(request, app.clock.now_ms())
    try:
        saga_id, _ = parse_token(request.token)
    except ValueError as exc:
        raise _unknown() from exc
    turn = answer(
        Key(request.tenant, saga_id),
        request.token,
        event,
        app.definitions.by_ref,
        nudge_id=app.clock.new_id(),
        ends_at=ends_at,
    )
    answered = Driver(app, correlation_id).run(turn)
    kind = "heartbeat" if isinstance(event, HeartbeatReceived) else "answer"
    app.telemetry.requested(
        kind, answered.answer.value, answered.instance, correlation_id=correlation_id
    )
    return _taken(answered)


def _taken(answered: Answered) -> SagaInstance:
    saga = answered.instance
    match answered.answer:
        case Answer.ACCEPTED if saga is not None:
            return saga
        case Answer.INVALID:
            raise AnswerRefusedError(
                "invalid-context",
                "With these fields the context would not be one of this saga.",
                fields=answered.fields,
            )
        case Answer.DEFINITION_MISSING if saga is not None:
            raise AnswerRefusedError(
                "definition-missing", f"Deploy {saga.definition}, then answer again.", saga=saga
            )
        case Answer.REFUSED if saga is not None and answered.reason is not None:
            detail = WHY_NOT.get(answered.reason, "The saga's state does not allow this.")
            raise AnswerRefusedError("not-allowed", detail, saga=saga, reason=answered.reason.value)
        case Answer.NOT_FOUND:
            raise _unknown()
        case _:
            raise AnswerRefusedError("unavailable", "Send the same answer again.")


def _event(request: AnswerRequest, at: int) -> AnswerGiven | HeartbeatReceived:
    told = request.told
    if not isinstance(told, dict):
        raise AnswerRefusedError("invalid-request", _FORM)
    outcome = told.get("outcome")
    fields, error = told.get("context", {}), told.get("error")
    match outcome:
        case "completed" if told.keys() <= {"outcome", "context"} and isinstance(fields, dict):
            text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
            return AnswerGiven(step="", ok=True, by=request.by, at=at, fields=text)
        case "failed" if told.keys() == {"outcome", "error"} and _is_text(error):
            said = StepError.named("AnsweredFailed", str(error))
            return AnswerGiven(step="", ok=False, by=request.by, at=at, error=said)
        case "heartbeat" if told.keys() == {"outcome"}:
            return HeartbeatReceived(step="", by=request.by, at=at)
        case _:
            raise AnswerRefusedError("invalid-request", _FORM)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_ERROR


def _unknown() -> AnswerRefusedError:
    # A token that is wrong and a saga that is not there look alike to whoever tries tokens.
    return AnswerRefusedError("not-found", "Nobody waits for an answer under this token.")
