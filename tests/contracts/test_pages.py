"""Listing: newest first, every state, stable cursors, tenants apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saga_core.identity import encode_cursor
from saga_core.instance import SagaInstance, SagaState
from saga_core.ports import Page
from tests.contracts.harness import StoreUnderTest
from tests.contracts.sagas import (
    ORDER,
    at_version,
    claimed,
    compensated,
    compensating,
    completed,
    definition,
    new,
    parked,
    succeeded,
)
from tests.fakes.clock import T0

EVERY = frozenset(SagaState)
OPEN = frozenset({SagaState.CREATED, SagaState.RUNNING})  # a fifth of the queries
TRAVEL = definition("travel")

BRING = {
    SagaState.CREATED: lambda i: at_version(i, 1),
    SagaState.RUNNING: lambda i: at_version(succeeded(claimed(i)), 3),
    SagaState.COMPENSATING: lambda i: at_version(compensating(i), 7),
    SagaState.COMPLETED: lambda i: at_version(completed(i), 7),
    SagaState.COMPENSATED: lambda i: at_version(compensated(i), 3),
    SagaState.FAILED: parked,
}


def page(
    under_test: StoreUnderTest,
    *,
    tenant: str = "default",
    states: frozenset[SagaState] = OPEN,
    name: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
    now: int = T0,
) -> Page:
    return under_test.store.page(
        tenant, states=states, name=name, cursor=cursor, limit=limit, now=now
    )


def pages(under_test: StoreUnderTest, **filters) -> Iterator[Page]:
    cursor = None
    while True:
        here = page(under_test, cursor=cursor, **filters)
        yield here
        cursor = here.cursor
        if cursor is None:
            return


def ids(under_test: StoreUnderTest, **filters) -> list[str]:
    return [i.id for p in pages(under_test, **filters) for i in p.instances]


def seed(under_test: StoreUnderTest, count: int) -> list[SagaInstance]:
    sagas = [at_version(new(f"id{n}", at=T0 - 10 * n), 1) for n in range(count)]
    for saga in sagas:
        under_test.seed(saga)
    return sagas


def test_no_sagas_are_one_empty_page(under_test):
    assert page(under_test, states=EVERY) == Page((), None)


def test_a_page_is_newest_first(under_test):
    sagas = seed(under_test, 5)
    assert page(under_test) == Page(tuple(sagas), None)


def test_sagas_of_one_moment_are_in_the_order_of_their_ids(under_test):
    for saga_id in ("b", "c", "a"):
        under_test.seed(at_version(new(saga_id), 1))
    assert ids(under_test, limit=1) == ["c", "b", "a"]


def test_pages_hold_every_saga_once(under_test):
    sagas = seed(under_test, 45)
    walked = list(pages(under_test, limit=10))
    assert [i for p in walked for i in p.instances] == sagas
    assert [len(p.instances) for p in walked] == [10, 10, 10, 10, 5]


def test_a_last_page_that_is_full_is_known_to_be_the_last(under_test):
    seed(under_test, 20)
    assert len(list(pages(under_test, limit=10))) == 2


def test_a_page_may_be_larger_than_one_batch_of_reads(under_test):
    sagas = seed(under_test, 130)
    assert page(under_test, limit=120).instances == tuple(sagas[:120])


@pytest.mark.parametrize("state", sorted(EVERY), ids=str)
def test_a_state_lists_its_own(under_test, state):
    for one, bring in BRING.items():
        under_test.seed(bring(new(one.value.lower())))
    assert ids(under_test, states=frozenset({state})) == [state.value.lower()]
    others = EVERY - {state}
    assert set(ids(under_test, states=others)) == {o.value.lower() for o in others}


def test_a_name_lists_its_own(under_test):
    for n in range(6):
        saga = new(f"id{n}", at=T0 - n, saga=TRAVEL if n % 2 else ORDER)
        under_test.seed(at_version(saga, 1))
    assert ids(under_test, name="travel", limit=2) == ["id1", "id3", "id5"]
    assert ids(under_test, name="nobody", limit=2) == []


def test_a_tenant_lists_its_own(under_test):
    under_test.seed(at_version(new("mine"), 1))
    under_test.seed(at_version(new("theirs", tenant="other"), 1))
    assert ids(under_test) == ["mine"]
    assert ids(under_test, tenant="other") == ["theirs"]


def test_a_cursor_stays_within_the_tenant_that_uses_it(under_test):
    for n in range(4):
        under_test.seed(at_version(new(f"id{n}", at=T0 - n), 1))
        under_test.seed(at_version(new(f"id{n}", tenant="other", at=T0 - n), 1))
    theirs = page(under_test, tenant="other", limit=2).cursor
    rest = page(under_test, cursor=theirs).instances
    assert [(i.tenant, i.id) for i in rest] == [("default", "id2"), ("default", "id3")]


def test_a_cursor_may_name_a_place_where_nothing_is(under_test):
    sagas = seed(under_test, 3)
    cursor = encode_cursor(f"{T0 - 5:013d}#zzz")
    assert page(under_test, cursor=cursor).instances == tuple(sagas[1:])


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "W10", encode_cursor("T#s1"), "é"])
def test_what_is_no_cursor_is_refused(under_test, cursor):
    with pytest.raises(ValueError, match="cursor"):
        page(under_test, cursor=cursor)


def test_what_is_over_is_not_listed(under_test):
    old = under_test.seed(at_version(completed(new("old")), 7))
    assert old.expires_at is not None
    under_test.seed(at_version(new("young", at=T0 + 1), 1))
    assert ids(under_test, states=EVERY, now=old.expires_at) == ["young", "old"]
    assert ids(under_test, states=EVERY, now=old.expires_at + 1) == ["young"]


def test_a_saga_that_moves_between_two_pages_is_not_lost(under_test):
    sagas = seed(under_test, 6)
    first = page(under_test, states=EVERY, limit=3)
    for saga in sagas:
        under_test.seed(completed(saga))
    rest = page(under_test, states=EVERY, limit=3, cursor=first.cursor)
    assert [i.id for i in first.instances + rest.instances] == [s.id for s in sagas]


def test_a_saga_that_starts_between_two_pages_shifts_nothing(under_test):
    sagas = seed(under_test, 6)
    first = page(under_test, limit=3)
    under_test.seed(at_version(new("late", at=T0 + 1), 1))
    rest = page(under_test, limit=3, cursor=first.cursor)
    assert [i.id for i in first.instances + rest.instances] == [s.id for s in sagas]


@given(
    moments=st.lists(st.integers(T0 - 3, T0), max_size=8),
    states=st.lists(st.sampled_from(sorted(EVERY)), min_size=8, max_size=8),
    wanted=st.frozensets(st.sampled_from(sorted(EVERY)), min_size=1),
    limit=st.integers(2, 5),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
def test_pages_are_the_sorted_list_cut_in_pieces(under_test, moments, states, wanted, limit):
    tenant = f"t{abs(hash((tuple(moments), tuple(states), wanted, limit)))}"  # one for each example
    sagas = [
        BRING[state](new(f"id{n}", at=at, tenant=tenant))
        for n, (at, state) in enumerate(zip(moments, states, strict=False))
    ]
    for saga in sagas:
        under_test.seed(saga)
    expected = sorted(
        (s for s in sagas if s.state in wanted), key=lambda s: (s.created_at, s.id), reverse=True
    )
    assert ids(under_test, tenant=tenant, states=wanted, limit=limit) == [s.id for s in expected]
