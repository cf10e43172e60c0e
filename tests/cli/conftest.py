from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from examples.services import World, world
from saga_cli.local.clock import VirtualClock
from saga_cli.local.stack import LocalStack
from saga_cli.main import main


@pytest.fixture(autouse=True)
def _fresh_world() -> Iterator[None]:
    world.reset()
    yield
    world.reset()


@pytest.fixture
def the_world() -> World:
    return world


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    exit: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Saga = Callable[..., Ran]


@pytest.fixture
def saga(capfd: pytest.CaptureFixture[str]) -> Saga:
    """Run the command as a shell would; an exit by argparse is a status too."""

    def run(*words: str) -> Ran:
        capfd.readouterr()
        try:
            status = main(words)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Ran(status, out, err)

    return run


@pytest.fixture
def stack() -> Iterator[LocalStack]:
    """The stack, begun now: the commands have the machine's clock."""
    with LocalStack(clock=VirtualClock(now_ms=time.time_ns() // 1_000_000)) as running:
        yield running


@pytest.fixture
def here(stack: LocalStack) -> list[str]:
    """The words that make a command talk to the stack."""
    return [
        "--table",
        stack.template.name_of("SagaTable"),
        "--queue-url",
        stack.template.queue_url("WorkQueue"),
        "--region",
        "us-east-1",
    ]
