"""Pivots, groups, conditions, answers and timers: every rule of the transitions, by itself."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self

import pytest

from saga_core import (
    AwaitAnswer,
    DefinitionError,
    Environment,
    Fatal,
    InMemorySagaStore,
    NotAllowedError,
    Retention,
    RetryPolicy,
    Saga,
    SagaCancelledError,
    SagaNotFoundError,
    SagaOrchestrator,
    SagaState,
    Severity,
    StepCall,
    StepStatus,
    Why,
    lint,
)
from saga_core.actions import Execute, Settle, WakeAt
from saga_core.calls import Direction
from saga_core.contexts import Delta, StandardContextCodec
from saga_core.definition import Handler, StepDefinition, over_budget
from saga_core.effects import (
    Call,
    CheckContext,
    Decide,
    Ended,
    Find,
    Record,
    Redispatch,
    Send,
    Unavailable,
)
from saga_core.errors import IllegalEventError
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    ChildWaits,
    Claimed,
    DeliveryExhausted,
    Event,
    HeartbeatReceived,
    StepAwaits,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    Withheld,
    Withhold,
)
from saga_core.identity import answer_token, parse_token, same_token
from saga_core.instance import Cause, CauseKind, Lane, Lease, Parent, SagaInstance, StepCode
from saga_core.invoke import decide, invoke
from saga_core.outcome import Done, InDoubt, StepError, Waits
from saga_core.ports import Refused, Written
from saga_core.retry import RETRIABLE_DEFAULT
from saga_core.transition import (
    Moved,
    Reason,
    apply,
    choose,
    context_for,
    create,
    next_action,
    next_actions,
    nudge,
    superseded,
    swept,
    to_announce,
    undecided,
)
from saga_core.turn import Answer, Delivery, WorkMessage, answer, request, revive, work
from tests.core.driver import THROTTLED, play
from tests.core.memory import Memory
from tests.core.sagas import BOOM, DAY, HOUR, LEASE, MINUTE, SECOND, T0, Walk, new, saga, step

TWICE = RetryPolicy(max_attempts=2, max_lost=2, base=timedelta(0))


class Flow(Walk):
    """A walk along any lane: a step's name says which."""

    def event(self, event: Event) -> Self:
        super().event(event)
        return self

    def cancel(self) -> Self:
        super().cancel()
        return self

    def resume(self) -> Self:
        super().resume()
        return self

    def skip(self, name: str) -> Self:
        super().skip(name)
        return self

    def stall(self) -> Self:
        super().stall()
        return self

    def lane(self, name: str) -> Lane:
        index = self.definition.index(name)
        return next(n for n in self.i.open_lanes if n.index == index)

    def take(self, name: str) -> Self:
        """A worker takes the work item of this step's lane."""
        lane = self.lane(name)
        self.now = max(self.now, lane.due_at)
        self.event(
            Claimed(
                claim_id=f"{name}{self.i.version}",
                epoch=lane.epoch,
                definition=self.i.definition,
                until=self.now + LEASE,
                at=self.now,
                branch=lane.number,
            )
        )
        return self

    def held(self, name: str) -> str:
        lease = self.lane(name).lease
        assert lease is not None
        return lease.id

    def ok(self, name: str, **fields: object) -> Self:
        """The step happened, and set these fields."""
        context = {**json.loads(self.i.context_text), **fields}
        self.event(
            StepSucceeded(claim_id=self.held(name), context=json.dumps(context), at=self.now)
        )
        return self

    def no(self, name: str, *, fatal: bool = True) -> Self:
        self.event(
            StepFailed(claim_id=self.held(name), error=BOOM, fatal=fatal, jitter=0.5, at=self.now)
        )
        return self

    def unknown(self, name: str, *, final: bool = True) -> Self:
        self.event(
            StepInDoubt(claim_id=self.held(name), error=BOOM, final=final, jitter=0.5, at=self.now)
        )
        return self

    def waits(self, name: str, timeout_ms: int = HOUR, **fields: object) -> Self:
        context = {**json.loads(self.i.context_text), **fields}
        self.event(
            StepAwaits(
                claim_id=self.held(name),
                context=json.dumps(context),
                timeout_ms=timeout_ms,
                at=self.now,
            )
        )
        return self

    def hold(self, name: str, reason: Withhold) -> Self:
        self.event(Withheld(claim_id=self.held(name), reason=reason, at=self.now))
        return self

    def says(self, name: str, *, ok: bool = True, **fields: object) -> AnswerGiven:
        error = None if ok else StepError("AnsweredFailed", "no")
        return AnswerGiven(
            step=name, ok=ok, by="ann", at=self.now, fields=json.dumps(fields), error=error
        )

    def answered(self, name: str, *, ok: bool = True, **fields: object) -> Self:
        self.event(self.says(name, ok=ok, **fields))
        return self

    def beats(self, name: str) -> HeartbeatReceived:
        return HeartbeatReceived(step=name, by="ann", at=self.now)

    def next(self, name: str) -> object:
        return next_action(self.definition, self.i, self.lane(name), self.now)

    @property
    def context(self) -> dict[str, object]:
        found = json.loads(self.i.context_text)
        assert isinstance(found, dict)
        return found


def kind_of(w: Flow, name: str) -> str:
    """Of the step's latest error."""
    error = w.record(name).error
    assert error is not None
    return error.kind


def flow(*steps: str | StepDefinition, **options: object) -> Flow:
    return Flow(saga(*steps, **{"timeout": timedelta(days=1), **options}))  # type: ignore[arg-type]  # of SagaOptions


def trio(**options: object) -> Flow:
    """a, then b, c and d at once, then e; a is done."""
    built = [step(n, group="g", retry=TWICE) for n in "bcd"]
    return flow("a", *built, "e", **options).take("a").ok("a")


# -- the definition --------------------------------------------------------------------


def test_a_saga_has_one_pivot():
    with pytest.raises(DefinitionError, match="SAGA012 step c: a is the pivot; a saga has one"):
        saga(step("a", pivot=True), "b", step("c", pivot=True))


@pytest.mark.parametrize("bounded", [RetryPolicy(), RetryPolicy(max_attempts=9)])
def test_after_the_pivot_no_step_may_give_up(bounded):
    with pytest.raises(DefinitionError, match="SAGA013 step b: after the pivot a step is tried"):
        saga(step("a", pivot=True), step("b", retry=bounded))


def test_after_the_pivot_retries_are_without_end_unless_stated():
    endless = RetryPolicy(max_attempts=None, cap=timedelta(minutes=1))
    d = saga("x", step("a", pivot=True), "b", step("c", retry=endless))
    assert [s.retry for s in d.steps[2:]] == [RETRIABLE_DEFAULT, endless]
    assert d.steps[0].retry.max_attempts == 1
    assert d.steps[1].retry.max_attempts == 1
    assert d.pivot == 1
    assert saga("a").pivot is None


@pytest.mark.parametrize(
    "options", [{"group": "g"}, {"when": Handler.of(lambda ctx: True)}], ids=["group", "when"]
)
def test_a_pivot_stands_alone_and_for_sure(options):
    with pytest.raises(DefinitionError, match="SAGA014 step a: a pivot is neither conditional"):
        saga(step("a", pivot=True, **options), step("b", **options))


def test_the_steps_of_a_group_stand_together():
    with pytest.raises(DefinitionError, match="SAGA015 step c: the other steps of group g"):
        saga(step("a", group="g"), "b", step("c", group="g"))
    saga(step("a", group="g"), step("b", group="g"), step("c", group="h"), step("d", group="h"))


def test_a_group_of_one_is_a_warning():
    (found,) = lint(saga(step("a", group="g"), "b"))
    assert str(found) == "SAGA102 step a: group g has no other step: nothing runs beside it"


def test_the_stages_of_a_saga_are_its_groups_and_its_other_steps():
    d = saga("a", step("b", group="g"), step("c", group="g"), step("d", group="h"), "e")
    assert [d.stage(n) for n in (0, 1, 3, 4)] == [range(1), range(1, 3), range(3, 4), range(4, 5)]


def test_a_groups_name_is_a_name():
    with pytest.raises(DefinitionError, match="SAGA004 step a: a group's name matches"):
        saga(step("a", group="no good"))


@pytest.mark.parametrize("seconds", [0, -1, 891])
def test_a_steps_time_out_fits_into_a_function(seconds):
    with pytest.raises(DefinitionError, match=r"SAGA016 step a: timeout .* between 0 and 890 s"):
        saga(step("a", timeout=timedelta(seconds=seconds)))
    saga(step("a", timeout=timedelta(seconds=890)))


@pytest.mark.parametrize(
    ("delay", "timeout", "fits"),
    [
        (timedelta(seconds=-1), timedelta(days=1), False),
        (timedelta(days=367), timedelta(days=366), False),
        (timedelta(days=1), timedelta(days=1), False),
        (timedelta(hours=23), timedelta(days=1), True),
    ],
)
def test_a_delay_is_shorter_than_the_time_that_the_saga_has(delay, timeout, fits):
    if fits:
        saga(step("a", delay=delay), timeout=timeout)
    else:
        with pytest.raises(DefinitionError, match="SAGA017 step a: delay"):
            saga(step("a", delay=delay), timeout=timeout)


def test_after_the_pivot_a_delay_may_be_longer_than_the_deadline():
    saga(step("a", pivot=True), step("b", delay=timedelta(days=3)), timeout=timedelta(days=1))


def test_the_records_of_all_steps_must_fit_beside_a_full_context():
    names = [f"{n:02}{'x' * 60}" for n in range(100)]
    saga(*(f"a{n}" for n in names))
    with pytest.raises(DefinitionError, match=r"SAGA018 its records may take .* 51200 are kept"):
        saga(*(step(f"a{n}", group="g") for n in names))


def test_a_condition_takes_the_context_and_nothing_else():
    with pytest.raises(DefinitionError, match="SAGA005 step a: when= takes"):
        saga(step("a", when=Handler.of(lambda ctx, call: True)))


def test_a_step_of_which_nothing_stands_after_the_pivot_is_no_finding():
    d = saga("a", step("b", pivot=True, compensatable=False), step("c", compensatable=False), "d")
    assert lint(d) == ()


@pytest.mark.parametrize("short", ["completed", "compensated"])
def test_each_end_is_kept_long_enough_for_the_dead_letters(short):
    with pytest.raises(DefinitionError, match="SAGA009 retention 17 days"):
        saga("a", retention=Retention(**{short: timedelta(days=17)}))


def test_retention_goes_by_how_the_saga_ended():
    kept = Retention(completed=timedelta(days=20), compensated=timedelta(days=400))
    done = flow("a", retention=kept).take("a").ok("a")
    assert done.i.expires_at == (done.now + 20 * DAY) // 1000 * 1000
    undone = flow("a", retention=kept).take("a").no("a")
    assert undone.i.expires_at == (undone.now + 400 * DAY) // 1000 * 1000
    assert trio(retention=kept).definition.kept_ms(completed=True) == 20 * DAY


def test_a_step_that_has_more_time_than_this_deployment_is_named():
    d = saga(step("a", timeout=timedelta(seconds=20)), step("b", timeout=timedelta(seconds=21)))
    (found,) = over_budget(d, 20_000)
    assert (found.rule, found.step, found.severity) == ("SAGA019", "b", Severity.ERROR)
    assert "21" in found.message
    assert "20 s" in found.message
    assert d.longest_step_ms == 21_000
    assert saga("a").longest_step_ms == 0


def test_pivot_and_group_are_part_of_the_fingerprint_and_the_rest_is_not():
    plain = saga("a", "b")
    assert plain.fingerprint != saga(step("a", pivot=True), "b").fingerprint
    assert plain.fingerprint != saga(step("a", group="g"), "b").fingerprint
    when = Handler.of(lambda ctx: True)
    minute = timedelta(minutes=1)
    same = saga(step("a", when=when, delay=minute, timeout=minute), "b")
    assert plain.fingerprint == same.fingerprint


def test_an_unbounded_policy_never_is_spent():
    assert not RETRIABLE_DEFAULT.spent(10**9)
    assert RetryPolicy(max_attempts=2).spent(2)
    assert not RetryPolicy(max_attempts=2).spent(1)


