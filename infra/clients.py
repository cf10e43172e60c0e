"""The AWS clients, with the numbers that decide what a failure looks like.

Made once per process, at the composition root. The low-level clients: the
resource API costs import time and hides the errors that we must tell apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

# Seconds. botocore waits 60 for each by default, longer than a function lives: the
# function would be killed with its answer unread. Both services answer in
# milliseconds; what takes longer than this is lost.
CONNECT_TIMEOUT = 1
READ_TIMEOUT = 3
# The first try counted. botocore's ``max_attempts`` leaves it out, and its defaults
# differ between versions and services (10 in legacy mode for DynamoDB). The retry
# inside the client is where one write becomes two, so its number is ours to know.
TRIES = 4

CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": TRIES},
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
)


def dynamodb_client(endpoint_url: str | None = None) -> DynamoDBClient:
    """A DynamoDB client; Region and credentials come from the environment."""
    return boto3.client("dynamodb", config=CONFIG, endpoint_url=endpoint_url)


def sqs_client(endpoint_url: str | None = None) -> SQSClient:
    """An SQS client, likewise."""
    return boto3.client("sqs", config=CONFIG, endpoint_url=endpoint_url)
