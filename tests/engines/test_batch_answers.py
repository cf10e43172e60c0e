"""The worker's answers, judged by an event source mapping that judges them as AWS does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.clock import SystemClock
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender
from saga_core.instance import SagaInstance, SagaState
from saga_core.ports import Written
from saga_core.transition import create
from tests.engines.engine import ROOT, Tools, free_port, process
from tests.engines.on_roto import CHAIN
from tests.engines.served import ServedAws
from tests.fakes import template

ACCOUNT = "123456789012"
VISIBILITY = 8  # seconds; the functions' time-out
PATIENCE_SECONDS = 60
CLOCK = SystemClock()


@dataclass
class Mapped:
    """A table, a work queue with dead letters, and a function that the queue feeds."""

    aws: ServedAws
    functions: Any
    url: str
    dead: str
    answers: Path

    @property
    def store(self) -> DynamoDBSagaStore:
        return DynamoDBSagaStore(self.aws.dynamodb.wrapped, "sagas")

    def saga(self, saga_id: str, *, leased_ms: int | None = None) -> SagaInstance:
        """A stored saga; with a lease somebody else holds it for so long."""
        now = CLOCK.now_ms()
        new = create(
            CHAIN,
            saga_id=saga_id,
            tenant="default",
            incarnation="0badcafe",
            input_fingerprint="f" * 64,
            context="{}",
            at=now,
        )
        result = self.store.create(new)
        if leased_ms is not None:
            result = self.store.claim(
                new.key,
                epoch=1,
                definition=CHAIN.ref,
                claim_id="theirs",
                now=now,
                until=now + leased_ms,
            )
        assert isinstance(result, Written)
        return result.instance

    def announce(self, saga: SagaInstance) -> str:
        """Send its message; give the message's id."""
        sent = self.aws.sqs.wrapped.meta.events
        ids: list[str] = []

        def note(parsed: dict[str, Any], **_: object) -> None:
            ids.append(parsed["MessageId"])

        sent.register("after-call.sqs.SendMessage", note)
        SqsSender(self.aws.sqs.wrapped, self.url).send(saga, 0, "start", "corr")
        sent.unregister("after-call.sqs.SendMessage", note)
        return ids[0]

    def put(self, body: str) -> str:
        """Send what is none of ours."""
        sent = self.aws.sqs.wrapped.send_message(QueueUrl=self.url, MessageBody=body)
        return str(sent["MessageId"])

    def feed(self, function: str) -> str:
        """Connect the queue with a function; what is in the queue then comes as one batch."""
        mapping = self.functions.create_event_source_mapping(
            EventSourceArn=self.aws.arn(self.url),
            FunctionName=function,
            BatchSize=10,
            FunctionResponseTypes=["ReportBatchItemFailures"],
        )
        return str(mapping["UUID"])

    def handed_over(self) -> list[tuple[list[str], list[str]]]:
        """For each invocation the ids that it got, and the ids that it returned."""
        if not self.answers.exists():
            return []
        lines = [json.loads(line) for line in self.answers.read_text().splitlines()]
        return [
            (ids, [item["itemIdentifier"] for item in answer["batchItemFailures"]])
            for ids, answer in lines
        ]

    def deliveries(self, message_id: str) -> int:
        """How often a message was handed over."""
        return sum(ids.count(message_id) for ids, _ in self.handed_over())

    def depth(self, url: str) -> int:
        """How many messages there are in a queue, those in flight too."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        reply = self.aws.sqs.wrapped.get_queue_attributes(QueueUrl=url, AttributeNames=names)
        return sum(int(reply["Attributes"][name]) for name in names)

    def state(self, saga: SagaInstance) -> SagaState:
        """Where a saga is."""
        found = self.store.find(saga.key, CLOCK.now_ms())
        assert found is not None
        return found.state


@pytest.fixture
def mapped(tools: Tools, tmp_path: Path) -> Iterator[Mapped]:
    port, answers = free_port(), tmp_path / "answers"
    told = {
        "python": tools.engines / "bin" / "python",
        "root": ROOT,
        "account": ACCOUNT,
        "answers": answers,
    }
    command = tools.command("roto", port, tmp_path)
    command += ["--account-id", ACCOUNT, "--setup", Path(__file__).with_name("worker.lua")]
    command += [word for name, value in told.items() for word in ("--set", f"{name}={value}")]
    with process("roto", command, port, tmp_path) as started:
        aws = ServedAws.at("roto", started.url)
        aws.dynamodb.wrapped.create_table(**template.table_arguments(template.load(), "sagas"))
        sqs = aws.sqs.wrapped
        dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
        policy = {"deadLetterTargetArn": aws.arn(dead), "maxReceiveCount": 3}
        attributes = {"VisibilityTimeout": str(VISIBILITY), "RedrivePolicy": json.dumps(policy)}
        url = sqs.create_queue(QueueName="work", Attributes=attributes)["QueueUrl"]
        functions = boto3.client("lambda", endpoint_url=started.url)
        yield Mapped(aws, functions, url, dead, answers)
    assert not started.left_behind, "roto left the functions' processes running"


def until(what: str, look: Callable[[], object]) -> None:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < ends_at, f"{what}: not within {PATIENCE_SECONDS} s"
        time.sleep(0.1)


def test_in_one_batch_the_failing_messages_come_back_and_the_good_ones_are_deleted(mapped, say):
    good, held = mapped.saga("good"), mapped.saga("held", leased_ms=2_000)
    ours, theirs, poison = mapped.announce(good), mapped.announce(held), mapped.put("{")
    mapped.feed("worker")
    until("the poison is a dead letter", lambda: mapped.depth(mapped.dead) == 1)
    until("the work is done", lambda: mapped.depth(mapped.url) == 0)
    first, returned = mapped.handed_over()[0]
    assert set(first) == {ours, theirs, poison}
    assert set(returned) == {theirs, poison}
    assert mapped.deliveries(ours) == 1
    assert mapped.deliveries(theirs) == 2
    assert mapped.deliveries(poison) == 3
    assert (mapped.state(good), mapped.state(held)) == (SagaState.COMPLETED, SagaState.COMPLETED)
    say(
        f"worker behind roto's mapping: {len(mapped.handed_over())} invocations; in one batch the"
        " good message was deleted, the held one and the poison came back"
    )


def test_an_unknown_identifier_would_bring_all_of_them_back(mapped):
    """That the test above means something: this mapping does look at the identifiers."""
    ours, poison = mapped.announce(mapped.saga("good")), mapped.put("{")
    mapped.feed("misnaming")
    until("both come back", lambda: min(map(mapped.deliveries, (ours, poison))) > 1)
    first, returned = mapped.handed_over()[0]
    assert set(first) == {ours, poison}
    assert returned == [poison]
