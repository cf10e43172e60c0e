"""Random sagas in random trouble, each from a seed; and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random

from saga_core import RetryPolicy, Saga, SagaDefinition, StepCall
from saga_core.events import CancelRequested, Request, ResumeRequested, SkipRequested
from saga_core.instance import SagaInstance, SagaState, StepCode
from saga_core.testing.invariants import Judge
from saga_core.testing.simulation import (
    BEGINNING,
    BrokenInvariantError,
    Chooser,
    Fault,
    Profile,
    Simulation,
)
from saga_core.testing.world import Refusal, World

MAX_STEPS = 6_000  # of the scheduler; a run that needs more does not end
MAX_RESUMES = 12
OUTAGE = 600  # steps
TIMEOUT = timedelta(hours=2)  # room for waits that are longer than a queue can hold
MOST_LETTERS = 16  # S11: messages of one saga at once, however often they are delivered

_some = dict.fromkeys(Fault, 0.03)
_many = dict.fromkeys(Fault, 0.1)
_work = {
    Fault.CRASH_BEFORE: 0.05,
    Fault.CRASH_AFTER: 0.05,
    Fault.LOSE_ANSWER: 0.05,
    Fault.REFUSE: 0.03,
    Fault.STALL: 0.03,
}

PROFILES = {
    "safety": Profile(_some, _some, duplicate=0.05, undelete=0.05, skew_ms=3_000),
    "hard": Profile(_many, _many, duplicate=0.2, undelete=0.2, skew_ms=40_000),
    # Everything else must carry the saga: the sweeper hides mistakes. Left out are the two sends
    # that only it covers: of a start and of a request whose caller never tries again.
    "no sweeper": Profile(
        _work,
        {**_work, Fault.LATE: 0.02},
        duplicate=0.1,
        undelete=0.1,
        skew_ms=3_000,
        sweeper=False,
        hit=frozenset({"work", "revive"}),
    ),
    "no messages": Profile(
        {Fault.CRASH_BEFORE: 0.03, Fault.CRASH_AFTER: 0.03}, lose_message=1.0, faults_end_at=10**9
    ),
    "outage": Profile(
        {Fault.REFUSE: 0.5},
        {Fault.CRASH_AFTER: 0.3},
        faults_end_at=OUTAGE,
        sweeper=False,
        hit=frozenset({"work", "revive"}),
    ),
    # Two tenants, and clients who start the same saga at once, or mean another by the same key.
    "neighbours": Profile(_some, _some, duplicate=0.05, undelete=0.05, skew_ms=3_000),
    "storm": Profile({Fault.CRASH_AFTER: 0.02}, duplicate=0.4, undelete=0.4),
    "ambiguous": Profile({Fault.LOSE_ANSWER: 0.1}),
    "fault-free": Profile(),
}


@dataclass(slots=True)
class Scenario:
    """A saga, its world, and the person who repairs what is broken."""

    definition: SagaDefinition
    world: World
    judge: Judge
    cancel_at: int | None
    vanishes_at: int | None
    stubborn_undo: list[int] = field(default_factory=lambda: [0])
    skips: bool = False

    @classmethod
    def of(
        cls, seed: int, *, long_waits: bool, moody: bool, timeout: timedelta = TIMEOUT
    ) -> Scenario:
        """One to four steps; perhaps one that fails, an undo that does for a while, a cancel."""
        draw = Random(f"scenario {seed}")
        world = World()
        judge = Judge(world, {})
        stubborn = [draw.choice([1, 2, 9])]
        count = draw.randrange(1, 5)
        fails = draw.choice([None, None, *range(count)])
        moods = Random(f"moods {seed}") if draw.random() < 0.3 and moody else None
        base = draw.choice([1, 1, 1, 3_000]) if long_waits else 1
        undo_fails = draw.choice([None, None, None, *range(count)])
        saga = Saga("simulated", on_compensation_failure=draw.choice(["halt", "continue"]))
        for n in range(count):
            execute, undo = _handlers(
                n,
                world,
                judge,
                fails=fails == n,
                moods=moods,
                stubborn=stubborn if undo_fails == n else None,
            )
            retry = RetryPolicy(
                max_attempts=draw.choice([1, 2, 3]),
                max_lost=draw.choice([1, 3]),
                base=timedelta(seconds=base),
                cap=timedelta(hours=2),
            )
            step = saga.step(name=f"s{n}", retry=retry)(execute)
            step.compensate(retry=RetryPolicy(max_attempts=draw.choice([1, 3])))(undo)
        definition = replace(saga.build(), timeout=timeout)
        judge.definitions[definition.ref] = definition
        cancel_at = None
        if draw.random() < 0.4:  # half of them in the thick of it
            cancel_at = BEGINNING + draw.randrange(draw.choice([400, 60_000]))
        vanishes_at = None
        if moody and draw.random() < 0.1:
            vanishes_at = BEGINNING + draw.randrange(2_000)
        return cls(definition, world, judge, cancel_at, vanishes_at, stubborn)

    def person(self, saga: SagaInstance) -> Callable[[int], Request]:
        """What the person asks for who has repaired what is broken, or done it by hand."""
        if not self.skips:
            return lambda at: ResumeRequested(by="operator", at=at)
        spent = (s.name for s in saga.steps if s.code is StepCode.COMPENSATION_FAILED)
        step = next(spent, saga.steps[saga.lane.index].name)
        return lambda at: SkipRequested(step=step, by="operator", at=at)


def _handlers(
    n: int,
    world: World,
    judge: Judge,
    *,
    fails: bool,
    moods: Random | None,
    stubborn: list[int] | None,
) -> tuple[Callable[..., object], Callable[..., object]]:
    def execute(ctx: dict[str, list[int]], call: StepCall) -> None:
        judge.on_call(call)
        if fails or (moods is not None and moods.random() < 0.3):
            raise Refusal("no")  # also where an earlier attempt took effect
        world.act(call)
        ctx.setdefault("done", []).append(n)

    def undo(_ctx: object, call: StepCall) -> None:
        judge.on_call(call)
        if stubborn and stubborn[0] > 0:
            stubborn[0] -= 1
            raise Refusal("not now")
        world.undo(call)

    return execute, undo


@dataclass(slots=True)
class Outcome:
    """A run, and the invariant that it broke, if any."""

    seed: int
    profile: str
    sim: Simulation
    broken: BrokenInvariantError | None

    @property
    def sagas(self) -> list[SagaInstance]:
        return list(self.sim.sagas)


def run(seed: int, profile: str, only: frozenset[int] | None = None) -> Outcome:
    """One schedule, to its end; ``only`` keeps these of the faults that the seed draws."""
    hardness = PROFILES[profile]
    neighbours = profile == "neighbours"
    scenario = Scenario.of(
        seed,
        long_waits=hardness.sweeper,
        moody=profile not in ("ambiguous", "fault-free"),
        timeout=timedelta(seconds=1 + seed % 400) if neighbours and seed % 3 == 0 else TIMEOUT,
    )
    scenario.skips = neighbours and seed % 2 == 0
    definition = scenario.definition
    sim = Simulation(
        {definition.ref: definition},
        Chooser(seed, hardness, only),
        hardness,
        on_write=scenario.judge.on_write,
    )
    saga_id = sim.begin(definition, {}, "key")
    if neighbours:
        sim.begin(definition, {}, "key")
        sim.begin(definition, {"other": True}, "key")
        sim.begin(definition, {}, "key", tenant="neighbour")
    if scenario.cancel_at is not None:
        sim.ask(scenario.cancel_at, saga_id, lambda at: CancelRequested(by="client", at=at))
    if scenario.vanishes_at is not None:
        sim.deploy(scenario.vanishes_at, {})
    try:
        _until_done(sim, scenario)
        scenario.judge.at_the_end(sim)
        _bounded(sim)
        if neighbours:
            _one_saga_for_each_key(sim)
        if profile in ("ambiguous", "fault-free"):
            _no_attempt_burned(sim, profile)
    except BrokenInvariantError as broken:
        return Outcome(seed, profile, sim, broken)
    return Outcome(seed, profile, sim, None)


def _until_done(sim: Simulation, scenario: Scenario) -> None:
    """Run; then repair, redrive and resume as a person would, until nothing is open."""
    patience = MAX_RESUMES
    while patience:
        patience -= sim.steps >= OUTAGE  # what is redriven during one comes back
        if not sim.run(sim.steps + MAX_STEPS):
            raise BrokenInvariantError("L6", f"still moving after {sim.steps} steps")
        stopped = [s for s in sim.sagas if s.status is SagaState.FAILED]
        if stopped:
            sim.deploy(sim.now, {scenario.definition.ref: scenario.definition})
        for saga in stopped:
            scenario.stubborn_undo[0] = 0
            sim.seen["resumed"] += 1
            sim.ask(sim.now + 1_000, saga.id, scenario.person(saga), tenant=saga.tenant)
        if sim.parking:
            sim.redrive()
        elif not stopped:
            return
    raise BrokenInvariantError("L4", "resumed and resumed, and never at an end")


def _one_saga_for_each_key(sim: Simulation) -> None:
    if len(list(sim.sagas)) != 2:
        raise BrokenInvariantError("S10", f"{len(list(sim.sagas))} sagas for two keys")
    if not sim.seen["start key_reused"]:
        raise BrokenInvariantError("S10", "another saga's key was accepted")


def _bounded(sim: Simulation) -> None:
    faults, sagas = len(sim.chooser.drawn), len(list(sim.sagas))
    # S11 allows one more for each send that may have happened, and the sweeper's it forgot.
    unsure = sum("send of" in what or "markswept" in what for _, what in sim.chooser.drawn)
    if sim.most_letters > MOST_LETTERS * sagas + unsure:
        raise BrokenInvariantError("S11", f"{sim.most_letters} messages at once")
    if sim.invocations > 80 * sagas + 12 * faults:
        raise BrokenInvariantError("L6", f"{sim.invocations} invocations for {faults} faults")


def _no_attempt_burned(sim: Simulation, profile: str) -> None:
    """E1 and E2: where nothing was lost but answers, nothing is tried twice."""
    for saga in sim.sagas:
        for step in saga.steps:
            refused = step.code is StepCode.NO or (step.error is not None)
            if not refused and (step.attempts > 1 or step.undo_attempts > 1):
                most = max(step.attempts, step.undo_attempts)
                raise BrokenInvariantError("E2", f"{step.name}: {most} attempts one way")
    if profile == "fault-free" and not sim.seen["request accepted"]:
        for saga in sim.sagas:
            moves = saga.lane.epoch - 1
            swept = sim.seen["sent"] + sim.seen["left_alone"]  # for long waits only
            if sim.writes != 1 + 2 * moves + swept or sim.sent != moves:
                raise BrokenInvariantError(
                    "E1", f"{moves} moves, {sim.writes} writes, {sim.sent} sends"
                )


def shrunk(outcome: Outcome) -> Outcome:
    """The same run with as few of its faults as still break it."""
    keep = [number for number, _ in outcome.sim.chooser.drawn]
    best = outcome
    for number in list(keep):
        fewer = frozenset(keep) - {number}
        again = run(outcome.seed, outcome.profile, fewer)
        if again.broken is not None:
            keep.remove(number)
            best = again
    return best


def told(outcome: Outcome) -> str:
    """A broken run for people: what broke, how to see it again, and every effect."""
    small = shrunk(outcome)
    head = f"{small.broken}\nseed {outcome.seed}, profile {outcome.profile!r}; the faults left:"
    faults = [f"  {what}" for _, what in small.sim.chooser.drawn]
    return "\n".join([head, *faults, *small.sim.trace])


def totals(outcomes: list[Outcome]) -> Counter[str]:
    """How often each thing was seen."""
    seen: Counter[str] = Counter()
    for outcome in outcomes:
        seen += outcome.sim.seen
        seen.update(f"ended {s.state}" for s in outcome.sagas)
    return seen
