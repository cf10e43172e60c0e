"""A checker is worth what it finds: each rule, broken, is found by its invariant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.schedules.planted import BUGS, Bug, hunt


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_broken_rule_is_found(
    bug: Bug, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = hunt(bug, tmp_path)
    with capsys.disabled():
        print(f"\n  {bug.name} ({bug.profile}): {found.splitlines()[0]}")  # noqa: T201
    assert found.split(" ")[0] in bug.found_by, found
