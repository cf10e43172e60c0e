"""``saga local --reload``: the local runtime in a process of its own, begun anew on every save."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from watchfiles import Change, PythonFilter, run_process

from saga_cli.problems import Exit

ENGINE = ("saga_core", "infra", "handlers", "saga_cli")
WATCHED = "WATCHFILES_CHANGES"  # the environment variable that watchfiles sets for its child
STOP_S = 15  # for what runs, and for the data to reach the disk


def serve_again_on_each_change(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; a change of the sagas, of the engine or of the template begins anew.

    Code that cannot be imported ends that process with its message; the next
    save tries again.
    """
    run_process(
        *sorted(_watched(args)),
        target=shlex.join(_command(args)),
        target_type="command",
        callback=_tell,
        watch_filter=PythonFilter(extra_extensions=(".yaml",)),
        sigint_timeout=STOP_S,
        sigkill_timeout=1,
    )
    return Exit.OK


def _command(args: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "saga_cli", "local", "--port", str(args.port)]
    command += ["--definitions", args.definitions, "--template", str(args.template)]
    command += ["--data", str(args.data)] if args.data is not None else []
    return command + (["--json"] if args.json else [])


def _watched(args: argparse.Namespace) -> Iterator[Path]:
    """The folders, or single files, that the running code comes from."""
    yield args.template.resolve()
    sagas = {entry.partition(".")[0].partition(":")[0] for entry in args.definitions.split(",")}
    for name in sagas | {*ENGINE}:
        found = importlib.util.find_spec(name)
        if found is not None:
            yield from map(Path, found.submodule_search_locations or [found.origin or ""])


def _tell(changes: set[tuple[Change, str]]) -> None:
    names = ", ".join(sorted({Path(path).name for _, path in changes}))
    print(f"saga: {names} changed; begun anew", file=sys.stderr, flush=True)
