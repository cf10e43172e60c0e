"""The worker as roto runs it, with a note of what it was handed and what it answered."""

from __future__ import annotations

import importlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import boto3

from saga_core.definition import Handler, SagaDefinition, StepDefinition
from tests.engines.aids import with_old_item, without_group


def nothing(_: object) -> None:
    """A step that is content."""


_STEP = Handler.of(nothing)
CHAIN = SagaDefinition(
    name="chain",
    steps=tuple(StepDefinition(name=n, execute=_STEP, compensate=_STEP) for n in ("one", "two")),
)


@cache
def deployed() -> Any:
    """The worker's handler, its clients helped as those of the other tests are."""
    reader = boto3.client("dynamodb")
    boto3.setup_default_session()
    session: Any = boto3.DEFAULT_SESSION
    without_group(session.events)
    with_old_item(session.events, reader)
    return importlib.import_module("handlers.worker").handler


def worker(event: Any, context: Any) -> Any:
    """What is deployed."""
    answer = deployed()(event, context)
    ids = [record["messageId"] for record in event["Records"]]
    with Path(os.environ["SAGA_ANSWERS"]).open("a") as notes:
        notes.write(json.dumps([ids, answer]) + "\n")
    return answer


def misnaming(event: Any, context: Any) -> Any:
    """A worker that names a message that it was not handed: AWS then takes the batch as failed."""
    answer = worker(event, context)
    return {"batchItemFailures": [*answer["batchItemFailures"], {"itemIdentifier": "no-such-id"}]}
