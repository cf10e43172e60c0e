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
    CancelRequested,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    ResumeRequested,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
)
from saga_core.identity import shard_of
from saga_core.instance import Key, SagaInstance
from saga_core.ports import Refused, Written
from saga_core.transition import Moved, apply, delivery_exhausted, swept
from tests.contracts.harness import Dynamo, Memory, StoreUnderTest, dynamo, memory
from tests.contracts.sagas import BOOM, LEASE_MS, ORDER, new
from tests.fakes.aws import LocalAws
from tests.fakes.clock import T0

KEY = Key("default", "s1")

# Milliseconds; around every boundary that a condition has.
STEPS = st.sampled_from([1, 999, 1_000, 1_001, 29_999, 30_000, LEASE_MS, LEASE_MS + 1, 60_000])
RESULTS = ("succeeded", "failed", "in_doubt", "undone", "undo_failed")


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

    @rule(target=seen, context=st.sampled_from(['{"a":1}', '{"b":2}']))
    def create(self, context: str) -> SagaInstance:
        instance = new(at=self.now, context=context)
        return self.learnt(self.both(lambda s: s.store.create(instance)))

    @rule(target=seen)
    def find(self) -> SagaInstance:
        return self.learnt(self.both(lambda s: s.store.find(KEY, self.now)))

    @rule(target=seen, known=seen)
    def claim(self, known: SagaInstance) -> SagaInstance:
        claim_id, now = self.fresh(), self.now
        return self.learnt(
            self.both(
                lambda s: s.store.claim(
                    KEY,
                    epoch=known.lane.epoch,
                    definition=known.definition,
                    claim_id=claim_id,
                    now=now,
                    until=now + LEASE_MS,
                )
            )
        )

    @rule(target=seen, known=seen, result=st.sampled_from(RESULTS), fatal=st.booleans())
    def commit(self, known: SagaInstance, result: str, fatal: bool) -> SagaInstance:  # noqa: FBT001 - drawn
        if known.lane.lease is None:
            return known
        claim_id = known.lane.lease.id
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

    @rule(target=seen, known=seen)
    def dead_letter(self, known: SagaInstance) -> SagaInstance:
        event = DeliveryExhausted(
            epoch=known.lane.epoch,
            definition=known.definition,
            nudge_id=self.fresh(),
            error=BOOM,
            at=self.now,
        )
        outcome = delivery_exhausted(known, event)
        if not isinstance(outcome, Moved):
            return known
        return self.learnt(self.both(lambda s: s.store.record(known, outcome.instance)))

    @rule(target=seen, known=seen)
    def redispatch(self, known: SagaInstance) -> SagaInstance:
        nudge_id, now = self.fresh(), self.now
        ask = lambda s: s.store.redispatch(known, nudge_id=nudge_id, now=now)  # noqa: E731
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
            case "undone":
                return CompensationSucceeded(claim_id=claim_id, context=context, at=at)
            case _:
                return CompensationFailed(fatal=fatal, **failure)

    def moved(self, known: SagaInstance, event: Event) -> SagaInstance | None:
        try:
            outcome = apply(ORDER, known, event)
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
