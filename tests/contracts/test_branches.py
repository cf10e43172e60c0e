"""What WorkStore promises of the lanes of a group, for the store in memory and the table alike."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Any

import pytest

from infra import conditions
from saga_core.definition import SagaDefinition
from saga_core.errors import DefinitionError, ItemTooLargeError, StaleInstanceError
from saga_core.events import (
    CancelRequested,
    DeliveryExhausted,
    ResumeRequested,
    StepAwaits,
    StepInDoubt,
    Withheld,
    Withhold,
)
from saga_core.instance import GivenAnswer, Key, Lease, Nudge, SagaInstance, SagaState, StepCode
from saga_core.ports import ITEM_BUDGET, Refused, WriteResult, Written
from saga_core.transition import NUDGE_MS, settled_by, swept
from tests.contracts.harness import CODEC, StoreUnderTest, encoded_size, memory
from tests.contracts.sagas import (
    BOOM,
    GROUPED,
    LEASE_MS,
    after,
    answered,
    at_version,
    cancelled,
    claimed,
    failed,
    grouped,
    incompressible,
    new,
    succeeded,
)
from tests.fakes.clock import T0

KEY = Key("default", "s1")
ZERO, ONE = 0, 1  # the places of the two branches


def opened(context: str = '{"a":1}', *, version: int = 1) -> SagaInstance:
    return at_version(new(saga=GROUPED, context=context), version)


def claim(
    under_test: StoreUnderTest,
    branch: int | None,
    claim_id: str,
    *,
    epoch: int = 1,
    at: int = T0,
) -> WriteResult:
    return under_test.store.claim(
        KEY,
        epoch=epoch,
        definition=GROUPED.ref,
        claim_id=claim_id,
        now=at,
        until=at + LEASE_MS,
        branch=branch,
    )


def commit(
    under_test: StoreUnderTest, before: SagaInstance, then: SagaInstance, claim_id: str
) -> WriteResult:
    return under_test.store.commit(before, then, claim_id=claim_id)


def done(i: SagaInstance, claim_id: str, field: str = "") -> SagaInstance:
    """The branch has succeeded, and has set a field if one is named."""
    added = f',"{field}":1' if field else ""
    return succeeded(i, claim_id, context=f'{{"a":1{added}}}', saga=GROUPED)


def written(result: WriteResult) -> Any:  # a SagaInstance
    assert isinstance(result, Written), result
    return result.instance


def found(result: WriteResult) -> Any:  # a test says what it expects to find
    assert isinstance(result, Refused), result
    return result.found


# -- claims ----------------------------------------------------------------------


def test_a_branch_is_claimed_with_a_lease_of_its_own(under_test):
    under_test.seed(opened(version=7))
    result = written(claim(under_test, ONE, "b", at=T0 + 5))
    zero, one = result.branches
    assert one.lease == Lease("b", T0 + 5 + LEASE_MS)
    assert (one.attempts, one.tries, one.began_at) == (1, 1, T0 + 5)
    assert (result.lane, zero) == (opened().lane, opened().branches[0])
    assert (result.version, result.hops, result.updated_at) == (8, 1, T0 + 5)
    assert under_test.stored(KEY) == result
    assert result == at_version(claimed(opened(version=7), "b", at=T0 + 5, branch=ONE), 8)


def test_two_branches_are_claimed_at_once(under_test):
    under_test.seed(opened())
    first = written(claim(under_test, ZERO, "a"))
    second = written(claim(under_test, ONE, "b"))
    assert [n.lease.id for n in second.branches] == ["a", "b"]
    assert second.branches[0] == first.branches[0]
    assert second.hops == 2


def test_the_start_is_ranked_by_the_version_at_the_first_claim(under_test):
    under_test.seed(opened(version=4))
    written(claim(under_test, ONE, "b"))
    zero, one = written(claim(under_test, ZERO, "a")).branches
    assert (one.order, zero.order) == (4, 5)
    later = T0 + LEASE_MS + 1
    again = written(claim(under_test, ONE, "c", at=later)).branches[1]
    assert (again.lease.id, again.tries, again.order) == ("c", 2, 4)


def test_a_branch_has_one_holder(under_test):
    under_test.seed(opened())
    first = written(claim(under_test, ZERO, "a"))
    assert found(claim(under_test, ZERO, "b")) == first
    assert found(claim(under_test, ZERO, "a")) == first  # sees itself
    written(claim(under_test, ZERO, "b", at=T0 + LEASE_MS + 1))


def test_a_branch_has_an_epoch_of_its_own(under_test):
    under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    retried = failed(held, "a", fatal=False, saga=GROUPED)
    stored = written(commit(under_test, held, retried, "a"))
    zero, one = stored.branches
    assert (zero.epoch, one.epoch, stored.lane.epoch) == (2, 1, 1)
    due = zero.due_at
    assert found(claim(under_test, ZERO, "b", epoch=1, at=due)) == stored
    assert found(claim(under_test, ONE, "b", epoch=2, at=due)) == stored
    written(claim(under_test, ZERO, "b", epoch=2, at=due))
    written(claim(under_test, ONE, "c", epoch=1, at=due))


def test_a_branch_waits_by_itself(under_test):
    under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    asks = StepAwaits(claim_id="a", context='{"a":1}', timeout_ms=60_000, at=T0)
    stored = written(commit(under_test, held, after(held, asks, saga=GROUPED), "a"))
    assert (stored.branches[0].due_at, stored.branches[1].due_at) == (T0 + 60_000, T0)
    assert found(claim(under_test, ZERO, "b", epoch=2)) == stored
    written(claim(under_test, ONE, "c"))


def test_the_main_lane_rests_while_a_group_is_open(under_test):
    stored = under_test.seed(opened())
    assert found(claim(under_test, None, "m")) == stored
    assert under_test.stored(KEY) == stored


def test_a_branch_that_is_not_open_cannot_be_claimed(under_test):
    stored = under_test.seed(opened())
    assert found(claim(under_test, 2, "c")) == stored
    plain = under_test.seed(at_version(new(), 1))
    refused = under_test.store.claim(
        KEY, epoch=1, definition=plain.definition, claim_id="c", now=T0, until=T0 + 1, branch=0
    )
    assert found(refused) == plain
    assert under_test.stored(KEY) == plain


def test_a_branch_that_was_settled_cannot_be_claimed(under_test):
    under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    stored = written(commit(under_test, held, done(held, "a"), "a"))
    for epoch in (1, 2):
        assert found(claim(under_test, ZERO, "b", epoch=epoch)) == stored


@pytest.mark.parametrize("branch", [ZERO, ONE])
def test_no_branch_of_a_saga_that_has_stopped_can_be_claimed(under_test, branch):
    held = claimed(opened(), "a", branch=ZERO)
    stopped = replace(held, status=SagaState.FAILED)
    stored = under_test.seed(at_version(stopped, 3))
    assert found(claim(under_test, branch, "b", at=T0 + LEASE_MS + 1)) == stored


# -- commits ---------------------------------------------------------------------


def both_claimed(under_test: StoreUnderTest) -> Any:
    under_test.seed(opened())
    written(claim(under_test, ZERO, "a"))
    return written(claim(under_test, ONE, "b"))


def test_a_branch_that_settles_leaves_the_other_claimed(under_test):
    before = both_claimed(under_test)
    result = written(commit(under_test, before, done(before, "a", "x"), "a"))
    assert [n.index for n in result.branches] == [ONE]
    assert result.branches[0] == before.branches[1]
    assert result.lane.lease is None
    assert result.steps[0].code is StepCode.DONE
    assert result.steps[0].result == '[{"x":1},[]]'
    assert result.context_text == '{"a":1}'
    assert settled_by(result, "a")
    assert under_test.stored(KEY) == result


def test_a_commit_decided_before_the_other_was_claimed_is_refused_and_decided_again(under_test):
    under_test.seed(opened())
    before = written(claim(under_test, ZERO, "a"))
    moved = written(claim(under_test, ONE, "b"))
    assert found(commit(under_test, before, done(before, "a"), "a")) == moved
    assert under_test.stored(KEY) == moved
    result = written(commit(under_test, moved, done(moved, "a"), "a"))
    assert result.branches == (moved.branches[1],)


def test_two_that_settle_at_once_cannot_both_think_that_the_other_is_the_last(under_test):
    before = both_claimed(under_test)
    first = written(commit(under_test, before, done(before, "a", "x"), "a"))
    assert found(commit(under_test, before, done(before, "b", "y"), "b")) == first
    result = written(commit(under_test, first, done(first, "b", "y"), "b"))
    assert result.branches == ()
    assert (result.lane.index, result.lane.epoch, result.lane.last_id) == (2, 2, "b")
    assert result.context == {"a": 1, "x": 1, "y": 1}
    assert [s.result for s in result.steps] == [None, None, None]
    assert [s.order for s in result.steps] == [1, 2, None]
    assert under_test.stored(KEY) == result


def test_after_the_join_the_main_lane_goes_on(under_test):
    before = both_claimed(under_test)
    for claim_id in ("a", "b"):
        before = written(commit(under_test, before, done(before, claim_id), claim_id))
    assert found(claim(under_test, ONE, "c", epoch=2)) == before
    assert found(claim(under_test, None, "m", epoch=1)) == before
    held = written(claim(under_test, None, "m", epoch=2))
    assert written(commit(under_test, held, done(held, "m"), "m")).state is SagaState.COMPLETED


def test_a_repeated_commit_of_a_branch_is_refused_and_sees_itself(under_test):
    before = both_claimed(under_test)
    then = done(before, "a")
    first = written(commit(under_test, before, then, "a"))
    seen = found(commit(under_test, before, then, "a"))
    assert seen == first
    assert settled_by(seen, "a")


def test_a_holder_of_a_branch_that_was_overtaken_is_fenced_off(under_test):
    under_test.seed(opened())
    before = written(claim(under_test, ZERO, "a"))
    taken = written(claim(under_test, ZERO, "c", at=T0 + LEASE_MS + 1))
    assert found(commit(under_test, before, done(before, "a"), "a")) == taken
    # Also when the version is known: the lease is another's.
    replayed = replace(taken, branches=before.branches)
    assert found(commit(under_test, replayed, done(replayed, "a"), "a")) == taken


def test_a_commit_of_a_branch_that_is_gone_is_refused(under_test):
    before = both_claimed(under_test)
    gone = at_version(failed(before, "b", saga=GROUPED), 4)
    gone = replace(gone, branches=())
    under_test.seed(gone)
    same = at_version(before, gone.version)
    assert found(commit(under_test, same, done(same, "a"), "a")) == gone
    assert under_test.stored(KEY) == gone


def test_a_branch_that_fails_leaves_those_in_flight_and_drops_the_rest(under_test):
    saga = grouped(3)
    stored = under_test.seed(at_version(new(saga=saga), 1))
    for branch, claim_id in ((0, "a"), (2, "c")):
        stored = under_test.store.claim(
            KEY,
            epoch=1,
            definition=saga.ref,
            claim_id=claim_id,
            now=T0,
            until=T0 + LEASE_MS,
            branch=branch,
        ).instance
    result = written(commit(under_test, stored, failed(stored, "c", saga=saga), "c"))
    assert [n.index for n in result.branches] == [0]
    assert result.status is SagaState.COMPENSATING
    assert result.steps[1].code is StepCode.NOT_STARTED
    assert under_test.stored(KEY) == result


def test_a_branch_can_be_claimed_while_the_saga_turns_round(under_test):
    before = both_claimed(under_test)
    turned = written(commit(under_test, before, failed(before, "a", saga=GROUPED), "a"))
    late = T0 + LEASE_MS + 1
    held = written(claim(under_test, ONE, "c", at=late))
    assert held == at_version(claimed(turned, "c", at=late, branch=ONE), turned.version + 1)
    gone = Withheld(claim_id="c", reason=Withhold.ROLLING_BACK, at=late)
    result = written(commit(under_test, held, after(held, gone, saga=GROUPED), "c"))
    assert result.branches == ()
    assert (result.lane.index, result.steps[1].code) == (ONE, StepCode.UNKNOWN)


def test_a_group_may_follow_a_group(under_test):
    first, second = grouped(2), grouped(2).steps[0]
    saga = replace(
        first,
        steps=(
            *first.steps[:2],
            replace(second, name="next0", group="then"),
            replace(second, name="next1", group="then"),
        ),
    )
    under_test.seed(at_version(new(saga=saga), 1))
    for branch, claim_id in ((0, "a"), (1, "b")):
        held = under_test.store.claim(
            KEY,
            epoch=1,
            definition=saga.ref,
            claim_id=claim_id,
            now=T0,
            until=T0 + LEASE_MS,
            branch=branch,
        ).instance
        then = succeeded(held, claim_id, saga=saga)
        held = written(commit(under_test, held, then, claim_id))
    assert [n.index for n in held.branches] == [2, 3]
    assert under_test.stored(KEY) == held


# -- surplus messages ------------------------------------------------------------


def redispatch(
    under_test: StoreUnderTest,
    seen: SagaInstance,
    branch: int | None,
    nudge_id: str,
    at: int = T0,
) -> WriteResult:
    return under_test.store.redispatch(seen, nudge_id=nudge_id, now=at, branch=branch)


def test_each_lane_has_a_guard_of_its_own(under_test):
    seen = under_test.seed(opened(version=4))
    first = written(redispatch(under_test, seen, ZERO, "n0"))
    assert [n.nudge for n in first.branches] == [Nudge("n0", T0), None]
    assert first.lane.nudge is None
    assert first.version == 4
    second = written(redispatch(under_test, seen, ONE, "n1"))
    third = written(redispatch(under_test, seen, None, "m"))
    assert [n.nudge for n in third.branches] == [Nudge("n0", T0), Nudge("n1", T0)]
    assert third.lane.nudge == Nudge("m", T0)
    assert second.lane.nudge is None
    assert under_test.stored(KEY) == third
    for branch in (ZERO, ONE, None):
        assert found(redispatch(under_test, seen, branch, "again", T0 + NUDGE_MS - 1)) == third
    for branch in (ZERO, ONE, None):
        written(redispatch(under_test, seen, branch, f"later{branch}", T0 + NUDGE_MS))


def test_a_claimed_branch_is_not_nudged_but_another_is(under_test):
    under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    assert found(redispatch(under_test, held, ZERO, "n", T0 + LEASE_MS + 1)) == held
    written(redispatch(under_test, held, ONE, "n"))
    written(redispatch(under_test, held, None, "m"))


def test_a_branch_that_moved_on_is_not_nudged_for_its_past(under_test):
    seen = under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    stored = written(commit(under_test, held, failed(held, "a", fatal=False, saga=GROUPED), "a"))
    assert found(redispatch(under_test, seen, ZERO, "n")) == stored


def test_a_branch_that_is_gone_is_not_nudged(under_test):
    seen = under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    stored = written(commit(under_test, held, done(held, "a"), "a"))
    assert found(redispatch(under_test, seen, ZERO, "n")) == stored
    assert under_test.stored(KEY) == stored


def test_a_guard_for_a_branch_that_was_seen_gone_is_the_main_lanes(under_test):
    stored = under_test.seed(opened())
    result = written(redispatch(under_test, stored, 2, "n"))
    assert result.lane.nudge == Nudge("n", T0)
    assert [n.nudge for n in result.branches] == [None, None]


def test_a_saga_that_was_seen_before_its_group_opened_is_not_nudged_for_a_branch(under_test):
    seen = replace(opened(), branches=())
    stored = under_test.seed(opened())
    assert stored.lane.epoch == stored.branches[0].epoch
    result = written(redispatch(under_test, seen, ZERO, "n"))
    assert (result.lane.nudge, result.branches[0].nudge) == (Nudge("n", T0), None)


def test_a_commit_leaves_a_nudge_of_another_branch_alone(under_test):
    under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    nudged = written(redispatch(under_test, held, ONE, "n"))
    retried = failed(held, "a", fatal=False, saga=GROUPED)
    result = written(commit(under_test, held, retried, "a"))
    assert result.branches == (retried.branches[0], nudged.branches[1])
    assert under_test.stored(KEY) == result


def test_a_commit_of_one_branch_leaves_a_nudge_of_the_main_lane_alone(under_test):
    under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    written(redispatch(under_test, held, None, "m"))
    result = written(commit(under_test, held, done(held, "a"), "a"))
    assert result.lane.nudge == Nudge("m", T0)
    assert under_test.stored(KEY) == result


def test_the_join_ends_a_nudge_of_the_main_lane_that_it_has_not_seen(under_test):
    # The next work item's message is sent by the join; a guard from before would keep its own
    # successor from being sent for a minute.
    before = both_claimed(under_test)
    before = written(commit(under_test, before, done(before, "a"), "a"))
    written(redispatch(under_test, before, None, "m"))
    result = written(commit(under_test, before, done(before, "b"), "b"))
    assert result.lane.nudge is None
    assert under_test.stored(KEY) == result
    written(redispatch(under_test, result, None, "n"))


def test_a_turn_that_drops_a_branch_drops_its_nudge(under_test):
    under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    written(redispatch(under_test, held, ONE, "n"))
    result = written(commit(under_test, held, failed(held, "a", saga=GROUPED), "a"))
    assert result.branches == ()
    assert under_test.stored(KEY) == result


def test_a_commit_takes_no_notice_of_a_sweep_since_the_claim(under_test):
    under_test.seed(opened())
    held = written(claim(under_test, ZERO, "a"))
    written(under_test.store.mark_swept(held, swept(held, held.sweep_at + 10_000)))
    then = done(held, "a")
    assert written(commit(under_test, held, then, "a")) == at_version(then, 3)


# -- requests --------------------------------------------------------------------


@pytest.mark.parametrize("branch", [ZERO, ONE, None])
def test_a_request_decided_without_the_latest_nudge_of_any_lane_is_refused(under_test, branch):
    before = under_test.seed(opened())
    nudged = written(redispatch(under_test, before, branch, "n"))
    assert found(under_test.store.record(before, cancelled(before, saga=GROUPED))) == nudged
    newer = written(redispatch(under_test, nudged, branch, "m", T0 + NUDGE_MS))
    assert found(under_test.store.record(nudged, cancelled(nudged, saga=GROUPED))) == newer
    then = cancelled(newer, saga=GROUPED)
    assert written(under_test.store.record(newer, then)) == at_version(then, 2)


def test_a_request_that_saw_every_nudge_is_recorded(under_test):
    stored = under_test.seed(opened())
    for branch, nudge_id in ((ZERO, "n0"), (ONE, "n1"), (None, "m")):
        stored = written(redispatch(under_test, stored, branch, nudge_id))
    then = cancelled(stored, saga=GROUPED)
    assert written(under_test.store.record(stored, then)) == at_version(then, 2)
    assert under_test.stored(KEY).branches == stored.branches


def test_a_request_decided_before_a_branch_was_claimed_is_refused(under_test):
    before = under_test.seed(opened())
    moved = written(claim(under_test, ONE, "b"))
    assert found(under_test.store.record(before, cancelled(before, saga=GROUPED))) == moved


def test_a_dead_letter_of_one_branch_moves_no_other(under_test):
    before = under_test.seed(opened())
    then = after(
        before,
        DeliveryExhausted(
            epoch=1, definition=GROUPED.ref, nudge_id="n", error=BOOM, at=T0, branch=ONE
        ),
        saga=GROUPED,
    )
    result = written(under_test.store.record(before, then))
    assert result == at_version(then, 2)
    assert result.branches[0] == before.branches[0]
    assert result.branches[1].nudge == Nudge("n", T0)
    assert under_test.stored(KEY) == result


def test_an_answer_settles_a_waiting_branch(under_test):
    before = both_claimed(under_test)
    asks = StepAwaits(claim_id="a", context='{"a":1}', timeout_ms=60_000, at=T0)
    waits = written(commit(under_test, before, after(before, asks, saga=GROUPED), "a"))
    then = answered(waits, "branch0", '{"ok":true}')
    result = written(under_test.store.record(waits, then))
    assert result.branches == (waits.branches[1],)
    assert result.steps[0].result == '[{"ok":true},[]]'
    assert under_test.stored(KEY) == result


def test_an_answer_to_an_attempt_in_flight_is_kept_until_it_settles(under_test):
    before = both_claimed(under_test)
    kept = written(under_test.store.record(before, answered(before, "branch0", '{"ok":true}')))
    assert kept.steps[0].answer.fields == '{"ok":true}'
    assert kept.branches == before.branches
    assert found(commit(under_test, before, done(before, "a"), "a")) == kept
    asks = StepAwaits(claim_id="a", context='{"a":1}', timeout_ms=60_000, at=T0)
    result = written(commit(under_test, kept, after(kept, asks, saga=GROUPED), "a"))
    assert result.steps[0].code is StepCode.DONE
    assert result.steps[0].answer.fields is None
    assert under_test.stored(KEY) == result


def test_a_stopped_group_is_resumed_with_all_its_branches(under_test):
    stopped = replace(claimed(opened(), "a", branch=ZERO), status=SagaState.FAILED, sweep_at=T0)
    before = under_test.seed(at_version(stopped, 3))
    then = after(before, ResumeRequested(by="ops", at=T0 + 9), saga=GROUPED)
    result = written(under_test.store.record(before, then))
    assert [n.epoch for n in result.branches] == [2, 2]
    assert under_test.stored(KEY) == result


# -- sizes -----------------------------------------------------------------------
#
# A third of the characters of an incompressible text is saved by compression after all.

HALF = incompressible(ITEM_BUDGET * 2 // 3)
MOST = incompressible(ITEM_BUDGET * 4 // 3 - 60_000)


def with_field(name: str, text: str) -> str:
    return f'{{"a":1,"{name}":{text}}}'


def test_a_result_that_does_not_fit_beside_the_others_is_refused_before_the_write(under_test):
    before = both_claimed(under_test)
    then = succeeded(before, "a", context=with_field("x", MOST), saga=GROUPED)
    first = written(commit(under_test, before, then, "a"))
    then = succeeded(first, "b", context=with_field("y", HALF), saga=GROUPED)
    with pytest.raises(ItemTooLargeError):
        commit(under_test, first, then, "b")
    assert under_test.stored(KEY) == first


def nearly_full(under_test: StoreUnderTest) -> Any:
    """A group with one branch settled whose result fills the budget, and one in flight."""
    before = both_claimed(under_test)
    size = ITEM_BUDGET * 4 // 3
    while True:
        then = succeeded(before, "a", context=with_field("x", incompressible(size)), saga=GROUPED)
        try:
            return written(commit(under_test, before, then, "a"))
        except ItemTooLargeError:
            size -= 400


def test_a_result_that_fitted_fits_into_the_context_with_the_write_that_rolls_back(under_test):
    # Nothing else could be written instead: the saga would be stuck.
    first = nearly_full(under_test)
    long = replace(BOOM, message="x" * 2_000)
    gone = StepInDoubt(claim_id="b", error=long, final=True, jitter=0.0, at=T0)
    result = written(commit(under_test, first, after(first, gone, saga=GROUPED), "b"))
    assert result.status is SagaState.COMPENSATING
    assert set(result.context) == {"a", "x"}
    assert under_test.stored(KEY) == result


def test_a_result_that_fitted_fits_with_the_join_unless_the_last_adds_to_it(under_test):
    first = nearly_full(under_test)
    with pytest.raises(ItemTooLargeError):
        commit(
            under_test,
            first,
            succeeded(first, "b", context=with_field("y", HALF), saga=GROUPED),
            "b",
        )
    then = done(first, "b")
    noted = replace(then.steps[1], error=replace(BOOM, message="x" * 2_000))
    then = replace(then, steps=(then.steps[0], noted, then.steps[2]))
    result = written(commit(under_test, first, then, "b"))
    assert set(result.context) == {"a", "x"}
    assert under_test.stored(KEY) == result


def test_an_answer_that_does_not_fit_is_refused_before_the_write(under_test):
    before = written_both(under_test, opened(context=with_field("x", MOST)))
    then = answered(before, "branch0", f'{{"y":{HALF}}}')
    with pytest.raises(ItemTooLargeError):
        under_test.store.record(before, then)
    assert under_test.stored(KEY) == before


def test_an_answer_that_fitted_fits_into_the_result(under_test):
    before = written_both(under_test, opened())
    size = ITEM_BUDGET * 4 // 3
    while True:
        try:
            kept = under_test.store.record(
                before, answered(before, "branch0", f'{{"y":{incompressible(size)}}}')
            )
            break
        except ItemTooLargeError:
            size -= 400
    kept = written(kept)
    used = Withheld(claim_id="a", reason=Withhold.ANSWERED, at=T0)
    then = after(kept, used, saga=GROUPED)
    noted = replace(then.steps[1], error=replace(BOOM, message="x" * 2_000))
    then = replace(then, steps=(then.steps[0], noted, then.steps[2]))
    result = written(commit(under_test, kept, then, "a"))
    assert result.steps[0].result is not None
    assert under_test.stored(KEY) == result


def written_both(under_test: StoreUnderTest, instance: SagaInstance) -> Any:
    under_test.seed(instance)
    written(claim(under_test, ZERO, "a"))
    return written(claim(under_test, ONE, "b"))


def over_the_budget(under_test: StoreUnderTest) -> Any:
    """A saga whose records have used some of the reserve above the budget."""
    full = nearly_full(under_test)
    noted = replace(full.steps[1], error=replace(BOOM, message="x" * 20_000))
    grown = replace(full, steps=(full.steps[0], noted, full.steps[2]))
    saved = asyncio.run(under_test.store.save(grown))
    assert encoded_size(saved) > ITEM_BUDGET
    assert under_test.stored(KEY) == saved
    return saved


def test_over_the_budget_a_result_is_not_saved(under_test):
    before = over_the_budget(under_test)
    added = replace(before.steps[1], result='[{"new":2},[]]')
    then = replace(before, steps=(before.steps[0], added, before.steps[2]))
    with pytest.raises(ItemTooLargeError):
        asyncio.run(under_test.store.save(then))
    assert under_test.stored(KEY) == before


def test_over_the_budget_an_answer_is_not_saved(under_test):
    before = over_the_budget(under_test)
    with pytest.raises(ItemTooLargeError):
        asyncio.run(under_test.store.save(answered(before, "branch1", '{"new":2}')))
    assert under_test.stored(KEY) == before


def test_over_the_budget_a_stale_save_is_stale(under_test):
    before = over_the_budget(under_test)
    with pytest.raises(StaleInstanceError):
        asyncio.run(under_test.store.save(at_version(before, before.version - 1)))
    under_test.forget(KEY)
    with pytest.raises(StaleInstanceError):
        asyncio.run(under_test.store.save(before))


def test_over_the_budget_a_save_may_join(under_test):
    full = nearly_full(under_test)
    gone = StepInDoubt(
        claim_id="b",
        error=replace(BOOM, message="x" * 20_000),
        final=True,
        jitter=0.0,
        at=T0,
    )
    then = after(full, gone, saga=GROUPED)
    assert asyncio.run(under_test.store.save(then)) == at_version(then, full.version + 1)
    assert under_test.stored(KEY).branches == ()


# -- large groups ----------------------------------------------------------------
#
# An expression may be 4 KB long. What bounds it is SAGA018, which keeps the records of the steps
# within the item: a group that would need a longer one is refused when it is defined.


def _large() -> SagaDefinition:
    """The largest group that a saga may have, behind a step of its own."""
    size = 2
    while _fits(size + 1):
        size += 1
    return _behind_a_step(size)


def _fits(size: int) -> bool:
    try:
        _behind_a_step(size)
    except DefinitionError:
        return False
    return True


def _behind_a_step(size: int) -> SagaDefinition:
    short = grouped(2)
    branch = short.steps[0]
    steps = tuple(
        replace(branch, name=chr(0x41 + n // 26) + chr(0x61 + n % 26)) for n in range(size)
    )
    return replace(short, steps=(short.steps[2], *steps))


LARGE = _large()
BRANCHES = len(LARGE.steps) - 1


def large(under_test: StoreUnderTest) -> Any:
    """A saga whose group is open and not begun."""
    before = under_test.seed(at_version(claimed(new(saga=LARGE)), 1))
    result = written(commit(under_test, before, succeeded(before, saga=LARGE), "c1"))
    assert len(result.branches) == BRANCHES
    assert under_test.stored(KEY) == result
    return result


def test_a_large_group_is_a_large_one():
    assert BRANCHES > 60


@pytest.mark.parametrize("nudged", [False, True])
def test_a_large_group_is_cancelled_under_the_guards_of_all_its_lanes(under_test, nudged):
    before = large(under_test)
    if nudged:
        for branch in (None, *range(1, BRANCHES + 1)):
            before = written(redispatch(under_test, before, branch, f"nudge{branch}"))
    then = cancelled(before, saga=LARGE)
    assert written(under_test.store.record(before, then)) == at_version(then, 3)


def stopped_large(under_test: StoreUnderTest) -> Any:
    """Every branch has asked, and was told that it will not be; then the saga stopped."""
    i = large(under_test)
    told = GivenAnswer(digest="0123456789abcdef", ok=False, by="ann", at=T0, error=BOOM)
    return under_test.seed(
        replace(
            i,
            status=SagaState.FAILED,
            branches=tuple(replace(n, tries=1) for n in i.branches),
            steps=(i.steps[0], *(replace(s, answer=told) for s in i.steps[1:])),
        )
    )


@pytest.fixture
def deep_stack():
    """Moto copies the tree of a long update expression by recursion; the service does not."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("deep_stack")
