"""One key, one saga: however often it is started, and whatever gets lost on the way."""

from __future__ import annotations

import json

import pytest

from saga_core.instance import SagaState
from tests.fakes.faults import Fault
from tests.handlers.sagas import TEA, at, completed_once, ended, tries, waited
from tests.handlers.stage import MINUTE

PATH = "/sagas/order"


def start_message(**more: object) -> str:
    return json.dumps({"saga": "order", "context": TEA, **more})


# -- over HTTP -----------------------------------------------------------------------------


def test_a_start_answers_with_where_the_saga_is(stage):
    answer = stage.http("POST", PATH, TEA, key="a")
    assert answer.status == 202
    assert answer.headers["Location"] == f"/sagas/{answer.body['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.body["state"] == "CREATED"
    assert answer.body["context"]["quantity"] == 2
    assert answer.body["context"]["card"] == "4242424242424242"  # the default, filled in
    assert stage.http("GET", answer.headers["Location"]).body == answer.body


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_same_start_again_finds_the_same_saga(stage, steps):
    first = stage.http("POST", PATH, TEA, key="a")
    for _ in range(steps):
        stage.deliver()
    again = stage.http("POST", PATH, {"quantity": 2, "sku": "tea"}, key="a")  # in another order
    assert again.status == 200
    assert again.body["id"] == first.body["id"]
    assert "Retry-After" not in again.headers
    stage.run_until_quiet()
    assert stage.ids() == [first.body["id"]]
    completed_once(stage, first.body["id"])
    assert stage.sink.total("SagaStarted") == 1


@pytest.mark.parametrize(
    ("path", "context"),
    [(PATH, {**TEA, "quantity": 3}), (PATH, {"sku": "tea"}), ("/sagas/travel", TEA)],
    ids=["another value", "a value less", "another saga"],
)
def test_the_same_key_with_another_input_is_refused(stage, path, context):
    saga_id = stage.start(key="a")
    before = stage.saga(saga_id)
    if path != PATH:
        context = {"hotel": "Ritz", "flight": "LH 1", "car": "compact"}
    answer = stage.http("POST", path, context, key="a")
    assert (answer.status, answer.problem) == (422, "key-reused")
    assert stage.saga(saga_id) == before
    assert len(stage.bodies("WorkQueue")) == 1


def test_a_key_in_quotes_is_the_key_within(stage):
    first = stage.http("POST", PATH, TEA, key="a b".replace(" ", "-"))
    again = stage.http("POST", PATH, TEA, key='"a-b"')
    assert again.body["id"] == first.body["id"]


def test_two_keys_are_two_sagas(stage):
    assert stage.start(key="a") != stage.start(key="b")
    assert len(stage.ids()) == 2


def test_a_start_that_is_repeated_after_its_retention_begins_anew(stage):
    saga_id = stage.start(key="a")
    stage.run_until_quiet()
    first = stage.saga(saga_id)
    assert first.expires_at is not None
    stage.clock.now = first.expires_at + 1_000
    assert stage.http("GET", f"/sagas/{saga_id}").status == 404
    assert stage.http("POST", PATH, TEA, key="a").status == 202
    again = stage.saga(saga_id)
    assert again.incarnation != first.incarnation  # so its keys are others, too
    stage.run_until_quiet()
    keys = {call.idempotency_key for call in stage.attempts}
    assert len(keys) == 8


# -- what gets lost ------------------------------------------------------------------------


def test_a_start_whose_message_was_not_sent_is_accepted_and_swept_up(stage):
    stage.sqs.fail_next("send_message", Fault.THROTTLED)
    answer = stage.http("POST", PATH, TEA, key="a")
    assert answer.status == 202
    assert stage.bodies("WorkQueue") == []
    assert stage.sink.total("StartSendDeferred") == 1
    stage.run_until_quiet(sweeper=True)
    completed_once(stage, answer.body["id"])
    assert waited(stage) <= 3 * MINUTE


def test_a_start_whose_message_was_not_sent_is_started_by_the_clients_repeat(stage):
    stage.sqs.fail_next("send_message", Fault.NOT_CONNECTED)
    stage.http("POST", PATH, TEA, key="a")
    answer = stage.http("POST", PATH, TEA, key="a")
    assert answer.status == 200
    stage.run_until_quiet()
    completed_once(stage, answer.body["id"])
    assert waited(stage) == 0


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.SERVER_ERROR_DONE, Fault.REPEATED])
def test_a_start_whose_put_was_not_answered_knows_its_own_saga(stage, fault):
    stage.dynamodb.fail_next("put_item", fault)
    answer = stage.http("POST", PATH, TEA, key="a")
    assert answer.status == 202  # its own, although the table said that it exists
    stage.run_until_quiet()
    completed_once(stage, answer.body["id"])
    assert tries(stage) == {1}
    assert stage.sink.total("SagaStarted") == 1


