"""What the tests of the models share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from tests.simulation.side_by_side import SideBySide


@pytest.fixture(scope="module")
def both() -> Iterator[SideBySide]:
    """The saga table in moto and in the model."""
    with mock_aws():
        yield SideBySide()
