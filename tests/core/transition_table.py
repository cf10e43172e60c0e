"""Walk through every state that a plain saga can reach, and write docs/transitions.md.

    python -m tests.core.transition_table

The walk applies every event to every state and follows the ones that can come.
States that differ only in times, ids and counts are shown as one; where a count
decides (is the budget spent?), the row shows both answers. The constructs that are
more than plain steps have sections from ``flow_tables``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from saga_core.actions import Action, Settle
from saga_core.calls import Direction
from saga_core.errors import IllegalEventError
from saga_core.events import (
    CancelRequested,
    Claimed,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    ResumeRequested,
    SkipRequested,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    TakenOver,
    Withheld,
)
from saga_core.instance import SagaInstance, SagaState
from saga_core.retry import RetryPolicy
from saga_core.transition import MAX_STALLS, Ignored, apply, next_actions
from tests.core.flow_tables import Told, walked
from tests.core.flow_tables import sections as flow_sections
from tests.core.sagas import BOOM, LEASE, MINUTE, new, saga, step

NO = ["illegal"]
TARGET = Path(__file__).parents[2] / "docs" / "transitions.md"

_TWICE = RetryPolicy(max_attempts=2, max_lost=2, base=timedelta(0))
DEFINITION = saga(
    step("a", retry=_TWICE, compensation_retry=_TWICE),
    step("b", retry=_TWICE, compensation_retry=_TWICE),
)


@dataclass(frozen=True)
class Node:
    """A saga at a moment, and what the holder of its claim is about to do."""

    i: SagaInstance
    now: int
    doing: Action | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What decides about the future: everything but times, ids and old counts."""
        i, lane = self.i, self.i.lane
        return (
            Seen.of(self),
            min(lane.attempts - lane.reported, _TWICE.max_lost + 1),
            lane.reported,
            lane.clean > 0,
            lane.nudge is not None and lane.nudge.at > self.now - MINUTE,
            lane.due_at > self.now,
            tuple(s.doubt for s in i.steps),
            type(self.doing),  # not its attempt, which a resume counts on
        )


@dataclass(frozen=True)
class Seen:
    """What a reader sees of a state; times, ids and counts are left out."""

    state: SagaState
    codes: str
    at: str | None  # the current step of a saga that moves
    held: str | None  # free; held; lapsed: claimed, but the lease has run out
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, n: Node) -> Seen:
        """What is seen of a node."""
        i, lane = n.i, n.i.lane
        forward = i.phase is Direction.FORWARD
        codes = " ".join(
            f"{s.code}?" if forward and k == lane.index and lane.tries > lane.clean else s.code
            for k, s in enumerate(i.steps)
        )
        notes = ["cancel asked for"] if forward and i.cancel is not None else []
        if lane.lease is None:
            held = "free"
        else:
            held = "held" if lane.lease.until >= n.now else "lapsed"
            if isinstance(n.doing, Settle):
                notes.append(f"to be withheld: {n.doing.reason}")
        if not i.live:
            return cls(i.state, codes, None, None, tuple(notes))
        return cls(i.state, codes, i.steps[lane.index].name, held, tuple(notes))

    def since(self, old: Seen) -> str:
        """What is seen of this state by somebody who knows the old one."""
        words = []
        if self.state is not old.state:
            words.append(f"**{self.state}**")
        if self.codes != old.codes:
            words.append(f"`{self.codes}`")
        if self.at not in (old.at, None):
            words.append(f"at {self.at}")
        return " ".join(words)


def events(n: Node) -> Iterator[tuple[str, Event]]:
    """Every event that is worth telling apart, by the name that the table uses."""
    i, at = n.i, n.now

    def claim(claim_id: str, epoch: int, now: int = at) -> Claimed:
        return Claimed(
            claim_id=claim_id, epoch=epoch, definition=i.definition, until=now + LEASE, at=now
        )

    def dead(epoch: int) -> DeliveryExhausted:
        return DeliveryExhausted(
            epoch=epoch, definition=i.definition, nudge_id="n", error=BOOM, at=at
        )

    yield "claim", claim(f"c{i.version}", i.lane.epoch)
    late = max(at, i.deadline_at)
    yield "claim after the deadline", claim(f"c{i.version}", i.lane.epoch, late)
    yield "claim of an older item", claim("old", i.lane.epoch - 1)
    if i.lane.lease is not None:
        yield "the holder's claim again", claim(i.lane.lease.id, i.lane.epoch)
    if i.lane.last_id is not None:
        yield (
            "answer of the last holder again",
            StepSucceeded(claim_id=i.lane.last_id, context="{}", at=at),
        )
    yield "answer of a stranger", CompensationSucceeded(claim_id="who", context=None, at=at)
    yield "cancel", CancelRequested(by="ops", at=at)
    yield "resume", ResumeRequested(by="ops", at=at)
    for s in i.steps:
        yield f"skip {s.name}", SkipRequested(step=s.name, by="ops", at=at)
    yield "dead letter", dead(i.lane.epoch)
    yield "dead letter once too often", dead(i.lane.epoch)
    yield "dead letter of an older item", dead(i.lane.epoch - 1)
    yield "take-over", TakenOver(at=at)


