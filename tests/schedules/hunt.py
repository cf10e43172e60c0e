"""Runs schedules until one breaks an invariant: ``-m tests.schedules.hunt PROFILE SEEDS``."""

from __future__ import annotations

import sys

from tests.schedules.scenarios import run


def main(profile: str, seeds: int) -> int:
    for seed in range(seeds):
        outcome = run(seed, profile)
        if outcome.broken is not None:
            sys.stdout.write(f"{outcome.broken.name} at seed {seed}: {outcome.broken}\n")
            return 1
    sys.stdout.write(f"nothing in {seeds} schedules\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
