"""The deployed functions run over the models as they stand: nothing is replaced but AWS."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from handlers import dead_letters, starter, sweeper, worker
from handlers._application import Application
from handlers._telemetry import Telemetry
from infra.contexts import PydanticContextCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender, parse
from infra.registry import Registry
from infra.schema import TTL
from saga_core.definition import Handler, SagaDefinition, StepDefinition
from saga_core.identity import saga_id_for
from saga_core.instance import Key, SagaInstance, SagaState
from saga_core.outcome import Fatal
from tests.simulation.clock import SandboxClock, WorldTime
from tests.simulation.dynamo import FakeDynamo, saga_table
from tests.simulation.sqs import FakeSqs, QueueSettings, lambda_event

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

TABLE, WORK, DEAD, PARKED = "sagas", "work", "dead", "parked"
STEPS = ("reserve", "charge", "ship")
VISIBILITY_MS = 180_000


class Silence:
    """A sink that nobody listens to."""

    def line(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """Nobody reads it."""

    def count(self, saga: str | None, metrics: Mapping[str, float]) -> None:
        """Nobody counts it."""


class Budget:
    """An invocation that has all its time."""

    def get_remaining_time_in_millis(self) -> int:
        """See LambdaContext."""
        return 30_000


class Stage:
    """The functions, the models, and a poller that does everything in turn."""

    def __init__(self) -> None:
        self.time = WorldTime()
        self.done: list[str] = []
        self.failing: str | None = None
        self.dynamo = FakeDynamo(saga_table(TABLE), now=self.time)
        self.sqs = FakeSqs(
            QueueSettings(url=WORK, visibility_ms=VISIBILITY_MS, max_receives=5, dead_letters=DEAD),
            QueueSettings(
                url=DEAD, visibility_ms=VISIBILITY_MS, max_receives=5, dead_letters=PARKED
            ),
            QueueSettings(url=PARKED),
            now=self.time,
        )
        clock = SandboxClock(self.time, "one")
        self.app = Application(
            clock=clock,
            store=DynamoDBSagaStore(
                cast("DynamoDBClient", self.dynamo),
                TABLE,
                clock=clock.now_ms,
                new_id=clock.new_id,
                pause=clock.sleep_ms,
            ),
            queue=SqsSender(cast("SQSClient", self.sqs), WORK),
            definitions=Registry((self._definition(),)),
            codec=PydanticContextCodec(),
            telemetry=Telemetry(Silence()),
            parse=parse,
            step_ms=20_000,
        )

    def start(self) -> None:
        """What a message of the start queue does."""
        body = {"saga": "order", "context": {"basket": 7}, "idempotency_key": "k1"}
        record = {"messageId": "start", "receiptHandle": "h", "body": json.dumps(body)}
        answer = starter.handle(self.app, {"Records": [record]}, Budget())  # type: ignore[list-item]
        assert answer == {"batchItemFailures": []}

    def sweep(self) -> None:
        """What the schedule does."""
        sweeper.handle(self.app, None, Budget())

    def run(self) -> SagaInstance:
        """Deliver until nothing is left to deliver; the saga as it stands then."""
        while True:
            due = [at for q in (WORK, DEAD) if (at := self.sqs.next_visible_at(q)) is not None]
            if not due:
                return self.saga()
            self.time.advance_to(min(due))
            self._poll(WORK, worker.handle)
            self._poll(DEAD, dead_letters.handle)

    def saga(self) -> SagaInstance:
        """As it is stored."""
        key = Key("default", saga_id_for("default", "k1"))
        found = self.app.store.find(key, self.time())
        assert found is not None
        return found

    def _poll(self, queue: str, handle: object) -> None:
        received = self.sqs.receive(queue)
        if received is None:
            return
        answer = handle(self.app, lambda_event(queue, [received]), Budget())  # type: ignore[operator]
        if not answer["batchItemFailures"]:
            self.sqs.delete(received.receipt_handle)

    def _definition(self) -> SagaDefinition:
        steps = tuple(self._step(name) for name in STEPS)
        return SagaDefinition(name="order", steps=steps, timeout=timedelta(days=1))

    def _step(self, name: str) -> StepDefinition:
        def execute(_ctx: object) -> None:
            if name == self.failing:
                raise Fatal(f"no {name}")
            self.done.append(name)

        def compensate(_ctx: object) -> None:
            self.done.append(f"un-{name}")

        return StepDefinition(
            name=name, execute=Handler.of(execute), compensate=Handler.of(compensate)
        )


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_without_faults_a_step_costs_two_writes_and_one_send(stage: Stage):
    stage.start()
    assert stage.saga().state is SagaState.CREATED
    reads = stage.dynamo.calls["GetItem"]
    assert stage.run().state is SagaState.COMPLETED
    assert stage.done == list(STEPS)
    assert stage.dynamo.calls["PutItem"] == 1
    assert stage.dynamo.calls["UpdateItem"] == 2 * len(STEPS)
    assert stage.sqs.calls["SendMessage"] == len(STEPS)
    assert stage.dynamo.calls["GetItem"] == reads + 1  # this test's own
    assert not stage.dynamo.refused


def test_what_was_done_is_undone_newest_first(stage: Stage):
    stage.failing = "ship"
    stage.start()
    assert stage.run().state is SagaState.COMPENSATED
    assert stage.done == ["reserve", "charge", "un-charge", "un-reserve"]


def test_the_sweeper_finds_a_saga_whose_first_message_was_lost(stage: Stage):
    stage.start()
    (message,) = stage.sqs.live(WORK)
    stage.sqs.lose(message.id)
    assert stage.run().state is SagaState.CREATED
    stage.time.advance(180_000)
    stage.sweep()
    assert stage.run().state is SagaState.COMPLETED


def test_a_saga_whose_code_is_missing_stops_and_says_so(stage: Stage):
    stage.start()
    object.__setattr__(stage.app, "definitions", Registry(()))
    stopped = stage.run()
    assert stopped.state is SagaState.FAILED
    assert stopped.failure is not None
    assert stopped.failure.kind == "DefinitionMissing"
    assert stage.done == []


def test_every_delivery_twice_changes_no_effect(stage: Stage):
    stage.start()
    for _ in range(2 * len(STEPS)):
        for message in list(stage.sqs.messages.values()):
            again = stage.sqs.deliver_again(message.id)
            if again is not None:
                worker.handle(stage.app, lambda_event(WORK, [again]), Budget())  # type: ignore[arg-type]
        stage.time.advance(VISIBILITY_MS)
    assert stage.run().state is SagaState.COMPLETED
    assert stage.done == list(STEPS)


def test_a_saga_that_has_ended_is_forgotten_by_the_time_to_live(stage: Stage):
    stage.start()
    ended = stage.run()
    assert stage.dynamo.delete_expired(TABLE, TTL) == 0
    assert ended.expires_at is not None
    stage.time.advance_to(ended.expires_at + 1_000)
    assert stage.dynamo.delete_expired(TABLE, TTL) == 1
    assert stage.dynamo.items(TABLE) == []
