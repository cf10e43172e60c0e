"""tests/contracts/test_same_answers.py, on every engine."""

from tests.contracts.test_same_answers import *  # noqa: F403 - the whole suite
