"""Every message of a run delivered twice, at each moment at which SQS may do that."""

from __future__ import annotations

from collections import Counter

import pytest

from examples.services import world
from saga_core.instance import SagaState
from tests.handlers.sagas import (
    DECLINED,
    TEA,
    VISIBILITY,
    at,
    chain,
    compensated_once,
    completed_once,
    die_at,
    ended,
    tries,
    waited,
)
from tests.handlers.stage import MINUTE, SECOND, Stage, nothing

WORKER = "handlers.worker.handler"
BOTH = pytest.mark.parametrize(
    ("context", "judge"),
    [(TEA, completed_once), (DECLINED, compensated_once)],
    ids=["completing", "compensating"],
)


class DeliverAgain:
    """Delivers the message in hand a second time, at one moment of every invocation.

    The second delivery goes through the whole function before the first goes on.
    """

    def __init__(self, stage: Stage, moment: str, nth: int = 1) -> None:
        self.stage, self.moment, self.nth = stage, moment, nth
        self.seen = Counter[str]()
        self.deliveries = 0
        self.inside = False

    def __call__(self, now: str) -> None:
        if self.inside:
            return
        if now == f"before {WORKER}":
            self.seen.clear()
        kind = _kind(now)
        self.seen[kind] += 1
        if self.moment in (kind, now) and self.seen[kind] == self.nth:
            self.inside = True
            self.deliveries += 1
            self.stage.hand_over("WorkQueue", self.stage.in_hand)
            self.inside = False


def _kind(moment: str) -> str:
    """Any step's handler is a handler."""
    when, what, *_ = moment.split()
    return f"{when} handler" if what in ("execute", "compensate") else moment


@BOTH
@pytest.mark.parametrize(
    ("moment", "nth"),
    [
        ("before update_item", 1),
        ("before handler", 1),
        ("after handler", 1),
        ("before update_item", 2),
        ("before send_message", 1),
        (f"after {WORKER}", 1),
    ],
    ids=["unclaimed", "claimed", "in the handler", "called", "committed", "sent"],
)
def test_every_message_may_come_twice_at_once(stage, context, judge, moment, nth):
    again = DeliverAgain(stage, moment, nth)
    stage.watch(again)
    saga_id = stage.start(context=context)
    stage.run_until_quiet()
    judge(stage, saga_id)
    assert again.deliveries >= 4
    assert tries(stage) == {1}  # nobody's attempt was burnt
    # The one that lost waits, at worst, for the holder's lease to run out.
    assert waited(stage) <= VISIBILITY * again.deliveries


@BOTH
@pytest.mark.parametrize("later", [0, MINUTE + SECOND])
def test_every_message_may_come_again_after_its_deletion(stage, context, judge, later):
    saga_id = stage.start(context=context)
    deleted = []
    while batch := stage.deliver().messages:
        deleted += batch
        stage.clock.now += later
        stage.hand_over("WorkQueue", batch)
    assert len(deleted) >= 4
    stage.run_until_quiet()
    judge(stage, saga_id)
    # The whole history once more, newest last, changes nothing.
    before = stage.saga(saga_id)
    with stage.counting() as calls:
        for message in deleted:
            assert stage.hand_over("WorkQueue", [message]).returned == ()
    assert calls == {"update_item": len(deleted)}  # refused, each of them
    assert stage.saga(saga_id) == before
    judge(stage, saga_id)


@BOTH
def test_duplicates_of_duplicates_do_not_multiply(stage, context, judge):
    """Three copies of every message: their number grows with the steps, not with the copies."""
    saga_id = stage.start(context=context)
    sent = 0
    while True:
        batch = stage.deliver()
        for _ in range(2):
            stage.hand_over("WorkQueue", batch.messages)
        sent = stage.sqs.calls["send_message"]
        if not batch.messages and not stage.leap():
            break
    judge(stage, saga_id)
    moves = len(stage.attempts)
    assert sent <= 2 * moves


def test_a_duplicate_that_waits_for_the_holder_is_not_acknowledged(stage):
    """It may be the only message there is: the holder's own, delivered a second time."""
    saga_id = stage.start()
    second = []

    def deliver_again() -> None:
        second.append(stage.hand_over("WorkQueue", stage.in_hand))

    stage.watch(at("before execute create_order", deliver_again))
    stage.deliver()
    (batch,) = second
    assert batch.returned == (batch.messages[0]["MessageId"],)
    assert stage.sink.decisions("worker") == ["lease_conflict", "committed"]
    assert stage.sink.total("LeaseConflict") == 1
    stage.watch(nothing)
    stage.run_until_quiet()
    completed_once(stage, saga_id)


# -- a duplicate, and then the holder dies -------------------------------------------------

# What an invocation has done by then: nothing, claimed, called, committed, sent.
MOMENTS = [
    ("before update_item", 1),
    ("before execute one", 1),
    ("before update_item", 2),
    ("before send_message", 1),
    (f"after {WORKER}", 1),
]


@pytest.mark.parametrize(
    ("twice", "dies"), [(t, d) for d in range(len(MOMENTS)) for t in range(d + 1)]
)
def test_a_holder_that_dies_after_its_duplicate_came_leaves_enough_to_recover(staged, twice, dies):
    """Whoever acknowledges a duplicate too early leaves nothing to recover with."""
    with staged(chain("one", "two")) as stage:
        saga_id = stage.start("chain", {})
        again = DeliverAgain(stage, *MOMENTS[twice])
        kill = die_at(*MOMENTS[dies])

        def boundary(moment: str) -> None:
            inside = again.inside
            again(moment)
            if not inside:
                kill(moment)

        stage.watch(boundary)
        stage.deliver()  # and dies, if the duplicate left it anything to do
        stage.heal()
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert world.standing() == ["one", "two"]
