"""What the engine asks of the outside. Adapters subclass these explicitly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

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
        self, key: Key, *, epoch: int, definition: str, claim_id: str, now: int, until: int
    ) -> WriteResult:
        """Take the work item of this epoch until the lease ends."""

    def commit(self, before: SagaInstance, after: SagaInstance, *, claim_id: str) -> WriteResult:
        """Write what changed, if the claim is still held and nothing moved since ``before``."""

    def redispatch(self, instance: SagaInstance, *, nudge_id: str, now: int) -> WriteResult:
        """Reserve the right to send one surplus message (the guard)."""

    def record(self, before: SagaInstance, after: SagaInstance) -> WriteResult:
        """Write what a person or the dead letters decided, if nothing moved since ``before``."""

    def mark_swept(self, before: SagaInstance, after: SagaInstance) -> WriteResult:
        """Move ``sweep_at`` on, if no other sweeper has."""

    def due(self, shard: int, until: int, limit: int) -> list[DueSaga]:
        """Open sagas of a shard whose ``sweep_at`` has come, oldest first."""

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