def answers(n: Node, claim_id: str) -> Iterator[tuple[str, Event]]:
    """What the holder of the claim may answer."""
    at = n.now
    if isinstance(n.doing, Settle):
        reason = n.doing.reason
        yield f"withheld: {reason}", Withheld(claim_id=claim_id, reason=reason, at=at)
        return
    yield "done", StepSucceeded(claim_id=claim_id, context="{}", at=at)
    for flag, word in ((False, "failed"), (True, "failed for good")):
        yield word, StepFailed(claim_id=claim_id, error=BOOM, fatal=flag, jitter=0.0, at=at)
    for flag, word in ((False, "in doubt"), (True, "in doubt for good")):
        yield word, StepInDoubt(claim_id=claim_id, error=BOOM, final=flag, jitter=0.0, at=at)
    yield "undone", CompensationSucceeded(claim_id=claim_id, context="{}", at=at)
    for flag, word in ((False, "undo failed"), (True, "undo failed for good")):
        yield (
            word,
            CompensationFailed(claim_id=claim_id, error=BOOM, fatal=flag, jitter=0.0, at=at),
        )


def later(n: Node) -> Iterator[Node]:
    """The same saga when time has passed, to the next moment that makes a difference."""
    lane = n.i.lane
    moments = [lane.due_at]
    if lane.lease is not None:
        moments.append(lane.lease.until + 1)
    if lane.nudge is not None:
        moments.append(lane.nudge.at + MINUTE)
    coming = [at for at in moments if at > n.now]
    if coming and n.i.live:
        yield replace(n, now=min(coming))


def happens(n: Node, name: str, event: Event) -> tuple[str, Node | None]:
    """What an event does, in words, and where it leads."""
    before = replace(n.i, stalls=MAX_STALLS - 1) if name.endswith("too often") else n.i
    try:
        outcome = apply(DEFINITION, before, event)
    except IllegalEventError:
        return NO[0], None
    if isinstance(outcome, Ignored):
        return f"_{outcome.reason}_", None
    after = replace(outcome.instance, version=n.i.version + 1)
    after = replace(after, stalls=0)  # the last visit has an event of its own
    doing = n.doing if after.lane.lease is not None else None
    now = event.at
    (action,) = next_actions(DEFINITION, after, now)
    node = Node(after, now, action if isinstance(event, Claimed) else doing)
    words = Seen.of(node).since(Seen.of(n))
    if isinstance(event, Claimed):
        words = f"to be withheld: {action.reason}" if isinstance(action, Settle) else "held"
    elif isinstance(event, CancelRequested) and after.phase is Direction.FORWARD:
        words = "cancel asked for"
    elif isinstance(event, TakenOver):
        words = "free"
    elif isinstance(event, DeliveryExhausted) and after.live:
        words = "due later"
    return words or "as it was", node


Results = dict[str, list[str]]  # by event


@dataclass
class Observed:
    """What a walk through every state has seen.

    Attributes:
        answers: By state, what the answers of the holder of its claim do.
        withheld: By state, what the claims that make no call do.
        requests: By state, what a person's requests do to a FAILED saga.
        rest: By state without its steps, what everything else does.
        moves: The events that lead from one SagaState to another.
    """

    answers: dict[Seen, Results] = field(default_factory=dict)
    withheld: dict[Seen, Results] = field(default_factory=dict)
    requests: dict[Seen, Results] = field(default_factory=dict)
    rest: dict[Seen, Results] = field(default_factory=dict)
    moves: dict[tuple[SagaState, SagaState], list[str]] = field(default_factory=dict)
    states: int = field(init=False)

    def __post_init__(self) -> None:
        start = new(DEFINITION)
        todo = [Node(start, start.created_at)]
        seen = {todo[0].key}
        while todo:
            n = todo.pop(0)
            for node in [*later(n), *self.visit(n)]:
                if node.key not in seen:
                    seen.add(node.key)
                    todo.append(node)
        self.states = len(seen)

    def visit(self, n: Node) -> Iterator[Node]:
        """Apply every event to a state; gives the states that follow."""
        state = Seen.of(n)
        if n.i.lane.lease is not None:
            for name, event in answers(n, n.i.lane.lease.id):
                # Whether the lease has run out and, for a withheld attempt, what was asked
                # for meanwhile, makes no difference: it would show as one answer more.
                settle = isinstance(n.doing, Settle)
                plain = replace(state, held="held", notes=() if settle else state.notes)
                table = self.withheld if settle else self.answers
                yield from self.note(n, table, plain, name, event)
        anyhow = replace(state, codes="", at=None)
        for name, event in events(n):
            person = isinstance(event, CancelRequested | ResumeRequested | SkipRequested)
            if person and state.state is SagaState.FAILED:
                yield from self.note(n, self.requests, state, name, event)
            else:
                yield from self.note(n, self.rest, anyhow, name, event)

    def note(
        self, n: Node, table: dict[Seen, Results], state: Seen, name: str, event: Event
    ) -> Iterator[Node]:
        """Write down what an event does."""
        result, after = happens(n, name, event)
        results = table.setdefault(state, {}).setdefault(name, [])
        if result not in results:
            results.append(result)
        if after is not None:
            if after.i.state is not n.i.state:
                names = self.moves.setdefault((n.i.state, after.i.state), [])
                if name not in names:
                    names.append(name)
            yield after


