"""The template's table and queues, created in a local AWS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from saga_cli.local.template import QUEUE, TABLE, Template, physical_name

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
    "RedrivePolicy",
    "VisibilityTimeout",
)


def create_tables(template: Template, dynamodb: DynamoDBClient) -> None:
    """Every table, with its keys, indexes and time to live."""
    for name in template.resources(TABLE):
        properties = template.properties(TABLE, name, _TABLE_PROPERTIES)
        dynamodb.create_table(TableName=physical_name(name), **properties)
        ttl = template.properties(TABLE, name, ("TimeToLiveSpecification",))
        if ttl:
            dynamodb.update_time_to_live(TableName=physical_name(name), **ttl)


def create_queues(template: Template, sqs: SQSClient) -> None:
    """Every queue, with its time-outs; then what moves on from one to another."""
    attributes = {
        name: template.properties(QUEUE, name, _QUEUE_PROPERTIES)
        for name in template.resources(QUEUE)
    }
    redrive = {name: found.pop("RedrivePolicy", None) for name, found in attributes.items()}
    for name, found in attributes.items():
        sqs.create_queue(
            QueueName=physical_name(name),
            Attributes={key: str(value) for key, value in found.items()},
        )
    for name, policy in redrive.items():
        if policy is not None:
            sqs.set_queue_attributes(
                QueueUrl=template.queue_url(name), Attributes={"RedrivePolicy": json.dumps(policy)}
            )
