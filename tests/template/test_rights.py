"""What each function may do, to the last action."""

import pytest

from tests.template.cfn import Stack, statements, walk

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
SEND = {"sqs:SendMessage"}
RECEIVE = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
POSTPONE = {"sqs:ChangeMessageVisibility"}
TABLE = "${SagaTable.Arn}"

RIGHTS = {
    "ApiRole": {
        "${ApiLogGroup.Arn}": LOGS,
        TABLE: {
            "dynamodb:PutItem",
            "dynamodb:GetItem",
            "dynamodb:UpdateItem",
            "dynamodb:BatchGetItem",
        },
        f"{TABLE}/index/list": {"dynamodb:Query"},
        "${WorkQueue.Arn}": SEND,
    },
    "StarterRole": {
        "${StarterLogGroup.Arn}": LOGS,
        TABLE: {"dynamodb:PutItem", "dynamodb:GetItem", "dynamodb:UpdateItem"},
        "${WorkQueue.Arn}": SEND,
        "${StartQueue.Arn}": RECEIVE,
    },
    "WorkerRole": {
        "${WorkerLogGroup.Arn}": LOGS,
        TABLE: {"dynamodb:PutItem", "dynamodb:GetItem", "dynamodb:UpdateItem"},
        "${WorkQueue.Arn}": SEND | RECEIVE | POSTPONE,
    },
    "DeadLettersRole": {
        "${DeadLettersLogGroup.Arn}": LOGS,
        TABLE: {"dynamodb:GetItem", "dynamodb:UpdateItem"},
        "${WorkQueue.Arn}": SEND,
        "${DeadLetterQueue.Arn}": RECEIVE,
    },
    "SweeperRole": {
        "${SweeperLogGroup.Arn}": LOGS,
        TABLE: {"dynamodb:GetItem", "dynamodb:UpdateItem"},
        f"{TABLE}/index/work": {"dynamodb:Query"},
        "${WorkQueue.Arn}": SEND,
    },
}


@pytest.mark.parametrize("name", RIGHTS)
def test_a_role_may_do_what_its_function_does(stack: Stack, name):
    role = stack[name]
    (policy,) = role["Policies"]
    granted: dict[str, set[str]] = {}
    for effect, actions, resources in statements(policy["PolicyDocument"]):
        assert effect == "Allow"
        for resource in resources:
            granted[resource] = granted.get(resource, set()) | actions
    assert granted == RIGHTS[name]
    assert role["ManagedPolicyArns"] == ["${TracePolicy}"]


def test_there_are_no_other_roles_or_policies(full: Stack):
    assert full.of_type("AWS::IAM::Role").keys() == RIGHTS.keys()
    assert full.of_type("AWS::IAM::ManagedPolicy").keys() == {"TracePolicy", "KeyPolicy"}
    assert not full.of_type("AWS::IAM::Policy")


def test_only_lambda_may_take_a_role(stack: Stack):
    for role in stack.of_type("AWS::IAM::Role").values():
        assert role["AssumeRolePolicyDocument"]["Statement"] == [
            {
                "Effect": "Allow",
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ]


def test_a_star_stands_for_traces_and_nothing_else(full: Stack):
    starred = [
        node
        for node in walk(full.resources)
        if isinstance(node, dict) and node.get("Effect") == "Allow" and "*" in str(node)
    ]
    assert starred == [
        {
            "Effect": "Allow",
            "Action": ["xray:PutTraceSegments", "xray:PutTelemetryRecords"],
            "Resource": "*",
        }
    ]


def test_the_key_is_used_and_not_managed(full: Stack, stack: Stack):
    document = full["KeyPolicy"]["PolicyDocument"]
    assert statements(document) == [
        ("Allow", {"kms:Decrypt", "kms:GenerateDataKey"}, {full.parameters["KmsKeyArn"]})
    ]
    for role in full.of_type("AWS::IAM::Role").values():
        assert "${KeyPolicy}" in role["ManagedPolicyArns"]
    assert "KeyPolicy" not in stack.resources


def test_only_the_worker_gets_the_rights_of_the_steps(full: Stack):
    policy = full.parameters["WorkerPolicyArn"]
    holders = {
        name
        for name, role in full.of_type("AWS::IAM::Role").items()
        if policy in role["ManagedPolicyArns"]
    }
    assert holders == {"WorkerRole"}


def test_functions_are_called_by_this_api_and_this_rule_only(stack: Stack):
    permissions = stack.of_type("AWS::Lambda::Permission")
    assert {(p["FunctionName"], p["Principal"], p["SourceArn"]) for p in permissions.values()} == {
        (
            "${ApiFunction}",
            "apigateway.amazonaws.com",
            "arn:aws:execute-api:eu-west-1:123456789012:${Api}/*",
        ),
        (
            "${SweeperFunction}",
            "events.amazonaws.com",
            "${SweeperFunctionEveryMinute.Arn}",
        ),
    }
