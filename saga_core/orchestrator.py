"""Sagas in this process: the same turns, driven by asyncio over a SagaStore.

For scripts, tests and services that run all the time. The Lambda functions do
without it; what they share is the turn and everything below it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import SystemRandom

from saga_core.contexts import ContextCodec, StandardContextCodec
from saga_core.definition import (
    DEFAULT_TIMEOUT,
    Function,
    Handler,
    OnCompensationFailure,
    SagaDefinition,
    StepDefinition,
    step_from_object,
)
from saga_core.effects import (
    Call,
    Claim,
    Commit,
    Create,
    Decide,
    Effect,
    Ended,
    Find,
    Pause,
    Postpone,
    Record,
    Redispatch,
    Send,
    T,
    TooLarge,
    Turn,
    WriteReply,
)
from saga_core.errors import (
    AlreadyCompletedError,
    CompensationFailedError,
    DefinitionError,
    DefinitionMismatchError,
    DuplicateSagaError,
    IllegalEventError,
    ItemTooLargeError,
    NotAllowedError,
    SagaNotFoundError,
    SagaStalledError,
    StaleInstanceError,
)
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    ChildRests,
    Claimed,
    HeartbeatReceived,
    Request,
    ResumeRequested,
    TakenOver,
)
from saga_core.identity import (
    answer_token,
    input_fingerprint,
    parse_token,
    saga_id_for,
    same_token,
)
from saga_core.instance import CLOSED, Lane, SagaInstance, SagaState
from saga_core.invoke import decide, invoke_async
from saga_core.memory import InMemorySagaStore
from saga_core.outcome import Exceptions, StepError
from saga_core.ports import INPUT_LIMIT, Refused, SagaStore, Written
from saga_core.retry import COMPENSATION_DEFAULT, FORWARD_DEFAULT, RetryPolicy
from saga_core.transition import Ignored, Moved, Reason, apply, claim, context_for, create
from saga_core.turn import Delivery, WorkMessage, decided, work

ATTEMPT_MS = 900_000  # how long an attempt may take before another process may take it over


@dataclass(frozen=True, slots=True)
class Environment:
    """What the orchestrator takes from outside; replace any of it in a test."""

    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    new_id: Callable[[], str] = lambda: secrets.token_hex(16)
    new_secret: Callable[[], str] = lambda: secrets.token_hex(16)  # 128 bits, in hex
    jitter: Callable[[], float] = SystemRandom().random


@dataclass(slots=True)
class SagaOrchestrator:
    """Runs the sagas of one definition to their end, in this process.

    Args:
        definition: The saga, or what ``Saga`` decorators built.
        store: Where sagas are kept. After a crash another process with the
            same store and definition goes on with ``resume``.
        codec: Translates contexts; the standard one needs no third-party package.
        environment: Clock, sleep, ids and jitter.
        tenant: Part of a saga's address.
        relatives: Definitions by ref, besides its own and its children's, that a
            run may meet: those of the sagas that start these.
    """

    definition: SagaDefinition
    store: SagaStore = field(default_factory=InMemorySagaStore)
    codec: ContextCodec = field(default_factory=StandardContextCodec)
    environment: Environment = field(default_factory=Environment)
    tenant: str = "default"
    relatives: Mapping[str, SagaDefinition] = field(default_factory=dict)
    _inferred: type | None = field(default=None, init=False)

    @staticmethod
    def builder(name: str) -> OrchestratorBuilder:
        """Begin to describe a saga step by step."""
        return OrchestratorBuilder(name)

    async def start(self, context: object, *, idempotency_key: str | None = None) -> str:
        """Run a saga until it rests and give its id, also when it was rolled back.

        With an idempotency key that was used before for the same input, the
        saga that exists is left as it is and its id returned.

        Raises:
            CompensationFailedError: It is FAILED: a compensation is spent and
                effects stand. It can be resumed.
            DuplicateSagaError: The key was used with another input.
            ItemTooLargeError: The context is over 64 KB.
            ValueError, TypeError: The context is none of this saga's; pydantic's
                ValidationError, for one, names the fields. Nothing was begun.
            StoreError: The store did not answer. The saga may have begun;
                ``resume`` goes on with it.
        """
        text = self.codec.encode(context)
        saga_id = saga_id_for(self.tenant, idempotency_key or self.environment.new_id())
        if len(text.encode()) > INPUT_LIMIT:
            raise ItemTooLargeError(saga_id, len(text.encode()), INPUT_LIMIT)
        if self.definition.context_type is not None:
            self.codec.decode(text, self.definition.context_type)
        if self.definition.context_type is None:
            self._inferred = type(context)
        new = create(
            self.definition,
            saga_id=saga_id,
            tenant=self.tenant,
            incarnation=self.environment.new_id()[:8],
            input_fingerprint=input_fingerprint(self.definition.name, text),
            context=text,
            at=self.environment.now_ms(),
            secret=self.environment.new_secret(),
        )
        driver = _AsyncDriver(self, new)
        new = await driver.drive(decided(self.definition, new, new.created_at, soon=True))
        try:
            stored = await self.store.save(new)
        except StaleInstanceError:
            existing = await self._existing(saga_id)
            if existing.input_fingerprint != new.input_fingerprint:
                raise DuplicateSagaError(saga_id) from None
            return saga_id
        await self._run(stored)
        return saga_id

    async def resume(self, saga_id: str) -> SagaState:
        """Go on with a saga that was interrupted or is FAILED, until it rests.

        The caller says that the process which ran it is gone: an attempt in
        flight is taken over at once. It is in doubt, and made again under the
        same idempotency key.

        Raises:
            SagaNotFoundError: No saga has this id.
            AlreadyCompletedError: It is COMPLETED or COMPENSATED.
            DefinitionMismatchError: It was started with another definition.
            CompensationFailedError: A compensation is spent (again).
            SagaStalledError: It made more moves than any honest failure needs.
            StaleInstanceError: Another process is moving it.
        """
        instance = await self._existing(saga_id)
        if instance.status in CLOSED:
            raise AlreadyCompletedError(saga_id, instance.state)
        definition = self._definition_needed(instance)
        if definition is not self.definition:
            return await self._for_child(definition).resume(saga_id)
        at = self.environment.now_ms()
        event = TakenOver(at=at) if instance.live else ResumeRequested(by="resume", at=at)
        outcome = apply(self.definition, instance, event)
        if isinstance(outcome, Moved):
            moved = await self._decided(self.definition, outcome.instance, at)
            instance = await self.store.save(moved)
        return (await self._run(instance)).state

    async def cancel(self, saga_id: str, *, by: str = "cancel") -> SagaState:
        """Ask for the roll-back of a saga. Whoever runs it notices at its next write.

        The attempt in flight settles first and is undone too. A saga that
        nobody runs, because its process is gone, is rolled back by ``resume``.

        Raises:
            SagaNotFoundError: No saga has this id.
            NotAllowedError: It has ended, or is past its pivot, or its roll-back
                stopped: resume it.
            StaleInstanceError: It moved at the same moment too often.
        """
        event = CancelRequested(by=by, at=self.environment.now_ms())
        done = (Reason.ALREADY_CANCELLED, Reason.ROLLING_BACK)
        return (await self._ask(saga_id, event, done)).state

    async def answer(
        self,
        token: str,
        *,
        fields: Mapping[str, object] | None = None,
        error: str | None = None,
        by: str = "answer",
    ) -> SagaState:
        """Answer for a step that waits: with what it sets in the context, or with an error.

        Whoever runs the saga notices within a second. Repeating an answer is
        safe; another one is refused.

        Raises:
            SagaNotFoundError: The token is none, or of a saga that is gone.
            NotAllowedError: The step was answered before, or given up: ``reason``.
            ValueError, TypeError: The fields make no context of this saga.
            StaleInstanceError: It moved at the same moment too often.
        """
        saga_id, step = await self._step_of(token)
        event = AnswerGiven(
            step=step,
            ok=error is None,
            by=by,
            at=self.environment.now_ms(),
            fields=self.codec.encode(dict(fields or {})),
            error=None if error is None else StepError.named("AnsweredFailed", error),
        )
        instance = await self._ask(saga_id, event, (Reason.REPEATED,))
        given = next(s.answer for s in instance.steps if s.name == step)
        if given is not None and given.late:
            raise NotAllowedError(saga_id, instance.state, Reason.LATE)
        return instance.state

    async def heartbeat(self, token: str, *, by: str = "heartbeat") -> SagaState:
        """Say that the answer is still to come: its time-out begins anew.

        Raises:
            SagaNotFoundError: The token is none, or of a saga that is gone.
            NotAllowedError: The step does not wait (any more): ``reason``.
            StaleInstanceError: It moved at the same moment too often.
        """
        saga_id, step = await self._step_of(token)
        event = HeartbeatReceived(step=step, by=by, at=self.environment.now_ms())
        return (await self._ask(saga_id, event, (Reason.LEASED,))).state

    async def _step_of(self, token: str) -> tuple[str, str]:
        """The saga and the step that a token is for."""
        try:
            saga_id, place = parse_token(token)
        except ValueError:
            raise SagaNotFoundError("of this token") from None
        i = await self._existing(saga_id)
        right = answer_token(i.id, i.incarnation, i.secret, place)
        if place >= len(i.steps) or not same_token(right, token):
            raise SagaNotFoundError(saga_id)
        return saga_id, i.steps[place].name

    async def _ask(self, saga_id: str, event: Request, done: tuple[Reason, ...]) -> SagaInstance:
        """Make a request; the ``done`` reasons say that it was made before."""
        for _ in range(_RACES):
            instance = await self._existing(saga_id)
            definition = self._definition_needed(instance)
            outcome = apply(definition, instance, event)
            if isinstance(outcome, Ignored):
                if outcome.reason in done:
                    return instance
                raise NotAllowedError(saga_id, instance.state, outcome.reason)
            if isinstance(event, AnswerGiven) and event.ok:
                lane = next(
                    (n for n in instance.open_lanes if instance.steps[n.index].name == event.step),
                    instance.lane,
                )
                self.codec.decode(context_for(instance, lane, event), self._type_of(definition))
            moved = await self._decided(definition, outcome.instance, event.at)
            try:
                return await self.store.save(moved)
            except StaleInstanceError:
                continue
        raise StaleInstanceError(saga_id, instance.version)

    async def _decided(
        self, definition: SagaDefinition, instance: SagaInstance, at: int
    ) -> SagaInstance:
        """The instance with the conditions of the steps at hand asked."""
        turn = decided(definition, instance, at, soon=True)
        return await _AsyncDriver(self, instance).drive(turn)

    async def get_state(self, saga_id: str) -> SagaInstance | None:
        """The saga as it stands, or None. Its ``context`` has the declared type."""
        instance = await self.store.load(saga_id)
        return None if instance is None else replace(instance, decoder=self._decode)

    def _decode(self, text: str) -> object:
        return self.codec.decode(text, self._type_of(self.definition))

    def _type_of(self, definition: SagaDefinition) -> type | None:
        inferred = self._inferred if definition is self.definition else None
        return definition.context_type or inferred

    def _definition_needed(self, instance: SagaInstance) -> SagaDefinition:
        """The definition of a saga of ours, or of one that a step of ours has started."""
        if instance.definition == self.definition.ref:
            return self.definition
        found = self._definition_of(instance.definition)
        if found is None:
            raise DefinitionMismatchError(instance.id, instance.definition, (self.definition.ref,))
        return found

    async def _existing(self, saga_id: str) -> SagaInstance:
        instance = await self.store.load(saga_id)
        if instance is None:
            raise SagaNotFoundError(saga_id)
        return instance

    # -- driving ------------------------------------------------------------------

    async def _run(self, instance: SagaInstance) -> SagaInstance:
        """Make one attempt after the other until the saga rests; those of a group at once."""
        while instance.live:
            now = self.environment.now_ms()
            ready = [n for n in instance.open_lanes if n.lease is not None or n.due_at <= now]
            if ready:
                instance = await self._move_all(instance, ready)
            elif not await self._run_children(instance):
                await self._sleep_towards(min(n.due_at for n in instance.open_lanes))
                instance = await self._existing(instance.id)
            else:
                instance = await self._existing(instance.id)
        if instance.why is not None:
            self._raise_failed(instance)
        return instance

    async def _move_all(self, instance: SagaInstance, lanes: list[Lane]) -> SagaInstance:
        if len(lanes) == 1:
            return await self._move(instance, lanes[0])
        moves = [self._move(instance, lane) for lane in lanes]
        # All of them come to their end before one's error goes to the caller: no attempt is
        # left behind that nobody waits for.
        for result in await asyncio.gather(*moves, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return await self._existing(instance.id)

    async def _run_children(self, instance: SagaInstance) -> bool:
        """Run the sagas that its steps wait for, to their rest; whether there were any to run."""
        steps = [(n.index, instance.steps[n.index].child) for n in instance.open_lanes]
        runs = [self._run_child(instance, n, child) for n, child in steps if child is not None]
        ran = await asyncio.gather(*runs, return_exceptions=True)
        for result in ran:
            if isinstance(result, BaseException):
                raise result
        return any(ran)

    async def _run_child(self, parent: SagaInstance, index: int, child: str) -> bool:
        definition = self.definition.steps[index].child
        found = await self.store.load(child)
        if definition is None or found is None:
            return False  # the parent's next look says so
        if found.live:
            with suppress(CompensationFailedError, SagaStalledError):  # its parent says so, next
                await self._for_child(definition).resume(child)
            return True
        # It came to rest, and whoever ran it died before telling.
        event = ChildRests(step=index, at=self.environment.now_ms())
        outcome = apply(self.definition, parent, event)
        if isinstance(outcome, Ignored):
            return False  # what is awaited is something else
        await self.store.save(outcome.instance)
        return True

    def _for_child(self, definition: SagaDefinition) -> SagaOrchestrator:
        return SagaOrchestrator(
            definition, self.store, self.codec, self.environment, self.tenant, self._family()
        )

    def _family(self) -> dict[str, SagaDefinition]:
        """The definitions that a run may meet, by ref: its own, its children's, its parents'."""
        mine = (self.definition, *self.definition.children)
        return {**self.relatives, **{d.ref: d for d in mine}}

    def _definition_of(self, ref: str) -> SagaDefinition | None:
        return self._family().get(ref)

    async def _move(self, instance: SagaInstance, lane: Lane) -> SagaInstance:
        env = self.environment
        now = env.now_ms()
        message = WorkMessage(
            instance.key, lane.epoch, instance.definition, "in_process", instance.id, lane.number
        )
        delivery = Delivery(env.new_id(), now, now + ATTEMPT_MS, 0, env.jitter())
        # A StoreError goes through to the caller, who hears of it at once.
        decision = await _AsyncDriver(self, instance).drive(
            work(message, delivery, self._definition_of)
        )
        if decision.after is not None:
            return decision.after
        # Nothing was committed: its group has failed meanwhile, or another process has the saga.
        found = await self.store.load(instance.id) if lane.branch else None
        if found is not None and found.open_lane(lane.number) is None:
            return found
        raise StaleInstanceError(instance.id, instance.version)

    async def _sleep_towards(self, at: int) -> None:
        """Not all the way: a cancel may come in meanwhile and is looked for."""
        wait = max(0, at - self.environment.now_ms())
        await self.environment.sleep(min(wait, _LOOK_AGAIN_MS) / 1000)

    def _raise_failed(self, instance: SagaInstance) -> None:
        try:
            instance.raise_for_state()
        except CompensationFailedError as exc:
            for step in instance.steps:
                if step.name == exc.step and step.error is not None:
                    exc.add_note(f"{step.error.kind}: {step.error.message}")
            raise


_LOOK_AGAIN_MS = 1_000
_RACES = 10  # a cancel races with the writes of one runner; it loses a few at most


@dataclass(slots=True)
class _AsyncDriver:
    """Performs the effects of a turn with a SagaStore, which knows only ``save``."""

    orchestrator: SagaOrchestrator
    held: SagaInstance

    async def drive(self, turn: Turn[T]) -> T:
        reply: object = None
        while True:
            try:
                effect = turn.send(reply)
            except StopIteration as stop:
                result: T = stop.value
                return result
            reply = await self._perform(effect)

    async def _perform(self, effect: Effect[object]) -> object:
        env = self.orchestrator.environment
        match effect:
            case Claim():
                return await self._claim(effect)
            case Call():
                outcome = await invoke_async(
                    self._definition(), effect, self.orchestrator.codec, _within
                )
                return Ended(outcome, env.now_ms(), env.jitter())
            case Decide():
                mine = effect.definition is self.orchestrator.definition
                asked = replace(effect, definition=self._definition()) if mine else effect
                return decide(asked, self.orchestrator.codec)
            case Commit(after=after) | Record(after=after) | Create(instance=after):
                return await self._save(after)
            case Find(key=key):
                return await self.orchestrator.store.load(key.saga_id)
            case Send():
                return True  # the loop around the turn is the wake-up
            case Postpone() | Redispatch():
                return Refused(None)  # nor is there a message: another process has the saga
            case Pause(delay_ms):
                await env.sleep(delay_ms / 1000)
                return env.now_ms()
            case _:
                raise IllegalEventError(f"no turn of this driver yields {type(effect).__name__}")

    async def _claim(self, effect: Claim) -> WriteReply:
        event = Claimed(
            claim_id=effect.claim_id,
            epoch=effect.epoch,
            definition=effect.definition,
            until=effect.until,
            at=effect.at,
            branch=effect.branch,
        )
        found: SagaInstance | None = self.held
        while found is not None:
            outcome = claim(found, event)
            if isinstance(outcome, Ignored):
                break
            try:
                return Written(await self.orchestrator.store.save(outcome.instance))
            except StaleInstanceError:
                # A claim asks for the work item and not for a version: a cancel that
                # came in meanwhile does not stand in its way.
                found = await self.orchestrator.store.load(found.id)
        return Refused(found)

    async def _save(self, instance: SagaInstance) -> WriteReply:
        try:
            return Written(await self.orchestrator.store.save(instance))
        except StaleInstanceError:
            return Refused(await self.orchestrator.store.load(instance.id))
        except ItemTooLargeError as exc:
            return TooLarge(exc, self.orchestrator.environment.now_ms())

    def _definition(self) -> SagaDefinition:
        """The definition with the context type that ``start`` saw, if none is declared."""
        definition = self.orchestrator.definition
        if definition.context_type is None:
            inferred = self.orchestrator._inferred  # noqa: SLF001 - one class in two parts
            return replace(definition, context_type=inferred)
        return definition


async def _within(awaitable: Awaitable[object], seconds: float | None) -> object:
    async with asyncio.timeout(seconds):
        return await awaitable


class OrchestratorBuilder:
    """``SagaOrchestrator.builder(name).step(...).store(...).timeout(...).build()``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._version = "1"
        self._steps: list[StepDefinition] = []
        self._timeout = DEFAULT_TIMEOUT
        self._context: type | None = None
        self._on_failure: OnCompensationFailure = "halt"
        self._parts: dict[str, object] = {}

    def step(
        self,
        step: object,
        execute: Function | None = None,
        compensate: Function | None = None,
        *,
        compensatable: bool | None = None,
        retry: RetryPolicy | None = None,
        compensation_retry: RetryPolicy | None = None,
        fatal_on: Exceptions | None = None,
        in_doubt_on: Exceptions | None = None,
        pivot: bool | None = None,
        group: str | None = None,
        when: Function | None = None,
        delay: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> OrchestratorBuilder:
        """Add a step: an object in class style, or a name and its functions.

        Raises:
            DefinitionError: It is not a step.
        """
        if isinstance(step, str):
            if execute is None:
                raise DefinitionError(f"SAGA005 step {step} has no execute")
            self._steps.append(
                StepDefinition(
                    name=step,
                    execute=Handler.of(execute),
                    compensate=Handler.of(compensate) if compensate is not None else None,
                    compensatable=compensatable if compensatable is not None else True,
                    retry=retry or FORWARD_DEFAULT,
                    compensation_retry=compensation_retry or COMPENSATION_DEFAULT,
                    fatal_on=fatal_on or (),
                    in_doubt_on=in_doubt_on or (),
                    pivot=pivot or False,
                    group=group,
                    when=Handler.of(when) if when is not None else None,
                    delay=delay or timedelta(0),
                    timeout=timeout,
                )
            )
            return self
        if execute is not None or compensate is not None:
            raise DefinitionError("SAGA005 functions go with a name; an object brings its own")
        self._steps.append(
            step_from_object(
                step,
                compensatable=compensatable,
                retry=retry,
                compensation_retry=compensation_retry,
                fatal_on=fatal_on,
                in_doubt_on=in_doubt_on,
                pivot=pivot,
                group=group,
                when=when,
                delay=delay,
                timeout=timeout,
            )
        )
        return self

    def store(self, store: SagaStore) -> OrchestratorBuilder:
        """Where sagas are kept; in memory if this is not called."""
        self._parts["store"] = store
        return self

    def timeout(self, timeout: timedelta | float) -> OrchestratorBuilder:
        """The deadline from the start: a timedelta, or seconds. Default 300 s."""
        self._timeout = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
        return self

    def version(self, version: str) -> OrchestratorBuilder:
        """The definition's version; "1" if this is not called."""
        self._version = version
        return self

    def context(self, context_type: type) -> OrchestratorBuilder:
        """The context's type; the type of ``start``'s argument if this is not called."""
        self._context = context_type
        return self

    def on_compensation_failure(self, behaviour: OnCompensationFailure) -> OrchestratorBuilder:
        """``"halt"`` (default) or ``"continue"`` with the rest."""
        self._on_failure = behaviour
        return self

    def codec(self, codec: ContextCodec) -> OrchestratorBuilder:
        """How contexts are written and read."""
        self._parts["codec"] = codec
        return self

    def environment(self, environment: Environment) -> OrchestratorBuilder:
        """Clock, sleep, ids and jitter."""
        self._parts["environment"] = environment
        return self

    def build(self) -> SagaOrchestrator:
        """The orchestrator.

        Raises:
            DefinitionError: With every error that the lint found.
        """
        definition = SagaDefinition(
            name=self._name,
            version=self._version,
            steps=tuple(self._steps),
            timeout=self._timeout,
            context_type=self._context,
            on_compensation_failure=self._on_failure,
        )
        return SagaOrchestrator(definition, **self._parts)  # type: ignore[arg-type]  # each set above with its type
