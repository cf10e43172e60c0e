from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from infra.settings import DEFAULT_STEP_SECONDS
from saga_cli.main import parser
from saga_cli.problems import Exit
from saga_core.authoring import Saga
from tests.fakes import template

ROOT = Path(__file__).parents[2]

SAGAS = """
from saga_core import Saga, SagaDefinition, StepDefinition

unfinished = Saga("unfinished")


@unfinished.step
def pay(ctx): ...


@unfinished.step(name="pay it!")
def pay_it(ctx): ...


risky = Saga("risky")


@risky.step(compensatable=False)
def mail(ctx): ...


@risky.step(compensatable=False)
def note(ctx): ...


both = [risky, risky.build()]
nameless = Saga("Nameless")
nameless.step(name="print", compensatable=False)(lambda ctx: print(ctx))
numbers = [7]
everything = [unfinished, risky, nameless]
"""

# Wrong in every way that there is, at known lines.
CHARGES = """\
from datetime import timedelta
from uuid import uuid4

from saga_core import Saga

charges = Saga("charges")


@charges.step(timeout=timedelta(seconds=45))
def charge(ctx, call):
    ctx["payment"] = pay(ctx["card"], key=str(uuid4()))


@charge.compensate
def refund(ctx):
    give_back(
        ctx["payment"],
    )


@charges.step(pivot=True)
def ship(ctx): ...
"""

SHAPES = """\
from saga_core import Saga

shapes = Saga("shapes")


@shapes.step(group="alone", compensatable=False)
def well(ctx): ...


@shapes.step(group="alone", compensatable=False)
def badly(ctx, retries=3): ...


@shapes.step
def worse(*args): ...


@shapes.step
def careless(ctx): ...
"""

# Refused while the module is imported: nothing below it exists.
AT_IMPORT = """\
from saga_core import SagaDefinition, steps


class Pay:
    name = "pay"

    def execute(self, ctx, call):
        ctx["payment"] = 1

    def compensate(self, ctx):
        print(ctx["payment"])


early = SagaDefinition(
    name="Early",
    steps=steps(Pay(), Pay()),
)
late = SagaDefinition(name="late", steps=steps(Pay()))
"""

PARENT = """\
from datetime import timedelta
from saga_core import Saga

inner = Saga("inner")


@inner.step(compensatable=False, timeout=timedelta(seconds=30))
def mail(ctx): ...


outer = Saga("outer")


@outer.child(inner)
def begin(ctx):
    return {}
"""

MODULES = {
    "lint_sagas": SAGAS,
    "lint_charges": CHARGES,
    "lint_shapes": SHAPES,
    "lint_at_import": AT_IMPORT,
    "lint_parent": PARENT,
    "lint_crash": "import json\n\nraise RuntimeError('no')\n",
    "lint_typo": "from saga_core import Saga\n\ndef pay(ctx: ...\n",
    "lint_bounds": "from saga_core import RetryPolicy\n\npatient = RetryPolicy(max_attempts=0)\n",
}


