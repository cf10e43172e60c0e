"""What WorkStore promises, for the store in memory and for the table alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from saga_core.errors import ItemTooLargeError
from saga_core.events import (
    DeliveryExhausted,
    ResumeRequested,
)
from saga_core.identity import shard_of
from saga_core.instance import Key, Lease, Nudge, SagaInstance, SagaState
from saga_core.ports import ITEM_BUDGET, DueSaga, Refused, WriteResult, Written
from saga_core.transition import EARLY_MS, NUDGE_MS, swept
from tests.contracts.harness import StoreUnderTest
from tests.contracts.sagas import (
    BOOM,
    LEASE_MS,
    after,
    at_version,
    cancelled,
    claimed,
    compensated,
    compensating,
    completed,
    incompressible,
    new,
    over_budget,
    parked,
    succeeded,
    undo_failed,
    undone,
)
from tests.fakes.clock import T0

KEY = Key("default", "s1")
SECOND = 1_000


def claim(
    under_test: StoreUnderTest,
    claim_id: str = "c1",
    *,
    key: Key = KEY,
    epoch: int = 1,
    definition: str | None = None,
    at: int = T0,
) -> WriteResult:
    return under_test.store.claim(
        key,
        epoch=epoch,
        definition=new().definition if definition is None else definition,
        claim_id=claim_id,
        now=at,
        until=at + LEASE_MS,
    )


def written(result: WriteResult) -> Any:  # a SagaInstance
    assert isinstance(result, Written), result
    return result.instance


def found(result: WriteResult) -> Any:  # a test says what it expects to find
    assert isinstance(result, Refused), result
    return result.found


# -- create ----------------------------------------------------------------------


def test_a_new_saga_is_stored_at_version_one(under_test):
    result = written(under_test.store.create(new()))
    assert result == at_version(new(), 1)
    assert under_test.stored(KEY) == result


def test_a_repeated_start_finds_the_first_one(under_test):
    first = written(under_test.store.create(new()))
    again = new(incarnation="12345678", context='{"b":2}')
    assert found(under_test.store.create(again)) == first
    assert under_test.stored(KEY) == first


@pytest.mark.parametrize("end", [completed, compensated])
def test_a_closed_saga_keeps_its_id_until_its_retention_is_over(under_test, end):
    old = under_test.seed(at_version(end(new()), 7))
    assert old.expires_at is not None
    on_time = new(at=old.expires_at, incarnation="12345678")
    assert found(under_test.store.create(on_time)) == old
    late = new(at=old.expires_at + 1, incarnation="12345678")
    assert written(under_test.store.create(late)) == at_version(late, 1)
    assert under_test.stored(KEY) == at_version(late, 1)


def test_an_open_saga_is_never_replaced_however_old(under_test):
    old = under_test.seed(at_version(claimed(new()), 2))
    assert found(under_test.store.create(new(at=T0 + 10**12))) == old


def test_a_failed_saga_is_never_replaced_however_old(under_test):
    old = under_test.seed(parked())
    assert old.status is SagaState.FAILED
    assert found(under_test.store.create(new(at=T0 + 10**12))) == old


def test_a_saga_that_does_not_fit_is_refused_before_it_is_written(under_test):
    with pytest.raises(ItemTooLargeError) as refused:
        under_test.store.create(new(context=over_budget()))
    assert refused.value.saga_id == "s1"
    assert refused.value.size > refused.value.limit == ITEM_BUDGET
    assert not refused.value.ambiguous
    assert under_test.stored(KEY) is None


def test_a_context_that_compresses_into_the_budget_is_kept(under_test):
    large = f'"{"a" * (2 * ITEM_BUDGET)}"'
    assert written(under_test.store.create(new(context=large))).context_text == large
    assert under_test.store.find(KEY, T0).context_text == large


def test_a_saga_that_was_deleted_may_be_started_anew(under_test):
    under_test.seed(at_version(completed(new()), 7))
    under_test.forget(KEY)
    written(under_test.store.create(new()))


# -- find ------------------------------------------------------------------------


def test_what_is_not_there_is_not_found(under_test):
    assert under_test.store.find(KEY, T0) is None


def test_a_saga_is_found_until_its_retention_is_over(under_test):
    old = under_test.seed(at_version(completed(new()), 7))
    assert under_test.store.find(KEY, old.expires_at) == old
    assert under_test.store.find(KEY, old.expires_at + 1) is None


def test_the_same_id_belongs_to_each_tenant_apart(under_test):
    mine = written(under_test.store.create(new()))
    theirs = written(under_test.store.create(new(tenant="other", context='"theirs"')))
    assert under_test.store.find(KEY, T0) == mine
    assert under_test.store.find(Key("other", "s1"), T0) == theirs


# -- claim -----------------------------------------------------------------------


def test_a_claim_takes_the_work_item_and_counts(under_test):
    stored = under_test.seed(at_version(new(), 1))
    result = written(claim(under_test, at=T0 + 5))
    assert result == at_version(claimed(stored, at=T0 + 5), 2)
    assert result.lane.lease == Lease("c1", T0 + 5 + LEASE_MS)
    assert (result.lane.attempts, result.lane.tries, result.hops) == (1, 1, 1)
    assert result.lane.began_at == result.updated_at == T0 + 5
    assert result.sweep_at == stored.sweep_at
    assert under_test.stored(KEY) == result


def test_the_second_of_two_claims_is_refused_and_sees_the_first(under_test):
    under_test.seed(at_version(new(), 1))
    first = written(claim(under_test, "c1"))
    assert found(claim(under_test, "c2")) == first
    assert under_test.stored(KEY) == first


def test_a_repeated_claim_is_refused_and_sees_itself(under_test):
    under_test.seed(at_version(new(), 1))
    first = written(claim(under_test, "c1"))
    assert found(claim(under_test, "c1")) == first
    assert first.lane.lease == Lease("c1", T0 + LEASE_MS)


def test_a_lease_holds_to_its_last_millisecond(under_test):
    held = under_test.seed(at_version(claimed(new(), "c1"), 2))
    end = held.lane.lease.until
    assert found(claim(under_test, "c2", at=end)) == held
    taken = written(claim(under_test, "c2", at=end + 1))
    assert taken.lane.lease.id == "c2"
    assert (taken.lane.attempts, taken.lane.tries) == (2, 2)
    assert taken.lane.began_at == T0  # the first attempt's


def test_a_claim_of_another_work_item_is_refused(under_test):
    stored = under_test.seed(at_version(succeeded(claimed(new())), 3))
    assert stored.lane.epoch == 2
    for epoch in (1, 3):
        assert found(claim(under_test, epoch=epoch)) == stored
    written(claim(under_test, epoch=2))


def test_a_claim_with_another_definition_is_refused(under_test):
    stored = under_test.seed(at_version(new(), 1))
    assert found(claim(under_test, definition="order@1#0000000000000000")) == stored


@pytest.mark.parametrize("end", [completed, compensated])
def test_a_closed_saga_cannot_be_claimed(under_test, end):
    stored = under_test.seed(at_version(end(new()), 7))
    assert found(claim(under_test, epoch=stored.lane.epoch)) == stored


def test_a_failed_saga_cannot_be_claimed(under_test):
    stored = under_test.seed(parked())
    assert found(claim(under_test, epoch=stored.lane.epoch, at=T0 + 10**9)) == stored


def test_a_compensating_saga_can_be_claimed(under_test):
    stored = under_test.seed(at_version(compensating(), 5))
    written(claim(under_test, epoch=stored.lane.epoch))


def test_a_work_item_can_be_claimed_a_second_early(under_test):
    stored = new()
    due = T0 + 60 * SECOND
    under_test.seed(at_version(replace(stored, lane=replace(stored.lane, due_at=due)), 1))
    early = found(claim(under_test, at=due - EARLY_MS - 1))
    assert early.lane.due_at == due
    written(claim(under_test, at=due - EARLY_MS))


def test_a_claim_of_what_is_not_there_creates_nothing(under_test):
    assert found(claim(under_test)) is None
    assert under_test.stored(KEY) is None


def test_a_claim_of_what_is_over_finds_nothing(under_test):
    old = under_test.seed(at_version(completed(new()), 7))
    assert found(claim(under_test, at=old.expires_at + 1)) is None
    assert found(claim(under_test, at=old.expires_at)) == old


# -- commit ----------------------------------------------------------------------


def test_a_commit_settles_the_attempt(under_test):
    before = under_test.seed(at_version(claimed(new()), 2))
    then = succeeded(before, context='{"a":2}', at=T0 + 9)
    result = written(under_test.store.commit(before, then, claim_id="c1"))
    assert result == at_version(then, 3)
    assert result.lane.lease is None
    assert result.lane.last_id == "c1"
    assert under_test.stored(KEY) == result


def test_a_saga_goes_to_its_end_by_claims_and_commits(under_test):
    written(under_test.store.create(new()))
    for n in range(3):
        before = written(claim(under_test, f"c{n}", epoch=n + 1))
        then = succeeded(before, f"c{n}", context=f'{{"a":{n}}}')
        written(under_test.store.commit(before, then, claim_id=f"c{n}"))
    result = under_test.stored(KEY)
    assert result.state is SagaState.COMPLETED
    assert result.version == 7
    assert result.sweep_at is None
    assert result.context == {"a": 2}


def test_a_roll_back_goes_to_its_end_by_claims_and_commits(under_test):
    under_test.seed(at_version(compensating(), 5))
    for n in range(2):
        before = under_test.stored(KEY)
        before = written(claim(under_test, f"u{n}", epoch=before.lane.epoch))
        then = after(before, undone(f"u{n}"))
        written(under_test.store.commit(before, then, claim_id=f"u{n}"))
    assert under_test.stored(KEY).state is SagaState.COMPENSATED


def test_a_repeated_commit_is_refused_and_sees_itself(under_test):
    before = under_test.seed(at_version(claimed(new()), 2))
    then = succeeded(before)
    first = written(under_test.store.commit(before, then, claim_id="c1"))
    assert found(under_test.store.commit(before, then, claim_id="c1")) == first
    assert first.lane.last_id == "c1"


def test_a_holder_that_was_overtaken_is_fenced_off(under_test):
    # A claims and stalls; its lease ends; B claims; A comes back with a result.
    under_test.seed(at_version(new(), 1))
    a = written(claim(under_test, "a"))
    b = written(claim(under_test, "b", at=T0 + LEASE_MS + 1))
    assert found(under_test.store.commit(a, succeeded(a, "a"), claim_id="a")) == b
    written(under_test.store.commit(b, succeeded(b, "b"), claim_id="b"))


def test_a_holder_that_was_overtaken_and_outrun_is_fenced_off(under_test):
    under_test.seed(at_version(new(), 1))
    a = written(claim(under_test, "a"))
    b = written(claim(under_test, "b", at=T0 + LEASE_MS + 1))
    settled = written(under_test.store.commit(b, succeeded(b, "b"), claim_id="b"))
    assert found(under_test.store.commit(a, succeeded(a, "a"), claim_id="a")) == settled


def test_a_commit_needs_the_lease_it_names(under_test):
    before = under_test.seed(at_version(claimed(new(), "c1"), 2))
    assert found(under_test.store.commit(before, succeeded(before), claim_id="other")) == before


def test_a_cancel_between_claim_and_commit_is_not_overwritten(under_test):
    under_test.seed(at_version(new(), 1))
    before = written(claim(under_test))
    asked = written(under_test.store.record(before, cancelled(before, at=T0 + 7)))
    assert found(under_test.store.commit(before, succeeded(before), claim_id="c1")) == asked
    assert asked.lane.lease.id == "c1"  # still the holder's: it decides again
    then = succeeded(asked, context='{"a":3}')
    result = written(under_test.store.commit(asked, then, claim_id="c1"))
    assert result.state is SagaState.COMPENSATING
    assert under_test.stored(KEY) == result


def test_a_commit_takes_no_notice_of_a_sweep_since_the_claim(under_test):
    before = under_test.seed(at_version(claimed(new()), 2))
    late = before.sweep_at + 10 * SECOND
    written(under_test.store.mark_swept(before, swept(before, late)))
    then = succeeded(before)
    result = written(under_test.store.commit(before, then, claim_id="c1"))
    assert result == at_version(then, 3)
    assert result.sweeps == 0
    assert under_test.stored(KEY) == result


def test_a_commit_that_wants_the_mark_it_saw_gets_it(under_test):
    before = under_test.seed(at_version(claimed(new()), 2))
    written(under_test.store.mark_swept(before, swept(before, before.sweep_at)))
    then = replace(succeeded(before), sweep_at=before.sweep_at)
    written(under_test.store.commit(before, then, claim_id="c1"))
    assert under_test.stored(KEY) == at_version(then, 3)


def test_a_commit_removes_a_nudge_from_before_the_claim(under_test):
    stored = under_test.seed(at_version(new(), 1))
    written(under_test.store.redispatch(stored, nudge_id="n1", now=T0))
    before = written(claim(under_test))
    result = written(under_test.store.commit(before, succeeded(before), claim_id="c1"))
    assert result.lane.nudge is None
    assert under_test.stored(KEY).lane.nudge is None


def test_a_commit_of_what_was_deleted_creates_nothing(under_test):
    before = under_test.seed(at_version(claimed(new()), 2))
    under_test.forget(KEY)
    assert found(under_test.store.commit(before, succeeded(before), claim_id="c1")) is None
    assert under_test.stored(KEY) is None


def test_a_context_that_does_not_fit_leaves_the_saga_as_it_was(under_test):
    before = under_test.seed(at_version(claimed(new()), 2))
    then = succeeded(before, context=over_budget())
    with pytest.raises(ItemTooLargeError):
        under_test.store.commit(before, then, claim_id="c1")
    assert under_test.stored(KEY) == before


def test_a_context_that_fitted_is_not_measured_again(under_test):
    # The budget keeps a reserve for the records of the steps.
    large = incompressible(ITEM_BUDGET * 4 // 3 - 3_000)
    before = under_test.seed(at_version(claimed(new(context=large)), 2))
    noted = replace(before.steps[0], error=replace(BOOM, message="x" * 40_000))
    before = under_test.seed(replace(before, steps=(noted, *before.steps[1:])))
    then = succeeded(before, context=large)
    then = replace(then, steps=(noted, *then.steps[1:]))
    written(under_test.store.commit(before, then, claim_id="c1"))


# -- redispatch ------------------------------------------------------------------


def test_a_nudge_reserves_one_message_and_counts_no_version(under_test):
    stored = under_test.seed(at_version(new(), 4))
    result = written(under_test.store.redispatch(stored, nudge_id="n1", now=T0 + 5))
    assert result == replace(stored, lane=replace(stored.lane, nudge=Nudge("n1", T0 + 5)))
    assert under_test.stored(KEY) == result


def test_the_second_nudge_within_a_minute_is_refused_and_sees_the_first(under_test):
    stored = under_test.seed(at_version(new(), 1))
    first = written(under_test.store.redispatch(stored, nudge_id="n1", now=T0))
    second = under_test.store.redispatch(stored, nudge_id="n2", now=T0 + NUDGE_MS - 1)
    assert found(second) == first
    third = written(under_test.store.redispatch(stored, nudge_id="n2", now=T0 + NUDGE_MS))
    assert third.lane.nudge == Nudge("n2", T0 + NUDGE_MS)


def test_a_repeated_nudge_is_refused_and_sees_itself(under_test):
    stored = under_test.seed(at_version(new(), 1))
    first = written(under_test.store.redispatch(stored, nudge_id="n1", now=T0))
    assert found(under_test.store.redispatch(stored, nudge_id="n1", now=T0)) == first


def test_a_claimed_saga_is_not_nudged_even_if_the_lease_is_past(under_test):
    stored = under_test.seed(at_version(claimed(new()), 2))
    late = T0 + LEASE_MS + 1
    assert found(under_test.store.redispatch(stored, nudge_id="n1", now=late)) == stored


def test_a_saga_that_moved_on_is_not_nudged_for_its_past(under_test):
    past = at_version(new(), 1)
    stored = under_test.seed(at_version(succeeded(claimed(new())), 3))
    assert found(under_test.store.redispatch(past, nudge_id="n1", now=T0)) == stored


@pytest.mark.parametrize("end", [completed, compensated, lambda i: parked()])
def test_a_saga_that_rests_is_not_nudged(under_test, end):
    stored = under_test.seed(at_version(end(new()), 7))
    assert found(under_test.store.redispatch(stored, nudge_id="n1", now=T0)) == stored


def test_a_nudge_of_what_is_not_there_creates_nothing(under_test):
    assert found(under_test.store.redispatch(new(), nudge_id="n1", now=T0)) is None
    assert under_test.stored(KEY) is None


def test_a_claim_that_wins_the_race_ends_the_nudge(under_test):
    # A reads an unclaimed saga, B claims and commits, A comes to nudge.
    seen = under_test.seed(at_version(new(), 1))
    b = written(claim(under_test, "b"))
    assert found(under_test.store.redispatch(seen, nudge_id="n1", now=T0)) == b
    settled = written(under_test.store.commit(b, succeeded(b, "b"), claim_id="b"))
    assert found(under_test.store.redispatch(seen, nudge_id="n1", now=T0)) == settled


# -- record ----------------------------------------------------------------------


def test_a_request_is_recorded(under_test):
    before = under_test.seed(at_version(succeeded(claimed(new())), 3))
    then = cancelled(before, at=T0 + 7)
    result = written(under_test.store.record(before, then))
    assert result == at_version(then, 4)
    assert result.cancel.by == "someone"
    assert under_test.stored(KEY) == result


def test_a_request_on_what_moved_meanwhile_is_refused(under_test):
    before = under_test.seed(at_version(new(), 1))
    moved = written(claim(under_test))
    assert found(under_test.store.record(before, cancelled(before))) == moved
    assert under_test.stored(KEY) == moved


def test_the_second_of_two_requests_is_refused(under_test):
    before = under_test.seed(parked())
    resumed = after(before, ResumeRequested(by="someone", at=T0 + 9))
    first = written(under_test.store.record(before, resumed))
    assert first.live
    assert found(under_test.store.record(before, resumed)) == first


def test_a_dead_letter_decided_without_the_latest_nudge_is_refused(under_test):
    # Two dead letters of one saga: A nudges and sends; B has read before that.
    before = under_test.seed(at_version(new(), 1))
    nudged = written(under_test.store.redispatch(before, nudge_id="a", now=T0))
    assert found(under_test.store.record(before, exhausted(before, "b"))) == nudged
    again = T0 + NUDGE_MS
    newer = written(under_test.store.redispatch(nudged, nudge_id="c", now=again))
    assert found(under_test.store.record(nudged, exhausted(nudged, "d", at=again))) == newer


def test_a_dead_letter_decided_with_the_latest_nudge_is_recorded(under_test):
    before = under_test.seed(at_version(new(), 1))
    before = written(under_test.store.redispatch(before, nudge_id="a", now=T0))
    then = exhausted(before, "b", at=T0 + NUDGE_MS)
    result = written(under_test.store.record(before, then))
    assert result == at_version(then, 2)
    assert result.lane.nudge == Nudge("b", T0 + NUDGE_MS)
    assert under_test.stored(KEY) == result


def test_a_dead_letter_of_a_saga_that_was_claimed_after_the_nudge_is_refused(under_test):
    before = under_test.seed(at_version(new(), 1))
    before = written(under_test.store.redispatch(before, nudge_id="a", now=T0))
    moved = written(claim(under_test))
    assert moved.lane.nudge == before.lane.nudge
    then = exhausted(before, "b", at=T0 + NUDGE_MS)
    assert found(under_test.store.record(before, then)) == moved
    assert under_test.stored(KEY) == moved


def test_a_request_takes_no_notice_of_a_sweep_since_the_reading(under_test):
    before = under_test.seed(at_version(new(), 1))
    written(under_test.store.mark_swept(before, swept(before, before.sweep_at)))
    then = cancelled(before, at=T0 + 7)
    result = written(under_test.store.record(before, then))
    assert result == at_version(then, 2)
    assert under_test.stored(KEY) == result


def test_a_saga_that_is_parked_is_due_no_more_until_it_is_resumed(under_test):
    shard = shard_of("s1")
    before = under_test.seed(at_version(claimed(compensating(), "u0"), 6))
    stuck = after(before, undo_failed("u0"))
    written(under_test.store.commit(before, stuck, claim_id="u0"))
    assert under_test.stored(KEY).status is SagaState.FAILED
    assert under_test.store.due(shard, T0 + 10**12, 10) == []
    before = under_test.stored(KEY)
    resumed = after(before, ResumeRequested(by="someone", at=T0))
    result = written(under_test.store.record(before, resumed))
    assert under_test.store.due(shard, T0 + 10**12, 10) == [DueSaga(KEY, result.sweep_at)]


def test_a_request_on_what_was_deleted_creates_nothing(under_test):
    assert found(under_test.store.record(at_version(new(), 1), cancelled(new()))) is None
    assert under_test.stored(KEY) is None


def test_a_cancelled_wait_is_recorded_with_its_new_due_time(under_test):
    later = T0 + 10**6
    stored = new()
    before = under_test.seed(
        at_version(replace(stored, lane=replace(stored.lane, due_at=later)), 3)
    )
    result = written(under_test.store.record(before, cancelled(before, at=T0 + 7)))
    assert result.lane.due_at == T0 + 7
    written(claim(under_test, at=T0 + 7))


# -- sweeping --------------------------------------------------------------------


def test_a_sweep_moves_the_mark_and_counts_no_version(under_test):
    before = under_test.seed(at_version(new(), 4))
    marked = swept(before, T0 + 10**6)
    result = written(under_test.store.mark_swept(before, marked))
    assert result == replace(before, sweep_at=marked.sweep_at, sweeps=1)
    assert under_test.stored(KEY) == result


def test_the_second_of_two_sweepers_is_refused(under_test):
    before = under_test.seed(at_version(new(), 1))
    first = written(under_test.store.mark_swept(before, swept(before, T0 + 10**6)))
    assert found(under_test.store.mark_swept(before, swept(before, T0 + 10**6 + 1))) == first


def test_a_mark_that_a_commit_has_set_is_not_moved(under_test):
    seen = under_test.seed(at_version(claimed(new()), 2))
    settled = written(under_test.store.commit(seen, succeeded(seen), claim_id="c1"))
    assert settled.sweep_at != seen.sweep_at
    assert found(under_test.store.mark_swept(seen, swept(seen, T0 + 10**6))) == settled


def test_a_saga_that_ended_meanwhile_is_not_marked(under_test):
    seen = new(saga_id="s1")
    over = under_test.seed(at_version(completed(seen), 7))
    assert found(under_test.store.mark_swept(at_version(seen, 1), swept(seen, T0))) == over
    assert under_test.stored(KEY).sweep_at is None


def test_a_saga_that_was_parked_meanwhile_is_not_marked(under_test):
    stopped = under_test.seed(parked())
    seen = replace(at_version(new(), 1), sweep_at=stopped.sweep_at)
    assert found(under_test.store.mark_swept(seen, swept(seen, T0))) == stopped


def test_a_mark_on_what_was_deleted_creates_nothing(under_test):
    seen = at_version(new(), 1)
    assert found(under_test.store.mark_swept(seen, swept(seen, T0))) is None
    assert under_test.stored(KEY) is None


def test_what_is_due_is_listed_oldest_first(under_test):
    ids = same_shard(4)
    for n, saga_id in enumerate(ids):
        under_test.seed(replace(at_version(new(saga_id), 1), sweep_at=T0 + 100 - n))
    lines = under_test.store.due(shard_of(ids[0]), T0 + 99, 10)
    assert [line.key.saga_id for line in lines] == [ids[3], ids[2], ids[1]]
    assert [line.sweep_at for line in lines] == [T0 + 97, T0 + 98, T0 + 99]
    assert under_test.store.due(shard_of(ids[0]), T0 + 99, 2) == lines[:2]


def test_what_rests_is_never_due(under_test):
    one, two, three = same_shard(3)
    under_test.seed(at_version(completed(new(one)), 7))
    under_test.seed(at_version(compensated(new(two)), 3))
    under_test.seed(replace(parked(), id=three))
    assert under_test.store.due(shard_of(one), T0 + 10**12, 10) == []


def test_every_tenant_is_swept(under_test):
    under_test.seed(at_version(new(), 1))
    under_test.seed(at_version(new(tenant="other"), 1))
    lines = under_test.store.due(shard_of("s1"), T0 + 10**9, 10)
    assert {line.key for line in lines} == {KEY, Key("other", "s1")}


# -- sagas where the tests want them ---------------------------------------------


def exhausted(i: SagaInstance, nudge_id: str, *, at: int = T0) -> SagaInstance:
    # The core would not have decided so under the newer nudge; the writer has not seen it.
    return after(
        i,
        DeliveryExhausted(
            epoch=i.lane.epoch,
            definition=i.definition,
            nudge_id=nudge_id,
            error=BOOM,
            at=at,
        ),
    )


def same_shard(count: int) -> list[str]:
    names = (f"id{n}" for n in range(10_000))
    return [name for name in names if shard_of(name) == 3][:count]
