"""What no contract can see: the calls that the table gets, lost answers, older layouts."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from infra.codec import UPCASTERS, RecordCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.packing import ITEM_LIMIT, Item
from saga_core.errors import ItemTooLargeError, StaleInstanceError, StoreError
from saga_core.events import ResumeRequested
from saga_core.identity import SHARDS
from saga_core.instance import Key, Nudge, SagaInstance, SagaState
from saga_core.ports import Refused, Written
from saga_core.transition import swept
from tests.contracts.harness import CODEC, Dynamo
from tests.contracts.sagas import (
    BOOM,
    GROUPED,
    LEASE_MS,
    ORDER,
    after,
    at_version,
    cancelled,
    claimed,
    completed,
    definition,
    incompressible,
    new,
    parked,
    succeeded,
    undone,
)
from tests.fakes.aws import LocalAws
from tests.fakes.clock import T0
from tests.fakes.faults import Fault

KEY = Key("default", "s1")
NAMES = ("reserve", "charge", "ship")  # of the steps in the records of older layouts


def claim(store: DynamoDBSagaStore, claim_id: str = "c1", *, at: int = T0, epoch: int = 1) -> Any:
    return store.claim(
        KEY,
        epoch=epoch,
        definition=new().definition,
        claim_id=claim_id,
        now=at,
        until=at + LEASE_MS,
    )


def raw(table: Dynamo) -> Item:
    arguments = {"pk": {"S": "S#default#s1"}, "sk": {"S": "STATE"}}
    item: Item = table.aws.dynamodb.wrapped.get_item(TableName=table.table, Key=arguments)["Item"]
    return item


def last_request(table: Dynamo) -> Any:
    return table.aws.dynamodb.requests[-1][1]


# -- the number of calls ---------------------------------------------------------


def test_a_start_is_one_write(table):
    with table.aws.dynamodb.counting() as calls:
        table.store.create(new())
    assert calls == {"put_item": 1}


def test_a_step_is_two_writes_and_no_read(table):
    table.seed(at_version(new(), 1))
    with table.aws.dynamodb.counting() as calls:
        before = claim(table.store).instance
        table.store.commit(before, succeeded(before), claim_id="c1")
    assert calls == {"update_item": 2}


def test_a_refusal_is_one_call_and_no_read(table):
    stored = table.seed(at_version(claimed(new(), "other"), 2))
    with table.aws.dynamodb.counting() as calls:
        claim(table.store)
        table.store.create(new())
        table.store.commit(stored, succeeded(stored, "other"), claim_id="c1")
        table.store.redispatch(stored, nudge_id="n1", now=T0)
        table.store.record(at_version(stored, 1), cancelled(stored))
        table.store.mark_swept(replace(stored, sweep_at=1), stored)
    assert calls == {"put_item": 1, "update_item": 5}


def test_an_item_is_read_consistently(table):
    table.store.find(KEY, T0)
    assert last_request(table)["ConsistentRead"] is True


def test_a_list_of_one_state_asks_each_shard_once_and_reads_consistently(table):
    for n in range(30):
        table.seed(at_version(new(f"id{n}", at=T0 - n), 1))
    with table.aws.dynamodb.counting() as calls:
        table.store.page(
            "default",
            states=frozenset({SagaState.RUNNING, SagaState.CREATED}),
            name=None,
            cursor=None,
            limit=10,
            now=T0,
        )
    assert calls == {"query": SHARDS, "batch_get_item": 1}
    (read,) = last_request(table)["RequestItems"].values()
    assert read["ConsistentRead"] is True
    assert len(read["Keys"]) == 10


# -- what goes over the wire -----------------------------------------------------


def test_a_commit_sends_only_what_changed(table):
    before = table.seed(at_version(claimed(new(context=incompressible(50_000))), 2))
    then = succeeded(before, context=before.context_text, at=T0 + 5)
    table.store.commit(before, then, claim_id="c1")
    names = set(last_request(table)["ExpressionAttributeNames"])
    unchanged = {"#ctx", "#created_at", "#fp", "#inst", "#hops", "#gs_pk", "#ls_pk", "#st"}
    assert not names & unchanged
    assert {"#ver", "#epoch", "#steps", "#idx", "#lease_id"} <= names
    assert "#steps[0] = " in last_request(table)["UpdateExpression"]
    assert "#steps[1]" not in last_request(table)["UpdateExpression"]
    assert table.stored(KEY) == at_version(then, 3)


def test_a_commit_of_the_last_step_leaves_the_work_index(table):
    i = at_version(claimed(new(saga=definition(steps=1))), 2)
    table.seed(i)
    then = succeeded(i)
    then = replace(then, status=SagaState.COMPLETED, sweep_at=None, expires_at=T0 + 10**9)
    assert table.store.commit(i, then, claim_id="c1").instance.state is SagaState.COMPLETED
    item = raw(table)
    gone = {"gs_pk", "sweep_at", "lease_id", "lease_until", "nudge_id", "nudge_at", "began_at"}
    assert not set(item) & gone
    assert item["expires_at"] == {"N": str((T0 + 10**9) // 1000)}


def test_a_group_that_is_done_leaves_nothing_behind(table):
    held = at_version(claimed(claimed(new(saga=GROUPED), "a", branch=0), "b", branch=1), 3)
    table.seed(held)
    then = succeeded(held, "a", context='{"a":1,"x":1}', saga=GROUPED)
    first = table.store.commit(held, then, claim_id="a").instance
    assert table.store.redispatch(first, nudge_id="n", now=T0) == Written(
        replace(first, lane=replace(first.lane, nudge=Nudge("n", T0)))
    )
    assert {"br", "b1", "nudge_id", "nudge_at"} <= set(raw(table))
    assert "b0" not in raw(table)
    # Decided without a look at the nudge of the main lane.
    then = succeeded(first, "b", saga=GROUPED)
    joined = table.store.commit(first, then, claim_id="b").instance
    assert raw(table) == CODEC.encode(joined)
    assert not {"br", "b0", "b1", "nudge_id", "nudge_at"} & set(raw(table))


def test_a_move_within_a_group_is_one_write(table):
    stored = table.seed(at_version(new(saga=GROUPED), 1))
    with table.aws.dynamodb.counting() as calls:
        for branch, claim_id in ((1, "b"), (0, "a")):
            held = table.store.claim(
                stored.key,
                epoch=1,
                definition=stored.definition,
                claim_id=claim_id,
                now=T0,
                until=T0 + LEASE_MS,
                branch=branch,
            ).instance
            then = succeeded(held, claim_id, saga=GROUPED)
            table.store.commit(held, then, claim_id=claim_id)
    assert calls == {"update_item": 4}


def test_a_claim_touches_no_index_key(table):
    table.seed(at_version(new(), 1))
    before = raw(table)
    claim(table.store)
    item = raw(table)
    assert {n: item[n] for n in ("gs_pk", "sweep_at", "ls_pk", "ls_sk")} == {
        n: before[n] for n in ("gs_pk", "sweep_at", "ls_pk", "ls_sk")
    }


def test_a_claim_of_an_item_with_attributes_of_others_leaves_them(table):
    item = {**CODEC.encode(at_version(new(), 1)), "OUT": {"S": "kept"}}
    table.aws.dynamodb.wrapped.put_item(TableName=table.table, Item=item)
    before = claim(table.store).instance
    table.store.commit(before, succeeded(before), claim_id="c1")
    assert raw(table)["OUT"] == {"S": "kept"}


# -- an answer that was lost, and a write that the SDK then repeated -------------


def test_a_repeated_start_finds_itself_by_its_incarnation(table):
    table.aws.dynamodb.fail_next("put_item", Fault.REPEATED)
    result = table.store.create(new(incarnation="feedf00d"))
    assert isinstance(result, Refused)
    assert result.found == at_version(new(incarnation="feedf00d"), 1)


def test_a_repeated_claim_finds_itself_by_its_lease(table):
    table.seed(at_version(new(), 1))
    table.aws.dynamodb.fail_next("update_item", Fault.REPEATED)
    result = claim(table.store)
    assert isinstance(result, Refused)
    assert result.found == at_version(claimed(new()), 2)


def test_a_repeated_commit_finds_itself_by_the_last_id(table):
    before = table.seed(at_version(claimed(new()), 2))
    table.aws.dynamodb.fail_next("update_item", Fault.REPEATED)
    result = table.store.commit(before, succeeded(before), claim_id="c1")
    assert isinstance(result, Refused)
    assert result.found == at_version(succeeded(before), 3)
    assert result.found.lane.last_id == "c1"


def test_a_repeated_nudge_finds_itself(table):
    stored = table.seed(at_version(new(), 1))
    table.aws.dynamodb.fail_next("update_item", Fault.REPEATED)
    result = table.store.redispatch(stored, nudge_id="n1", now=T0)
    assert result == Refused(replace(stored, lane=replace(stored.lane, nudge=Nudge("n1", T0))))


@pytest.mark.parametrize("version", [0, 1])
def test_a_repeated_save_recognises_itself(table, version):
    if version:
        table.seed(at_version(new(), 1))
    table.aws.dynamodb.fail_next("put_item", Fault.REPEATED)
    saved = asyncio.run(table.store.save(at_version(new(), version)))
    assert saved == table.stored(KEY) == at_version(new(), version + 1)


def test_a_save_does_not_take_another_one_for_its_own(table):
    # The same text, written by somebody else between our two tries.
    first = asyncio.run(table.store.save(new()))
    theirs = {**CODEC.encode(at_version(claimed(first), 2)), "wid": {"S": "theirs"}}
    put = table.aws.dynamodb.wrapped.put_item
    table.aws.dynamodb.before_next("put_item", lambda: put(TableName=table.table, Item=theirs))
    with pytest.raises(StaleInstanceError):
        asyncio.run(table.store.save(claimed(first)))


def test_a_save_is_not_recognised_by_an_id_that_an_earlier_save_left(table):
    first = asyncio.run(table.store.save(new()))
    asyncio.run(table.store.save(claimed(first)))
    with pytest.raises(StaleInstanceError):
        asyncio.run(table.store.save(claimed(first)))


# -- interleavings: something happens between the decision and the write ---------


def test_a_cancel_gets_in_between_a_commits_decision_and_its_write(table):
    before = table.seed(at_version(claimed(new()), 2))
    other = DynamoDBSagaStore(table.aws.dynamodb.wrapped, table.table)
    asked = cancelled(before, at=T0 + 1)
    table.aws.dynamodb.before_next("update_item", lambda: other.record(before, asked))
    result = table.store.commit(before, succeeded(before), claim_id="c1")
    assert result == Refused(at_version(asked, 3))
    again = table.store.commit(result.found, succeeded(result.found), claim_id="c1")
    assert again.instance.state is SagaState.COMPENSATING


def test_a_commit_gets_in_between_a_redispatchs_decision_and_its_write(table):
    seen = table.seed(at_version(new(), 1))
    other = DynamoDBSagaStore(table.aws.dynamodb.wrapped, table.table)

    def move() -> None:
        held = claim(other, "b").instance
        other.commit(held, succeeded(held, "b"), claim_id="b")

    table.aws.dynamodb.before_next("update_item", move)
    result = table.store.redispatch(seen, nudge_id="n1", now=T0)
    assert result == Refused(table.stored(KEY))
    assert table.stored(KEY) == at_version(succeeded(claimed(seen, "b"), "b"), 3)


def test_one_of_many_claims_at_once_wins(table):
    table.seed(at_version(new(), 1))
    barrier, results = threading.Barrier(8), []

    def worker(n: int) -> None:
        barrier.wait()
        results.append(claim(table.store, f"c{n}"))

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [r.instance for r in results if isinstance(r, Written)]
    assert [r for r in results if isinstance(r, Refused)] == [Refused(won)] * 7
    assert table.stored(KEY) == won
    assert won.lane.tries == 1


# -- errors ----------------------------------------------------------------------


def moves(table: Dynamo) -> dict[str, Any]:
    """Every operation of the table by the call that it makes."""
    held = at_version(claimed(new()), 2)
    return {
        "create": ("put_item", lambda: table.store.create(new())),
        "save": ("put_item", lambda: asyncio.run(table.store.save(new()))),
        "find": ("get_item", lambda: table.store.find(KEY, T0)),
        "load": ("get_item", lambda: asyncio.run(table.store.load("s1"))),
        "claim": ("update_item", lambda: claim(table.store)),
        "commit": (
            "update_item",
            lambda: table.store.commit(held, succeeded(held), claim_id="c1"),
        ),
        "record": ("update_item", lambda: table.store.record(held, cancelled(held))),
        "redispatch": (
            "update_item",
            lambda: table.store.redispatch(held, nudge_id="n1", now=T0),
        ),
        "mark_swept": (
            "update_item",
            lambda: table.store.mark_swept(held, swept(held, T0)),
        ),
        "due": ("query", lambda: table.store.due(0, T0, 10)),
        "list_incomplete": ("query", lambda: asyncio.run(table.store.list_incomplete())),
        "page": ("query", lambda: page(table)),
    }


MOVES = sorted(moves(None))  # type: ignore[arg-type]  # only the names


def page(table: Dynamo) -> Any:
    return table.store.page(
        "default",
        states=frozenset({SagaState.CREATED}),
        name=None,
        cursor=None,
        limit=10,
        now=T0,
    )


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize(
    ("fault", "ambiguous"),
    [
        (Fault.THROTTLED, False),
        (Fault.DENIED, False),
        (Fault.NOT_CONNECTED, False),
        (Fault.SERVER_ERROR, True),
        (Fault.SERVER_ERROR_DONE, True),
        (Fault.ANSWER_LOST, True),
    ],
    ids=lambda v: v.name if isinstance(v, Fault) else None,
)
def test_a_table_in_trouble_is_one_error_that_says_whether_it_may_have_written(
    table, name, fault, ambiguous
):
    table.seed(at_version(claimed(new()), 2))
    operation, call = moves(table)[name]
    table.aws.dynamodb.fail_next(operation, fault)
    with pytest.raises(StoreError) as trouble:
        call()
    assert trouble.value.ambiguous is ambiguous
    assert trouble.value.__cause__ is not None


URL = {"endpoint_url": "http://localhost"}


@pytest.mark.parametrize(
    ("error", "ambiguous"),
    [
        (ReadTimeoutError(**URL), True),
        (ConnectionClosedError(**URL), True),
        (HTTPClientError(error=OSError("broken pipe")), True),
        (ResponseParserError("half an answer"), True),
        (ConnectTimeoutError(**URL), False),
        (EndpointConnectionError(**URL), False),
        (SSLError(**URL, error=OSError("bad certificate")), False),
        (NoCredentialsError(), False),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Exception) else None,
)
def test_an_error_says_whether_the_write_may_have_happened(table, error, ambiguous):
    def fail() -> None:
        raise error

    table.aws.dynamodb.before_next("put_item", fail)
    with pytest.raises(StoreError) as trouble:
        table.store.create(new(context='"canary"'))
    assert trouble.value.ambiguous is ambiguous
    assert trouble.value.__cause__ is error
    assert "s1" in str(trouble.value)
    assert "canary" not in str(trouble.value)


@pytest.mark.parametrize(
    ("code", "status", "ambiguous"),
    [
        ("ProvisionedThroughputExceededException", 400, False),
        ("RequestLimitExceeded", 400, False),
        ("ThrottlingException", 400, False),
        ("ValidationException", 400, False),
        ("ResourceNotFoundException", 400, False),
        ("ServiceUnavailable", 503, True),
        ("InternalServerError", 500, True),
        ("OfNoStatus", None, True),  # nothing is known of it, so nothing is promised
    ],
)
def test_an_answer_says_whether_the_write_may_have_happened(table, code, status, ambiguous):
    response: Any = {"Error": {"Code": code}}
    if status is not None:
        response["ResponseMetadata"] = {"HTTPStatusCode": status}

    def fail() -> None:
        raise ClientError(response, "PutItem")

    table.aws.dynamodb.before_next("put_item", fail)
    with pytest.raises(StoreError, match=code) as trouble:
        table.store.create(new())
    assert trouble.value.ambiguous is ambiguous


def test_a_bug_of_ours_is_not_taken_for_the_tables_trouble(table):
    def fail() -> None:
        raise ZeroDivisionError

    table.aws.dynamodb.before_next("put_item", fail)
    with pytest.raises(ZeroDivisionError):
        table.store.create(new())


def test_a_table_that_is_missing_is_an_error(aws: LocalAws):
    store = DynamoDBSagaStore(aws.dynamodb.wrapped, "elsewhere")
    with pytest.raises(StoreError, match="ResourceNotFoundException"):
        store.find(KEY, T0)


@pytest.mark.parametrize("saga_id", ["", "a#b", "#", "x" * 65, "é", "a/b", "a b", "a\n"])
def test_no_key_is_made_of_what_is_no_id(table, saga_id):
    with pytest.raises(ValueError, match="saga id"):
        table.store.find(Key("default", saga_id), T0)


@pytest.mark.parametrize("tenant", ["", "a#b", "x" * 65])
def test_no_key_is_made_of_what_is_no_tenant(table, tenant):
    with pytest.raises(ValueError, match="tenant"):
        table.store.find(Key(tenant, "s1"), T0)
    with pytest.raises(ValueError, match="tenant"):
        table.store.page(
            tenant, states=frozenset(SagaState), name=None, cursor=None, limit=1, now=T0
        )


# -- sizes that only the table knows ---------------------------------------------


def grown_too_large(before: SagaInstance) -> SagaInstance:
    """The context has fitted, and the records of the steps have used up the reserve."""
    noted = replace(before.steps[1], error=replace(BOOM, message="x" * 150_000))
    return replace(before, steps=(before.steps[0], noted, before.steps[2]))


def test_a_commit_that_the_table_itself_finds_too_large_is_too_large(table):
    before = table.seed(at_version(claimed(new(context=incompressible(400_000))), 2))
    then = grown_too_large(succeeded(before, context=before.context_text))
    with pytest.raises(ItemTooLargeError) as refused:
        table.store.commit(before, then, claim_id="c1")
    assert refused.value.size > refused.value.limit == ITEM_LIMIT


def test_a_save_that_the_table_itself_finds_too_large_is_too_large(table):
    before = table.seed(at_version(claimed(new(context=incompressible(400_000))), 2))
    with pytest.raises(ItemTooLargeError) as refused:
        asyncio.run(table.store.save(grown_too_large(before)))
    assert refused.value.size > refused.value.limit == ITEM_LIMIT
    assert table.stored(KEY) == before


# -- layouts ---------------------------------------------------------------------


def renamed(old: str, name: str) -> Any:
    def upcast(item: Item) -> Item:
        item = dict(item)
        if old in item:
            item[name] = item.pop(old)
        return item

    return upcast


class OlderCodec(RecordCodec):
    """Wrote `by` where today's layout has `cancel`, as an older version might have."""

    def encode_besides_context(self, i: SagaInstance) -> Item:
        item = super().encode_besides_context(i)
        return {**renamed("cancel", "by")(item), "v": {"N": "0"}}


