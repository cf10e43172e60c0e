"""What the model of the table does beyond answering like a table."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.simulation.clock import BEGINNING_MS, WorldTime
from tests.simulation.dynamo import FakeDynamo, Write, saga_table
from tests.simulation.values import ITEM_LIMIT, Item, item_size

T = "sagas"
KEY: Item = {"pk": {"S": "S#t#1"}, "sk": {"S": "STATE"}}


class World:
    """A table whose every liberty is a field."""

    def __init__(self) -> None:
        self.time = WorldTime()
        self.lag = 0
        self.unprocessed = 0
        self.writes: list[Write] = []
        self.table = FakeDynamo(
            saga_table(T),
            now=self.time,
            lag=lambda: self.lag,
            unprocessed=lambda _asked: self.unprocessed,
            on_write=self.writes.append,
        )

    def put(self, saga: int = 1, /, **attributes: dict[str, Any]) -> Item:
        item: Item = {"pk": {"S": f"S#t#{saga}"}, "sk": {"S": "STATE"}, **attributes}
        self.table.put_item(TableName=T, Item=item)
        return item

    def get(self, *, consistent: bool = True) -> Item | None:
        reply = self.table.get_item(TableName=T, Key=KEY, ConsistentRead=consistent)
        return reply.get("Item")

    def update(self, text: str, **more: Any) -> dict[str, Any]:  # botocore's parameters
        return self.table.update_item(TableName=T, Key=KEY, UpdateExpression=text, **more)

    def query(self, partition: str = "W#1", **more: Any) -> dict[str, Any]:
        return self.table.query(
            TableName=T,
            IndexName="work",
            KeyConditionExpression="gs_pk = :p",
            ExpressionAttributeValues={":p": {"S": partition}},
            **more,
        )


@pytest.fixture
def world() -> World:
    return World()


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


class TestSharing:
    def test_what_was_put_may_be_changed_by_its_owner(self, world: World):
        item = world.put(steps={"L": [{"M": {"n": {"S": "a"}}}]})
        item["steps"]["L"][0]["M"]["n"]["S"] = "changed"
        found = world.get()
        assert found is not None
        assert found["steps"] == {"L": [{"M": {"n": {"S": "a"}}}]}

    def test_what_was_read_may_be_changed_by_its_reader(self, world: World):
        world.put(st={"S": "RUNNING"})
        first = world.get()
        assert first is not None
        first["st"]["S"] = "changed"
        assert world.get() != first

    def test_a_value_that_was_set_may_be_changed_by_its_owner(self, world: World):
        values: Item = {":s": {"L": []}}
        reply = world.update(
            "SET steps = :s", ExpressionAttributeValues=values, ReturnValues="ALL_NEW"
        )
        values[":s"]["L"].append({"S": "changed"})
        reply["Attributes"]["steps"]["L"].append({"S": "changed"})
        assert world.get() == {**KEY, "steps": {"L": []}}


class TestConditionalWrites:
    def test_a_refusal_brings_what_stood_in_the_way_if_asked(self, world: World):
        item = world.put(st={"S": "RUNNING"})
        for asked, brought in (("ALL_OLD", item), ("NONE", None)):
            with pytest.raises(ClientError) as error:
                world.table.put_item(
                    TableName=T,
                    Item=KEY,
                    ConditionExpression="attribute_not_exists(pk)",
                    ReturnValuesOnConditionCheckFailure=asked,
                )
            assert code(error) == "ConditionalCheckFailedException"
            assert error.value.response.get("Item") == brought
        assert world.get() == item

    def test_nothing_stood_in_the_way_of_what_is_not_there(self, world: World):
        with pytest.raises(ClientError) as error:
            world.update(
                "REMOVE st",
                ConditionExpression="attribute_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        assert "Item" not in error.value.response
        assert world.get() is None

    def test_the_condition_is_asked_before_the_update_is_tried(self, world: World):
        world.put()
        with pytest.raises(ClientError) as error:
            world.update("REMOVE nope.x", ConditionExpression="attribute_exists(st)")
        assert code(error) == "ConditionalCheckFailedException"

    def test_an_error_carries_what_botocore_puts_into_it(self, world: World):
        with pytest.raises(ClientError) as error:
            world.update("nonsense")
        assert error.value.operation_name == "UpdateItem"
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        assert code(error) == "ValidationException"

    @pytest.mark.parametrize(
        "more",
        [
            {"ExpressionAttributeNames": {"#st": "st"}},
            {"ExpressionAttributeNames": {}},
            {"ExpressionAttributeValues": {}},
            {"ExpressionAttributeValues": {":a": {"S": "a"}}},
            {"ConditionExpression": "#nope = st"},
            {"ConditionExpression": "st = :nope"},
        ],
        ids=["unused name", "no names", "no values", "unused value", "what name", "what value"],
    )
    def test_names_and_values_are_those_that_are_used(self, world: World, more: dict[str, Any]):
        with pytest.raises(ClientError, match="ValidationException"):
            world.update("REMOVE x", **more)

    def test_values_without_an_expression_are_refused(self, world: World):
        with pytest.raises(ClientError, match="can only be specified when using expressions"):
            world.table.put_item(
                TableName=T, Item=KEY, ExpressionAttributeValues={":a": {"S": "a"}}
            )

    def test_a_parameter_that_is_not_modelled_is_noticed(self, world: World):
        with pytest.raises(TypeError):
            world.table.get_item(TableName=T, Key=KEY, ProjectionExpression="st")  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        "attributes",
        [{"gs_pk": {"N": "1"}}, {"sweep_at": {"S": "1"}}, {"ls_sk": {"S": ""}}],
        ids=str,
    )
    def test_an_index_key_is_of_its_type_and_not_empty(self, world: World, attributes: Item):
        with pytest.raises(ClientError, match="ValidationException"):
            world.put(**attributes)
        assert world.get() is None

    def test_a_table_that_does_not_exist_is_not_found(self, world: World):
        with pytest.raises(ClientError) as error:
            world.table.get_item(TableName="nope", Key=KEY)
        assert code(error) == "ResourceNotFoundException"


class TestReturnValues:
    def test_a_write_returns_what_was_there_if_asked(self, world: World):
        first = world.put(st={"S": "RUNNING"})
        reply = world.update("REMOVE st", ReturnValues="ALL_OLD")
        assert reply["Attributes"] == first
        reply = world.table.put_item(TableName=T, Item=first, ReturnValues="ALL_OLD")
        assert reply["Attributes"] == KEY

    def test_nothing_was_there(self, world: World):
        assert "Attributes" not in world.update("REMOVE st", ReturnValues="ALL_OLD")

    def test_nothing_is_returned_unasked(self, world: World):
        assert "Attributes" not in world.update("REMOVE st")

    def test_a_put_returns_nothing_new(self, world: World):
        with pytest.raises(ClientError, match="ValidationException"):
            world.table.put_item(TableName=T, Item=KEY, ReturnValues="ALL_NEW")

    def test_what_is_not_modelled_is_noticed(self, world: World):
        with pytest.raises(NotImplementedError):
            world.update("REMOVE st", ReturnValues="UPDATED_NEW")


class TestSize:
    def test_an_item_may_be_as_large_as_the_limit_and_no_larger(self, world: World):
        room = ITEM_LIMIT - item_size(KEY) - len("ctx")
        world.put(ctx={"S": "x" * room})
        with pytest.raises(ClientError, match="Item size has exceeded"):
            world.put(ctx={"S": "x" * (room + 1)})
        with pytest.raises(ClientError, match="Item size to update has exceeded"):
            world.update("SET n = :one", ExpressionAttributeValues={":one": {"N": "1"}})
        found = world.get()
        assert found is not None
        assert item_size(found) == ITEM_LIMIT


class TestReading:
    def test_an_index_shows_what_was(self, world: World):
        world.put(gs_pk={"S": "W#1"}, sweep_at={"N": "5"})
        world.time.advance(1_000)
        world.put(gs_pk={"S": "P#1"}, sweep_at={"N": "5"})
        world.lag = 500
        assert world.query("W#1")["Count"] == 1
        assert world.query("P#1")["Count"] == 0
        world.time.advance(500)
        assert world.query("W#1")["Count"] == 0
        assert world.query("P#1")["Count"] == 1

    def test_before_the_first_write_an_index_shows_nothing(self, world: World):
        world.put(gs_pk={"S": "W#1"}, sweep_at={"N": "5"})
        world.lag = 1
        assert world.query()["Items"] == []

    def test_a_read_lags_unless_it_is_consistent(self, world: World):
        world.put(st={"S": "RUNNING"})
        world.time.advance(1_000)
        world.put(st={"S": "COMPLETED"})
        world.lag = 10
        assert world.get(consistent=False) == {**KEY, "st": {"S": "RUNNING"}}
        assert world.get() == {**KEY, "st": {"S": "COMPLETED"}}
        request = {"Keys": [KEY]}
        reply = world.table.batch_get_item(RequestItems={T: request})
        assert reply["Responses"][T][0]["st"] == {"S": "RUNNING"}

    def test_an_index_projects_keys_only(self, world: World):
        item = world.put(gs_pk={"S": "W#1"}, sweep_at={"N": "5"}, st={"S": "RUNNING"})
        del item["st"]
        assert world.query()["Items"] == [item]

    def test_an_item_without_the_index_s_keys_is_not_in_it(self, world: World):
        world.put(gs_pk={"S": "W#1"})
        assert world.query()["Items"] == []

    def test_a_full_page_says_that_there_may_be_more(self, world: World):
        for n in range(3):
            world.put(n, gs_pk={"S": "W#1"}, sweep_at={"N": str(n)})
        first = world.query(Limit=2)
        second = world.query(Limit=2, ExclusiveStartKey=first["LastEvaluatedKey"])
        assert [first["Count"], second["Count"]] == [2, 1]
        assert first["LastEvaluatedKey"] == first["Items"][-1]
        assert "LastEvaluatedKey" not in second
        exact = world.query(Limit=3)
        assert "LastEvaluatedKey" in exact
        rest = world.query(Limit=3, ExclusiveStartKey=exact["LastEvaluatedKey"])
        assert rest["Items"] == []
        assert "LastEvaluatedKey" not in rest

    def test_pages_go_on_though_the_last_item_has_moved(self, world: World):
        for n in range(3):
            world.put(n, gs_pk={"S": "W#1"}, sweep_at={"N": str(n)})
        start = world.query(Limit=1)["LastEvaluatedKey"]
        world.put(0)
        rest = world.query(ExclusiveStartKey=start)
        assert [i["sweep_at"]["N"] for i in rest["Items"]] == ["1", "2"]

    def test_a_page_ends_at_a_megabyte(self, world: World):
        for n in range(4):
            key: Item = {"pk": {"S": "large"}, "sk": {"S": str(n)}}
            world.table.put_item(TableName=T, Item={**key, "ctx": {"S": "x" * 400_000}})
        request: dict[str, Any] = {
            "TableName": T,
            "KeyConditionExpression": "pk = :p",
            "ExpressionAttributeValues": {":p": {"S": "large"}},
        }
        first = world.table.query(**request)
        rest = world.table.query(**request, ExclusiveStartKey=first["LastEvaluatedKey"])
        assert [first["Count"], rest["Count"]] == [3, 1]

    @pytest.mark.parametrize(
        "start",
        [
            KEY,
            {**KEY, "gs_pk": {"S": "W#1"}, "sweep_at": {"S": "1"}},
            {**KEY, "gs_pk": {"S": "W#2"}, "sweep_at": {"N": "1"}},
        ],
        ids=["half", "another type", "another partition"],
    )
    def test_a_page_starts_at_a_key_of_its_own(self, world: World, start: Item):
        with pytest.raises(ClientError, match="The provided starting key is"):
            world.query(ExclusiveStartKey=start)

    @pytest.mark.parametrize(
        "condition",
        [
            "gs_pk = :p OR sweep_at = :n",
            "NOT gs_pk = :p AND sweep_at = :n",
            "gs_pk = :p AND sweep_at IN (:n)",
            "gs_pk = :p AND sweep_at.x = :n",
            "gs_pk = :p AND gs_pk = :n",
            "gs_pk = :n AND sweep_at = :p",
            "gs_pk <= :p AND sweep_at = :n",
            "gs_pk = :p AND st = :n",
            "sweep_at = :n AND st = :p",
            "gs_pk = ",
        ],
    )
    def test_what_is_no_key_condition_is_refused(self, world: World, condition: str):
        with pytest.raises(ClientError, match="ValidationException"):
            world.table.query(
                TableName=T,
                IndexName="work",
                KeyConditionExpression=condition,
                ExpressionAttributeValues={":p": {"S": "W#1"}, ":n": {"N": "1"}},
            )

    def test_an_index_cannot_be_read_consistently(self, world: World):
        with pytest.raises(ClientError, match="Consistent reads are not supported"):
            world.query(ConsistentRead=True)

    def test_a_page_has_room_for_one_at_least(self, world: World):
        with pytest.raises(ClientError, match="ValidationException"):
            world.query(Limit=0)

    def test_an_index_must_exist(self, world: World):
        with pytest.raises(ClientError, match="does not have the specified index"):
            world.table.query(
                TableName=T,
                IndexName="nope",
                KeyConditionExpression="gs_pk = :p",
                ExpressionAttributeValues={":p": {"S": "W#1"}},
            )

    def test_a_batch_may_leave_keys_unprocessed(self, world: World):
        keys = [{k: world.put(n)[k] for k in KEY} for n in range(4)]
        request = {"Keys": keys, "ConsistentRead": True}
        world.unprocessed = 3
        reply = world.table.batch_get_item(RequestItems={T: request})
        assert len(reply["Responses"][T]) == 1
        assert reply["UnprocessedKeys"] == {T: {"Keys": keys[1:], "ConsistentRead": True}}
        world.unprocessed = 99
        reply = world.table.batch_get_item(RequestItems=reply["UnprocessedKeys"])
        assert reply["Responses"] == {T: []}
        assert len(reply["UnprocessedKeys"][T]["Keys"]) == 3


class TestWhatTheWorldSees:
    def test_every_write_is_shown_with_before_and_after(self, world: World):
        world.put(n={"N": "1"})
        world.time.advance(5)
        world.update("SET n = n + :one", ExpressionAttributeValues={":one": {"N": "1"}})
        first, second = world.writes
        assert first == Write("PutItem", T, BEGINNING_MS, None, {**KEY, "n": {"N": "1"}})
        assert second == Write(
            "UpdateItem", T, BEGINNING_MS + 5, first.after, {**KEY, "n": {"N": "2"}}
        )

    def test_a_write_that_was_refused_is_not_shown(self, world: World):
        with pytest.raises(ClientError):
            world.update("REMOVE n", ConditionExpression="attribute_exists(pk)")
        assert world.writes == []
        assert world.table.items(T) == []

    def test_calls_are_counted_and_refusals_by_their_code(self, world: World):
        world.put()
        world.get()
        with pytest.raises(ClientError):
            world.update("REMOVE n", ConditionExpression="attribute_exists(n)")
        assert world.table.calls == {"PutItem": 1, "GetItem": 1, "UpdateItem": 1}
        assert world.table.refused == {("UpdateItem", "ConditionalCheckFailedException"): 1}

    def test_the_time_to_live_deletes_what_has_expired(self, world: World):
        now_s = world.time() // 1000
        world.put(1, expires_at={"N": str(now_s - 1)})
        kept = [world.put(2, expires_at={"N": str(now_s)}), world.put(3)]
        assert world.table.delete_expired(T, "expires_at") == 1
        assert world.table.items(T) == kept
        assert world.writes[-1].operation == "TimeToLive"
        assert world.writes[-1].after is None

    def test_a_restore_brings_back_what_was(self, world: World):
        old = world.put(1, n={"N": "1"})
        then = world.time()
        world.time.advance(10)
        world.put(1, n={"N": "2"})
        world.put(2)
        world.table.restore(T, then)
        assert world.table.items(T) == [old]
        assert [i["pk"]["S"] for i in world.table.history(T)] == [
            "S#t#1",
            "S#t#1",
            "S#t#1",
            "S#t#2",
        ]
