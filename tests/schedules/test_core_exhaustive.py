"""Every reachable state of small sagas, with the world beside it."""

from __future__ import annotations

import pytest

from tests.schedules.exhaustive import definitions, explore, flows

SMALL = ("pivot", "pivot-with-undo", "conditions", "pivot-first")
FLOWS = {definition.name: definition for definition in flows()}


def test_no_reachable_state_contradicts_the_world(capsys: pytest.CaptureFixture[str]) -> None:
    counted = [explore(definition) for definition in definitions(most_steps=1)]
    states, moves = (sum(column) for column in zip(*counted, strict=True))
    with capsys.disabled():
        print(f"\n  {len(counted)} definitions: {states:,} states, {moves:,} transitions")  # noqa: T201
    assert states > 10_000


@pytest.mark.parametrize("name", SMALL)
def test_no_reachable_state_of_a_construct_contradicts_the_world(name: str) -> None:
    states, _ = explore(FLOWS[name])
    assert states > 5_000
