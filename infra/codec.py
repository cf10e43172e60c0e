"""A saga as an item of the table, and back.

Layout (version 2; PROTOCOL's names, binding where operators and queries read them):

    pk sk v tenant saga_id name def fp inst          what it is, never changed
    st phase why idx epoch ver due_at deadline_at    where it is
    att rep tries clean began_at hops stall          its counters
    lease_id lease_until last_id nudge_id nudge_at   who works on it, who worked on it last
    wait                                             for how long an answer is awaited
    br b<n>: epoch due_at att tries ... q            of an open group: how many branches, each lane
    steps[]: n s q d a ca e sa ea w an r c ch         what is remembered of each step
    secret                                           B: what its answer tokens are made from
    ctx                                              S: JSON text; B: the same, zlib
    cancel cancel_at cause failure                   why it turned round, why it stopped
    created_at updated_at expires_at                 ms, ms, SECONDS (the table's TTL)
    gs_pk sweep_at sweeps ls_pk ls_sk                its places in the indexes

What is at its default is left out: an update is billed by the size of the whole
item, so bytes are the price of a step. Nothing is ever pickled.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from infra.packing import Item, Value, pack_context, unpack_context
from infra.schema import (
    LIST_HASH,
    LIST_RANGE,
    PK,
    RECORD_VERSION,
    SK,
    STATE_SK,
    WORK_HASH,
    list_partition,
    live_partition,
    parked_partition,
    partition_key,
)
from saga_core.calls import Direction
from saga_core.errors import StoreError
from saga_core.identity import place_of, shard_of
from saga_core.instance import (
    CLOSED,
    Cancel,
    Cause,
    CauseKind,
    GivenAnswer,
    Key,
    Lane,
    Lease,
    Nudge,
    Parent,
    SagaInstance,
    SagaState,
    StepCode,
    StepRecord,
    Why,
)
from saga_core.outcome import StepError

_BRANCH = re.compile(r"b([0-9]{1,3})")
Upcaster: TypeAlias = Callable[[Item], Item]

# What takes a record of one layout to the next: {0: f} turns layout 0 into layout 1. A
# saga lives for up to a year, so an entry stays until no record of its layout can be left.
UPCASTERS: Mapping[int, Upcaster] = {1: lambda item: {**item, "v": _n(2)}}  # 2 only adds


@dataclass(frozen=True, slots=True)
class RecordCodec:
    """Writes the layout of its version and reads every older one."""

    version: int = RECORD_VERSION
    upcasters: Mapping[int, Upcaster] = field(default_factory=lambda: UPCASTERS)

    def encode(self, instance: SagaInstance) -> Item:
        """The whole item."""
        return {**self.encode_besides_context(instance), "ctx": pack_context(instance.context_text)}

    def encode_besides_context(self, i: SagaInstance) -> Item:
        """The item without ``ctx``, which is costly to compress and often unchanged."""
        item: Item = {
            **key_item(i.key),
            "v": _n(self.version),
            "tenant": _s(i.tenant),
            "saga_id": _s(i.id),
            "name": _s(i.definition_name),
            "def": _s(i.definition),
            "fp": _s(i.input_fingerprint),
            "inst": _s(i.incarnation),
            "st": _s(i.status),
            "phase": _s(i.phase),
            "ver": _n(i.version),
            "hops": _n(i.hops),
            "created_at": _n(i.created_at),
            "updated_at": _n(i.updated_at),
            "deadline_at": _n(i.deadline_at),
            "steps": {"L": [{"M": _step_item(s)} for s in i.steps]},
            **_index_items(i),
            **_lane_items(i.lane),
            **{branch_name(n.index): {"M": _lane_items(n)} for n in i.branches},
        }
        if i.branches:
            item["br"] = _n(len(i.branches))
        if i.parent is not None:
            item["parent"] = {"M": {"id": _s(i.parent.saga_id), "s": _n(i.parent.step)}}
        if i.secret:
            item["secret"] = {"B": bytes.fromhex(i.secret)}
        if i.cancel is not None:
            item |= {"cancel": _s(i.cancel.by), "cancel_at": _n(i.cancel.at)}
        if i.cause is not None:
            item["cause"] = {"M": _cause_item(i.cause)}
        if i.why is not None:
            item["why"] = _s(i.why)
        if i.failure is not None:
            item["failure"] = _error_value(i.failure)
        if i.stalls:
            item["stall"] = _n(i.stalls)
        if i.sweeps:
            item["sweeps"] = _n(i.sweeps)
        if i.sweep_at is not None:
            item["sweep_at"] = _n(i.sweep_at)
        if i.expires_at is not None:
            item["expires_at"] = _n(i.expires_at // 1000)
        return item

    def decode(self, item: Item) -> SagaInstance:
        """The saga in an item; attributes that we do not know are ignored.

        Raises:
            StoreError: The item has a newer layout, or is none of ours.
        """
        try:
            return _decode(self._upcast(item))
        except (KeyError, ValueError, TypeError, zlib.error) as exc:
            text = f"the record of {_label(item)} cannot be read: {type(exc).__name__}: {exc}"
            raise StoreError(text) from exc

    def is_older(self, item: Item) -> bool:
        """The item has an older layout than the one written here."""
        return int(item["v"]["N"]) < self.version

    def _upcast(self, item: Item) -> Item:
        version = int(item["v"]["N"])
        if version > self.version:
            raise StoreError(
                f"the record of {_label(item)} has layout {version}; "
                f"this code reads up to {self.version}: deploy the newer code"
            )
        for old in range(version, self.version):
            item = self.upcasters[old](item)
        return item


def key_item(key: Key) -> Item:
    """The primary key of a saga's item."""
    return {PK: _s(partition_key(key)), SK: _s(STATE_SK)}


