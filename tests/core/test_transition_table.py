from __future__ import annotations

import pytest

from saga_core.calls import Direction
from saga_core.instance import CLOSED, SagaState, StepCode
from tests.core.flow_tables import Told, walked
from tests.core.transition_table import TARGET, Observed, render


@pytest.fixture(scope="module")
def seen() -> Observed:
    return Observed()


@pytest.fixture(scope="module")
def told() -> tuple[Told, ...]:
    return walked()


def test_the_committed_table_of_transitions_says_what_the_code_does(seen, told):
    """If this fails on purpose: `python -m tests.core.transition_table`, and read the diff."""
    assert TARGET.read_text(encoding="utf-8") == render(seen, told)


def test_nothing_leaves_the_end_and_nothing_turns_forward_again(seen):
    assert not {before for before, _ in seen.moves} & {SagaState.COMPLETED, SagaState.COMPENSATED}
    assert {after for _, after in seen.moves} == set(SagaState) - {SagaState.CREATED}
    assert (SagaState.COMPENSATING, SagaState.RUNNING) not in seen.moves


def test_no_construct_leaves_the_end_turns_forward_again_or_has_a_second_cause(told):
    for t in told:
        for before, after in t.moves:
            if before.status in CLOSED:
                assert after.status is before.status
            if before.phase is Direction.COMPENSATION:
                assert after.phase is before.phase
                assert after.cause == before.cause


def test_past_the_pivot_nothing_turns_round(told):
    walks = [t for t in told if t.chapter.definition.pivot is not None]
    assert len(walks) == 2
    for t in walks:
        done = [m for m in t.moves if m[0].steps[0].code is StepCode.DONE]
        assert done
        forward = [m for m in done if m[0].phase is Direction.FORWARD]
        assert all(after.phase is Direction.FORWARD for _, after in forward)


def test_the_steps_of_a_group_are_undone_newest_start_first_and_after_the_last_has_settled(told):
    (group,) = [t for t in told if t.chapter.definition.steps[0].group]
    undone = 0
    for before, after in group.moves:
        for n in (0, 1):
            old, now, other = before.steps[n], after.steps[n], after.steps[1 - n]
            if now.code is StepCode.COMPENSATED and old.code is not now.code:
                undone += 1
                assert before.branches == ()
                open_still = other.code in (StepCode.DONE, StepCode.UNKNOWN)
                assert not open_still or (other.order or 0) < (now.order or 0)
    assert undone > 10


def test_a_step_that_is_skipped_by_its_condition_is_never_undone(told):
    (walk,) = [t for t in told if any(s.when for s in t.chapter.definition.steps)]
    skipped = [m for m in walk.moves if m[0].steps[1].code is StepCode.SKIPPED]
    assert {after.state for _, after in skipped} >= {SagaState.COMPLETED, SagaState.COMPENSATED}
    assert all(after.steps[1].code is StepCode.SKIPPED for _, after in skipped)


def test_an_answer_is_used_once(told):
    (walk,) = [t for t in told if "yes" in t.chapter.requests]
    for before, after in walk.moves:
        old, now = before.steps[0].answer, after.steps[0].answer
        if old is not None and now is not None:
            assert (old.digest, old.late) == (now.digest, now.late)
        if old is not None and old.fields is None:
            assert now == old
