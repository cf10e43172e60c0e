"""Groups, approvals, timers, pivots and sagas within sagas, through the real functions."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import permutations

import pytest

from examples.purchase import purchase
from examples.services import ServiceError, world
from saga_core.authoring import Saga
from saga_core.calls import StepCall
from saga_core.definition import Handler, SagaDefinition
from saga_core.instance import SagaInstance, SagaState, StepStatus, Why
from saga_core.outcome import AwaitAnswer, Fatal
from tests.fakes.faults import Killed
from tests.handlers.sagas import DAY, TEA, VISIBILITY, at, chain, die_at, ended, step
from tests.handlers.stage import HOUR, MINUTE, SECOND, Answer, Stage, Staged
from tests.handlers.test_crashes import Run

DEAR = {"sku": "teapot", "amount": 900}
CHEAP = {"sku": "tea", "amount": 20}
EVERYTHING = {
    "budgets.hold",
    "stock.reserve",
    "approvals.ask",
    "payments.charge",
    "shipping.ship",
}
YES = {"outcome": "completed", "context": {"approved_by": "ann"}}
NO = {"outcome": "failed", "error": "too dear"}


@pytest.fixture
def shop(staged: Staged):
    """The purchase, deployed."""
    with staged(purchase.build()) as stage:
        yield stage


def asked(stage: Stage) -> str:
    """The token that the manager got."""
    (token,) = world.mail.values()
    return token


def until_asked(stage: Stage) -> tuple[str, str]:
    """A purchase that waits for the manager, and the token."""
    saga_id = stage.start("purchase", DEAR)
    while not world.mail or stage.saga(saga_id).step_results[2].status is not StepStatus.WAITING:
        assert stage.step() or stage.leap()
    return saga_id, asked(stage)


def answer(stage: Stage, token: str, told: object = YES):
    return stage.http("POST", f"/answers/{token}", told)


def finish(stage: Stage, saga_id: str, state: SagaState) -> SagaInstance:
    stage.run_until_quiet()
    return ended(stage, saga_id, state)


# -- an approval -----------------------------------------------------------------------


def test_a_purchase_waits_for_its_approval_and_then_goes_on(shop: Stage):
    saga_id, token = until_asked(shop)
    waiting = shop.http("GET", f"/sagas/{saga_id}").body["steps"][2]
    assert waiting["status"] == "WAITING"
    assert waiting["due_at"] > waiting["started_at"]
    assert token not in shop.http("GET", f"/sagas/{saga_id}").text
    told = answer(shop, token)
    assert told.status == 202
    assert told.headers["Location"] == f"/sagas/{saga_id}"
    saga = finish(shop, saga_id, SagaState.COMPLETED)
    assert {*world.standing()} == EVERYTHING
    assert json.loads(saga.context_text)["approved_by"] == "ann"


def test_a_no_rolls_back_and_says_who_said_what(shop: Stage):
    saga_id, token = until_asked(shop)
    assert answer(shop, token, NO).status == 202
    saga = finish(shop, saga_id, SagaState.COMPENSATED)
    assert world.standing() == ["approvals.ask"]  # answered: there is nothing to withdraw
    assert saga.cause is not None
    assert saga.cause.step == "approve"
    assert saga.steps[2].error is not None
    assert saga.steps[2].error.message == "too dear"


def test_an_answer_that_comes_before_the_wait_is_stored_counts(shop: Stage):
    saga_id = shop.start("purchase", DEAR)
    early = []

    def now() -> None:
        early.append(answer(shop, asked(shop)).status)

    shop.watch(at("after execute approve", now))
    finish(shop, saga_id, SagaState.COMPLETED)
    assert early == [202]


def test_an_answer_counts_although_the_worker_that_asked_has_died(shop: Stage):
    saga_id = shop.start("purchase", DEAR)

    def now() -> None:
        assert answer(shop, asked(shop)).status == 202
        raise Killed

    shop.watch(at("after execute approve", now))
    finish(shop, saga_id, SagaState.COMPLETED)
    assert world.effects("approvals.ask") == 1


def test_the_same_answer_again_is_taken_and_another_is_refused(shop: Stage):
    saga_id, token = until_asked(shop)
    assert answer(shop, token).status == 202
    assert answer(shop, token).status == 202
    other = answer(shop, token, NO)
    assert (other.status, other.problem) == (409, "not-allowed")
    assert other.body["reason"] == "answered"
    finish(shop, saga_id, SagaState.COMPLETED)
    assert answer(shop, token).status == 202
    assert answer(shop, token, NO).status == 409


def test_an_answer_after_the_time_out_is_recorded_and_changes_nothing(shop: Stage):
    saga_id, token = until_asked(shop)
    late: list[Answer] = []
    for _ in shop.moves(sweeper=True, within=100 * HOUR):
        saga = shop.saga(saga_id)
        if saga.state is SagaState.COMPENSATING and not late:
            late.append(answer(shop, token))
    assert (late[0].status, late[0].body["reason"]) == (409, "late")
    saga = ended(shop, saga_id, SagaState.COMPENSATED)
    assert saga.steps[2].answer is not None
    assert saga.steps[2].answer.late
    assert saga.steps[2].doubt
    assert world.standing() == []
    closed = answer(shop, token)
    assert (closed.status, closed.body["reason"]) == (409, "late")


def test_a_wait_ends_when_it_was_said_to_and_by_a_message_of_the_sweeper(shop: Stage):
    saga_id, _ = until_asked(shop)
    began = shop.clock.now
    shop.run_until_quiet()
    assert shop.saga(saga_id).state is SagaState.RUNNING  # three days are nothing for a queue
    for _ in shop.moves(sweeper=True, within=100 * HOUR):
        if shop.saga(saga_id).cause is not None:
            break
    overdue = shop.clock.now - began - 3 * 24 * HOUR
    assert 0 <= overdue <= 5 * SECOND


def test_a_heartbeat_begins_the_wait_anew(shop: Stage):
    saga_id, token = until_asked(shop)
    first = shop.saga(saga_id).lane.due_at
    shop.clock.now += HOUR
    assert answer(shop, token, {"outcome": "heartbeat"}).status == 202
    assert shop.saga(saga_id).lane.due_at == first + HOUR + shop.clock.now - (
        shop.saga(saga_id).updated_at
    )
    answer(shop, token)
    finish(shop, saga_id, SagaState.COMPLETED)
    assert answer(shop, token, {"outcome": "heartbeat"}).status == 409


@pytest.mark.parametrize("spoil", ["forged", "of another step", "no token", "of no saga"])
def test_a_token_that_is_not_right_is_no_token(shop: Stage, spoil):
    saga_id, token = until_asked(shop)
    saga, place, bits = token.rsplit(".", 2)
    wrong = {
        "forged": f"{saga}.{place}.{bits[:-1]}{'A' if bits[-1] != 'A' else 'B'}",
        "of another step": f"{saga}.{int(place) + 1}.{bits}",
        "no token": "nonsense",
        "of no saga": f"{'a' * 26}.{place}.{bits}",
    }[spoil]
    refused = answer(shop, wrong)
    assert (refused.status, refused.problem) == (404, "not-found")
    assert refused.body["detail"] == "Nobody waits for an answer under this token."
    assert shop.saga(saga_id).steps[2].answer is None


def test_a_token_is_good_for_its_own_tenant_only(staged: Staged):
    with staged(purchase.build(), tenant_claim="org") as stage:
        mine, theirs = {"org": "mine"}, {"org": "theirs"}
        stage.start("purchase", DEAR, claims=mine)
        while not world.mail:
            assert stage.step() or stage.leap()
        stage.run_until_quiet()
        path = f"/answers/{asked(stage)}"
        assert stage.http("POST", path, YES, claims=theirs).status == 404
        assert stage.http("POST", path, YES, claims=mine).status == 202


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"outcome": "maybe"},
        {"outcome": "completed", "context": []},
        {"outcome": "completed", "error": "x"},
        {"outcome": "failed"},
        {"outcome": "failed", "error": ""},
        {"outcome": "failed", "error": "x" * 2_000},
        {"outcome": "heartbeat", "context": {}},
        [],
        '"yes"',
    ],
    ids=str,
)
def test_what_is_no_answer_is_refused(shop: Stage, told):
    saga_id, token = until_asked(shop)
    refused = answer(shop, token, told)
    assert (refused.status, refused.problem) == (400, "invalid-request")
    assert shop.saga(saga_id).steps[2].answer is None


def test_fields_that_are_none_of_the_contexts_are_named(shop: Stage):
    saga_id, token = until_asked(shop)
    told = {"outcome": "completed", "context": {"amount": "much", "colour": "red"}}
    refused = answer(shop, token, told)
    assert (refused.status, refused.problem) == (422, "invalid-context")
    assert {e["field"] for e in refused.body["errors"]} == {"amount", "colour"}
    assert shop.saga(saga_id).step_results[2].status is StepStatus.WAITING
    assert answer(shop, token).status == 202


def test_an_answer_may_come_over_the_start_queue(shop: Stage):
    saga_id, token = until_asked(shop)
    shop.send("StartQueue", json.dumps({"answer": token, **YES}))
    finish(shop, saga_id, SagaState.COMPLETED)


def test_an_answer_over_the_queue_that_came_too_late_is_logged_and_gone(shop: Stage):
    saga_id, token = until_asked(shop)
    answer(shop, token, NO)
    shop.send("StartQueue", json.dumps({"answer": token, **YES}))
    finish(shop, saga_id, SagaState.COMPENSATED)
    assert [f["reason"] for f in shop.sink.of("saga.refused")] == ["answered"]


@pytest.mark.parametrize(
    "message",
    [
        {"answer": "nonsense", "outcome": "completed"},
        {"answer": 7, "outcome": "completed"},
        {"answer": "TOKEN", "outcome": "perhaps"},
        {"answer": "TOKEN", "outcome": "completed", "context": {"amount": "much"}},
    ],
    ids=["no token", "a number", "no outcome", "no context"],
)
def test_an_answer_that_can_never_be_taken_ends_in_the_dead_letters(shop: Stage, message):
    saga_id, token = until_asked(shop)
    if message["answer"] == "TOKEN":
        message = {**message, "answer": token}
    shop.send("StartQueue", json.dumps(message))
    shop.run_until_quiet()
    assert len(shop.bodies("StartDeadLetterQueue")) == 1
    assert shop.sink.of("saga.refused")
    assert shop.saga(saga_id).step_results[2].status is StepStatus.WAITING


def test_of_a_token_nothing_comes_out(shop: Stage, caplog: pytest.LogCaptureFixture):
    bodies: list[str] = []

    def collect(_: str) -> None:
        for queue in ("WorkQueue", "DeadLetterQueue", "ParkingQueue"):
            bodies.extend(shop.bodies(queue))

    shop.watch(collect)
    saga_id, token = until_asked(shop)
    answers = [answer(shop, token, told).text for told in ({}, {"outcome": "heartbeat"}, YES, NO)]
    finish(shop, saga_id, SagaState.COMPLETED)
    answers.append(shop.http("GET", f"/sagas/{saga_id}").text)
    said = json.dumps(
        [shop.sink.lines, shop.sink.metrics, bodies, answers, caplog.text], default=str
    )
    secret = shop.saga(saga_id).secret
    for hidden in (token, token.rsplit(".", 1)[1], secret):
        assert hidden
        assert hidden not in said


# -- every death -----------------------------------------------------------------------


def killed_at(
    moment: int | None,
    staged: Staged,
    definitions: tuple[SagaDefinition, ...],
    play: Callable[[Stage], None],
) -> Run:
    with staged(*definitions) as stage:
        run = Run(stage, moment)
        stage.watch(run)
        play(stage)
        return run


def survives_every_death(
    staged: Staged, definitions: tuple[SagaDefinition, ...], play: Callable[[Stage], None]
) -> None:
    """Play it with a death at each moment that leaves something else behind."""
    run = killed_at(None, staged, definitions, play)
    points = [n for n, state in enumerate(run.states) if state not in run.states[:n]]
    if os.environ.get("HYPOTHESIS_PROFILE") == "deep":
        points = list(range(len(run.moments)))
    assert len(points) > 20
    failed = {}
    for point in points:
        try:
            killed_at(point, staged, definitions, play)
        except AssertionError as error:
            failed[point, run.moments[point]] = error
    assert not failed


def insist(ask: Callable[[], object]) -> None:
    """As a client does who has no answer."""
    while True:
        try:
            ask()
        except Killed:
            continue
        return


def test_a_purchase_survives_a_death_at_every_moment(staged: Staged):
    def play(stage: Stage) -> None:
        saga_id = stage.start("purchase", DEAR)
        stage.run_until_quiet()
        insist(lambda: answer(stage, asked(stage)))
        stage.run_until_quiet(sweeper=True)
        ended(stage, saga_id, SagaState.COMPLETED)
        assert {*world.standing()} == EVERYTHING
        assert all(world.effects(operation) == 1 for operation in EVERYTHING)

    survives_every_death(staged, (purchase.build(),), play)


def test_a_group_that_fails_survives_a_death_at_every_moment(staged: Staged):
    def play(stage: Stage) -> None:
        world.break_down("b", Fatal("never"))
        saga_id = stage.start("chain", TEA)
        stage.run_until_quiet(sweeper=True)
        ended(stage, saga_id, SagaState.COMPENSATED)
        assert world.standing() == []
        assert all(world.effects(name) <= 1 for name in "abcd")

    group = chain("a", *(step(n, group="g") for n in "bcd"), "e")
    survives_every_death(staged, (group,), play)


def family() -> SagaDefinition:
    """An order that pays by a saga of its own, and cannot ship."""
    inner = Saga("inner", timeout=DAY)
    for name in "xy":
        plain = step(name)
        inner.step(name=name)(plain.execute.function).compensate(plain.compensate.function)  # type: ignore[union-attr]  # it has one
    outer = Saga("outer", timeout=DAY)
    first, last = step("a"), step("z")
    outer.step(name="a")(first.execute.function).compensate(first.compensate.function)  # type: ignore[union-attr]  # likewise
    outer.child(inner, name="pay", into="paid")(lambda ctx: {"sku": "tea"})
    outer.step(name="z")(last.execute.function).compensate(last.compensate.function)  # type: ignore[union-attr]  # likewise
    return outer.build()


@pytest.mark.parametrize("ships", [True, False], ids=["completes", "is undone"])
def test_a_saga_within_a_saga_survives_a_death_at_every_moment(staged: Staged, ships):
    def play(stage: Stage) -> None:
        if not ships:
            world.break_down("z", Fatal("never"))
        saga_id = stage.start("outer", TEA)
        stage.run_until_quiet(sweeper=True)
        saga = ended(stage, saga_id, SagaState.COMPLETED if ships else SagaState.COMPENSATED)
        assert {*world.standing()} == ({"a", "x", "y", "z"} if ships else set())
        assert all(world.effects(name) <= 1 for name in "axyz")
        child = stage.saga(str(saga.steps[1].child))
        assert child.state is saga.state
        assert child.expires_at is not None

    survives_every_death(staged, (family(),), play)


# -- a group ---------------------------------------------------------------------------


def group(*names: str, **options: object) -> SagaDefinition:
    return chain("a", *(step(n, group="g", **options) for n in names), "z")  # type: ignore[arg-type]  # of StepOptions


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_a_group_is_done_whatever_the_order_of_its_messages(staged: Staged, order):
    with staged(group("b", "c", "d")) as stage:
        saga_id = stage.start("chain", TEA)
        stage.deliver()
        messages = [stage.receive("WorkQueue")[0] for _ in range(3)]
        for n in order:
            stage.hand_over("WorkQueue", [messages[n]])
        saga = finish(stage, saga_id, SagaState.COMPLETED)
        undone_order = sorted(saga.steps[1:4], key=lambda s: s.order or 0)
        assert [s.name for s in undone_order] == ["bcd"[n] for n in order]
        assert world.standing() == ["a", *("bcd"[n] for n in order), "z"]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_what_a_group_did_is_undone_newest_start_first(staged: Staged, order):
    with staged(group("b", "c", "d")) as stage:
        world.break_down("z", Fatal("never"))
        saga_id = stage.start("chain", TEA)
        stage.deliver()
        messages = [stage.receive("WorkQueue")[0] for _ in range(3)]
        for n in order:
            stage.hand_over("WorkQueue", [messages[n]])
        finish(stage, saga_id, SagaState.COMPENSATED)
        undone = [c.operation for c in world.calls if c.operation.startswith("undo")]
        assert undone == [*(f"undo {'bcd'[n]}" for n in reversed(order)), "undo a"]


def test_every_message_of_a_group_twice_changes_nothing(staged: Staged):
    with staged(group("b", "c", "d")) as stage:
        saga_id = stage.start("chain", TEA)
        for _ in range(40):
            batch = stage.deliver()
            if batch.messages:
                stage.hand_over("WorkQueue", batch.messages)
            elif not stage.leap():
                break
        finish(stage, saga_id, SagaState.COMPLETED)
        assert [world.effects(n) for n in "abcdz"] == [1] * 5


def test_a_group_costs_what_its_steps_cost(staged: Staged):
    with staged(group("b", "c", "d")) as stage:
        stage.start("chain", TEA)
        with stage.counting() as calls:
            stage.run_until_quiet()
        # Two writes a step, one send a work item (a, three branches, z), no read.
        assert calls == {"update_item": 10, "send_message": 4}


def test_two_steps_that_write_one_field_are_refused_with_both_names(staged: Staged):
    def writes(name: str):
        plain = step(name, group="g")

        def execute(ctx: dict[str, object], call: StepCall) -> None:
            plain.execute.function(ctx, call)
            ctx["same"] = name

        return replace(plain, execute=Handler.of(execute))

    built = [writes(name) for name in ("b", "c")]
    with staged(chain("a", *built, "z")) as stage:
        saga_id = stage.start("chain", TEA)
        saga = finish(stage, saga_id, SagaState.COMPENSATED)
        assert world.standing() == []
        error = next(s.error for s in saga.steps if s.error is not None)
        assert error.kind == "FieldConflict"
        assert error.message == "b and c both write same"


def test_a_dead_letter_of_one_branch_comes_back_and_the_others_do_not_wait(staged: Staged):
    with staged(group("b", "c")) as stage:
        saga_id = stage.start("chain", TEA)
        stage.deliver()
        (letter,) = stage.receive("WorkQueue")
        stage.delete("WorkQueue", letter)
        stage.send("DeadLetterQueue", letter["Body"])
        assert json.loads(letter["Body"])["l"] in (1, 2)
        finish(stage, saga_id, SagaState.COMPLETED)
        assert "revived" in stage.sink.decisions("dead_letters")


# -- timers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "delay", [timedelta(seconds=30), timedelta(minutes=15), timedelta(hours=20)], ids=str
)
def test_a_step_comes_when_its_delay_is_over(staged: Staged, delay):
    with staged(chain("a", step("b", delay=delay))) as stage:
        saga_id = stage.start("chain", TEA)
        stage.deliver()
        began = stage.clock.now
        assert stage.http("GET", f"/sagas/{saga_id}").body["steps"][1]["due_at"]
        stage.run_until_quiet(sweeper=True)
        ended(stage, saga_id, SagaState.COMPLETED)
        late = stage.clock.now - began - delay.total_seconds() * 1000
        assert 0 <= late <= 2 * SECOND


def test_a_first_step_may_be_delayed_for_long(staged: Staged):
    with staged(chain(step("a", delay=timedelta(hours=3)))) as stage:
        saga_id = stage.start("chain", TEA)
        assert stage.bodies("WorkQueue") == []  # the sweeper has it
        stage.run_until_quiet(sweeper=True)
        ended(stage, saga_id, SagaState.COMPLETED)


# -- a pivot ---------------------------------------------------------------------------


def past_the_pivot(stage: Stage) -> str:
    world.break_down("z", ServiceError("not now"))
    saga_id = stage.start("chain", TEA)
    while stage.saga(saga_id).lane.index < 2:
        assert stage.step() or stage.leap()
    return saga_id


def pivoted(**options: object) -> SagaDefinition:
    return chain("a", step("p", pivot=True), "z", **options)  # type: ignore[arg-type]  # of SagaOptions


def test_past_the_pivot_a_cancel_is_refused_with_the_reason(staged: Staged):
    with staged(pivoted()) as stage:
        saga_id = past_the_pivot(stage)
        refused = stage.http("POST", f"/sagas/{saga_id}/cancel")
        assert (refused.status, refused.body["reason"]) == (409, "past_pivot")
        world.repair("z")
        finish(stage, saga_id, SagaState.COMPLETED)
        assert world.undone == set()


def test_while_the_pivot_is_in_flight_a_cancel_is_refused(staged: Staged):
    with staged(pivoted()) as stage:
        saga_id = stage.start("chain", TEA)
        answers = []
        stage.watch(
            at(
                "before execute p",
                lambda: answers.append(stage.http("POST", f"/sagas/{saga_id}/cancel").status),
            )
        )
        finish(stage, saga_id, SagaState.COMPLETED)
        assert answers == [409]


def test_past_the_pivot_the_deadline_only_alerts(staged: Staged):
    with staged(pivoted(timeout=timedelta(minutes=10))) as stage:
        saga_id = past_the_pivot(stage)
        while stage.clock.now < stage.saga(saga_id).deadline_at + MINUTE:
            assert stage.step() or stage.leap()
        stage.step()
        assert stage.sink.total("SagaOverdue") > 0
        world.repair("z")
        finish(stage, saga_id, SagaState.COMPLETED)
        assert world.undone == set()


def test_past_the_pivot_a_fatal_error_stops_and_a_resume_goes_forward(staged: Staged):
    with staged(pivoted()) as stage:
        world.refuse("z", Fatal("wrong address"))
        saga_id = stage.start("chain", TEA)
        stage.run_until_quiet()
        saga = ended(stage, saga_id, SagaState.FAILED)
        assert saga.why is Why.FORWARD_FAILED
        failure = stage.http("GET", f"/sagas/{saga_id}").body["failure"]
        assert failure["why"] == "FORWARD_FAILED"
        assert "z" in failure["to_do"]
        assert set(failure["standing"]) == {"a", "p"}
        assert stage.sink.total("SagaStalled") == 1
        assert stage.http("POST", f"/sagas/{saga_id}/resume").status == 202
        finish(stage, saga_id, SagaState.COMPLETED)


# -- conditions and time-outs ------------------------------------------------------------


def test_a_condition_is_asked_once_and_what_it_said_stays(staged: Staged):
    said = [True, False, False, False]

    def moody(_ctx: object) -> bool:
        return said.pop(0)

    with staged(chain("a", step("b", when=Handler.of(moody)))) as stage:
        saga_id = stage.start("chain", TEA)
        world.refuse("b", Killed())
        finish(stage, saga_id, SagaState.COMPLETED)
        assert said == [False, False, False]
        assert world.effects("b") == 1


def test_a_first_step_that_is_not_wanted_is_skipped_by_the_start(staged: Staged):
    with staged(chain(step("a", when=Handler.of(lambda ctx: False)), "b")) as stage:
        saga_id = stage.start("chain", TEA)
        assert stage.saga(saga_id).step_results[0].status is StepStatus.SKIPPED
        finish(stage, saga_id, SagaState.COMPLETED)
        assert world.effects("a") == 0


def test_a_condition_that_raises_is_a_step_that_failed(staged: Staged):
    def broken(_ctx: object) -> bool:
        raise KeyError("amount")

    with staged(chain("a", step("b", when=Handler.of(broken)))) as stage:
        saga_id = stage.start("chain", TEA)
        saga = finish(stage, saga_id, SagaState.COMPENSATED)
        assert saga.cause is not None
        assert (saga.cause.step, saga.cause.error.kind) == ("b", "KeyError")  # type: ignore[union-attr]  # it has one


def test_a_step_that_takes_too_long_is_cancelled_and_in_doubt(staged: Staged):
    finished: list[object] = []

    async def slow(_ctx: object, call: StepCall) -> None:
        finished.append(call.deadline)
        await asyncio.sleep(60)
        finished.append("late")

    plain = step("b")
    never = replace(plain, execute=Handler.of(slow), timeout=timedelta(milliseconds=20))
    with staged(chain("a", never)) as stage:
        saga_id = stage.start("chain", TEA)
        saga = finish(stage, saga_id, SagaState.COMPENSATED)
        assert len(finished) == 1
        assert saga.steps[1].doubt
        assert saga.steps[1].error is not None
        assert saga.steps[1].error.kind == "TimeoutError"


def test_who_asks_while_undoing_is_told_that_nobody_can_answer(staged: Staged):
    wait = AwaitAnswer(timeout=timedelta(hours=1))
    asks = replace(step("a"), compensate=Handler.of(lambda ctx: wait))
    with staged(chain(asks, "z")) as stage:
        world.break_down("z", Fatal("never"))
        saga_id = stage.start("chain", TEA)
        saga = finish(stage, saga_id, SagaState.FAILED)
        assert saga.failure is not None
        assert saga.failure.kind == "AwaitAnswer"


def test_recovery_from_one_death_takes_one_visibility_time_out(staged: Staged):
    with staged(group("b", "c")) as stage:
        saga_id = stage.start("chain", TEA)
        began = stage.clock.now
        stage.watch(die_at("after execute c"))
        finish(stage, saga_id, SagaState.COMPLETED)
        assert stage.clock.now - began <= VISIBILITY + 2 * SECOND
