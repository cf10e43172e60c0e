from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.errors import DefinitionError
from saga_core.retry import COMPENSATION_DEFAULT, FORWARD_DEFAULT, RetryPolicy


def seconds(n: float) -> timedelta:
    return timedelta(seconds=n)


def test_a_step_is_tried_once_and_a_compensation_three_times():
    assert (FORWARD_DEFAULT.max_attempts, COMPENSATION_DEFAULT.max_attempts) == (1, 3)
    assert (FORWARD_DEFAULT.max_lost, COMPENSATION_DEFAULT.max_lost) == (3, 3)
    assert (FORWARD_DEFAULT.base, FORWARD_DEFAULT.cap) == (seconds(1), seconds(300))
    assert (COMPENSATION_DEFAULT.base, COMPENSATION_DEFAULT.cap) == (seconds(1), seconds(10))
    assert FORWARD_DEFAULT.multiplier == COMPENSATION_DEFAULT.multiplier == 2


def test_the_pause_doubles_up_to_its_cap():
    policy = RetryPolicy(base=seconds(1), cap=seconds(10))
    assert [policy.delay_ms(n, 1.0) for n in (1, 2, 3, 4, 5, 6)] == [
        1000,
        2000,
        4000,
        8000,
        10000,
        10000,
    ]


def test_the_pause_grows_by_the_multiplier():
    policy = RetryPolicy(base=seconds(2), cap=seconds(100), multiplier=3)
    assert [policy.delay_ms(n, 1.0) for n in (1, 2, 3, 4)] == [2000, 6000, 18000, 54000]


def test_a_multiplier_of_one_keeps_the_pause():
    policy = RetryPolicy(base=seconds(2), multiplier=1)
    assert [policy.delay_ms(n, 1.0) for n in (1, 2, 50)] == [2000, 2000, 2000]


@pytest.mark.parametrize(("fraction", "ms"), [(0.0, 0), (0.25, 250), (0.5, 500), (0.9999, 999)])
def test_full_jitter_takes_a_fraction_of_the_pause(fraction, ms):
    assert RetryPolicy().delay_ms(1, fraction) == ms


def test_any_number_of_failures_has_a_pause():
    policy = RetryPolicy(base=timedelta(microseconds=1), cap=timedelta(days=10_000))
    assert policy.delay_ms(64, 1.0) == policy.delay_ms(10**9, 1.0)
    assert policy.delay_ms(63, 1.0) == policy.delay_ms(65, 1.0) == 864_000_000_000
    tiny = RetryPolicy(base=timedelta(microseconds=1), cap=timedelta(days=10_000), multiplier=1.5)
    assert tiny.delay_ms(63, 1.0) < tiny.delay_ms(64, 1.0) == tiny.delay_ms(65, 1.0)


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True), st.floats(1, 1000))
def test_a_pause_is_never_longer_than_its_cap(failures, fraction, multiplier):
    policy = RetryPolicy(base=seconds(1), cap=seconds(60), multiplier=multiplier)
    assert 0 <= policy.delay_ms(failures, fraction) <= 60_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "SAGA008 max_attempts is 0; at least 1"),
        ({"max_lost": 0}, "SAGA008 max_lost is 0; at least 1"),
        (
            {"base": seconds(-1)},
            "SAGA008 base -1 day, 23:59:59 and cap 0:05:00: 0 <= base <= cap",
        ),
        (
            {"base": seconds(2), "cap": seconds(1)},
            "SAGA008 base 0:00:02 and cap 0:00:01: 0 <= base <= cap",
        ),
        ({"multiplier": 0.5}, "SAGA008 multiplier is 0.5; at least 1"),
    ],
)
def test_a_policy_out_of_range_is_refused(options, message):
    with pytest.raises(DefinitionError) as caught:
        RetryPolicy(**options)
    assert str(caught.value) == message


def test_the_ends_of_the_range_are_in_it():
    RetryPolicy(max_attempts=1, max_lost=1, base=seconds(0), cap=seconds(0), multiplier=1)
    RetryPolicy(base=seconds(5), cap=seconds(5))
