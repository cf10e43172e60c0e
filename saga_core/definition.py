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
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Literal, TypeAlias, TypeVar

from saga_core.calls import StepCall
from saga_core.errors import DefinitionError
from saga_core.outcome import Exceptions
from saga_core.retry import (
    COMPENSATION_DEFAULT,
    FORWARD_DEFAULT,
    RETRIABLE_DEFAULT,
    RetryPolicy,
)

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
MAX_DEPTH = 4  # sagas within sagas: whoever repairs one has to understand all of them
RECORD_RESERVE = 50 * 1024  # bytes between the size budget and the table's limit
# No step can have longer: Lambda's 15 minutes, less what recording its result may take.
MAX_STEP_TIMEOUT = timedelta(seconds=890)
_RECORD_BYTES = 420  # of a step's record at its largest, without its name
_LANE_BYTES = 300  # of an open branch besides
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
    """One thing that the lint has to say, with the rule it comes from.

    ``path`` and ``line`` say where, when the rule knows; a path as the interpreter has it.
    """

    rule: str
    severity: Severity
    message: str
    step: str | None = None
    path: str | None = None
    line: int | None = None

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


@dataclass(frozen=True, slots=True)
class Retention:
    """How long closed sagas are kept, by how they ended; each at least 18 days.

    A FAILED saga never expires: a person has to resolve it.
    """

    completed: timedelta = DEFAULT_RETENTION
    compensated: timedelta = DEFAULT_RETENTION


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
        retry: For ``execute``; by default one attempt, and after the pivot
            attempts without end.
        compensation_retry: For ``compensate``; by default three attempts.
        fatal_on: Exceptions after which trying again is pointless.
        in_doubt_on: Exceptions after which the effect may stand, in addition
            to lost replies; up to ``(Exception,)``.
        pivot: The point of no return. Once it is done the saga only goes
            forward: the steps after it are tried until they succeed.
        group: Steps next to each other with one group's name run at once.
        when: Asked with the context when the step's turn comes, once; False
            skips the step for good.
        delay: How long to wait before the step, up to a year.
        timeout: Over it an async handler is cancelled and the step in doubt. A
            sync handler must obey ``call.deadline``, and a late success of its
            own is a success. None: what the worker's function has.
        child: The saga that this step starts and waits for. ``execute`` gives
            its input. Undoing the step cancels or undoes that saga.
        into: The field of the context that gets the child's context once it is
            COMPLETED.
    """

    name: str
    execute: Handler
    compensate: Handler | None = None
    compensatable: bool = True
    retry: RetryPolicy = FORWARD_DEFAULT
    compensation_retry: RetryPolicy = COMPENSATION_DEFAULT
    fatal_on: Exceptions = ()
    in_doubt_on: Exceptions = ()
    pivot: bool = False
    group: str | None = None
    when: Handler | None = None
    delay: timedelta = timedelta(0)
    timeout: timedelta | None = None
    child: SagaDefinition | None = None
    into: str | None = None

    def findings(self) -> Iterator[Finding]:
        """What is wrong with this step on its own."""

        def error(rule: str, message: str) -> Finding:
            return Finding(rule, Severity.ERROR, message, self.name)

        if not STEP_NAME.fullmatch(self.name):
            yield error("SAGA004", f"a step's name matches {STEP_NAME.pattern}")
        if self.child is not None and self.compensate is not None:
            yield error("SAGA006", "it starts a saga, and undoing that saga is its compensation")
        if self.into is not None and self.child is None:
            yield error("SAGA005", "into= goes with child=")
        if self.child is None and self.compensatable and self.compensate is None:
            yield error("SAGA003", "give it a compensation, or state compensatable=False")
        if not self.compensatable and self.compensate is not None:
            yield error("SAGA006", "compensatable=False, yet it has a compensation")
        if self.when is not None and self.when.takes_call:
            yield error("SAGA005", "when= takes (ctx)")
        if self.pivot and (self.group is not None or self.when is not None):
            yield error("SAGA014", "a pivot is neither conditional nor part of a group")
        if self.group is not None and not STEP_NAME.fullmatch(self.group):
            yield error("SAGA004", f"a group's name matches {STEP_NAME.pattern}")
        if self.timeout is not None and not timedelta(0) < self.timeout <= MAX_STEP_TIMEOUT:
            most = int(MAX_STEP_TIMEOUT.total_seconds())
            yield error("SAGA016", f"timeout {self.timeout} is not between 0 and {most} s")
        if not timedelta(0) <= self.delay <= MAX_TIMEOUT:
            yield error(
                "SAGA017", f"delay {self.delay} is not between 0 and {MAX_TIMEOUT.days} days"
            )


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
        retention: How long a closed saga is kept, or a Retention that tells
            outcomes apart; at least 18 days, so that a start request redriven
            from the dead letters finds it. A FAILED saga is kept until somebody
            resolves it.

    Raises:
        DefinitionError: With every error that the lint found.
    """

    name: str
    steps: tuple[StepDefinition, ...]
    version: str = "1"
    timeout: timedelta = DEFAULT_TIMEOUT
    context_type: type | None = None
    on_compensation_failure: OnCompensationFailure = "halt"
    retention: timedelta | Retention = DEFAULT_RETENTION
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        errors = [f for f in lint(self) if f.severity is Severity.ERROR]
        if errors:
            listed = "; ".join(map(str, errors))
            raise DefinitionError(f"saga {self.name}: {listed}")
        object.__setattr__(self, "steps", _resolved(self.steps))
        object.__setattr__(self, "_index", {s.name: i for i, s in enumerate(self.steps)})

    def step(self, name: str) -> StepDefinition:
        """The step of that name. Raises KeyError when there is none."""
        return self.steps[self._index[name]]

    def index(self, name: str) -> int:
        """Its place. Raises KeyError when there is none."""
        return self._index[name]

    def stage(self, index: int) -> range:
        """The places of the steps that begin together with the one at this place."""
        group = self.steps[index].group
        end = index + 1
        while group is not None and end < len(self.steps) and self.steps[end].group == group:
            end += 1
        return range(index, end)

    @cached_property
    def pivot(self) -> int | None:
        """Place of the point of no return, if there is one."""
        return next((n for n, s in enumerate(self.steps) if s.pivot), None)

    def kept_ms(self, *, completed: bool) -> int:
        """Milliseconds for which a closed saga is kept."""
        kept = self.retention
        if isinstance(kept, Retention):
            kept = kept.completed if completed else kept.compensated
        return int(kept.total_seconds() * 1000)

    @cached_property
    def children(self) -> tuple[SagaDefinition, ...]:
        """The sagas that its steps start, and those that their steps start."""
        mine = [s.child for s in self.steps if s.child is not None]
        return tuple(d for child in mine for d in (child, *child.children))

    @cached_property
    def depth(self) -> int:
        """Levels of sagas, this one the first."""
        return 1 + max((s.child.depth for s in self.steps if s.child is not None), default=0)

    @cached_property
    def longest_step_ms(self) -> int:
        """The longest of the steps' own time-outs; 0 when none states one."""
        stated = [s.timeout.total_seconds() for s in self.steps if s.timeout is not None]
        return int(max(stated, default=0) * 1000)

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
                {
                    "name": s.name,
                    "compensatable": s.compensatable,
                    "pivot": s.pivot,
                    "group": s.group,
                    **({"child": s.child.name} if s.child is not None else {}),
                }
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

        Attempts of a policy without end, and waits, are not counted. No
        schedule of honest failures reaches it. Lambda's own recursion
        detection is switched off for the worker, and AWS asks for a guard of
        one's own then (Lambda guide, "Use Lambda recursive loop detection").
        """
        policies = [p for s in self.steps for p in (s.retry, s.compensation_retry)]
        return 2 * sum((p.max_attempts or 1) + p.max_lost for p in policies) + HOP_SLACK


def lint(definition: SagaDefinition) -> tuple[Finding, ...]:
    """Every finding on a definition, errors and warnings, in rule order."""
    return tuple(sorted(_findings(definition), key=lambda f: (f.severity, f.rule)))


def over_budget(definition: SagaDefinition, step_ms: int) -> tuple[Finding, ...]:
    """The steps that a worker has no time for, who gives each ``step_ms`` milliseconds."""
    return tuple(
        Finding(
            "SAGA019",
            Severity.ERROR,
            f"timeout {s.timeout} is longer than the {step_ms / 1000:g} s that a step has here",
            s.name,
        )
        for s in definition.steps
        if s.timeout is not None and s.timeout.total_seconds() * 1000 > step_ms
    )


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
    kept = d.retention
    ends = (kept.completed, kept.compensated) if isinstance(kept, Retention) else (kept,)
    if min(ends) < MIN_RETENTION:
        yield error("SAGA009", f"retention {min(ends)} is under {MIN_RETENTION.days} days")
    if d.on_compensation_failure not in ("halt", "continue"):
        yield error("SAGA010", 'on_compensation_failure is "halt" or "continue"')
    yield from _pivots(d.steps)
    yield from _groups(d.steps)
    yield from _times(d)
    yield from _records(d.steps)
    yield from _children(d.steps)
    yield from _not_undone(d.steps)


def _pivots(steps: tuple[StepDefinition, ...]) -> Iterator[Finding]:
    """One point of no return, and after it nothing that could give up."""
    pivots = [n for n, s in enumerate(steps) if s.pivot]
    for n in pivots[1:]:
        text = f"{steps[pivots[0]].name} is the pivot; a saga has one"
        yield Finding("SAGA012", Severity.ERROR, text, steps[n].name)
    for step in _resolved(steps)[pivots[0] + 1 :] if pivots else ():
        if step.retry.max_attempts is not None:
            text = "after the pivot a step is tried until it succeeds: max_attempts=None"
            yield Finding("SAGA013", Severity.ERROR, text, step.name)


def _groups(steps: tuple[StepDefinition, ...]) -> Iterator[Finding]:
    """The steps of a group stand next to each other."""
    closed: set[str] = set()
    for before, step in zip((None, *steps), steps, strict=False):
        if before is not None and before.group is not None and before.group != step.group:
            closed.add(before.group)
        if step.group in closed:
            text = f"the other steps of group {step.group} do not stand next to it"
            yield Finding("SAGA015", Severity.ERROR, text, step.name)
    sizes = Counter(s.group for s in steps if s.group is not None)
    for step in steps:
        if step.group is not None and sizes[step.group] == 1:
            text = f"group {step.group} has no other step: nothing runs beside it"
            yield Finding("SAGA102", Severity.WARNING, text, step.name)


def _times(d: SagaDefinition) -> Iterator[Finding]:
    """A wait that the deadline always ends."""
    for step in _before_the_pivot(d.steps):
        if step.delay and step.delay >= d.timeout:
            text = f"delay {step.delay} is not shorter than the saga's timeout {d.timeout}"
            yield Finding("SAGA017", Severity.ERROR, text, step.name)


def _records(steps: tuple[StepDefinition, ...]) -> Iterator[Finding]:
    """The records of all steps, each at its largest, fit beside a context at its limit."""
    worst = sum(_RECORD_BYTES + len(s.name) for s in steps)
    groups = Counter(s.group for s in steps if s.group is not None)
    worst += _LANE_BYTES * max(groups.values(), default=0)
    if worst > RECORD_RESERVE:
        text = f"its records may take {worst} bytes; {RECORD_RESERVE} are kept for them"
        yield Finding("SAGA018", Severity.ERROR, text)


def _children(steps: tuple[StepDefinition, ...]) -> Iterator[Finding]:
    """Sagas within sagas: not too deep, and none that cannot be undone where it may have to be."""
    for step in steps:
        if step.child is not None and step.child.depth >= MAX_DEPTH:
            text = f"sagas within sagas more than {MAX_DEPTH} deep"
            yield Finding("SAGA020", Severity.ERROR, text, step.name)
    for step in _before_the_pivot(steps):
        child = step.child
        if child is not None and child.pivot is not None and step.compensatable and not step.pivot:
            text = f"saga {child.name} has a pivot: past it, it cannot be undone with this one"
            yield Finding("SAGA021", Severity.ERROR, text, step.name)


def _not_undone(steps: tuple[StepDefinition, ...]) -> Iterator[Finding]:
    for step in _before_the_pivot(steps)[:-1]:
        if not step.compensatable and not step.pivot:
            yield Finding(
                "SAGA101",
                Severity.WARNING,
                "nothing undoes it when a later step fails; move it last if it has an effect",
                step.name,
            )


def _before_the_pivot(steps: tuple[StepDefinition, ...]) -> tuple[StepDefinition, ...]:
    """The steps that may still be undone, the pivot itself among them."""
    pivot = next((n for n, s in enumerate(steps) if s.pivot), len(steps))
    return steps[: pivot + 1]


def _resolved(steps: tuple[StepDefinition, ...]) -> tuple[StepDefinition, ...]:
    """After the pivot, a step that says nothing of its retries has them without end."""
    pivot = next((n for n, s in enumerate(steps) if s.pivot), len(steps))
    return tuple(
        replace(s, retry=RETRIABLE_DEFAULT) if n > pivot and s.retry is FORWARD_DEFAULT else s
        for n, s in enumerate(steps)
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
    pivot: bool | None = None,
    group: str | None = None,
    when: Function | None = None,
    delay: timedelta | None = None,
    timeout: timedelta | None = None,
    child: SagaDefinition | None = None,
    into: str | None = None,
) -> StepDefinition:
    """A StepDefinition from any object with ``name``, ``execute`` and ``compensate``.

    An option not given here is read from the attribute of the same name, so a
    class can state its own. ``compensate`` may be absent when the step is
    stated to be ``compensatable=False``.

    Raises:
        DefinitionError: No name, or ``execute``, or a handler of the wrong shape.
    """
    given = (
        compensatable,
        retry,
        compensation_retry,
        fatal_on,
        in_doubt_on,
        pivot,
        group,
        when,
        delay,
        timeout,
        child,
        into,
    )
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
    condition: Function | None = option(when, "when", None)
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
        pivot=option(pivot, "pivot", False),  # noqa: FBT003 - a default
        group=option(group, "group", None),
        when=Handler.of(condition) if condition is not None else None,
        delay=option(delay, "delay", timedelta(0)),
        timeout=option(timeout, "timeout", None),
        child=option(child, "child", None),
        into=option(into, "into", None),
    )
