"""Random sagas of two tenants, disturbed by people, in a random weather; and the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

from saga_core import RetryPolicy, Saga, SagaDefinition, StepCall
from saga_core.identity import saga_id_for
from saga_core.instance import SagaInstance, SagaState, StepCode
from saga_core.testing.simulation import BrokenInvariantError
from saga_core.testing.world import Refusal
from tests.simulation.cloud import (
    MINUTE_MS,
    PARKED,
    START,
    START_DEAD,
    VISIBILITY_MS,
    WORK,
    Cloud,
)
from tests.simulation.sqs import DAY_MS
from tests.simulation.verdicts import Verdicts
from tests.simulation.weather import NEVER, PROFILES, Dice

MOST_MOMENTS = 8_000  # of one stretch; a run that needs more does not end
MOST_MS = 3 * DAY_MS  # after the last fault
MOST_REPAIRS = 12
TRY_AGAIN_MS = 20_000
# A request that met a crash is made again after the guard against surplus messages (NUDGE_MS).
ASK_AGAIN_MS = 90_000
TENANTS = ("default", "other")
HEAPS = (100_000, 200_000, 400_000)  # bytes that a step adds to the context; the last is too much


@dataclass(slots=True)
class Wish:
    """A saga that somebody wants: one idempotency key of one tenant.

    Attributes:
        marks: Of the contexts that were sent under the key, the accepted ones.
        refused: Likewise, the ones that were refused as another payload.
        ids: Of every saga that an answer named.
    """

    tenant: str
    key: str
    marks: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    cancelled: bool = False

    @property
    def saga_id(self) -> str:
        return saga_id_for(self.tenant, self.key)


class Troubles:
    """One schedule: the deployment, the people around it, and what they were told."""

    def __init__(self, seed: int, profile: str, only: frozenset[int] | None = None) -> None:
        self.profile = profile
        self.weather = PROFILES[profile]
        self._draw = draw = Random(f"scenario {seed}")
        ends_at = NEVER if self.weather.lose else draw.choice([40, 100, 200, 400])
        self.cloud = Cloud(seed, Dice(seed, only), self.weather, faults_end_at=ends_at)
        self._stubborn = [draw.choice([1, 2, 9])]
        self.definition = self._definition()
        self.verdicts = Verdicts(self.cloud, self.definition)
        self.wishes: list[Wish] = []
        self._asked = False
        self.cloud.deploy(self.definition)
        for n in range(draw.choice([1, 1, 2, 3])):
            self._want(n)
        if self.weather.people and draw.random() < 0.1:
            self._redeploy()

    # -- the saga -----------------------------------------------------------------------

    def _definition(self) -> SagaDefinition:
        """One to four steps; perhaps one that fails, an undo that does for a while."""
        draw = self._draw
        people = self.weather.people
        count = draw.randrange(1, 5)
        fails = draw.randrange(count) if draw.random() < 0.25 else None
        undo_fails = draw.choice([None, None, None, *range(count)]) if people else None
        moody = people and draw.random() < 0.2
        heavy = people and draw.random() < 0.03
        base = draw.choice([1, 1, 3_000]) if self.weather.waits else 1
        saga = Saga("simulated", on_compensation_failure=draw.choice(["halt", "continue"]))
        for n in range(count):
            retry = RetryPolicy(
                max_attempts=draw.choice([1, 2, 3]),
                max_lost=draw.choice([1, 3]),
                base=timedelta(seconds=base),
                cap=timedelta(hours=2),
            )
            heap = Random(f"{n}").randbytes(draw.choice(HEAPS)).hex() if heavy else ""
            execute = self._execute(fails=fails == n, moody=moody, heap=heap)
            step = saga.step(name=f"s{n}", retry=retry)(execute)
            again = RetryPolicy(max_attempts=draw.choice([1, 3]))
            step.compensate(retry=again)(self._undo(stubborn=undo_fails == n))
        return saga.build()

    def _execute(self, *, fails: bool, moody: bool, heap: str) -> Callable[..., object]:
        def execute(ctx: dict[str, Any], call: StepCall) -> None:
            self.verdicts.on_call(call)
            if fails or (moody and self.cloud.dice.chance(0.3)):
                raise Refusal("no")  # also where an earlier attempt took effect
            act = partial(self.verdicts.world.act, call)
            self.cloud.serve(f"{call.step} of {call.saga_id[:4]}", act)
            ctx.setdefault("done", []).append(call.step)
            if heap:
                ctx[call.step] = heap

        return execute

    def _undo(self, *, stubborn: bool) -> Callable[..., object]:
        def undo(_ctx: object, call: StepCall) -> None:
            self.verdicts.on_call(call)
            if stubborn and self._stubborn[0] > 0:
                self._stubborn[0] -= 1
                raise Refusal("not now")
            take_back = partial(self.verdicts.world.undo, call)
            self.cloud.serve(f"undo of {call.step} of {call.saga_id[:4]}", take_back)

        return undo

    # -- people -------------------------------------------------------------------------

    def _want(self, n: int) -> None:
        """Have a saga started, over HTTP or by a message, and perhaps disturbed."""
        draw, people = self._draw, self.weather.people
        tenant = draw.choice(TENANTS)
        over_queue = tenant == "default" and draw.random() < 0.4
        wish = Wish(tenant, f"key-{draw.randrange(2)}")  # two tenants may use the same one
        if any((w.tenant, w.key) == (tenant, wish.key) for w in self.wishes):
            wish.key = f"key-{n + 2}"
        self.wishes.append(wish)
        at = draw.randrange(60_000) if n else 0
        if over_queue:
            self.cloud.later(at, "a start message", partial(self._send, wish, keyless=n % 2 == 1))
        else:
            self.cloud.later(at, "a start", partial(self._start, wish, 1))
        if not people:
            return
        if not over_queue and draw.random() < 0.2:  # an impatient client, or a mistaken one
            mark = draw.choice([1, 2])
            later = at + draw.choice([0, 30_000])
            self.cloud.later(later, "another start", partial(self._start, wish, mark))
        if draw.random() < 0.4:  # most of them in the thick of it
            later = at + draw.randrange(draw.choice([60, 200, 60_000]))
            self.cloud.later(later, "a cancel", partial(self._cancel, wish, 10))
        if draw.random() < 0.2:
            later = at + draw.randrange(60_000)
            self.cloud.later(later, "a look", partial(self._look, wish))

    def _redeploy(self) -> None:
        """The code disappears, and comes back by itself or when somebody notices."""
        gone = self._draw.randrange(2_000)
        self.cloud.later(gone, "nothing is deployed", self.cloud.deploy)
        if self._draw.random() < 0.5:
            back = gone + self._draw.randrange(3_600_000)
            self.cloud.later(back, "it is deployed again", self._deploy)

    def _deploy(self) -> None:
        self.cloud.deploy(self.definition)

    def _start(self, wish: Wish, mark: int) -> None:
        def answered(status: int, body: dict[str, Any]) -> None:
            self.cloud.seen[f"start {status}"] += 1
            again = partial(self._start, wish, mark)
            if status >= 500:
                self.cloud.later(TRY_AGAIN_MS, "the start again", again)
            elif status == 404:
                self.cloud.later(10 * MINUTE_MS, "the start again", again)
                self.cloud.later(9 * MINUTE_MS, "somebody notices", self._deploy)
            elif status == 422:
                wish.refused.add(mark)
            elif status in (200, 202):
                wish.marks.add(mark)
                wish.ids.add(body["id"])
            else:
                self.cloud.broke("S10", f"a start was answered {status}: {body}")

        self.cloud.http(
            "POST",
            "/sagas/simulated",
            tenant=wish.tenant,
            key=wish.key,
            body={"mark": mark},
            answered=answered,
        )

    def _send(self, wish: Wish, *, keyless: bool) -> None:
        body: dict[str, Any] = {"saga": "simulated", "context": {"mark": 1}}
        if not keyless:
            body["idempotency_key"] = wish.key
        reply = self.cloud.sqs.send_message(QueueUrl=START, MessageBody=json.dumps(body))
        self.cloud.sqs.calls["SendMessage"] -= 1  # not the functions' own
        if keyless:
            wish.key = reply["MessageId"]
        wish.marks.add(1)

    def _cancel(self, wish: Wish, patience: int) -> None:
        def answered(status: int, body: dict[str, Any]) -> None:
            self.cloud.seen[f"cancel {status}"] += 1
            if status == 202:
                wish.cancelled = True
                if body["id"] != wish.saga_id:
                    self.cloud.broke("S16", f"cancel of {wish.saga_id} answered {body['id']}")
            if status >= 500 or (status == 404 and patience):
                again = partial(self._cancel, wish, patience - (status == 404))
                self.cloud.later(ASK_AGAIN_MS, "the cancel again", again)

        self._asked = True
        path = f"/sagas/{wish.saga_id}/cancel"
        self.cloud.http("POST", path, tenant=wish.tenant, answered=answered)

    def _resume(self, wish: Wish) -> None:
        def answered(status: int, _body: dict[str, Any]) -> None:
            self.cloud.seen[f"resume {status}"] += 1
            if status >= 500:
                again = partial(self._resume, wish)
                self.cloud.later(ASK_AGAIN_MS, "the resume again", again)

        self._asked = True
        path = f"/sagas/{wish.saga_id}/resume"
        self.cloud.http("POST", path, tenant=wish.tenant, answered=answered)

    def _look(self, wish: Wish) -> None:
        """A list shows a tenant its own sagas; a foreign id is as unknown as none."""

        def listed(status: int, body: dict[str, Any]) -> None:
            own = {w.saga_id for w in self.wishes if w.tenant == wish.tenant}
            self.cloud.seen[f"list {status}"] += 1
            shown = {s["id"] for s in body["sagas"]} if status == 200 else set()
            if not shown <= own:
                self.cloud.broke("S16", f"{wish.tenant} was shown {shown - own}")

        def hidden(status: int, _body: dict[str, Any]) -> None:
            if status < 500 and status != 404:
                self.cloud.broke("S16", f"a foreign saga was shown: {status}")

        query = {"limit": "2", "state": "RUNNING"}
        self.cloud.http("GET", "/sagas", tenant=wish.tenant, query=query, answered=listed)
        path = f"/sagas/{wish.saga_id}"
        self.cloud.http("GET", path, tenant="nobody", answered=hidden)

    # -- to the end -----------------------------------------------------------------------

    def play(self) -> None:
        """Run; then repair, redrive and resume as a person would, until nothing is open.

        Raises:
            BrokenInvariantError: Something is not as it must be.
        """
        cloud = self.cloud
        for _ in range(MOST_REPAIRS):
            cloud.run(MOST_MOMENTS, MOST_MS)
            if cloud.violations or not self._repaired():
                break
        else:
            raise BrokenInvariantError("L4", "repaired and repaired, and never at an end")
        self.verdicts.at_the_end()
        if self._draw.random() < 0.1:
            cloud.calm()
            self._read_the_lists()
        self._promises()
        self._bounds()
        if not self._asked and not self.cloud.seen["listed"]:
            self._economy()

    def _repaired(self) -> bool:
        """A person has seen the alarms: whether there was something to do."""
        cloud = self.cloud
        stopped = {s.id for s in self.verdicts.sagas if s.status is SagaState.FAILED}
        letters = [*cloud.sqs.live(PARKED), *cloud.sqs.live(START_DEAD)]
        if stopped or letters:
            self._deploy()
        for wish in self.wishes:
            if wish.saga_id in stopped:
                self._stubborn[0] = 0
                cloud.later(1_000, "a resume", partial(self._resume, wish))
        for letter in letters:
            cloud.seen["redriven"] += 1
            cloud.sqs.lose(letter.id)
            back = WORK if letter.queue == PARKED else START
            reply = cloud.sqs.send_message(QueueUrl=back, MessageBody=letter.body)
            cloud.sqs.calls["SendMessage"] -= 1
            self._follow(letter.id, reply["MessageId"], letter.body)
        return bool(stopped or letters)

    def _follow(self, old: str, new: str, body: str) -> None:
        """A start message without a key has a new one when it is redriven by hand."""
        found = [w for w in self.wishes if w.key == old]
        if found and "idempotency_key" not in json.loads(body):
            self.wishes.append(Wish("default", new, marks={1}))
            stands = any(s.id == found[0].saga_id for s in self.verdicts.sagas)
            if not stands:
                self.wishes.remove(found[0])

    def _read_the_lists(self) -> None:
        """Page by page, each tenant sees its own sagas: all of them, once, and no other's."""
        shown: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}

        def read(tenant: str, cursor: str | None) -> None:
            def answered(status: int, body: dict[str, Any]) -> None:
                if status != 200:
                    self.cloud.broke("L1", f"a list was answered {status} in good weather")
                    return
                shown[tenant] += [s["id"] for s in body["sagas"]]
                if body["cursor"] is not None:
                    self.cloud.later(0, "the next page", partial(read, tenant, body["cursor"]))

            query = {"limit": "1", **({"cursor": cursor} if cursor is not None else {})}
            self.cloud.http("GET", "/sagas", tenant=tenant, query=query, answered=answered)

        for tenant in TENANTS:
            self.cloud.later(0, "a list", partial(read, tenant, None))
        self.cloud.run(MOST_MOMENTS, MOST_MS)
        for broken in self.cloud.violations:
            raise broken
        for tenant in TENANTS:
            there = sorted(s.id for s in self.verdicts.sagas if s.tenant == tenant)
            if sorted(shown[tenant]) != there:
                raise BrokenInvariantError("S12", f"{tenant} has {there}, listed {shown[tenant]}")
        self.cloud.seen["listed"] += 1

    # -- what people were told, and what it cost --------------------------------------------

    def _promises(self) -> None:
        """S9, S10, L4, L5: the answers, held against what became of the sagas."""
        sagas = {s.id: s for s in self.verdicts.sagas}
        if len(sagas) > len(self.wishes):
            raise BrokenInvariantError("S10", f"{len(sagas)} sagas for {len(self.wishes)} keys")
        for wish in self.wishes:
            saga = sagas.get(wish.saga_id)
            if saga is None:
                raise BrokenInvariantError("L1", f"{wish} was accepted and is nowhere")
            self._started_once(wish, saga)
            if saga.status is SagaState.FAILED:
                raise BrokenInvariantError("L4", f"{saga.id} is FAILED after all")
            if wish.cancelled and saga.status is not SagaState.COMPENSATED:
                name = "S9" if saga.status is SagaState.COMPLETED else "L5"
                raise BrokenInvariantError(name, f"{saga.id} was cancelled and is {saga.status}")
            self.cloud.seen[f"ended {saga.status}"] += 1

    def _started_once(self, wish: Wish, saga: SagaInstance) -> None:
        context = json.loads(saga.context_text)
        if wish.ids - {saga.id}:
            raise BrokenInvariantError("S10", f"{saga.id} was also called {wish.ids}")
        if wish.marks != {context["mark"]}:
            raise BrokenInvariantError("S10", f"{saga.id} has {context}, accepted {wish.marks}")
        if context["mark"] in wish.refused:
            raise BrokenInvariantError("S10", f"{saga.id}: its own payload was refused")

    def _bounds(self) -> None:
        """L6: work is bounded by the sagas and the faults."""
        cloud, faults = self.cloud, len(self.cloud.dice.drawn)
        done = cloud.invocations.total() - cloud.invocations["sweeper"]
        asked = sum(n for what, n in cloud.seen.items() if what.startswith("answer "))
        lanes = max(len(self.definition.stage(n)) for n in range(len(self.definition.steps)))
        if done > 80 * len(self.wishes) * lanes + 12 * (faults + asked):
            raise BrokenInvariantError("L6", f"{done} invocations for {faults} faults")

    def _economy(self) -> None:
        """E1, E2, E3: nothing is done twice that need not be, and nobody waits in vain."""
        if self.profile in ("ambiguous", "fault-free"):
            for saga in self.verdicts.sagas:
                for step in saga.steps:
                    honest = step.code is StepCode.NO or step.error is not None
                    honest |= self.definition.step(step.name).retry.max_attempts is None
                    if not honest and max(step.attempts, step.undo_attempts) > 1:
                        raise BrokenInvariantError("E2", f"{step.name}: {step.attempts} attempts")
        if self.profile == "fault-free":
            self._requests()
        if self.profile == "one crash" and self.cloud.crashed_at is not None:
            took = self.cloud.time() - self.cloud.crashed_at
            if took > VISIBILITY_MS + MINUTE_MS:
                raise BrokenInvariantError("E3", f"{took} ms after the crash")

    def _requests(self) -> None:
        cloud, sagas = self.cloud, self.verdicts.sagas
        moves = sum(s.lane.epoch - 1 for s in sagas)
        wanted = {
            "PutItem": len(sagas),
            "UpdateItem": 2 * moves,
            "GetItem": 0,
            "SendMessage": moves,
            "ChangeMessageVisibility": 0,
        }
        calls = cloud.dynamo.calls + cloud.sqs.calls
        if {name: calls[name] for name in wanted} != wanted:
            raise BrokenInvariantError("E1", f"{moves} moves, {dict(calls)}")
        if cloud.invocations["worker"] > moves:
            raise BrokenInvariantError("E1", f"{moves} moves, {dict(cloud.invocations)}")
