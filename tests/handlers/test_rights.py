"""What the functions do to AWS is what their roles allow, no less and no more."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from saga_core import AwaitAnswer, Saga, StepCall
from tests.fakes.faults import Fault
from tests.handlers.sagas import DECLINED, TEA
from tests.handlers.stage import ORDER, TRAVEL, Stage
from tests.handlers.test_dead_letters import exhausted
from tests.template.test_rights import LOGS, RECEIVE, RIGHTS, TABLE

ROLES = {
    "handlers.api.handler": "ApiRole",
    "handlers.starter.handler": "StarterRole",
    "handlers.worker.handler": "WorkerRole",
    "handlers.dead_letters.handler": "DeadLettersRole",
    "handlers.sweeper.handler": "SweeperRole",
}


@dataclass
class Ledger:
    """Counts the calls of each function as actions on resources, in the template's words."""

    stage: Stage
    role: str = ""
    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def __call__(self, moment: str) -> None:
        when, _, what = moment.partition(" ")
        if what in ROLES:
            self.role = ROLES[what]
        elif when == "after":
            for client in (self.stage.dynamodb, self.stage.sqs):
                if client.requests and client.requests[-1][0] == what:
                    self.calls[self.role, *self.named(*client.requests[-1])] += 1
                    return

    def named(self, operation: str, arguments: dict[str, str]) -> tuple[str, str]:
        action = operation.title().replace("_", "")
        if "QueueUrl" in arguments:
            (queue,) = (n for n, url in self.stage.queues.items() if url == arguments["QueueUrl"])
            return f"${{{queue}.Arn}}", f"sqs:{action}"
        index = arguments.get("IndexName")
        return TABLE + (f"/index/{index}" if index else ""), f"dynamodb:{action}"


def _asks_and_starts_another(stage: Stage) -> None:
    """A saga whose step starts another, which waits for an answer, which comes by the queue."""
    inner, outer = Saga("inner"), Saga("outer")
    tokens = []

    def ask(_ctx: object, call: StepCall) -> AwaitAnswer:
        tokens.append(call.token)
        return AwaitAnswer(timeout=timedelta(minutes=1))

    inner.step(name="ask", compensatable=False)(ask)
    outer.child(inner, name="pay")(lambda ctx: {})
    stage.deploy(ORDER, TRAVEL, outer.build())
    stage.start("outer", {}, key="starts-another")
    while not tokens:
        assert stage.step() or stage.leap()
    stage.send("StartQueue", json.dumps({"answer": tokens[0], "outcome": "completed"}))
    stage.run_until_quiet()


def test_a_role_allows_what_its_function_was_seen_to_do_and_nothing_else(stage: Stage):
    """What the Lambda service does with a role (polling, writing logs) is left out."""
    ledger = Ledger(stage)
    stage.watch(ledger)
    stage.start(key="ends-well")
    stage.run_until_quiet()
    undone = stage.start(context=DECLINED, key="is-undone")
    stage.run_until_quiet()
    assert stage.http("GET", f"/sagas/{undone}").status == 200
    assert stage.http("GET", "/sagas").status == 200
    cancelled = stage.start(key="is-cancelled")
    assert stage.http("POST", f"/sagas/{cancelled}/cancel").status == 202
    stage.run_until_quiet()
    stage.start(key="is-announced-often")
    (letter,) = stage.bodies("WorkQueue")
    for queue in ("WorkQueue", "WorkQueue", "DeadLetterQueue"):
        stage.send(queue, letter)
    stage.run_until_quiet()  # one of the copies announces the saga anew, another is put off
    stage.send("StartQueue", '{"saga": "order", "context": {"sku": "tea"}}')
    stage.run_until_quiet()
    exhausted(stage)
    stage.run_until_quiet()
    _asks_and_starts_another(stage)
    stage.sqs.fail_next("send_message", Fault.THROTTLED)
    stage.start(context=TEA, key="is-never-announced")
    stage.run_until_quiet(sweeper=True)

    done: dict[str, dict[str, set[str]]] = {role: {} for role in RIGHTS}
    for role, resource, action in ledger.calls:
        done[role].setdefault(resource, set()).add(action)
    needed = {
        role: {
            resource: actions - LOGS - RECEIVE
            for resource, actions in granted.items()
            if actions - LOGS - RECEIVE
        }
        for role, granted in RIGHTS.items()
    }
    assert done == needed
    for call, count in sorted(ledger.calls.items()):
        print(f"{count:4} {' '.join(call)}")  # noqa: T201 - pytest -rP
