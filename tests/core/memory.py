"""The turns over a dictionary and a list: every effect can be the last of its process."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from saga_core import InMemorySagaStore, SagaDefinition
from saga_core.contexts import StandardContextCodec
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
    T,
    TooLarge,
    Turn,
    Unavailable,
)
from saga_core.errors import ItemTooLargeError, StoreError
from saga_core.events import AnswerGiven, Request
from saga_core.identity import SHARDS, parse_token, saga_id_for
from saga_core.instance import Key, SagaInstance
from saga_core.invoke import decide, invoke
from saga_core.outcome import StepError
from saga_core.testing.simulation import wait_for
from saga_core.transition import create
from saga_core.turn import (
    Answer,
    Answered,
    Delivery,
    Started,
    Starting,
    WorkMessage,
    answer,
    request,
    start,
    sweep,
    work,
)

CODEC = StandardContextCodec()
KEY = "k1"
SAGA_ID = saga_id_for("default", KEY)
NO = StepError("AnsweredFailed", "no")
WORKER_MS, VISIBILITY_MS, MINUTE_MS = 30_000, 180_000, 60_000


class Died(BaseException):
    """The process ends here, between two effects."""


class Memory:
    """A table, a queue, a clock, and workers that may die.

    Args:
        definition: What runs; its children are deployed, too.

    Attributes:
        dies_at: The number of the effect at which a process dies; 0: none does.
        after: It dies when the effect has happened, before it knows.
        effects: How many there were so far.
        fault: What goes wrong with an effect on the store or the queue, if anything. An
            ambiguous error comes after it is done, any other instead of it.
    """

    def __init__(
        self, definition: SagaDefinition, *, dies_at: int = 0, after: bool = False
    ) -> None:
        self.definition = definition
        self.now = 1_800_000_000_000
        self.store = InMemorySagaStore()
        self.known = {d.ref: d for d in (definition, *definition.children)}
        self.queue: list[tuple[int, int, WorkMessage]] = []
        self.ids = 0
        self.dies_at, self.after, self.effects = dies_at, after, 0
        self.on_call: Callable[[Call], None] = lambda _: None
        self.fault: Callable[[Effect[object]], StoreError | None] = lambda _: None

    # -- what people do -------------------------------------------------------------

    def begin(self, context: str = "{}") -> None:
        """Start the saga, again and again until it is known to have begun."""
        new = create(
            self.definition,
            saga_id=SAGA_ID,
            tenant="default",
            incarnation="00000001",
            input_fingerprint="f",
            context=context,
            at=self.now,
            secret="0" * 32,
        )

        def turn() -> Started:
            return self.run(start(new, self.definition, ends_at=self.now + WORKER_MS))

        while self._insisting(turn).result is Starting.UNAVAILABLE:
            self.now += MINUTE_MS

    def ask(self, event: Request, saga_id: str = SAGA_ID) -> Answered:
        """Cancel, resume or skip, likewise."""
        key = Key("default", saga_id)

        def turn() -> Answered:
            nudge = f"n{self.new_id()}"
            ends_at = self.now + WORKER_MS
            return self.run(request(key, event, self.known.get, nudge_id=nudge, ends_at=ends_at))

        while (answered := self._insisting(turn)).answer is Answer.UNAVAILABLE:
            self.now += MINUTE_MS
        return answered

    def answer(self, token: str, *, ok: bool) -> Answered:
        """Answer for a step."""
        event = AnswerGiven(step="", ok=ok, by="me", at=self.now, error=None if ok else NO)
        key = Key("default", parse_token(token)[0])

        def turn() -> Answered:
            nudge, ends_at = f"a{self.new_id()}", self.now + WORKER_MS
            return self.run(
                answer(key, token, event, self.known.get, nudge_id=nudge, ends_at=ends_at)
            )

        return self._insisting(turn)

    def _insisting(self, ask: Callable[[], T]) -> T:
        while True:
            try:
                return ask()
            except Died:
                self.now += MINUTE_MS

    # -- what the queue and the schedule do -------------------------------------------

    def deliver(self) -> None:
        """Wait for the next message, and work on it."""
        envelope = min(self.queue, key=lambda e: e[:2])
        self.now = max(self.now, envelope[0])
        self.queue.remove(envelope)
        delivery = Delivery(
            f"d{self.new_id()}", self.now, self.now + WORKER_MS, WORKER_MS - 10_000, 0.5
        )
        message = envelope[2]
        try:
            decision = self.run(
                work(message, delivery, self.known.get), self.known.get(message.definition)
            )
        except Died:
            self.queue.append((self.now + VISIBILITY_MS, self.new_id(), message))
            return
        if not decision.acknowledge:
            self.queue.append((self._back_at(message), self.new_id(), message))

    def _back_at(self, message: WorkMessage) -> int:
        found = self.store.find(message.key, self.now)
        if found is None:
            return self.now + VISIBILITY_MS
        lane = found.open_lane(message.branch) or found.lane
        lease = lane.lease.until + 1 if lane.lease is not None else 0
        return max(self.now + 5_000, lane.due_at, lease)

    def sweep(self) -> bool:
        """A minute later, look after what is due. False when nothing moves any more."""
        self.now += MINUTE_MS
        for shard in range(SHARDS):
            for due in self.store.due(shard, self.now + MINUTE_MS, 100):
                try:
                    self.run(sweep(due, at=self.now))
                except Died:
                    continue
        return any(i.live for i in self.sagas())

    def quiet(self, most: int = 3_000) -> SagaInstance:
        """Go on until nothing moves; the saga as it stands then."""
        for _ in range(most):
            if self.queue:
                self.deliver()
            elif not self.sweep():
                return self.saga()
        raise AssertionError("it does not end")

    # -- what is there ----------------------------------------------------------------

    def sagas(self) -> list[SagaInstance]:
        """Every saga as stored."""
        return list(self.store._sagas.values())

    def saga(self, name: str | None = None) -> SagaInstance:
        """The saga that was begun, or the one of that name."""
        wanted = name or self.definition.name
        return next(i for i in self.sagas() if i.definition_name == wanted)

    def new_id(self) -> int:
        """The next number."""
        self.ids += 1
        return self.ids

    # -- effects ----------------------------------------------------------------------

    def run(self, turn: Turn[T], definition: SagaDefinition | None = None) -> T:
        """Perform a turn to its end, unless its process dies."""
        reply: object = None
        while True:
            try:
                effect = turn.send(reply)
            except StopIteration as stop:
                return cast("T", stop.value)
            self.effects += 1
            if self.effects == self.dies_at and not self.after:
                raise Died
            reply = self._troubled(effect, definition)
            if self.effects == self.dies_at:
                raise Died

    def _troubled(self, effect: Effect[object], definition: SagaDefinition | None) -> object:
        if isinstance(effect, Call | CheckContext | Decide | Pause | Postpone):
            return self._perform(effect, definition)
        error = self.fault(effect)
        if error is None:
            try:
                return self._perform(effect, definition)
            except ItemTooLargeError as exc:
                return TooLarge(exc, self.now)
        if error.ambiguous:
            self._perform(effect, definition)
        return False if isinstance(effect, Send) else Unavailable(error, self.now)

    def _perform(self, effect: Effect[object], definition: SagaDefinition | None) -> object:
        store = self.store
        match effect:
            case Create(instance):
                return store.create(instance)
            case Find(key, at):
                return store.find(key, at)
            case Claim(key, epoch, ref, claim_id, at, until, branch):
                return store.claim(
                    key,
                    epoch=epoch,
                    definition=ref,
                    claim_id=claim_id,
                    now=at,
                    until=until,
                    branch=branch,
                )
            case Call():
                assert definition is not None
                self.on_call(effect)
                return Ended(invoke(definition, effect, CODEC, wait_for), self.now, 0.5)
            case Decide():
                return decide(effect, CODEC)
            case CheckContext():
                return ()
            case Commit(before, after, claim_id):
                return store.commit(before, after, claim_id=claim_id)
            case Record(before, after):
                return store.record(before, after)
            case MarkSwept(before, after):
                return store.mark_swept(before, after)
            case Redispatch(instance, nudge_id, at, branch):
                return store.redispatch(instance, nudge_id=nudge_id, now=at, branch=branch)
            case Send(instance, delay_ms, reason, branch):
                lane = instance.open_lane(branch)
                assert lane is not None, f"nothing to announce of {branch}"
                message = WorkMessage(
                    instance.key, lane.epoch, instance.definition, reason, "x", branch
                )
                self.queue.append((self.now + delay_ms, self.new_id(), message))
                return True
            case Postpone():
                return None  # see _back_at
            case Pause(delay_ms):
                self.now += delay_ms
                return self.now
            case _:
                raise AssertionError(effect)
