"""The five mistakes that the original specification of this system warns of.

1. compensation in forward order
2. no save after a step
3. compensating a step that never ran
4. ignoring a compensation's error
5. reporting the wrong final state
"""

from __future__ import annotations

import asyncio

import pytest

from saga_core.errors import CompensationFailedError
from saga_core.instance import SagaInstance, SagaState, StepStatus
from saga_core.orchestrator import OrchestratorBuilder, SagaOrchestrator
from saga_core.outcome import Fatal
from tests.core.inprocess import Context, HandClock, Journal, Killed, RecordingStore

STEPS = ("a", "b", "c", "d")


def chain(
    journal: Journal, *, failing: str | None = None, bad_undo: str | None = None
) -> SagaOrchestrator:
    """Four steps, of which one may fail, and one may not be undone."""
    builder = SagaOrchestrator.builder("chain").store(RecordingStore())
    builder.environment(HandClock().environment())
    for name in STEPS:
        execute = (
            journal.fails(f"do {name}", ValueError("no")) if name == failing else journal.does(name)
        )
        undo = (
            journal.fails(f"undo {name}", Fatal("stuck"))
            if name == bad_undo
            else journal.undoes(name)
        )
        builder.step(name, execute, undo)
    return builder.build()


def saved(saga: SagaOrchestrator) -> list[SagaInstance]:
    assert isinstance(saga.store, RecordingStore)
    return saga.store.history


def last(saga: SagaOrchestrator) -> SagaInstance:
    return saved(saga)[-1]


# -- 1 -------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", STEPS)
def test_compensation_runs_from_the_newest_step_to_the_oldest(failing):
    journal = Journal()
    asyncio.run(chain(journal, failing=failing).start({}))
    ran = STEPS[: STEPS.index(failing)]
    forward = [f"do {name}" for name in (*ran, failing)]
    assert journal.lines == forward + [f"undo {name}" for name in reversed(ran)]


# -- 2 -------------------------------------------------------------------------------


def test_every_step_is_saved_before_the_next_one_starts():
    store = RecordingStore()
    seen: list[tuple[StepStatus, ...]] = []

    def look(ctx: Context) -> None:
        seen.append(tuple(r.status for r in store.history[-1].step_results))

    builder = SagaOrchestrator.builder("look").store(store).environment(HandClock().environment())
    for name in STEPS[:3]:
        builder.step(name, look, look)
    asyncio.run(builder.build().start({}))

    done, running, pending = StepStatus.COMPLETED, StepStatus.RUNNING, StepStatus.PENDING
    assert seen == [
        (running, pending, pending),
        (done, running, pending),
        (done, done, running),
    ]


def test_every_attempt_costs_two_saves_one_before_it_and_one_after():
    journal = Journal()
    saga = chain(journal)
    asyncio.run(saga.start({}))
    assert len(saved(saga)) == 1 + 2 * len(STEPS)
    assert [i.version for i in saved(saga)] == list(range(1, 10))
    leases = [i.lane.lease is not None for i in saved(saga)]
    assert leases == [False] + [True, False] * len(STEPS)


def test_every_undo_is_saved_before_the_next_one_starts():
    store = RecordingStore()
    journal = Journal()
    seen: dict[str, str] = {}

    def undo(name: str):
        def compensate(ctx: Context) -> None:
            seen[name] = " ".join(s.code for s in store.history[-1].steps)

        return compensate

    builder = SagaOrchestrator.builder("look").store(store).environment(HandClock().environment())
    builder.step("a", journal.does("a"), undo("a"))
    builder.step("b", journal.does("b"), undo("b"))
    builder.step("c", journal.fails("do c", ValueError("no")), undo("c"))
    asyncio.run(builder.build().start({}))
    assert seen == {"b": "OK OK NO", "a": "OK C NO"}


def test_a_process_that_takes_over_does_not_repeat_the_steps_that_were_done():
    journal = Journal()
    store = RecordingStore()

    def process(second: Killed | None) -> OrchestratorBuilder:
        builder = SagaOrchestrator.builder("chain").store(store)
        builder.environment(HandClock().environment())
        builder.step("a", journal.does("a"), journal.undoes("a"))
        died = [second] if second is not None else []
        builder.step("b", journal.fails("do b", *died), journal.undoes("b"))
        return builder.step("c", journal.does("c"), journal.undoes("c"))

    with pytest.raises(Killed):
        asyncio.run(process(Killed()).build().start({}))
    assert store.history[-1].context == {"a": "done"}

    state = asyncio.run(process(None).build().resume(store.history[-1].id))
    assert state is SagaState.COMPLETED
    assert journal.lines == ["do a", "do b", "do b", "do c"]