# -- a pivot ---------------------------------------------------------------------------


def test_a_pivot_that_failed_rolls_back():
    w = flow("a", step("p", pivot=True), "z").take("a").ok("a").take("p").no("p")
    assert (w.i.state, w.codes) == (SagaState.COMPENSATING, "OK NO -")


def test_past_the_pivot_cancel_is_refused():
    w = flow("a", step("p", pivot=True), "z").take("a").ok("a").take("p").ok("p")
    assert w.ignores(w.cancelling()) is Reason.PAST_PIVOT


def test_while_the_pivot_may_be_done_cancel_is_refused_and_before_and_between_it_is_not():
    at_pivot = flow("a", step("p", pivot=True, retry=TWICE), "z").take("a").ok("a")
    apply(at_pivot.definition, at_pivot.i, at_pivot.cancelling())
    assert isinstance(apply(at_pivot.definition, at_pivot.i, at_pivot.cancelling()), Moved)
    at_pivot.take("p")
    assert at_pivot.ignores(at_pivot.cancelling()) is Reason.PAST_PIVOT
    at_pivot.no("p", fatal=False)
    assert isinstance(apply(at_pivot.definition, at_pivot.i, at_pivot.cancelling()), Moved)
    at_pivot.take("p").unknown("p", final=True)
    assert at_pivot.i.state is SagaState.COMPENSATING  # it has a compensation


def test_past_the_pivot_the_deadline_turns_nothing_round():
    w = flow("a", step("p", pivot=True), "z").take("a").ok("a").take("p").ok("p")
    w.now = w.i.deadline_at + HOUR
    w.take("z")
    assert w.next("z") == Execute("z", 1)
    w.no("z", fatal=False)
    assert w.lane("z").due_at > w.i.deadline_at


def test_a_pivot_in_flight_is_not_turned_round_by_the_deadline_nor_is_one_in_doubt():
    w = flow(step("p", pivot=True, retry=TWICE), "z").take("p").unknown("p", final=False)
    w.now = w.i.deadline_at + 1
    w.take("p")
    assert w.next("p") == Execute("p", 2)


def test_a_pivot_that_never_started_is_turned_round_by_the_deadline():
    w = flow("a", step("p", pivot=True), "z").take("a").ok("a")
    w.now = w.i.deadline_at
    w.take("p")
    assert w.next("p") == Settle(Withhold.DEADLINE)


def test_past_the_pivot_a_fatal_error_stops_and_resume_goes_forward():
    w = flow(step("p", pivot=True), "z", "y").take("p").ok("p").take("z").no("z")
    assert (w.i.state, w.i.why) == (SagaState.FAILED, Why.FORWARD_FAILED)
    assert w.i.failure == BOOM
    assert w.codes == "OK NO -"
    assert w.i.standing == ("p",)
    w.resume()
    assert w.i.state is SagaState.RUNNING
    assert w.take("z").ok("z").take("y").ok("y").i.state is SagaState.COMPLETED


def test_past_the_pivot_reported_failures_are_without_end_and_the_loop_guard_counts_none():
    w = flow(step("p", pivot=True), "z").take("p").ok("p")
    before = w.i.hops
    for _ in range(500):
        w.take("z").no("z", fatal=False)
    assert w.i.hops == before
    assert w.take("z").next("z") == Execute("z", 501)
    wait = w.lane("z").due_at
    assert wait <= w.now


def test_past_the_pivot_attempts_that_vanish_stop_the_saga():
    w = flow(step("p", pivot=True), "z").take("p").ok("p")
    for _ in range(3):
        w.take("z")
        w.now += LEASE + 1
    w.take("z")
    assert w.next("z") == Settle(Withhold.LOST)
    w.hold("z", Withhold.LOST)
    assert (w.i.state, w.i.why) == (SagaState.FAILED, Why.STALLED)


def test_a_pivot_in_doubt_that_nothing_undoes_stops_the_saga_and_is_tried_again():
    pivot = step("p", pivot=True, compensatable=False)
    w = flow("a", pivot, "z").take("a").ok("a").take("p").unknown("p")
    assert (w.i.state, w.i.why) == (SagaState.FAILED, Why.FORWARD_FAILED)
    assert set(w.i.standing) == {"a", "p"}
    assert w.ignores(w.cancelling()) is Reason.PAST_PIVOT
    w.resume()
    assert w.take("p").ok("p").take("z").ok("z").i.state is SagaState.COMPLETED


def test_a_pivot_that_is_known_to_have_failed_rolls_back_although_nothing_undoes_it():
    pivot = step("p", pivot=True, compensatable=False)
    w = flow("a", pivot, "z").take("a").ok("a").take("p").no("p")
    assert w.i.state is SagaState.COMPENSATING


def test_a_pivot_that_a_person_vouched_for_is_a_pivot_that_is_done():
    pivot = step("p", pivot=True, compensatable=False)
    w = flow(pivot, "z").take("p").unknown("p").skip("p")
    assert w.take("z").no("z").i.why is Why.FORWARD_FAILED


def test_an_undo_without_end_is_no_loop_either():
    endless = RetryPolicy(max_attempts=None)
    w = flow(step("a", compensation_retry=endless), "b").take("a").ok("a").take("b").no("b")
    before = w.i.hops
    for _ in range(300):
        w.claim().undo_fails()
    assert w.i.hops == before
    assert w.claim().undone().i.state is SagaState.COMPENSATED


# -- a group ---------------------------------------------------------------------------


def test_a_group_opens_a_lane_for_each_of_its_steps():
    w = trio()
    assert [n.index for n in w.i.branches] == [1, 2, 3]
    assert all(n.branch and n.epoch == 1 and n.due_at == w.now for n in w.i.branches)
    assert w.i.lane.index == 1
    assert w.i.open_lanes == w.i.branches
    assert w.i.open_lane(None) is None
    assert w.i.open_lane(2) == w.i.branches[1]
    assert w.i.open_lane(9) is None
    assert next_actions(w.definition, w.i, w.now) == tuple(Execute(n, 1) for n in "bcd")
    assert w.i.current_step == 1


def test_a_saga_may_begin_with_a_group():
    w = flow(step("a", group="g"), step("b", group="g"))
    assert len(w.i.branches) == 2
    states = [w.i.state, w.take("a").i.state, w.ok("a").take("b").ok("b").i.state]
    assert states == [SagaState.CREATED, SagaState.RUNNING, SagaState.COMPLETED]


def test_one_group_may_follow_another():
    w = flow(*(step(n, group="g") for n in "ab"), *(step(n, group="h") for n in "cd"))
    w.take("a").ok("a").take("b").ok("b")
    assert [n.index for n in w.i.branches] == [2, 3]
    assert w.i.lane.epoch == 2
    assert w.i.lane.last_id is not None
    w.take("c").ok("c").take("d").ok("d")
    assert w.i.state is SagaState.COMPLETED


def test_a_branch_that_is_done_leaves_and_the_last_one_joins():
    w = trio().take("b").ok("b", b=1)
    assert [n.index for n in w.i.branches] == [2, 3]
    assert w.context == {}
    assert w.i.lane.epoch == 2
    assert w.record("b").settled_by is not None
    w.take("d").ok("d", d=4).take("c").ok("c", c=3)
    assert w.context == {"b": 1, "c": 3, "d": 4}
    assert not w.i.branches
    assert (w.i.lane.index, w.i.lane.epoch) == (4, 3)
    assert all(s.result is None for s in w.i.steps)


def test_what_a_branch_takes_out_is_gone_after_the_join():
    w = flow("a", step("b", group="g"), step("c", group="g")).take("a").ok("a", old=1, kept=2)
    w.take("b")
    w.event(StepSucceeded(claim_id=w.held("b"), context='{"kept":2}', at=w.now))
    w.take("c").ok("c")
    assert w.context == {"kept": 2}


def test_every_branch_sees_the_context_as_the_group_began():
    w = trio().take("b").ok("b", b=1).take("c")
    assert context_for(w.i, w.lane("c")) == "{}"


def test_two_that_write_one_field_are_refused_with_both_names_and_undone():
    w = trio().take("b").ok("b", x=1).take("c").ok("c", x=1)
    assert w.i.state is SagaState.COMPENSATING
    assert w.i.cause is not None
    assert w.i.cause.error == StepError("FieldConflict", "b and c both write x")
    assert w.i.cause.step == "c"
    assert w.codes == "OK OK U - -"
    assert w.record("c").doubt


def test_a_context_that_is_no_object_has_one_field():
    assert Delta.between("[1]", "[1]").names == frozenset()
    assert Delta.between("[1]", "[2]") == Delta({"": [2]})
    assert Delta({"": [2]}).applied("[1]") == "[2]"
    assert Delta({"a": 1}).applied("[1]") == "[1]"
    w = trio().take("b")
    w.i = replace(w.i, context_text="1")
    w.event(StepSucceeded(claim_id=w.held("b"), context="2", at=w.now))
    w.take("c")
    w.event(StepSucceeded(claim_id=w.held("c"), context="3", at=w.now))
    assert w.i.cause is not None
    assert w.i.cause.error is not None
    assert w.i.cause.error.message == "b and c both write the context"


def test_a_change_is_one_as_json_has_it():
    assert Delta.between('{"a":1}', '{"a":true}').names == {"a"}
    assert Delta.between('{"a":1}', '{"a":1.0}').names == {"a"}
    assert Delta.between('{"a":[1]}', '{"a":[1]}').names == frozenset()
    both = Delta.between('{"a":1,"b":2}', '{"b":3}')
    assert (both.fields, both.gone) == ({"b": 3}, ("a",))
    assert Delta.from_text(both.text) == both
    assert both.applied('{"a":1,"b":2,"c":4}') == '{"b":3,"c":4}'
    assert Delta({}).applied("anything") == "anything"


def test_the_versions_at_their_first_claims_rank_the_starts():
    w = trio().take("c").take("b").take("d")
    assert [w.lane(n).order for n in "cbd"] == sorted(w.lane(n).order or 0 for n in "bcd")
    first = w.lane("c").order
    w.now += LEASE + 1
    w.take("c")
    assert w.lane("c").order == first
    w.ok("d").ok("b").ok("c").take("e").no("e")
    undone = []
    while w.i.state is SagaState.COMPENSATING:
        undone.append(w.definition.steps[w.i.lane.index].name)
        w.claim().undone()
    assert undone == ["d", "b", "c", "a"]


def test_one_that_fails_turns_round_and_starts_no_more():
    w = trio().take("b").take("c").no("b")
    assert (w.i.state, w.i.phase) == (SagaState.COMPENSATING, Direction.COMPENSATION)
    assert w.i.cause is not None
    assert w.i.cause.step == "b"
    assert [n.index for n in w.i.branches] == [2]  # c is in flight, d never started
    assert w.codes == "OK NO - - -"
    assert w.i.direction(w.lane("c")) is Direction.FORWARD
    w.ok("c", c=1)
    assert not w.i.branches
    assert w.context == {"c": 1}  # for the undo
    assert w.codes == "OK NO OK - -"
    assert w.definition.steps[w.i.lane.index].name == "c"


def test_one_in_flight_that_fails_too_is_no_second_cause():
    w = trio().take("b").take("c").take("d").no("b").no("c", fatal=False)
    assert w.i.cause is not None
    assert w.i.cause.step == "b"
    w.unknown("d", final=False)
    assert w.codes == "OK NO NO U -"
    assert not w.i.branches


def test_one_that_is_withheld_when_another_has_failed_is_no_second_cause():
    """It was claimed after the deadline, and heard of only after the other's failure."""
    w = trio().take("b")
    w.now = w.i.deadline_at
    w.take("c")
    assert w.next("c") == Settle(Withhold.DEADLINE)
    w.no("b")
    cause = w.i.cause
    assert cause is not None
    w.hold("c", Withhold.DEADLINE)
    assert w.i.cause == cause
    assert (w.i.branches, w.codes) == ((), "OK NO - - -")


def test_what_rolls_nothing_back_cannot_be_withheld_for_it():
    w = trio().take("b")
    event = Withheld(claim_id=w.held("b"), reason=Withhold.ROLLING_BACK, at=w.now)
    assert w.refuses(event) == "saga s1 does not roll back"


