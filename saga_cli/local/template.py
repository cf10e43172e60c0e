"""template.yaml, read far enough to build its table and queues and to wire its functions.

Not a second description of the stack but the deployed one: an index that the
code needs and the template lacks fails here as it would on AWS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from saga_cli.problems import CommandError, Exit

REGION = "us-east-1"
ACCOUNT = "123456789012"
STACK = "local"

FUNCTION = "AWS::Serverless::Function"
QUEUE = "AWS::SQS::Queue"
TABLE = "AWS::DynamoDB::Table"
MAPPING = "AWS::Lambda::EventSourceMapping"

Node = dict[str, Any]  # a part of the template: YAML, so anything may be in it

INTEGRATION = "AWS::ApiGatewayV2::Integration"
ROUTE = "AWS::ApiGatewayV2::Route"
_PSEUDO = {
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::StackName": STACK,
    "AWS::URLSuffix": "localhost",
}


class TemplateError(CommandError):
    """The template cannot be built locally; the message names the place."""

    def __init__(self, message: str) -> None:
        super().__init__(Exit.USAGE, message)


_OWN_NAMES = {QUEUE: "QueueName", TABLE: "TableName"}


@dataclass(frozen=True)
class Template:
    """A SAM template with its parameters filled in.

    Args:
        document: The parsed YAML, intrinsic functions as one-key dictionaries.
        given: Values of parameters; the others take their defaults.
        endpoint: Under which the queues' URLs lie.
    """

    document: Node
    given: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = f"https://sqs.{REGION}.amazonaws.com"

    @classmethod
    def read(cls, path: Path) -> Template:
        """Parse a template file.

        Raises:
            TemplateError: There is no such file, or it is no template.
        """
        return cls(_parsed(path))

    def resources(self, kind: str) -> dict[str, Node]:
        """Logical id and unresolved properties of each resource of a type that is created."""
        return {
            name: resource.get("Properties", {})
            for name, resource in self.document["Resources"].items()
            if resource["Type"] == kind and self.holds(resource.get("Condition"))
        }

    def properties(self, kind: str, name: str, only: tuple[str, ...]) -> Node:
        """Some properties of a resource, resolved; absent ones are left out."""
        raw = self.resources(kind)[name]
        found = {key: self.resolve(raw[key]) for key in only if key in raw}
        return {key: value for key, value in found.items() if value is not None}

    def name_of(self, logical_id: str) -> str:
        """What a resource is called on this machine: its own name if the template gives one."""
        resource = self._resource(logical_id)
        own = resource.get("Properties", {}).get(_OWN_NAMES.get(resource["Type"], ""))
        return f"{STACK}-{logical_id}" if own is None else str(self.resolve(own))

    def resource_of(self, physical: str) -> str:
        """The logical id of what goes by this name, ARN or URL on this machine."""
        name = re.split("[:/]", physical)[-1]
        return next(str(r) for r in self.document["Resources"] if self.name_of(r) == name)

    def queue_url(self, logical_id: str) -> str:
        """The URL of a queue."""
        return f"{self.endpoint}/{ACCOUNT}/{self.name_of(logical_id)}"

    def resolve(self, value: object) -> Any:
        """The value with every intrinsic function worked out; None for ``AWS::NoValue``.

        Raises:
            TemplateError: A function or name that is not understood here.
        """
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not None]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref":
                return self._ref(str(argument))
            if name.startswith("Fn::"):
                return self._call(name.removeprefix("Fn::"), argument)
        return {key: self.resolve(item) for key, item in value.items()}

    def holds(self, condition: object) -> bool:
        """Work out a condition, by name or in place. None holds."""
        if condition is None:
            return True
        if isinstance(condition, str):
            return self.holds(self.document.get("Conditions", {})[condition])
        ((name, argument),) = cast("Node", condition).items()
        match name:
            case "Condition":
                return self.holds(argument)
            case "Fn::Equals":
                left, right = (str(self.resolve(part)) for part in argument)
                return left == right
            case "Fn::Not":
                return not self.holds(argument[0])
            case "Fn::And":
                return all(map(self.holds, argument))
            case "Fn::Or":
                return any(map(self.holds, argument))
            case _:
                raise TemplateError(f"condition {name} is not understood locally")

    # -- intrinsic functions ------------------------------------------------------

    def _ref(self, name: str) -> object:
        if name == "AWS::NoValue":
            return None
        if name in _PSEUDO:
            return _PSEUDO[name]
        parameters = self.document.get("Parameters", {})
        if name in parameters:
            return self._parameter(name, parameters[name])
        return self.queue_url(name) if self._kind(name) == QUEUE else self.name_of(name)

    def _parameter(self, name: str, declared: Node) -> object:
        if name not in self.given and "Default" not in declared:
            raise TemplateError(f"parameter {name} has no default and was not given")
        value = self.given.get(name, declared.get("Default"))
        return str(value).split(",") if "List" in str(declared.get("Type")) else value

    def _call(self, function: str, argument: Any) -> object:
        match function:
            case "GetAtt":
                name, attribute = argument.split(".", 1) if isinstance(argument, str) else argument
                return self._attribute(name, attribute)
            case "Sub":
                return self._sub(argument)
            case "If":
                condition, yes, no = argument
                return self.resolve(yes if self.holds(condition) else no)
            case "Join":
                glue, parts = argument
                return str(glue).join(map(str, self.resolve(parts)))
            case _:
                raise TemplateError(f"Fn::{function} is not understood locally")

    def _attribute(self, name: str, attribute: str) -> str:
        if attribute == "QueueName":
            return self.name_of(name)
        service = "sqs" if self._kind(name) == QUEUE else "local"
        return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{self.name_of(name)}"

    def _sub(self, argument: object) -> str:
        text, extra = argument if isinstance(argument, list) else (argument, {})
        first, *rest = str(text).split("${")
        out = first
        for part in rest:
            name, _, after = part.partition("}")
            if name in extra:
                value = self.resolve(extra[name])
            else:
                value = self._call("GetAtt", name) if "." in name else self._ref(name)
            out += f"{value}{after}"
        return out

    def _kind(self, logical_id: str) -> str:
        return str(self._resource(logical_id)["Type"])

    def _resource(self, logical_id: str) -> Node:
        try:
            return cast("Node", self.document["Resources"][logical_id])
        except KeyError:
            raise TemplateError(f"{logical_id} is neither a parameter nor a resource") from None


@cache
def _parsed(path: Path) -> Node:
    """The document. Once: parsing takes a sixth of a second, and nobody changes it."""
    try:
        document = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (OSError, yaml.YAMLError) as exc:
        raise TemplateError(f"{path}: {exc}") from exc
    if not isinstance(document, dict) or "Resources" not in document:
        raise TemplateError(f"{path}: has no Resources")
    return document


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: ``!Ref``, ``!GetAtt``, ``!Sub`` and the rest."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> Node:
    value: object
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(cast("yaml.MappingNode", node), deep=True)
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    return {name: value}


_Loader.add_multi_constructor("!", _short_form)
