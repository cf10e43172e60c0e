"""The model of the table and moto answer alike: the outcome, the new item, the item in the way.

Where they differ, moto is wrong, by the DynamoDB guide or by dynalite, which was
checked against AWS; such requests are not drawn here, and test_expressions.py
has them with the answer that AWS gives. moto

* compares as Python does: an absent attribute equals NULL and another absent one,
  true equals 1, and ``<`` between a text and a number breaks down;
* holds no value that counts as false in Python to be BETWEEN anything;
* knows no ``begins_with`` of binaries;
* looks at no literal's type before it has an item to compare it with;
* is lenient with, or breaks down on, expressions that are cut off or name what is not defined;
* refuses no paths that overlap between SET and REMOVE;
* sets paths that lead through a text or a number, silently, to nothing;
* copies lists and maps by reference, so that ``SET b = a, a.x = :v`` changes b, too.
"""

from __future__ import annotations

from itertools import chain

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.drawn import ITEMS, Case, cases
from tests.simulation.side_by_side import TABLE, SideBySide
from tests.simulation.values import Item, Value, rank


def comparable(op: str, operands: list[Value | None]) -> bool:
    """Moto and AWS mean the same by this comparison of what its operands are."""
    tags = [None if value is None else next(iter(value)) for value in operands]
    first, *rest = tags
    if op == "begins_with":
        return first != "B" and set(rest) <= {"S", None}
    if op in ("=", "<>", "IN"):
        return all(_equal_alike(first, other) for other in rest)
    if not set(rest) <= {"S", "N", "B", None}:
        return False
    if op != "BETWEEN":
        return None in tags or len(set(tags)) == 1
    if None in rest or len(set(rest)) > 1:
        return False
    ranks = [rank(value) for value in operands if value is not None]
    *_, low, high = ranks
    if low > high:
        return False
    return first is None or (first == rest[0] and all(ranks))


def _equal_alike(one: str | None, two: str | None) -> bool:
    if one == two:
        return one not in (None, "L", "M")
    return not {one, two} <= {None, "NULL"} and {one, two} != {"BOOL", "N"}


class TestRandomRequests:
    @given(case=cases(comparable, condition=True), old=st.sampled_from(("NONE", "ALL_OLD")))
    def test_a_conditional_put_comes_to_the_same(self, both: SideBySide, case: Case, old: str):
        key = both.key()
        if case.item is not None:
            both.put({**key, **case.item})
        moto, fake = both.call(
            "put_item",
            Item={**key, "new": {"S": "yes"}},
            ReturnValuesOnConditionCheckFailure=old,
            **case.parameters(),
        )
        assert fake == moto
        assert_same_item(both, key)

    @given(case=cases(comparable, update=True))
    def test_an_update_comes_to_the_same(self, both: SideBySide, case: Case):
        key = both.key()
        if case.item is not None:
            both.put({**key, **case.item})
        moto, fake = both.call("update_item", Key=key, ReturnValues="ALL_NEW", **case.parameters())
        assert fake == moto
        assert_same_item(both, key)

    @given(case=cases(comparable, update=True, condition=True))
    def test_a_conditional_update_comes_to_the_same(self, both: SideBySide, case: Case):
        key = both.key()
        if case.item is not None:
            both.put({**key, **case.item})
        moto, fake = both.call(
            "update_item",
            Key=key,
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **case.parameters(),
        )
        assert fake == moto
        assert_same_item(both, key)

    @given(item=ITEMS)
    def test_what_was_put_is_read(self, both: SideBySide, item: Item):
        key = both.key()
        both.put({**key, **item})
        assert_same_item(both, key)


def assert_same_item(both: SideBySide, key: Item) -> None:
    moto, fake = both.items(key)
    assert fake == moto


STORED: Item = {
    "st": {"S": "RUNNING"},
    "ver": {"N": "7"},
    "due_at": {"N": "1700000000000"},
    "steps": {"L": [{"M": {"n": {"S": "a"}}}, {"M": {"n": {"S": "b"}}}]},
    "gs_pk": {"S": "W#1"},
    "sweep_at": {"N": "5"},
}
ONE: Item = {":one": {"N": "1"}}

