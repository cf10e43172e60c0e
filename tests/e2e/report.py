"""One readable page: what was run, on what, what came of each scenario, and its log."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.e2e.deploy import PARAMETERS, WORKERS, Deployed
from tests.e2e.outside import Outside
from tests.e2e.sagas.world import Call
from tests.e2e.scenarios import Scenario

TOOLS = ("ministack", "aws-sam-translator", "awslambdaric", "boto3")
SHOWN = ("decision", "from", "to", "step", "phase", "attempt", "result", "reason", "request")


OF_THE_LOAD = "Of five hundred sagas started at once, by the stack's own timestamps."
MEASURED = (
    ("alone", "One saga after the other:"),
    ("together", "The five hundred, for which a step's wait is mostly the queue before it:"),
)
SHORTENED = (
    "a queue's visibility time-out is shortened for some seconds by three scenarios",
    "five deliveries then take seconds; the scenario with the killed worker waits the whole time",
)


def write(
    path: Path,
    scenarios: list[Scenario],
    out: Outside | None,
    stack: Deployed,
    facts: list[tuple[str, str]],
) -> None:
    """Write the report."""
    failed = [s.name for s in scenarios if s.error is not None]
    parts = [
        "# The stack, end to end",
        f"{len(scenarios) - len(failed)} of {len(scenarios)} scenarios as promised"
        + (f"; NOT: {', '.join(failed)}." if failed else "."),
        _table(("what", ""), [*_where(), *facts]),
        "## Scenarios",
        _table(
            ("a saga …", "result", "seconds"),
            [(s.name, "FAILED" if s.error else "ok", f"{s.seconds:.1f}") for s in scenarios],
        ),
        "Seconds are of waiting and working together; scenarios run side by side.",
    ]
    if out is not None and out.figures:
        parts += _speed(out.figures)
    parts += [
        "## What the emulator was spared",
        "`template.yaml` was deployed as `sam build` left it. Parameters: "
        + ", ".join(f"`{name}={value}`" for name, value in PARAMETERS.items())
        + ".",
        _table(("done besides", "because"), [*stack.mended, SHORTENED]),
        "## Logs",
        *(part for s in scenarios for part in _log(s, out)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n")


def _where() -> list[tuple[str, str]]:
    tools = ", ".join(f"{name} {version(name)}" for name in TOOLS)
    return [
        ("when", datetime.now(UTC).isoformat(timespec="seconds")),
        ("on", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("with", tools),
        ("workers at once", str(WORKERS)),
    ]


def _speed(figures: dict[str, Any]) -> list[str]:
    return [
        "## Speed",
        OF_THE_LOAD,
        _table(("whole", ""), list(figures["whole"].items())),
        *(part for name, text in MEASURED for part in (text, _spreads(figures[name]))),
    ]


def _spreads(latencies: dict[str, tuple[str, str, str]]) -> str:
    rows = [(name, *spread) for name, spread in latencies.items()]
    return _table(("milliseconds", "median", "99 %", "worst"), rows)


def _log(scenario: Scenario, out: Outside | None) -> list[str]:
    text = [*scenario.said]
    if scenario.error:
        text += ["", "FAILED", scenario.error]
    parts = [f"### A saga {scenario.name}", _block(text)]
    for customer in scenario.customers if out is not None else ():
        assert out is not None
        calls = [_call(call) for call in out.world.calls(customer)]
        parts += [f"What the services of `{customer}` saw:", _block(calls or ["nothing"])]
        lines = [_line(line) for line in out.log_of(customer)]
        if lines:
            parts += [f"What the functions logged about `{customer}`:", _block(lines)]
    return parts


def _call(call: Call) -> str:
    what = f"{call.operation:<12} attempt {call.attempt}: {call.outcome}"
    return f"{_clock(call.at)}  pid {call.pid:<7} {what:<43} key …{call.key[-16:]}"


def _line(line: dict[str, Any]) -> str:
    told = " ".join(f"{name}={line[name]}" for name in SHOWN if line.get(name) is not None)
    at, function = str(line["timestamp"])[11:23], line.get("function", "")
    return f"{at}  {function:<12}  {line['message']:<22} {told}"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def _block(lines: list[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )
