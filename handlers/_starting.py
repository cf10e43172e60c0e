"""A start request, from whichever side it comes: checked, then made a saga."""

from __future__ import annotations

from dataclasses import dataclass

from handlers._application import Application
from handlers._driver import Driver
from saga_core.contexts import InvalidContextError
from saga_core.definition import SagaDefinition
from saga_core.identity import IDEMPOTENCY_KEY, input_fingerprint, saga_id_for
from saga_core.instance import SagaInstance
from saga_core.ports import INPUT_LIMIT
from saga_core.transition import create
from saga_core.turn import Started, Starting, start


class StartRefusedError(Exception):
    """The request cannot start a saga. ``problem`` says why, in a word."""

    def __init__(self, problem: str, detail: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        self.problem = problem
        self.detail = detail
        self.fields = fields
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What is to be started, for whom. ``context`` is JSON text."""

    tenant: str
    saga: str
    context: str
    idempotency_key: str


def begin(
    app: Application, request: StartRequest, *, ends_at: int, correlation_id: str
) -> tuple[Starting, SagaInstance]:
    """Start the saga, or find the one that stands under the key.

    Raises:
        StartRefusedError: Nothing was written; sending the same again is no use,
            except for the problem ``unavailable``.
    """
    new, definition = _checked(app, request)
    started = Driver(app, correlation_id).run(start(new, definition, ends_at=ends_at))
    return _told(app, started, correlation_id)


def _checked(app: Application, request: StartRequest) -> tuple[SagaInstance, SagaDefinition]:
    if not IDEMPOTENCY_KEY.fullmatch(request.idempotency_key):
        raise StartRefusedError(
            "invalid-idempotency-key", "An idempotency key is 1 to 128 printable ASCII characters."
        )
    definition = app.definitions.newest(request.saga)
    if definition is None:
        raise StartRefusedError("unknown-saga", "No saga of this name is deployed here.")
    if len(request.context.encode()) > INPUT_LIMIT:
        raise StartRefusedError("too-large", f"A context is at most {INPUT_LIMIT} bytes.")
    try:
        context = app.codec.accept(request.context, definition.context_type)
    except InvalidContextError as exc:
        raise StartRefusedError(
            "invalid-context", "The context is not one of this saga.", exc.fields
        ) from exc
    new = create(
        definition,
        saga_id=saga_id_for(request.tenant, request.idempotency_key),
        tenant=request.tenant,
        incarnation=app.clock.new_incarnation(),
        input_fingerprint=input_fingerprint(request.saga, request.context),
        context=context,
        at=app.clock.now_ms(),
        secret=app.clock.new_secret(),
    )
    return new, definition


def _told(app: Application, started: Started, correlation_id: str) -> tuple[Starting, SagaInstance]:
    if started.result is Starting.KEY_REUSED:
        raise StartRefusedError(
            "key-reused", "This idempotency key was used with another saga or another input."
        )
    if started.result is Starting.TOO_LARGE:
        raise StartRefusedError("too-large", "The saga would not fit into one item.")
    if started.instance is None:
        raise StartRefusedError("unavailable", "The store did not answer. Send the same again.")
    app.telemetry.started(
        started.instance,
        created=started.result is Starting.CREATED,
        announced=started.announced,
        correlation_id=correlation_id,
    )
    return started.result, started.instance