REFUSED: dict[str, dict[str, object]] = {
    "a reserved word": {"UpdateExpression": "SET status = :one", "values": ONE},
    "a reserved word within a path": {"UpdateExpression": "SET st.name = :one", "values": ONE},
    "a reserved word in a condition": {
        "UpdateExpression": "SET st = :one",
        "ConditionExpression": "attribute_exists(status)",
        "values": ONE,
    },
    "a value that is not defined": {"UpdateExpression": "SET st = :nope"},
    "a name that is not used": {
        "UpdateExpression": "SET st = :one",
        "values": ONE,
        "names": {"#st": "st"},
    },
    "a value that is not used": {
        "UpdateExpression": "SET st = :one",
        "values": {**ONE, ":two": {"N": "2"}},
    },
    "no values at all": {"UpdateExpression": "REMOVE st", "values": {}},
    "an empty update": {"UpdateExpression": ""},
    "an unknown section": {"UpdateExpression": "PUT st = :one", "values": ONE},
    "half an update": {"UpdateExpression": "SET st =", "values": ONE},
    "a function that does not exist": {
        "UpdateExpression": "SET st = :one",
        "ConditionExpression": "exists(st)",
        "values": ONE,
    },
    "a condition in too many parentheses": {
        "UpdateExpression": "SET st = :one",
        "ConditionExpression": "((st = :one))",
        "values": ONE,
    },
    "one path twice": {"UpdateExpression": "SET st = :one, st = :one", "values": ONE},
    "one section twice": {"UpdateExpression": "SET st = :one SET ver = :one", "values": ONE},
    "a path through nothing": {"UpdateExpression": "SET nope.x = :one", "values": ONE},
    "a sum with nothing": {"UpdateExpression": "SET ver = nope + :one", "values": ONE},
    "a sum with a text": {"UpdateExpression": "SET ver = st + :one", "values": ONE},
    "a part of the key": {"UpdateExpression": "SET sk = :one", "values": ONE},
    "an index key of another type": {"UpdateExpression": "SET gs_pk = :one", "values": ONE},
    "an empty index key": {"UpdateExpression": "SET gs_pk = :e", "values": {":e": {"S": ""}}},
}


class TestRefusedRequests:
    @pytest.mark.parametrize("parameters", REFUSED.values(), ids=REFUSED)
    def test_an_update_that_is_refused_changes_nothing(
        self, both: SideBySide, parameters: dict[str, object]
    ):
        key = both.key()
        both.put({**key, **STORED})
        renamed = {
            {"names": "ExpressionAttributeNames", "values": "ExpressionAttributeValues"}.get(
                name, name
            ): value
            for name, value in parameters.items()
        }
        moto, fake = both.call("update_item", Key=key, **renamed)
        assert fake.code == moto.code == "ValidationException"
        assert_same_item(both, key)

    @pytest.mark.parametrize(
        "key",
        [
            {"pk": {"S": "k"}},
            {"pk": {"S": "k"}, "sk": {"S": "STATE"}, "st": {"S": "RUNNING"}},
        ],
        ids=["half of it", "with more"],
    )
    def test_a_key_must_be_the_table_s(self, both: SideBySide, key: Item):
        moto, fake = both.call("get_item", Key=key)
        assert fake.code == moto.code == "ValidationException"

    def test_an_item_must_have_the_key(self, both: SideBySide):
        moto, fake = both.call("put_item", Item={"pk": {"S": "k"}})
        assert fake.code == moto.code == "ValidationException"

    def test_a_key_is_not_empty(self, both: SideBySide):
        moto, fake = both.call("put_item", Item={"pk": {"S": ""}, "sk": {"S": "STATE"}})
        assert fake.code == moto.code == "ValidationException"

    def test_an_item_over_the_limit_is_refused(self, both: SideBySide):
        key = both.key()
        both.put(key)
        large: Item = {":ctx": {"S": "x" * 410_000}}
        for operation, parameters in (
            ("put_item", {"Item": {**key, "ctx": large[":ctx"]}}),
            (
                "update_item",
                {
                    "Key": key,
                    "UpdateExpression": "SET ctx = :ctx",
                    "ExpressionAttributeValues": large,
                },
            ),
        ):
            moto, fake = both.call(operation, **parameters)
            assert fake.code == moto.code == "ValidationException"
        assert_same_item(both, key)


