"""What is shown, one generator for each scenario.

A scenario has up to four parts, parted by ``yield``: the first and the third run while no other
does (they may upset the whole stack), the second and the fourth together with those of the others.
It raises AssertionError when something is not as promised. What a saga did is judged in the world,
not by what the orchestrator says.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

from tests.e2e.deploy import DEFINITIONS
from tests.e2e.engine import wait_for
from tests.e2e.load import load
from tests.e2e.outside import Json, Outside, all_stands, nothing_stands, outcomes
from tests.e2e.sagas.post import TIMER
from tests.e2e.sagas.world import FOR_EVER, STEPS, Call

Say = Callable[[str], None]
Parts = Iterator[None]


@dataclass
class Scenario:
    """One scenario and what came of it."""

    name: str
    play: Callable[[Outside, Say], Parts]
    customers: tuple[str, ...] = ()
    said: list[str] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0


def step(view: Json, name: str) -> Json:
    (found,) = [s for s in view["steps"] if s["name"] == name]
    return dict(found)


# -- the scenarios ----------------------------------------------------------------------


def completes_over_http(out: Outside, say: Say) -> Parts:
    yield
    customer = "http-1"
    status, body = out.start("parcel", customer)
    say(f"POST /sagas/parcel: {status}")
    assert status in {200, 202}, body
    view = out.wait(body["id"], "COMPLETED")
    all_stands(out, customer)
    assert view["context"]["receipts"].keys() == set(STEPS)
    say("every effect stands, each happened once")
    again, same = out.start("parcel", customer)
    assert (again, same["id"]) == (200, body["id"])
    say(f"the same request again: {again}, the same saga")
    other, problem = out.start("parcel", "somebody-else", key=customer)
    assert other == 422, problem
    say(f"the same key with another input: {other} {problem['type']}")
    assert out.call("GET", "/sagas/" + "a" * 26)[0] == 404
    assert out.call("POST", "/sagas/none", {}, {"Idempotency-Key": "x"})[0] == 404
    assert out.call("POST", "/sagas/parcel", {"customer": ""}, {"Idempotency-Key": "y"})[0] == 422
    say("an unknown saga: 404; an unknown name: 404; a context that is none: 422")
    listed = out.call("GET", "/sagas?state=COMPLETED&limit=100")[1]["sagas"]
    assert body["id"] in {saga["id"] for saga in listed}
    say("GET /sagas?state=COMPLETED lists it")
    if out.engine.auth:
        assert out.call("GET", "/sagas", signed=False)[0] == 403
        say("a request that nobody signed: 403")


def completes_over_sqs(out: Outside, say: Say) -> Parts:
    yield
    customer = "sqs-1"
    message = {"saga": "parcel", "context": {"customer": customer}, "idempotency_key": customer}
    for _ in range(2):
        say(f"start message {out.send(message)}")
    wait_for("its effects", lambda: out.world.standing(customer) == STEPS)
    status, body = out.start("parcel", customer)
    assert status == 200, body
    out.wait(body["id"], "COMPLETED")
    all_stands(out, customer)
    say("two messages and one request with one key: one saga, COMPLETED, each effect once")


def is_compensated(out: Outside, say: Say) -> Parts:
    yield
    customer = "declined-1"
    out.world.set(customer, "ship", "decline")
    saga = out.started("parcel", customer)
    view = out.wait(saga, "COMPENSATED")
    nothing_stands(out, customer)
    assert out.world.undone(customer) == ["reserve", "charge"]
    assert view["cause"]["step"] == "ship", view["cause"]
    say("the carrier declined; reservation and charge happened and were undone, nothing stands")


def waits(out: Outside, say: Say) -> Parts:
    yield
    customer = "patient-1"
    out.world.set(customer, "charge", "busy", times=2)
    saga = out.started("parcel", customer)
    view = out.wait(saga, "COMPLETED")
    all_stands(out, customer)
    calls = [c for c in out.world.calls(customer) if c.operation == "charge"]
    assert [c.outcome for c in calls[:3]] == ["busy", "busy", "done"]
    assert len({c.key for c in calls}) == 1
    assert step(view, "charge")["attempts"] >= 3
    pauses = [later.at - earlier.at for earlier, later in pairwise(calls)]
    say("the bank was busy twice; the saga waited in the queue, with no function running")
    say("pauses of " + ", ".join(f"{p:.1f} s" for p in pauses) + " under one idempotency key")


def loses_an_answer(out: Outside, say: Say) -> Parts:
    yield
    customer = "lost-answer-1"
    out.world.set(customer, "charge", "lose")
    saga = out.started("parcel", customer)
    out.wait(saga, "COMPLETED")
    all_stands(out, customer)
    charges = outcomes(out.world.calls(customer), "charge")
    assert charges[:3] == ["done", "answer lost", "repeated"], charges
    say("the charge happened and its answer was lost: tried again under its key, charged once")


def fails_and_is_resumed(out: Outside, say: Say) -> Parts:
    yield
    customer = "broken-1"
    out.world.set(customer, "ship", "decline")
    out.world.set(customer, "charge", "broken", times=FOR_EVER)
    saga = out.started("parcel", customer)
    view = out.wait(saga, "FAILED")
    assert view["failure"]["why"] == "COMPENSATION_FAILED", view["failure"]
    # what it says that stands is what stands; the step before it was not touched by the roll-back
    assert set(out.world.standing(customer)) >= set(view["failure"]["standing"]), view["failure"]
    say(f"FAILED; standing: {view['failure']['standing']}; to do: {view['failure']['to_do']}")
    out.world.repair(customer)
    say(f"repaired; POST resume: {out.ask(saga, 'resume')}")
    out.wait(saga, "COMPENSATED")
    nothing_stands(out, customer)
    say("COMPENSATED, nothing stands")


def fails_and_is_skipped(out: Outside, say: Say) -> Parts:
    yield
    customer = "by-hand-1"
    out.world.set(customer, "ship", "decline")
    out.world.set(customer, "charge", "broken", times=FOR_EVER)
    saga = out.started("parcel", customer)
    out.wait(saga, "FAILED")
    assert out.ask(saga, "skip", {"step": "reserve"}) == 409
    say(f"POST skip of the step that failed: {out.ask(saga, 'skip', {'step': 'charge'})}")
    out.wait(saga, "COMPENSATED")
    assert out.world.standing(customer) == ["charge"], "only what a person took over stands"
    say("COMPENSATED; the charge, which a person took over, is the one effect left")


def is_cancelled(out: Outside, say: Say) -> Parts:
    yield
    status, customer = 0, ""
    for n in range(3):  # on a slow machine the request may come too late
        customer = f"cancelled-{n + 1}"
        out.world.set(customer, "charge", "hang", seconds=9)
        saga = out.started("parcel", customer)
        wait_for("the charge", partial(_heard, out, customer, "answers late"))
        status = out.ask(saga, "cancel")
        say(f"POST cancel of {customer} while its charge is in flight: {status}")
        if status == 202:
            break
    view = out.wait(saga, "COMPENSATED")
    nothing_stands(out, customer)
    assert "charge" in out.world.undone(customer)
    assert view["cause"]["kind"] == "cancelled", view["cause"]
    assert out.ask(saga, "cancel") == 409
    say("what was in flight is undone too; to cancel it once more: 409")


def survives_a_killed_worker(out: Outside, say: Say) -> Parts:
    yield
    customer = "killed-1"
    out.world.set(customer, "charge", "hang", seconds=12)
    saga = out.started("parcel", customer)

    def hanging() -> Call | None:
        calls = out.world.calls(customer)
        return next((c for c in calls if c.outcome == "answers late"), None)

    call = wait_for("the worker in the middle of the charge", hanging)
    assert call is not None
    os.kill(call.pid, signal.SIGKILL)
    say(f"the charge happened; kill -9 {call.pid} before it answered")
    out.wait(saga, "COMPLETED")
    all_stands(out, customer)
    charges = [c for c in out.world.calls(customer) if c.operation == "charge"]
    assert [c.outcome for c in charges[:3]] == ["done", "answers late", "repeated"]
    assert charges[-1].pid != call.pid
    assert len({c.key for c in charges}) == 1
    gap = charges[-1].at - call.at
    say(f"another worker, pid {charges[-1].pid}, came back after {gap:.0f} s (visibility 90 s)")
    say("the same key: charged once")


def comes_back_from_the_dead_letters(out: Outside, say: Say) -> Parts:
    customer = "dead-letter-1"
    worker = out.stack.functions["WorkerFunction"]
    _define(out, worker, DEFINITIONS.partition(",")[0])
    say("the worker is deployed without the definition of the letter")
    out.visibility("WorkQueueUrl", 1)
    saga = out.started("letter", customer)
    try:
        wait_for("its revival", lambda: _logged(out, saga, "saga.revived"), every=1)
        missing = len(_logged(out, saga, "saga.definition_missing"))
        assert out.world.calls(customer) == []
    finally:
        out.visibility("WorkQueueUrl", 90)
        _define(out, worker, DEFINITIONS)
    say(f"{missing} deliveries met no definition; SQS moved the message to the dead letters")
    say("the dead-letter function sent it again, a minute later; the definition is back")
    yield
    out.wait(saga, "COMPLETED")
    assert out.world.standing(customer) == ["send"]
    assert outcomes(out.world.calls(customer), "send").count("done") == 1
    wait_for("empty dead letters", lambda: out.depth("DeadLetterQueueUrl") == 0)
    assert out.depth("ParkingQueueUrl") == 0
    say("COMPLETED; nothing lies in the dead letters, nothing is parked")


def _define(out: Outside, function: str, definitions: str) -> None:
    found = out.functions.get_function_configuration(FunctionName=function)
    variables = found["Environment"]["Variables"] | {"SAGA_DEFINITIONS": definitions}
    out.functions.update_function_configuration(
        FunctionName=function, Environment={"Variables": variables}
    )


def _logged(out: Outside, saga: str, message: str) -> list[Json]:
    out.collect()
    return [line for line in out.lines.get(saga, []) if line["message"] == message]


def may_do_only_what_its_role_says(out: Outside, say: Say) -> Parts:
    if not out.engine.auth:
        say("left out: IAM policies are not evaluated in this run")
        return
    customer = "denied-1"
    role = out.stack.outputs["WorkerRoleArn"].rpartition("/")[2]
    policy = out.iam.get_role_policy(RoleName=role, PolicyName="worker")["PolicyDocument"]
    statements = [s for s in policy["Statement"] if "dynamodb:UpdateItem" not in s["Action"]]
    out.visibility("WorkQueueUrl", 2)
    _grant(out, role, {**policy, "Statement": statements})
    say("the right to dynamodb:UpdateItem is taken from the worker's role")
    try:
        saga = out.started("parcel", customer)
        wait_for("a refusal", lambda: _logged(out, saga, "saga.store_unavailable"), every=1)
        assert out.world.calls(customer) == []
        say("a delivery found the store out of reach; no step was called")
    finally:
        _grant(out, role, policy)
        out.visibility("WorkQueueUrl", 90)
    out.wait(saga, "COMPLETED")
    all_stands(out, customer)
    say("the right is back: COMPLETED. The policies of the template are what lets it work")
    yield


def _grant(out: Outside, role: str, policy: Json) -> None:
    out.iam.put_role_policy(RoleName=role, PolicyName="worker", PolicyDocument=json.dumps(policy))


def refuses_what_starts_nothing(out: Outside, say: Say) -> Parts:
    out.visibility("StartQueueUrl", 1)
    say(f"a start message that is no JSON: {out.send('no JSON')}")
    wait_for("the refusal", lambda: out.depth("StartDeadLetterQueueUrl") == 1)
    out.visibility("StartQueueUrl", 180)
    say("after five deliveries it lies in the start queue's dead letters")
    yield
    say(f"one without a key: {out.send({'saga': 'parcel', 'context': {'customer': 'keyless-1'}})}")
    wait_for("its effects", lambda: out.world.standing("keyless-1") == STEPS)
    all_stands(out, "keyless-1")
    found = out.sqs.receive_message(
        QueueUrl=out.stack.outputs["StartDeadLetterQueueUrl"], MaxNumberOfMessages=10
    )["Messages"]
    assert [m["Body"] for m in found] == ["no JSON"]
    say("it started one saga: every effect once")


def is_found_by_the_sweeper(out: Outside, say: Say) -> Parts:
    customer = "message-lost-1"
    mappings = out.functions.list_event_source_mappings()["EventSourceMappings"]
    (work,) = [m["UUID"] for m in mappings if m["EventSourceArn"].endswith("-work")]
    out.functions.update_event_source_mapping(UUID=work, Enabled=False)
    saga = out.started("parcel", customer)
    wait_for("its message", lambda: out.depth("WorkQueueUrl") > 0)
    out.sqs.purge_queue(QueueUrl=out.stack.outputs["WorkQueueUrl"])
    wait_for("the purge", lambda: out.depth("WorkQueueUrl") == 0)
    out.functions.update_event_source_mapping(UUID=work, Enabled=True)
    say("the saga was started and the work queue purged: its one message is lost")
    yield
    yield
    yield
    out.wait(saga, "COMPLETED")
    all_stands(out, customer)
    swept = _logged(out, saga, "saga.sent")
    assert swept, "somebody else found it"
    say("the sweeper, woken every minute, found it in its index: COMPLETED")


def flows(out: Outside, say: Say) -> Parts:
    yield
    customer = "crate-1"
    out.world.set(customer, "wrap", "busy")
    out.world.set(customer, "export", "busy", times=4)  # more than any bounded step is tried here
    saga = out.started("crate", customer)
    token = _asked(out, customer)
    view = wait_for("the wait", lambda: _waiting(out, saga))
    assert out.world.standing(customer) == ["weigh", "wrap", "ask"], "one waited for the other"
    say("a group: one step had to be tried again, the other went on meanwhile; both stand")
    status, body = out.call("POST", f"/answers/{token[:-4]}AAAA", {"outcome": "heartbeat"})
    assert status == 404, (status, body)
    assert out.call("POST", f"/answers/{token}", {"outcome": "heartbeat"})[0] == 202
    later = step(out.get(saga), "ask")["due_at"]
    assert view is not None
    assert later > step(view, "ask")["due_at"]
    say("an approval: it waits, with no function running; a heartbeat moved the time-out")
    yes = {"outcome": "completed", "context": {"approved_by": "ann"}}
    no = {"outcome": "failed", "error": "too heavy"}
    assert [out.call("POST", f"/answers/{token}", a)[0] for a in (yes, yes, no)] == [202, 202, 409]
    say("POST /answers/{token}: 202, the same again 202, another one 409")
    wait_for("the stamp", lambda: "stamp" in out.world.standing(customer))
    wait_for("the pivot", lambda: step(out.get(saga), "stamp")["status"] == "COMPLETED")
    assert out.ask(saga, "cancel") == 409
    say("past its pivot, a cancel: 409")
    view = out.wait(saga, "COMPLETED")
    assert view["context"]["approved_by"] == "ann"
    assert out.world.standing(customer) == ["weigh", "wrap", "ask", "stamp", "export"]
    assert outcomes(out.world.calls(customer), "export").count("busy") == 4
    calls = {c.operation: c.at for c in reversed(out.world.calls(customer))}
    waited = calls["export"] - calls["stamp"]
    assert waited >= TIMER.total_seconds()
    say(f"a timer of {TIMER.seconds} s: its step began {waited:.1f} s later")
    say("and was tried until it succeeded, as every step past the pivot")


def nobody_answers(out: Outside, say: Say) -> Parts:
    yield
    customer = "crate-2"
    _, body = out.call(
        "POST",
        "/sagas/crate",
        {"customer": customer, "patience": 5},
        {"Idempotency-Key": customer},
    )
    token = _asked(out, customer)
    view = out.wait(body["id"], "COMPENSATED")
    assert view["cause"]["error"]["kind"] == "AnswerOverdue", view["cause"]
    nothing_stands(out, customer)
    undos = [c.operation for c in out.world.calls(customer) if c.operation.startswith("undo")]
    assert (undos[0], sorted(undos[1:])) == ("undo ask", ["undo weigh", "undo wrap"]), undos
    say("nobody answered in time: the step is in doubt and was undone first, then the group's two")
    late = out.call("POST", f"/answers/{token}", {"outcome": "completed"})
    assert late[0] == 409, late
    say(f"an answer after that: {late[0]}, {late[1]['title']}")


def _asked(out: Outside, customer: str) -> str:
    token = wait_for("the question", lambda: out.world.token(customer))
    assert token is not None
    return token


def _waiting(out: Outside, saga: str) -> Json | None:
    view = out.get(saga)
    return view if step(view, "ask")["status"] == "WAITING" else None


def survives_a_restart(out: Outside, say: Say) -> Parts:
    yield
    yield
    done, failed, waiting, working = (f"restart-{n}" for n in ("done", "failed", "waits", "works"))
    for customer in (failed,):
        out.world.set(customer, "ship", "decline")
        out.world.set(customer, "charge", "broken", times=FOR_EVER)
    out.world.set(waiting, "charge", "busy", times=3)
    out.world.set(working, "charge", "hang", seconds=12)
    sagas = {name: out.started("parcel", name) for name in (done, failed)}
    out.wait(sagas[done], "COMPLETED")
    out.wait(sagas[failed], "FAILED")
    sagas |= {name: out.started("parcel", name) for name in (waiting, working)}
    for name, outcome in ((waiting, "busy"), (working, "answers late")):
        wait_for(outcome, partial(_heard, out, name, outcome))
    say("one saga COMPLETED, one FAILED, one waiting for its next try, one in the middle of a step")
    before = {name: out.get(sagas[name]) for name in (done, failed)}
    out.restart()
    say("the emulator was stopped (SIGTERM) and started again on the same port with the same data")
    assert {name: out.get(sagas[name]) for name in (done, failed)} == before
    say("the COMPLETED and the FAILED one read as before, to the letter")
    yield
    out.world.repair(failed)
    assert out.ask(sagas[failed], "resume") == 202
    out.wait(sagas[failed], "COMPENSATED")
    nothing_stands(out, failed)
    say("the FAILED one, resumed: COMPENSATED, nothing stands")
    out.wait(sagas[waiting], "COMPLETED")
    all_stands(out, waiting)
    say("the waiting one: COMPLETED, each effect once")
    out.wait(sagas[working], "COMPLETED")
    all_stands(out, working)
    say("the one in the middle of a step: COMPLETED, each effect once")


def _heard(out: Outside, customer: str, outcome: str) -> bool:
    return outcome in {call.outcome for call in out.world.calls(customer)}


def many_at_once(out: Outside, say: Say) -> Parts:
    yield
    yield
    yield
    out.figures = load(out, say)


# In this order: the first part of one must not disturb the part of another that is still to come.
SCENARIOS = [
    Scenario(
        "is found by the sweeper when its message is lost",
        is_found_by_the_sweeper,
        ("message-lost-1",),
    ),
    Scenario(
        "needs the rights that the template gives, and no others",
        may_do_only_what_its_role_says,
        ("denied-1",),
    ),
    Scenario("refuses a start message that is none", refuses_what_starts_nothing, ("keyless-1",)),
    Scenario(
        "goes to the dead letters and comes back",
        comes_back_from_the_dead_letters,
        ("dead-letter-1",),
    ),
    Scenario("completes, over HTTP", completes_over_http, ("http-1",)),
    Scenario("completes, over SQS", completes_over_sqs, ("sqs-1",)),
    Scenario("is compensated", is_compensated, ("declined-1",)),
    Scenario("waits for its next try", waits, ("patient-1",)),
    Scenario("loses an answer", loses_an_answer, ("lost-answer-1",)),
    Scenario("runs a group, waits for an approval and for a timer", flows, ("crate-1",)),
    Scenario("waits for an approval that does not come", nobody_answers, ("crate-2",)),
    Scenario("fails and is resumed", fails_and_is_resumed, ("broken-1",)),
    Scenario("fails and is skipped by hand", fails_and_is_skipped, ("by-hand-1",)),
    Scenario("is cancelled in flight", is_cancelled, ("cancelled-1",)),
    Scenario(
        "survives kill -9 of its worker in the middle of a step",
        survives_a_killed_worker,
        ("killed-1",),
    ),
    Scenario(
        "survives a restart of everything",
        survives_a_restart,
        ("restart-failed", "restart-waits", "restart-works"),
    ),
    Scenario("five hundred at once", many_at_once),
]
