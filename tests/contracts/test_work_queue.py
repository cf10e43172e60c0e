"""What we lean on of SQS: everything that the design says of a message, a queue has to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.queue import parse
from tests.contracts.queues import DEAD_RECEIVES, RECEIVES, VISIBILITY_MS, QueueUnderTest
from tests.contracts.sagas import new

SAGA = new()


def send(under_test: QueueUnderTest, *, delay_ms: int = 0) -> None:
    under_test.sender.send(SAGA, delay_ms=delay_ms, reason="step", correlation_id="corr-1")


def count(message: Any) -> int:
    return int(message["Attributes"]["ApproximateReceiveCount"])


# -- sending -----------------------------------------------------------------------


def test_an_announcement_arrives_as_it_was_sent(work_queue):
    send(work_queue)
    message = work_queue.next()
    assert parse(message["Body"]).key == SAGA.key
    assert count(message) == 1
    assert message["MessageId"]
    assert message["ReceiptHandle"]


def test_an_announcement_keeps_its_group(work_queue):
    send(work_queue)
    assert len(work_queue.next()["Attributes"]["MessageGroupId"]) == 32


def test_announcements_of_one_group_do_not_wait_for_each_other(work_queue):
    # A standard queue: its groups are for fairness, not for order.
    send(work_queue)
    send(work_queue)
    work_queue.next_of(2)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"saga": "order", "context": {"a": "é\u2028😀\t\n\"'<&>"}}, ensure_ascii=False),
        "{\r\n" + "x" * 70_000 + "}",
        " ",
    ],
    ids=["characters", "long", "blank"],
)
def test_a_body_arrives_to_the_last_character(work_queue, body):
    message_id = work_queue.put(body)
    message = work_queue.next()
    assert message["Body"] == body
    assert message["MessageId"] == message_id


def test_a_delayed_announcement_comes_when_its_delay_is_over(work_queue):
    send(work_queue, delay_ms=1_500)
    assert work_queue.receive() == []
    work_queue.pass_time(1_000)
    assert work_queue.receive() == []
    assert count(work_queue.next()) == 1


def test_the_longest_delay_is_taken(work_queue):
    send(work_queue, delay_ms=10**9)
    assert work_queue.receive() == []
    assert work_queue.depths() == (0, 0, 1)


# -- in hand -----------------------------------------------------------------------


def test_a_message_in_hand_is_given_to_nobody_else(work_queue):
    send(work_queue)
    work_queue.next()
    assert work_queue.receive() == []
    assert work_queue.depths() == (0, 1, 0)


def test_a_message_that_is_not_deleted_comes_back(work_queue):
    send(work_queue)
    first = work_queue.next()
    second = work_queue.next()
    assert second["MessageId"] == first["MessageId"]
    assert second["Body"] == first["Body"]
    assert [count(first), count(second)] == [1, 2]


def test_a_message_that_is_deleted_does_not_come_back(work_queue):
    send(work_queue)
    work_queue.delete(work_queue.next())
    work_queue.pass_time(VISIBILITY_MS + 500)
    assert work_queue.receive() == []
    assert work_queue.depths() == (0, 0, 0)


def test_a_message_may_be_deleted_twice(work_queue):
    send(work_queue)
    message = work_queue.next()
    work_queue.delete(message)
    work_queue.delete(message)
    assert work_queue.depths() == (0, 0, 0)


def test_a_late_deletion_counts_while_nobody_else_was_given_the_message(work_queue):
    send(work_queue)
    message = work_queue.next()
    work_queue.pass_time(VISIBILITY_MS + 500)
    work_queue.delete(message)
    assert work_queue.receive() == []


def test_a_deletion_takes_one_message(work_queue):
    send(work_queue)
    send(work_queue)
    one, other = work_queue.next_of(2)
    work_queue.delete(one)
    assert work_queue.next()["MessageId"] == other["MessageId"]


# -- postponing --------------------------------------------------------------------


def test_a_message_that_is_postponed_to_now_comes_back_at_once(work_queue):
    send(work_queue)
    message = work_queue.next()
    assert work_queue.sender.postpone(message["ReceiptHandle"], 0) is True
    (again,) = work_queue.receive()
    assert again["MessageId"] == message["MessageId"]


def test_a_message_may_be_postponed_past_the_queues_own_time_out(work_queue):
    send(work_queue)
    message = work_queue.next()
    assert work_queue.sender.postpone(message["ReceiptHandle"], VISIBILITY_MS + 2_000) is True
    work_queue.pass_time(VISIBILITY_MS + 500)
    assert work_queue.receive() == []
    assert work_queue.next()["MessageId"] == message["MessageId"]


def test_the_longest_postponement_is_taken(work_queue):
    send(work_queue)
    message = work_queue.next()
    assert work_queue.sender.postpone(message["ReceiptHandle"], 10**12) is True
    assert work_queue.depths() == (0, 1, 0)


def test_a_message_that_was_postponed_can_still_be_deleted(work_queue):
    send(work_queue)
    message = work_queue.next()
    work_queue.sender.postpone(message["ReceiptHandle"], 60_000)
    work_queue.delete(message)
    assert work_queue.depths() == (0, 0, 0)


def test_a_deleted_message_cannot_be_brought_back(work_queue):
    # Whatever the queue answers: AWS says that there is no such message.
    send(work_queue)
    message = work_queue.next()
    work_queue.delete(message)
    work_queue.sender.postpone(message["ReceiptHandle"], 0)
    assert work_queue.receive() == []
    assert work_queue.depths() == (0, 0, 0)


def test_a_handle_that_is_none_is_told(work_queue):
    assert work_queue.sender.postpone("no handle of this queue", 5_000) is False


# -- dead letters ------------------------------------------------------------------


def received_and_returned(work_queue: QueueUnderTest, url: str, times: int) -> Any:
    """The message, so many times received and sent back at once."""
    message = None
    for n in range(times):
        message = work_queue.next(url)
        assert count(message) == n + 1
        assert work_queue.returned(message, url)
    return message


def test_a_message_is_a_dead_letter_after_its_receives_and_not_before(work_queue):
    send(work_queue)
    first = received_and_returned(work_queue, work_queue.work, RECEIVES)
    assert work_queue.receive() == []
    dead = work_queue.next(work_queue.dead)
    assert dead["Body"] == first["Body"]
    assert work_queue.depths() == (0, 0, 0)


def test_a_message_that_nobody_returned_is_a_dead_letter_too(work_queue):
    send(work_queue)
    for _ in range(RECEIVES):
        work_queue.next()
    work_queue.pass_time(VISIBILITY_MS + 500)
    assert work_queue.receive() == []
    work_queue.next(work_queue.dead)


def test_a_dead_letter_has_receives_of_its_own_before_it_is_parked(work_queue):
    send(work_queue)
    received_and_returned(work_queue, work_queue.work, RECEIVES)
    assert work_queue.receive() == []
    body = received_and_returned(work_queue, work_queue.dead, DEAD_RECEIVES)["Body"]
    assert work_queue.receive(work_queue.dead) == []
    assert work_queue.next(work_queue.parking)["Body"] == body


def test_a_dead_letter_that_is_deleted_is_gone(work_queue):
    send(work_queue)
    received_and_returned(work_queue, work_queue.work, RECEIVES)
    assert work_queue.receive() == []
    work_queue.delete(work_queue.next(work_queue.dead), work_queue.dead)
    work_queue.pass_time(VISIBILITY_MS + 500)
    assert work_queue.receive(work_queue.dead) == []
    assert work_queue.receive(work_queue.parking) == []
