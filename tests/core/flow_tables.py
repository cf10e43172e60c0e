"""Walk through every state of small sagas that have one construct each, for docs/transitions.md.

The walk of ``transition_table`` takes a plain saga and every event. These take the
events that matter to their construct, and keep the tables short enough to be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from saga_core.actions import Action, Compensate, Settle
from saga_core.calls import Direction
from saga_core.definition import Handler, SagaDefinition
from saga_core.errors import IllegalEventError
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    Claimed,
    CompensationSucceeded,
    Event,
    HeartbeatReceived,
    ResumeRequested,
    SkipRequested,
    StepAwaits,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    Withheld,
)
from saga_core.instance import GivenAnswer, Lane, SagaInstance, SagaState, StepCode
from saga_core.outcome import StepError
from saga_core.retry import RetryPolicy
from saga_core.transition import Ignored, apply, choose, next_action, undecided
from tests.core.sagas import BOOM, LEASE, MINUTE, SECOND, new, saga, step

ONCE = RetryPolicy(max_attempts=1, max_lost=1, base=timedelta(0))
TWICE = RetryPolicy(max_attempts=2, max_lost=1, base=timedelta(0))
ENDLESS = RetryPolicy(max_attempts=None, max_lost=1, base=timedelta(0), cap=timedelta(0))
SAYS = Handler.of(lambda ctx: True)  # what it says is chosen by the walk

# Claims, and what goes for every saga, are told in the walk through a plain one.
UNTOLD = {"_live_", "_closed_", "_other_step_", "_already_cancelled_", "_rolling_back_"}

Doing = tuple[tuple[int | None, Action], ...]  # by lane, what the holder of its claim is at


@dataclass(frozen=True)
class Chapter:
    """A construct, the saga that shows it, and which events its table tells.

    Attributes:
        answers: What handlers come to, besides success; ``waits`` is a handler
            that awaits an answer.
        requests: What people ask for.
        lost: Workers may die with their claim.
        late: The deadline may pass.
    """

    title: str
    text: str
    definition: SagaDefinition
    answers: tuple[str, ...] = ("failed for good", "in doubt for good")
    requests: tuple[str, ...] = ()
    lost: bool = False
    late: bool = False


CHAPTERS = (
    Chapter(
        "A pivot",
        "Step `p` is the pivot, and `b` is tried without end. From the first attempt at `p` that\n"
        "has not reported until `p` is known to have failed, and once it is done, nobody cancels\n"
        "and no deadline is heeded.",
        saga(
            step("p", pivot=True, retry=ONCE, compensation_retry=ONCE),
            step("b", retry=ENDLESS, compensatable=False),
        ),
        answers=("failed", "failed for good", "in doubt for good"),
        requests=("cancel", "resume", "skip"),
        lost=True,
        late=True,
    ),
    Chapter(
        "A pivot that nothing undoes",
        "The same without a compensation of `p`: in doubt and out of attempts, it stops the saga.",
        saga(step("p", pivot=True, retry=ONCE, compensatable=False), "b"),
        answers=("failed for good", "in doubt for good"),
        requests=("resume", "cancel"),
        lost=True,
    ),
    Chapter(
        "A group of two",
        "Steps `b` and `c` run at once, each in a lane of its own, with one attempt. One that\n"
        "fails turns the saga round at once: the other is not started any more, and if somebody\n"
        "is at it, it settles before the first undo. The order of the undoing is that of the\n"
        "starts, newest first, so there are two answers where both are to be undone.",
        saga(
            step("b", group="g", retry=ONCE, compensation_retry=ONCE),
            step("c", group="g", retry=ONCE, compensation_retry=ONCE),
        ),
        requests=("cancel",),
        lost=True,
    ),
    Chapter(
        "A condition",
        "Step `b` has a condition, which is asked by the turn that makes it current.",
        saga(
            step("a", retry=ONCE, compensation_retry=ONCE),
            step("b", when=SAYS, retry=ONCE, compensation_retry=ONCE),
            step("c", retry=ONCE, compensation_retry=ONCE),
        ),
        answers=("failed for good",),
    ),
    Chapter(
        "A step that waits for an answer",
        "Step `a` asks somebody, and may ask twice. *Yes* and *no* are the answers; *silence* is\n"
        "what the wait comes to when its time is over. `W`: it waits. An answer is *kept* while\n"
        "an attempt is in flight; the next commit or claim uses it.",
        saga(step("a", retry=TWICE, compensation_retry=ONCE)),
        answers=("waits", "in doubt for good"),
        requests=("yes", "no", "heartbeat"),
    ),
)


@dataclass(frozen=True)
class Moment:
    """A saga at a moment, and what the holders of its claims are about to do."""

    i: SagaInstance
    now: int
    doing: Doing = ()

    def action(self, lane: Lane) -> Action | None:
        """What the holder of this lane is about to do."""
        return dict(self.doing).get(lane.number) if lane.lease is not None else None

    @property
    def key(self) -> tuple[object, ...]:
        """What decides about the future: everything but times, ids and old counts."""
        i = self.i
        lanes = tuple(
            (
                n.number,
                n.index,
                n.lease is not None and (n.lease.until >= self.now),
                type(self.action(n)),
                n.tries > n.clean,
                n.clean > 0,
                min(n.attempts - n.reported, 2),
                min(n.reported, 2),
                n.due_at > self.now,
            )
            for n in i.open_lanes
        )
        starts = tuple(sorted(range(len(i.steps)), key=lambda n: i.steps[n].order or 0))
        doubts = tuple(s.doubt for s in i.steps)
        late = self.now >= i.deadline_at
        branches = tuple(sorted(i.branches, key=lambda n: n.order or 0))
        first = branches[0].index if branches else None
        return (self.seen, i.why, lanes, starts, doubts, late, first)

    @property
    def seen(self) -> tuple[str, ...]:
        """What a reader sees: the state, the steps, and what was asked for or answered."""
        i = self.i
        lanes = {n.index: n for n in i.open_lanes}
        codes = [_code(i, s.code, lanes.get(n)) for n, s in enumerate(i.steps)]
        words = [f"{i.state} `{' '.join(codes)}`"]
        if i.cancel is not None and i.phase is Direction.FORWARD:
            words.append("cancel asked for")
        words += [_told(s.answer) for s in i.steps if s.answer is not None]
        return tuple(words)


def _code(i: SagaInstance, code: StepCode, lane: Lane | None) -> str:
    if lane is None or i.direction(lane) is Direction.COMPENSATION or code is StepCode.WAITING:
        held = lane is not None and lane.lease is not None and code is StepCode.WAITING
        return f"{code}?" if held else str(code)
    return f"{code}?" if lane.tries > lane.clean else str(code)


def _told(answer: GivenAnswer) -> str:
    word = "yes" if answer.ok else "no"
    if answer.late:
        return f"*{word}* came late"
    return f"*{word}* kept" if answer.fields is not None else f"*{word}* used"


def events(chapter: Chapter, m: Moment) -> Iterator[tuple[str, Event]]:
    """Every event that the chapter tells, by the name that its table uses."""
    i, at = m.i, m.now
    for lane in i.open_lanes if i.live else ():
        name = i.steps[lane.index].name
        action = m.action(lane)
        if action is not None and lane.lease is not None:
            yield from answers(chapter, name, action, lane.lease.id, at)
        moments = {"claim": at, **({"late claim": max(at, i.deadline_at)} if chapter.late else {})}
        for word, then in moments.items():
            claim = Claimed(
                claim_id=f"{name}{i.version}",
                epoch=lane.epoch,
                definition=i.definition,
                until=then + LEASE,
                at=then,
                branch=lane.number,
            )
            yield f"{word} of {name}", claim
    yield from requests(chapter, m)


def answers(
    chapter: Chapter, name: str, action: Action, claim_id: str, at: int
) -> Iterator[tuple[str, Event]]:
    """What the holder of a claim may answer."""
    if isinstance(action, Settle):
        silence = "silence" if action.reason == "unanswered" else f"withheld: {action.reason}"
        yield f"{name} {silence}", Withheld(claim_id=claim_id, reason=action.reason, at=at)
    elif isinstance(action, Compensate):
        undone = CompensationSucceeded(claim_id=claim_id, context="{}", at=at)
        yield f"{name} undone", undone
    else:
        yield f"{name} done", StepSucceeded(claim_id=claim_id, context="{}", at=at)
        told: dict[str, Event] = {
            "failed": StepFailed(claim_id=claim_id, error=BOOM, fatal=False, jitter=0.0, at=at),
            "failed for good": StepFailed(
                claim_id=claim_id, error=BOOM, fatal=True, jitter=0.0, at=at
            ),
            "in doubt for good": StepInDoubt(
                claim_id=claim_id, error=BOOM, final=True, jitter=0.0, at=at
            ),
            "waits": StepAwaits(claim_id=claim_id, context="{}", timeout_ms=MINUTE, at=at),
        }
        for word in chapter.answers:
            yield f"{name} {word}", told[word]


def requests(chapter: Chapter, m: Moment) -> Iterator[tuple[str, Event]]:
    """What people may ask for."""
    at = m.now
    for word in chapter.requests:
        match word:
            case "cancel":
                yield word, CancelRequested(by="ops", at=at)
            case "resume":
                yield word, ResumeRequested(by="ops", at=at)
            case "skip":
                for s in m.i.steps:
                    yield f"skip {s.name}", SkipRequested(step=s.name, by="ops", at=at)
            case "heartbeat":
                yield word, HeartbeatReceived(step="a", by="ann", at=at)
            case _:
                error = None if word == "yes" else StepError("AnsweredFailed", "no")
                yield word, AnswerGiven(step="a", ok=word == "yes", by="ann", at=at, error=error)


def later(chapter: Chapter, m: Moment) -> Iterator[Moment]:
    """The same saga when time has passed, to the next moment that makes a difference."""
    coming = []
    for lane in m.i.open_lanes if m.i.live else ():
        if lane.lease is None:
            coming.append(lane.due_at)
        elif chapter.lost and m.i.direction(lane) is Direction.FORWARD:
            coming.append(lane.lease.until + SECOND)
    coming = [at for at in coming if at > m.now]
    if coming:
        yield replace(m, now=min(coming))


def decided(d: SagaDefinition, i: SagaInstance, at: int) -> Iterator[tuple[str, SagaInstance]]:
    """The saga with its conditions asked, and what they said: every way it may be."""
    names = undecided(d, i)
    if not names:
        yield "", i
        return
    (name,) = names
    for word, said in (("yes", True), ("no", False), ("raises", BOOM)):
        for more, after in decided(d, choose(d, i, {name: said}, at, soon=False), at):
            yield f", {name}: {word}{more}", after


def happens(chapter: Chapter, m: Moment, event: Event) -> Iterator[tuple[str, str, Moment | None]]:
    """What an event does: what was asked besides, the result in words, where it leads."""
    try:
        outcome = apply(chapter.definition, m.i, event)
    except IllegalEventError:
        return
    if isinstance(outcome, Ignored):
        yield "", f"_{outcome.reason}_", None
        return
    for asked, after in decided(chapter.definition, outcome.instance, event.at):
        i = replace(after, version=m.i.version + 1)
        doing = dict(m.doing)
        if isinstance(event, Claimed):
            lane = i.open_lane(event.branch)
            assert lane is not None
            doing[event.branch] = next_action(chapter.definition, i, lane, event.at)
        held = {n.number for n in i.open_lanes if n.lease is not None}
        kept = tuple(sorted(((n, a) for n, a in doing.items() if n in held), key=str))
        then = Moment(i, event.at, kept)
        old, now = m.seen, then.seen
        words = [now[0]] if now[0] != old[0] else []
        words += [w for w in now[1:] if w not in old]
        yield asked, ", ".join(words) or "as it was", then


Results = dict[str, list[str]]  # by event


@dataclass
class Told:
    """What the walk through a chapter has seen: by state, what each event does."""

    chapter: Chapter
    results: dict[tuple[str, ...], Results] = field(default_factory=dict)
    moves: list[tuple[SagaInstance, SagaInstance]] = field(default_factory=list)
    states: int = field(init=False)

    def __post_init__(self) -> None:
        start = new(self.chapter.definition)
        todo = [Moment(start, start.created_at)]
        seen = {todo[0].key}
        while todo:
            m = todo.pop(0)
            for then in [*later(self.chapter, m), *self.visit(m)]:
                if then.key not in seen:
                    seen.add(then.key)
                    todo.append(then)
        self.states = len(seen)

    def visit(self, m: Moment) -> Iterator[Moment]:
        """Apply every event to a state; gives the states that follow."""
        for name, event in events(self.chapter, m):
            for asked, result, then in happens(self.chapter, m, event):
                by_event = self.results.setdefault(m.seen, {})
                results = by_event.setdefault(name + asked, [])
                if result not in results:
                    results.append(result)
                if then is not None:
                    self.moves.append((m.i, then.i))
                    yield then

    def rows(self) -> Iterator[str]:
        """The table: states with the same answers share a row, and so do events."""
        merged: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for state, by_event in sorted(self.results.items(), key=lambda r: _rank(r[0])):
            by_result: dict[str, list[str]] = {}
            for name, results in by_event.items():
                told = sorted(r for r in results if r not in UNTOLD)
                if told and " of " not in name:
                    by_result.setdefault("<br>".join(told), []).append(name)
            rows = tuple((", ".join(names), result) for result, names in by_result.items())
            merged.setdefault(rows, []).append(", ".join(state))
        yield "| state | event | what follows |"
        yield "| --- | --- | --- |"
        for rows, states in merged.items():
            where = "<br>".join(states)
            for names, result in rows:
                yield f"| {where} | {names} | {result} |"
                where = ""


def _rank(state: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]]:
    word = state[0].partition(" ")[0]
    return list(SagaState).index(SagaState(word)), len(state), state


def walked() -> tuple[Told, ...]:
    """Every chapter, walked through."""
    return tuple(Told(chapter) for chapter in CHAPTERS)


def sections(told: tuple[Told, ...]) -> Iterator[str]:
    """The sections of the document, one a construct."""
    for t in told:
        head = f"## {t.chapter.title}\n\n{t.chapter.text} {t.states} states.\n"
        yield "\n".join([head, *t.rows(), ""])
