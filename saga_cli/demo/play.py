"""Plays the scenarios, one after the other, on one stack."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import cast

from examples.services import world
from handlers._view import view
from saga_cli.demo.narrator import Line, Narrator
from saga_cli.demo.result import Result
from saga_cli.demo.scenarios import SCENARIOS, TODAY, Scenario
from saga_cli.demo.stage import Stage
from saga_cli.demo.views import JsonView, PlainView, RichView, View
from saga_cli.local.stack import LocalStack
from saga_cli.problems import Exit


def run(args: argparse.Namespace) -> int:
    """Play all of them; exit status 0 only if each ended as it should."""
    view_: View
    if args.json:
        view_ = JsonView()
    elif args.plain or not sys.stdout.isatty():
        view_ = PlainView(logs=args.logs)
    else:
        view_ = RichView(logs=args.logs)
    began = time.monotonic()
    results = play(view_, cast("Path", args.template))
    passed = all(result.passed for result in results)
    view_.end(results, time.monotonic() - began)
    return Exit.OK if passed else Exit.NO


def play(view_: View, template: Path) -> list[Result]:
    """Every scenario's result."""
    with LocalStack(TODAY, template=template) as stack:
        view_.begin()
        return [
            _play(scenario, number, stack, view_) for number, scenario in enumerate(SCENARIOS, 1)
        ]


def _play(scenario: Scenario, number: int, stack: LocalStack, view_: View) -> Result:
    world.reset()
    stack.deploy(TODAY)
    result = Result(scenario)
    logs_read = len(stack.log)

    def tell(line: Line) -> None:
        result.lines.append(line)
        view_.line(line)

    def look(saga_id: str | None) -> None:
        nonlocal logs_read
        view_.logs(stack.log[logs_read:])
        logs_read = len(stack.log)
        if saga_id is not None:
            view_.saga(view(stack.saga(saga_id)))

    began_ms = stack.clock.now_ms()
    stage = Stage(scenario.name, stack, Narrator(stack, world, tell, began_ms), look)
    with view_.scenario(number, scenario):
        try:
            saga = stack.saga(scenario.play(stage))
            result.saga = view(saga)
            stage.check(f"the saga is {scenario.ends_as.value}", saga.state is scenario.ends_as)
        except Exception as exc:  # noqa: BLE001 - one that breaks must not hide the others
            stage.check(f"the scenario can be played: {type(exc).__name__}: {exc}", passed=False)
    result.checks = stage.checks
    result.virtual_ms = stack.clock.now_ms() - began_ms
    view_.result(result)
    return result
