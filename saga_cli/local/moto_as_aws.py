"""moto, put right where it differs from AWS in ways that matter here, for as long as it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import moto.sqs.models
from moto.dynamodb.responses import DynamoHandler
from moto.sqs.models import Message, Queue, sqs_backends

from infra.clock import Clock
from saga_cli.local.template import ACCOUNT, REGION

# Of a message, what another process needs to have the same message.
_KEPT = ("body", "approximate_receive_count", "sent_timestamp", "visible_at", "delayed_until")


@contextmanager
def moto_repaired() -> Iterator[None]:
    """Three repairs, undone at the end.

    * Conditional writes are atomic. moto's are not when two threads write at
      once: two workers would win one claim.
    * A queue loses no message that is sent while another is deleted.
    * A message that moves to a dead-letter queue begins to count its receives
      anew; moto would pass it on to the next queue at once.
    """
    tables, queues = threading.RLock(), threading.RLock()
    call, add, delete = DynamoHandler.call_action, Queue.add_message, Queue.delete_message

    def call_action(handler: DynamoHandler) -> object:
        with tables:
            return call(handler)

    def add_message(queue: Queue, message: Message) -> None:
        message.approximate_receive_count = 0
        message.visible_at = 0.0
        with queues:
            add(queue, message)

    def delete_message(queue: Queue, receipt_handle: str) -> None:
        with queues:
            delete(queue, receipt_handle)

    with ExitStack() as undo:
        _replace(undo, DynamoHandler, "call_action", call_action)
        _replace(undo, Queue, "add_message", add_message)
        _replace(undo, Queue, "delete_message", delete_message)
        yield


@contextmanager
def moto_tells_time_by(clock: Clock) -> Iterator[None]:
    """Let the delays and visibility time-outs of moto's queues run on this clock."""
    with ExitStack() as undo:
        _replace(undo, moto.sqs.models, "unix_time", lambda: clock.now_ms() / 1000)
        _replace(undo, moto.sqs.models, "unix_time_millis", lambda: float(clock.now_ms()))
        yield


def messages_of(queue: str) -> list[Message]:
    """Every message of a queue, those in flight too; SQS itself does not tell."""
    return list(sqs_backends[ACCOUNT][REGION].queues[queue]._messages)  # noqa: SLF001 - see above


def letters_of(queue: str) -> list[dict[str, Any]]:
    """The messages of a queue as plain data, for ``put_back``."""
    return [{"id": m.id, **{name: getattr(m, name) for name in _KEPT}} for m in messages_of(queue)]


def put_back(queue: str, letters: list[dict[str, Any]]) -> None:
    """Let the queue hold these messages, with the ids and the counts that they had."""
    for letter in letters:
        message = Message(letter["id"], letter["body"])
        found = sqs_backends[ACCOUNT][REGION].queues[queue]
        found.add_message(message)  # which begins to count anew
        for name in _KEPT:
            setattr(message, name, letter[name])


def _replace(undo: ExitStack, owner: object, name: str, value: Callable[..., object]) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
