"""Every contract runs against both stores; the queue's against moto, on a clock turned by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saga_cli.local.moto_as_aws import moto_repaired, moto_tells_time_by
from tests.contracts.harness import StoreUnderTest, dynamo, memory
from tests.contracts.queues import QueueUnderTest, queue
from tests.fakes.aws import LocalAws, local_aws
from tests.fakes.clock import HandClock


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    with local_aws() as local:
        yield local


@pytest.fixture(params=["memory", "dynamodb"])
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    if request.param == "memory":
        return memory()
    return dynamo(request.getfixturevalue("aws"))


@pytest.fixture
def work_queue(aws: LocalAws) -> Iterator[QueueUnderTest]:
    clock = HandClock()
    with moto_repaired(), moto_tells_time_by(clock):
        yield queue(aws, clock.sleep_ms)
