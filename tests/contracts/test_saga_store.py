"""What SagaStore promises, for the store in memory and for the table alike."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import TypeVar

import pytest

from saga_core.errors import ItemTooLargeError, StaleInstanceError
from saga_core.instance import Key, SagaState
from saga_core.orchestrator import Environment, SagaOrchestrator
from saga_core.ports import ITEM_BUDGET
from tests.contracts.sagas import (
    BOOM,
    ORDER,
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
)

KEY = Key("default", "s1")
T = TypeVar("T")


def run(coroutine: Coroutine[object, object, T]) -> T:
    return asyncio.run(coroutine)


def test_version_zero_creates(under_test):
    assert run(under_test.store.save(new())) == at_version(new(), 1)
    assert under_test.stored(KEY) == at_version(new(), 1)


def test_version_zero_creates_only_once(under_test):
    first = run(under_test.store.save(new()))
    with pytest.raises(StaleInstanceError) as stale:
        run(under_test.store.save(new(incarnation="12345678")))
    assert stale.value.saga_id == "s1"
    assert under_test.stored(KEY) == first


def test_every_save_is_one_version_on(under_test):
    first = run(under_test.store.save(new()))
    second = run(under_test.store.save(claimed(first)))
    assert second == at_version(claimed(first), 2)
    assert under_test.stored(KEY) == second


def test_a_stale_writer_is_refused(under_test):
    first = run(under_test.store.save(new()))
    second = run(under_test.store.save(claimed(first)))
    with pytest.raises(StaleInstanceError) as stale:
        run(under_test.store.save(cancelled(first)))
    assert stale.value.version == 1
    assert under_test.stored(KEY) == second


def test_a_writer_from_the_future_is_refused(under_test):
    first = run(under_test.store.save(new()))
    with pytest.raises(StaleInstanceError):
        run(under_test.store.save(at_version(first, 2)))
    assert under_test.stored(KEY) == first


def test_a_save_of_what_is_not_there_is_refused(under_test):
    with pytest.raises(StaleInstanceError):
        run(under_test.store.save(at_version(new(), 1)))
    assert under_test.stored(KEY) is None


def test_what_is_saved_is_loaded(under_test):
    saved = run(under_test.store.save(compensating()))
    assert run(under_test.store.load("s1")) == saved
    assert run(under_test.store.load("s2")) is None


def test_a_saga_is_loaded_until_its_retention_is_over(under_test):
    old = under_test.seed(at_version(completed(new()), 7))
    under_test.clock.now = old.expires_at
    assert run(under_test.store.load("s1")) == old
    under_test.clock.now += 1
    assert run(under_test.store.load("s1")) is None


def test_a_saga_whose_retention_is_over_counts_as_version_zero(under_test):
    old = under_test.seed(at_version(completed(new()), 7))
    under_test.clock.now = old.expires_at
    with pytest.raises(StaleInstanceError):
        run(under_test.store.save(new()))
    under_test.clock.now += 1
    with pytest.raises(StaleInstanceError):
        run(under_test.store.save(old))
    assert run(under_test.store.save(new())) == at_version(new(), 1)


def test_a_closed_saga_can_still_be_saved_within_its_retention(under_test):
    # The last write of an orchestrator whose answer was lost is repeated by nobody else.
    old = under_test.seed(at_version(completed(new()), 7))
    under_test.clock.now = old.expires_at
    assert run(under_test.store.save(old)).version == 8


def test_only_the_own_tenants_sagas_are_seen(under_test):
    under_test.seed(at_version(new(tenant="other"), 1))
    assert run(under_test.store.load("s1")) is None
    assert run(under_test.store.list_incomplete()) == []


def test_incomplete_is_whatever_moves_by_itself(under_test):
    sagas = {
        "created": at_version(new("created"), 1),
        "running": at_version(succeeded(claimed(new("running"))), 3),
        "claimed": at_version(claimed(new("claimed")), 2),
        "compensating": at_version(compensating(new("compensating")), 5),
        "completed": at_version(completed(new("completed")), 7),
        "compensated": at_version(compensated(new("compensated")), 3),
        "failed": parked(new("failed")),
    }
    for saga in sagas.values():
        under_test.seed(saga)
    listed = run(under_test.store.list_incomplete())
    assert listed == ["claimed", "compensating", "created", "running"]


def test_a_saga_that_ends_is_no_longer_incomplete(under_test):
    stored = run(under_test.store.save(new()))
    assert run(under_test.store.list_incomplete()) == ["s1"]
    run(under_test.store.save(completed(stored)))
    assert run(under_test.store.list_incomplete()) == []


# -- sizes -----------------------------------------------------------------------


def test_a_saga_that_does_not_fit_is_not_created(under_test):
    with pytest.raises(ItemTooLargeError) as refused:
        run(under_test.store.save(new(context=over_budget())))
    assert refused.value.limit == ITEM_BUDGET
    assert under_test.stored(KEY) is None


def test_a_context_that_does_not_fit_leaves_the_saga_as_it_was(under_test):
    first = run(under_test.store.save(new()))
    with pytest.raises(ItemTooLargeError):
        run(under_test.store.save(replace(first, context_text=over_budget())))
    assert under_test.stored(KEY) == first


def test_a_context_that_fitted_may_grow_past_the_budget_by_its_records(under_test):
    first = run(under_test.store.save(new(context=incompressible(ITEM_BUDGET * 4 // 3 - 3_000))))
    noted = replace(first.steps[0], error=replace(BOOM, message="x" * 40_000))
    grown = replace(first, steps=(noted, *first.steps[1:]))
    second = run(under_test.store.save(grown))
    assert under_test.stored(KEY) == second == at_version(grown, 2)


def test_a_stale_writer_is_stale_whatever_its_size(under_test):
    first = run(under_test.store.save(new()))
    run(under_test.store.save(claimed(first)))
    with pytest.raises(StaleInstanceError):
        run(under_test.store.save(replace(first, context_text=over_budget())))


# -- in use ----------------------------------------------------------------------


def test_the_orchestrator_runs_on_it(under_test):
    environment = Environment(now_ms=under_test.clock.now_ms)
    orchestrator = SagaOrchestrator(ORDER, under_test.store, environment=environment)
    saga_id = run(orchestrator.start({"a": 1}))
    stored = run(orchestrator.get_state(saga_id))
    assert stored is not None
    assert stored.state is SagaState.COMPLETED
    assert stored.version == 1 + 2 * len(ORDER.steps)
    assert under_test.stored(Key("default", saga_id)).state is SagaState.COMPLETED
