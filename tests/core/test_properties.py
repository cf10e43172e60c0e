"""Random sagas under repeated, reordered, late, lost and foreign events.

Every rule goes in by an entry point: a message, a dead letter, the sweeper, a
person, somebody who answers, a process that takes over. A worker is a turn that
is held at an effect, so workers interleave, die at every effect and come back as
zombies. Every write to the store is checked against what the world has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import cycle
from typing import cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from saga_core.actions import Action, Compensate, Execute, Inquire, Rest, Settle
from saga_core.calls import Direction
from saga_core.definition import Handler, SagaDefinition
from saga_core.effects import (
    Call,
    CheckContext,
    Decide,
    Effect,
    Ended,
    Pause,
    Postpone,
    Send,
    Turn,
    Unavailable,
)
from saga_core.errors import IllegalEventError
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    Claimed,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    HeartbeatReceived,
    Request,
    ResumeRequested,
    SkipRequested,
    StepAwaits,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    TakenOver,
    Withheld,
    Withhold,
)
from saga_core.instance import CLOSED, Lane, SagaInstance, SagaState, StepCode
from saga_core.memory import InMemorySagaStore
from saga_core.outcome import Done, Failed, InDoubt, Outcome, StepError, Waits
from saga_core.ports import ITEM_BUDGET, Written
from saga_core.retry import RetryPolicy
from saga_core.transition import (
    MAX_STALLS,
    Ignored,
    Moved,
    Reason,
    apply,
    next_action,
    next_actions,
    settled_by,
)
from saga_core.turn import Answer
from tests.core.driver import AMBIGUOUS, THROTTLED, VISIBILITY_MS, World
from tests.core.sagas import BOOM, DAY, HOUR, MINUTE, SECOND, StepOptions, saga, step

HUGE = Done('"huge"')  # does not fit into the store
SHARED = Done('{"f":1}')  # what several branches of a group may write
STANDING = {StepCode.DONE, StepCode.UNKNOWN, StepCode.COMPENSATION_FAILED}


class WatchedStore(InMemorySagaStore):
    """A store in memory that shows every write to a watcher."""

    def __init__(self, watch: Callable[[SagaInstance | None, SagaInstance], None]) -> None:
        super().__init__(measure=lambda i: ITEM_BUDGET + (i.context_text == HUGE.context))
        self._watch = watch

    def _put(self, instance: SagaInstance, *, bump: int = 0) -> Written:
        before = self._sagas.get(instance.key)
        written = super()._put(instance, bump=bump)
        self._watch(before, written.instance)
        return written


@dataclass
class Worker:
    """A turn, held at an effect that is not performed yet."""

    turn: Turn[object]
    effect: Effect[object]


policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 3),
    max_lost=st.integers(1, 2),
    base=st.sampled_from([timedelta(0), timedelta(seconds=5), timedelta(hours=1)]),
    cap=st.just(timedelta(hours=2)),
)


# Of up to four steps, which are alike begin together.
groups = st.sampled_from(["----", "----", "gg--", "-gg-", "-ggg", "gggg", "gghh", "--gg"])
endless = RetryPolicy(max_attempts=None, max_lost=2, cap=timedelta(hours=1))
delays = st.sampled_from([timedelta(0)] * 4 + [timedelta(minutes=4), timedelta(hours=3)])


@st.composite
def definitions(draw: st.DrawFn) -> SagaDefinition:
    names = "abcd"[: draw(st.sampled_from([3, 2, 4, 1]))]
    group = draw(groups)
    pivot = draw(st.sampled_from([None, None, *range(len(names))]))
    if pivot is not None and group[pivot] != "-":
        pivot = None
    steps = []
    short = draw(st.booleans())
    for n, name in enumerate(names):
        past = pivot is not None and n > pivot
        options = StepOptions(
            compensatable=draw(st.sampled_from([True, True, True, False])),
            retry=endless if past else draw(policies),
            compensation_retry=draw(policies),
            pivot=n == pivot,
        )
        if group[n] != "-":
            options["group"] = group[n]
        if n != pivot and draw(st.sampled_from([False, False, True])):
            answers = cycle(draw(st.lists(st.booleans(), min_size=1, max_size=3)))
            options["when"] = condition(answers)
        delay = draw(delays)
        if past or not short or delay < timedelta(minutes=5):
            options["delay"] = delay
        steps.append(step(name, **options))
    return saga(
        *steps,
        timeout=timedelta(minutes=5) if short else timedelta(days=60),
        on_compensation_failure=draw(st.sampled_from(["halt", "continue"])),
    )


def condition(answers: Iterator[bool]) -> Handler:
    """A condition that says something else each time it is asked."""
    return Handler.of(lambda ctx: next(answers))


outcomes: st.SearchStrategy[Outcome | None] = st.sampled_from(
    [
        None,
        None,
        None,
        Failed(BOOM),
        Failed(BOOM, fatal=True),
        InDoubt(BOOM),
        InDoubt(BOOM, final=True),
        HUGE,
        SHARED,
        Waits("{}", 10 * MINUTE),
        Waits("{}", 2 * HOUR),
    ]
)
faults = st.sampled_from(["none", "none", "none", "throttled", "lost before", "lost after"])
words = st.sampled_from(["a", "b", "c", "d", "d1", "d2", "d3", "d4", "d5", "foreign"])
epochs = st.integers(0, 12)
moments = st.integers(-MINUTE, DAY)


def events(ref: str, now: int, names: list[str]) -> st.SearchStrategy[Event]:
    """Any event at all, most of them impossible or out of date."""
    at = moments.map(lambda ms: now + ms)
    flags = st.booleans()
    half = st.just(0.5)
    refs = st.sampled_from([ref, "other@1#0123456789abcdef"])
    errors = st.just(BOOM)
    branches = st.sampled_from([None, 0, 1, 2, 3])
    steps = st.sampled_from(names)
    return st.one_of(
        st.builds(
            Claimed,
            claim_id=words,
            epoch=epochs,
            definition=refs,
            until=at,
            at=at,
            branch=branches,
        ),
        st.builds(
            StepAwaits, claim_id=words, context=st.just("{}"), timeout_ms=st.just(HOUR), at=at
        ),
        st.builds(AnswerGiven, step=steps, ok=flags, by=st.just("ann"), at=at),
        st.builds(HeartbeatReceived, step=steps, by=st.just("ann"), at=at),
        st.builds(StepSucceeded, claim_id=words, context=st.just("{}"), at=at),
        st.builds(StepFailed, claim_id=words, error=errors, fatal=flags, jitter=half, at=at),
        st.builds(StepInDoubt, claim_id=words, error=errors, final=flags, jitter=half, at=at),
        st.builds(
            CompensationSucceeded, claim_id=words, context=st.sampled_from([None, "{}"]), at=at
        ),
        st.builds(
            CompensationFailed, claim_id=words, error=errors, fatal=flags, jitter=half, at=at
        ),
        st.builds(Withheld, claim_id=words, reason=st.sampled_from(Withhold), at=at),
        st.builds(CancelRequested, by=st.just("ops"), at=at),
        st.builds(ResumeRequested, by=st.just("ops"), at=at),
        st.builds(SkipRequested, step=words, by=st.just("ops"), at=at),
        st.builds(
            DeliveryExhausted,
            epoch=epochs,
            definition=refs,
            nudge_id=words,
            error=errors,
            at=at,
            branch=branches,
        ),
        st.builds(TakenOver, at=at),
    )


class Sagas(RuleBasedStateMachine):
    """One saga, its workers, and a world that remembers what was really done."""

    @initialize(definition=definitions())
    def start(self, definition: SagaDefinition) -> None:
        self.definition = definition
        self.workers: list[Worker] = []
        self.claims: dict[str, list[str]] = {}  # step: the claims that may have run it
        self.called: set[tuple[str, str]] = set()  # attempts that ran
        self.failed: set[tuple[str, str]] = set()  # attempts that did not happen
        self.clean: dict[str, set[str]] = {}  # step: those of them that the saga knows of
        self.calls_left: dict[tuple[str, Direction], int] = {}
        self.doing: dict[str, Action] = {}  # by claim, what its holder has to do
        self.asked: set[tuple[str, str]] = set()  # attempts that wait for an answer, or did
        self.stands: set[tuple[str, str]] = set()  # attempts whose effect stands in the world
        self.tombstones: set[str] = set()  # undone: a late forward call has no effect
        self.skipped: set[str] = set()
        self.world = World(definition, store=WatchedStore(self.watch))
        self.world.start()
        self.sent = [e.message for e in self.world.queue]

    @property
    def saga(self) -> SagaInstance:
        return self.world.saga

    # -- what can happen --------------------------------------------------------------

    def hire(self, turn: Turn[object]) -> Worker | None:
        """Start a turn and hold it at its first effect."""
        try:
            worker = Worker(turn, next(turn))
        except StopIteration:
            return None
        self.workers.append(worker)
        return worker

    def perform(self, worker: Worker, fault: str = "none") -> bool:
        """Let a worker perform its effect; False when its turn is over."""
        reply = self.reply(worker.effect, fault)
        try:
            worker.effect = worker.turn.send(reply)
        except StopIteration:
            self.workers.remove(worker)
            return False
        return True

    def reply(self, effect: Effect[object], fault: str) -> object:
        """What the world answers."""
        if isinstance(effect, Send):
            if fault == "throttled":
                return False
            self.world.perform(effect)
            self.sent.append(self.world.queue[-1].message)
            return fault != "lost after"
        if isinstance(effect, Call):
            return self.call(effect)
        if fault == "none" or isinstance(effect, (Pause, Postpone, Decide, CheckContext)):
            return self.world.perform(effect)
        if fault == "throttled":
            return Unavailable(THROTTLED, self.world.now)
        if fault == "lost after":
            self.world.perform(effect)
        return Unavailable(AMBIGUOUS, self.world.now)

    def call(self, effect: Call) -> object:
        """The participant does what it is asked to do, as its contract says."""
        name = effect.step
        ended = cast("Ended", self.world.perform(effect))
        outcome = ended.outcome
        if effect.direction is Direction.FORWARD:
            attempt = (name, f"{effect.call.attempt}")
            self.called.add(attempt)
            if isinstance(outcome, Failed):
                self.failed.add(attempt)
            elif name not in self.tombstones:
                self.stands.add(attempt)
                if isinstance(outcome, Waits):
                    self.asked.add(attempt)
        elif isinstance(outcome, Done):
            self.tombstones.add(name)
            self.undo(name, {a for n, a in self.stands if n == name})
        return ended

    def undo(self, name: str, attempts: set[str]) -> None:
        """These attempts leave nothing behind, and nobody can answer for them."""
        gone = {(name, a) for a in attempts}
        self.stands -= gone
        self.asked -= gone

    @property
    def standing(self) -> set[str]:
        """The steps whose effect stands in the world."""
        return {name for name, _ in self.stands}

    def finish(self, worker: Worker) -> None:
        while self.perform(worker):
            pass

    @rule(outcome=outcomes)
    def next_outcome(self, outcome: Outcome | None) -> None:
        """What the next call of either direction will come to."""
        for s in self.definition.steps:
            for direction in Direction:
                key = f"{s.name}:{direction}"
                waits = isinstance(outcome, Waits) and direction is not Direction.FORWARD
                self.world.outcomes[key] = [] if outcome is None or waits else [outcome]

    def lane(self, n: int) -> Lane:
        """Some open lane."""
        lanes = self.saga.open_lanes
        return lanes[n % len(lanes)]

    @rule(several=st.lists(outcomes, min_size=1, max_size=4), n=st.integers(0, 3))
    def move(self, several: list[Outcome | None], n: int) -> None:
        """Workers get the right message at the right time, and live."""
        for outcome in several:
            if self.saga.live:
                self.next_outcome(outcome)
                lane = self.lane(n)
                self.world.now = max(self.world.now, lane.due_at)
                worker = self.hire(self.world.working(self.world.message(branch=lane.number)))
                assert worker is not None
                self.finish(worker)

    @precondition(lambda self: bool(self.sent))
    @rule(n=st.integers(0, 100))
    def deliver(self, n: int) -> None:
        """A worker gets some message that was once sent."""
        self.hire(self.world.working(self.sent[-1 - n % len(self.sent)]))

    @precondition(lambda self: bool(self.sent))
    @rule(n=st.integers(0, 100))
    def bury(self, n: int) -> None:
        """Some message that was once sent ends in the dead letters."""
        self.hire(self.world.reviving(self.sent[-1 - n % len(self.sent)]))

    @precondition(lambda self: self.saga.live)
    @rule(n=st.integers(0, 3))
    def bury_the_current_one(self, n: int) -> None:
        lane = self.lane(n)
        self.world.now = max(self.world.now, lane.due_at) + MINUTE
        worker = self.hire(self.world.reviving(self.world.message(branch=lane.number)))
        assert worker is not None
        self.finish(worker)

    @precondition(lambda self: bool(self.workers))
    @rule(n=st.integers(0, 100), fault=faults)
    def go_on(self, n: int, fault: str) -> None:
        """Some worker performs its next effect."""
        self.perform(self.workers[n % len(self.workers)], fault)

    @precondition(lambda self: bool(self.workers))
    @rule(n=st.integers(0, 100))
    def go_on_to_the_end(self, n: int) -> None:
        self.finish(self.workers[n % len(self.workers)])

    @precondition(lambda self: bool(self.workers))
    @rule(n=st.integers(0, 100), after=st.booleans())
    def die(self, n: int, *, after: bool) -> None:
        """Some worker dies, before or after its next effect."""
        worker = self.workers.pop(n % len(self.workers))
        if after:
            self.reply(worker.effect, "none")

    @rule(kind=st.sampled_from(["resume", "skip", "resume", "cancel"]), n=st.integers(0, 3))
    def ask(self, kind: str, n: int) -> None:
        """A person wants something."""
        at, steps = self.world.now, self.definition.steps
        event: Request
        if kind == "cancel":
            event = CancelRequested(by="ops", at=at)
        elif kind == "resume":
            event = ResumeRequested(by="ops", at=at)
        else:
            event = SkipRequested(step=steps[n % len(steps)].name, by="ops", at=at)
        self.world.ask(event)
        self.collect()

    @precondition(lambda self: bool(self.asked))
    @rule(n=st.integers(0, 3), ok=st.booleans(), again=st.booleans())
    def answer(self, n: int, *, ok: bool, again: bool) -> None:
        """Somebody who was asked answers, and perhaps cannot know that it was heard."""
        name = sorted(self.asked)[n % len(self.asked)][0]
        error = None if ok else StepError("AnsweredFailed", "no")
        event = AnswerGiven(step=name, ok=ok, by="ann", at=self.world.now, error=error)
        answered = self.world.ask(event)
        if answered.answer is Answer.ACCEPTED and not ok:
            self.undo(name, {a for n, a in self.asked if n == name})
        if again and answered.answer is Answer.ACCEPTED:
            before = self.saga
            assert apply(self.definition, before, event) == Ignored(Reason.REPEATED) or not ok
            assert apply(self.definition, before, replace(event, ok=not ok)) != Ignored(
                Reason.REPEATED
            )
        self.collect()

    @rule(n=st.integers(0, 3))
    def heartbeat(self, n: int) -> None:
        """Somebody who was asked says that the answer is still to come."""
        names = [s.name for s in self.definition.steps]
        self.world.ask(HeartbeatReceived(step=names[n % len(names)], by="ann", at=self.world.now))
        self.collect()

    @rule()
    def sweep(self) -> None:
        self.world.sweep()
        self.collect()

    @rule()
    def take_over(self) -> None:
        """Another process says that the one at it is gone."""
        before = self.saga
        outcome = apply(self.definition, before, TakenOver(at=self.world.now))
        if isinstance(outcome, Moved):
            self.world.store.record(before, outcome.instance)

    @rule(
        ms=st.sampled_from(
            [1, SECOND, 30 * SECOND, MINUTE, VISIBILITY_MS, 5 * MINUTE, HOUR, 2 * DAY]
        )
    )
    def wait(self, ms: int) -> None:
        self.world.now += ms

    @rule(data=st.data())
    def foreign(self, data: st.DataObject) -> None:
        """Any event at all has an answer, and none of them touches the instance."""
        names = [s.name for s in self.definition.steps]
        event = data.draw(events(self.saga.definition, self.world.now, names))
        before = self.saga
        copy = replace(before)
        try:
            outcome = apply(self.definition, before, event)
        except IllegalEventError:
            outcome = None
        assert before == copy
        if isinstance(outcome, Moved):
            assert before.status not in CLOSED
            assert outcome.instance.version == before.version
            assert outcome.instance.lane.epoch - before.lane.epoch in (0, 1)
        else:
            assert outcome is None or isinstance(outcome, Ignored)
        if before.status in CLOSED:
            assert isinstance(outcome, Ignored)

    def collect(self) -> None:
        """Messages that a request or the sweeper sent."""
        self.sent.extend(e.message for e in self.world.queue[len(self.sent) :])

    # -- what must be true of every write ---------------------------------------------

    def watch(self, before: SagaInstance | None, after: SagaInstance) -> None:
        self.check(after)
        for s in after.steps:
            if s.code is StepCode.SKIPPED:
                self.skipped.add(s.name)
        if before is None:
            return
        assert before.status not in CLOSED, "what has ended changes"
        assert after.lane.epoch - before.lane.epoch in (0, 1)
        assert after.version - before.version in (0, 1)
        if before.cause is not None:
            assert after.cause == before.cause
            assert after.phase is Direction.COMPENSATION
            new = {n.number for n in after.branches} - {n.number for n in before.branches}
            assert not new, "a branch begins after the turn"
        elif after.cause is not None and self.definition.pivot is not None:
            done = before.steps[self.definition.pivot].code in (StepCode.DONE, StepCode.SKIPPED)
            assert not done, "turned round past the pivot"
        assert (after.phase is Direction.COMPENSATION) == (after.cause is not None)
        self.compare(before, after)
        for lane in before.open_lanes:
            if lane.lease is not None and self.just_settled(before, after, lane.lease.id):
                self.settled(before, lane)
        for lane in after.open_lanes:
            old = before.open_lane(lane.number)
            if lane.lease is not None and (old is None or old.lease != lane.lease):
                self.claimed(after, lane)
        if before.status is SagaState.FAILED and after.live:
            self.calls_left.clear()

    def just_settled(self, before: SagaInstance, after: SagaInstance, claim_id: str) -> bool:
        return settled_by(after, claim_id) and not settled_by(before, claim_id)

    def compare(self, before: SagaInstance, after: SagaInstance) -> None:
        """What no write does to the record of a step."""
        for old, now in zip(before.steps, after.steps, strict=True):
            if old.chosen:
                assert now.chosen, "a condition is asked again"
            if old.code is StepCode.SKIPPED:
                assert now.code is StepCode.SKIPPED
            elif now.code is StepCode.SKIPPED:
                assert old.code is not StepCode.COMPENSATED
            if old.order is not None:
                assert now.order == old.order
            if old.answer is not None and old.answer.fields is None:
                used = old.answer.late or before.live
                assert now.answer == old.answer or not used

    def claimed(self, i: SagaInstance, lane: Lane) -> None:
        """An attempt begins."""
        at = i.updated_at  # the time of the delivery, old by now perhaps
        action = next_action(self.definition, i, lane, at)
        assert lane.lease is not None
        self.doing[lane.lease.id] = action
        name = i.steps[lane.index].name
        if i.direction(lane) is Direction.FORWARD:
            # Also one that makes no call: until it has said so, nobody can know.
            self.claims.setdefault(name, []).append(f"{lane.tries}")
        if isinstance(action, Execute):
            assert i.cause is None, "forward after the turn"
            assert i.cancel is None, "forward after an accepted cancel"
            self.spend(i, name, Direction.FORWARD)
        elif isinstance(action, Compensate):
            assert not i.branches, "undone while others are in flight"
            self.undoing(i, name)
            self.spend(i, name, Direction.COMPENSATION)
        assert not isinstance(action, Inquire)

    def settled(self, before: SagaInstance, lane: Lane) -> None:
        """The saga learns what an attempt came to."""
        name, attempt = before.steps[lane.index].name, f"{lane.tries}"
        if before.direction(lane) is Direction.COMPENSATION:
            return
        assert lane.lease is not None
        action = self.doing[lane.lease.id]
        if isinstance(action, Settle) and (name, attempt) not in self.called:
            self.claims[name].remove(attempt)
            if not self.claims[name]:
                del self.claims[name]
        elif (name, attempt) in self.failed:
            self.clean.setdefault(name, set()).add(attempt)

    def undoing(self, i: SagaInstance, name: str) -> None:
        conditional = self.definition.step(name).when is not None
        assert i.steps[self.definition.index(name)].chosen or not conditional
        started = list(self.claims)
        assert name in started, "undone, and never started"
        assert set(self.claims[name]) - self.clean.get(name, set()), "undone, and never happened"
        for later in started[started.index(name) + 1 :]:
            record = next(s for s in i.steps if s.name == later)
            open_still = record.code in (StepCode.DONE, StepCode.UNKNOWN)
            assert not (open_still and self.definition.step(later).compensatable), "out of order"

    def spend(self, i: SagaInstance, name: str, direction: Direction) -> None:
        """Attempts stay within their budget, counted anew after a resume."""
        s = self.definition.step(name)
        policy = s.retry if direction is Direction.FORWARD else s.compensation_retry
        key = (name, direction)
        if policy.max_attempts is None:
            return  # without end: the loop guard does not count it either
        self.calls_left.setdefault(key, policy.max_attempts + policy.max_lost - 1)
        self.calls_left[key] -= 1
        assert self.calls_left[key] >= 0, "more attempts than the budget"
        assert i.hops <= self.definition.hop_max

    def check(self, i: SagaInstance) -> None:
        codes = [s.code for s in i.steps]
        undoable = [s for s in i.steps if self.definition.step(s.name).compensatable]
        happened = all(c in (StepCode.DONE, StepCode.SKIPPED) for c in codes)
        assert (i.status is SagaState.FAILED) == (i.why is not None)
        assert (i.status is SagaState.FAILED) == (i.failure is not None)
        assert (i.status in CLOSED) == (i.expires_at is not None)
        assert (i.status in CLOSED) == (i.sweep_at is None)
        assert i.stalls <= MAX_STALLS
        if i.live:
            for action in next_actions(self.definition, i, self.world.now):
                assert not isinstance(action, Rest)
        for n in i.branches:
            assert self.definition.steps[n.index].group is not None
            assert i.lane.lease is None, "the main lane moves while a group is open"
        if i.status is SagaState.COMPLETED:
            assert happened
        if i.phase is Direction.FORWARD:
            assert happened == (i.status is SagaState.COMPLETED)
        if i.status is SagaState.COMPENSATED:
            assert not [s for s in undoable if s.code in STANDING]
        if i.status in CLOSED:
            assert i.lane.lease is None
            assert not i.branches
            assert not [s for s in i.steps if s.result is not None or s.settled_by is not None]

    @invariant()
    def the_end_is_true_in_the_world(self) -> None:
        if not hasattr(self, "world"):
            return
        if self.saga.status is SagaState.COMPENSATED:
            undoable = {s.name for s in self.definition.steps if s.compensatable or s.pivot}
            assert not (self.standing & undoable) - self.skipped
        if self.saga.status is SagaState.COMPLETED:
            names = {s.name for s in self.definition.steps}
            assert names - self.skipped <= self.standing

    def teardown(self) -> None:
        """When nothing goes wrong any more, the sweeper alone brings it to rest."""
        if not hasattr(self, "world"):
            return
        self.workers.clear()
        self.next_outcome(None)
        self.come_to_rest()
        if self.saga.status is SagaState.FAILED:
            self.world.ask(ResumeRequested(by="ops", at=self.world.now))
            self.come_to_rest()
        assert self.saga.status in CLOSED
        self.the_end_is_true_in_the_world()

    def come_to_rest(self) -> None:
        for _ in range(4 * self.definition.hop_max):
            if not self.saga.live:
                return
            assert self.saga.sweep_at is not None
            self.world.now = max(self.world.now, self.saga.sweep_at)
            self.world.queue.clear()
            self.world.sweep()
            for envelope in list(self.world.queue):
                self.world.now = max(self.world.now, envelope.visible_at)
                worker = self.hire(self.world.working(envelope.message))
                assert worker is not None
                self.finish(worker)
        raise AssertionError("it never rests")


TestSagas = Sagas.TestCase
