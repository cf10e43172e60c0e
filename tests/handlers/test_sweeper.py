"""The sweeper finds what was lost, and disturbs nothing else."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from examples.services import ServiceError, world
from saga_core.errors import StoreError
from saga_core.identity import SHARDS, shard_of
from saga_core.instance import SagaState
from saga_core.retry import RetryPolicy
from tests.fakes.faults import Fault, Killed
from tests.handlers.interleaving import Interleaving, Script, every_order
from tests.handlers.sagas import (
    VISIBILITY,
    at,
    chain,
    completed_once,
    die_at,
    ended,
    step,
    tries,
    waited,
)
from tests.handlers.stage import HOUR, MINUTE, SECOND, Stage, Staged, nothing


def lose_messages(stage: Stage) -> None:
    """SQS forgets all that it has."""
    while messages := stage.receive("WorkQueue", most=10):
        for message in messages:
            stage.delete("WorkQueue", message)
    assert stage.bodies("WorkQueue") == []


def test_a_saga_whose_message_was_lost_is_found_within_minutes(stage):
    saga_id = stage.start()
    lose_messages(stage)
    stage.clock.now += MINUTE - SECOND
    assert stage.sweep() == {"looked_at": 0, "nudged": 0, "complete": True}  # it had no time yet
    stage.clock.now += 2 * MINUTE
    assert stage.sweep() == {"looked_at": 1, "nudged": 1, "complete": True}
    (body,) = stage.bodies("WorkQueue")
    assert json.loads(body)["r"] == "sweep"
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert tries(stage) == {1}


def test_a_saga_that_lost_its_message_in_the_middle_is_found_too(stage):
    saga_id = stage.start()
    stage.deliver()
    stage.deliver()
    lose_messages(stage)
    stage.run_until_quiet(sweeper=True)
    completed_once(stage, saga_id)
    assert waited(stage) <= 15 * MINUTE


def test_with_every_other_message_lost_the_sweeper_alone_brings_a_saga_home(stage):
    """Only what the sweeper itself sends arrives."""
    saga_id = stage.start()
    for _ in range(40):
        for message in stage.receive("WorkQueue", most=10):
            if json.loads(message["Body"])["r"] == "sweep":
                stage.hand_over("WorkQueue", [message])
            else:
                stage.delete("WorkQueue", message)
        stage.clock.now += MINUTE
        stage.sweep()
    completed_once(stage, saga_id)


def test_it_says_how_late_it_is(stage):
    stage.start()
    lose_messages(stage)
    stage.clock.now += 10 * MINUTE
    stage.sweep()
    assert stage.sink.total("SweeperLag") == 8 * 60  # it was due after two minutes
    (line,) = stage.sink.of("saga.swept")
    assert line == {"lag_s": 480.0, "nudged": 1, "looked_at": 1, "complete": True}
    stage.sweep()
    assert stage.sink.metrics[-1] == (None, {"SweeperLag": 0.0, "SweeperNudged": 0})


def test_a_saga_in_somebodys_hands_gets_no_message(stage):
    saga_id = stage.start()
    stage.clock.now += 3 * MINUTE  # the message was long on its way
    reports = []

    def sweep() -> None:
        reports.append(stage.sweep())
        assert len(stage.bodies("WorkQueue")) == 1

    stage.watch(at("before execute create_order", sweep))
    stage.deliver()
    assert reports == [{"looked_at": 1, "nudged": 0, "complete": True}]
    assert stage.sink.decisions("sweeper") == ["left_alone"]
    stage.heal()
    stage.run_until_quiet()
    completed_once(stage, saga_id)


@pytest.mark.parametrize("state", [SagaState.COMPLETED, SagaState.FAILED])
def test_a_saga_that_rests_is_left_alone(stage, state):
    stage.start()
    if state is SagaState.FAILED:
        stage.deliver()
        stage.deploy()
    stage.run_until_quiet()
    stage.clock.now += 24 * HOUR
    with stage.counting() as calls:
        assert stage.sweep()["looked_at"] == 0
    assert calls == {"query": 16}


def test_its_interval_doubles_up_to_an_hour_while_nothing_moves(stage):
    saga_id = stage.start()
    gaps = []
    for _ in range(8):
        lose_messages(stage)
        due = stage.saga(saga_id).sweep_at
        assert due is not None
        stage.clock.now = due
        assert stage.sweep()["nudged"] == 1
        after = stage.saga(saga_id).sweep_at
        assert after is not None
        gaps.append((after - due) / MINUTE)
    # In steps of five minutes, which spares the index writes.
    assert gaps == [8, 10, 20, 40, 60, 60, 60, 60]
    saga = stage.saga(saga_id)
    assert (saga.sweeps, saga.lane.tries) == (8, 0)
    stage.deliver()
    assert stage.saga(saga_id).sweeps == 0  # a commit begins anew


def test_it_stops_in_time_and_the_next_run_goes_on(staged: Staged):
    with staged(chain("one")) as stage:
        for n in range(12):
            stage.start("chain", {}, key=f"key-{n}")
        lose_messages(stage)
        stage.clock.now += 3 * MINUTE
        begun = stage.clock.now

        def slow(moment: str) -> None:
            if moment == "before get_item":
                stage.clock.now += 10 * SECOND

        stage.watch(slow)
        first = stage.sweep()
        assert not first["complete"]
        assert 0 < first["looked_at"] < 12
        assert stage.dynamodb.calls["query"] < 16  # it does not begin with the shards that are left
        assert stage.clock.now - begun <= 60 * SECOND  # its time-out
        stage.watch(nothing)
        second = stage.sweep()
        assert second["complete"]
        assert first["nudged"] + second["nudged"] == 12
        stage.run_until_quiet()
        assert world.effects("one") == 12


def test_a_run_that_is_cut_short_starves_no_shard(stage):
    """Every run begins at another shard, by chance."""
    begins = []
    for fraction in (0.0, 0.3, 0.99):
        stage.clock.fraction = fraction
        stage.dynamodb.requests.clear()
        stage.sweep()
        first = stage.dynamodb.requests[0][1]
        begins.append(first["ExpressionAttributeValues"][":partition"]["S"])
    assert begins == ["W#0", "W#4", "W#15"]


def test_two_sweepers_at_once_move_the_mark_once(staged: Staged):
    def play(script: Script) -> None:
        with staged(chain("one")) as stage:
            saga_id = stage.start("chain", {})
            lose_messages(stage)
            stage.clock.now += 3 * MINUTE
            together = Interleaving(script)

            def boundary(moment: str) -> None:
                if moment != "before query":  # reading the index disturbs nobody
                    together.boundary(moment)

            stage.watch(boundary)
            together.run(stage.sweep, stage.sweep)
            stage.watch(nothing)
            assert stage.saga(saga_id).sweeps == 1
            assert 1 <= len(stage.bodies("WorkQueue")) <= 2
            stage.run_until_quiet()
            ended(stage, saga_id, SagaState.COMPLETED)
            assert tries(stage) == {1}
            assert world.effects("one") == 1

    assert every_order(play) == 20


@pytest.mark.parametrize("moment", ["before send_message", "before update_item"])
def test_a_sweeper_that_dies_leaves_a_duplicate_and_no_gap(stage, moment):
    saga_id = stage.start()
    lose_messages(stage)
    stage.clock.now += 3 * MINUTE
    stage.watch(die_at(moment))
    with pytest.raises(Killed):
        stage.sweep()
    stage.watch(nothing)
    assert stage.sweep()["nudged"] == 1
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert tries(stage) == {1}


def test_a_saga_that_moved_since_the_index_was_read_is_left_alone(stage):
    saga_id = stage.start()
    stage.clock.now += 3 * MINUTE
    stage.watch(at("before get_item", stage.deliver))
    assert stage.sweep() == {"looked_at": 1, "nudged": 0, "complete": True}
    assert stage.sink.decisions("sweeper") == ["not_due"]
    assert len(stage.bodies("WorkQueue")) == 1
    stage.run_until_quiet()
    completed_once(stage, saga_id)


@pytest.mark.parametrize("operation", ["get_item", "update_item", "send_message"])
def test_trouble_with_one_saga_does_not_keep_the_sweeper_from_the_others(staged, operation):
    with staged(chain("one")) as stage:
        for n in range(3):
            stage.start("chain", {}, key=f"key-{n}")
        lose_messages(stage)
        stage.clock.now += 3 * MINUTE
        client = stage.sqs if operation == "send_message" else stage.dynamodb
        client.fail_next(operation, Fault.THROTTLED)
        report = stage.sweep()
        assert report["looked_at"] == 3
        assert report["nudged"] >= 2
        stage.run_until_quiet(sweeper=True)
        assert world.effects("one") == 3


def test_a_sweeper_that_cannot_read_a_shard_looks_after_the_others_and_fails_visibly(stage):
    """Its missing lag metric and its error are what the alarms look at."""
    saga_id = stage.start()
    lose_messages(stage)
    stage.clock.now += 3 * MINUTE
    stage.clock.fraction = (shard_of(saga_id) - 1) % SHARDS / SHARDS + 0.01
    stage.dynamodb.fail_next("query", Fault.THROTTLED)  # the shard before the saga's
    with pytest.raises(StoreError):
        stage.sweep()
    assert len(stage.bodies("WorkQueue")) == 1
    assert stage.sink.total("SweeperLag") == 0
    assert stage.sink.of("saga.swept") == []
    stage.run_until_quiet()
    completed_once(stage, saga_id)


def test_a_wait_longer_than_a_queue_can_hold_is_the_sweepers(staged: Staged):
    pause = timedelta(hours=4)
    policy = RetryPolicy(max_attempts=2, base=pause, cap=pause)
    with staged(chain(step("one", retry=policy))) as stage:
        world.refuse("one", ServiceError("not now"))
        saga_id = stage.start("chain", {})
        stage.deliver()
        assert stage.bodies("WorkQueue") == []  # nobody sends what SQS could not hold
        due = stage.saga(saga_id).lane.due_at
        assert due == stage.clock.now + 2 * HOUR
        stage.run_until_quiet(sweeper=True)
        ended(stage, saga_id, SagaState.COMPLETED)
        assert due <= stage.clock.now <= due + MINUTE
        assert stage.sink.total("SweeperNudged") == 1
        assert stage.sqs.calls["send_message"] == 2


def test_a_message_that_comes_before_its_time_waits_for_it(staged: Staged):
    """Postponed and never copied, dropped only when the sweeper has the wait."""
    pause = timedelta(minutes=20)
    policy = RetryPolicy(max_attempts=2, base=pause, cap=pause)
    with staged(chain(step("one", retry=policy), "two")) as stage:
        world.refuse("one", ServiceError("not now"))
        saga_id = stage.start("chain", {})
        stage.deliver()
        (waiting,) = stage.messages("WorkQueue")
        waiting.delayed_until = 0.0  # SQS hands it out at once
        with stage.counting() as calls:
            assert stage.deliver().returned
        assert calls == {"update_item": 1, "change_message_visibility": 1}
        assert stage.sink.decisions("worker")[-1] == "early"
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert 10 * MINUTE <= waited(stage) <= 10 * MINUTE + SECOND
        assert tries(stage) == {1, 2}
        assert VISIBILITY < 10 * MINUTE
