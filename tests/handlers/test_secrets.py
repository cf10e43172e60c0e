"""Nothing that a user puts into a saga comes out anywhere but in the saga itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from examples.services import ServiceError, WorkerKilledError, world
from saga_core.calls import StepCall
from saga_core.definition import Handler, SagaDefinition, StepDefinition
from saga_core.instance import SagaState
from saga_core.outcome import OutcomeUnknown
from saga_core.retry import RetryPolicy
from tests.fakes.faults import Fault
from tests.handlers.sagas import DAY, VISIBILITY, at
from tests.handlers.stage import Stage, Staged

# One for each place where a secret comes in.
INPUT, OUTPUT, ERROR, HEADER, KEY = (f"s3cr3t-{n}" for n in ("in", "out", "err", "head", "key"))
# The start queue and its dead letters hold inputs, because they are requests.
QUEUES = ("WorkQueue", "DeadLetterQueue", "ParkingQueue")
HEADERS = {"Authorization": f"Bearer {HEADER}", "Cookie": HEADER, "X-Custom": HEADER}


def leaky(name: str) -> StepDefinition:
    """A step with secrets in its context, and in its errors when the world refuses."""

    def execute(ctx: dict[str, object], call: StepCall) -> None:
        assert ctx["token"] == INPUT
        ctx[name] = OUTPUT
        try:
            world.happen(name, name, call.idempotency_key, lambda: None)
        except ServiceError as error:
            raise ValueError(f"{ERROR} in {ctx}") from error

    def compensate(ctx: dict[str, object], call: StepCall) -> None:
        try:
            world.undo(f"undo {name}", call.execute_key, lambda: None)
        except ServiceError as error:
            raise OutcomeUnknown(f"{ERROR} in {ctx}") from error

    return StepDefinition(
        name=name,
        execute=Handler.of(execute),
        compensate=Handler.of(compensate),
        retry=RetryPolicy(max_attempts=2),
    )


LEAKY = SagaDefinition(
    name="leaky", steps=(leaky("one"), leaky("two"), leaky("three")), timeout=DAY
)
BROKEN = ServiceError("no")


@pytest.fixture
def leak(staged: Staged, caplog: pytest.LogCaptureFixture) -> Iterator[Stage]:
    """A stage that is searched, at the end, for everything that must not have come out."""
    bodies: list[str] = []
    with caplog.at_level(logging.INFO), staged(LEAKY) as stage:

        def collect(_: str) -> None:
            for queue in QUEUES:
                bodies.extend(stage.bodies(queue))

        stage.watch(collect)
        yield stage
        collect("at the end")
        public = json.dumps(
            [stage.sink.lines, stage.sink.metrics, bodies, caplog.text], default=str
        )
        for secret in (INPUT, OUTPUT, ERROR, HEADER, KEY):
            assert secret not in public
        assert stage.sink.lines
        assert bodies


def begin(stage: Stage) -> str:
    return stage.start("leaky", {"token": INPUT}, key=KEY, headers=HEADERS)


def test_of_a_saga_that_completes(leak: Stage):
    saga_id = begin(leak)
    leak.run_until_quiet()
    body = leak.http("GET", f"/sagas/{saga_id}", headers=HEADERS).body
    # The saga itself has them, for whoever may read it.
    assert body["context"] == {"token": INPUT, "one": OUTPUT, "two": OUTPUT, "three": OUTPUT}


def test_of_a_saga_that_fails_and_is_undone(leak: Stage):
    for _ in range(2):
        world.refuse("three", BROKEN)
    world.refuse("undo two", BROKEN)
    saga_id = begin(leak)
    leak.run_until_quiet()
    body = leak.http("GET", f"/sagas/{saga_id}").body
    assert body["state"] == "COMPENSATED"
    assert ERROR in body["cause"]["error"]["message"]


def test_of_a_saga_whose_compensation_fails_and_is_resumed(leak: Stage):
    for _ in range(2):
        world.refuse("two", BROKEN)
    world.break_down("undo one", BROKEN)
    saga_id = begin(leak)
    leak.run_until_quiet()
    assert leak.saga(saga_id).state is SagaState.FAILED
    for what, body in (("cancel", None), ("skip", {"step": INPUT}), ("skip", {"step": "two"})):
        answer = leak.http("POST", f"/sagas/{saga_id}/{what}", body, headers=HEADERS)
        assert answer.status == 409
        assert not any(secret in answer.text for secret in (INPUT, ERROR, HEADER))
    world.repair("undo one")
    leak.http("POST", f"/sagas/{saga_id}/resume", headers=HEADERS)
    leak.run_until_quiet()
    assert leak.saga(saga_id).state is SagaState.COMPENSATED


def test_of_a_saga_whose_workers_die_and_whose_code_goes_missing(leak: Stage):
    world.lose_reply("two", WorkerKilledError(ERROR))
    saga_id = begin(leak)
    leak.deliver()
    leak.deliver()
    leak.deploy()
    leak.run_until_quiet()
    answer = leak.http("POST", f"/sagas/{saga_id}/resume", headers=HEADERS)
    assert answer.problem == "definition-missing"
    leak.deploy(LEAKY)
    leak.http("POST", f"/sagas/{saga_id}/resume")
    leak.run_until_quiet()
    assert leak.saga(saga_id).state is SagaState.COMPLETED


def test_of_duplicates_zombies_and_a_queue_and_a_table_in_trouble(leak: Stage):
    saga_id = begin(leak)
    collect = leak.sqs.boundary

    def freeze() -> None:
        leak.watch(collect)
        leak.clock.now += VISIBILITY + 1_000
        leak.deliver()

    leak.watch(at("after execute one", freeze))
    leak.deliver()
    leak.watch(collect)
    leak.dynamodb.fail_next("update_item", Fault.ANSWER_LOST, Fault.THROTTLED, Fault.DENIED)
    leak.sqs.fail_next("send_message", Fault.NOT_CONNECTED)
    leak.run_until_quiet()
    assert leak.saga(saga_id).state is SagaState.COMPLETED


def test_of_starts_that_are_refused(leak: Stage):
    begin(leak)
    refused = [
        leak.http("POST", "/sagas/leaky", {"token": OUTPUT}, key=KEY, headers=HEADERS),
        leak.http("POST", "/sagas/leaky", [INPUT], key=KEY, headers=HEADERS),
        leak.http("POST", "/sagas/leaky", f'{{"a": "{INPUT}",}}', key=KEY, headers=HEADERS),
        leak.http("POST", f"/sagas/{INPUT}", {"token": INPUT}, key=KEY, headers=HEADERS),
        leak.http("POST", "/sagas/leaky", {"token": INPUT}, key=f"{KEY} {KEY}"),
        leak.http("GET", f"/sagas/{INPUT}", headers=HEADERS),
        leak.http("GET", "/sagas", query={"cursor": INPUT, "state": INPUT}),
        leak.http("GET", f"/{INPUT}"),
    ]
    for answer in refused:
        assert answer.status >= 400
        assert not any(s in answer.text for s in (INPUT, OUTPUT, HEADER, KEY)), answer


def test_of_starts_over_sqs(leak: Stage):
    for context in ({"token": INPUT}, [INPUT], INPUT):
        message = {"saga": "leaky", "context": context, "idempotency_key": f"{KEY}{len(context)}"}
        leak.send("StartQueue", json.dumps(message))
    leak.run_until_quiet()
    assert len(leak.ids()) == 1
    assert len(leak.bodies("StartDeadLetterQueue")) == 2
