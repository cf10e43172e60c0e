"""Time, ids and chance."""

from __future__ import annotations

import re
import time

from infra.clock import SystemClock

CLOCK = SystemClock()


def test_now_is_in_milliseconds():
    before = time.time_ns() // 1_000_000
    assert before <= CLOCK.now_ms() <= time.time_ns() // 1_000_000


def test_sleeping_takes_time_and_never_a_negative_one():
    before = time.monotonic()
    CLOCK.sleep_ms(5)
    assert time.monotonic() - before >= 0.005
    CLOCK.sleep_ms(-5)


def test_ids_are_hex_and_never_the_same():
    ids = {CLOCK.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", i) for i in ids)


def test_incarnations_are_eight_hex_digits():
    incarnations = {CLOCK.new_incarnation() for _ in range(100)}
    assert len(incarnations) > 90
    assert all(re.fullmatch("[0-9a-f]{8}", i) for i in incarnations)


def test_jitter_is_a_fraction():
    fractions = [CLOCK.jitter() for _ in range(100)]
    assert all(0 <= f < 1 for f in fractions)
    assert len(set(fractions)) > 90
