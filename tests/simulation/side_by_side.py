"""One request to two services: moto's, through a real boto3 client, and the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import boto3
from botocore.exceptions import ClientError

from tests.simulation.clock import WorldTime
from tests.simulation.dynamo import FakeDynamo, KeySchema, TableSchema, saga_table
from tests.simulation.values import Item, item_copy

REGION = "us-east-1"
TABLE = "sagas"
# moto counts capacity unasked, and looks whether another page follows; AWS does neither.
_LEFT_OUT = frozenset({"ResponseMetadata", "ConsumedCapacity", "LastEvaluatedKey"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request came to: the error's code or ``ok``, and what was returned."""

    code: str
    returned: object = None


def outcome(call: Callable[[], dict[str, Any]]) -> Outcome:
    """Make a request, and tell what came of it."""
    try:
        return answered(call())
    except ClientError as exc:
        return refused(exc)


def refused(exc: ClientError) -> Outcome:
    """The outcome of an error."""
    response: dict[str, Any] = {**exc.response}
    item = response.get("Item")  # moto has an empty one where AWS has none
    return Outcome(response["Error"]["Code"], item_copy(item) if item else None)


def answered(reply: Mapping[str, Any]) -> Outcome:
    """The outcome of an answer. Numbers get one spelling: moto keeps the one it was given."""
    members = {name: _spelled(value) for name, value in reply.items() if name not in _LEFT_OUT}
    if "Responses" in members:  # of a batch; their order means nothing
        found = {t: sorted(items, key=str) for t, items in reply["Responses"].items()}
        members["Responses"] = _spelled(found)
    return Outcome("ok", members)


def _spelled(value: object) -> object:
    if isinstance(value, list):
        return [_spelled(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"N"}:
        return item_copy({"n": value})["n"]
    return {k: _spelled(v) for k, v in value.items()}


class SideBySide:
    """The saga table twice."""

    def __init__(self, schema: TableSchema | None = None) -> None:
        schema = schema or saga_table(TABLE)
        self.moto: Any = boto3.client("dynamodb", region_name=REGION)
        self.time = WorldTime()
        self.fake = FakeDynamo(schema, now=self.time)
        self._drawn = 0
        _create(self.moto, schema)

    def key(self) -> Item:
        """A key that nothing has yet."""
        self._drawn += 1
        return {"pk": {"S": f"k{self._drawn}"}, "sk": {"S": "STATE"}}

    def put(self, item: Item) -> None:
        """Have an item in both."""
        self.moto.put_item(TableName=TABLE, Item=item)
        self.fake.put_item(TableName=TABLE, Item=item)

    def call(self, operation: str, **parameters: object) -> tuple[Outcome, Outcome]:
        """Make a request of both: moto's outcome, the model's outcome."""
        moto, fake = (
            outcome(partial(getattr(client, operation), TableName=TABLE, **parameters))
            for client in (self.moto, self.fake)
        )
        return moto, fake

    def items(self, key: Item) -> tuple[Outcome, Outcome]:
        """What both hold under a key."""
        return self.call("get_item", Key=key, ConsistentRead=True)


def _create(client: Any, schema: TableSchema) -> None:
    places = (schema.key, *schema.indexes.values())
    types = dict(pair for place in places for pair in place.attributes)
    client.create_table(
        TableName=schema.name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": name, "AttributeType": tag} for name, tag in types.items()
        ],
        KeySchema=_key_schema(schema.key),
        GlobalSecondaryIndexes=[
            {
                "IndexName": name,
                "KeySchema": _key_schema(place),
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
            for name, place in schema.indexes.items()
        ],
    )


def _key_schema(place: KeySchema) -> list[dict[str, str]]:
    (hash_name, _), (range_name, _) = place.attributes
    return [
        {"AttributeName": hash_name, "KeyType": "HASH"},
        {"AttributeName": range_name, "KeyType": "RANGE"},
    ]
