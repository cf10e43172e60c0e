from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from saga_cli import lint
from saga_cli.main import parser
from saga_cli.problems import Exit

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "demo local start get list resume cancel skip answer guard lint diagram".split()  # noqa: SIM905 - as typed
)


def test_the_help_lists_every_command(saga):
    shown = saga("--help")
    assert shown.exit == 0
    for command in COMMANDS:
        assert f"\n    {command} " in shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_exit_status(saga, command):
    shown = saga(command, "--help")
    assert shown.exit == 0
    assert "exit status:" in shown.out
    assert "--json" in shown.out


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("get",),
        ("skip", "answer", "guard", "id"),
        ("list", "--limit", "0"),
        ("list", "--limit", "101"),
        ("list", "--limit", "ten"),
        ("list", "--state", "DONE"),
        ("start", "order", "--context", "{}", "--context-file", "f"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2(saga, words):
    ran = saga(*words)
    assert ran.exit == Exit.USAGE
    assert "usage: saga" in ran.err
    assert ran.out == ""


def test_every_command_leads_somewhere(saga):
    choices: Any = next(a.choices for a in parser()._actions if a.dest == "command")
    runs = {command.get_default("run") for command in choices.values()}
    assert len(runs) == len(COMMANDS)
    for run in runs:
        module = run.partition(":")[0].replace(".", "/")
        assert (ROOT / f"{module}.py").exists()


def test_what_is_not_installed_is_named(saga, monkeypatch):
    monkeypatch.delitem(sys.modules, "saga_cli.demo.play", raising=False)
    monkeypatch.delitem(sys.modules, "saga_cli.demo.views", raising=False)
    monkeypatch.setitem(sys.modules, "rich.live", None)
    ran = saga("demo")
    assert ran.exit == Exit.USAGE
    assert "rich.live is not installed; pip install 'saga-orchestrator[cli]'" in ran.err


def test_ctrl_c_is_one_line(saga, monkeypatch):
    def interrupted(_args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(lint, "run", interrupted)
    ran = saga("lint")
    assert ran.exit == Exit.INTERRUPTED
    assert ran.err == "saga: interrupted\n"


def test_help_needs_neither_boto3_nor_moto():
    code = (
        "import sys; from saga_cli.main import parser; parser().format_help();"
        "print([m for m in ('boto3', 'moto', 'rich', 'yaml', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "saga_cli", "lint"],
            cwd=ROOT,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_that_knows_only_ascii_is_enough():
    done = subprocess.run(
        [sys.executable, "-m", "saga_cli", "lint", "examples.order:naïve"],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.NO
    assert "na\\xefve" in done.stdout
