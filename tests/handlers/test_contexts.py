"""A context that cannot be kept: found before the write, and then undone, never cut off."""

from __future__ import annotations

import json
import random

import pytest

from examples.services import world
from saga_core.calls import StepCall
from saga_core.definition import Handler, StepDefinition
from saga_core.instance import SagaInstance, SagaState, StepStatus
from saga_core.ports import INPUT_LIMIT, ITEM_BUDGET
from saga_core.retry import RetryPolicy
from tests.handlers.sagas import chain, ended, returning, step, tries
from tests.handlers.stage import Stage, Staged

# Text that does not compress.
TOO_MUCH = "".join(random.Random(1).choices("0123456789abcdef", k=4 * ITEM_BUDGET))
FITS = "x" * 2 * ITEM_BUDGET  # compressed


class Cannot:
    """Nothing that JSON knows."""


def rolled_back(stage: Stage, saga_id: str) -> SagaInstance:
    """One went through, two came up with something: two is in doubt, both are undone."""
    saga = ended(stage, saga_id, SagaState.COMPENSATED)
    assert [call.operation for call in world.calls] == ["one", "two", "undo two", "undo one"]
    undo = next(call for call in stage.attempts if call.direction.value == "C")
    assert undo.in_doubt  # the steps after it cannot know what it did
    assert saga.context == {"n": 1}  # the last one that could be kept
    assert tries(stage) == {1}
    return saga


def test_a_context_over_the_size_budget_rolls_the_saga_back(staged: Staged):
    with staged(chain("one", returning("two", lambda: {"big": TOO_MUCH}))) as stage:
        saga_id = stage.start("chain", {"n": 1})
        stage.run_until_quiet()
        saga = rolled_back(stage, saga_id)
        assert saga.cause is not None
        assert saga.cause.error is not None
        assert saga.cause.error.kind == "ItemTooLargeError"
        assert str(ITEM_BUDGET) in saga.cause.error.message
        assert len(stage.dynamodb.calls) == 2  # it was found before the write: no DynamoDB refusal
        assert stage.dynamodb.calls["update_item"] == 2 * len(stage.attempts)


@pytest.mark.parametrize(
    "value",
    [
        lambda: {"what": Cannot()},
        lambda: {"what": {1, 2}},
        lambda: {"what": float("nan")},
        lambda: {"what": "half a \ud800 character"},
        lambda: {(1, 2): "what"},
        lambda: [1],  # no dict, as it was
        lambda: "text",
    ],
    ids=["an object", "a set", "NaN", "a surrogate", "a tuple as key", "a list", "text"],
)
def test_a_context_that_is_no_json_rolls_the_saga_back(staged: Staged, value):
    with staged(chain("one", returning("two", value))) as stage:
        saga_id = stage.start("chain", {"n": 1})
        stage.run_until_quiet()
        saga = rolled_back(stage, saga_id)
        assert saga.cause is not None
        assert saga.cause.error is not None
        assert saga.cause.error.kind == "ContextNotSerialisable"


def test_a_step_that_may_be_retried_is_not_when_its_context_cannot_be_kept(staged: Staged):
    """It would come up with the same again, and each time its effect would be in doubt."""
    patient = RetryPolicy(max_attempts=5)
    greedy = returning("two", lambda: {"big": TOO_MUCH})
    again = StepDefinition(
        name="two", execute=greedy.execute, compensate=greedy.compensate, retry=patient
    )
    with staged(chain("one", again)) as stage:
        saga_id = stage.start("chain", {"n": 1})
        stage.run_until_quiet()
        rolled_back(stage, saga_id)


def test_a_context_that_fits_once_compressed_is_kept(staged: Staged):
    with staged(chain(returning("one", lambda: {"long": FITS}), "two")) as stage:
        saga_id = stage.start("chain", {"n": 1})
        stage.run_until_quiet()
        assert ended(stage, saga_id, SagaState.COMPLETED).context == {"long": FITS}


@pytest.mark.parametrize(
    "value",
    [lambda: {"big": TOO_MUCH}, lambda: {"what": Cannot()}],
    ids=["too large", "no JSON"],
)
def test_a_compensation_counts_as_done_with_the_context_of_before(staged: Staged, value):
    plain = step("one")

    def undo(_: object, call: StepCall) -> object:
        world.undo("undo one", call.execute_key, lambda: None)
        return value()

    one = StepDefinition(name="one", execute=plain.execute, compensate=Handler.of(undo))
    with staged(chain("zero", one, "two")) as stage:
        saga_id = stage.start("chain", {"n": 1})
        world.refuse("two", ValueError("no"))
        stage.run_until_quiet()
        saga = ended(stage, saga_id, SagaState.COMPENSATED)
        assert saga.context == {"n": 1}
        assert [call.operation for call in world.calls] == [
            *("zero", "one", "two"),
            *("undo one", "undo zero"),
        ]
        assert saga.step_results[1].status is StepStatus.COMPENSATED


def over(limit: int) -> dict[str, str]:
    """A context one byte over the limit."""
    return {"pad": "x" * (limit + 1 - len('{"pad":""}'))}


def test_an_input_over_its_limit_is_refused_by_both_doors(staged: Staged):
    with staged(chain("one")) as stage:
        answer = stage.http("POST", "/sagas/chain", over(INPUT_LIMIT), key="a")
        assert (answer.status, answer.problem) == (413, "too-large")
        stage.send("StartQueue", json.dumps({"saga": "chain", "context": over(INPUT_LIMIT)}))
        stage.deliver("StartQueue")
        assert [line["reason"] for line in stage.sink.of("saga.refused")] == ["too-large"] * 2
        assert stage.ids() == []


def test_an_input_at_its_limit_is_taken_by_both_doors(staged: Staged):
    with staged(chain("one")) as stage:
        text = json.dumps(over(INPUT_LIMIT - 1), separators=(",", ":"))
        assert len(text) == INPUT_LIMIT
        assert stage.http("POST", "/sagas/chain", text, key="a").status == 202
        stage.send("StartQueue", json.dumps({"saga": "chain", "context": over(INPUT_LIMIT - 1)}))
        stage.run_until_quiet()
        assert len(stage.ids()) == 2
        for saga_id in stage.ids():
            ended(stage, saga_id, SagaState.COMPLETED)


def test_an_input_is_measured_in_bytes(staged: Staged):
    with staged(chain("one")) as stage:
        context = {"pad": "ü" * (INPUT_LIMIT // 2)}
        answer = stage.http("POST", "/sagas/chain", context, key="a")
        assert (answer.status, answer.problem) == (413, "too-large")
