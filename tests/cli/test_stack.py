from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import moto
import pytest
from botocore.exceptions import ClientError

from examples.services import WorkerKilledError
from handlers import _bootstrap
from saga_cli.local.clock import VirtualClock
from saga_cli.local.moto_as_aws import moto_repaired
from saga_cli.local.pump import Ending
from saga_cli.local.stack import LocalStack, local_clients
from saga_core import SagaState

TRIP = {"hotel": "Astoria", "flight": "LH 1", "car": "compact"}


def test_a_saga_over_http(the_world):
    with LocalStack() as stack:
        answer = stack.http("POST", "/sagas/order", {"sku": "tea"}, key="order-1")
        assert answer.status == 202
        stack.run_until_quiet()
        assert stack.saga(answer.body["id"]).state is SagaState.COMPLETED
        assert stack.http("GET", answer.headers["Location"]).body["state"] == "COMPLETED"
    assert len(the_world.standing()) == 4


def test_a_saga_over_the_start_queue_starts_once():
    with LocalStack() as stack:
        for _ in range(2):
            stack.send("StartQueue", {"saga": "travel", "context": TRIP, "idempotency_key": "t"})
        stack.run_until_quiet()
        (saga,) = stack.http("GET", "/sagas").body["sagas"]
        assert saga["state"] == "COMPLETED"


def test_two_runs_are_the_same_to_the_letter(the_world):
    def run() -> list[object]:
        the_world.reset()
        with LocalStack() as stack:
            stack.http("POST", "/sagas/travel", {**TRIP, "car": "convertible"}, key="t")
            stack.run_until_quiet()
            return [stack.log, stack.clock.now_ms()]

    assert run() == run()


def test_waiting_takes_no_time_and_passes_time(the_world):
    the_world.lose_reply("hotel.book", WorkerKilledError())
    with LocalStack() as stack:
        began = stack.clock.now_ms()
        stack.http("POST", "/sagas/travel", TRIP, key="t")
        killed = stack.step()
        assert killed is not None
        assert killed.ending is Ending.KILLED
        stack.run_until_quiet()
        assert timedelta(milliseconds=stack.clock.now_ms() - began) > timedelta(minutes=3)
    assert the_world.effects("hotel.book") == 1


def test_a_deployment_changes_what_the_functions_know():
    with LocalStack("examples.order:order") as stack:
        assert stack.http("POST", "/sagas/travel", TRIP, key="t").status == 404
        stack.deploy("examples.travel:travel")
        assert stack.http("POST", "/sagas/travel", TRIP, key="t").status == 202
        assert stack.messages("WorkQueue")


def test_a_message_may_be_looked_at_where_it_lies():
    with LocalStack() as stack:
        stack.send("StartQueue", "nonsense", delay_s=60)
        assert stack.messages("StartQueue") == ["nonsense"]
        assert not stack.quiet()
        stack.run_until_quiet()
        assert stack.messages("StartDeadLetterQueue") == ["nonsense"]


def test_what_never_comes_to_rest_is_told():
    with LocalStack() as stack:
        stack.send("StartQueue", "nonsense", delay_s=900)
        with pytest.raises(TimeoutError, match="not quiet after 0:10:00"):
            stack.run_until_quiet(within=timedelta(minutes=10))


def test_nothing_is_left_behind():
    with moto.mock_aws():
        dynamodb, sqs = local_clients()  # another folder's tests may have left theirs in moto
        tables, queues = dynamodb.list_tables()["TableNames"], sqs.list_queues().get("QueueUrls")
        for _ in range(2):  # a second stack finds the names free
            with LocalStack() as stack, pytest.raises(KeyError):
                stack.saga("nothing")
        assert dynamodb.list_tables()["TableNames"] == tables
        assert sqs.list_queues().get("QueueUrls") == queues
    assert not _bootstrap._built


def test_the_virtual_clock_repeats_itself():
    one, two = VirtualClock(), VirtualClock()
    assert [one.new_id(), one.new_incarnation(), one.jitter()] == [
        two.new_id(),
        two.new_incarnation(),
        two.jitter(),
    ]
    assert VirtualClock("other").new_id() != VirtualClock().new_id()
    assert one.new_id() != one.new_id()
    assert 0 <= one.jitter() < 1
    before = one.now_ms()
    one.sleep_ms(-5)
    one.sleep_ms(5)
    assert one.now_ms() == before + 5


def test_conditional_writes_are_atomic_between_threads():
    """moto's own are not: two workers would win one claim."""
    with moto.mock_aws(), moto_repaired():
        dynamodb, _ = local_clients()
        dynamodb.create_table(
            TableName="t",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        )
        dynamodb.put_item(TableName="t", Item={"pk": {"S": "x"}, "n": {"N": "0"}})

        def write(_number: int) -> int:
            try:
                dynamodb.update_item(
                    TableName="t",
                    Key={"pk": {"S": "x"}},
                    UpdateExpression="SET n = :one",
                    ConditionExpression="n = :zero",
                    ExpressionAttributeValues={":one": {"N": "1"}, ":zero": {"N": "0"}},
                )
            except ClientError:
                return 0
            return 1

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(write, range(8))) == 1
