from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from examples.services import Stock
from saga_cli.demo import play as demo
from saga_cli.demo.narrator import duration
from saga_cli.demo.result import Result
from saga_cli.demo.scenarios import SCENARIOS
from saga_cli.demo.views import RichView, View, clock
from saga_cli.local.stack import TEMPLATE
from saga_cli.main import main
from saga_cli.problems import Exit

NAMES = ["completes", "declined", "killed", "dead_letter", "needs_a_person"]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Play one scenario and no other."""

    def choose(name: str) -> None:
        chosen = tuple(scenario for scenario in SCENARIOS if scenario.name == name)
        monkeypatch.setattr(demo, "SCENARIOS", chosen)

    return choose


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What the whole demo says. Played once: it takes seconds."""
    out = io.StringIO()
    with redirect_stdout(out):
        status = main(["demo", "--json"])
    return {"status": status, **json.loads(out.getvalue())}


def test_all_five_end_as_they_should(report):
    assert report["status"] == Exit.OK
    assert report["passed"] is True
    assert [s["name"] for s in report["scenarios"]] == NAMES
    states = {s["name"]: s["state"] for s in report["scenarios"]}
    assert states == {
        "completes": "COMPLETED",
        "declined": "COMPENSATED",
        "killed": "COMPLETED",
        "dead_letter": "COMPLETED",
        "needs_a_person": "COMPENSATED",
    }
    for scenario in report["scenarios"]:
        assert scenario["state"] == scenario["expected"] == scenario["saga"]["state"]
        assert len(scenario["checks"]) >= 3
        assert all(check["passed"] for check in scenario["checks"])
        assert scenario["events"][0]["actor"] == "you"


def test_the_killed_worker_and_the_dead_letter_take_their_time(report):
    told = {s["name"]: s for s in report["scenarios"]}
    assert told["killed"]["virtual_seconds"] > 180
    assert told["dead_letter"]["virtual_seconds"] > 900
    actors = {event["actor"] for event in told["dead_letter"]["events"]}
    assert {"you", "api", "deploy", "worker", "queue", "dead letters", "saga"} <= actors


def test_in_a_pipe_it_is_plain_text(saga, only):
    only("killed")
    ran = saga("demo")
    assert ran.exit == Exit.OK
    assert "\x1b" not in ran.out
    assert "1. The worker is killed in the middle" in ran.out
    assert "[stock.reserve 1 tea: repeated]" in ran.out
    assert "  ok  the stock was taken once, 99 teas are on the shelf" in ran.out
    assert "1 of 1 ended as they should" in ran.out
    assert '"message"' not in ran.out


def test_the_logs_are_shown_on_request(saga, only):
    only("completes")
    assert '"message": "saga.committed"' in saga("demo", "--plain", "--logs").out


def test_an_effect_that_stays_where_none_should_is_found(saga, only, monkeypatch):
    """The saga says COMPENSATED; the world knows better."""
    only("declined")
    monkeypatch.setattr(Stock, "release", lambda *_, **__: None)
    ran = saga("demo")
    assert ran.exit == Exit.NO
    assert "  NOT nothing stands, 100 teas are on the shelf" in ran.out
    assert "  ok  the saga is COMPENSATED" in ran.out
    assert "0 of 1 ended as they should" in ran.out


def test_another_end_than_the_expected_one_is_found(saga, only, monkeypatch):
    only("completes")
    monkeypatch.setattr(Stock, "reserve", lambda *_, **__: 1 / 0)
    ran = saga("demo", "--json")
    assert ran.exit == Exit.NO
    (scenario,) = ran.json["scenarios"]
    assert (scenario["expected"], scenario["state"]) == ("COMPLETED", "COMPENSATED")
    assert scenario["passed"] is False


def test_a_scenario_that_breaks_is_told_and_the_next_one_plays(saga, monkeypatch):
    def broken(_stage: object) -> str:
        raise RuntimeError("no stage")

    chosen = (replace(SCENARIOS[0], play=broken), SCENARIOS[1])
    monkeypatch.setattr(demo, "SCENARIOS", chosen)
    ran = saga("demo", "--plain")
    assert ran.exit == Exit.NO
    assert "NOT the scenario can be played: RuntimeError: no stage" in ran.out
    assert "1 of 2 ended as they should" in ran.out


def test_a_saga_that_never_rests_is_given_up(saga, only, monkeypatch):
    only("killed")
    monkeypatch.setattr("saga_cli.demo.stage._LIMIT", 2)
    assert "TimeoutError: killed: no end after 2 moves" in saga("demo").out


def test_a_template_that_is_not_there_is_status_2(saga, tmp_path):
    ran = saga("demo", "--template", str(tmp_path / "absent.yaml"))
    assert ran.exit == Exit.USAGE
    assert len(ran.err.splitlines()) == 1


def shown(width: int, view_: Callable[[Console], View]) -> tuple[list[Result], str]:
    out = io.StringIO()
    view = view_(Console(file=out, force_terminal=True, width=width, highlight=False))
    results = demo.play(view, TEMPLATE)
    view.end(results, 1.0)
    return results, out.getvalue()


@pytest.mark.parametrize("width", [80, 130], ids=["narrow", "wide"])
def test_in_a_terminal_it_has_colours_and_fits(only, width):
    only("needs_a_person")
    (result,), text = shown(width, lambda console: RichView(logs=True, console=console))
    assert result.passed
    for told in ("A compensation fails, a person helps", "to do: Repair", "5 of 5"):
        assert told in text
    assert "\x1b[" in text
    assert "saga.committed" in text
    assert all(len(line) <= width for line in Text.from_ansi(text).plain.splitlines())


def test_a_failed_check_is_red(only, monkeypatch):
    only("declined")
    monkeypatch.setattr(Stock, "release", lambda *_, **__: None)
    _, text = shown(80, lambda console: RichView(logs=False, console=console))
    assert "✘" in text
    assert "0 of 1 ended as they should" in text


def test_times_are_readable():
    assert clock(0) == " 0:00.00"
    assert clock(963_250) == "16:03.25"
    assert duration(20) == "20 ms"
    assert duration(61_000) == "1 min 1 s"
    assert duration(180_020) == "3 min"
