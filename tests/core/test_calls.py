from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from saga_core.calls import Direction, StepCall, derive_key


def test_a_key_is_derived_from_saga_incarnation_step_and_direction():
    assert derive_key("s1", "abcd1234", "charge", Direction.FORWARD) == "s1.abcd1234:charge:F"
    assert derive_key("s1", "abcd1234", "charge", Direction.COMPENSATION) == "s1.abcd1234:charge:C"


def test_a_call_is_forward_and_certain_unless_it_says_otherwise():
    call = StepCall(
        saga_id="s1",
        step="charge",
        direction=Direction.FORWARD,
        attempt=1,
        idempotency_key="k",
        execute_key="k",
        fence=2,
        deadline=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert (call.reason, call.in_doubt) == (None, False)
    with pytest.raises(FrozenInstanceError):
        call.attempt = 2  # type: ignore[misc]  # that is the point
