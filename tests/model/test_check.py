"""The model corresponds to the code by name, and what TLC says is read right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra import conditions
from saga_core import transition, turn
from saga_core.transition import Reason
from spec import check
from spec.check import (
    NotCheckedError,
    Report,
    Tlc,
    configurations,
    expectation,
    main,
    module,
    schedule,
)

ROOT = Path(__file__).parents[2]
MODELS = {path.stem: path.read_text() for path in (ROOT / "spec").glob("*.tla")}
BROKEN = sorted((ROOT / "spec" / "broken").glob("*.cfg"))
ALL = configurations(deep=True, names=[])


# -- the model and the code ---------------------------------------------------------


def remarks(model: str) -> str:
    lines = re.findall(r"\\\* (.*)|\(\* (.*?) *\*\)", model)
    return "\n".join("".join(line) for line in lines)


def test_there_is_a_model_of_one_lane_of_several_and_of_answers() -> None:
    assert sorted(MODELS) == ["Answers", "Lanes", "Saga"]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_function_that_the_model_names_exists(model: str) -> None:
    named = set(re.findall(r"(?<!\w)_[a-z_]+", remarks(model)))
    assert len(named) > 15
    assert {n for n in named if not hasattr(turn, n) and not hasattr(transition, n)} == set()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_clause_and_every_reason_that_the_model_names_exists(model: str) -> None:
    named = set(re.findall(r"(?<!\w)[A-Z]+(?:_[A-Z]+)+", remarks(model)))
    assert len(named) > 5
    known = {*vars(conditions), *Reason.__members__, *vars(transition)}
    assert named - known == set()


def test_the_document_names_what_exists() -> None:
    text = (ROOT / "docs" / "model.md").read_text()
    for room, name in re.findall(r"`(turn|transition|conditions)\.(?!py`)(\w+)`", text):
        assert hasattr({"turn": turn, "transition": transition}.get(room, conditions), name), name
    rows = set(re.findall(r"^\| `(\w+)` \| `\w+`", text, re.MULTILINE))
    assert rows == {path.stem for path in BROKEN}


# -- the configurations ----------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_rule_that_can_be_broken_is_broken_once(name: str) -> None:
    switches = set(re.findall(r'Broken (?:=|#) "(\w+)"', MODELS[name]))
    assert switches == {path.stem for path in BROKEN if module(path) == name}


def test_what_is_run_is_all_that_there_is() -> None:
    assert sorted(ALL) == sorted((ROOT / "spec").rglob("*.cfg"))
    assert {module(path) for path in ALL} == set(MODELS)


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_a_configuration_gives_every_constant(path: Path) -> None:
    constants = re.findall(
        r"^  (\w+),? +\\\*", MODELS[module(path)].partition("VARIABLES")[0], re.MULTILINE
    )
    assert sorted(constants) == sorted(re.findall(r"^  (\w+) = ", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", BROKEN, ids=lambda p: p.stem)
def test_a_broken_configuration_checks_the_property_that_must_fall(path: Path) -> None:
    text = path.read_text()
    expected = expectation(path)
    assert f'Broken = "{path.stem}"' in text
    assert re.findall(r"^(?:INVARIANTS|PROPERTIES)\n  (\w+)\n", text, re.MULTILINE) == [expected]
    assert re.search(rf"^{expected} ==", MODELS[module(path)], re.MULTILINE)


@pytest.mark.parametrize("path", [p for p in ALL if p not in BROKEN], ids=lambda p: p.stem)
def test_a_good_configuration_breaks_nothing(path: Path) -> None:
    assert expectation(path) is None
    assert 'Broken = "nothing"' in path.read_text()


@pytest.mark.parametrize("name", MODELS)
def test_between_them_the_good_ones_check_every_property(name: str) -> None:
    good = [p.read_text() for p in ALL if p not in BROKEN and module(p) == name]
    properties = MODELS[name].partition("What must hold.")[2].partition("Symmetry ==")[0]
    for found in re.findall(r"^(\w+) ==", properties, re.MULTILINE):
        assert any(f"\n  {found}\n" in text for text in good), found


# -- what TLC says -----------------------------------------------------------------------

HOLDS = """\
Progress(9) at 10:00:00: 7,829 states generated (7,829 s/min), 3,600 distinct states found.
Model checking completed. No error has been found.
192085 states generated, 63227 distinct states found, 0 states left on queue.
The depth of the complete state graph search is 42.
Finished in 01min 12s at (10:01:12)
"""
FELL = """\
Error: Invariant Token is violated.
Error: The behavior up to this point is:
State 1: <Initial predicate>
/\\ msgs = ([epoch |-> "current", at |-> "queue", by |-> {}] :> 1)
/\\ lane = [ lease |-> "none",
  over |-> FALSE ]