def branch_name(index: int) -> str:
    """The attribute that holds the lane of the step at this place, while its group is open."""
    return f"b{index}"


# -- writing ---------------------------------------------------------------------


def _index_items(i: SagaInstance) -> Item:
    shard = shard_of(i.id)
    item: Item = {
        LIST_HASH: _s(list_partition(i.tenant, i.status, shard)),
        LIST_RANGE: _s(place_of(i.created_at, i.id)),
    }
    if i.status not in CLOSED:
        item[WORK_HASH] = _s(live_partition(shard) if i.live else parked_partition(shard))
    return item


def _lane_items(lane: Lane) -> Item:
    item: Item = {
        **({} if lane.branch else {"idx": _n(lane.index)}),
        "epoch": _n(lane.epoch),
        "att": _n(lane.attempts),  # a claim adds to it, so it is there from the start
        "tries": _n(lane.tries),  # likewise
        "due_at": _n(lane.due_at),
    }
    if lane.reported:
        item["rep"] = _n(lane.reported)
    if lane.clean:
        item["clean"] = _n(lane.clean)
    if lane.lease is not None:
        item |= {"lease_id": _s(lane.lease.id), "lease_until": _n(lane.lease.until)}
    if lane.last_id is not None:
        item["last_id"] = _s(lane.last_id)
    if lane.nudge is not None:
        item |= {"nudge_id": _s(lane.nudge.id), "nudge_at": _n(lane.nudge.at)}
    if lane.began_at is not None:
        item["began_at"] = _n(lane.began_at)
    if lane.wait_ms is not None:
        item["wait"] = _n(lane.wait_ms)
    if lane.woken:
        item["woken"] = {"BOOL": True}
    if lane.order is not None:
        item["q"] = _n(lane.order)
    return item


def _step_item(s: StepRecord) -> Item:
    item: Item = {"n": _s(s.name)}
    if s.code is not StepCode.NOT_STARTED:
        item["s"] = _s(s.code)
    if s.order is not None:
        item["q"] = _n(s.order)
    if s.doubt:
        item["d"] = {"BOOL": True}
    if s.attempts:
        item["a"] = _n(s.attempts)
    if s.undo_attempts:
        item["ca"] = _n(s.undo_attempts)
    if s.error is not None:
        item["e"] = _error_value(s.error)
    if s.started_at is not None:
        item["sa"] = _n(s.started_at)
    if s.ended_at is not None:
        item["ea"] = _n(s.ended_at)
    if s.chosen:
        item["w"] = {"BOOL": True}
    if s.answer is not None:
        item["an"] = {"M": _answer_item(s.answer)}
    if s.result is not None:
        item["r"] = pack_context(s.result)
    if s.settled_by is not None:
        item["c"] = _s(s.settled_by)
    if s.child is not None:
        item["ch"] = _s(s.child)
    return item


def _answer_item(a: GivenAnswer) -> Item:
    item: Item = {"h": _s(a.digest), "ok": {"BOOL": a.ok}, "by": _s(a.by), "at": _n(a.at)}
    if a.fields is not None:
        item["f"] = pack_context(a.fields)
    if a.error is not None:
        item["e"] = _error_value(a.error)
    if a.late:
        item["l"] = {"BOOL": True}
    return item


def _cause_item(c: Cause) -> Item:
    item: Item = {"k": _s(c.kind), "at": _n(c.at)}
    if c.step is not None:
        item["n"] = _s(c.step)
    if c.error is not None:
        item["e"] = _error_value(c.error)
    if c.by is not None:
        item["by"] = _s(c.by)
    return item


def _error_value(e: StepError) -> Value:
    return {"M": {"k": _s(e.kind), "m": _s(e.message)}}


def _s(text: str) -> Value:
    # The message of an exception can hold half a surrogate pair. DynamoDB refuses such a
    # string, and would go on refusing the one write that moves this saga.
    return {"S": text.encode(errors="replace").decode()}


def _n(number: int) -> Value:
    return {"N": str(number)}


# -- reading ---------------------------------------------------------------------


