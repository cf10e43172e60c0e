"""One structured line per decision, and the metrics that the alarms watch.

Nothing that a user put into a saga is written here: no context, no error text,
no header. Errors appear as their kind and length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from saga_core.actions import Compensate, Execute, Inquire, Settle
from saga_core.calls import Direction
from saga_core.events import CompensationFailed, StepFailed, StepInDoubt
from saga_core.instance import CLOSED, Key, SagaInstance, SagaState, Why
from saga_core.outcome import StepError
from saga_core.turn import Decision, Verdict

_METRIC_OF_VERDICT = {
    Verdict.LEASE_CONFLICT: "LeaseConflict",
    Verdict.FENCED: "FencedCommit",
    Verdict.REDISPATCHED: "Redispatch",
    Verdict.SUPPRESSED: "RedispatchSuppressed",
    Verdict.ORPHAN: "OrphanMessage",
    Verdict.DEFINITION_MISSING: "DefinitionMissing",
}
_TROUBLE = {
    Verdict.FENCED,
    Verdict.DEFINITION_MISSING,
    Verdict.STORE_UNAVAILABLE,
    Verdict.SEND_FAILED,
    Verdict.STALLED,
}


class Sink(Protocol):
    """Where lines and numbers go: Powertools on AWS, a list in a test."""

    def line(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """Write one log line."""

    def count(self, saga: str | None, metrics: Mapping[str, float]) -> None:
        """Publish numbers, by service and, if given, by saga name.

        Names that end in ``Ms`` are milliseconds, in ``Bytes`` bytes, in
        ``Percent`` per cent, in ``Lag`` seconds; all others count.
        """


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Says what happened, in the words of the protocol."""

    sink: Sink

    def decided(
        self,
        function: str,
        decision: Decision,
        *,
        key: Key,
        definition: str | None = None,
        correlation_id: str,
        now: int,
        hop_max: int | None,
    ) -> None:
        """The audit line of one turn, and its metrics.

        The key, and the definition if the message told it, name the saga also
        where the turn came to nothing before the saga was seen.
        """
        after = decision.after or decision.before
        fields = {
            "function": function,
            "decision": decision.verdict.value,
            "acknowledged": decision.acknowledge,
            "correlation_id": correlation_id,
            "own_writes_recognised": decision.recognised,
            **_named(key),
            **({"definition": definition} if definition is not None else {}),
            **_saga_fields(decision.before, decision.after),
            **_attempt_fields(decision),
        }
        trouble = decision.verdict in _TROUBLE or _newly_failed(decision)
        self.sink.line("WARNING" if trouble else "INFO", f"saga.{decision.verdict.value}", fields)
        metrics = _metrics(decision, now, hop_max)
        if metrics:
            self.sink.count(after.definition_name if after is not None else None, metrics)

    def started(
        self, instance: SagaInstance, *, created: bool, announced: bool, correlation_id: str
    ) -> None:
        """A saga stands under its key."""
        fields = {
            "decision": "created" if created else "existed",
            "announced": announced,
            "correlation_id": correlation_id,
            **_saga_fields(None, instance),
        }
        self.sink.line("INFO", "saga.started", fields)
        metrics: dict[str, float] = {"SagaStarted": 1} if created else {}
        if not announced:
            metrics["StartSendDeferred"] = 1
        if metrics:
            self.sink.count(instance.definition_name, metrics)

    def requested(
        self, kind: str, answer: str, instance: SagaInstance | None, *, correlation_id: str
    ) -> None:
        """A person asked for something."""
        fields = {
            "request": kind,
            "decision": answer,
            "correlation_id": correlation_id,
            **_saga_fields(None, instance),
        }
        self.sink.line("INFO", f"saga.{kind}", fields)

    def refused(self, function: str, reason: str, **fields: object) -> None:
        """Something that came in is no use: it stays where it is, or goes back to its sender."""
        self.sink.line(
            "WARNING", "saga.refused", {"function": function, "reason": reason, **fields}
        )
        self.sink.count(None, {"InvalidInput": 1})

    def crashed(self, function: str, error: BaseException, **fields: object) -> None:
        """A bug of ours: the kind and place of the error, not its text."""
        self.sink.line("ERROR", "saga.crashed", {"function": function, **_where(error), **fields})

    def swept(self, *, lag_s: float, nudged: int, looked_at: int, complete: bool) -> None:
        """One run of the sweeper."""
        fields = {"lag_s": lag_s, "nudged": nudged, "looked_at": looked_at, "complete": complete}
        self.sink.line("INFO", "saga.swept", fields)
        self.sink.count(None, {"SweeperLag": lag_s, "SweeperNudged": nudged})