FROM_V0 = RecordCodec(upcasters={**UPCASTERS, 0: renamed("by", "cancel")})


@pytest.fixture
def aged(aws: LocalAws, table: Dynamo) -> DynamoDBSagaStore:
    return DynamoDBSagaStore(aws.dynamodb, table.table, codec=FROM_V0)


def seed_v0(table: Dynamo, instance: SagaInstance) -> None:
    item = {**OlderCodec().encode(instance), "left_behind": {"S": "x"}}
    table.aws.dynamodb.wrapped.put_item(TableName=table.table, Item=item)


def test_an_item_of_an_older_layout_is_claimed_and_rewritten_by_the_commit(table, aged):
    old = at_version(cancelled(new()), 2)
    seed_v0(table, old)
    before = claim(aged).instance
    assert before == at_version(claimed(old), 3)
    then = succeeded(before)
    with table.aws.dynamodb.counting() as calls:
        result = aged.commit(before, then, claim_id="c1")
    assert calls == {"update_item": 2}
    assert result == Written(at_version(then, 4))
    assert raw(table) == CODEC.encode(at_version(then, 4))


def test_an_item_of_an_older_layout_is_rewritten_by_a_request(table, aged):
    old = at_version(parked(), 7)
    seed_v0(table, old)
    then = resumed(old)
    assert aged.record(old, then) == Written(at_version(then, 8))
    assert raw(table) == CODEC.encode(at_version(then, 8))


