"""The calls to DynamoDB, and what their failures mean. Above this, nothing knows botocore."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.parsers import ResponseParserError

from infra.codec import key_item
from infra.conditions import names_in
from infra.packing import Item
from saga_core.errors import SagaError, StoreError
from saga_core.instance import Key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import QueryInputTypeDef

_BATCH = 100  # keys of one BatchGetItem
_FRUITLESS = 5  # BatchGetItem answers in a row without a single item before we give up
_PAUSE_MS = 50

_SERVER_ERROR = 500


class ConditionFailedError(SagaError):
    """The condition did not hold. ``item`` is what stood in the way, None if nothing did."""

    def __init__(self, item: Item | None) -> None:
        self.item = item
        super().__init__("the condition did not hold")


class OversizeError(SagaError):
    """DynamoDB itself found the item too large."""


class Table:
    """One table, through the low-level client.

    Every method raises StoreError when DynamoDB does not answer as it should.
    """

    def __init__(self, client: DynamoDBClient, name: str, *, pause: Callable[[int], None]) -> None:
        self._client = client
        self._name = name
        self._pause = pause

    def get(self, key: Key) -> Item | None:
        """The saga's item, read consistently."""
        with _translated("GetItem", key.saga_id):
            reply = self._client.get_item(
                TableName=self._name, Key=key_item(key), ConsistentRead=True
            )
        return reply.get("Item")

    def put(self, key: Key, item: Item, condition: str, values: Item) -> None:
        """Write the whole item.

        Raises:
            ConditionFailedError: With the item in the way.
            OversizeError: It is over DynamoDB's limit.
        """
        with _translated("PutItem", key.saga_id):
            self._client.put_item(
                TableName=self._name,
                Item=item,
                ConditionExpression=condition,
                ExpressionAttributeNames=names_in(condition),
                ExpressionAttributeValues=values,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )

    def update(self, key: Key, update: str, condition: str, values: Item) -> Item:
        """Change the item and return it as it is then. Raises as ``put`` does.

        The conditions all name an attribute that an absent item lacks, so
        this never creates one.
        """
        with _translated("UpdateItem", key.saga_id):
            reply = self._client.update_item(
                TableName=self._name,
                Key=key_item(key),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names_in(update, condition),
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        return reply["Attributes"]

    def query(
        self, index: str, condition: str, values: Item, *, forward: bool, page_size: int
    ) -> Iterator[Item]:
        """The keys in an index, page by page as they are asked for. The index lags a little."""
        request: QueryInputTypeDef = {
            "TableName": self._name,
            "IndexName": index,
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names_in(condition),
            "ExpressionAttributeValues": values,
            "ScanIndexForward": forward,
            "Limit": page_size,
        }
        while True:
            with _translated("Query", index):
                reply = self._client.query(**request)
            yield from reply["Items"]
            if not reply.get("LastEvaluatedKey"):
                return
            request["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

    def batch_get(self, keys: Sequence[Key]) -> list[Item]:
        """The items that exist, read consistently, in no order.

        DynamoDB may leave keys out when it is throttled or the answer would
        exceed 16 MB; those are asked for again.
        """
        todo = [key_item(key) for key in keys]
        found: list[Item] = []
        fruitless = 0
        while todo:
            asked, rest = todo[:_BATCH], todo[_BATCH:]
            with _translated("BatchGetItem", f"{len(asked)} sagas"):
                reply = self._client.batch_get_item(
                    RequestItems={self._name: {"Keys": asked, "ConsistentRead": True}}
                )
            found += reply["Responses"].get(self._name, [])
            left = reply["UnprocessedKeys"].get(self._name, {"Keys": []})["Keys"]
            todo = [*left, *rest]
            if len(left) < len(asked):
                fruitless = 0
                continue
            fruitless += 1
            if fruitless == _FRUITLESS:
                raise StoreError(f"BatchGetItem of {len(asked)} sagas: none of them was processed")
            self._pause(_PAUSE_MS << fruitless)
        return found


@contextmanager
def _translated(operation: str, subject: str) -> Iterator[None]:
    """What a failed call means for a write: done, not done, or not known.

    The client's own retries blur the last one: an answer that was lost may be
    followed by a throttled repeat, and then only the throttling is seen.
    Whoever is told "not written" and tries again recognises that write by its
    ids all the same; nothing but the choice of the next pause hangs on this.
    """
    where = f"{operation} ({subject})"
    try:
        yield
    except ClientError as exc:
        raise _meaning(exc, where) from exc
    except (HTTPClientError, ResponseParserError) as exc:
        # Sent, and then the answer was late, cut off or garbled.
        raise StoreError(f"{where}: {type(exc).__name__}", ambiguous=True) from exc
    except BotoCoreError as exc:
        # Not sent: no connection, no credentials, a parameter that botocore refused.
        raise StoreError(f"{where}: {type(exc).__name__}") from exc


def _meaning(exc: ClientError, where: str) -> SagaError:
    error = exc.response.get("Error", {})
    code = error.get("Code", "Unknown")
    if code == "ConditionalCheckFailedException":
        item: Item | None = exc.response.get("Item")  # type: ignore[assignment]  # no stub has it
        return ConditionFailedError(item or None)
    if code == "ValidationException" and "Item size" in error.get("Message", ""):
        return OversizeError(where)
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", _SERVER_ERROR)
    # 5xx: it may have happened. 4xx, throttling among them: DynamoDB says that it did not.
    return StoreError(f"{where}: {code}", ambiguous=status >= _SERVER_ERROR)
