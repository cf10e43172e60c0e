"""tests/contracts/test_work_queue.py, on every engine that has queues."""

from tests.contracts.test_work_queue import *  # noqa: F403 - the whole suite
from tests.engines.suites import QUEUE_ENGINES

ENGINES = QUEUE_ENGINES