def _decode(item: Item) -> SagaInstance:
    expires = _number_or_none(item, "expires_at")
    return SagaInstance(
        id=item["saga_id"]["S"],
        tenant=item["tenant"]["S"],
        incarnation=item["inst"]["S"],
        definition_name=item["name"]["S"],
        definition=item["def"]["S"],
        input_fingerprint=item["fp"]["S"],
        status=SagaState(item["st"]["S"]),
        phase=Direction(item["phase"]["S"]),
        lane=_lane(item),
        branches=_branches(item),
        steps=tuple(_step(value["M"]) for value in item["steps"]["L"]),
        context_text=unpack_context(item["ctx"]),
        version=int(item["ver"]["N"]),
        created_at=int(item["created_at"]["N"]),
        updated_at=int(item["updated_at"]["N"]),
        deadline_at=int(item["deadline_at"]["N"]),
        cancel=_cancel(item),
        cause=_cause(item["cause"]["M"]) if "cause" in item else None,
        why=Why(item["why"]["S"]) if "why" in item else None,
        failure=_error_or_none(item, "failure"),
        stalls=_number(item, "stall"),
        hops=_number(item, "hops"),
        sweep_at=_number_or_none(item, "sweep_at"),
        sweeps=_number(item, "sweeps"),
        expires_at=expires * 1000 if expires is not None else None,
        secret=bytes(item["secret"]["B"]).hex() if "secret" in item else "",
        parent=_parent(item["parent"]["M"]) if "parent" in item else None,
    )


def _parent(m: Mapping[str, Value]) -> Parent:
    return Parent(m["id"]["S"], int(m["s"]["N"]))


def _cancel(item: Item) -> Cancel | None:
    return Cancel(item["cancel"]["S"], int(item["cancel_at"]["N"])) if "cancel" in item else None


def _branches(item: Item) -> tuple[Lane, ...]:
    places = sorted(int(m[1]) for name in item if (m := _BRANCH.fullmatch(name)))
    return tuple(_lane(item[branch_name(n)]["M"], branch=n) for n in places)


def _lane(item: Mapping[str, Value], branch: int | None = None) -> Lane:
    lease = nudge = None
    if "lease_id" in item:
        lease = Lease(item["lease_id"]["S"], int(item["lease_until"]["N"]))
    if "nudge_id" in item:
        nudge = Nudge(item["nudge_id"]["S"], int(item["nudge_at"]["N"]))
    return Lane(
        index=int(item["idx"]["N"]) if branch is None else branch,
        epoch=int(item["epoch"]["N"]),
        attempts=_number(item, "att"),
        reported=_number(item, "rep"),
        tries=_number(item, "tries"),
        clean=_number(item, "clean"),
        due_at=int(item["due_at"]["N"]),
        lease=lease,
        last_id=_text_or_none(item, "last_id"),
        nudge=nudge,
        began_at=_number_or_none(item, "began_at"),
        wait_ms=_number_or_none(item, "wait"),
        woken="woken" in item,
        branch=branch is not None,
        order=_number_or_none(item, "q"),
    )


def _step(m: Mapping[str, Value]) -> StepRecord:
    return StepRecord(
        name=m["n"]["S"],
        code=StepCode(_text_or_none(m, "s") or StepCode.NOT_STARTED),
        order=_number_or_none(m, "q"),
        doubt="d" in m,
        attempts=_number(m, "a"),
        undo_attempts=_number(m, "ca"),
        error=_error_or_none(m, "e"),
        started_at=_number_or_none(m, "sa"),
        ended_at=_number_or_none(m, "ea"),
        chosen="w" in m,
        answer=_answer(m["an"]["M"]) if "an" in m else None,
        result=unpack_context(m["r"]) if "r" in m else None,
        settled_by=_text_or_none(m, "c"),
        child=_text_or_none(m, "ch"),
    )


def _answer(m: Mapping[str, Value]) -> GivenAnswer:
    return GivenAnswer(
        digest=m["h"]["S"],
        ok=m["ok"]["BOOL"],
        by=m["by"]["S"],
        at=int(m["at"]["N"]),
        fields=unpack_context(m["f"]) if "f" in m else None,
        error=_error_or_none(m, "e"),
        late="l" in m,
    )


def _cause(m: Mapping[str, Value]) -> Cause:
    return Cause(
        CauseKind(m["k"]["S"]),
        int(m["at"]["N"]),
        step=_text_or_none(m, "n"),
        error=_error_or_none(m, "e"),
        by=_text_or_none(m, "by"),
    )


def _error_or_none(m: Mapping[str, Value], name: str) -> StepError | None:
    if name not in m:
        return None
    error = m[name]["M"]
    return StepError(error["k"]["S"], error["m"]["S"])


def _number(m: Mapping[str, Value], name: str) -> int:
    return _number_or_none(m, name) or 0


def _number_or_none(m: Mapping[str, Value], name: str) -> int | None:
    return int(m[name]["N"]) if name in m else None


def _text_or_none(m: Mapping[str, Value], name: str) -> str | None:
    return m[name]["S"] if name in m else None


def _label(item: Item) -> str:
    return item.get(PK, _s("an item without a key")).get("S", "an item without a key")
