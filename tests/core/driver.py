"""Two ways to drive a turn without AWS and without asyncio.

``play`` hands a turn scripted replies, one an effect. ``World`` performs the
effects: the store is in memory, the queue is a list, time moves by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeVar, cast

from saga_core.contexts import ContextCodec, StandardContextCodec
from saga_core.definition import SagaDefinition
from saga_core.effects import (
    Call,
    CheckContext,
    Claim,
    Commit,
    Create,
    Decide,
    Effect,
    Ended,
    Find,
    MarkSwept,
    Pause,
    Postpone,
    Record,
    Redispatch,
    Send,
    TooLarge,
    Turn,
    Unavailable,
    WriteReply,
)
from saga_core.errors import ItemTooLargeError, StoreError
from saga_core.events import Request
from saga_core.instance import SagaInstance
from saga_core.invoke import decide
from saga_core.memory import InMemorySagaStore
from saga_core.outcome import Done, Outcome
from saga_core.ports import WriteResult
from saga_core.turn import (
    Answered,
    Decision,
    Delivery,
    Started,
    WorkMessage,
    request,
    revive,
    start,
    sweep,
    work,
)
from tests.core.sagas import T0, new

T = TypeVar("T")

WORKER_MS = 30_000  # a worker's time-out
STEP_MS = 20_000
VISIBILITY_MS = 180_000
DELIVERIES = 5

AMBIGUOUS = StoreError("the answer was lost", ambiguous=True)
THROTTLED = StoreError("throttled")


def play(turn: Turn[T], *replies: object) -> tuple[list[Effect[object]], T]:
    """Run a turn on scripted replies; every one must be used.

    A reply that is a function is given the effect and makes the reply of it.
    """
    effects: list[Effect[object]] = []
    left = list(replies)
    reply: object = None
    while True:
        try:
            effect = turn.send(reply)
        except StopIteration as stop:
            assert not left, f"not asked for: {left}"
            return effects, cast("T", stop.value)
        effects.append(effect)
        assert left, f"no reply to {effect}"
        reply = left.pop(0)
        if callable(reply):
            reply = reply(effect)


@dataclass
class Envelope:
    """A message in the queue."""

    visible_at: int
    message: WorkMessage
    received: int = 0


@dataclass
class World:
    """A table, a queue, its dead letters, and the definitions that are deployed.

    Attributes:
        outcomes: What calls come to, by ``step:direction``, one after the other; then Done.
        faults: What goes wrong at the next effects of a type: None is nothing; an
            ambiguous error comes after the store has done it, any other instead of it.
        before: Happens once, just before the next effect of that type is performed.
    """

    definition: SagaDefinition
    now: int = T0
    store: InMemorySagaStore = field(default_factory=InMemorySagaStore)
    deployed: bool = True
    queue: list[Envelope] = field(default_factory=list)
    dead: list[Envelope] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    faults: dict[str, list[StoreError | None]] = field(default_factory=dict)
    before: dict[str, Callable[[], object]] = field(default_factory=dict)
    queue_refuses: bool = False
    codec: ContextCodec = field(default_factory=StandardContextCodec)
    faults_of_contexts: tuple[tuple[str, str], ...] = ()
    postponed: int | None = None
    ids: Iterator[int] = field(default_factory=lambda: count(1))

    # -- what a user and the operators do ---------------------------------------------

    def start(self, *, incarnation: str = "abcd1234") -> Started:
        """Start the saga ``s1``."""
        fresh = replace(new(self.definition, at=self.now), incarnation=incarnation)
        return self.run(start(fresh, self.definition, ends_at=self.now + WORKER_MS))

    def ask(self, event: Request) -> Answered:
        """Cancel, resume or skip."""
        turn = request(
            self.saga.key,
            event,
            self.lookup,
            nudge_id=f"r{next(self.ids)}",
            ends_at=self.now + WORKER_MS,
        )
        return self.run(turn)

    def sweep(self) -> list[Decision]:
        """Look after every saga that is due."""
        due = [d for shard in range(16) for d in self.store.due(shard, self.now, 10)]
        return [self.run(sweep(d, at=self.now)) for d in due]

    def lookup(self, ref: str) -> SagaDefinition | None:
        """The definition of that name, version and fingerprint, if it is deployed."""
        return self.definition if self.deployed and ref == self.definition.ref else None

    @property
    def saga(self) -> SagaInstance:
        """The one saga of this world."""
        (instance,) = self.store._sagas.values()
        return instance

    # -- what the queues do -----------------------------------------------------------

    def delivery(self) -> Delivery:
        """A delivery to a worker that has all its time."""
        return Delivery(f"d{next(self.ids)}", self.now, self.now + WORKER_MS, STEP_MS, 0.0)

    def working(self, message: WorkMessage) -> Turn[Decision]:
        """The turn that a worker makes of a message."""
        return work(message, self.delivery(), self.lookup)

    def reviving(self, message: WorkMessage) -> Turn[Decision]:
        """The turn that the dead letters make of a message."""
        return revive(message, self.delivery(), self.lookup)

    def deliver(self) -> Decision:
        """Wait for the next message, give it to a worker, and settle it with the queue."""
        envelope = min(self.queue, key=lambda e: e.visible_at)
        self.now = max(self.now, envelope.visible_at)
        envelope.received += 1
        decision = self._handled(self.working(envelope.message))
        if decision.acknowledge:
            self.queue.remove(envelope)
            return decision
        envelope.visible_at = self._back_at()
        if envelope.received == DELIVERIES:
            self.queue.remove(envelope)
            self.dead.append(Envelope(envelope.visible_at, envelope.message))
        return decision

    def bury(self) -> Decision:
        """Wait for the next dead letter and have it decided on."""
        envelope = min(self.dead, key=lambda e: e.visible_at)
        self.now = max(self.now, envelope.visible_at)
        decision = self._handled(self.reviving(envelope.message))
        if decision.acknowledge:
            self.dead.remove(envelope)
        else:
            envelope.visible_at = self._back_at()
        return decision

    def _handled(self, turn: Turn[Decision]) -> Decision:
        self.postponed = None
        return self.run(turn)

    def _back_at(self) -> int:
        return self.now + (VISIBILITY_MS if self.postponed is None else self.postponed)

    def drain(self, limit: int = 200) -> list[Decision]:
        """Deliver until the queues are empty."""
        decisions: list[Decision] = []
        while self.queue or self.dead:
            assert len(decisions) < limit, "messages circulate"
            decisions.append(self.deliver() if self.queue else self.bury())
        return decisions

    def message(self, *, epoch: int | None = None, branch: int | None = None) -> WorkMessage:
        """A message of the saga's current work item, or of another."""
        i = self.saga
        lane = i.open_lane(branch) or i.lane
        return WorkMessage(
            i.key, lane.epoch if epoch is None else epoch, i.definition, "test", "x", branch
        )

    # -- performing effects -----------------------------------------------------------

    def run(self, turn: Turn[T], reply: object = None) -> T:
        """Perform a turn to its end; one that was held goes on with this reply."""
        while True:
            try:
                effect = turn.send(reply)
            except StopIteration as stop:
                return cast("T", stop.value)
            reply = self.perform(effect)

    def hold(self, turn: Turn[T], kind: type[Effect[object]]) -> Effect[object]:
        """Perform a turn up to an effect of that type, which is left to the caller."""
        reply: object = None
        while True:
            effect = turn.send(reply)
            if isinstance(effect, kind):
                return effect
            reply = self.perform(effect)

    def perform(self, effect: Effect[object]) -> object:
        """Perform one effect and give the reply."""
        name = type(effect).__name__
        self.trace.append(name)
        happening = self.before.pop(name, None)
        if happening is not None:
            happening()
        match effect:
            case Call(step=step, direction=direction):
                self.calls.append(effect)
                left = self.outcomes.get(f"{step}:{direction}")
                outcome = left.pop(0) if left else Done(effect.context)
                return Ended(outcome, self.now, 0.5)
            case Send(instance, delay_ms, reason, branch):
                if self.queue_refuses:
                    return False
                lane = instance.open_lane(branch)
                assert lane is not None, f"nothing to announce of {branch}"
                message = WorkMessage(
                    instance.key, lane.epoch, instance.definition, reason, "x", branch
                )
                self.queue.append(Envelope(self.now + delay_ms, message))
                return True
            case Postpone(delay_ms):
                self.postponed = delay_ms
                return None
            case Pause(delay_ms):
                self.now += delay_ms
                return self.now
            case Decide():
                return decide(effect, self.codec)
            case CheckContext():
                return self.faults_of_contexts
            case Find(key, at):
                return self._faulty(name, lambda: self.store.find(key, at))
            case _:
                return self._faulty(name, lambda: self._write(effect))

    def _faulty(self, name: str, act: Callable[[], object]) -> object:
        left = self.faults.get(name)
        fault = left.pop(0) if left else None
        if fault is None:
            return act()
        if fault.ambiguous:
            act()
        return Unavailable(fault, self.now)

    def _write(self, effect: Effect[object]) -> WriteReply:
        try:
            return self._written(effect)
        except ItemTooLargeError as exc:
            return TooLarge(exc, self.now)

    def _written(self, effect: Effect[object]) -> WriteResult:
        match effect:
            case Create(instance):
                return self.store.create(instance)
            case Claim(key, epoch, definition, claim_id, at, until, branch):
                return self.store.claim(
                    key,
                    epoch=epoch,
                    definition=definition,
                    claim_id=claim_id,
                    now=at,
                    until=until,
                    branch=branch,
                )
            case Commit(before, after, claim_id):
                return self.store.commit(before, after, claim_id=claim_id)
            case Redispatch(instance, nudge_id, at, branch):
                return self.store.redispatch(instance, nudge_id=nudge_id, now=at, branch=branch)
            case Record(before, after):
                return self.store.record(before, after)
            case MarkSwept(before, after):
                return self.store.mark_swept(before, after)
            case _:
                raise AssertionError(effect)
