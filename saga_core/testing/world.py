"""A world of effects to judge a saga by: participants that keep the contract, and can fail.

The world is what counts. An orchestrator may report what it likes; a saga was
rolled back if, and only if, nothing of it stands here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from saga_core.calls import Direction, StepCall

Spot = tuple[str, str]  # saga id and step


class Refusal(Exception):  # noqa: N818 - what a participant says, not what went wrong here
    """The participant says no: nothing happened."""


@dataclass(slots=True)
class World:
    """Participants, one for each step, that honour keys and leave tombstones.

    Attributes:
        acts: How often the effect of a step happened.
        undos: How often it was taken back.
        keys: Under which idempotency keys, by step and direction.
        order: Every effect and undo, as it happened.
        refused_late: Requests that came after their own undo, and were refused.
        landed_late: Such requests that took effect: 0 with tombstones.
        repeated: Requests that the participant had answered before.
        undone_nothing: Undos that found nothing to take back.
        tombstones: False turns the marks off, as a participant that forgets them.
    """

    acts: Counter[Spot] = field(default_factory=Counter)
    undos: Counter[Spot] = field(default_factory=Counter)
    keys: dict[tuple[str, str, Direction], set[str]] = field(default_factory=dict)
    order: list[tuple[str, str, Direction]] = field(default_factory=list)
    refused_late: int = 0
    landed_late: int = 0
    repeated: int = 0
    undone_nothing: int = 0
    tombstones: bool = True
    _acted: set[str] = field(default_factory=set)
    _undone: set[Spot] = field(default_factory=set)

    def act(self, call: StepCall) -> None:
        """The forward effect, once for each key; refused after its own undo."""
        spot = (call.saga_id, call.step)
        if self.tombstones and spot in self._undone:
            self.refused_late += 1
            raise Refusal("undone before it arrived")
        if self._repeated(call):
            return
        self.landed_late += spot in self._undone
        self.acts[spot] += 1
        self.order.append((*spot, Direction.FORWARD))

    def undo(self, call: StepCall) -> None:
        """The way back, once for each key; nothing to take back is fine."""
        spot = (call.saga_id, call.step)
        self._undone.add(spot)
        if self._repeated(call):
            return
        if call.execute_key not in self._acted:
            self.undone_nothing += 1
            return
        self.undos[spot] += 1
        self.order.append((*spot, Direction.COMPENSATION))

    def _repeated(self, call: StepCall) -> bool:
        self.keys.setdefault((call.saga_id, call.step, call.direction), set()).add(
            call.idempotency_key
        )
        if call.idempotency_key in self._acted:
            self.repeated += 1
            return True
        self._acted.add(call.idempotency_key)
        return False