/\\ inv = ( a :>
      [ pc |-> "idle",
        before |-> "none" ] )
/\\ late = {}

State 2: <Deliver line 167, col 15 to line 167, col 53 of module Saga>
/\\ msgs = ([epoch |-> "current", at |-> "queue", by |-> {a, b}] :> 1)
/\\ lane = [ lease |-> a,
  over |-> FALSE ]
/\\ inv = ( a :>
      [ pc |-> "Claim",
        before |-> [ st |-> "RUNNING" ] ] )
/\\ late = {<<1, "F">>}

State 3: Stuttering
473 states generated, 270 distinct states found, 156 states left on queue.
The depth of the complete state graph search is 6.
Finished in 03s at (10:00:03)
"""
STOPPED = "473 states generated, 270 distinct states found, 156 states left on queue.\n"


def test_a_finished_search_is_read() -> None:
    assert Report.of(HOLDS) == Report(
        violated=None, exhausted=True, states=192_085, distinct=63_227, depth=42, seconds=72
    )


@pytest.mark.parametrize(
    ("line", "fell"),
    [
        ("Error: Invariant Token is violated.", "Token"),
        ("Error: Invariant Token is violated by the initial state:", "Token"),
        ("Error: Action property ClosedIsFinal is violated.", "ClosedIsFinal"),
        ("Error: Temporal properties were violated.", "Ends"),
        ("Error: Parsing or semantic analysis failed.", None),
    ],
)
def test_what_fell_is_read(line: str, fell: str | None) -> None:
    report = Report.of(f"{line}\n{STOPPED}")
    assert report.violated == fell
    assert not report.exhausted


@pytest.mark.parametrize("output", ["", STOPPED, HOLDS + "\nError: out of memory\n"])
def test_a_search_that_did_not_finish_proves_nothing(output: str) -> None:
    fine, words = Report.of(output).verdict(None)
    assert not fine
    assert words == "NOT EXHAUSTED"


def test_a_broken_rule_must_be_refuted_by_the_property_that_is_expected() -> None:
    assert Report.of(FELL).verdict("Token") == (True, "refuted by Token")
    assert Report.of(FELL).verdict("Ends") == (False, "NOT REFUTED by Ends, but Token fell")
    assert Report.of(HOLDS).verdict("Ends") == (False, "NOT REFUTED by Ends, but nothing fell")
    assert Report.of(FELL).verdict(None) == (False, "VIOLATED: Token")


def test_a_schedule_shows_what_each_action_changed() -> None:
    first, second, third = schedule(FELL)
    assert first == "  1 Initial"
    assert second.startswith("  2 Deliver       msgs = 1 current held by a b; lane.lease = a;")
    assert second.endswith(" inv.a.pc = Claim; late = {<<1, F>>}")
    assert third == "  3 Stuttering"


def test_a_schedule_says_of_which_lane_a_message_is() -> None:
    first = '[epoch |-> "current", at'
    _, second, _ = schedule(FELL.replace(first, first.replace("[", "[lane |-> 2, ")))
    assert "msgs = 1 current of lane 2 held by a b;" in second


# -- the command ---------------------------------------------------------------------------


class Recorded(Tlc):
    """A model checker that has finished already, and always the same way."""

    __slots__ = ("output",)

    def run(self, config: Path) -> str:
        assert config.exists()
        return HOLDS if expectation(config) is None else FELL


@pytest.fixture
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.Tlc, "find", lambda: Recorded("java", Path("tla2tools.jar")))


@pytest.mark.usefixtures("_recorded")
def test_the_table_has_a_line_for_each_and_names_what_went_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["small", "EarlyDropped"]) == 0
    assert "refuted by Token" in capsys.readouterr().out
    assert main(["NoTombstone", "EarlyDropped"]) == 1
    out = capsys.readouterr().out
    assert "NOT REFUTED by UndoneInFull" in out
    assert "1 of 2 configurations" in out
    assert out.count("  2 Deliver") == 1  # of the one that is wrong


@pytest.mark.usefixtures("_recorded")
def test_a_schedule_is_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--trace", "EarlyDropped"]) == 0
    assert "  2 Deliver" in capsys.readouterr().out


@pytest.mark.usefixtures("_recorded")
def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(SystemExit):
        main(["small", "tiny"])


def test_the_large_ones_are_run_when_asked_for() -> None:
    large = [p.stem for p in ALL if p not in configurations(deep=False, names=[])]
    assert large == ["deep", "faults", "lanes_deep"]


def test_without_java_it_says_that_nothing_was_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotCheckedError):
        Tlc.find()
    assert main([]) == check.NOT_CHECKED
    assert "NOT CHECKED: there is no Java" in capsys.readouterr().out
