"""Mistakes of the functions and the adapters, planted one at a time: a run must find each.

``python -m tests.simulation.planted`` says how many schedules each one took.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from handlers import _answering, _starting, api, dead_letters, starter, sweeper, worker
from handlers._records import BatchResponse, Fate, each
from infra import conditions, table
from infra.codec import RecordCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.packing import Item
from infra.queue import QueueError, SqsSender
from saga_core.effects import Create, Find, MarkSwept, Send, Turn, Unavailable
from saga_core.errors import SagaError, StoreError
from saga_core.instance import Key, SagaInstance
from saga_core.ports import DueSaga, WriteResult, Written
from saga_core.transition import Reason, swept
from saga_core.turn import (
    Answer,
    Answered,
    Decision,
    Delivery,
    Lookup,
    Started,
    Starting,
    Verdict,
    WorkMessage,
)
from tests.simulation.runs import Outcome, run

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake, and the invariants that may find it.

    Attributes:
        profile: The weather in which it is looked for.
        seeds: After so many schedules it counts as not found.
        at: A seed that finds it, as the code stands; from there on tests look for it.
    """

    name: str
    plant: Callable[[Patch], None]
    found_by: tuple[str, ...]
    profile: str
    seeds: int = 300
    at: int = 0


def without(name: str, *clauses: str) -> Callable[[Patch], None]:
    """This condition, with clauses in it that always hold."""

    def plant(patch: Patch) -> None:
        text: str = getattr(conditions, name)
        for clause in clauses:
            if text.count(clause) != 1:
                raise LookupError(f"{clause} is not in {name} any more")
            text = text.replace(clause, f"({clause} OR NOT {clause})")
        patch.setattr(conditions, name, text)

    return plant


# -- the functions ---------------------------------------------------------------------


def acknowledges_everything(patch: Patch) -> None:
    def deleted(function: str, event: Any, telemetry: Any, work: Any) -> BatchResponse:
        each(function, event, telemetry, work)
        return {"batchItemFailures": []}

    patch.setattr(worker, "each", deleted)


def starter_forgets(patch: Patch) -> None:
    def done(function: str, event: Any, telemetry: Any, work: Any) -> BatchResponse:
        return each(function, event, telemetry, lambda record: work(record) and Fate.DELETE)

    patch.setattr(starter, "each", done)


def sends_before_the_put(patch: Patch) -> None:
    def start(new: SagaInstance, _definition: Any, *, ends_at: int) -> Turn[Started]:
        announced = yield from Send(new, 0, "start")
        reply = yield from Create(new)
        if isinstance(reply, Written):
            return Started(Starting.CREATED, reply.instance, announced)
        found = yield from Find(new.key, new.created_at)
        if found is None or isinstance(found, Unavailable):
            return Started(Starting.UNAVAILABLE)
        if found.input_fingerprint != new.input_fingerprint:
            return Started(Starting.KEY_REUSED, found)
        return Started(Starting.EXISTED, found, announced)

    patch.setattr(_starting, "start", start)


def any_payload_is_the_same(patch: Patch) -> None:
    patch.setattr(_starting, "input_fingerprint", lambda _name, _text: "0" * 64)


def accepts_what_it_could_not_write(patch: Patch) -> None:
    accepted = api._accepted

    def generous(answered: Answered, saga_id: str) -> SagaInstance:
        if answered.answer is Answer.UNAVAILABLE and answered.instance is not None:
            return answered.instance
        return accepted(answered, saga_id)

    patch.setattr(api, "_accepted", generous)


def takes_answers_that_it_could_not_write(patch: Patch) -> None:
    taken = _answering._taken

    def generous(answered: Answered) -> SagaInstance:
        if answered.answer is Answer.UNAVAILABLE and answered.instance is not None:
            return answered.instance
        return taken(answered)

    patch.setattr(_answering, "_taken", generous)


def takes_late_answers(patch: Patch) -> None:
    taken = _answering._taken

    def generous(answered: Answered) -> SagaInstance:
        if answered.reason is Reason.LATE and answered.instance is not None:
            return answered.instance
        return taken(answered)

    patch.setattr(_answering, "_taken", generous)


