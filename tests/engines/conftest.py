"""The contract suites on engines behind HTTP, each started once and ended with its tests."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Imported by the modules here, not collected: pytest has to be told to explain their assertions.
pytest.register_assert_rewrite("tests.contracts", "tests.infra")

from tests.contracts.harness import Dynamo, StoreUnderTest, dynamo  # noqa: E402 - after that line
from tests.contracts.queues import QueueUnderTest, queue  # noqa: E402
from tests.engines.engine import (  # noqa: E402
    CREDENTIALS,
    DYNAMODB_LOCAL,
    Started,
    Tools,
    running,
)
from tests.engines.served import ServedAws  # noqa: E402
from tests.engines.suites import DEVIATIONS, OPTIONAL, TABLE_ENGINES  # noqa: E402

TOOLS = pytest.StashKey[Tools]()
ABSENT = pytest.StashKey[dict[str, str]]()
STARTED = pytest.StashKey[list[Started]]()
LINES = pytest.StashKey[list[str]]()
REPORTS: list[pytest.TestReport] = []  # the hook that gets them is given no stash


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("engines", "where `make engines` has installed the engines")
    group.addoption("--engines-venv", type=Path, help="virtual environment of roto and microburst")
    group.addoption("--e2e-venv", type=Path, help="virtual environment of ministack")
    group.addoption("--dynalite", type=Path, help="folder of dynalite's node_modules")


def pytest_configure(config: pytest.Config) -> None:
    folders = [config.getoption(name) for name in ("engines_venv", "e2e_venv", "dynalite")]
    if None in folders:
        raise pytest.UsageError("`make engines` installs the engines, and says where they are")
    config.stash[TOOLS] = tools = Tools(*(folder.absolute() for folder in folders))
    config.stash[ABSENT] = absent = {}
    if not tools.has_dynalite:
        absent["dynalite"] = "it is not installed; that takes npm, and Node 20 or newer"
    if not os.environ.get(DYNAMODB_LOCAL):
        absent["dynamodb-local"] = f"{DYNAMODB_LOCAL} is not set"
    config.stash[STARTED], config.stash[LINES] = [], []


# -- which test runs where -------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        everywhere = getattr(metafunc.module, "ENGINES", (*TABLE_ENGINES, *OPTIONAL))
        named = getattr(metafunc.function, "engines", everywhere)
        here = [name for name in named if name not in metafunc.config.stash[ABSENT]]
        metafunc.parametrize("engine", here, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = {(d.engine, test): d.reason for d in DEVIATIONS for test in d.tests}
    here = [item for item in items if isinstance(item, pytest.Function)]
    here = [item for item in here if "tools" in item.fixturenames]
    items[:] = here  # what needs no engine has run in `make test`
    met = {place for item in here if (place := _placed(item)) in known}
    for item in here:
        if (place := _placed(item)) in known:
            reason = f"{place[0]}: {known[place]}"
            item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
    everything = all(Path(arg).is_dir() for arg in config.args)
    missing = {p for p in known if p[0] not in config.stash[ABSENT]} - met
    if everything and missing:
        raise pytest.UsageError(f"suites.py names tests that there are not: {sorted(missing)}")


def _placed(item: pytest.Function) -> tuple[str, str]:
    """Its engine and its name, as suites.py has them; the reports get them too."""
    suite = item.path.stem.removeprefix("test_")
    name = item.callspec.params["engine"] if "engine" in item.fixturenames else "roto"
    item.user_properties[:] = [("engine", name), ("suite", suite)]
    return str(name), f"{suite}::{item.originalname.removeprefix('test_')}"


# -- engines ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Tools:
    return pytestconfig.stash[TOOLS]


@pytest.fixture(scope="session")
def absent(pytestconfig: pytest.Config) -> dict[str, str]:
    return pytestconfig.stash[ABSENT]


@pytest.fixture(scope="session", autouse=True)
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def engine(
    request: pytest.FixtureRequest,
    tools: Tools,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp(request.param)
    with running(request.param, tools, folder) as started:
        request.config.stash[STARTED].append(started)
        yield started
    assert not started.left_behind, f"{started.name} left processes running"


@pytest.fixture(scope="session")
def aws(engine: Started) -> ServedAws:
    return ServedAws.at(engine.name, engine.url)


@pytest.fixture
def under_test(aws: ServedAws) -> StoreUnderTest:
    return dynamo(aws)


@pytest.fixture
def table(aws: ServedAws) -> Iterator[Dynamo]:
    aws.dynamodb.heal()
    yield dynamo(aws)
    aws.dynamodb.heal()


@pytest.fixture
def work_queue(aws: ServedAws) -> QueueUnderTest:
    return queue(aws, lambda ms: time.sleep(ms / 1000))


# -- what is told at the end -----------------------------------------------------------


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Any:
    """A line for the end of the run."""
    return request.config.stash[LINES].append


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    REPORTS.append(report)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    outcomes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in REPORTS:
        told = dict(report.user_properties)
        if "engine" not in told:
            continue
        name, suite = str(told["engine"]), str(told["suite"])
        seconds[name] += report.duration
        if report.when == "call" or report.failed:
            outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            outcomes[name, suite][outcome] += 1
    terminalreporter.section("engines")
    for (name, suite), counts in sorted(outcomes.items()):
        told_counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
        terminalreporter.write_line(f"{name:15}{suite:17}{told_counts}")
    for started in config.stash[STARTED]:
        terminalreporter.write_line(
            f"{started.name}: {seconds[started.name]:.0f} s, of them {started.start_seconds:.1f}"
            " to start"
        )
    for line in config.stash[LINES]:
        terminalreporter.write_line(line)
    for name, why in config.stash[ABSENT].items():
        terminalreporter.write_line(f"{name}: NOT RUN, {why}", yellow=True)
