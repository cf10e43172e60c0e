"""The functions as Lambda starts them: settings, definitions, and what they import."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from handlers import _bootstrap
from handlers._application import Application
from infra.settings import REQUIRED, SettingsError
from saga_core.errors import DefinitionError
from saga_core.instance import Key, SagaState
from tests.handlers.stage import DECLINED, TEA, Stage

ROOT = Path(__file__).parents[2]
FUNCTIONS = sorted(p.stem for p in (ROOT / "handlers").glob("*.py") if not p.stem.startswith("_"))
NEEDED = {
    "SAGA_TABLE": "sagas",
    "SAGA_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/work",
    "SAGA_DEFINITIONS": "examples.order:order,examples.travel:travel",
}


@pytest.fixture
def lambda_(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process is a Lambda function that is about to start, with nothing set."""
    _bootstrap.reset()
    for name in NEEDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "test")
    for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "us-east-1")  # Lambda sets them; any value will do here
    return monkeypatch


def cold_start(function: str) -> None:
    """What loading the function's module does in Lambda."""
    module: ModuleType = importlib.import_module(f"handlers.{function}")
    _bootstrap.entry_point(function, module.handle)


def test_every_module_without_an_underscore_is_a_function():
    assert set(FUNCTIONS) == set(REQUIRED)
    for function in FUNCTIONS:
        assert callable(importlib.import_module(f"handlers.{function}").handler)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_all_settings_that_are_missing_are_named_at_once(lambda_, function):
    with pytest.raises(SettingsError) as caught:
        cold_start(function)
    assert sorted(REQUIRED[function]) == [
        name for name in sorted(NEEDED) if f"{name} is not set" in str(caught.value)
    ]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_starts_with_what_it_needs_and_nothing_more(lambda_, function):
    for name in REQUIRED[function]:
        lambda_.setenv(name, NEEDED[name])
    cold_start(function)
    app = _bootstrap.application(function)
    assert app is _bootstrap.application(function)  # built once
    deployed = [ref.partition("#")[0] for ref in app.definitions.refs]
    assert deployed == ([] if function == "sweeper" else ["order@1", "travel@1"])


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("examples.order:nothing", "examples.order:nothing"),
        ("no.such.module:order", "cannot be imported"),
        ("examples.order", "not of the form"),
        ("examples.order:order,examples.order:order", "order@1 is listed twice"),
        ("examples.order:patient", "not a Saga or SagaDefinition"),
        ("tests.handlers.test_entry_points:unfinished", "SAGA003"),
    ],
)
def test_a_wrong_definition_stops_the_first_start_and_no_saga(lambda_, setting, complaint):
    for name, value in NEEDED.items():
        lambda_.setenv(name, value)
    lambda_.setenv("SAGA_DEFINITIONS", setting)
    with pytest.raises(DefinitionError, match="SAGA_DEFINITIONS") as caught:
        cold_start("worker")
    assert complaint in str(caught.value)


def test_a_wrong_number_of_seconds_is_named_with_the_rest(lambda_):
    lambda_.setenv("SAGA_STEP_SECONDS", "soon")
    with pytest.raises(SettingsError, match=r"SAGA_STEP_SECONDS .* SAGA_|SAGA_.*SAGA_STEP_SECONDS"):
        cold_start("worker")


def test_outside_lambda_nothing_is_built_before_it_is_called(lambda_):
    lambda_.delenv("AWS_LAMBDA_FUNCTION_NAME")
    cold_start("worker")


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f != "api"])
def test_a_function_imports_nothing_that_its_cold_start_does_not_need(function):
    """A fifth of a second each: pydantic, the HTTP resolver, the X-Ray SDK.

    The definitions may import what they like: this is before them.
    """
    script = f"import sys, json, handlers.{function}; print(json.dumps(list(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported: list[str] = json.loads(ran.stdout)
    heavy = ("pydantic", "aws_lambda_powertools.event_handler", "aws_xray_sdk", "yaml", "moto")
    assert [name for name in imported if name.startswith(heavy)] == []