@pytest.fixture(autouse=True)
def _modules(tmp_path, monkeypatch):
    """A user's modules in the working directory."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith("lint_")]:
        del sys.modules[name]


def places(ran) -> list[str]:
    """``file:line rule`` of every line but the last, which sums up."""
    return [f"{line.split(': ')[0]} {line.split()[2]}" for line in ran.out.splitlines()[:-1]]


def test_the_examples_are_clean_and_the_default(saga, monkeypatch):
    monkeypatch.delenv("SAGA_DEFINITIONS", raising=False)
    ran = saga("lint")
    assert ran.exit == Exit.OK
    assert "order@1#" in ran.out
    assert "travel@1#" in ran.out
    assert "0 errors, 0 warnings" in ran.out


def test_every_example_is_clean(saga):
    everything = "examples.order:order,examples.travel:travel,examples.checkout:checkout"
    ran = saga("lint", f"{everything},examples.purchase:purchase")
    assert "0 errors, 0 warnings" in ran.out


def test_the_environment_names_them_too(saga, monkeypatch):
    monkeypatch.setenv("SAGA_DEFINITIONS", "lint_sagas:risky")
    assert "risky@1#" in saga("lint").out


def test_every_error_is_told_with_its_rule_and_its_place(saga):
    ran = saga("lint", "lint_sagas:unfinished")
    assert ran.exit == Exit.NO
    assert places(ran) == [
        "lint_sagas.py:7 SAGA003",
        "lint_sagas.py:11 SAGA003",
        "lint_sagas.py:11 SAGA004",
    ]
    lines = ran.out.splitlines()
    assert lines[0] == (
        "lint_sagas.py:7: error: SAGA003 step pay: "
        "give it a compensation, or state compensatable=False"
    )
    assert lines[-1] == "checked nothing: 3 errors, 0 warnings"


def test_a_warning_is_no_error(saga):
    ran = saga("lint", "lint_sagas:risky")
    assert ran.exit == Exit.OK
    assert "lint_sagas.py:18: warning: SAGA101 step mail: " in ran.out


def test_a_saga_that_is_refused_is_told_its_warnings_too(saga):
    ran = saga("lint", "lint_charges:charges")
    assert ran.exit == Exit.NO
    assert places(ran) == [
        "lint_charges.py:21 SAGA003",
        "lint_charges.py:9 SAGA019",
        "lint_charges.py:17 SAGA103",
        "lint_charges.py:11 SAGA104",
    ]


def test_a_time_out_is_held_against_what_the_deployment_gives(saga):
    assert "SAGA019" not in saga("lint", "lint_charges:charges", "--step-seconds", "45").out
    tight = saga("lint", "lint_charges:charges", "--step-seconds", "44").out
    assert "SAGA019 step charge: timeout 0:00:45 is longer than the 44 s" in tight


@pytest.mark.parametrize("seconds", ["0", "891", "-1", "many"])
def test_a_function_has_from_one_second_to_a_quarter_of_an_hour(saga, seconds):
    ran = saga("lint", "--step-seconds", seconds)
    assert ran.exit == Exit.USAGE
    assert "a number from 1 to 890" in ran.err


def test_a_step_has_by_default_what_the_template_gives():
    assert parser().parse_args(["lint"]).step_seconds == DEFAULT_STEP_SECONDS
    assert template.load()["Parameters"]["StepSeconds"]["Default"] == DEFAULT_STEP_SECONDS


def test_every_handler_of_a_wrong_shape_is_told_and_the_steps_that_can_be_built(saga):
    ran = saga("lint", "lint_shapes:shapes")
    assert ran.exit == Exit.NO
    assert places(ran) == [
        "lint_shapes.py:10 SAGA005",
        "lint_shapes.py:14 SAGA005",
        "lint_shapes.py:18 SAGA003",
        "lint_shapes.py:6 SAGA101",
    ]
    assert "SAGA005 step badly: badly must take (ctx) or (ctx, call)" in ran.out


def test_a_saga_refused_at_import_is_told_everything_and_once(saga):
    ran = saga("lint", "lint_at_import:early,lint_at_import:late")
    assert ran.exit == Exit.NO
    assert places(ran) == [
        "lint_at_import.py:7 SAGA002",
        "lint_at_import.py:14 SAGA004",
        "lint_at_import.py:11 SAGA103",
    ]


def test_of_several_sagas_each_is_told_everything(saga):
    ran = saga("lint", "lint_sagas:everything")
    assert ran.exit == Exit.NO
    assert places(ran) == [
        "lint_sagas.py:7 SAGA003",
        "lint_sagas.py:11 SAGA003",
        "lint_sagas.py:11 SAGA004",
        "lint_sagas.py:18 SAGA101",
        "lint_sagas.py:30 SAGA004",
    ]


def test_the_sagas_that_a_saga_starts_are_checked_with_it(saga):
    ran = saga("lint", "lint_parent:outer")
    assert places(ran) == ["lint_parent.py:7 SAGA019"]


def test_a_saga_without_a_place_is_told_by_its_name(saga, tmp_path, monkeypatch):
    (tmp_path / "lint_door.py").write_text("from lint_sagas import nameless\n")
    made_up = ModuleType("lint_made_up")
    made_up.saga = Saga("Nobody")  # type: ignore[attr-defined]  # a module without a file
    monkeypatch.setitem(sys.modules, "lint_made_up", made_up)
    ran = saga("lint", "lint_door:nameless,lint_made_up:saga")
    assert "lint_door:nameless: error: SAGA004 a saga's name matches" in ran.out
    assert "lint_made_up:saga: error: SAGA004 a saga's name matches" in ran.out


def test_what_is_said_of_one_line_is_said_once(saga):
    ran = saga("lint", "lint_sagas:risky,lint_sagas:risky")
    assert ran.out.count("SAGA101") == 1
    assert "risky@1 is listed twice" in ran.out


def test_one_bad_part_does_not_hide_the_others(saga):
    ran = saga("lint", "lint_sagas:nothing, lint_sagas:unfinished ,lint_sagas:risky,lint_crash:x")
    assert ran.exit == Exit.NO
    assert "lint_sagas:nothing: error: " in ran.out
    assert "has no attribute 'nothing'" in ran.out
    assert "SAGA003 step pay" in ran.out
    assert "SAGA101 step mail" in ran.out
    assert "lint_crash.py:3: error: " in ran.out
    assert "RuntimeError: no" in ran.out


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("lint_typo:x", r"lint_typo\.py:3: error: .*SyntaxError"),
        ("lint_bounds:x", r"lint_bounds\.py:3: error: SAGA008 max_attempts is 0; at least 1$"),
        ("lint_sagas:numbers", r"lint_sagas:numbers: error: .*holds a int"),
        ("lint_sagas:both", r"lint_sagas:both: error: .*risky@1 is listed twice"),
        ("no_such_module:x", r"no_such_module:x: error: .*No module named"),
        ("lint_sagas", r"lint_sagas: error: .*not of the form"),
    ],
)
def test_what_cannot_be_loaded_is_told_with_its_place(saga, part, told):
    ran = saga("lint", part)
    assert ran.exit == Exit.NO
    assert re.search(f"^{told}", ran.out, re.MULTILINE)


def test_what_clashes_only_together_is_found(saga):
    ran = saga("lint", "examples.order:order,examples.order:order")
    assert ran.exit == Exit.NO
    assert "order@1 is listed twice" in ran.out


def test_a_file_elsewhere_is_told_with_its_whole_path(saga, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    assert f"{tmp_path}/lint_sagas.py:18: warning: " in saga("lint", "lint_sagas:risky").out


@pytest.mark.parametrize("words", [["--json"], ["--format", "json"], ["--json", "--format=json"]])
def test_json(saga, words):
    report = saga("lint", "lint_sagas:unfinished,lint_sagas:risky", *words).json
    assert (report["errors"], report["warnings"]) == (3, 1)
    assert report["definitions"][0].startswith("risky@1#")
    assert report["findings"][0] == {
        "definition": "lint_sagas:unfinished",
        "severity": "error",
        "rule": "SAGA003",
        "step": "pay",
        "message": "give it a compensation, or state compensatable=False",
        "path": "lint_sagas.py",
        "line": 7,
    }


def test_json_is_one_format(saga):
    ran = saga("lint", "--json", "--format", "github")
    assert ran.exit == Exit.USAGE
    assert ran.err == "saga: --json is --format json, not github\n"


def test_annotations_for_github(saga):
    ran = saga("lint", "lint_charges:charges,lint_sagas:nothing", "--format", "github")
    assert ran.exit == Exit.NO
    lines = ran.out.splitlines()
    assert lines[0] == (
        "::error file=lint_charges.py,line=21,title=SAGA003::"
        "step ship: give it a compensation, or state compensatable=False"
    )
    assert lines[2].startswith("::warning file=lint_charges.py,line=17,title=SAGA103::step charge")
    assert lines[4].startswith("::error title=saga lint::lint_sagas:nothing: SAGA_DEFINITIONS: ")
    assert lines[5] == "checked nothing: 3 errors, 2 warnings"


def test_an_annotation_is_one_command_whatever_is_in_it(saga, tmp_path, monkeypatch):
    here = tmp_path / "100%, or: more"
    here.mkdir()
    (here / "lint_odd.py").write_text("raise RuntimeError('50%\\r\\n::error::no')\n")
    monkeypatch.syspath_prepend(str(here))
    (line, _) = saga("lint", "lint_odd:x", "--format", "github").out.splitlines()
    assert line.startswith("::error file=100%25%2C or%3A more/lint_odd.py,line=1,title=saga lint::")
    assert line.endswith("RuntimeError: 50%25%0D%0A::error::no")


def test_a_message_of_several_lines_is_told_whole(saga, tmp_path):
    (tmp_path / "lint_long.py").write_text("raise ValueError('one\\ntwo')\n")
    assert saga("lint", "lint_long:x", "--json").json["findings"][0]["message"].endswith("one\ntwo")


_PAGE = (ROOT / "docs" / "lint.md").read_text()
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PARAGRAPH = re.compile(r"^### (SAGA\d{3}) · (error|warning) · .+$", re.MULTILINE)


def test_every_rule_has_its_paragraph_and_every_paragraph_its_rule():
    code = "".join(path.read_text() for path in sorted((ROOT / "saga_core").glob("*.py")))
    told = [rule for rule, _ in _PARAGRAPH.findall(_PAGE)]
    assert told == sorted(set(re.findall(r"SAGA\d{3}", code)))
    assert set(re.findall(r"SAGA\d{3}", _PAGE)) == set(told)


def examples() -> list[tuple[str, str, str]]:
    """Rule, severity and example of each paragraph."""
    begin, *paragraphs = re.split(r"^### ", _PAGE, flags=re.MULTILINE)
    (shared,) = _BLOCK.findall(begin)
    found = []
    for paragraph in paragraphs:
        rule, severity = _PARAGRAPH.findall(f"### {paragraph}")[0]
        (block,) = _BLOCK.findall(paragraph)
        found.append((rule, severity, shared + block))
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda example: example[0])
def test_every_example_is_wrong_and_right_as_it_says(saga, tmp_path, example):
    rule, severity, text = example
    module = f"lint_{rule.lower()}"
    (tmp_path / f"{module}.py").write_text(text)
    right = saga("lint", f"{module}:right", "--json").json
    told = {f["rule"] for f in right["findings"] if f["severity"] in ("error", severity)}
    assert told == set()
    if rule == "SAGA008":
        assert "pytest.raises" in text  # it is refused before there is a saga
        return
    findings = saga("lint", f"{module}:wrong", "--json").json["findings"]
    told = {f["rule"] for f in findings if f["severity"] in ("error", severity)}
    # What no function has, this deployment has not either.
    assert told == ({rule, "SAGA019"} if rule == "SAGA016" else {rule})
    assert {f["severity"] for f in findings if f["rule"] == rule} == {severity}
    assert {f["path"] for f in findings} == {f"{module}.py"}
