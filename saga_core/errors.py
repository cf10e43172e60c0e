"""Everything this package raises, by what the reader should do about it.

    SagaError
    ├── DefinitionError             fix the code: the saga as written cannot run
    ├── DefinitionMismatchError     deploy the version that the saga was started with
    ├── IllegalEventError           a bug in the engine or a forged event: nothing was changed
    ├── StoreError                  no answer: try again (``ambiguous``: it may be written)
    │   └── ItemTooLargeError       the saga would not fit into one item; nothing was written
    ├── StaleInstanceError          somebody else moved the saga first: load it and decide again
    ├── SagaNotFoundError           no saga has this id
    ├── DuplicateSagaError          the idempotency key was used with another input
    ├── AlreadyCompletedError       the saga has ended; there is nothing to resume
    ├── NotAllowedError             the saga is in a state that forbids the request
    ├── StepFailedError             the saga was rolled back because a step failed
    ├── SagaTimeoutError            the saga was rolled back because its deadline passed
    ├── SagaCancelledError          the saga was rolled back because somebody cancelled it
    ├── CompensationFailedError     effects stand: a person is needed
    └── SagaStalledError            the saga could not be moved: a person is needed

Messages name the saga, the step and the attempt; they never hold a context.
"""

from __future__ import annotations


class SagaError(Exception):
    """The root of every error of this package."""


class DefinitionError(SagaError):
    """A saga as written cannot run; each finding carries its rule number."""


class DefinitionMismatchError(SagaError):
    """The stored saga belongs to a definition that is not deployed here.

    Nothing was run and nothing was spent: deploy that version, then resume.
    """

    def __init__(self, saga_id: str, wanted: str, deployed: tuple[str, ...]) -> None:
        self.saga_id = saga_id
        self.wanted = wanted
        self.deployed = deployed
        have = ", ".join(deployed) or "none"
        super().__init__(f"saga {saga_id} needs definition {wanted}; deployed: {have}")


class IllegalEventError(SagaError):
    """An event that cannot exist in this state. The instance is unchanged."""


class StoreError(SagaError):
    """The store refused or did not answer.

    ``ambiguous`` says that the write may have happened (a lost reply, a 5xx):
    repeat it with the same id and it recognises itself.
    """

    def __init__(self, message: str, *, ambiguous: bool = False) -> None:
        self.ambiguous = ambiguous
        super().__init__(message)


class ItemTooLargeError(StoreError):
    """The encoded saga exceeds the size budget. Found before the write."""

    def __init__(self, saga_id: str, size: int, limit: int) -> None:
        self.saga_id = saga_id
        self.size = size
        self.limit = limit
        super().__init__(f"saga {saga_id} would take {size} bytes; the limit is {limit}")


class StaleInstanceError(SagaError):
    """Another writer was first: the version held is not the version stored."""

    def __init__(self, saga_id: str, version: int) -> None:
        self.saga_id = saga_id
        self.version = version
        super().__init__(f"saga {saga_id} is no longer at version {version}")


class SagaNotFoundError(SagaError):
    """No saga has this id (or its retention is over)."""

    def __init__(self, saga_id: str) -> None:
        self.saga_id = saga_id
        super().__init__(f"no saga {saga_id}")


class DuplicateSagaError(SagaError):
    """The idempotency key was used before, with another saga or another input."""

    def __init__(self, saga_id: str) -> None:
        self.saga_id = saga_id
        super().__init__(f"the idempotency key of saga {saga_id} was used with another input")


class AlreadyCompletedError(SagaError):
    """The saga is COMPLETED or COMPENSATED; resuming it would do nothing."""

    def __init__(self, saga_id: str, state: str) -> None:
        self.saga_id = saga_id
        self.state = state
        super().__init__(f"saga {saga_id} is {state}")


class NotAllowedError(SagaError):
    """The saga's state forbids the request; ``reason`` says which rule."""

    def __init__(self, saga_id: str, state: str, reason: str) -> None:
        self.saga_id = saga_id
        self.state = state
        self.reason = reason
        super().__init__(f"saga {saga_id} is {state}: {reason}")


class StepFailedError(SagaError):
    """A step failed for good and the saga was rolled back."""

    def __init__(self, saga_id: str, step: str, attempts: int, error: str) -> None:
        self.saga_id = saga_id
        self.step = step
        self.attempts = attempts
        super().__init__(f"saga {saga_id}: step {step} failed at attempt {attempts}: {error}")


class SagaTimeoutError(SagaError):
    """The saga's deadline passed and it was rolled back."""

    def __init__(self, saga_id: str) -> None:
        self.saga_id = saga_id
        super().__init__(f"saga {saga_id}: its deadline passed and it was rolled back")


class SagaCancelledError(SagaError):
    """The saga was cancelled and rolled back."""

    def __init__(self, saga_id: str, by: str) -> None:
        self.saga_id = saga_id
        self.by = by
        super().__init__(f"saga {saga_id}: cancelled by {by} and rolled back")


class SagaStalledError(SagaError):
    """The saga could not be moved and is FAILED: repair what it names, then resume it."""

    def __init__(self, saga_id: str, error: str) -> None:
        self.saga_id = saga_id
        super().__init__(f"saga {saga_id}: could not be moved: {error}")


class CompensationFailedError(SagaError):
    """A compensation failed for good: the saga is FAILED and effects stand.

    ``standing`` names the steps whose effect stands or may stand.
    """

    def __init__(self, saga_id: str, step: str, attempts: int, standing: tuple[str, ...]) -> None:
        self.saga_id = saga_id
        self.step = step
        self.attempts = attempts
        self.standing = standing
        super().__init__(
            f"saga {saga_id}: the compensation of step {step} failed at attempt {attempts}; "
            f"standing: {', '.join(standing)}"
        )
