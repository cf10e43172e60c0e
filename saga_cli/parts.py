"""The functions' parts, built for this process instead of for Lambda."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from handlers._application import Application
from handlers._telemetry import Sink, Telemetry
from infra.clock import Clock
from infra.contexts import PydanticContextCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender, parse
from infra.registry import load_definitions
from infra.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient


@dataclass(frozen=True, slots=True)
class LogLine:
    """One structured line that a function wrote."""

    level: str
    message: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class CapturedSink(Sink):
    """Keeps what the functions log, and drops their metrics."""

    lines: list[LogLine] = field(default_factory=list)

    def line(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """See Sink."""
        self.lines.append(LogLine(level, message, dict(fields)))

    def count(self, saga: str | None, metrics: Mapping[str, float]) -> None:
        """See Sink. Nobody watches alarms here."""


def application(
    settings: Settings, *, dynamodb: DynamoDBClient, sqs: SQSClient, clock: Clock, sink: Sink
) -> Application:
    """What handlers._bootstrap builds on AWS, with a clock and clients of one's own.

    Raises:
        DefinitionError: A definition cannot run.
    """
    return Application(
        clock=clock,
        store=DynamoDBSagaStore(
            dynamodb,
            settings.table,
            clock=clock.now_ms,
            new_id=clock.new_id,
            pause=clock.sleep_ms,
        ),
        queue=SqsSender(sqs, settings.queue_url),
        definitions=load_definitions(settings.definitions),
        codec=PydanticContextCodec(),
        telemetry=Telemetry(sink),
        parse=parse,
        step_ms=settings.step_ms,
        tenant_claim=settings.tenant_claim,
    )
