"""What the engine asks of the outside. Adapters subclass these explicitly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from saga_core.contexts import Delta
from saga_core.instance import Key, SagaInstance, SagaState

ITEM_BUDGET = 350 * 1024  # bytes of an encoded saga; the table's limit is 400 KB, names included
INPUT_LIMIT = 64 * 1024  # bytes of a saga's input


@dataclass(frozen=True, slots=True)
class Written:
    """The write took effect; the saga as it is stored now."""

    instance: SagaInstance


@dataclass(frozen=True, slots=True)
class Refused:
    """The condition did not hold; the saga that stood in the way.

    None: there is none, or its retention is over.
    """

    found: SagaInstance | None


WriteResult: TypeAlias = Written | Refused


@dataclass(frozen=True, slots=True)
class DueSaga:
    """A line of the sweeper's index: only a hint, to be checked by a read."""

    key: Key
    sweep_at: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some sagas, newest first. ``cursor`` None means the end, and only that does."""

    instances: tuple[SagaInstance, ...]
    cursor: str | None


def holds_no_more(before: SagaInstance, after: SagaInstance) -> bool:
    """Nothing that a user put into the saga is new: what fitted still fits.

    What a branch or an answer brought fits from when it was stored. It may move
    into the context at any later time, also with the write that rolls back.
    """
    old, new = _kept_apart(before), _kept_apart(after)
    if before.context_text == after.context_text and (not new or new == old):
        return True
    return bool(old) and _fields(after.context_text, new) <= _fields(before.context_text, old)


def _kept_apart(i: SagaInstance) -> list[str]:
    """What is kept beside the context until it becomes a part of it, as JSON objects."""
    results = [json.dumps(Delta.from_text(s.result).fields) for s in i.steps if s.result]
    answers = [s.answer.fields for s in i.steps if s.answer is not None and s.answer.fields]
    return [*results, *answers]


def _fields(context: str, apart: list[str]) -> Counter[tuple[str, str]]:
    """Every field with its value. A context that is no JSON object is one field without a name."""
    parts = [json.loads(text) for text in (context, *apart)]
    objects = [p if isinstance(p, dict) else {"": p} for p in parts]
    return Counter((name, json.dumps(value)) for o in objects for name, value in o.items())


class SagaStore(Protocol):
    """All that the in-process orchestrator needs of a store."""

    async def save(self, instance: SagaInstance) -> SagaInstance:
        """Write it if the stored version is the instance's; version 0 creates.

        Returns the instance as stored, its version one higher.

        Raises:
            StaleInstanceError: The stored version is another one.
            StoreError: The store did not answer, or the saga does not fit.
        """

    async def load(self, saga_id: str) -> SagaInstance | None:
        """The saga as stored, or None; read consistently."""

    async def list_incomplete(self) -> list[str]:
        """Ids of every saga that is not COMPLETED, COMPENSATED or FAILED."""


class WorkStore(Protocol):
    """The moves of the protocol, as the Lambda functions make them.

    Each write is one conditional write. A write that is refused returns what
    it found; none of them reads first. All of them raise StoreError when the
    store does not answer (``ambiguous`` when it may have written), and
    ItemTooLargeError, before writing, when the saga would not fit.
    """

    def create(self, instance: SagaInstance) -> WriteResult:
        """Store a new saga unless its id is taken by one that is not expired."""

    def find(self, key: Key, now: int) -> SagaInstance | None:
        """The saga, read consistently; None when absent or expired."""

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
        """Take the work item of this epoch until the lease ends.

        ``branch``: the place of the step whose lane it is; None: the main lane.
        """

    def commit(self, before: SagaInstance, after: SagaInstance, *, claim_id: str) -> WriteResult:
        """Write what changed, if the claim is still held and nothing moved since ``before``."""

    def redispatch(
        self, instance: SagaInstance, *, nudge_id: str, now: int, branch: int | None = None
    ) -> WriteResult:
        """Reserve the right to send one surplus message for each lane (the guard).

        ``branch``: for this one alone; None: by the main lane's guard, which
        also stands for the branches of an open group.
        """

    def record(self, before: SagaInstance, after: SagaInstance) -> WriteResult:
        """Write what a person or the dead letters decided, if nothing moved since ``before``."""

    def mark_swept(self, before: SagaInstance, after: SagaInstance) -> WriteResult:
        """Move ``sweep_at`` on, if no other sweeper has."""

    def due(self, shard: int, until: int, limit: int) -> list[DueSaga]:
        """Open sagas of a shard whose ``sweep_at`` has come, oldest first."""

    def unfinished(self) -> Iterator[SagaInstance]:
        """Every saga, of every tenant, whose definition is still needed.

        Those that move, those that are FAILED, and the children that these may
        yet have to undo. From an index, which lags a little behind the sagas.
        """

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
        """Sagas of a tenant, newest first; a page may hold fewer than ``limit``.

        Raises:
            ValueError: The cursor is not one that this method gave.
        """
