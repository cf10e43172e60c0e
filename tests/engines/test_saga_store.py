"""tests/contracts/test_saga_store.py, on every engine."""

from tests.contracts.test_saga_store import *  # noqa: F403 - the whole suite