@pytest.fixture(scope="module")
def filled(both: SideBySide) -> SideBySide:
    """Both, with items in their indexes."""
    for n in range(7):
        key: Item = {"pk": {"S": f"S#t#{n}"}, "sk": {"S": "STATE"}}
        both.put(
            {
                **key,
                "gs_pk": {"S": "W#7"},
                "sweep_at": {"N": str(n // 2)},
                "ls_pk": {"S": f"L#{n % 2}"},
                "ls_sk": {"S": f"{n:03}"},
                "ctx": {"S": "not projected"},
            }
        )
    both.put({"pk": {"S": "no index key"}, "sk": {"S": "STATE"}, "gs_pk": {"S": "W#7"}})
    return both


class TestReading:
    @pytest.mark.parametrize("forward", [True, False])
    @pytest.mark.parametrize(
        ("index", "condition", "values"),
        [
            ("work", "gs_pk = :p", {":p": {"S": "W#7"}}),
            ("work", "gs_pk = :p AND sweep_at <= :u", {":p": {"S": "W#7"}, ":u": {"N": "1"}}),
            (
                "work",
                "gs_pk = :p AND sweep_at BETWEEN :u AND :w",
                {":p": {"S": "W#7"}, ":u": {"N": "1"}, ":w": {"N": "2"}},
            ),
            ("work", "gs_pk = :p", {":p": {"S": "nobody"}}),
            ("list", "ls_pk = :p", {":p": {"S": "L#0"}}),
            ("list", "ls_pk = :p AND ls_sk < :u", {":p": {"S": "L#0"}, ":u": {"S": "004"}}),
            (
                "list",
                "ls_pk = :p AND begins_with(ls_sk, :u)",
                {":p": {"S": "L#1"}, ":u": {"S": "00"}},
            ),
            (None, "pk = :p AND sk = :u", {":p": {"S": "S#t#1"}, ":u": {"S": "STATE"}}),
        ],
        ids=["all", "at most", "between", "none", "list", "list below", "begins", "table"],
    )
    def test_a_query_finds_the_same_in_the_same_order(
        self, filled: SideBySide, index: str | None, condition: str, values: Item, *, forward: bool
    ):
        where = {"IndexName": index} if index else {}
        moto, fake = filled.call(
            "query",
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            ScanIndexForward=forward,
            **where,
        )
        assert fake == moto

    @pytest.mark.parametrize("forward", [True, False])
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
    def test_pages_go_on_where_the_last_one_ended(
        self, filled: SideBySide, size: int, *, forward: bool
    ):
        pages = [_pages(client, size, forward=forward) for client in (filled.moto, filled.fake)]
        assert list(chain(*pages[1])) == list(chain(*pages[0]))
        # A full page says that there may be more; only the next one says that there is not
        # (DynamoDB guide, "Paginating table query results"). moto looks ahead.
        assert [len(page) for page in pages[1]] == _lengths(7, size)

    @pytest.mark.parametrize(
        ("condition", "values"),
        [
            ("sweep_at = :p", {":p": {"N": "1"}}),
            ("gs_pk < :p", {":p": {"S": "W#7"}}),
            ("gs_pk = :p AND st = :u", {":p": {"S": "W#7"}, ":u": {"N": "1"}}),
        ],
        ids=["no hash", "not equal", "no key"],
    )
    def test_what_is_no_key_condition_is_refused(
        self, filled: SideBySide, condition: str, values: Item
    ):
        moto, fake = filled.call(
            "query",
            IndexName="work",
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
        )
        assert fake.code == moto.code == "ValidationException"

    def test_an_index_cannot_be_read_consistently(self, filled: SideBySide):
        moto, fake = filled.call(
            "query",
            IndexName="work",
            ConsistentRead=True,
            KeyConditionExpression="gs_pk = :p",
            ExpressionAttributeValues={":p": {"S": "W#7"}},
        )
        assert fake.code == moto.code == "ValidationException"

    def test_a_batch_finds_what_exists(self, filled: SideBySide):
        keys = [{"pk": {"S": f"S#t#{n}"}, "sk": {"S": "STATE"}} for n in (1, 2, 99)]
        request = {TABLE: {"Keys": keys, "ConsistentRead": True}}
        moto, fake = (
            client.batch_get_item(RequestItems=request) for client in (filled.moto, filled.fake)
        )
        by_key = [
            sorted(reply["Responses"][TABLE], key=lambda i: str(i["pk"])) for reply in (moto, fake)
        ]
        assert by_key[1] == by_key[0]
        assert fake["UnprocessedKeys"] == moto["UnprocessedKeys"] == {}

    @pytest.mark.parametrize("keys", [["1", "1"], [str(n) for n in range(101)]])
    def test_a_batch_takes_a_hundred_keys_each_once(self, filled: SideBySide, keys: list[str]):
        named = [{"pk": {"S": key}, "sk": {"S": "STATE"}} for key in keys]
        request = {TABLE: {"Keys": named}}
        for client in (filled.moto, filled.fake):
            with pytest.raises(ClientError, match="ValidationException"):
                client.batch_get_item(RequestItems=request)


def _pages(client: object, size: int, *, forward: bool) -> list[list[Item]]:
    pages: list[list[Item]] = []
    start: dict[str, object] = {}
    while True:
        reply = client.query(  # type: ignore[attr-defined]
            TableName=TABLE,
            IndexName="work",
            KeyConditionExpression="gs_pk = :p",
            ExpressionAttributeValues={":p": {"S": "W#7"}},
            ScanIndexForward=forward,
            Limit=size,
            **start,
        )
        pages.append(reply["Items"])
        if "LastEvaluatedKey" not in reply:
            return pages
        start = {"ExclusiveStartKey": reply["LastEvaluatedKey"]}


def _lengths(total: int, size: int) -> list[int]:
    full, rest = divmod(total, size)
    return [size] * full + [rest]
