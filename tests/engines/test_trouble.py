"""Trouble on the wire, met by the real clients, the real turns and the real handlers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from handlers import worker
from handlers._application import Application
from handlers._records import OutageError
from handlers._starting import StartRefusedError, StartRequest, begin
from handlers._telemetry import Telemetry
from infra.clock import SystemClock
from infra.contexts import PydanticContextCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import body_of, parse
from infra.registry import Registry
from saga_cli.local.events import LambdaContext
from saga_core.calls import StepCall
from saga_core.definition import Handler, SagaDefinition, StepDefinition
from saga_core.instance import Key, SagaInstance, SagaState
from tests.engines.engine import Started
from tests.engines.served import ServedAws, table_client
from tests.engines.suites import on
from tests.engines.trouble import Proxy, Trouble, Write, proxied
from tests.handlers.stage import RecordingSink

MINUTE = 60_000
TRIES = 4  # of the client, see infra.clients: with one trouble more, the turn has to try again
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def proxy(engine, tools, tmp_path_factory) -> Iterator[Proxy]:
    with proxied(engine, tools, tmp_path_factory.mktemp("microburst")) as running:
        yield running


@dataclass
class Messages:
    """A queue that nothing happens to: the trouble here is the table's."""

    bodies: list[str] = field(default_factory=list)

    def send(
        self,
        instance: SagaInstance,
        delay_ms: int,
        reason: str,
        correlation_id: str,
        branch: int | None = None,
    ) -> None:
        self.bodies.append(body_of(instance, reason, correlation_id, branch))

    def postpone(self, receipt_handle: str, delay_ms: int) -> bool:
        raise AssertionError("nobody else moves this saga")


@dataclass
class Deployment:
    """One saga of two steps, its table behind the proxy."""

    aws: ServedAws
    client: Any  # of the table, through the proxy
    calls: list[StepCall] = field(default_factory=list)
    messages: Messages = field(default_factory=Messages)
    sink: RecordingSink = field(default_factory=RecordingSink)
    starts: int = 0
    deliveries: int = 0

    def __post_init__(self) -> None:
        self.table = self.aws.new_table()
        self.app = Application(
            clock=CLOCK,
            store=DynamoDBSagaStore(self.client, self.table),
            queue=self.messages,
            definitions=Registry((self._definition(),)),
            codec=PydanticContextCodec(),
            telemetry=Telemetry(self.sink),
            parse=parse,
            step_ms=1_000,
        )

    def _definition(self) -> SagaDefinition:
        def step(name: str) -> StepDefinition:
            def execute(_: object, call: StepCall) -> None:
                self.calls.append(call)

            def compensate(_: object) -> None:
                raise AssertionError("nothing has failed")

            return StepDefinition(
                name=name, execute=Handler.of(execute), compensate=Handler.of(compensate)
            )

        return SagaDefinition(name="chain", steps=(step("one"), step("two")))

    def run(self) -> SagaInstance:
        """Start the saga as a client does, and deliver its messages until there is none."""
        while (saga := self._started()) is None:
            pass
        while self.messages.bodies:
            body = self.messages.bodies.pop(0)
            if not self._delivered(body):
                self.messages.bodies.append(body)
        found = DynamoDBSagaStore(self.aws.dynamodb.wrapped, self.table).find(
            Key("default", saga.id), CLOCK.now_ms()
        )
        assert found is not None
        return found

    def _started(self) -> SagaInstance | None:
        self.starts += 1
        request = StartRequest("default", "chain", "{}", "key-1")
        ends_at = CLOCK.now_ms() + MINUTE
        try:
            _, saga = begin(self.app, request, ends_at=ends_at, correlation_id="corr")
        except StartRefusedError as exc:
            if exc.problem != "unavailable":
                raise
            return None
        return saga

    def _delivered(self, body: str) -> bool:
        self.deliveries += 1
        record = {"messageId": "m1", "receiptHandle": "r1", "body": body}
        context = LambdaContext(CLOCK, "worker", CLOCK.now_ms() + MINUTE, CLOCK.new_id())
        try:
            answer = worker.handle(self.app, {"Records": [record]}, context)  # type: ignore[list-item]
        except OutageError:
            return False
        assert answer == {"batchItemFailures": []}
        return True

    @property
    def recognised(self) -> int:
        """Own writes that came back as refusals and were known again."""
        return sum(fields.get("own_writes_recognised", 0) for _, _, fields in self.sink.lines)


@pytest.fixture
def deployment(engine: Started, aws: ServedAws, proxy: Proxy) -> Iterator[Deployment]:
    proxy.heal()
    yield Deployment(aws, table_client(engine.name, proxy.url))
    proxy.heal()


def as_if_nothing_had_happened(deployment: Deployment, saga: SagaInstance) -> None:
    assert saga.state is SagaState.COMPLETED
    assert [(call.step, call.attempt) for call in deployment.calls] == [("one", 1), ("two", 1)]
    assert len({call.idempotency_key for call in deployment.calls}) == 2
    assert saga.version == 5  # a start, two claims, two commits, each written once
    assert [step.attempts for step in saga.steps] == [1, 1]
    assert not deployment.sink.of("saga.crashed")


@pytest.mark.parametrize("write", Write, ids=lambda w: w.name.lower())
@pytest.mark.parametrize("trouble", Trouble, ids=lambda t: t.name.lower())
def test_trouble_of_one_request_changes_nothing(deployment, proxy, trouble, write):
    proxy.make(trouble, write, times=1)
    saga = deployment.run()
    assert proxy.fired() == [write.value[0]]
    assert (deployment.starts, deployment.deliveries) == (1, 2)
    as_if_nothing_had_happened(deployment, saga)
    # A start that is repeated finds its own incarnation, which is no refusal of a turn's write.
    lost = trouble is Trouble.ANSWER_LOST and write is not Write.START
    assert deployment.recognised == (1 if lost else 0)
    started = deployment.sink.of("saga.started")
    assert [line["decision"] for line in started] == ["created"]


@on("ministack")
@pytest.mark.parametrize("write", Write, ids=lambda w: w.name.lower())
@pytest.mark.parametrize("trouble", Trouble, ids=lambda t: t.name.lower())
def test_trouble_that_outlasts_the_clients_patience_changes_nothing(
    deployment, proxy, trouble, write
):
    proxy.make(trouble, write, times=TRIES + 1)
    saga = deployment.run()
    assert proxy.fired() == [write.value[0]] * (TRIES + 1)
    # What is surely not written is left to whoever asks next: the client, or the message.
    again = {(Trouble.THROTTLED, Write.START): (2, 2), (Trouble.THROTTLED, Write.CLAIM): (1, 3)}
    assert (deployment.starts, deployment.deliveries) == again.get((trouble, write), (1, 2))
    as_if_nothing_had_happened(deployment, saga)
