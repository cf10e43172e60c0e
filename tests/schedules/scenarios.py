"""Random sagas in random trouble, each from a seed; and what became of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

from saga_core import AwaitAnswer, RetryPolicy, Saga, SagaDefinition, StepCall
from saga_core.definition import OnCompensationFailure
from saga_core.events import (
    AnswerGiven,
    CancelRequested,
    HeartbeatReceived,
    Request,
    ResumeRequested,
    SkipRequested,
)
from saga_core.instance import SagaInstance, SagaState, StepCode
from saga_core.outcome import StepError
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
MENDED_AFTER = 12  # refusals; a step past its pivot is tried until somebody has mended it
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
# The same worlds, for sagas of every construct: pivots, groups, conditions, waits, delays.
FLOW = "flow "
PROFILES |= {
    FLOW + name: PROFILES[name]
    for name in ("safety", "hard", "no sweeper", "no messages", "storm", "ambiguous", "fault-free")
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
    desk: Desk | None = None
    clashing: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        seed: int,
        *,
        long_waits: bool,
        moody: bool,
        timeout: timedelta = TIMEOUT,
        flow: bool = False,
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
        behaviour: OnCompensationFailure = draw.choice(["halt", "continue"])
        saga = Saga("simulated", on_compensation_failure=behaviour, timeout=TIMEOUT)
        desk = Desk(Random(f"desk {seed}"), world) if flow else None
        clashing: set[str] = set()
        shape = _shape(Random(f"shape {seed}"), count, long_waits=long_waits) if flow else []
        for n in range(count):
            asks = flow and shape[n].pop("asks")
            clashes = flow and shape[n].pop("clashes") and not asks
            clashes = clashes and not shape[n]["past"]  # only another deployment mends that
            if clashes:
                clashing.add(f"s{n}")
            execute, undo = _handlers(
                n,
                world,
                judge,
                fails=fails == n,
                moods=moods,
                stubborn=stubborn if undo_fails == n else None,
                desk=desk if asks else None,
                past=flow and shape[n]["past"],
                clashes=clashes,
            )
            options = shape[n] if flow else {}
            past = options.pop("past", False)
            retry = RetryPolicy(
                max_attempts=draw.choice([1, 2, 3]) if not past else None,
                max_lost=draw.choice([1, 3]),
                base=timedelta(seconds=base),
                # A wait that is too long for a queue is nobody's but the sweeper's.
                cap=timedelta(hours=2) if long_waits else timedelta(minutes=10),
            )
            step = saga.step(name=f"s{n}", retry=retry, **options)(execute)
            step.compensate(retry=RetryPolicy(max_attempts=draw.choice([1, 3])))(undo)
        definition = replace(saga.build(), timeout=timeout)
        judge.definitions[definition.ref] = definition
        cancel_at = None
        if draw.random() < 0.4:  # half of them in the thick of it
            cancel_at = BEGINNING + draw.randrange(draw.choice([400, 60_000]))
        vanishes_at = None
        if moody and draw.random() < 0.1:
            vanishes_at = BEGINNING + draw.randrange(2_000)
        scenario = cls(definition, world, judge, cancel_at, vanishes_at, stubborn, desk=desk)
        scenario.clashing = clashing
        return scenario

    def repaired(self) -> None:
        """Whatever kept a service from doing its part is mended."""
        self.stubborn_undo[0] = 0
        if self.desk is not None:
            self.desk.mended = True

    def person(self, saga: SagaInstance) -> Callable[[int], Request]:
        """What the person asks for who has repaired what is broken, or done it by hand."""
        if not self.skips:
            return lambda at: ResumeRequested(by="operator", at=at)
        spent = (s.name for s in saga.steps if s.code is StepCode.COMPENSATION_FAILED)
        step = next(spent, saga.steps[saga.lane.index].name)
        return lambda at: SkipRequested(step=step, by="operator", at=at)


@dataclass
class Desk:
    """Those who are asked. Each has one answer to each question, which may come at any time.

    Attributes:
        draw: When they answer, and what.
        mended: Also those answer now who never meant to.
        letters: Questions that came in and that nobody has taken up.
    """

    draw: Random
    world: World
    mended: bool = False
    letters: list[tuple[str, StepCall]] = field(default_factory=list)
    minds: dict[tuple[str, str], str] = field(default_factory=dict)

    def ask(self, call: StepCall, *, sure: bool) -> AwaitAnswer:
        """Leave a question. Past the pivot it would be asked until somebody says yes."""
        if sure:
            self.minds[call.saga_id, call.step] = "yes"
        self.letters.append((call.token, call))
        return AwaitAnswer(timeout=timedelta(seconds=self.draw.choice([5, 60, 600])))

    def take_up(self, sim: Simulation) -> None:
        """Decide on what came in: an answer at once, in time or late, twice, or never."""
        while self.letters:
            token, call = self.letters.pop()
            spot = (call.saga_id, call.step)
            mind = self.minds.setdefault(
                spot, self.draw.choice(["yes"] * 4 + ["no", "once", "never"])
            )
            if mind == "never" and self.mended:
                mind = self.minds[spot] = "yes"
            if mind == "never":
                continue
            if mind == "once":  # no for now; whoever asks again hears yes
                mind, self.minds[spot] = "no", "yes"
            wait = self.draw.choice([0, 0, 1_000, 30_000, 700_000, 4_000_000])
            if self.draw.random() < 0.2:
                sim.tell(sim.now + wait // 2, token, _beat)
            for again in (0, *self.draw.choice([(), (), (0,), (5_000,), (400_000,)])):
                sim.tell(sim.now + wait + again, token, partial(self.decide, call, mind))

    def decide(self, call: StepCall, mind: str, at: int) -> AnswerGiven:
        """What they asked for they do first, and then say so; what was withdrawn they refuse."""
        ok = mind == "yes"
        if ok:
            try:
                self.world.act(call)
            except Refusal:
                ok = False
        fields = json.dumps({f"said {call.step}": ok})
        error = None if ok else StepError("AnsweredFailed", "no")
        return AnswerGiven(step="", ok=ok, by="they", at=at, fields=fields, error=error)


def _beat(at: int) -> HeartbeatReceived:
    return HeartbeatReceived(step="", by="they", at=at)


def _shape(draw: Random, count: int, *, long_waits: bool) -> list[dict[str, Any]]:
    """For each step its place among pivot, groups, conditions, waits and delays."""
    pivot = draw.choice([None, None, *range(count)])
    shape: list[dict[str, Any]] = []
    group, left = 0, 0
    for n in range(count):
        alone = n == pivot
        if left == 0 and not alone and draw.random() < 0.5:
            group, left = group + 1, draw.randrange(2, 4)
        options: dict[str, Any] = {
            "pivot": alone,
            "group": f"g{group}" if left and not alone else None,
            "past": pivot is not None and n > pivot,
            "asks": draw.random() < 0.3,
            "clashes": draw.random() < 0.15,
        }
        left = 0 if alone else max(0, left - 1)
        if not alone and draw.random() < 0.2:
            options["when"] = _moody(draw.random() < 0.6)
        if draw.random() < 0.2:
            most = [2, 200, 2_000] if long_waits else [2, 200]
            options["delay"] = timedelta(seconds=draw.choice(most))
        shape.append(options)
    return shape


def _moody(first: bool) -> Callable[[object], bool]:  # noqa: FBT001 - what it says
    """A condition that says something else whenever it is asked again."""
    said = [first]

    def wanted(_ctx: object) -> bool:
        said[0] = not said[0]
        return not said[0]

    return wanted


def _handlers(
    n: int,
    world: World,
    judge: Judge,
    *,
    fails: bool,
    moods: Random | None,
    stubborn: list[int] | None,
    desk: Desk | None = None,
    past: bool = False,
    clashes: bool = False,
) -> tuple[Callable[..., object], Callable[..., object]]:
    refusals = [0]

    def execute(ctx: dict[str, Any], call: StepCall) -> AwaitAnswer | None:
        judge.on_call(call)
        if desk is not None:
            if moods is not None and moods.random() < 0.3:
                raise Refusal("no")
            return desk.ask(call, sure=past)
        refusals[0] += fails
        if (fails and refusals[0] < MENDED_AFTER) or (moods is not None and moods.random() < 0.3):
            raise Refusal("no")  # also where an earlier attempt took effect
        world.act(call)
        ctx[f"s{n}"] = n
        if clashes:
            ctx["same"] = n
        return None

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
    neighbours, flow = profile == "neighbours", profile.startswith(FLOW)
    plain = profile.removeprefix(FLOW)
    scenario = Scenario.of(
        seed,
        long_waits=hardness.sweeper,
        moody=plain not in ("ambiguous", "fault-free"),
        flow=flow,
        timeout=_timeout(seed, short=neighbours and seed % 3 == 0, medium=flow and seed % 4 == 0),
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
        if flow:
            _joined(sim, scenario.world, scenario.clashing)
        if plain in ("ambiguous", "fault-free"):
            _no_attempt_burned(sim, profile, scenario.desk)
    except BrokenInvariantError as broken:
        return Outcome(seed, profile, sim, broken)
    return Outcome(seed, profile, sim, None)


def _timeout(seed: int, *, short: bool, medium: bool) -> timedelta:
    """One that hardly ever passes; one that mostly does; one that is longer than any delay."""
    if short:
        return timedelta(seconds=1 + seed % 400)
    return timedelta(seconds=2_100 + seed % 900) if medium else TIMEOUT


def _until_done(sim: Simulation, scenario: Scenario) -> None:
    """Run; then repair, redrive and resume as a person would, until nothing is open."""
    patience = MAX_RESUMES
    while patience:
        patience -= sim.steps >= OUTAGE  # what is redriven during one comes back
        if not _run(sim, scenario.desk):
            raise BrokenInvariantError("L6", f"still moving after {sim.steps} steps")
        stopped = [s for s in sim.sagas if s.status is SagaState.FAILED]
        if stopped:
            sim.deploy(sim.now, {scenario.definition.ref: scenario.definition})
        for saga in stopped:
            scenario.repaired()
            sim.seen["resumed"] += 1
            sim.ask(sim.now + 1_000, saga.id, scenario.person(saga), tenant=saga.tenant)
        if sim.parking:
            sim.redrive()
        elif not stopped:
            return
    raise BrokenInvariantError("L4", "resumed and resumed, and never at an end")


def _run(sim: Simulation, desk: Desk | None) -> bool:
    """Until all is quiet, and nobody has anything to answer."""
    if desk is None:
        return sim.run(sim.steps + MAX_STEPS)
    last = sim.steps + MAX_STEPS
    while sim.steps < last:
        sim.steps += 1
        desk.take_up(sim)
        if not sim._step() and not desk.letters:
            return True
    return False


def _joined(sim: Simulation, world: World, clashing: set[str]) -> None:
    """S19: what every step wrote is in the context of a saga that is complete.

    No two steps of one group wrote the same field there.
    """
    for saga in sim.sagas:
        if saga.status is not SagaState.COMPLETED:
            continue
        context = saga.context
        assert isinstance(context, dict)
        for step in saga.steps:
            mine = step.name in context or f"said {step.name}" in context
            if step.code is StepCode.DONE and not mine:
                raise BrokenInvariantError("S19", f"what {step.name} wrote is lost: {context}")
        d = sim.known[saga.definition]
        both = [n for n in clashing if world.acts[saga.id, n] and d.step(n).group is not None]
        clashed = Counter(d.step(name).group for name in both)
        if any(count > 1 for count in clashed.values()):
            raise BrokenInvariantError("S19", f"{both} wrote one field, side by side")


def _one_saga_for_each_key(sim: Simulation) -> None:
    if len(list(sim.sagas)) != 2:
        raise BrokenInvariantError("S10", f"{len(list(sim.sagas))} sagas for two keys")
    if not sim.seen["start key_reused"]:
        raise BrokenInvariantError("S10", "another saga's key was accepted")


def _bounded(sim: Simulation) -> None:
    faults, sagas = len(sim.chooser.drawn), len(list(sim.sagas))
    # S11 allows one more for each send that may have happened, and the sweeper's it forgot.
    unsure = sum("send of" in what or "markswept" in what for _, what in sim.chooser.drawn)
    lanes = sim._lanes()
    endless = any(s.retry.max_attempts is None for d in sim.known.values() for s in d.steps)
    most = (2 if endless else 1) * MOST_LETTERS  # whoever is tried often is duplicated often
    asked = sim.seen["request accepted"] + sim.seen["request refused"]  # each may wake it
    if sim.most_letters > most * sagas * lanes + unsure + asked:
        raise BrokenInvariantError("S11", f"{sim.most_letters} messages at once")
    if sim.invocations > 80 * sagas * lanes + 12 * faults + 12 * asked:
        raise BrokenInvariantError("L6", f"{sim.invocations} invocations for {faults} faults")


def _no_attempt_burned(sim: Simulation, profile: str, desk: Desk | None) -> None:
    """E1 and E2: where nothing was lost but answers, nothing is tried twice."""
    for saga in sim.sagas:
        for step in saga.steps:
            if step.error is not None and step.error.kind == "AttemptsLost":
                raise BrokenInvariantError("E2", f"no attempt of {step.name} was lost")
            refused = step.code is StepCode.NO or step.error is not None
            refused |= desk is not None and (saga.id, step.name) in desk.minds
            policy = sim.known[saga.definition].step(step.name).retry
            refused |= policy.max_attempts is None  # its errors end with its success
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
