"""What a queue may do, at the scheduler's word; and what it answers to its client."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.simulation.clock import BEGINNING_MS, WorldTime
from tests.simulation.sqs import (
    DAY_MS,
    MAX_BODY,
    FakeSqs,
    Fate,
    QueueSettings,
    Received,
    lambda_event,
)

WORK, DEAD, PARKED = "work", "dead", "parked"
SECOND = 1_000
RECEIVES = 3


class World:
    """A work queue, its dead letters, and theirs."""

    def __init__(self) -> None:
        self.time = WorldTime()
        self.old_handles_work = True
        self.sqs = FakeSqs(
            QueueSettings(
                url=WORK, visibility_ms=180 * SECOND, max_receives=RECEIVES, dead_letters=DEAD
            ),
            QueueSettings(
                url=DEAD,
                visibility_ms=60 * SECOND,
                max_receives=RECEIVES,
                dead_letters=PARKED,
                retention_ms=14 * DAY_MS,
            ),
            QueueSettings(url=PARKED, retention_ms=14 * DAY_MS),
            now=self.time,
            old_handle_works=lambda: self.old_handles_work,
        )

    def send(self, body: str = "hello", delay: int = 0) -> str:
        reply = self.sqs.send_message(QueueUrl=WORK, MessageBody=body, DelaySeconds=delay)
        return str(reply["MessageId"])

    def receive(self, queue: str = WORK, message_id: str | None = None) -> Received:
        received = self.sqs.receive(queue, message_id)
        assert received is not None
        return received

    def postpone(self, received: Received, seconds: int) -> None:
        self.sqs.change_message_visibility(
            QueueUrl=WORK, ReceiptHandle=received.receipt_handle, VisibilityTimeout=seconds
        )

    def visible(self, queue: str = WORK) -> list[str]:
        return [m.id for m in self.sqs.receivable(queue)]


@pytest.fixture
def world() -> World:
    return World()


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


class TestVisibility:
    def test_a_message_waits_for_its_delay(self, world: World):
        message = world.send(delay=5)
        assert world.sqs.next_visible_at(WORK) == BEGINNING_MS + 5 * SECOND
        world.time.advance(5 * SECOND - 1)
        assert world.sqs.receive(WORK) is None
        world.time.advance(1)
        assert world.receive().message_id == message

    def test_who_has_received_a_message_has_it_alone_for_a_while(self, world: World):
        message = world.send()
        assert world.receive().receives == 1
        assert world.visible() == []
        world.time.advance(180 * SECOND)
        assert world.visible() == [message]
        assert world.receive().receives == 2

    def test_a_message_can_be_postponed_while_it_is_in_flight(self, world: World):
        world.send()
        received = world.receive()
        world.postpone(received, 300)
        world.time.advance(299 * SECOND)
        assert world.visible() == []
        world.time.advance(SECOND)
        assert world.visible() == [received.message_id]

    def test_the_next_receive_knows_nothing_of_a_postponement(self, world: World):
        world.send()
        world.postpone(world.receive(), 0)
        world.receive()
        assert world.sqs.next_visible_at(WORK) == world.time() + 180 * SECOND

    def test_a_message_that_is_visible_again_cannot_be_postponed(self, world: World):
        world.send()
        received = world.receive()
        world.time.advance(180 * SECOND)
        with pytest.raises(ClientError) as error:
            world.postpone(received, 10)
        assert code(error) == "AWS.SimpleQueueService.MessageNotInflight"

    def test_a_message_that_is_gone_cannot_be_postponed(self, world: World):
        world.send()
        received = world.receive()
        world.sqs.delete(received.receipt_handle)
        with pytest.raises(ClientError) as error:
            world.postpone(received, 10)
        assert code(error) == "InvalidParameterValue"

    def test_nobody_keeps_a_message_for_more_than_twelve_hours(self, world: World):
        world.send()
        received = world.receive()
        world.postpone(received, 43_200)
        world.time.advance(SECOND)
        with pytest.raises(ClientError, match="beyond the limit"):
            world.postpone(received, 43_200)


class TestAtLeastOnce:
    def test_any_visible_message_may_be_the_next(self, world: World):
        first, second = world.send("1"), world.send("2")
        assert world.visible() == [first, second]
        assert world.receive(message_id=second).body == "2"
        assert world.receive().body == "1"

    def test_a_message_in_flight_may_be_delivered_again(self, world: World):
        message = world.send()
        first = world.receive()
        second = world.sqs.deliver_again(message)
        assert second is not None
        assert (second.body, second.receives) == (first.body, 2)
        assert second.receipt_handle != first.receipt_handle

    def test_a_deleted_message_may_be_delivered_again_and_lives_on(self, world: World):
        message = world.send()
        assert world.sqs.delete(world.receive().receipt_handle)
        assert world.sqs.live(WORK) == []
        again = world.sqs.deliver_again(message)
        assert again is not None
        world.time.advance(180 * SECOND)
        assert world.visible() == [message]
        world.sqs.delete(again.receipt_handle)
        assert world.visible() == []

    @pytest.mark.parametrize("works", [True, False])
    def test_an_outdated_handle_may_or_may_not_delete(self, world: World, *, works: bool):
        message = world.send()
        old = world.receive()
        new = world.sqs.deliver_again(message)
        assert new is not None
        world.old_handles_work = works
        assert world.sqs.delete(old.receipt_handle) is works
        assert world.sqs.delete(new.receipt_handle)

    def test_an_outdated_handle_may_or_may_not_postpone(self, world: World):
        message = world.send()
        old = world.receive()
        world.sqs.deliver_again(message)
        world.old_handles_work = False
        world.postpone(old, 900)
        assert world.sqs.next_visible_at(WORK) == world.time() + 180 * SECOND

    def test_a_lost_message_is_lost(self, world: World):
        message = world.send()
        world.sqs.lose(message)
        assert world.visible() == []
        assert world.sqs.deliver_again(message) is None
        assert world.sqs.messages[message].fate is Fate.LOST


class TestDeadLetters:
    def test_a_message_that_is_received_too_often_moves_on(self, world: World):
        message = world.send()
        for _ in range(RECEIVES):
            world.receive()
            assert world.visible(DEAD) == []
            world.time.advance(180 * SECOND)
        assert world.visible(WORK) == []
        assert world.visible(DEAD) == [message]
        assert world.receive(DEAD).receives == 1

    def test_a_handle_of_the_queue_it_came_from_does_not_delete_it(self, world: World):
        world.send()
        for _ in range(RECEIVES):
            old = world.receive()
            world.time.advance(180 * SECOND)
        world.visible()
        assert not world.sqs.delete(old.receipt_handle)
        assert len(world.sqs.live(DEAD)) == 1

    def test_dead_letters_have_dead_letters_of_their_own(self, world: World):
        world.send()
        for queue, times in ((WORK, RECEIVES), (DEAD, RECEIVES)):
            for _ in range(times):
                world.receive(queue)
                world.time.advance(180 * SECOND)
            world.visible(queue)
        assert len(world.visible(PARKED)) == 1

    def test_a_message_is_kept_so_long_counted_from_its_sending(self, world: World):
        message = world.send()
        for _ in range(RECEIVES):
            world.receive()
            world.time.advance(180 * SECOND)
        world.visible(WORK)
        world.time.advance_to(BEGINNING_MS + 14 * DAY_MS - 1)
        assert world.visible(DEAD) == [message]
        world.time.advance(1)
        assert world.visible(DEAD) == []
        assert world.sqs.messages[message].fate is Fate.EXPIRED
        assert world.sqs.deliver_again(message) is None

    def test_a_message_that_nobody_receives_is_gone_after_its_retention(self, world: World):
        world.send()
        world.time.advance(4 * DAY_MS)
        assert world.visible(WORK) == []
        assert world.sqs.next_visible_at(WORK) is None


class TestTheClient:
    @pytest.mark.parametrize(
        ("parameters", "error_code"),
        [
            ({"DelaySeconds": 901}, "InvalidParameterValue"),
            ({"DelaySeconds": -1}, "InvalidParameterValue"),
            ({"MessageBody": ""}, "MissingParameter"),
            ({"MessageBody": "\x00"}, "InvalidMessageContents"),
            ({"MessageBody": "x" * (MAX_BODY + 1)}, "InvalidParameterValue"),
            ({"MessageGroupId": "with a space"}, "InvalidParameterValue"),
            ({"QueueUrl": "nope"}, "AWS.SimpleQueueService.NonExistentQueue"),
        ],
        ids=["late", "early", "empty", "binary", "large", "group", "queue"],
    )
    def test_what_is_wrong_is_refused(
        self, world: World, parameters: dict[str, Any], error_code: str
    ):
        with pytest.raises(ClientError) as error:
            world.sqs.send_message(**{"QueueUrl": WORK, "MessageBody": "x", **parameters})
        assert code(error) == error_code
        assert world.sqs.messages == {}

    def test_a_group_is_kept_and_changes_nothing(self, world: World):
        reply = world.sqs.send_message(QueueUrl=WORK, MessageBody="x", MessageGroupId="tenant")
        assert world.sqs.messages[reply["MessageId"]].group == "tenant"

    def test_a_handle_is_of_a_message_of_that_queue(self, world: World):
        world.send()
        handle = world.receive().receipt_handle
        for queue, given in ((DEAD, handle), (WORK, "nonsense")):
            with pytest.raises(ClientError) as error:
                world.sqs.change_message_visibility(
                    QueueUrl=queue, ReceiptHandle=given, VisibilityTimeout=1
                )
            assert code(error) == "ReceiptHandleIsInvalid"

    def test_calls_are_counted(self, world: World):
        world.send()
        world.sqs.delete(world.receive().receipt_handle)
        assert world.sqs.calls == {"SendMessage": 1, "ReceiveMessage": 1, "DeleteMessage": 1}

    def test_a_batch_becomes_the_event_of_a_function(self, world: World):
        world.send("hello")
        received = world.receive()
        (record,) = lambda_event("arn:work", [received])["Records"]
        assert record["body"] == "hello"
        assert record["messageId"] == received.message_id
        assert record["receiptHandle"] == received.receipt_handle
        assert record["attributes"]["ApproximateReceiveCount"] == "1"
        assert record["eventSourceARN"] == "arn:work"
