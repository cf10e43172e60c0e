"""The environment: read once, and what is missing is named, all of it."""

from __future__ import annotations

import pytest

from infra.settings import REQUIRED, VARIABLES, Settings, SettingsError, in_lambda
from saga_core.errors import SagaError

FULL = {
    "SAGA_TABLE": "sagas",
    "SAGA_QUEUE_URL": "http://localhost/q",
    "SAGA_DEFINITIONS": "pkg:ORDER",
    "SAGA_TENANT_CLAIM": "org",
    "SAGA_STEP_SECONDS": "25",
    "POWERTOOLS_SERVICE_NAME": "my-stack",
    "POWERTOOLS_METRICS_NAMESPACE": "Mine",
    "POWERTOOLS_LOG_LEVEL": "debug",
}


def test_everything_that_is_set_is_read():
    assert Settings.from_environment("worker", FULL) == Settings(
        table="sagas",
        queue_url="http://localhost/q",
        definitions="pkg:ORDER",
        tenant_claim="org",
        step_ms=25_000,
        service="my-stack",
        namespace="Mine",
        log_level="DEBUG",
    )


def test_what_may_be_missing_has_a_default():
    least = {name: FULL[name] for name in REQUIRED["api"]}
    settings = Settings.from_environment("api", least)
    assert settings.tenant_claim is None
    assert settings.step_ms == 20_000
    assert (settings.service, settings.namespace, settings.log_level) == ("saga", "Saga", "INFO")


@pytest.mark.parametrize("function", sorted(REQUIRED))
def test_every_missing_variable_is_named_at_once(function):
    with pytest.raises(SettingsError) as missing:
        Settings.from_environment(function, {})
    for name in REQUIRED[function]:
        assert f"{name} is not set" in str(missing.value)
    assert isinstance(missing.value, SagaError)


@pytest.mark.parametrize("function", sorted(REQUIRED))
def test_what_is_required_is_enough(function):
    Settings.from_environment(function, {name: FULL[name] for name in REQUIRED[function]})


def test_an_empty_variable_is_a_missing_one():
    with pytest.raises(SettingsError, match=r"^SAGA_TABLE is not set$"):
        Settings.from_environment("sweeper", {**FULL, "SAGA_TABLE": ""})


def test_the_sweeper_needs_no_sagas_of_the_user():
    settings = Settings.from_environment(
        "sweeper", {"SAGA_TABLE": "sagas", "SAGA_QUEUE_URL": "http://localhost/q"}
    )
    assert settings.definitions == ""


@pytest.mark.parametrize("seconds", ["0", "891", "-1", "1.5", "x", " 5", "1e2", "9999", "\u0665"])
def test_a_step_time_that_is_no_number_of_seconds_is_named(seconds):
    with pytest.raises(SettingsError, match="SAGA_STEP_SECONDS is not a whole number"):
        Settings.from_environment("worker", {**FULL, "SAGA_STEP_SECONDS": seconds})


@pytest.mark.parametrize("seconds", ["1", "890"])
def test_a_step_time_may_be_anything_that_lambda_allows(seconds):
    settings = Settings.from_environment("worker", {**FULL, "SAGA_STEP_SECONDS": seconds})
    assert settings.step_ms == int(seconds) * 1000


def test_a_log_level_that_is_none_is_named():
    with pytest.raises(SettingsError, match="POWERTOOLS_LOG_LEVEL"):
        Settings.from_environment("worker", {**FULL, "POWERTOOLS_LOG_LEVEL": "LOUD"})


def test_the_process_environment_is_read_when_no_other_is_given(monkeypatch):
    for name, value in FULL.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment("api") == Settings.from_environment("api", FULL)


def test_every_variable_of_ours_is_listed():
    assert {name for name in FULL if name.startswith("SAGA_")} == VARIABLES
    for names in REQUIRED.values():
        assert names <= VARIABLES


def test_lambda_is_known_by_its_own_variable(monkeypatch):
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME", raising=False)
    assert not in_lambda()
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "worker")
    assert in_lambda()
