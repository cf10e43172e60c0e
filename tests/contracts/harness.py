"""A store under test, and a way to look at it that goes past the store's own methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from infra.codec import RecordCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.packing import item_size
from infra.schema import PK, SK, STATE_SK
from saga_core.instance import Key, SagaInstance
from saga_core.memory import InMemorySagaStore
from tests.fakes.aws import LocalAws
from tests.fakes.clock import HandClock

CODEC = RecordCodec()


def encoded_size(instance: SagaInstance) -> int:
    """Bytes that the table needs: the memory store is held to the same."""
    return item_size(CODEC.encode(instance))


class StoreUnderTest(Protocol):
    """Either store, seen from outside."""

    clock: HandClock

    @property
    def store(self) -> InMemorySagaStore | DynamoDBSagaStore:
        """The store."""

    def stored(self, key: Key) -> Any:
        """What is really there, expired or not: a SagaInstance or None."""

    def seed(self, instance: SagaInstance) -> SagaInstance:
        """Put it there as it is, whatever was there before."""

    def forget(self, key: Key) -> None:
        """What the time to live does, sooner or later."""


@dataclass
class Memory:
    """The store in memory."""

    store: InMemorySagaStore
    clock: HandClock

    def stored(self, key: Key) -> SagaInstance | None:
        """See StoreUnderTest."""
        return self.store._sagas.get(key)

    def seed(self, instance: SagaInstance) -> SagaInstance:
        """See StoreUnderTest."""
        self.store._sagas[instance.key] = instance
        return instance

    def forget(self, key: Key) -> None:
        """See StoreUnderTest."""
        self.store._sagas.pop(key, None)


@dataclass
class Dynamo:
    """The store on moto, its table looked at with a client of its own."""

    store: DynamoDBSagaStore
    clock: HandClock
    aws: LocalAws
    table: str

    def stored(self, key: Key) -> SagaInstance | None:
        """See StoreUnderTest."""
        reply = self.aws.dynamodb.wrapped.get_item(TableName=self.table, Key=_key(key))
        return CODEC.decode(reply["Item"]) if "Item" in reply else None

    def seed(self, instance: SagaInstance) -> SagaInstance:
        """See StoreUnderTest."""
        item = CODEC.encode(instance)
        self.aws.dynamodb.wrapped.put_item(TableName=self.table, Item=item)
        return instance

    def forget(self, key: Key) -> None:
        """See StoreUnderTest."""
        self.aws.dynamodb.wrapped.delete_item(TableName=self.table, Key=_key(key))


def _key(key: Key) -> dict[str, dict[str, str]]:
    return {PK: {"S": f"S#{key.tenant}#{key.saga_id}"}, SK: {"S": STATE_SK}}


def memory() -> Memory:
    """A new store in memory."""
    clock = HandClock()
    return Memory(InMemorySagaStore(clock=clock.now_ms, measure=encoded_size), clock)


def dynamo(aws: LocalAws, *, tenant: str = "default") -> Dynamo:
    """A new store on a new table."""
    clock, table = HandClock(), aws.new_table()
    store = DynamoDBSagaStore(
        aws.dynamodb,
        table,
        tenant=tenant,
        clock=clock.now_ms,
        new_id=clock.new_id,
        pause=clock.sleep_ms,
    )
    return Dynamo(store, clock, aws, table)


Maker = Callable[[], StoreUnderTest]
