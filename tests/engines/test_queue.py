"""tests/infra/test_queue.py, on every engine that has queues."""

from tests.engines.suites import QUEUE_ENGINES
from tests.infra.test_queue import *  # noqa: F403 - the whole suite

ENGINES = QUEUE_ENGINES
