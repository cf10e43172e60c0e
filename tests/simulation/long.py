"""The long version: ``python -m tests.simulation.long [SCHEDULES]``.

``jobs`` and ``chunk`` are what a pool of processes needs, here and elsewhere.
"""

from __future__ import annotations

import multiprocessing
import secrets
import sys
import time

from tests.simulation.runs import EVERY_PROFILE, run, told

CHUNK = 100


def jobs(schedules: int, first: int) -> list[tuple[str, int]]:
    """So many schedules over all profiles, as profiles and first seeds."""
    per_profile = max(1, schedules // CHUNK // len(EVERY_PROFILE))
    return [(profile, first + n * CHUNK) for n in range(per_profile) for profile in EVERY_PROFILE]


def chunk(job: tuple[str, int]) -> str | None:
    """Run one of them; what is to be told if something broke."""
    profile, first = job
    for seed in range(first, first + CHUNK):
        outcome = run(seed, profile)
        if outcome.broken is not None:
            return told(outcome)
    return None


def main(schedules: int) -> int:
    first = secrets.randbelow(1 << 40)
    began, done = time.perf_counter(), 0
    with multiprocessing.Pool() as pool:
        for broken in pool.imap_unordered(chunk, jobs(schedules, first)):
            if broken is not None:
                sys.stdout.write(broken + "\n")
                return 1
            done += CHUNK
    rate = done / (time.perf_counter() - began) * 60
    sys.stdout.write(f"{done:,} schedules from seed {first}, {rate:,.0f} a minute: none broke\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
