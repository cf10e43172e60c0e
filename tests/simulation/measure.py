# ruff: noqa: T201 - a script: it prints what it measured
"""How fast the models are. ``python -m tests.simulation.measure``"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from infra import conditions as c
from infra.codec import RecordCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender
from saga_core.events import StepSucceeded
from saga_core.instance import SagaInstance
from saga_core.ports import Written
from saga_core.transition import Moved, apply
from tests.core.sagas import T0, new, saga
from tests.simulation.clock import WorldTime
from tests.simulation.dynamo import FakeDynamo, saga_table
from tests.simulation.expressions import condition_text, update_text
from tests.simulation.sqs import FakeSqs, QueueSettings
from tests.simulation.values import item_copy, item_size

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

SECONDS = 0.5  # for each measurement
ORDER = saga("reserve", "charge", "pack", "ship", "confirm")
KEEPS = '{"basket":["%s"],"total":4711}' % ("a book " * 40)


def rate(act: Callable[[], object]) -> float:
    """Calls per second of processor time: others may be at work on the machine."""
    act()
    done, began = 0, time.process_time()
    while time.process_time() - began < SECONDS:
        for _ in range(20):
            act()
        done += 20
    return done / (time.process_time() - began)


def expressions() -> None:
    """The evaluator alone, on the claim."""
    item = RecordCodec().encode(replace(new(ORDER), context_text=KEEPS))
    stored = item_copy(item)
    names = tuple(c.names_in(c.CLAIM_UPDATE, c.CLAIM).items())
    values = item_copy(
        {
            ":running": {"S": "RUNNING"},
            ":compensating": {"S": "COMPENSATING"},
            ":epoch": {"N": "1"},
            ":def": item["def"],
            ":claim": {"S": "c" * 32},
            ":now": {"N": str(T0)},
            ":soon": {"N": str(T0 + 1000)},
            ":until": {"N": str(T0 + 35_000)},
            ":one": {"N": "1"},
            ":v": {"N": "1"},
        }
    )
    condition = condition_text("ConditionExpression", c.CLAIM, names)
    update = update_text(c.CLAIM_UPDATE, names)
    key = {name: stored[name] for name in ("pk", "sk")}
    assert condition.holds(stored, values)
    print(f"  condition of a claim      {rate(lambda: condition.holds(stored, values)):12,.0f} /s")
    print(
        f"  update of a claim         {rate(lambda: update.apply(stored, values, key)):12,.0f} /s"
    )
    print(f"  copy of an item           {rate(lambda: item_copy(stored)):12,.0f} /s")
    print(f"  size of an item           {rate(lambda: item_size(stored)):12,.0f} /s")


def step(store: DynamoDBSagaStore, queue: SqsSender, i: SagaInstance, at: int) -> None:
    """What one step costs the store and the queue: claim, commit, send."""
    claim_id = f"{at:032d}"
    claimed = store.claim(
        i.key, epoch=i.lane.epoch, definition=i.definition, claim_id=claim_id, now=at, until=at + 1
    )
    if not isinstance(claimed, Written):
        raise TypeError(claimed)
    event = StepSucceeded(claim_id=claim_id, context=KEEPS, at=at)
    moved = apply(ORDER, claimed.instance, event)
    if not isinstance(moved, Moved):
        raise TypeError(moved)
    committed = store.commit(claimed.instance, moved.instance, claim_id=claim_id)
    if not isinstance(committed, Written):
        raise TypeError(committed)
    queue.send(committed.instance, 0, "step", "x")


def through_the_store() -> None:
    """Five-step sagas through the real store and the real sender."""
    counter = iter(range(1 << 30))

    def run() -> None:
        world = WorldTime(T0)
        dynamo = FakeDynamo(saga_table("sagas"), now=world)
        sqs = FakeSqs(QueueSettings(url="work"), now=world)
        store = DynamoDBSagaStore(cast("DynamoDBClient", dynamo), "sagas", clock=world)
        queue = SqsSender(cast("SQSClient", sqs), "work")
        created = store.create(replace(new(ORDER, saga_id=f"s{next(counter)}"), context_text=KEEPS))
        if not isinstance(created, Written):
            raise TypeError(created)
        i = created.instance
        for n in range(len(ORDER.steps)):
            step(store, queue, i, T0 + n)
            found = store.find(i.key, T0)
            if found is None:
                raise TypeError(found)
            i = found

    print(f"  saga of five steps        {rate(run):12,.0f} /s: 11 writes, 5 reads, 5 sends")


def calls() -> None:
    """Single calls to the models."""
    world = WorldTime(T0)
    dynamo = FakeDynamo(saga_table("sagas"), now=world)
    item = RecordCodec().encode(replace(new(ORDER), context_text=KEEPS))
    dynamo.put_item(TableName="sagas", Item=item_copy(item))
    key = {name: item_copy(item)[name] for name in ("pk", "sk")}

    def update() -> None:
        dynamo.update_item(
            TableName="sagas",
            Key=key,
            UpdateExpression="SET #ver = #ver + :one, #sweep_at = :now",
            ConditionExpression="attribute_exists(#pk)",
            ExpressionAttributeNames=c.names_in("#pk #ver #sweep_at"),
            ExpressionAttributeValues={":one": {"N": "1"}, ":now": {"N": str(T0)}},
            ReturnValues="ALL_NEW",
        )

    def get() -> None:
        dynamo.get_item(TableName="sagas", Key=key, ConsistentRead=True)

    sqs = FakeSqs(QueueSettings(url="work"), now=world)

    def message() -> None:
        sqs.messages.clear()
        sqs.send_message(QueueUrl="work", MessageBody="x" * 250)
        received = sqs.receive("work")
        if received is not None:
            sqs.delete(received.receipt_handle)

    print(f"  update_item               {rate(update):12,.0f} /s")
    print(f"  get_item                  {rate(get):12,.0f} /s")
    print(f"  send, receive and delete  {rate(message):12,.0f} /s")


if __name__ == "__main__":
    expressions()
    calls()
    through_the_store()
