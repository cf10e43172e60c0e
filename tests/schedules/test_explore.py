"""The checker that authors get: on the shipped examples, and on sagas with mistakes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from examples.checkout import Checkout, Line, checkout
from saga_core import AwaitAnswer, RetryPolicy, Saga, SagaDefinition, StepCall
from saga_core.testing import explore, prove_rollback
from tests.schedules.examples import ANSWERS, EXAMPLES, Services


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_single_fault_of_an_example_ends_well(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saga, context = EXAMPLES[name]
    report = explore(saga, context, Services(), answers=ANSWERS.get(name))
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
    report = prove_rollback(saga, context, Services(), answers=ANSWERS.get(name))
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


# -- the vocabulary of flow ----------------------------------------------------------


@dataclass
class Desk:
    """What stands at services that keep keys and tombstones."""

    standing: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def reset(self) -> None:
        self.standing.clear()
        self.gone.clear()

    def snapshot(self) -> object:
        return sorted(self.standing.values())

    def act(self, name: str, call: StepCall) -> None:
        if call.execute_key in self.gone:
            raise ValueError("it was undone before it arrived")
        self.standing[call.execute_key] = name

    def step(self, saga: Saga, name: str, *, undo: bool = True, **options: Any) -> None:
        step = saga.step(name=name, compensatable=undo, **options)
        handler = step(lambda _, call: self.act(name, call))
        if undo:
            handler.compensate(self.undo)

    def ask(self, saga: Saga, name: str) -> None:
        def execute(_: object, call: StepCall) -> AwaitAnswer:
            self.act(name, call)
            return AwaitAnswer(timeout=timedelta(minutes=3))

        saga.step(name=name)(execute).compensate(self.undo)

    def undo(self, _: object, call: StepCall) -> None:
        self.gone.add(call.execute_key)
        self.standing.pop(call.execute_key, None)


TWICE = RetryPolicy(max_attempts=2)


def test_a_group_and_a_pivot_hold_at_every_fault() -> None:
    desk, saga = Desk(), Saga("grouped")
    desk.step(saga, "a", group="g")
    desk.step(saga, "b", group="g")
    desk.step(saga, "pay", pivot=True, undo=False, retry=TWICE)
    desk.step(saga, "mail", undo=False, delay=timedelta(minutes=1))
    report = explore(saga, {}, desk)
    assert report.ok, report
    assert "without any fault" not in str(report)
    assert prove_rollback(saga, {}, desk).ok


def test_a_step_past_the_pivot_that_is_not_idempotent_is_found() -> None:
    mails: list[str] = []
    desk, saga = Desk(), Saga("careless")
    desk.step(saga, "pay", pivot=True, undo=False, retry=TWICE)
    saga.step(name="mail", compensatable=False)(lambda _: mails.append("sent"))

    class Post(Desk):
        def reset(self) -> None:
            desk.reset()
            mails.clear()

        def snapshot(self) -> object:
            return (desk.snapshot(), list(mails))

    report = prove_rollback(saga, {}, Post())
    assert [f.schedule for f in report.findings] == ["mail fails after its effect, its answer lost"]
    assert "the world is not as after a run without faults" in report.findings[0].wrong


def test_a_child_saga_holds_at_every_fault_with_its_parent() -> None:
    desk, pay, order = Desk(), Saga("pay"), Saga("order")
    desk.step(pay, "authorise")
    desk.step(order, "reserve")
    order.child(pay, name="pay")(lambda _: {})
    desk.step(order, "ship")
    report = explore(order, {}, desk)
    assert report.ok, report
    assert any("authorise" in line for line in _trace_of(order, desk))


def _trace_of(saga: Saga, desk: Desk) -> tuple[str, ...]:
    class Never(Desk):
        def snapshot(self) -> object:
            return object()  # no two are equal: every run is a finding

    report = prove_rollback(saga, {}, Never(desk.standing, desk.gone))
    return report.findings[-1].trace


def asked() -> tuple[Desk, Saga]:
    desk, saga = Desk(), Saga("asked", timeout=timedelta(hours=1))
    desk.step(saga, "reserve")
    desk.ask(saga, "approve")
    desk.step(saga, "ship")
    return desk, saga


def test_answers_come_and_do_not_come() -> None:
    desk, saga = asked()
    report = explore(saga, {}, desk, answers={"approve": {"by": "ann"}})
    assert report.ok, report
    assert "without any fault" not in str(report)
    silent = explore(saga, {}, desk)
    assert silent.ok
    assert "COMPENSATED at approve, AnswerOverdue" in str(silent)
    assert report.runs > silent.runs


def test_whoever_is_asked_may_do_it_themselves_or_refuse() -> None:
    desk, saga = asked()

    def signs(call: StepCall) -> dict[str, object]:
        desk.act("approve", call)
        return {"by": call.step}

    assert explore(saga, {}, desk, answers={"approve": signs}).ok

    def refuses(call: StepCall) -> dict[str, object]:
        desk.standing.pop(call.execute_key, None)
        raise ValueError("no")

    report = prove_rollback(saga, {}, desk, answers={"approve": refuses})
    assert report.ok, report
    assert "COMPENSATED at approve, ValueError: no" in str(report)


@pytest.mark.parametrize("asks", [True, False])
def test_a_step_that_asks_may_be_async_and_need_not_ask_each_time(asks: bool) -> None:  # noqa: FBT001 - a case
    saga = Saga("later")

    @saga.step(compensatable=False)
    async def approve(_: object) -> AwaitAnswer | None:
        return AwaitAnswer(timeout=timedelta(minutes=3)) if asks else None

    report = explore(saga, {}, Desk(), answers={"approve": {}})
    assert report.ok
    assert "without any fault" not in str(report)


def test_an_answer_for_a_step_that_is_not_there_is_refused() -> None:
    desk, saga = asked()
    with pytest.raises(ValueError, match=r"asked does not have: \['aprove'\]"):
        explore(saga, {}, desk, answers={"aprove": {}})
