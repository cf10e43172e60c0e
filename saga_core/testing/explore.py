"""Proofs for authors: is *your* saga, against *your* fakes, crash-safe?

    from saga_core.testing import explore, prove_rollback

    def test_order_is_crash_safe():
        assert (report := explore(order, Order(sku="tea"), world)).ok, report

``world`` is your fake services: anything with ``reset()`` and ``snapshot()``.
The snapshot is what must be equal when nothing stands: balances, reservations,
parcels; not counters of calls, which repeats may raise.

Where steps wait for answers, ``answers`` says what comes:

    explore(order, context, world, answers={"approve": {"approved_by": "ann"}})
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol, TypeAlias, cast

from saga_core.authoring import Saga
from saga_core.calls import StepCall
from saga_core.contexts import ContextCodec, StandardContextCodec
from saga_core.definition import Handler, SagaDefinition, StepDefinition
from saga_core.effects import Effect
from saga_core.events import AnswerGiven, ResumeRequested
from saga_core.instance import SagaInstance, SagaState, Why
from saga_core.outcome import AwaitAnswer, Fatal, OutcomeUnknown, StepError
from saga_core.testing.simulation import (
    Chooser,
    Fault,
    Profile,
    Simulation,
    describe,
    faults_for,
    wait_for,
)

_MOST_STEPS = 5_000  # of one run; a saga that needs more will not end
_ANSWER_MS = 1_000  # after the question

Fields: TypeAlias = Mapping[str, object]
Answers: TypeAlias = Mapping[str, Fields | Callable[[StepCall], Fields]]


class ObservableWorld(Protocol):
    """Your fake services, as seen from outside."""

    def reset(self) -> None:
        """Nothing happened yet."""

    def snapshot(self) -> object:
        """What stands, as a value that ``==`` compares. It is copied."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A run that left the world in a state that the saga's end does not justify.

    Attributes:
        schedule: What was done to the saga, in words.
        end: Where it ended.
        wrong: What is wrong about that.
        trace: Every effect of the run, in order.
    """

    schedule: str
    end: SagaState
    wrong: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.schedule}: {self.end}, but {self.wrong}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a proof came to. ``str`` of it is for people.

    Attributes:
        runs: How many there were.
        findings: Those that ended wrong.
        without_faults: How the saga ended when nothing went wrong, if it did
            not complete: a saga that never gets far proves little.
    """

    name: str
    runs: int
    findings: tuple[Finding, ...]
    without_faults: str | None = None

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        head = f"{self.name}: {self.runs} runs, {len(self.findings)} findings"
        lines = [f"  {n}. {f}" for n, f in enumerate(self.findings, 1)]
        if self.without_faults is not None:
            lines.insert(0, f"  without any fault it ended {self.without_faults}")
        if self.findings:
            lines += ["", "  the first of them, effect by effect:"]
            lines += [f"  {line}" for line in self.findings[0].trace]
        return "\n".join([head, *lines])


class _Script(Chooser):
    """Faults at numbered effects; no chance."""

    def __init__(self, faults: dict[int, Fault]) -> None:
        super().__init__(0, Profile())
        self._faults = faults
        self.effects: list[Effect[object]] = []

    def pick(self, count: int) -> int:
        """The first that can: one worker at a time."""
        return min(count - 1, 0)

    def fault(self, effect: Effect[object]) -> Fault | None:
        """What the script says."""
        self.effects.append(effect)
        return self._faults.get(len(self.effects) - 1)


@dataclass(frozen=True, slots=True)
class _Run:
    saga: SagaInstance
    quiet: bool
    left: object
    effects: list[Effect[object]]
    trace: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Variant:
    """What is run: a definition, perhaps with a step that fails, and what is answered."""

    label: str
    definition: SagaDefinition
    answers: Answers