def one_tenant_for_all(patch: Patch) -> None:
    patch.setattr(api, "_tenant", lambda _app, _http: api.DEFAULT_TENANT)


def half_of_the_shards(patch: Patch) -> None:
    patch.setattr(sweeper, "SHARDS", 8)


def marks_and_never_sends(patch: Patch) -> None:
    def mark(due: DueSaga, *, at: int) -> Turn[Decision]:
        found = yield from Find(due.key, at)
        if found is None or isinstance(found, Unavailable) or found.sweep_at != due.sweep_at:
            return Decision(verdict=Verdict.NOT_DUE, acknowledge=True)
        yield from MarkSwept(found, swept(found, at))
        return Decision(verdict=Verdict.SENT, acknowledge=True, before=found)

    patch.setattr(sweeper, "sweep", mark)


def sends_dead_letters_blindly(patch: Patch) -> None:
    def revive(message: WorkMessage, delivery: Delivery, _definition_of: Lookup) -> Turn[Decision]:
        found = yield from Find(message.key, delivery.at)
        if found is None or isinstance(found, Unavailable):
            return Decision(verdict=Verdict.ORPHAN, acknowledge=found is None)
        sent = yield from Send(found, 0, "blind")
        return Decision(verdict=Verdict.REVIVED, acknowledge=sent, before=found)

    patch.setattr(dead_letters, "revive", revive)


def a_long_lease(patch: Patch) -> None:
    def longer(**kwargs: Any) -> Delivery:
        told = Delivery(**kwargs)
        return replace(told, ends_at=told.ends_at + 600_000)

    patch.setattr(worker, "Delivery", longer)


# -- the adapters ----------------------------------------------------------------------


def swallows_errors(patch: Patch) -> None:
    send = SqsSender.send

    def quiet(self: SqsSender, *arguments: Any) -> None:
        with suppress(QueueError):
            send(self, *arguments)

    patch.setattr(SqsSender, "send", quiet)


def forgets_what_stood_in_the_way(patch: Patch) -> None:
    meaning = table._meaning

    def poor(exc: Any, where: str) -> SagaError:
        found = meaning(exc, where)
        return table.ConditionFailedError(None) if hasattr(found, "item") else found

    patch.setattr(table, "_meaning", poor)


def takes_lost_for_undone(patch: Patch) -> None:
    class SureError(StoreError):
        def __init__(self, text: str, *, ambiguous: bool = False) -> None:
            super().__init__(text)

    patch.setattr(table, "StoreError", SureError)


def retention_in_milliseconds(patch: Patch) -> None:
    encode = RecordCodec.encode_besides_context

    def wrong(self: RecordCodec, i: SagaInstance) -> Item:
        item = encode(self, i)
        if i.expires_at is not None:
            item["expires_at"] = {"N": str(i.expires_at)}
        return item

    patch.setattr(RecordCodec, "encode_besides_context", wrong)


def reads_before_it_claims(patch: Patch) -> None:
    claim = DynamoDBSagaStore.claim

    def careful(self: DynamoDBSagaStore, key: Key, **arguments: Any) -> WriteResult:
        self.find(key, arguments["now"])
        return claim(self, key, **arguments)

    patch.setattr(DynamoDBSagaStore, "claim", careful)


def stays_in_the_index(patch: Patch) -> None:
    difference = conditions.difference

    def partial(before: Item, after: Item) -> tuple[str, Item]:
        kept = {name: before[name] for name in ("gs_pk",) if name in before}
        return difference(before, {**kept, **after})

    patch.setattr(conditions, "difference", partial)


