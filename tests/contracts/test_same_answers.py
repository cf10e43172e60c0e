"""The store in memory and the table give the same answers to whatever is asked of them.

The simulator and most tests of the core run on the store in memory; this is
what makes their word good for the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from saga_core.errors import IllegalEventError, SagaError
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    HeartbeatReceived,
    ResumeRequested,
    StepAwaits,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    Withheld,
    Withhold,
)
from saga_core.identity import shard_of
from saga_core.instance import Key, SagaInstance
from saga_core.ports import Refused, Written
from saga_core.transition import Moved, apply, delivery_exhausted, guard_lane, swept
from tests.contracts.harness import Dynamo, Memory, StoreUnderTest, dynamo, memory
from tests.contracts.sagas import BOOM, GROUPED, LEASE_MS, ORDER, new
from tests.fakes.aws import LocalAws
from tests.fakes.clock import T0

KEY = Key("default", "s1")

# Milliseconds; around every boundary that a condition has.
STEPS = st.sampled_from([1, 999, 1_000, 1_001, 29_999, 30_000, LEASE_MS, LEASE_MS + 1, 60_000])
RESULTS = ("succeeded", "failed", "in_doubt", "awaits", "withheld", "undone", "undo_failed")
SAGAS = {saga.ref: saga for saga in (ORDER, GROUPED)}
# Which of the lanes a mover means: of those that it knows, or by number whatever is there.
LANES = st.sampled_from([None, 0, 1, 2, 3])


class SameAnswers(RuleBasedStateMachine):
    """One saga, two stores, and every move in any order, old knowledge included."""

    aws: LocalAws  # set by the test
    seen = Bundle("seen")  # sagas as they once were: what a mover may still believe in

    @initialize()
    def set_up(self) -> None:
        self.memory: Memory = memory()
        self.dynamo: Dynamo = dynamo(self.aws)
        self.now = T0
        self.ids = 0
        self.last: Callable[[StoreUnderTest], object] | None = None

    # -- both do the same --------------------------------------------------------

    def both(self, ask: Callable[[StoreUnderTest], object]) -> object:
        """The one answer that both give."""
        self.last = ask
        answers: list[object] = []
        stores: tuple[StoreUnderTest, ...] = (self.memory, self.dynamo)
        for one in stores:
            one.clock.now = self.now
            try:
                answers.append(ask(one))
            except SagaError as exc:
                answers.append(f"{type(exc).__name__}: {exc}")
        assert answers[0] == answers[1]
        return answers[0]

    def learnt(self, answer: object) -> SagaInstance:
        match answer:
            case Written(instance):
                return instance
            case Refused(SagaInstance() as instance):
                return instance
            case SagaInstance():
                return answer
            case _:
                return new(at=self.now)

    def fresh(self) -> str:
        self.ids += 1
        return f"id{self.ids}"

    # -- moves -------------------------------------------------------------------

    @rule(target=seen, context=st.sampled_from(['{"a":1}', '{"b":2}']), grouped=st.booleans())
    def create(self, context: str, grouped: bool) -> SagaInstance:  # noqa: FBT001 - drawn
        instance = new(at=self.now, context=context, saga=GROUPED if grouped else ORDER)
        return self.learnt(self.both(lambda s: s.store.create(instance)))

    @rule(target=seen)
    def find(self) -> SagaInstance:
        return self.learnt(self.both(lambda s: s.store.find(KEY, self.now)))

    @rule(target=seen, known=seen, data=st.data())
    def claim_what_is_open(self, known: SagaInstance, data: st.DataObject) -> SagaInstance:
        lane = data.draw(st.sampled_from(known.open_lanes))
        return self.claimed(known, lane.number, lane.epoch)

    @rule(target=seen, known=seen, branch=LANES)
    def claim(self, known: SagaInstance, branch: int | None) -> SagaInstance:
        return self.claimed(known, branch, guard_lane(known, branch).epoch)

    def claimed(self, known: SagaInstance, branch: int | None, epoch: int) -> SagaInstance:
        claim_id, now = self.fresh(), self.now
        return self.learnt(
            self.both(
                lambda s: s.store.claim(
                    KEY,
                    epoch=epoch,
                    definition=known.definition,
                    claim_id=claim_id,
                    now=now,
                    until=now + LEASE_MS,
                    branch=branch,
                )
            )
        )

    @rule(
        target=seen,
        known=seen,
        result=st.sampled_from(RESULTS),
        fatal=st.booleans(),
        first=st.booleans(),
    )
    def commit(self, known: SagaInstance, result: str, fatal: bool, first: bool) -> SagaInstance:  # noqa: FBT001 - drawn
        held = [n.lease for n in known.open_lanes if n.lease is not None]
        if not held:
            return known
        claim_id = held[0 if first else -1].id
        then = self.moved(known, self.event(result, claim_id, fatal=fatal))
        if then is None:
            return known
        return self.learnt(self.both(lambda s: s.store.commit(known, then, claim_id=claim_id)))

    @rule(target=seen, known=seen, what=st.sampled_from(["cancel", "resume"]))
    def request(self, known: SagaInstance, what: str) -> SagaInstance:
        asked = CancelRequested if what == "cancel" else ResumeRequested
        then = self.moved(known, asked(by="someone", at=self.now))
        if then is None:
            return known
        return self.learnt(self.both(lambda s: s.store.record(known, then)))

    @rule(target=seen, known=seen, step=st.integers(0, 2), ok=st.booleans())
    def answer(self, known: SagaInstance, step: int, ok: bool) -> SagaInstance:  # noqa: FBT001 - drawn
        name, fields = known.steps[step].name, '{"answered":1}' if ok else "{}"
        event = AnswerGiven(step=name, ok=ok, by="ann", at=self.now, fields=fields)
        then = self.moved(known, event)
        if then is None:
            return known
        return self.learnt(self.both(lambda s: s.store.record(known, then)))

    @rule(target=seen, known=seen, step=st.integers(0, 2))
    def heartbeat(self, known: SagaInstance, step: int) -> SagaInstance:
        event = HeartbeatReceived(step=known.steps[step].name, by="ann", at=self.now)
        then = self.moved(known, event)
        if then is None:
            return known
        return self.learnt(self.both(lambda s: s.store.record(known, then)))

    @rule(target=seen, known=seen, branch=LANES)
    def dead_letter(self, known: SagaInstance, branch: int | None) -> SagaInstance:
        event = DeliveryExhausted(
            epoch=guard_lane(known, branch).epoch,
            definition=known.definition,
            nudge_id=self.fresh(),
            error=BOOM,
            at=self.now,
            branch=branch,
        )
        outcome = delivery_exhausted(known, event)
        if not isinstance(outcome, Moved):
            return known
        return self.learnt(self.both(lambda s: s.store.record(known, outcome.instance)))

    @rule(target=seen, known=seen, branch=LANES)
    def redispatch(self, known: SagaInstance, branch: int | None) -> SagaInstance:
        nudge_id, now = self.fresh(), self.now
        ask: Callable[[StoreUnderTest], object] = lambda s: s.store.redispatch(  # noqa: E731
            known, nudge_id=nudge_id, now=now, branch=branch
        )
        return self.learnt(self.both(ask))

    @rule(target=seen, known=seen)
    def sweep(self, known: SagaInstance) -> SagaInstance:
        if known.sweep_at is None:
            return known
        marked = swept(known, self.now)
        return self.learnt(self.both(lambda s: s.store.mark_swept(known, marked)))

    @rule(target=seen, known=seen)
    def save(self, known: SagaInstance) -> SagaInstance:
        answer = self.both(lambda s: asyncio.run(s.store.save(known)))
        return self.learnt(answer)

    @rule()
    def do_the_same_again(self) -> None:
        if self.last is not None:
            self.both(self.last)

    @rule(passed=STEPS)
    def wait(self, passed: int) -> None:
        self.now += passed

    @rule(beyond=st.integers(-1, 1_001))
    def wait_for_the_end_of_the_retention(self, beyond: int) -> None:
        stored = self.memory.stored(KEY)
        if stored is not None and stored.expires_at is not None:
            self.now = max(self.now, stored.expires_at + beyond)

    @rule()
    def time_to_live_deletes(self) -> None:
        stored = self.memory.stored(KEY)
        if stored is not None and stored.expires_at is not None and stored.expires_at < self.now:
            self.memory.forget(KEY)
            self.dynamo.forget(KEY)

    # -- what is there is the same -----------------------------------------------

    @invariant()
    def the_same_saga_is_stored(self) -> None:
        assert self.memory.stored(KEY) == self.dynamo.stored(KEY)

    @rule(until=st.integers(0, 10**6))
    def list_what_is_due(self, until: int) -> None:
        self.both(lambda s: s.store.due(shard_of("s1"), self.now + until, 10))

    @rule()
    def list_what_is_incomplete(self) -> None:
        self.both(lambda s: asyncio.run(s.store.list_incomplete()))

    # -- parts -------------------------------------------------------------------

    def event(self, result: str, claim_id: str, *, fatal: bool) -> Event:
        at, context = self.now, f'{{"at":{self.now}}}'
        failure: Any = {"claim_id": claim_id, "error": BOOM, "jitter": 0.5, "at": at}
        match result:
            case "succeeded":
                return StepSucceeded(claim_id=claim_id, context=context, at=at)
            case "failed":
                return StepFailed(fatal=fatal, **failure)
            case "in_doubt":
                return StepInDoubt(final=fatal, **failure)
            case "awaits":
                wait = 60_000
                return StepAwaits(claim_id=claim_id, context=context, timeout_ms=wait, at=at)
            case "withheld":
                reason = Withhold.LOST if fatal else Withhold.DEADLINE
                return Withheld(claim_id=claim_id, reason=reason, at=at)
            case "undone":
                return CompensationSucceeded(claim_id=claim_id, context=context, at=at)
            case _:
                return CompensationFailed(fatal=fatal, **failure)

    def moved(self, known: SagaInstance, event: Event) -> SagaInstance | None:
        try:
            outcome = apply(SAGAS[known.definition], known, event)
        except IllegalEventError:
            return None
        return outcome.instance if isinstance(outcome, Moved) else None


def test_the_stores_give_the_same_answers(aws: LocalAws) -> None:
    class OnThisMoto(SameAnswers):
        pass

    OnThisMoto.aws = aws
    # A third of the profile's examples: moto takes milliseconds where the core takes none.
    profile: Any = settings.default
    fewer = settings(max_examples=profile.max_examples // 3)
    run_state_machine_as_test(OnThisMoto, settings=fewer)
