"""What every function is made of, built once and passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from handlers._telemetry import Telemetry
from saga_core.contexts import ContextCodec
from saga_core.definition import SagaDefinition
from saga_core.instance import SagaInstance
from saga_core.ports import WorkStore
from saga_core.turn import WorkMessage


class Clock(Protocol):
    """Time, ids and chance."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""

    def sleep_ms(self, delay_ms: int) -> None:
        """Wait."""

    def new_id(self) -> str:
        """An id that nobody can guess."""

    def new_incarnation(self) -> str:
        """8 random hex digits."""

    def new_secret(self) -> str:
        """128 random bits as hex digits."""

    def jitter(self) -> float:
        """A fraction in [0, 1)."""


class WorkQueue(Protocol):
    """The queue that wakes sagas."""

    def send(
        self,
        instance: SagaInstance,
        delay_ms: int,
        reason: str,
        correlation_id: str,
        branch: int | None = None,
    ) -> None:
        """Announce a lane's current work item. Raises SagaError when the queue did not take it."""

    def postpone(self, receipt_handle: str, delay_ms: int) -> bool:
        """Have a message delivered again after this time; False when that failed."""


class InputCodec(ContextCodec, Protocol):
    """A context codec that also checks what comes from outside."""

    def accept(self, text: str, context_type: type | None) -> str:
        """The context as it will be stored, defaults filled in.

        Raises:
            InvalidContextError: With every field that is wrong, unknown ones too.
        """


class Definitions(Protocol):
    """The sagas that this deployment can run."""

    def by_ref(self, ref: str) -> SagaDefinition | None:
        """The definition of exactly this name, version and fingerprint."""

    def newest(self, name: str) -> SagaDefinition | None:
        """The definition that new sagas of this name start with."""

    @property
    def refs(self) -> Iterable[str]:
        """What is deployed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The parts a function works with.

    Attributes:
        parse: Reads a work message; raises SagaError, quoting nothing, when it is none.
        step_ms: The least time that must remain for a step to be started.
        tenant_claim: The claim of the caller's token that names the tenant;
            None: one tenant, "default".
    """

    clock: Clock
    store: WorkStore
    queue: WorkQueue
    definitions: Definitions
    codec: InputCodec
    telemetry: Telemetry
    parse: Callable[[str], WorkMessage]
    step_ms: int
    tenant_claim: str | None = None
