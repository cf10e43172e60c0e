"""What is drawn of a saga: boxes, the stages that they stand in, and arrows between these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise

from handlers._view import iso
from saga_core.definition import SagaDefinition, StepDefinition
from saga_core.instance import SagaInstance, SagaState, StepResult, StepStatus
from saga_core.retry import RetryPolicy


class Kind(StrEnum):
    """What a box stands for; each has a shape of its own."""

    END = "end"
    STEP = "step"
    PIVOT = "pivot"
    CHILD = "child"
    UNDO = "undo"


class Mark(StrEnum):
    """How far a box of a running saga is."""

    DONE = "done"
    RUNNING = "running"
    WAITING = "waiting"
    DOUBT = "in doubt"
    UNDONE = "undone"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Box:
    """A step, an undo, or an end."""

    id: str
    kind: Kind
    lines: tuple[str, ...]
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Boxes that are reached together: several of a group, or one alone.

    Attributes:
        column: Its place from left to right.
        title: Of a group.
    """

    id: str
    boxes: tuple[Box, ...]
    column: int
    title: str = ""


@dataclass(frozen=True, slots=True)
class Arrow:
    """From stage to stage, by id. A dotted one is taken when something went wrong."""

    start: str
    end: str
    text: str = ""
    dotted: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A definition, or one saga of it.

    Attributes:
        forward: From left to right, the beginning and COMPLETED among them.
        back: From left to right, COMPENSATED first, and FAILED last if it can come to that.
    """

    title: str
    forward: tuple[Stage, ...]
    back: tuple[Stage, ...]
    arrows: tuple[Arrow, ...]


def picture(definition: SagaDefinition, saga: SagaInstance | None = None) -> Picture:
    """What to draw of a definition, or of a saga that runs by it."""
    return _Sketch(definition, saga).picture()


@dataclass
class _Sketch:
    d: SagaDefinition
    saga: SagaInstance | None
    stages: list[range] = field(init=False)
    results: dict[str, StepResult] = field(init=False)

    def __post_init__(self) -> None:
        self.stages = []
        while not self.stages or self.stages[-1].stop < len(self.d.steps):
            start = self.stages[-1].stop if self.stages else 0
            self.stages.append(self.d.stage(start))
        self.results = {r.name: r for r in self.saga.step_results} if self.saga else {}

    def picture(self) -> Picture:
        title = f"{self.d.name} @{self.d.version}"
        if self.saga is not None:
            title += f" · saga {self.saga.id} · {self.saga.state}"
        last = len(self.stages) + 1
        arrows = tuple(self._arrows())
        forward = (
            Stage("begin", (Box("begin", Kind.END, (f"{self.d.name} @{self.d.version}",)),), 0),
            *(self._step_stage(n) for n in range(len(self.stages))),
            self._end(SagaState.COMPLETED, last),
        )
        undos = (self._undo_stage(n) for n in range(len(self.stages)) if self._undos(n))
        back = [self._end(SagaState.COMPENSATED, 0), *undos]
        if any(arrow.end == "failed" for arrow in arrows):
            back.append(self._end(SagaState.FAILED, last, "a person is needed"))
        return Picture(title, forward, tuple(back), arrows)

    # -- boxes ------------------------------------------------------------------------

    def _end(self, state: SagaState, column: int, *more: str) -> Stage:
        here = self.saga is not None and self.saga.state is state
        mark = {SagaState.COMPLETED: Mark.DONE, SagaState.COMPENSATED: Mark.UNDONE}
        name = state.value.lower()
        box = Box(name, Kind.END, (state.value, *more), mark.get(state, Mark.FAILED))
        return Stage(name, (box if here else replace(box, mark=None),), column)

    def _step_stage(self, n: int) -> Stage:
        boxes = tuple(self._step_box(i) for i in self.stages[n])
        group = self.d.steps[self.stages[n].start].group
        title = f"{group}: side by side" if group is not None else ""
        return Stage(self._step_id(n), boxes, n + 1, title)

    def _step_box(self, index: int) -> Box:
        step = self.d.steps[index]
        kind = Kind.PIVOT if step.pivot else Kind.CHILD if step.child is not None else Kind.STEP
        lines = [step.name, *_terms(step)]
        mark = None
        if step.name in self.results:
            result = self.results[step.name]
            mark = _STEP_MARKS.get(result.status)
            lines += _told(result, mark)
        return Box(f"step{index + 1}", kind, tuple(lines), mark)

    def _undo_stage(self, n: int) -> Stage:
        undos = self._undos(n)
        boxes = tuple(self._undo_box(i) for i in undos)
        return Stage(self._undo_id(n), boxes, n + 1, "newest start first" if len(undos) > 1 else "")

    def _undo_box(self, index: int) -> Box:
        step = self.d.steps[index]
        lines = [_undo_name(step), *_attempts(step.compensation_retry)]
        mark = None
        if step.name in self.results:
            mark = _UNDO_MARKS.get(self.results[step.name].status)
            if mark is not None:
                lines.append(f"[{mark}]")
        return Box(f"undo{index + 1}", Kind.UNDO, tuple(lines), mark)

    # -- what leads where -------------------------------------------------------------

    def _undos(self, n: int) -> list[int]:
        """The steps of the stage that a roll-back may have to undo."""
        pivot = self.d.pivot
        return [
            i
            for i in self.stages[n]
            if self.d.steps[i].compensatable and (pivot is None or i <= pivot)
        ]

    def _step_id(self, n: int) -> str:
        steps = self.stages[n]
        return f"step{steps.start + 1}" if len(steps) == 1 else f"group{n + 1}"

    def _undo_id(self, n: int) -> str:
        undos = self._undos(n)
        return f"undo{undos[0] + 1}" if len(undos) == 1 else f"back{n + 1}"

    def _arrows(self) -> Iterator[Arrow]:
        names = ["begin", *(self._step_id(n) for n in range(len(self.stages))), "completed"]
        yield from (Arrow(a, b) for a, b in pairwise(names))
        undone = [self._undo_id(n) for n in reversed(range(len(self.stages))) if self._undos(n)]
        back = [*undone, "compensated"]
        yield from (Arrow(a, b) for a, b in pairwise(back))
        for n in range(len(self.stages)):
            yield from self._turns(n)
        yield from (Arrow(a, "failed", "spent", dotted=True) for a in undone)

    def _turns(self, n: int) -> Iterator[Arrow]:
        """Where the saga goes when the stage goes wrong."""
        here, pivot = self._step_id(n), self.d.pivot
        if pivot is not None and self.stages[n].start > pivot:
            yield Arrow(here, "failed", "fatal", dotted=True)
            return
        known, doubt = self._newest(n - 1), self._newest(n)
        if pivot in self.stages[n] and not self._undos(n):
            doubt = "failed"  # nobody can say that it did not happen, nor take it back
        if len(self.stages[n]) > 1:
            yield Arrow(here, doubt, "one fails", dotted=True)
        elif known == doubt:
            yield Arrow(here, known, "fails", dotted=True)
        else:
            yield Arrow(here, known, "failed", dotted=True)
            yield Arrow(here, doubt, "in doubt", dotted=True)

    def _newest(self, n: int) -> str:
        """Where compensation begins when this stage and none after it may have happened."""
        return next((self._undo_id(k) for k in range(n, -1, -1) if self._undos(k)), "compensated")


_STEP_MARKS = {
    StepStatus.RUNNING: Mark.RUNNING,
    StepStatus.WAITING: Mark.WAITING,
    StepStatus.COMPLETED: Mark.DONE,
    StepStatus.FAILED: Mark.FAILED,
    StepStatus.IN_DOUBT: Mark.DOUBT,
    StepStatus.COMPENSATED: Mark.UNDONE,
    StepStatus.SKIPPED: Mark.SKIPPED,
}
_UNDO_MARKS = {
    StepStatus.COMPENSATING: Mark.RUNNING,
    StepStatus.COMPENSATED: Mark.DONE,
    StepStatus.COMPENSATION_FAILED: Mark.FAILED,
}


def _told(result: StepResult, mark: Mark | None) -> Iterator[str]:
    """What is known of one saga's step. Never by colour alone."""
    if mark is not None:
        until = f" until {iso(result.due_at)}" if mark is Mark.WAITING and result.due_at else ""
        yield f"[{mark}{until}]"
    elif result.due_at is not None:
        yield f"[not before {iso(result.due_at)}]"
    if result.child is not None:
        yield f"[saga {result.child}]"


