"""What the real store asks of the model, asked of moto, is answered alike."""

from __future__ import annotations

import asyncio
import copy
import re
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from infra import conditions
from infra.codec import RecordCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.packing import item_size as store_measures
from saga_core.errors import ItemTooLargeError
from saga_core.events import CancelRequested
from saga_core.instance import SagaInstance
from saga_core.outcome import StepError
from saga_core.ports import ITEM_BUDGET, Written
from saga_core.transition import Moved, apply
from tests.core.sagas import T0, new
from tests.simulation.clock import SandboxClock, WorldTime
from tests.simulation.dynamo import FakeDynamo, saga_table
from tests.simulation.side_by_side import TABLE, Outcome, SideBySide, answered, outcome, refused
from tests.simulation.stories import ORDER, Story
from tests.simulation.values import item_size

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

SEEDS = 5
MANY = 25  # over the model alone, which is quick
MOVES = 100


@dataclass
class Recorder:
    """A client that remembers what it was asked, and what came of it."""

    client: Any
    calls: list[tuple[str, dict[str, Any], Outcome]] = field(default_factory=list)

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self.client, operation)

        def recorded(**parameters: Any) -> Any:
            asked = copy.deepcopy(parameters)
            try:
                reply = method(**parameters)
            except ClientError as exc:
                self.calls.append((operation, asked, refused(exc)))
                raise
            self.calls.append((operation, asked, answered(reply)))
            return reply

        return recorded

    def expressions(self) -> set[str]:
        """Every expression that was ever sent."""
        return {
            value
            for _, asked, _ in self.calls
            for name, value in asked.items()
            if name.endswith("Expression")
        }


@dataclass
class Recording:
    """The real store over the model, with every call kept."""

    time: WorldTime = field(default_factory=lambda: WorldTime(T0))

    def __post_init__(self) -> None:
        self.model = FakeDynamo(saga_table(TABLE), now=self.time)
        self.calls = Recorder(self.model)
        self.store = self.opened(RecordCodec())

    def opened(self, codec: RecordCodec) -> DynamoDBSagaStore:
        """The store, as code with this layout sees it."""
        clock = SandboxClock(self.time, "store")
        return DynamoDBSagaStore(
            cast("DynamoDBClient", self.calls),
            TABLE,
            clock=self.time,
            new_id=clock.new_id,
            pause=clock.sleep_ms,
            codec=codec,
        )

    def replayed(self) -> list[Outcome]:
        """What moto answers to the same calls, in the same order."""
        with mock_aws():
            moto = SideBySide().moto
            return [
                outcome(partial(getattr(moto, operation), **asked))
                for operation, asked, _ in self.calls.calls
            ]

    def assert_replays(self) -> None:
        """moto comes to the same."""
        for (operation, asked, came), moto in zip(self.calls.calls, self.replayed(), strict=True):
            assert came == moto, (operation, asked)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_story_goes_the_same_way(seed: int):
    recording = Recording()
    Story(recording.store, recording.time, seed).go_on(MOVES)
    recording.assert_replays()


def test_the_stories_end_in_every_way():
    ends = set()
    for seed in range(MANY):
        recording = Recording()
        Story(recording.store, recording.time, seed).go_on(MOVES)
        for version in recording.model.history(TABLE):
            ends.add(version["st"]["S"])
    assert ends == {"RUNNING", "COMPENSATING", "COMPLETED", "COMPENSATED", "FAILED"}


def test_the_stories_use_every_condition():
    recording = Recording()
    for seed in range(MANY):
        Story(recording.store, recording.time, seed).go_on(MOVES)
    used = " ; ".join(recording.calls.expressions())
    for name in (
        "CREATE",
        "RECORD",
        "CLAIM_UPDATE",
        "COMMIT",
        "REDISPATCH",
        "REDISPATCH_UPDATE",
        "NOT_NUDGED_SINCE",
        "MARK_SWEPT",
        "MARK_SWEPT_UPDATE",
        "SAVE",
    ):
        assert getattr(conditions, name) in used, name
    assert conditions.claim(None)[1] in used
    for branch in ("b1", "b2"):
        for name in ("CLAIM", "COMMIT", "REDISPATCH", "REDISPATCH_UPDATE", "NOT_NUDGED_SINCE"):
            assert conditions.of_lane(getattr(conditions, name), branch) in used, (branch, name)
        assert conditions.claim(branch)[0] in used
    assert re.search(r"[^.]#nudge_id = :nudge[0-9]", used)
    assert re.search(r"#b[12]\.#nudge_id = :nudge[0-9]", used)
    codes = {(operation, came.code) for operation, _, came in recording.calls.calls}
    assert {(f"{o}_item", "ConditionalCheckFailedException") for o in ("put", "update")} <= codes
    assert {code for _, code in codes} == {"ok", "ConditionalCheckFailedException"}


def test_open_sagas_are_listed_alike():
    recording = Recording()
    for n in range(3):
        recording.store.create(new(ORDER, saga_id=f"s{n}"))
    assert asyncio.run(recording.store.list_incomplete()) == ["s0", "s1", "s2"]
    recording.assert_replays()


def test_a_saga_of_an_older_layout_is_rewritten_alike():
    recording = Recording()
    recording.store.create(new(ORDER))
    older = RecordCodec().version
    newer = recording.opened(RecordCodec(version=older + 1, upcasters={older: lambda item: item}))
    found = _stored(recording)
    cancelled = apply(ORDER, found, CancelRequested(by="ops", at=T0))
    assert isinstance(cancelled, Moved)
    assert isinstance(newer.record(found, cancelled.instance), Written)
    recording.assert_replays()


def test_a_saga_that_outgrows_the_budget_is_saved_alike():
    recording = Recording()
    text = Random(7).randbytes(ITEM_BUDGET).hex()[: 2 * ITEM_BUDGET - 90_000]
    grown = asyncio.run(recording.store.save(_filling(text)))
    steps = tuple(replace(s, error=StepError("Boom", "b" * 3_000)) for s in grown.steps)
    asyncio.run(recording.store.save(replace(grown, steps=steps)))
    other = replace(_stored(recording), context_text=f"{text}0123456789")
    with pytest.raises(ItemTooLargeError):
        asyncio.run(recording.store.save(other))
    recording.assert_replays()


def test_the_store_measures_items_as_the_table_does():
    recording = Recording()
    for seed in range(SEEDS):
        Story(recording.store, recording.time, seed).go_on(MOVES)
        for item in recording.model.items(TABLE):
            # "Approximately" one byte for two digits, says the guide: one more or less each.
            numbers = str(item).count("'N'")
            assert abs(item_size(item) - store_measures(cast("Any", item))) <= numbers


def _stored(recording: Recording) -> SagaInstance:
    found = recording.store.find(new(ORDER).key, T0)
    assert found is not None
    return found


def _filling(text: str) -> SagaInstance:
    """A saga whose context is cut so that its item just fits into the budget."""
    at_most = replace(new(ORDER), context_text=text)
    while store_measures(RecordCodec().encode(at_most)) > ITEM_BUDGET - 500:
        at_most = replace(at_most, context_text=at_most.context_text[:-500])
    return at_most
