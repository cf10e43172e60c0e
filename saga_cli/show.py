"""Sagas as people read them; without colours and line breaks in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Saga = Mapping[str, Any]  # as the HTTP API shows it

STATE_STYLES = {
    "COMPLETED": "green",
    "COMPENSATED": "green",
    "COMPENSATING": "yellow",
    "FAILED": "bold red",
}
STEP_STYLES = {
    "COMPLETED": "green",
    "COMPENSATED": "yellow",
    "COMPENSATING": "yellow",
    "IN_DOUBT": "yellow",
    "FAILED": "red",
    "COMPENSATION_FAILED": "bold red",
    "RUNNING": "cyan",
}
_PIPE_WIDTH = 1_000  # no line is broken in a pipe


def console() -> Console:
    """Writes to stdout: to the terminal's width there, in whole lines elsewhere."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(highlight=False, width=width)


def show_list(sagas: Sequence[Saga]) -> None:
    """A line for each."""
    table = _table("id", "saga", "state", "created", "updated")
    for saga in sagas:
        table.add_row(
            str(saga["id"]),
            f"{saga['name']}@{saga['version']}",
            Text(saga["state"], STATE_STYLES.get(saga["state"], "")),
            _time(saga["created_at"]),
            _time(saga["updated_at"]),
        )
    _write(table)


def show_saga(saga: Saga) -> None:
    """All that is known of it but its context, which may be confidential: see ``--json``."""
    title = Text.assemble(
        (f"{saga['name']}@{saga['version']} {saga['id']} ", "bold"),
        (saga["state"], STATE_STYLES.get(saga["state"], "cyan")),
    )
    _write(title)
    _write(
        f"created {_time(saga['created_at'])}, updated {_time(saga['updated_at'])}, "
        f"deadline {_time(saga['deadline_at'])}"
    )
    if saga["cause"] is not None:
        _write(f"rolls back because of: {_cause(saga['cause'])}")
    table = _table("step", "status", "attempts", "undo attempts", "error")
    for step in saga["steps"]:
        table.add_row(
            step["name"],
            Text(step["status"], STEP_STYLES.get(step["status"], "")),
            str(step["attempts"]),
            str(step["compensation_attempts"]),
            Text(_error(step["error"])),
        )
    _write(table)
    failure = saga["failure"]
    if failure is not None:
        _write(Text(f"why      {failure['why']}: {_error(failure['error'])}", "red"))
        _write(f"standing {', '.join(failure['standing']) or 'nothing'}")
        _write(Text(f"to do    {failure['to_do']}", "bold"))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _write(what: object) -> None:
    """Print it, without the blanks that fill up a line."""
    out = console()
    with out.capture() as captured:
        out.print(what)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _cause(cause: Mapping[str, Any]) -> str:
    parts = [cause["kind"], cause["step"], _error(cause["error"]), cause["by"]]
    return " ".join(part for part in parts if part)


def _error(error: Mapping[str, str] | None) -> str:
    return f"{error['kind']}: {error['message']}" if error is not None else ""


def _time(text: str) -> str:
    return text.replace("T", " ").replace("Z", " UTC")
