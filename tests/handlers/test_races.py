"""Two workers with one message: in every order of their calls one of them makes the step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from examples.services import world
from saga_core.instance import SagaState
from tests.handlers.interleaving import Interleaving, Script, every_order
from tests.handlers.sagas import (
    VISIBILITY,
    at,
    chain,
    completed_once,
    die_at,
    ended,
    returning,
    same_keys,
    tries,
    waited,
)
from tests.handlers.stage import MINUTE, SECOND, Batch, Stage, Staged, nothing


def both_at_once(stage: Stage, script: Script) -> None:
    """Two workers have the message that is due, and go on as the script says."""
    messages = stage.receive("WorkQueue")
    assert messages
    together = Interleaving(script)
    stage.watch(together.boundary)

    def work() -> None:
        stage.hand_over("WorkQueue", messages)

    together.run(work, work)
    stage.watch(nothing)


@pytest.mark.parametrize(
    ("moves", "orders"), [(0, 22), (1, 12), (2, 12)], ids=["a step", "the last step", "an undo"]
)
def test_two_workers_with_one_message_make_one_attempt_in_every_order(staged, moves, orders):
    def play(script: Script) -> None:
        with staged(chain("one", "two")) as stage:
            saga_id = stage.start("chain", {})
            if moves == 2:
                world.refuse("two", ValueError("no"))
            for _ in range(moves):
                stage.deliver()
            both_at_once(stage, script)
            stage.run_until_quiet()
            ended(stage, saga_id, SagaState.COMPENSATED if moves == 2 else SagaState.COMPLETED)
            assert tries(stage) == {1}
            assert world.effects("one") == 1
            assert world.standing() == ([] if moves == 2 else ["one", "two"])
            # At worst the loser waits until the winner's lease is over.
            assert waited(stage) <= MINUTE

    assert every_order(play) == orders


# -- zombies -------------------------------------------------------------------------------


def sleep_past_the_lease(stage: Stage, then: Callable[[], object]) -> Callable[[], None]:
    """Frozen until the message has come back, and something else has happened."""

    def frozen() -> None:
        stage.watch(nothing)
        stage.clock.now += VISIBILITY + SECOND
        then()

    return frozen


def test_a_zombie_that_commits_late_is_fenced_off_and_its_result_discarded(staged: Staged):
    answers = count(1)
    with staged(chain(returning("one", lambda: {"answer": next(answers)}), "two")) as stage:
        saga_id = stage.start("chain", {})
        # The zombie has made its call; meanwhile the message comes back to another worker.
        stage.watch(at("after execute one", sleep_past_the_lease(stage, stage.deliver)))
        stage.deliver()
        assert stage.sink.decisions("worker") == ["committed", "fenced"]
        assert stage.sink.total("FencedCommit") == 1
        assert stage.saga(saga_id).context == {"answer": 2}
        stage.run_until_quiet()
        saga = ended(stage, saga_id, SagaState.COMPLETED)
        assert saga.context == {"answer": 2}
        assert world.effects("one") == 1
        same_keys(stage)


def test_a_fenced_zombie_keeps_its_message_when_its_winner_died_unheard(staged: Staged):
    """Both had the same message, and the winner died between its commit and its send."""
    with staged(chain("one", "two")) as stage:
        saga_id = stage.start("chain", {})

        def overtake_and_die() -> None:
            stage.watch(die_at("before send_message"))
            assert stage.deliver().killed
            stage.watch(nothing)

        stage.watch(at("after execute one", sleep_past_the_lease(stage, overtake_and_die)))
        assert stage.deliver().returned
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert world.effects("one") == 1


def test_a_zombie_that_commits_while_another_is_at_work_keeps_its_message(staged: Staged):
    """It may be the message of the one at work, which may die yet."""
    with staged(chain("one", "two")) as stage:
        saga_id = stage.start("chain", {})
        messages = stage.receive("WorkQueue")
        zombies: list[Batch] = []
        zombie, other = 0, 1
        # To the handler, through it; the other starts, to its handler; the zombie commits.
        together = Interleaving(Script([zombie, zombie, other, other, zombie]))
        freeze = at("after execute one", sleep_past_the_lease(stage, lambda: None))

        def boundary(moment: str) -> None:
            freeze(moment)
            stage.watch(boundary)
            together.boundary(moment)

        def come_back() -> None:
            together.boundary("before it comes back")
            stage.hand_over("WorkQueue", messages)

        stage.watch(boundary)
        together.run(lambda: zombies.append(stage.hand_over("WorkQueue", messages)), come_back)
        stage.watch(nothing)
        assert stage.sink.decisions("worker") == ["fenced", "committed"]
        (batch,) = zombies
        assert batch.returned
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert world.effects("one") == 1


def test_a_zombie_that_failed_late_does_not_roll_back_what_another_has_done(stage):
    saga_id = stage.start()
    world.lose_reply("orders.create", ValueError("too late to matter"))
    stage.watch(at("after execute create_order", sleep_past_the_lease(stage, stage.deliver)))
    stage.deliver()
    assert stage.sink.decisions("worker") == ["committed", "fenced"]
    stage.run_until_quiet()
    completed_once(stage, saga_id)


def test_a_call_that_arrives_after_its_own_undo_meets_the_tombstone(stage):
    """The worker froze before its call went out; meanwhile the saga was cancelled and undone."""
    saga_id = stage.start()

    def cancel_and_undo() -> None:
        assert stage.http("POST", f"/sagas/{saga_id}/cancel").status == 202
        stage.run_until_quiet()
        assert stage.saga(saga_id).state is SagaState.COMPENSATED

    frozen = sleep_past_the_lease(stage, cancel_and_undo)
    stage.watch(at("before execute create_order", frozen))
    stage.deliver()
    ended(stage, saga_id, SagaState.COMPENSATED)
    assert [(call.operation, call.outcome) for call in world.calls] == [
        ("orders.cancel", "nothing to undo"),
        ("orders.create", "refused: undone before"),
    ]
    assert world.standing() == []
    assert stage.sink.decisions("worker")[-1] == "fenced"
