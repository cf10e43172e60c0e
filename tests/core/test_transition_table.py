from __future__ import annotations

import pytest

from saga_core.instance import SagaState
from tests.core.transition_table import TARGET, Observed, render


@pytest.fixture(scope="module")
def seen() -> Observed:
    return Observed()


def test_the_committed_table_of_transitions_says_what_the_code_does(seen):
    """If this fails on purpose: `python -m tests.core.transition_table`, and read the diff."""
    assert TARGET.read_text(encoding="utf-8") == render(seen)


def test_nothing_leaves_the_end_and_nothing_turns_forward_again(seen):
    assert not {before for before, _ in seen.moves} & {SagaState.COMPLETED, SagaState.COMPENSATED}
    assert {after for _, after in seen.moves} == set(SagaState) - {SagaState.CREATED}
    assert (SagaState.COMPENSATING, SagaState.RUNNING) not in seen.moves