def resumed(i: SagaInstance) -> SagaInstance:
    return after(i, ResumeRequested(by="someone", at=T0 + 5))


def test_an_item_whose_layout_had_other_steps_gets_them_all_anew(table, aws):
    def stepless(item: Item) -> Item:
        return {**item, "steps": CODEC.encode(new())["steps"]}

    store = DynamoDBSagaStore(
        aws.dynamodb, table.table, codec=RecordCodec(upcasters={**UPCASTERS, 0: stepless})
    )
    before = at_version(claimed(new()), 2)
    item: Item = {**CODEC.encode(before), "v": {"N": "0"}, "steps": {"L": []}}
    table.aws.dynamodb.wrapped.put_item(TableName=table.table, Item=item)
    then = succeeded(before)
    assert store.commit(before, then, claim_id="c1") == Written(at_version(then, 3))
    assert raw(table) == CODEC.encode(at_version(then, 3))


def test_an_item_of_an_older_layout_that_moved_is_not_rewritten(table, aged):
    seed_v0(table, at_version(claimed(new(), "b"), 5))
    before = at_version(claimed(new(), "a"), 3)
    result = aged.commit(before, succeeded(before, "a"), claim_id="a")
    assert result == Refused(at_version(claimed(new(), "b"), 5))
    assert raw(table)["v"] == {"N": "0"}


