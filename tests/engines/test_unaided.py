"""What the clients of these tests make up for (served.py), asked without their help."""

from __future__ import annotations

from infra.clients import dynamodb_client, sqs_client
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender
from saga_core.ports import Refused, Written
from tests.contracts.sagas import at_version, new
from tests.engines.suites import QUEUE_ENGINES, on
from tests.fakes.clock import T0


def test_a_refusal_hands_over_what_stood_in_the_way(engine, aws):
    store = DynamoDBSagaStore(dynamodb_client(engine.url), aws.new_table(), clock=lambda: T0)
    assert isinstance(store.create(new()), Written)
    assert store.create(new(incarnation="12345678")) == Refused(at_version(new(), 1))


@on(*QUEUE_ENGINES)
def test_a_message_for_a_standard_queue_may_have_a_group(engine, aws):
    sender = SqsSender(sqs_client(engine.url), aws.new_queue({}))
    sender.send(new(), delay_ms=0, reason="step", correlation_id="c")
