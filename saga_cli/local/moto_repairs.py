"""Where moto differs from AWS in ways that matter here, put right while a stack runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from moto.dynamodb.responses import DynamoHandler
from moto.sqs.models import Message, Queue


@contextmanager
def moto_repaired() -> Iterator[None]:
    """Three repairs, undone at the end.

    * Conditional writes are atomic: moto's are not when two threads write at
      once, and two workers would win one claim.
    * A queue loses no message that is sent while another is deleted.
    * A message that moves to a dead-letter queue begins to count its receives
      anew, as on AWS; moto would pass it on to the next queue at once.
    """
    with ExitStack() as undo:
        _replace(undo, DynamoHandler, "call_action", _locked(DynamoHandler.call_action))
        lock = threading.RLock()
        delete, add = Queue.delete_message, Queue.add_message

        def add_message(queue: Queue, message: Message) -> None:
            message.approximate_receive_count = 0
            message.visible_at = 0.0
            with lock:
                add(queue, message)

        def delete_message(queue: Queue, receipt_handle: str) -> None:
            with lock:
                delete(queue, receipt_handle)

        _replace(undo, Queue, "add_message", add_message)
        _replace(undo, Queue, "delete_message", delete_message)
        yield


def _locked(function: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.RLock()

    def locked(*args: object) -> object:
        with lock:
            return function(*args)

    return locked


def _replace(undo: ExitStack, owner: type, name: str, value: object) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
