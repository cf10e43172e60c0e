"""Tools to prove a saga crash-safe: yours, and this engine's own.

``explore`` and ``prove_rollback`` are for authors; docs/testing.md shows them
finding a bug. ``Simulation`` and ``Judge`` are what the engine itself is tested
with.
"""

from saga_core.testing.explore import Finding, ObservableWorld, Report, explore, prove_rollback
from saga_core.testing.invariants import Judge
from saga_core.testing.simulation import (
    BrokenInvariantError,
    Chooser,
    Fault,
    Profile,
    Simulation,
)
from saga_core.testing.world import Refusal, World

__all__ = [
    "BrokenInvariantError",
    "Chooser",
    "Fault",
    "Finding",
    "Judge",
    "ObservableWorld",
    "Profile",
    "Refusal",
    "Report",
    "Simulation",
    "World",
    "explore",
    "prove_rollback",
]