@pytest.mark.parametrize("request_", [ResumeRequested, CancelRequested])
def test_a_large_group_that_has_stopped_goes_on_or_back_with_one_write(under_test, request_):
    before = stopped_large(under_test)
    then = after(before, request_(by="ops", at=T0 + 9), saga=LARGE)
    changed = [n for n in range(BRANCHES + 1) if then.steps[n] != before.steps[n]]
    assert len(changed) == BRANCHES
    assert written(under_test.store.record(before, then)) == at_version(then, 3)
    assert under_test.stored(KEY) == at_version(then, 3)


def test_no_expression_of_a_large_group_is_longer_than_dynamodb_takes():
    table = memory()
    before = stopped_large(table)
    then = at_version(after(before, ResumeRequested(by="ops", at=T0 + 9), saga=LARGE), 3)
    longest = "nudge"
    guards: dict[str | None, str | None] = {f"b{n}": longest for n in range(1, BRANCHES + 1)}
    texts = (
        conditions.record({None: None, **dict.fromkeys(guards)})[0],
        conditions.record({None: longest, **guards})[0],
        conditions.difference(CODEC.encode(before), CODEC.encode(then))[0],
    )
    for text in texts:
        # The driver of the commit adds the layout's clause.
        assert len(f"{text} AND {conditions.SAME_LAYOUT}") < 4_096
    # Also of operators and functions there may be so many.
    assert texts[0].count("attribute_not_exists") + texts[0].count(" AND ") < 300
