"""The whole stack in this process, on a clock that only waiting moves.

    with LocalStack() as stack:
        answer = stack.http("POST", "/sagas/order", {"sku": "tea"}, key="order-1")
        stack.run_until_quiet()
        assert stack.saga(answer.body["id"]).state is SagaState.COMPLETED

The table and queues are the template's, the functions the deployed ones, the
messages go through moto's SQS with its delays, visibility time-outs and
dead-letter queues. Nobody waits: when nothing is due the clock leaps to what is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import boto3
import moto
from moto.sqs.models import Message

from handlers import _bootstrap
from handlers._application import Application
from infra.clients import CONFIG
from infra.registry import load_definitions
from infra.settings import Settings
from saga_cli.local.clock import VirtualClock
from saga_cli.local.events import HttpRequest
from saga_cli.local.infrastructure import infrastructure
from saga_cli.local.moto_as_aws import messages_of, moto_repaired, moto_tells_time_by
from saga_cli.local.pump import Invocation, Pump, Watcher
from saga_cli.local.template import REGION, Template
from saga_cli.local.wiring import functions
from saga_cli.parts import CapturedSink, LogLine, application
from saga_core.identity import SAGA_ID
from saga_core.instance import LIVE, Key, SagaInstance

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

TEMPLATE = Path(__file__).parent.parent.parent / "template.yaml"
TENANT = "default"
_NOBODY = "local"  # credentials that are good for nothing else
INVOCATION_MS = 20  # what an invocation takes: two lines of a log seldom have one time


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What the HTTP API answered, its body parsed."""

    status: int
    headers: Mapping[str, str]
    body: Any


class LocalStack:
    """Use it with ``with``; afterwards the functions of this process are as before.

    Args:
        definitions: ``package.module:NAME[,...]``; by default the template's.
        template: The stack's template.
        watchers: Told of every invocation.
        clock: By default one that begins at a fixed time, with ids that repeat.
    """

    dynamodb: DynamoDBClient
    sqs: SQSClient
    app: Application
    pump: Pump

    def __init__(
        self,
        definitions: str | None = None,
        *,
        template: Path = TEMPLATE,
        watchers: tuple[Watcher, ...] = (),
        clock: VirtualClock | None = None,
    ) -> None:
        self.template = Template.read(template)
        self.clock = clock or VirtualClock()
        self._definitions = definitions
        self._watchers = watchers
        self._sink = CapturedSink()
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(moto.mock_aws())
            undo.enter_context(moto_repaired())
            undo.enter_context(moto_tells_time_by(self.clock))
            self.dynamodb, self.sqs = local_clients()
            settings = local_settings(self.template, self._definitions)
            self.app = application(
                settings, dynamodb=self.dynamodb, sqs=self.sqs, clock=self.clock, sink=self._sink
            )
            undo.enter_context(infrastructure(self.template, self.dynamodb, self.sqs))
            undo.callback(_bootstrap.reset)
            self._install()
            self.pump = Pump(self.template, self.sqs, self.clock, list(self._watchers))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    @property
    def log(self) -> list[LogLine]:
        """Every line that the functions wrote."""
        return self._sink.lines

    def deploy(self, definitions: str) -> None:
        """Replace what the functions can run, as a deployment does."""
        self.app = replace(self.app, definitions=load_definitions(definitions))
        self._install()

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
    ) -> HttpAnswer:
        """Send a request to the HTTP API; ``key`` is its Idempotency-Key."""
        given = {**({"Idempotency-Key": key} if key is not None else {}), **(headers or {})}
        request = HttpRequest(
            method=method, path=path, query=query or {}, headers=given, body=body, claims=claims
        )
        answer: Any = self.pump.http(request)
        self.clock.advance(INVOCATION_MS)
        text = answer.get("body") or "null"
        return HttpAnswer(answer["statusCode"], answer.get("headers") or {}, json.loads(text))

    def send(self, queue: str, body: object, *, delay_s: int = 0) -> str:
        """Put a message into a queue and give its id; a body that is no text is sent as JSON."""
        text = body if isinstance(body, str) else json.dumps(body)
        sent = self.sqs.send_message(
            QueueUrl=self.template.queue_url(queue), MessageBody=text, DelaySeconds=delay_s
        )
        return sent["MessageId"]

    def saga(self, saga_id: str, *, tenant: str = TENANT) -> SagaInstance:
        """The saga as it stands. Raises KeyError when there is none."""
        key = Key(tenant, saga_id)
        found = (
            self.app.store.find(key, self.clock.now_ms()) if SAGA_ID.fullmatch(saga_id) else None
        )
        if found is None:
            raise KeyError(saga_id)
        return found

    def messages(self, queue: str) -> list[str]:
        """The bodies of the messages in a queue, delayed and in flight ones too."""
        return [message.body for message in self._messages(queue)]

    def step(self) -> Invocation | None:
        """One invocation of whatever is due now, or None."""
        invocation = self.pump.step()
        if invocation is not None:
            self.clock.advance(INVOCATION_MS)
        return invocation

    def leap(self) -> int:
        """Move the clock to the next thing that is due, and give the milliseconds leapt."""
        before = self.clock.now_ms()
        waiting = (m for queue in self.pump.queues for m in self._messages(queue))
        # moto shows a message when its time is over, not when it has come: hence the 1.
        due = [int(max(m.visible_at, m.delayed_until)) + 1 for m in waiting]
        self.clock.advance(min([*due, self.pump.next_tick]) - before)
        return self.clock.now_ms() - before

    def run_until_quiet(self, within: timedelta = timedelta(hours=3)) -> None:
        """Deliver and leap until no saga moves by itself and no message is on its way.

        Raises:
            TimeoutError: It does not come to rest within that much virtual time.
        """
        end = self.clock.now_ms() + within // timedelta(milliseconds=1)
        while self.clock.now_ms() < end:
            if self.step() is not None:
                continue
            if self.quiet():
                return
            self.leap()
        raise TimeoutError(f"not quiet after {within}")

    def quiet(self) -> bool:
        """No message is on its way, and no saga of the default tenant moves by itself."""
        if any(self._messages(queue) for queue in self.pump.queues):
            return False
        page = self.app.store.page(
            TENANT, states=LIVE, name=None, cursor=None, limit=1, now=self.clock.now_ms()
        )
        return not page.instances

    def _install(self) -> None:
        _bootstrap.use(self.app)

    def _messages(self, queue: str) -> list[Message]:
        return messages_of(self.template.name_of(queue))


@cache
def local_clients(endpoint_url: str | None = None) -> tuple[DynamoDBClient, SQSClient]:
    """Clients of a local AWS, which asks for no credentials of yours. Made once: it takes long."""
    session = boto3.Session(
        aws_access_key_id=_NOBODY, aws_secret_access_key=_NOBODY, region_name=REGION
    )
    dynamodb = session.client("dynamodb", config=CONFIG, endpoint_url=endpoint_url)
    return dynamodb, session.client("sqs", config=CONFIG, endpoint_url=endpoint_url)


def local_settings(template: Template, definitions: str | None) -> Settings:
    """What the template sets for its functions, all of them together."""
    environment: dict[str, str] = {}
    for function in functions(template).values():
        environment |= function.environment
    if definitions is not None:
        environment["SAGA_DEFINITIONS"] = definitions
    return Settings.from_environment("worker", environment)
