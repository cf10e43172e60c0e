"""template.yaml as data, so that tests make their table and queues from it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).parents[2] / "template.yaml"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short tags: ``!Ref x`` as ``{"Ref": "x"}``."""


def _short_tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_tag)


@cache
def load(path: Path = TEMPLATE) -> dict[str, Any]:
    """The template, its short tags spelt out. Read once; do not change it."""
    template: dict[str, Any] = yaml.load(path.read_text(), _Loader)
    return template


def resources(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Properties of every resource of a type, by logical id."""
    return {
        name: resource.get("Properties", {})
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def table_arguments(template: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments of CreateTable for the one table of the template."""
    (properties,) = resources(template, "AWS::DynamoDB::Table").values()
    keys = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        **{key: properties[key] for key in keys},
    }


def queue_attributes(template: dict[str, Any], queue: str) -> dict[str, str]:
    """Attributes of CreateQueue, without the redrive policy; parameters at their defaults."""
    properties = resources(template, "AWS::SQS::Queue")[queue]
    names = (
        "DelaySeconds",
        "MessageRetentionPeriod",
        "ReceiveMessageWaitTimeSeconds",
        "VisibilityTimeout",
    )
    return {n: str(_resolved(template, properties[n])) for n in names if n in properties}


def redrive(template: dict[str, Any], queue: str) -> tuple[str, int] | None:
    """Logical id of the queue's dead-letter queue, and after how many receives."""
    policy = resources(template, "AWS::SQS::Queue")[queue].get("RedrivePolicy")
    if policy is None:
        return None
    target = policy["deadLetterTargetArn"]["Fn::GetAtt"][0]
    return target, int(_resolved(template, policy["maxReceiveCount"]))


def _resolved(template: dict[str, Any], value: Any) -> Any:
    if isinstance(value, dict) and "Ref" in value:
        return template["Parameters"][value["Ref"]]["Default"]
    return value