def test_a_saga_of_layout_one_is_driven_to_its_end(aws, table):
    # As it was written by the first release, its holder dead.
    item: Item = json.loads((Path(__file__).parent / "records" / "v1.json").read_text())
    assert item["v"] == {"N": "1"}
    table.aws.dynamodb.wrapped.put_item(TableName=table.table, Item=item)
    named = (replace(s, name=n) for s, n in zip(ORDER.steps, NAMES, strict=True))
    saga = replace(ORDER, steps=tuple(named))
    old = CODEC.decode(item)
    at = old.lane.lease.until + 1 if old.lane.lease is not None else 0
    versions = []
    for claim_id in ("u1", "u2"):
        found = table.store.find(old.key, at)
        result = table.store.claim(
            old.key,
            epoch=found.lane.epoch,
            definition=old.definition,
            claim_id=claim_id,
            now=at,
            until=at + LEASE_MS,
        )
        assert isinstance(result, Written)
        then = after(result.instance, undone(claim_id, at=at), saga=saga)
        committed = table.store.commit(result.instance, then, claim_id=claim_id)
        assert committed == Written(at_version(then, result.instance.version + 1))
        arguments = {"pk": item["pk"], "sk": item["sk"]}
        reply = table.aws.dynamodb.wrapped.get_item(TableName=table.table, Key=arguments)
        assert reply["Item"] == CODEC.encode(committed.instance)
        versions.append(reply["Item"]["v"]["N"])
    assert committed.instance.status is SagaState.COMPENSATED
    assert versions == ["2", "2"]


