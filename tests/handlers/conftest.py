"""A stage for every test, over one moto for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from saga_cli.local.moto_as_aws import moto_repaired
from tests.fakes.aws import LocalAws, local_aws
from tests.handlers.stage import Stage, Staged, on_stage


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    with local_aws() as local, moto_repaired():
        yield local


@pytest.fixture
def staged(aws: LocalAws) -> Staged:
    """Make stages: for other sagas than the examples, or more than one."""
    return partial(on_stage, aws)


@pytest.fixture
def stage(staged: Staged) -> Iterator[Stage]:
    """The examples, deployed."""
    with staged() as built:
        yield built
