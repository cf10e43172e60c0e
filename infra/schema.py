"""The table's names and keys, in one place. template.yaml holds the same names; a test compares.

One saga is one item. Two sparse indexes project keys only:

    work   W#<shard> | sweep_at                          a live saga, by when to look after it
           P#<shard> | sweep_at                          a FAILED saga: a person has to
    list   L#<tenant>#<status>#<shard> | <created>#<id>  every saga, closed ones too

The partitions of both are sharded by the saga's id: an index keyed by a status
alone is the hot key that throttles its base table (AWS DynamoDB guide, "GSI
write throttling and back pressure").
"""

from __future__ import annotations

from saga_core.identity import SAGA_ID, TENANT
from saga_core.instance import Key, SagaState

RECORD_VERSION = 2  # of the item's layout; infra.codec reads older ones

PK = "pk"
SK = "sk"
STATE_SK = "STATE"  # others are reserved, for large outputs and for history
TTL = "expires_at"

WORK_INDEX = "work"
WORK_HASH = "gs_pk"
WORK_RANGE = "sweep_at"

LIST_INDEX = "list"
LIST_HASH = "ls_pk"
LIST_RANGE = "ls_sk"


def partition_key(key: Key) -> str:
    """``S#<tenant>#<saga_id>``: the one place where a saga's key is built.

    Raises:
        ValueError: A part is not what it should be; with a ``#`` in it, it
            could address another tenant's saga.
    """
    if not TENANT.fullmatch(key.tenant):
        raise ValueError("not a tenant")
    if not SAGA_ID.fullmatch(key.saga_id):
        raise ValueError("not a saga id")
    return f"S#{key.tenant}#{key.saga_id}"


def key_of(partition: str) -> Key:
    """The saga that a partition key belongs to.

    Raises:
        ValueError: ``partition_key`` did not make it.
    """
    parts = partition.split("#")
    if len(parts) != 3 or parts[0] != "S":  # noqa: PLR2004 - the three parts of the key
        raise ValueError("not the key of a saga")
    return Key(parts[1], parts[2])


def live_partition(shard: int) -> str:
    """Partition of the index ``work`` that holds this shard's live sagas."""
    return f"W#{shard}"


def parked_partition(shard: int) -> str:
    """Partition of the index ``work`` that holds this shard's FAILED sagas."""
    return f"P#{shard}"


def list_partition(tenant: str, status: SagaState, shard: int) -> str:
    """Partition of the index ``list``.

    CREATED and RUNNING share one: a claim changes nothing but counters, and
    moving the item between partitions would cost two more index writes.

    Raises:
        ValueError: The tenant is not what it should be.
    """
    if not TENANT.fullmatch(tenant):
        raise ValueError("not a tenant")
    stored = SagaState.RUNNING if status is SagaState.CREATED else status
    return f"L#{tenant}#{stored.value}#{shard}"