def test_an_item_of_a_newer_layout_is_left_alone_before_anything_is_spent(table):
    item = {**CODEC.encode(at_version(new(), 1)), "v": {"N": "3"}}
    table.aws.dynamodb.wrapped.put_item(TableName=table.table, Item=item)
    with pytest.raises(StoreError, match="deploy the newer code") as trouble:
        claim(table.store)
    assert not trouble.value.ambiguous
    assert raw(table) == item


def test_a_newer_worker_that_rewrote_the_item_fences_an_older_one_off(table):
    before = table.seed(at_version(claimed(new()), 2))
    newer = {**CODEC.encode(before), "v": {"N": "3"}}
    table.aws.dynamodb.wrapped.put_item(TableName=table.table, Item=newer)
    with pytest.raises(StoreError, match="deploy the newer code"):
        table.store.commit(before, succeeded(before), claim_id="c1")
    assert raw(table) == newer


# -- long lists ------------------------------------------------------------------


class ShortAnswers:
    """A client that leaves keys out of its batch answers, as a throttled table does."""

    def __init__(self, client: Any, *, gives: int) -> None:
        self.client = client
        self.gives = gives

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def batch_get_item(self, *, RequestItems: dict[str, Any]) -> Any:  # noqa: N803 - as AWS has it
        ((name, asked),) = RequestItems.items()
        now, later = asked["Keys"][: self.gives], asked["Keys"][self.gives :]
        if not now:
            return {"Responses": {}, "UnprocessedKeys": RequestItems}
        reply = self.client.batch_get_item(RequestItems={name: {**asked, "Keys": now}})
        if later:
            reply["UnprocessedKeys"] = {name: {**asked, "Keys": later}}
        return reply


