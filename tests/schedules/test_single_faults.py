"""One fault at every place, without the sweeper: what it costs, and what needs the sweeper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from saga_core import RetryPolicy, Saga, SagaDefinition, StepCall
from saga_core.events import ResumeRequested
from saga_core.instance import SagaInstance, SagaState
from saga_core.outcome import Fatal
from saga_core.testing.explore import _Script
from saga_core.testing.invariants import Judge
from saga_core.testing.simulation import (
    VISIBILITY_MS,
    Fault,
    Profile,
    Simulation,
    describe,
    faults_for,
)
from saga_core.testing.world import World

ENOUGH = 5_000  # steps


@dataclass(slots=True)
class Stage:
    """Two steps that can be undone and one that cannot; what fails until it is repaired."""

    definition: SagaDefinition
    world: World
    broken: set[str]


def stage(*broken: str) -> Stage:
    saga, built = Saga("single"), Stage(None, World(), {*broken})  # type: ignore[arg-type]  # below

    def check(what: str) -> None:
        if what in built.broken:
            raise Fatal(f"{what} is broken")

    for name in ("a", "b", "c"):

        def execute(_ctx: object, call: StepCall) -> None:
            check(call.step)
            built.world.act(call)

        def undo(_ctx: object, call: StepCall) -> None:
            check(f"undo {call.step}")
            built.world.undo(call)

        step = saga.step(name=name, compensatable=name != "c")(execute)
        if name != "c":
            step.compensate(retry=RetryPolicy(max_attempts=1))(undo)
    built.definition = saga.build()
    return built


STORIES = ((), ("a",), ("b",), ("c",), ("c", "undo a"))


@dataclass(frozen=True, slots=True)
class Run:
    """A saga at its end, the places that the run had, and who did what there."""

    saga: SagaInstance | None
    script: _Script
    sim: Simulation

    def place(self, number: int) -> str:
        return describe(self.script.effects[number])


def played(story: tuple[str, ...], faults: dict[int, Fault]) -> Run:
    """A story with these faults; FAILED is repaired and resumed, once."""
    built, script = stage(*story), _Script(faults)
    judge = Judge(built.world, {built.definition.ref: built.definition})
    sim = Simulation(
        dict(judge.definitions), script, Profile(sweeper=False), on_write=judge.on_write
    )
    saga_id = sim.begin(built.definition, {}, "key")
    assert sim.run(ENOUGH)
    if any(s.status is SagaState.FAILED for s in sim.sagas):
        built.broken.discard("undo a")
        sim.ask(sim.now, saga_id, lambda at: ResumeRequested(by="operator", at=at))
        assert sim.run(2 * ENOUGH)
    saga = next(iter(sim.sagas), None)
    if saga is not None and not saga.live:
        judge.at_the_end(sim)
    return Run(saga, script, sim)


def every(story: tuple[str, ...]) -> Iterator[tuple[int, Fault]]:
    for number, effect in enumerate(played(story, {}).script.effects):
        for fault in faults_for(effect):
            yield number, fault


def test_only_a_send_of_a_start_or_a_request_that_is_refused_needs_the_sweeper() -> None:
    """L2. A client whose start or request dies tries again; one that was answered does not."""
    stuck = set()
    for story in STORIES:
        for number, fault in every(story):
            run = played(story, {number: fault})
            if run.saga is None or run.saga.live:
                stuck.add(f"{'+'.join(story) or 'nothing'} fails, {fault}: {run.place(number)}")
    first = {f"{'+'.join(s) or 'nothing'} fails, refuse: send of work item 1" for s in STORIES}
    (resume,) = stuck - first
    assert stuck >= first
    assert resume.startswith("c+undo a fails, refuse: send of work item")


def test_one_crash_costs_one_visibility_time_out() -> None:
    """E3, for every place and story; the repair by a person is not counted."""
    costs = []
    for story in STORIES[:-1]:
        plain = played(story, {}).saga
        assert plain is not None
        for number, fault in every(story):
            if fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
                saga = played(story, {number: fault}).saga
                assert saga is not None
                costs.append(saga.updated_at - plain.updated_at)
    assert 0 < max(costs) <= VISIBILITY_MS + 1_000