BUGS = (
    Bug("a worker that acknowledges everything", acknowledges_everything, ("L1",), "no sweeper"),
    Bug("a starter that acknowledges everything", starter_forgets, ("L1",), "safety", 600, at=42),
    Bug("a start that is sent before it is put", sends_before_the_put, ("L1",), "no sweeper"),
    Bug("a start that accepts any payload", any_payload_is_the_same, ("S10",), "safety"),
    Bug(
        "a cancel that is accepted and not written",
        accepts_what_it_could_not_write,
        ("S9", "L5"),
        "safety",
        2_000,
        at=267,
    ),
    Bug("an API with one tenant", one_tenant_for_all, ("S16", "S10"), "fault-free"),
    Bug("a sweeper of half of the shards", half_of_the_shards, ("L1", "L6"), "no messages"),
    Bug("a sweeper that marks and never sends", marks_and_never_sends, ("L1", "L6"), "no messages"),
    Bug(
        "dead letters that are sent blindly",
        sends_dead_letters_blindly,
        ("S11", "L6"),
        "outage",
        600,
        at=169,
    ),
    Bug("a sender that swallows errors", swallows_errors, ("L1",), "no sweeper"),
    Bug(
        "a refusal that comes without the item",
        forgets_what_stood_in_the_way,
        ("L1", "L4", "E2"),
        "ambiguous",
    ),
    Bug("a lost answer that is taken for a refusal", takes_lost_for_undone, ("E2",), "ambiguous"),
    Bug("a claim that reads first", reads_before_it_claims, ("E1",), "fault-free"),
    Bug("a retention in milliseconds", retention_in_milliseconds, ("S12",), "fault-free"),
    Bug("an ended saga that stays in the index", stays_in_the_index, ("S12",), "fault-free"),
    Bug(
        "a claim of any work item",
        without("CLAIM", conditions.CURRENT_ITEM),
        ("L1",),
        "no sweeper",
        3_000,
        at=664,
    ),
    Bug(
        "a claim under a held lease",
        without("CLAIM", conditions.UNCLAIMED_OR_ABANDONED),
        ("S7",),
        "storm",
    ),
    Bug(
        "a commit without the lease",  # under the version alone nobody would get through, either
        without("COMMIT", conditions.HELD_BY_ME, conditions.UNMOVED),
        ("S4", "S5", "S6", "S7", "S12"),
        "safety",
    ),
    Bug(
        "a commit over a version unseen",
        without("COMMIT", conditions.UNMOVED),
        ("S9", "S5", "S6"),
        "safety",
        2_000,
        at=36,
    ),
    Bug(
        "a surplus message under a lease",
        without("REDISPATCH", conditions.UNCLAIMED),
        ("S11",),
        "storm",
        2_000,
        at=231,
    ),
    Bug(
        "a surplus message without a guard",
        without("REDISPATCH", conditions.NO_RECENT_NUDGE),
        ("S11",),
        "storm",
        2_000,
        at=35,
    ),
    Bug(
        "a request over a version unseen",
        without("RECORD", conditions.UNMOVED),
        ("S4", "S5", "S6", "S12"),
        "safety",
        2_000,
        at=267,
    ),
    Bug("a start over an open saga", without("CREATE", conditions.NO_ITEM), ("S10",), "safety"),
    Bug(
        "a sweep that marks what has ended",
        without("MARK_SWEPT", conditions.UNSWEPT, conditions.LIVE),
        ("S4", "S12"),
        "hard",
        3_000,
    ),
    Bug("a lease of ten minutes", a_long_lease, ("E3",), "one crash"),
    Bug("late answers that are taken", takes_late_answers, ("S18",), "flow safety", at=116),
    Bug(
        "answers that are taken and could not be written",
        takes_answers_that_it_could_not_write,
        ("S18",),
        "flow hard",
        1_000,
        at=424,
    ),
)


def hunt(bug: Bug, first: int = 0) -> Outcome | None:
    """Run schedules from this seed on until an invariant breaks."""
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        for seed in range(first, first + bug.seeds):
            outcome = run(seed, bug.profile)
            if outcome.broken is not None:
                return outcome
    return None


def main() -> int:
    missed = 0
    for bug in BUGS:
        outcome = hunt(bug)
        name = outcome.broken.name if outcome is not None and outcome.broken is not None else "-"
        schedules = outcome.seed + 1 if outcome is not None else bug.seeds
        missed += name not in bug.found_by
        sys.stdout.write(f"{bug.name:45} {name:4} {schedules:5}  {bug.profile}\n")
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
