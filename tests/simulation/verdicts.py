"""Judges a run of the functions by the table's own items and by what the services did.

Nothing that a function says of itself counts here, but for the answers that it
gave to people, which are held against what became of the saga. The rules for each
write are those of ``saga_core.testing``; what is added concerns the item as it is
stored, its keys and its budgets, and the invocation that wrote it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from infra.codec import RecordCodec
from infra.schema import (
    LIST_HASH,
    LIST_RANGE,
    PK,
    TTL,
    WORK_HASH,
    WORK_RANGE,
    list_partition,
    live_partition,
    parked_partition,
    partition_key,
)
from saga_core.calls import Direction, StepCall
from saga_core.definition import SagaDefinition
from saga_core.effects import Claim, Commit, Create, Effect, MarkSwept, Record, Redispatch
from saga_core.identity import place_of, shard_of
from saga_core.instance import CLOSED, Lane, Nudge, SagaInstance, SagaState
from saga_core.ports import ITEM_BUDGET
from saga_core.testing.invariants import Judge
from saga_core.testing.simulation import BrokenInvariantError, Simulation
from saga_core.testing.simulation import Write as Judged
from saga_core.testing.world import World
from saga_core.transition import MAX_DELAY_MS, MAX_STALLS, NUDGE_MS, settled_by
from tests.simulation.cloud import TABLE, Cloud, Job
from tests.simulation.dynamo import Write
from tests.simulation.invocations import Invocation
from tests.simulation.values import Item, item_size

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

RESERVE = 48 * 1024  # above the budget, for the records of the steps
YEAR_S = 366 * 86_400
_CODEC = RecordCodec()


class Verdicts:
    """Watches one run.

    Attributes:
        world: What the services did.
    """

    def __init__(self, cloud: Cloud, definition: SagaDefinition) -> None:
        self.world = World()
        self._cloud = cloud
        self._definition = definition
        self._judge = Judge(self.world, {definition.ref: definition})
        self._claims: dict[str, Invocation] = {}
        self._versions: dict[str, int] = {}
        self._writers: dict[tuple[int, str], int] = {}
        cloud.on_write = self.on_write
        cloud.on_said = self.on_said

    # -- while it runs ------------------------------------------------------------------

    def on_call(self, call: StepCall) -> None:
        """A handler is called."""
        self._judge.on_call(call)

    def on_said(self, said: str, saga_id: str) -> None:
        """An invocation has decided something. Fenced off it may be, but not by itself (E2)."""
        if said != "fenced":
            return
        for saga in self.sagas:
            mine = [by for by, who in self._claims.items() if who is self._cloud.current]
            if saga.id == saga_id and any(settled_by(saga, by) for by in mine[-1:]):
                self._cloud.broke("E2", f"{self._cloud.current} is fenced off by its own write")

    def on_write(self, write: Write, me: Invocation, job: Job) -> None:
        """Something was written."""
        if write.after is not None and not job.may_touch(write.after[PK]["S"]):
            self._cloud.broke("S16", f"{me} wrote to {write.after[PK]['S']}")
        if write.after is None:
            self._cloud.broke("S4", f"{me} deleted an item")
            return
        try:
            self._judge_item(write.after)
            before = decoded(write.before) if write.before is not None else None
            after = decoded(write.after)
            effect = self._effect(before, after, me, self._cloud.time() + job.skew_ms)
            far = self._cloud.time() + MAX_DELAY_MS
            self._cloud.seen["long timer"] += any(n.due_at > far for n in after.open_lanes)
            # A batch and a sweep are about several sagas, one after the other.
            by = self._writers.setdefault((me.id, after.id), len(self._writers))
            self._judge.on_write(Judged(by, effect, before, after))
        except BrokenInvariantError as broken:
            self._cloud.violations.append(broken)

    def _judge_item(self, item: Item) -> None:
        """S12, S13, S16: what is stored, attribute by attribute."""
        saga = decoded(item)
        if item[PK]["S"] != partition_key(saga.key):
            raise BrokenInvariantError("S16", f"{saga.key} is stored under {item[PK]['S']}")
        shard = shard_of(saga.id)
        listed = (
            list_partition(saga.tenant, saga.status, shard),
            place_of(saga.created_at, saga.id),
        )
        if (item[LIST_HASH]["S"], item[LIST_RANGE]["S"]) != listed:
            raise BrokenInvariantError("S12", f"{saga.id} is listed under {item[LIST_HASH]}")
        closed = saga.status in CLOSED
        looked_after = None
        if not closed:
            parked = saga.status is SagaState.FAILED
            looked_after = parked_partition(shard) if parked else live_partition(shard)
        if item.get(WORK_HASH, {"S": None})["S"] != looked_after or (WORK_RANGE in item) == closed:
            raise BrokenInvariantError("S12", f"{saga.status} in {item.get(WORK_HASH)}")
        if (TTL in item) != closed:
            raise BrokenInvariantError("S12", f"{saga.status} with expires_at {item.get(TTL)}")
        now_s = self._cloud.time() // 1000
        if closed and not now_s < int(item[TTL]["N"]) < now_s + YEAR_S:
            raise BrokenInvariantError("S12", f"expires at {item[TTL]}: not in seconds")
        self._judge_budgets(saga, item_size(item))

    def _judge_budgets(self, saga: SagaInstance, size: int) -> None:
        kept = {
            "bytes": size <= ITEM_BUDGET + RESERVE,
            "visits to the dead letters": saga.stalls <= MAX_STALLS,
            "moves": saga.hops <= self._definition.hop_max + 20,  # claims that only settle it
            "failures": all(self._within_policy(saga, lane) for lane in saga.open_lanes),
            "attempts": all(0 <= n.reported <= n.attempts for n in saga.open_lanes),
        }
        over = [name for name, held in kept.items() if not held]
        if over:
            raise BrokenInvariantError("S13", f"{saga.id} has too many {over}: {saga.open_lanes}")

    def _within_policy(self, saga: SagaInstance, lane: Lane) -> bool:
        step = self._definition.steps[min(lane.index, len(saga.steps) - 1)]
        back = saga.direction(lane) is Direction.COMPENSATION
        policy = step.compensation_retry if back else step.retry
        return policy.max_attempts is None or lane.reported <= policy.max_attempts

    def _effect(
        self, before: SagaInstance | None, after: SagaInstance, me: Invocation, at: int
    ) -> Effect[object]:
        """What a write was, by what it changed."""
        if before is None or before.incarnation != after.incarnation:
            return Create(after)
        for lane in (before.lane, *before.branches):
            old, now = lane.lease, _same(after, lane)
            new = now.lease if now is not None else None
            if new is not None and (old is None or old.id != new.id):
                self._claims[new.id] = me
                self._versions[new.id] = after.version
                self._cloud.seen["taken over"] += old is not None
                ref, to = after.definition, new.until
                return Claim(after.key, lane.epoch, ref, new.id, at, to, lane.number)
        for lane in (before.lane, *before.branches):
            old = lane.lease
            if old is not None and settled_by(after, old.id) and not settled_by(before, old.id):
                if self._claims.get(old.id) is not me:
                    text = f"{me} settled an attempt that it never claimed"
                    raise BrokenInvariantError("S6", text)
                self._cloud.seen["decided again"] += before.version != self._versions[old.id]
                return Commit(before, after, old.id)
        if before.version != after.version:
            return Record(before, after)
        for lane in (before.lane, *before.branches):
            now = _same(after, lane)
            if now is not None and now.nudge != lane.nudge:
                self._one_a_minute(lane.nudge, now.nudge)
                return Redispatch(before, "", at, lane.number)
        return MarkSwept(before, after)

    def _one_a_minute(self, old: Nudge | None, new: Nudge | None) -> None:
        if old is not None and new is not None and new.at - old.at < NUDGE_MS:
            raise BrokenInvariantError("S11", f"two surplus messages within {new.at - old.at} ms")

    # -- at the end ---------------------------------------------------------------------

    @property
    def sagas(self) -> list[SagaInstance]:
        """Every saga, as stored."""
        return [decoded(item) for item in self._cloud.dynamo.items(TABLE)]

    def at_the_end(self) -> None:
        """All is quiet: hold the sagas against the world.

        Raises:
            BrokenInvariantError: They do not agree.
        """
        self._cloud.seen["late act refused"] += self.world.refused_late
        self._cloud.seen["key seen before"] += self.world.repeated
        self._cloud.seen["nothing to undo"] += self.world.undone_nothing
        for broken in self._cloud.violations:
            raise broken
        self._judge.at_the_end(cast("Simulation", self))  # it asks for the sagas alone


def _same(saga: SagaInstance, lane: Lane) -> Lane | None:
    """The lane as it is in another state of the saga, if it is there."""
    return next((n for n in (saga.lane, *saga.branches) if n.number == lane.number), None)


def decoded(item: Item) -> SagaInstance:
    """The saga that an item of the table is."""
    return _CODEC.decode(cast("dict[str, AttributeValueTypeDef]", item))
