"""A saga as a value: its steps, its bounds, and the checks before it may run.

Everything that can be known to be wrong before a saga starts is refused here,
with a rule number, when the definition is built. docs/lint.md has a paragraph
on each rule.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Literal, TypeAlias, TypeVar

from saga_core.calls import StepCall
from saga_core.errors import DefinitionError
from saga_core.outcome import Exceptions
from saga_core.retry import COMPENSATION_DEFAULT, FORWARD_DEFAULT, RetryPolicy

SAGA_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
STEP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")

DEFAULT_TIMEOUT = timedelta(seconds=300)
MAX_TIMEOUT = timedelta(days=366)
DEFAULT_RETENTION = timedelta(days=30)
# A start request may lie in the start queue (4 days) and then in its dead letters
# (14 days). A saga forgotten sooner could be started twice under one key.
MIN_RETENTION = timedelta(days=18)
# Their records, each with an error, must fit into the reserve above the size budget: a saga
# that cannot be written cannot record that it failed either.
MAX_STEPS = 100
HOP_SLACK = 50  # moves beyond twice the attempt budgets before the loop guard stops a saga

T = TypeVar("T")
# A user's function; its shape is checked when a step is built.
Function: TypeAlias = Callable[..., object]  # type: ignore[explicit-any]  # of any signature
OnCompensationFailure: TypeAlias = Literal["halt", "continue"]


class Severity(StrEnum):
    """ERROR: the definition is refused. WARNING: it runs, but think again."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the lint has to say, with the rule it comes from."""

    rule: str
    severity: Severity
    message: str
    step: str | None = None

    def __str__(self) -> str:
        where = f"step {self.step}: " if self.step else ""
        return f"{self.rule} {where}{self.message}"


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's function and how it wants to be called, found out once."""

    function: Function
    takes_call: bool

    @classmethod
    def of(cls, function: object) -> Handler:
        """Wrap a function that takes ``(ctx)`` or ``(ctx, call)``.

        Raises:
            DefinitionError: It takes anything else (SAGA005). A parameter with
                a default counts as anything else: ``(ctx, retries=3)`` would
                be handed the call as ``retries``.
        """
        label = getattr(function, "__qualname__", repr(function))
        if not callable(function):
            raise DefinitionError(f"SAGA005 {label} is not callable")
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as exc:
            raise DefinitionError(f"SAGA005 {label} has no signature to read") from exc
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        plain = all(p.kind in positional and p.default is p.empty for p in parameters)
        if not plain or len(parameters) not in (1, 2):
            raise DefinitionError(f"SAGA005 {label} must take (ctx) or (ctx, call)")
        return cls(function, takes_call=len(parameters) == 2)  # noqa: PLR2004 - ctx and call

    def __call__(self, context: object, call: StepCall) -> object | Awaitable[object]:
        """Call it the way it wants to be called."""
        return self.function(context, call) if self.takes_call else self.function(context)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDefinition:
    """One local transaction and what undoes it.

    Args:
        name: Addresses the step in storage: renaming it makes another definition.
        execute: Does the step. Raising is how it fails.
        compensate: Undoes it. Also called when it is not known whether the
            step happened, so it must accept that there is nothing to undo.
        compensatable: False states that nothing has to be undone. Never
            implied: a step with neither is refused (SAGA003).
        retry: For ``execute``; by default one attempt.
        compensation_retry: For ``compensate``; by default three attempts.
        fatal_on: Exceptions after which trying again is pointless.
        in_doubt_on: Exceptions after which the effect may stand, in addition
            to lost replies; up to ``(Exception,)``.
    """

    name: str
    execute: Handler
    compensate: Handler | None = None
    compensatable: bool = True
    retry: RetryPolicy = FORWARD_DEFAULT
    compensation_retry: RetryPolicy = COMPENSATION_DEFAULT
    fatal_on: Exceptions = ()
    in_doubt_on: Exceptions = ()

    def findings(self) -> Iterator[Finding]:
        """What is wrong with this step on its own."""

        def error(rule: str, message: str) -> Finding:
            return Finding(rule, Severity.ERROR, message, self.name)

        if not STEP_NAME.fullmatch(self.name):
            yield error("SAGA004", f"a step's name matches {STEP_NAME.pattern}")
        if self.compensatable and self.compensate is None:
            yield error("SAGA003", "give it a compensation, or state compensatable=False")
        if not self.compensatable and self.compensate is not None:
            yield error("SAGA006", "compensatable=False, yet it has a compensation")


