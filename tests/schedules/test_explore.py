"""The checker that authors get: on the shipped examples, and on sagas with mistakes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from examples.checkout import Checkout, Line, checkout
from saga_core import RetryPolicy, Saga, SagaDefinition, StepCall
from saga_core.testing import explore, prove_rollback
from tests.schedules.examples import EXAMPLES, Services


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_single_fault_of_an_example_ends_well(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saga, context = EXAMPLES[name]
    report = explore(saga, context, Services())
    assert report.ok, report
    assert str(report) == f"exploration of {name}: {report.runs} runs, 0 findings"
    with capsys.disabled():
        print(f"\n  {name}: {report.runs} runs, one fault each")  # noqa: T201


def test_every_pair_of_faults_of_an_example_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a cart that sells out and is rolled back; ``make simulate`` takes all that complete."""
    cart = Checkout(lines=[Line(sku="tea"), Line(sku="unobtainium")])
    report = explore(checkout, cart, Services(), faults=2)
    assert report.ok, report
    with capsys.disabled():
        print(f"\n  sold out: {report.runs} runs, one fault or two")  # noqa: T201


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_roll_back_of_an_example_leaves_nothing(name: str) -> None:
    saga, context = EXAMPLES[name]
    report = prove_rollback(saga, context, Services())
    assert report.ok, report
    definition = saga.build() if isinstance(saga, Saga) else saga
    assert report.runs == 2 * len(definition.steps)


class Bank:
    """A fake that remembers charges by key, and keeps no tombstones."""

    def __init__(self) -> None:
        self.charges: dict[str, int] = {}

    def reset(self) -> None:
        self.charges.clear()

    def snapshot(self) -> object:
        return dict(self.charges)


def bad_order(bank: Bank) -> SagaDefinition:
    """Refunds by what the context says, and not by the key."""
    saga = Saga("bad_order")

    @saga.step
    def charge(ctx: dict[str, str], call: StepCall) -> None:
        bank.charges[call.idempotency_key] = 5
        ctx["charge"] = call.idempotency_key

    @charge.compensate
    def refund(ctx: dict[str, str]) -> None:
        if "charge" in ctx:
            del bank.charges[ctx["charge"]]

    @saga.step(compensatable=False)
    def ship(_ctx: object) -> None:
        pass

    return saga.build()


def test_an_undo_that_trusts_the_context_is_found() -> None:
    bank = Bank()
    report = prove_rollback(bad_order(bank), {}, bank)
    (finding,) = report.findings
    assert finding.schedule == "charge fails after its effect, its answer lost"
    assert "left standing" in finding.wrong
    assert "step charge, attempt 1" in str(report)


def test_a_lost_answer_is_named_with_the_effect_that_stands() -> None:
    bank = Bank()
    report = explore(bad_order(bank), {}, bank)
    assert not report.ok
    assert report.findings[0].schedule == "lose answer at step charge, attempt 1"


def test_an_undo_that_fails_for_good_is_found() -> None:
    bank = Bank()
    saga = Saga("stuck")

    @saga.step
    def charge(_ctx: object, call: StepCall) -> None:
        bank.charges[call.idempotency_key] = 5

    @charge.compensate
    def refund(_ctx: object) -> None:
        raise ValueError("never")

    @saga.step(compensatable=False)
    def ship(_ctx: object) -> None:
        pass

    report = prove_rollback(saga, {}, bank)
    assert {f.wrong for f in report.findings} == {"it stopped (ValueError: never)"}


def test_a_step_that_ignores_its_key_is_found() -> None:
    class Counter:
        """Books whatever it is told, as often as it is told."""

        booked: list[int]

        def reset(self) -> None:
            self.booked = []

        def snapshot(self) -> object:
            return list(self.booked)

    counter = Counter()
    saga = Saga("counting")

    @saga.step(compensatable=False)
    def book(_ctx: object) -> None:
        counter.booked.append(1)

    report = explore(saga, {}, counter)
    assert any("not as after a run without faults" in f.wrong for f in report.findings)


def test_an_undo_that_never_gives_up_is_found() -> None:
    bank = Bank()
    saga = Saga("endless")

    @saga.step
    def charge(_ctx: object) -> None:
        pass

    @charge.compensate(retry=RetryPolicy(max_attempts=1_000_000, cap=timedelta(seconds=1)))
    def refund(_ctx: object) -> None:
        raise ValueError("not now")

    report = prove_rollback(saga, {}, bank)
    assert [f.wrong for f in report.findings] == ["nothing will move it any more"]


class LiveBank(Bank):
    """Hands out what it keeps, which goes on changing."""

    def snapshot(self) -> object:
        return self.charges


def test_a_snapshot_that_goes_on_changing_is_copied() -> None:
    bank = LiveBank()
    assert not prove_rollback(bad_order(bank), {}, bank).ok


def test_a_saga_that_never_gets_far_is_told() -> None:
    bank = Bank()
    saga = Saga("mistyped")

    @saga.step
    def charge(ctx: dict[str, str]) -> None:
        ctx["nmae"] += "!"

    @charge.compensate
    def refund(_ctx: object) -> None:
        pass

    for proof in (explore, prove_rollback):
        report = proof(saga, {}, bank)
        assert report.ok
        assert report.without_faults == "COMPENSATED at charge, KeyError: 'nmae'"
        assert f"without any fault it ended {report.without_faults}" in str(report)


@dataclass
class Typed:
    """A context."""

    name: str


def test_a_context_that_is_none_of_this_sagas_is_refused() -> None:
    saga = Saga("typed", context=Typed)
    saga.step(name="a", compensatable=False)(lambda _ctx: None)
    with pytest.raises(TypeError):
        prove_rollback(saga, {"nmae": "x"}, Bank())


def test_an_async_test_is_told_that_it_must_not_be_one() -> None:
    async def test() -> None:
        explore(bad_order(Bank()), {}, Bank())

    with pytest.raises(RuntimeError, match="not for async tests"):
        asyncio.run(test())
