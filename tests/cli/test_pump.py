"""An event source mapping's semantics, with a function that a test scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import moto
import pytest

from saga_cli.local.clock import VirtualClock
from saga_cli.local.events import HttpRequest, LambdaContext
from saga_cli.local.infrastructure import infrastructure
from saga_cli.local.moto_as_aws import moto_repaired, moto_tells_time_by
from saga_cli.local.pump import Ending, FunctionFailedError, Invocation, Pump
from saga_cli.local.stack import local_clients
from saga_cli.local.template import Template

TEMPLATE = """
Resources:
  Work:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 60
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 2}
  Dead:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 60
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Parking.Arn, maxReceiveCount: 2}
  Parking: {Type: AWS::SQS::Queue}
  Worker:
    Type: AWS::Serverless::Function
    Properties:
      Handler: pumped.handler
      Timeout: 7
      Events:
        Work:
          Type: SQS
          Properties:
            Queue: !GetAtt Work.Arn
            BatchSize: 3
            FunctionResponseTypes: [ReportBatchItemFailures]
        Dead: {Type: SQS, Properties: {Queue: !GetAtt Dead.Arn}}
        Tick: {Type: Schedule, Properties: {Schedule: rate(1 minute)}}
  Integration:
    Type: AWS::ApiGatewayV2::Integration
    Properties: {IntegrationUri: !GetAtt Worker.Arn}
  Route:
    Type: AWS::ApiGatewayV2::Route
    Properties: {RouteKey: "POST /things/{id}", Target: !Sub "integrations/${Integration}"}
