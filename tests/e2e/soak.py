"""`make soak`: the stack kept busy in trouble for minutes, then held against the world.

Sagas are started over HTTP and SQS, some over both, some are cancelled; services decline, are busy,
lose answers and hang; workers are killed and run out of time, their right to the table is taken
away for seconds, messages are copied, everything is restarted in the middle. Then trouble ends, a
person repairs and resumes what FAILED, and every saga must have ended as the world says.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from saga_core.identity import saga_id_for
from tests.e2e.deploy import ROOT, deploy
from tests.e2e.engine import Engine
from tests.e2e.outside import CONNECTIONS, Outside
from tests.e2e.sagas.world import FOR_EVER, STEPS, Call, World

FOLDER = ROOT / "build" / "e2e"
MOST_WAITING = 60  # messages in the work queue; beyond it nothing new is started
OUTAGE_S = 5
SETTLE_S = 25 * 60  # a message may go through the dead letters more than once
ENDS = {"COMPLETED", "COMPENSATED"}


@dataclass
class Soak:
    """What is going on, and what happened so far."""

    out: Outside
    random: Random
    customers: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    happened: Counter[str] = field(default_factory=Counter)

    # -- one round

    def round(self, pool: ThreadPoolExecutor) -> None:
        """Start some, then let something go wrong."""
        if self.out.depth("WorkQueueUrl") < MOST_WAITING:
            new = [self._customer() for _ in range(self.random.randint(2, 6))]
            list(pool.map(self._start, new))
        if self.customers and self.random.random() < 0.1:
            self._cancel(self.random.choice(self.customers[-20:]))
        if self.random.random() < 0.15:
            self._kill()
        if self.random.random() < 0.4:
            self._copy()
        if self.random.random() < 0.02:
            self._take_the_table_away()

    def _customer(self) -> str:
        customer = f"soak-{len(self.customers)}"
        self.customers.append(customer)
        world, step, luck = self.out.world, self.random.choice(STEPS), self.random.random()
        if luck < 0.10:
            world.set(customer, step, "decline")
        elif luck < 0.20:
            world.set(customer, step, "busy", times=2)
        elif luck < 0.35:
            world.set(customer, step, "lose")
        elif luck < 0.45:
            world.set(customer, step, "hang", seconds=self.random.choice([2, 6, 30]))
        elif luck < 0.48:
            world.set(customer, "ship", "decline")
            world.set(customer, self.random.choice(STEPS[:2]), "broken", times=FOR_EVER)
        return customer

    def _start(self, customer: str) -> None:
        number = int(customer.rpartition("-")[2])
        times = 2 if number % 10 == 0 else 1
        for turn in range(times):
            if (number + turn) % 2:
                status, body = self.out.start("parcel", customer)
                assert status in {200, 202}, (status, body)
            else:
                self.out.send(
                    {
                        "saga": "parcel",
                        "context": {"customer": customer},
                        "idempotency_key": customer,
                    }
                )
        self.happened["starts"] += times

    def _cancel(self, customer: str) -> None:
        status = self.out.ask(saga_id_for("default", customer), "cancel")
        self.happened[f"cancels answered {status}"] += 1
        if status == 202:
            self.cancelled.add(customer)

    def _kill(self) -> None:
        """Kill a worker that was seen at work a moment ago, if it is one of ours."""
        process = self.out.engine.process
        for pid in self.out.world.pids(since=time.time() - 20):
            with suppress(ProcessLookupError):
                if process is not None and os.getpgid(pid) == process.pid:
                    os.kill(pid, signal.SIGKILL)
                    self.happened["workers killed"] += 1
                    return

    def _copy(self) -> None:
        """Deliver messages once more: they are looked at, left where they are, and sent again."""
        url = self.out.stack.outputs["WorkQueueUrl"]
        found = self.out.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=5, VisibilityTimeout=0
        )
        for message in found.get("Messages", []):
            self.out.sqs.send_message(QueueUrl=url, MessageBody=message["Body"])
            self.happened["messages copied"] += 1

    def _take_the_table_away(self) -> None:
        role = self.out.stack.outputs["WorkerRoleArn"].rpartition("/")[2]
        name = {"RoleName": role, "PolicyName": "worker"}
        policy = self.out.iam.get_role_policy(**name)["PolicyDocument"]
        left = [s for s in policy["Statement"] if "dynamodb:UpdateItem" not in s["Action"]]
        poor = json.dumps({**policy, "Statement": left})
        self.out.iam.put_role_policy(**name, PolicyDocument=poor)
        try:
            time.sleep(OUTAGE_S)
        finally:
            self.out.iam.put_role_policy(**name, PolicyDocument=json.dumps(policy))
        self.happened["outages of the table"] += 1

    # -- a person

    def operate(self) -> None:
        """Repair what FAILED sagas wait for, and resume them."""
        failed = self.out.call("GET", "/sagas?state=FAILED&limit=100")[1]["sagas"]
        for saga in failed:
            view = self.out.get(saga["id"])
            self.out.world.repair(view["context"]["customer"])
            self.happened[f"resumes answered {self.out.ask(saga['id'], 'resume')}"] += 1

    def settle(self) -> dict[str, dict[str, Any] | None]:
        """Wait until every saga has ended; each as it is then, None where there is none."""
        for customer in self.customers:
            self.out.world.repair(customer)
        found: dict[str, dict[str, Any] | None] = dict.fromkeys(self.customers)
        ends_at = time.monotonic() + SETTLE_S
        while time.monotonic() < ends_at:
            self.operate()
            for customer, view in found.items():
                if view is None or view["state"] not in ENDS:
                    path = f"/sagas/{saga_id_for('default', customer)}"
                    status, answer = self.out.call("GET", path)
                    found[customer] = answer if status == 200 else None
            if all(view is not None and view["state"] in ENDS for view in found.values()):
                break
            time.sleep(5)
        return found


# -- the world ----------------------------------------------------------------------------


def judge(soak: Soak, customer: str, view: dict[str, Any] | None) -> Iterator[str]:
    """What is wrong about a saga's end: the invariants of the simulator, by their names."""
    world, calls = soak.out.world, soak.out.world.calls(customer)
    standing = world.standing(customer)
    if view is None:
        yield "L1: it was accepted and is not there"
        return
    if view["state"] not in ENDS:
        yield f"L1: {view['state']} after {SETTLE_S} s"
        return
    done = [call for call in calls if call.outcome == "done"]
    for name, times in Counter(call.operation for call in done).items():
        if times > 1:
            yield f"S1: {name} took effect {times} times"
    for name in {call.operation for call in calls}:
        if len({call.key for call in calls if call.operation == name}) > 1:
            yield f"S1: {name} under several keys"
    if view["state"] == "COMPLETED" and standing != STEPS:
        yield f"S2: COMPLETED, and {standing} stand"
    if view["state"] == "COMPENSATED" and standing:
        yield f"S3: COMPENSATED, and {standing} stand"
    if view["state"] == "COMPLETED" and customer in soak.cancelled:
        yield "S9: its cancel was accepted, and it is COMPLETED"
    yield from _order(calls, done)


