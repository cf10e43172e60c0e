"""The HTTP API: start, read, list, resume, cancel and skip, and answers for steps that wait.

Who may call is settled before: by IAM, or by the scopes of a token. Whose sagas
a caller sees comes from the authoriser's claim, never from body or path; a
foreign id is as unknown as one that does not exist. To answer, a caller needs the
step's token besides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, cast

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError

from handlers._answering import AnswerRefusedError, AnswerRequest, take
from handlers._application import Application
from handlers._bootstrap import entry_point
from handlers._driver import Driver
from handlers._problems import ProblemError, problem
from handlers._records import LambdaContext
from handlers._starting import StartRefusedError, StartRequest, begin
from handlers._view import WHY_NOT, summary, view
from saga_core.definition import SAGA_NAME
from saga_core.errors import StoreError
from saga_core.events import CancelRequested, Request, ResumeRequested, SkipRequested
from saga_core.identity import SAGA_ID, TENANT
from saga_core.instance import Key, SagaInstance, SagaState
from saga_core.ports import INPUT_LIMIT
from saga_core.strict_json import strict_json
from saga_core.transition import Reason
from saga_core.turn import Answer, Answered, Starting, request

Json = dict[str, object]
HttpEvent = dict[str, Any]  # API Gateway's payload format 2.0, read through Powertools

DEFAULT_TENANT = "default"
DEFAULT_LIMIT, MAX_LIMIT = 20, 100
SMALL_BODY = 4_096  # bytes; no request but a start needs more
_MAX_ACTOR = 200
_MAX_CURSOR = 256  # characters; ours take under 120, and a reader of JSON recurses


def handle(app: Application, event: HttpEvent, context: LambdaContext) -> Json:
    """Answer one HTTP request."""
    return cast("Json", _resolver(app, context).resolve(event, cast("Any", context)))


def _resolver(app: Application, context: LambdaContext) -> APIGatewayHttpResolver:
    """The routes over these parts. Building them costs microseconds."""
    http = APIGatewayHttpResolver()
    ends_at = app.clock.now_ms() + context.get_remaining_time_in_millis()

    @http.post("/sagas/<name>")
    def start_saga(name: str) -> Response[str]:
        return _start(app, http, name, ends_at)

    @http.get("/sagas/<saga_id>")
    def get_saga(saga_id: str) -> Response[str]:
        found = app.store.find(_key(app, http, saga_id), app.clock.now_ms())
        if found is None:
            raise _unknown(saga_id)
        return _answer(200, view(found))

    @http.get("/sagas")
    def list_sagas() -> Response[str]:
        return _list(app, http)

    @http.post("/sagas/<saga_id>/resume")
    def resume_saga(saga_id: str) -> Response[str]:
        event = ResumeRequested(by=_actor(http), at=app.clock.now_ms())
        return _request(app, http, saga_id, event, kind="resume", ends_at=ends_at)

    @http.post("/sagas/<saga_id>/cancel")
    def cancel_saga(saga_id: str) -> Response[str]:
        event = CancelRequested(by=_actor(http), at=app.clock.now_ms())
        return _request(app, http, saga_id, event, kind="cancel", ends_at=ends_at)

    @http.post("/sagas/<saga_id>/skip")
    def skip_step(saga_id: str) -> Response[str]:
        body = _json_body(http, SMALL_BODY)
        step = body.get("step") if isinstance(body, dict) else None
        if not isinstance(step, str):
            raise ProblemError("invalid-request", 'The body names the step: {"step": "..."}.')
        event = SkipRequested(step=step, by=_actor(http), at=app.clock.now_ms())
        return _request(app, http, saga_id, event, kind="skip", ends_at=ends_at)

    @http.post("/answers/<token>")
    def answer_step(token: str) -> Response[str]:
        return _take_answer(app, http, token, ends_at)

    _errors(app, http)
    return http


def _errors(app: Application, http: APIGatewayHttpResolver) -> None:
    def no_route(_error: NotFoundError) -> Response[str]:
        return problem("not-found", "There is nothing at this path.")

    def known(error: ProblemError) -> Response[str]:
        app.telemetry.refused("api", error.slug, correlation_id=_correlation_id(http))
        return problem(error.slug, error.detail, error.extra)

    def store(_error: StoreError) -> Response[str]:
        return problem("unavailable", "Send the same request again.")

    def unknown(error: Exception) -> Response[str]:
        correlation_id = _correlation_id(http)
        app.telemetry.crashed("api", error, correlation_id=correlation_id)
        return problem("internal", f"Quote {correlation_id} when you report it.")

    http.not_found(no_route)
    http.exception_handler(ProblemError)(known)
    http.exception_handler(StoreError)(store)
    http.exception_handler(Exception)(unknown)


# -- the routes -----------------------------------------------------------------


def _start(
    app: Application, http: APIGatewayHttpResolver, name: str, ends_at: int
) -> Response[str]:
    tenant = _tenant(app, http)
    if not SAGA_NAME.fullmatch(name):
        raise ProblemError("unknown-saga", "No saga of this name is deployed here.")
    key = _header(http, "idempotency-key")
    if key is None:
        raise ProblemError(
            "idempotency-key-missing",
            "Send an Idempotency-Key header: a UUID made by you for this saga and sent again "
            "with every retry, so that no retry starts a second one.",
        )
    context = _json_body(http, INPUT_LIMIT)
    text = json.dumps(context, ensure_ascii=False, separators=(",", ":"))
    try:
        result, saga = begin(
            app,
            StartRequest(tenant, name, text, _unquoted(key)),
            ends_at=ends_at,
            correlation_id=_correlation_id(http),
        )
    except StartRefusedError as exc:
        extra: Json = {}
        if exc.fields:
            extra["errors"] = [{"field": place, "message": wrong} for place, wrong in exc.fields]
        raise ProblemError(exc.problem, exc.detail, **extra) from exc
    headers = {"Location": f"/sagas/{saga.id}"}
    if result is Starting.CREATED:
        return _answer(202, view(saga), {**headers, "Retry-After": "1"})
    return _answer(200, view(saga), headers)


def _list(app: Application, http: APIGatewayHttpResolver) -> Response[str]:
    tenant = _tenant(app, http)
    query = http.current_event.query_string_parameters or {}
    unknown = query.keys() - {"state", "name", "cursor", "limit"}
    if unknown:
        raise ProblemError("invalid-request", "The filters are state, name, cursor and limit.")
    states = frozenset(SagaState)
    if "state" in query:
        if query["state"] not in SagaState.__members__:
            known = ", ".join(SagaState.__members__)
            raise ProblemError("invalid-request", f"A state is one of {known}.")
        states = frozenset({SagaState(query["state"])})
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not (re.fullmatch("[0-9]{1,9}", limit) and 1 <= int(limit) <= MAX_LIMIT):
        raise ProblemError("invalid-request", f"The limit is a number from 1 to {MAX_LIMIT}.")
    cursor = query.get("cursor")
    if cursor is not None and len(cursor) > _MAX_CURSOR:
        raise ProblemError("invalid-request", "The cursor is not one of ours.")
    try:
        page = app.store.page(
            tenant,
            states=states,
            name=query.get("name"),
            cursor=cursor,
            limit=int(limit),
            now=app.clock.now_ms(),
        )
    except ValueError as exc:
        raise ProblemError("invalid-request", "The cursor is not one of ours.") from exc
    body: Json = {"sagas": [summary(saga) for saga in page.instances], "cursor": page.cursor}
    return _answer(200, body)


def _take_answer(
    app: Application, http: APIGatewayHttpResolver, token: str, ends_at: int
) -> Response[str]:
    tenant = _tenant(app, http)
    told = _json_body(http, INPUT_LIMIT)
    asked = AnswerRequest(tenant, token, told, _actor(http))
    try:
        saga = take(app, asked, ends_at=ends_at, correlation_id=_correlation_id(http))
    except AnswerRefusedError as exc:
        extra: Json = {}
        if exc.fields:
            extra["errors"] = [{"field": place, "message": wrong} for place, wrong in exc.fields]
        if exc.saga is not None:
            extra["state"] = exc.saga.state.value
        if exc.reason is not None:
            extra["reason"] = exc.reason
        raise ProblemError(exc.problem, exc.detail, **extra) from exc
    return _answer(202, view(saga), {"Location": f"/sagas/{saga.id}", "Retry-After": "1"})


def _request(
    app: Application,
    http: APIGatewayHttpResolver,
    saga_id: str,
    event: Request,
    *,
    kind: str,
    ends_at: int,
) -> Response[str]:
    key = _key(app, http, saga_id)
    correlation_id = _correlation_id(http)
    turn = request(key, event, app.definitions.by_ref, nudge_id=app.clock.new_id(), ends_at=ends_at)
    answered = Driver(app, correlation_id).run(turn)
    app.telemetry.requested(
        kind, answered.answer.value, answered.instance, correlation_id=correlation_id
    )
    saga = _accepted(answered, saga_id)
    return _answer(202, view(saga), {"Location": f"/sagas/{saga.id}", "Retry-After": "1"})


def _accepted(answered: Answered, saga_id: str) -> SagaInstance:
    """The saga of an accepted request; anything else is a problem."""
    saga = answered.instance
    if answered.answer is Answer.NOT_FOUND:
        raise _unknown(saga_id)
    if answered.answer is Answer.UNAVAILABLE or saga is None:
        raise ProblemError("unavailable", "Send the same request again.")
    if answered.answer is Answer.DEFINITION_MISSING:
        raise ProblemError(
            "definition-missing",
            f"Deploy {saga.definition}, then send the request again.",
            state=saga.state.value,
        )
    if answered.answer is Answer.REFUSED:
        reason = answered.reason or Reason.CLOSED
        detail = WHY_NOT.get(reason, "The saga's state does not allow this.")
        raise ProblemError("not-allowed", detail, state=saga.state.value, reason=reason.value)
    return saga


# -- what a request carries -----------------------------------------------------


def _tenant(app: Application, http: APIGatewayHttpResolver) -> str:
    if app.tenant_claim is None:
        return DEFAULT_TENANT
    authorizer = _authorizer(http)
    claims = authorizer.get("jwt", {}).get("claims", {})
    tenant = claims.get(app.tenant_claim)
    if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
        raise ProblemError("no-tenant", "The caller's token names no tenant.")
    return tenant


def _actor(http: APIGatewayHttpResolver) -> str:
    """Who asks, as the authoriser knows them."""
    authorizer = _authorizer(http)
    iam = authorizer.get("iam") or {}
    claims = (authorizer.get("jwt") or {}).get("claims") or {}
    who = iam.get("userArn") or claims.get("sub") or "api"
    return str(who)[:_MAX_ACTOR]


def _authorizer(http: APIGatewayHttpResolver) -> dict[str, Any]:
    context = http.current_event.raw_event.get("requestContext") or {}
    return context.get("authorizer") or {}


def _key(app: Application, http: APIGatewayHttpResolver, saga_id: str) -> Key:
    tenant = _tenant(app, http)
    if not SAGA_ID.fullmatch(saga_id):
        raise _unknown(saga_id)
    return Key(tenant, saga_id)


def _unknown(_saga_id: str) -> ProblemError:
    return ProblemError("not-found", "There is no saga of this id.")


def _json_body(http: APIGatewayHttpResolver, limit: int) -> object:
    """The body. Its size and type are looked at before it is parsed."""
    media_type = (_header(http, "content-type") or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ProblemError("unsupported-media-type", "Send Content-Type: application/json.")
    raw = http.current_event.raw_event.get("body") or ""
    if len(raw) > 2 * limit:  # base64 adds a third, UTF-8 is counted below
        raise ProblemError("too-large", f"A body is at most {limit} bytes.")
    try:
        body = (http.current_event.decoded_body or "").encode()
    except (ValueError, UnicodeError) as exc:
        raise ProblemError("not-json", "The body is not UTF-8.") from exc
    if len(body) > limit:
        raise ProblemError("too-large", f"A body is at most {limit} bytes.")
    try:
        return strict_json(body)
    except ValueError as exc:
        raise ProblemError("not-json", f"The body was refused: {exc}.") from exc


def _header(http: APIGatewayHttpResolver, name: str) -> str | None:
    headers = http.current_event.raw_event.get("headers") or {}
    value = headers.get(name)
    if value is None:
        value = next((v for k, v in headers.items() if k.lower() == name), None)
    return value or None


def _unquoted(key: str) -> str:
    """The header is a structured string, in quotes; most clients leave them out."""
    quoted = len(key) > 1 and key[0] == key[-1] == '"'
    return key[1:-1] if quoted else key


def _correlation_id(http: APIGatewayHttpResolver) -> str:
    context = http.current_event.raw_event.get("requestContext") or {}
    return str(context.get("requestId") or "")[:64]


def _answer(status: int, body: Json, headers: dict[str, str] | None = None) -> Response[str]:
    return Response(
        status_code=status,
        content_type="application/json",
        body=json.dumps(body, ensure_ascii=False),
        headers=cast("Any", headers),
    )


handler: Callable[[HttpEvent, LambdaContext], Json] = entry_point("api", handle)
