"""One moto for the whole folder; each test makes its own table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.harness import Dynamo, dynamo
from tests.fakes.aws import LocalAws, local_aws


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    with local_aws() as local:
        yield local


@pytest.fixture
def table(aws: LocalAws) -> Iterator[Dynamo]:
    aws.dynamodb.heal()
    yield dynamo(aws)
    aws.dynamodb.heal()
