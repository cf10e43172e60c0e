"""Many sagas at once, and how fast they go through the whole stack. Figures are not judged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from saga_core.identity import saga_id_for
from tests.e2e.engine import wait_for
from tests.e2e.outside import CONNECTIONS, Outside, all_stands
from tests.e2e.sagas.world import STEPS

SAGAS = 500
ALONE = 20  # before them, one after the other
DECLINED_EACH = 10


def load(out: Outside, say: Callable[[str], None]) -> dict[str, Any]:
    """Half over HTTP and half over SQS; every tenth is declined at its last step."""
    alone = _one_after_the_other(out, say)
    customers = [f"load-{n}" for n in range(SAGAS)]
    declined = set(customers[::DECLINED_EACH])
    for customer in declined:
        out.world.set(customer, "ship", "decline")
    began = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        queued = pool.submit(_send, out, customers[1::2])
        answers = list(pool.map(lambda customer: out.start("parcel", customer), customers[::2]))
        queued.result()
    assert {status for status, _ in answers} <= {200, 202}
    accepted = time.monotonic() - began
    say(f"{SAGAS} started, half over HTTP and half over SQS, in {accepted:.1f} s")
    wait_for("all effects", lambda: _settled(out) == (SAGAS - len(declined), len(declined)))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        views = list(pool.map(lambda customer: _closed(out, customer), customers))
    for customer, view in zip(customers, views, strict=True):
        ending = ("COMPENSATED", []) if customer in declined else ("COMPLETED", STEPS)
        assert (view["state"], out.world.standing(customer)) == ending, customer
        done = [c.operation for c in out.world.calls(customer) if c.outcome == "done"]
        assert len(done) == (4 if customer in declined else 3), f"{customer}: {done}"
    say(f"{SAGAS - len(declined)} COMPLETED: all effects stand, each happened once")
    say(f"{len(declined)} declined at their last step, COMPENSATED: nothing stands")
    whole = _whole(views, accepted)
    for name, value in whole.items():
        say(f"{name}: {value}")
    return {"whole": whole, "alone": _latencies(alone), "together": _latencies(views)}


def _one_after_the_other(out: Outside, say: Callable[[str], None]) -> list[dict[str, Any]]:
    views = []
    for n in range(ALONE):
        saga = out.started("parcel", f"alone-{n}")
        views.append(out.wait(saga, "COMPLETED"))
        all_stands(out, f"alone-{n}")
    say(f"{ALONE} sagas one after the other")
    return views


def _settled(out: Outside) -> tuple[int, int]:
    """How many stand with every effect, and how many are undone to the last one."""
    found = out.world.tally("load-")
    stand = sum(1 for standing, _ in found if standing == len(STEPS))
    return stand, sum(1 for standing, undone in found if not standing and undone)


def _closed(out: Outside, customer: str) -> dict[str, Any]:
    return out.wait(saga_id_for("default", customer), "COMPLETED", "COMPENSATED")


def _send(out: Outside, customers: list[str]) -> None:
    url = out.stack.outputs["StartQueueUrl"]
    for first in range(0, len(customers), 10):
        entries = [{"Id": c, "MessageBody": _message(c)} for c in customers[first : first + 10]]
        assert not out.sqs.send_message_batch(QueueUrl=url, Entries=entries).get("Failed")


def _message(customer: str) -> str:
    body = {"saga": "parcel", "context": {"customer": customer}, "idempotency_key": customer}
    return json.dumps(body)


# -- figures ------------------------------------------------------------------------------


def _whole(views: list[dict[str, Any]], accepted: float) -> dict[str, str]:
    """From the stack's own timestamps."""
    first = min(_at(v["created_at"]) for v in views)
    span = max(_at(v["updated_at"]) for v in views) - first
    attempts = sum(s["attempts"] + s["compensation_attempts"] for v in views for s in v["steps"])
    return {
        "sagas a second": f"{len(views) / span:.1f}",
        "steps and compensations a second": f"{attempts / span:.1f}",
        "starts accepted a second": f"{len(views) / accepted:.1f}",
        "seconds from the first start to the last end": f"{span:.1f}",
    }


def _latencies(views: list[dict[str, Any]]) -> dict[str, tuple[str, str, str]]:
    """What a saga took, and each of its steps, before it ran and while it ran."""
    whole = [_at(v["updated_at"]) - _at(v["created_at"]) for v in views]
    steps = {f"{name}, {what}": _spread(some) for name, what, some in _steps(views)}
    return {"a saga, from start to end": _spread(whole), **steps}


def _steps(views: list[dict[str, Any]]) -> Iterable[tuple[str, str, list[float]]]:
    for index, name in enumerate(STEPS):
        waited, ran = [], []
        for view in views:
            steps = view["steps"]
            before = view["created_at"] if index == 0 else steps[index - 1]["ended_at"]
            if view["state"] == "COMPLETED":
                waited.append(_at(steps[index]["started_at"]) - _at(before))
                ran.append(_at(steps[index]["ended_at"]) - _at(steps[index]["started_at"]))
        yield name, "from the end of the step before to its claim", waited
        yield name, "from its claim to its result", ran


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _spread(seconds: Iterable[float]) -> tuple[str, str, str]:
    """Median, the 99th of a hundred, and the worst, in milliseconds."""
    some = sorted(seconds)
    chosen = some[len(some) // 2], some[int(len(some) * 0.99)], some[-1]
    return tuple(f"{value * 1000:.0f}" for value in chosen)  # type: ignore[return-value] # three
