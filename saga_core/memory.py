"""A store in memory that refuses what the table refuses.

Real, not a mock: tests, the local runtime and the simulator run on it, and it
passes the same contract suites as DynamoDBSagaStore. For one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from saga_core.errors import ItemTooLargeError, StaleInstanceError
from saga_core.events import Claimed
from saga_core.identity import decode_cursor, encode_cursor, place_of, shard_of
from saga_core.instance import CLOSED, Key, Lane, SagaInstance, SagaState
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
from saga_core.transition import Moved, claim, guard_lane, held_by, nudge


def _nudges(i: SagaInstance) -> tuple[object, ...]:
    return (i.lane.nudge, *(n.nudge for n in i.branches))


def _nudged_since(found: SagaInstance, before: SagaInstance, after: SagaInstance) -> SagaInstance:
    """What a commit writes: it leaves alone the guards of lanes that it does not move.

    A nudge counts no version, so one may have come since ``before`` to any lane
    but the one that the commit holds.
    """
    lane = after.lane
    if (lane.epoch, lane.nudge) == (before.lane.epoch, before.lane.nudge):
        lane = replace(lane, nudge=found.lane.nudge)
    branches = tuple(
        found.open_lane(n.number) if n in before.branches else n for n in after.branches
    )
    return replace(after, lane=lane, branches=tuple(n for n in branches if n is not None))


def _same_item(lane: Lane, seen: Lane) -> bool:
    return (lane.number, lane.epoch) == (seen.number, seen.epoch)


_BYTES_PER_STEP = 200
_BYTES_BESIDES = 1_000


def estimated_size(instance: SagaInstance) -> int:
    """Bytes that the instance may take as an item, its context uncompressed."""
    besides = _BYTES_BESIDES + _BYTES_PER_STEP * len(instance.steps)
    apart = (
        text
        for s in instance.steps
        for text in (s.result, s.answer.fields if s.answer is not None else None)
    )
    kept = sum(len(text.encode()) for text in apart if text is not None)
    return len(instance.context_text.encode()) + kept + besides


class InMemorySagaStore(SagaStore, WorkStore):
    """Both store ports over a dictionary.

    Args:
        tenant: Whose sagas ``load``, ``save`` and ``list_incomplete`` see.
        clock: Milliseconds since the epoch; decides what is expired. Without
            it nothing expires for those three.
        measure: Bytes that an instance takes, held against the item budget.
    """

    def __init__(
        self,
        *,
        tenant: str = "default",
        clock: Callable[[], int] = lambda: 0,
        measure: Callable[[SagaInstance], int] = estimated_size,
    ) -> None:
        self._tenant = tenant
        self._clock = clock
        self._measure = measure
        self._sagas: dict[Key, SagaInstance] = {}

    # -- SagaStore --------------------------------------------------------------

    async def save(self, instance: SagaInstance) -> SagaInstance:
        """See SagaStore."""
        stored = self.find(instance.key, self._clock())
        if (stored.version if stored is not None else 0) != instance.version:
            raise StaleInstanceError(instance.id, instance.version)
        self._check_size(stored, instance)
        return self._put(instance, bump=1).instance

    async def load(self, saga_id: str) -> SagaInstance | None:
        """See SagaStore."""
        return self.find(Key(self._tenant, saga_id), self._clock())

    async def list_incomplete(self) -> list[str]:
        """See SagaStore."""
        return sorted(i.id for i in self._sagas.values() if i.live and i.tenant == self._tenant)

    # -- WorkStore --------------------------------------------------------------

    def create(self, instance: SagaInstance) -> WriteResult:
        """See WorkStore."""
        found = self.find(instance.key, instance.created_at)
        if found is not None:
            return Refused(found)
        self._check_size(None, instance)
        return self._put(instance, bump=1)

    def find(self, key: Key, now: int) -> SagaInstance | None:
        """See WorkStore."""
        found = self._sagas.get(key)
        if found is None or (found.expires_at is not None and found.expires_at < now):
            return None
        return found

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
        """See WorkStore."""
        found = self.find(key, now)
        if found is None:
            return Refused(None)
        event = Claimed(
            claim_id=claim_id,
            epoch=epoch,
            definition=definition,
            until=until,
            at=now,
            branch=branch,
        )
        outcome = claim(found, event)
        return self._put(outcome.instance, bump=1) if isinstance(outcome, Moved) else Refused(found)

    def commit(self, before: SagaInstance, after: SagaInstance, *, claim_id: str) -> WriteResult:
        """See WorkStore."""
        found = self._sagas.get(before.key)
        if found is None or held_by(found, claim_id) is None or found.version != before.version:
            return Refused(found)
        self._check_size(before, after)
        return self._put(_nudged_since(found, before, after), bump=1)

    def redispatch(
        self, instance: SagaInstance, *, nudge_id: str, now: int, branch: int | None = None
    ) -> WriteResult:
        """See WorkStore."""
        found = self._sagas.get(instance.key)
        seen = guard_lane(instance, branch)
        if found is None or not _same_item(guard_lane(found, seen.number), seen):
            return Refused(found)
        outcome = nudge(found, nudge_id=nudge_id, now=now, branch=seen.number)
        return self._put(outcome.instance) if isinstance(outcome, Moved) else Refused(found)

    def record(self, before: SagaInstance, after: SagaInstance) -> WriteResult:
        """See WorkStore."""
        found = self._sagas.get(before.key)
        if found is None or found.version != before.version or _nudges(found) != _nudges(before):
            return Refused(found)
        self._check_size(before, after)
        return self._put(after, bump=1)

    def mark_swept(self, before: SagaInstance, after: SagaInstance) -> WriteResult:
        """See WorkStore."""
        found = self._sagas.get(before.key)
        if found is None or not found.live or found.sweep_at != before.sweep_at:
            return Refused(found)
        return self._put(replace(found, sweep_at=after.sweep_at, sweeps=after.sweeps))

    def due(self, shard: int, until: int, limit: int) -> list[DueSaga]:
        """See WorkStore."""
        hits = [
            DueSaga(i.key, i.sweep_at)
            for i in self._sagas.values()
            if i.live and i.sweep_at is not None and i.sweep_at <= until and shard_of(i.id) == shard
        ]
        return sorted(hits, key=lambda d: (d.sweep_at, d.key.saga_id))[:limit]

    def unfinished(self) -> Iterator[SagaInstance]:
        """See WorkStore."""
        for saga in list(self._sagas.values()):
            kept_for_parent = saga.parent is not None and saga.expires_at is None
            if saga.status not in CLOSED or kept_for_parent:
                yield saga

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
        """See WorkStore."""
        before = decode_cursor(cursor) if cursor is not None else None
        mine = [i for k, i in self._sagas.items() if k.tenant == tenant and self.find(k, now)]
        places = sorted(((place_of(i.created_at, i.id), i) for i in mine), reverse=True)
        rest = [(p, i) for p, i in places if i.state in states and (before is None or p < before)]
        here = rest[:limit]
        shown = tuple(i for _, i in here if name is None or i.definition_name == name)
        return Page(shown, encode_cursor(here[-1][0]) if len(rest) > limit else None)

    # -- parts ------------------------------------------------------------------

    def _put(self, instance: SagaInstance, *, bump: int = 0) -> Written:
        stored = replace(instance, version=instance.version + bump)
        self._sagas[stored.key] = stored
        return Written(stored)

    def _check_size(self, before: SagaInstance | None, after: SagaInstance) -> None:
        if before is not None and holds_no_more(before, after):
            return  # what fitted still fits; the budget keeps a reserve for the rest
        size = self._measure(after)
        if size > ITEM_BUDGET:
            raise ItemTooLargeError(after.id, size, ITEM_BUDGET)
