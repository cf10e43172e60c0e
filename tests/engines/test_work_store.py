"""tests/contracts/test_work_store.py, on every engine."""

from tests.contracts.test_work_store import *  # noqa: F403 - the whole suite