def _saga_fields(before: SagaInstance | None, after: SagaInstance | None) -> dict[str, object]:
    saga = after or before
    if saga is None:
        return {}
    fields: dict[str, object] = {
        **_named(saga.key),
        "saga": saga.definition_name,
        "definition": saga.definition,
        "epoch": saga.lane.epoch,
        "ver": saga.version,
        "to": saga.state.value,
    }
    if before is not None and after is not None:
        fields["from"] = before.state.value
    if saga.why is not None:
        fields["why"] = saga.why.value
    return fields


def _named(key: Key) -> dict[str, object]:
    tenant_hash = hashlib.sha256(key.tenant.encode()).hexdigest()[:12]
    return {"saga_id": key.saga_id, "tenant_hash": tenant_hash}


def _attempt_fields(decision: Decision) -> dict[str, object]:
    fields: dict[str, object] = {}
    match decision.action:
        case Execute(step, attempt):
            fields = {"step": step, "phase": "forward", "attempt": attempt}
        case Inquire(step):
            fields = {"step": step, "phase": "forward", "inquires": True}
        case Compensate(step, attempt):
            fields = {"step": step, "phase": "compensation", "attempt": attempt}
        case Settle(reason):
            fields = {"withheld": reason.value}
        case _:
            pass
    match decision.event:
        case StepFailed(error=error) | StepInDoubt(error=error) | CompensationFailed(error=error):
            fields |= {"result": type(decision.event).__name__, **_error_fields(error)}
        case None:
            pass
        case event:
            fields["result"] = type(event).__name__
    return fields


def _error_fields(error: StepError) -> dict[str, object]:
    return {"error_kind": error.kind, "error_length": len(error.message)}


def _where(error: BaseException) -> dict[str, object]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return {"error_kind": type(error).__name__, "place": place.rpartition("/")[2]}


def _newly_failed(decision: Decision) -> bool:
    return decision.after is not None and decision.after.status is SagaState.FAILED


def _metrics(decision: Decision, now: int, hop_max: int | None) -> dict[str, float]:
    metrics: dict[str, float] = {}
    name = _METRIC_OF_VERDICT.get(decision.verdict)
    if name is not None:
        metrics[name] = 1
    if decision.recognised:
        metrics["OwnWriteRecognised"] = decision.recognised
    before, after = decision.before, decision.after
    if before is None or after is None:
        return metrics
    if decision.event is not None:
        metrics["StepLatencyMs"] = max(0, decision.event.at - before.updated_at)
        if before.lane.tries > 1:
            metrics["StepRetries"] = 1
    if after.status in CLOSED or after.status is SagaState.FAILED:
        metrics |= _ending(after, now, hop_max)
    elif after.phase is Direction.FORWARD and now >= after.deadline_at:
        metrics["SagaOverdue"] = 1  # past its pivot, or the deadline would have turned it round
    return metrics


def _ending(saga: SagaInstance, now: int, hop_max: int | None) -> dict[str, float]:
    names = {SagaState.COMPLETED: "SagaCompleted", SagaState.COMPENSATED: "SagaCompensated"}
    spent = saga.why is Why.COMPENSATION_FAILED
    failed = "CompensationFailed" if spent else "SagaStalled"
    metrics: dict[str, float] = {
        names.get(saga.status, failed): 1,
        "SagaDurationMs": max(0, now - saga.created_at),
        "ContextBytes": len(saga.context_text.encode()),
    }
    if hop_max:
        metrics["HopBudgetUsedPercent"] = 100 * saga.hops / hop_max
    return metrics
