"""A deployment that would strand a saga is told so before it happens."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from examples.services import ServiceError
from saga_cli.problems import Exit
from saga_core import Saga, SagaState

ORDER, TRAVEL = "examples.order:order", "examples.travel:travel"


@pytest.fixture
def running(stack) -> str:
    """A saga that has begun and is not over."""
    saga_id: str = stack.http("POST", "/sagas/order", {"sku": "tea"}, key="k").body["id"]
    return saga_id


@pytest.fixture
def reshaped(monkeypatch: pytest.MonkeyPatch) -> str:
    """An order of the same name and version, with another step."""
    order = Saga("order")

    @order.step(compensatable=False)
    def pray(ctx: object) -> None:
        """Another step."""

    module = ModuleType("reshaped")
    module.order = order  # type: ignore[attr-defined]  # a module made up for this test
    monkeypatch.setitem(sys.modules, "reshaped", module)
    return "reshaped:order"


def guard(saga, here, definitions: str, *more: str):
    return saga("guard", "--definitions", definitions, *here, *more)


def test_what_everybody_needs_is_there(saga, here, running):
    ran = guard(saga, here, f"{ORDER},{TRAVEL}")
    assert ran.exit == Exit.OK
    assert ran.out == "looked at 1 unfinished sagas: all of them find their definition\n"


def test_a_definition_that_is_left_out_is_named_with_its_sagas(saga, here, running):
    ran = guard(saga, here, TRAVEL)
    assert ran.exit == Exit.NO
    assert "1 sagas need it (1 CREATED)" in ran.out
    assert running in ran.out
    assert "order@1 is not listed: keep it until its last saga has ended" in ran.out
    assert "1 of them would be stuck; do not deploy this" in ran.out


def test_a_definition_that_is_changed_under_its_version_is_named(saga, here, running, reshaped):
    ran = guard(saga, here, reshaped)
    assert ran.exit == Exit.NO
    assert "order@1 is listed with other steps" in ran.out
    assert "give the new steps a new version" in ran.out


def test_a_failed_saga_needs_its_definition_too(saga, stack, here, the_world, running):
    the_world.refuse("shipping.ship", ServiceError("no carrier"))
    the_world.break_down("payments.refund", ServiceError("down"))
    stack.run_until_quiet()
    assert stack.saga(running).state is SagaState.FAILED
    (missing,) = guard(saga, here, TRAVEL, "--json").json["missing"]
    assert missing["states"] == {"FAILED": 1}
    assert missing["sagas"] == [running]


def test_a_saga_that_has_ended_needs_nothing(saga, stack, here, running):
    stack.run_until_quiet()
    assert stack.saga(running).state is SagaState.COMPLETED
    assert guard(saga, here, TRAVEL, "--json").json == {"looked_at": 0, "missing": []}


def test_of_many_sagas_the_first_few_are_named(saga, stack, here):
    for n in range(7):
        stack.http("POST", "/sagas/order", {"sku": "tea"}, key=f"k{n}")
    ran = guard(saga, here, TRAVEL)
    assert "7 sagas need it" in ran.out
    assert "..." in ran.out
    assert len(guard(saga, here, TRAVEL, "--json").json["missing"][0]["sagas"]) == 7


def test_a_table_that_cannot_be_reached_is_no_all_clear(saga, here):
    elsewhere = ["--table", "nowhere", *here[2:]]
    assert guard(saga, elsewhere, ORDER).exit == Exit.UNAVAILABLE
