"""Messages on the work queue: hints that a work item may be due.

A message commands nothing and holds no payload, so it may be lost, repeated,
replayed or read by an operator without harm:

    {"v":1, "k":"<tenant>#<saga_id>", "e":<epoch>, "r":"<reason>",
     "c":"<correlation id>", "d":"<name>@<version>#<fingerprint>", "l":<branch>}

``l`` is the place of a group's step whose lane it announces; the main lane has none.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from saga_core.definition import MAX_STEPS, SAGA_NAME, VERSION
from saga_core.errors import SagaError, StoreError
from saga_core.identity import SAGA_ID, TENANT
from saga_core.instance import Key, SagaInstance
from saga_core.strict_json import strict_json
from saga_core.turn import WorkMessage

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

MESSAGE_VERSION = 1
MAX_DELAY_SECONDS = 900  # of SendMessage
# SQS refuses what would keep a message in hand for more than twelve hours in all, and does not cut
# it: what is left of them after the longest invocation may be asked for at any time.
MAX_VISIBILITY_SECONDS = 43_200 - 900  # of ChangeMessageVisibility
MAX_BODY = 2_048  # characters; ours take under 300
_MAX_EPOCH = 2**53  # the largest range in which every JSON reader agrees on integers

_REASON = re.compile(r"[a-z_]{1,32}")
_CORRELATION = re.compile(r"[\x21-\x7e]{0,64}")
_NOT_CORRELATION = re.compile(r"[^\x21-\x7e]")
_DEFINITION = re.compile(f"{SAGA_NAME.pattern}@{VERSION.pattern}#[0-9a-f]{{16}}")


class QueueError(StoreError):
    """The queue did not take the message, or did not say so. It may be in it all the same."""


class InvalidMessageError(SagaError, ValueError):
    """A body that is none of our messages. The text says why and quotes nothing of it."""


class SqsSender:
    """Sends work messages to the one queue it is given.

    Args:
        client: A low-level SQS client.
        queue_url: The work queue, a standard queue: FIFO queues know no delay
            per message.
    """

    def __init__(self, client: SQSClient, queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def send(
        self,
        instance: SagaInstance,
        delay_ms: int,
        reason: str,
        correlation_id: str,
        branch: int | None = None,
    ) -> None:
        """Announce the current work item of a branch, or of the main lane.

        The delay is rounded up to seconds (an early message would only come
        back later) and cut at 900 s, where the queue ends.

        Raises:
            QueueError: It may or may not be sent.
        """
        try:
            self._client.send_message(
                QueueUrl=self._queue_url,
                MessageBody=body_of(instance, reason, correlation_id, branch),
                DelaySeconds=min(max(0, _seconds(delay_ms)), MAX_DELAY_SECONDS),
                # Fair queues: one busy tenant does not delay the others. A hash, because a
                # tenant may be longer and of other characters than a group id.
                MessageGroupId=hashlib.sha256(instance.tenant.encode()).hexdigest()[:32],
            )
        except (ClientError, BotoCoreError) as exc:
            text = f"saga {instance.id}: no message sent: {type(exc).__name__}"
            raise QueueError(text, ambiguous=True) from exc

    def postpone(self, receipt_handle: str, delay_ms: int) -> bool:
        """Have the message in hand come back after this time; False when the queue refused.

        Best effort: without it the message comes back after the queue's own
        visibility time-out, later but as surely.
        """
        try:
            self._client.change_message_visibility(
                QueueUrl=self._queue_url,
                ReceiptHandle=receipt_handle,
                VisibilityTimeout=min(max(0, _seconds(delay_ms)), MAX_VISIBILITY_SECONDS),
            )
        except (ClientError, BotoCoreError):
            return False
        return True


def body_of(
    instance: SagaInstance, reason: str, correlation_id: str, branch: int | None = None
) -> str:
    """The message that announces the current work item of a branch, or of the main lane."""
    lane = instance.lane if branch is None else instance.open_lane(branch)
    if lane is None:
        raise ValueError(f"saga {instance.id} has no open branch {branch}")
    fields: dict[str, object] = {
        "v": MESSAGE_VERSION,
        "k": f"{instance.tenant}#{instance.id}",
        "e": lane.epoch,
        "r": reason,
        # A caller's id must not cost us the message: what `parse` would refuse is left out.
        "c": _NOT_CORRELATION.sub("", correlation_id)[:64],
        "d": instance.definition,
        **({"l": branch} if branch is not None else {}),
    }
    return json.dumps(fields, separators=(",", ":"))


def parse(body: str) -> WorkMessage:
    """Read a message, trusting nothing in it. Fields that we do not know are ignored.

    Raises:
        InvalidMessageError: It is none of ours.
    """
    if len(body) > MAX_BODY:
        raise InvalidMessageError(f"longer than {MAX_BODY} characters")
    try:
        fields = strict_json(body)
    except ValueError as exc:
        raise InvalidMessageError(str(exc)) from exc
    if not isinstance(fields, dict):
        raise InvalidMessageError("not an object")
    if type(fields.get("v")) is not int or fields["v"] != MESSAGE_VERSION:
        raise InvalidMessageError("v is not a version we know")
    tenant, _, saga_id = _text(fields, "k").partition("#")
    if not TENANT.fullmatch(tenant) or not SAGA_ID.fullmatch(saga_id):
        raise InvalidMessageError("k is not the key of a saga")
    epoch = fields.get("e")
    if type(epoch) is not int or not 1 <= epoch < _MAX_EPOCH:
        raise InvalidMessageError("e is not a positive integer")
    branch = fields.get("l")
    if branch is not None and (type(branch) is not int or not 0 <= branch < MAX_STEPS):
        raise InvalidMessageError("l is not the place of a step")
    return WorkMessage(
        key=Key(tenant, saga_id),
        epoch=epoch,
        definition=_matching(fields, "d", _DEFINITION),
        reason=_matching(fields, "r", _REASON),
        correlation_id=_matching(fields, "c", _CORRELATION),
        branch=branch,
    )


def _text(fields: dict[object, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise InvalidMessageError(f"{name} is not a string")
    return value


def _matching(fields: dict[object, object], name: str, pattern: re.Pattern[str]) -> str:
    value = _text(fields, name)
    if not pattern.fullmatch(value):
        raise InvalidMessageError(f"{name} is not of its form")
    return value


def _seconds(ms: int) -> int:
    return -(-ms // 1000)
