"""`make e2e`: the template deployed on an emulated AWS, and sagas run through it from outside."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e import report
from tests.e2e.deploy import ROOT, Deployed, deploy
from tests.e2e.engine import Engine, interrupted
from tests.e2e.outside import Outside
from tests.e2e.sagas.world import World
from tests.e2e.scenarios import SCENARIOS, Parts, Scenario

FOLDER = ROOT / "build" / "e2e"
TOGETHER = (False, True, False, True)  # the four parts of a scenario: see scenarios.py


def main() -> int:
    """Run everything, write the report, leave nothing running."""
    parser = argparse.ArgumentParser(prog="make e2e", description=__doc__)
    parser.add_argument("--sam", type=Path, required=True, help="the sam command")
    parser.add_argument("--only", default="", help="run the scenarios whose name contains this")
    parser.add_argument("--native", action="store_true", help="the emulator's own Python runtime")
    parser.add_argument("--no-auth", action="store_true", help="do not evaluate IAM policies")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it is cleaned up behind us
    began = time.monotonic()
    scenarios = [s for s in SCENARIOS if options.only in s.name]
    if not scenarios:
        parser.error(f"no scenario's name contains {options.only!r}")
    engine = Engine(FOLDER / "engine", auth=not options.no_auth)
    stack, out = Deployed(), None
    try:
        engine.start()
        print(f"emulator at {engine.url}", flush=True)
        stack = deploy(
            engine,
            options.sam.absolute(),
            FOLDER / "artifact",
            real_runtime=not options.native,
        )
        assert stack.planned["added"] > 0, "the dry run showed no change set"
        print(
            f"built in {stack.build_seconds:.0f} s, deployed in {stack.deploy_seconds:.0f} s",
            flush=True,
        )
        world = World(engine.world)
        world.make()
        out = Outside(engine, stack, world)
        play(scenarios, out, began)
        out.collect()
    finally:
        if out is not None:
            out.close()
        engine.stop()
        seconds = time.monotonic() - began
        parts = f"sam build {stack.build_seconds:.0f}, sam deploy {stack.deploy_seconds:.0f}"
        facts = [
            ("runtime", "the emulator's own" if options.native else "awslambdaric"),
            ("IAM policies", "evaluated" if engine.auth else "not evaluated"),
            ("transport", "TLS, on loopback"),
            ("change set", ", ".join(f"{n} {what}" for what, n in stack.planned.items()) or "-"),
            ("seconds", f"{seconds:.0f}, of them {parts}"),
            ("requests sent again after a 5xx", str(out.repeated) if out is not None else "-"),
            ("left running", "SOMETHING" if engine.left_running else "nothing"),
        ]
        report.write(FOLDER / "report.md", scenarios, out, stack, facts)
    failed = [s.name for s in scenarios if s.error is not None]
    print(
        f"{len(scenarios) - len(failed)} of {len(scenarios)} scenarios, {seconds:.0f} s: "
        f"{(FOLDER / 'report.md').relative_to(ROOT)}"
    )
    if engine.left_running:
        print("processes of the emulator could not be ended", file=sys.stderr)
    return 1 if failed or engine.left_running else 0


def play(scenarios: list[Scenario], out: Outside, began: float) -> None:
    """Run every part of every scenario; one that fails does not keep the others from running."""
    parts = {s.name: s.play(out, _sayer(s, began)) for s in scenarios}
    for together in TOGETHER:
        with ThreadPoolExecutor(len(scenarios) if together else 1) as pool:
            try:
                list(pool.map(lambda s: _advance(s, parts[s.name]), scenarios))
            except BaseException:
                interrupted.set()
                raise


def _sayer(scenario: Scenario, began: float):
    def say(text: str) -> None:
        line = f"{time.monotonic() - began:6.1f} s  {text}"
        scenario.said.append(line)
        print(f"{line}  [{scenario.name}]", flush=True)

    return say


def _advance(scenario: Scenario, parts: Parts) -> None:
    if scenario.error is not None:
        return
    began = time.monotonic()
    try:
        next(parts, None)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the other scenarios still run
        scenario.error = "".join(traceback.format_exception(exc))
        print(f"FAILED [{scenario.name}]: {exc}", file=sys.stderr, flush=True)
    scenario.seconds += time.monotonic() - began


if __name__ == "__main__":
    raise SystemExit(main())
