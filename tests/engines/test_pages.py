"""tests/contracts/test_pages.py, on every engine."""

from tests.contracts.test_pages import *  # noqa: F403 - the whole suite
