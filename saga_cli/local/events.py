"""What Lambda hands to a function: events of the real shapes, and the invocation's context."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast
from urllib.parse import urlencode

from infra.clock import Clock
from saga_cli.local.template import ACCOUNT, REGION

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

Event = dict[str, object]
CALLER = f"arn:aws:iam::{ACCOUNT}:user/local"


@dataclass(frozen=True, slots=True)
class LambdaContext:
    """The context of one invocation: who is running, and until when."""

    clock: Clock
    function_name: str
    ends_at: int
    aws_request_id: str
    memory_limit_in_mb: int = 512
    function_version: str = "$LATEST"
    invoked_function_arn: str = field(init=False)
    log_group_name: str = "local"
    log_stream_name: str = "local"

    def __post_init__(self) -> None:
        arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.function_name}"
        object.__setattr__(self, "invoked_function_arn", arn)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is killed."""
        return max(0, self.ends_at - self.clock.now_ms())


def sqs_event(queue_arn: str, messages: Sequence[MessageTypeDef]) -> Event:
    """An event source mapping's batch."""
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": cast("Event", message.get("Attributes", {})),
                "messageAttributes": {},
                "md5OfBody": message["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": queue_arn,
                "awsRegion": REGION,
            }
            for message in messages
        ]
    }


def schedule_event(at: int, request_id: str) -> Event:
    """A scheduled rule's tick."""
    return {
        "version": "0",
        "id": request_id,
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": _moment(at).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
        "resources": [f"arn:aws:events:{REGION}:{ACCOUNT}:rule/local"],
        "detail": {},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request to the HTTP API. A body that is no text is sent as JSON."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    claims: Mapping[str, str] | None = None

    def event(self, route: str, parameters: Mapping[str, str], *, at: int, id_: str) -> Event:
        """The payload of format 2.0 that API Gateway makes of it."""
        headers = {"host": "local", **{k.lower(): v for k, v in self.headers.items()}}
        body = self.body if isinstance(self.body, str | None) else json.dumps(self.body)
        if body is not None:
            headers.setdefault("content-type", "application/json")
            headers.setdefault("content-length", str(len(body.encode())))
        event: Event = {
            "version": "2.0",
            "routeKey": route,
            "rawPath": self.path,
            "rawQueryString": urlencode(self.query),
            "headers": headers,
            "requestContext": {
                "accountId": ACCOUNT,
                "apiId": "local",
                "authorizer": self._authorizer(),
                "domainName": "local",
                "domainPrefix": "local",
                "http": {
                    "method": self.method,
                    "path": self.path,
                    "protocol": "HTTP/1.1",
                    "sourceIp": "127.0.0.1",
                    "userAgent": headers.get("user-agent", "local"),
                },
                "requestId": id_,
                "routeKey": route,
                "stage": "$default",
                "time": _moment(at).strftime("%d/%b/%Y:%H:%M:%S +0000"),
                "timeEpoch": at,
            },
            "isBase64Encoded": False,
        }
        if self.query:
            event["queryStringParameters"] = dict(self.query)
        if parameters:
            event["pathParameters"] = dict(parameters)
        if body is not None:
            event["body"] = body
        return event

    def _authorizer(self) -> Event:
        if self.claims is not None:
            return {"jwt": {"claims": dict(self.claims), "scopes": None}}
        return {
            "iam": {"accountId": ACCOUNT, "callerId": "local", "userArn": CALLER, "userId": "local"}
        }


def _moment(at: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)
