"""The code changed under a running saga: nothing runs, nothing is spent, and it waits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from examples.services import world
from saga_core.definition import SagaDefinition
from saga_core.instance import SagaInstance, SagaState, Why
from tests.handlers.sagas import VISIBILITY, chain, ended, tries, waited
from tests.handlers.stage import HOUR, MINUTE, Stage, Staged

OLD = chain("one", "two", "three")
# What may be deployed instead: another shape under the same version, or another version.
CHANGED = pytest.mark.parametrize(
    "deployed",
    [
        (chain("one", "zwei", "three"),),
        (chain("one", "two", "three", version="2"),),
        (chain("one", "two", "three", name="other"),),
    ],
    ids=["other steps", "other version", "no such saga"],
)


def one_step_done(stage: Stage) -> str:
    saga_id = stage.start("chain", {})
    stage.deliver()
    return saga_id


def spent(saga: SagaInstance) -> tuple[object, ...]:
    """All that an attempt would have cost."""
    return saga.lane.epoch, saga.lane.attempts, saga.lane.tries, saga.hops, saga.steps, saga.context


@CHANGED
def test_nothing_runs_and_nothing_is_spent(staged: Staged, deployed):
    with staged(OLD) as stage:
        saga_id = one_step_done(stage)
        before = stage.saga(saga_id)
        stage.deploy(*deployed)
        with stage.counting() as calls:
            assert stage.deliver().returned
        assert calls == {}
        assert stage.saga(saga_id) == before
        assert stage.sink.decisions("worker")[-1] == "definition_missing"
        assert stage.sink.total("DefinitionMissing") == 1


@CHANGED
def test_it_stops_in_the_end_and_says_what_is_missing(staged: Staged, deployed):
    with staged(OLD) as stage:
        saga_id = one_step_done(stage)
        before = stage.saga(saga_id)
        stage.deploy(*deployed)
        visits: list[int] = []
        for _ in stage.moves():
            if stage.saga(saga_id).stalls > len(visits):
                visits.append(stage.clock.now)
        saga = ended(stage, saga_id, SagaState.FAILED)
        assert spent(saga) == spent(before)
        assert world.standing() == ["one"]
        assert saga.why is Why.STALLED
        assert len(visits) == 5
        gaps = [later - earlier for earlier, later in pairwise(visits)]
        assert gaps == sorted(gaps)  # the pauses grow
        assert 3 * HOUR > waited(stage) > HOUR  # time enough to put a deployment right
        body = stage.http("GET", f"/sagas/{saga_id}").body
        assert body["state"] == "FAILED"
        assert body["failure"]["error"]["message"] == f"{OLD.ref} is not deployed"
        assert body["failure"]["to_do"] == (
            f"Deploy the definition {OLD.ref} again, then resume the saga."
        )
        assert body["failure"]["standing"] == ["one"]
        assert stage.sink.total("SagaStalled") == 1
        assert stage.sink.total("DlqHandled") == 5


@CHANGED
def test_once_the_code_is_back_a_resume_brings_it_to_its_end(staged: Staged, deployed):
    with staged(OLD) as stage:
        saga_id = one_step_done(stage)
        stage.deploy(*deployed)
        stage.run_until_quiet()
        answer = stage.http("POST", f"/sagas/{saga_id}/resume")
        assert (answer.status, answer.problem) == (409, "definition-missing")
        assert OLD.ref in answer.body["detail"]
        assert stage.saga(saga_id).state is SagaState.FAILED
        stage.deploy(*deployed, *([] if _takes_its_place(deployed) else [OLD]))
        if _takes_its_place(deployed):
            stage.deploy(OLD)
        assert stage.http("POST", f"/sagas/{saga_id}/resume").status == 202
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert world.standing() == ["one", "two", "three"]
        assert tries(stage) == {1}


def _takes_its_place(deployed: tuple[SagaDefinition, ...]) -> bool:
    """Both cannot be deployed: they have one name and version."""
    return any((d.name, d.version) == (OLD.name, OLD.version) for d in deployed)


@pytest.mark.parametrize("minutes", [1, 20, 60])
def test_code_that_comes_back_in_time_is_enough(staged: Staged, minutes):
    """Nobody has to resume: the message is still on its way."""
    with staged(OLD) as stage:
        saga_id = one_step_done(stage)
        stage.deploy()
        for _ in stage.moves():
            if waited(stage) >= minutes * MINUTE:
                break
        stage.deploy(OLD)
        stage.run_until_quiet()
        saga = ended(stage, saga_id, SagaState.COMPLETED)
        assert tries(stage) == {1}
        assert saga.stalls == 0  # a commit forgets them
        # Back within a pause: 15 minutes at most, and what the deliveries before it take.
        assert waited(stage) < minutes * MINUTE + 15 * MINUTE + 5 * VISIBILITY


def test_a_repaired_handler_is_the_same_definition(staged: Staged):
    with staged(OLD) as stage:
        saga_id = one_step_done(stage)
        stage.deploy(chain("one", "two", "three"))  # other functions under the same names
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)


def test_old_and_new_sagas_run_side_by_side(staged: Staged):
    new = chain("one", "another", version="2")
    with staged(OLD) as stage:
        old_id = one_step_done(stage)
        stage.deploy(OLD, new)
        new_id = stage.start("chain", {}, key="new")
        stage.run_until_quiet()
        assert ended(stage, old_id, SagaState.COMPLETED).definition == OLD.ref
        assert ended(stage, new_id, SagaState.COMPLETED).definition == new.ref


def test_a_saga_whose_code_is_missing_can_still_be_read(staged: Staged):
    with staged(OLD) as stage:
        saga_id = one_step_done(stage)
        stage.deploy()
        assert stage.http("GET", f"/sagas/{saga_id}").body["version"] == "1"
        (line,) = stage.http("GET", "/sagas").body["sagas"]
        assert line["name"] == "chain"


@pytest.mark.parametrize("request_", ["resume", "cancel"])
def test_a_request_for_a_saga_whose_code_is_missing_is_refused(staged: Staged, request_):
    with staged(OLD) as stage:
        saga_id = one_step_done(stage)
        stage.deploy()
        answer = stage.http("POST", f"/sagas/{saga_id}/{request_}")
        assert (answer.status, answer.problem) == (409, "definition-missing")
        assert answer.body["state"] == "RUNNING"


def test_a_message_of_another_fingerprint_counts_as_stale(staged: Staged):
    """A message that names other code than the saga's moves nothing, whoever delivers it."""
    other = chain("one", "zwei", "three")
    with staged(OLD) as stage:
        saga_id = stage.start("chain", {})
        (body,) = stage.bodies("WorkQueue")
        forged = body.replace(OLD.ref, other.ref)
        stage.delete("WorkQueue", stage.receive("WorkQueue")[0])
        stage.send("WorkQueue", forged)
        stage.deploy(other)
        with stage.counting() as calls:
            stage.deliver()
        assert stage.attempts == []
        assert calls == {"update_item": 2, "send_message": 1}  # refused, and announced anew
        assert stage.saga(saga_id).lane.tries == 0
        assert OLD.ref in stage.bodies("WorkQueue")[0]
