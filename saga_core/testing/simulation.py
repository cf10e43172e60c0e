"""A small AWS in one thread, with everything that can go wrong, from a seed.

The real turns run over a table, a queue with dead letters, and a clock, all in
memory. Every effect that a turn yields is a place where the simulation can
crash it, repeat it, delay it or lose its answer. Several workers run at once:
which of them goes on next is drawn, too. The same seed makes the same run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from random import Random

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
)
from saga_core.errors import IllegalEventError, ItemTooLargeError, StoreError
from saga_core.events import AnswerGiven, HeartbeatReceived, Request
from saga_core.identity import SHARDS, input_fingerprint, parse_token, saga_id_for
from saga_core.instance import Key, SagaInstance
from saga_core.invoke import decide, invoke
from saga_core.memory import InMemorySagaStore
from saga_core.outcome import InDoubt, StepError
from saga_core.ports import Refused, Written
from saga_core.transition import create
from saga_core.turn import (
    Answer,
    Answered,
    Decision,
    Delivery,
    Started,
    Starting,
    Verdict,
    WorkMessage,
    answer,
    request,
    revive,
    start,
    sweep,
    work,
)

# The stack's own numbers, in milliseconds where they are times.
FUNCTION_MS = 30_000
VISIBILITY_MS = 180_000
MAX_RECEIVES = 5
STEP_MS = 20_000
SWEEP_EVERY_MS = 60_000
LOOK_AHEAD_MS = 60_000
TRY_AGAIN_MS = 20_000
BEGINNING = 1_800_000_000_000
TENANT = "default"


class BrokenInvariantError(AssertionError):
    """An invariant does not hold. ``name`` says which."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        super().__init__(f"{name}: {text}")


class Fault(StrEnum):
    """What can happen to one effect."""

    CRASH_BEFORE = "crash before"  # the process dies, the effect does not happen
    CRASH_AFTER = "crash after"  # the effect happens, the process dies before it knows
    LOSE_ANSWER = "lose answer"  # the effect happens, the process is told that nobody knows
    REFUSE = "refuse"  # the effect does not happen, and the process is told so (a throttle)
    STALL = "stall"  # the process sleeps past its lease, and goes on as if nothing were
    LATE = "late"  # a call times out; its request arrives at the service much later


def faults_for(effect: Effect[object]) -> tuple[Fault, ...]:
    """What can go wrong with this effect."""
    match effect:
        case Pause() | Postpone() | Decide() | CheckContext():
            return (Fault.CRASH_BEFORE,)
        case Find():
            return (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.REFUSE, Fault.STALL)
        case Call():
            return (
                Fault.CRASH_BEFORE,
                Fault.CRASH_AFTER,
                Fault.LOSE_ANSWER,
                Fault.STALL,
                Fault.LATE,
            )
        case _:
            return (
                Fault.CRASH_BEFORE,
                Fault.CRASH_AFTER,
                Fault.LOSE_ANSWER,
                Fault.REFUSE,
                Fault.STALL,
            )


@dataclass(frozen=True, slots=True)
class Profile:
    """How hard the world is. Chances are per effect or per delivery.

    Attributes:
        faults: The chance of each fault, for each effect but a handler's call.
        calls: The chance of each fault for a handler's call.
        hit: The kinds of process that faults hit; None: all.
        duplicate: A delivery is repeated while the first is being worked on.
        undelete: A deleted message is delivered once more.
        lose_message: A sent message never arrives, unless the sweeper sent it.
        skew_ms: Clocks of different workers differ by up to this.
        sweeper: It runs.
        faults_end_at: After so many steps nothing goes wrong any more.
    """

    faults: Mapping[Fault, float] = field(default_factory=dict)
    calls: Mapping[Fault, float] = field(default_factory=dict)
    hit: frozenset[str] | None = None
    duplicate: float = 0.0
    undelete: float = 0.0
    lose_message: float = 0.0
    skew_ms: int = 0
    sweeper: bool = True
    faults_end_at: int = 400