def test_one_in_flight_that_vanished_is_withheld_and_in_doubt():
    w = trio().take("b").take("c").no("b")
    w.now += LEASE + 1
    w.take("c")
    assert w.next("c") == Settle(Withhold.ROLLING_BACK)
    w.hold("c", Withhold.ROLLING_BACK)
    assert w.codes == "OK NO U - -"
    assert w.record("c").attempts == 1


def test_what_waited_for_another_attempt_is_left_as_it_is_known():
    w = trio().take("b").no("b", fatal=False).take("c").unknown("c", final=False).take("d").no("d")
    assert w.codes == "OK NO U NO -"
    assert not w.i.branches


def test_a_cancel_reaches_every_branch():
    w = trio().take("b").cancel()
    assert all(n.due_at <= w.now for n in w.i.branches)
    w.ok("b", b=1)
    assert w.i.state is SagaState.COMPENSATING
    assert w.i.cause is not None
    assert w.i.cause.kind is CauseKind.CANCELLED
    assert w.codes == "OK OK - - -"


def test_a_branch_that_is_cancelled_before_it_runs_turns_the_saga_round():
    w = trio().cancel().take("b")
    assert w.next("b") == Settle(Withhold.CANCELLED)
    w.hold("b", Withhold.CANCELLED)
    assert w.codes == "OK - - - -"
    assert w.definition.steps[w.i.lane.index].name == "a"


def test_a_branch_meets_the_deadline():
    w = trio()
    w.now = w.i.deadline_at
    w.take("c").hold("c", Withhold.DEADLINE)
    assert w.i.cause is not None
    assert w.i.cause.kind is CauseKind.DEADLINE


def test_a_branch_is_tried_again_by_itself():
    w = trio().take("b").no("b", fatal=False)
    assert w.lane("b").epoch == 2
    assert w.lane("c").epoch == 1
    assert w.i.lane.epoch == 2
    assert to_announce(trio().i, w.i) == (w.lane("b"),)


def test_a_message_of_a_branch_that_is_settled_is_stale():
    w = trio().take("b").ok("b")

    def refused(branch: int | None, epoch: int) -> Reason:
        event = Claimed(
            claim_id="x",
            epoch=epoch,
            definition=w.i.definition,
            until=w.now + LEASE,
            at=w.now,
            branch=branch,
        )
        return w.ignores(event)

    assert refused(1, 1) is Reason.STALE_CLAIMED  # the others have messages of their own
    assert refused(None, w.i.lane.epoch) is Reason.STALE_UNCLAIMED
    w.take("c").take("d")
    assert refused(None, w.i.lane.epoch) is Reason.STALE_CLAIMED
    w.ok("c").ok("d")
    assert refused(2, 1) is Reason.STALE_UNCLAIMED  # it may have been the last one's
    w.take("e")
    assert refused(2, 1) is Reason.STALE_CLAIMED


def test_a_message_of_the_group_before_may_be_the_only_one_of_this():
    w = flow(*(step(n, group="g") for n in "ab"), *(step(n, group="h") for n in "cd"))
    w.take("a").ok("a").take("b").ok("b")
    event = Claimed(
        claim_id="x", epoch=1, definition=w.i.definition, until=w.now + LEASE, at=w.now, branch=1
    )
    assert w.ignores(event) is Reason.STALE_UNCLAIMED
    w.take("c").ok("c")
    settled = replace(event, branch=2)
    assert w.ignores(settled) is Reason.STALE_CLAIMED


def test_a_commit_is_recognised_although_an_answer_came_after_it():
    w = flow(step("a", group="g"), step("b", group="g")).take("a")
    asked = w.held("a")
    w.waits("a").answered("a")
    late = StepAwaits(claim_id=asked, context="{}", timeout_ms=1, at=w.now)
    assert w.ignores(late) is Reason.ALREADY_RECORDED
    w.take("b")
    held = w.held("b")
    w.waits("b").answered("b")
    assert w.i.state is SagaState.COMPLETED
    assert w.ignores(replace(late, claim_id=held)) is Reason.ALREADY_RECORDED


def test_what_is_superseded_has_a_message_of_its_own():
    w = trio().take("b")
    b = w.lane("b")
    assert not superseded(w.i, b)
    w.ok("b")
    assert superseded(w.i, b)
    main = replace(w.i.lane, epoch=1)
    assert not superseded(w.i, main)
    w.take("c").take("d")
    assert superseded(w.i, main)


def test_a_group_is_announced_lane_by_lane_and_behind_one_guard():
    w = trio()
    assert to_announce(new(w.definition), w.i) == w.i.branches
    guarded = nudge(w.i, nudge_id="n", now=w.now)
    assert isinstance(guarded, Moved)
    assert guarded.instance.lane.nudge is not None
    own = nudge(w.i, nudge_id="n", now=w.now, branch=2)
    assert isinstance(own, Moved)
    assert own.instance.branches[1].nudge is not None
    assert own.instance.lane.nudge is None
    assert to_announce(w.i, replace(w.i, status=SagaState.FAILED)) == ()


def test_a_dead_letter_of_a_branch_stalls_that_branch():
    w = trio()
    w.now += MINUTE

    def dead(branch: int | None, epoch: int = 1) -> DeliveryExhausted:
        return DeliveryExhausted(
            epoch=epoch,
            definition=w.i.definition,
            nudge_id="n",
            error=BOOM,
            at=w.now,
            branch=branch,
        )

    w.event(dead(2))
    assert w.lane("c").due_at > w.now
    assert w.lane("b").due_at < w.now
    assert w.lane("c").nudge is not None
    assert w.ignores(dead(2)) is Reason.NUDGED
    assert w.ignores(dead(None, w.i.lane.epoch)) is Reason.STALE_UNCLAIMED
    w.take("b").ok("b")
    assert w.ignores(dead(1)) is Reason.STALE_CLAIMED


def test_a_saga_that_stopped_in_a_group_goes_on_in_all_its_lanes():
    pivot = step("p", pivot=True)
    w = flow(pivot, *(step(n, group="g") for n in "bc")).take("p").ok("p").take("b").take("c")
    w.no("b")
    assert (w.i.state, w.i.why) == (SagaState.FAILED, Why.FORWARD_FAILED)
    assert len(w.i.branches) == 2
    assert all(n.lease is None for n in w.i.branches)
    assert set(w.i.standing) == {"p", "c"}
    epochs = [n.epoch for n in w.i.branches]
    w.resume()
    assert [n.epoch for n in w.i.branches] == [e + 1 for e in epochs]
    w.take("b").ok("b").take("c").ok("c")
    assert w.i.state is SagaState.COMPLETED


def test_a_person_may_vouch_for_one_branch():
    pivot = step("p", pivot=True)
    w = flow(pivot, *(step(n, group="g") for n in "bc")).take("p").ok("p").take("b").no("b")
    assert w.ignores(w.skipping("p")) is Reason.OTHER_STEP
    w.skip("b")
    assert [n.index for n in w.i.branches] == [2]
    w.take("c").ok("c")
    assert w.i.state is SagaState.COMPLETED


def test_the_last_branch_may_be_vouched_for_and_the_saga_goes_on_with_what_the_others_did():
    pivot = step("p", pivot=True)
    w = flow(pivot, *(step(n, group="g") for n in "bc"), "z").take("p").ok("p")
    w.take("b").ok("b", x=1).take("c").no("c").wait(MINUTE)
    w.skip("c")
    assert (w.i.branches, w.context) == ((), {"x": 1})
    assert w.lane("z").due_at == w.now


def test_a_group_that_stalled_may_be_cancelled():
    w = trio().take("b").ok("b")
    w.now += MINUTE
    while w.i.live:
        w.now = max(w.now + MINUTE, w.lane("c").due_at)
        w.event(
            DeliveryExhausted(
                epoch=w.lane("c").epoch,
                definition=w.i.definition,
                nudge_id="n",
                error=BOOM,
                at=w.now,
                branch=2,
            )
        )
    w.cancel()
    assert w.i.state is SagaState.COMPENSATING
    assert not w.i.branches
    assert w.codes == "OK OK - - -"


def test_a_group_that_stalled_on_its_way_back_goes_on_there():
    w = trio().take("b").take("c").no("b")
    w.now += LEASE + MINUTE
    while w.i.live:
        w.now = max(w.now + MINUTE, w.lane("c").due_at)
        w.event(
            DeliveryExhausted(
                epoch=w.lane("c").epoch,
                definition=w.i.definition,
                nudge_id="n",
                error=BOOM,
                at=w.now,
                branch=2,
            )
        )
    assert w.i.why is Why.STALLED
    w.resume()
    assert w.i.state is SagaState.COMPENSATING
    w.take("c").hold("c", Withhold.ROLLING_BACK)
    assert w.codes == "OK NO U - -"


def test_the_statuses_of_a_group_are_those_of_its_lanes():
    w = trio().take("b").take("c").unknown("c", final=False)
    told = [r.status for r in w.i.step_results]
    assert told == [
        StepStatus.COMPLETED,
        StepStatus.RUNNING,
        StepStatus.IN_DOUBT,
        StepStatus.PENDING,
        StepStatus.PENDING,
    ]
    assert w.i.step_results[1].due_at is None
    assert w.i.step_results[2].due_at == w.lane("c").due_at


def test_an_answer_that_is_repeated_for_a_branch_is_known():
    w = trio().take("b")
    held = w.held("b")
    w.ok("b")
    again = StepSucceeded(claim_id=held, context="{}", at=w.now)
    assert w.ignores(again) is Reason.ALREADY_RECORDED
    w.take("c").ok("c").take("d").ok("d")
    assert w.ignores(again) is Reason.ALREADY_RECORDED


def test_a_commit_whose_reply_was_lost_is_recognised_when_an_answer_has_joined_the_group_since():
    w = trio().take("b").waits("b")
    w.take("c").ok("c").take("d")
    last = w.held("d")
    w.ok("d").answered("b")
    assert not w.i.branches
    again = StepSucceeded(claim_id=last, context="{}", at=w.now)
    assert w.ignores(again) is Reason.ALREADY_RECORDED


def test_a_sweep_looks_after_the_lane_that_comes_first():
    w = flow(
        "a",
        step("b", group="g", delay=timedelta(hours=5)),
        step("c", group="g", delay=timedelta(hours=3)),
    )
    w.take("a").ok("a")
    assert w.i.sweep_at == w.now + 3 * HOUR - 10 * MINUTE
    assert swept(w.i, w.now).sweep_at == w.now + 3 * HOUR - 10 * MINUTE
    later = w.now + 3 * HOUR
    assert swept(w.i, later).sweep_at == later + 5 * MINUTE


def test_a_take_over_frees_every_lane():
    w = trio().take("b").take("c")
    w.event(w.taking_over())
    assert all(n.lease is None for n in w.i.branches)
    assert w.lane("b").tries == 1
    assert w.ignores(w.taking_over()) is Reason.LIVE


# -- a condition -----------------------------------------------------------------------

YES = Handler.of(lambda ctx: True)


def test_a_condition_is_asked_before_its_step_and_what_it_says_is_stored():
    w = flow("a", step("b", when=YES), "c").take("a")
    event = StepSucceeded(claim_id=w.held("a"), context="{}", at=w.now)
    outcome = apply(w.definition, w.i, event)
    assert isinstance(outcome, Moved)
    assert undecided(w.definition, outcome.instance) == ("b",)
    yes = choose(w.definition, outcome.instance, {"b": True}, w.now, soon=False)
    assert yes.steps[1].chosen
    assert undecided(w.definition, yes) == ()
    no = choose(w.definition, outcome.instance, {"b": False}, w.now, soon=False)
    assert no.steps[1].code is StepCode.SKIPPED
    assert no.steps[1].ended_at == w.now
    assert no.lane.index == 2
    assert no.step_results[1].status is StepStatus.SKIPPED


def test_a_saga_all_of_whose_steps_are_skipped_is_complete():
    d = saga(step("a", when=YES), step("b", when=YES))
    i = choose(d, new(d), {"a": False}, T0, soon=True)
    assert undecided(d, i) == ("b",)
    assert choose(d, i, {"b": False}, T0, soon=True).state is SagaState.COMPLETED


