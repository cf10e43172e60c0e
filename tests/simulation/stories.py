"""Random use of the real store: what its users do to sagas, in an order that a seed decides.

Every move is made by the real transition function on the saga as it is stored, and
then sometimes made wrongly: with an older version, another claim, an older
message. So the store's calls are those of real life, refusals included.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from infra.dynamodb_store import DynamoDBSagaStore
from saga_core.calls import Direction
from saga_core.errors import SagaError
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    ResumeRequested,
    StepAwaits,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    Withheld,
    Withhold,
)
from saga_core.identity import shard_of
from saga_core.instance import Key, Lane, SagaInstance, SagaState
from saga_core.transition import MAX_STALLS, Moved, apply, swept
from tests.core.sagas import BOOM, DAY, HOUR, MINUTE, SECOND, new, saga, step
from tests.simulation.clock import SandboxClock, WorldTime

ORDER = saga("reserve", step("charge", group="both"), step("hold", group="both"), "ship")
IDS = ("s1", "s2", "s3")
TENANT = "default"


class Story:
    """One seed's use of a store."""

    def __init__(self, store: DynamoDBSagaStore, time: WorldTime, seed: int) -> None:
        self._store = store
        self._time = time
        self._random = Random(seed)
        self._clock = SandboxClock(time, f"story {seed}")
        self._older: dict[str, SagaInstance] = {}
        self._moves: tuple[Callable[[], object], ...] = (
            self._create,
            *(self._work,) * 12,
            self._claim,
            *(self._redispatch,) * 3,
            self._request,
            self._dead_letter,
            self._sweep,
            self._look,
            self._save,
            self._wait,
        )

    def go_on(self, moves: int) -> None:
        """Make so many moves."""
        for _ in range(moves):
            try:
                self._random.choice(self._moves)()
            except SagaError:
                continue  # refused: the calls that led there are what matters

    # -- moves ----------------------------------------------------------------------

    def _create(self) -> None:
        at = self._time()
        fresh = new(ORDER, at=at, saga_id=self._random.choice(IDS))
        self._store.create(replace(fresh, incarnation=self._clock.new_incarnation()))

    def _lane(self, found: SagaInstance) -> Lane:
        """One of those along which it moves; now and then the main lane although it rests."""
        lanes = (*found.open_lanes, *found.open_lanes, found.lane)
        return self._random.choice(lanes)

    def _claim(self, found: SagaInstance | None = None, lane: Lane | None = None) -> None:
        found = found or self._find()
        lane = lane or self._lane(found)
        stale = self._random.random() < 0.2
        # The same id twice: the client's own retry.
        claim_id = self._clock.new_id()
        for _ in range(self._random.choice((1, 1, 2))):
            self._store.claim(
                found.key,
                epoch=lane.epoch - stale,
                definition=found.definition,
                claim_id=claim_id,
                now=self._time(),
                until=self._time() + 35 * SECOND,
                branch=lane.number,
            )

    def _work(self) -> None:
        found = self._find()
        lane = self._random.choice(found.open_lanes)
        if lane.lease is None:
            self._time.advance_to(lane.due_at)
            self._claim(found, lane)
            return
        claim_id = self._clock.new_id() if self._random.random() < 0.1 else lane.lease.id
        self._apply(found, self._result(found, lane), partial(self._commit, claim_id))

    def _commit(self, claim_id: str, before: SagaInstance, after: SagaInstance) -> None:
        self._store.commit(before, after, claim_id=claim_id)

    def _result(self, found: SagaInstance, lane: Lane) -> Event:
        claim_id = lane.lease.id if lane.lease is not None else ""
        at, jitter = self._time(), self._clock.jitter()
        field = ORDER.steps[lane.index].name if self._random.random() < 0.9 else "n"
        context = json.loads(found.context_text)
        context = json.dumps({**context, field: "x" * self._random.choice((1, 1, 3_000))})
        fatal = self._random.random() < 0.25
        if self._random.random() < 0.1:
            reason = self._random.choice((Withhold.LOST, Withhold.DEADLINE))
            return Withheld(claim_id=claim_id, reason=reason, at=at)
        if found.direction(lane) is Direction.COMPENSATION:
            if self._random.random() < 0.5:
                return CompensationFailed(
                    claim_id=claim_id, error=BOOM, fatal=fatal, jitter=jitter, at=at
                )
            return CompensationSucceeded(claim_id=claim_id, context=context, at=at)
        kind = self._random.random()
        if kind < 0.1:
            return StepAwaits(claim_id=claim_id, context=context, timeout_ms=HOUR, at=at)
        if kind < 0.8:
            return StepSucceeded(claim_id=claim_id, context=context, at=at)
        if kind < 0.9:
            return StepFailed(claim_id=claim_id, error=BOOM, fatal=fatal, jitter=jitter, at=at)
        return StepInDoubt(claim_id=claim_id, error=BOOM, final=fatal, jitter=jitter, at=at)

    def _redispatch(self) -> None:
        found = self._find()
        self._store.redispatch(
            found,
            nudge_id=self._clock.new_id(),
            now=self._time(),
            branch=self._lane(found).number,
        )

    def _request(self) -> None:
        found, at = self._find(), self._time()
        step = self._random.choice([s.name for s in ORDER.steps])
        ok = self._random.random() < 0.7
        event = self._random.choice(
            (
                CancelRequested(by="ops", at=at),
                ResumeRequested(by="ops", at=at),
                AnswerGiven(step=step, ok=ok, by="ann", at=at, fields='{"answer":"yes"}'),
            )
        )
        self._apply(found, event, self._store.record)

    def _dead_letter(self) -> None:
        key = self._find().key
        for _ in range(self._random.choice((1, 1, MAX_STALLS))):
            self._time.advance(20 * MINUTE)
            found = self._store.find(key, self._time())
            if found is None:
                return
            lane = self._lane(found)
            event = DeliveryExhausted(
                epoch=lane.epoch,
                definition=found.definition,
                nudge_id=self._clock.new_id(),
                error=BOOM,
                at=self._time(),
                branch=lane.number,
            )
            self._apply(found, event, self._store.record)

    def _sweep(self) -> None:
        until = self._time() + self._random.choice((0, MINUTE, DAY))
        shard = shard_of(self._random.choice(IDS))
        for line in self._store.due(shard, until, self._random.choice((1, 2, 100))):
            found = self._store.find(line.key, self._time())
            if found is not None:
                self._store.mark_swept(found, swept(found, self._time()))

    def _look(self) -> None:
        states = frozenset({self._random.choice(sorted(SagaState))})
        limit = self._random.choice((1, 50))
        cursor = None
        for _ in range(2):
            page = self._store.page(
                TENANT, states=states, name=None, cursor=cursor, limit=limit, now=self._time()
            )
            cursor = page.cursor
            if cursor is None:
                break

    def _save(self) -> None:
        found = self._find()
        version = found.version - (self._random.random() < 0.3)
        asyncio.run(self._store.save(replace(found, version=max(0, version), hops=found.hops + 1)))

    def _wait(self) -> None:
        self._time.advance(self._random.choice((SECOND, 2 * MINUTE, 2 * MINUTE, HOUR, 40 * DAY)))

    # -- parts ----------------------------------------------------------------------

    def _find(self) -> SagaInstance:
        key = Key(TENANT, self._random.choice(IDS))
        found = self._store.find(key, self._time())
        if found is None:
            self._create()
            raise SagaError(f"there was no saga {key}")
        older = self._older.get(found.id, found)
        self._older[found.id] = found
        return older if self._random.random() < 0.1 else found

    def _apply(
        self,
        found: SagaInstance,
        event: Event,
        write: Callable[[SagaInstance, SagaInstance], object],
    ) -> None:
        outcome = apply(ORDER, found, event)
        if isinstance(outcome, Moved):
            for _ in range(self._random.choice((1, 1, 2))):
                write(found, outcome.instance)
