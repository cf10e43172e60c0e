"""One deployment, as a test sees it: the real functions over moto, and time that a test turns.

A stage has a table and queues of its own, made from template.yaml, and calls the
functions as Lambda does: events of the real shapes, an event source mapping's
reading of the answers, a client that a kill leaves without one. What is outside
the sagas is ``examples.services.world``: it knows which effects happened, under
which keys, and what was undone.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from moto.sqs.models import Message, sqs_backends

from examples.order import order
from examples.services import world
from examples.travel import travel
from handlers import _bootstrap
from handlers._application import Application
from handlers._telemetry import Sink, Telemetry
from handlers.sweeper import LOOK_AHEAD_MS
from infra.contexts import PydanticContextCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender, parse
from infra.registry import Registry
from infra.settings import DEFAULT_STEP_SECONDS
from saga_cli.local.events import HttpRequest, LambdaContext, schedule_event, sqs_event
from saga_cli.local.moto_as_aws import moto_tells_time_by
from saga_cli.local.template import ACCOUNT, REGION, Template
from saga_cli.local.wiring import Function, QueueSource, functions, sources
from saga_core.calls import StepCall
from saga_core.definition import Handler, SagaDefinition, StepDefinition
from saga_core.instance import Key, SagaInstance
from tests.fakes.aws import LocalAws
from tests.fakes.clock import HandClock
from tests.fakes.faults import FaultyClient, Killed
from tests.fakes.template import TEMPLATE

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
ORDER, TRAVEL = order.build(), travel
TEA: Mapping[str, object] = {"sku": "tea", "quantity": 2}
DECLINED: Mapping[str, object] = {**TEA, "card": "4000000000000002"}

FED = ("WorkQueue", "DeadLetterQueue", "StartQueue")  # the queues that a function reads

Staged = Callable[..., AbstractContextManager["Stage"]]  # makes stages, one at a time
Boundary = Callable[[str], None]  # told of the moment before and after every call
Lambda = Callable[[dict[str, Any], LambdaContext], Any]


def nothing(_moment: str) -> None:
    """The boundary of a run that nobody disturbs."""


@dataclass
class RecordingSink(Sink):
    """Every line and every number that the functions wrote."""

    lines: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    metrics: list[tuple[str | None, dict[str, float]]] = field(default_factory=list)

    def line(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """See Sink."""
        self.lines.append((level, message, dict(fields)))

    def count(self, saga: str | None, metrics: Mapping[str, float]) -> None:
        """See Sink."""
        self.metrics.append((saga, dict(metrics)))

    def of(self, message: str) -> list[dict[str, Any]]:
        """The fields of every line with this message."""
        return [fields for _, said, fields in self.lines if said == message]

    def total(self, metric: str) -> float:
        """The sum of a metric."""
        return sum(metrics.get(metric, 0) for _, metrics in self.metrics)

    def decisions(self, function: str) -> list[str]:
        """What a function decided, in order."""
        return [str(f["decision"]) for _, _, f in self.lines if f.get("function") == function]


class WatchedClient(FaultyClient):
    """A FaultyClient that tells of the moments before and after each call."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.boundary: Boundary = nothing

    def _call(self, name: str, target: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        self.boundary(f"before {name}")
        reply = super()._call(name, target, arguments)
        self.boundary(f"after {name}")
        return reply


@dataclass(frozen=True, slots=True)
class Answer:
    """What the HTTP API answered."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        """The body, parsed."""
        return json.loads(self.text)

    @property
    def problem(self) -> str:
        """The last part of the problem's type; an answer that is no problem has none."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        kind, status = self.body["type"], self.body["status"]
        assert status == self.status
        assert {"type", "title", "status", "detail"} <= self.body.keys()
        return str(kind).removeprefix("urn:saga:problem:")


@dataclass(frozen=True, slots=True)
class Batch:
    """One delivery of an event source mapping: what it handed over, and what comes back."""

    messages: tuple[Any, ...]
    returned: tuple[str, ...] = ()
    error: BaseException | None = None

    @property
    def killed(self) -> bool:
        """The function died and answered nothing."""
        return self.error is not None and not isinstance(self.error, Exception)


@dataclass
class Stage:
    """The functions, the table, the queues and the clock of one test."""

    clock: HandClock
    table: str
    queues: Mapping[str, str]
    dynamodb: WatchedClient
    sqs: WatchedClient
    sink: RecordingSink
    app: Application
    in_hand: tuple[Any, ...] = ()  # the messages delivered last
    attempts: list[StepCall] = field(default_factory=list)  # every call of a step's handler

    # -- the world outside -----------------------------------------------------------

    def deploy(self, *definitions: SagaDefinition) -> None:
        """Let the functions know these sagas, and no others."""
        watched = tuple(self._watched(d) for d in definitions)
        self.app = replace(self.app, definitions=Registry(watched))
        _bootstrap.use(self.app)

    def watch(self, boundary: Boundary) -> None:
        """Tell this of every call of a function's, to AWS or to a step's handler."""
        self.dynamodb.boundary = self.sqs.boundary = boundary

    def heal(self) -> None:
        """No trouble any more."""
        self.watch(nothing)
        self.dynamodb.heal()
        self.sqs.heal()

    def calls(self) -> Counter[str]:
        """The AWS calls that the functions made so far."""
        return self.dynamodb.calls + self.sqs.calls

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """The AWS calls that the functions make inside the block."""
        before, inside = self.calls(), Counter[str]()
        try:
            yield inside
        finally:
            inside.update(self.calls() - before)

    # -- the HTTP API -----------------------------------------------------------------

    def http(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        claims: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; a kill goes through, because then nobody answers."""
        return self.api(
            self.http_event(
                method, path, body, key=key, query=query, headers=headers, claims=claims
            )
        )

    def http_event(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        claims: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The event of a request, for a test that spoils it."""
        given = {**({"Idempotency-Key": key} if key is not None else {}), **(headers or {})}
        request = HttpRequest(
            method=method, path=path, query=query or {}, headers=given, body=body, claims=claims
        )
        route = f"{method} {path}"
        return request.event(route, {}, at=self.clock.now_ms(), id_=self.clock.new_id())

    def api(self, event: dict[str, Any]) -> Answer:
        """Hand an event to the API's function."""
        answer = self._invoke("handlers.api.handler", event)
        assert answer["isBase64Encoded"] is False
        return Answer(answer["statusCode"], answer["headers"], answer["body"])

    def start(
        self, saga: str = "order", context: object = TEA, *, key: str = "key-1", **options: Any
    ) -> str:
        """Start a saga as a client does, again and again until there is an answer."""
        for _ in range(100):
            try:
                answer = self.http("POST", f"/sagas/{saga}", context, key=key, **options)
            except Killed:
                continue
            assert answer.status in (200, 202), answer
            return str(answer.body["id"])
        raise AssertionError("no answer")

    def saga(self, saga_id: str, tenant: str = "default") -> SagaInstance:
        """The saga as it stands in the table."""
        clean = DynamoDBSagaStore(self.dynamodb.wrapped, self.table)
        found = clean.find(Key(tenant, saga_id), self.clock.now_ms())
        assert found is not None, f"there is no saga {saga_id}"
        return found

    def ids(self) -> list[str]:
        """The sagas that there are."""
        items = self.dynamodb.wrapped.scan(TableName=self.table)["Items"]
        return sorted(item["saga_id"]["S"] for item in items)

    # -- the queues -------------------------------------------------------------------

    def send(self, queue: str, body: str) -> str:
        """Put a message into a queue, whatever is in it."""
        sent = self.sqs.wrapped.send_message(QueueUrl=self.queues[queue], MessageBody=body)
        return str(sent["MessageId"])

    def messages(self, queue: str) -> list[Message]:
        """The messages of a queue, the delayed ones and those in flight too."""
        name = self.queues[queue].rpartition("/")[2]
        return list(sqs_backends[ACCOUNT][REGION].queues[name]._messages)

    def bodies(self, queue: str) -> list[str]:
        """What is in a queue."""
        return [message.body for message in self.messages(queue)]

    def receive(self, queue: str, *, most: int = 1) -> tuple[Any, ...]:
        """Take messages as a poller does: they are in flight from now on."""
        reply = self.sqs.wrapped.receive_message(
            QueueUrl=self.queues[queue],
            MaxNumberOfMessages=most,
            MessageSystemAttributeNames=["All"],
        )
        return tuple(reply.get("Messages", ()))

    def deliver(self, queue: str = "WorkQueue", *, most: int | None = None) -> Batch:
        """Deliver what is due in one batch, and do with the answer what the mapping does."""
        batch_size = most if most is not None else _source(queue).batch_size
        return self.hand_over(queue, self.receive(queue, most=batch_size))

    def hand_over(self, queue: str, messages: Sequence[Any]) -> Batch:
        """Call the queue's function with these messages, and delete those that it settled.

        Also a second time with the same messages: SQS delivers again at any time.
        """
        if not messages:
            return Batch(())
        event = sqs_event(f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}", messages)
        ids = tuple(message["MessageId"] for message in messages)
        self.in_hand = tuple(messages)
        try:
            answer = self._invoke(_function_of(queue).handler, event)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - as Lambda does, whatever it is
            batch = Batch(tuple(messages), ids, error)
        else:
            batch = Batch(tuple(messages), _failures(answer, ids))
        for message in messages:
            if message["MessageId"] not in batch.returned:
                self.delete(queue, message)
        return batch

    def delete(self, queue: str, message: Any) -> None:
        """Take a message out of a queue; a second time changes nothing."""
        self.sqs.wrapped.delete_message(
            QueueUrl=self.queues[queue], ReceiptHandle=message["ReceiptHandle"]
        )

    # -- the schedule -----------------------------------------------------------------

    def sweep(self) -> dict[str, Any]:
        """Run the sweeper once."""
        event = schedule_event(self.clock.now_ms(), self.clock.new_id())
        found: dict[str, Any] = self._invoke("handlers.sweeper.handler", event)
        return found

    # -- time -------------------------------------------------------------------------

    def step(self) -> bool:
        """Deliver one batch of whatever is due now."""
        return any(self.deliver(queue).messages for queue in FED)

    def leap(self) -> bool:
        """Turn the clock to the next message that is due; False when there is none."""
        due = [
            int(max(message.visible_at, message.delayed_until)) + 1
            for queue in FED
            for message in self.messages(queue)
        ]
        if due:
            self.clock.now = max(self.clock.now, min(due))
        return bool(due)

    def run_until_quiet(self, *, sweeper: bool = False) -> None:
        """Deliver and leap until no message is left, and with a sweeper no live saga either."""
        for _ in self.moves(sweeper=sweeper):
            pass

    def moves(self, *, sweeper: bool = False, within: int = 24 * HOUR) -> Iterator[None]:
        """The same, and stop after each delivery, leap and sweep."""
        end = self.clock.now + within
        for _ in range(2_000):
            assert self.clock.now < end, f"not quiet after {within // HOUR} hours"
            if not self.step() and not self.leap():
                if not sweeper or not self._leap_to_the_sweeper():
                    return
                self.sweep()
            yield
        raise AssertionError("messages without end")

    # -- parts ------------------------------------------------------------------------

    def _invoke(self, handler: str, event: dict[str, Any]) -> Any:
        """Call a function as Lambda does: what comes in and goes out is JSON."""
        function = _functions()[handler]
        ends_at = self.clock.now_ms() + function.timeout_ms
        context = LambdaContext(self.clock, function.name, ends_at, self.clock.new_id())
        entry: Lambda = pkgutil.resolve_name(handler.replace(".handler", ":handler"))
        self._boundary(f"before {handler}")
        answer = json.loads(json.dumps(entry(json.loads(json.dumps(event)), context)))
        self._boundary(f"after {handler}")
        return answer

    def _boundary(self, moment: str) -> None:
        self.sqs.boundary(moment)

    def _watched(self, definition: SagaDefinition) -> SagaDefinition:
        return replace(definition, steps=tuple(map(self._watched_step, definition.steps)))

    def _watched_step(self, step: StepDefinition) -> StepDefinition:
        undo = step.compensate
        return replace(
            step,
            execute=self._watched_handler(step.execute, f"execute {step.name}"),
            compensate=self._watched_handler(undo, f"compensate {step.name}") if undo else None,
        )

    def _watched_handler(self, handler: Handler, name: str) -> Handler:
        def watched(ctx: object, call: StepCall) -> object:
            self.attempts.append(call)
            self._boundary(f"before {name}")
            try:
                result = handler(ctx, call)
            except Exception:
                self._boundary(f"after {name}")
                raise
            if inspect.isawaitable(result):
                return finish(result)
            self._boundary(f"after {name}")
            return result

        async def finish(result: Any) -> object:
            try:
                return await result
            finally:
                self._boundary(f"after {name}")

        return Handler.of(watched)

    def _leap_to_the_sweeper(self) -> bool:
        """To the first minute in which it would find something; False when it never will."""
        items = self.dynamodb.wrapped.scan(TableName=self.table)["Items"]
        due = [
            int(item["sweep_at"]["N"])
            for item in items
            if item.get("gs_pk", {"S": "-"})["S"][0] == "W"
        ]
        if due:
            wait = min(due) - LOOK_AHEAD_MS - self.clock.now
            self.clock.now += max(1, -(-wait // MINUTE)) * MINUTE
        return bool(due)


@contextmanager
def on_stage(
    aws: LocalAws,
    *definitions: SagaDefinition,
    tenant_claim: str | None = None,
) -> Iterator[Stage]:
    """A new stage with these sagas deployed; by default the examples."""
    clock, sink = HandClock(), RecordingSink()
    table, queues = aws.new_table(), aws.new_queues()
    dynamodb, sqs = WatchedClient(aws.dynamodb.wrapped), WatchedClient(aws.sqs.wrapped)
    table_client: Any = dynamodb  # a client to all but mypy
    queue_client: Any = sqs
    app = Application(
        clock=clock,
        store=DynamoDBSagaStore(
            table_client, table, clock=clock.now_ms, new_id=clock.new_id, pause=clock.sleep_ms
        ),
        queue=SqsSender(queue_client, queues["WorkQueue"]),
        definitions=Registry(()),
        codec=PydanticContextCodec(),
        telemetry=Telemetry(sink),
        parse=parse,
        step_ms=DEFAULT_STEP_SECONDS * SECOND,
        tenant_claim=tenant_claim,
    )
    stage = Stage(clock, table, queues, dynamodb, sqs, sink, app)
    world.reset()
    with moto_tells_time_by(clock):
        try:
            stage.deploy(*(definitions or (ORDER, TRAVEL)))
            yield stage
        finally:
            _bootstrap.reset()
            world.reset()


@cache
def _functions() -> dict[str, Function]:
    """The deployed functions, by their handler."""
    return {f.handler: f for f in functions(Template.read(TEMPLATE)).values()}


@cache
def _sources() -> tuple[QueueSource, ...]:
    return tuple(sources(Template.read(TEMPLATE)))


def _source(queue: str) -> QueueSource:
    (found,) = (source for source in _sources() if source.queue == queue)
    assert found.partial, f"{queue}: the mapping does not read batchItemFailures"
    return found


def _function_of(queue: str) -> Function:
    return next(f for f in _functions().values() if f.name == _source(queue).function)


def _failures(answer: Any, ids: tuple[str, ...]) -> tuple[str, ...]:
    """What comes back, as a mapping reads the answer; ours must be one that it can read."""
    assert answer.keys() == {"batchItemFailures"}, answer
    assert all(item.keys() == {"itemIdentifier"} for item in answer["batchItemFailures"]), answer
    named = tuple(item["itemIdentifier"] for item in answer["batchItemFailures"])
    assert set(named) <= set(ids), f"an unknown id fails the whole batch: {named}"
    assert all(named), "an empty id fails the whole batch"
    return named
