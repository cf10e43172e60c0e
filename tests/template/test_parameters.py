"""What a person who deploys is asked, and told."""

import re

import pytest

from tests.template.cfn import Stack, parse

PARAMETERS = parse()["Parameters"]


def test_every_parameter_is_explained_and_shown_once():
    groups = parse()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    shown = [name for group in groups for name in group["Parameters"]]
    assert sorted(shown) == sorted(PARAMETERS)
    for name, parameter in PARAMETERS.items():
        assert parameter["Description"].endswith((".", ").")), name


def test_the_whole_stack_can_be_deployed_without_an_answer():
    assert all("Default" in p for p in PARAMETERS.values())


def test_every_parameter_is_used():
    text = str({k: v for k, v in parse().items() if k not in {"Parameters", "Metadata", "Rules"}})
    for name in PARAMETERS:
        assert f"'{name}'" in text or f"${{{name}}}" in text, name


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("SagaDefinitions", ["a:b", "a.b.c:D,e_1:f"], ["", "a", "a:b,", "a:b, c:d", "a-b:c", ":b"]),
        (
            "WorkerPolicyArn",
            ["", "arn:aws:iam::123456789012:policy/x"],
            ["x", "arn:aws:iam::1:role/x"],
        ),
        ("JwtIssuer", ["", "https://id.example.com/x"], ["http://id.example.com", "id"]),
        ("TenantClaim", ["", "org", "custom:tenant_id"], ["a b", "a#b"]),
        (
            "KmsKeyArn",
            ["", "arn:aws:kms:eu-west-1:123456789012:key/1234-ab"],
            ["alias/x", "arn:aws:kms:eu-west-1:123456789012:alias/x"],
        ),
        ("AlarmTopicArn", ["", "arn:aws-cn:sns:cn-north-1:123456789012:ops"], ["ops"]),
        (
            "CodeSigningConfigArn",
            ["", "arn:aws:lambda:eu-west-1:123456789012:code-signing-config:csc-0a1"],
            ["csc-0a1"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_refused_before_anything_is_made(name, good, bad):
    pattern = PARAMETERS[name]["AllowedPattern"]
    assert all(re.fullmatch(pattern, value) for value in good)
    assert not [value for value in bad if re.fullmatch(pattern, value)]


def test_the_default_of_each_parameter_is_allowed():
    for name, p in PARAMETERS.items():
        default = p["Default"]
        assert default in p.get("AllowedValues", [default]), name
        assert re.fullmatch(p.get("AllowedPattern", ".*"), str(default)), name
        if p["Type"] == "Number":
            assert p.get("MinValue", default) <= default <= p.get("MaxValue", default), name


def test_the_outputs_name_what_users_and_operators_need(stack: Stack):
    assert {name: o["Value"] for name, o in stack.outputs.items() if name != "ApiUrl"} == {
        "StartQueueUrl": "${StartQueue}",
        "StartQueueArn": "${StartQueue.Arn}",
        "StartDeadLetterQueueUrl": "${StartDeadLetterQueue}",
        "WorkQueueUrl": "${WorkQueue}",
        "DeadLetterQueueUrl": "${DeadLetterQueue}",
        "ParkingQueueUrl": "${ParkingQueue}",
        "TableName": "${SagaTable}",
        "WorkerRoleArn": "${WorkerRole.Arn}",
    }
