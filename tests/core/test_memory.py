"""What the contract suite of the stores cannot see; the rest is in tests/contracts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from saga_core.errors import ItemTooLargeError, StaleInstanceError
from saga_core.identity import shard_of
from saga_core.instance import GivenAnswer, Key, Nudge, SagaInstance, SagaState
from saga_core.memory import InMemorySagaStore, estimated_size
from saga_core.ports import INPUT_LIMIT, ITEM_BUDGET, DueSaga, Refused, Written, holds_no_more
from saga_core.retry import RetryPolicy
from tests.core.sagas import DAY, LEASE, MINUTE, SECOND, T0, Walk, new, saga, step

D = saga("a", "b")
ALL = frozenset(SagaState)
STATES = list(SagaState)


def stored(store: InMemorySagaStore, instance: SagaInstance) -> SagaInstance:
    written = store.create(instance)
    assert isinstance(written, Written)
    return written.instance


def take(store: InMemorySagaStore, i: SagaInstance, claim_id: str = "c1", **changes: object):
    values: dict[str, object] = {
        "epoch": i.lane.epoch,
        "definition": i.definition,
        "claim_id": claim_id,
        "now": T0,
        "until": T0 + LEASE,
    }
    return store.claim(i.key, **{**values, **changes})  # type: ignore[arg-type]


def grown(i: SagaInstance, size: int) -> SagaInstance:
    return replace(i, context_text="x" * (size - estimated_size(i) + len(i.context_text)))


# -- size ----------------------------------------------------------------------------


def test_the_estimate_covers_context_steps_and_the_rest():
    i = new(D)
    assert estimated_size(i) == 1_000 + 2 * 200 + 2
    assert estimated_size(replace(i, context_text='"é"')) == 1_000 + 2 * 200 + 4
    assert (ITEM_BUDGET, INPUT_LIMIT) == (358_400, 65_536)


def test_a_saga_fits_up_to_the_budget_and_not_a_byte_beyond():
    store = InMemorySagaStore()
    with pytest.raises(ItemTooLargeError) as caught:
        store.create(grown(new(D), ITEM_BUDGET + 1))
    assert (caught.value.saga_id, caught.value.size) == ("s1", ITEM_BUDGET + 1)
    assert caught.value.limit == ITEM_BUDGET
    assert store.find(Key("default", "s1"), T0) is None
    stored(store, grown(new(D), ITEM_BUDGET))


def test_saving_is_held_against_the_budget_too():
    store = InMemorySagaStore()
    with pytest.raises(ItemTooLargeError):
        asyncio.run(store.save(grown(new(D), ITEM_BUDGET + 1)))
    first = asyncio.run(store.save(new(D)))
    with pytest.raises(ItemTooLargeError):
        asyncio.run(store.save(grown(first, ITEM_BUDGET + 1)))


def test_what_fitted_still_fits():
    sizes = iter([1, ITEM_BUDGET + 1])
    store = InMemorySagaStore(measure=lambda i: next(sizes))
    first = asyncio.run(store.save(new(D)))
    assert asyncio.run(store.save(replace(first, hops=1))).version == 2
    with pytest.raises(ItemTooLargeError):
        asyncio.run(store.save(replace(first, version=2, context_text="[]")))


def test_a_commit_is_held_against_the_budget_only_if_it_changes_the_context():
    sizes = iter([1, ITEM_BUDGET + 1])
    store = InMemorySagaStore(measure=lambda i: next(sizes))
    taken = take(store, stored(store, new(D)))
    assert isinstance(taken, Written)
    before = taken.instance
    with pytest.raises(ItemTooLargeError):
        store.commit(before, replace(before, context_text="[]"), claim_id="c1")
    assert store.find(before.key, T0) == before
    assert isinstance(store.commit(before, before, claim_id="c1"), Written)


def test_a_record_is_held_against_the_budget_too():
    sizes = iter([1, ITEM_BUDGET + 1])
    store = InMemorySagaStore(measure=lambda i: next(sizes))
    i = stored(store, new(D))
    with pytest.raises(ItemTooLargeError):
        store.record(i, replace(i, context_text="[]"))
    assert store.find(i.key, T0) == i
    assert isinstance(store.record(i, replace(i, hops=1)), Written)


def kept(
    context: str = '{"a":1}',
    *,
    results: tuple[str | None, str | None] = (None, None),
    answer: str | None = None,
) -> SagaInstance:
    """A saga with these results and this answer beside its context."""
    i = replace(new(D), context_text=context)
    steps = [replace(s, result=r) for s, r in zip(i.steps, results, strict=True)]
    given = GivenAnswer(digest="d", ok=True, by="ann", at=T0, fields=answer)
    return replace(i, steps=(replace(steps[0], answer=given), steps[1]))


X, Y = '[{"x":1},[]]', '[{"y":{"z":[1,2]}},["a"]]'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (kept(), kept()),
        (kept("[1]"), kept("[1]")),
        (kept(results=(X, Y)), kept(results=(X, Y))),
        (kept(results=(X, Y)), kept(results=(X, None))),
        (kept(results=(X, Y)), kept('{"y":{"z":[1,2]},"x":1}')),
        (kept(results=(X, None)), kept('{"a":1,"x":1}')),
        (kept(answer='{"x":1}'), kept('{"a":1,"x":1}')),
        (kept(answer='{"x":1}'), kept(results=(X, None))),
        (kept(results=(X, None), answer='{"y":2}'), kept(results=('[{"x":1,"y":2},[]]', None))),
        (kept("[1]", results=('[{"":[2]},[]]', None)), kept("[2]")),
    ],
)
def test_what_moves_into_the_context_is_nothing_new(before: SagaInstance, after: SagaInstance):
    assert holds_no_more(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (kept(), kept('{"a":2}')),
        (kept('{"a":1,"b":2}'), kept()),  # it may compress less than what it replaces
        (kept(), kept(results=(X, None))),
        (kept(), kept(answer="{}")),
        (kept(results=(X, None)), kept(results=(X, X))),
        (kept(results=(X, None)), kept(results=(Y, None))),
        (kept(results=(X, None)), kept(results=(X, None), answer='{"x":1}')),
        (kept(answer='{"x":1}'), kept(answer='{"x":1,"y":1}')),
        (kept(answer='{"x":1}'), kept(answer='{"x":2}')),
        (kept(results=(X, None)), kept('{"a":1,"x":1,"y":1}')),
        (kept(results=(X, None)), kept('{"a":1,"x":2}')),
        (kept("[1]", results=(X, None)), kept("[2]")),
    ],
)
def test_what_was_not_there_is_new(before: SagaInstance, after: SagaInstance):
    assert not holds_no_more(before, after)


# -- what expires --------------------------------------------------------------------


def test_a_saga_is_found_up_to_the_end_of_its_retention():
    store = InMemorySagaStore()
    i = stored(store, replace(new(D), expires_at=T0 + SECOND))
    assert store.find(i.key, T0 + SECOND) == i
    assert store.find(i.key, T0 + SECOND + 1) is None


def test_the_clock_decides_what_is_expired_for_the_orchestrators_port():
    now = [T0]
    store = InMemorySagaStore(clock=lambda: now[0])
    i = stored(store, replace(new(D), expires_at=T0 + SECOND))
    assert asyncio.run(store.load("s1")) == i
    now[0] = T0 + SECOND + 1
    assert asyncio.run(store.load("s1")) is None
    assert asyncio.run(store.save(new(D))).version == 1


def test_without_a_clock_nothing_expires():
    store = InMemorySagaStore()
    i = stored(store, replace(new(D), expires_at=1))
    assert asyncio.run(store.load("s1")) == i


def test_an_expired_saga_makes_room_for_another():
    store = InMemorySagaStore()
    stored(store, replace(new(D), expires_at=T0))
    assert isinstance(store.create(new(D, at=T0)), Refused)
    assert isinstance(store.create(new(D, at=T0 + 1)), Written)


def test_an_expired_saga_is_not_claimed():
    store = InMemorySagaStore()
    i = stored(store, replace(new(D), expires_at=T0 - 1))
    assert take(store, i) == Refused(None)


# -- conditions ----------------------------------------------------------------------


def test_versions_count_the_state_writes():
    store = InMemorySagaStore()
    i = stored(store, new(D))
    assert i.version == 1
    taken = take(store, i)
    assert isinstance(taken, Written)
    assert taken.instance.version == 2
    written = store.commit(taken.instance, replace(taken.instance, hops=9), claim_id="c1")
    assert isinstance(written, Written)
    assert (written.instance.version, written.instance.hops) == (3, 9)
    swept = store.mark_swept(written.instance, replace(written.instance, sweep_at=7, sweeps=1))
    assert isinstance(swept, Written)
    assert swept.instance == replace(written.instance, sweep_at=7, sweeps=1)
    assert store.find(i.key, T0) == swept.instance


def test_a_claim_is_granted_as_it_was_asked_for():
    store = InMemorySagaStore()
    i = stored(store, new(D))
    taken = take(store, i)
    assert isinstance(taken, Written)
    lease = taken.instance.lane.lease
    assert lease is not None
    assert (lease.id, lease.until, taken.instance.updated_at) == ("c1", T0 + LEASE, T0)


@pytest.mark.parametrize(
    "changes", [{"epoch": 2}, {"definition": "order@0#0"}, {"now": T0 - MINUTE}]
)
def test_a_claim_that_is_refused_gets_to_see_the_saga(changes):
    store = InMemorySagaStore()
    i = stored(store, new(D))
    assert take(store, i, **changes) == Refused(i)
    assert store.find(i.key, T0) == i


def test_a_commit_needs_the_claim_and_the_version():
    store = InMemorySagaStore()
    free = stored(store, new(D))
    assert store.commit(free, free, claim_id="c1") == Refused(free)
    taken = take(store, free)
    assert isinstance(taken, Written)
    held = taken.instance
    assert store.commit(held, held, claim_id="c2") == Refused(held)
    assert store.commit(free, held, claim_id="c1") == Refused(held)
    assert store.commit(new(D, saga_id="s2"), held, claim_id="c1") == Refused(None)


def test_a_surplus_message_is_for_the_current_item_that_nobody_has():
    store = InMemorySagaStore()
    i = stored(store, new(D))
    assert store.redispatch(new(D, saga_id="s2"), nudge_id="n", now=T0) == Refused(None)
    older = replace(i, lane=replace(i.lane, epoch=0))
    assert store.redispatch(older, nudge_id="n", now=T0) == Refused(i)
    won = store.redispatch(i, nudge_id="n", now=T0)
    assert isinstance(won, Written)
    assert won.instance == replace(i, lane=replace(i.lane, nudge=Nudge("n", T0)))
    assert store.redispatch(i, nudge_id="m", now=T0) == Refused(won.instance)


G = saga(step("a", group="g"), step("b", group="g"), step("c", group="g"), "d")
A, B = 0, 1  # the places of two branches


def test_a_surplus_message_of_a_branch_is_for_its_current_item():
    store = InMemorySagaStore()
    i = stored(store, new(G))
    older = replace(i, branches=(replace(i.branches[A], epoch=0), *i.branches[B:]))
    assert store.redispatch(older, nudge_id="n", now=T0, branch=A) == Refused(i)
    won = store.redispatch(older, nudge_id="n", now=T0, branch=B)
    assert isinstance(won, Written)
    assert [n.nudge for n in won.instance.branches] == [None, Nudge("n", T0), None]
    assert won.instance.lane.nudge is None
    left = replace(i, branches=i.branches[B:])
    found = store.redispatch(left, nudge_id="m", now=T0, branch=A)  # seen gone: the main lane's
    assert isinstance(found, Written)
    assert found.instance == replace(won.instance, lane=replace(i.lane, nudge=Nudge("m", T0)))


def test_a_branch_that_is_gone_takes_no_nudge():
    store = InMemorySagaStore()
    i = stored(store, new(G))
    assert i.branches[A].epoch == i.lane.epoch
    gone = store.record(i, replace(i, branches=i.branches[B:]))
    assert isinstance(gone, Written)
    assert store.redispatch(i, nudge_id="n", now=T0, branch=A) == Refused(gone.instance)


def nudged(store: InMemorySagaStore, i: SagaInstance, nudge_id: str, branch: int | None) -> None:
    assert isinstance(store.redispatch(i, nudge_id=nudge_id, now=T0, branch=branch), Written)


def test_a_commit_leaves_nudges_that_it_has_not_seen_alone():
    store = InMemorySagaStore()
    taken = take(store, stored(store, new(G)), branch=A)
    assert isinstance(taken, Written)
    before = taken.instance
    nudged(store, before, "n", B)
    nudged(store, before, "m", None)
    done = replace(before, branches=before.branches[B:], hops=9)
    written = store.commit(before, done, claim_id="c1")
    assert isinstance(written, Written)
    assert [n.nudge for n in written.instance.branches] == [Nudge("n", T0), None]
    assert written.instance.lane.nudge == Nudge("m", T0)
    assert (written.instance.hops, written.instance.version) == (9, 3)


def test_a_commit_ends_the_nudges_of_the_lanes_that_it_moves():
    store = InMemorySagaStore()
    taken = take(store, stored(store, new(G)), branch=A)
    assert isinstance(taken, Written)
    before = taken.instance
    nudged(store, before, "n", B)
    nudged(store, before, "m", None)
    b = replace(before.branches[B], due_at=T0 + MINUTE)
    moved = replace(before, branches=(b, before.branches[2]), lane=replace(before.lane, epoch=2))
    written = store.commit(before, moved, claim_id="c1")
    assert isinstance(written, Written)
    assert written.instance == replace(moved, version=3)


def test_a_commit_that_removes_the_nudge_it_saw_removes_it():
    store = InMemorySagaStore()
    i = stored(store, new(G))
    nudged(store, i, "m", None)
    taken = take(store, i, branch=A)
    assert isinstance(taken, Written)
    before = taken.instance
    then = replace(before, lane=replace(before.lane, nudge=None))
    written = store.commit(before, then, claim_id="c1")
    assert isinstance(written, Written)
    assert written.instance.lane.nudge is None


def test_a_record_needs_the_guard_of_every_branch_that_it_saw():
    store = InMemorySagaStore()
    i = stored(store, new(G))
    nudged(store, i, "n", B)
    assert store.record(i, i) == Refused(store.find(i.key, T0))


def test_a_record_needs_the_version_and_the_guard_that_it_saw():
    store = InMemorySagaStore()
    i = stored(store, new(D))
    assert store.record(new(D, saga_id="s2"), i) == Refused(None)
    assert store.record(replace(i, version=7), i) == Refused(i)
    won = store.redispatch(i, nudge_id="n", now=T0)
    assert isinstance(won, Written)
    assert store.record(i, i) == Refused(won.instance)
    written = store.record(won.instance, replace(won.instance, hops=3))
    assert isinstance(written, Written)
    assert (written.instance.hops, written.instance.version) == (3, 2)


def test_a_sweep_is_marked_by_the_first_sweeper_and_changes_nothing_else():
    store = InMemorySagaStore()
    i = stored(store, new(D))
    after = replace(i, sweep_at=T0 + MINUTE, sweeps=1, hops=99)
    assert store.mark_swept(new(D, saga_id="s2"), after) == Refused(None)
    assert store.mark_swept(replace(i, sweep_at=1), after) == Refused(i)
    marked = store.mark_swept(i, after)
    assert marked == Written(replace(i, sweep_at=T0 + MINUTE, sweeps=1))
    assert isinstance(store.mark_swept(i, after), Refused)


def test_a_saga_that_rests_is_not_marked():
    store = InMemorySagaStore()
    i = stored(store, Walk(saga("a")).stall().i)
    assert store.mark_swept(i, i) == Refused(i)


def test_saving_needs_the_version_that_is_stored():
    store = InMemorySagaStore()
    with pytest.raises(StaleInstanceError):
        asyncio.run(store.save(replace(new(D), version=1)))
    first = asyncio.run(store.save(new(D)))
    assert first.version == 1
    with pytest.raises(StaleInstanceError) as caught:
        asyncio.run(store.save(new(D)))
    assert (caught.value.saga_id, caught.value.version) == ("s1", 0)
    assert asyncio.run(store.save(first)).version == 2


# -- whose sagas ---------------------------------------------------------------------


def test_the_orchestrators_port_sees_one_tenant():
    store = InMemorySagaStore(tenant="acme")
    mine = stored(store, replace(new(D, saga_id="s2"), tenant="acme"))
    first = stored(store, replace(new(D, saga_id="s1"), tenant="acme"))
    stored(store, new(D, saga_id="s3"))
    done = Walk(saga("a")).claim().done().i
    stored(store, replace(done, id="s4", tenant="acme"))
    failed = Walk(saga("a")).stall().i
    stored(store, replace(failed, id="s5", tenant="acme"))
    assert asyncio.run(store.load("s2")) == mine
    assert asyncio.run(store.load("s3")) is None
    assert asyncio.run(store.list_incomplete()) == [first.id, mine.id]


def test_without_a_tenant_it_is_the_default_one():
    store = InMemorySagaStore()
    stored(store, new(D))
    assert asyncio.run(store.load("s1")) is not None


# -- what is due ---------------------------------------------------------------------


def test_what_is_due_is_open_of_that_shard_and_oldest_first():
    store = InMemorySagaStore()
    ids = [f"saga-{n}" for n in range(200)]
    shard = shard_of(ids[0])
    mine = [i for i in ids if shard_of(i) == shard]
    assert len(mine) > 5
    for n, saga_id in enumerate(ids):
        stored(store, replace(new(D, saga_id=saga_id), sweep_at=T0 + 1000 - n))
    expected = [DueSaga(Key("default", i), T0 + 1000 - ids.index(i)) for i in reversed(mine)]
    assert store.due(shard, T0 + 1000, 1000) == expected
    assert store.due(shard, T0 + 1000, 2) == expected[:2]
    until = expected[2].sweep_at
    assert store.due(shard, until, 1000) == expected[:3]
    assert store.due(shard, until - 1, 1000) == expected[:2]


def test_sagas_that_are_due_at_one_moment_come_by_their_ids():
    store = InMemorySagaStore()
    shard = shard_of("saga-0")
    ids = [i for i in (f"saga-{n}" for n in range(100)) if shard_of(i) == shard]
    for saga_id in reversed(ids):
        stored(store, new(D, saga_id=saga_id))
    assert [d.key.saga_id for d in store.due(shard, T0 + DAY, 9)] == sorted(ids)[:9]


@pytest.mark.parametrize("why", ["failed", "closed", "never"])
def test_a_saga_that_rests_is_not_due(why):
    store = InMemorySagaStore()
    w = Walk(saga("a"))
    if why == "failed":
        w.stall()
    elif why == "closed":
        w.claim().done()
        w.i = replace(w.i, sweep_at=T0)
    else:
        w.i = replace(w.i, sweep_at=None)
    i = stored(store, w.i)
    assert store.due(shard_of(i.id), T0 + DAY, 9) == []


# -- pages ---------------------------------------------------------------------------


def ids_of(store: InMemorySagaStore, **changes: object) -> tuple[list[str], str | None]:
    values: dict[str, object] = {
        "states": ALL,
        "name": None,
        "cursor": None,
        "limit": 10,
        "now": T0,
    }
    page = store.page("default", **{**values, **changes})  # type: ignore[arg-type]
    return [i.id for i in page.instances], page.cursor


def five() -> InMemorySagaStore:
    store = InMemorySagaStore()
    for n in (3, 1, 5, 2, 4):
        stored(store, new(D, saga_id=f"s{n}", at=T0 + n))
    stored(store, replace(new(D, saga_id="other"), tenant="acme"))
    return store


def test_a_page_shows_a_tenants_sagas_newest_first():
    assert ids_of(five()) == (["s5", "s4", "s3", "s2", "s1"], None)


def test_sagas_of_one_moment_stand_on_a_page_by_their_ids():
    store = InMemorySagaStore()
    for saga_id in ("b", "c", "a"):
        stored(store, new(D, saga_id=saga_id))
    first, cursor = ids_of(store, limit=1)
    assert first == ["c"]
    assert ids_of(store, cursor=cursor) == (["b", "a"], None)


def test_pages_follow_each_other_and_only_the_last_has_no_cursor():
    store = five()
    one, cursor = ids_of(store, limit=2)
    assert (one, cursor is None) == (["s5", "s4"], False)
    stored(store, new(D, saga_id="s9", at=T0 + 9))
    two, cursor = ids_of(store, limit=2, cursor=cursor)
    assert (two, cursor is None) == (["s3", "s2"], False)
    assert ids_of(store, limit=2, cursor=cursor) == (["s1"], None)
    assert ids_of(store, limit=6) == (["s9", "s5", "s4", "s3", "s2", "s1"], None)


def test_a_page_filters_by_state():
    store = five()
    stored(store, replace(Walk(saga("a")).claim().done().i, id="done"))
    assert ids_of(store, states=frozenset({SagaState.COMPLETED})) == (["done"], None)
    assert ids_of(store, states=frozenset({SagaState.CREATED}))[0] == ["s5", "s4", "s3", "s2", "s1"]
    assert ids_of(store, states=frozenset({SagaState.RUNNING})) == ([], None)


def test_a_page_that_filters_by_name_may_hold_fewer_and_goes_on_all_the_same():
    store = five()
    stored(store, new(saga("a", name="other"), saga_id="s0", at=T0))
    ids, cursor = ids_of(store, name="other", limit=3)
    assert ids == []
    assert cursor is not None
    assert ids_of(store, name="other", limit=3, cursor=cursor) == (["s0"], None)
    assert ids_of(store, name="order")[0] == ["s5", "s4", "s3", "s2", "s1"]


def test_a_page_leaves_out_what_is_expired():
    store = five()
    stored(store, replace(new(D, saga_id="old", at=T0), expires_at=T0 + 5))
    assert "old" in ids_of(store, now=T0 + 5)[0]
    assert "old" not in ids_of(store, now=T0 + 6)[0]


def test_a_forged_cursor_is_refused():
    with pytest.raises(ValueError, match="not a cursor"):
        ids_of(five(), cursor="forged")


def test_a_walk_through_the_store_ends_where_the_core_says():
    """One move through the real store, to see that nothing is lost on the way."""
    store = InMemorySagaStore()
    policy = RetryPolicy(max_attempts=2, base=timedelta(0))
    w = Walk(saga(step("a", retry=policy)))
    w.i = stored(store, w.i)
    taken = take(store, w.i)
    assert isinstance(taken, Written)
    assert taken.instance == replace(w.claim().i, version=2)
