"""What must hold, whatever goes wrong; each by its name, with its reason.

Safety is judged after every write, the end by the world: what the participants
did, not what the orchestrator says it did.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from saga_core.calls import Direction, StepCall
from saga_core.definition import SagaDefinition
from saga_core.effects import Claim, Commit, Create, Record, Redispatch
from saga_core.instance import CLOSED, Key, SagaInstance, SagaState, StepCode
from saga_core.testing.simulation import BrokenInvariantError, Simulation, Write
from saga_core.testing.world import World
from saga_core.transition import MAX_STALLS, guard_lane, held_by

Attempted = tuple[str, str, Direction, int]  # saga id, step, way, and after how many resumes


@dataclass(slots=True)
class Judge:
    """Holds a run against the invariants.

    Args:
        world: What really happened.
        definitions: By ref.
    """

    world: World
    definitions: dict[str, SagaDefinition]
    violations: list[BrokenInvariantError] = field(default_factory=list)
    _commits: Counter[tuple[str, str, int | None, int]] = field(default_factory=Counter)
    _chosen: dict[tuple[str, str], bool] = field(default_factory=dict)
    _cancelled: dict[str, int] = field(default_factory=dict)
    _calls: Counter[Attempted] = field(default_factory=Counter)
    _resumed_at: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _started: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    _turned: dict[str, int] = field(default_factory=dict)
    _refs: dict[str, str] = field(default_factory=dict)
    _writers: dict[int, Key] = field(default_factory=dict)
    _spent: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def on_write(self, write: Write) -> None:
        """Judge one write."""
        before, after = write.before, write.after
        self._on_its_own(write, after)
        self._refs[after.id] = after.definition
        if before is None or before.incarnation != after.incarnation:
            self._begun(write, before, after)
            return
        self._closed_is_final(write, before, after)
        self._counts(write, before, after)
        self._who_may_write(write, before)
        self._indexed(after)
        self._one_way(before, after)
        self._in_order(after)
        self._decided_once(after)
        if after.stalls > MAX_STALLS:
            raise BrokenInvariantError("S13", f"{after.id} stalled {after.stalls} times")
        if before.status is SagaState.FAILED and after.live:
            self._resumed_at[after.id].append(after.version)
        spent = (s.name for s in after.steps if s.code is StepCode.COMPENSATION_FAILED)
        self._spent[after.id].update(spent)

    def on_call(self, call: StepCall) -> None:
        """Judge one call of a handler, as it begins.

        Kept for the end: raised here, it would pass for the handler's failure.
        """
        forward = call.direction is Direction.FORWARD
        if forward and call.fence > self._cancelled.get(call.saga_id, call.fence):
            text = f"{call.saga_id}: forward call {call.fence} after the cancel"
            self.violations.append(BrokenInvariantError("S9", text))
        if forward and call.fence > self._turned.get(call.saga_id, call.fence):
            text = f"{call.step} was claimed going forward when the saga had turned round"
            self.violations.append(BrokenInvariantError("S9", text))
        # A request may arrive long after its worker sent it: its fence says when that was.
        resumes = sum(version <= call.fence for version in self._resumed_at[call.saga_id])
        spot = (call.saga_id, call.step, call.direction, resumes)
        self._calls[spot] += 1
        if not forward and call.step not in self._started[call.saga_id]:
            text = f"{call.step} is undone and was never started"
            self.violations.append(BrokenInvariantError("S8", text))
        step = self.definitions[self._refs[call.saga_id]].step(call.step)
        policy = step.retry if forward else step.compensation_retry
        most = policy.max_attempts
        if most is not None and self._calls[spot] > most + policy.max_lost:
            text = f"{call.step} {call.direction} was called {self._calls[spot]} times"
            self.violations.append(BrokenInvariantError("S13", text))

    def at_the_end(self, sim: Simulation) -> None:
        """Judge the world when all is quiet."""
        for violation in self.violations:
            raise violation
        if self.world.landed_late:
            raise BrokenInvariantError("S15", "an effect after its own undo")
        for saga in sim.sagas:
            self._world_agrees(saga)
            self._keys(saga)
            if saga.live:
                raise BrokenInvariantError(
                    "L1", f"{saga.id} is {saga.state} and nothing will move it"
                )

    # -- each write -----------------------------------------------------------------

    def _begun(self, write: Write, before: SagaInstance | None, after: SagaInstance) -> None:
        """A saga begins once under its id; again only when the one before has expired."""
        if not isinstance(write.effect, Create):
            raise BrokenInvariantError("S10", f"{after.id} begun by {type(write.effect).__name__}")
        expired = before is None or (before.expires_at or after.created_at) < after.created_at
        if not expired:
            raise BrokenInvariantError("S10", f"a second {after.id} in place of the first")

    def _on_its_own(self, write: Write, after: SagaInstance) -> None:
        """An invocation writes one saga, of one tenant."""
        if self._writers.setdefault(write.by, after.key) != after.key:
            raise BrokenInvariantError("S16", f"{write.by} wrote {after.key} too")

    def _closed_is_final(self, write: Write, before: SagaInstance, after: SagaInstance) -> None:
        if before.status in CLOSED:
            raise BrokenInvariantError(
                "S4", f"{after.id} was {before.status}: {type(write.effect).__name__}"
            )

    def _counts(self, write: Write, before: SagaInstance, after: SagaInstance) -> None:
        state_write = isinstance(write.effect, Claim | Commit | Record)
        if after.version - before.version != (1 if state_write else 0):
            raise BrokenInvariantError("S5", f"version {before.version} to {after.version}")
        for lane in (before.lane, *before.branches):
            now = after.lane if not lane.branch else after.open_lane(lane.number)
            grown = now.epoch - lane.epoch if now is not None else 0
            if grown not in (0, 1) or (grown and not isinstance(write.effect, Commit | Record)):
                raise BrokenInvariantError("S5", f"epoch grew by {grown}")

    def _who_may_write(self, write: Write, before: SagaInstance) -> None:
        match write.effect:
            case Claim(branch=branch, claim_id=claim_id, at=at):
                lane = before.open_lane(branch)
                if lane is None:
                    raise BrokenInvariantError("S7", f"{claim_id} claimed a lane that is not open")
                if lane.lease is not None and lane.lease.until >= at:
                    raise BrokenInvariantError("S7", f"{claim_id} claimed under a held lease")
                if before.direction(lane) is Direction.FORWARD:
                    self._started[before.id].setdefault(
                        before.steps[lane.index].name, before.version
                    )
            case Commit(claim_id=claim_id, before=seen):
                self._who_may_commit(claim_id, seen, before)
            case Redispatch(branch=branch) if guard_lane(before, branch).lease is not None:
                raise BrokenInvariantError("S11", "a surplus message under a lease")
            case _:
                pass

    def _who_may_commit(self, claim_id: str, seen: SagaInstance, before: SagaInstance) -> None:
        lane = held_by(before, claim_id)
        if lane is None:
            raise BrokenInvariantError("S6", f"{claim_id} committed without the lease")
        if seen.version != before.version:
            raise BrokenInvariantError("S6", f"{claim_id} committed over a version unseen")
        spot = (before.id, before.incarnation, lane.number, lane.epoch)
        self._commits[spot] += 1
        if self._commits[spot] > 1:
            raise BrokenInvariantError("S7", f"two commits of work item {lane.epoch}")

    def _indexed(self, after: SagaInstance) -> None:
        if (after.sweep_at is None) != (after.status in CLOSED):
            raise BrokenInvariantError("S12", f"{after.status} with sweep_at {after.sweep_at}")
        if (after.expires_at is not None) != (after.status in CLOSED):
            raise BrokenInvariantError("S12", f"{after.status} with expires_at {after.expires_at}")

    def _one_way(self, before: SagaInstance, after: SagaInstance) -> None:
        if before.phase is Direction.COMPENSATION and after.phase is Direction.FORWARD:
            raise BrokenInvariantError("S3", "forward again after compensation began")
        back = after.phase is Direction.COMPENSATION
        if after.live and back != (after.status is SagaState.COMPENSATING):
            raise BrokenInvariantError("S3", f"{after.phase} and {after.status}")
        if after.cancel is not None and before.cancel is None and after.phase is Direction.FORWARD:
            self._cancelled[after.id] = after.version
        if after.id in self._cancelled and after.status is SagaState.COMPLETED:
            raise BrokenInvariantError("S9", f"{after.id} was cancelled and is COMPLETED")
        pivot = self.definitions[after.definition].pivot
        turned = back and before.phase is Direction.FORWARD
        if turned:
            self._turned[after.id] = after.version
        if turned and pivot is not None and before.steps[pivot].code is StepCode.DONE:
            raise BrokenInvariantError("S14", f"{after.id} turned round past its pivot")

    def _decided_once(self, after: SagaInstance) -> None:
        """What a condition said stays said."""
        for step in after.steps:
            wanted = step.chosen
            if not wanted and not (step.code is StepCode.SKIPPED and step.error is None):
                continue
            if self._chosen.setdefault((after.id, step.name), wanted) is not wanted:
                raise BrokenInvariantError("S17", f"{step.name} was decided twice")

    def _in_order(self, after: SagaInstance) -> None:
        """Step i+1 starts only after i is done; undos run from the newest start down."""
        for lane in after.open_lanes:
            if lane.lease is None or after.direction(lane) is Direction.COMPENSATION:
                continue
            first = self._stage(after, lane.index)
            if any(s.code not in (StepCode.DONE, StepCode.SKIPPED) for s in after.steps[:first]):
                raise BrokenInvariantError("S8", f"step {lane.index} before an earlier one")
        if after.phase is Direction.COMPENSATION and after.live and after.lane.lease is not None:
            if after.branches:
                raise BrokenInvariantError("S8", "an undo while a branch is in flight")
            starts = self._started[after.id]
            here = starts.get(after.steps[after.lane.index].name, 0)
            newer = [s for s in after.steps if starts.get(s.name, 0) > here]
            if any(
                self._open(after, s.name)
                for s in newer
                if s.code in (StepCode.DONE, StepCode.UNKNOWN)
            ):
                raise BrokenInvariantError("S8", "an older step is undone before a newer one")

    def _stage(self, saga: SagaInstance, index: int) -> int:
        """The place of the first step that begins together with this one."""
        d = self.definitions[saga.definition]
        return next(n for n in range(index + 1) if index in d.stage(n))

    def _open(self, saga: SagaInstance, step: str) -> bool:
        return self.definitions[saga.definition].step(step).compensatable

    # -- the end ----------------------------------------------------------------------

    def _world_agrees(self, saga: SagaInstance) -> None:
        definition = self.definitions[saga.definition]
        for step, record in zip(definition.steps, saga.steps, strict=True):
            spot = (saga.id, step.name)
            acts, undos = self.world.acts[spot], self.world.undos[spot]
            if acts > 1 or undos > 1:
                raise BrokenInvariantError("S1", f"{spot}: {acts} effects, {undos} undos")
            if record.code is StepCode.SKIPPED and record.error is None:
                if acts or undos:
                    raise BrokenInvariantError("S17", f"{spot} was not wanted: {acts} effects")
                continue
            if record.code is StepCode.SKIPPED:
                continue  # a person vouches for it
            if saga.status is SagaState.COMPLETED and (acts, undos) != (1, 0):
                raise BrokenInvariantError(
                    "S2", f"{spot}: {acts} effects, {undos} undos, COMPLETED"
                )
            if saga.status is SagaState.COMPENSATED and step.compensatable and acts != undos:
                raise BrokenInvariantError(
                    "S3", f"{spot}: {acts} effects, {undos} undos, COMPENSATED"
                )
            if saga.status is SagaState.FAILED and acts > undos and step.name not in saga.standing:
                raise BrokenInvariantError("S3", f"{spot} stands and FAILED does not say so")
        self._undone_in_order(saga)

    def _undone_in_order(self, saga: SagaInstance) -> None:
        """Undos took effect in the reverse of the order of the effects.

        Of steps that run side by side the order of the starts counts, which is
        judged with each write.
        """
        mine = [(s, d) for i, s, d in self.world.order if i == saga.id]
        acts = [s for s, d in mine if d is Direction.FORWARD]
        undos = [s for s, d in mine if d is Direction.COMPENSATION]
        d = self.definitions[saga.definition]
        # Where a spent undo is passed over, it comes last, after a person's resume.
        ranks = [self._stage(saga, d.index(s)) for s in undos if s not in self._spent[saga.id]]
        if ranks != sorted(ranks, reverse=True):
            raise BrokenInvariantError("S8", f"done {acts}, undone {undos}")

    def _keys(self, saga: SagaInstance) -> None:
        for (saga_id, step, direction), keys in self.world.keys.items():
            if saga_id == saga.id and len(keys) > 1:
                raise BrokenInvariantError("S1", f"{step} {direction}: several keys {keys}")
