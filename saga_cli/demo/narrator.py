"""Tells what happens, from what can be seen: invocations, audit lines, calls of the services."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from examples.services import Call, World
from saga_cli.local.pump import Ending, Invocation
from saga_cli.local.stack import LocalStack
from saga_cli.parts import LogLine

SHORT_MS = 5_000  # a wait that is not worth a word


class Tone(StrEnum):
    """How a line is meant."""

    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    ODD = "odd"
    FAINT = "faint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened. ``detail`` is what the services saw of it."""

    at_ms: int
    actor: str
    text: str
    detail: str = ""
    tone: Tone = Tone.PLAIN


Teller = Callable[[Line], None]


@dataclass(slots=True)
class Narrator:
    """Watches one scenario.

    Args:
        stack: Where it plays.
        world: The services that the sagas call.
        tell: Where lines go.
        began_ms: The zero of their times.
    """

    stack: LocalStack
    world: World
    tell: Teller
    began_ms: int
    _logs_read: int = field(init=False)
    _calls_read: int = field(init=False)
    _delivered_ms: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.skip()

    def say(self, actor: str, text: str, *, detail: str = "", tone: Tone = Tone.PLAIN) -> None:
        """Tell a line of one's own."""
        at = self.stack.clock.now_ms() - self.began_ms
        self.tell(Line(at_ms=at, actor=actor, text=text, detail=detail, tone=tone))

    def skip(self) -> None:
        """Leave out what happened so far."""
        self._logs_read, self._calls_read = len(self.stack.log), len(self.world.calls)

    def watch(self, invocation: Invocation) -> None:
        """Tell an invocation of a function behind a queue or a schedule."""
        logs = self.stack.log[self._logs_read :]
        calls = self.world.calls[self._calls_read :]
        self.skip()
        if not self._delivered(invocation):
            return
        if invocation.ending is Ending.KILLED:
            self._killed(invocation, calls)
        for line in logs:
            told = _TOLD.get(str(line.fields.get("function", "starter")), _nothing)(
                line, invocation
            )
            for actor, text, tone in told:
                self.say(actor, text, detail=_seen(calls), tone=tone)
                calls = []

    def _delivered(self, invocation: Invocation) -> bool:
        """Tell of a message that comes back. False for a surplus one that goes the same way."""
        for message in invocation.messages:
            if invocation.returned and _reason(invocation) == "sweep":
                return False
            waited = invocation.at - self._delivered_ms.get(message["MessageId"], invocation.at)
            self._delivered_ms[message["MessageId"]] = invocation.at
            if waited > SHORT_MS and invocation.source == "WorkQueue":
                count = message["Attributes"]["ApproximateReceiveCount"]
                text = f"the message is back after {duration(waited)} (delivery {count})"
                self.say("queue", text, tone=Tone.FAINT)
        return True

    def _killed(self, invocation: Invocation, calls: list[Call]) -> None:
        saga_id = json.loads(invocation.messages[0]["Body"])["k"].partition("#")[2]
        saga = self.stack.saga(saga_id)
        step = saga.steps[saga.current_step].name
        text = f"{step}: killed in the middle, nothing recorded"
        self.say("worker", text, detail=_seen(calls), tone=Tone.BAD)
        self.say("queue", "nobody deleted the message: it will be back", tone=Tone.FAINT)


Told = Iterator[tuple[str, str, Tone]]


def _nothing(_line: LogLine, _invocation: Invocation) -> Told:
    return iter(())


def _starter(line: LogLine, _invocation: Invocation) -> Told:
    if line.message == "saga.started":
        yield "starter", f"saga {line.fields['saga_id']} is {line.fields['to']}", Tone.PLAIN


def _worker(line: LogLine, _invocation: Invocation) -> Told:
    fields = line.fields
    decision = fields["decision"]
    if decision == "committed":
        yield "worker", *_attempt(fields)
        if fields["from"] != fields["to"]:
            yield "saga", str(fields["to"]), _STATES.get(str(fields["to"]), Tone.PLAIN)
    elif decision == "definition_missing":
        yield "worker", "no such saga in this code: the message goes back", Tone.ODD
    else:
        yield "worker", _SURPLUS.get(str(decision), str(decision)), Tone.FAINT


def _attempt(fields: object) -> tuple[str, Tone]:
    given = cast("dict[str, object]", fields)
    step, kind = given.get("step"), given.get("error_kind")
    again = f" (attempt {given['attempt']})" if cast("int", given.get("attempt", 1)) > 1 else ""
    match given.get("result"):
        case "StepSucceeded":
            return f"{step}: done{again}", Tone.GOOD
        case "StepFailed":
            return f"{step}: failed, {kind}{again}", Tone.BAD
        case "StepInDoubt":
            return f"{step}: in doubt, {kind}{again}", Tone.ODD
        case "CompensationSucceeded":
            return f"undo {step}: done{again}", Tone.ODD
        case "CompensationFailed":
            return f"undo {step}: failed, {kind}{again}", Tone.BAD
        case _:
            return f"no step is run: {given.get('withheld')}", Tone.ODD


def _dead_letters(line: LogLine, invocation: Invocation) -> Told:
    which = "the surplus message" if _reason(invocation) == "sweep" else "the message"
    yield "queue", f"{which}: out of deliveries, now a dead letter", Tone.BAD
    match line.fields["decision"]:
        case "revived":
            yield "dead letters", "brought back to work, with a delay", Tone.GOOD
        case "stalled":
            yield "dead letters", "given up: the saga is FAILED", Tone.BAD
        case decision:
            yield "dead letters", _SURPLUS.get(str(decision), str(decision)), Tone.FAINT


def _sweeper(line: LogLine, _invocation: Invocation) -> Told:
    if line.fields.get("decision") == "sent":
        yield "sweeper", "the saga has not moved for a while: announced once more", Tone.FAINT


_TOLD = {
    "starter": _starter,
    "worker": _worker,
    "dead_letters": _dead_letters,
    "sweeper": _sweeper,
}
_STATES = {
    "COMPLETED": Tone.GOOD,
    "COMPENSATED": Tone.GOOD,
    "COMPENSATING": Tone.ODD,
    "FAILED": Tone.BAD,
}
_SURPLUS = {
    "closed": "a message of a saga that has ended: dropped",
    "stale": "a message of a step that is settled: dropped",
    "redispatched": "a message of a step that is settled: the next one is announced",
    "suppressed": "a surplus message: put back for a minute",
    "lease_conflict": "somebody is at it: put back",
    "early": "not due yet: put back",
}


def _reason(invocation: Invocation) -> str:
    """Who sent the message in hand, and why."""
    return str(json.loads(invocation.messages[0]["Body"]).get("r"))


def _seen(calls: list[Call]) -> str:
    return "; ".join(f"{call.operation} {call.subject}: {call.outcome}" for call in calls)


def duration(ms: int) -> str:
    """A time that people can read."""
    seconds = round(ms / 1000)
    minutes, seconds = divmod(seconds, 60)
    parts = [f"{minutes} min" if minutes else "", f"{seconds} s" if seconds else ""]
    return " ".join(part for part in parts if part) or f"{ms} ms"
