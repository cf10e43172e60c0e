"""A saga as callers read it: times as ISO 8601 in UTC, and what is to be done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from saga_core.calls import Direction
from saga_core.instance import SagaInstance, SagaState, StepResult, Why
from saga_core.outcome import StepError
from saga_core.transition import Reason

Json = dict[str, object]

# Why a request was not carried out, for people.
WHY_NOT = {
    Reason.CLOSED: "The saga has ended.",
    Reason.ROLL_BACK_STOPPED: "Its roll-back stopped at an undo: resume it, or skip that step.",
    Reason.LIVE: "The saga moves by itself; only a FAILED one can be skipped.",
    Reason.OTHER_STEP: "The saga did not stop at this step.",
    Reason.PAST_PIVOT: "The saga is past its point of no return, or may be: it only goes forward.",
    Reason.ANSWERED: "The step was answered before, and otherwise.",
    Reason.LATE: "The step had been given up, and is undone. The answer is on record.",
    Reason.NOT_ASKED: "The step does not wait for an answer.",
}


def view(saga: SagaInstance) -> Json:
    """Everything about a saga, its context too."""
    return {
        **summary(saga),
        "context": saga.context,
        "cancel": _cancel(saga),
        "cause": _cause(saga),
        "failure": _failure(saga),
        "steps": [_step(step) for step in saga.step_results],
    }


def summary(saga: SagaInstance) -> Json:
    """A line of a list."""
    return {
        "id": saga.id,
        "name": saga.definition_name,
        "version": saga.definition_version,
        "state": saga.state.value,
        "created_at": iso(saga.created_at),
        "updated_at": iso(saga.updated_at),
        "deadline_at": iso(saga.deadline_at),
    }


def iso(at: int) -> str:
    """Milliseconds since the epoch as ISO 8601."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cancel(saga: SagaInstance) -> Json | None:
    """Who asked for the roll-back, also before it has begun."""
    cancel = saga.cancel
    return None if cancel is None else {"by": cancel.by, "at": iso(cancel.at)}


def _cause(saga: SagaInstance) -> Json | None:
    cause = saga.cause
    if cause is None:
        return None
    return {
        "kind": cause.kind.value,
        "at": iso(cause.at),
        "step": cause.step,
        "error": _error(cause.error),
        "by": cause.by,
    }


def _failure(saga: SagaInstance) -> Json | None:
    """Why it stopped, what stands, and who has to do what."""
    if saga.state is not SagaState.FAILED or saga.why is None:
        return None
    return {
        "why": saga.why.value,
        "error": _error(saga.failure),
        "standing": list(saga.standing),
        "to_do": to_do(saga),
    }


def to_do(saga: SagaInstance) -> str:
    """What a person has to do about a FAILED saga, in a sentence."""
    at = [lane.index for lane in saga.open_lanes if lane.index < len(saga.steps)]
    step = ", ".join(saga.steps[n].name for n in at)
    if saga.why is Why.COMPENSATION_FAILED:
        failed = [s.name for s in saga.step_results if s.status.value == "COMPENSATION_FAILED"]
        names = ", ".join(failed)
        return (
            f"Repair what keeps the compensation of {names} from succeeding, then resume the saga; "
            f"or undo {names} by hand, then skip it."
        )
    if saga.why is Why.CHILD_FAILED:
        stuck = [s.child for s in saga.step_results if s.child is not None]
        return (
            f"Repair and resume the saga that it started ({', '.join(stuck)}): this one goes on "
            "by itself when that one has ended."
        )
    if saga.why is Why.FORWARD_FAILED:
        return (
            f"It is past its point of no return, or may be: repair what keeps {step} from "
            f"succeeding, then resume the saga; or do {step} by hand, then skip it."
        )
    if saga.failure is not None and saga.failure.kind == "DefinitionMissing":
        return f"Deploy the definition {saga.definition} again, then resume the saga."
    if saga.phase is Direction.COMPENSATION:
        return f"Find out what keeps the compensation of {step} from running, then resume the saga."
    return f"Find out what keeps {step} from running, then resume the saga, or cancel it."


def _step(step: StepResult) -> Json:
    return {
        "name": step.name,
        "status": step.status.value,
        "attempts": step.attempts,
        "compensation_attempts": step.undo_attempts,
        "error": _error(step.error),
        "started_at": iso(step.started_at) if step.started_at is not None else None,
        "ended_at": iso(step.ended_at) if step.ended_at is not None else None,
        "due_at": iso(step.due_at) if step.due_at is not None else None,
        "saga": step.child,
    }


def _error(error: StepError | None) -> Json | None:
    return None if error is None else {"kind": error.kind, "message": error.message}
