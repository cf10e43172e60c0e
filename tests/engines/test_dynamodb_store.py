"""tests/infra/test_dynamodb_store.py, on every engine."""

from tests.infra.test_dynamodb_store import *  # noqa: F403 - the whole suite
