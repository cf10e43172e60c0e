"""Runs schedules until one breaks an invariant: ``-m tests.schedules.hunt PROFILE SEEDS``.

``every-state`` in place of a profile visits every state of small sagas instead.
"""

from __future__ import annotations

import sys

from tests.schedules.exhaustive import ContradictionError, definitions, explore
from tests.schedules.scenarios import run


def main(profile: str, seeds: int) -> int:
    if profile == "every-state":
        return visit()
    for seed in range(seeds):
        outcome = run(seed, profile)
        if outcome.broken is not None:
            sys.stdout.write(f"{outcome.broken.name} in {seed + 1} schedules: {outcome.broken}\n")
            return 1
    sys.stdout.write(f"nothing in {seeds} schedules\n")
    return 0


def visit() -> int:
    for definition in definitions(most_steps=1):
        try:
            explore(definition)
        except ContradictionError as broken:
            sys.stdout.write(f"core {broken}\n")
            return 1
    sys.stdout.write("nothing in any state\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
