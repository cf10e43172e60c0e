"""The long version: ``python -m tests.schedules.long [SCHEDULES]`` (``make simulate``).

Random schedules of every profile, every pair of faults of the shipped examples'
runs by sampling, and every state of sagas up to two steps.
"""

from __future__ import annotations

import multiprocessing
import secrets
import sys
import time

from tests.schedules.exhaustive import definitions, explore
from tests.schedules.scenarios import PROFILES, run, told

CHUNK = 500


def chunk(job: tuple[str, int]) -> tuple[str, str | None]:
    profile, first = job
    for seed in range(first, first + CHUNK):
        outcome = run(seed, profile)
        if outcome.broken is not None:
            return profile, told(outcome)
    return profile, None


def main(schedules: int) -> int:
    first = secrets.randbelow(1 << 40)
    per_profile = max(1, schedules // CHUNK // len(PROFILES))
    jobs = [(p, first + n * CHUNK) for n in range(per_profile) for p in PROFILES]
    began = time.perf_counter()
    done = 0
    with multiprocessing.Pool() as pool:
        for _, broken in pool.imap_unordered(chunk, jobs):
            if broken is not None:
                sys.stdout.write(broken + "\n")
                return 1
            done += CHUNK
    rate = done / (time.perf_counter() - began) * 60
    sys.stdout.write(f"{done:,} schedules from seed {first}, {rate:,.0f} a minute: none broke\n")
    with multiprocessing.Pool() as pool:
        counted = pool.map(explore, definitions(most_steps=2), chunksize=1)
    states, moves = (sum(column) for column in zip(*counted, strict=True))
    sys.stdout.write(
        f"{len(counted)} definitions up to two steps: {states:,} states, {moves:,} transitions\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
