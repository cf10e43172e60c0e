"""``saga diagram``: a saga's steps and compensations as a Mermaid flowchart."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from infra.registry import load_definitions
from saga_cli.problems import CommandError, Exit
from saga_core.definition import SagaDefinition, StepDefinition
from saga_core.errors import DefinitionError
from saga_core.retry import RetryPolicy


def run(args: argparse.Namespace) -> int:
    """Print the flowchart of each saga that the argument names."""
    try:
        definitions = load_definitions(args.definition).all
    except DefinitionError as exc:
        raise CommandError(Exit.NO, str(exc)) from exc
    drawn = {d.ref: flowchart(d) for d in definitions}
    if args.json:
        print(json.dumps([{"definition": ref, "mermaid": text} for ref, text in drawn.items()]))
    else:
        print("\n\n".join(drawn.values()))
    return Exit.OK


def flowchart(definition: SagaDefinition) -> str:
    """Forward along the top, back along the bottom; dotted where the saga turns round."""
    return "\n".join(["flowchart LR", *(f"  {line}" for line in _lines(definition))])


def _lines(d: SagaDefinition) -> Iterator[str]:
    steps = list(enumerate(d.steps, start=1))
    undoable = [n for n, step in steps if step.compensate is not None]
    yield f'begin(["{d.name} @{d.version}"])'
    yield from (f'step{n}["{step.name}{_attempts(step.retry)}"]' for n, step in steps)
    yield from (
        f'undo{n}["{_undo_name(step)}{_attempts(step.compensation_retry)}"]'
        for n, step in steps
        if n in undoable
    )
    yield 'completed(["COMPLETED"])'
    yield 'compensated(["COMPENSATED"])'
    forward = ["begin", *(f"step{n}" for n, _ in steps), "completed"]
    yield " --> ".join(forward)
    yield " --> ".join([*(f"undo{n}" for n in reversed(undoable)), "compensated"])
    for n, _ in steps:
        known = _newest(undoable, n - 1)
        doubt = _newest(undoable, n)
        if known == doubt:
            yield f"step{n} -. fails .-> {known}"
        else:
            yield f"step{n} -. failed .-> {known}"
            yield f"step{n} -. in doubt .-> {doubt}"
    if undoable:
        yield 'failed(["FAILED: a person is needed"])'
        yield f"{' & '.join(f'undo{n}' for n in undoable)} -. spent .-> failed"


def _newest(undoable: list[int], at_most: int) -> str:
    """Where compensation begins when this step and none after it may have happened."""
    candidates = [n for n in undoable if n <= at_most]
    return f"undo{candidates[-1]}" if candidates else "compensated"


def _undo_name(step: StepDefinition) -> str:
    function = step.compensate.function if step.compensate is not None else None
    name = getattr(function, "__name__", "")
    return name if name.isidentifier() and name != "compensate" else f"undo {step.name}"


def _attempts(policy: RetryPolicy) -> str:
    if policy.max_attempts is None:
        return "<br/>until it succeeds"
    return f"<br/>up to {policy.max_attempts} attempts" if policy.max_attempts > 1 else ""