def short(table: Dynamo, gives: int) -> DynamoDBSagaStore:
    client = ShortAnswers(table.aws.dynamodb.wrapped, gives=gives)
    return DynamoDBSagaStore(client, table.table, pause=table.clock.sleep_ms)  # type: ignore[arg-type]


def list_created(store: DynamoDBSagaStore) -> list[str]:
    here = store.page(
        "default",
        states=frozenset({SagaState.CREATED}),
        name=None,
        cursor=None,
        limit=10,
        now=T0,
    )
    return [i.id for i in here.instances]


def test_keys_that_an_answer_leaves_out_are_asked_for_again(table):
    for n in range(10):
        table.seed(at_version(new(f"id{n}", at=T0 - n), 1))
    assert list_created(short(table, 3)) == [f"id{n}" for n in range(10)]
    assert table.clock.slept == []


def test_a_table_that_answers_now_and_then_is_not_given_up(table):
    class Halting(ShortAnswers):
        calls = 0

        def batch_get_item(self, **arguments: Any) -> Any:
            self.calls += 1
            self.gives = 1 if self.calls % 5 == 0 else 0
            return super().batch_get_item(**arguments)

    for n in range(3):
        table.seed(at_version(new(f"id{n}", at=T0 - n), 1))
    client: Any = Halting(table.aws.dynamodb.wrapped, gives=0)
    store = DynamoDBSagaStore(client, table.table, pause=table.clock.sleep_ms)
    assert list_created(store) == ["id0", "id1", "id2"]
    assert table.clock.slept == [100, 200, 400, 800] * 3


