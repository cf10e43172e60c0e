"""Stands in for Lambda's pollers and schedules: takes messages to the real functions.

What it does with an answer is what AWS does (Lambda guide, "Handling errors for
an SQS event source"): messages that are not named as failed are deleted; an
answer that names an unknown message, or an exception, fails the whole batch;
a function that dies answers nothing at all, so its messages come back when
their visibility time-out is over.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from infra.clock import Clock
from saga_cli.local.events import Event, HttpRequest, LambdaContext, schedule_event, sqs_event
from saga_cli.local.template import Template
from saga_cli.local.wiring import (
    Function,
    QueueSource,
    Route,
    Schedule,
    functions,
    routes,
    schedules,
    sources,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef


class Ending(StrEnum):
    """How an invocation ended."""

    ANSWERED = "answered"
    RAISED = "raised"
    KILLED = "killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of a function, for whoever watches.

    Attributes:
        source: The queue that it was for, or ``http`` or ``schedule``.
        messages: The messages delivered, and ``returned`` the ids of those
            that come back.
        error: What it raised, if it did.
    """

    at: int
    function: str
    source: str
    ending: Ending
    answer: object = None
    error: BaseException | None = None
    messages: tuple[MessageTypeDef, ...] = ()
    returned: tuple[str, ...] = ()


Watcher = Callable[[Invocation], None]


class FunctionFailedError(Exception):
    """The function behind the HTTP API failed: API Gateway would answer 500."""


@dataclass(slots=True)
class Pump:
    """Delivers what is due, one invocation at a time.

    Args:
        template: The stack.
        sqs: Where its queues are.
        clock: Measures what time an invocation has left.
        watchers: Told of every invocation.
    """

    template: Template
    sqs: SQSClient
    clock: Clock
    watchers: list[Watcher] = field(default_factory=list)
    _functions: Mapping[str, Function] = field(init=False)
    _sources: list[QueueSource] = field(init=False)
    _routes: list[Route] = field(init=False)
    _schedules: list[Schedule] = field(init=False)
    _due: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._functions = functions(self.template)
        self._sources = sources(self.template)
        self._routes = routes(self.template)
        self._schedules = schedules(self.template)
        now = self.clock.now_ms()
        self._due = {s.function: now + s.period_ms for s in self._schedules}

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that somebody reads."""
        return tuple(source.queue for source in self._sources)

    @property
    def next_tick(self) -> int:
        """When the next schedule is due."""
        return min(self._due.values())

    def step(self) -> Invocation | None:
        """Deliver one batch, or tick one schedule; None when nothing is due."""
        for _ in self._sources:
            source = self._sources.pop(0)
            self._sources.append(source)  # in turn, so that no queue waits for another
            messages = self._receive(source)
            if messages:
                return self._deliver(source, messages)
        return self._tick()

    def http(self, request: HttpRequest) -> Mapping[str, object]:
        """Call the function behind the HTTP API.

        Raises:
            FunctionFailedError: It raised.
        """
        for route in self._routes:
            parameters = route.parameters(request.method, request.path)
            if parameters is None:
                continue
            event = request.event(
                f"{route.method} {route.path}",
                parameters,
                at=self.clock.now_ms(),
                id_=self.clock.new_id(),
            )
            invocation = self._invoke(route.function, "http", event)
            if invocation.ending is not Ending.ANSWERED:
                raise FunctionFailedError(route.function) from invocation.error
            self._tell(invocation)
            return cast("Mapping[str, object]", invocation.answer)
        return {"statusCode": 404, "headers": {}, "body": '{"message":"Not Found"}'}

    # -- queues -------------------------------------------------------------------

    def _receive(self, source: QueueSource) -> tuple[MessageTypeDef, ...]:
        response = self.sqs.receive_message(
            QueueUrl=self.template.queue_url(source.queue),
            MaxNumberOfMessages=min(source.batch_size, 10),
            MessageSystemAttributeNames=["All"],
            WaitTimeSeconds=0,
        )
        return tuple(response.get("Messages", ()))

    def _deliver(self, source: QueueSource, messages: tuple[MessageTypeDef, ...]) -> Invocation:
        arn = self.template.resolve({"Fn::GetAtt": [source.queue, "Arn"]})
        invocation = self._invoke(source.function, source.queue, sqs_event(arn, messages))
        ids = tuple(message["MessageId"] for message in messages)
        returned = _returned(invocation, ids, partial=source.partial)
        for message in messages:
            if message["MessageId"] not in returned:
                self.sqs.delete_message(
                    QueueUrl=self.template.queue_url(source.queue),
                    ReceiptHandle=message["ReceiptHandle"],
                )
        return self._tell(replace(invocation, messages=messages, returned=returned))

    # -- schedules ----------------------------------------------------------------

    def _tick(self) -> Invocation | None:
        now = self.clock.now_ms()
        for schedule in self._schedules:
            if self._due[schedule.function] <= now:
                self._due[schedule.function] = now + schedule.period_ms
                event = schedule_event(now, self.clock.new_id())
                return self._tell(self._invoke(schedule.function, "schedule", event))
        return None

    # -- invocations --------------------------------------------------------------

    def _invoke(self, name: str, source: str, event: Event) -> Invocation:
        function = self._functions[name]
        handler = pkgutil.resolve_name(function.handler.replace(".handler", ":handler"))
        at = self.clock.now_ms()
        context = LambdaContext(self.clock, name, at + function.timeout_ms, self.clock.new_id())
        ending, answer = Ending.ANSWERED, None
        error: BaseException | None = None
        try:
            answer = json.loads(json.dumps(handler(event, context)))
        except KeyboardInterrupt:
            raise
        except Exception as exc:  # noqa: BLE001 - as Lambda does, whatever it is
            ending, error = Ending.RAISED, exc
        except BaseException as exc:  # noqa: BLE001 - a process that was killed
            ending, error = Ending.KILLED, exc
        return Invocation(
            at=at,
            function=name,
            source=source,
            ending=ending,
            answer=answer,
            error=error,
        )

    def _tell(self, invocation: Invocation) -> Invocation:
        for watcher in self.watchers:
            watcher(invocation)
        return invocation


def _returned(invocation: Invocation, ids: tuple[str, ...], *, partial: bool) -> tuple[str, ...]:
    """The messages that come back, as the mapping reads the answer."""
    if invocation.ending is not Ending.ANSWERED:
        return ids
    answer = invocation.answer
    if not partial or answer is None:
        return ()
    try:
        items = cast("dict[str, list[dict[str, str]] | None]", answer).get("batchItemFailures")
        named = tuple(item["itemIdentifier"] for item in items or ())
    except (KeyError, TypeError, AttributeError):
        return ids
    return named if all(name in ids for name in named) else ids
