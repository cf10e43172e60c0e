"""Every contract runs against both stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.harness import StoreUnderTest, dynamo, memory
from tests.fakes.aws import LocalAws, local_aws


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    with local_aws() as local:
        yield local


@pytest.fixture(params=["memory", "dynamodb"])
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    if request.param == "memory":
        return memory()
    return dynamo(request.getfixturevalue("aws"))