@dataclass(slots=True)
class _Prover:
    definition: SagaDefinition
    context: object
    world: ObservableWorld
    codec: ContextCodec
    answers: Answers
    findings: list[Finding] = field(default_factory=list)
    runs: int = 0

    def run(self, variant: _Variant, faults: dict[int, Fault]) -> _Run:
        self.world.reset()
        self.runs += 1
        script = _Script(faults)
        sim = Simulation({}, script, codec=self.codec)
        deployed = _answered(variant.definition, variant.answers, sim)
        sim.definitions = {d.ref: d for d in (*deployed.children, deployed)}
        saga_id = sim.begin(deployed, self.context, "explored")
        quiet = sim.run(_MOST_STEPS)
        saga = _of(sim, saga_id)  # its client tries until it stands
        if saga.why is Why.FORWARD_FAILED and variant.definition is not self.definition:
            # Past the point of no return what fails for good is repaired, and the saga resumed.
            repaired = _answered(self.definition, variant.answers, sim)
            sim.deploy(sim.now, {d.ref: d for d in (*repaired.children, repaired)})
            sim.ask(sim.now + _ANSWER_MS, saga_id, lambda at: ResumeRequested(by="repair", at=at))
            quiet = sim.run(sim.steps + _MOST_STEPS)
            saga = _of(sim, saga_id)
        return _Run(saga, quiet, self.stands(), script.effects, tuple(sim.trace))

    def variants(self) -> list[_Variant]:
        """The saga as it is, with each step failing, and with each answer missing."""
        plain = _Variant("", self.definition, self.answers)
        failing = [
            replace(
                plain,
                label=f"{step.name} fails; ",
                definition=_failing(self.definition, step.name, after_effect=False),
            )
            for step in self.definition.steps
        ]
        others = [
            replace(
                plain,
                label=f"nobody answers {name}; ",
                answers={k: v for k, v in self.answers.items() if k != name},
            )
            for name in self.answers
        ]
        return [plain, *failing, *others]

    def stands(self) -> object:
        """What stands now: a copy, because what the world hands out may go on changing."""
        return deepcopy(self.world.snapshot())

    def nothing(self) -> object:
        """What stands in a world in which nothing happened."""
        self.world.reset()
        return self.stands()

    def judge(
        self, run: _Run, schedule: str, *, untouched: object, completed: object | None
    ) -> None:
        """Hold the world against where the saga ended."""
        state = run.saga.state
        wrong: str | None = None
        if run.saga.live or not run.quiet:
            wrong = "nothing will move it any more"
        elif state is SagaState.COMPENSATED and run.left != untouched:
            wrong = f"{_difference(untouched, run.left)} is left standing"
        elif state is SagaState.COMPLETED and completed is not None and run.left != completed:
            other = _difference(completed, run.left)
            wrong = f"the world is not as after a run without faults: {other}"
        elif state is SagaState.FAILED:
            error = run.saga.failure
            wrong = f"it stopped ({error.kind}: {error.message})" if error else "it stopped"
        if wrong is not None:
            self.findings.append(Finding(schedule, state, wrong, run.trace))

    def report(self, name: str, plain: _Run) -> Report:
        head = f"{name} of {self.definition.name}"
        return Report(head, self.runs, tuple(self.findings), _unexpected(plain.saga))


def explore(
    saga: Saga | SagaDefinition,
    context: object,
    world: ObservableWorld,
    *,
    faults: Literal[1, 2] = 1,
    codec: ContextCodec | None = None,
    answers: Answers | None = None,
) -> Report:
    """Run the saga with one fault at every place where one can happen, or with every two.

    Places are all effects of a run that completes, and of the roll-backs that
    follow when each step fails in turn, or an answer does not come; the faults at
    each are a crash before it, a crash after it, a lost answer, a
    refusal, a stall past the lease, and a request that arrives long after its
    time-out. A step that fails for good past the pivot is repaired, and the
    saga resumed.

    One fault a run takes a second or so. ``faults=2`` also tries every pair, the
    second anywhere after the first: some hundred times as many runs.

    Args:
        saga: What is proven.
        context: What it is started with.
        world: Your fake services.
        faults: How many a run has.
        codec: How the context is read, if not in the standard way.
        answers: By step, the fields that whoever was asked answers with, or a
            function of the question that does what was asked for and gives them.
            One that raises refuses, and leaves nothing of what it was asked. A step
            that is not named is never answered.
    """
    prover = _prover(saga, context, world, codec, answers)
    untouched = prover.nothing()
    variants = prover.variants()
    plain = prover.run(variants[0], {})
    prover.judge(plain, "without any fault", untouched=untouched, completed=None)
    completed = plain.left
    for variant in variants:
        for place, fault in _places(prover.run(variant, {})):
            first = prover.run(variant, {place: fault})
            told = f"{variant.label}{fault} at {describe(first.effects[place])}"
            prover.judge(first, told, untouched=untouched, completed=completed)
            for later, another in _places(first, after=place) if faults > 1 else ():
                second = prover.run(variant, {place: fault, later: another})
                also = f"{told}, {another} at {describe(second.effects[later])}"
                prover.judge(second, also, untouched=untouched, completed=completed)
    return prover.report("exploration", plain)


def _places(run: _Run, after: int = -1) -> list[tuple[int, Fault]]:
    """Where something can go wrong in this run, and what."""
    return [
        (number, fault)
        for number, effect in enumerate(run.effects)
        if number > after
        for fault in faults_for(effect)
    ]


