"""The same saga ends the same, whoever drives it: in memory, in process, on Lambda."""

from __future__ import annotations

from collections import Counter

import pytest

from saga_core.instance import SagaState, StepStatus
from tests.parity.drivers import DRIVERS
from tests.parity.plots import Plot, seen

SEEDS = 150


def played(seed: int, driver: str) -> tuple[dict[str, object], list[str]]:
    """Every saga of a plot as it ended, by name, and what was done."""
    definition, script = Plot(seed).build()
    sagas = DRIVERS[driver](definition, script)
    return {s.definition_name: seen(s) for s in sagas}, script.done


@pytest.mark.parametrize("first", range(0, SEEDS, 25))
def test_a_saga_ends_the_same_on_every_driver(first: int) -> None:
    for seed in range(first, first + 25):
        told = {driver: played(seed, driver) for driver in DRIVERS}
        for driver, (sagas, done) in told.items():
            assert sagas == told["in memory"][0], f"seed {seed}, {driver}"
            assert done == told["in memory"][1], f"seed {seed}, {driver}"


def test_the_plots_reach_every_end_and_every_status() -> None:
    ends: Counter[object] = Counter()
    for seed in range(SEEDS):
        definition, script = Plot(seed).build()
        for saga in DRIVERS["in memory"](definition, script):
            ends[saga.state] += 1
            ends.update(s.status for s in saga.step_results)
            ends["child"] += saga.parent is not None
            ends["condition"] += any(s.chosen for s in saga.steps)
            ends["answer"] += any(s.answer is not None for s in saga.steps)
    assert {SagaState.COMPLETED, SagaState.COMPENSATED, SagaState.FAILED} <= ends.keys()
    resting = set(StepStatus) - {StepStatus.RUNNING, StepStatus.COMPENSATING}
    assert resting - {StepStatus.WAITING, StepStatus.IN_DOUBT} <= ends.keys()
    assert min(ends["child"], ends["condition"], ends["answer"]) > 10
