"""``saga lint``: what is wrong with saga definitions, with rule numbers and places."""

from __future__ import annotations

import argparse
import ast
import copy
import inspect
import json
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from infra.registry import load_definitions
from saga_cli.main import EXAMPLES
from saga_cli.problems import CommandError, Exit
from saga_core.authoring import Saga
from saga_core.definition import Finding, SagaDefinition, Severity, lint, over_budget
from saga_core.errors import DefinitionError
from saga_core.reading import Place, lint_source, place

# A DefinitionError lists its findings in its text: `SAGA003 step x: ...; SAGA004 ...`.
_FINDING = re.compile(
    r"(?P<rule>SAGA\d{3}) (?:step (?P<step>[\w.-]+): )?(?P<message>.*?)(?=; SAGA\d{3} |$)",
    re.DOTALL,
)
# These look from one step at others, and are not asked when some of the steps cannot be built.
_ACROSS = frozenset({"SAGA001", "SAGA102", "SAGA103"})
_OURS = frozenset({"saga_cli", "infra", "saga_core", "importlib", "pkgutil"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing to say about one definition. ``rule`` is empty where none applies."""

    definition: str
    severity: str
    rule: str = ""
    step: str | None = None
    message: str
    path: str | None = None
    line: int | None = None

    @property
    def where(self) -> str:
        """The place, or the definition when it is not known."""
        return f"{self.path}:{self.line}" if self.path else self.definition

    @property
    def told(self) -> str:
        """Which step, and what is wrong with it."""
        return f"step {self.step}: {self.message}" if self.step else self.message

    def __str__(self) -> str:
        rule = f"{self.rule} " if self.rule else ""
        return f"{self.where}: {self.severity}: {rule}{self.told}"

    def annotation(self) -> str:
        """As a command that GitHub's runner reads from a job's output."""
        properties = {"file": self.path, "line": self.line, "title": self.rule or "saga lint"}
        listed = ",".join(f"{k}={_property(str(v))}" for k, v in properties.items() if v)
        text = self.told if self.path else f"{self.definition}: {self.told}"
        return f"::{self.severity} {listed}::{_data(text)}"


def run(args: argparse.Namespace) -> int:
    """Check every definition; errors give exit status 1."""
    if args.json and args.format not in (None, "json"):
        raise CommandError(Exit.USAGE, f"--json is --format json, not {args.format}")
    setting: str = args.definitions or os.environ.get("SAGA_DEFINITIONS") or EXAMPLES
    checked, lines = check(setting, step_ms=args.step_seconds * 1000)
    errors = sum(1 for line in lines if line.severity == Severity.ERROR)
    warnings = len(lines) - errors
    if args.json or args.format == "json":
        report = {
            "definitions": checked,
            "findings": [asdict(line) for line in lines],
            "errors": errors,
            "warnings": warnings,
        }
        print(json.dumps(report, indent=2))
    else:
        for line in lines:
            print(line.annotation() if args.format == "github" else line)
        print(f"checked {', '.join(checked) or 'nothing'}: {errors} errors, {warnings} warnings")
    return Exit.NO if errors else Exit.OK


def check(setting: str, *, step_ms: int) -> tuple[list[str], list[Line]]:
    """What could be built of a SAGA_DEFINITIONS, and everything there is to say about it.

    Args:
        setting: ``package.module:NAME[,...]``.
        step_ms: Milliseconds that the worker has for a step.
    """
    checked: list[str] = []
    lines: list[Line] = []
    for part in (part.strip() for part in setting.split(",")):
        try:
            built = load_definitions(part).all
        except DefinitionError as exc:
            lines += _refused(part, exc, step_ms)
        else:
            checked += [d.ref for d in built]
            for definition in built:
                lines += _lines(part, definition, _assigned(part), step_ms)
    if not any(line.severity == Severity.ERROR for line in lines):
        lines += _together(setting)
    # Two parts may come down to one saga; what is said of a line of code is said once.
    once = {replace(line, definition="" if line.path else line.definition): line for line in lines}
    return checked, list(once.values())


# -- one definition ------------------------------------------------------------------


def _lines(
    part: str,
    definition: SagaDefinition,
    written: Place | None,
    step_ms: int,
    without: frozenset[str] = frozenset(),
) -> Iterator[Line]:
    """What there is to say about a definition, built or refused, and the sagas it starts."""
    for d in (definition, *definition.children):
        found = [*lint(d), *over_budget(d, step_ms), *lint_source(d)]
        for finding in sorted(found, key=lambda f: (f.severity, f.rule)):
            if finding.rule not in without:
                yield _line(
                    part, finding, _place(d, finding) or (written if d is definition else None)
                )


def _place(definition: SagaDefinition, finding: Finding) -> Place | None:
    """Where a finding is: the line that the rule read, or the step's function."""
    if finding.path is not None and finding.line is not None:
        return Place(finding.path, finding.line)
    # The last of that name: of two, it is the one that has to be renamed.
    steps = [s for s in definition.steps if s.name == finding.step]
    return place(steps[-1].execute.function) if steps else None


def _line(part: str, finding: Finding, at: Place | None) -> Line:
    return Line(
        definition=part,
        severity=finding.severity.value,
        rule=finding.rule,
        step=finding.step,
        message=finding.message,
        path=_relative(at.path) if at is not None else None,
        line=at.line if at is not None else None,
    )


# -- what is refused -----------------------------------------------------------------
#
# A definition refuses to be built with its errors. Here it is told all the rest, too: the
# warnings, what its handlers' source says, and the errors of the sagas listed after it.


def _refused(part: str, refusal: DefinitionError, step_ms: int) -> list[Line]:
    """Everything there is to say about a part that does not load."""
    at = _raised(refusal)
    items = _items(part)
    lines: list[Line] = []
    for draft in _drafts(refusal) if not items else ():  # at import, where others depend on it
        lines += _lines(part, draft, at, step_ms)
    for item in items:
        if isinstance(item, Saga):
            lines += _unbuilt(part, item, step_ms)
        elif isinstance(item, SagaDefinition):
            lines += _lines(part, item, _assigned(part), step_ms)
    if not any(line.severity == Severity.ERROR for line in lines):
        lines += _from_text(part, str(refusal), at)
    return lines


def _unbuilt(part: str, saga: Saga, step_ms: int) -> Iterator[Line]:
    """What there is to say about a Saga, whichever of its steps can be built."""
    whole = copy.copy(saga)
    whole._steps = []  # noqa: SLF001 - a copy without the steps that nobody can build
    for handle in saga._steps:  # noqa: SLF001 - each is built by itself, so that each can fail
        try:
            handle.build()
        except DefinitionError as exc:
            for line in _from_text(part, str(exc), place(handle)):
                yield replace(line, step=handle.name)
        else:
            whole._steps.append(handle)  # noqa: SLF001 - as above
    partial = len(whole._steps) < len(saga._steps)  # noqa: SLF001 - as above
    try:
        definitions = [whole.build()]
    except DefinitionError as exc:
        definitions = _drafts(exc)
    for definition in definitions:
        without = _ACROSS if partial else frozenset()
        yield from _lines(part, definition, _assigned(part), step_ms, without)


def _drafts(refusal: BaseException) -> list[SagaDefinition]:
    """The definition that refused to be built, if it was one: it is in the frame that raised."""
    return [
        draft
        for link in _causes(refusal)
        for frame, _ in traceback.walk_tb(link.__traceback__)
        if frame.f_code is SagaDefinition.__post_init__.__code__
        and isinstance(draft := frame.f_locals["self"], SagaDefinition)
    ]


def _raised(refusal: BaseException) -> Place | None:
    """The last line of the user's own code on the way to an exception."""
    found: Place | None = None
    for link in _causes(refusal):
        if isinstance(link, SyntaxError) and link.filename is not None:
            return Place(link.filename, link.lineno or 1)
        for frame, line in traceback.walk_tb(link.__traceback__):
            path = frame.f_code.co_filename
            package = str(frame.f_globals.get("__name__")).partition(".")[0]
            if package not in _OURS and _is_here(path):
                found = Place(path, line)
    return found


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _items(part: str) -> list[object]:
    """What a part names, one by one; nothing when its module cannot be imported."""
    if part.partition(":")[0] not in sys.modules:
        return []
    try:
        value: object = pkgutil.resolve_name(part)
    except Exception:  # noqa: BLE001 - a user's module may raise anything; the refusal says what
        return []
    return list(value) if isinstance(value, Iterable) else [value]


def _from_text(part: str, text: str, at: Place | None) -> list[Line]:
    """The findings in the text of a DefinitionError, or the text itself."""
    found = [
        Finding(m["rule"], Severity.ERROR, m["message"], m["step"]) for m in _FINDING.finditer(text)
    ]
    return [_line(part, f, at) for f in found or [Finding("", Severity.ERROR, text)]]


def _together(setting: str) -> list[Line]:
    """What is only wrong when all of them are deployed at once."""
    try:
        load_definitions(setting)
    except DefinitionError as exc:
        return _from_text(setting, str(exc), None)
    return []


# -- places --------------------------------------------------------------------------


def _assigned(part: str) -> Place | None:
    """Where a module gives the part its name."""
    name, _, attribute = part.partition(":")
    module = sys.modules[name]
    try:
        path, tree = inspect.getfile(module), ast.parse(inspect.getsource(module))
    except (OSError, TypeError):  # it has no source
        return None
    wanted = attribute.partition(".")[0]
    for node in reversed(tree.body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == wanted for t in targets):
            return Place(path, node.lineno)
    return None


def _is_here(path: str) -> bool:
    """It is a file of the user's project, and not of what is installed there."""
    file = Path(path)
    return file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts


def _relative(path: str) -> str:
    file = Path(path)
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else path


# The runner reads commands line by line; properties end at a comma, their list at a colon
# (GitHub docs, "Workflow commands for GitHub Actions"; actions/toolkit, command.ts).
def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
