"""How a scenario went."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from saga_cli.demo.narrator import Line
from saga_cli.demo.scenarios import Scenario
from saga_cli.demo.stage import Check

Saga = dict[str, object]  # as the HTTP API shows it


@dataclass(slots=True)
class Result:
    """What was told, checked and left behind."""

    scenario: Scenario
    saga: Saga | None = None
    lines: list[Line] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    virtual_ms: int = 0

    @property
    def passed(self) -> bool:
        """It ended as it should, in every respect."""
        return all(check.passed for check in self.checks)

    @property
    def state(self) -> str:
        """The state that the saga ended in."""
        return str(self.saga["state"]) if self.saga is not None else "none"

    def as_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "name": self.scenario.name,
            "title": self.scenario.title,
            "expected": self.scenario.ends_as.value,
            "state": self.state,
            "passed": self.passed,
            "virtual_seconds": self.virtual_ms / 1000,
            "checks": [asdict(check) for check in self.checks],
            "events": [asdict(line) for line in self.lines],
            "saga": self.saga,
        }