class Chooser:
    """Where the run takes its turns and its faults from: a seed.

    Scheduling and faults are drawn apart, so that a run can be repeated with
    some of its faults left out.
    """

    def __init__(self, seed: int, profile: Profile, only: frozenset[int] | None = None) -> None:
        self._order = Random(f"order {seed}")  # noqa: S311 - a simulation, not a secret
        self._luck = Random(f"luck {seed}")  # noqa: S311 - likewise
        self._profile = profile
        self._only = only
        self.drawn: list[tuple[int, str]] = []
        self._draws = 0

    def pick(self, count: int) -> int:
        """Which of so many."""
        return self._order.randrange(count)

    def fraction(self) -> float:
        """A number in [0, 1)."""
        return self._order.random()

    def happens(self, chance: float, what: str) -> bool:
        """Whether something of this chance happens."""
        self._draws += 1
        hit = self._luck.random() < chance
        if hit and (self._only is None or self._draws in self._only):
            self.drawn.append((self._draws, what))
            return True
        return False

    def fault(self, effect: Effect[object]) -> Fault | None:
        """What goes wrong with this effect."""
        label = describe(effect)
        hit: Fault | None = None
        chances = self._profile.calls if isinstance(effect, Call) else self._profile.faults
        for fault in faults_for(
            effect
        ):  # every chance is drawn, so that leaving one out moves none
            if self.happens(chances.get(fault, 0.0), f"{fault}: {label}"):
                hit = hit or fault
        return hit


def describe(effect: Effect[object]) -> str:
    """An effect in a few words."""
    name = type(effect).__name__.lower()
    match effect:
        case Call(step, direction, call):
            way = "step" if direction.name == "FORWARD" else "compensation of"
            return f"{way} {step}, attempt {call.attempt}"
        case Claim(epoch=epoch):
            return f"claim of work item {epoch}"
        case Commit(before=before):
            return f"commit of work item {before.lane.epoch}"
        case Send(instance=instance):
            return f"send of work item {instance.lane.epoch}"
        case _:
            return name


@dataclass(slots=True)
class Letter:
    """A message in a queue."""

    id: int
    message: WorkMessage
    visible_at: int
    receives: int = 0


@dataclass(slots=True)
class Process:
    """One invocation: a turn, how far it is, and the message in its hand."""

    id: int
    kind: str
    turn: Turn[object]
    ends_at: int
    skew_ms: int
    letter: Letter | None
    queue: list[Letter] | None
    definition: SagaDefinition | None
    wakes_at: int
    reply: object = None
    stalled: bool = False
    again: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Asked:
    """A person's request, made again until it is answered; with a token, an answer."""

    at: int
    key: Key
    event: Callable[[int], Request]
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """One write that took effect: what the table held before and after."""

    by: int
    effect: Effect[object]
    before: SagaInstance | None
    after: SagaInstance


