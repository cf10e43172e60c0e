"""What the demo looks like: in a terminal, in a pipe, to a script."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from saga_cli.demo.narrator import Line, Tone, duration
from saga_cli.demo.result import Result, Saga
from saga_cli.demo.scenarios import Scenario
from saga_cli.parts import LogLine

OPENING = (
    "Five sagas on one machine: the table and queues of template.yaml on moto, and the functions "
    "that are deployed. Time is virtual: nobody waits for a visibility time-out."
)


class View(Protocol):
    """Shows the demo as it plays."""

    def begin(self) -> None:
        """The stack stands."""

    def scenario(self, number: int, scenario: Scenario) -> AbstractContextManager[object]:
        """A scenario begins; it plays for as long as the block runs."""

    def line(self, line: Line) -> None:
        """Something happened."""

    def logs(self, lines: Sequence[LogLine]) -> None:
        """The functions wrote something."""

    def saga(self, saga: Saga) -> None:
        """The saga as it stands now."""

    def result(self, result: Result) -> None:
        """The scenario is over."""

    def end(self, results: Sequence[Result], seconds: float) -> None:
        """All are over."""


class JsonView(View):
    """One JSON document at the end, nothing before it."""

    def begin(self) -> None:
        """See View."""

    def scenario(
        self,
        number: int,  # noqa: ARG002 - its port
        scenario: Scenario,  # noqa: ARG002 - its port
    ) -> AbstractContextManager[object]:
        """See View."""
        return nullcontext()

    def line(self, line: Line) -> None:
        """See View."""

    def logs(self, lines: Sequence[LogLine]) -> None:
        """See View."""

    def saga(self, saga: Saga) -> None:
        """See View."""

    def result(self, result: Result) -> None:
        """See View."""

    def end(self, results: Sequence[Result], seconds: float) -> None:
        """See View."""
        report = {
            "passed": all(result.passed for result in results),
            "seconds": round(seconds, 2),
            "scenarios": [result.as_json() for result in results],
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))


class PlainView(View):
    """A line for each thing, for files and pipes."""

    def __init__(self, *, logs: bool) -> None:
        self._logs = logs

    def begin(self) -> None:
        """See View."""
        print(textwrap.fill(OPENING, 96))

    def scenario(self, number: int, scenario: Scenario) -> AbstractContextManager[object]:
        """See View."""
        print(f"\n{number}. {scenario.title}\n   {scenario.play.__doc__}\n")
        return nullcontext()

    def line(self, line: Line) -> None:
        """See View."""
        detail = f"   [{line.detail}]" if line.detail else ""
        print(f"  {clock(line.at_ms)}  {line.actor:12}  {line.text}{detail}", flush=True)

    def logs(self, lines: Sequence[LogLine]) -> None:
        """See View."""
        for line in lines if self._logs else ():
            print(f"            {_log(line)}")

    def saga(self, saga: Saga) -> None:
        """See View."""

    def result(self, result: Result) -> None:
        """See View."""
        for check in result.checks:
            print(f"  {'ok ' if check.passed else 'NOT'} {check.what}")

    def end(self, results: Sequence[Result], seconds: float) -> None:
        """See View."""
        print()
        for number, result in enumerate(results, 1):
            verdict = "ok" if result.passed else f"NOT as expected ({result.scenario.ends_as})"
            print(f"{number}. {result.scenario.title:38} {result.state:12} {verdict}")
        print(_summary(results, seconds))


_TONES = {
    Tone.PLAIN: "",
    Tone.GOOD: "green",
    Tone.BAD: "red",
    Tone.ODD: "yellow",
    Tone.FAINT: "dim",
}
_ACTORS = {
    "you": "bold cyan",
    "api": "cyan",
    "starter": "cyan",
    "worker": "blue",
    "queue": "magenta",
    "dead letters": "magenta",
    "sweeper": "dim",
    "saga": "bold",
    "deploy": "bold magenta",
    "services": "bold",
}
_MARKS = {
    "PENDING": ("·", "dim"),
    "RUNNING": ("●", "cyan"),
    "COMPLETED": ("✔", "green"),
    "IN_DOUBT": ("?", "yellow"),
    "FAILED": ("✘", "red"),
    "COMPENSATING": ("◀", "yellow"),
    "COMPENSATED": ("↩", "yellow"),
    "COMPENSATION_FAILED": ("✘", "bold red"),
    "SKIPPED": ("⤼", "dim"),
}
_STATES = {
    "COMPLETED": "green",
    "COMPENSATED": "green",
    "FAILED": "bold red",
    "COMPENSATING": "yellow",
}
_WIDE, _TEXT = 120, 58  # in a terminal that wide a line's detail stands beside it


class RichView(View):
    """Lines run past; the saga's steps stand below them and change."""

    def __init__(self, *, logs: bool, console: Console | None = None) -> None:
        self._logs = logs
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._strip = Text()

    def begin(self) -> None:
        """See View."""
        self._console.print(Text(OPENING, style="dim"))

    def scenario(self, number: int, scenario: Scenario) -> AbstractContextManager[object]:
        """See View."""
        title = Text.assemble((f"{number} ", "bold cyan"), (scenario.title, "bold"))
        self._console.print()
        self._console.print(Rule(title, align="left", style="cyan"))
        self._console.print(Text(f"{scenario.play.__doc__}\n", style="dim"))
        self._strip = Text("")
        self._live = Live(self._strip, console=self._console, transient=True)
        return self._live

    def line(self, line: Line) -> None:
        """See View."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(style=_ACTORS.get(line.actor, ""), min_width=12, no_wrap=True)
        beside = bool(line.detail) and self._console.width >= _WIDE
        grid.add_column(style=_TONES[line.tone], width=_TEXT if beside else None)
        if beside:
            grid.add_column(style="dim")
            grid.add_row(clock(line.at_ms), line.actor, Text(line.text), Text(line.detail))
        else:
            text = Text(line.text)
            if line.detail:
                text.append(f"\n{line.detail}", style="not bold dim default")
            grid.add_row(clock(line.at_ms), line.actor, text)
        self._console.print(grid)

    def logs(self, lines: Sequence[LogLine]) -> None:
        """See View."""
        for line in lines if self._logs else ():
            self._console.print(Padding(Text(_log(line), style="dim"), (0, 0, 0, 10)))

    def saga(self, saga: Saga) -> None:
        """See View."""
        self._strip = strip(saga)
        if self._live is not None:
            self._live.update(self._strip, refresh=True)

    def result(self, result: Result) -> None:
        """See View."""
        self._console.print()
        self._console.print(self._strip)
        for check in result.checks:
            mark = ("  ✔ ", "green") if check.passed else ("  ✘ ", "bold red")
            self._console.print(Text.assemble(mark, check.what))

    def end(self, results: Sequence[Result], seconds: float) -> None:
        """See View."""
        table = Table(title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
        for name in ("", "scenario", "ended as", "virtual time", "checks"):
            table.add_column(name)
        for result in results:
            passed = sum(check.passed for check in result.checks)
            table.add_row(
                Text("✔", "green") if result.passed else Text("✘", "bold red"),
                result.scenario.title,
                Text(result.state, _STATES.get(result.state, "")),
                duration(result.virtual_ms),
                f"{passed} of {len(result.checks)}",
            )
        self._console.print()
        self._console.print(Rule(style="cyan"))
        self._console.print(table)
        good = all(result.passed for result in results)
        self._console.print(
            Text(f"\n{_summary(results, seconds)}", "green" if good else "bold red")
        )


def strip(saga: Saga) -> Text:
    """The saga on one line: each step with what has become of it."""
    state = str(saga["state"])
    text = Text.assemble(
        "  ", (f"{saga['name']} ", "bold"), (f"{state:12}", _STATES.get(state, "cyan"))
    )
    for step in cast("list[dict[str, str]]", saga["steps"]):
        mark, style = _MARKS.get(step["status"], (step["status"], ""))
        text.append(f"  {mark} {step['name']}", style=style)
    return text


def clock(ms: int) -> str:
    """Minutes, seconds and hundredths, in eight characters."""
    minutes, rest = divmod(ms, 60_000)
    return f"{minutes:2}:{rest / 1000:05.2f}"


def _log(line: LogLine) -> str:
    return json.dumps({"level": line.level, "message": line.message, **line.fields}, default=str)


def _summary(results: Sequence[Result], seconds: float) -> str:
    good = sum(result.passed for result in results)
    time = f"{duration(sum(result.virtual_ms for result in results))} of virtual time"
    return f"{good} of {len(results)} ended as they should: {time} in {seconds:.1f} s."