@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.NOT_CONNECTED, Fault.DENIED])
def test_a_start_that_was_not_stored_is_to_be_sent_again(stage, fault):
    stage.dynamodb.fail_next("put_item", fault)
    answer = stage.http("POST", PATH, TEA, key="a")
    assert (answer.status, answer.problem) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert stage.ids() == []
    assert stage.bodies("WorkQueue") == []
    assert stage.http("POST", PATH, TEA, key="a").status == 202


def test_a_start_stays_unanswered_no_longer_than_its_invocation_may_take(stage):
    stage.dynamodb.fail_next("put_item", *[Fault.SERVER_ERROR] * 1_000)
    assert stage.http("POST", PATH, TEA, key="a").status == 503
    assert 20_000 < waited(stage) < 25_000


def test_two_starts_at_once_are_one_saga(stage):
    answers = []

    def meanwhile() -> None:
        answers.append(stage.http("POST", PATH, TEA, key="a"))

    stage.watch(at("before put_item", meanwhile))
    answers.append(stage.http("POST", PATH, TEA, key="a"))
    assert [answer.status for answer in answers] == [202, 200]
    stage.run_until_quiet()
    (saga_id,) = stage.ids()
    completed_once(stage, saga_id)


def test_a_client_that_cannot_wait_does_no_harm(stage):
    """Every repeat of an untouched start sends: the first message may be the one that was lost."""
    for _ in range(8):
        saga_id = stage.start(key="a")
    assert len(stage.bodies("WorkQueue")) == 8
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert tries(stage) == {1}
    assert stage.sqs.calls["send_message"] <= 8 + 2 * 4  # the copies had no children of their own
    assert waited(stage) <= 2 * MINUTE


# -- over SQS ------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"idempotency_key": "k"}], ids=["without key", "with key"])
def test_a_start_message_delivered_again_starts_nothing_twice(stage, more):
    stage.send("StartQueue", start_message(**more))
    (message,) = stage.receive("StartQueue")
    for _ in range(2):
        assert stage.hand_over("StartQueue", [message]).returned == ()
    stage.run_until_quiet()
    stage.hand_over("StartQueue", [message])
    stage.run_until_quiet()
    (saga_id,) = stage.ids()
    completed_once(stage, saga_id)
    assert stage.sink.total("SagaStarted") == 1


def test_two_start_messages_without_a_key_are_two_sagas(stage):
    for _ in range(2):
        stage.send("StartQueue", start_message())
    stage.run_until_quiet()
    assert len(stage.ids()) == 2


def test_a_start_over_sqs_and_over_http_under_one_key_are_one_saga(stage):
    stage.send("StartQueue", start_message(idempotency_key="k"))
    stage.deliver("StartQueue")
    assert stage.http("POST", PATH, TEA, key="k").status == 200
    stage.run_until_quiet()
    (saga_id,) = stage.ids()
    completed_once(stage, saga_id)


def test_a_start_message_that_reuses_a_key_stays_and_ends_in_the_dead_letters(stage):
    stage.start(key="k")
    other = start_message(idempotency_key="k", context={"sku": "teapot"})
    stage.send("StartQueue", other)
    stage.run_until_quiet()
    assert stage.bodies("StartDeadLetterQueue") == [other]
    assert {line["reason"] for line in stage.sink.of("saga.refused")} == {"key-reused"}
    assert len(stage.ids()) == 1


def test_the_starter_acknowledges_once_the_saga_is_stored(stage):
    """The send is the sweeper's to repeat; the put is not."""
    stage.send("StartQueue", start_message())
    stage.sqs.fail_next("send_message", Fault.NOT_CONNECTED)
    assert stage.deliver("StartQueue").returned == ()
    assert stage.sink.total("StartSendDeferred") == 1
    stage.run_until_quiet(sweeper=True)
    (saga_id,) = stage.ids()
    completed_once(stage, saga_id)


def test_the_starter_keeps_a_message_whose_saga_was_not_stored(stage):
    for key in "abc":
        stage.send("StartQueue", start_message(idempotency_key=key))
    stage.dynamodb.fail_next("put_item", Fault.THROTTLED)
    batch = stage.deliver("StartQueue")
    assert batch.error is None  # one of three: no outage
    assert len(batch.returned) == 1
    stage.run_until_quiet()
    assert len(stage.ids()) == 3
    for saga_id in stage.ids():
        ended(stage, saga_id, SagaState.COMPLETED)
