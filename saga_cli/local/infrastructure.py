"""The template's table and queues, created in a local AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

from saga_cli.local.template import QUEUE, TABLE, Template

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

# What a local engine can honour. Encryption, tags, recovery and alarms are for AWS.
_TABLE_PROPERTIES = (
    "AttributeDefinitions",
    "KeySchema",
    "GlobalSecondaryIndexes",
    "BillingMode",
)
_QUEUE_PROPERTIES = (
    "DelaySeconds",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "ReceiveMessageWaitTimeSeconds",
    "VisibilityTimeout",
)


@contextmanager
def infrastructure(template: Template, dynamodb: DynamoDBClient, sqs: SQSClient) -> Iterator[None]:
    """Every table and queue of the template, for as long as the block runs."""
    with ExitStack() as undo:
        for name in template.resources(TABLE):
            _create_table(template, name, dynamodb)
            undo.callback(dynamodb.delete_table, TableName=template.name_of(name))
        for name in template.resources(QUEUE):
            _create_queue(template, name, sqs)
            undo.callback(sqs.delete_queue, QueueUrl=template.queue_url(name))
        for name in template.resources(QUEUE):
            _redrive(template, name, sqs)
        yield


def _create_table(template: Template, name: str, dynamodb: DynamoDBClient) -> None:
    """A table with its keys, indexes and time to live."""
    properties = template.properties(TABLE, name, _TABLE_PROPERTIES)
    dynamodb.create_table(TableName=template.name_of(name), **properties)
    ttl = template.properties(TABLE, name, ("TimeToLiveSpecification",))
    if ttl:
        dynamodb.update_time_to_live(TableName=template.name_of(name), **ttl)


def _create_queue(template: Template, name: str, sqs: SQSClient) -> None:
    """A queue with its time-outs."""
    properties = template.properties(QUEUE, name, _QUEUE_PROPERTIES)
    attributes = {key: str(value) for key, value in properties.items()}
    sqs.create_queue(QueueName=template.name_of(name), Attributes=cast("Any", attributes))


def _redrive(template: Template, name: str, sqs: SQSClient) -> None:
    """What moves on from this queue to another; both must be there."""
    for key, policy in template.properties(QUEUE, name, ("RedrivePolicy",)).items():
        attributes = cast("Any", {key: json.dumps(policy)})
        sqs.set_queue_attributes(QueueUrl=template.queue_url(name), Attributes=attributes)