def test_the_members_of_a_group_are_asked_together():
    d = saga(step("a", group="g", when=YES), step("b", group="g"), step("c", group="g", when=YES))
    fresh = new(d)
    assert undecided(d, fresh) == ("a", "c")
    some = choose(d, fresh, {"a": False, "c": True}, T0, soon=True)
    assert [n.index for n in some.branches] == [1, 2]
    assert some.state is SagaState.CREATED


def test_a_group_nobody_of_which_is_wanted_is_stepped_over():
    d = saga(step("a", group="g", when=YES), step("b", group="g", when=YES), "c")
    i = choose(d, new(d), {"a": False, "b": False}, T0, soon=True)
    assert (i.lane.index, i.branches) == (2, ())


def test_a_condition_that_raises_rolls_back_with_its_step_as_the_cause():
    w = flow("a", step("b", when=YES)).take("a")
    event = StepSucceeded(claim_id=w.held("a"), context="{}", at=w.now)
    outcome = apply(w.definition, w.i, event)
    assert isinstance(outcome, Moved)
    i = choose(w.definition, outcome.instance, {"b": BOOM}, w.now, soon=False)
    assert (i.state, i.cause) == (
        SagaState.COMPENSATING,
        Cause(CauseKind.STEP_FAILED, w.now, step="b", error=BOOM),
    )
    assert i.steps[1].error == BOOM


def test_a_first_condition_that_raises_is_a_saga_that_never_began():
    d = saga(step("a", when=YES))
    i = choose(d, new(d), {"a": BOOM}, T0, soon=True)
    assert i.state is SagaState.COMPENSATED
    assert i.sweep_at is None


def test_past_the_pivot_a_condition_that_raises_stops_and_is_asked_again_by_a_resume():
    w = flow(step("p", pivot=True), step("b", when=YES)).take("p")
    event = StepSucceeded(claim_id=w.held("p"), context="{}", at=w.now)
    outcome = apply(w.definition, w.i, event)
    assert isinstance(outcome, Moved)
    w.i = choose(w.definition, outcome.instance, {"b": BOOM}, w.now, soon=False)
    assert (w.i.state, w.i.why) == (SagaState.FAILED, Why.FORWARD_FAILED)
    assert undecided(w.definition, w.i) == ()
    w.resume()
    assert undecided(w.definition, w.i) == ("b",)
    w.i = choose(w.definition, w.i, {"b": True}, w.now, soon=True)
    assert w.i.steps[1].error is None
    assert w.take("b").ok("b").i.state is SagaState.COMPLETED


def test_a_condition_that_says_no_after_it_raised_leaves_no_error_behind():
    w = flow(step("p", pivot=True), step("b", when=YES)).take("p").ok("p")
    w.i = choose(w.definition, w.i, {"b": BOOM}, w.now, soon=False)
    w.resume()
    w.i = choose(w.definition, w.i, {"b": False}, w.now, soon=True)
    assert (w.i.state, w.record("b").error) == (SagaState.COMPLETED, None)


def test_a_condition_that_raises_is_the_error_of_its_own_step_and_of_the_saga():
    w = flow(step("p", pivot=True), step("b", group="g", when=YES), step("c", group="g"))
    w.take("p").ok("p")
    w.i = choose(w.definition, w.i, {"b": BOOM}, w.now, soon=False)
    assert [s.error for s in w.i.steps] == [None, BOOM, None]
    assert w.i.failure == BOOM
    assert w.i.branches == ()  # none of them has begun


@pytest.mark.parametrize("said", [True, BOOM], ids=["yes", "raises"])
def test_after_a_request_the_sweeper_comes_soon_and_after_a_commit_it_takes_its_time(said):
    w = flow("a", step("b", when=YES), timeout=timedelta(days=1)).take("a").ok("a")
    soon = choose(w.definition, w.i, {"b": said}, w.now, soon=True)
    later = choose(w.definition, w.i, {"b": said}, w.now, soon=False)
    assert soon.sweep_at == w.now + 2 * MINUTE
    assert later.sweep_at is not None
    assert later.sweep_at >= w.now + 6 * MINUTE


def test_on_the_way_back_nobody_is_asked():
    w = flow("a", step("b", when=YES)).take("a").no("a")
    assert undecided(w.definition, w.i) == ()


def test_conditions_get_the_context_and_a_copy_of_their_own():
    seen = []

    def greedy(ctx: dict[str, int]) -> bool:
        seen.append(dict(ctx))
        ctx.clear()
        return bool(seen)

    when = Handler.of(greedy)
    d = saga(step("a", group="g", when=when), step("b", group="g", when=when))
    effect = Decide(d, ("a", "b"), '{"x":1}')
    assert decide(effect, StandardContextCodec()) == {"a": True, "b": True}
    assert seen == [{"x": 1}, {"x": 1}]
    with pytest.raises(IllegalEventError, match="step c has no condition"):
        decide(Decide(saga("c"), ("c",), "{}"), StandardContextCodec())


# -- an answer -------------------------------------------------------------------------


def asking(**options: object) -> Flow:
    return flow("a", step("b", **options), "c").take("a").ok("a").take("b")  # type: ignore[arg-type]  # of StepOptions


def test_a_step_that_asked_waits_and_holds_no_lease():
    w = asking().waits("b", HOUR, asked=True)
    assert w.record("b").code is StepCode.WAITING
    assert w.lane("b").lease is None
    assert w.lane("b").due_at == w.now + HOUR
    assert w.context == {"asked": True}
    assert w.i.step_results[1].status is StepStatus.WAITING
    assert w.i.step_results[1].attempts == 1
    assert w.i.standing == ("b", "a")
    assert w.i.lane.epoch == 3
    assert next_actions(w.definition, w.i, w.now) == (WakeAt(w.now + HOUR),)


def test_a_wait_is_no_error_and_no_end_and_takes_no_doubt_away():
    w = asking(retry=TWICE).no("b", fatal=False)
    w.take("b").waits("b")
    assert (w.record("b").error, w.record("b").ended_at) == (None, None)
    assert w.record("b").doubt is False
    unsure = asking(retry=TWICE).unknown("b", final=False)
    unsure.take("b").waits("b")
    assert unsure.record("b").doubt is True
    unsure.answered("b")
    assert unsure.record("b").doubt is False


def test_a_wait_is_no_attempt_that_was_lost_and_no_move():
    w = asking()
    hops = w.i.hops
    w.waits("b")
    assert w.lane("b").attempts == 0
    assert w.i.hops == hops - 1


def test_a_wait_ends_at_the_deadline_at_the_latest():
    w = asking().waits("b", 30 * DAY)
    assert w.lane("b").due_at == w.i.deadline_at


def test_the_answer_completes_the_step():
    w = asking().waits("b", asked=True).answered("b", approved="ann")
    assert w.record("b").code is StepCode.DONE
    assert w.context == {"asked": True, "approved": "ann"}
    assert w.lane("c").due_at == w.now
    assert w.i.sweep_at == w.now + 120 * SECOND
    given = w.record("b").answer
    assert given is not None
    assert (given.fields, given.by, given.ok) == (None, "ann", True)


def test_the_answer_may_complete_the_saga():
    w = flow("a").take("a").waits("a").answered("a")
    assert w.i.state is SagaState.COMPLETED
    assert w.i.sweep_at is None


def test_an_answer_that_says_no_is_a_known_failure():
    w = asking().waits("b").answered("b", ok=False)
    assert w.codes == "OK NO -"
    assert w.i.cause is not None
    assert w.i.cause.step == "b"
    assert w.record("b").answer is not None


def test_after_a_no_the_step_asks_again_while_its_policy_allows():
    w = asking(retry=TWICE).waits("b").answered("b", ok=False)
    assert w.record("b").code is StepCode.RUNNING
    assert w.record("b").answer is None
    assert w.next("b") == Execute("b", 2)
    w.take("b").waits("b").answered("b")
    assert w.record("b").code is StepCode.DONE


def test_a_no_after_an_attempt_that_vanished_leaves_the_doubt():
    w = asking()
    w.now += LEASE + 1
    w.take("b").waits("b").answered("b", ok=False)
    assert w.codes == "OK U -"


def test_a_no_after_another_no_may_be_the_same_delivered_again_and_is_in_doubt():
    # All attempts share a token: the second request may be open while the first no comes twice.
    w = asking(retry=TWICE).waits("b").answered("b", ok=False)
    w.take("b").waits("b").answered("b", ok=False)
    assert w.codes == "OK U -"
    assert w.record("b").doubt is True
    assert w.i.standing == ("b", "a")


@pytest.mark.parametrize(
    "reason", [r for r in Withhold if r not in (Withhold.HOPS, Withhold.ROLLING_BACK)]
)
def test_whatever_a_claim_decided_before_an_answer_came_the_answer_counts(reason):
    w = asking().answered("b", approved=True)
    w.hold("b", reason)
    assert w.record("b").code is StepCode.DONE
    assert w.context == {"approved": True}


def test_an_answer_before_the_wait_is_stored_is_kept_and_used():
    w = asking().answered("b", approved=True)
    assert w.record("b").answer is not None
    assert w.lane("b").lease is not None
    w.waits("b", asked=True)
    assert w.record("b").code is StepCode.DONE
    assert w.context == {"asked": True, "approved": True}


def test_an_early_answer_counts_whatever_becomes_of_the_attempt():
    for end in ("no", "unknown"):
        w = asking().answered("b", approved=True)
        getattr(w, end)("b")
        assert w.record("b").code is StepCode.DONE
        assert w.lane("c").tries == 0
    lost = asking().answered("b", approved=True)
    lost.now += LEASE + 1
    lost.take("b")
    assert lost.next("b") == Settle(Withhold.ANSWERED)
    lost.hold("b", Withhold.ANSWERED)
    assert lost.record("b").code is StepCode.DONE
    assert lost.record("b").attempts == 1


def test_a_step_that_did_not_wait_for_its_early_answer_is_done_by_itself():
    w = asking().answered("b", ok=False)
    w.ok("b", done=True)
    assert w.record("b").code is StepCode.DONE
    given = w.record("b").answer
    assert given is not None
    assert given.fields is None


def test_a_second_answer_is_refused_and_the_same_again_is_known():
    w = asking().waits("b").answered("b", x=1)
    assert w.ignores(w.says("b", x=1)) is Reason.REPEATED
    assert w.ignores(w.says("b", x=2)) is Reason.ANSWERED
    assert w.ignores(w.says("b", ok=False)) is Reason.ANSWERED
    early = asking().answered("b", x=1)
    assert early.ignores(early.says("b", x=2)) is Reason.ANSWERED


def test_two_answers_are_the_same_whatever_the_order_of_their_fields():
    w = asking().waits("b").answered("b", x=1, y=2)
    assert w.ignores(w.says("b", y=2, x=1)) is Reason.REPEATED


def test_two_that_say_no_for_other_reasons_are_two_answers():
    w = asking().waits("b").answered("b", ok=False)
    other = replace(w.says("b", ok=False), error=StepError("AnsweredFailed", "never"))
    assert w.ignores(w.says("b", ok=False)) is Reason.REPEATED
    assert w.ignores(other) is Reason.ANSWERED


def test_what_tells_answers_apart_is_stored_and_the_same_in_every_release():
    w = asking().waits("b").answered("b", y=[1], x="\u00e4")
    given = w.record("b").answer
    assert given is not None
    assert given.digest == "55c2ab255eca5f1c"


def test_an_answer_is_a_move_of_its_moment_and_keeps_what_it_said():
    early = asking().wait(MINUTE)
    assert isinstance(early, Flow)
    early.answered("b", ok=False)
    late = asking().waits("b")
    late.take("b").hold("b", Withhold.UNANSWERED).wait(MINUTE)
    late.answered("b", ok=False)
    for w in (early, late):
        given = w.record("b").answer
        assert given is not None
        assert (w.i.updated_at, given.at) == (w.now, w.now)
        assert given.error == StepError("AnsweredFailed", "no")


def test_who_was_never_asked_cannot_answer():
    w = flow("a", "b")
    assert w.ignores(w.says("a")) is Reason.NOT_ASKED
    assert w.ignores(w.says("b")) is Reason.NOT_ASKED
    w.take("a").ok("a")
    assert w.ignores(w.says("a")) is Reason.NOT_ASKED
    w.take("b").no("b")
    assert w.ignores(w.says("b")) is Reason.NOT_ASKED
    closed = flow("a").take("a").ok("a")
    assert closed.ignores(closed.says("a")) is Reason.CLOSED