"""

Answer = Callable[[dict[str, Any], LambdaContext], Any]


@dataclass
class Function:
    """The function behind everything: what it was given, and what it is to answer."""

    answer: Answer = lambda _event, _context: None
    events: list[dict[str, Any]] = field(default_factory=list)

    def handler(self, event: dict[str, Any], context: LambdaContext) -> Any:
        self.events.append(event)
        return self.answer(event, context)


@dataclass
class Bench:
    """A pump over moto, and the function that it calls."""

    pump: Pump
    clock: VirtualClock
    function: Function
    invocations: list[Invocation]

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.pump.sqs.send_message(
                QueueUrl=self.pump.template.queue_url("Work"), MessageBody=body
            )

    def left(self, queue: str) -> int:
        """Messages in the queue, those in flight too."""
        found = self.pump.sqs.get_queue_attributes(
            QueueUrl=self.pump.template.queue_url(queue), AttributeNames=["All"]
        )["Attributes"]
        waiting, in_flight = (
            found["ApproximateNumberOfMessages"],
            found["ApproximateNumberOfMessagesNotVisible"],
        )
        return int(waiting) + int(in_flight)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    template, clock, function = Template.read(path), VirtualClock(), Function()
    module = ModuleType("pumped")
    module.handler = function.handler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pumped", module)
    with moto.mock_aws(), moto_repaired(), moto_tells_time_by(clock):
        dynamodb, sqs = local_clients()
        with infrastructure(template, dynamodb, sqs):
            invocations: list[Invocation] = []
            pump = Pump(template, sqs, clock, [invocations.append])
            yield Bench(pump, clock, function, invocations)


def failing(*numbers: int) -> Answer:
    """Names the messages at these places of the batch."""

    def answer(event: dict[str, Any], _context: LambdaContext) -> Any:
        ids = [event["Records"][n]["messageId"] for n in numbers]
        return {"batchItemFailures": [{"itemIdentifier": i} for i in ids]}

    return answer


def raising(error: BaseException) -> Answer:
    def answer(_event: dict[str, Any], _context: LambdaContext) -> Any:
        raise error

    return answer


def saying(value: Any) -> Answer:
    return lambda _event, _context: value


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (saying(None), 0),
        (saying({}), 0),
        (saying({"batchItemFailures": []}), 0),
        (saying({"batchItemFailures": None}), 0),
        (failing(1), 1),
        (failing(0, 1, 2), 3),
        (saying({"batchItemFailures": [{"itemIdentifier": "unknown"}]}), 3),
        (saying({"batchItemFailures": [{"itemIdentifier": ""}]}), 3),
        (saying({"batchItemFailures": [{"id": "x"}]}), 3),
        (saying({"batchItemFailures": ["x"]}), 3),
        (saying("done"), 3),
        (saying(object()), 3),
        (raising(ValueError("no")), 3),
        (raising(SystemExit(1)), 3),
    ],
    ids=[
        "null",
        "empty",
        "no-failures",
        "null-failures",
        "one-of-three",
        "all",
        "unknown-id",
        "empty-id",
        "bad-key",
        "no-object",
        "no-answer",
        "not-json",
        "raises",
        "dies",
    ],
)
def test_what_comes_back_is_what_aws_would_bring_back(bench, answer, kept):
    bench.function.answer = answer
    bench.send("a", "b", "c")
    invocation = bench.pump.step()
    assert len(invocation.returned) == kept
    assert bench.left("Work") == kept


def test_a_mapping_without_partial_answers_reads_none(bench):
    bench.function.answer = raising(ValueError("no"))
    bench.send("a")
    for _ in range(3):  # two deliveries, and the receive that moves it on
        bench.pump.step()
        bench.clock.advance(60_001)
    bench.function.answer = saying({"batchItemFailures": [{"itemIdentifier": "unknown"}]})
    bench.pump.step()
    assert bench.left("Dead") == 0


def test_a_batch_is_as_large_as_the_mapping_says(bench):
    bench.send("a", "b", "c", "d")
    bench.pump.step()
    bench.pump.step()
    assert [len(event["Records"]) for event in bench.function.events] == [3, 1]
    assert bench.left("Work") == 0


def test_a_record_has_the_shape_of_lambda_s(bench):
    bench.send("hello")
    bench.pump.step()
    (record,) = bench.function.events[0]["Records"]
    assert record["body"] == "hello"
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == "arn:aws:sqs:us-east-1:123456789012:local-Work"
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["attributes"]["SentTimestamp"] == str(bench.clock.now_ms())
    assert set(record) == {
        "messageId",
        "receiptHandle",
        "body",
        "attributes",
        "messageAttributes",
        "md5OfBody",
        "eventSource",
        "eventSourceARN",
        "awsRegion",
    }


def test_a_message_comes_back_when_its_time_out_is_over(bench):
    bench.function.answer = raising(SystemExit())
    bench.send("a")
    assert bench.pump.step().ending is Ending.KILLED
    assert bench.pump.step() is None
    bench.clock.advance(60_001)
    bench.function.answer = saying(None)
    assert bench.pump.step() is not None
    counts = [
        e["Records"][0]["attributes"]["ApproximateReceiveCount"] for e in bench.function.events
    ]
    assert counts == ["1", "2"]


def test_a_dead_letter_has_all_its_deliveries_before_it(bench):
    bench.function.answer = raising(ValueError("no"))
    bench.send("a")
    while bench.left("Parking") == 0:
        bench.pump.step()
        bench.clock.advance(60_001)
    queues = [i.source for i in bench.invocations if i.messages]
    assert queues == ["Work", "Work", "Dead", "Dead"]


def test_the_context_counts_down_to_the_function_s_time_out(bench):
    left: list[int] = []

    def slow(_event: dict[str, Any], context: LambdaContext) -> None:
        left.append(context.get_remaining_time_in_millis())
        bench.clock.advance(6_000)
        left.append(context.get_remaining_time_in_millis())
        bench.clock.advance(6_000)
        left.append(context.get_remaining_time_in_millis())

    bench.function.answer = slow
    bench.send("a")
    bench.pump.step()
    assert left == [7_000, 1_000, 0]


def test_a_schedule_ticks_each_period(bench):
    assert bench.pump.step() is None
    bench.clock.advance(60_000)
    assert bench.pump.step().source == "schedule"
    assert bench.pump.step() is None
    assert bench.function.events[0]["detail-type"] == "Scheduled Event"


def test_ctrl_c_is_no_killed_worker(bench):
    bench.function.answer = raising(KeyboardInterrupt())
    bench.send("a")
    with pytest.raises(KeyboardInterrupt):
        bench.pump.step()


def test_a_request_has_the_shape_of_the_http_api_s(bench):
    bench.function.answer = saying({"statusCode": 200})
    bench.pump.http(
        HttpRequest(
            method="POST",
            path="/things/7%2F8",
            query={"a": "b c"},
            headers={"X-Test": "y"},
            body={"z": 1},
        )
    )
    (event,) = bench.function.events
    assert event["version"] == "2.0"
    assert event["routeKey"] == event["requestContext"]["routeKey"] == "POST /things/{id}"
    assert event["pathParameters"] == {"id": "7/8"}
    assert event["rawQueryString"] == "a=b+c"
    assert event["queryStringParameters"] == {"a": "b c"}
    assert event["headers"]["x-test"] == "y"
    assert event["headers"]["content-type"] == "application/json"
    assert json.loads(event["body"]) == {"z": 1}
    assert event["requestContext"]["authorizer"]["iam"]["userArn"].startswith("arn:aws:iam::")


def test_a_token_s_claims_reach_the_function(bench):
    bench.function.answer = saying({"statusCode": 200})
    bench.pump.http(HttpRequest(method="POST", path="/things/7", claims={"sub": "me"}))
    authorizer = bench.function.events[0]["requestContext"]["authorizer"]
    assert authorizer["jwt"]["claims"] == {"sub": "me"}


def test_a_path_without_a_route_never_reaches_a_function(bench):
    assert bench.pump.http(HttpRequest(method="GET", path="/things/7"))["statusCode"] == 404
    assert bench.function.events == []


def test_a_function_that_fails_behind_the_api_is_told(bench):
    bench.function.answer = raising(ValueError("no"))
    with pytest.raises(FunctionFailedError, match="Worker"):
        bench.pump.http(HttpRequest(method="POST", path="/things/7"))
