"""The sagas of a deployment: found by one setting, checked when a function starts."""

from __future__ import annotations

import sys

import pytest

from infra.registry import Registry, load_definitions
from saga_core.errors import DefinitionError
from tests.infra import deployed

HERE = "tests.infra.deployed"


def test_a_definition_is_found():
    registry = load_definitions(f"{HERE}:ORDER")
    assert registry.all == (deployed.ORDER,)
    assert registry.refs == (deployed.ORDER.ref,)
    assert registry.by_ref(deployed.ORDER.ref) is deployed.ORDER
    assert registry.newest("order") is deployed.ORDER


def test_what_decorators_built_is_found():
    registry = load_definitions(f"{HERE}:decorated")
    assert [d.name for d in registry.all] == ["decorated"]


def test_several_parts_and_iterables_are_found_in_order():
    registry = load_definitions(f" {HERE}:decorated , {HERE}:BOTH ")
    assert [d.name for d in registry.all] == ["decorated", "order", "travel"]


def test_a_name_deep_in_a_module_is_found():
    assert load_definitions(f"{HERE}:Namespace.saga").all == (deployed.TRAVEL,)


def test_new_sagas_get_the_version_listed_last_and_running_ones_keep_theirs():
    registry = load_definitions(f"{HERE}:VERSIONS")
    assert registry.newest("order") is deployed.ORDER_2
    assert registry.by_ref(deployed.ORDER.ref) is deployed.ORDER
    backwards = load_definitions(f"{HERE}:ORDER_2,{HERE}:ORDER")
    assert backwards.newest("order") is deployed.ORDER


def test_what_is_not_deployed_is_none():
    registry = load_definitions(f"{HERE}:ORDER")
    assert registry.by_ref(deployed.ORDER_2.ref) is None
    assert registry.by_ref("order@1#0000000000000000") is None
    assert registry.newest("travel") is None


def test_an_empty_setting_is_an_empty_registry():
    assert load_definitions("").all == ()
    assert load_definitions(f"{HERE}:NOTHING") == Registry(())


def test_one_name_and_version_twice_is_refused():
    with pytest.raises(DefinitionError, match=r"^SAGA_DEFINITIONS: order@1 is listed twice"):
        load_definitions(f"{HERE}:ORDER,{HERE}:BOTH")


@pytest.mark.parametrize(
    "part",
    ["tests", "tests.infra.deployed", ":ORDER", "a:", "a b:c", "a:b:c", "../x:Y", "os:path()"],
)
def test_a_part_of_another_form_is_named(part):
    with pytest.raises(DefinitionError, match=r"package\.module:NAME") as refused:
        load_definitions(f"{HERE}:ORDER,{part}")
    assert "SAGA_DEFINITIONS" in str(refused.value)
    assert repr(part) in str(refused.value)


@pytest.mark.parametrize("part", ["nowhere.at.all:X", f"{HERE}:MISSING", f"{HERE}.missing:X"])
def test_a_part_that_cannot_be_imported_is_named(part):
    with pytest.raises(DefinitionError, match="cannot be imported") as refused:
        load_definitions(part)
    assert repr(part) in str(refused.value)
    assert refused.value.__cause__ is not None


def test_a_module_that_fails_while_it_is_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_sagas.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DefinitionError, match="ZeroDivisionError"):
        load_definitions("broken_sagas:X")
    assert "broken_sagas" not in sys.modules


@pytest.mark.parametrize(("name", "kind"), [("NOT_A_SAGA", "int"), ("HOLDS_NONE", "str")])
def test_a_part_that_is_no_saga_is_named(name, kind):
    with pytest.raises(DefinitionError, match=f"{name}.* {kind}, not a Saga"):
        load_definitions(f"{HERE}:{name}")


def test_a_saga_that_cannot_run_is_named_with_its_rule():
    with pytest.raises(DefinitionError, match=r"SAGA_DEFINITIONS.*:wrong.*SAGA003"):
        load_definitions(f"{HERE}:wrong")


def test_a_wrong_definition_found_while_importing_is_named(tmp_path, monkeypatch):
    (tmp_path / "wrong_sagas.py").write_text(
        "from saga_core.definition import SagaDefinition\nX = SagaDefinition(name='x', steps=())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DefinitionError, match=r"SAGA_DEFINITIONS: 'wrong_sagas:X': .*SAGA001"):
        load_definitions("wrong_sagas:X")
