"""Sagas in DynamoDB: one item each, every move one conditional write.

No move of the protocol reads first. One that is refused gets what stood in its way with the
refusal, at no read's cost. So a step costs two writes and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from infra import conditions as c
from infra import listing
from infra.clock import SystemClock
from infra.codec import RecordCodec, branch_name
from infra.packing import ITEM_LIMIT, Item, Value, item_size, pack_context
from infra.schema import PK, WORK_INDEX, WORK_RANGE, key_of, live_partition, parked_partition
from infra.table import ConditionFailedError, OversizeError, Table
from saga_core.errors import ItemTooLargeError, StaleInstanceError
from saga_core.identity import SHARDS
from saga_core.instance import CLOSED, Key, SagaInstance, SagaState
from saga_core.ports import (
    ITEM_BUDGET,
    DueSaga,
    Page,
    Refused,
    SagaStore,
    WorkStore,
    WriteResult,
    Written,
    holds_no_more,
)
from saga_core.transition import EARLY_MS, NUDGE_MS, guard_lane, held_by

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_SYSTEM = SystemClock()
_CODEC = RecordCodec()
_QUERY_PAGE = 1_000  # keys, about 100 KB

_LIVE_STATES: Item = {
    ":running": {"S": SagaState.RUNNING.value},
    ":compensating": {"S": SagaState.COMPENSATING.value},
}
_DUE_IN_SHARD = "#gs_pk = :partition AND #sweep_at <= :until"
_IN_SHARD = "#gs_pk = :partition"


class DynamoDBSagaStore(SagaStore, WorkStore):
    """Both store ports over one table.

    The methods of SagaStore are awaitable because the port is; inside, they
    block for the milliseconds of one call. A process that runs thousands of
    sagas at once on one event loop would want an asynchronous client instead.

    Args:
        client: A low-level DynamoDB client; see ``infra.clients`` for its time-outs.
        table: The table's name.
        tenant: Whose sagas ``load`` and ``list_incomplete`` see.
        clock: Milliseconds since the epoch; decides what is expired for SagaStore.
        new_id: Ids by which ``save`` recognises its own writes.
        pause: Waits that many milliseconds before a throttled read is repeated.
        codec: The item's layout.
    """

    def __init__(
        self,
        client: DynamoDBClient,
        table: str,
        *,
        tenant: str = "default",
        clock: Callable[[], int] = _SYSTEM.now_ms,
        new_id: Callable[[], str] = _SYSTEM.new_id,
        pause: Callable[[int], None] = _SYSTEM.sleep_ms,
        codec: RecordCodec = _CODEC,
    ) -> None:
        self._table = Table(client, table, pause=pause)
        self._tenant = tenant
        self._clock = clock
        self._new_id = new_id
        self._codec = codec

    # -- SagaStore ---------------------------------------------------------------

    async def save(self, instance: SagaInstance) -> SagaInstance:
        """See SagaStore.

        The client repeats a write whose answer was lost, and the repeat meets
        the first one (aws-sdk-java #2667). A random id in the item tells such a
        write from somebody else's.
        """
        stored = replace(instance, version=instance.version + 1)
        item, wid = self._codec.encode(stored), _s(self._new_id())
        item["wid"] = wid
        size = item_size(item)
        values: Item = {":now_s": _n(_seconds(self._clock()))}
        condition = c.CREATE
        if instance.version:
            condition, values[":ver"] = c.SAVE, _n(instance.version)
        if size > ITEM_BUDGET:
            self._check_fitted(instance, size)
        try:
            self._put(stored, item, condition, values)
        except ConditionFailedError as exc:
            if exc.item is not None and exc.item.get("wid") == wid:
                return stored
            raise StaleInstanceError(instance.id, instance.version) from None
        return stored

    async def load(self, saga_id: str) -> SagaInstance | None:
        """See SagaStore."""
        return self.find(Key(self._tenant, saga_id), self._clock())

    async def list_incomplete(self) -> list[str]:
        """See SagaStore. From an index, which lags a little behind the sagas."""
        keys = (
            key_of(item[PK]["S"])
            for shard in range(SHARDS)
            for item in self._table.query(
                WORK_INDEX,
                _IN_SHARD,
                {":partition": _s(live_partition(shard))},
                forward=True,
                page_size=_QUERY_PAGE,
            )
        )
        return sorted(key.saga_id for key in keys if key.tenant == self._tenant)

    # -- WorkStore ---------------------------------------------------------------

    def create(self, instance: SagaInstance) -> WriteResult:
        """See WorkStore. Its own repeat comes back with this instance's incarnation."""
        stored = replace(instance, version=instance.version + 1)
        item = self._codec.encode(stored)
        self._check_size(stored, item)
        now_s = _seconds(instance.created_at)
        try:
            self._put(stored, item, c.CREATE, {":now_s": _n(now_s)})
        except ConditionFailedError as exc:
            return self._refused(exc, instance.created_at)
        return Written(stored)

    def find(self, key: Key, now: int) -> SagaInstance | None:
        """See WorkStore."""
        return self._decoded(self._table.get(key), now)

    def claim(
        self,
        key: Key,
        *,
        epoch: int,
        definition: str,
        claim_id: str,
        now: int,
        until: int,
        branch: int | None = None,
    ) -> WriteResult:
        """See WorkStore. Its own repeat comes back with this claim's lease."""
        values: Item = {
            **_LIVE_STATES,
            ":epoch": _n(epoch),
            ":def": _s(definition),
            ":claim": _s(claim_id),
            ":now": _n(now),
            ":soon": _n(now + EARLY_MS),
            ":until": _n(until),
            ":one": _n(1),
            ":v": _n(self._codec.version),
        }
        try:
            item = self._table.update(key, *c.claim(_name(branch)), values)
        except ConditionFailedError as exc:
            return self._refused(exc, now)
        return Written(self._codec.decode(item))

    def commit(self, before: SagaInstance, after: SagaInstance, *, claim_id: str) -> WriteResult:
        """See WorkStore. Its own repeat comes back with this claim as ``last_id``."""
        lane = held_by(before, claim_id) or before.lane
        condition = c.of_lane(c.COMMIT, _name(lane.number))
        return self._move(before, after, condition, {":claim": _s(claim_id)})

    def redispatch(
        self, instance: SagaInstance, *, nudge_id: str, now: int, branch: int | None = None
    ) -> WriteResult:
        """See WorkStore. Its own repeat comes back with this nudge."""
        lane = guard_lane(instance, branch)
        name = _name(lane.number)
        values: Item = {
            **_LIVE_STATES,
            ":epoch": _n(lane.epoch),
            ":nudge": _s(nudge_id),
            ":now": _n(now),
            ":minute_ago": _n(now - NUDGE_MS),
        }
        try:
            item = self._table.update(
                instance.key,
                c.of_lane(c.REDISPATCH_UPDATE, name),
                c.of_lane(c.REDISPATCH, name),
                values,
            )
        except ConditionFailedError as exc:
            return self._refused(exc)
        return Written(self._codec.decode(item))

    def record(self, before: SagaInstance, after: SagaInstance) -> WriteResult:
        """See WorkStore. Repeating the request is safe, so it does not recognise itself."""
        nudges = {
            _name(n.number): n.nudge.id if n.nudge is not None else None
            for n in (before.lane, *before.branches)
        }
        return self._move(before, after, *c.record(nudges))

    def mark_swept(self, before: SagaInstance, after: SagaInstance) -> WriteResult:
        """See WorkStore."""
        if before.sweep_at is None or after.sweep_at is None:
            return Refused(before)  # nobody looks after it, so there is no mark to move
        values: Item = {
            **_LIVE_STATES,
            ":sweep_at": _n(before.sweep_at),
            ":next": _n(after.sweep_at),
            ":sweeps": _n(after.sweeps),
        }
        try:
            item = self._table.update(before.key, c.MARK_SWEPT_UPDATE, c.MARK_SWEPT, values)
        except ConditionFailedError as exc:
            return self._refused(exc)
        return Written(self._codec.decode(item))

    def due(self, shard: int, until: int, limit: int) -> list[DueSaga]:
        """See WorkStore. From an index, which lags a little behind the sagas."""
        items = self._table.query(
            WORK_INDEX,
            _DUE_IN_SHARD,
            {":partition": _s(live_partition(shard)), ":until": _n(until)},
            forward=True,
            page_size=min(limit, _QUERY_PAGE),
        )
        lines = (DueSaga(key_of(i[PK]["S"]), int(i[WORK_RANGE]["N"])) for i in items)
        return list(islice(lines, limit))

    def unfinished(self) -> Iterator[SagaInstance]:
        """See WorkStore. One query a partition, and a consistent read of each saga."""
        seen: set[Key] = set()
        for shard in range(SHARDS):
            for partition in (live_partition(shard), parked_partition(shard)):
                items = self._table.query(
                    WORK_INDEX,
                    _IN_SHARD,
                    {":partition": _s(partition)},
                    forward=True,
                    page_size=_QUERY_PAGE,
                )
                keys = [key_of(item[PK]["S"]) for item in items]
                yield from self._with_children(keys, seen)

    def _with_children(self, keys: Iterable[Key], seen: set[Key]) -> Iterator[SagaInstance]:
        """These sagas as they are, and the ones that they have started, level by level."""
        todo = [key for key in keys if key not in seen]
        while todo:
            seen.update(todo)
            found = [self._codec.decode(item) for item in self._table.batch_get(todo)]
            yield from (i for i in found if i.status not in CLOSED or i.parent is not None)
            started = (Key(i.tenant, s.child) for i in found for s in i.steps if s.child)
            todo = [key for key in dict.fromkeys(started) if key not in seen]

    def page(
        self,
        tenant: str,
        *,
        states: frozenset[SagaState],
        name: str | None,
        cursor: str | None,
        limit: int,
        now: int,
    ) -> Page:
        """See WorkStore. From an index, checked by a consistent read of the sagas."""
        return listing.page(
            self._table,
            self._codec,
            tenant,
            states=states,
            name=name,
            cursor=cursor,
            limit=limit,
            now=now,
        )

    # -- parts -------------------------------------------------------------------

    def _move(
        self, before: SagaInstance, after: SagaInstance, condition: str, values: Item
    ) -> WriteResult:
        """Write the difference, under the version that ``before`` was read with."""
        stored = replace(after, version=after.version + 1)
        old = self._codec.encode_besides_context(before)
        new = self._codec.encode_besides_context(stored)
        if before.context_text != after.context_text:
            new["ctx"] = pack_context(after.context_text)
        if not holds_no_more(before, after):
            self._check_size(stored, {"ctx": pack_context(after.context_text), **new})
        update, changed = c.difference(old, new)
        values = {**values, ":ver": _n(before.version)}
        layout: Item = {":v": _n(self._codec.version)}
        try:
            item = self._table.update(
                after.key,
                update,
                f"{condition} AND {c.SAME_LAYOUT}",
                {**values, **changed, **layout},
            )
        except OversizeError as exc:
            raise self._too_large(stored) from exc
        except ConditionFailedError as exc:
            if exc.item is None or not self._codec.is_older(exc.item):
                return self._refused(exc)
            return self._rewrite(exc.item, stored, condition, values)
        return Written(self._codec.decode(item))

    def _rewrite(
        self, old: Item, stored: SagaInstance, condition: str, values: Item
    ) -> WriteResult:
        """Write a saga that stands there in an older layout, all of it in the present one.

        The difference between two items of the present layout would leave a
        mixture behind.
        """
        update, changed = c.difference(old, self._codec.encode(stored))
        try:
            item = self._table.update(stored.key, update, condition, {**values, **changed})
        except ConditionFailedError as exc:
            return self._refused(exc)
        return Written(self._codec.decode(item))

    def _put(self, i: SagaInstance, item: Item, condition: str, values: Item) -> None:
        try:
            self._table.put(i.key, item, condition, values)
        except OversizeError as exc:
            raise self._too_large(i) from exc

    def _refused(self, failed: ConditionFailedError, now: int | None = None) -> Refused:
        return Refused(self._decoded(failed.item, now))

    def _decoded(self, item: Item | None, now: int | None) -> SagaInstance | None:
        """The saga, or None when there is none or its retention was over at ``now``."""
        if item is None:
            return None
        found = self._codec.decode(item)
        gone = now is not None and found.expires_at is not None and found.expires_at < now
        return None if gone else found

    def _check_fitted(self, instance: SagaInstance, size: int) -> None:
        """Over the budget only what has fitted before may be saved: the rest is the reserve's.

        What it takes to know that is in no condition's reach, so this one save
        reads first. The version in its condition makes the reading good.
        """
        found = self.find(instance.key, self._clock())
        version = found.version if found is not None else 0
        if version != instance.version:
            raise StaleInstanceError(instance.id, instance.version)
        if found is None or not holds_no_more(found, instance):
            raise ItemTooLargeError(instance.id, size, ITEM_BUDGET)

    def _check_size(self, i: SagaInstance, item: Item) -> None:
        size = item_size(item)
        if size > ITEM_BUDGET:
            raise ItemTooLargeError(i.id, size, ITEM_BUDGET)

    def _too_large(self, i: SagaInstance) -> ItemTooLargeError:
        return ItemTooLargeError(i.id, item_size(self._codec.encode(i)), ITEM_LIMIT)


def _name(branch: int | None) -> str | None:
    """The attribute of a branch's lane; None for the main lane, which is the item itself."""
    return branch_name(branch) if branch is not None else None


def _s(text: str) -> Value:
    return {"S": text}


def _n(number: int) -> Value:
    return {"N": str(number)}


def _seconds(ms: int) -> int:
    """Whole seconds, rounded up: ``expires < ceil(now)`` says the same as ``expires < now``."""
    return -(-ms // 1000)