# -- with everything as it is deployed -----------------------------------------------------


class Unfinished:
    """A step that forgot how it is undone."""

    name = "step"

    def execute(self, ctx: object) -> None:
        """Do nothing."""


def __getattr__(name: str) -> Any:
    """``unfinished`` raises what a definition raises that cannot run."""
    if name != "unfinished":
        raise AttributeError(name)
    from saga_core import SagaDefinition, steps

    return SagaDefinition(name="unfinished", steps=steps(Unfinished()))


def go_live(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Application:
    """The real composition root, the stage's table and queue, and Powertools for the log."""
    monkeypatch.setenv("SAGA_TABLE", stage.table)
    monkeypatch.setenv("SAGA_QUEUE_URL", stage.queues["WorkQueue"])
    monkeypatch.setenv("SAGA_DEFINITIONS", NEEDED["SAGA_DEFINITIONS"])
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", stage.table)  # its logger is one per name
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Test")
    _bootstrap.reset()
    return _bootstrap.application("worker")


def output(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What went to the log: every line of it is JSON."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_saga_runs_with_the_parts_that_are_deployed(stage, monkeypatch, capsys):
    app = go_live(stage, monkeypatch)
    saga_id = stage.start(context=TEA)
    stage.run_until_quiet()
    saga = app.store.find(Key("default", saga_id), app.clock.now_ms())
    assert saga is not None
    assert saga.state is SagaState.COMPLETED
    lines = output(capsys)
    decisions = [line for line in lines if line.get("message") == "saga.committed"]
    assert len(decisions) == 4
    assert {line["service"] for line in decisions} == {stage.table}
    assert {line["level"] for line in decisions} == {"INFO"}
    assert {line["saga_id"] for line in decisions} == {saga_id}


def test_metrics_stand_under_the_service_alone_and_under_service_and_saga(
    stage, monkeypatch, capsys
):
    go_live(stage, monkeypatch)
    stage.start(context=DECLINED)
    stage.run_until_quiet()
    stage.sweep()
    emf = [line for line in output(capsys) if "_aws" in line]
    assert {line.get("saga") for line in emf} == {"order", None}
    seen: dict[str, str] = {}
    for line in emf:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "Test"
        assert line["service"] == stage.table
        dimensions = sorted(map(sorted, directive["Dimensions"]))
        if "saga" in line:
            assert line["saga"] == "order"
            assert dimensions == [["saga", "service"], ["service"]]
        else:
            assert dimensions == [["service"]]
        for metric in directive["Metrics"]:
            seen[metric["Name"]] = metric["Unit"]
            assert metric["Name"] in line
    assert seen == {
        "SagaStarted": "Count",
        "StepLatencyMs": "Milliseconds",
        "SagaCompensated": "Count",
        "SagaDurationMs": "Milliseconds",
        "ContextBytes": "Bytes",
        "HopBudgetUsedPercent": "Percent",
        "SweeperLag": "Seconds",
        "SweeperNudged": "Count",
    }


def test_every_kind_of_line_can_be_written(stage, monkeypatch, capsys):
    """A field with a name that the logger keeps for itself would cost the message."""
    go_live(stage, monkeypatch)
    stage.send("WorkQueue", "{")
    stage.send("StartQueue", '{"saga":"order","context":{}}')
    stage.send("DeadLetterQueue", "{")
    stage.http("POST", "/sagas/order", {}, key="a")
    saga_id = stage.start()
    stage.http("POST", f"/sagas/{saga_id}/cancel")
    for queue in ("WorkQueue", "StartQueue", "DeadLetterQueue"):
        stage.deliver(queue, most=10)
    stage.sweep()
    _bootstrap.application("api").telemetry.crashed("api", ValueError("no"), correlation_id="c")
    said = {line.get("message") for line in output(capsys)}
    assert {
        "saga.refused",
        "saga.started",
        "saga.cancel",
        "saga.committed",
        "saga.swept",
        "saga.crashed",
    } <= said
