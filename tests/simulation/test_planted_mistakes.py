"""A checker is worth what it finds: each mistake, planted, is found by its invariant."""

from __future__ import annotations

import pytest

from tests.simulation.planted import BUGS, Bug, hunt
from tests.simulation.runs import run, told


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_mistake_is_found(bug: Bug) -> None:
    found = hunt(bug, bug.at)
    assert found is not None
    assert found.broken is not None
    assert found.broken.name in bug.found_by, str(found.broken)


def test_what_was_found_is_told_with_few_faults_and_how_to_see_it_again() -> None:
    bug = next(b for b in BUGS if b.name == "a sender that swallows errors")
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        broken = (o for s in range(bug.seeds) if (o := run(s, bug.profile)).broken)
        outcome = next(o for o in broken if len(o.drawn) > 8)
        text = told(outcome).splitlines()
    assert text[0].startswith("L1: ")
    assert text[1] == f"seed {outcome.seed}, profile 'no sweeper'; again:"
    faults = int(text[3].split()[1])
    assert faults < len(outcome.drawn)
    assert any("send of" in line and "!!" in line for line in text[4 + faults :])
