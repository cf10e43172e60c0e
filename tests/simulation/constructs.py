"""Random sagas with groups, pivots, conditions, delays and approvals, in the same weather."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

from saga_core import AwaitAnswer, RetryPolicy, Saga, SagaDefinition, StepCall
from saga_core.identity import parse_token
from saga_core.testing.simulation import BrokenInvariantError
from saga_core.testing.world import Refusal
from tests.simulation.cloud import START
from tests.simulation.troubles import ASK_AGAIN_MS, TRY_AGAIN_MS, Troubles
from tests.simulation.weather import FLOW

MOST_REFUSALS = 4  # of a step past its pivot; then somebody has repaired it
WAITS_MS = (0, 0, 1_000, 30_000, 700_000, 4_000_000)  # until somebody answers


class Constructs(Troubles):
    """One schedule of a saga that has more than one step after the other."""

    def __init__(self, seed: int, profile: str, only: frozenset[int] | None = None) -> None:
        self._shape = Random(f"shape {seed}")
        self._minds: dict[tuple[str, str], str] = {}
        self._refusals: dict[tuple[str, str], int] = {}
        self._agreed: set[str] = set()  # tokens of the answers that were taken
        self._mended = False  # what failed works now, and whoever is asked agrees
        super().__init__(seed, profile.removeprefix(FLOW), only)
        self.cloud.most_messages *= 2  # the copies of a message live as long as a wait

    # -- the saga -----------------------------------------------------------------------

    def _definition(self) -> SagaDefinition:
        draw, count = self._shape, self._shape.randrange(1, 5)
        pivot = draw.choice([None, *range(count)])
        first = draw.randrange(count)  # of a group of up to three
        group = range(first, min(count, first + draw.choice([0, 2, 3])))
        if pivot in group:
            group = range(0)
        fails = draw.randrange(count) if draw.random() < 0.3 else None
        undo_fails = draw.choice([None, None, None, *range(count)]) if self.weather.people else None
        saga = Saga(
            "simulated",
            on_compensation_failure=draw.choice(["halt", "continue"]),
            timeout=timedelta(hours=30),
        )
        for n in range(count):
            past = pivot is not None and n > pivot
            options: dict[str, Any] = {
                "retry": RetryPolicy(
                    max_attempts=None if past else draw.choice([1, 2, 3]),
                    max_lost=draw.choice([1, 3]),
                    base=timedelta(seconds=1),
                    cap=timedelta(hours=2),
                ),
                "compensatable": not (past or (n == pivot and draw.random() < 0.5)),
                "pivot": n == pivot,
            }
            if n in group:
                options["group"] = "side"
            if n != pivot and draw.random() < 0.25:
                options["when"] = _says(draw.random() < 0.5)
            if self.weather.waits and draw.random() < 0.25:
                options["delay"] = timedelta(seconds=draw.choice([5, 1_200, 10_000]))
            asks = draw.random() < 0.3
            step = saga.step(name=f"s{n}", **options)(
                self._asks(sure=past) if asks else self._acts(fails=fails == n, past=past)
            )
            if options["compensatable"]:
                again = RetryPolicy(max_attempts=draw.choice([1, 3]))
                step.compensate(retry=again)(self._undo(stubborn=undo_fails == n))
        return saga.build()

    def _acts(self, *, fails: bool, past: bool) -> Callable[..., object]:
        def execute(ctx: dict[str, Any], call: StepCall) -> None:
            self.verdicts.on_call(call)
            if fails and not self._mended:
                spot = (call.saga_id, call.step)
                self._refusals[spot] = self._refusals.get(spot, 0) + 1
                if not past or self._refusals[spot] < MOST_REFUSALS:
                    raise Refusal("no")
            act = partial(self.verdicts.world.act, call)
            self.cloud.serve(f"{call.step} of {call.saga_id[:4]}", act)
            ctx[call.step] = "did"

        return execute

    # -- those who are asked --------------------------------------------------------------

    def _asks(self, *, sure: bool) -> Callable[..., object]:
        def execute(ctx: dict[str, Any], call: StepCall) -> AwaitAnswer:
            self.verdicts.on_call(call)
            ctx[call.step] = "asked"
            self.cloud.serve(f"question of {call.step}", partial(self._take_up, call, sure=sure))
            return AwaitAnswer(timeout=timedelta(seconds=self._shape.choice([5, 60, 600])))

        return execute

    def _take_up(self, call: StepCall, *, sure: bool) -> None:
        """Decide on a question: an answer at once, in time or late, twice, or never."""
        draw, spot = self._shape, (call.saga_id, call.step)
        minds = ["yes"] if sure else ["yes", "yes", "yes", "no", "once", "never"]
        mind = self._minds.setdefault(spot, draw.choice(minds))
        if self._mended:
            mind = self._minds[spot] = "yes"
        if mind == "never":
            return
        if mind == "once":  # no for now; whoever asks again hears yes
            mind, self._minds[spot] = "no", "yes"
        tenant = next(w.tenant for w in self.wishes if w.saga_id == call.saga_id)
        over_queue = tenant == "default" and draw.random() < 0.3
        wait = draw.choice(WAITS_MS)
        for again in (0, *draw.choice([(), (), (0,), (5_000,), (400_000,)])):
            say = partial(self._say, tenant, call, mind, over_queue=over_queue)
            self.cloud.later(wait + again, "an answer", say)
        if draw.random() < 0.2:
            beat = partial(self._post, tenant, call.token, {"outcome": "heartbeat"}, 0)
            self.cloud.later(wait // 2, "a heartbeat", beat)

    def _say(self, tenant: str, call: StepCall, mind: str, *, over_queue: bool) -> None:
        """What they were asked for they do first, then they say so; or they refuse."""
        answer: dict[str, Any] = {"outcome": "failed", "error": "no"}
        if mind == "yes":
            try:
                self.verdicts.world.act(call)
                answer = {"outcome": "completed", "context": {f"said {call.step}": True}}
            except Refusal:
                self.cloud.seen["withdrawn"] += 1
        if over_queue:
            self.cloud.seen["answer by message"] += 1
            body = json.dumps({"answer": call.token, **answer})
            self.cloud.sqs.send_message(QueueUrl=START, MessageBody=body)
            self.cloud.sqs.calls["SendMessage"] -= 1  # not the functions' own
        else:
            self._post(tenant, call.token, answer, 8)

    def _post(self, tenant: str, token: str, answer: dict[str, Any], patience: int) -> None:
        def answered(status: int, body: dict[str, Any]) -> None:
            self.cloud.seen[f"answer {status}"] += 1
            again = partial(self._post, tenant, token, answer, patience - 1)
            if status >= 500 and patience:
                self.cloud.later(ASK_AGAIN_MS, "the answer again", again)
            elif status == 409 and "definition" in body["type"] and patience:
                self.cloud.later(TRY_AGAIN_MS, "the answer again", again)
            elif status == 202 and answer["outcome"] == "completed":
                self._agreed.add(token)
            elif status not in (202, 404, 409) and status < 500:
                self.cloud.broke("S18", f"an answer was answered {status}: {body}")

        self._asked = True
        self.cloud.http("POST", f"/answers/{token}", tenant=tenant, body=answer, answered=answered)

    def _repaired(self) -> bool:
        stopped = super()._repaired()
        self._mended |= stopped
        return stopped

    def _promises(self) -> None:
        """S18: an answer that was taken counts."""
        super()._promises()
        sagas = {s.id: s for s in self.verdicts.sagas}
        for token in self._agreed:
            saga_id, place = parse_token(token)
            step = sagas[saga_id].steps[place]
            self.cloud.seen["agreed"] += 1
            if step.answer is None or not step.answer.ok or step.answer.late:
                raise BrokenInvariantError("S18", f"a yes for {step.name} was taken: {step}")

    # -- what it cost -----------------------------------------------------------------------

    def _requests(self) -> None:
        """Counted where the sagas are plain; here a group and an answer have their own."""


def _says(yes: bool) -> Callable[[object], bool]:  # noqa: FBT001 - the condition's answer
    return lambda _ctx: yes