def _terms(step: StepDefinition) -> Iterator[str]:
    """What was agreed for the step, a line each."""
    if step.pivot:
        yield "no return once it is done"
    if step.child is not None:
        yield f"the saga {step.child.name} @{step.child.version}"
    if step.when is not None:
        yield f"when {getattr(step.when.function, '__name__', 'asked for')}"
    if step.delay:
        yield f"{_span(step.delay)} later"
    if step.timeout is not None:
        yield f"{_span(step.timeout)} at most"
    if step.child is None and _may_wait(step):
        yield "waits for an answer"
    yield from _attempts(step.retry)


def _may_wait(step: StepDefinition) -> bool:
    """Whether the handler's annotation says that it may be answered from outside."""
    annotations = getattr(step.execute.function, "__annotations__", {})
    return "AwaitAnswer" in str(annotations.get("return", ""))


def _undo_name(step: StepDefinition) -> str:
    if step.child is not None:
        return f"cancel or undo {step.child.name}"
    function = step.compensate.function if step.compensate is not None else None
    name = getattr(function, "__name__", "")
    return name if name.isidentifier() and name != "compensate" else f"undo {step.name}"


def _attempts(policy: RetryPolicy) -> Iterator[str]:
    if policy.max_attempts is None:
        yield "until it succeeds"
    elif policy.max_attempts > 1:
        yield f"up to {policy.max_attempts} attempts"


def _span(length: timedelta) -> str:
    """In the largest unit that it is a whole number of."""
    seconds = length.total_seconds()
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:g} s"