def test_a_table_that_answers_nothing_is_given_up(table):
    table.seed(at_version(new(), 1))
    with pytest.raises(StoreError, match="none of them was processed") as trouble:
        list_created(short(table, 0))
    assert not trouble.value.ambiguous
    assert table.clock.slept == [100, 200, 400, 800]


def test_an_index_entry_of_an_earlier_saga_under_the_id_is_not_listed_twice(table):
    # The index lags: the expired saga's line is still there, and so is the new one's.
    class Lagging(ShortAnswers):
        def query(self, **arguments: Any) -> Any:
            reply = self.client.query(**arguments)
            old = [{**i, "ls_sk": {"S": f"{T0 - 9:013d}#s1"}} for i in reply["Items"]]
            return {**reply, "Items": reply["Items"] + old}

    table.seed(at_version(new(), 1))
    client = Lagging(table.aws.dynamodb.wrapped, gives=100)
    assert list_created(DynamoDBSagaStore(client, table.table)) == ["s1"]  # type: ignore[arg-type]


def test_a_saga_that_the_index_shows_in_two_states_is_listed_once(table):
    class Lagging(ShortAnswers):
        def query(self, **arguments: Any) -> Any:
            values = arguments["ExpressionAttributeValues"]
            partition = values[":partition"]["S"].replace("FAILED", "RUNNING")
            values = {**values, ":partition": {"S": partition}}
            return self.client.query(**{**arguments, "ExpressionAttributeValues": values})

    for n in range(4):
        table.seed(at_version(new(f"id{n}", at=T0 - n), 1))
    client: Any = Lagging(table.aws.dynamodb.wrapped, gives=100)
    here = DynamoDBSagaStore(client, table.table).page(
        "default",
        states=frozenset({SagaState.CREATED, SagaState.FAILED}),
        name=None,
        cursor=None,
        limit=3,
        now=T0,
    )
    assert [i.id for i in here.instances] == ["id0", "id1", "id2"]