def test_silence_is_a_doubt():
    w = asking().waits("b")
    w.take("b")
    assert w.next("b") == Settle(Withhold.UNANSWERED)
    w.hold("b", Withhold.UNANSWERED)
    assert w.codes == "OK U -"
    assert w.record("b").error == StepError("AnswerOverdue", "nobody answered in time")
    assert w.definition.steps[w.i.lane.index].name == "b"


def test_after_silence_the_step_asks_again_while_its_policy_allows():
    w = asking(retry=TWICE).waits("b")
    w.take("b").hold("b", Withhold.UNANSWERED)
    assert w.record("b").code is StepCode.UNKNOWN
    w.take("b")
    assert w.next("b") == Execute("b", 2)


def test_between_two_attempts_an_answer_counts():
    w = asking(retry=TWICE).waits("b")
    w.take("b").hold("b", Withhold.UNANSWERED).answered("b", x=1)
    assert w.record("b").code is StepCode.DONE


def test_a_late_answer_is_recorded_and_changes_nothing():
    w = asking().waits("b")
    w.take("b").hold("b", Withhold.UNANSWERED)
    before = w.codes
    w.answered("b", x=1)
    given = w.record("b").answer
    assert given is not None
    assert given.late
    assert given.fields is None
    assert (w.codes, w.context) == (before, {})
    assert w.ignores(w.says("b", x=1)) is Reason.LATE
    w.claim().undone()
    assert w.record("b").code is StepCode.COMPENSATED


def test_a_wait_that_is_cancelled_is_in_doubt_and_undone():
    w = asking().waits("b").cancel()
    assert w.lane("b").due_at == w.now
    w.take("b").hold("b", Withhold.CANCELLED)
    assert w.codes == "OK U -"
    w.answered("b")
    assert w.record("b").answer is not None


def test_a_cancel_while_it_asks_leaves_it_in_doubt():
    w = asking().cancel().waits("b")
    assert w.codes == "OK U -"
    text = "the saga was rolled back before the answer came"
    assert w.record("b").error == StepError("AnswerAwaited", text)
    assert (w.record("b").doubt, w.record("b").ended_at) == (True, w.now)
    assert w.i.cause is not None
    assert w.i.cause.kind is CauseKind.CANCELLED


def test_an_answer_under_a_cancel_is_recorded_first_and_then_undone():
    w = asking().waits("b").cancel().answered("b")
    assert w.codes == "OK OK -"
    assert w.i.state is SagaState.COMPENSATING


def test_an_answer_to_a_saga_that_stopped_is_kept_for_its_resume():
    w = asking().waits("b", 3 * HOUR)
    w.now = w.lane("b").due_at + MINUTE
    w.stall().answered("b", x=1)
    assert w.i.state is SagaState.FAILED
    w.resume().claim()
    assert w.next("b") == Settle(Withhold.ANSWERED)
    w.hold("b", Withhold.ANSWERED)
    assert w.record("b").code is StepCode.DONE


def test_past_the_pivot_a_no_stops_and_a_resume_asks_anew():
    w = flow(step("p", pivot=True), "b").take("p").ok("p").take("b").waits("b")
    w.i = replace(w.i, lane=replace(w.i.lane))
    fatal = Flow(saga(step("p", pivot=True), step("b"), timeout=timedelta(days=1)))
    fatal.take("p").ok("p").take("b").waits("b").answered("b", ok=False)
    assert fatal.record("b").code is StepCode.RUNNING  # tried until it succeeds
    w.take("b").hold("b", Withhold.UNANSWERED)
    assert w.record("b").code is StepCode.UNKNOWN


def test_an_early_no_counts_like_one_that_was_awaited_and_the_step_asks_again():
    w = asking(retry=TWICE).answered("b", ok=False)
    assert w.ignores(w.says("b", ok=False)) is Reason.REPEATED
    w.waits("b")
    assert (w.record("b").code, w.record("b").answer) == (StepCode.RUNNING, None)
    assert w.record("b").error == StepError("AnsweredFailed", "no")
    w.take("b").waits("b").answered("b", x=1)
    assert w.context == {"x": 1}


def test_no_and_silence_are_reported_and_no_attempts_that_vanished():
    said = asking(retry=TWICE).waits("b").answered("b", ok=False)
    silent = asking(retry=TWICE).waits("b").take("b").hold("b", Withhold.UNANSWERED)
    for w in (said, silent):
        assert (w.lane("b").attempts, w.lane("b").reported) == (1, 1)
    early = asking(retry=TWICE).answered("b", ok=False).waits("b")
    assert (early.lane("b").attempts, early.lane("b").reported) == (1, 1)


def test_of_a_no_that_was_the_last_word_only_the_trace_is_kept():
    w = asking().waits("b").answered("b", ok=False, why="dear")
    given = w.record("b").answer
    assert given is not None
    assert (given.ok, given.fields, given.error) == (False, None, StepError("AnsweredFailed", "no"))


def test_a_resume_forgets_an_answer_that_was_used():
    d = saga(step("p", pivot=True), "b", timeout=timedelta(days=1))
    w = Flow(d).take("p").ok("p").take("b").waits("b")
    w.answered("b", ok=False)
    w.take("b").no("b")
    assert w.i.why is Why.FORWARD_FAILED
    used = replace(w.record("b"), answer=asking().waits("b").answered("b").record("b").answer)
    w.i = replace(w.i, steps=(w.i.steps[0], used))
    w.resume()
    assert w.record("b").answer is None
    w.take("b").waits("b").answered("b", x=1)
    assert w.i.state is SagaState.COMPLETED


def test_a_heartbeat_begins_the_wait_anew():
    w = asking().waits("b")
    w.now += MINUTE
    w.event(w.beats("b"))
    assert w.lane("b").due_at == w.now + HOUR
    w.now -= MINUTE
    w.event(w.beats("b"))
    assert w.lane("b").due_at == w.now + MINUTE + HOUR  # never sooner


def test_a_heartbeat_needs_a_step_that_waits():
    w = flow("a", step("b", retry=TWICE))
    assert w.ignores(w.beats("a")) is Reason.NOT_ASKED
    w.take("a")
    assert w.ignores(w.beats("a")) is Reason.LEASED
    assert w.ignores(w.beats("b")) is Reason.NOT_ASKED
    w.ok("a").take("b").no("b", fatal=False)
    assert w.ignores(w.beats("b")) is Reason.NOT_ASKED
    w.take("b").unknown("b")
    assert w.ignores(w.beats("b")) is Reason.LATE
    closed = flow("a").take("a").ok("a")
    assert closed.ignores(closed.beats("a")) is Reason.CLOSED


def test_a_heartbeat_is_a_move_of_its_moment():
    w = asking().waits("b")
    w.now += MINUTE
    assert w.event(w.beats("b")).i.updated_at == w.now


def test_a_heartbeat_of_a_step_that_is_being_undone_is_late():
    w = asking().waits("b")
    w.take("b").hold("b", Withhold.UNANSWERED)
    w.claim()  # for the undo
    assert w.ignores(w.beats("b")) is Reason.LATE


def test_a_heartbeat_between_two_attempts_finds_nobody_who_waits():
    w = asking(retry=TWICE).waits("b").take("b").hold("b", Withhold.UNANSWERED)
    assert w.lane("b").lease is None
    assert w.ignores(w.beats("b")) is Reason.NOT_ASKED


def test_a_branch_may_wait_and_its_answers_fields_are_its_own():
    w = trio().take("b").waits("b", asked="b")
    assert w.context == {}
    assert w.i.step_results[1].status is StepStatus.WAITING
    w.take("c").ok("c", c=1).take("d").ok("d")
    assert context_for(w.i, w.lane("b")) == '{"asked":"b"}'
    w.answered("b", by="ann")
    assert w.context == {"asked": "b", "by": "ann", "c": 1}
    assert w.i.lane.index == 4


def test_a_branch_that_asks_for_a_field_of_anothers_is_refused():
    w = trio().take("b").ok("b", x=1).take("c").waits("c", x=2)
    assert w.i.cause is not None
    assert w.i.cause.error is not None
    assert w.i.cause.error.kind == "FieldConflict"
    assert w.record("c").code is StepCode.UNKNOWN
    assert (w.record("c").doubt, w.record("c").ended_at) == (True, w.now)
    assert kind_of(w, "c") == "FieldConflict"
    answered = trio().take("b").ok("b", x=1).take("c").waits("c").answered("c", x=2)
    assert answered.i.cause is not None
    assert answered.i.cause.error is not None
    assert answered.i.cause.error.message == "b and c both write x"


def test_a_branch_that_waits_is_in_doubt_as_soon_as_its_group_fails():
    w = trio().take("b").waits("b").take("c").no("c")
    assert w.codes == "OK U NO - -"
    assert not w.i.branches


def test_a_branch_that_asks_while_its_group_has_failed_is_in_doubt():
    w = trio().take("b").take("c").no("c").waits("b")
    assert w.codes == "OK U NO - -"


def test_an_answer_that_was_claimed_for_and_is_not_there_cannot_be():
    w = asking()
    event = Withheld(claim_id=w.held("b"), reason=Withhold.ANSWERED, at=w.now)
    assert "was not answered" in w.refuses(event)


def test_an_answer_of_no_text_says_so():
    w = asking().waits("b")
    w.event(AnswerGiven(step="b", ok=False, by="ann", at=w.now))
    assert w.record("b").error == StepError("AnsweredFailed", "")


# -- the token -------------------------------------------------------------------------

SECRET = "00112233445566778899aabbccddeeff"


def test_a_token_is_bound_to_saga_incarnation_and_step():
    token = answer_token("s1", "abcd1234", SECRET, 3)
    assert parse_token(token) == ("s1", 3)
    others = {
        answer_token("s2", "abcd1234", SECRET, 3),
        answer_token("s1", "abcd1235", SECRET, 3),
        answer_token("s1", "abcd1234", SECRET, 4),
        answer_token("s1", "abcd1234", f"01{SECRET[2:]}", 3),
    }
    assert len({token.rsplit(".", 1)[1], *(t.rsplit(".", 1)[1] for t in others)}) == 5
    assert answer_token("s1", "abcd1234", SECRET, 3) == token
    assert same_token(token, token)
    assert not any(same_token(token, other) for other in others)


def test_a_token_is_safe_in_a_url_and_holds_128_bits():
    saga_id, place, bits = answer_token("a.b-c_d", "abcd1234", SECRET, 99).rsplit(".", 2)
    assert (saga_id, place, len(bits)) == ("a.b-c_d", "99", 22)
    assert set(bits) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_saga_without_a_secret_has_no_token():
    assert answer_token("s1", "abcd1234", "", 3) == ""
    assert not same_token("", "")


@pytest.mark.parametrize(
    "token",
    ["", "s1", "s1.3", "s1.x.0123456789012345678901", "s1.3.short", "#.3.0123456789012345678901"],
)
def test_what_is_no_token_is_none(token):
    with pytest.raises(ValueError, match="not an answer token"):
        parse_token(token)


# -- delays ----------------------------------------------------------------------------


def test_a_delay_is_when_the_step_is_due():
    w = flow("a", step("b", delay=timedelta(minutes=20)))
    w.take("a").ok("a")
    assert w.lane("b").due_at == w.now + 20 * MINUTE
    assert w.i.sweep_at == w.now + 10 * MINUTE
    first = flow(step("a", delay=timedelta(minutes=5)))
    assert first.i.lane.due_at == T0 + 5 * MINUTE
    assert first.i.sweep_at == T0 + 120 * SECOND
    long = flow(step("a", delay=timedelta(minutes=30)))
    assert long.i.sweep_at == T0 + 20 * MINUTE


def test_a_delay_does_not_sleep_through_the_deadline():
    d = saga("a", step("b", delay=timedelta(hours=20)), timeout=timedelta(hours=21))
    w = Flow(d)
    w.now += 2 * HOUR
    w.take("a").ok("a")
    assert w.lane("b").due_at == w.i.deadline_at


