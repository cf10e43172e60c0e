"""Random sagas of every construct, and a script that says what comes of each call.

The script counts the calls itself, so that every driver plays the same plot: what
a handler does hangs on nothing but which step it is, which way, and how often it
was called before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from saga_core import (
    AwaitAnswer,
    Fatal,
    OutcomeUnknown,
    RetryPolicy,
    Saga,
    SagaDefinition,
    StepCall,
)
from saga_core.calls import Direction
from saga_core.instance import SagaInstance

Context = dict[str, Any]
PATIENT = timedelta(seconds=1)
WAIT = timedelta(minutes=5)


@dataclass
class Script:
    """What each call comes to, and what was done.

    Attributes:
        outcomes: By step and direction: what its calls come to, one after the other; then "done".
        done: What took effect, in order.
        tokens: Whoever holds one of these has not answered yet: token and answer.
    """

    outcomes: dict[tuple[str, Direction], tuple[str, ...]]
    answers: dict[str, bool | None]
    done: list[str] = field(default_factory=list)
    tokens: list[tuple[str, str, bool]] = field(default_factory=list)
    calls: Counter[tuple[str, Direction]] = field(default_factory=Counter)

    def play(self, name: str, ctx: Context, call: StepCall) -> AwaitAnswer | None:
        """One call of a handler."""
        spot = (name, call.direction)
        turn = self.calls[spot]
        self.calls[spot] += 1
        told = self.outcomes.get(spot, ())
        outcome = told[turn] if turn < len(told) else "done"
        match outcome:
            case "failed":
                raise ValueError(name)
            case "fatal":
                raise Fatal(name)
            case "unknown":
                self.done.append(f"{call.direction}{name}?")
                raise OutcomeUnknown(name)
            case _:
                pass
        self.done.append(f"{call.direction}{name}")
        if call.direction is Direction.COMPENSATION:
            return None
        ctx[name] = turn + 1
        answer = self.answers.get(name)
        if name in self.answers:
            if answer is not None:
                self.tokens.append((call.token, name, answer))
            return AwaitAnswer(timeout=WAIT)
        return None


@dataclass(frozen=True)
class Plot:
    """A saga and its script, to be played by any driver."""

    seed: int

    def build(self) -> tuple[SagaDefinition, Script]:
        """The same every time."""
        draw = Random(f"plot {self.seed}")
        script = Script({}, {})
        return _saga(draw, script, f"s{self.seed}", depth=0), script


def _saga(draw: Random, script: Script, name: str, *, depth: int) -> SagaDefinition:
    count = draw.randrange(1, 6 if depth == 0 else 3)
    pivot = draw.choice([None, None, draw.randrange(count)]) if depth == 0 else None
    saga = Saga(
        name,
        timeout=timedelta(days=30),
        on_compensation_failure=draw.choice(["halt", "continue"]),
    )
    group, left = 0, 0
    for n in range(count):
        step = f"{name}.{n}"
        alone = n == pivot
        if left == 0 and not alone and draw.random() < 0.4:
            group, left = group + 1, draw.randrange(2, 4)
        grouped = left > 0 and not alone
        left = 0 if alone else max(0, left - 1)
        past = pivot is not None and n > pivot
        options: dict[str, Any] = {
            "name": step,
            "pivot": alone,
            "group": f"g{group}" if grouped else None,
        }
        if not alone and draw.random() < 0.25:
            options["when"] = _condition(draw)
        if draw.random() < 0.2:
            options["delay"] = timedelta(seconds=draw.choice([30, 600]))
        retry = RetryPolicy(
            max_attempts=None if past else draw.choice([1, 2]), base=PATIENT, cap=PATIENT
        )
        # Not in a group: how far a child has come when its neighbour fails is a matter of time.
        if depth < 2 and pivot is None and not grouped and draw.random() < 0.3:
            child = _saga(draw, script, f"{name}.{n}c", depth=depth + 1)
            saga.child(child, into=step, retry=retry, **options)(_input)
            continue
        _outcomes(draw, script, step, past=past)
        if draw.random() < 0.2:
            script.answers[step] = draw.choice([True, True, False, None])
            if past:  # it would be asked for ever
                script.answers[step] = True
        handle = saga.step(retry=retry, **options)(_player(script, step))
        handle.compensate(retry=RetryPolicy(max_attempts=2, base=PATIENT, cap=PATIENT))(
            _player(script, step)
        )
    return saga.build()


def _outcomes(draw: Random, script: Script, step: str, *, past: bool) -> None:
    forward = ["done"] * 5 + ["failed", "unknown"] + ([] if past else ["fatal"])
    script.outcomes[step, Direction.FORWARD] = tuple(draw.choice(forward) for _ in range(2))
    back = ["done"] * 6 + ["failed", "unknown"]
    script.outcomes[step, Direction.COMPENSATION] = tuple(draw.choice(back) for _ in range(2))


def _player(script: Script, step: str) -> Callable[[Context, StepCall], AwaitAnswer | None]:
    def handler(ctx: Context, call: StepCall) -> AwaitAnswer | None:
        return script.play(step, ctx, call)

    return handler


def _condition(draw: Random) -> Callable[[Context], bool]:
    even = draw.random() < 0.5
    return lambda ctx: (len(ctx) % 2 == 0) is even


def _input(ctx: Context) -> Context:
    return {"from": sorted(ctx)}


def seen(saga: SagaInstance) -> dict[str, Any]:
    """What must be the same whoever drove the saga: all but times and ids."""
    return {
        "state": saga.state,
        "why": saga.why,
        "cause": (saga.cause.kind, saga.cause.step) if saga.cause is not None else None,
        "context": saga.context,
        "standing": saga.standing,
        "steps": [
            (s.name, s.status, s.attempts, s.undo_attempts, s.error.kind if s.error else None)
            for s in saga.step_results
        ],
    }