def test_an_index_entry_of_a_saga_that_moved_is_not_listed_under_its_old_state(table):
    class Lagging(ShortAnswers):
        def query(self, **arguments: Any) -> Any:
            values = arguments["ExpressionAttributeValues"]
            partition = values[":partition"]["S"].replace("RUNNING", "COMPLETED")
            values = {**values, ":partition": {"S": partition}}
            return self.client.query(**{**arguments, "ExpressionAttributeValues": values})

    table.seed(at_version(completed(new()), 7))
    client = Lagging(table.aws.dynamodb.wrapped, gives=100)
    assert list_created(DynamoDBSagaStore(client, table.table)) == []  # type: ignore[arg-type]


def test_an_index_entry_of_a_saga_that_was_deleted_is_not_listed(table):
    table.seed(at_version(new(), 1))
    table.seed(at_version(new("s2", at=T0 - 1), 1))
    table.aws.dynamodb.before_next("batch_get_item", lambda: table.forget(KEY))
    assert list_created(table.store) == ["s2"]


def test_what_is_due_is_read_page_by_page_until_there_is_enough(table):
    for n in range(4):
        table.seed(at_version(new("s1", tenant=f"t{n}"), 1))

    class OneByOne(ShortAnswers):
        def query(self, **arguments: Any) -> Any:
            return self.client.query(**{**arguments, "Limit": 1})

    client: Any = OneByOne(table.aws.dynamodb, gives=100)
    store = DynamoDBSagaStore(client, table.table)
    shard = next(n for n in range(SHARDS) if table.store.due(n, T0 + 10**9, 10))
    with table.aws.dynamodb.counting() as calls:
        assert len(store.due(shard, T0 + 10**9, 3)) == 3
    assert calls == {"query": 3}


def test_a_saga_that_nobody_sweeps_has_no_mark_to_move(table):
    over = table.seed(at_version(completed(new()), 7))
    with table.aws.dynamodb.counting() as calls:
        assert table.store.mark_swept(over, over) == Refused(over)
    assert not calls