# -- turns -----------------------------------------------------------------------------


def test_a_handler_is_told_its_own_time_out_and_its_token():
    d = saga(step("a", timeout=timedelta(seconds=3)))
    i = replace(new(d), secret=SECRET)
    claimed = apply(
        d, i, Claimed(claim_id="d1", epoch=1, definition=i.definition, until=T0 + 9, at=T0)
    )
    assert isinstance(claimed, Moved)
    message = WorkMessage(i.key, 1, i.definition, "x", "x")
    delivery = Delivery("d1", T0, T0 + 30_000, 20_000, 0.0)
    turn = work(message, delivery, {d.ref: d}.get)
    turn.send(None)
    effect = turn.send(Written(claimed.instance))
    assert isinstance(effect, Call)
    assert effect.timeout_ms == 3_000
    assert effect.call.deadline.timestamp() * 1000 == T0 + 3_000
    assert effect.call.token == answer_token("s1", "abcd1234", SECRET, 0)


def test_a_worker_that_has_less_than_the_longest_step_needs_starts_none():
    d = saga("a", step("b", timeout=timedelta(seconds=28)))
    i = new(d)
    message = WorkMessage(i.key, 1, i.definition, "x", "x")
    effects, decision = play(work(message, Delivery("d", T0, T0 + 30_000, 1, 0.0), {d.ref: d}.get))
    assert effects == []
    assert decision.verdict.value == "no_time"


def outcome_of(execute: object, token: str = "t", **options: object) -> object:
    a = StepDefinition(
        name="a",
        execute=Handler.of(execute),
        compensate=Handler.of(execute),
        **options,  # type: ignore[arg-type]  # of StepDefinition
    )
    call = StepCall(
        saga_id="s1",
        step="a",
        direction=Direction.FORWARD,
        attempt=1,
        idempotency_key="k",
        execute_key="k",
        fence=1,
        deadline=AT,
        token=token,
    )
    effect = Call("a", Direction.FORWARD, call, '{"x":1}', 50)
    return invoke(saga(a), effect, StandardContextCodec(), run_within)


def run_within(awaitable, seconds):
    async def finish() -> object:
        async with asyncio.timeout(seconds):
            return await awaitable

    return asyncio.run(finish())


AT = datetime(2027, 1, 1, tzinfo=UTC)


def test_a_handler_that_awaits_an_answer_keeps_what_it_wrote():
    def asks(ctx: dict[str, int]) -> AwaitAnswer:
        ctx["y"] = 2
        return AwaitAnswer(timeout=timedelta(seconds=90))

    assert outcome_of(asks) == Waits('{"x":1,"y":2}', 90_000)
    other = AwaitAnswer(timeout=timedelta(seconds=1), context={"z": 3})
    assert outcome_of(lambda ctx: other) == Waits('{"z":3}', 1_000)


def test_a_handler_whose_token_nobody_can_have_cannot_wait():
    outcome = outcome_of(lambda ctx: AwaitAnswer(timeout=timedelta(seconds=1)), token="")
    assert isinstance(outcome, InDoubt)
    assert outcome.final


