from __future__ import annotations

import pytest

from saga_cli.problems import Exit

BROKEN = """
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
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    """A user's module in the working directory."""
    (tmp_path / "lint_sagas.py").write_text(BROKEN)
    (tmp_path / "lint_crash.py").write_text("raise RuntimeError('no')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_the_examples_are_clean_and_the_default(saga, monkeypatch):
    monkeypatch.delenv("SAGA_DEFINITIONS", raising=False)
    ran = saga("lint")
    assert ran.exit == Exit.OK
    assert "order@1#" in ran.out
    assert "travel@1#" in ran.out
    assert "0 errors, 0 warnings" in ran.out


def test_the_environment_names_them_too(saga, monkeypatch):
    monkeypatch.setenv("SAGA_DEFINITIONS", "lint_sagas:risky")
    assert "risky@1#" in saga("lint").out


def test_every_error_is_told_with_its_rule(saga):
    ran = saga("lint", "lint_sagas:unfinished")
    assert ran.exit == Exit.NO
    lines = ran.out.splitlines()
    assert [line.split()[2] for line in lines[:-1]] == ["SAGA003", "SAGA003", "SAGA004"]
    assert lines[0].startswith("lint_sagas:unfinished: error: SAGA003 step pay: ")
    assert "3 errors, 0 warnings" in lines[-1]


def test_a_warning_is_no_error(saga):
    ran = saga("lint", "lint_sagas:risky")
    assert ran.exit == Exit.OK
    assert "warning: SAGA101 step mail: " in ran.out


def test_one_bad_part_does_not_hide_the_others(saga):
    ran = saga("lint", "lint_sagas:nothing, lint_sagas:unfinished ,lint_sagas:risky,lint_crash:x")
    assert ran.exit == Exit.NO
    assert "has no attribute 'nothing'" in ran.out
    assert "SAGA003 step pay" in ran.out
    assert "SAGA101 step mail" in ran.out
    assert "RuntimeError: no" in ran.out


def test_what_clashes_only_together_is_found(saga):
    ran = saga("lint", "examples.order:order,examples.order:order")
    assert ran.exit == Exit.NO
    assert "order@1 is listed twice" in ran.out


def test_json(saga):
    report = saga("lint", "lint_sagas:unfinished,lint_sagas:risky", "--json").json
    assert (report["errors"], report["warnings"]) == (3, 1)
    assert report["definitions"][0].startswith("risky@1#")
    assert report["findings"][0] == {
        "definition": "lint_sagas:unfinished",
        "severity": "error",
        "rule": "SAGA003",
        "step": "pay",
        "message": "give it a compensation, or state compensatable=False",
    }