DOCUMENT = """\
# Every transition

Written by `python -m tests.core.transition_table`; a test fails when it is stale. First a plain
saga of two steps, then each construct by itself.

The plain saga is walked through the {states:,} states that steps `a` and `b` can reach when two
attempts may fail and two may be lost, in each direction. Times, ids and counts are left out, and
states that look the same are one row. Where a count or the time decides, a cell has several
answers.

Codes: `-` not started, `P` failed and to be tried again, `OK` done, `U` in doubt, `NO` did not
happen, `C` undone, `CF` could not be undone, `SK` skipped. `?` says that an attempt of the current
step has not reported. *In italics*: ignored, and why.

## The states

```mermaid
stateDiagram-v2
    [*] --> CREATED
{diagram}
    COMPLETED --> [*]
    COMPENSATED --> [*]
```

## Answers of the attempt in flight, going forward

{forward}

## Answers of the attempt in flight, going back

Here and above, an answer of the other direction is illegal and changes nothing.

{back}

## Claims that make no call

{withheld}

## What a person may ask of a FAILED saga

{requests}

## Everything else, whatever the steps

*Lapsed* is a claim whose lease has run out. An item or an answer is older when another one has
been committed since.

{rest}

# The constructs

These walks take fewer events: what goes for every saga is told above. Claims are left out: they
turn `-` into `-?`, and an attempt to be withheld says so when it is settled. Undoing succeeds.
Requests that are refused as above are left out, too.

{flow}
"""


def render(seen: Observed, told: tuple[Told, ...]) -> str:
    """The whole document."""
    back = {s: r for s, r in seen.answers.items() if s.state is SagaState.COMPENSATING}
    forward = {s: r for s, r in seen.answers.items() if s not in back}
    return DOCUMENT.format(
        states=seen.states,
        diagram="\n".join(diagram(seen.moves)),
        forward="\n".join(matrix(forward)),
        back="\n".join(matrix(back)),
        withheld="\n".join(matrix(seen.withheld)),
        requests="\n".join(matrix(seen.requests)),
        rest="\n".join(sections(seen.rest)).strip(),
        flow="\n".join(flow_sections(told)).strip(),
    )


def diagram(moves: dict[tuple[SagaState, SagaState], list[str]]) -> Iterator[str]:
    """The moves between states as Mermaid lines."""
    for (before, after), names in sorted(moves.items(), key=lambda m: [*map(_rank, m[0])]):
        yield f"    {before} --> {after}: {', '.join(sorted(names))}"


def matrix(table: dict[Seen, Results]) -> Iterator[str]:
    """States down, events across; states with the same answers share a row."""
    events_seen = list(dict.fromkeys(name for results in table.values() for name in results))
    shown = [e for e in events_seen if any(r.get(e, NO) != NO for r in table.values())]
    yield f"| state | {' | '.join(shown)} |"
    yield f"| --- |{' --- |' * len(shown)}"
    for state in sorted(table, key=lambda s: (_rank(s.state), s.at or "", s.codes, s.notes)):
        cells = ["<br>".join(sorted(table[state].get(e, []))) for e in shown]
        where = f" at {state.at}" if state.at else ""
        notes = "".join(f", {n}" for n in state.notes)
        yield f"| {state.state} `{state.codes}`{where}{notes} | {' | '.join(cells)} |"


def sections(table: dict[Seen, Results]) -> Iterator[str]:
    """A table for every set of states with the same answers, events with one answer together."""
    merged: dict[tuple[tuple[str, str], ...], list[Seen]] = {}
    for state, by_event in table.items():
        by_result: dict[str, list[str]] = {}
        for name, results in by_event.items():
            by_result.setdefault("<br>".join(sorted(results)), []).append(name)
        rows = tuple((", ".join(names), result) for result, names in sorted(by_result.items()))
        merged.setdefault(rows, []).append(state)
    for rows, states in sorted(merged.items(), key=lambda m: _rank(m[1][0].state)):
        for state in states:
            held = f", {state.held}" if state.held else ""
            yield f"* {state.state}{held}{''.join(f', {n}' for n in state.notes)}"
        yield from ("", "| event | what happens |", "| --- | --- |")
        yield from (f"| {names} | {result} |" for names, result in rows)
        yield ""


def _rank(state: SagaState) -> int:
    return list(SagaState).index(state)


if __name__ == "__main__":
    TARGET.write_text(render(Observed(), walked()), encoding="utf-8")
