"""template.yaml as CloudFormation sees it: expanded by SAM, its parameters filled in."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import boto3
import yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

ROOT = Path(__file__).parents[2]
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "sagas",
    "AWS::URLSuffix": "amazonaws.com",
}
ABSENT = object()  # AWS::NoValue: the property, or the list's element, is not there


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short tags."""


def _tag(loader: _Loader, suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode):
        value: object = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = str(value).split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tag)


@cache
def parse() -> dict[str, Any]:
    """The template as it is written, with long function names. Not to be changed: it is shared."""
    template: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), Loader=_Loader)
    return template


@cache
def _expanded() -> dict[str, Any]:
    """The template after the SAM transform, its functions still called."""
    template = copy.deepcopy(parse())
    # The transform takes code from S3 only; where it lies is not its business here.
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    session = boto3.Session(region_name=PSEUDO["AWS::Region"])
    translator = Translator({}, Parser(), boto_session=session)
    expanded: dict[str, Any] = translator.translate(template, defaults())
    return expanded


def defaults() -> dict[str, str]:
    """What each parameter is if nobody says otherwise."""
    return {name: str(p["Default"]) for name, p in parse()["Parameters"].items()}


@dataclass(frozen=True)
class Stack:
    """The resources of one deployment, every function evaluated.

    A reference to a resource becomes ``${Name}``, an attribute ``${Name.Attribute}``.
    """

    parameters: dict[str, str]
    resources: dict[str, dict[str, Any]]
    outputs: dict[str, Any]

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """The properties of every resource of a type, by name."""
        return {
            name: resource.get("Properties", {})
            for name, resource in self.resources.items()
            if resource["Type"] == kind
        }

    def __getitem__(self, name: str) -> dict[str, Any]:
        properties: dict[str, Any] = self.resources[name]["Properties"]
        return properties


def deploy(**parameters: str) -> Stack:
    """The stack that these parameters give."""
    chosen = defaults() | parameters
    assert chosen.keys() == defaults().keys(), "no such parameter"
    template = _expanded()
    evaluator = _Evaluator(chosen, template["Conditions"])
    resources = {
        name: evaluator.value(resource)
        for name, resource in template["Resources"].items()
        if "Condition" not in resource or evaluator.condition(resource["Condition"])
    }
    return Stack(chosen, resources, evaluator.value(template["Outputs"]))


def broken_rules(**parameters: str) -> list[str]:
    """What CloudFormation would say before it creates anything."""
    template = parse()
    evaluator = _Evaluator(defaults() | parameters, template["Conditions"])
    return [
        assertion["AssertDescription"]
        for rule in template["Rules"].values()
        if "RuleCondition" not in rule or evaluator.value(rule["RuleCondition"])
        for assertion in rule["Assertions"]
        if not evaluator.value(assertion["Assert"])
    ]


class _Evaluator:
    """The intrinsic functions that this template uses, and no others."""

    def __init__(self, parameters: dict[str, str], conditions: dict[str, Any]) -> None:
        self._parameters = parameters
        self._conditions = conditions

    def condition(self, name: str) -> bool:
        return bool(self.value(self._conditions[name]))

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [v for v in map(self.value, node) if v is not ABSENT]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, argument), *_ = node.items()
            if name == "Ref" or name.startswith("Fn::") or self._is_condition(name, argument):
                return self._call(name, argument)
        return {k: v for k, v in ((k, self.value(v)) for k, v in node.items()) if v is not ABSENT}

    def _is_condition(self, name: str, argument: object) -> bool:
        return name == "Condition" and isinstance(argument, str)

    def _call(self, name: str, argument: Any) -> Any:
        match name:
            case "Ref":
                return self._reference(argument)
            case "Condition":
                return self.condition(argument)
            case "Fn::GetAtt":
                return "${" + ".".join(argument) + "}"
            case "Fn::Sub":
                return re.sub(r"\$\{([^!}]+)\}", lambda m: str(self._reference(m[1])), argument)
            case "Fn::If":
                return self.value(argument[1 if self.condition(argument[0]) else 2])
            case "Fn::Equals":
                left, right = self.value(argument)
                return str(left) == str(right)
            case "Fn::Not":
                return not self.value(argument[0])
            case "Fn::And":
                return all(self.value(argument))
            case "Fn::Or":
                return any(self.value(argument))
            case "Fn::Contains":
                choices, wanted = self.value(argument)
                return wanted in choices
            case "Fn::Join":
                separator, parts = self.value(argument)
                return separator.join(map(str, parts))
            case _:
                raise LookupError(f"{name}: write it here before using it in the template")

    def _reference(self, name: str) -> object:
        if name == "AWS::NoValue":
            return ABSENT
        if name in self._parameters:
            return self._parameters[name]
        return PSEUDO.get(name, "${" + name + "}")


def statements(policy: dict[str, Any]) -> list[tuple[str, set[str], set[str]]]:
    """Effect, actions and resources of each statement of a policy document."""

    def many(value: str | list[str]) -> set[str]:
        return {value} if isinstance(value, str) else set(value)

    return [(s["Effect"], many(s["Action"]), many(s["Resource"])) for s in policy["Statement"]]


def walk(node: object) -> list[object]:
    """A value and everything in it."""
    if isinstance(node, dict):
        return [node, *chain.from_iterable(map(walk, node.values()))]
    if isinstance(node, list):
        return [node, *chain.from_iterable(map(walk, node))]
    return [node]
