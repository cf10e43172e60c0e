"""Sagas: transactions across services, each step with a compensation that undoes it.

This is the door for authors of sagas. The engine's own modules import from the
module that defines a name.
"""

from saga_core.authoring import Saga, SagaStep, steps
from saga_core.calls import Direction, StepCall
from saga_core.contexts import ContextCodec, StandardContextCodec
from saga_core.definition import (
    Finding,
    Retention,
    SagaDefinition,
    Severity,
    StepDefinition,
    lint,
    step_from_object,
)
from saga_core.errors import (
    AlreadyCompletedError,
    CompensationFailedError,
    DefinitionError,
    DefinitionMismatchError,
    DuplicateSagaError,
    IllegalEventError,
    ItemTooLargeError,
    NotAllowedError,
    SagaCancelledError,
    SagaError,
    SagaNotFoundError,
    SagaStalledError,
    SagaTimeoutError,
    StaleInstanceError,
    StepFailedError,
    StoreError,
)
from saga_core.instance import (
    Cause,
    CauseKind,
    SagaInstance,
    SagaState,
    StepResult,
    StepStatus,
    Why,
)
from saga_core.memory import InMemorySagaStore
from saga_core.orchestrator import Environment, SagaOrchestrator
from saga_core.outcome import AwaitAnswer, Fatal, OutcomeUnknown, StepError
from saga_core.ports import SagaStore
from saga_core.retry import RetryPolicy

__all__ = [
    "AlreadyCompletedError",
    "AwaitAnswer",
    "Cause",
    "CauseKind",
    "CompensationFailedError",
    "ContextCodec",
    "DefinitionError",
    "DefinitionMismatchError",
    "Direction",
    "DuplicateSagaError",
    "Environment",
    "Fatal",
    "Finding",
    "IllegalEventError",
    "InMemorySagaStore",
    "ItemTooLargeError",
    "NotAllowedError",
    "OutcomeUnknown",
    "Retention",
    "RetryPolicy",
    "Saga",
    "SagaCancelledError",
    "SagaDefinition",
    "SagaError",
    "SagaInstance",
    "SagaNotFoundError",
    "SagaOrchestrator",
    "SagaStalledError",
    "SagaState",
    "SagaStep",
    "SagaStore",
    "SagaTimeoutError",
    "Severity",
    "StaleInstanceError",
    "StandardContextCodec",
    "StepCall",
    "StepDefinition",
    "StepError",
    "StepFailedError",
    "StepResult",
    "StepStatus",
    "StoreError",
    "Why",
    "lint",
    "step_from_object",
    "steps",
]
