"""Real races: processes, not threads, on one conditional write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from tests.contracts.harness import CODEC
from tests.contracts.sagas import at_version, new
from tests.engines.rivals import at_once, race, wins
from tests.engines.suites import OPTIONAL, TABLE_ENGINES, on

ROUNDS = 10_000  # in all
RIVALS = 4
ATOMIC = tuple(name for name in TABLE_ENGINES if name != "moto")  # a lock of ours is no proof
_BATCH = 25  # items of one BatchWriteItem


@pytest.fixture
def rounds(absent: dict[str, str]) -> int:
    here = [name for name in (*ATOMIC, *OPTIONAL) if name not in absent]
    return -(-ROUNDS // len(here))


@on(*ATOMIC, *OPTIONAL)
def test_one_of_many_processes_gets_the_work_item(engine, aws, rounds, say):
    table, client = aws.new_table(), aws.dynamodb.wrapped
    sagas = [f"s{n}" for n in range(rounds)]
    for batch in batches(sagas):
        client.batch_write_item(RequestItems={table: [put(saga_id) for saga_id in batch]})
    began = time.monotonic()
    found = race(engine.url, table, sagas, rivals=RIVALS)
    seconds = time.monotonic() - began
    winners = [[claim.rival for claim in claims if claim.won] for claims in found]
    say(
        f"races on {engine.name}: {rounds} rounds of {RIVALS} processes in {seconds:.0f} s,"
        f" {sum(len(w) == 1 for w in winners)} with one winner;"
        f" all at once in {sum(map(at_once, found))}; won {dict(sorted(wins(found).items()))}"
    )
    assert [w for w in winners if len(w) != 1] == []
    stored = {item["saga_id"]["S"]: item for item in scan(client, table)}
    assert stored.keys() == set(sagas)
    for n, (saga_id, (winner,)) in enumerate(zip(sagas, winners, strict=True)):
        saga = CODEC.decode(stored[saga_id])
        assert saga.lane.lease is not None
        assert saga.lane.lease.id == f"{winner}-{n}"
        assert (saga.version, saga.lane.attempts) == (2, 1)


def put(saga_id: str) -> Any:
    return {"PutRequest": {"Item": CODEC.encode(at_version(new(saga_id), 1))}}


def batches(sagas: list[str]) -> Iterator[list[str]]:
    left = iter(sagas)
    while batch := list(islice(left, _BATCH)):
        yield batch


def scan(client: Any, table: str) -> Iterator[Any]:
    for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
        yield from page["Items"]
