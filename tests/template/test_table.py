"""The table, against the names that the code uses."""

import pytest

from infra import schema
from tests.template.cfn import Stack, deploy

TABLE = "AWS::DynamoDB::Table"


@pytest.fixture
def table(stack: Stack):
    ((_, properties),) = stack.of_type(TABLE).items()
    return properties


def keys(description):
    return {k["KeyType"]: k["AttributeName"] for k in description["KeySchema"]}


def test_the_keys_are_the_ones_the_code_writes(table):
    assert keys(table) == {"HASH": schema.PK, "RANGE": schema.SK}


def test_the_indexes_are_the_ones_the_code_queries(table):
    indexes = {i["IndexName"]: keys(i) for i in table["GlobalSecondaryIndexes"]}
    assert indexes == {
        schema.WORK_INDEX: {"HASH": schema.WORK_HASH, "RANGE": schema.WORK_RANGE},
        schema.LIST_INDEX: {"HASH": schema.LIST_HASH, "RANGE": schema.LIST_RANGE},
    }


def test_an_index_holds_keys_and_nothing_else(table):
    for index in table["GlobalSecondaryIndexes"]:
        assert index["Projection"] == {"ProjectionType": "KEYS_ONLY"}


def test_key_types(table):
    assert {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]} == {
        schema.PK: "S",
        schema.SK: "S",
        schema.WORK_HASH: "S",
        schema.WORK_RANGE: "N",
        schema.LIST_HASH: "S",
        schema.LIST_RANGE: "S",
    }


def test_closed_sagas_expire_by_the_attribute_that_the_code_sets(table):
    assert table["TimeToLiveSpecification"] == {"AttributeName": schema.TTL, "Enabled": True}


def test_the_table_can_be_restored_and_is_paid_by_request(table):
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert "TableName" not in table  # a named table cannot be replaced


def test_the_table_survives_its_stack(stack: Stack):
    resource = stack.resources["SagaTable"]
    assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"


def test_the_table_is_protected_unless_one_says_otherwise(table):
    assert table["DeletionProtectionEnabled"] == "true"
    assert deploy(DeletionProtection="false")["SagaTable"]["DeletionProtectionEnabled"] == "false"


def test_the_table_is_encrypted_with_the_key_given(table, full: Stack):
    assert "SSESpecification" not in table  # with a key that AWS owns, always
    assert full["SagaTable"]["SSESpecification"] == {
        "SSEEnabled": True,
        "SSEType": "KMS",
        "KMSMasterKeyId": full.parameters["KmsKeyArn"],
    }