def prove_rollback(
    saga: Saga | SagaDefinition,
    context: object,
    world: ObservableWorld,
    *,
    codec: ContextCodec | None = None,
    answers: Answers | None = None,
) -> Report:
    """Compare the world before and after the roll-back from every failing step.

    Each step fails twice: before its effect, and after it with its answer lost.
    A saga that is past its pivot, or may be, does not roll back: there what fails
    is repaired and resumed, and the world has to be that of a run without faults.
    ``answers`` is as for ``explore``.
    """
    prover = _prover(saga, context, world, codec, answers)
    untouched = prover.nothing()
    variant = _Variant("", prover.definition, prover.answers)
    plain = prover.run(variant, {})
    completed = plain.left if plain.saga.state is SagaState.COMPLETED else None
    prover.runs = 0  # that one is no roll-back
    for step in prover.definition.steps:
        for after_effect in (False, True):
            definition = _failing(prover.definition, step.name, after_effect=after_effect)
            run = prover.run(replace(variant, definition=definition), {})
            moment = "after its effect, its answer lost" if after_effect else "before its effect"
            told = f"{step.name} fails {moment}"
            prover.judge(run, told, untouched=untouched, completed=completed)
    return prover.report("roll-backs", plain)


def _prover(
    saga: Saga | SagaDefinition,
    context: object,
    world: ObservableWorld,
    codec: ContextCodec | None,
    answers: Answers | None,
) -> _Prover:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass  # as it must be: async handlers get a loop of their own
    else:
        raise RuntimeError("explore and prove_rollback are not for async tests: call them in a def")
    definition = saga.build() if isinstance(saga, Saga) else saga
    answers = answers or {}
    strangers = sorted(answers.keys() - {step.name for step in definition.steps})
    if strangers:
        raise ValueError(f"answers for steps that {definition.name} does not have: {strangers}")
    if definition.context_type is None:
        definition = replace(definition, context_type=type(context))
    codec = codec or StandardContextCodec()
    codec.decode(codec.encode(context), definition.context_type)  # is it one of this saga's?
    return _Prover(definition, context, world, codec, answers)


def _of(sim: Simulation, saga_id: str) -> SagaInstance:
    return next(saga for saga in sim.sagas if saga.id == saga_id)


# -- answers ------------------------------------------------------------------------


def _answered(d: SagaDefinition, answers: Answers, sim: Simulation) -> SagaDefinition:
    """The saga with somebody who answers what its steps ask."""
    steps = (
        replace(s, execute=Handler.of(partial(_asks, s, answers[s.name], sim)))
        if s.name in answers
        else s
        for s in d.steps
    )
    return replace(d, steps=tuple(steps))


def _asks(
    step: StepDefinition,
    says: Fields | Callable[[StepCall], Fields],
    sim: Simulation,
    ctx: object,
    call: StepCall,
) -> object:
    result = _finish(step.execute(ctx, call))
    if isinstance(result, AwaitAnswer):
        sim.tell(sim.now + _ANSWER_MS, call.token, partial(_said, says, call))
    return result


def _said(says: Fields | Callable[[StepCall], Fields], call: StepCall, at: int) -> AnswerGiven:
    try:
        fields = says(call) if callable(says) else says
    except Exception as exc:  # noqa: BLE001 - the user's way to say no
        return AnswerGiven(step="", ok=False, by="answers", at=at, error=StepError.of(exc))
    return AnswerGiven(step="", ok=True, by="answers", at=at, fields=json.dumps(dict(fields)))


def _unexpected(saga: SagaInstance) -> str | None:
    """How a saga ended that did not complete, and at which step and error."""
    if saga.state is SagaState.COMPLETED:
        return None
    error = saga.cause.error if saga.cause is not None else saga.failure
    at = f" at {saga.cause.step}" if saga.cause is not None and saga.cause.step else ""
    return f"{saga.state}{at}" + (f", {error.kind}: {error.message}" if error is not None else "")


def _failing(definition: SagaDefinition, name: str, *, after_effect: bool) -> SagaDefinition:
    """The saga with a step that always fails, before its effect or after it.

    A step past the pivot is tried until it succeeds: its answer is lost once.
    """
    pivot = definition.pivot
    past = pivot is not None and definition.index(name) > pivot

    def execute(ctx: object, call: StepCall) -> object:
        if not after_effect:
            raise Fatal("the step fails, to see the roll-back")
        result = _finish(definition.step(name).execute(ctx, call))
        if past and call.attempt > 1:
            return result
        raise OutcomeUnknown("the step's answer is lost, to see the roll-back")

    steps = tuple(
        replace(s, execute=Handler.of(execute)) if s.name == name else s for s in definition.steps
    )
    return replace(definition, steps=steps)


def _finish(result: object) -> object:
    return wait_for(cast("Awaitable[object]", result)) if inspect.isawaitable(result) else result


def _difference(wanted: object, found: object) -> str:
    """What is in one and not in the other, in a few words."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = [k for k in {**wanted, **found} if wanted.get(k) != found.get(k)]
        return ", ".join(f"{k!r} ({wanted.get(k)!r} became {found.get(k)!r})" for k in keys)
    if isinstance(wanted, list | tuple | set | frozenset) and isinstance(found, type(wanted)):
        more = [v for v in found if v not in wanted]
        less = [v for v in wanted if v not in found]
        return ", ".join([*(repr(v) for v in more), *(f"no {v!r}" for v in less)])
    return f"{wanted!r} became {found!r}"