def test_an_async_handler_is_cancelled_when_its_time_is_over():
    ended = []

    async def slow(_ctx: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    outcome = outcome_of(slow)
    assert isinstance(outcome, InDoubt)
    assert outcome.error.kind == "TimeoutError"
    assert ended == [True]


@pytest.mark.parametrize("timeout", [timedelta(0), timedelta(seconds=-1), timedelta(days=367)])
def test_an_answer_is_awaited_for_a_while_and_not_for_ever(timeout):
    with pytest.raises(ValueError, match="up to 366 days"):
        AwaitAnswer(timeout=timeout)


def test_an_answer_is_awaited_for_a_year_at_most():
    assert AwaitAnswer(timeout=timedelta(days=366)).timeout.days == 366


def stored(effect: Record) -> Written:
    return Written(replace(effect.after, version=effect.before.version + 1))


D = saga("a", "b", timeout=timedelta(days=1))


def waiting(definition=D) -> SagaInstance:
    w = Flow(definition)
    w.i = replace(w.i, secret=SECRET)
    return w.take("a").waits("a").i


def ask(i: SagaInstance, token: str, *replies: object, ok: bool = True):
    event = AnswerGiven(step="", ok=ok, by="ann", at=T0, fields='{"x":1}')
    turn = answer(i.key, token, event, {D.ref: D}.get, nudge_id="n", ends_at=T0 + 9_000)
    return play(turn, *replies)


def test_an_answer_is_read_checked_written_and_announced():
    i = waiting()
    token = answer_token(i.id, i.incarnation, SECRET, 0)

    def record(effect: Record) -> Written:
        return Written(replace(effect.after, version=effect.before.version + 1))

    effects, answered = ask(i, token, i, i, (), record, True)  # noqa: FBT003 - what the queue says
    kinds = [type(e).__name__ for e in effects]
    assert kinds == ["Find", "Find", "CheckContext", "Record", "Send"]
    assert answered.answer is Answer.ACCEPTED
    assert answered.instance is not None
    assert answered.instance.steps[0].code is StepCode.DONE


def test_what_is_checked_of_an_answer_is_the_context_that_its_step_would_leave():
    w = Flow(saga(*(step(n, group="g") for n in "ab"), timeout=timedelta(days=1)))
    w.i = replace(w.i, secret=SECRET, context_text='{"start":1}')
    w.take("a").waits("a", start=1, a=True).take("b").waits("b", start=1, b=True)
    known = {w.definition.ref: w.definition}.get

    def checked(place: int) -> CheckContext:
        token = answer_token(w.i.id, w.i.incarnation, SECRET, place)
        event = AnswerGiven(step="", ok=True, by="ann", at=T0, fields='{"x":1}')
        turn = answer(w.i.key, token, event, known, nudge_id="n", ends_at=T0 + 9_000)
        effects, _ = play(turn, w.i, w.i, (("x", "no"),))
        assert [e.key for e in effects if isinstance(e, Find)] == [w.i.key, w.i.key]
        assert [e.at for e in effects if isinstance(e, Find)] == [T0, T0]
        (found,) = [e for e in effects if isinstance(e, CheckContext)]
        return found

    assert checked(0) == CheckContext(w.definition, '{"start":1,"a":true,"x":1}')
    assert checked(1) == CheckContext(w.definition, '{"start":1,"b":true,"x":1}')


def test_a_late_answer_is_checked_with_the_context_as_it_is():
    w = asking().waits("b").take("b").hold("b", Withhold.UNANSWERED)
    w.claim().undone()  # on with the step before it, whose lane is the only one
    w.i = replace(w.i, secret=SECRET, context_text='{"y":2}')
    token = answer_token(w.i.id, w.i.incarnation, SECRET, 1)
    event = AnswerGiven(step="", ok=True, by="ann", at=T0, fields='{"x":1}')
    known = {w.definition.ref: w.definition}.get
    turn = answer(w.i.key, token, event, known, nudge_id="n", ends_at=T0 + 9_000)
    effects, answered = play(turn, w.i, w.i, (("x", "no"),))
    assert effects[-1] == CheckContext(w.definition, '{"y":2,"x":1}')
    assert answered.answer is Answer.INVALID


def test_a_repeated_answer_wakes_the_saga_behind_its_guard():
    i = waiting()
    token = answer_token(i.id, i.incarnation, SECRET, 0)
    event = AnswerGiven(step="a", ok=True, by="ann", at=T0, fields='{"x":1}')
    outcome = apply(D, i, event)
    assert isinstance(outcome, Moved)
    now = outcome.instance
    effects, answered = ask(i, token, now, now, Refused(None))
    assert answered.answer is Answer.ACCEPTED
    assert isinstance(effects[-1], Redispatch)
    assert effects[-1].nudge_id == "n"


def test_an_answer_that_leads_to_a_condition_has_it_asked_before_it_is_written():
    w = Flow(saga("a", step("b", when=YES), timeout=timedelta(days=1)))
    w.take("a").waits("a").wait(MINUTE)
    turn = request(
        w.i.key,
        w.says("a"),
        {w.definition.ref: w.definition}.get,
        nudge_id="n",
        ends_at=w.now + 9_000,
    )
    effects, answered = play(turn, w.i, (), {"b": True}, stored, True)  # noqa: FBT003 - what the queue says
    kinds = [type(e).__name__ for e in effects]
    assert kinds == ["Find", "CheckContext", "Decide", "Record", "Send"]
    now = answered.instance
    assert now is not None
    assert (now.steps[1].chosen, now.lane.due_at) == (True, w.now)
    assert now.sweep_at == w.now + 2 * MINUTE  # the send may be lost, and nobody repeats it


def test_an_answer_with_fields_that_do_not_fit_is_invalid_and_nothing_is_written():
    i = waiting()
    token = answer_token(i.id, i.incarnation, SECRET, 0)
    effects, answered = ask(i, token, i, i, (("x", "is no number"),))
    assert [type(e).__name__ for e in effects] == ["Find", "Find", "CheckContext"]
    assert (answered.answer, answered.fields) == (Answer.INVALID, (("x", "is no number"),))
    assert answered.instance == i


@pytest.mark.parametrize("place", [1, 2, 99])
def test_a_token_of_another_step_is_unknown(place):
    i = waiting()
    forged = answer_token(i.id, i.incarnation, f"ff{SECRET[2:]}", place)
    assert ask(i, forged, i)[1].answer is Answer.NOT_FOUND


def test_a_token_of_a_step_that_there_is_not_is_unknown():
    i = waiting()
    beyond = answer_token(i.id, i.incarnation, SECRET, 2)
    assert ask(i, beyond, i)[1].answer is Answer.NOT_FOUND


def test_a_token_of_no_saga_is_unknown_and_a_store_that_is_silent_is_unavailable():
    i = waiting()
    token = answer_token(i.id, i.incarnation, SECRET, 0)
    assert ask(i, token, None)[1].answer is Answer.NOT_FOUND
    assert ask(i, token, Unavailable(THROTTLED, T0))[1].answer is Answer.UNAVAILABLE


def test_a_late_answer_is_written_and_refused():
    w = Flow(D)
    w.i = replace(w.i, secret=SECRET)
    w.take("a").waits("a").take("a").hold("a", Withhold.UNANSWERED)
    i = w.i
    token = answer_token(i.id, i.incarnation, SECRET, 0)

    def record(effect: Record) -> Written:
        return Written(replace(effect.after, version=effect.before.version + 1))

    _, answered = ask(i, token, i, i, (), record)
    assert (answered.answer, answered.reason) == (Answer.REFUSED, Reason.LATE)
    assert answered.instance is not None
    assert answered.instance.version == i.version + 1


def test_a_repeated_answer_after_the_end_is_accepted_and_wakes_nobody():
    w = Flow(saga("a", timeout=timedelta(days=1)))
    w.take("a").waits("a").answered("a", x=1)
    event = w.says("a", x=1)
    turn = request(
        w.i.key, event, {w.definition.ref: w.definition}.get, nudge_id="n", ends_at=w.now + 9_000
    )
    effects, answered = play(turn, w.i)
    assert [type(e) for e in effects] == [Find]
    assert (answered.answer, answered.instance) == (Answer.ACCEPTED, w.i)


def test_a_repeated_heartbeat_is_accepted():
    w = asking()
    turn = request(
        w.i.key, w.beats("b"), {w.definition.ref: w.definition}.get, nudge_id="n", ends_at=w.now
    )
    assert play(turn, w.i)[1].answer is Answer.ACCEPTED


def test_an_answer_that_races_with_another_write_looks_again():
    i = waiting()
    token = answer_token(i.id, i.incarnation, SECRET, 0)

    def record(effect: Record) -> Written:
        return Written(replace(effect.after, version=effect.before.version + 1))

    replies = (i, i, (), Refused(i), T0 + 50, i, (), record, True)
    _, answered = ask(i, token, *replies)
    assert answered.answer is Answer.ACCEPTED


def test_a_child_whose_parent_went_back_says_so():
    i = replace(new(D), cause=Cause(CauseKind.PARENT, T0, by="saga p"), parent=Parent("p", 0))
    with pytest.raises(SagaCancelledError, match="cancelled by saga p"):
        i.raise_for_state()


def test_a_child_that_runs_when_its_parent_has_turned_is_in_doubt():
    child = saga("x", name="kid")
    d = replace(D, steps=(replace(D.steps[0], child=child, compensate=None), D.steps[1]))
    w = Flow(d).take("a").cancel()
    w.event(ChildWaits(claim_id=w.held("a"), child="kid-1", wait_ms=HOUR, at=w.now))
    assert w.codes == "U -"
    assert w.record("a").child == "kid-1"
    assert kind_of(w, "a") == "ChildRuns"


# -- in process ------------------------------------------------------------------------


class Clockwork:
    """A clock that only sleeping moves; what is to happen meanwhile happens then."""

    def __init__(self) -> None:
        self.now = T0
        self.errands: list[object] = []
        self.ids = 0

    def new_id(self) -> str:
        self.ids += 1
        return f"{self.ids:032x}"

    async def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        while self.errands:
            await self.errands.pop(0)()  # type: ignore[operator]  # coroutine functions
        await asyncio.sleep(0)

    def environment(self) -> Environment:
        return Environment(
            now_ms=lambda: self.now,
            sleep=self.sleep,
            new_id=self.new_id,
            new_secret=self.new_id,
            jitter=lambda: 0.5,
        )


def test_the_steps_of_a_group_run_at_once():
    here, there = asyncio.Event(), asyncio.Event()
    pair = Saga("pair")

    @pair.step(group="g", compensatable=False)
    async def one(ctx: dict[str, bool]) -> None:
        here.set()
        await asyncio.wait_for(there.wait(), 5)
        ctx["one"] = True

    @pair.step(group="g", compensatable=False)
    async def two(ctx: dict[str, bool]) -> None:
        there.set()
        await asyncio.wait_for(here.wait(), 5)
        ctx["two"] = True

    orchestrator = SagaOrchestrator(pair.build())

    async def run():
        return await orchestrator.get_state(await orchestrator.start({}))

    found = asyncio.run(run())
    assert found is not None
    assert found.context == {"one": True, "two": True}


def asker(tokens: list[str], **options: object) -> Saga:
    s = Saga("asker", timeout=timedelta(days=1))

    @s.step(**options)  # type: ignore[call-overload, untyped-decorator]  # of StepDefinition
    def ask_somebody(ctx: dict[str, object], call: StepCall) -> AwaitAnswer:
        tokens.append(call.token)
        return AwaitAnswer(timeout=timedelta(minutes=10))

    ask_somebody.compensate(lambda ctx: None)
    return s


def in_process(saga_: Saga):
    clock = Clockwork()
    store = InMemorySagaStore()
    return clock, store, SagaOrchestrator(saga_.build(), store, environment=clock.environment())


def test_an_answer_may_come_from_another_task_and_twice_and_late():
    tokens: list[str] = []
    clock, store, orchestrator = in_process(asker(tokens))
    told: list[object] = []

    async def somebody() -> None:
        told.append(await orchestrator.heartbeat(tokens[0]))
        told.append(await orchestrator.answer(tokens[0], fields={"x": 1}))
        told.append(await orchestrator.answer(tokens[0], fields={"x": 1}))
        with pytest.raises(NotAllowedError, match="answered"):
            await orchestrator.answer(tokens[0], error="no")
        with pytest.raises(NotAllowedError):
            await orchestrator.heartbeat(tokens[0])

    clock.errands.append(somebody)
    saga_id = asyncio.run(orchestrator.start({}))
    assert told == [SagaState.RUNNING, SagaState.COMPLETED, SagaState.COMPLETED]
    found = asyncio.run(orchestrator.get_state(saga_id))
    assert found is not None
    assert found.context == {"x": 1}
    assert list(store._sagas) == [found.key]


def test_an_answer_that_comes_too_late_in_process_is_refused_and_recorded():
    tokens: list[str] = []
    s = asker(tokens)
    late: list[NotAllowedError] = []

    @s.step(compensatable=False)
    def never(ctx: object) -> None:
        raise AssertionError("nobody gets here")

    clock, store, orchestrator = in_process(s)

    async def undo_hears(_ctx: object) -> None:
        try:
            await orchestrator.answer(tokens[0])
        except NotAllowedError as exc:
            late.append(exc)

    s._steps[0]._undo = undo_hears
    orchestrator.definition = s.build()
    asyncio.run(orchestrator.start({}))
    (found,) = store._sagas.values()
    told = [(e.saga_id, e.state, e.reason) for e in late]
    assert told == [(found.id, SagaState.COMPENSATING, Reason.LATE)]
    assert found.state is SagaState.COMPENSATED
    assert found.steps[0].answer is not None
    assert found.steps[0].answer.late
    assert clock.now >= T0 + 10 * MINUTE


def test_delays_in_process_are_slept_through_and_not_past():
    began: dict[str, int] = {}
    s = Saga("slow", timeout=timedelta(days=1))

    def note(ctx: object, call: StepCall) -> None:
        began[call.step] = clock.now

    s.step(name="first", delay=timedelta(minutes=5), compensatable=False)(note)
    s.step(name="long", delay=timedelta(minutes=40), group="g", compensatable=False)(note)
    s.step(name="short", delay=timedelta(minutes=1), group="g", compensatable=False)(note)
    s.step(name="after", compensatable=False)(note)
    clock, _, orchestrator = in_process(s)
    asyncio.run(orchestrator.start({}))
    assert [(n, (at - T0) // MINUTE) for n, at in began.items()] == [
        ("first", 5),
        ("short", 6),
        ("long", 45),
        ("after", 45),
    ]


def test_a_heartbeat_in_process_puts_the_end_of_the_wait_off():
    tokens: list[str] = []
    clock, store, orchestrator = in_process(asker(tokens))

    async def beat() -> None:
        if clock.now < T0 + 9 * MINUTE:
            clock.errands.append(beat)
            await asyncio.sleep(0)
            clock.now += MINUTE
            return
        await orchestrator.heartbeat(tokens[0])

    clock.errands.append(beat)
    asyncio.run(orchestrator.start({}))
    (found,) = store._sagas.values()
    assert found.cause is not None
    assert found.steps[0].error == StepError("AnswerOverdue", "nobody answered in time")
    assert found.cause.at >= T0 + 19 * MINUTE


def test_who_answered_in_process_and_what_is_on_record():
    tokens: list[str] = []
    clock, store, orchestrator = in_process(asker(tokens))

    async def somebody() -> None:
        await orchestrator.answer(tokens[0], error="too dear")

    clock.errands.append(somebody)
    asyncio.run(orchestrator.start({}))
    (found,) = store._sagas.values()
    given = found.steps[0].answer
    assert given is not None
    assert (given.by, given.ok) == ("answer", False)
    assert given.error == StepError("AnsweredFailed", "too dear")
    assert found.steps[0].error == given.error


def test_a_no_and_a_yes_are_of_whoever_says_so():
    tokens: list[str] = []
    clock, store, orchestrator = in_process(asker(tokens))

    async def ann() -> None:
        await orchestrator.answer(tokens[0], by="ann")

    clock.errands.append(ann)
    asyncio.run(orchestrator.start({}))
    (found,) = store._sagas.values()
    assert found.steps[0].answer is not None
    assert found.steps[0].answer.by == "ann"


def test_a_late_answer_in_process_is_recorded_also_when_another_step_is_undone():
    tokens: list[str] = []
    late: list[str] = []
    s = Saga("late", timeout=timedelta(days=1))

    @s.step
    def first(ctx: object) -> None:
        """Something to undo."""

    @s.step
    def ask_somebody(ctx: object, call: StepCall) -> AwaitAnswer:
        tokens.append(call.token)
        return AwaitAnswer(timeout=timedelta(minutes=10))

    @first.compensate
    async def undo_hears(ctx: object) -> None:
        with pytest.raises(NotAllowedError) as told:
            await orchestrator.answer(tokens[0])
        late.append(told.value.reason)

    ask_somebody.compensate(lambda ctx: None)
    _, store, orchestrator = in_process(s)
    asyncio.run(orchestrator.start({}))
    assert late == [Reason.LATE]
    (found,) = store._sagas.values()
    assert found.steps[1].answer is not None


def test_an_answer_in_process_is_checked_with_what_its_own_branch_wrote():
    @dataclass
    class Choice:
        left: int = 0
        right: int = 0

        def __post_init__(self) -> None:
            if self.left and self.right:
                raise ValueError("one of them")

    tokens: dict[str, str] = {}
    s = Saga("choice", context=Choice, timeout=timedelta(days=1))

    @s.step(group="g", compensatable=False)
    def right(ctx: Choice, call: StepCall) -> AwaitAnswer:
        ctx.right = 1
        tokens["right"] = call.token
        return AwaitAnswer(timeout=timedelta(minutes=10))

    @s.step(group="g", compensatable=False)
    def left(ctx: Choice, call: StepCall) -> AwaitAnswer:
        tokens["left"] = call.token
        return AwaitAnswer(timeout=timedelta(minutes=10))

    clock, store, orchestrator = in_process(s)
    heard: list[int] = []

    async def somebody() -> None:
        await orchestrator.answer(tokens["left"], fields={"left": 2})
        heard.append(len(tokens))

    clock.errands.append(somebody)
    asyncio.run(orchestrator.start(Choice()))
    assert heard == [2]
    (found,) = store._sagas.values()
    assert found.steps[1].code is StepCode.DONE


def test_an_answer_in_process_goes_on_to_a_step_with_a_condition():
    tokens: list[str] = []
    s = asker(tokens)
    s.step(name="z", when=lambda ctx: ctx["x"] > 1, compensatable=False)(lambda ctx: None)
    for x, status in ((1, StepStatus.SKIPPED), (2, StepStatus.COMPLETED)):
        tokens.clear()
        clock, _, orchestrator = in_process(s)

        async def somebody(
            orchestrator: SagaOrchestrator = orchestrator, x: int = x, clock: Clockwork = clock
        ) -> None:
            clock.now += SECOND
            await orchestrator.answer(tokens[0], fields={"x": x})

        clock.errands.append(somebody)
        found = asyncio.run(orchestrator.get_state(asyncio.run(orchestrator.start({}))))
        assert found is not None
        assert found.step_results[1].status is status
        assert found.updated_at >= T0 + SECOND


@pytest.mark.parametrize(
    ("token", "named"),
    [("nonsense", "of this token"), ("a" * 26 + ".0." + "x" * 22, "a" * 26)],
    ids=["nonsense", "of no saga"],
)
def test_a_token_that_is_none_is_not_found(token, named):
    orchestrator = in_process(asker([]))[2]
    with pytest.raises(SagaNotFoundError, match=f"^no saga {named}$"):
        asyncio.run(orchestrator.answer(token))


def test_a_token_of_a_step_that_there_is_not_is_not_found_in_process():
    tokens: list[str] = []
    clock, store, orchestrator = in_process(asker(tokens))

    async def somebody() -> None:
        (i,) = store._sagas.values()
        beyond = answer_token(i.id, i.incarnation, i.secret, 1)
        with pytest.raises(SagaNotFoundError, match=f"^no saga {i.id}$"):
            await orchestrator.answer(beyond)
        await orchestrator.answer(tokens[0])

    clock.errands.append(somebody)
    asyncio.run(orchestrator.start({}))
    assert tokens


def test_a_forged_token_is_not_found():
    tokens: list[str] = []
    clock, _, orchestrator = in_process(asker(tokens))

    async def somebody() -> None:
        head = tokens[0].rsplit(".", 1)[0]
        with pytest.raises(SagaNotFoundError):
            await orchestrator.answer(f"{head}.{'x' * 22}")
        await orchestrator.answer(tokens[0])

    clock.errands.append(somebody)
    asyncio.run(orchestrator.start({}))


def test_fields_that_the_contexts_type_refuses_are_an_error_and_nothing_is_recorded():
    @dataclass
    class Form:
        name: str = ""

    tokens: list[str] = []
    s = Saga("typed", context=Form, timeout=timedelta(days=1))

    @s.step(compensatable=False)
    def ask_somebody(ctx: Form, call: StepCall) -> AwaitAnswer:
        tokens.append(call.token)
        return AwaitAnswer(timeout=timedelta(minutes=10))

    clock, store, orchestrator = in_process(s)

    async def somebody() -> None:
        with pytest.raises(TypeError):
            await orchestrator.answer(tokens[0], fields={"nickname": "x"})
        (found,) = store._sagas.values()
        assert found.steps[0].answer is None
        await orchestrator.answer(tokens[0], fields={"name": "ann"})

    clock.errands.append(somebody)
    saga_id = asyncio.run(orchestrator.start(Form()))
    found = asyncio.run(orchestrator.get_state(saga_id))
    assert found is not None
    assert found.context == Form("ann")


def test_one_branch_that_kills_its_process_is_heard_of_when_the_others_have_settled():
    class Killed(BaseException):
        """The process is to end."""

    pair = Saga("pair")

    @pair.step(group="g", compensatable=False)
    async def one(ctx: dict[str, bool]) -> None:
        raise Killed

    @pair.step(group="g", compensatable=False)
    async def two(ctx: dict[str, bool]) -> None:
        ctx["two"] = True

    store = InMemorySagaStore()
    orchestrator = SagaOrchestrator(pair.build(), store)
    with pytest.raises(Killed):
        asyncio.run(orchestrator.start({}))
    (found,) = store._sagas.values()
    assert found.steps[1].code is StepCode.DONE
    assert found.open_lane(0) is not None


def parent_and_child(fails: list[bool]) -> Saga:
    inner, outer = Saga("inner"), Saga("outer")

    def undo(ctx: object) -> None:
        if fails[0]:
            raise Fatal("not yet")

    inner.step(name="x")(lambda ctx: None).compensate(undo)

    def last(ctx: object) -> None:
        raise Fatal("never")

    inner.step(name="y", compensatable=False)(last)
    outer.child(inner, name="pay")(lambda ctx: {})
    return outer


def test_a_child_that_is_failed_in_process_stops_its_parent_and_is_resumed_through_it():
    fails = [True]
    _, store, orchestrator = in_process(parent_and_child(fails))
    with pytest.raises(Exception, match="ChildFailed"):
        asyncio.run(orchestrator.start({}, idempotency_key="k"))
    by_name = {i.definition_name: i for i in store._sagas.values()}
    assert by_name["outer"].why is Why.CHILD_FAILED
    fails[0] = False
    assert asyncio.run(orchestrator.resume(by_name["inner"].id)) is SagaState.COMPENSATED
    assert asyncio.run(orchestrator.resume(by_name["outer"].id)) is SagaState.COMPENSATED


def test_a_child_that_somebody_else_moves_is_an_error_of_the_run():
    _, store, orchestrator = in_process(parent_and_child([False]))
    inner = orchestrator.definition.children[0]

    class Rival(InMemorySagaStore):
        """Somebody else claims the child between reading and claiming."""

        async def save(self, instance: SagaInstance) -> SagaInstance:
            mine = instance.definition == inner.ref and instance.lane.lease is not None
            if mine and instance.phase is Direction.FORWARD and instance.lane.epoch == 1:
                found = self._sagas[instance.key]
                lane = replace(instance.lane, lease=Lease("rival", T0 + HOUR))
                self._sagas[instance.key] = replace(found, lane=lane, version=found.version + 1)
            return await super().save(instance)

    orchestrator.store = Rival()
    with pytest.raises(Exception, match="no longer at version"):
        asyncio.run(orchestrator.start({}))
    assert store is not orchestrator.store


# -- the store in memory -----------------------------------------------------------------


def test_what_has_not_ended_needs_its_code():
    world = Memory(saga("a", "b"))
    world.begin()
    assert [i.id for i in world.store.unfinished()] == [world.saga().id]
    world.quiet()
    assert list(world.store.unfinished()) == []


def test_a_child_that_has_ended_needs_its_code_until_its_parent_has_too():
    child = replace(new(D), status=SagaState.COMPLETED, parent=Parent("p", 0))
    kept = replace(child, expires_at=T0)
    alone = replace(child, parent=None)
    for i, needed in ((child, True), (kept, False), (alone, False)):
        store = InMemorySagaStore()
        store.create(i)
        assert [s.id for s in store.unfinished()] == ([i.id] if needed else [])


def test_a_child_that_its_parent_undid_says_so_to_whoever_asks():
    undone = replace(new(D), cause=Cause(CauseKind.PARENT, T0))
    with pytest.raises(SagaCancelledError, match="its parent") as told:
        undone.raise_for_state()
    assert (told.value.saga_id, told.value.by) == (undone.id, "its parent")


def test_a_create_may_be_of_a_child():
    i = create(
        D,
        saga_id="s1",
        tenant="t",
        incarnation="0" * 8,
        input_fingerprint="f",
        context="{}",
        at=T0,
        secret=SECRET,
        parent=Parent("p", 2),
    )
    assert (i.parent, i.secret, i.tenant) == (Parent("p", 2), SECRET, "t")
    assert isinstance(apply(D, i, CancelRequested(by="x", at=T0)), Moved)


def test_a_group_of_which_one_fails_at_once_starts_no_other_in_process():
    begun: list[str] = []
    pair = Saga("pair")

    @pair.step(group="g", compensatable=False)
    def one(ctx: object) -> None:
        begun.append("one")
        raise Fatal("no")

    @pair.step(group="g", compensatable=False)
    def two(ctx: object) -> None:
        begun.append("two")

    store = InMemorySagaStore()
    asyncio.run(SagaOrchestrator(pair.build(), store).start({}))
    (found,) = store._sagas.values()
    assert (found.state, begun) == (SagaState.COMPENSATED, ["one"])


def test_a_condition_in_process_has_the_type_that_start_was_given():
    seen: list[type] = []

    @dataclass
    class Form:
        rich: bool = False

    def is_rich(ctx: Form) -> bool:
        seen.append(type(ctx))
        return ctx.rich

    s = Saga("conditional")
    s.step(name="a", when=is_rich, compensatable=False)(lambda ctx: None)
    orchestrator = SagaOrchestrator(s.build())
    for rich, status in ((True, StepStatus.COMPLETED), (False, StepStatus.SKIPPED)):
        found = asyncio.run(orchestrator.get_state(asyncio.run(orchestrator.start(Form(rich)))))
        assert found is not None
        assert found.step_results[0].status is status
    assert seen == [Form, Form]


@pytest.mark.parametrize("left", ["at rest", "gone"])
def test_a_child_whose_end_nobody_told_of_is_found_at_rest_in_process(left):
    inner, outer = Saga("inner"), Saga("outer", timeout=timedelta(days=1))
    inner.step(name="x", compensatable=False)(lambda ctx: None)
    outer.child(inner, name="pay", compensatable=False)(lambda ctx: {})
    clock, store, orchestrator = in_process(outer)
    asyncio.run(orchestrator.start({}, idempotency_key="k"))
    by_name = {i.definition_name: i for i in store._sagas.values()}
    done = by_name["outer"]
    waiting = Flow(orchestrator.definition)
    waiting.i = replace(waiting.i, id=done.id, incarnation=done.incarnation, deadline_at=T0 + DAY)
    waiting.take("pay")
    waiting.event(
        ChildWaits(
            claim_id=waiting.held("pay"),
            child=by_name["inner"].id,
            wait_ms=HOUR,
            at=waiting.now,
        )
    )
    store._sagas[done.key] = waiting.i
    if left == "gone":
        del store._sagas[by_name["inner"].key]
    began = clock.now
    asyncio.run(orchestrator.resume(done.id))
    state = store._sagas[done.key].state
    if left == "at rest":
        assert (state, clock.now - began < MINUTE) == (SagaState.COMPLETED, True)
    else:
        assert state is SagaState.COMPENSATED  # in doubt, and nothing has to be undone


def test_a_child_that_its_parent_does_not_wait_for_is_no_reason_to_go_on_in_process():
    """It sleeps as it would without one, instead of looking again and again."""
    inner, outer = Saga("inner"), Saga("outer", timeout=timedelta(days=1))
    inner.step(name="x", compensatable=False)(lambda ctx: None)
    outer.child(inner, name="pay", compensatable=False)(lambda ctx: {})
    clock, store, orchestrator = in_process(outer)
    asyncio.run(orchestrator.start({}, idempotency_key="k"))
    by_name = {i.definition_name: i for i in store._sagas.values()}
    not_yet = new(orchestrator.definition, at=clock.now)
    not_yet = replace(
        not_yet,
        id=by_name["outer"].id,
        lane=replace(not_yet.lane, due_at=clock.now + HOUR),
        steps=(replace(not_yet.steps[0], child=by_name["inner"].id),),
    )
    store._sagas[not_yet.key] = not_yet
    began = clock.now
    assert asyncio.run(orchestrator.resume(not_yet.id)) is SagaState.COMPLETED
    assert clock.now - began == HOUR


def test_a_claim_that_is_settled_already_is_fenced_off():
    w = Flow(D)
    w.take("a")
    stale = replace(w.i, lane=replace(w.i.lane, lease=Lease("d1", T0 + HOUR)))
    message = WorkMessage(w.i.key, 1, w.i.definition, "x", "x")
    turn = work(message, Delivery("d1", T0, T0 + 30_000, 1, 0.0), {D.ref: D}.get)
    turn.send(None)
    turn.send(Written(stale))
    taken = replace(stale, lane=replace(stale.lane, lease=Lease("d2", T0 + HOUR)), version=9)
    turn.send(Ended(Done("{}"), T0, 0.5))
    with pytest.raises(StopIteration) as stopped:
        turn.send(Refused(taken))
    assert stopped.value.value.verdict.value == "fenced"


def test_a_dead_letter_that_is_early_and_whose_lease_has_lapsed_stays():
    """It may be the only message: the holder died, and an earlier visit has put the saga off."""
    w = flow("a").take("a")
    w.now += LEASE + MINUTE
    w.event(w.dying())
    w.now += MINUTE
    w.event(w.dying())
    w.now += MINUTE  # the guard is over, and the pause of a second visit is not
    message = WorkMessage(w.i.key, 1, w.i.definition, "x", "x")
    later = Delivery("d9", w.now, w.now + 9_000, 0, 0.0)
    _, decision = play(revive(message, later, {w.definition.ref: w.definition}.get), w.i, None)
    assert decision.verdict.value == "suppressed"
    assert not decision.acknowledge


# -- dead letters of a branch, through the turn ------------------------------------------


def revived(w: Walk, branch: int | None, *replies: object, epoch: int = 1):
    message = WorkMessage(w.i.key, epoch, w.i.definition, "x", "x", branch)
    delivery = Delivery("d9", w.now, w.now + 9_000, 0, 0.0)
    return play(revive(message, delivery, {w.definition.ref: w.definition}.get), w.i, *replies)


def test_a_dead_letter_of_a_branch_announces_that_branch_again():
    w = trio().wait(MINUTE)
    effects, decision = revived(w, 2, stored, True)  # noqa: FBT003 - what the queue says
    assert decision.verdict.value == "revived"
    sent = effects[-1]
    assert isinstance(sent, Send)
    assert sent.branch == 2
    assert sent.delay_ms == MINUTE
    assert sent.instance.lane.nudge is None


def test_a_dead_letter_of_a_branch_recognises_its_own_write():
    w = trio().wait(MINUTE)

    def refused(effect: Record) -> Refused:
        return Refused(replace(effect.after, version=effect.before.version + 1))

    effects, decision = revived(w, 2, refused, True)  # noqa: FBT003 - what the queue says
    assert decision.verdict.value == "revived"
    assert isinstance(effects[-1], Send)
    other = replace(w.i, version=w.i.version + 1)
    assert revived(w, 2, Refused(other))[1].verdict.value == "contended"


def test_an_older_dead_letter_of_a_branch_announces_what_that_branch_is_at():
    w = trio().take("c").no("c", fatal=False).wait(MINUTE)

    def guarded(effect: Redispatch) -> Written:
        assert effect.branch == 2
        outcome = nudge(effect.instance, nudge_id="d9", now=w.now, branch=2)
        assert isinstance(outcome, Moved)
        return Written(outcome.instance)

    effects, decision = revived(w, 2, guarded, True)  # noqa: FBT003 - what the queue says
    assert decision.verdict.value == "redispatched"
    assert [e.branch for e in effects if isinstance(e, Send)] == [2]
