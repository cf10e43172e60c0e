"""The names in the code are the names in the template."""

from __future__ import annotations

import pytest

from infra import schema
from saga_core.instance import Key, SagaState
from tests.fakes import template


def test_the_template_has_the_codes_keys_and_indexes():
    table = template.table_arguments(template.load(), "x")
    hashed, ranged = "HASH", "RANGE"

    def keys(described: list[dict[str, str]]) -> dict[str, str]:
        return {k["KeyType"]: k["AttributeName"] for k in described}

    assert keys(table["KeySchema"]) == {hashed: schema.PK, ranged: schema.SK}
    indexes = {i["IndexName"]: keys(i["KeySchema"]) for i in table["GlobalSecondaryIndexes"]}
    assert indexes == {
        schema.WORK_INDEX: {hashed: schema.WORK_HASH, ranged: schema.WORK_RANGE},
        schema.LIST_INDEX: {hashed: schema.LIST_HASH, ranged: schema.LIST_RANGE},
    }
    kinds = {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]}
    assert kinds.pop(schema.WORK_RANGE) == "N"
    assert set(kinds.values()) == {"S"}
    for index in table["GlobalSecondaryIndexes"]:
        assert index["Projection"] == {"ProjectionType": "KEYS_ONLY"}


def test_the_template_expires_by_the_codes_attribute():
    (table,) = template.resources(template.load(), "AWS::DynamoDB::Table").values()
    assert table["TimeToLiveSpecification"]["AttributeName"] == schema.TTL


def test_a_key_is_taken_apart_as_it_was_made():
    key = Key("acme", "s1")
    assert schema.partition_key(key) == "S#acme#s1"
    assert schema.key_of("S#acme#s1") == key


@pytest.mark.parametrize("text", ["", "S#a", "W#a#b", "S#a#b#c", "acme"])
def test_what_is_no_key_is_refused(text):
    with pytest.raises(ValueError, match="not the key of a saga"):
        schema.key_of(text)


def test_no_part_of_a_key_can_reach_another_tenants_saga():
    for key in (Key("a#b", "c"), Key("a", "b#c"), Key("", "c"), Key("a", "")):
        with pytest.raises(ValueError, match="not a"):
            schema.partition_key(key)
    with pytest.raises(ValueError, match="not a tenant"):
        schema.list_partition("a#RUNNING", SagaState.RUNNING, 1)


def test_created_and_running_share_a_partition_and_no_others_do():
    partitions = {s: schema.list_partition("acme", s, 3) for s in SagaState}
    assert partitions[SagaState.CREATED] == partitions[SagaState.RUNNING] == "L#acme#RUNNING#3"
    assert len(set(partitions.values())) == len(SagaState) - 1


def test_live_and_parked_sagas_are_apart():
    assert schema.live_partition(3) == "W#3"
    assert schema.parked_partition(3) == "P#3"
