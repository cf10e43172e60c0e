"""Errors as RFC 9457 has them. The ``type`` is stable; nothing quotes the request."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aws_lambda_powertools.event_handler import Response

PREFIX = "urn:saga:problem:"

# The status and title of each slug.
PROBLEMS = {
    "not-found": (404, "Not found"),
    "unknown-saga": (404, "No such saga is deployed"),
    "not-json": (400, "The body is not JSON"),
    "invalid-request": (400, "The request is not valid"),
    "idempotency-key-missing": (400, "An Idempotency-Key is required"),
    "invalid-idempotency-key": (400, "The Idempotency-Key is not valid"),
    "unsupported-media-type": (415, "The body must be application/json"),
    "too-large": (413, "The body is too large"),
    "invalid-context": (422, "The context is not valid"),
    "key-reused": (422, "The Idempotency-Key was used with another input"),
    "not-allowed": (409, "The saga's state does not allow this"),
    "definition-missing": (409, "The saga's definition is not deployed"),
    "no-tenant": (403, "The caller has no tenant"),
    "unavailable": (503, "The store did not answer"),
    "internal": (500, "Something went wrong on our side"),
}


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(self, slug: str, detail: str, **extra: object) -> None:
        self.slug = slug
        self.detail = detail
        self.extra = extra
        super().__init__(slug)


def problem(slug: str, detail: str, extra: Mapping[str, object] | None = None) -> Response[str]:
    """The response for a problem."""
    status, title = PROBLEMS[slug]
    body = {
        "type": PREFIX + slug,
        "title": title,
        "status": status,
        "detail": detail,
        **(extra or {}),
    }
    headers: dict[str, str | list[str]] = {"Retry-After": "1"} if status == 503 else {}  # noqa: PLR2004 - an HTTP status
    return Response(
        status_code=status,
        content_type="application/problem+json",
        body=json.dumps(body),
        headers=headers,
    )
