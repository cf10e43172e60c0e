"""A tenant's sagas, newest first, from an index that is split over many partitions."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import groupby, islice

from infra.codec import RecordCodec
from infra.packing import Item
from infra.schema import LIST_INDEX, LIST_RANGE, PK, key_of, list_partition
from infra.table import Table
from saga_core.identity import SHARDS, decode_cursor, encode_cursor, place_of
from saga_core.instance import Key, SagaInstance, SagaState
from saga_core.ports import Page

_PARTITION = "#ls_pk = :partition"
_OLDER = "#ls_pk = :partition AND #ls_sk < :place"


def page(
    table: Table,
    codec: RecordCodec,
    tenant: str,
    *,
    states: frozenset[SagaState],
    name: str | None,
    cursor: str | None,
    limit: int,
    now: int,
) -> Page:
    """See WorkStore.

    The partitions are merged by the sort key, which a saga keeps for life, so a
    cursor is a place in time and stays good while sagas move between
    partitions. The index lags: what it says is checked by a read of the items.
    """
    place = decode_cursor(cursor) if cursor is not None else None
    # The tenant is the caller's, never the cursor's: a forged one stays within the tenant.
    partitions = sorted(
        {list_partition(tenant, state, shard) for state in states for shard in range(SHARDS)}
    )
    streams = [_stream(table, partition, place, limit) for partition in partitions]
    # A saga on its way from one partition to another may show in both, at the same place.
    merged = (p for p, _ in groupby(heapq.merge(*streams, reverse=True)))
    places = list(islice(merged, limit + 1))
    here = places[:limit]
    # One key twice: the same id, started anew after its retention. BatchGetItem refuses that.
    found = _read(table, codec, list(dict.fromkeys(key for _, key in here)), now)
    shown = [found[key] for p, key in here if key in found and _place(found[key]) == p]
    return Page(
        tuple(i for i in shown if i.state in states and name in (None, i.definition_name)),
        encode_cursor(here[-1][0]) if len(places) > limit else None,
    )


def _stream(
    table: Table, partition: str, place: str | None, limit: int
) -> Iterator[tuple[str, Key]]:
    """Places and keys of one partition, newest first, read as far as they are asked for."""
    values: Item = {":partition": {"S": partition}}
    if place is not None:
        values[":place"] = {"S": place}
    condition = _PARTITION if place is None else _OLDER
    items = table.query(LIST_INDEX, condition, values, forward=False, page_size=limit + 1)
    for item in items:
        yield item[LIST_RANGE]["S"], key_of(item[PK]["S"])


def _read(table: Table, codec: RecordCodec, keys: list[Key], now: int) -> dict[Key, SagaInstance]:
    """The sagas that are still there."""
    found = (codec.decode(item) for item in table.batch_get(keys))
    return {i.key: i for i in found if i.expires_at is None or i.expires_at >= now}


def _place(i: SagaInstance) -> str:
    return place_of(i.created_at, i.id)
