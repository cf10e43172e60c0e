"""How the template wires its functions: which queue, clock or path calls which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote

from saga_cli.local.template import (
    FUNCTION,
    INTEGRATION,
    MAPPING,
    ROUTE,
    Node,
    Template,
    TemplateError,
)

_UNITS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A Lambda function as it is deployed.

    Attributes:
        name: Its logical id.
        handler: ``module.attribute``.
        timeout_ms: How long an invocation may take.
        environment: Its variables.
    """

    name: str
    handler: str
    timeout_ms: int
    environment: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSource:
    """A queue that feeds a function: an event source mapping."""

    queue: str
    function: str
    batch_size: int
    partial: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A function that runs every so often."""

    function: str
    period_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path of the HTTP API; ``{name}`` stands for one segment."""

    function: str
    method: str
    path: str

    def parameters(self, method: str, path: str) -> dict[str, str] | None:
        """The path's parameters, or None when this is not its route."""
        wanted, given = self.path.split("/"), path.split("/")
        if self.method not in ("ANY", method) or len(wanted) != len(given):
            return None
        found: dict[str, str] = {}
        for pattern, part in zip(wanted, given, strict=True):
            if pattern.startswith("{"):
                found[pattern.strip("{}")] = unquote(part)
            elif pattern != part:
                return None
        return found


def functions(template: Template) -> dict[str, Function]:
    """Every function, by logical id."""
    shared = template.document.get("Globals", {}).get("Function", {})
    return {
        name: _function(template, name, shared, own)
        for name, own in template.resources(FUNCTION).items()
    }


def sources(template: Template) -> list[QueueSource]:
    """Which queue feeds which function."""
    found = [
        (function, {**event["Properties"], "EventSourceArn": event["Properties"]["Queue"]})
        for function, event in _events(template, "SQS")
    ]
    found += [
        (template.resource_of(str(template.resolve(mapping["FunctionName"]))), mapping)
        for mapping in template.resources(MAPPING).values()
    ]
    return [
        QueueSource(
            queue=template.resource_of(str(template.resolve(mapping["EventSourceArn"]))),
            function=function,
            batch_size=int(template.resolve(mapping.get("BatchSize", 10))),
            partial="ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", []),
        )
        for function, mapping in found
        if template.resolve(mapping.get("Enabled", True)) not in (False, "false")
    ]


def schedules(template: Template) -> list[Schedule]:
    """Which function runs how often."""
    events = [*_events(template, "Schedule"), *_events(template, "ScheduleV2")]
    return [
        Schedule(function=function, period_ms=_period_ms(template, event["Properties"]))
        for function, event in events
    ]


def routes(template: Template) -> list[Route]:
    """The paths of the HTTP API, the ones with fewer parameters first."""
    found: list[Route] = []
    for name in template.resources(ROUTE):
        resolved = template.properties(ROUTE, name, ("RouteKey", "Target"))
        method, _, path = str(resolved["RouteKey"]).partition(" ")
        integration = template.resource_of(str(resolved["Target"]))
        uri = template.properties(INTEGRATION, integration, ("IntegrationUri",))["IntegrationUri"]
        found.append(Route(function=template.resource_of(str(uri)), method=method, path=path))
    return sorted(found, key=lambda route: route.path.count("{"))


def _function(template: Template, name: str, shared: Node, own: Node) -> Function:
    merged: Node = {"Timeout": 3, **shared, **own}
    if "Handler" not in merged:
        raise TemplateError(f"{name} has no Handler")
    variables = {
        **shared.get("Environment", {}).get("Variables", {}),
        **own.get("Environment", {}).get("Variables", {}),
    }
    resolved = {key: template.resolve(value) for key, value in variables.items()}
    return Function(
        name=name,
        handler=str(template.resolve(merged["Handler"])),
        timeout_ms=int(template.resolve(merged["Timeout"])) * 1000,
        environment={key: str(value) for key, value in resolved.items() if value is not None},
    )


def _events(template: Template, kind: str) -> Iterator[tuple[str, Node]]:
    for function, properties in template.resources(FUNCTION).items():
        for event in cast("Node", properties.get("Events", {})).values():
            if event["Type"] == kind:
                yield function, event


def _period_ms(template: Template, properties: Node) -> int:
    """``rate(5 minutes)`` in milliseconds."""
    given = properties.get("Schedule", properties.get("ScheduleExpression"))
    expression = str(template.resolve(given))
    number, _, unit = expression.removeprefix("rate(").removesuffix(")").partition(" ")
    if unit.rstrip("s") not in _UNITS or not number.isdigit():
        raise TemplateError(f"schedule {expression} is not understood locally")
    return int(number) * _UNITS[unit.rstrip("s")]
