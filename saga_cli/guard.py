"""``saga guard``: whether a deployment would leave running sagas without their code."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from handlers._application import Definitions
from saga_cli.connect import connect
from saga_cli.problems import CommandError, Exit
from saga_core.errors import StoreError
from saga_core.instance import SagaInstance

SHOWN = 5  # ids named for each definition; --json names all


@dataclass(frozen=True, slots=True)
class Need:
    """A definition that sagas still need, and that the deployment does not have."""

    definition: str
    why: str
    states: Counter[str]
    sagas: tuple[str, ...]


def run(args: argparse.Namespace) -> int:
    """Name every definition that would be missing; exit status 1 if there is one."""
    app = connect(args)
    try:
        unfinished = list(app.store.unfinished())
    except StoreError as exc:
        raise CommandError(Exit.UNAVAILABLE, str(exc)) from exc
    missing = needs(unfinished, app.definitions)
    if args.json:
        print(json.dumps(_report(len(unfinished), missing), indent=2))
    else:
        for need in missing:
            print(_told(need))
        print(f"looked at {len(unfinished)} unfinished sagas: {_verdict(missing)}")
    return Exit.NO if missing else Exit.OK


def needs(sagas: Iterable[SagaInstance], deployed: Definitions) -> list[Need]:
    """What these sagas were started with and the deployment lacks, by name and version."""
    by_ref: dict[str, list[SagaInstance]] = {}
    for saga in sagas:
        if deployed.by_ref(saga.definition) is None:
            by_ref.setdefault(saga.definition, []).append(saga)
    return [
        Need(
            ref,
            _why(ref, deployed.refs),
            Counter(saga.state.value for saga in stuck),
            tuple(sorted(saga.id for saga in stuck)),
        )
        for ref, stuck in sorted(by_ref.items())
    ]


def _why(ref: str, deployed: Iterable[str]) -> str:
    """Left out, or listed and changed."""
    label, _, fingerprint = ref.rpartition("#")
    for other in deployed:
        if other.rpartition("#")[0] == label:
            return (
                f"{label} is listed with other steps (fingerprint {other.rpartition('#')[2]}, "
                f"not {fingerprint}): give the new steps a new version"
            )
    return f"{label} is not listed: keep it until its last saga has ended"


def _told(need: Need) -> str:
    count = sum(need.states.values())
    states = ", ".join(f"{n} {state}" for state, n in sorted(need.states.items()))
    ids = ", ".join(need.sagas[:SHOWN]) + (", ..." if count > SHOWN else "")
    return f"{need.definition}: {count} sagas need it ({states}): {ids}\n  {need.why}"


def _verdict(missing: list[Need]) -> str:
    if not missing:
        return "all of them find their definition"
    stuck = sum(len(need.sagas) for need in missing)
    return f"{stuck} of them would be stuck; do not deploy this"


def _report(looked_at: int, missing: list[Need]) -> dict[str, object]:
    return {"looked_at": looked_at, "missing": list(_lines(missing))}


def _lines(missing: list[Need]) -> Iterator[dict[str, object]]:
    for need in missing:
        yield {
            "definition": need.definition,
            "why": need.why,
            "states": dict(need.states),
            "sagas": list(need.sagas),
        }
