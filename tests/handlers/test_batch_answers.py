"""Whatever happens, an answer names messages of its batch: any other name fails them all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers._records import Fate, OutageError, Record, each
from handlers._telemetry import Telemetry
from tests.handlers.stage import RecordingSink

CRASH = "crash"
ids = st.uuids().map(str)
fates = st.dictionaries(ids, st.sampled_from([*Fate, CRASH]), max_size=10)


def answered(planned: dict[str, Any], order: list[str]) -> Any:
    """What comes out as JSON, when these records meet these fates."""

    def work(record: Record) -> Fate:
        fate = planned[record.id]
        if fate == CRASH:
            raise RuntimeError
        assert isinstance(fate, Fate)
        return fate

    records: Any = [{"messageId": i, "body": "x", "receiptHandle": f"of {i}"} for i in order]
    answer = each("worker", {"Records": records}, Telemetry(RecordingSink()), work)
    return json.loads(json.dumps(answer))


@given(fates)
def test_an_answer_names_each_kept_message_once_and_nothing_else(planned):
    if planned and set(planned.values()) == {Fate.OUTAGE}:
        with pytest.raises(OutageError):
            answered(planned, list(planned))
        return
    kept = [i for i, fate in planned.items() if fate is not Fate.DELETE]
    expected = {"batchItemFailures": [{"itemIdentifier": i} for i in kept]}
    assert answered(planned, list(planned)) == expected


@given(fates, st.data())
def test_a_message_that_comes_twice_in_one_batch_is_named_once_at_most(planned, data):
    order = data.draw(
        st.lists(st.sampled_from(sorted(planned)), max_size=10) if planned else st.just([])
    )
    try:
        answer = answered(planned, order)
    except OutageError:
        return
    named = [item["itemIdentifier"] for item in answer["batchItemFailures"]]
    assert len(named) == len(set(named))
    assert set(named) <= set(order)
    assert all(named)
