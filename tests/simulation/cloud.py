"""A deployment under fire: the real functions over the models, a scheduler, and every fault.

The functions are called as Lambda calls them, with events of the real shapes, and
each invocation has a sandbox of its own with a clock that may be wrong. Every call
that one makes, to the table, to a queue or to a service, goes through ``call`` or
``serve``: there it can be killed, throttled, lied to or frozen, and there the
scheduler can let another invocation go on instead. Which of them, and which fault,
comes from the dice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from handlers import api, dead_letters, starter, sweeper, worker
from handlers._application import Application
from handlers._records import OutageError
from handlers._telemetry import Telemetry
from infra import conditions
from infra.contexts import PydanticContextCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender, parse
from infra.registry import Registry
from infra.schema import WORK_HASH, WORK_RANGE
from saga_cli.local.events import HttpRequest, LambdaContext, schedule_event
from saga_core.definition import SagaDefinition
from saga_core.errors import StoreError
from saga_core.testing.simulation import BrokenInvariantError
from saga_core.testing.world import Refusal
from tests.simulation.aws_errors import client_error
from tests.simulation.clock import BEGINNING_MS, SandboxClock, WorldTime
from tests.simulation.dynamo import FakeDynamo, Write, saga_table
from tests.simulation.invocations import Invocation, Killed
from tests.simulation.sqs import DAY_MS, FakeSqs, Message, QueueSettings, Received
from tests.simulation.sqs import lambda_event as sqs_event
from tests.simulation.weather import TOLD, Dice, Fault, Weather

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

# As template.yaml has them.
VISIBILITY_MS = 180_000
FUNCTION_MS = {"api": 25_000, "sweeper": 60_000}
OTHERS_MS = 30_000
STEP_MS = 20_000
MINUTE_MS = 60_000
TABLE, TENANT_CLAIM = "sagas", "tenant"
WORK, DEAD, PARKED, START, START_DEAD = "work", "dead", "parked", "start", "start-dead"

CALL_MS = 5  # what a call takes
FROZEN_MS = 2 * VISIBILITY_MS  # somebody else has had the time to take over and to finish
SLOW_MS = 20_000  # at most
LATE_MS = 3_000_000  # at most
LAG_MS = 30_000  # at most, of an index
MOST_MESSAGES = 16  # S11: about one saga at once, however many duplicates there are

Answered: TypeAlias = Callable[[int, dict[str, Any]], None]  # status and body; 502 without one


@dataclass(slots=True)
class Errand:
    """Something that somebody does at a time."""

    at: int
    what: str
    do: Callable[[], None]


@dataclass(slots=True)
class Job:
    """What an invocation is about, for the judge: what it may touch, what it did.

    Attributes:
        may_touch: Whether a partition key is any of its business (S16).
        skew_ms: Of its clock.
        records: The messages in its hands.
        sends: Calls of SendMessage, the SDK's own repeats not counted.
    """

    may_touch: Callable[[str], bool]
    skew_ms: int
    records: list[Received] = field(default_factory=list)
    queue: str = ""
    sends: int = 0
    answered: Answered | None = None


class Ears:
    """A telemetry sink: counts what the functions say, for the gate of rare states."""

    def __init__(self, cloud: Cloud, function: str) -> None:
        self._cloud, self._function = cloud, function

    def line(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """See Sink."""
        said = fields.get("decision", message.removeprefix("saga."))
        self._cloud.note(f"says {said}")
        self._cloud.seen[f"{self._function} {said}"] += 1
        if fields.get("own_writes_recognised"):
            self._cloud.seen["own write recognised"] += 1
        self._cloud.on_said(str(said), str(fields.get("saga_id")))
        if message == "saga.crashed":
            self._cloud.broke("crash", f"{self._function}: {dict(fields)}")

    def count(self, saga: str | None, metrics: Mapping[str, float]) -> None:
        """See Sink."""
        for name in metrics:
            self._cloud.seen[f"metric {name}"] += 1


class Client:
    """A botocore client to a model, with everything that can happen to a call."""

    def __init__(self, cloud: Cloud, model: object) -> None:
        self._cloud, self._model = cloud, model

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return partial(self._cloud.call, operation, getattr(self._model, operation))


class Cloud:
    """Table, queues, functions, a clock, and the scheduler.

    Args:
        seed: Ids and chances of the sandboxes.
        dice: Turns and faults.
        weather: How hard the world is.
        faults_end_at: After so many moments nothing goes wrong any more.

    Attributes:
        seen: What happened, and how often.
        trace: The same, as it happened.
        violations: What must not have happened.
        moments: Calls and choices of the scheduler so far.
        calm_at: When the faults ended.
        on_write: Shown every write, with the invocation that made it.
        on_said: Told what the invocation that runs has decided, and on which saga.
    """

    def __init__(self, seed: int, dice: Dice, weather: Weather, *, faults_end_at: int) -> None:
        self.dice, self.weather = dice, weather
        self.time = WorldTime()
        self.dynamo = FakeDynamo(
            saga_table(TABLE),
            now=self.time,
            lag=self._lag,
            unprocessed=self._unprocessed,
            on_write=self._written,
        )
        queue = partial(QueueSettings, visibility_ms=VISIBILITY_MS, max_receives=5)
        self.sqs = FakeSqs(
            queue(url=WORK, dead_letters=DEAD),
            queue(url=DEAD, dead_letters=PARKED, retention_ms=14 * DAY_MS),
            QueueSettings(url=PARKED, retention_ms=14 * DAY_MS),
            queue(url=START, dead_letters=START_DEAD),
            QueueSettings(url=START_DEAD, retention_ms=14 * DAY_MS),
            now=self.time,
            old_handle_works=lambda: not dice.chance(0.5),
        )
        self.deployed = Registry(())
        self.lanes = 1  # the most that a saga has open at once
        self.most_messages = MOST_MESSAGES
        self.seen: Counter[str] = Counter()
        self.trace: list[str] = []
        self.violations: list[BrokenInvariantError] = []
        self.on_write: Callable[[Write, Invocation, Job], None] = lambda *_: None
        self.on_said: Callable[[str, str], None] = lambda *_: None
        self.moments = 0
        self.calm_at: int | None = None
        self.crashed_at: int | None = None
        self.invocations: Counter[str] = Counter()
        self.jobs: dict[Invocation, Job] = {}
        self.agenda: list[Errand] = []
        self._running: list[Invocation] = []
        self._current: Invocation | None = None
        self._seed = seed
        self._faults_end_at = faults_end_at
        self._next_sweep = BEGINNING_MS + MINUTE_MS
        self._two_sweepers = weather.sweeper and weather.people and dice.chance(0.2)
        intensity = (0.0, 0.0, 1.0, 2.0) if weather.swarm else (1.0,)
        self._aws = [(f, p * _one_of(dice, intensity)) for f, p in weather.aws.items()]
        self._services = [(f, p * _one_of(dice, intensity)) for f, p in weather.services.items()]
        self._interleave = _one_of(dice, (0.0, 0.2, 0.5))

    # -- what a scenario asks for ---------------------------------------------------

    def later(self, delay_ms: int, what: str, do: Callable[[], None]) -> None:
        """Have something done after a while."""
        self.agenda.append(Errand(self.time() + delay_ms, what, do))

    def deploy(self, *definitions: SagaDefinition) -> None:
        """From now on, new invocations have this code."""
        self.deployed = Registry(definitions)
        stages = [len(d.stage(n)) for d in definitions for n in range(len(d.steps))]
        self.lanes = max(self.lanes, *stages, 1)

    def http(
        self,
        method: str,
        path: str,
        *,
        tenant: str,
        answered: Answered,
        body: object = None,
        key: str | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        """Send a request to the HTTP API, now."""
        request = HttpRequest(
            method=method,
            path=path,
            query=query or {},
            headers={"Idempotency-Key": key} if key is not None else {},
            body=body,
            claims={TENANT_CLAIM: tenant, "sub": "client"},
        )
        event = request.event(f"{method} {path}", {}, at=self.time(), id_=f"r{self.moments}")
        mine = f"S#{tenant}#"
        job = Job(lambda pk: pk.startswith(mine), self._skew(), answered=answered)
        self._spawn("api", api.handle, event, job)

    def run(self, most_moments: int, most_ms: int) -> None:
        """Go on until all is quiet, or until something broke.

        Raises:
            BrokenInvariantError: It does not become quiet within this many
                moments, and this much time after the last fault.
        """
        last = self.moments + most_moments
        began = self.time()
        while not self.violations and self._step():
            if not self.faulty and self.calm_at is None:
                self.calm_at = self.time()
            if self.moments > last:
                raise BrokenInvariantError("L6", f"still moving after {most_moments} moments")
            if self.calm_at is not None and self.time() > max(began, self.calm_at) + most_ms:
                raise BrokenInvariantError("L6", "still moving long after the last fault")

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self._faults_end_at = 0

    def close(self) -> None:
        """Let no thread be left behind."""
        for invocation in self._running:
            invocation.kill()
        self._running.clear()

    @property
    def faulty(self) -> bool:
        """Something may still go wrong."""
        return self.moments < self._faults_end_at

    def broke(self, name: str, text: str) -> None:
        """Something happened that must not. Kept: raised here, a function might swallow it."""
        self.violations.append(BrokenInvariantError(name, text))

    @property
    def current(self) -> Invocation | None:
        """The invocation that runs."""
        return self._current

    def note(self, text: str) -> None:
        """A line of the trace."""
        who = str(self._current) if self._current is not None else "world"
        self.trace.append(f"{(self.time() - BEGINNING_MS) / 1000:10.3f}  {who:16} {text}")

    # -- one call ---------------------------------------------------------------------

    def call(self, operation: str, do: Callable[..., Any], **arguments: Any) -> Any:
        """A call to AWS, from within an invocation."""
        me, job = self._here(operation)
        for pk in _touched(arguments):
            if not job.may_touch(pk):
                self.broke("S16", f"{me} called {operation} on {pk}")
        kind = _kind(operation, arguments)
        fault = self._fault(self._aws, me, kind, _label(kind, arguments))
        self._before(fault, me)
        if fault is Fault.THROTTLE:
            raise client_error(operation, "ThrottlingException", "Rate exceeded")
        if fault is Fault.NOT_DONE:
            raise client_error(operation, "InternalServerError", "simulated", status=500)
        if operation == "send_message":
            job.sends += 1
        if fault in (Fault.LOSE_ANSWER, Fault.REPEAT, Fault.DISGUISE):
            with suppress(ClientError):
                self._done(operation, do(**arguments))
            if fault is Fault.LOSE_ANSWER:
                raise self._lost(operation)
            if fault is Fault.DISGUISE:
                raise client_error(operation, "ThrottlingException", "Rate exceeded")
        try:
            reply = do(**arguments)
        except ClientError as exc:
            self.note(f"  refused: {exc.response['Error']['Code']}")
            self._after(fault, me)
            raise
        self._done(operation, reply)
        self._after(fault, me)
        return reply

    def serve(self, what: str, do: Callable[[], None]) -> None:
        """A call to a service, from within a step's handler."""
        me, _ = self._here(what)
        fault = self._fault(self._services, me, "service", what)
        self._before(fault, me)
        if fault is Fault.LATE:
            self.later(self.dice.pick(LATE_MS), f"late: {what}", partial(self._arrive, do))
            raise TimeoutError("simulated")
        if fault is Fault.THROTTLE:
            raise Refusal("503")
        do()
        self._after(fault, me)
        if fault is Fault.LOSE_ANSWER:
            raise TimeoutError("simulated")

    def _here(self, what: str) -> tuple[Invocation, Job]:
        me = self._current
        if me is None:
            raise RuntimeError(f"{what}: called from nowhere")
        me.die_if_dead()
        self.moments += 1
        if self.dice.chance(self._interleave):
            self._pause(me, 0)
        return me, self.jobs[me]

    def _fault(
        self, chances: list[tuple[Fault, float]], me: Invocation, kind: str, what: str
    ) -> Fault | None:
        hit: Fault | None = None
        weather, function = self.weather, me.function
        if self.faulty and function in weather.hit:
            for fault, chance in chances:
                if fault in TOLD and (function, kind) in weather.spared:
                    continue
                if len(self.dice.drawn) >= weather.limit or not self.dice.happens(
                    chance, f"{me}: {what}: {fault}"
                ):
                    continue
                hit = hit or fault
        self.note(what if hit is None else f"{what}  !! {hit}")
        if hit is not None:
            self.seen[f"fault {hit}"] += 1
        return hit

    def _before(self, fault: Fault | None, me: Invocation) -> None:
        if fault is Fault.KILL_BEFORE:
            self._die()
        if fault is Fault.SLOW:
            self._pause(me, self.dice.pick(SLOW_MS))
        if fault is Fault.FREEZE_BEFORE:
            me.frozen = True
            self._pause(me, FROZEN_MS)
        self.time.advance(CALL_MS)

    def _after(self, fault: Fault | None, me: Invocation) -> None:
        if fault is Fault.KILL_AFTER:
            self._die()
        if fault is Fault.FREEZE_AFTER:
            me.frozen = True
            self._pause(me, FROZEN_MS)

    def _die(self) -> None:
        self.crashed_at = self.time()
        raise Killed

    def _lost(self, operation: str) -> Exception:
        endpoint = "https://simulated"
        kinds: list[Exception] = [
            ReadTimeoutError(endpoint_url=endpoint),
            ConnectionClosedError(endpoint_url=endpoint),
            client_error(operation, "InternalServerError", "simulated", status=500),
        ]
        return kinds[self.dice.pick(len(kinds))]

    def _done(self, operation: str, reply: dict[str, Any]) -> None:
        """What the world does with a message that was just sent."""
        if operation != "send_message" or self._current is None:
            return
        message = self.sqs.messages[reply["MessageId"]]
        if self._current.function != "sweeper" and self.weather.lose:
            if self.dice.happens(self.weather.lose, "message lost"):
                self.sqs.lose(message.id)
        elif self.faulty and self.dice.happens(self.weather.delay, "message late"):
            message.visible_at += self.dice.pick(2 * VISIBILITY_MS)
        key = json.loads(message.body)["k"]
        if not self.jobs[self._current].may_touch(f"S#{key}"):
            self.broke("S16", f"{self._current} sent a message about {key}")
        about = f'"k":"{key}"'
        live = [m for q in (WORK, DEAD) for m in self.sqs.live(q) if about in m.body]
        answers = sum(n for what, n in self.seen.items() if what.startswith("answer "))
        if len(live) > self.most_messages * self.lanes + answers:  # each of which may wake it
            self.broke("S11", f"{len(live)} messages about {key}")

    def _arrive(self, do: Callable[[], None]) -> None:
        """A request that was under way for long; nobody waits for its answer."""
        self.seen["late request"] += 1
        with suppress(Refusal):
            do()

    def _pause(self, me: Invocation, for_ms: int) -> None:
        me.wakes_at = self.time() + for_ms
        me.pause()

    def _sleep(self, delay_ms: int) -> None:
        if self._current is not None:
            self._pause(self._current, delay_ms)

    def _written(self, write: Write) -> None:
        if self._current is not None:
            self.on_write(write, self._current, self.jobs[self._current])

    def _lag(self) -> int:
        stale = self.faulty and self.dice.happens(self.weather.lag, "the index lags")
        return self.dice.pick(LAG_MS) if stale else 0

    def _unprocessed(self, asked: int) -> int:
        busy = self.faulty and self.dice.happens(self.weather.lag, "keys are left out")
        return self.dice.pick(asked + 1) if busy else 0

    # -- the scheduler ----------------------------------------------------------------

    def _step(self) -> bool:
        """Do one of the things that can be done now; leap to the next when there is none."""
        choices = self._choices()
        while not choices:
            following = min(self._times(), default=None)
            if following is None:
                return False
            self.time.advance_to(following)
            choices = self._choices()
        self.moments += 1
        _one_of(self.dice, choices)()
        return True

    def _choices(self) -> list[Callable[[], None]]:
        now = self.time()
        found: list[Callable[[], None]] = [
            partial(self._go_on, i) for i in self._running if i.wakes_at <= now
        ]
        for queue in _MAPPED:
            found += [partial(self._deliver, m) for m in self.sqs.receivable(queue)]
        found += [partial(self._run_errand, e) for e in self.agenda if e.at <= now]
        if (at := self._sweep_at()) is not None and at <= now:
            found.append(self._sweep)
        return found

    def _times(self) -> Iterator[int]:
        yield from (i.wakes_at for i in self._running)
        yield from (at for q in _MAPPED if (at := self.sqs.next_visible_at(q)) is not None)
        yield from (e.at for e in self.agenda)
        if (at := self._sweep_at()) is not None:
            yield at

    def _run_errand(self, errand: Errand) -> None:
        self.agenda.remove(errand)
        self.note(errand.what)
        errand.do()

    def _sweep_at(self) -> int | None:
        """The next tick of the schedule at which a sweeper would find something."""
        if not self.weather.sweeper:
            return None
        marks = [
            int(item[WORK_RANGE]["N"])
            for item in self.dynamo.items(TABLE)
            if item.get(WORK_HASH, {"S": ""})["S"].startswith("W#")
        ]
        if not marks:
            return None
        idle = min(marks) - sweeper.LOOK_AHEAD_MS - self.weather.skew_ms - self._next_sweep
        return self._next_sweep + max(0, -(-idle // MINUTE_MS)) * MINUTE_MS

    def _sweep(self) -> None:
        self._next_sweep = self.time() + MINUTE_MS
        for _ in range(2 if self._two_sweepers else 1):
            event = schedule_event(self.time(), f"t{self.moments}")
            self._spawn("sweeper", sweeper.handle, event, Job(lambda _pk: True, self._skew()))

    # -- messages ---------------------------------------------------------------------

    def _deliver(self, message: Message) -> None:
        queue = message.queue
        batch = [message.id]
        if self.dice.chance(0.05):  # one is what the stack has; the functions take more
            batch += [m.id for m in self.sqs.receivable(queue) if m.id != message.id][:2]
        received = [r for m in batch if (r := self.sqs.receive(queue, m)) is not None]
        if self.faulty and self.dice.happens(self.weather.duplicate, f"{message.id} comes twice"):
            wait = self.dice.pick(2) * self.dice.pick(VISIBILITY_MS)
            self.later(wait, "again", partial(self._deliver_again, message.id))
        self._hand_over(queue, received)

    def _deliver_again(self, message_id: str) -> None:
        if (queue := self.sqs.messages[message_id].queue) not in _MAPPED:
            return
        received = self.sqs.deliver_again(message_id)
        if received is not None:
            self.seen["delivered again"] += 1
            self._hand_over(self.sqs.messages[message_id].queue, [received])
        self.note(f"{message_id} of {queue} was delivered again")

    def _hand_over(self, queue: str, received: list[Received]) -> None:
        if queue not in _MAPPED or not received:
            return
        function, handle = _MAPPED[queue]
        if queue == START:
            touch: Callable[[str], bool] = lambda pk: pk.startswith("S#default#")  # noqa: E731 - next to its other half
        else:
            keys = {f"S#{json.loads(r.body)['k']}" for r in received}
            touch = keys.__contains__
        self.note(f"{queue} delivers {', '.join(r.message_id for r in received)}")
        job = Job(touch, self._skew(), received, queue)
        self._spawn(function, handle, sqs_event(queue, received), job)

    def _settle_messages(self, me: Invocation, job: Job) -> None:
        """What the event source mapping makes of the answer."""
        if me.error is not None:
            return
        answer = cast("dict[str, list[dict[str, str]]]", me.answer)
        kept = {f["itemIdentifier"] for f in answer["batchItemFailures"]}
        ids = {r.message_id for r in job.records}
        if not kept <= ids:
            self.broke("S11", f"{me} returned messages that it never had: {kept - ids}")
        if job.sends > len(ids) * self.lanes and not kept:
            self.broke("S11", f"{me} sent {job.sends} messages for {len(ids)}")
        for record in job.records:
            if record.message_id in kept:
                continue
            self.sqs.delete(record.receipt_handle)
            if self.faulty and self.dice.happens(
                self.weather.undelete, f"{record.message_id} survives its deletion"
            ):
                again = partial(self._deliver_again, record.message_id)
                self.later(self.dice.pick(VISIBILITY_MS), "again", again)

    # -- invocations ------------------------------------------------------------------

    def _spawn(self, function: str, handle: Callable[..., object], event: object, job: Job) -> None:
        self.invocations[function] += 1
        number = self.invocations.total()
        sandbox = SandboxClock(
            self.time, f"{self._seed}/{number}", skew_ms=job.skew_ms, sleep=self._sleep
        )
        ends_at = self.time() + FUNCTION_MS.get(function, OTHERS_MS)
        context = LambdaContext(sandbox, function, ends_at + job.skew_ms, f"i{number}")
        app = self._sandbox(function, sandbox)
        me = Invocation(number, function, lambda: handle(app, event, context), ends_at)
        self.jobs[me] = job
        self._running.append(me)
        self._go_on(me)

    def _sandbox(self, function: str, clock: SandboxClock) -> Application:
        return Application(
            clock=clock,
            store=DynamoDBSagaStore(
                cast("DynamoDBClient", Client(self, self.dynamo)),
                TABLE,
                clock=clock.now_ms,
                new_id=clock.new_id,
                pause=clock.sleep_ms,
            ),
            queue=SqsSender(cast("SQSClient", Client(self, self.sqs)), WORK),
            definitions=self.deployed,
            codec=_CODEC,
            telemetry=Telemetry(Ears(self, function)),
            parse=parse,
            step_ms=STEP_MS,
            tenant_claim=TENANT_CLAIM,
        )

    def _go_on(self, me: Invocation) -> None:
        self._current = me
        try:
            if me.frozen:
                self.seen["went on after its end"] += 1
            elif self.time() >= me.ends_at:
                self.note("is out of time")
                self.seen["out of time"] += 1
                me.dead = True
            me.go_on()
            if me.ended:
                self._running.remove(me)
                self._ended(me, self.jobs[me])
        finally:
            self._current = None

    def _ended(self, me: Invocation, job: Job) -> None:
        if isinstance(me.error, Killed):
            self.note("dies")
        elif me.error is not None and not isinstance(me.error, OutageError | StoreError):
            self.broke("crash", f"{me}: {me.error!r}")
        self._current = None
        if job.records:
            self._settle_messages(me, job)
        if job.answered is not None:
            answer = cast("dict[str, Any]", me.answer or {"statusCode": 502, "body": "{}"})
            self.seen[f"http {answer['statusCode']}"] += 1
            job.answered(answer["statusCode"], json.loads(answer["body"]))

    def _skew(self) -> int:
        spread = self.weather.skew_ms
        return self.dice.pick(2 * spread + 1) - spread if spread else 0


_CODEC = PydanticContextCodec()
_MAPPED: dict[str, tuple[str, Callable[..., object]]] = {
    WORK: ("worker", worker.handle),
    DEAD: ("dead_letters", dead_letters.handle),
    START: ("starter", starter.handle),
}


def _one_of(dice: Dice, choices: list[Any] | tuple[Any, ...]) -> Any:
    return choices[dice.pick(len(choices))]


def _kind(operation: str, arguments: Mapping[str, Any]) -> str:
    """What a call is for."""
    if operation == "send_message":
        return "send"
    if operation != "update_item":
        return operation
    names = {
        conditions.CLAIM_UPDATE: "claim",
        conditions.REDISPATCH_UPDATE: "guard",
        conditions.MARK_SWEPT_UPDATE: "sweep mark",
    }
    held = conditions.HELD_BY_ME in arguments["ConditionExpression"]
    return names.get(arguments["UpdateExpression"], "commit" if held else "record")


def _label(kind: str, arguments: Mapping[str, Any]) -> str:
    """A call for people: ``claim of kx7q``."""
    if kind == "send":
        body = json.loads(arguments["MessageBody"])
        saga, delay = body["k"].partition("#")[2], arguments["DelaySeconds"]
        return f"send of {saga[:4]}, item {body['e']}, in {delay} s"
    about = ", ".join(pk.rpartition("#")[2][:4] for pk in _touched(arguments))
    return f"{kind} of {about}" if about else kind


def _touched(arguments: Mapping[str, Any]) -> Iterator[str]:
    """The partition keys of a call to the table."""
    for name in ("Key", "Item"):
        if name in arguments:
            yield arguments[name]["pk"]["S"]
    for request in arguments.get("RequestItems", {}).values():
        yield from (key["pk"]["S"] for key in request["Keys"])
    partition = arguments.get("ExpressionAttributeValues", {}).get(":partition", {"S": ""})["S"]
    if partition.startswith("L#"):
        yield f"S#{partition.split('#')[1]}#"