def _order(calls: list[Call], done: list[Call]) -> Iterator[str]:
    back = [n for n, call in enumerate(calls) if call.operation.startswith("undo ")]
    forward = [n for n, call in enumerate(calls) if call.outcome == "done"]
    forward = [n for n in forward if not calls[n].operation.startswith("undo ")]
    if back and forward and max(forward) > min(back):
        yield "S3: a step took effect after the roll-back had begun"
    undone = [c.operation.removeprefix("undo ") for c in done if c.operation.startswith("undo ")]
    ranks = [STEPS.index(name) for name in undone]
    if ranks != sorted(ranks, reverse=True):
        yield f"S8: undone in the order {undone}"


# -- the run ------------------------------------------------------------------------------


def run(soak: Soak, minutes: float) -> None:
    """Rounds of a second or so; a person looks every quarter of a minute; one restart halfway."""
    began = looked = time.monotonic()
    restarted = False
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        while (now := time.monotonic()) < began + 60 * minutes:
            soak.round(pool)
            if now > looked + 15:
                soak.operate()
                looked = now
                print(f"{now - began:6.0f} s  {_told(soak.happened)}", flush=True)
            if not restarted and now > began + 30 * minutes:
                soak.out.restart()
                restarted = True
                soak.happened["restarts of everything"] += 1
            time.sleep(0.5)


def _told(happened: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(happened.items()))


def main() -> int:
    """Deploy, soak, settle, judge; 1 if a saga was lost or ended wrong."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--sam", type=Path, required=True, help="the sam command")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    engine = Engine(FOLDER / "soak")
    try:
        engine.start()
        stack = deploy(engine, options.sam.absolute(), FOLDER / "artifact", real_runtime=True)
        world = World(engine.world)
        world.make()
        out = Outside(engine, stack, world)
        soak = Soak(out, Random(options.seed))
        run(soak, options.minutes)
        print("trouble ends", flush=True)
        began = time.monotonic()
        views = soak.settle()
        settled = time.monotonic() - began
        wrong = {c: list(judge(soak, c, v)) for c, v in views.items()}
        out.close()
    finally:
        engine.stop()
    ends = Counter(view["state"] if view else "nowhere" for view in views.values())
    trouble = f"{options.minutes:g} minutes of trouble, seed {options.seed}"
    lines = [
        "# Soak",
        "",
        f"{trouble}; {settled:.0f} s until the last saga had ended.",
        "",
        *(f"- {count} {what}" for what, count in sorted(soak.happened.items())),
        f"- {len(views)} sagas: {_told(ends)}",
        *(f"- WRONG {customer}: {text}" for customer, texts in wrong.items() for text in texts),
        f"- {sum(bool(texts) for texts in wrong.values())} of {len(views)} lost or ended wrong",
    ]
    text = "\n".join(lines) + "\n"
    (FOLDER / "soak.md").write_text(text)
    print(text)
    return 1 if any(wrong.values()) or engine.left_running else 0


if __name__ == "__main__":
    raise SystemExit(main())