@dataclass(slots=True)
class Simulation:
    """Sagas, workers, queues and a clock. ``run`` lets them go until all is quiet.

    Args:
        definitions: What is deployed; by ``ref``.
        chooser: Turns and faults.
        profile: How hard the world is.
        on_write: Told of every write, to hold it against the invariants.
    """

    definitions: dict[str, SagaDefinition]
    chooser: Chooser
    profile: Profile = field(default_factory=Profile)
    codec: ContextCodec = field(default_factory=StandardContextCodec)
    on_write: Callable[[Write], None] = lambda _: None
    store: InMemorySagaStore = field(default_factory=InMemorySagaStore)
    now: int = BEGINNING
    steps: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    queue: list[Letter] = field(default_factory=list)
    dead: list[Letter] = field(default_factory=list)
    parking: list[Letter] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    late: list[tuple[int, Call, SagaDefinition]] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)
    sends: Counter[int] = field(default_factory=Counter)
    writes: int = 0
    most_letters: int = 0
    known: dict[str, SagaDefinition] = field(default_factory=dict)  # by ref, deployed or not
    invocations: int = 0
    _committed: dict[Key, int] = field(default_factory=dict)  # by which process, last
    _ids: int = 0
    _deployments: list[tuple[int, dict[str, SagaDefinition]]] = field(default_factory=list)
    _clients: list[tuple[int, SagaInstance]] = field(default_factory=list)
    _next_sweep: int = BEGINNING + SWEEP_EVERY_MS

    # -- what a test asks for -----------------------------------------------------

    def begin(
        self, definition: SagaDefinition, context: object, key: str, *, tenant: str = TENANT
    ) -> str:
        """Start a saga, as a client does who tries again until it is answered."""
        text = self.codec.encode(context)
        new = create(
            definition,
            saga_id=saga_id_for(tenant, key),
            tenant=tenant,
            incarnation=f"{self._id():08x}",
            input_fingerprint=input_fingerprint(definition.name, text),
            context=text,
            at=self.now,
            secret=f"{self._id():032x}",
        )
        self.known[definition.ref] = definition
        self._clients.append((self.now, new))
        return new.id

    def ask(
        self, at: int, saga_id: str, event: Callable[[int], Request], *, tenant: str = TENANT
    ) -> None:
        """Send a request at a time: ``event`` is given the moment."""
        self.requests.append(Asked(at, Key(tenant, saga_id), event))

    def tell(
        self,
        at: int,
        token: str,
        event: Callable[[int], AnswerGiven | HeartbeatReceived],
        *,
        tenant: str = TENANT,
    ) -> None:
        """Answer for a step at a time: ``event`` is given the moment."""
        self.requests.append(Asked(at, Key(tenant, parse_token(token)[0]), event, token))

    def deploy(self, at: int, definitions: dict[str, SagaDefinition]) -> None:
        """From then on these are what workers can run."""
        self._deployments.append((at, definitions))

    def run(self, max_steps: int) -> bool:
        """Go on until nothing is left to do. False when it takes more steps than that."""
        while self.steps < max_steps:
            self.steps += 1
            if not self._step():
                return True
        return False

    def redrive(self) -> None:
        """Put what is parked back to work, as a person does who has seen the alarm."""
        for letter in self.parking:
            self.queue.append(replace(letter, receives=0, visible_at=self.now + 1_000))
            self.seen["redriven"] += 1
        self.parking.clear()

    @property
    def sagas(self) -> Iterable[SagaInstance]:
        """Every saga as stored."""
        return self.store._sagas.values()  # noqa: SLF001 - the world is judged from outside

    @property
    def sent(self) -> int:
        """Messages sent so far."""
        return self.sends.total()

    @property
    def faulty(self) -> bool:
        """Something may still go wrong."""
        return self.steps < self.profile.faults_end_at

    # -- one step -----------------------------------------------------------------

    def _step(self) -> bool:
        """Do one of the things that can be done now; leap to the next when there is none."""
        choices = self._choices()
        while not choices:
            following = self._next_moment()
            if following is None:
                return False
            self.now = max(self.now, following)
            choices = self._choices()
        choices[self.chooser.pick(len(choices))]()
        self.most_letters = max(self.most_letters, len(self.queue) + len(self.dead))
        return True

    def _choices(self) -> list[Callable[[], None]]:
        """Everything that can be done at this moment."""
        now = self.now
        found: list[Callable[[], None]] = [
            partial(self._advance, p) for p in self.processes if p.wakes_at <= now
        ]
        for queue in (self.queue, self.dead):
            found += [partial(self._deliver, queue, m) for m in queue if m.visible_at <= now]
        found += [partial(self._deploy, d) for d in self._deployments if d[0] <= now]
        found += [partial(self._start, c) for c in self._clients if c[0] <= now]
        found += [partial(self._ask, r) for r in self.requests if r.at <= now]
        found += [partial(self._arrive, a) for a in self.late if a[0] <= now]
        if self._sweeping() and self._next_sweep <= now:
            found.append(self._sweep)
        return found

    def _next_moment(self) -> int | None:
        """The next time at which something can be done; None when all is quiet."""
        times = [p.wakes_at for p in self.processes]
        times += [m.visible_at for q in (self.queue, self.dead) for m in q]
        times += [r.at for r in self.requests]
        times += [c[0] for c in self._clients]
        times += [d[0] for d in self._deployments]
        times += [a[0] for a in self.late]
        if self._sweeping():
            times.append(self._next_sweep)
        return min(times, default=None)

    def _sweeping(self) -> bool:
        return self.profile.sweeper and any(i.live for i in self.sagas)

    # -- messages -----------------------------------------------------------------

    def _deliver(self, queue: list[Letter], letter: Letter) -> None:
        letter.receives += 1
        if letter.receives > MAX_RECEIVES:
            queue.remove(letter)
            onward = self.dead if queue is self.queue else self.parking
            onward.append(replace(letter, receives=0, visible_at=self.now))
            self.seen["dead letter" if onward is self.dead else "parked letter"] += 1
            return
        letter.visible_at = self.now + VISIBILITY_MS
        if self.faulty and self.chooser.happens(self.profile.duplicate, "duplicate delivery"):
            letter.visible_at = self.now
        skew = self._skew()
        delivery = Delivery(
            id=f"d{self._id()}",
            at=self.now + skew,
            ends_at=self.now + skew + FUNCTION_MS,
            step_ms=STEP_MS,
            jitter=self.chooser.fraction(),
        )
        message = letter.message
        definition = self.definitions.get(message.definition)
        turn: Turn[object]
        if queue is self.queue:
            turn = work(message, delivery, self.definitions.get)
        else:
            turn = revive(message, delivery, self.definitions.get)
        kind = "work" if queue is self.queue else "revive"
        self._spawn(kind, turn, letter, queue, definition=definition, skew=skew)

    def _send(self, message: WorkMessage, delay_ms: int) -> None:
        lost = message.reason != "sweep" and self.chooser.happens(
            self.profile.lose_message, "message lost"
        )
        if lost and self.faulty:
            return
        seconds = -(-delay_ms // 1000)
        self.queue.append(Letter(self._id(), message, self.now + 1000 * seconds))

    def _settle(self, process: Process, result: object) -> None:
        """The invocation answered: its message goes, or comes back."""
        if isinstance(result, Decision):
            self.seen[result.verdict.value] += 1
            self.seen["own write recognised"] += result.recognised
            self._recognises_itself(process, result)
            acknowledge = result.acknowledge
            self._note(process, f"{result.verdict.value}")
        else:
            acknowledge = True
            if isinstance(result, Started):
                self.seen[f"start {result.result.value}"] += 1
                if result.result is Starting.UNAVAILABLE:
                    process.again()
            if isinstance(result, Answered):
                self.seen[f"request {result.answer.value}"] += 1
                if result.reason is not None:
                    self.seen[f"request {result.reason.value}"] += 1
                if result.answer in (Answer.UNAVAILABLE, Answer.NOT_FOUND):
                    process.again()
        if acknowledge and self.sends[process.id] > self._lanes() + self._kin():
            n = self.sends[process.id]
            raise BrokenInvariantError("S11", f"{process.kind} {process.id} sent {n} messages")
        if process.letter is None or process.queue is None or not acknowledge:
            return
        if process.letter in process.queue:
            process.queue.remove(process.letter)
            if self.faulty and self.chooser.happens(self.profile.undelete, "delete lost"):
                process.queue.append(process.letter)

    def _lanes(self) -> int:
        """The most lanes that a saga has open at once: an invocation announces each once."""
        stages = (d.stage(n) for d in self.known.values() for n in range(len(d.steps)))
        return max((len(stage) for stage in stages), default=1)

    def _kin(self) -> int:
        """What an invocation may send besides: to a saga that it starts or undoes, and a parent."""
        return 2 if any(d.children for d in self.known.values()) else 0

    def _recognises_itself(self, process: Process, result: Decision) -> None:
        """Whoever wrote last is not fenced off: the other it sees is itself."""
        if result.verdict is not Verdict.FENCED or result.before is None:
            return
        if self._committed.get(result.before.key) == process.id:
            raise BrokenInvariantError("E2", f"work {process.id} is fenced off by its own commit")

    # -- processes ----------------------------------------------------------------

    def _spawn(
        self,
        kind: str,
        turn: Turn[object],
        letter: Letter | None = None,
        queue: list[Letter] | None = None,
        *,
        definition: SagaDefinition | None = None,
        skew: int = 0,
    ) -> Process:
        self.invocations += 1
        process = Process(
            self._id(),
            kind,
            turn,
            self.now + FUNCTION_MS,
            skew,
            letter,
            queue,
            definition,
            self.now,
        )
        self.processes.append(process)
        return process

    def _advance(self, process: Process) -> None:
        """Let a process do its next effect, or end."""
        if self.now >= process.ends_at and not process.stalled:
            self._kill(process, "out of time")
            return
        try:
            effect = process.turn.send(process.reply)
        except StopIteration as stop:
            self.processes.remove(process)
            self._settle(process, stop.value)
            return
        self._perform(process, effect)

    def _perform(self, process: Process, effect: Effect[object]) -> None:
        hit = self.profile.hit is None or process.kind in self.profile.hit
        fault = self.chooser.fault(effect) if hit and self.faulty else None
        self._note(process, describe(effect) + (f"  !! {fault}" if fault else ""))
        if fault is Fault.CRASH_BEFORE:
            self._kill(process, fault)
            return
        if fault is Fault.REFUSE:
            process.reply = self._refusal(process, effect, ambiguous=False)
            return
        if fault is Fault.LATE and isinstance(effect, Call):
            self._make_late(process, effect)
            return
        if fault is Fault.STALL:
            # Twice the lease: somebody else has had the time to take over and to finish.
            process.stalled = True
            process.wakes_at = self.now + 2 * VISIBILITY_MS
            process.turn = _resumed(effect, process.turn)
            process.reply = None
            return
        reply = self._do(process, effect)
        if fault is Fault.CRASH_AFTER:
            self._kill(process, fault)
            return
        if fault is Fault.LOSE_ANSWER:
            reply = self._refusal(process, effect, ambiguous=True)
        process.reply = reply
        self.now += 5

    def _kill(self, process: Process, why: str) -> None:
        self._note(process, f"dies ({why})")
        self.processes.remove(process)
        process.turn.close()
        process.again()

    def _refusal(self, process: Process, effect: Effect[object], *, ambiguous: bool) -> object:
        if isinstance(effect, Send):
            return False
        at = self.now + process.skew_ms
        if isinstance(effect, Call):
            return Ended(
                InDoubt(StepError("TimeoutError", "simulated")), at, self.chooser.fraction()
            )
        return Unavailable(StoreError("simulated", ambiguous=ambiguous), at)

    def _make_late(self, process: Process, effect: Call) -> None:
        definition = self._definition_of(process)
        self.late.append((self.now + self.chooser.pick(3_000_000), effect, definition))
        self.now += 3_000
        process.reply = self._refusal(process, effect, ambiguous=True)

    def _arrive(self, arrival: tuple[int, Call, SagaDefinition]) -> None:
        """A request that was under way for long; nobody waits for its answer."""
        self.late.remove(arrival)
        _, effect, definition = arrival
        self.seen["late request"] += 1
        self._note(None, f"late: {describe(effect)}")
        invoke(definition, effect, self.codec, wait_for)

    # -- effects ------------------------------------------------------------------

    def _do(self, process: Process, effect: Effect[object]) -> object:
        match effect:
            case Claim(key, epoch, definition, claim_id, at, until, branch):
                return self._write(
                    process,
                    effect,
                    key,
                    lambda: self.store.claim(
                        key,
                        epoch=epoch,
                        definition=definition,
                        claim_id=claim_id,
                        now=at,
                        until=until,
                        branch=branch,
                    ),
                )
            case Decide():
                return decide(effect, self.codec)
            case CheckContext():
                return ()  # the worlds of the simulation have no types
            case Call():
                outcome = invoke(self._definition_of(process), effect, self.codec, wait_for)
                self.now += 50
                return Ended(outcome, self.now + process.skew_ms, self.chooser.fraction())
            case Commit(before, after, claim_id):
                return self._write(
                    process,
                    effect,
                    before.key,
                    lambda: self.store.commit(before, after, claim_id=claim_id),
                )
            case Create(instance):
                return self._write(
                    process, effect, instance.key, lambda: self.store.create(instance)
                )
            case Redispatch(instance, nudge_id, at, branch):
                return self._write(
                    process,
                    effect,
                    instance.key,
                    lambda: self.store.redispatch(
                        instance, nudge_id=nudge_id, now=at, branch=branch
                    ),
                )
            case Record(before, after):
                return self._write(
                    process, effect, before.key, lambda: self.store.record(before, after)
                )
            case MarkSwept(before, after):
                return self._write(
                    process, effect, before.key, lambda: self.store.mark_swept(before, after)
                )
            case Find(key, at):
                return self.store.find(key, at)
            case Send(instance, delay_ms, reason, branch):
                lane = instance.open_lane(branch) or instance.lane
                message = WorkMessage(
                    instance.key, lane.epoch, instance.definition, reason, "sim", branch
                )
                self.sends[process.id] += 1
                self._send(message, delay_ms)
                return True
            case Postpone(delay_ms) if process.letter is not None:
                process.letter.visible_at = self.now + delay_ms
                return None
            case Pause(delay_ms):
                process.wakes_at = self.now + delay_ms
                return self.now + delay_ms + process.skew_ms
            case _:
                raise IllegalEventError(f"unknown effect {effect}")

    def _write(
        self,
        process: Process,
        effect: Effect[object],
        key: Key,
        write: Callable[[], Written | Refused],
    ) -> object:
        before = self.store._sagas.get(key)  # noqa: SLF001 - the world is judged from outside
        try:
            reply = write()
        except ItemTooLargeError as exc:
            return TooLarge(exc, self.now + process.skew_ms)
        if isinstance(reply, Written):
            self.writes += 1
            if isinstance(effect, Commit):
                self._committed[key] = process.id
            self.on_write(Write(process.id, effect, before, reply.instance))
        return reply

    def _definition_of(self, process: Process) -> SagaDefinition:
        """The code that this process runs; a deployment does not change it."""
        if process.definition is None:
            raise IllegalEventError("a call without a definition")
        return process.definition

    # -- the sweeper, and people ----------------------------------------------------

    def _sweep(self) -> None:
        self._next_sweep = self.now + SWEEP_EVERY_MS
        skew = self._skew()
        for shard in range(SHARDS):
            for due in self.store.due(shard, self.now + skew + LOOK_AHEAD_MS, 100):
                self._spawn("sweep", sweep(due, at=self.now + skew), skew=skew)

    def _deploy(self, deployment: tuple[int, dict[str, SagaDefinition]]) -> None:
        self._deployments.remove(deployment)
        self.definitions = deployment[1]
        self._note(None, f"deployed: {', '.join(deployment[1]) or 'nothing'}")

    def _start(self, client: tuple[int, SagaInstance]) -> None:
        self._clients.remove(client)
        again = (self.now + TRY_AGAIN_MS, client[1])
        new, definition = client[1], self.known[client[1].definition]
        process = self._spawn("start", start(new, definition, ends_at=self.now + FUNCTION_MS))
        process.again = lambda: self._clients.append(again)

    def _ask(self, item: Asked) -> None:
        self.requests.remove(item)
        again = replace(item, at=self.now + TRY_AGAIN_MS)
        event, nudge_id = item.event(self.now), f"n{self._id()}"
        ends_at = self.now + FUNCTION_MS
        if item.token is not None and isinstance(event, AnswerGiven | HeartbeatReceived):
            turn = answer(
                item.key,
                item.token,
                event,
                self.definitions.get,
                nudge_id=nudge_id,
                ends_at=ends_at,
            )
        else:
            turn = request(
                item.key, event, self.definitions.get, nudge_id=nudge_id, ends_at=ends_at
            )
        process = self._spawn("request", turn)
        process.again = lambda: self.requests.append(again)

    # -- parts --------------------------------------------------------------------

    def _skew(self) -> int:
        spread = self.profile.skew_ms
        return self.chooser.pick(2 * spread + 1) - spread if spread else 0

    def _id(self) -> int:
        self._ids += 1
        return self._ids

    def _note(self, process: Process | None, text: str) -> None:
        who = f"{process.kind} {process.id}" if process is not None else "world"
        self.trace.append(f"{(self.now - BEGINNING) / 1000:10.3f}  {who:12} {text}")


def _resumed(effect: Effect[object], turn: Turn[object]) -> Turn[object]:
    """The turn again, with the effect that it had asked for still to be done."""
    reply = yield effect
    while True:
        try:
            effect = turn.send(reply)
        except StopIteration as stop:
            return stop.value
        reply = yield effect


def wait_for(awaitable: Awaitable[object], seconds: float | None = None) -> object:
    """Finish what an async handler returned, in so many seconds."""

    async def finish() -> object:
        async with asyncio.timeout(seconds):
            return await awaitable

    return asyncio.run(finish())