@dataclass(frozen=True, kw_only=True)
class SagaDefinition:
    """A named, versioned list of steps. Building one checks it.

    Args:
        name: Matches ``[a-z][a-z0-9_.-]{0,63}``.
        version: Change it when the steps change; running sagas keep theirs.
        steps: In the order in which they run.
        timeout: From the start; when it is over the saga rolls back.
        context_type: What handlers receive. None: the plain JSON value over
            AWS, the type of ``start``'s argument in process.
        on_compensation_failure: ``"halt"`` stops at a compensation that is
            spent; ``"continue"`` undoes the rest first. FAILED either way.
        retention: How long a closed saga is kept; at least 18 days, so that a
            start request redriven from the dead letters finds it. A FAILED
            saga is kept until somebody resolves it.

    Raises:
        DefinitionError: With every error that the lint found.
    """

    name: str
    steps: tuple[StepDefinition, ...]
    version: str = "1"
    timeout: timedelta = DEFAULT_TIMEOUT
    context_type: type | None = None
    on_compensation_failure: OnCompensationFailure = "halt"
    retention: timedelta = DEFAULT_RETENTION
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        errors = [f for f in lint(self) if f.severity is Severity.ERROR]
        if errors:
            listed = "; ".join(map(str, errors))
            raise DefinitionError(f"saga {self.name}: {listed}")
        object.__setattr__(self, "_index", {s.name: i for i, s in enumerate(self.steps)})

    def step(self, name: str) -> StepDefinition:
        """The step of that name. Raises KeyError when there is none."""
        return self.steps[self._index[name]]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over what a running saga depends on.

        Name, version, and of each step its name, whether it is compensatable,
        and its place among pivots and groups. Not handler code, retries or
        time-outs: a repaired compensation must be able to resume.
        """
        shape = {
            "name": self.name,
            "version": self.version,
            "steps": [
                {"name": s.name, "compensatable": s.compensatable, "pivot": False, "group": None}
                for s in self.steps
            ],
        }
        text = json.dumps(shape, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def ref(self) -> str:
        """``name@version#fingerprint``: what an instance and a message carry."""
        return f"{self.name}@{self.version}#{self.fingerprint}"

    @cached_property
    def hop_max(self) -> int:
        """Claims after which the loop guard stops the saga.

        No schedule of honest failures reaches it. Lambda's own recursion
        detection is switched off for the worker, and AWS asks for a guard of
        one's own then (Lambda guide, "Use Lambda recursive loop detection").
        """
        policies = [p for s in self.steps for p in (s.retry, s.compensation_retry)]
        return 2 * sum(p.max_attempts + p.max_lost for p in policies) + HOP_SLACK


def lint(definition: SagaDefinition) -> tuple[Finding, ...]:
    """Every finding on a definition, errors and warnings, in rule order."""
    return tuple(sorted(_findings(definition), key=lambda f: (f.severity, f.rule)))


def _findings(d: SagaDefinition) -> Iterator[Finding]:
    def error(rule: str, message: str) -> Finding:
        return Finding(rule, Severity.ERROR, message)

    if not d.steps:
        yield error("SAGA001", "a saga has at least one step")
    if len(d.steps) > MAX_STEPS:
        yield error("SAGA011", f"{len(d.steps)} steps; at most {MAX_STEPS}")
    yield from _duplicates(d.steps)
    if not SAGA_NAME.fullmatch(d.name):
        yield error("SAGA004", f"a saga's name matches {SAGA_NAME.pattern}")
    if not VERSION.fullmatch(str(d.version)) or not isinstance(d.version, str):
        yield error("SAGA004", f"a version matches {VERSION.pattern}")
    for step in d.steps:
        yield from step.findings()
    if not timedelta(0) < d.timeout <= MAX_TIMEOUT:
        yield error("SAGA007", f"timeout {d.timeout} is not between 0 and {MAX_TIMEOUT.days} days")
    if d.retention < MIN_RETENTION:
        yield error("SAGA009", f"retention {d.retention} is under {MIN_RETENTION.days} days")
    if d.on_compensation_failure not in ("halt", "continue"):
        yield error("SAGA010", 'on_compensation_failure is "halt" or "continue"')
    for step in d.steps[:-1]:
        if not step.compensatable:
            yield Finding(
                "SAGA101",
                Severity.WARNING,
                "nothing undoes it when a later step fails; move it last if it has an effect",
                step.name,
            )


def _duplicates(steps: Iterable[StepDefinition]) -> Iterator[Finding]:
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            yield Finding("SAGA002", Severity.ERROR, "two steps have this name", step.name)
        seen.add(step.name)


def step_from_object(
    step: object,
    *,
    compensatable: bool | None = None,
    retry: RetryPolicy | None = None,
    compensation_retry: RetryPolicy | None = None,
    fatal_on: Exceptions | None = None,
    in_doubt_on: Exceptions | None = None,
) -> StepDefinition:
    """A StepDefinition from any object with ``name``, ``execute`` and ``compensate``.

    An option not given here is read from the attribute of the same name, so a
    class can state its own. ``compensate`` may be absent when the step is
    stated to be ``compensatable=False``.

    Raises:
        DefinitionError: No name, or ``execute``, or a handler of the wrong shape.
    """
    given = (compensatable, retry, compensation_retry, fatal_on, in_doubt_on)
    if isinstance(step, StepDefinition):
        if any(option is not None for option in given):
            raise DefinitionError(f"SAGA005 step {step.name} is defined; its options are in it")
        return step
    name, execute = getattr(step, "name", None), getattr(step, "execute", None)
    if not isinstance(name, str):
        raise DefinitionError(f"SAGA005 {type(step).__qualname__} has no name: str")
    if execute is None:
        raise DefinitionError(f"SAGA005 step {name} has no execute")
    compensate = getattr(step, "compensate", None)

    def option(value: T | None, attribute: str, default: T) -> T:
        stated: T = getattr(step, attribute, default)
        return stated if value is None else value

    undoable = option(compensatable, "compensatable", True)  # noqa: FBT003 - a default
    return StepDefinition(
        name=name,
        execute=Handler.of(execute),
        # An abstract base class may define an empty compensate for everybody:
        # what is stated decides, and lint SAGA006 only speaks of explicit pairs.
        compensate=Handler.of(compensate) if compensate is not None and undoable else None,
        compensatable=undoable,
        retry=option(retry, "retry", FORWARD_DEFAULT),
        compensation_retry=option(compensation_retry, "compensation_retry", COMPENSATION_DEFAULT),
        fatal_on=option(fatal_on, "fatal_on", ()),
        in_doubt_on=option(in_doubt_on, "in_doubt_on", ()),
    )
