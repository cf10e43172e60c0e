"""The long version: ``python -m tests.schedules.long [SCHEDULES]`` (``make simulate``).

Random schedules of every profile, every pair of faults of every shipped example,
every state of sagas up to two steps and of each construct, every planted bug, and
the Lambda handlers themselves in trouble.
"""

from __future__ import annotations

import multiprocessing
import secrets
import sys
import time
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from tempfile import TemporaryDirectory

from saga_core.testing import explore
from tests.schedules.examples import ANSWERS, EXAMPLES, Services
from tests.schedules.exhaustive import definitions, flows
from tests.schedules.exhaustive import explore as visit
from tests.schedules.planted import BUGS, Bug, hunt
from tests.schedules.scenarios import PROFILES, run, told
from tests.simulation import long as handlers

CHUNK = 500
MOST_STEPS = 2


def chunk(job: tuple[str, int]) -> str | None:
    profile, first = job
    for seed in range(first, first + CHUNK):
        outcome = run(seed, profile)
        if outcome.broken is not None:
            return told(outcome)
    return None


def pairs(name: str) -> tuple[bool, str]:
    saga, context = EXAMPLES[name]
    report = explore(saga, context, Services(), faults=2, answers=ANSWERS.get(name))
    return report.ok, str(report)


def planted(bug: Bug) -> str:
    with TemporaryDirectory() as folder:
        return hunt(bug, Path(folder))


def main(schedules: int) -> int:
    """Say what was run, part by part; 1 at the first thing found."""
    with multiprocessing.Pool() as pool:
        for line, ok in _parts(pool, schedules):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            if not ok:
                return 1
    return 0


def _parts(pool: Pool, schedules: int) -> Iterator[tuple[str, bool]]:
    first = secrets.randbelow(1 << 40)
    per_profile = max(1, schedules // CHUNK // len(PROFILES))
    jobs = [(p, first + n * CHUNK) for n in range(per_profile) for p in PROFILES]
    began = time.perf_counter()
    for broken in pool.imap_unordered(chunk, jobs):
        if broken is not None:
            yield broken, False
    rate = len(jobs) * CHUNK / (time.perf_counter() - began) * 60
    yield (
        f"{len(jobs) * CHUNK:,} schedules from seed {first}, {rate:,.0f} a minute: none broke",
        True,
    )
    for ok, report in pool.imap(pairs, EXAMPLES):
        yield f"every pair of faults, {report}", ok
    counted = pool.map(visit, definitions(MOST_STEPS), chunksize=1)
    states, moves = (sum(column) for column in zip(*counted, strict=True))
    shapes = f"{len(counted)} definitions up to {MOST_STEPS} steps"
    yield f"{shapes}: {states:,} states, {moves:,} transitions", True
    for definition, (states, moves) in zip(flows(), pool.imap(visit, flows()), strict=True):
        yield f"{definition.name}: {states:,} states, {moves:,} transitions", True
    in_lambda = handlers.jobs(schedules // 20, first)  # each takes some ten times as long
    began = time.perf_counter()
    for broken in pool.imap_unordered(handlers.chunk, in_lambda):
        if broken is not None:
            yield broken, False
    done = len(in_lambda) * handlers.CHUNK
    rate = done / (time.perf_counter() - began) * 60
    yield f"{done:,} of the Lambda handlers, {rate:,.0f} a minute: none broke", True
    for bug, found in zip(BUGS, pool.imap(planted, BUGS), strict=True):
        yield f"{bug.name} ({bug.profile}): {found}", found.split(" ")[0] in bug.found_by


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
