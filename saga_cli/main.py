"""The ``saga`` command: what may be typed, and where it is done.

Each command lives in a module that is imported when it is called, so that
``saga --help`` needs neither boto3 nor moto.
"""

from __future__ import annotations

import argparse
import io
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from infra.settings import DEFAULT_STEP_SECONDS
from saga_cli.problems import EPILOGUE, CommandError, Exit
from saga_core.definition import MAX_STEP_TIMEOUT
from saga_core.errors import SagaError

EXAMPLES = "examples.order:order,examples.travel:travel"
LOCAL_PORT = 4599
STATES = ("CREATED", "RUNNING", "COMPLETED", "COMPENSATING", "COMPENSATED", "FAILED")

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say and give the exit status. Nothing is raised but SystemExit."""
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know ASCII only
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - the user's sagas are importable from here
    try:
        try:
            return _command(args)(args)
        finally:
            sys.stdout.flush()  # not at exit: here a reader that has gone away is expected
    except CommandError as exc:
        print(f"saga: {exc}", file=sys.stderr)
        return exc.exit
    except SagaError as exc:
        print(f"saga: {exc}", file=sys.stderr)
        return Exit.UNAVAILABLE
    except BrokenPipeError:  # `saga list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        print("saga: interrupted", file=sys.stderr)
        return Exit.INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Everything that may be typed."""
    top = argparse.ArgumentParser(
        prog="saga",
        description="Run, watch and operate sagas.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _here(commands)
    _operations(commands)
    _definitions(commands)
    return top


def _command(args: argparse.Namespace) -> Command:
    try:
        return cast("Command", pkgutil.resolve_name(args.run))
    except ModuleNotFoundError as exc:
        raise CommandError(
            Exit.USAGE, f"{exc.name} is not installed; pip install 'saga-orchestrator[cli]'"
        ) from exc


def _here(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = _add(
        commands,
        "demo",
        "saga_cli.demo.play:run",
        "watch five sagas run through the real functions, on this machine",
    )
    demo.add_argument("--plain", action="store_true", help="no colours, also in a terminal")
    demo.add_argument("--logs", action="store_true", help="show the functions' structured logs")
    _template_option(demo)

    local = _add(
        commands,
        "local",
        "saga_cli.local.server:run",
        "run the whole stack on this machine until Ctrl-C",
    )
    local.add_argument(
        "--data", type=Path, metavar="FOLDER", help="keep sagas and messages there between two runs"
    )
    local.add_argument(
        "--reload", action="store_true", help="begin anew whenever the code is saved"
    )
    _port_option(local)
    _definitions_option(local)
    _template_option(local)


def _operations(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    start = _operation(commands, "start", "start a saga")
    start.add_argument("name", metavar="NAME", help="which saga")
    source = start.add_mutually_exclusive_group()
    source.add_argument("--context", metavar="JSON", help="its context; - reads stdin")
    source.add_argument("--context-file", metavar="FILE", type=Path, help="a file with it")
    start.add_argument(
        "--idempotency-key",
        metavar="KEY",
        help="the same key and context find the saga that is there; by default a new key",
    )
    start.add_argument("--wait", action="store_true", help="until it has ended or FAILED")

    _id(_operation(commands, "get", "show a saga"))
    listing = _operation(commands, "list", "list sagas, newest first", name="list_sagas")
    listing.add_argument("--state", choices=STATES, metavar="STATE", help=", ".join(STATES))
    listing.add_argument("--name", metavar="NAME", help="only sagas of this name")
    listing.add_argument("--limit", type=_limit, default=20, metavar="N", help="1 to 100")
    listing.add_argument("--cursor", help="goes on where the page before ended")

    _id(_operation(commands, "resume", "let a FAILED saga go on, after the repair"))
    _id(_operation(commands, "cancel", "roll a saga back"))
    skip = _operation(commands, "skip", "vouch for the step that a FAILED saga stopped at")
    _id(skip)
    skip.add_argument("step", metavar="STEP", help="the step that was taken care of by hand")

    answer = _operation(commands, "answer", "answer for a step that waits")
    answer.add_argument("token", metavar="TOKEN", help="what the step handed out")
    told = answer.add_mutually_exclusive_group()
    told.add_argument("--context", metavar="JSON", help="it is done, and sets these fields")
    told.add_argument("--failed", metavar="TEXT", help="it is not done, and why")
    told.add_argument("--heartbeat", action="store_true", help="it takes longer")

    _operation(
        commands,
        "guard",
        "check that --definitions has the code of every saga that has not ended",
        run="saga_cli.guard:run",
    )

    diagram = _operation(
        commands,
        "diagram",
        "draw a saga definition, or where one saga of it is",
        run="saga_cli.diagram.command:run",
        defined=False,
    )
    diagram.add_argument("definitions", metavar="DEFINITION", help="package.module:NAME")
    diagram.add_argument("--saga", dest="id", metavar="ID", help="draw how far this one is")
    diagram.add_argument(
        "--format", choices=("mermaid", "svg"), default="mermaid", help="mermaid if not given"
    )


def _definitions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    lint = _add(commands, "lint", "saga_cli.lint:run", "check saga definitions")
    lint.add_argument(
        "definitions",
        nargs="?",
        metavar="DEFINITIONS",
        help="package.module:NAME[,...]; by default $SAGA_DEFINITIONS, or the examples",
    )
    lint.add_argument(
        "--format",
        choices=("text", "json", "github"),
        help="for people, for programs (as --json), or annotations of a GitHub workflow",
    )
    lint.add_argument(
        "--step-seconds",
        type=_step_seconds,
        default=DEFAULT_STEP_SECONDS,
        metavar="N",
        help=f"what a step has in the deployment; {DEFAULT_STEP_SECONDS} if not given",
    )


def _operation(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    command: str,
    help_: str,
    name: str | None = None,
    run: str | None = None,
    *,
    defined: bool = True,
) -> argparse.ArgumentParser:
    """A command that talks to a deployed stack or to the local runtime."""
    operation = _add(commands, command, run or f"saga_cli.operate:{name or command}", help_)
    where = operation.add_argument_group("where", "environment: SAGA_TABLE, SAGA_QUEUE_URL, AWS_*")
    where.add_argument("--local", action="store_true", help="the runtime that `saga local` started")
    _port_option(where)
    where.add_argument("--stack", metavar="NAME", help="the deployed stack, by its outputs")
    where.add_argument("--table", metavar="NAME", help="the saga table")
    where.add_argument("--queue-url", metavar="URL", help="the work queue")
    where.add_argument("--profile", metavar="NAME", help="of the AWS configuration")
    where.add_argument("--region", metavar="NAME", help="AWS Region")
    where.add_argument("--endpoint-url", metavar="URL", help="instead of AWS")
    where.add_argument("--tenant", default="default", metavar="NAME", help="whose sagas")
    if defined:
        _definitions_option(where)
    return operation


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    command: str,
    run: str,
    help_: str,
) -> argparse.ArgumentParser:
    added = commands.add_parser(
        command,
        help=help_,
        description=f"{help_[0].upper()}{help_[1:]}.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.add_argument("--json", action="store_true", help="machine-readable output")
    added.set_defaults(run=run)
    return added


_Options = argparse.ArgumentParser | argparse._ArgumentGroup  # noqa: SLF001 - argparse names no public type


def _id(command: argparse.ArgumentParser) -> None:
    command.add_argument("id", metavar="ID", help="the saga's id")


def _port_option(options: _Options) -> None:
    options.add_argument(
        "--port",
        type=int,
        default=LOCAL_PORT,
        metavar="N",
        help=f"of the local runtime; {LOCAL_PORT} if not given",
    )


def _definitions_option(options: _Options) -> None:
    options.add_argument(
        "--definitions",
        default=os.environ.get("SAGA_DEFINITIONS") or EXAMPLES,
        metavar="LIST",
        help="package.module:NAME[,...]; by default $SAGA_DEFINITIONS, or the examples",
    )


def _template_option(options: _Options) -> None:
    options.add_argument(
        "--template",
        type=Path,
        default=Path(__file__).parent.parent / "template.yaml",
        metavar="FILE",
        help="the stack to build; by default this project's template.yaml",
    )


def _limit(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:  # noqa: PLR2004 - the API's bounds
        raise argparse.ArgumentTypeError("a number from 1 to 100")
    return int(text)


def _step_seconds(text: str) -> int:
    most = int(MAX_STEP_TIMEOUT.total_seconds())
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"a number from 1 to {most}")
    return int(text)
