"""Three drivers of the same turns: in memory, in process, and the Lambda functions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from handlers import api, dead_letters, sweeper, worker
from handlers._application import Application
from handlers._records import SqsEvent
from handlers._telemetry import Telemetry
from infra.contexts import PydanticContextCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender, parse
from infra.registry import Registry
from saga_cli.local.events import HttpRequest
from saga_core import (
    InMemorySagaStore,
    NotAllowedError,
    SagaDefinition,
    SagaError,
    SagaOrchestrator,
)
from saga_core.instance import SagaInstance
from saga_core.orchestrator import Environment
from tests.core.memory import KEY, NO, Memory
from tests.parity.plots import Script
from tests.simulation.clock import SandboxClock, WorldTime
from tests.simulation.dynamo import FakeDynamo, saga_table
from tests.simulation.sqs import FakeSqs, QueueSettings, lambda_event

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

MOST = 3_000  # moves of one saga; more is a loop


def in_memory(definition: SagaDefinition, script: Script) -> list[SagaInstance]:
    """The turns themselves, over a dictionary and a list."""
    world = Memory(definition)
    world.begin()
    for _ in range(MOST):
        if script.tokens and not any(at <= world.now for at, _, _ in world.queue):
            token, _, ok = script.tokens.pop(0)
            world.answer(token, ok=ok)
        elif world.queue:
            world.deliver()
        elif not world.sweep():
            return world.sagas()
    raise AssertionError("it does not end")


def in_process(definition: SagaDefinition, script: Script) -> list[SagaInstance]:
    """SagaOrchestrator; whoever is asked answers when nothing else is left to do."""
    now = 1_800_000_000_000
    store = InMemorySagaStore()

    async def sleep(seconds: float) -> None:
        nonlocal now
        if script.tokens:
            token, _, ok = script.tokens.pop(0)
            with contextlib.suppress(NotAllowedError):  # the step was given up meanwhile
                await orchestrator.answer(token, error=None if ok else NO.message)
        else:
            now += max(1, int(seconds * 1000))

    ids = iter(range(1, 10**6))
    orchestrator = SagaOrchestrator(
        definition,
        store,
        environment=Environment(
            now_ms=lambda: now,
            sleep=sleep,
            new_id=lambda: f"{next(ids):032x}",
            new_secret=lambda: f"{next(ids):032x}",
            jitter=lambda: 0.5,
        ),
    )

    async def run() -> None:
        with contextlib.suppress(SagaError):  # FAILED: the saga says so itself
            await orchestrator.start({}, idempotency_key=KEY)

    asyncio.run(run())
    return list(store._sagas.values())


class Silence:
    """A sink that nobody listens to."""

    def line(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """A function that crashed would leave a saga behind that differs; this says why."""
        assert level != "ERROR", (message, dict(fields))

    def count(self, saga: str | None, metrics: Mapping[str, float]) -> None:
        """Nobody counts it."""


class Budget:
    """An invocation that has all its time."""

    def get_remaining_time_in_millis(self) -> int:
        """See LambdaContext."""
        return 30_000


class _Lambda:
    def __init__(self, definition: SagaDefinition) -> None:
        self.time = WorldTime()
        self.dynamo = FakeDynamo(saga_table("sagas"), now=self.time)
        self.sqs = FakeSqs(
            QueueSettings(url="work", visibility_ms=180_000, max_receives=5, dead_letters="dead"),
            QueueSettings(url="dead", visibility_ms=180_000),
            now=self.time,
        )
        clock = SandboxClock(self.time, "one")
        self.app = Application(
            clock=clock,
            store=DynamoDBSagaStore(
                cast("DynamoDBClient", self.dynamo),
                "sagas",
                clock=clock.now_ms,
                new_id=clock.new_id,
                pause=clock.sleep_ms,
            ),
            queue=SqsSender(cast("SQSClient", self.sqs), "work"),
            definitions=Registry((definition,)),
            codec=PydanticContextCodec(),
            telemetry=Telemetry(Silence()),
            parse=parse,
            step_ms=20_000,
        )

    def http(self, path: str, body: object, *, key: str | None = None) -> None:
        headers = {"Idempotency-Key": key} if key is not None else {}
        request = HttpRequest(
            method="POST", path=path, query={}, headers=headers, body=body, claims={"sub": "me"}
        )
        event = request.event(f"POST {path}", {}, at=self.time(), id_="r")
        reply = cast("dict[str, Any]", api.handle(self.app, event, Budget()))
        assert reply["statusCode"] in (200, 202, 409), reply  # 409: given up meanwhile

    def poll(self) -> bool:
        """Deliver what is there. False when nothing is."""
        for queue, handle in (("work", worker.handle), ("dead", dead_letters.handle)):
            received = self.sqs.receive(queue)
            if received is None:
                continue
            event = cast("SqsEvent", lambda_event(queue, [received]))
            reply = handle(self.app, event, Budget())
            if not reply["batchItemFailures"]:
                self.sqs.delete(received.receipt_handle)
            return True
        return False

    def leap(self) -> bool:
        """On to the next message, or the sweeper's next look. False when there is neither."""
        times = [at for q in ("work", "dead") if (at := self.sqs.next_visible_at(q)) is not None]
        if times:
            self.time.advance_to(min(times))
            return True
        if not any(True for _ in self.live()):
            return False
        self.time.advance(60_000)
        sweeper.handle(self.app, None, Budget())
        return True

    def live(self) -> list[SagaInstance]:
        return [i for i in self.sagas() if i.live]

    def sagas(self) -> list[SagaInstance]:
        codec = self.app.store._codec  # type: ignore[attr-defined]  # the store's own reading
        return [codec.decode(item) for item in self.dynamo.items("sagas")]


def on_lambda(definition: SagaDefinition, script: Script) -> list[SagaInstance]:
    """The deployed functions over models of the table and the queues."""
    stack = _Lambda(definition)
    stack.http(f"/sagas/{definition.name}", {}, key=KEY)
    for _ in range(MOST):
        if stack.poll():
            continue
        if script.tokens:
            token, _, ok = script.tokens.pop(0)
            told = {"outcome": "completed"} if ok else {"outcome": "failed", "error": NO.message}
            stack.http(f"/answers/{token}", told)
        elif not stack.leap():
            return stack.sagas()
    raise AssertionError(json.dumps([i.id for i in stack.live()]))


DRIVERS = {"in memory": in_memory, "in process": in_process, "on Lambda": on_lambda}
