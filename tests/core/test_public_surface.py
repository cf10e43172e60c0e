from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import saga_core
from saga_core.actions import Compensate, Execute, Rest, Settle, WakeAt
from saga_core.instance import StepStatus
from saga_core.orchestrator import SagaOrchestrator

MODULES = sorted(m.name for m in pkgutil.iter_modules(saga_core.__path__))


def imported() -> set[str]:
    """The names that the package's door imports."""
    tree = ast.parse(Path(saga_core.__file__).read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("saga_core.")
        for alias in node.names
    }


def test_what_the_door_exports_is_sorted_and_is_what_it_imports():
    assert saga_core.__all__ == sorted(saga_core.__all__)
    assert set(saga_core.__all__) == imported()
    assert len(set(saga_core.__all__)) == len(saga_core.__all__)


def test_the_door_does_nothing_but_import_and_export():
    tree = ast.parse(Path(saga_core.__file__).read_text(encoding="utf-8"))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]


def test_every_public_error_can_be_caught_by_its_users():
    errors = importlib.import_module("saga_core.errors")
    public = {
        n for n, v in vars(errors).items() if inspect.isclass(v) and v.__module__ == errors.__name__
    }
    assert public <= set(saga_core.__all__)


@pytest.mark.parametrize("name", saga_core.__all__)
def test_every_public_name_is_documented(name):
    public = getattr(saga_core, name)
    assert public.__doc__, name
    if inspect.isclass(public):
        for method, value in vars(public).items():
            if method.isascii() and not method.startswith("_") and inspect.isfunction(value):
                assert inspect.getdoc(getattr(public, method)), f"{name}.{method}"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_gives(module):
    assert importlib.import_module(f"saga_core.{module}").__doc__


@pytest.mark.parametrize("name", ["builder", "start", "resume", "get_state", "cancel"])
def test_the_orchestrator_has_every_name_of_the_original(name):
    assert callable(getattr(SagaOrchestrator, name))


def test_a_steps_statuses_are_the_ones_that_the_design_names():
    assert {s.value for s in StepStatus} == {
        "PENDING",
        "RUNNING",
        "WAITING",
        "COMPLETED",
        "FAILED",
        "IN_DOUBT",
        "COMPENSATING",
        "COMPENSATED",
        "COMPENSATION_FAILED",
        "SKIPPED",
    }


def test_actions_are_values():
    assert Execute("a", 1) == Execute("a", 1)
    assert Compensate("a", 1, in_doubt=True) != Compensate("a", 1, in_doubt=False)
    assert WakeAt(7) != WakeAt(8)
    assert Rest() == Rest()
    assert len({Settle, Rest, WakeAt, Execute, Compensate}) == 5