# -- 3 -------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", STEPS)
def test_a_step_that_never_ran_is_not_compensated(failing):
    journal = Journal()
    saga = chain(journal, failing=failing)
    asyncio.run(saga.start({}))
    never_ran = STEPS[STEPS.index(failing) + 1 :]
    for name in never_ran:
        assert f"undo {name}" not in journal.lines
        assert last(saga).step_results[STEPS.index(name)].status is StepStatus.PENDING


def test_a_step_that_is_known_to_have_failed_is_not_compensated():
    journal = Journal()
    saga = chain(journal, failing="c")
    asyncio.run(saga.start({}))
    assert "undo c" not in journal.lines
    assert last(saga).step_results[2].status is StepStatus.FAILED


# -- 4 -------------------------------------------------------------------------------


def test_a_compensation_that_fails_is_raised_and_names_what_stands():
    journal = Journal()
    saga = chain(journal, failing="d", bad_undo="b")
    with pytest.raises(CompensationFailedError) as caught:
        asyncio.run(saga.start({}))
    assert caught.value.saga_id == last(saga).id
    assert (caught.value.step, caught.value.attempts) == ("b", 1)
    assert caught.value.standing == ("b", "a")
    assert caught.value.__notes__ == ["Fatal: stuck"]


def test_a_compensation_that_fails_halts_the_saga_and_its_error_is_kept():
    journal = Journal()
    saga = chain(journal, failing="d", bad_undo="b")
    with pytest.raises(CompensationFailedError):
        asyncio.run(saga.start({}))
    assert journal.lines[-2:] == ["undo c", "undo b"]
    assert last(saga).state is SagaState.FAILED
    b = last(saga).step_results[1]
    assert b.status is StepStatus.COMPENSATION_FAILED
    assert b.error is not None
    assert (b.error.kind, b.error.message) == ("Fatal", "stuck")


def test_resume_goes_on_at_the_compensation_that_failed():
    journal = Journal()
    saga = chain(journal, failing="d", bad_undo="b")
    with pytest.raises(CompensationFailedError):
        asyncio.run(saga.start({}))
    assert asyncio.run(saga.resume(last(saga).id)) is SagaState.COMPENSATED
    assert journal.lines[-3:] == ["undo b", "undo b", "undo a"]


# -- 5 -------------------------------------------------------------------------------


def test_a_saga_whose_steps_all_happened_is_completed():
    saga = chain(Journal())
    saga_id = asyncio.run(saga.start({}))
    final = asyncio.run(saga.get_state(saga_id))
    assert final is not None
    assert final.state is SagaState.COMPLETED
    assert final.context == dict.fromkeys(STEPS, "done")


@pytest.mark.parametrize("failing", STEPS)
def test_a_saga_that_was_rolled_back_is_compensated_and_start_still_gives_its_id(failing):
    saga = chain(Journal(), failing=failing)
    saga_id = asyncio.run(saga.start({}))
    final = asyncio.run(saga.get_state(saga_id))
    assert final is not None
    assert final.state is SagaState.COMPENSATED
    assert final.context == dict.fromkeys(STEPS[: STEPS.index(failing)], "undone")


@pytest.mark.parametrize("behaviour", ["halt", "continue"])
@pytest.mark.parametrize("bad_undo", STEPS[:3])
def test_a_saga_whose_compensation_failed_is_failed_and_never_compensated(bad_undo, behaviour):
    journal, store = Journal(), RecordingStore()
    builder = SagaOrchestrator.builder("chain").store(store).on_compensation_failure(behaviour)
    builder.environment(HandClock().environment())
    for name in STEPS[:3]:
        bad = journal.fails(f"undo {name}", Fatal("stuck"))
        builder.step(name, journal.does(name), bad if name == bad_undo else journal.undoes(name))
    builder.step("d", journal.fails("do d", ValueError("no")), journal.undoes("d"))
    with pytest.raises(CompensationFailedError):
        asyncio.run(builder.build().start({}))
    assert store.history[-1].state is SagaState.FAILED
    assert SagaState.COMPENSATED not in {i.state for i in store.history}


def test_the_states_on_the_way_are_the_ones_that_were_true():
    saga = chain(Journal(), failing="b")
    asyncio.run(saga.start({}))
    assert [i.state for i in saved(saga)] == [
        SagaState.CREATED,
        SagaState.RUNNING,
        SagaState.RUNNING,
        SagaState.RUNNING,
        SagaState.COMPENSATING,
        SagaState.COMPENSATING,
        SagaState.COMPENSATED,
    ]
