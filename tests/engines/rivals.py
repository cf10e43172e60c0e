"""Processes that want the same work item at the same moment."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.clients import dynamodb_client
from infra.dynamodb_store import DynamoDBSagaStore
from saga_core.instance import Key
from saga_core.ports import Written
from tests.contracts.sagas import LEASE_MS, ORDER
from tests.fakes.clock import T0

PATIENCE_SECONDS = 60  # for the others, in one round
RACE_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Claim:
    """One rival's attempt on one saga; moments of a clock that all processes share."""

    rival: str
    won: bool
    began: float
    ended: float


def race(url: str, table: str, sagas: Sequence[str], *, rivals: int) -> list[list[Claim]]:
    """Have so many processes claim each of these sagas; for each saga what they came to."""
    context = multiprocessing.get_context("spawn")  # nothing of this process is shared
    line, results = context.Barrier(rivals), context.Queue()
    names = [f"rival{n}" for n in range(rivals)]
    processes = [
        context.Process(target=_claim_all, args=(name, url, table, list(sagas), (line, results)))
        for name in names
    ]
    for process in processes:
        process.start()
    try:
        found: dict[str, list[Claim]] = dict(results.get(timeout=RACE_SECONDS) for _ in names)
    finally:
        for process in processes:
            process.join(PATIENCE_SECONDS)
            process.kill()
    return [list(round_) for round_ in zip(*found.values(), strict=True)]


def at_once(claims: Sequence[Claim]) -> bool:
    """There was a moment at which every one of them was under way."""
    return max(c.began for c in claims) < min(c.ended for c in claims)


def wins(rounds: Sequence[Sequence[Claim]]) -> Counter[str]:
    """How often each rival won."""
    return Counter(claim.rival for round_ in rounds for claim in round_ if claim.won)


def _claim_all(name: str, url: str, table: str, sagas: list[str], shared: Any) -> None:
    line, results = shared
    store, claims = DynamoDBSagaStore(dynamodb_client(url), table), []
    try:
        for n, saga_id in enumerate(sagas):
            line.wait(PATIENCE_SECONDS)
            began = time.monotonic()
            result = store.claim(
                Key("default", saga_id),
                epoch=1,
                definition=ORDER.ref,
                claim_id=f"{name}-{n}",
                now=T0,
                until=T0 + LEASE_MS,
            )
            claims.append(Claim(name, isinstance(result, Written), began, time.monotonic()))
    except BaseException:
        line.abort()  # nobody is left waiting
        raise
    finally:
        results.put((name, claims))
